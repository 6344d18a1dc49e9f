/* The sampler against PyTorch's greedy runs, and against exact laws: every order, reveal schedule and
 * corrector on a case that can be enumerated. */
#include "sampling_fixture.h"

#include "diffusion/sampler.h"

/* ---- PyTorch's runs that draw no random number --------------------------------------------------------- */

typedef struct frames {
    const json_t *want; /* one for each step */
    size_t seen, L;
} frames;

static bool check_frame(void *user, const dlm_sample_step *step) {
    frames *f = user;
    if (step->step == 0) return false;
    const json_t *frame = json_array_get(f->want, f->seen++);
    const json_t *ids = json_array_get(json_object_get(frame, "ids"), 0);
    const json_t *confidence = json_array_get(json_object_get(frame, "conf"), 0);
    CHECK_INT_EQ(step->step, f->seen);
    CHECK_INT_EQ(json_array_size(ids), f->L);
    for (size_t i = 0; i < f->L; i++) {
        CHECK_INT_EQ(step->ids[i], json_integer_value(json_array_get(ids, i)));
        CHECK_CLOSE(step->confidence[i], json_number_value(json_array_get(confidence, i)), 5e-5);
    }
    return false;
}

static double number_of(const json_t *run, const char *key, double otherwise) {
    const json_t *value = json_object_get(run, key);
    return value == NULL ? otherwise : json_number_value(value);
}

static bool named(const json_t *run, const char *key, const char *name) {
    const char *value = json_string_value(json_object_get(run, key));
    return value != NULL && strcmp(value, name) == 0;
}

static void check_run(const char *isa, const char *folder, double head_scale, const json_t *run) {
    dlm_sample_options options = dlm_sample_defaults();
    const size_t L = (size_t)number_of(run, "length", 0);
    options.steps = (size_t)number_of(run, "steps", 0);
    options.temperature = number_of(run, "temperature", 0.9);
    options.confidence_threshold = number_of(run, "threshold", -1);
    options.corrector_frac = number_of(run, "corrector_frac", 0);
    options.corrector_every = (size_t)number_of(run, "corrector_every", 2);
    if (named(run, "corrector_mode", "low_confidence")) options.corrector_mode = DLM_CORRECTOR_LOW_CONFIDENCE;
    if (named(run, "reveal", "linear")) options.reveal = DLM_REVEAL_LINEAR;
    dlm_model *model = scaled_model(
        folder, head_scale, named(run, "schedule", "linear") ? DLM_SCHEDULE_LINEAR : DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    frames f = {.want = json_object_get(run, "frames"), .L = L};
    options.on_step = check_frame;
    options.user = &f;
    int32_t *ids = dlm__calloc(L, sizeof *ids);
    for (size_t i = 0; i < L; i++) ids[i] = model->mask_id;
    dlm_error err;
    CHECK_OK(dlm__sample(isa, model, &options, 0, 1, &L, ids, NULL, NULL, NULL, &err), &err);
    CHECK_INT_EQ(f.seen, json_array_size(f.want));
    free(ids);
    dlm_model_free(model);
}

TEST(greedy_frames_as_in_pytorch) {
    static const char *const folders[] = {"tiny", "odd", "plain", "halfway"};
    static const char *const isas[] = {NULL, "reference"};
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
        json_t *greedy = fixture_json(folders[f], "greedy.json"), *run;
        REQUIRE(greedy != NULL);
        const json_t *runs = json_object_get(greedy, "runs");
        const double head_scale = json_number_value(json_object_get(greedy, "head_scale"));
        size_t r;
        dlm_set_threads(f == 0 ? 2 : 1);
        CHECK(json_array_size(runs) > 0);
        json_array_foreach(runs, r, run) for (size_t i = 0; i < 2; i++) {
            check_context("%s, run %zu, %s", folders[f], r, isas[i] == NULL ? "best" : isas[i]);
            check_run(isas[i], folders[f], head_scale, run);
        }
        json_decref(greedy);
    }
}

