/* Statistics of texts as token ids: n-grams, frequencies, lengths, copied spans.
 *
 * n-grams are given names, numbers from 0 on, an n-gram by the name of its first n - 1 tokens and its last
 * token; so all of them, however long, are told apart exactly in one pass each through a table of pairs. */
#include "text/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NGRAM = 4 };

/* ---- names of n-grams --------------------------------------------------------------------------------- */

typedef struct name_slot {
    uint64_t pair;
    uint32_t name; /* + 1; 0: empty */
} name_slot;

typedef struct naming {
    name_slot *slots;
    size_t slot_count; /* a power of two, at least twice the tokens */
    uint32_t *names;  /* (T) of the n-gram that begins at each token; nothing where it would cross its text */
    uint64_t *counts; /* (T) by name */
    size_t *last_text; /* (T) by name: the last text with it, + 1 */
    size_t n;          /* names given */
} naming;

static void free_naming(naming *names) {
    free(names->slots);
    free(names->names);
    free(names->counts);
    free(names->last_text);
}

/* Free names in any case. */
static dlm_status create_naming(size_t tokens, naming *names, dlm_error *err) {
    *names = (naming){.slot_count = 16};
    while (names->slot_count < 2 * tokens) names->slot_count *= 2;
    names->slots = dlm__calloc(names->slot_count, sizeof *names->slots);
    names->names = dlm__calloc(tokens, sizeof *names->names);
    names->counts = dlm__calloc(tokens, sizeof *names->counts);
    names->last_text = dlm__calloc(tokens, sizeof *names->last_text);
    if (names->slots == NULL || names->names == NULL || names->counts == NULL || names->last_text == NULL)
        return dlm__fail_memory(err, "the n-grams of the texts", names->slot_count * sizeof *names->slots);
    return DLM_OK;
}

static uint32_t name_of(naming *names, uint64_t pair) {
    uint64_t hash = (pair ^ pair >> 29) * UINT64_C(0x9e3779b97f4a7c15);
    size_t at = (size_t)(hash ^ hash >> 32) & (names->slot_count - 1);
    while (names->slots[at].name != 0 && names->slots[at].pair != pair)
        at = (at + 1) & (names->slot_count - 1);
    if (names->slots[at].name == 0) names->slots[at] = (name_slot){pair, (uint32_t)++names->n};
    return names->slots[at].name - 1;
}

/* ---- figures of n-grams ------------------------------------------------------------------------------- */

typedef struct ngram_figures {
    double distinct, repeated;
} ngram_figures;

/* From the names of the (n-1)-grams those of the n-grams, with what is counted of them. */
static ngram_figures count_ngrams(const dlm_texts *texts, size_t n, naming *names) {
    memset(names->slots, 0, names->slot_count * sizeof *names->slots);
    names->n = 0;
    size_t start = 0, all = 0, with_any = 0;
    double repeated = 0;
    for (size_t i = 0; i < texts->n; start += texts->lengths[i++]) {
        if (texts->lengths[i] < n) continue;
        const size_t here = texts->lengths[i] - n + 1;
        size_t again = 0;
        for (size_t t = start; t < start + here; t++) {
            const uint64_t before = n > 1 ? names->names[t] : 0;
            const size_t given = names->n;
            const uint32_t name = name_of(names, before << 32 | (uint32_t)texts->ids[t + n - 1]);
            if (name == given) names->counts[name] = names->last_text[name] = 0;
            again += names->last_text[name] == i + 1;
            names->names[t] = name;
            names->last_text[name] = i + 1;
            names->counts[name]++;
        }
        all += here;
        with_any++;
        repeated += (double)again / (double)here;
    }
    return (ngram_figures){.distinct = all > 0 ? (double)names->n / (double)all : NAN,
                           .repeated = with_any > 0 ? repeated / (double)with_any : NAN};
}

/* - sum p ln p = ln T - (sum of c ln c) / T over the counts c */
static double entropy(const naming *names, size_t tokens) {
    double sum = 0;
    for (size_t i = 0; i < names->n; i++) sum += (double)names->counts[i] * log((double)names->counts[i]);
    return tokens > 0 ? fmax(0, log((double)tokens) - sum / (double)tokens) : NAN;
}

