/* Encoding: text -> segments between added tokens -> words -> ids.
 *
 * Most words of a text were seen before, so the ids of short words are kept in a cache, a table with one
 * place for each hash, where the newest word displaces another: no lists, no counting, and its memory is
 * fixed. A word that is not there is merged from its bytes: short ones by looking for the lowest rank among
 * all neighbours each time, long ones with a heap, where a word of n bytes costs O(n log n). Both take the
 * lowest rank first, and of equal ones the leftmost. */
#include "text/tokenizer.h"
#include "text/byte_level.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define KEY_WORDS       3 /* 64-bit words of a cached word: up to 24 bytes */
#define KEY_BYTES       ((size_t)(KEY_WORDS * 8))
#define CACHED_IDS      9
#define CACHE_SMALLEST  ((size_t)64)
#define CACHE_LARGEST   ((size_t)16384)
#define BYTES_PER_ENTRY 8 /* of the text expected: a new word for every few bytes at the beginning */
#define SHORT_WORD      ((size_t)48) /* symbols up to which looking through all of them beats the heap */

typedef struct cache_entry { /* a cache line */
    uint64_t key[KEY_WORDS]; /* the word's bytes, zeros behind them */
    int32_t ids[CACHED_IDS];
    uint8_t bytes; /* of the word; 0: empty */
    uint8_t n;
} cache_entry;

/* A symbol of a long word, in a list by position; one that was merged into its left neighbour has id GONE. */
typedef struct symbol {
    int32_t id;
    uint32_t previous, next;
} symbol;
#define GONE    (-1)
#define NOWHERE UINT32_MAX

struct dlm_encoder {
    const dlm_tokenizer *tokenizer;
    bool continues; /* texts go on behind others */
    cache_entry *cache;
    size_t cache_size; /* a power of two */
    char *segment; /* the text between two added tokens, a space before it where one is due, KEY_BYTES zeros
                      behind it */
    size_t segment_capacity;
    int32_t *work; /* the symbols of one word */
    size_t work_capacity;
    symbol *symbols;
    size_t symbols_capacity;
    uint64_t *heap; /* rank << 32 | position, the smallest first */
    size_t heap_size, heap_capacity;
    char *characters; /* a word as tokenizer.json would write it */
    size_t characters_capacity;
};

dlm_encoder *dlm__encoder_create(const dlm_tokenizer *tokenizer, size_t bytes) {
    dlm_encoder *encoder = dlm__calloc(1, sizeof *encoder);
    if (encoder == NULL) return NULL;
    encoder->tokenizer = tokenizer;
    encoder->cache_size = CACHE_SMALLEST;
    while (encoder->cache_size < CACHE_LARGEST && encoder->cache_size < bytes / BYTES_PER_ENTRY)
        encoder->cache_size *= 2;
    encoder->cache = dlm__calloc(encoder->cache_size, sizeof *encoder->cache);
    if (encoder->cache == NULL) {
        free(encoder);
        return NULL;
    }
    return encoder;
}

void dlm__encoder_continue(dlm_encoder *encoder, bool continues) {
    encoder->continues = continues;
}

void dlm__encoder_free(dlm_encoder *encoder) {
    if (encoder == NULL) return;
    free(encoder->cache);
    free(encoder->segment);
    free(encoder->work);
    free(encoder->symbols);
    free(encoder->heap);
    free(encoder->characters);
    free(encoder);
}

/* Room for n more ids. */
static bool reserve(dlm_ids *ids, size_t n) {
    if (ids->capacity - ids->n >= n) return true;
    size_t need;
    int32_t *grown =
        dlm__size_add(ids->n, n, &need) ? dlm__grow(ids->ids, &ids->capacity, need, sizeof *grown) : NULL;
    if (grown == NULL) return false;
    ids->ids = grown;
    return true;
}

/* ---- merging one word --------------------------------------------------------------------------------- */

