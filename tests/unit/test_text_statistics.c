/* Statistics of texts against figures counted by hand, and against plain counting on random texts. */
#include "check.h"

#include "text/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

TEST(figures_by_hand) {
    /* 1 2 1 2 1 | 3 | (nothing) | 1 2 4 4 4 4 4 */
    const int32_t ids[] = {1, 2, 1, 2, 1, 3, 1, 2, 4, 4, 4, 4, 4};
    const size_t lengths[] = {5, 1, 0, 7};
    const dlm_texts texts = {.n = 4, .lengths = lengths, .ids = ids};
    dlm_text_statistics figures;
    dlm_error err;
    REQUIRE_OK(dlm_texts_measure(&texts, &figures, &err), &err);
    CHECK_INT_EQ(figures.texts, 4);
    CHECK_INT_EQ(figures.tokens, 13);
    CHECK_CLOSE(figures.distinct[0], 4.0 / 13, 1e-15); /* 1, 2, 3, 4 */
    CHECK_CLOSE(figures.distinct[1], 4.0 / 10, 1e-15); /* 12, 21, 24, 44: none of 1 3 or 3 1 */
    CHECK_CLOSE(figures.distinct[2], 5.0 / 8, 1e-15);  /* 121, 212, 124, 244, 444 */
    /* First text: 12 21 12 21, 121 212 121, 1212 2121. Last: 12 24 44 44 44 44, 124 244 444 444 444,
     * 1244 2444 4444 4444. The 1 2 of the first text does not count in the last. */
    CHECK_CLOSE(figures.repeated[0], (2.0 / 4 + 3.0 / 6) / 2, 1e-15);
    CHECK_CLOSE(figures.repeated[1], (1.0 / 3 + 2.0 / 5) / 2, 1e-15);
    CHECK_CLOSE(figures.repeated[2], (0.0 / 2 + 1.0 / 4) / 2, 1e-15);
    /* 1: 4 times, 2: 3, 3: 1, 4: 5 */
    CHECK_CLOSE(figures.entropy,
                -(4 * log(4.0 / 13) + 3 * log(3.0 / 13) + log(1.0 / 13) + 5 * log(5.0 / 13)) / 13, 1e-14);
}

TEST(texts_that_are_too_short) {
    const int32_t ids[] = {7, 7};
    const size_t lengths[] = {1, 0, 1};
    const dlm_texts one = {.n = 3, .lengths = lengths, .ids = ids},
                    nothing = {.n = 1, .lengths = lengths + 1};
    dlm_text_statistics figures;
    dlm_error err;
    REQUIRE_OK(dlm_texts_measure(&one, &figures, &err), &err);
    CHECK_CLOSE(figures.distinct[0], 0.5, 0);
    CHECK_CLOSE(figures.entropy, 0, 0);
    CHECK(isnan(figures.distinct[1]) && isnan(figures.distinct[2]));
    CHECK(isnan(figures.repeated[0]) && isnan(figures.repeated[1]) && isnan(figures.repeated[2]));
    REQUIRE_OK(dlm_texts_measure(&nothing, &figures, &err), &err);
    CHECK(isnan(figures.distinct[0]) && isnan(figures.entropy));
    CHECK_INT_EQ(figures.tokens, 0);
}

