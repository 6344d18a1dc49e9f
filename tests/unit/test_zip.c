/* Zip archives: read, spoilt in each way that a directory can lie, and written. */
#include "check.h"
#include "zip_fixture.h"

#include "format/zip.h"
#include "format/zip_write.h"

static const zip_part parts[] = {{"b/one", "first", 5}, {"a/none", "", 0}, {"b/two", "second one", 10}};
enum { PARTS = sizeof parts / sizeof parts[0], NAME = 5 };

static dlm_zip *parse(const zip_image *image) {
    dlm_zip *zip = NULL;
    dlm_error err;
    CHECK_OK(dlm__zip_parse("f", image->bytes, image->n, &zip, &err), &err);
    return zip;
}

/* Opening says so, or else reading each entry. */
static void refused(zip_image image, const char *says) {
    dlm_zip *zip = NULL;
    dlm_error err = {0};
    char bytes[100];
    dlm_status status = dlm__zip_parse("f", image.bytes, image.n, &zip, &err);
    for (size_t i = 0; status == DLM_OK && i < dlm__zip_count(zip); i++)
        status = dlm__zip_read(zip, dlm__zip_at(zip, i), bytes, &err);
    CHECK(status == DLM_FORMAT || status == DLM_UNSUPPORTED);
    CHECK_SAYS(&err, says);
    dlm__zip_close(zip);
    free(image.bytes);
}

/* An archive with these bytes at a place in the local header, and in the directory's entry, of its first
 * entry; the fields stand two bytes further in the latter. */
static zip_image spoilt(size_t at, const char *bytes, size_t n) {
    zip_image image = zip_make(parts, PARTS);
    memcpy(image.bytes + at, bytes, n);
    memcpy(image.bytes + image.directory + at + 2, bytes, n);
    return image;
}

TEST(entries) {
    const zip_image image = zip_make(parts, PARTS);
    dlm_zip *zip = parse(&image);
    REQUIRE(zip != NULL);
    CHECK_INT_EQ(dlm__zip_count(zip), PARTS);
    CHECK_STR_EQ(dlm__zip_at(zip, 0)->name, "a/none");
    CHECK(dlm__zip_find(zip, "b/three") == NULL);
    for (size_t i = 0; i < PARTS; i++) {
        char bytes[16];
        dlm_error err;
        const dlm_zip_entry *entry = dlm__zip_find(zip, parts[i].name);
        REQUIRE(entry != NULL);
        CHECK_INT_EQ(entry->size, parts[i].n);
        CHECK_OK(dlm__zip_read(zip, entry, bytes, &err), &err);
        CHECK_MEM_EQ(bytes, parts[i].bytes, parts[i].n);
    }
    dlm__zip_close(zip);
    free(image.bytes);
}

TEST(lies) {
    zip_image image = zip_make(parts, PARTS);
    image.bytes[ZIP_LOCAL + NAME]++;
    refused(image, "entry b/one is damaged: its checksum is");
    refused(spoilt(ZIP_LOCAL_CRC, "\1\2\3\4", 4), "entry b/one is damaged");
    refused(spoilt(ZIP_LOCAL_SIZE, "\xff\xff\xff\0\xff\xff\xff\0", 8),
            "f is no zip archive, or a damaged one");
    refused(spoilt(ZIP_LOCAL_SIZE + 4, "\xff\xff\xff\0", 4), "claims to hold 16777215 bytes in 5");
    refused(spoilt(8, "\x0c", 1), "neither stored nor deflated (method 12)");
    refused(spoilt(6, "\x01", 1), "entry b/one is encrypted");
    refused(spoilt(8, "\x08", 1), "entry b/one: ");
    image = zip_make(parts, PARTS);
    image.bytes[ZIP_LOCAL]++; /* of the name */
    refused(image, "a damaged one");
    for (size_t n = 0; n < 60; n += 3) {
        image = zip_make(parts, PARTS);
        image.n -= n + 1;
        refused(image, "f is no zip archive, or a damaged one");
    }
    const zip_part twice[] = {{"a", "1", 1}, {"a", "2", 1}};
    refused(zip_make(twice, 2), "f: there are two entries of ");
}

