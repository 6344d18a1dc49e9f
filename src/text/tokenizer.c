/* The tokenizer as data: building it, its tables and hash, what it says about itself, decoding. Reading and
 * writing tokenizer.json is in tokenizer_json.c, encoding in encode.c. */
#include "text/tokenizer.h"
#include "text/byte_level.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

static size_t power_of_two_above(size_t n) {
    size_t power = 2;
    while (power <= n) power *= 2;
    return power;
}

dlm_status dlm__tokenizer_create(dlm_tokenizer **tokenizer, dlm_error *err) {
    *tokenizer = dlm__calloc(1, sizeof **tokenizer);
    if (*tokenizer == NULL) return dlm__fail_memory(err, "the tokenizer", sizeof **tokenizer);
    (*tokenizer)->unk_id = -1;
    return DLM_OK;
}

void dlm_tokenizer_free(dlm_tokenizer *tokenizer) {
    if (tokenizer == NULL) return;
    free(tokenizer->strings);
    free(tokenizer->tokens);
    free(tokenizer->token_slots);
    free(tokenizer->merges);
    free(tokenizer->pair_slots);
    free(tokenizer->unk_token);
    free(tokenizer->added);
    free(tokenizer);
}

/* ---- tokens ------------------------------------------------------------------------------------------- */

const char *dlm__tokenizer_content(const dlm_tokenizer *tokenizer, int32_t id, size_t *bytes) {
    const dlm_token *token = &tokenizer->tokens[id];
    *bytes = token->content_bytes;
    return tokenizer->strings + token->content;
}

/* The slot that holds the content, or the empty one where it would go. */
static size_t find_slot(const dlm_tokenizer *t, const char *content, size_t bytes) {
    size_t mask = t->token_slot_count - 1, at = (size_t)dlm__hash(content, bytes, 0) & mask;
    while (t->token_slots[at] != 0) {
        const dlm_token *token = &t->tokens[t->token_slots[at] - 1];
        if (token->content_bytes == bytes && memcmp(t->strings + token->content, content, bytes) == 0) break;
        at = (at + 1) & mask;
    }
    return at;
}

int32_t dlm__tokenizer_find(const dlm_tokenizer *tokenizer, const char *content, size_t bytes) {
    if (tokenizer->token_slot_count == 0) return -1;
    return (int32_t)tokenizer->token_slots[find_slot(tokenizer, content, bytes)] - 1;
}

static dlm_status grow_slots(dlm_tokenizer *t, size_t count, dlm_error *err) {
    uint32_t *slots = dlm__calloc(count, sizeof *slots);
    if (slots == NULL) return dlm__fail_memory(err, "the vocabulary", count * sizeof *slots);
    free(t->token_slots);
    t->token_slots = slots;
    t->token_slot_count = count;
    for (size_t i = 0; i < t->vocab_size; i++) {
        slots[find_slot(t, t->strings + t->tokens[i].content, t->tokens[i].content_bytes)] = (uint32_t)i + 1;
    }
    return DLM_OK;
}

/* Appends what the token stands for behind its content, unless it is the same: its bytes where every
 * character stands for one, else the characters themselves, as the Hugging Face decoder has it. */
static void append_bytes(dlm_tokenizer *t, dlm_token *token) {
    const char *content = t->strings + token->content;
    char *bytes = t->strings + t->strings_used;
    size_t n = 0;
    for (size_t at = 0, length; at < token->content_bytes; at += length) {
        int byte = dlm__character_byte(dlm__utf8_read(content + at, &length));
        if (byte < 0) {
            token->bytes = token->content;
            token->bytes_count = token->content_bytes;
            return;
        }
        bytes[n++] = (char)byte;
    }
    token->bytes = t->strings_used;
    token->bytes_count = n;
    t->strings_used += n;
}

/* For one more token of so many bytes. */
static dlm_status make_room(dlm_tokenizer *t, size_t bytes, dlm_error *err) {
    size_t need;
    bool fits = dlm__size_mul(bytes, 2, &need) && dlm__size_add(need, t->strings_used, &need);
    char *strings = fits ? dlm__grow(t->strings, &t->strings_capacity, need, 1) : NULL;
    if (strings == NULL) return dlm__fail_memory(err, "the vocabulary", bytes);
    t->strings = strings;
    dlm_token *tokens = dlm__grow(t->tokens, &t->tokens_capacity, t->vocab_size + 1, sizeof *tokens);
    if (tokens == NULL) return dlm__fail_memory(err, "the vocabulary", t->vocab_size * sizeof *tokens);
    t->tokens = tokens;
    return DLM_OK;
}

dlm_status dlm__tokenizer_reserve(dlm_tokenizer *tokenizer, size_t n, dlm_error *err) {
    if (n < 1024 || n >= INT32_MAX) return DLM_OK; /* the few grow, too many are refused when added */
    return grow_slots(tokenizer, power_of_two_above(2 * n), err);
}

