/* Token shards: the files of a DATA folder that hold documents as token ids, and the list of them, data.json.
 *
 * A shard is written once, front to back, and read through a memory map, so its sections lie in it as the
 * program uses them: little-endian, each at a multiple of 64 bytes. Every byte is under a checksum: those of
 * the sections lie in the header, which has its own, and data.json repeats that one. So a shard that opens is
 * the one that was written, and its numbers were checked against each other besides, since a checksum says
 * nothing about who made it. docs/formats.md describes both files. */
#ifndef DLM_SHARD_H
#define DLM_SHARD_H

#include "train/data.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "token shards are mapped as they lie in the file, which is little-endian"
#endif

#define DLM_SHARD_MAGIC     "DLMSHARD"
#define DLM_SHARD_VERSION   1U
#define DLM_SHARD_NAME_SIZE ((size_t)40)

/* offset and size in bytes, both multiples of 64: the content with zeros behind it; checksum: XXH3-64 of all
 * of that. */
typedef struct dlm_shard_section {
    uint64_t offset, size, checksum;
} dlm_shard_section;

/* The first bytes of a shard, as they lie in the file. */
typedef struct dlm_shard_header {
    char magic[8];
    uint32_t version;
    uint32_t width; /* bytes of a token id: 2 for a vocabulary of up to 65,536, else 4 */
    uint64_t vocabulary_hash, vocab_size;
    uint64_t seq_len;                            /* that the windows were marked for */
    uint64_t index;                              /* which shard of its folder, from 0 */
    uint64_t documents, tokens, windows, bytes;  /* bytes: of UTF-8 text */
    dlm_shard_section token_ids, marks, entries; /* in this order behind the header, without gaps */
    uint64_t reserved[4];                        /* 0 */
    uint64_t checksum;                           /* XXH3-64 of what stands before it */
} dlm_shard_header;

_Static_assert(sizeof(dlm_shard_header) == 192, "the header has no padding");

/* A document: its tokens go from the end of the one before to `end`; text is twice the bytes of its UTF-8
 * text, plus 1 when encoding put a space before it. */
typedef struct dlm_shard_entry {
    uint64_t end, text;
} dlm_shard_entry;

/* Marks of a window, one byte each, in document order. */
enum { DLM_MARK_CONTINUES = 1, DLM_MARK_ENDS = 2 };

/* A checked shard: pointers into its bytes. */
typedef struct dlm_shard {
    dlm_shard_header header;
    const void *token_ids;          /* (tokens) of header.width bytes */
    const uint8_t *marks;           /* (windows) */
    const dlm_shard_entry *entries; /* (documents) */
} dlm_shard;

/* What all shards of a folder share. */
typedef struct dlm_shard_kind {
    uint64_t vocabulary_hash;
    size_t vocab_size, seq_len;
} dlm_shard_kind;

/* The name of shard `index`, "shard-00000.dlm". */
void dlm__shard_name(size_t index, char name[DLM_SHARD_NAME_SIZE]);
size_t dlm__shard_width(uint64_t vocab_size);
/* Windows of a document of n tokens with its end token: ceil((n + 1) / seq_len). */
uint64_t dlm__shard_windows(uint64_t n, uint64_t seq_len);

/* Reads all of a shard's bytes (aligned to 8) and checks them: header, sizes, checksums, that document ends
 * never go back, ids are below vocab_size, marks are those of the documents. The shard points into bytes;
 * name is for messages. */
dlm_status dlm__shard_parse(const char *name, const unsigned char *bytes, size_t size, dlm_shard *shard,
                            dlm_error *err);
/* Is it of this kind and place? A shard of another vocabulary is DLM_MISMATCH. */
dlm_status dlm__shard_check(const char *name, const dlm_shard *shard, const dlm_shard_kind *kind,
                            size_t index, dlm_error *err);

/* ---- writing (shard_write.c) -------------------------------------------------------------------------- */

typedef struct dlm_shard_writer dlm_shard_writer;
dlm_status dlm__shard_create(const char *path, const dlm_shard_kind *kind, size_t index,
                             dlm_shard_writer **writer, dlm_error *err);
/* Adds a document: n ids below vocab_size, bytes of text; space: encoding put a space before it. An error of
 * writing stays in the writer and is reported by commit. */
dlm_status dlm__shard_add(dlm_shard_writer *writer, const int32_t *ids, size_t n, uint64_t bytes, bool space,
                          dlm_error *err);
uint64_t dlm__shard_tokens(const dlm_shard_writer *writer);
/* Both free the writer; header (may be NULL) gets what was written. */
dlm_status dlm__shard_commit(dlm_shard_writer *writer, dlm_shard_header *header, dlm_error *err);
void dlm__shard_abort(dlm_shard_writer *writer); /* accepts NULL */

/* ---- data.json (shard_list.c) ------------------------------------------------------------------------- */

#define DLM_SHARD_LIST_FILE "data.json"

typedef struct dlm_shard_listed {
    uint64_t size, documents, tokens, checksum; /* file bytes; the header's checksum */
} dlm_shard_listed;

typedef struct dlm_shard_list {
    size_t vocab_size;
    dlm_data_info info; /* all of it; info.shards entries in shards */
    uint64_t *lengths;  /* (seq_len + 1) documents of that many tokens with the end token, the last: or
                           more */
    dlm_shard_listed *shards;
    size_t capacity; /* of shards */
} dlm_shard_list;

/* An empty list with its histogram. Free with dlm__shard_list_free, also after an error. */
dlm_status dlm__shard_list_create(const dlm_shard_kind *kind, dlm_shard_list *list, dlm_error *err);
void dlm__shard_list_free(dlm_shard_list *list);
/* Counts a document of n tokens. */
void dlm__shard_list_count(dlm_shard_list *list, uint64_t n, uint64_t bytes);
/* Appends a shard. */
dlm_status dlm__shard_list_add(dlm_shard_list *list, const dlm_shard_header *header, dlm_error *err);
/* Bytes of the file that a header describes. */
uint64_t dlm__shard_file_size(const dlm_shard_header *header);

/* Writes and reads data.json; n bytes of it, name for messages. What is read holds together in itself: the
 * sums over shards and lengths are the totals. */
dlm_status dlm__shard_list_write(const dlm_shard_list *list, const char *path, dlm_error *err);
dlm_status dlm__shard_list_parse(const char *name, const char *json, size_t n, dlm_shard_list *list,
                                 dlm_error *err);

#endif
