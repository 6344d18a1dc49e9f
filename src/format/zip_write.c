/* Writing zip archives: local headers with the entries behind them, the directory, and its end (PKWARE's
 * APPNOTE 6.3, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3). */
#include "format/zip_write.h"

#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, VERSION = 20, VERSION_64 = 45, DATE = 0x21 /* 1980-01-01, as torch.save has it */ };
enum { FILL_ID = 0x4246 /* "FB": what torch.save fills up with */, ZIP64_ID = 1 };
enum { LOCAL_SIZE = 30, CENTRAL_SIZE = 46, FIELD_SIZE = 4 };

typedef struct written {
    char *name;
    uint64_t offset, size;
    uint32_t sum;
} written;

struct dlm_zip_writer {
    char *path;
    dlm_output *output;
    written *entries; /* (n) */
    size_t n, capacity;
};

/* ---- records ------------------------------------------------------------------------------------------ */

/* Little-endian numbers, one after the other. */
typedef struct record {
    unsigned char bytes[128];
    size_t n;
} record;

static void put(record *to, uint64_t number, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) to->bytes[to->n++] = (unsigned char)(number >> 8 * i);
}

static bool is_wide(uint64_t number) {
    return number >= UINT32_MAX;
}

/* What a field of four bytes says: all ones where the number is in a field of eight elsewhere. */
static uint64_t narrow(uint64_t number) {
    return is_wide(number) ? UINT32_MAX : number;
}

/* What a local header and an entry of the directory have in common, up to the name's length. */
static void put_entry(record *to, const written *entry, bool zip64) {
    put(to, zip64 ? VERSION_64 : VERSION, 2);
    put(to, 0, 2); /* flags */
    put(to, 0, 2); /* stored */
    put(to, 0, 2); /* time */
    put(to, DATE, 2);
    put(to, entry->sum, 4);
    put(to, narrow(entry->size), 4); /* as stored */
    put(to, narrow(entry->size), 4);
    put(to, strlen(entry->name), 2);
}

/* The header, an extra field with the wide sizes where there are such, and one that fills up, so that the
 * entry's bytes begin at a multiple of ALIGN. */
static void write_local(const dlm_zip_writer *writer, const written *entry) {
    static const unsigned char nothing[ALIGN + FIELD_SIZE];
    const bool zip64 = is_wide(entry->size);
    const size_t name = strlen(entry->name), wide = zip64 ? FIELD_SIZE + 16 : 0;
    const uint64_t start = entry->offset + LOCAL_SIZE + name + wide + FIELD_SIZE;
    const size_t fill = (size_t)(-start & (ALIGN - 1));
    record header = {.n = 0}, extra = {.n = 0};
    put(&header, 0x04034b50, 4);
    put_entry(&header, entry, zip64);
    put(&header, wide + FIELD_SIZE + fill, 2);
    if (zip64) {
        put(&extra, ZIP64_ID, 2);
        put(&extra, 16, 2);
        put(&extra, entry->size, 8);
        put(&extra, entry->size, 8);
    }
    put(&extra, FILL_ID, 2);
    put(&extra, fill, 2);
    dlm__output_write(writer->output, header.bytes, header.n);
    dlm__output_write(writer->output, entry->name, name);
    dlm__output_write(writer->output, extra.bytes, extra.n);
    dlm__output_write(writer->output, nothing, fill);
}

static void write_central(const dlm_zip_writer *writer, const written *entry) {
    const bool wide_size = is_wide(entry->size), wide_offset = is_wide(entry->offset);
    const size_t wide = (size_t)(wide_size ? 16 : 0) + (size_t)(wide_offset ? 8 : 0);
    record header = {.n = 0}, extra = {.n = 0};
    put(&header, 0x02014b50, 4);
    put(&header, wide > 0 ? VERSION_64 : VERSION, 2); /* of the writer */
    put_entry(&header, entry, wide > 0);
    put(&header, wide > 0 ? wide + FIELD_SIZE : 0, 2);
    put(&header, 0, 2); /* comment */
    put(&header, 0, 2); /* disk */
    put(&header, 0, 2); /* attributes */
    put(&header, 0, 4);
    put(&header, narrow(entry->offset), 4);
    if (wide > 0) {
        put(&extra, ZIP64_ID, 2);
        put(&extra, wide, 2);
    }
    if (wide_size) {
        put(&extra, entry->size, 8);
        put(&extra, entry->size, 8);
    }
    if (wide_offset) put(&extra, entry->offset, 8);
    dlm__output_write(writer->output, header.bytes, header.n);
    dlm__output_write(writer->output, entry->name, strlen(entry->name));
    dlm__output_write(writer->output, extra.bytes, extra.n);
}

