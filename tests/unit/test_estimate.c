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
    e.unit = 1;
    for (size_t d = 0; d < draws; d++) offsets[d] = dlm__rng_u64(rng);
    for (size_t w = 0; w < c->n; w++) {
        for (size_t d = 0; d < draws; d++) {
            const double u = (double)((offsets[d] + w * UINT64_C(0x9E3779B97F4A7C15)) >> 11) * 0x1p-53;
            const size_t k = dlm__count_at(c->length[w], ((double)d + u) / (double)draws);
            dlm__estimate_draw(&e, c->length[w], c->length[w], k,
                               curve(c, w, k) + normal(rng, 1 / sqrt((double)k)));
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

/* Pairs whose two draws depend on each other: what both share is no less of an error for it. */
TEST(pairs_are_one_observation) {
    enum { REPEATS = 400, DRAWS = 8 };
    static corpus c;
    dlm_rng rng = dlm__rng(6, DLM_RNG_TEST, 0, 0);
    make_corpus(&c, &rng, 60, 60);
    const double want = exact(&c);
    static const double shares[] = {-0.9, 0, 0.9}; /* of the second draw's noise that is the first's */
    for (size_t i = 0; i < 3; i++) {
        scores s = {0};
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            dlm_estimate e = {.draws = DRAWS, .unit = 2};
            for (size_t w = 0; w < c.n; w++) {
                const size_t n = c.length[w];
                for (size_t d = 0; d < DRAWS / 2; d++) {
                    const double first = normal(&rng, 0.5), other = normal(&rng, 0.5);
                    const double second = shares[i] * first + sqrt(1 - shares[i] * shares[i]) * other;
                    const size_t k = dlm__count_at(n, ((double)d + dlm__rng_uniform(&rng)) / (double)DRAWS);
                    dlm__estimate_draw(&e, n, n, k, curve(&c, w, k) + first);
                    dlm__estimate_draw(&e, n, n, n + 1 - k, curve(&c, w, n + 1 - k) + second);
                }
                dlm__estimate_end_window(&e);
                dlm__estimate_end_document(&e);
            }
            const dlm_estimated result = dlm__estimate(&e);
            score(&s, (result.nelbo - want) / result.standard_error);
        }
        check_context("share %g", shares[i]);
        check_scores(&s, 0.88, 1.12);
    }
}

TEST(students_t) {
    static const struct {
        double degrees, t;
    } known[] = {{1, 12.7062}, {2, 4.3027},  {3, 3.1824},  {4, 2.7764},
                 {5, 2.5706},  {10, 2.2281}, {100, 1.9840}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        CHECK_CLOSE(dlm__student(known[i].degrees), known[i].t, 0.005);
    CHECK_CLOSE(dlm__student(1e9), 1.959964, 1e-6);
    CHECK(isinf(dlm__student(0)));
    double interval[2];
    dlm__interval(3, 0.5, 10, interval);
    CHECK_CLOSE(interval[0], 3 - 0.5 * 2.2281, 1e-3);
    CHECK_CLOSE(interval[1], 3 + 0.5 * 2.2281, 1e-3);
    dlm__interval(3, 0, 0, interval);
    CHECK(interval[0] == 3 && interval[1] == 3);
    dlm__interval(3, NAN, 10, interval);
    CHECK(isnan(interval[0]) && isnan(interval[1]));
}

TEST(what_the_data_do_not_tell) {
    static corpus c;
    dlm_rng rng = dlm__rng(3, DLM_RNG_TEST, 0, 0);
    dlm_estimate none = {.draws = 2, .unit = 1};
    CHECK(isnan(dlm__estimate(&none).nelbo));
    CHECK(isnan(dlm__estimate(&none).standard_error));
    CHECK(isnan(dlm__estimate(&none).interval[0]) && isnan(dlm__estimate(&none).interval_documents[1]));
    dlm_estimate one_pair = {.draws = 2, .unit = 2};
    for (size_t d = 0; d < 4; d++) {
        dlm__estimate_draw(&one_pair, 8, 8, 2 + d, 3);
        if (d % 2 == 1) dlm__estimate_end_window(&one_pair);
    }
    CHECK_CLOSE(dlm__estimate(&one_pair).nelbo, 3, 1e-12);
    CHECK(isnan(dlm__estimate(&one_pair).standard_error));
    make_corpus(&c, &rng, 1, 20);
    CHECK(isnan(measure(&c, &rng, 2).standard_error_documents));
    CHECK(measure(&c, &rng, 2).standard_error > 0);
    make_corpus(&c, &rng, 5, 20);
    CHECK(isnan(measure(&c, &rng, 1).standard_error));
    CHECK(measure(&c, &rng, 1).standard_error_documents > 0);
}

TEST(a_constant_has_no_error) {
    dlm_estimate e = {.draws = 2, .unit = 1};
    for (size_t w = 0; w < 50; w++) {
        for (size_t d = 0; d < 2; d++) dlm__estimate_draw(&e, 1 + w % 7, 1 + w % 7, 1 + d * (w % 7), 2.5);
        dlm__estimate_end_window(&e);
        dlm__estimate_end_document(&e);
    }
    const dlm_estimated result = dlm__estimate(&e);
    CHECK_CLOSE(result.nelbo, 2.5, 1e-12);
    CHECK_CLOSE(result.standard_error, 0, 1e-7);
    CHECK_CLOSE(result.standard_error_documents, 0, 1e-7);
}