/* The symbols of a word's bytes into work (room for n); returns how many. */
static size_t start_symbols(const dlm_tokenizer *t, const char *word, size_t n, int32_t *work) {
    size_t count = 0;
    bool unknown_before = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_ids[(unsigned char)word[i]];
        bool unknown = id < 0;
        if (unknown) id = t->unk_id;
        if (id >= 0 && !(unknown && unknown_before && t->fuse_unk)) work[count++] = id;
        unknown_before = unknown;
    }
    return count;
}

/* Merges n <= SHORT_WORD symbols in place; returns how many are left. */
static size_t merge_short(const dlm_tokenizer *t, int32_t *ids, size_t n) {
    uint32_t ranks[SHORT_WORD];
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = dlm__pair_rank(t, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best]) best = i;
        }
        if (ranks[best] == DLM_NO_RANK) break;
        ids[best] = t->merges[ranks[best]].result;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) {
            memmove(ranks + best + 1, ranks + best + 2, (n - best - 2) * sizeof *ranks);
            ranks[best] = dlm__pair_rank(t, ids[best], ids[best + 1]);
        }
        if (best > 0) ranks[best - 1] = dlm__pair_rank(t, ids[best - 1], ids[best]);
    }
    return n;
}

static void heap_push(dlm_encoder *e, uint64_t value) {
    size_t at = e->heap_size++;
    for (size_t parent; at > 0 && e->heap[parent = (at - 1) / 2] > value; at = parent)
        e->heap[at] = e->heap[parent];
    e->heap[at] = value;
}

static uint64_t heap_pop(dlm_encoder *e) {
    uint64_t top = e->heap[0], value = e->heap[--e->heap_size];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < e->heap_size; at = child) {
        if (child + 1 < e->heap_size && e->heap[child + 1] < e->heap[child]) child++;
        if (e->heap[child] >= value) break;
        e->heap[at] = e->heap[child];
    }
    e->heap[at] = value;
    return top;
}

static uint32_t rank_at(const dlm_encoder *e, uint32_t at) {
    const symbol *s = &e->symbols[at];
    if (s->id == GONE || s->next == NOWHERE) return DLM_NO_RANK;
    return dlm__pair_rank(e->tokenizer, s->id, e->symbols[s->next].id);
}

static void push_pair(dlm_encoder *e, uint32_t at) {
    uint32_t rank = rank_at(e, at);
    if (rank != DLM_NO_RANK) heap_push(e, (uint64_t)rank << 32 | at);
}

/* Room for the list of n symbols and the heap: each of at most n - 1 merges takes one pair out and puts two
 * in. */
static bool reserve_list(dlm_encoder *e, size_t n) {
    symbol *symbols = dlm__grow(e->symbols, &e->symbols_capacity, n, sizeof *symbols);
    if (symbols == NULL) return false;
    e->symbols = symbols;
    size_t places;
    uint64_t *heap =
        dlm__size_mul(n, 2, &places) ? dlm__grow(e->heap, &e->heap_capacity, places, sizeof *heap) : NULL;
    if (heap == NULL) return false;
    e->heap = heap;
    return true;
}

/* Merges n < 2^32 - 1 symbols of any number in place; returns how many are left. reserve_list was called. */
static size_t merge_long(dlm_encoder *e, int32_t *ids, size_t n) {
    for (uint32_t i = 0; i < n; i++)
        e->symbols[i] = (symbol){ids[i], i == 0 ? NOWHERE : i - 1, i + 1 == n ? NOWHERE : i + 1};
    e->heap_size = 0;
    for (uint32_t i = 0; i + 1 < n; i++) push_pair(e, i);
    while (e->heap_size > 0) {
        uint64_t top = heap_pop(e);
        uint32_t at = (uint32_t)top, rank = (uint32_t)(top >> 32);
        if (rank_at(e, at) != rank) continue; /* a neighbour was merged since */
        symbol *left = &e->symbols[at], *right = &e->symbols[left->next];
        left->id = e->tokenizer->merges[rank].result;
        left->next = right->next;
        right->id = GONE;
        if (left->next != NOWHERE) e->symbols[left->next].previous = at;
        push_pair(e, at);
        if (left->previous != NOWHERE) push_pair(e, left->previous);
    }
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (e->symbols[i].id != GONE) ids[count++] = e->symbols[i].id;
    }
    return count;
}

