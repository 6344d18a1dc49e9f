/* Training of byte-level BPE: merges and ids as the Hugging Face trainer gives them (tokenizers, BpeTrainer).
 *
 * Words are lists of symbols with counts. The pair with the highest count, of equal ones that with the
 * smallest (left id, right id), becomes a new symbol in all words that hold it, until the vocabulary is full.
 * Pairs wait in a heap, each entry with the words in which it arose; the counts of the pairs around a merge
 * change, but not their entries, so an entry whose count is out of date goes back with the right one when it
 * comes to the top.
 *
 * To arrive at the library's merges in every case, three of its ways have to be followed:
 * - A pair that arises again gets one more entry, with the new words alone. Each entry is merged in its own
 * words when its turn comes; the merge then stands twice in the list, and its last place counts
 * (dlm__tokenizer_finish sees to it).
 * - The count of a pair that was merged stays, and what arises of it later is added.
 * - A merge whose content is a token already gives that token, and the vocabulary does not grow.
 *
 * Tokens double in length where a text is one long run of a character, so there is a bound, far above what
 * words have. It is the library's max_token_length: pairs around a merge arise only where they are shorter
 * together, while the pairs of single bytes are not asked. */
#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "text/word_count.h"

#include <stdlib.h>
#include <string.h>

static const char *const special_tokens[] = {"[PAD]", "[UNK]", "[MASK]", "<|endoftext|>"};
#define SPECIAL_TOKENS      (sizeof special_tokens / sizeof *special_tokens)
#define SMALLEST_VOCABULARY (SPECIAL_TOKENS + 256)
#define TOKEN_LENGTH_MAX    ((size_t)1 << 16)

typedef struct word {
    size_t first; /* of its symbols */
    size_t n;     /* symbols it has now */
    int64_t count;
} word;

typedef struct pair {
    int32_t left, right;
    int64_t count;
    uint32_t *words; /* (n) in which it arose since its last entry in the heap, ascending */
    size_t n, capacity;
} pair;

/* A pair in the heap. */
typedef struct entry {
    int64_t count; /* when it was put there */
    size_t pair;
    uint32_t *words; /* (n) */
    size_t n;
} entry;

typedef struct trainer {
    dlm_tokenizer *tokenizer;
    const dlm_bpe_options *options;
    size_t max_length;
    word *words; /* (word_count) */
    size_t word_count;
    int32_t *symbols;
    pair *pairs; /* all that were ever seen */
    size_t pair_count, pairs_capacity;
    size_t *slots; /* left, right -> index in pairs + 1; 0: empty */
    size_t slot_count;
    size_t *grown; /* (grown_count) pairs with words that are not in the heap yet */
    size_t grown_count, grown_capacity;
    entry *heap; /* the next pair at 0 */
    size_t heap_count, heap_capacity;
    size_t *lengths; /* (vocab_size) of the tokens, in symbols */
    size_t lengths_capacity;
    char *content; /* of the newest token */
    size_t content_capacity;
    bool no_memory;
} trainer;

dlm_bpe_options dlm_bpe_defaults(void) {
    return (dlm_bpe_options){.vocab_size = 8192, .max_token_length = TOKEN_LENGTH_MAX};
}

/* ---- pairs -------------------------------------------------------------------------------------------- */

static bool grow_slots(trainer *t) {
    size_t count = t->slot_count == 0 ? 4096 : t->slot_count * 2;
    size_t *slots = dlm__calloc(count, sizeof *slots);
    if (slots == NULL) return false;
    for (size_t i = 0; i < t->pair_count; i++) {
        size_t at = dlm__pair_hash(t->pairs[i].left, t->pairs[i].right) & (count - 1);
        while (slots[at] != 0) at = (at + 1) & (count - 1);
        slots[at] = i + 1;
    }
    free(t->slots);
    t->slots = slots;
    t->slot_count = count;
    return true;
}

/* The index of a pair, new or not; SIZE_MAX without memory. */
static size_t find_pair(trainer *t, int32_t left, int32_t right) {
    if (t->pair_count >= t->slot_count / 2 && !grow_slots(t)) return SIZE_MAX;
    size_t mask = t->slot_count - 1, at = dlm__pair_hash(left, right) & mask;
    for (; t->slots[at] != 0; at = (at + 1) & mask) {
        const pair *other = &t->pairs[t->slots[at] - 1];
        if (other->left == left && other->right == right) return t->slots[at] - 1;
    }
    pair *pairs = dlm__grow(t->pairs, &t->pairs_capacity, t->pair_count + 1, sizeof *pairs);
    if (pairs == NULL) return SIZE_MAX;
    t->pairs = pairs;
    pairs[t->pair_count] = (pair){.left = left, .right = right};
    t->slots[at] = ++t->pair_count;
    return t->pair_count - 1;
}

