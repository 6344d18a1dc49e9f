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

/* ---- by low confidence -------------------------------------------------------------------------------- */

/* All that `passes` more passes make of ids, the k least confident of whose free positions are masked each
 * time; confidence (TINY_L) of each. */
static void follow_unsure(walk *w, const int32_t ids[TINY_L], const double confidence[TINY_L], size_t passes,
                          double probability) {
    if (passes == 0) {
        w->law[tiny_text(ids)] += probability;
        return;
    }
    int32_t masked[TINY_L];
    bool in[TINY_L];
    size_t free_positions = 0;
    for (size_t i = 0; i < TINY_L; i++) {
        in[i] = ids[i] == TINY_MASK;
        free_positions += !w->fixed[i] && !in[i];
    }
    const double wanted = rint(w->options->frac * (double)free_positions);
    for (size_t k = free_positions == 0 ? 0 : wanted > 1 ? (size_t)wanted : 1; k > 0; k--) {
        size_t least = TINY_L;
        for (size_t i = 0; i < TINY_L; i++)
            if (!w->fixed[i] && !in[i] && (least == TINY_L || confidence[i] < confidence[least])) least = i;
        in[least] = true;
    }
    for (size_t i = 0; i < TINY_L; i++) masked[i] = in[i] ? TINY_MASK : ids[i];
    const size_t state = tiny_state(masked);
    for (size_t c = 0; c < TINY_TEXTS; c++) {
        int32_t next[TINY_L];
        double after[TINY_L], p = probability;
        size_t rest = c;
        bool other = false;
        for (size_t i = 0; i < TINY_L; i++, rest /= TINY_TOKENS) {
            const size_t token = rest % TINY_TOKENS;
            next[i] = in[i] ? TINY_FIRST + (int32_t)token : ids[i];
            after[i] = in[i] ? tiny_confidence(w->table, state, i) : confidence[i];
            if (in[i])
                p *= w->table->p[state][i][token];
            else
                other = other || token > 0;
        }
        if (!other) follow_unsure(w, next, after, passes - 1, p);
    }
}

/* Three positions are in three of the four parts: each is scored with the others in sight. */
static void score_by_hand(const walk *w, const int32_t ids[TINY_L], double confidence[TINY_L]) {
    for (size_t i = 0; i < TINY_L; i++) {
        int32_t masked[TINY_L];
        memcpy(masked, ids, sizeof masked);
        masked[i] = TINY_MASK;
        confidence[i] = ids[i] == TINY_MASK ? 0 : w->table->p[tiny_state(masked)][i][ids[i] - TINY_FIRST];
    }
}

TEST(law_by_low_confidence) {
    static const struct {
        double frac;
        size_t passes;
        int32_t start[TINY_L];
        uint8_t fixed[TINY_L];
    } cases[] = {{0.15, 3, {3, 4, 5}, {0}},
                 {0.5, 2, {5, 5, 3}, {0}}, /* two of three */
                 {0.5, 2, {4, 4, 4}, {0, 1, 0}},
                 {1, 1, {3, 3, 3}, {0}},
                 {0.3, 2, {TINY_MASK, 4, 3}, {0}}};
    enum { SAMPLES = 8000 };
    static int32_t ids[SAMPLES * TINY_L];
    static uint8_t given[SAMPLES * TINY_L];
    static size_t lengths[SAMPLES];
    dlm_model *model = random_model(TINY_V, TINY_L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.3, NULL);
    REQUIRE(model != NULL);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        dlm_refine_options options = dlm_refine_defaults();
        options.low_confidence = true;
        options.frac = cases[c].frac;
        options.passes = cases[c].passes;
        options.seed = c;
        check_context("case %zu", c);
        walk w = {.options = &options,
                  .table = tiny_enumerate(model, options.temperature),
                  .fixed = cases[c].fixed};
        double confidence[TINY_L];
        size_t seen[TINY_TEXTS] = {0};
        score_by_hand(&w, cases[c].start, confidence);
        follow_unsure(&w, cases[c].start, confidence, options.passes, 1);
        for (size_t s = 0; s < SAMPLES; s++) {
            lengths[s] = TINY_L;
            memcpy(ids + s * TINY_L, cases[c].start, TINY_L * sizeof *ids);
            memcpy(given + s * TINY_L, cases[c].fixed, TINY_L);
        }
        dlm_error err;
        REQUIRE_OK(dlm_refine(model, &options, 0, SAMPLES, lengths, ids, given, &err), &err);
        for (size_t s = 0; s < SAMPLES; s++) seen[tiny_text(ids + s * TINY_L)]++;
        check_law(w.law, seen, SAMPLES);
    }
    dlm_model_free(model);
}

static bool keep_confidence(void *user, const dlm_sample_step *step) {
    float *kept = user;
    if (step->step == 0) memcpy(kept, step->confidence, step->offsets[step->n] * sizeof *kept);
    return true;
}

