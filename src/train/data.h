/* Token shards as training and evaluation see them: documents, and the windows that a sequence length cuts
 * them into.
 *
 * A document of n tokens, with its end token n + 1 when the recipe has one, becomes ceil(that / seq_len)
 * consecutive windows, only the last of which ends it (spec 9.2). The file marks the windows of the seq_len
 * it was prepared with; another seq_len is cut anew from the document boundaries. */
#ifndef DLM_DATA_H
#define DLM_DATA_H

#include "diffusion/process.h"

typedef struct dlm_document {
    const void *tokens; /* in the shard's map; `width` bytes each */
    size_t width;       /* 2 or 4 */
    size_t n;           /* tokens, without an end token */
    uint64_t bytes;     /* of its UTF-8 text */
    bool space;         /* encoding put a space before the text, which bytes does not count */
} dlm_document;

/* The longest sequence length that data can be prepared or cut for. */
#define DLM_DATA_SEQ_LEN_MAX ((size_t)1 << 20)

/* A hash of all that the data hold: vocabulary, documents, how they are split into shards. */
uint64_t dlm__data_hash(const dlm_data *data);

dlm_document dlm__data_document(const dlm_data *data, uint64_t i);

/* One training sequence before corruption. */
typedef struct dlm_window {
    uint64_t document;
    size_t first;   /* its first token in the document */
    size_t n;       /* sequence length, the end token counted */
    bool continues; /* not the document's first window */
    bool ends;      /* holds the document's end: with end tokens, its last position is the end token */
} dlm_window;

/* The windows of a choice of documents. */
typedef struct dlm_windows {
    dlm_window *list;
    size_t n;
    size_t seq_len;
} dlm_windows;

typedef enum dlm_part { DLM_PART_ALL, DLM_PART_TRAIN, DLM_PART_HELD_OUT } dlm_part;

/* Windows of all documents, or of the part that is (not) held out: one document in `one_in`, chosen by (seed,
 * its index) alone; when that holds out none or all of two or more documents, one of them changes sides.
 * Without end tokens a document of no tokens has no window. end_token: every document is followed by one (the
 * tokenizer must have it). cut: only the first window of each document, cut at seq_len (the original's way).
 * max_documents: only the first so many that have windows; 0 for all. */
dlm_status dlm__windows_create(const dlm_data *data, size_t seq_len, bool end_token, bool cut, dlm_part part,
                               size_t one_in, uint64_t seed, uint64_t max_documents, dlm_windows *windows,
                               dlm_error *err);
void dlm__windows_free(dlm_windows *windows);

/* Copies a window's n ids, the end token included; returns the bytes of UTF-8 text that they stand for
 * (without the space that encoding added). Over the windows of a document they sum up to its bytes. */
uint64_t dlm__window_ids(const dlm_data *data, const dlm_window *window, int32_t *ids);

/* Histogram of document lengths, the end token counted where there is one: counts[min(n, seq_len)], counts
 * (seq_len + 1). */
void dlm__data_lengths(const dlm_data *data, size_t seq_len, bool end_token, uint64_t *counts);

#endif