/* The pair arose in a word. Words come in ascending order between two heap entries of a pair. */
static bool add_place(trainer *t, size_t index, uint32_t at) {
    pair *p = &t->pairs[index];
    if (p->n > 0 && p->words[p->n - 1] == at) return true;
    if (p->n == 0) {
        size_t *grown = dlm__grow(t->grown, &t->grown_capacity, t->grown_count + 1, sizeof *grown);
        if (grown == NULL) return false;
        t->grown = grown;
        grown[t->grown_count++] = index;
    }
    uint32_t *words = dlm__grow(p->words, &p->capacity, p->n + 1, sizeof *words);
    if (words == NULL) return false;
    p->words = words;
    words[p->n++] = at;
    return true;
}

/* A pair arises (sign 1) or vanishes (sign -1) in a word. */
static void change_pair(trainer *t, int32_t left, int32_t right, int64_t sign, uint32_t at) {
    size_t index = find_pair(t, left, right);
    if (index == SIZE_MAX || (sign > 0 && !add_place(t, index, at))) {
        t->no_memory = true;
    } else {
        t->pairs[index].count += sign * t->words[at].count;
    }
}

/* A pair arises beside a merge, unless it would make too long a token. */
static void add_pair(trainer *t, int32_t left, int32_t right, uint32_t at) {
    if (t->lengths[left] + t->lengths[right] < t->max_length) change_pair(t, left, right, 1, at);
}

/* ---- heap --------------------------------------------------------------------------------------------- */

static bool comes_first(const trainer *t, const entry *a, const entry *b) {
    if (a->count != b->count) return a->count > b->count;
    const pair *p = &t->pairs[a->pair], *q = &t->pairs[b->pair];
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static bool heap_push(trainer *t, entry new) {
    entry *heap = dlm__grow(t->heap, &t->heap_capacity, t->heap_count + 1, sizeof *heap);
    if (heap == NULL) return false;
    t->heap = heap;
    size_t at = t->heap_count++;
    for (size_t parent; at > 0 && comes_first(t, &new, &heap[parent = (at - 1) / 2]); at = parent)
        heap[at] = heap[parent];
    heap[at] = new;
    return true;
}

/* Puts an entry in its place below the top, which is free. */
static void heap_sink(trainer *t, entry moved) {
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->heap_count; at = child) {
        if (child + 1 < t->heap_count && comes_first(t, &t->heap[child + 1], &t->heap[child])) child++;
        if (!comes_first(t, &t->heap[child], &moved)) break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = moved;
}

/* Takes the next entry whose count is right; false when there is none. */
static bool heap_pop(trainer *t, entry *top) {
    while (t->heap_count > 0) {
        *top = t->heap[0];
        int64_t count = t->pairs[top->pair].count;
        if (top->count == count) {
            entry last = t->heap[--t->heap_count];
            if (t->heap_count > 0) heap_sink(t, last);
            return true;
        }
        top->count = count;
        heap_sink(t, *top);
    }
    return false;
}

/* Hands the words of pairs that arose over to new entries of the heap. */
static void enter_grown(trainer *t) {
    for (size_t i = 0; i < t->grown_count; i++) {
        pair *p = &t->pairs[t->grown[i]];
        if (p->count > 0 && !t->no_memory) {
            if (heap_push(t, (entry){p->count, t->grown[i], p->words, p->n})) {
                p->words = NULL;
            } else {
                t->no_memory = true;
            }
        }
        free(p->words);
        p->words = NULL;
        p->n = p->capacity = 0;
    }
    t->grown_count = 0;
}

/* ---- merging ------------------------------------------------------------------------------------------ */

/* Replaces each (left, right) in a word by result, from left to right. */
static void merge_in_word(trainer *t, uint32_t at, dlm_merge merge) {
    int32_t *symbols = t->symbols + t->words[at].first;
    size_t n = t->words[at].n, kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (i + 1 == n || symbols[i] != merge.left || symbols[i + 1] != merge.right) {
            symbols[kept++] = symbols[i];
            continue;
        }
        if (kept > 0) {
            change_pair(t, symbols[kept - 1], merge.left, -1, at);
            add_pair(t, symbols[kept - 1], merge.result, at);
        }
        if (i + 2 < n) {
            change_pair(t, merge.right, symbols[i + 2], -1, at);
            add_pair(t, merge.result, symbols[i + 2], at);
        }
        symbols[kept++] = merge.result;
        i++;
    }
    t->words[at].n = kept;
}

