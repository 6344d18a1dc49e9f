/* What the measurement of speed reports, and models of random weights. */
#include "check.h"

#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const dlm_config config = {.vocab_size = 70,
                                  .max_seq_len = 64,
                                  .hidden_size = 32,
                                  .depth = 2,
                                  .num_heads = 2,
                                  .mlp_ratio = 2,
                                  .end_token = true};

static dlm_model *random_model(const dlm_config *of, uint64_t seed) {
    dlm_model *model = NULL;
    dlm_error err;
    CHECK_OK(dlm_model_random(of, DLM_PRECISION_AUTO, seed, &model, &err), &err);
    return model;
}

TEST(random_models_are_what_training_begins_with) {
    dlm_model *model = random_model(&config, 5), *same = random_model(&config, 5),
              *other = random_model(&config, 6);
    REQUIRE(model != NULL && same != NULL && other != NULL);
    const size_t bytes = model->layout->total * sizeof(float);
    float *want = dlm__calloc(1, bytes);
    REQUIRE(want != NULL);
    dlm__layout_init(model->layout, 5, want);
    CHECK_MEM_EQ(model->network.params, want, bytes);
    CHECK_MEM_EQ(same->network.params, want, bytes);
    CHECK(memcmp(other->network.params, want, bytes) != 0);
    if (model->network.params_bf16 != NULL) {
        uint32_t bits;
        const size_t at = model->layout->blocks[0].qkv_w; /* first in panels too */
        memcpy(&bits, want + at, sizeof bits);
        CHECK(want[at] < 0 || want[at] > 0);
        CHECK_INT_EQ(model->network.params_bf16[at], (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    free(want);
    dlm_model_free(model), dlm_model_free(same), dlm_model_free(other);
}

TEST(random_models_have_a_config) {
    dlm_config wrong = config;
    wrong.num_heads = 3;
    dlm_model *model = NULL;
    dlm_error err = {0};
    CHECK_STATUS(dlm_model_random(&wrong, DLM_PRECISION_AUTO, 0, &model, &err), DLM_ARGUMENT, &err);
    CHECK(model == NULL);
    CHECK_OK(dlm_model_random(&config, DLM_PRECISION_INT8, 0, &model, &err), &err);
    CHECK_INT_EQ(dlm_model_precision(model), DLM_PRECISION_INT8);
    dlm_model_free(model);
}

/* n sequences of `length`: counts that follow from the work, and times that fit into the clock's. */
static void measure(const dlm_model *model, dlm_work work, size_t n, size_t length, double seconds) {
    dlm_speed_options o = dlm_speed_defaults();
    dlm_speed speed;
    dlm_error err;
    o.work = work;
    o.sequences = n;
    o.length = length;
    o.seconds = seconds;
    const double begin = dlm__seconds();
    if (!CHECK_OK(dlm_speed_measure(model, &o, &speed, &err), &err)) return;
    const double took = dlm__seconds() - begin;
    CHECK_INT_EQ(speed.tokens, n * length);
    CHECK_INT_EQ(speed.forwards, work == DLM_WORK_SAMPLE ? length : 1);
    CHECK_INT_EQ(speed.threads, dlm__threads());
    CHECK(speed.repetitions >= 3);
    CHECK(speed.fastest > 0 && speed.fastest <= speed.seconds);
    CHECK((double)speed.repetitions * speed.fastest <= took);
    CHECK((double)(speed.repetitions / 2) * speed.seconds <= took);
    CHECK(speed.repetitions >= 1000 || took >= seconds);
}

TEST(speeds) {
    dlm_config original = config;
    original.time = DLM_TIME_ADALN;
    original.position = DLM_POSITION_LEARNED;
    original.recipe = DLM_RECIPE_ORIGINAL;
    for (int i = 0; i < 2; i++) {
        dlm_model *model = random_model(i == 0 ? &config : &original, 1);
        REQUIRE(model != NULL);
        const size_t bytes = model->layout->total * sizeof(float);
        float *before = dlm__calloc(1, bytes);
        REQUIRE(before != NULL);
        memcpy(before, model->network.params, bytes);
        for (dlm_work work = DLM_WORK_FORWARD; work <= DLM_WORK_TRAIN; work++) {
            measure(model, work, 1, 1, 0);
            measure(model, work, 3, 20, 0.02);
            measure(model, work, 70, 64, 0); /* more than one pass */
        }
        CHECK_MEM_EQ(model->network.params, before, bytes);
        free(before);
        dlm_model_free(model);
    }
}

TEST(speeds_of_nonsense) {
    dlm_model *model = random_model(&config, 1);
    REQUIRE(model != NULL);
    const struct {
        dlm_speed_options options;
        const char *why;
    } cases[] = {
        {{.work = DLM_WORK_FORWARD, .sequences = 1, .length = 65, .seconds = 1},
         "length 65 is not from 1 to 64"},
        {{.work = DLM_WORK_FORWARD, .sequences = 1, .length = 0, .seconds = 1}, "length 0 is not"},
        {{.work = DLM_WORK_FORWARD, .sequences = 0, .length = 8, .seconds = 1},
         "0 sequences are none, or too many of length 8"},
        {{.work = DLM_WORK_FORWARD, .sequences = SIZE_MAX / 4, .length = 8, .seconds = 1},
         "too many of length 8"},
        {{.work = DLM_WORK_FORWARD, .sequences = 1, .length = 8, .seconds = -1}, "-1 seconds are not"},
        {{.work = DLM_WORK_FORWARD, .sequences = 1, .length = 8, .seconds = (double)NAN}, "seconds are not"},
        {{.work = (dlm_work)3, .sequences = 1, .length = 8, .seconds = 1}, "work 3 is none of 0 to 2"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dlm_speed speed;
        dlm_error err = {0};
        CHECK_STATUS(dlm_speed_measure(model, &cases[i].options, &speed, &err), DLM_ARGUMENT, &err);
        CHECK_SAYS(&err, cases[i].why);
    }
    dlm_model_free(model);
}

/* Counts the reports; stops at the one that *user counts down to. */
static bool stop_soon(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    size_t *left = user;
    (void)done;
    CHECK_STR_EQ(stage, "speed");
    CHECK(total == 0 && seconds >= 0);
    return --*left == 0;
}

TEST(a_measurement_can_be_stopped) {
    dlm_model *model = random_model(&config, 1);
    REQUIRE(model != NULL);
    for (dlm_work work = DLM_WORK_FORWARD; work <= DLM_WORK_TRAIN; work++) {
        size_t left = 3;
        dlm_speed_options o = dlm_speed_defaults();
        dlm_speed speed;
        dlm_error err;
        o.work = work;
        o.length = 64;
        o.sequences = 40;
        o.seconds = 1000;
        o.progress = stop_soon;
        o.user = &left;
        CHECK_STATUS(dlm_speed_measure(model, &o, &speed, &err), DLM_CANCELLED, &err);
        CHECK_INT_EQ(left, 0);
    }
    dlm_model_free(model);
}