/* The id of a word that is a token of the model, or -1. */
static int32_t whole_word(dlm_encoder *e, const char *word, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += dlm__utf8_write(dlm__byte_character((unsigned char)word[i]), e->characters + count);
    }
    int32_t id = dlm__tokenizer_find(e->tokenizer, e->characters, count);
    return id >= 0 && (size_t)id < e->tokenizer->model_size ? id : -1;
}

/* The ids of a word that is not in the cache, *count of them in e->work; false without memory. */
static bool merge_word(dlm_encoder *e, const char *word, size_t n, size_t *count) {
    const dlm_tokenizer *t = e->tokenizer;
    int32_t *work = dlm__grow(e->work, &e->work_capacity, n, sizeof *work);
    if (work == NULL) return false;
    e->work = work;
    if (t->ignore_merges) {
        size_t places; /* a character has at most two bytes */
        char *characters = dlm__size_mul(n, 2, &places)
                               ? dlm__grow(e->characters, &e->characters_capacity, places, 1)
                               : NULL;
        if (characters == NULL) return false;
        e->characters = characters;
        work[0] = whole_word(e, word, n);
        *count = 1;
        if (work[0] >= 0) return true;
    }
    *count = start_symbols(t, word, n, work);
    if (*count <= SHORT_WORD) {
        *count = merge_short(t, work, *count);
    } else {
        if (!reserve_list(e, *count)) return false;
        *count = merge_long(e, work, *count);
    }
    return true;
}

/* ---- words and their cache ---------------------------------------------------------------------------- */

static inline uint64_t load(const char *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* The word's bytes as a key, zeros behind them. KEY_BYTES from `word` on can be read. */
static inline void make_key(const char *word, size_t n, uint64_t key[KEY_WORDS]) {
    static const unsigned char kept[2 * KEY_BYTES] = {255, 255, 255, 255, 255, 255, 255, 255,
                                                      255, 255, 255, 255, 255, 255, 255, 255,
                                                      255, 255, 255, 255, 255, 255, 255, 255};
    const char *mask = (const char *)kept + KEY_BYTES - n;
    for (size_t i = 0; i < KEY_WORDS; i++) key[i] = load(word + 8 * i) & load(mask + 8 * i);
}

static inline size_t hash_key(const uint64_t key[KEY_WORDS]) {
    uint64_t hash = key[0] * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ hash >> 32 ^ key[1]) * UINT64_C(0xc2b2ae3d27d4eb4f);
    hash = (hash ^ hash >> 32 ^ key[2]) * UINT64_C(0x165667b19e3779f9);
    return (size_t)(hash ^ hash >> 32);
}

static bool append_word(dlm_encoder *e, const char *word, size_t n, dlm_ids *ids) {
    cache_entry *entry = NULL;
    uint64_t key[KEY_WORDS];
    if (n <= KEY_BYTES) {
        make_key(word, n, key);
        entry = &e->cache[hash_key(key) & (e->cache_size - 1)];
        if (entry->bytes == n && memcmp(entry->key, key, sizeof key) == 0) {
            if (!reserve(ids, CACHED_IDS)) return false;
            memcpy(ids->ids + ids->n, entry->ids, sizeof entry->ids); /* a fixed size is the fastest copy */
            ids->n += entry->n;
            return true;
        }
    }
    size_t count;
    if (!merge_word(e, word, n, &count) || !reserve(ids, count)) return false;
    if (count > 0) memcpy(ids->ids + ids->n, e->work, count * sizeof *e->work);
    ids->n += count;
    if (entry != NULL && count <= CACHED_IDS) {
        memcpy(entry->key, key, sizeof key);
        memcpy(entry->ids, e->work, count * sizeof *e->work);
        entry->bytes = (uint8_t)n;
        entry->n = (uint8_t)count;
    }
    return true;
}

