/* Writing a shard: token ids go to the file as they come, the two tables are held until the end (17 bytes or
 * a little more for a document), and the header is put in front last. */
#include "train/shard.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BATCH = 4096 }; /* ids converted at a time */

struct dlm_shard_writer {
    dlm_output *output;
    XXH3_state_t *hash; /* of the token ids so far */
    dlm_shard_header header;
    dlm_shard_entry *entries; /* (header.documents) */
    size_t entries_capacity;
    uint8_t *marks; /* (header.windows) */
    size_t marks_capacity;
};

static void release(dlm_shard_writer *writer) {
    (void)XXH3_freeState(writer->hash);
    free(writer->entries);
    free(writer->marks);
    free(writer);
}

dlm_status dlm__shard_create(const char *path, const dlm_shard_kind *kind, size_t index,
                             dlm_shard_writer **writer, dlm_error *err) {
    *writer = NULL;
    dlm_shard_writer *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, path, sizeof *made);
    made->hash = XXH3_createState();
    dlm_status status = DLM_OK;
    if (made->hash == NULL || XXH3_64bits_reset(made->hash) != XXH_OK)
        status = dlm__fail_memory(err, path, 1024);
    if (status == DLM_OK) status = dlm__output_create(path, &made->output, err);
    if (status != DLM_OK) {
        release(made);
        return status;
    }
    made->header = (dlm_shard_header){.version = DLM_SHARD_VERSION,
                                      .width = (uint32_t)dlm__shard_width(kind->vocab_size),
                                      .vocabulary_hash = kind->vocabulary_hash,
                                      .vocab_size = kind->vocab_size,
                                      .seq_len = kind->seq_len,
                                      .index = index};
    memcpy(made->header.magic, DLM_SHARD_MAGIC, sizeof made->header.magic);
    /* Zeros until commit: a file without a header is no shard. */
    static const dlm_shard_header none;
    dlm__output_write(made->output, &none, sizeof none);
    *writer = made;
    return DLM_OK;
}

/* Appends to the token section. */
static void put_tokens(dlm_shard_writer *writer, const void *bytes, size_t n) {
    (void)XXH3_64bits_update(writer->hash, bytes, n);
    dlm__output_write(writer->output, bytes, n);
}

static void put_ids(dlm_shard_writer *writer, const int32_t *ids, size_t n) {
    if (writer->header.width == 4) {
        put_tokens(writer, ids, n * sizeof *ids);
        return;
    }
    uint16_t narrow[BATCH];
    for (size_t at = 0; at < n; at += BATCH) {
        size_t m = n - at < BATCH ? n - at : BATCH;
        for (size_t i = 0; i < m; i++) narrow[i] = (uint16_t)ids[at + i];
        put_tokens(writer, narrow, m * sizeof *narrow);
    }
}

/* Room for one more document with its windows. */
static dlm_status reserve(dlm_shard_writer *writer, size_t windows, dlm_error *err) {
    const dlm_shard_header *header = &writer->header;
    size_t entries = (size_t)header->documents + 1, marks = (size_t)header->windows + windows;
    void *grown = dlm__grow(writer->entries, &writer->entries_capacity, entries, sizeof *writer->entries);
    if (grown == NULL) return dlm__fail_memory(err, "document table", entries * sizeof *writer->entries);
    writer->entries = grown;
    grown = dlm__grow(writer->marks, &writer->marks_capacity, marks, 1);
    if (grown == NULL) return dlm__fail_memory(err, "window marks", marks);
    writer->marks = grown;
    return DLM_OK;
}

dlm_status dlm__shard_add(dlm_shard_writer *writer, const int32_t *ids, size_t n, uint64_t bytes, bool space,
                          dlm_error *err) {
    dlm_shard_header *header = &writer->header;
    size_t windows = (size_t)dlm__shard_windows(n, header->seq_len);
    DLM_TRY(reserve(writer, windows, err));
    put_ids(writer, ids, n);
    header->tokens += n;
    header->bytes += bytes;
    writer->entries[header->documents++] =
        (dlm_shard_entry){.end = header->tokens, .text = bytes * 2 + (space ? 1 : 0)};
    uint8_t *marks = writer->marks + header->windows;
    memset(marks, DLM_MARK_CONTINUES, windows);
    marks[0] = 0;
    marks[windows - 1] |= DLM_MARK_ENDS;
    header->windows += windows;
    return DLM_OK;
}

uint64_t dlm__shard_tokens(const dlm_shard_writer *writer) {
    return writer->header.tokens;
}

/* Zeros behind n bytes of a section, up to the next multiple of 64. */
static size_t padding(uint64_t n) {
    return (DLM_ALIGN - (size_t)(n % DLM_ALIGN)) % DLM_ALIGN;
}

static const unsigned char zeros[DLM_ALIGN];

static void finish_tokens(dlm_shard_writer *writer) {
    dlm_shard_section *section = &writer->header.token_ids;
    put_tokens(writer, zeros, padding(writer->header.tokens * writer->header.width));
    section->offset = sizeof writer->header;
    section->size = dlm__output_tell(writer->output) - section->offset;
    section->checksum = XXH3_64bits_digest(writer->hash);
}

/* Writes a table of n bytes as the next section; the hash is used anew. */
static void put_table(dlm_shard_writer *writer, const void *bytes, size_t n, dlm_shard_section *section) {
    (void)XXH3_64bits_reset(writer->hash);
    section->offset = dlm__output_tell(writer->output);
    if (n > 0) put_tokens(writer, bytes, n);
    put_tokens(writer, zeros, padding(n));
    section->size = dlm__output_tell(writer->output) - section->offset;
    section->checksum = XXH3_64bits_digest(writer->hash);
}

dlm_status dlm__shard_commit(dlm_shard_writer *writer, dlm_shard_header *header, dlm_error *err) {
    dlm_shard_header *own = &writer->header;
    finish_tokens(writer);
    put_table(writer, writer->marks, (size_t)own->windows, &own->marks);
    put_table(writer, writer->entries, (size_t)own->documents * sizeof *writer->entries, &own->entries);
    own->checksum = dlm__hash(own, offsetof(dlm_shard_header, checksum), 0);
    dlm__output_patch(writer->output, 0, own, sizeof *own);
    if (header != NULL) *header = *own;
    dlm_status status = dlm__output_commit(writer->output, err);
    release(writer);
    return status;
}

void dlm__shard_abort(dlm_shard_writer *writer) {
    if (writer == NULL) return;
    dlm__output_abort(writer->output);
    release(writer);
}