dlm_status dlm__tokenizer_add(dlm_tokenizer *tokenizer, const char *content, size_t bytes, dlm_error *err) {
    dlm_tokenizer *t = tokenizer;
    if (t->vocab_size >= INT32_MAX) return dlm__fail(err, DLM_UNSUPPORTED, "more than %d tokens", INT32_MAX);
    if (t->vocab_size >= t->token_slot_count / 2)
        DLM_TRY(grow_slots(t, t->token_slot_count == 0 ? 1024 : t->token_slot_count * 2, err));
    const size_t slot = find_slot(t, content, bytes);
    if (t->token_slots[slot] != 0) {
        return dlm__fail(err, DLM_FORMAT, "token \"%.*s\" appears twice", bytes < 80 ? (int)bytes : 80,
                         content);
    }
    DLM_TRY(make_room(t, bytes, err));
    dlm_token *token = &t->tokens[t->vocab_size];
    *token = (dlm_token){.content = t->strings_used, .content_bytes = bytes};
    if (bytes > 0) memcpy(t->strings + t->strings_used, content, bytes);
    t->strings_used += bytes;
    append_bytes(t, token);
    t->token_slots[slot] = (uint32_t)++t->vocab_size;
    return DLM_OK;
}

dlm_status dlm__tokenizer_mark_added(dlm_tokenizer *tokenizer, const dlm_added_token *added, bool special,
                                     dlm_error *err) {
    dlm_token *token = &tokenizer->tokens[added->id];
    dlm_added_token *all =
        dlm__grow(tokenizer->added, &tokenizer->added_capacity, tokenizer->added_count + 1, sizeof *all);
    if (all == NULL) return dlm__fail_memory(err, "the added tokens", sizeof *all);
    tokenizer->added = all;
    all[tokenizer->added_count++] = *added;
    token->added = true;
    token->special = special;
    return DLM_OK;
}

dlm_status dlm__tokenizer_merge(dlm_tokenizer *tokenizer, dlm_merge merge, dlm_error *err) {
    dlm_tokenizer *t = tokenizer;
    if (t->merge_count >= DLM_NO_RANK)
        return dlm__fail(err, DLM_UNSUPPORTED, "more than %u merges", DLM_NO_RANK);
    dlm_merge *merges = dlm__grow(t->merges, &t->merges_capacity, t->merge_count + 1, sizeof *merges);
    if (merges == NULL) return dlm__fail_memory(err, "the merges", t->merge_count * sizeof *merges);
    t->merges = merges;
    merges[t->merge_count++] = merge;
    return DLM_OK;
}

/* ---- tables and hash ---------------------------------------------------------------------------------- */

/* The slot of a pair, or the empty one where it would go. */
static dlm_pair_slot *find_pair(const dlm_tokenizer *t, const dlm_merge *merge) {
    size_t mask = t->pair_slot_count - 1, at = dlm__pair_hash(merge->left, merge->right) & mask;
    while (t->pair_slots[at].rank != DLM_NO_RANK &&
           (t->pair_slots[at].left != merge->left || t->pair_slots[at].right != merge->right)) {
        at = (at + 1) & mask;
    }
    return &t->pair_slots[at];
}

/* Builds the table of pairs, and takes out the merges of pairs that come again. */
static dlm_status build_pairs(dlm_tokenizer *t, dlm_error *err) {
    size_t count = power_of_two_above(t->merge_count * 2), kept = 0;
    t->pair_slots = dlm__calloc(count, sizeof *t->pair_slots);
    if (t->pair_slots == NULL) return dlm__fail_memory(err, "the merges", count * sizeof *t->pair_slots);
    t->pair_slot_count = count;
    for (size_t i = 0; i < count; i++) t->pair_slots[i].rank = DLM_NO_RANK;
    for (size_t i = 0; i < t->merge_count; i++) {
        const dlm_merge *merge = &t->merges[i];
        *find_pair(t, merge) = (dlm_pair_slot){merge->left, merge->right, (uint32_t)i};
    }
    for (size_t i = 0; i < t->merge_count; i++) {
        dlm_pair_slot *slot = find_pair(t, &t->merges[i]);
        if (slot->rank != i) continue;
        slot->rank = (uint32_t)kept;
        t->merges[kept++] = t->merges[i];
    }
    t->merge_count = kept;
    return DLM_OK;
}

static int32_t find_byte(const dlm_tokenizer *t, unsigned char byte) {
    char symbol[4];
    int32_t id = dlm__tokenizer_find(t, symbol, dlm__utf8_write(dlm__byte_character(byte), symbol));
    return id >= 0 && (size_t)id < t->model_size ? id : -1;
}

/* Over all that decides about ids: contents, merges, added tokens and how words are made; each value with its
 * length, the hash so far as seed of the next. */
