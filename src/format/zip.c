/* Reading zip archives by libzip, whose claims are checked first. */
#include "format/zip.h"

#include <errno.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

#define ENTRIES_MOST ((uint64_t)1 << 20)
/* An archive may inflate to so many bytes, or so many times its size. */
#define INFLATED_FREE  ((uint64_t)64 << 20)
#define INFLATED_TIMES 100
/* Bytes between two steps of the checksum: few enough that they are still in the cache. */
#define CHUNK ((uint64_t)1 << 20)

struct dlm_zip {
    char *name;
    zip_t *archive;
    dlm_zip_entry *entries; /* (n) by name */
    size_t n;
};

/* What libzip says of its last failure. */
static dlm_status fail_zip(const dlm_zip *zip, const char *what, dlm_error *err) {
    return dlm__fail(err, DLM_FORMAT, "%s: %.80s: %s", zip->name, what, zip_strerror(zip->archive));
}

static int by_name(const void *left, const void *right) {
    const dlm_zip_entry *a = left, *b = right;
    return strcmp(a->name, b->name);
}

/* What the entries claim together: bytes of the file, and inflated. */
typedef struct claims {
    uint64_t taken, inflated;
} claims;

static void add(uint64_t *sum, uint64_t n) {
    if (__builtin_add_overflow(*sum, n, sum)) *sum = UINT64_MAX;
}

/* Entry i, if it is one that can be read. */
static dlm_status read_entry(dlm_zip *zip, uint64_t i, claims *sum, dlm_error *err) {
    zip_stat_t about;
    if (zip_stat_index(zip->archive, i, 0, &about) != 0) return fail_zip(zip, "its directory", err);
    const zip_uint64_t all = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD |
                             ZIP_STAT_CRC | ZIP_STAT_ENCRYPTION_METHOD;
    if ((about.valid & all) != all)
        return dlm__fail(err, DLM_FORMAT, "%s: entry %llu of the archive is not described", zip->name,
                         (unsigned long long)i);
    if (about.encryption_method != ZIP_EM_NONE)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: entry %.80s is encrypted", zip->name, about.name);
    if (about.comp_method != ZIP_CM_STORE && about.comp_method != ZIP_CM_DEFLATE)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: entry %.80s is neither stored nor deflated (method %u)",
                         zip->name, about.name, about.comp_method);
    if (about.comp_method == ZIP_CM_STORE && about.size != about.comp_size)
        return dlm__fail(err, DLM_FORMAT, "%s: entry %.80s claims to hold %llu bytes in %llu", zip->name,
                         about.name, (unsigned long long)about.size, (unsigned long long)about.comp_size);
    add(&sum->taken, about.comp_size);
    add(&sum->inflated, about.size);
    zip->entries[zip->n++] = (dlm_zip_entry){.name = about.name, .size = about.size, .index = i};
    return DLM_OK;
}

static dlm_status check_claims(const dlm_zip *zip, const claims *sum, uint64_t file_size, dlm_error *err) {
    if (sum->taken > file_size)
        return dlm__fail(err, DLM_FORMAT, "%s: its entries claim %llu bytes of a file of %llu: they overlap",
                         zip->name, (unsigned long long)sum->taken, (unsigned long long)file_size);
    if (sum->inflated > INFLATED_FREE && sum->inflated / INFLATED_TIMES > file_size)
        return dlm__fail(err, DLM_FORMAT,
                         "%s: %llu bytes claim to inflate to %llu, more than %d times as many", zip->name,
                         (unsigned long long)file_size, (unsigned long long)sum->inflated, INFLATED_TIMES);
    for (size_t i = 1; i < zip->n; i++)
        if (strcmp(zip->entries[i - 1].name, zip->entries[i].name) == 0)
            return dlm__fail(err, DLM_FORMAT, "%s: there are two entries of the name %.80s", zip->name,
                             zip->entries[i].name);
    return DLM_OK;
}

static dlm_status read_directory(dlm_zip *zip, uint64_t file_size, dlm_error *err) {
    const zip_int64_t n = zip_get_num_entries(zip->archive, 0);
    claims sum = {0};
    if (n < 0 || (uint64_t)n > ENTRIES_MOST)
        return dlm__fail(err, DLM_FORMAT, "%s: %lld entries of the archive are more than %llu", zip->name,
                         (long long)n, (unsigned long long)ENTRIES_MOST);
    zip->entries = dlm__calloc((size_t)n + 1, sizeof *zip->entries);
    if (zip->entries == NULL) return dlm__fail_memory(err, zip->name, (size_t)n * sizeof *zip->entries);
    for (uint64_t i = 0; i < (uint64_t)n; i++) DLM_TRY(read_entry(zip, i, &sum, err));
    qsort(zip->entries, zip->n, sizeof *zip->entries, by_name);
    return check_claims(zip, &sum, file_size, err);
}

