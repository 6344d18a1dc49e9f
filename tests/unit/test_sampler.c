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

/* ---- how many positions each step reveals ---------------------------------------------------------------
 */

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

/* ---- exact laws ------------------------------------------------------------------------------------------
 */

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
    const size_t k = left == 0 ? 0 : dlm__reveal_count(o->reveal, TINY_L, o->steps, at.step, TINY_L - left);
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

/* ---- many sequences at once ------------------------------------------------------------------------------
 */

enum { MANY = 400, MANY_LONGEST = 12 };

typedef struct many {
    size_t n;
    size_t lengths[MANY], offsets[MANY + 1];
    int32_t ids[MANY * MANY_LONGEST];
    float confidence[MANY * MANY_LONGEST];
} many;

static void set_up_many(many *m, size_t n, int32_t mask_id) {
    m->n = n;
    m->offsets[0] = 0;
    for (size_t b = 0; b < n; b++) {
        m->lengths[b] = 1 + (b * 7 + 3) % MANY_LONGEST;
        m->offsets[b + 1] = m->offsets[b] + m->lengths[b];
    }
    for (size_t i = 0; i < m->offsets[n]; i++) m->ids[i] = mask_id;
}

/* 400 sequences are more than one pass holds; each is the same alone. On the plain loops, where a row's
 * result does not depend on the others. */
TEST(a_sample_does_not_depend_on_the_others) {
    static many m;
    dlm_model *model = random_model(20, MANY_LONGEST, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.7, NULL);
    REQUIRE(model != NULL);
    for (int order = 0; order < 3; order++) {
        dlm_sample_options options = dlm_sample_defaults();
        options.seed = 5;
        options.order = (dlm_order)order;
        options.steps = 6;
        options.corrector_frac = 0.3;
        dlm_error err;
        set_up_many(&m, MANY, model->mask_id);
        REQUIRE_OK(dlm__sample("reference", model, &options, 1000, MANY, m.lengths, m.ids, NULL, m.confidence,
                               NULL, &err),
                   &err);
        for (size_t b = 0; b < MANY; b += 37) {
            int32_t ids[MANY_LONGEST];
            float confidence[MANY_LONGEST];
            for (size_t i = 0; i < m.lengths[b]; i++) ids[i] = model->mask_id;
            check_context("order %d, sample %zu", order, b);
            CHECK_OK(dlm__sample("reference", model, &options, 1000 + b, 1, &m.lengths[b], ids, NULL,
                                 confidence, NULL, &err),
                     &err);
            CHECK_MEM_EQ(ids, m.ids + m.offsets[b], m.lengths[b] * sizeof *ids);
            CHECK_MEM_EQ(confidence, m.confidence + m.offsets[b], m.lengths[b] * sizeof *confidence);
        }
        /* Another seed or index gives other texts. */
        static many other;
        set_up_many(&other, MANY, model->mask_id);
        options.seed = 6;
        CHECK_OK(dlm__sample("reference", model, &options, 1000, MANY, other.lengths, other.ids, NULL, NULL,
                             NULL, &err),
                 &err);
        CHECK(memcmp(other.ids, m.ids, m.offsets[MANY] * sizeof *m.ids) != 0);
    }
    dlm_model_free(model);
}

/* On the instruction set in use the logits may differ in their last bits with the number of rows, and the
 * texts hardly ever. */
TEST(nearly_so_on_every_instruction_set) {
    static many m;
    dlm_model *model = random_model(20, MANY_LONGEST, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.7, NULL);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    dlm_error err;
    set_up_many(&m, 60, model->mask_id);
    REQUIRE_OK(dlm_sample(model, &options, 0, 60, m.lengths, m.ids, NULL, m.confidence, NULL, &err), &err);
    for (size_t b = 0; b < 60; b += 7) {
        int32_t ids[MANY_LONGEST];
        float confidence[MANY_LONGEST];
        /* As many steps as the longest of all, which is not alone here. */
        options.steps = MANY_LONGEST;
        for (size_t i = 0; i < m.lengths[b]; i++) ids[i] = model->mask_id;
        CHECK_OK(dlm_sample(model, &options, b, 1, &m.lengths[b], ids, NULL, confidence, NULL, &err), &err);
        CHECK_MEM_EQ(ids, m.ids + m.offsets[b], m.lengths[b] * sizeof *ids);
        CHECK_ALL_CLOSE(confidence, m.confidence + m.offsets[b], m.lengths[b], 1e-5);
    }
    dlm_model_free(model);
}

