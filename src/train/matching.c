/* Draws documents of a corpus that are as long as given texts.
 *
 * How often n-grams repeat, how many of them differ and how long a copied span gets all depend on how long a
 * text is and how many there are; so texts are compared with as many documents, cut to the same lengths. The
 * longest text chooses first, among all documents that are long enough for it: in that order no choice can
 * take from a later text what it needs. */
#include "train/data.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    size_t length;
    uint64_t at; /* a text's or a document's number */
} entry;

/* The longest first; of the same length in their order. */
static int compare_entries(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? 1 : -1;
    return (x->at > y->at) - (x->at < y->at);
}

static dlm_status copy_matched(const dlm_data *data, dlm_matched *matched, dlm_error *err) {
    size_t tokens = 0;
    for (size_t i = 0; i < matched->n; i++) tokens += matched->lengths[i];
    matched->ids = dlm__calloc(tokens, sizeof *matched->ids);
    if (matched->ids == NULL) return dlm__fail_memory(err, "the documents", tokens * sizeof *matched->ids);
    int32_t *ids = matched->ids;
    for (size_t i = 0; i < matched->n; i++) {
        const dlm_window window = {.document = matched->documents[i], .n = matched->lengths[i]};
        (void)dlm__window_ids(data, &window, ids);
        ids += matched->lengths[i];
    }
    return DLM_OK;
}

/* texts and documents from the longest to the shortest; which document text i gets goes to chosen[i]. */
static void choose(const entry *texts, size_t n, entry *documents, size_t count, uint64_t seed,
                   entry *chosen) {
    dlm_rng rng = dlm__rng(seed, DLM_RNG_MATCH, 0, 0);
    /* documents[left .. enough) are those long enough for this text that no other has. */
    size_t left = 0, enough = 0;
    for (size_t i = 0; i < n; i++) {
        while (enough < count && documents[enough].length >= texts[i].length) enough++;
        /* Where none is long enough the next one is the longest that is left. */
        if (enough == left) enough++;
        const size_t taken = left + (size_t)dlm__rng_below(&rng, enough - left);
        const entry document = documents[taken];
        documents[taken] = documents[left++];
        const size_t length = document.length < texts[i].length ? document.length : texts[i].length;
        chosen[i] = (entry){.length = length, .at = document.at};
    }
}

static dlm_status match(const dlm_data *data, const size_t *lengths, size_t n, uint64_t seed,
                        dlm_matched *matched, dlm_error *err) {
    const size_t count = (size_t)dlm_data_describe(data).documents;
    entry *entries = dlm__calloc(2 * n + count, sizeof *entries);
    matched->n = n < count ? n : count;
    matched->documents = dlm__calloc(matched->n, sizeof *matched->documents);
    matched->lengths = dlm__calloc(matched->n, sizeof *matched->lengths);
    if (entries == NULL || matched->documents == NULL || matched->lengths == NULL) {
        free(entries);
        return dlm__fail_memory(err, "the documents", (2 * n + count) * sizeof *entries);
    }
    entry *texts = entries, *chosen = texts + n, *documents = chosen + n;
    for (size_t i = 0; i < n; i++) texts[i] = (entry){lengths[i], i};
    for (size_t i = 0; i < count; i++) documents[i] = (entry){dlm__data_document(data, i).n, i};
    qsort(texts, n, sizeof *texts, compare_entries);
    qsort(documents, count, sizeof *documents, compare_entries);
    choose(texts, matched->n, documents, count, seed, chosen);
    for (size_t i = 0; i < matched->n; i++) {
        matched->documents[i] = chosen[i].at;
        matched->lengths[i] = chosen[i].length;
    }
    free(entries);
    return copy_matched(data, matched, err);
}

dlm_status dlm_data_match(const dlm_data *data, const size_t *lengths, size_t n, uint64_t seed,
                          dlm_matched *matched, dlm_error *err) {
    *matched = (dlm_matched){0};
    const dlm_status status = match(data, lengths, n, seed, matched, err);
    if (status != DLM_OK) dlm_matched_free(matched);
    return status;
}

void dlm_matched_free(dlm_matched *matched) {
    free(matched->documents);
    free(matched->lengths);
    free(matched->ids);
    *matched = (dlm_matched){0};
}

size_t dlm_data_length(const dlm_data *data, uint64_t i) {
    return dlm__data_document(data, i).n;
}
