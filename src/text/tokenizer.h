/* The tokenizer inside the library: its data, and the encoder that threads use.
 *
 * A tokenizer is constant after it is made. Encoding wants scratch memory and gains much from remembering
 * words, so that state has an object of its own: an encoder, which one thread uses at a time, any number of
 * them beside each other.
 *
 *     dlm_encoder *encoder = dlm__encoder_create(tokenizer, expected_bytes);
 *     dlm_ids ids = {0};
 *     for each text: ids.n = 0; DLM_TRY(dlm__encoder_encode(encoder, text, bytes, false, &ids, err)); ... use
 * ids.ids[0..n) free(ids.ids); dlm__encoder_free(encoder);
 */
#ifndef DLM_TEXT_TOKENIZER_H
#define DLM_TEXT_TOKENIZER_H

#include "base/base.h"

/* ---- what a tokenizer consists of (tokenizer.c) ------------------------------------------------------- */

typedef struct dlm_token {
    size_t content, content_bytes; /* as tokenizer.json writes it: offset in strings, length */
    size_t bytes, bytes_count;     /* what it stands for in a decoded text */
    bool added, special;
} dlm_token;

/* One merge; its rank is its place in the array. */
typedef struct dlm_merge {
    int32_t left, right, result;
} dlm_merge;

/* An entry of the table from pairs to ranks; rank DLM_NO_RANK: empty. */
typedef struct dlm_pair_slot {
    int32_t left, right;
    uint32_t rank;
} dlm_pair_slot;
#define DLM_NO_RANK UINT32_MAX

typedef struct dlm_added_token {
    const char *content; /* in strings, set by finish */
    size_t bytes;
    int32_t id;
    bool single_word;             /* does not match beside a word character */
    bool left_strip, right_strip; /* takes the white space beside it */
    bool normalized;              /* matched after those that are not, in what they leave */
} dlm_added_token;

/* The options of a ByteLevel part of tokenizer.json. */
typedef struct dlm_byte_level {
    bool add_prefix_space, trim_offsets, use_regex;
} dlm_byte_level;

struct dlm_tokenizer {
    char *strings; /* contents and bytes of all tokens */
    size_t strings_used, strings_capacity;
    dlm_token *tokens; /* (vocab_size) by id */
    size_t vocab_size, tokens_capacity;
    size_t model_size; /* ids below this are the model's; those from it on exist as added tokens only */

    uint32_t *token_slots;   /* content -> id + 1, open addressing; 0: empty */
    size_t token_slot_count; /* a power of two, as pair_slot_count */

    dlm_merge *merges; /* (merge_count) by rank */
    size_t merge_count, merges_capacity;
    dlm_pair_slot *pair_slots;
    size_t pair_slot_count;

    int32_t byte_ids[256]; /* the symbol of each byte, -1 where the vocabulary has none */
    char *unk_token;       /* content, or NULL; bytes without symbol become unk_id, or vanish without one */
    int32_t unk_id;
    bool fuse_unk;      /* unknown bytes in a row become one unk_id */
    bool ignore_merges; /* a word that is a token is that token, whatever the merges say */

    dlm_added_token *added; /* (added_count) sorted by normalized, then content */
    size_t added_count, added_capacity;
    size_t exact_count;        /* the first of them: those that are not normalized */
    bool added_starts[2][256]; /* [normalized]: the bytes that added tokens begin with */

    dlm_byte_level pre, decoder, post;
    bool has_post;
    uint64_t hash;
};

/* Making one, for the reader of tokenizer.json and the trainer: create, add the model's tokens with ids 0, 1,
 * ..., then merges in order of rank and added tokens, then finish. What fails leaves the tokenizer to
 * dlm_tokenizer_free. */

dlm_status dlm__tokenizer_create(dlm_tokenizer **tokenizer, dlm_error *err);
/* Room for n tokens, before the first is added. */
dlm_status dlm__tokenizer_reserve(dlm_tokenizer *tokenizer, size_t n, dlm_error *err);
/* The next id gets this content; DLM_FORMAT when another token has it. */
dlm_status dlm__tokenizer_add(dlm_tokenizer *tokenizer, const char *content, size_t bytes, dlm_error *err);
/* The next rank; when the same pair comes again, only the last counts. */
dlm_status dlm__tokenizer_merge(dlm_tokenizer *tokenizer, dlm_merge merge, dlm_error *err);
/* Makes token.id, which exists and is none yet, an added token. */
dlm_status dlm__tokenizer_mark_added(dlm_tokenizer *tokenizer, const dlm_added_token *token, bool special,
                                     dlm_error *err);