/* The next token. */
static dlm_status add_token(trainer *t, const char *content, size_t bytes, size_t length, dlm_error *err) {
    size_t id = t->tokenizer->vocab_size;
    size_t *lengths = dlm__grow(t->lengths, &t->lengths_capacity, id + 1, sizeof *lengths);
    if (lengths == NULL) return dlm__fail_memory(err, "the vocabulary", (id + 1) * sizeof *lengths);
    t->lengths = lengths;
    lengths[id] = length;
    return dlm__tokenizer_add(t->tokenizer, content, bytes, err);
}

/* The token of two tokens' contents joined, which is added when it is new. */
static dlm_status join(trainer *t, dlm_merge *merge, dlm_error *err) {
    size_t left, right, total;
    dlm__tokenizer_content(t->tokenizer, merge->left, &left);
    dlm__tokenizer_content(t->tokenizer, merge->right, &right);
    char *content =
        dlm__size_add(left, right, &total) ? dlm__grow(t->content, &t->content_capacity, total, 1) : NULL;
    if (content == NULL) return dlm__fail_memory(err, "a token", left);
    t->content = content;
    memcpy(content, dlm__tokenizer_content(t->tokenizer, merge->left, &left), left);
    memcpy(content + left, dlm__tokenizer_content(t->tokenizer, merge->right, &right), right);
    merge->result = dlm__tokenizer_find(t->tokenizer, content, total);
    if (merge->result >= 0) return DLM_OK;
    merge->result = (int32_t)t->tokenizer->vocab_size;
    return add_token(t, content, total, t->lengths[merge->left] + t->lengths[merge->right], err);
}

static dlm_status merge_all(trainer *t, dlm_meter *meter, dlm_error *err) {
    entry top;
    enter_grown(t);
    while (t->tokenizer->vocab_size < t->options->vocab_size && !t->no_memory && heap_pop(t, &top)) {
        if (top.count < 1 || (uint64_t)top.count < t->options->min_frequency) {
            free(top.words);
            break;
        }
        dlm_merge merge = {t->pairs[top.pair].left, t->pairs[top.pair].right, 0};
        dlm_status status = join(t, &merge, err);
        if (status == DLM_OK) status = dlm__tokenizer_merge(t->tokenizer, merge, err);
        for (size_t i = 0; i < top.n && status == DLM_OK; i++) merge_in_word(t, top.words[i], merge);
        free(top.words);
        DLM_TRY(status);
        enter_grown(t);
        DLM_TRY(dlm__meter_report(meter, "merging", t->tokenizer->vocab_size, t->options->vocab_size, err));
    }
    return t->no_memory ? dlm__fail_memory(err, "the pairs", t->pair_count * sizeof *t->pairs) : DLM_OK;
}

/* ---- from words to a tokenizer ------------------------------------------------------------------------ */

/* Special tokens, then the symbols of all bytes in the order of their characters. */
static dlm_status add_alphabet(trainer *t, dlm_error *err) {
    for (size_t i = 0; i < SPECIAL_TOKENS; i++) {
        size_t n = strlen(special_tokens[i]);
        DLM_TRY(add_token(t, special_tokens[i], n, n, err));
    }
    for (uint32_t c = 0; c < 0x200; c++) {
        char symbol[4];
        if (dlm__character_byte(c) < 0) continue;
        int32_t id = (int32_t)t->tokenizer->vocab_size;
        DLM_TRY(add_token(t, symbol, dlm__utf8_write(c, symbol), 1, err));
        t->tokenizer->byte_ids[dlm__character_byte(c)] = id;
    }
    return DLM_OK;
}

static dlm_status spread_words(trainer *t, const dlm_word_counts *counts, dlm_error *err) {
    size_t words = 0, bytes = 0;
    for (size_t i = 0; i < counts->n; i++) {
        words += counts->tables[i].n;
        bytes += counts->tables[i].text_used;
    }
    if (words > UINT32_MAX) {
        return dlm__fail(err, DLM_UNSUPPORTED, "%zu distinct words are too many: the most is %u", words,
                         UINT32_MAX);
    }
    t->words = dlm__calloc(words, sizeof *t->words);
    t->symbols = dlm__calloc(bytes, sizeof *t->symbols);
    if (t->words == NULL || t->symbols == NULL)
        return dlm__fail_memory(err, "the words", bytes * sizeof *t->symbols);
    size_t used = 0;
    for (size_t i = 0; i < counts->n; i++) {
        const dlm_word_table *table = &counts->tables[i];
        for (size_t k = 0; k < table->n; k++) {
            const dlm_word *counted = &table->words[k];
            t->words[t->word_count++] = (word){used, counted->bytes, (int64_t)counted->count};
            const unsigned char *text = (const unsigned char *)table->text + counted->at;
            for (size_t byte = 0; byte < counted->bytes; byte++)
                t->symbols[used++] = t->tokenizer->byte_ids[text[byte]];
        }
    }
    return DLM_OK;
}