/* Two entries of the directory for one place in the file. */
TEST(overlapping_entries) {
    static char large[2000];
    zip_part many[20];
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j",
                                        "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"};
    for (size_t i = 0; i < 20; i++) many[i] = (zip_part){names[i], large, i == 0 ? sizeof large : 0};
    zip_image image = zip_make(many, 20);
    for (size_t i = 1; i < 20; i++) {
        unsigned char *entry = image.bytes + image.directory + i * (ZIP_CENTRAL + 1);
        memcpy(entry + 16, image.bytes + image.directory + 16, 12); /* checksum, sizes */
        memset(entry + 42, 0, 4);                                   /* where it is */
    }
    refused(image, "f");
}

/* The second of two entries begins at the local header that stands inside the first, so that both together
 * claim no more than there is; a gap in front makes room for it. */
TEST(entries_that_share_bytes) {
    const zip_part inner = {"b", "within", 6};
    zip_image within = zip_make(&inner, 1);
    const zip_part both[] = {{"a", within.bytes, within.directory}, {"b", "within", 6}};
    zip_image image = zip_make(both, 2);
    zip_image other = {.bytes = malloc(image.n + 100)};
    REQUIRE(other.bytes != NULL);
    const size_t gap = ZIP_LOCAL + 1 + 6, first = ZIP_LOCAL + 1 + within.directory;
    memcpy(other.bytes, image.bytes, first); /* a's header and bytes, the header of b among them */
    memset(other.bytes + first, 0, gap);
    memcpy(other.bytes + first + gap, image.bytes + image.directory, image.n - image.directory);
    other.n = image.n;
    /* In the directory, which is where it was, b begins where a's bytes do. */
    unsigned char *entry = other.bytes + image.directory + ZIP_CENTRAL + 1;
    memset(entry + 42, 0, 4);
    entry[42] = ZIP_LOCAL + 1;
    refused(other, "f: its entries a and b overlap");
    free(image.bytes);
    free(within.bytes);
}

/* A 0 byte in a name makes it no other entry's name. */
TEST(names_with_zeros) {
    const zip_part twins[] = {{"a", "1", 1}, {"a-x", "2", 1}};
    zip_image image = zip_make(twins, 2);
    char byte = 0;
    dlm_error err;
    image.bytes[ZIP_LOCAL + 1 + 1 + ZIP_LOCAL + 1] = 0;
    image.bytes[image.directory + ZIP_CENTRAL + 1 + ZIP_CENTRAL + 1] = 0;
    dlm_zip *zip = parse(&image);
    REQUIRE(zip != NULL);
    CHECK_INT_EQ(dlm__zip_count(zip), 2);
    CHECK(strcmp(dlm__zip_at(zip, 0)->name, dlm__zip_at(zip, 1)->name) != 0);
    CHECK_OK(dlm__zip_read(zip, dlm__zip_find(zip, "a"), &byte, &err), &err);
    CHECK_INT_EQ(byte, '1');
    dlm__zip_close(zip);
    free(image.bytes);
}

/* An archive may not inflate to far more than it is. */
TEST(bombs) {
    const size_t size = (size_t)100 << 20;
    char *zeros = calloc(size, 1), *deflated = malloc(size / 100);
    REQUIRE(zeros != NULL && deflated != NULL);
    struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(6);
    const size_t n = libdeflate_deflate_compress(compressor, zeros, size, deflated, size / 100);
    libdeflate_free_compressor(compressor);
    CHECK(n > 0);
    const zip_part bomb = {"bomb", deflated, n};
    zip_image image = zip_make(&bomb, 1);
    const uint32_t sum = libdeflate_crc32(0, zeros, size);
    for (int i = 0; i < 2; i++) {
        unsigned char *fields = image.bytes + (i == 0 ? 0 : image.directory + 2);
        fields[8] = 8; /* deflated */
        for (int j = 0; j < 4; j++) fields[14 + j] = (unsigned char)(sum >> 8 * j);
        for (int j = 0; j < 4; j++) fields[22 + j] = (unsigned char)(size >> 8 * j);
    }
    refused(image, "claim to inflate to 104857600, more than 100 times as many");
    free(zeros);
    free(deflated);
}