/* Builds the tables and the hash. */
dlm_status dlm__tokenizer_finish(dlm_tokenizer *tokenizer, dlm_error *err);

/* The id of a content, or -1. */
int32_t dlm__tokenizer_find(const dlm_tokenizer *tokenizer, const char *content, size_t bytes);
const char *dlm__tokenizer_content(const dlm_tokenizer *tokenizer, int32_t id, size_t *bytes);

static inline size_t dlm__pair_hash(int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(key ^ key >> 29);
}

/* The rank of the merge of two tokens, or DLM_NO_RANK. */
static inline uint32_t dlm__pair_rank(const dlm_tokenizer *tokenizer, int32_t left, int32_t right) {
    size_t mask = tokenizer->pair_slot_count - 1;
    for (size_t at = dlm__pair_hash(left, right) & mask;; at = (at + 1) & mask) {
        const dlm_pair_slot *slot = &tokenizer->pair_slots[at];
        if (slot->rank == DLM_NO_RANK || (slot->left == left && slot->right == right)) return slot->rank;
    }
}

/* dlm_tokenizer_parse; whole: by a tree of all of the text, which is slower and gives the same. */
dlm_status dlm__tokenizer_parse(const char *name, const char *json, size_t n, bool whole,
                                dlm_tokenizer **tokenizer, dlm_error *err);
/* From a tokenizer.json, or a folder that holds one. */
dlm_status dlm__tokenizer_read(const char *path, dlm_tokenizer **tokenizer, dlm_error *err);
/* dlm_tokenizer_save, for a tokenizer.json of at most `limit` bytes; a larger one is an error and nothing is
 * written, since it could not be read again. */
dlm_status dlm__tokenizer_save_within(const dlm_tokenizer *tokenizer, const char *dir, size_t limit,
                                      dlm_error *err);

/* ---- added tokens in text (added_tokens.c) ------------------------------------------------------------ */

/* Where an added token stands in a text: it takes text[start, stop). */
typedef struct dlm_added_match {
    int32_t id;
    size_t start, stop;
    size_t resume; /* where the search for the next one begins */
} dlm_added_match;

/* The first match in text (n) at or after `resume` among the added tokens that are normalized or those that
 * are not; false when there is none. `taken` is how far the text has been taken by earlier matches. */
bool dlm__added_next(const dlm_tokenizer *tokenizer, bool normalized, const char *text, size_t n,
                     size_t taken, size_t resume, dlm_added_match *match);

/* Makes the added tokens ready for the search, when all tokens are there. */
void dlm__added_prepare(dlm_tokenizer *tokenizer);

/* ---- encoding (encode.c) ------------------------------------------------------------------------------ */

/* Ids that grow; ids is free()d by whoever owns the struct. */
typedef struct dlm_ids {
    int32_t *ids;
    size_t n, capacity;
} dlm_ids;

typedef struct dlm_encoder dlm_encoder;

/* An encoder that is to see about `bytes` bytes of text (its cache of words is sized for that, up to a
 * megabyte; SIZE_MAX for the largest). The tokenizer must stay. NULL without memory. */
dlm_encoder *dlm__encoder_create(const dlm_tokenizer *tokenizer, size_t bytes);
void dlm__encoder_free(dlm_encoder *encoder);
/* From now on texts are (or are not) the continuation of one: no space is put before them. */
void dlm__encoder_continue(dlm_encoder *encoder, bool continues);

/* Appends the ids of one text, which must be UTF-8 (DLM_FORMAT with the byte offset if not) and shorter than
 * 4 GiB. added_tokens: cut added tokens out first; else they are plain text. After an error the ids appended
 * are undefined. */
dlm_status dlm__encoder_encode(dlm_encoder *encoder, const char *text, size_t bytes, bool added_tokens,
                               dlm_ids *ids, dlm_error *err);

#endif
