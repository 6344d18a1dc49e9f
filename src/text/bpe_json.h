/* The two long parts of a tokenizer.json, "vocab" and "merges" of "model", read where they stand.
 *
 * They are nearly all of the file, and a tree of them is ten times as much memory and most of the time that
 * loading takes. What is read here is what every writer of these files writes, and no more: a text with
 * anything else in these two parts is left to the reader of trees, which knows all of JSON and says what is
 * wrong. */
#ifndef DLM_TEXT_BPE_JSON_H
#define DLM_TEXT_BPE_JSON_H

#include "text/tokenizer.h"

typedef struct dlm_bpe_token {
    const char *content;
    size_t bytes;
} dlm_bpe_token;

typedef struct dlm_bpe_merge {
    const char *joined; /* its two contents, one behind the other */
    size_t bytes[2];    /* of each */
} dlm_bpe_merge;

typedef struct dlm_bpe_json {
    char *contents;        /* of all */
    dlm_bpe_token *tokens; /* (n) by id; n > 0 */
    size_t n, tokens_capacity;
    dlm_bpe_merge *merges; /* (merge_count) in their order */
    size_t merge_count, merges_capacity;
    char *rest; /* the text with {} and [] in the place of the two parts, which remains to be parsed */
    size_t rest_bytes;
} dlm_bpe_json;

/* Reads both parts of a tokenizer.json of n bytes; false: it is not for this reader, or there is no memory.
 * Free with dlm__bpe_json_free, in either case. */
bool dlm__bpe_json_read(const char *json, size_t n, dlm_bpe_json *bpe);
/* Adds the tokens, and then the merges, to a tokenizer. An error tells that the text is wrong, not how: the
 * reader of trees does. */
dlm_status dlm__bpe_json_tokens(const dlm_bpe_json *bpe, dlm_tokenizer *tokenizer, dlm_error *err);
dlm_status dlm__bpe_json_merges(const dlm_bpe_json *bpe, dlm_tokenizer *tokenizer, dlm_error *err);
void dlm__bpe_json_free(dlm_bpe_json *bpe);

#endif