/* The end of the directory that lies at `start`, `size` bytes long; before it the same in wide fields, and
 * where these are, if one of its numbers needs them. */
static void write_end(const dlm_zip_writer *writer, uint64_t start, uint64_t size) {
    const uint64_t n = writer->n, here = start + size;
    record end = {.n = 0};
    if (is_wide(start) || is_wide(size) || n >= UINT16_MAX) {
        put(&end, 0x06064b50, 4);
        put(&end, 44, 8); /* of what follows in this record */
        put(&end, VERSION_64, 2);
        put(&end, VERSION_64, 2);
        put(&end, 0, 4); /* disks */
        put(&end, 0, 4);
        put(&end, n, 8);
        put(&end, n, 8);
        put(&end, size, 8);
        put(&end, start, 8);
        put(&end, 0x07064b50, 4);
        put(&end, 0, 4);
        put(&end, here, 8);
        put(&end, 1, 4);
    }
    put(&end, 0x06054b50, 4);
    put(&end, 0, 2);
    put(&end, 0, 2);
    put(&end, n < UINT16_MAX ? n : UINT16_MAX, 2);
    put(&end, n < UINT16_MAX ? n : UINT16_MAX, 2);
    put(&end, narrow(size), 4);
    put(&end, narrow(start), 4);
    put(&end, 0, 2); /* comment */
    dlm__output_write(writer->output, end.bytes, end.n);
}

/* ---- the archive -------------------------------------------------------------------------------------- */

static void release(dlm_zip_writer *writer) {
    for (size_t i = 0; i < writer->n; i++) free(writer->entries[i].name);
    free(writer->entries);
    free(writer->path);
    free(writer);
}

dlm_status dlm__zip_create(const char *path, dlm_zip_writer **writer, dlm_error *err) {
    *writer = NULL;
    dlm_zip_writer *made = dlm__calloc(1, sizeof *made);
    if (made != NULL) made->path = dlm__copy_bytes(path, strlen(path));
    if (made == NULL || made->path == NULL) {
        free(made);
        return dlm__fail_memory(err, path, sizeof *made);
    }
    const dlm_status status = dlm__output_create(path, &made->output, err);
    if (status == DLM_OK)
        *writer = made;
    else
        release(made);
    return status;
}

dlm_status dlm__zip_add(dlm_zip_writer *writer, const char *name, const void *bytes, size_t n,
                        dlm_error *err) {
    if (strlen(name) > DLM_ZIP_NAME)
        return dlm__fail(err, DLM_ARGUMENT, "%s: a name of %zu bytes in the archive is too long",
                         writer->path, strlen(name));
    written *grown = dlm__grow(writer->entries, &writer->capacity, writer->n + 1, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(err, writer->path, writer->n * sizeof *grown);
    writer->entries = grown;
    const written entry = {.name = dlm__copy_bytes(name, strlen(name)),
                           .offset = dlm__output_tell(writer->output),
                           .size = n,
                           .sum = libdeflate_crc32(0, n > 0 ? bytes : "", n)};
    if (entry.name == NULL) return dlm__fail_memory(err, writer->path, strlen(name));
    writer->entries[writer->n++] = entry;
    write_local(writer, &entry);
    dlm__output_write(writer->output, bytes, n);
    return DLM_OK;
}

dlm_status dlm__zip_commit(dlm_zip_writer *writer, dlm_error *err) {
    const uint64_t start = dlm__output_tell(writer->output);
    for (size_t i = 0; i < writer->n; i++) write_central(writer, &writer->entries[i]);
    write_end(writer, start, dlm__output_tell(writer->output) - start);
    const dlm_status status = dlm__output_commit(writer->output, err);
    release(writer);
    return status;
}

void dlm__zip_abort(dlm_zip_writer *writer) {
    if (writer == NULL) return;
    dlm__output_abort(writer->output);
    release(writer);
}