/* Two sequences with one step each: the forward pass of a finished sequence is not repeated. */
TEST(finished_sequences_leave) {
    static many m;
    dlm_model *model = random_model(20, MANY_LONGEST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.7, NULL);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    size_t forwards, lengths[2] = {1, 5};
    int32_t ids[6] = {2, 2, 2, 2, 2, 2};
    dlm_error err;
    options.steps = 100;
    CHECK_OK(dlm_sample(model, &options, 0, 2, lengths, ids, NULL, NULL, &forwards, &err), &err);
    CHECK_INT_EQ(forwards, 5); /* at least one position a step, and none when nothing is left */
    set_up_many(&m, 0, 0);
    CHECK_OK(dlm_sample(model, &options, 0, 0, NULL, NULL, NULL, NULL, &forwards, &err), &err);
    CHECK_INT_EQ(forwards, 0);
    dlm_model_free(model);
}

/* ---- banned ids -------------------------------------------------------------------------------------------
 */

TEST(banned_ids_are_never_drawn) {
    static many m;
    dlm_model *model = random_model(7, MANY_LONGEST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    float *bias = model->network.params + dlm__layout_find(model->layout, "final_layer.linear.bias")->offset;
    for (size_t i = 0; i < 3; i++) bias[i] = 60;
    for (int order = 0; order < 3; order++)
        for (int greedy = 0; greedy < 2; greedy++) {
            dlm_sample_options options = dlm_sample_defaults();
            options.order = (dlm_order)order;
            if (greedy) options.temperature = 0;
            options.corrector_frac = 0.2;
            dlm_error err;
            set_up_many(&m, MANY, model->mask_id);
            CHECK_OK(dlm_sample(model, &options, 0, MANY, m.lengths, m.ids, NULL, m.confidence, NULL, &err),
                     &err);
            for (size_t i = 0; i < m.offsets[MANY]; i++) {
                REQUIRE(m.ids[i] >= 3 && m.ids[i] < 7);
                REQUIRE(m.confidence[i] >= 0.25F - 1e-6F &&
                        m.confidence[i] <= 1.0F + 1e-6F); /* of four tokens */
            }
        }
    dlm_model_free(model);
}

/* ---- the step callback ------------------------------------------------------------------------------------
 */

typedef struct script {
    size_t calls, stop_at, last_step, last_steps;
    size_t remask_at; /* masks position 0 whenever the step is this or more */
    int32_t set_to;   /* at step 1, position 1 */
    bool touch_fixed;
    size_t masked[64];
    int32_t at_stop[8];
    float confidence_at_0;
} script;

static bool play(void *user, const dlm_sample_step *step) {
    script *s = user;
    s->calls++;
    s->last_step = step->step;
    s->last_steps = step->steps;
    s->masked[step->step] = 0;
    for (size_t i = 0; i < step->offsets[step->n]; i++)
        s->masked[step->step] += step->ids[i] == step->mask_id;
    if (step->step >= s->remask_at) step->ids[0] = step->mask_id;
    if (step->step == s->remask_at + 1) s->confidence_at_0 = step->confidence[0];
    if (step->step == 1 && s->set_to != 0) {
        step->ids[1] = s->set_to;
        step->confidence[1] = 0.5F;
    }
    if (s->touch_fixed) {
        step->ids[2] = 4;
        step->confidence[2] = 0.1F;
    }
    if (step->step != s->stop_at) return false;
    memcpy(s->at_stop, step->ids, step->offsets[step->n] * sizeof *s->at_stop);
    return true;
}

static dlm_status sample_eight(const dlm_model *model, script *s, int32_t ids[8], float confidence[8],
                               const uint8_t *fixed, dlm_error *err) {
    const size_t L = 8;
    dlm_sample_options options = dlm_sample_defaults();
    options.on_step = play;
    options.user = s;
    return dlm_sample(model, &options, 0, 1, &L, ids, fixed, confidence, NULL, err);
}

static void set_masked(int32_t ids[8]) {
    for (size_t i = 0; i < 8; i++) ids[i] = 2;
}

TEST(callback_sees_stops_and_changes) {
    enum { NEVER = 1000 };
    dlm_model *model = random_model(9, 8, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    int32_t ids[8];
    float confidence[8];
    dlm_error err;

    script plain = {.stop_at = NEVER, .remask_at = NEVER};
    set_masked(ids);
    CHECK_OK(sample_eight(model, &plain, ids, confidence, NULL, &err), &err);
    CHECK_INT_EQ(plain.calls, 9);
    CHECK_INT_EQ(plain.masked[0], 8);
    CHECK_INT_EQ(plain.masked[8], 0);
    CHECK_INT_EQ(plain.last_steps, 8);

    script stops = {.stop_at = 3, .remask_at = NEVER};
    set_masked(ids);
    CHECK_OK(sample_eight(model, &stops, ids, confidence, NULL, &err), &err);
    CHECK_INT_EQ(stops.calls, 4);
    CHECK_MEM_EQ(ids, stops.at_stop, sizeof ids);
    for (size_t i = 0; i < 8; i++) CHECK((ids[i] == 2) == (confidence[i] == 0));

    script at_once = {.stop_at = 0, .remask_at = NEVER};
    set_masked(ids);
    CHECK_OK(sample_eight(model, &at_once, ids, confidence, NULL, &err), &err);
    CHECK_INT_EQ(at_once.calls, 1);
    for (size_t i = 0; i < 8; i++) CHECK_INT_EQ(ids[i], 2);

    script sets = {.stop_at = NEVER, .remask_at = NEVER, .set_to = 7};
    set_masked(ids);
    CHECK_OK(sample_eight(model, &sets, ids, confidence, NULL, &err), &err);
    CHECK_INT_EQ(ids[1], 7);
    CHECK_CLOSE(confidence[1], 0.5, 0);

    script bad = {.stop_at = NEVER, .remask_at = NEVER, .set_to = 9};
    set_masked(ids);
    CHECK_STATUS(sample_eight(model, &bad, ids, confidence, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "set position 1 to token 9");

    /* Masked again at every step from the last on: committed in one more, whose change stays. */
    script again = {.stop_at = NEVER, .remask_at = 8};
    set_masked(ids);
    CHECK_OK(sample_eight(model, &again, ids, confidence, NULL, &err), &err);
    CHECK_INT_EQ(again.last_step, 9);
    CHECK_INT_EQ(again.last_steps, 9);
    CHECK_INT_EQ(again.masked[9], 0);
    CHECK(again.confidence_at_0 > 0);
    CHECK_INT_EQ(ids[0], 2);
    CHECK_CLOSE(confidence[0], 0, 0);

    /* Masked again half-way: revealed by the end. */
    script half = {.stop_at = NEVER, .remask_at = 4};
    set_masked(ids);
    half.stop_at = 9;
    CHECK_OK(sample_eight(model, &half, ids, confidence, NULL, &err), &err);
    CHECK_INT_EQ(half.masked[9], 0);

    uint8_t fixed[8] = {0, 0, 1, 0, 0, 0, 0, 0};
    script touches = {.stop_at = NEVER, .remask_at = NEVER, .touch_fixed = true};
    set_masked(ids);
    ids[2] = 6;
    CHECK_OK(sample_eight(model, &touches, ids, confidence, fixed, &err), &err);
    CHECK_INT_EQ(ids[2], 6);
    CHECK_CLOSE(confidence[2], 1, 0);
    CHECK_INT_EQ(touches.masked[0], 7);
    dlm_model_free(model);
}

/* ---- wrong arguments --------------------------------------------------------------------------------------
 */

static void check_refused(const dlm_model *model, dlm_sample_options options, const char *says) {
    size_t L = 4;
    int32_t ids[4] = {2, 2, 2, 2};
    dlm_error err = {0};
    check_context("%s", says);
    CHECK_STATUS(dlm_sample(model, &options, 0, 1, &L, ids, NULL, NULL, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, says);
    for (size_t i = 0; i < 4; i++) CHECK_INT_EQ(ids[i], 2);
}

TEST(options_out_of_range) {
    dlm_model *model = random_model(9, 8, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    const dlm_sample_options ok = dlm_sample_defaults();
    dlm_sample_options o;
#define REFUSED(field, value, says) (o = ok, o.field = (value), check_refused(model, o, says))
    REFUSED(temperature, -1, "temperature -1 ");
    REFUSED(temperature, 1e-9, "temperature 1e-09 ");
    REFUSED(temperature, (double)INFINITY, "temperature inf ");
    REFUSED(temperature, (double)NAN, "temperature");
    REFUSED(steps, SIZE_MAX, "steps");
    REFUSED(order, (dlm_order)3, "order 3 ");
    REFUSED(reveal, (dlm_reveal)2, "reveal schedule 2 ");
    REFUSED(confidence_threshold, 1.5, "confidence threshold 1.5 ");
    REFUSED(confidence_threshold, -0.5, "confidence threshold -0.5 ");
    REFUSED(confidence_threshold, (double)NAN, "confidence threshold");
    REFUSED(corrector_frac, -0.1, "corrector fraction -0.1 ");
    REFUSED(corrector_frac, 1.1, "corrector fraction 1.1 ");
    REFUSED(corrector_frac, (double)NAN, "corrector fraction");
    REFUSED(corrector_every, 0, "every 0 steps");
    REFUSED(corrector_mode, (dlm_corrector)2, "corrector mode 2 ");
#undef REFUSED
    dlm_model_free(model);
}

TEST(arguments_out_of_range) {
    dlm_model *model = random_model(9, 8, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    const dlm_sample_options options = dlm_sample_defaults();
    dlm_error err;
    int32_t ids[9] = {2, 2, 2, 2, 2, 2, 2, 2, 2};
    const uint8_t fixed[9] = {0, 1};
    size_t lengths[2] = {4, 9};
    CHECK_STATUS(dlm_sample(model, &options, 0, 2, lengths, ids, NULL, NULL, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence 1 has 9 positions, the model takes 1 to 8");
    lengths[1] = 0;
    CHECK_STATUS(dlm_sample(model, &options, 0, 2, lengths, ids, NULL, NULL, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence 1 has 0 positions");
    lengths[1] = 4;
    ids[5] = 9;
    CHECK_STATUS(dlm_sample(model, &options, 0, 2, lengths, ids, NULL, NULL, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "position 1 of sequence 1 is token 9, the vocabulary has 9");
    ids[5] = -1;
    CHECK_STATUS(dlm_sample(model, &options, 0, 2, lengths, ids, NULL, NULL, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "token -1");
    ids[5] = 2;
    CHECK_STATUS(dlm_sample(model, &options, 0, 2, lengths, ids, fixed, NULL, NULL, &err), DLM_ARGUMENT,
                 &err);
    CHECK_SAYS(&err, "position 1 of sequence 0 is fixed, but masked");
    CHECK_STATUS(dlm_sample(model, &options, UINT32_MAX, 2, lengths, ids, NULL, NULL, NULL, &err),
                 DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "last index");
    CHECK_OK(dlm_sample(model, &options, UINT32_MAX - 2, 2, lengths, ids, NULL, NULL, NULL, &err), &err);
    dlm_model_free(model);
}

TEST(values_that_are_not_finite) {
    dlm_model *model = random_model(9, 8, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    model->network.params[dlm__layout_find(model->layout, "final_layer.linear.bias")->offset + 4] = NAN;
    const dlm_sample_options options = dlm_sample_defaults();
    const size_t L = 4;
    int32_t ids[4] = {3, 2, 2, 2};
    dlm_error err;
    CHECK_STATUS(dlm_sample(model, &options, 0, 1, &L, ids, NULL, NULL, NULL, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "position 1 of sequence 0");
    dlm_model_free(model);
}