/* Appends the ids of text (n > 0) without added tokens. */
static bool append_segment(dlm_encoder *e, const char *text, size_t n, dlm_ids *ids) {
    const dlm_tokenizer *t = e->tokenizer;
    size_t prefix = !e->continues && t->pre.add_prefix_space && text[0] != ' ', need;
    char *segment = dlm__size_add(n, prefix + KEY_BYTES, &need)
                        ? dlm__grow(e->segment, &e->segment_capacity, need, 1)
                        : NULL;
    if (segment == NULL) return false;
    e->segment = segment;
    if (prefix > 0) segment[0] = ' ';
    memcpy(segment + prefix, text, n);
    memset(segment + prefix + n, 0, KEY_BYTES);
    n += prefix;
    if (!t->pre.use_regex) return append_word(e, segment, n, ids);
    for (size_t at = 0, end; at < n; at = end) {
        end = dlm__word_end(segment, n, at);
        if (!append_word(e, segment + at, end - at, ids)) return false;
    }
    return true;
}

/* ---- added tokens ------------------------------------------------------------------------------------- */

/* Appends the ids of a text, cutting out first the added tokens that are not normalized, then, in what is
 * left between them, those that are. */
static bool append_text(dlm_encoder *e, const char *text, size_t n, bool normalized, dlm_ids *ids) {
    dlm_added_match match = {0};
    size_t taken = 0;
    for (;;) {
        bool found = dlm__added_next(e->tokenizer, normalized, text, n, taken, match.resume, &match);
        size_t until = found ? match.start : n;
        if (taken < until) {
            bool done = normalized ? append_segment(e, text + taken, until - taken, ids)
                                   : append_text(e, text + taken, until - taken, true, ids);
            if (!done) return false;
        }
        if (!found) break;
        /* Nothing is left of a token all of whose white space the one before it took. */
        if (match.start >= match.stop) continue;
        if (!reserve(ids, 1)) return false;
        ids->ids[ids->n++] = match.id;
        taken = match.stop;
    }
    return true;
}

dlm_status dlm__encoder_encode(dlm_encoder *encoder, const char *text, size_t bytes, bool added_tokens,
                               dlm_ids *ids, dlm_error *err) {
    size_t valid = dlm__utf8_check(text, bytes);
    if (valid < bytes) return dlm__fail(err, DLM_FORMAT, "the text is not UTF-8 at byte %zu", valid);
    if (bytes >= UINT32_MAX) {
        return dlm__fail(err, DLM_UNSUPPORTED, "a text of %zu bytes is too long: the most is %u", bytes,
                         UINT32_MAX - 1);
    }
    if (bytes == 0) return DLM_OK;
    bool done = added_tokens ? append_text(encoder, text, bytes, false, ids)
                             : append_segment(encoder, text, bytes, ids);
    return done ? DLM_OK : dlm__fail_memory(err, "the ids of a text", bytes);
}

dlm_status dlm_tokenizer_encode(const dlm_tokenizer *tokenizer, const char *text, size_t bytes,
                                bool added_tokens, int32_t **ids, size_t *n, dlm_error *err) {
    *ids = NULL;
    *n = 0;
    dlm_ids all = {0};
    dlm_encoder *encoder = dlm__encoder_create(tokenizer, bytes);
    bool there = encoder != NULL && reserve(&all, 1); /* not NULL for a text without ids either */
    dlm_status status = there ? dlm__encoder_encode(encoder, text, bytes, added_tokens, &all, err)
                              : dlm__fail_memory(err, "the encoder", sizeof *encoder);
    dlm__encoder_free(encoder);
    if (status != DLM_OK) {
        free(all.ids);
        return status;
    }
    *ids = all.ids;
    *n = all.n;
    return DLM_OK;
}