TEST(texts_that_are_none) {
    const int32_t ids[] = {3, -1};
    const size_t lengths[] = {2}, huge[] = {1, SIZE_MAX};
    const dlm_texts negative = {.n = 1, .lengths = lengths, .ids = ids},
                    many = {.n = 2, .lengths = huge, .ids = ids};
    dlm_text_statistics figures;
    dlm_error err;
    CHECK_STATUS(dlm_texts_measure(&negative, &figures, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "token 1 of the texts is -1, not an id");
    CHECK_STATUS(dlm_texts_measure(&many, &figures, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "the texts have more than 268435456 tokens");
}

/* ---- plain counting ----------------------------------------------------------------------------------- */

enum { MOST = 200 };

typedef struct sample {
    size_t n, tokens;
    size_t lengths[MOST], starts[MOST];
    int32_t ids[MOST];
} sample;

/* Up to six texts over an alphabet of a few ids, large ones among them. */
static void draw(dlm_rng *rng, sample *s) {
    static const int32_t letters[] = {0, 1, INT32_MAX, 65536, 3, 16777216};
    const uint64_t alphabet = 1 + dlm__rng_below(rng, 6);
    *s = (sample){.n = 1 + (size_t)dlm__rng_below(rng, 6)};
    for (size_t i = 0; i < s->n; i++) {
        s->starts[i] = s->tokens;
        s->lengths[i] = (size_t)dlm__rng_below(rng, 30);
        s->tokens += s->lengths[i];
    }
    for (size_t t = 0; t < s->tokens; t++) s->ids[t] = letters[dlm__rng_below(rng, alphabet)];
}

/* Is the n-gram at t of text i also in the texts before, or (`same`) only earlier in its own? */
static bool stood_before(const sample *s, size_t i, size_t t, size_t n, bool same) {
    for (size_t j = same ? i : 0; j <= i; j++)
        for (size_t u = s->starts[j]; u + n <= s->starts[j] + s->lengths[j] && (j < i || u < t); u++)
            if (memcmp(s->ids + u, s->ids + t, n * sizeof *s->ids) == 0) return true;
    return false;
}

static void count_plainly(const sample *s, size_t n, double *distinct, double *repeated) {
    size_t all = 0, new = 0, with_any = 0;
    double shares = 0;
    for (size_t i = 0; i < s->n; i++) {
        size_t again = 0, here = 0;
        for (size_t t = s->starts[i]; t + n <= s->starts[i] + s->lengths[i]; t++, here++) {
            new += !stood_before(s, i, t, n, false);
            again += stood_before(s, i, t, n, true);
        }
        all += here;
        with_any += here > 0;
        if (here > 0) shares += (double)again / (double)here;
    }
    *distinct = all > 0 ? (double)new / (double)all : NAN;
    *repeated = with_any > 0 ? shares / (double)with_any : NAN;
}

static bool same(double got, double want) {
    return (isnan(got) && isnan(want)) || CHECK_CLOSE(got, want, 1e-12);
}

TEST(figures_of_random_texts) {
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < 2000; i++) {
        sample s;
        draw(&rng, &s);
        const dlm_texts texts = {.n = s.n, .lengths = s.lengths, .ids = s.ids};
        dlm_text_statistics figures;
        dlm_error err;
        REQUIRE_OK(dlm_texts_measure(&texts, &figures, &err), &err);
        bool held = true;
        for (size_t n = 1; n <= 4; n++) {
            double distinct, repeated;
            count_plainly(&s, n, &distinct, &repeated);
            if (n < 4) held = held && same(figures.distinct[n - 1], distinct);
            if (n > 1) held = held && same(figures.repeated[n - 2], repeated);
        }
        REQUIRE(held);
    }
}

/* ---- lengths and spans -------------------------------------------------------------------------------- */

TEST(lengths_by_hand) {
    const size_t lengths[] = {9, 2, 4, 4, 7, 30};
    dlm_length_statistics figures;
    dlm_error err;
    REQUIRE_OK(dlm_lengths_measure(lengths, 6, &figures, &err), &err);
    CHECK_CLOSE(figures.mean, 56.0 / 6, 1e-14);
    CHECK_CLOSE(figures.standard_deviation, sqrt((1066 - 56.0 * 56 / 6) / 5), 1e-13);
    static const uint64_t quantiles[DLM_QUANTILES] = {2, 2, 4, 4, 9, 30, 30};
    for (size_t q = 0; q < DLM_QUANTILES; q++) CHECK_INT_EQ(figures.quantiles[q], quantiles[q]);
    CHECK_INT_EQ(lengths[0], 9); /* not sorted in place */

    size_t many[300];
    for (size_t i = 0; i < 300; i++) many[i] = 300 - i;
    REQUIRE_OK(dlm_lengths_measure(many, 300, &figures, &err), &err);
    static const uint64_t of_many[DLM_QUANTILES] = {1, 15, 75, 150, 225, 285, 300};
    for (size_t q = 0; q < DLM_QUANTILES; q++) CHECK_INT_EQ(figures.quantiles[q], of_many[q]);

    REQUIRE_OK(dlm_lengths_measure(lengths, 1, &figures, &err), &err);
    CHECK_CLOSE(figures.mean, 9, 0);
    CHECK(isnan(figures.standard_deviation));
    for (size_t q = 0; q < DLM_QUANTILES; q++) CHECK_INT_EQ(figures.quantiles[q], 9);
    CHECK_STATUS(dlm_lengths_measure(lengths, 0, &figures, &err), DLM_ARGUMENT, &err);
}

TEST(copying_by_hand) {
    const size_t lengths[] = {3, 0, 10, 8};
    const uint32_t spans[] = {1, 1, 2, /**/ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, /**/ 1, 2, 3, 4, 5, 6, 7, 3};
    const dlm_texts texts = {.n = 4, .lengths = lengths};
    dlm_copying copying;
    dlm_error err;
    REQUIRE_OK(dlm_copying_measure(&texts, spans, &copying, &err), &err);
    CHECK_INT_EQ(copying.n, 9);
    CHECK_INT_EQ(copying.text, 2);
    CHECK_INT_EQ(copying.first, 1);
    CHECK_CLOSE(copying.seen, 2.0 / 4, 0); /* three 8-grams end in the third text, one in the last */
    CHECK_CLOSE(copying.longest.mean, (2 + 0 + 9 + 7) / 4.0, 0);
    CHECK_INT_EQ(copying.longest.quantiles[0], 0);
    CHECK_INT_EQ(copying.longest.quantiles[3], 2);
    CHECK_INT_EQ(copying.longest.quantiles[6], 9);

    const dlm_texts few = {.n = 2, .lengths = lengths}, none = {0};
    REQUIRE_OK(dlm_copying_measure(&few, spans, &copying, &err), &err);
    CHECK(isnan(copying.seen));
    CHECK_INT_EQ(copying.n, 2);
    CHECK_STATUS(dlm_copying_measure(&none, spans, &copying, &err), DLM_ARGUMENT, &err);
}