static uint64_t hash_of(const dlm_tokenizer *t) {
    uint64_t hash = dlm__hash("diffusionlm vocabulary 1", 24, 0);
    for (size_t i = 0; i < t->vocab_size; i++) {
        hash = dlm__hash(t->strings + t->tokens[i].content, t->tokens[i].content_bytes, hash);
    }
    for (size_t i = 0; i < t->merge_count; i++) {
        const int32_t merge[3] = {t->merges[i].left, t->merges[i].right, t->merges[i].result};
        hash = dlm__hash(merge, sizeof merge, hash);
    }
    for (size_t i = 0; i < t->added_count; i++) {
        const dlm_added_token *added = &t->added[i];
        const int32_t values[6] = {added->id,          added->single_word, added->left_strip,
                                   added->right_strip, added->normalized,  t->tokens[added->id].special};
        hash = dlm__hash(values, sizeof values, hash);
    }
    const int32_t options[6] = {t->pre.add_prefix_space, t->pre.use_regex,      t->unk_id, t->fuse_unk,
                                t->ignore_merges,        (int32_t)t->model_size};
    return dlm__hash(options, sizeof options, hash);
}

dlm_status dlm__tokenizer_finish(dlm_tokenizer *tokenizer, dlm_error *err) {
    for (int byte = 0; byte < 256; byte++)
        tokenizer->byte_ids[byte] = find_byte(tokenizer, (unsigned char)byte);
    dlm__added_prepare(tokenizer);
    DLM_TRY(build_pairs(tokenizer, err));
    tokenizer->hash = hash_of(tokenizer);
    return DLM_OK;
}

/* ---- description -------------------------------------------------------------------------------------- */

static int32_t find_name(const dlm_tokenizer *t, const char *name) {
    return dlm__tokenizer_find(t, name, strlen(name));
}

dlm_tokenizer_info dlm_tokenizer_describe(const dlm_tokenizer *tokenizer) {
    return (dlm_tokenizer_info){
        .vocab_size = tokenizer->vocab_size,
        .merges = tokenizer->merge_count,
        .added_tokens = tokenizer->added_count,
        .pad_id = find_name(tokenizer, "[PAD]"),
        .unk_id = find_name(tokenizer, "[UNK]"),
        .mask_id = find_name(tokenizer, "[MASK]"),
        .end_id = find_name(tokenizer, "<|endoftext|>"),
        .hash = tokenizer->hash,
        .add_prefix_space = tokenizer->pre.add_prefix_space,
    };
}

const char *dlm_tokenizer_token(const dlm_tokenizer *tokenizer, int32_t id, size_t *bytes, bool *special) {
    if (id < 0 || (size_t)id >= tokenizer->vocab_size) return NULL;
    const dlm_token *token = &tokenizer->tokens[id];
    *special = token->special;
    *bytes = token->added ? token->content_bytes : token->bytes_count;
    return tokenizer->strings + (token->added ? token->content : token->bytes);
}

/* ---- decoding ----------------------------------------------------------------------------------------- */

/* The bytes of all ids in a row, *bytes of them, with room for one more. */
static dlm_status join_bytes(const dlm_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                             char **text, size_t *bytes, dlm_error *err) {
    size_t total = 1;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= t->vocab_size) {
            return dlm__fail(err, DLM_ARGUMENT,
                             "id %d at position %zu is outside the vocabulary of %zu tokens", (int)ids[i], i,
                             t->vocab_size);
        }
        if (!dlm__size_add(total, t->tokens[ids[i]].bytes_count, &total))
            return dlm__fail_memory(err, "the text", total);
    }
    *text = malloc(total);
    if (*text == NULL) return dlm__fail_memory(err, "the text", total);
    *bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const dlm_token *token = &t->tokens[ids[i]];
        if (skip_special && token->special) continue;
        memcpy(*text + *bytes, t->strings + token->bytes, token->bytes_count);
        *bytes += token->bytes_count;
    }
    return DLM_OK;
}

dlm_status dlm_tokenizer_decode(const dlm_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                bool skip_special, char **text, size_t *bytes, dlm_error *err) {
    *text = NULL;
    *bytes = 0;
    char *joined, *replaced = NULL;
    size_t count = 0, capacity = 0;
    DLM_TRY(join_bytes(tokenizer, ids, n, skip_special, &joined, &count, err));
    if (dlm__utf8_check(joined, count) == count) {
        joined[count] = '\0';
        *text = joined;
        *bytes = count;
        return DLM_OK;
    }
    bool done = dlm__utf8_append_replaced(joined, count, &replaced, bytes, &capacity);
    free(joined);
    char *ended = done ? dlm__grow(replaced, &capacity, *bytes + 1, 1) : NULL;
    if (ended == NULL) {
        free(replaced);
        *bytes = 0;
        return dlm__fail_memory(err, "the text", count);
    }
    ended[*bytes] = '\0';
    *text = ended;
    return DLM_OK;
}