/* Of nine positions, two fixed and one masked, the parts are every fourth of the other six. */
TEST(scores_of_given_tokens) {
    enum { L = 9, V = 20 };
    dlm_model *model = random_model(V, L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.7, NULL);
    REQUIRE(model != NULL);
    const int32_t start[L] = {5, 6, 2, 7, 8, 9, 10, 11, 12};
    const uint8_t fixed[L] = {0, 1, 0, 0, 0, 0, 0, 0, 1};
    static const size_t parts[4][2] = {{0, 6}, {3, 7}, {4, 4}, {5, 5}};
    const size_t length = L;
    for (size_t zero = 0; zero < 2; zero++) {
        int32_t ids[L];
        float got[L];
        dlm_refine_options options = dlm_refine_defaults();
        options.low_confidence = true;
        options.temperature = zero ? 0 : 0.7;
        options.on_step = keep_confidence;
        options.user = got;
        memcpy(ids, start, sizeof ids);
        dlm_error err;
        REQUIRE_OK(dlm_refine(model, &options, 0, 1, &length, ids, fixed, &err), &err);
        CHECK_MEM_EQ(ids, start, sizeof ids); /* stopped */
        CHECK_CLOSE(got[1], 1, 0);
        CHECK_CLOSE(got[8], 1, 0);
        CHECK_CLOSE(got[2], 0, 0);
        for (size_t part = 0; part < 4; part++) {
            float logits[L * V];
            memcpy(ids, start, sizeof ids);
            ids[parts[part][0]] = ids[parts[part][1]] = 2;
            const double share = (parts[part][0] == parts[part][1] ? 2.0 : 3.0) / L;
            const float t = (float)(2 / 3.14159265358979323846 * acos(1 - share));
            REQUIRE_OK(dlm_model_logits(model, ids, &length, 1, &t, logits, &err), &err);
            for (size_t j = 0; j < 2; j++) {
                const size_t p = parts[part][j];
                double sum = 0;
                for (size_t v = 3; v < V; v++)
                    sum += exp((double)(logits[p * V + v] - logits[p * V + (size_t)start[p]]) /
                               (zero ? 1 : 0.7));
                check_context("temperature %zu, position %zu", zero, p);
                CHECK_CLOSE(got[p], 1 / sum, 1e-5);
            }
        }
    }
    dlm_model_free(model);
}

/* ---- allowed tokens, long texts ----------------------------------------------------------------------- */

static void only_nine(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    const int32_t *const *texts = user;
    CHECK(ids == texts[sequence]);
    if (position % 2 == 0)
        for (size_t i = 0; i < 20; i++) allowed[i] = i == 9;
}

TEST(banned_and_allowed_tokens) {
    enum { L = 12 };
    dlm_model *model = random_model(20, L, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.2, NULL);
    REQUIRE(model != NULL);
    static const int32_t banned[2] = {3, 7};
    int32_t ids[L];
    const int32_t *texts[1] = {ids};
    dlm_refine_options options = dlm_refine_defaults();
    const size_t length = L;
    dlm_error err;
    for (size_t i = 0; i < L; i++) ids[i] = 3;
    options.frac = 1;
    options.passes = 5;
    options.banned = banned;
    options.banned_n = 2;
    options.allow = only_nine;
    options.allow_user = texts;
    REQUIRE_OK(dlm_refine(model, &options, 0, 1, &length, ids, NULL, &err), &err);
    for (size_t i = 0; i < L; i++) {
        CHECK(ids[i] != 3 && ids[i] != 7);
        if (i % 2 == 0) CHECK_INT_EQ(ids[i], 9);
    }
    dlm_model_free(model);
}

/* A long text beside short ones, window by window as by hand: at temperature 0 and with all of a window's
 * part masked nothing is drawn. */
TEST(long_texts) {
    enum { L = 16, V = 40, N = 50 };
    dlm_model *model = random_model(V, L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.8, NULL);
    REQUIRE(model != NULL);
    static const size_t contexts[] = {0, 1, 5, 15};
    for (size_t c = 0; c < 4; c++) {
        const size_t context = contexts[c] > 0 ? contexts[c] : L / 2, part = L - context, limit = L;
        const size_t lengths[3] = {7, N, L};
        int32_t ids[7 + N + L], want[N], before[N];
        uint8_t fixed[7 + N + L] = {0};
        for (size_t i = 0; i < 7 + N + L; i++) ids[i] = 3 + (int32_t)(i * 11 % (V - 3));
        ids[7 + 30] = ids[7 + 31] = 2;
        fixed[7 + 20] = 1;
        memcpy(want, ids + 7, sizeof want);
        memcpy(before, want, sizeof want);
        dlm_refine_options options = dlm_refine_defaults();
        options.passes = 2;
        options.frac = 1;
        options.temperature = 0;
        options.context = contexts[c];
        dlm_error err;
        check_context("context %zu", context);
        REQUIRE_OK(dlm_refine(model, &options, 4, 3, lengths, ids, fixed, &err), &err);
        for (size_t at = 0; at < N; at += part) {
            size_t start = at > context / 2 ? at - context / 2 : 0;
            if (start > N - L) start = N - L;
            uint8_t window[L];
            for (size_t i = 0; i < L; i++)
                window[i] =
                    start + i == 20 || ((start + i < at || start + i >= at + part) && want[start + i] != 2);
            REQUIRE_OK(dlm_refine(model, &options, 4, 1, &limit, want + start, window, &err), &err);
        }
        CHECK_MEM_EQ(ids + 7, want, sizeof want);
        CHECK_INT_EQ(ids[7 + 20], before[20]);
        CHECK(memcmp(want, before, sizeof want) != 0);
        int32_t alone[L];
        for (size_t i = 0; i < L; i++) alone[i] = 3 + (int32_t)((i + 7 + N) * 11 % (V - 3));
        REQUIRE_OK(dlm_refine(model, &options, 6, 1, &lengths[2], alone, NULL, &err), &err);
        CHECK_MEM_EQ(ids + 7 + N, alone, sizeof alone);
    }
    dlm_model_free(model);
}