static void count_pairs(trainer *t) {
    for (size_t at = 0; at < t->word_count; at++) {
        const int32_t *symbols = t->symbols + t->words[at].first;
        for (size_t i = 0; i + 1 < t->words[at].n; i++)
            change_pair(t, symbols[i], symbols[i + 1], 1, (uint32_t)at);
    }
}

static dlm_status finish(dlm_tokenizer *tokenizer, dlm_error *err) {
    tokenizer->model_size = tokenizer->vocab_size;
    for (size_t i = 0; i < SPECIAL_TOKENS; i++) {
        DLM_TRY(dlm__tokenizer_mark_added(tokenizer, &(dlm_added_token){.id = (int32_t)i}, true, err));
    }
    tokenizer->unk_id = 1;
    tokenizer->unk_token = dlm__copy_bytes(special_tokens[1], strlen(special_tokens[1]));
    if (tokenizer->unk_token == NULL) return dlm__fail_memory(err, "unk_token", strlen(special_tokens[1]));
    tokenizer->pre = tokenizer->decoder = (dlm_byte_level){true, true, true};
    return dlm__tokenizer_finish(tokenizer, err);
}

static void free_trainer(trainer *t) {
    for (size_t i = 0; i < t->pair_count; i++) free(t->pairs[i].words);
    for (size_t i = 0; i < t->heap_count; i++) free(t->heap[i].words);
    free(t->words);
    free(t->symbols);
    free(t->pairs);
    free(t->slots);
    free(t->grown);
    free(t->heap);
    free(t->lengths);
    free(t->content);
}

static bool any_word(const dlm_word_counts *counts) {
    size_t words = 0;
    for (size_t i = 0; i < counts->n; i++) words += counts->tables[i].n;
    return words > 0;
}

static dlm_status train(trainer *t, dlm_word_counts *counts, dlm_meter *meter, dlm_error *err) {
    DLM_TRY(add_alphabet(t, err));
    DLM_TRY(spread_words(t, counts, err));
    dlm__words_free(counts);
    count_pairs(t);
    DLM_TRY(merge_all(t, meter, err));
    return finish(t->tokenizer, err);
}

dlm_status dlm__bpe_train(dlm_word_counts *counts, const dlm_bpe_options *options, dlm_meter *meter,
                          dlm_tokenizer **tokenizer, dlm_error *err) {
    *tokenizer = NULL;
    if (!any_word(counts))
        return dlm__fail(err, DLM_FORMAT, "the text is empty: there is nothing to learn a vocabulary from");
    size_t most = options->max_token_length;
    trainer t = {.options = options, .max_length = most == 0 ? TOKEN_LENGTH_MAX : most};
    dlm_status status = dlm__tokenizer_create(&t.tokenizer, err);
    if (status == DLM_OK) status = train(&t, counts, meter, err);
    free_trainer(&t);
    if (status == DLM_OK)
        *tokenizer = t.tokenizer;
    else
        dlm_tokenizer_free(t.tokenizer);
    return status;
}

dlm_status dlm_tokenizer_train(dlm_documents *documents, const dlm_bpe_options *options,
                               dlm_tokenizer **tokenizer, dlm_error *err) {
    *tokenizer = NULL;
    if (options->vocab_size < SMALLEST_VOCABULARY || options->vocab_size > INT32_MAX) {
        return dlm__fail(err, DLM_ARGUMENT, "a vocabulary of %zu tokens: from %zu to %d are possible",
                         options->vocab_size, SMALLEST_VOCABULARY, INT32_MAX);
    }
    dlm_meter meter = dlm__meter(options->progress, options->user);
    dlm_word_counts counts = {0};
    dlm_status status = dlm__words_count(documents, &meter, &counts, err);
    if (status == DLM_OK) status = dlm__bpe_train(&counts, options, &meter, tokenizer, err);
    dlm__words_free(&counts);
    return status;
}
