/* Refinement against its exact law on a case that can be enumerated. */
#include "sampling_fixture.h"

#include "diffusion/sampler.h"

typedef struct walk {
    const dlm_refine_options *options;
    const tiny_table *table;
    const uint8_t *fixed; /* (TINY_L) */
    double law[TINY_TEXTS];
} walk;

/* Everything that `passes` more passes can make of the ids. */
static void follow(walk *w, const int32_t ids[TINY_L], size_t passes, double probability) {
    if (passes == 0) {
        w->law[tiny_text(ids)] += probability;
        return;
    }
    for (size_t set = 0; set < 1 << TINY_L; set++) {
        int32_t masked[TINY_L];
        double chance = probability;
        for (size_t i = 0; i < TINY_L; i++) {
            const bool in = set >> i & 1;
            masked[i] = in ? TINY_MASK : ids[i];
            if (w->fixed[i])
                chance *= in ? 0 : 1;
            else if (ids[i] == TINY_MASK)
                chance *= in ? 1 : 0;
            else
                chance *= in ? w->options->frac : 1 - w->options->frac;
        }
        if (chance <= 0) continue;
        const size_t state = tiny_state(masked);
        for (size_t c = 0; c < TINY_TEXTS; c++) {
            int32_t next[TINY_L];
            double p = chance;
            size_t rest = c;
            bool other = false; /* the same text was counted with another token at an unmasked position */
            for (size_t i = 0; i < TINY_L; i++, rest /= TINY_TOKENS) {
                const size_t token = rest % TINY_TOKENS;
                next[i] = masked[i] == TINY_MASK ? TINY_FIRST + (int32_t)token : ids[i];
                if (masked[i] == TINY_MASK)
                    p *= w->table->p[state][i][token];
                else
                    other |= token > 0;
            }
            if (!other) follow(w, next, passes - 1, p);
        }
    }
}

static void check_refine_law(const dlm_model *model, const dlm_refine_options *options,
                             const int32_t start[TINY_L], const uint8_t fixed[TINY_L]) {
    enum { SAMPLES = 8000 };
    static int32_t ids[SAMPLES * TINY_L];
    static uint8_t given[SAMPLES * TINY_L];
    static size_t lengths[SAMPLES];
    size_t seen[TINY_TEXTS] = {0};
    walk w = {.options = options, .table = tiny_enumerate(model, options->temperature), .fixed = fixed};
    follow(&w, start, options->passes, 1);
    for (size_t s = 0; s < SAMPLES; s++) {
        lengths[s] = TINY_L;
        memcpy(ids + s * TINY_L, start, TINY_L * sizeof *ids);
        memcpy(given + s * TINY_L, fixed, TINY_L);
    }
    dlm_error err;
    REQUIRE_OK(dlm_refine(model, options, 0, SAMPLES, lengths, ids, given, &err), &err);
    for (size_t s = 0; s < SAMPLES; s++) {
        for (size_t i = 0; i < TINY_L; i++)
            REQUIRE(ids[s * TINY_L + i] >= TINY_FIRST && ids[s * TINY_L + i] < TINY_V);
        seen[tiny_text(ids + s * TINY_L)]++;
    }
    check_law(w.law, seen, SAMPLES);
}

TEST(defaults) {
    const dlm_refine_options options = dlm_refine_defaults();
    CHECK_INT_EQ(options.passes, 8);
    CHECK_CLOSE(options.frac, 0.15, 0);
    CHECK_CLOSE(options.temperature, 0.9, 0);
}

