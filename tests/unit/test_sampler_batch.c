/* The sampler on many sequences at once: independence of each other, banned ids, the step callback, refusals.
 */
#include "network_fixture.h"
#include "sampling_fixture.h"

#include "diffusion/sampler.h"

/* ---- many sequences at once --------------------------------------------------------------------------- */

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

static const dlm_precision precisions[] = {DLM_PRECISION_F32, DLM_PRECISION_BF16, DLM_PRECISION_INT8};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

static dlm_model *model_of(dlm_precision precision) {
    const dlm_config config = {.vocab_size = 48,
                               .max_seq_len = MANY_LONGEST,
                               .hidden_size = 32,
                               .depth = 2,
                               .num_heads = 2,
                               .mlp_ratio = 2,
                               .time = DLM_TIME_ADALN,
                               .position = DLM_POSITION_BOTH};
    return fixture_random(&config, precision, 0.3F);
}

/* Some of n samples are the same alone: tokens, and confidences within `tolerance`. */
static void check_alone(const char *isa, const dlm_model *model, const dlm_sample_options *options, size_t n,
                        double tolerance) {
    static many m;
    const size_t first = 1000;
    dlm_error err;
    set_up_many(&m, n, model->mask_id);
    REQUIRE_OK(dlm__sample(isa, model, options, first, n, m.lengths, m.ids, NULL, m.confidence, NULL, &err),
               &err);
    for (size_t b = 0; b < n; b += 37) {
        int32_t ids[MANY_LONGEST];
        float confidence[MANY_LONGEST];
        for (size_t i = 0; i < m.lengths[b]; i++) ids[i] = model->mask_id;
        CHECK_OK(
            dlm__sample(isa, model, options, first + b, 1, &m.lengths[b], ids, NULL, confidence, NULL, &err),
            &err);
        CHECK_MEM_EQ(ids, m.ids + m.offsets[b], m.lengths[b] * sizeof *ids);
        CHECK_ALL_CLOSE(confidence, m.confidence + m.offsets[b], m.lengths[b], tolerance);
    }
}

static dlm_sample_options options_of_kind(int kind) {
    dlm_sample_options options = dlm_sample_defaults();
    options.seed = 5;
    options.order = (dlm_order)(kind % 3);
    options.steps = kind / 3 % 2 ? 6 : 0;
    if (kind % 4 < 3) options.corrector_frac = 0.3;
    if (kind % 4 == 2) options.corrector_mode = DLM_CORRECTOR_LOW_CONFIDENCE;
    if (kind >= 6) options.confidence_threshold = 0.5;
    return options;
}

/* 400 sequences are more than one pass holds; each is the same alone. On the plain loops, where a row's
 * result does not depend on the others, bit for bit. */
TEST(a_sample_does_not_depend_on_the_others) {
    for (size_t p = 0; p < PRECISIONS; p++) {
        dlm_model *model = model_of(precisions[p]);
        REQUIRE(model != NULL);
        for (int kind = 0; kind < 12; kind += p == 0 ? 1 : 5) {
            const dlm_sample_options options = options_of_kind(kind);
            check_context("precision %zu, kind %d", p, kind);
            check_alone("reference", model, &options, MANY, 0);
        }
        dlm_model_free(model);
    }
}

/* The library's own products add up a row in one order, whatever rows are beside it; oneDNN's may differ in
 * their last bits with the number of rows, and the texts hardly ever. In bfloat16 and in 8 bits such bits can
 * grow to a step of these, so there only own products are held to it. */
TEST(nearly_so_on_every_instruction_set) {
    const char *isa;
    for (size_t p = 0; p < PRECISIONS; p++) {
        dlm_model *model = model_of(precisions[p]);
        const bool floats = precisions[p] == DLM_PRECISION_F32;
        REQUIRE(model != NULL);
        for (size_t i = 0; (isa = dlm__isa_name(i)) != NULL; i++)
            for (int kind = 0; kind < 12 && dlm__isa_available(isa); kind += 5) {
                const dlm_sample_options options = options_of_kind(kind);
                const bool own = dlm__bf16_panels() && strcmp(isa, dlm_instruction_set()) == 0;
                check_context("precision %zu, %s, kind %d", p, isa, kind);
                if (floats || own) check_alone(isa, model, &options, 150, floats ? 1e-5 : 0);
            }
        dlm_model_free(model);
    }
}