TEST(written) {
    const char *path = path_in(temporary_dir(), "written");
    static const char large[1000] = "large";
    dlm_zip_writer *writer;
    dlm_error err;
    REQUIRE_OK(dlm__zip_create(path, &writer, &err), &err);
    CHECK_OK(dlm__zip_add(writer, "a/b", "bytes", 5, &err), &err);
    CHECK_OK(dlm__zip_add(writer, "a/none", NULL, 0, &err), &err);
    CHECK_OK(dlm__zip_add(writer, "a/large", large, sizeof large, &err), &err);
    char name[DLM_ZIP_NAME + 2];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    CHECK_STATUS(dlm__zip_add(writer, name, "", 0, &err), DLM_ARGUMENT, &err);
    CHECK_OK(dlm__zip_commit(writer, &err), &err);
    size_t n;
    const char *file = read_text(path, &n);
    REQUIRE(file != NULL);
    for (size_t i = 0; i + 5 < n; i++)
        if (memcmp(file + i, "bytes", 5) == 0 || memcmp(file + i, "large\0", 6) == 0) CHECK_INT_EQ(i % 64, 0);
    dlm_zip *zip;
    REQUIRE_OK(dlm__zip_open(path, &zip, &err), &err);
    CHECK_INT_EQ(dlm__zip_count(zip), 3);
    const dlm_zip_entry *entry = dlm__zip_find(zip, "a/large");
    char again[sizeof large];
    REQUIRE(entry != NULL && entry->size == sizeof large);
    CHECK_OK(dlm__zip_read(zip, entry, again, &err), &err);
    CHECK_MEM_EQ(again, large, sizeof large);
    dlm__zip_close(zip);
}

/* More entries than sixteen bits count. */
TEST(zip64_count) {
    const char *path = path_in(temporary_dir(), "many");
    const size_t n = 65540;
    dlm_zip_writer *writer;
    dlm_error err;
    REQUIRE_OK(dlm__zip_create(path, &writer, &err), &err);
    bool added = true;
    for (size_t i = 0; i < n && added; i++) {
        char name[20];
        (void)snprintf(name, sizeof name, "%zu", i);
        added = dlm__zip_add(writer, name, name, 1, &err) == DLM_OK;
    }
    CHECK(added);
    CHECK_OK(dlm__zip_commit(writer, &err), &err);
    dlm_zip *zip;
    REQUIRE_OK(dlm__zip_open(path, &zip, &err), &err);
    CHECK_INT_EQ(dlm__zip_count(zip), n);
    char byte;
    CHECK_OK(dlm__zip_read(zip, dlm__zip_find(zip, "65539"), &byte, &err), &err);
    CHECK_INT_EQ(byte, '6');
    dlm__zip_close(zip);
}

TEST(files) {
    dlm_zip *zip = NULL;
    dlm_error err;
    CHECK_STATUS(dlm__zip_open("/nowhere/zip", &zip, &err), DLM_NOT_FOUND, &err);
    CHECK_STATUS(dlm__zip_open(temporary_dir(), &zip, &err), DLM_IO, &err);
    const char *path = path_in(temporary_dir(), "empty");
    CHECK_OK(dlm__write_file(path, "", 0, &err), &err);
    CHECK_STATUS(dlm__zip_open(path, &zip, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "empty is no zip archive");
    CHECK(zip == NULL);
}
