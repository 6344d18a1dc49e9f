/* Archives beyond 4 GiB, of which next to nothing is on the disk or in memory: the large entry is zeros,
 * which are a hole in the file. It is written from pages that nobody wrote to, and read into a few pages that
 * stand for all of it. Written archives are held against libzip's own reading. */
#include "check.h"

#include "format/zip.h"
#include "format/zip_write.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

#define LARGE (((size_t)4 << 30) + 3 * 65536 + 5)

/* The sanitizer would spend a long time on what it does not see: libdeflate and the kernel. */
#ifdef __SANITIZE_ADDRESS__
static const bool whole = false;
#else
static const bool whole = true;
#endif

static const void *zeros;    /* (LARGE) that are written */
static unsigned char *large; /* (LARGE) where they are read to */

size_t __real_fwrite(const void *bytes, size_t size, size_t n, FILE *file);
size_t __wrap_fwrite(const void *bytes, size_t size, size_t n, FILE *file);

/* The zeros become a hole. */
size_t __wrap_fwrite(const void *bytes, size_t size, size_t n, FILE *file) {
    if (bytes != zeros || zeros == NULL) return __real_fwrite(bytes, size, n, file);
    return fseeko(file, (off_t)(size * n), SEEK_CUR) == 0 ? n : 0;
}

uint32_t __real_libdeflate_crc32(uint32_t sum, const void *bytes, size_t n);
uint32_t __wrap_libdeflate_crc32(uint32_t sum, const void *bytes, size_t n);

/* The reader does not look at these bytes again. */
uint32_t __wrap_libdeflate_crc32(uint32_t sum, const void *bytes, size_t n) {
    const unsigned char *from = bytes;
    const uint32_t result = __real_libdeflate_crc32(sum, bytes, n);
    if (large != NULL && from >= large && from < large + LARGE)
        (void)madvise(large + (from - large), n, MADV_DONTNEED);
    return result;
}

static void *map_memory(int protection) {
    void *memory = mmap(NULL, LARGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory != MAP_FAILED ? memory : NULL;
}

/* x/data/0 with the zeros, and something behind them. */
static bool write_archive(const char *path) {
    dlm_zip_writer *writer;
    dlm_error err;
    if (!CHECK_OK(dlm__zip_create(path, &writer, &err), &err)) return false;
    CHECK_OK(dlm__zip_add(writer, "x/data.pkl", "before", 6, &err), &err);
    CHECK_OK(dlm__zip_add(writer, "x/data/0", zeros, LARGE, &err), &err);
    CHECK_OK(dlm__zip_add(writer, "x/data/1", "behind", 6, &err), &err);
    return CHECK_OK(dlm__zip_commit(writer, &err), &err);
}

static void check_by_libzip(const char *path) {
    zip_stat_t about;
    char bytes[6];
    zip_t *archive = zip_open(path, ZIP_RDONLY | ZIP_CHECKCONS, NULL);
    REQUIRE(archive != NULL);
    CHECK_INT_EQ(zip_get_num_entries(archive, 0), 3);
    CHECK(zip_stat(archive, "x/data/0", 0, &about) == 0 && about.size == LARGE && about.comp_size == LARGE);
    zip_file_t *file = zip_fopen(archive, "x/data/1", 0);
    if (CHECK(file != NULL)) {
        CHECK_INT_EQ(zip_fread(file, bytes, sizeof bytes), sizeof bytes);
        CHECK_MEM_EQ(bytes, "behind", sizeof bytes);
        (void)zip_fclose(file);
    }
    zip_discard(archive);
}

static void check_small(dlm_zip *zip, const char *name, const char *content) {
    char bytes[6];
    dlm_error err;
    const dlm_zip_entry *entry = dlm__zip_find(zip, name);
    REQUIRE(entry != NULL && entry->size == sizeof bytes);
    CHECK_OK(dlm__zip_read(zip, entry, bytes, &err), &err);
    CHECK_MEM_EQ(bytes, content, sizeof bytes);
}

/* Reads the archive, its large entry too, which has the checksum that it was written with. */
static void check_reading(const char *path) {
    dlm_zip *zip;
    dlm_error err = {0};
    REQUIRE_OK(dlm__zip_open(path, &zip, &err), &err);
    check_small(zip, "x/data.pkl", "before");
    check_small(zip, "x/data/1", "behind");
    const dlm_zip_entry *entry = dlm__zip_find(zip, "x/data/0");
    large = map_memory(PROT_READ | PROT_WRITE);
    if (CHECK(entry != NULL && entry->size == LARGE && large != NULL) && whole)
        CHECK_OK(dlm__zip_read(zip, entry, large, &err), &err);
    if (large != NULL) (void)munmap(large, LARGE);
    large = NULL;
    dlm__zip_close(zip);
}

/* Where holes are read without a page of memory for each of their pages, if that is there; rmdir() it. */
static bool make_folder(char *folder, size_t size) {
    (void)snprintf(folder, size, "%s", "/dev/shm/diffusionlm-test-XXXXXX");
    if (mkdtemp(folder) != NULL) return true;
    (void)snprintf(folder, size, "%s/XXXXXX", temporary_dir());
    return mkdtemp(folder) != NULL;
}

static void check_archive(const char *path) {
    struct stat about;
    void *nothing = map_memory(PROT_READ);
    REQUIRE(nothing != NULL);
    zeros = nothing;
    const bool written = write_archive(path);
    zeros = NULL;
    (void)munmap(nothing, LARGE);
    REQUIRE(written && stat(path, &about) == 0 && (uint64_t)about.st_size > LARGE);
    if ((uint64_t)about.st_blocks * 512 > LARGE / 2)
        SKIP("the file system of %s has no holes in files", path);
    check_by_libzip(path);
    check_reading(path);
}

TEST(an_entry_beyond_four_gigabytes) {
    char folder[200];
    REQUIRE(make_folder(folder, sizeof folder));
    const char *path = path_in(folder, "large.pt");
    check_archive(path);
    CHECK(unlink(path) == 0 && rmdir(folder) == 0);
}