/* Every token of a long text is as likely to be masked as one of a short text. */
TEST(share_masked_in_long_texts) {
    enum { L = 16, V = 40, N = 70, TIMES = 300 };
    dlm_model *model = random_model(V, L, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0, NULL);
    REQUIRE(model != NULL);
    const size_t length = N;
    size_t changed[N] = {0}, alike = 0;
    dlm_refine_options options = dlm_refine_defaults();
    options.passes = 1;
    options.frac = 0.3;
    for (size_t t = 0; t < TIMES; t++) {
        int32_t ids[N];
        bool other[N];
        for (size_t i = 0; i < N; i++) ids[i] = 3;
        dlm_error err;
        REQUIRE_OK(dlm_refine(model, &options, t, 1, &length, ids, NULL, &err), &err);
        for (size_t i = 0; i < N; i++) changed[i] += other[i] = ids[i] != 3;
        for (size_t i = 0; i + 16 < N; i++) alike += other[i] && ids[i + 8] == ids[i];
    }
    /* 0.3, but for one draw in 37 that gives the same token */
    const double p = 0.3 * 36 / 37;
    size_t all = 0;
    for (size_t i = 0; i < N; i++) {
        check_context("position %zu", i);
        CHECK_CLOSE((double)changed[i] / TIMES, p, 4.5 * sqrt(p * (1 - p) / TIMES));
        all += changed[i];
    }
    CHECK_CLOSE((double)all / (N * TIMES), p, 4 * sqrt(p * (1 - p) / (N * TIMES)));
    CHECK((double)alike < 0.05 * (double)all); /* windows draw from streams of their own */
    dlm_model_free(model);
}

typedef struct long_view {
    size_t calls, step, texts, stop_at;
} long_view;

static bool look(void *user, const dlm_sample_step *step) {
    long_view *v = user;
    CHECK_INT_EQ(step->n, 1);
    CHECK_INT_EQ(step->offsets[1], step->first == 0 ? 30 : 8);
    if (step->step == 0)
        v->texts++;
    else
        CHECK_INT_EQ(step->step, v->step + 1);
    v->step = step->step;
    v->calls++;
    return v->stop_at == v->calls;
}

TEST(callback_of_long_texts) {
    enum { L = 16 };
    dlm_model *model = random_model(20, L, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.3, NULL);
    REQUIRE(model != NULL);
    const size_t lengths[2] = {30, 8};
    int32_t ids[38];
    const int32_t *texts[2] = {ids, ids + 30};
    long_view v = {0};
    dlm_refine_options options = dlm_refine_defaults();
    options.passes = 3;
    options.on_step = look;
    options.user = &v;
    options.allow = only_nine;
    options.allow_user = texts;
    for (size_t i = 0; i < 38; i++) ids[i] = 5;
    dlm_error err;
    REQUIRE_OK(dlm_refine(model, &options, 0, 2, lengths, ids, NULL, &err), &err);
    CHECK_INT_EQ(v.texts, 2);
    CHECK_INT_EQ(v.calls, 1 + 4 * 3 + 1 + 3); /* four windows of 8 new positions, then the short text */
    v = (long_view){.stop_at = 6};
    REQUIRE_OK(dlm_refine(model, &options, 0, 2, lengths, ids, NULL, &err), &err);
    CHECK_INT_EQ(v.calls, 6);
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
                 {{.passes = 1, .frac = 0.1, .temperature = -2}, "temperature -2 "},
                 {{.passes = 1, .frac = 0.1, .temperature = 1, .context = 4}, "a context of 4 tokens"}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        dlm_error err;
        CHECK_STATUS(dlm_refine(model, &cases[c].options, 0, 1, &L, ids, NULL, &err), DLM_ARGUMENT, &err);
        CHECK_SAYS(&err, cases[c].says);
    }
    dlm_model_free(model);
}
