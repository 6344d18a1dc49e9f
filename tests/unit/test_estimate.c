/* The standard errors of the NELBO against the errors really made, on made-up cross-entropies whose exact
 * mean is known: a curve in the masked share, a level of each document, a slope of its own, and noise. */
#include "check.h"

#include "diffusion/estimate.h"
#include "diffusion/process.h"

#include <math.h>
#include <string.h>

enum { MOST = 1000 };

typedef struct corpus {
    size_t n;
    size_t length[MOST], document[MOST];
    double level[MOST], slope[MOST];
} corpus;

static double normal(dlm_rng *rng, double deviation) {
    return deviation * dlm__rng_normal(rng);
}

/* Windows of 1 to `longest` positions, a document of one to three. */
static void make_corpus(corpus *c, dlm_rng *rng, size_t documents, size_t longest) {
    c->n = 0;
    for (size_t d = 0; d < documents; d++) {
        const double level = normal(rng, 0.3), slope = normal(rng, 0.3);
        const size_t windows = 1 + (size_t)dlm__rng_below(rng, 3);
        for (size_t w = 0; w < windows && c->n < MOST; w++, c->n++) {
            c->length[c->n] = 1 + (size_t)dlm__rng_below(rng, longest);
            c->document[c->n] = d;
            c->level[c->n] = level;
            c->slope[c->n] = slope;
        }
    }
}

/* Mean cross-entropy of window w at k masked positions. */
static double curve(const corpus *c, size_t w, size_t k) {
    const double r = (double)k / (double)c->length[w];
    return 1.5 + 4 * r * r + c->level[w] + c->slope[w] * (r - 0.5);
}

static double exact(const corpus *c) {
    double nats = 0, positions = 0;
    for (size_t w = 0; w < c->n; w++) {
        for (size_t k = 1; k <= c->length[w]; k++) nats += curve(c, w, k);
        positions += (double)c->length[w];
    }
    return nats / positions;
}

/* Draws as likelihood.h spreads them. */
static dlm_estimated measure(const corpus *c, dlm_rng *rng, size_t draws) {
    static dlm_estimate e;
    static uint64_t offsets[4096];
    memset(&e, 0, sizeof e);
    e.draws = draws;
    for (size_t d = 0; d < draws; d++) offsets[d] = dlm__rng_u64(rng);
    for (size_t w = 0; w < c->n; w++) {
        for (size_t d = 0; d < draws; d++) {
            const double u = (double)((offsets[d] + w * UINT64_C(0x9E3779B97F4A7C15)) >> 11) * 0x1p-53;
            const size_t k = dlm__count_at(c->length[w], ((double)d + u) / (double)draws);
            dlm__estimate_draw(&e, c->length[w], k, curve(c, w, k) + normal(rng, 1 / sqrt((double)k)));
        }
        dlm__estimate_end_window(&e);
        if (w + 1 == c->n || c->document[w + 1] != c->document[w]) dlm__estimate_end_document(&e);
    }
    return dlm__estimate(&e);
}

/* Mean and mean square of errors in units of their standard error. */
typedef struct scores {
    size_t n;
    double sum, squares;
} scores;

static void score(scores *s, double z) {
    s->n++;
    s->sum += z;
    s->squares += z * z;
}

static void check_scores(const scores *s, double low, double high) {
    const double deviation = sqrt(s->squares / (double)s->n);
    CHECK_CLOSE(s->sum / (double)s->n, 0, 4.5 * deviation / sqrt((double)s->n));
    if (!CHECK(deviation > low && deviation < high)) printf("deviation %g\n", deviation);
}

/* The documents stay, the masks are drawn again. */
static void check_masks(size_t documents, size_t longest, size_t draws, double low, double high) {
    enum { REPEATS = 400 };
    static corpus c;
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, (uint32_t)documents, (uint32_t)draws);
    scores s = {0};
    make_corpus(&c, &rng, documents, longest);
    const double truth = exact(&c);
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const dlm_estimated e = measure(&c, &rng, draws);
        REQUIRE(e.standard_error > 0);
        score(&s, (e.nelbo - truth) / e.standard_error);
    }
    check_context("%zu documents to %zu, %zu draws", documents, longest, draws);
    check_scores(&s, low, high);
}

TEST(errors_of_the_masks) {
    check_masks(250, 100, 2, 0.85, 1.15);
    check_masks(250, 5, 2, 0.75, 1.15); /* the few counts of short windows vary less than allowed for */
    check_masks(200, 100, 4, 0.85, 1.15);
    check_masks(60, 30, 3, 0.8, 1.2);
    check_masks(1, 50, 512, 0.85, 1.15);
    check_masks(5, 9, 128, 0.85, 1.15);
    /* Too few draws to know the curve: counted as error, never the other way. */
    check_masks(1, 80, 2, 0.05, 1.15);
    check_masks(4, 80, 2, 0.05, 1.15);
}

/* Documents and masks are drawn again; the truth is that of a corpus without end. */
TEST(errors_of_documents_as_a_sample) {
    enum { REPEATS = 400 };
    static const size_t draws[] = {1, 2, 8};
    for (size_t d = 0; d < 3; d++) {
        static corpus c;
        dlm_rng rng = dlm__rng(2, DLM_RNG_TEST, (uint32_t)d, 0);
        double nats = 0, positions = 0;
        for (size_t n = 1; n <= 60; n++) {
            for (size_t k = 1; k <= n; k++) nats += 1.5 + 4 * (double)(k * k) / (double)(n * n);
            /* the slope's mean is 0, the level's too */
            positions += (double)n;
        }
        scores s = {0};
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            make_corpus(&c, &rng, 120, 60);
            const dlm_estimated e = measure(&c, &rng, draws[d]);
            REQUIRE(e.standard_error_documents > 0);
            score(&s, (e.nelbo - nats / positions) / e.standard_error_documents);
        }
        check_context("%zu draws", draws[d]);
        check_scores(&s, 0.85, 1.15);
    }
}

TEST(what_the_data_do_not_tell) {
    static corpus c;
    dlm_rng rng = dlm__rng(3, DLM_RNG_TEST, 0, 0);
    dlm_estimate none = {.draws = 2};
    CHECK(isnan(dlm__estimate(&none).nelbo));
    CHECK(isnan(dlm__estimate(&none).standard_error));
    make_corpus(&c, &rng, 1, 20);
    CHECK(isnan(measure(&c, &rng, 2).standard_error_documents));
    CHECK(measure(&c, &rng, 2).standard_error > 0);
    make_corpus(&c, &rng, 5, 20);
    CHECK(isnan(measure(&c, &rng, 1).standard_error));
    CHECK(measure(&c, &rng, 1).standard_error_documents > 0);
}

TEST(a_constant_has_no_error) {
    dlm_estimate e = {.draws = 2};
    for (size_t w = 0; w < 50; w++) {
        for (size_t d = 0; d < 2; d++) dlm__estimate_draw(&e, 1 + w % 7, 1 + d * (w % 7), 2.5);
        dlm__estimate_end_window(&e);
        dlm__estimate_end_document(&e);
    }
    const dlm_estimated result = dlm__estimate(&e);
    CHECK_CLOSE(result.nelbo, 2.5, 1e-12);
    CHECK_CLOSE(result.standard_error, 0, 1e-7);
    CHECK_CLOSE(result.standard_error_documents, 0, 1e-7);
}
