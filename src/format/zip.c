/* Reading zip archives by libzip, whose claims are checked first. */
#include "format/zip.h"

#include <errno.h>
#include <fcntl.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>
#include <zlib.h>

#define ENTRIES_MOST ((uint64_t)1 << 20)
/* An archive may inflate to so many bytes, or so many times its size. */
#define INFLATED_FREE  ((uint64_t)64 << 20)
#define INFLATED_TIMES 100
/* Bytes that are read and summed at a time: few enough that they are still in the cache. */
#define CHUNK ((uint64_t)1 << 20)

/* Where the archive's bytes are: in a file, or in memory. */
typedef struct place {
    int file;
    const unsigned char *bytes; /* NULL: in the file */
    uint64_t size;
    uint64_t at, last; /* where libzip reads next, and where it read last */
    zip_error_t error;
} place;

struct dlm_zip {
    char *name;
    place place;
    zip_t *archive;
    dlm_zip_entry *entries; /* (n) by name */
    size_t n;
    bool unchecked; /* no entry has a checksum: PyTorch leaves them all 0 when it was told to save the time */
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
    bool checksums; /* there is one */
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
    sum->checksums |= about.crc != 0;
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

/* ---- entries that share bytes ------------------------------------------------------------------------- */

/* Where the bytes of an entry that begins to be read are, which libzip tells only by where it reads the first
 * of them. */
static bool find_bytes(const dlm_zip *zip, zip_file_t *file, uint64_t *offset) {
    char first;
    if (zip_fread(file, &first, 1) != 1) return false;
    *offset = zip->place.last;
    return true;
}

typedef struct extent {
    uint64_t first, size;
    const char *name;
} extent;

static int by_place(const void *left, const void *right) {
    const extent *a = left, *b = right;
    return (a->first > b->first) - (a->first < b->first);
}

/* An entry without a first byte is left to dlm__zip_read, which says what is wrong with it. */
static bool find_extent(const dlm_zip *zip, const dlm_zip_entry *entry, extent *at) {
    zip_stat_t about;
    zip_file_t *file = entry->size == 0 ? NULL : zip_fopen_index(zip->archive, entry->index, 0);
    if (file == NULL) return false;
    const bool found =
        zip_stat_index(zip->archive, entry->index, 0, &about) == 0 && find_bytes(zip, file, &at->first);
    at->size = about.comp_size;
    at->name = entry->name;
    (void)zip_fclose(file);
    return found;
}

static dlm_status check_extents(const dlm_zip *zip, dlm_error *err) {
    extent *all = dlm__calloc(zip->n + 1, sizeof *all);
    if (all == NULL) return dlm__fail_memory(err, zip->name, zip->n * sizeof *all);
    size_t n = 0;
    for (size_t i = 0; i < zip->n; i++) n += find_extent(zip, &zip->entries[i], &all[n]);
    qsort(all, n, sizeof *all, by_place);
    dlm_status status = DLM_OK;
    for (size_t i = 1; i < n && status == DLM_OK; i++)
        if (all[i].first - all[i - 1].first < all[i - 1].size)
            status = dlm__fail(err, DLM_FORMAT, "%s: its entries %.80s and %.80s overlap", zip->name,
                               all[i - 1].name, all[i].name);
    free(all);
    return status;
}

/* ---- the directory ------------------------------------------------------------------------------------ */

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
    DLM_TRY(check_claims(zip, &sum, file_size, err));
    zip->unchecked = !sum.checksums;
    return check_extents(zip, err);
}

/* ---- the file, as libzip asks for it ------------------------------------------------------------------- */

/* n bytes from `at` on; how many there were, or -1. Any number of threads at once. */
static int64_t read_at(const place *from, uint64_t at, void *to, uint64_t n) {
    uint64_t done = 0;
    if (at >= from->size) return 0;
    if (n > from->size - at) n = from->size - at;
    if (from->bytes != NULL) {
        memcpy(to, from->bytes + at, n);
        return (int64_t)n;
    }
    while (done < n) {
        const ssize_t got = pread(from->file, (char *)to + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (uint64_t)got;
    }
    return (int64_t)done;
}

static zip_int64_t read_next(place *from, void *to, zip_uint64_t n) {
    const int64_t got = read_at(from, from->at, to, n);
    if (got < 0) zip_error_set(&from->error, ZIP_ER_READ, errno);
    from->last = from->at;
    if (got > 0) from->at += (uint64_t)got;
    return got;
}

static zip_int64_t seek(place *from, void *arguments, zip_uint64_t n) {
    const zip_int64_t to = zip_source_seek_compute_offset(from->at, from->size, arguments, n, &from->error);
    if (to >= 0) from->at = (uint64_t)to;
    return to >= 0 ? 0 : -1;
}

static zip_int64_t describe(const place *from, zip_stat_t *about) {
    zip_stat_init(about);
    about->size = from->size;
    about->valid = ZIP_STAT_SIZE;
    return sizeof *about;
}

static zip_int64_t answer(void *user, void *data, zip_uint64_t n, zip_source_cmd_t command) {
    place *from = user;
    switch (command) {
    case ZIP_SOURCE_OPEN: from->at = 0; return 0;
    case ZIP_SOURCE_READ: return read_next(from, data, n);
    case ZIP_SOURCE_SEEK: return seek(from, data, n);
    case ZIP_SOURCE_TELL: return (zip_int64_t)from->at;
    case ZIP_SOURCE_STAT: return describe(from, data);
    case ZIP_SOURCE_ERROR: return zip_error_to_data(&from->error, data, n);
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE,
                                              ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR, ZIP_SOURCE_FREE,
                                              ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL, ZIP_SOURCE_SUPPORTS, -1);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE: return 0;
    default: zip_error_set(&from->error, ZIP_ER_OPNOTSUPP, 0); return -1;
    }
}