TEST(law) {
    static const struct {
        double frac;
        size_t passes;
        int32_t start[TINY_L];
        uint8_t fixed[TINY_L];
    } cases[] = {{0.15, 2, {3, 4, 5}, {0}},
                 {0.5, 1, {5, 5, 3}, {0}},
                 {0.5, 2, {4, 4, 4}, {0, 1, 0}},
                 {1, 1, {3, 3, 3}, {0}},
                 {0.3, 2, {TINY_MASK, 4, TINY_MASK}, {0}}};
    dlm_model *model = random_model(TINY_V, TINY_L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.3, NULL);
    REQUIRE(model != NULL);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        dlm_refine_options options = dlm_refine_defaults();
        options.frac = cases[c].frac;
        options.passes = cases[c].passes;
        options.seed = c;
        check_context("case %zu", c);
        check_refine_law(model, &options, cases[c].start, cases[c].fixed);
    }
    dlm_model_free(model);
}

TEST(a_text_does_not_depend_on_the_others) {
    enum { N = 30, L = 7 };
    dlm_model *model = random_model(20, L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.7, NULL);
    REQUIRE(model != NULL);
    int32_t ids[N * L], start[N * L];
    size_t lengths[N];
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < N * L; i++) start[i] = ids[i] = 3 + (int32_t)dlm__rng_below(&rng, 17);
    for (size_t b = 0; b < N; b++) lengths[b] = L;
    dlm_refine_options options = dlm_refine_defaults();
    options.frac = 0.4;
    dlm_error err;
    REQUIRE_OK(dlm__refine("reference", model, &options, 7, N, lengths, ids, NULL, &err), &err);
    CHECK(memcmp(ids, start, sizeof ids) != 0);
    for (size_t b = 0; b < N; b++) {
        check_context("text %zu", b);
        CHECK_OK(dlm__refine("reference", model, &options, 7 + b, 1, lengths, start + b * L, NULL, &err),
                 &err);
    }
    CHECK_MEM_EQ(start, ids, sizeof ids);
    dlm_model_free(model);
}

static bool mask_first(void *user, const dlm_sample_step *step) {
    size_t *calls = user;
    ++*calls;
    if (step->step == 0) CHECK_INT_EQ(step->steps, 3);
    CHECK(step->step == 0 || step->ids[0] != step->mask_id);
    if (step->step > 0 && step->step <= 3) step->ids[0] = step->mask_id;
    return false;
}

static bool stop_at_one(void *user, const dlm_sample_step *step) {
    size_t *calls = user;
    ++*calls;
    return step->step == 1;
}

TEST(callback) {
    dlm_model *model = random_model(9, 4, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    const size_t L = 4;
    int32_t ids[4] = {3, 4, 5, 6};
    size_t calls = 0;
    dlm_error err;
    dlm_refine_options options = {
        .passes = 3, .frac = 0.3, .temperature = 1, .on_step = mask_first, .user = &calls};
    CHECK_OK(dlm_refine(model, &options, 0, 1, &L, ids, NULL, &err), &err);
    CHECK_INT_EQ(calls, 5); /* what it masked after the last pass takes another */
    CHECK(ids[0] != 2);
    calls = 0;
    options.on_step = stop_at_one;
    CHECK_OK(dlm_refine(model, &options, 0, 1, &L, ids, NULL, &err), &err);
    CHECK_INT_EQ(calls, 2);
    dlm_model_free(model);
}

TEST(options_out_of_range) {
    dlm_model *model = random_model(9, 4, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    const size_t L = 4;
    int32_t ids[4] = {3, 4, 5, 6};
    const struct {
        dlm_refine_options options;
        const char *says;
    } cases[] = {{{.passes = 0, .frac = 0.1, .temperature = 1}, "0 passes"},
                 {{.passes = 1, .frac = 0, .temperature = 1}, "fraction 0 "},
                 {{.passes = 1, .frac = 1.5, .temperature = 1}, "fraction 1.5 "},
                 {{.passes = 1, .frac = (double)NAN, .temperature = 1}, "fraction"},
                 {{.passes = 1, .frac = 0.1, .temperature = -2}, "temperature -2 "}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        dlm_error err;
        CHECK_STATUS(dlm_refine(model, &cases[c].options, 0, 1, &L, ids, NULL, &err), DLM_ARGUMENT, &err);
        CHECK_SAYS(&err, cases[c].says);
    }
    dlm_model_free(model);
}