dlm_status dlm__texts_check(const dlm_texts *texts, size_t *tokens, dlm_error *err) {
    *tokens = 0;
    for (size_t i = 0; i < texts->n; i++) {
        if (texts->lengths[i] > DLM_TEXTS_TOKENS_MAX - *tokens)
            return dlm__fail(err, DLM_ARGUMENT, "the texts have more than %zu tokens", DLM_TEXTS_TOKENS_MAX);
        *tokens += texts->lengths[i];
    }
    for (size_t t = 0; t < *tokens; t++)
        if (texts->ids[t] < 0)
            return dlm__fail(err, DLM_ARGUMENT, "token %zu of the texts is %d, not an id", t, texts->ids[t]);
    return DLM_OK;
}

dlm_status dlm_texts_measure(const dlm_texts *texts, dlm_text_statistics *statistics, dlm_error *err) {
    size_t tokens;
    naming names;
    DLM_TRY(dlm__texts_check(texts, &tokens, err));
    *statistics = (dlm_text_statistics){.texts = texts->n, .tokens = tokens};
    dlm_status status = create_naming(tokens, &names, err);
    for (size_t n = 1; n <= LONGEST_NGRAM && status == DLM_OK; n++) {
        const ngram_figures figures = count_ngrams(texts, n, &names);
        if (n == 1) statistics->entropy = entropy(&names, tokens);
        if (n < LONGEST_NGRAM) statistics->distinct[n - 1] = figures.distinct;
        if (n > 1) statistics->repeated[n - 2] = figures.repeated;
    }
    free_naming(&names);
    return status;
}

/* ---- lengths ------------------------------------------------------------------------------------------ */

static int compare_lengths(const void *a, const void *b) {
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

dlm_status dlm_lengths_measure(const size_t *lengths, size_t n, dlm_length_statistics *statistics,
                               dlm_error *err) {
    static const size_t percents[DLM_QUANTILES] = {0, 5, 25, 50, 75, 95, 100};
    if (n == 0) return dlm__fail(err, DLM_ARGUMENT, "there are no texts to measure");
    size_t *sorted = dlm__calloc(n, sizeof *sorted);
    if (sorted == NULL) return dlm__fail_memory(err, "the lengths of the texts", n * sizeof *sorted);
    memcpy(sorted, lengths, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_lengths);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)sorted[i];
    const double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += ((double)sorted[i] - mean) * ((double)sorted[i] - mean);
    statistics->mean = mean;
    statistics->standard_deviation = n > 1 ? sqrt(squares / (double)(n - 1)) : NAN;
    for (size_t q = 0; q < DLM_QUANTILES; q++) {
        /* ceil(n percent / 100) of them, at least one, without products that do not fit */
        const size_t rank = n / 100 * percents[q] + (n % 100 * percents[q] + 99) / 100;
        statistics->quantiles[q] = sorted[rank > 0 ? rank - 1 : 0];
    }
    free(sorted);
    return DLM_OK;
}

/* ---- copied spans ------------------------------------------------------------------------------------- */

dlm_status dlm_copying_measure(const dlm_texts *texts, const uint32_t *spans, dlm_copying *copying,
                               dlm_error *err) {
    *copying = (dlm_copying){.seen = NAN};
    size_t *longest = dlm__calloc(texts->n, sizeof *longest);
    if (longest == NULL) return dlm__fail_memory(err, "the copied spans", texts->n * sizeof *longest);
    size_t start = 0, ngrams = 0, seen = 0;
    for (size_t i = 0; i < texts->n; start += texts->lengths[i++]) {
        for (size_t t = 0; t < texts->lengths[i]; t++) {
            const size_t span = spans[start + t];
            if (span > longest[i]) longest[i] = span;
            if (span > copying->n)
                *copying = (dlm_copying){.text = i, .first = t + 1 - span, .n = span, .seen = NAN};
            ngrams += t + 1 >= DLM_COPIED_NGRAM;
            seen += span >= DLM_COPIED_NGRAM;
        }
    }
    if (ngrams > 0) copying->seen = (double)seen / (double)ngrams;
    dlm_status status = dlm_lengths_measure(longest, texts->n, &copying->longest, err);
    free(longest);
    return status;
}