static dlm_status open_archive(dlm_zip *zip, dlm_error *err) {
    if (zip->place.size == 0) /* which libzip takes for an archive without entries */
        return dlm__fail(err, DLM_FORMAT, "%s is no zip archive: it is empty", zip->name);
    zip_error_t why;
    zip_error_init(&why);
    zip_source_t *source = zip_source_function_create(answer, &zip->place, &why);
    if (source != NULL) zip->archive = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &why);
    dlm_status status = DLM_OK;
    if (zip->archive == NULL) {
        zip_source_free(source);
        if (zip_error_code_zip(&why) == ZIP_ER_EXISTS)
            status = dlm__fail(err, DLM_FORMAT, "%s: there are two entries of one name", zip->name);
        else
            status = dlm__fail(err, DLM_FORMAT, "%s is no zip archive, or a damaged one: %s", zip->name,
                               zip_error_strerror(&why));
    }
    zip_error_fini(&why);
    return status;
}

/* The file of `from` is the archive's from here on. */
static dlm_status create(const char *name, const place *from, dlm_zip **zip, dlm_error *err) {
    dlm_zip *made = dlm__calloc(1, sizeof *made);
    if (made != NULL) made->name = dlm__copy_bytes(name, strlen(name));
    if (made == NULL || made->name == NULL) {
        free(made);
        if (from->bytes == NULL) (void)close(from->file);
        return dlm__fail_memory(err, name, sizeof *made);
    }
    made->place = *from;
    zip_error_init(&made->place.error);
    dlm_status status = open_archive(made, err);
    if (status == DLM_OK) status = read_directory(made, from->size, err);
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
    place from = {.file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (from.file < 0) return dlm__fail_errno(err, errno, "%s", path);
    dlm_status status = DLM_OK;
    if (fstat(from.file, &about) != 0)
        status = dlm__fail_errno(err, errno, "%s", path);
    else if (!S_ISREG(about.st_mode))
        status = dlm__fail(err, DLM_IO, "%s is not a regular file", path);
    if (status != DLM_OK) {
        (void)close(from.file);
        return status;
    }
    from.size = (uint64_t)about.st_size;
    return create(path, &from, zip, err);
}

dlm_status dlm__zip_parse(const char *name, const void *bytes, size_t n, dlm_zip **zip, dlm_error *err) {
    *zip = NULL;
    return create(name, &(place){.file = -1, .bytes = bytes, .size = n}, zip, err);
}

void dlm__zip_close(dlm_zip *zip) {
    if (zip == NULL) return;
    if (zip->archive != NULL) zip_discard(zip->archive);
    if (zip->place.bytes == NULL) (void)close(zip->place.file);
    zip_error_fini(&zip->place.error);
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

/* ---- reading an entry --------------------------------------------------------------------------------- */

/* A stored entry, read by all threads: libzip's own way takes a second checksum, by one thread, which costs
 * more than the copy. */
typedef struct stored {
    const place *from;
    uint64_t offset, size;
    unsigned char *to;
    uint32_t *sums; /* of the chunks; 0 where one was cut off too, which the whole sum then shows */
} stored;

static void read_chunk(void *context, size_t i) {
    const stored *s = context;
    const uint64_t first = i * CHUNK, n = s->size - first < CHUNK ? s->size - first : CHUNK;
    const bool whole = read_at(s->from, s->offset + first, s->to + first, n) == (int64_t)n;
    s->sums[i] = whole ? libdeflate_crc32(0, s->to + first, (size_t)n) : 0;
}

static dlm_status read_stored(const dlm_zip *zip, uint64_t offset, const dlm_zip_entry *entry, void *bytes,
                              uint32_t *sum, dlm_error *err) {
    const size_t n = (size_t)((entry->size + CHUNK - 1) / CHUNK);
    stored s = {.from = &zip->place, .offset = offset, .size = entry->size, .to = bytes};
    s.sums = dlm__calloc(n, sizeof *s.sums);
    if (s.sums == NULL) return dlm__fail_memory(err, zip->name, n * sizeof *s.sums);
    dlm__parallel_for(n, read_chunk, &s);
    for (size_t i = 0; i < n; i++) {
        const uint64_t left = entry->size - i * CHUNK;
        *sum = (uint32_t)crc32_combine(*sum, s.sums[i], (z_off_t)(left < CHUNK ? left : CHUNK));
    }
    free(s.sums);
    return DLM_OK;
}

static dlm_status read_deflated(const dlm_zip *zip, zip_file_t *file, const dlm_zip_entry *entry,
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

dlm_status dlm__zip_read(dlm_zip *zip, const dlm_zip_entry *entry, void *bytes, dlm_error *err) {
    zip_stat_t about;
    uint32_t sum = 0;
    uint64_t offset;
    if (entry->size == 0) return DLM_OK;
    if (zip_stat_index(zip->archive, entry->index, 0, &about) != 0) return fail_zip(zip, entry->name, err);
    zip_file_t *file = zip_fopen_index(zip->archive, entry->index, 0);
    if (file == NULL) return fail_zip(zip, entry->name, err);
    dlm_status status;
    if (about.comp_method != ZIP_CM_STORE)
        status = read_deflated(zip, file, entry, bytes, &sum, err);
    else if (!find_bytes(zip, file, &offset))
        status = fail_zip(zip, entry->name, err);
    else
        status = read_stored(zip, offset, entry, bytes, &sum, err);
    (void)zip_fclose(file);
    if (status != DLM_OK || sum == about.crc || zip->unchecked) return status;
    return dlm__fail(err, DLM_FORMAT, "%s: entry %.80s is damaged: its checksum is %08x, not %08x", zip->name,
                     entry->name, sum, about.crc);
}
