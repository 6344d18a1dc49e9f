/* How often the 95 % intervals hold the exact value, over hundreds of seeds: of one model and of the
 * difference of two, from the masks alone and with the documents as a sample. The exact NELBO is that of all
 * masks of windows so short that they can be enumerated. What is measured is in docs/likelihood.md. */
#include "likelihood_fixture.h"

#include "diffusion/nelbo.h"

enum { POPULATION = 300, SAMPLE = 40 };

/* Under the sanitizer, which is slow, so few that only memory is tested well. */
#ifdef __SANITIZE_ADDRESS__
enum { SEEDS = 30 };
#else
enum { SEEDS = 400 };
#endif

/* Windows, a document each, and the exact sums of nats of two models. */
typedef struct population {
    dlm_model *models[2];
    int32_t ids[POPULATION][SMALL_L];
    dlm_scored windows[POPULATION];
    double nats[2][POPULATION];
} population;

static dlm_model *model_of(double deviation) {
    return random_model(SMALL_V, SMALL_L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, deviation, NULL);
}

static bool make_population(population *p) {
    p->models[0] = model_of(0.4);
    p->models[1] = model_of(0.44);
    if (p->models[0] == NULL || p->models[1] == NULL) return false;
    dlm_rng rng = dlm__rng(8, DLM_RNG_TEST, 0, 0);
    for (size_t w = 0; w < POPULATION; w++) {
        const size_t n = 1 + (size_t)dlm__rng_below(&rng, SMALL_L);
        for (size_t i = 0; i < n; i++) p->ids[w][i] = 3 + (int32_t)dlm__rng_below(&rng, SMALL_V - 3);
        p->windows[w] = (dlm_scored){.ids = p->ids[w], .n = n, .shown = n, .bytes = 3 * n};
        for (size_t m = 0; m < 2; m++) {
            const dlm_nelbo_options options = {.exact = true};
            dlm_error err;
            if (!CHECK_OK(dlm_nelbo(p->models[m], &options, 1, &n, p->ids[w], &p->nats[m][w], NULL, &err),
                          &err))
                return false;
        }
    }
    return true;
}

static void free_population(population *p) {
    for (size_t m = 0; m < 2; m++) dlm_model_free(p->models[m]);
}

/* Exact NELBO per token of the n windows `chosen`, of a model, or (2) of the difference. */
static double exact_of(const population *p, const size_t *chosen, size_t n, size_t model) {
    double nats = 0, tokens = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t w = chosen[i];
        nats += model < 2 ? p->nats[model][w] : p->nats[1][w] - p->nats[0][w];
        tokens += (double)p->windows[w].n;
    }
    return nats / tokens;
}

/* Both models on the chosen windows; bounds: of the first and of the difference. */
static bool measure_both(const population *p, const size_t *chosen, size_t n,
                         const dlm_likelihood_options *options, dlm_bound bounds[2]) {
    static dlm_scored windows[POPULATION];
    dlm_paired paired = {.capacity = n * options->draws};
    paired.means = dlm__calloc(paired.capacity, sizeof *paired.means);
    for (size_t i = 0; i < n; i++) windows[i] = p->windows[chosen[i]];
    dlm_likelihood_options own = *options;
    own.paired = &paired;
    dlm_eval_result results[2];
    bool ok = measure(p->models[0], &own, windows, n, &results[0]);
    paired.compares = true;
    paired.n = 0;
    ok = ok && measure(p->models[1], &own, windows, n, &results[1]);
    free(paired.means);
    bounds[0] = results[0].all;
    bounds[1] = dlm__bound(&paired.all, false, results[1].all.tokens, 0);
    return ok;
}

static bool holds(const double interval[2], double value) {
    return interval[0] <= value && value <= interval[1];
}

static const struct {
    size_t draws;
    dlm_masks masks;
    const char *name;
} cases[] = {{2, DLM_MASKS_INDEPENDENT, "2 masks"},
             {4, DLM_MASKS_INDEPENDENT, "4 masks"},
             {4, DLM_MASKS_COMPLEMENTARY, "2 pairs"},
             {16, DLM_MASKS_COMPLEMENTARY, "8 pairs"}};

/* Within 4 standard deviations of a true 95 %, and what the errors are rather too large by. */
static void check_coverage(size_t held, const char *what, const char *name) {
    const double coverage = (double)held / SEEDS;
    printf("note: coverage of 95 %% intervals, %s, %s: %.3f of %d seeds\n", what, name, coverage, SEEDS);
    check_context("%s, %s: %g", what, name, coverage);
    CHECK(coverage > 0.95 - 4 * sqrt(0.95 * 0.05 / SEEDS) && (coverage < 0.998 || SEEDS < 400));
}

/* The documents stay, the masks are drawn again. */
TEST(intervals_of_the_masks) {
    static population p;
    size_t chosen[SAMPLE];
    REQUIRE(make_population(&p));
    for (size_t i = 0; i < SAMPLE; i++) chosen[i] = i;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        size_t held[2] = {0};
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            const dlm_likelihood_options options = {.seed = seed,
                                                    .draws = cases[c].draws,
                                                    .masks = cases[c].masks,
                                                    .mask_id = TINY_MASK,
                                                    .longest = SMALL_L};
            dlm_bound bounds[2];
            REQUIRE(measure_both(&p, chosen, SAMPLE, &options, bounds));
            for (size_t b = 0; b < 2; b++)
                held[b] += holds(bounds[b].interval, exact_of(&p, chosen, SAMPLE, 2 * b));
        }
        check_coverage(held[0], "masks alone, one model", cases[c].name);
        check_coverage(held[1], "masks alone, difference of two", cases[c].name);
    }
    free_population(&p);
}

/* Each time other documents, from a population of whose exact NELBO the intervals are. */
TEST(intervals_of_the_documents) {
    static population p;
    size_t chosen[POPULATION];
    REQUIRE(make_population(&p));
    for (size_t i = 0; i < POPULATION; i++) chosen[i] = i;
    const double exact[2] = {exact_of(&p, chosen, POPULATION, 0), exact_of(&p, chosen, POPULATION, 2)};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        size_t held[2] = {0};
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            const dlm_likelihood_options options = {.seed = seed,
                                                    .draws = cases[c].draws,
                                                    .masks = cases[c].masks,
                                                    .mask_id = TINY_MASK,
                                                    .longest = SMALL_L};
            dlm_rng rng = dlm__rng(seed, DLM_RNG_TEST, 1, 0);
            for (size_t i = 0; i < SAMPLE; i++) chosen[i] = (size_t)dlm__rng_below(&rng, POPULATION);
            dlm_bound bounds[2];
            REQUIRE(measure_both(&p, chosen, SAMPLE, &options, bounds));
            for (size_t b = 0; b < 2; b++) held[b] += holds(bounds[b].interval_documents, exact[b]);
        }
        check_coverage(held[0], "documents as a sample, one model", cases[c].name);
        check_coverage(held[1], "documents as a sample, difference of two", cases[c].name);
    }
    free_population(&p);
}
