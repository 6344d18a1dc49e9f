/* Networks and batches from the fixtures, for the tests of the model. */
#ifndef DLM_TESTS_NETWORK_FIXTURE_H
#define DLM_TESTS_NETWORK_FIXTURE_H

#include "check.h"

#include "format/safetensors.h"
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A fixture's file; NULL where there is none. */
static inline dlm_safetensors *fixture_file(const char *folder, const char *name) {
    char relative[128];
    (void)snprintf(relative, sizeof relative, "%s/%s.safetensors", folder, name);
    const char *path = golden_path(relative);
    dlm_safetensors *file = NULL;
    dlm_error err;
    if (path != NULL) CHECK_OK(dlm__safetensors_open(path, &file, &err), &err);
    return file;
}

/* A tensor as float32 or int32, of *n values (n may be NULL); free() it. Aborts where there is none. */
static inline void *fixture_values(const dlm_safetensors *file, const char *name, bool floats, size_t *n) {
    const dlm_st_tensor *tensor = dlm__safetensors_find(file, name);
    void *values = tensor == NULL ? NULL : dlm__calloc(tensor->count, sizeof(float));
    dlm_error err = {.message = "not there"};
    dlm_status status = DLM_NOT_FOUND;
    if (values != NULL) {
        status = floats ? dlm__safetensors_floats(file, tensor, values, &err)
                        : dlm__safetensors_ints(file, tensor, values, &err);
    }
    if (status != DLM_OK) {
        (void)fprintf(stderr, "%s: %s: %s\n", dlm__safetensors_path(file), name, err.message);
        abort();
    }
    if (n != NULL) *n = tensor->count;
    return values;
}

static inline float *fixture_floats(const dlm_safetensors *file, const char *name, size_t *n) {
    return fixture_values(file, name, true, n);
}

static inline int32_t *fixture_ints(const dlm_safetensors *file, const char *name, size_t *n) {
    return fixture_values(file, name, false, n);
}

/* All values of a model in its float32 block, where tests look at them. */
static inline void fixture_fill(const dlm_model *model) {
    const float *values;
    dlm_error err;
    for (size_t i = 0; i < model->layout->n; i++)
        CHECK_OK(dlm__network_values(&model->network, i, &values, &err), &err);
}

/* The bfloat16 copy of a model with its matrices by rows, which contexts of every instruction set take, and
 * backward passes. */
static inline void fixture_lay_rows(dlm_model *model) {
    dlm_compute *compute;
    dlm_error err;
    fixture_fill(model);
    if (!model->network.panels || !CHECK_OK(dlm__compute_create(NULL, &compute, &err), &err)) return;
    model->network.panels = false;
    dlm__network_refresh(compute, &model->network);
    dlm__compute_free(compute);
}

/* Weights are read by pieces: the matrices of this model are several, some of a width that pieces are no
 * multiple of. */
__attribute__((unused)) static const dlm_config large_config = {.vocab_size = 3007,
                                                                .max_seq_len = 40,
                                                                .hidden_size = 136,
                                                                .depth = 2,
                                                                .num_heads = 4,
                                                                .mlp_ratio = 4,
                                                                .time = DLM_TIME_ADALN,
                                                                .end_token = true};

/* The model at path; NULL where it cannot be loaded. */
static inline dlm_model *fixture_load(const char *path, dlm_precision precision) {
    dlm_model_options options = dlm_model_defaults();
    dlm_model *model = NULL;
    dlm_error err;
    options.precision = precision;
    CHECK_OK(dlm_model_load(path, &options, &model, &err), &err);
    return model;
}

/* A model of normal weights with this deviation, for contexts of every instruction set. */
static inline dlm_model *fixture_random(const dlm_config *config, dlm_precision precision, float deviation) {
    dlm_layout *layout;
    dlm_model *model = NULL;
    dlm_error err;
    if (!CHECK_OK(dlm__layout_create(config, &layout, &err), &err)) return NULL;
    float *params = dlm__calloc(layout->total, sizeof *params);
    dlm_rng rng = dlm__rng(9, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        for (size_t j = 0; j < param->count; j++)
            params[param->offset + j] = deviation * (float)dlm__rng_normal(&rng);
    }
    if (CHECK_OK(dlm__model_create(config, params, NULL, NULL, precision, &model, &err), &err))
        fixture_lay_rows(model);
    free(params);
    dlm__layout_free(layout);
    return model;
}

/* The fixture's model; NULL where there is none. */
static inline dlm_model *fixture_model(const char *folder, dlm_precision precision) {
    char name[128];
    (void)snprintf(name, sizeof name, "%s/model.safetensors", folder);
    const char *path = golden_path(name);
    dlm_model_options options = dlm_model_defaults();
    options.precision = precision;
    dlm_model *model = NULL;
    dlm_error err;
    if (path != NULL && CHECK_OK(dlm_model_load(path, &options, &model, &err), &err)) fixture_lay_rows(model);
    return model;
}

/* Sequences, one after the other, and what is scored of them. */
typedef struct fixture_batch {
    dlm_batch batch;
    size_t *offsets;
    float *times;
    int32_t *ids, *rows, *targets;
    float *weight;  /* (R) on each row's cross-entropy */
    size_t *counts; /* (S) rows of each sequence */
} fixture_batch;