static dlm_status open_archive(dlm_zip *zip, zip_source_t *source, zip_error_t *why, dlm_error *err) {
    if (source != NULL) zip->archive = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, why);
    if (zip->archive != NULL) return DLM_OK;
    zip_source_free(source);
    if (zip_error_code_zip(why) == ZIP_ER_EXISTS)
        return dlm__fail(err, DLM_FORMAT, "%s: there are two entries of one name", zip->name);
    return dlm__fail(err, DLM_FORMAT, "%s is no zip archive, or a damaged one: %s", zip->name,
                     zip_error_strerror(why));
}

/* The source is the archive's from here on. */
static dlm_status create(const char *name, zip_source_t *source, zip_error_t *why, uint64_t file_size,
                         dlm_zip **zip, dlm_error *err) {
    dlm_zip *made = dlm__calloc(1, sizeof *made);
    if (made != NULL) made->name = dlm__copy_bytes(name, strlen(name));
    if (made == NULL || made->name == NULL) {
        free(made);
        zip_source_free(source);
        return dlm__fail_memory(err, name, sizeof *made);
    }
    dlm_status status = open_archive(made, source, why, err);
    if (status == DLM_OK) status = read_directory(made, file_size, err);
    if (status != DLM_OK) {
        dlm__zip_close(made);
        return status;
    }
    *zip = made;
    return DLM_OK;
}

dlm_status dlm__zip_open(const char *path, dlm_zip **zip, dlm_error *err) {
    struct stat about;
    *zip = NULL;
    if (stat(path, &about) != 0) return dlm__fail_errno(err, errno, "%s", path);
    if (!S_ISREG(about.st_mode)) return dlm__fail(err, DLM_IO, "%s is not a regular file", path);
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *source = zip_source_file_create(path, 0, -1, &why);
    const dlm_status status = create(path, source, &why, (uint64_t)about.st_size, zip, err);
    zip_error_fini(&why);
    return status;
}

dlm_status dlm__zip_parse(const char *name, const void *bytes, size_t n, dlm_zip **zip, dlm_error *err) {
    *zip = NULL;
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *source = zip_source_buffer_create(bytes, n, 0, &why);
    const dlm_status status = create(name, source, &why, n, zip, err);
    zip_error_fini(&why);
    return status;
}

void dlm__zip_close(dlm_zip *zip) {
    if (zip == NULL) return;
    if (zip->archive != NULL) zip_discard(zip->archive);
    free(zip->entries);
    free(zip->name);
    free(zip);
}

size_t dlm__zip_count(const dlm_zip *zip) {
    return zip->n;
}

const dlm_zip_entry *dlm__zip_at(const dlm_zip *zip, size_t i) {
    return &zip->entries[i];
}

const dlm_zip_entry *dlm__zip_find(const dlm_zip *zip, const char *name) {
    const dlm_zip_entry key = {.name = name};
    return bsearch(&key, zip->entries, zip->n, sizeof key, by_name);
}

/* Reads the entry, and its checksum as it goes. */
static dlm_status read_bytes(const dlm_zip *zip, zip_file_t *file, const dlm_zip_entry *entry,
                             unsigned char *bytes, uint32_t *sum, dlm_error *err) {
    for (uint64_t done = 0; done < entry->size;) {
        const uint64_t left = entry->size - done;
        const zip_int64_t n = zip_fread(file, bytes + done, left < CHUNK ? left : CHUNK);
        if (n <= 0)
            return dlm__fail(err, DLM_FORMAT, "%s: entry %.80s: %s", zip->name, entry->name,
                             n == 0 ? "it is cut off" : zip_error_strerror(zip_file_get_error(file)));
        *sum = libdeflate_crc32(*sum, bytes + done, (size_t)n);
        done += (uint64_t)n;
    }
    return DLM_OK;
}

/* A stored entry is read as it stands: libzip's own checksum, which it takes of all else, costs several times
 * as much as the copy. */
dlm_status dlm__zip_read(dlm_zip *zip, const dlm_zip_entry *entry, void *bytes, dlm_error *err) {
    zip_stat_t about;
    uint32_t sum = 0;
    if (zip_stat_index(zip->archive, entry->index, 0, &about) != 0) return fail_zip(zip, entry->name, err);
    const bool stored = about.comp_method == ZIP_CM_STORE;
    zip_file_t *file = zip_fopen_index(zip->archive, entry->index, stored ? ZIP_FL_COMPRESSED : 0);
    if (file == NULL) return fail_zip(zip, entry->name, err);
    const dlm_status status = read_bytes(zip, file, entry, bytes, &sum, err);
    (void)zip_fclose(file);
    if (status != DLM_OK || sum == about.crc) return status;
    return dlm__fail(err, DLM_FORMAT, "%s: entry %.80s is damaged: its checksum is %08x, not %08x", zip->name,
                     entry->name, sum, about.crc);
}