/* Another seed gives other texts. */
TEST(seeds_differ) {
    static many m, other;
    dlm_model *model = model_of(DLM_PRECISION_F32);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    dlm_error err;
    set_up_many(&m, MANY, model->mask_id);
    set_up_many(&other, MANY, model->mask_id);
    CHECK_OK(dlm_sample(model, &options, 0, MANY, m.lengths, m.ids, NULL, NULL, NULL, &err), &err);
    options.seed++;
    CHECK_OK(dlm_sample(model, &options, 0, MANY, other.lengths, other.ids, NULL, NULL, NULL, &err), &err);
    CHECK(memcmp(other.ids, m.ids, m.offsets[MANY] * sizeof *m.ids) != 0);
    dlm_model_free(model);
}

/* However many steps are asked for, a pass reveals a position at least, and there is none when nothing is
 * left. That finished sequences have no rows in the passes of others: test_watched.c. */
TEST(passes_end_with_the_longest_sequence) {
    static many m;
    dlm_model *model = random_model(20, MANY_LONGEST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.7, NULL);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    size_t forwards, lengths[2] = {1, 5};
    int32_t ids[6] = {2, 2, 2, 2, 2, 2};
    dlm_error err;
    options.steps = 100;
    CHECK_OK(dlm_sample(model, &options, 0, 2, lengths, ids, NULL, NULL, &forwards, &err), &err);
    CHECK_INT_EQ(forwards, 5);
    set_up_many(&m, 0, 0);
    CHECK_OK(dlm_sample(model, &options, 0, 0, NULL, NULL, NULL, NULL, &forwards, &err), &err);
    CHECK_INT_EQ(forwards, 0);
    dlm_model_free(model);
}

/* The order ancestral leaves it to chance how many positions a step reveals. Where that is none there is no
 * pass, so that there are no more of them than positions. */
TEST(steps_that_reveal_nothing_make_no_pass) {
    dlm_model *model = random_model(20, MANY_LONGEST, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.7, NULL);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    enum { LENGTH = 9 };
    const size_t length = LENGTH;
    dlm_error err;
    options.steps = 400;
    options.order = DLM_ORDER_ANCESTRAL;
    for (options.seed = 1; options.seed <= 20; options.seed++) {
        int32_t ids[LENGTH];
        size_t forwards = 0, left = 0;
        for (size_t i = 0; i < LENGTH; i++) ids[i] = model->mask_id;
        CHECK_OK(dlm_sample(model, &options, 0, 1, &length, ids, NULL, NULL, &forwards, &err), &err);
        for (size_t i = 0; i < LENGTH; i++) left += ids[i] == model->mask_id;
        CHECK(forwards >= 1 && forwards <= LENGTH);
        CHECK_INT_EQ(left, 0);
    }
    dlm_model_free(model);
}

/* ---- banned ids --------------------------------------------------------------------------------------- */

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

/* ---- the step callback -------------------------------------------------------------------------------- */

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
    CHECK(step->first == 5 && step->tries == 1);
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
    return dlm_sample(model, &options, 5, 1, &L, ids, fixed, confidence, NULL, err);
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

/* ---- wrong arguments ---------------------------------------------------------------------------------- */

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
    REFUSED(order, (dlm_order)8, "order 8 ");
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
    o = ok, o.reveals_per_step = 2, o.steps = 5;
    check_refused(model, o, "2 reveals a step leave no choice of steps, which are to be 5");
    o = ok, o.reveals_per_step = 2, o.confidence_threshold = 0.5;
    check_refused(model, o, "2 reveals a step, and a confidence threshold");
    o = ok, o.reveals_per_step = 2, o.entropy_bound = 0.5;
    check_refused(model, o, "2 reveals a step, and an entropy bound");
    o = ok, o.reveals_per_step = 2, o.order = DLM_ORDER_ANCESTRAL;
    check_refused(model, o, "2 reveals a step: the order ancestral");
    o = ok, o.reveals_per_step = 2, o.order = DLM_ORDER_FIRST_HITTING;
    check_refused(model, o, "2 reveals a step: the order first_hitting");
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