/* ---- how many positions each step reveals ------------------------------------------------------------- */

static bool count_revealed(void *user, const dlm_sample_step *step) {
    size_t *masked = user;
    masked[step->step] = 0;
    for (size_t i = 0; i < step->offsets[step->n]; i++) masked[step->step] += step->ids[i] == step->mask_id;
    return false;
}

TEST(reveal_counts_as_in_python) {
    enum { LONGEST = 300, STEPS = 512 };
    json_t *all = fixture_json(".", "schedule.json"), *run;
    REQUIRE(all != NULL);
    dlm_model *model = random_model(5, LONGEST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    size_t index, checked = 0;
    json_array_foreach(json_object_get(all, "reveal"), index, run) {
        const size_t n = (size_t)number_of(run, "n", 0);
        dlm_sample_options options = dlm_sample_defaults();
        options.steps = (size_t)number_of(run, "steps", 0);
        options.reveal = named(run, "reveal", "linear") ? DLM_REVEAL_LINEAR : DLM_REVEAL_COSINE;
        options.order = (dlm_order)(index % 3);
        if (n > 40 || options.steps > 40) continue; /* test_process holds all of them */
        size_t masked[STEPS];
        options.on_step = count_revealed;
        options.user = masked;
        int32_t ids[LONGEST];
        for (size_t i = 0; i < n; i++) ids[i] = model->mask_id;
        size_t forwards;
        dlm_error err;
        check_context("n %zu, %zu steps, %s", n, options.steps, options.reveal ? "linear" : "cosine");
        REQUIRE_OK(dlm_sample(model, &options, 0, 1, &n, ids, NULL, NULL, &forwards, &err), &err);
        const json_t *counts = json_object_get(run, "counts");
        CHECK_INT_EQ(forwards, json_array_size(counts));
        for (size_t i = 0; i < json_array_size(counts); i++)
            CHECK_INT_EQ(masked[i] - masked[i + 1], json_integer_value(json_array_get(counts, i)));
        checked++;
    }
    CHECK(checked > 4);
    json_decref(all);
    dlm_model_free(model);
}

TEST(reveals_per_step) {
    enum { L = 11, FIXED = 3 };
    static const size_t each[] = {1, 2, 4, 11, 1000};
    dlm_model *model = random_model(5, L, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    for (size_t e = 0; e < sizeof each / sizeof each[0]; e++)
        for (int order = DLM_ORDER_CONFIDENCE; order <= DLM_ORDER_LEFT_TO_RIGHT; order++)
            for (size_t given = 0; given <= FIXED; given += FIXED) {
                size_t masked[L + 1], forwards, left = L - given;
                const size_t n = L;
                dlm_sample_options options = dlm_sample_defaults();
                options.order = (dlm_order)order;
                options.reveals_per_step = each[e];
                options.on_step = count_revealed;
                options.user = masked;
                int32_t ids[L];
                for (size_t i = 0; i < L; i++) ids[i] = i < given ? 3 : model->mask_id;
                dlm_error err;
                check_context("%zu a step, order %d, %zu given", each[e], order, given);
                REQUIRE_OK(dlm_sample(model, &options, 0, 1, &n, ids, NULL, NULL, &forwards, &err), &err);
                CHECK_INT_EQ(forwards, (left + each[e] - 1) / each[e]);
                for (size_t i = 0; i < forwards; i++) {
                    CHECK_INT_EQ(masked[i], left);
                    left -= left < each[e] ? left : each[e];
                }
                CHECK_INT_EQ(masked[forwards], 0);
            }
    dlm_model_free(model);
}

/* ---- exact laws --------------------------------------------------------------------------------------- */

typedef struct walk {
    const dlm_sample_options *options;
    const tiny_table *table;
    uint8_t fixed[TINY_L];
    double law[TINY_TEXTS];
} walk;

typedef struct path {
    int32_t ids[TINY_L];
    double confidence[TINY_L];
    double probability;
    size_t step;
    bool corrected; /* this step's corrector has run */
} path;

static void follow(walk *w, path at);

static size_t bits_of(size_t set) {
    size_t n = 0;
    for (; set > 0; set &= set - 1) n++;
    return n;
}

/* All tokens at the positions of `set`, by what the model says in the state of `at`, which has them masked.
 */
static void draw_tokens(walk *w, const path *at, size_t set, const path *then) {
    const size_t state = tiny_state(at->ids);
    size_t combinations = 1;
    for (size_t i = 0; i < bits_of(set); i++) combinations *= TINY_TOKENS;
    for (size_t c = 0; c < combinations; c++) {
        path next = *then;
        size_t rest = c;
        for (size_t i = 0; i < TINY_L; i++) {
            if (!(set >> i & 1)) continue;
            next.ids[i] = TINY_FIRST + (int32_t)(rest % TINY_TOKENS);
            next.confidence[i] = tiny_confidence(w->table, state, i);
            next.probability *= w->table->p[state][i][rest % TINY_TOKENS];
            rest /= TINY_TOKENS;
        }
        follow(w, next);
    }
}

/* Probability that k draws without replacement, by weight, from the positions of `from` give the set
 * `chosen`. */
static double without_replacement(const double weight[TINY_L], size_t from, size_t chosen) {
    if (chosen == 0) return 1;
    double total = 0, probability = 0;
    for (size_t i = 0; i < TINY_L; i++)
        if (from >> i & 1) total += weight[i];
    for (size_t i = 0; i < TINY_L; i++)
        if (chosen >> i & 1)
            probability += weight[i] / total *
                           without_replacement(weight, from & ~((size_t)1 << i), chosen & ~((size_t)1 << i));
    return probability;
}

/* The k of `from` with the largest (or smallest) values. */
static size_t extreme(const double value[TINY_L], size_t from, size_t k, bool largest) {
    size_t set = 0;
    for (; k > 0; k--) {
        size_t best = TINY_L;
        for (size_t i = 0; i < TINY_L; i++) {
            if (!(from >> i & 1) || set >> i & 1) continue;
            if (best == TINY_L || (largest ? value[i] > value[best] : value[i] < value[best])) best = i;
        }
        set |= (size_t)1 << best;
    }
    return set;
}

static size_t above(const double value[TINY_L], size_t from, double threshold) {
    size_t set = extreme(value, from, 1, true);
    for (size_t i = 0; i < TINY_L; i++)
        if (from >> i & 1 && value[i] >= threshold) set |= (size_t)1 << i;
    return set;
}

static void predict(walk *w, path at) {
    const dlm_sample_options *o = w->options;
    size_t masked = 0;
    double confidence[TINY_L], weight[TINY_L];
    for (size_t i = 0; i < TINY_L; i++) {
        if (at.ids[i] == TINY_MASK) masked |= (size_t)1 << i;
        confidence[i] = tiny_confidence(w->table, tiny_state(at.ids), i);
        weight[i] = o->order == DLM_ORDER_RANDOM ? 1 : confidence[i];
    }
    const size_t left = bits_of(masked);
    const double share = (double)(at.step + 1) / (double)o->steps;
    const size_t k = left == 0 ? 0 : dlm__reveal_count(o->reveal, TINY_L, share, TINY_L - left);
    for (size_t set = 0; set < 1 << TINY_L; set++) {
        double probability;
        if ((set & masked) != set) continue;
        if (left > 0 && o->confidence_threshold >= 0)
            probability =
                set ==
                (at.step + 1 == o->steps ? masked : above(confidence, masked, o->confidence_threshold));
        else if (bits_of(set) != k)
            continue;
        else if (o->order == DLM_ORDER_CONFIDENCE)
            probability = set == extreme(confidence, masked, k, true);
        else
            probability = without_replacement(weight, masked, set);
        if (probability <= 0) continue;
        path next = at;
        next.probability *= probability;
        next.corrected = false;
        next.step++;
        draw_tokens(w, &at, set, &next);
    }
}

static void correct(walk *w, path at) {
    const dlm_sample_options *o = w->options;
    size_t committed = 0;
    for (size_t i = 0; i < TINY_L; i++)
        if (at.ids[i] != TINY_MASK && !w->fixed[i]) committed |= (size_t)1 << i;
    const double share = o->corrector_frac * (double)bits_of(committed);
    const size_t n = bits_of(committed), k = share > 1 ? (size_t)rint(share) : 1;
    for (size_t set = 0; set < 1 << TINY_L; set++) {
        if ((set & committed) != set) continue;
        double probability = pow(o->corrector_frac, (double)bits_of(set)) *
                             pow(1 - o->corrector_frac, (double)(n - bits_of(set)));
        if (o->corrector_mode == DLM_CORRECTOR_LOW_CONFIDENCE)
            probability = set == (n == 0 ? 0 : extreme(at.confidence, committed, k, false));
        path masked = at;
        masked.corrected = true;
        masked.probability *= probability;
        for (size_t i = 0; i < TINY_L; i++)
            if (set >> i & 1) masked.ids[i] = TINY_MASK;
        if (probability > 0) draw_tokens(w, &masked, set, &masked);
    }
}

static void follow(walk *w, path at) {
    const dlm_sample_options *o = w->options;
    if (at.step > 0 && !at.corrected) {
        at.corrected = true;
        if (o->corrector_frac > 0 && at.step % o->corrector_every == 0) {
            correct(w, at);
            return;
        }
    }
    if (at.step < o->steps)
        predict(w, at);
    else
        w->law[tiny_text(at.ids)] += at.probability;
}

/* Texts of `samples` samples from the state `start` against their exact law. */
static void check_options_law(const dlm_model *model, const dlm_sample_options *options,
                              const int32_t start[TINY_L], const uint8_t fixed[TINY_L]) {
    enum { SAMPLES = 8000 };
    static int32_t ids[SAMPLES * TINY_L];
    static uint8_t given[SAMPLES * TINY_L];
    static size_t lengths[SAMPLES];
    size_t seen[TINY_TEXTS] = {0};
    walk w = {.options = options, .table = tiny_enumerate(model, options->temperature)};
    path at = {.probability = 1};
    memcpy(at.ids, start, sizeof at.ids);
    memcpy(w.fixed, fixed, sizeof w.fixed);
    follow(&w, at);
    for (size_t s = 0; s < SAMPLES; s++) {
        lengths[s] = TINY_L;
        memcpy(ids + s * TINY_L, start, TINY_L * sizeof *ids);
        memcpy(given + s * TINY_L, fixed, TINY_L);
    }
    dlm_error err;
    REQUIRE_OK(dlm_sample(model, options, 0, SAMPLES, lengths, ids, given, NULL, NULL, &err), &err);
    for (size_t s = 0; s < SAMPLES; s++) {
        for (size_t i = 0; i < TINY_L; i++) {
            REQUIRE(ids[s * TINY_L + i] >= TINY_FIRST && ids[s * TINY_L + i] < TINY_V);
            if (fixed[i]) CHECK_INT_EQ(ids[s * TINY_L + i], start[i]);
        }
        seen[tiny_text(ids + s * TINY_L)]++;
    }
    check_law(w.law, seen, SAMPLES);
}

static const int32_t all_masked[TINY_L] = {TINY_MASK, TINY_MASK, TINY_MASK};
static const uint8_t none_fixed[TINY_L] = {0, 0, 0};

static dlm_model *tiny_model(dlm_schedule schedule) {
    return random_model(TINY_V, TINY_L, DLM_TIME_ADALN, schedule, 0.3, NULL);
}

TEST(law_of_each_order) {
    static const struct {
        size_t steps;
        dlm_reveal reveal;
    } plans[] = {
        {2, DLM_REVEAL_COSINE}, {2, DLM_REVEAL_LINEAR}, {3, DLM_REVEAL_COSINE}}; /* 1+2, 2+1, 1+1+1 */
    for (int schedule = 0; schedule < 2; schedule++) {
        dlm_model *model = tiny_model((dlm_schedule)schedule);
        REQUIRE(model != NULL);
        for (int order = 0; order < 3; order++)
            for (size_t p = 0; p < 3; p++) {
                dlm_sample_options options = dlm_sample_defaults();
                options.order = (dlm_order)order;
                options.reveal = plans[p].reveal;
                options.steps = plans[p].steps;
                options.seed = 10 * p + (size_t)order;
                check_context("schedule %d, order %d, plan %zu", schedule, order, p);
                check_options_law(model, &options, all_masked, none_fixed);
            }
        dlm_model_free(model);
    }
}

TEST(law_at_other_temperatures) {
    static const double temperatures[] = {0.3, 1, 2.5};
    dlm_model *model = tiny_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    for (size_t t = 0; t < 3; t++) {
        dlm_sample_options options = dlm_sample_defaults();
        options.temperature = temperatures[t];
        options.order = DLM_ORDER_CONFIDENCE_WEIGHTED;
        options.steps = 3;
        check_context("temperature %g", temperatures[t]);
        check_options_law(model, &options, all_masked, none_fixed);
    }
    dlm_model_free(model);
}

TEST(law_of_the_threshold) {
    static const double thresholds[] = {0, 0.75, 0.8, 1};
    dlm_model *model = tiny_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    for (size_t t = 0; t < 4; t++)
        for (size_t steps = 1; steps <= 3; steps++) {
            dlm_sample_options options = dlm_sample_defaults();
            options.confidence_threshold = thresholds[t];
            options.order = (dlm_order)(t % 3); /* has no effect */
            options.steps = steps;
            check_context("threshold %g, %zu steps", thresholds[t], steps);
            check_options_law(model, &options, all_masked, none_fixed);
        }
    dlm_model_free(model);
}

TEST(law_of_the_corrector) {
    static const struct {
        double fraction;
        size_t every, steps;
    } plans[] = {{0.35, 1, 2}, {0.35, 2, 4}, {0.5, 1, 3}, {0.5, 2, 2}, {1, 1, 2}};
    dlm_model *model = tiny_model(DLM_SCHEDULE_LINEAR);
    REQUIRE(model != NULL);
    for (int mode = 0; mode < 2; mode++)
        for (size_t p = 0; p < sizeof plans / sizeof plans[0]; p++) {
            dlm_sample_options options = dlm_sample_defaults();
            options.corrector_mode = (dlm_corrector)mode;
            options.corrector_frac = plans[p].fraction;
            options.corrector_every = plans[p].every;
            options.steps = plans[p].steps;
            options.order = (dlm_order)(p % 3);
            options.seed = p;
            check_context("mode %d, plan %zu", mode, p);
            check_options_law(model, &options, all_masked, none_fixed);
        }
    dlm_model_free(model);
}

/* A prompt, and a token that is given but not fixed: the corrector takes it first. */
TEST(law_with_given_tokens) {
    static const int32_t start[TINY_L] = {TINY_MASK, 5, 3};
    static const uint8_t fixed[TINY_L] = {0, 1, 0};
    dlm_model *model = tiny_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    for (int mode = 0; mode < 3; mode++) {
        dlm_sample_options options = dlm_sample_defaults();
        options.steps = 2;
        options.corrector_frac = mode == 2 ? 0 : 0.5;
        options.corrector_every = 1;
        options.corrector_mode = (dlm_corrector)(mode % 2);
        check_context("mode %d", mode);
        check_options_law(model, &options, start, fixed);
    }
    dlm_model_free(model);
}
