/* The suffix automaton against plain search: random texts of few letters, so that they share much. */
#include "check.h"

#include "text/suffixes.h"

#include <stdlib.h>
#include <string.h>

enum { TEXTS = 6, LONGEST = 24 };

typedef struct pile {
    size_t n;
    size_t lengths[TEXTS];
    int32_t ids[TEXTS][LONGEST];
} pile;

static void draw(dlm_rng *rng, uint64_t letters, size_t longest, pile *p) {
    *p = (pile){.n = 1 + (size_t)dlm__rng_below(rng, TEXTS)};
    for (size_t i = 0; i < p->n; i++) {
        p->lengths[i] = (size_t)dlm__rng_below(rng, longest + 1);
        for (size_t t = 0; t < p->lengths[i]; t++) p->ids[i][t] = (int32_t)dlm__rng_below(rng, letters);
    }
}

static bool holds(const pile *p, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < p->n; i++)
        for (size_t t = 0; t + n <= p->lengths[i]; t++)
            if (memcmp(p->ids[i] + t, ids, n * sizeof *ids) == 0) return true;
    return false;
}

/* Tokens up to position t of the text that are in the pile. */
static size_t longest_span(const pile *p, const int32_t *ids, size_t t) {
    size_t n = t + 1;
    while (n > 0 && !holds(p, ids + t + 1 - n, n)) n--;
    return n;
}

static bool spans_are_right(const pile *texts, const pile *corpus) {
    dlm_suffixes suffixes;
    dlm_error err;
    bool held = CHECK_OK(dlm__suffixes_create(&suffixes, &err), &err);
    for (size_t i = 0; i < texts->n && held; i++)
        held = CHECK_OK(dlm__suffixes_add(&suffixes, texts->ids[i], texts->lengths[i], &err), &err);
    dlm_suffix_document documents[TEXTS];
    for (size_t i = 0; i < corpus->n; i++)
        documents[i] = (dlm_suffix_document){corpus->ids[i], sizeof **corpus->ids, corpus->lengths[i]};
    if (held) dlm__suffixes_prepare(&suffixes);
    if (held) dlm__suffixes_read(&suffixes, documents, corpus->n);
    held = held && CHECK_OK(dlm__suffixes_settle(&suffixes, &err), &err);
    for (size_t i = 0; i < texts->n && held; i++) {
        uint32_t spans[LONGEST];
        dlm__suffixes_spans(&suffixes, texts->ids[i], texts->lengths[i], spans);
        for (size_t t = 0; t < texts->lengths[i] && held; t++)
            held = CHECK_INT_EQ(spans[t], longest_span(corpus, texts->ids[i], t));
    }
    dlm__suffixes_free(&suffixes);
    return held;
}

TEST(spans_of_random_texts) {
    for (uint32_t i = 0; i < 20000; i++) {
        dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, i, 0);
        const uint64_t letters = 1 + dlm__rng_below(&rng, 4);
        const size_t longest = 1 + (size_t)dlm__rng_below(&rng, LONGEST);
        pile texts, corpus;
        draw(&rng, letters, longest, &texts);
        draw(&rng, letters + dlm__rng_below(&rng, 2), longest, &corpus);
        check_context("case %u", i);
        REQUIRE(spans_are_right(&texts, &corpus));
    }
}

/* Long texts, for the tables to grow, and copied ones whose spans are known. */
TEST(long_texts) {
    enum { TOKENS = 40000, LETTERS = 50, PARTS = 40, PART = 100, SPACING = 250 };
    dlm_rng rng = dlm__rng(2, DLM_RNG_TEST, 0, 0);
    dlm_suffixes suffixes;
    dlm_error err;
    int32_t *ids = dlm__calloc(TOKENS, sizeof *ids);
    uint32_t *spans = dlm__calloc(TOKENS, sizeof *spans);
    for (size_t t = 0; t < TOKENS; t++) ids[t] = (int32_t)dlm__rng_below(&rng, LETTERS);
    REQUIRE_OK(dlm__suffixes_create(&suffixes, &err), &err);
    for (size_t t = 0; t < TOKENS; t += TOKENS / 4)
        REQUIRE_OK(dlm__suffixes_add(&suffixes, ids + t, TOKENS / 4, &err), &err);
    CHECK(suffixes.n <= (size_t)2 * TOKENS);
    CHECK(suffixes.edges <= (size_t)3 * TOKENS);
    /* More documents than are read at once, of 2 bytes a token: each a part of the first text, between two
     * tokens that no text has. */
    static uint16_t parts[PARTS][PART + 2];
    dlm_suffix_document documents[PARTS];
    for (size_t i = 0; i < PARTS; i++) {
        for (size_t t = 0; t < PART; t++) parts[i][1 + t] = (uint16_t)ids[i * SPACING + t];
        parts[i][0] = parts[i][1 + PART] = LETTERS + 5000;
        documents[i] = (dlm_suffix_document){parts[i], 2, i % 2 > 0 ? PART + 2 : PART + 1};
    }
    dlm__suffixes_prepare(&suffixes);
    dlm__suffixes_read(&suffixes, documents, PARTS);
    REQUIRE_OK(dlm__suffixes_settle(&suffixes, &err), &err);
    dlm__suffixes_spans(&suffixes, ids, TOKENS / 4, spans);
    for (size_t i = 0; i < PARTS; i++) {
        for (size_t t = 0; t < PART; t++)
            if (!CHECK(spans[i * SPACING + t] >= t + 1 && spans[i * SPACING + t] <= t + 6)) break;
        /* Elsewhere no more than chance gives among so many letters. */
        for (size_t t = PART + 6; t < SPACING; t++)
            if (!CHECK(spans[i * SPACING + t] <= 6)) break;
    }
    dlm__suffixes_free(&suffixes);
    free(ids);
    free(spans);
}
