/* Models for the tests of sampling and likelihood: the fixtures', and one so small that all its states can be
 * enumerated. */
#ifndef DLM_TESTS_SAMPLING_FIXTURE_H
#define DLM_TESTS_SAMPLING_FIXTURE_H

#include "check.h"

#include "model/model.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The fixture's model with final_layer.linear.weight times head_scale, on its own or another schedule; NULL
 * where there is none. */
static inline dlm_model *scaled_model(const char *folder, double head_scale, int schedule) {
    const char *path = golden_path(folder);
    dlm_model_options options = dlm_model_defaults();
    options.precision = DLM_PRECISION_F32;
    options.schedule = schedule;
    dlm_model *model = NULL;
    dlm_error err;
    if (path == NULL || !CHECK_OK(dlm_model_load(path, &options, &model, &err), &err)) return NULL;
    const dlm_param *head = dlm__layout_find(model->layout, "final_layer.linear.weight");
    if (!CHECK(head != NULL)) return model;
    float *weight = model->network.params + head->offset;
    for (size_t i = 0; i < head->count; i++) weight[i] *= (float)head_scale;
    return model;
}

/* A fixture's JSON file; the caller's reference. */
static inline json_t *fixture_json(const char *folder, const char *name) {
    char relative[128];
    (void)snprintf(relative, sizeof relative, "%s/%s", folder, name);
    const char *path = golden_path(relative);
    json_t *json = path == NULL ? NULL : json_load_file(path, 0, NULL);
    CHECK(json != NULL);
    return json;
}

/* A model with random weights, their standard deviation `deviation` where 8 inputs are summed, without a
 * tokenizer (so ids 0, 1, 2 are banned); free it. It is too small for more than one thread, which is what
 * follows has. */
static inline dlm_model *random_model(size_t V, size_t L, dlm_time time, dlm_schedule schedule,
                                      double deviation, const uint64_t *lengths) {
    const dlm_config config = {.vocab_size = V,
                               .max_seq_len = L,
                               .hidden_size = 8,
                               .depth = 1,
                               .num_heads = 2,
                               .mlp_ratio = 2,
                               .time = time,
                               .position = DLM_POSITION_BOTH,
                               .schedule = schedule};
    dlm_layout *layout;
    dlm_model *model = NULL;
    dlm_error err;
    dlm_set_threads(1);
    if (!CHECK_OK(dlm__layout_create(&config, &layout, &err), &err)) return NULL;
    float *params = dlm__calloc(layout->total, sizeof *params);
    dlm_rng rng = dlm__rng(4, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        const double fan_in = param->ndim == 2 ? (double)param->shape[1] : 8;
        for (size_t j = 0; j < param->count; j++)
            params[param->offset + j] = (float)(deviation * sqrt(8 / fan_in) * dlm__rng_normal(&rng));
    }
    CHECK_OK(dlm__model_create(&config, params, NULL, lengths, DLM_PRECISION_F32, &model, &err), &err);
    free(params);
    dlm__layout_free(layout);
    return model;
}

/* ---- the enumerable case: three positions, tokens 3, 4 and 5, and the mask ---------------------------- */

enum {
    TINY_L = 3,
    TINY_V = 6,
    TINY_TOKENS = 3,
    TINY_FIRST = 3,
    TINY_MASK = 2,
    TINY_TEXTS = 27,
    TINY_STATES = 64
};

/* A state in base 4, digit 0 for a mask, 1.. for the tokens. */
static inline size_t tiny_state(const int32_t ids[TINY_L]) {
    size_t state = 0;
    for (size_t i = 0; i < TINY_L; i++)
        state = 4 * state + (ids[i] == TINY_MASK ? 0 : (size_t)(ids[i] - TINY_FIRST + 1));
    return state;
}

/* A text without masks in base 3. */
static inline size_t tiny_text(const int32_t ids[TINY_L]) {
    size_t text = 0;
    for (size_t i = 0; i < TINY_L; i++) text = TINY_TOKENS * text + (size_t)(ids[i] - TINY_FIRST);
    return text;
}

/* p[state][position][token]: what the model says of every position in every state, banned ids left out, at a
 * temperature; by the public forward pass and a softmax of its own. */
typedef struct tiny_table {
    double p[TINY_STATES][TINY_L][TINY_TOKENS];
} tiny_table;

static inline tiny_table *tiny_enumerate(const dlm_model *model, double temperature) {
    static tiny_table table;
    static int32_t ids[TINY_STATES * TINY_L];
    static float times[TINY_STATES], logits[TINY_STATES * TINY_L * TINY_V];
    size_t lengths[TINY_STATES];
    for (size_t s = 0; s < TINY_STATES; s++) {
        size_t rest = s, masked = 0;
        for (size_t i = TINY_L; i-- > 0; rest /= 4) {
            ids[s * TINY_L + i] = rest % 4 == 0 ? TINY_MASK : (int32_t)(rest % 4) - 1 + TINY_FIRST;
            masked += rest % 4 == 0;
        }
        const double sigma = fmax((double)masked / TINY_L, 1e-3);
        times[s] = (float)(dlm_model_config(model)->schedule == DLM_SCHEDULE_LINEAR
                               ? sigma
                               : 2 / 3.14159265358979323846 * acos(1 - sigma));
        lengths[s] = TINY_L;
    }
    dlm_error err;
    CHECK_OK(dlm_model_logits(model, ids, lengths, TINY_STATES, times, logits, &err), &err);
    for (size_t row = 0; row < TINY_STATES * TINY_L; row++) {
        const float *x = logits + row * TINY_V + TINY_FIRST;
        double *p = table.p[row / TINY_L][row % TINY_L], sum = 0;
        const double largest = fmax((double)x[0], fmax((double)x[1], (double)x[2]));
        for (size_t v = 0; v < TINY_TOKENS; v++) sum += p[v] = exp(((double)x[v] - largest) / temperature);
        for (size_t v = 0; v < TINY_TOKENS; v++) p[v] /= sum;
    }
    return &table;
}

static inline double tiny_confidence(const tiny_table *table, size_t state, size_t position) {
    const double *p = table->p[state][position];
    return fmax(p[0], fmax(p[1], p[2]));
}

/* The law of the texts, and how often each was seen in n samples: Pearson's statistic is within 4.3 standard
 * deviations of what a sampler of that law gives (the seeds are fixed). Texts expected less than 5 times are
 * counted together. */
static inline void check_law(const double law[TINY_TEXTS], const size_t seen[TINY_TEXTS], size_t n) {
    double chi = 0, df = -1, rest_expected = 0, rest_seen = 0, total = 0;
    for (size_t i = 0; i < TINY_TEXTS; i++) {
        const double expected = law[i] * (double)n, difference = (double)seen[i] - expected;
        total += law[i];
        if (expected < 5) {
            rest_expected += expected;
            rest_seen += (double)seen[i];
            continue;
        }
        chi += difference * difference / expected;
        df++;
    }
    if (rest_expected > 0) {
        chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / fmax(rest_expected, 1);
        df++;
    }
    CHECK_CLOSE(total, 1, 1e-9);
    if (!CHECK(df >= 2)) printf("%g degrees of freedom tell too little\n", df);
    if (!CHECK(chi < df + 4.3 * sqrt(2 * df) + 5)) printf("chi-squared %g of %g degrees\n", chi, df);
}

#endif