/* From x, x_t, mask and t of a file: n sequences of the given lengths, the masked positions their rows. */
static inline fixture_batch fixture_read_batch(const dlm_safetensors *file, size_t n,
                                               const int32_t *lengths) {
    fixture_batch f = {0};
    int32_t *x = fixture_ints(file, "x", NULL), *mask = fixture_ints(file, "mask", NULL);
    f.offsets = dlm__calloc(n + 1, sizeof *f.offsets);
    f.counts = dlm__calloc(n, sizeof *f.counts);
    f.ids = fixture_ints(file, "x_t", NULL);
    f.times = fixture_floats(file, "t", NULL);
    for (size_t s = 0; s < n; s++) f.offsets[s + 1] = f.offsets[s] + (size_t)lengths[s];
    size_t T = f.offsets[n], R = 0;
    f.rows = dlm__calloc(T, sizeof *f.rows);
    f.targets = dlm__calloc(T, sizeof *f.targets);
    f.weight = dlm__calloc(T, sizeof *f.weight);
    for (size_t s = 0; s < n; s++) {
        for (size_t i = f.offsets[s]; i < f.offsets[s + 1]; i++) {
            if (!mask[i]) continue;
            f.rows[R] = (int32_t)i;
            f.targets[R++] = x[i];
            f.counts[s]++;
        }
    }
    f.batch = (dlm_batch){{n, f.offsets}, f.ids, f.times, R, f.rows};
    free(x);
    free(mask);
    return f;
}

/* Row weights from one weight for each sequence's mean: of_sequence[s] / rows of s. */
static inline void fixture_weigh(fixture_batch *f, const double *of_sequence) {
    size_t r = 0;
    for (size_t s = 0; s < f->batch.seg.n; s++) {
        for (size_t i = 0; i < f->counts[s]; i++) {
            f->weight[r++] = (float)(of_sequence[s] / (double)f->counts[s]);
        }
    }
}

static inline void fixture_free_batch(fixture_batch *f) {
    free(f->offsets);
    free(f->times);
    free(f->ids);
    free(f->rows);
    free(f->targets);
    free(f->weight);
    free(f->counts);
}

/* All positions 0 .. n - 1; free() them. */
static inline int32_t *fixture_all_rows(size_t n) {
    int32_t *rows = dlm__calloc(n, sizeof *rows);
    for (size_t i = 0; i < n; i++) rows[i] = (int32_t)i;
    return rows;
}

static inline dlm_workspace *fixture_create(const dlm_network *network, dlm_compute *compute,
                                            const dlm_batch *batch, bool training, bool whole) {
    dlm_workspace_size size = {.tokens = batch->seg.offsets[batch->seg.n],
                               .sequences = batch->seg.n,
                               .rows = batch->R > 0 ? batch->R : 1,
                               .training = training,
                               .whole = whole};
    dlm_workspace *workspace = NULL;
    dlm_error err;
    CHECK_OK(dlm__workspace_create(network->layout, network->type, compute, size, &workspace, &err), &err);
    return workspace;
}

/* A workspace just large enough. */
static inline dlm_workspace *fixture_workspace(const dlm_network *network, dlm_compute *compute,
                                               const dlm_batch *batch, bool training) {
    return fixture_create(network, compute, batch, training, false);
}

/* The same, whose states are those of all positions. */
static inline dlm_workspace *fixture_whole_workspace(const dlm_network *network, dlm_compute *compute,
                                                     const dlm_batch *batch) {
    return fixture_create(network, compute, batch, true, true);
}

/* Runs body on an instruction set (NULL: the best) with a number of threads. */
static inline void with_compute(void (*body)(dlm_compute *compute, const char *folder), const char *folder,
                                const char *isa, size_t threads) {
    dlm_compute *compute;
    dlm_error err;
    dlm_set_threads(threads);
    check_context("%s, %s, %zu threads", folder, isa == NULL ? dlm_instruction_set() : isa, threads);
    if (CHECK_OK(dlm__compute_create(isa, &compute, &err), &err)) body(compute, folder);
    dlm__compute_free(compute);
    dlm_set_threads(0);
    check_context("%s", "");
}

/* On every instruction set of the build that this machine has, with one thread and with two. */
static inline void for_each_compute(void (*body)(dlm_compute *compute, const char *folder),
                                    const char *folder) {
    const char *isa;
    for (size_t i = 0; (isa = dlm__isa_name(i)) != NULL; i++) {
        if (!dlm__isa_available(isa)) continue;
        for (size_t threads = 1; threads <= 2; threads++) with_compute(body, folder, isa, threads);
    }
}

/* The same for every fixture. The largest, which is not in the repository and may not be found, would take
 * the plain loops a minute: it runs on the best instruction set alone. */
static inline void for_each_network(void (*body)(dlm_compute *compute, const char *folder)) {
    static const char *const folders[] = {"tiny", "odd", "plain", "halfway"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) for_each_compute(body, folders[i]);
    if (golden_path("small/model.safetensors") != NULL) with_compute(body, "small", NULL, 2);
}

#endif
