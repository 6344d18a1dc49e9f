/* Any bytes as the weights or the optimiser's moments of a small model: refused by name, or all of them read
 * and finite. The first byte chooses the model and the optimiser. */
#include "format/safetensors.h"
#include "model/model.h"
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

typedef struct model {
    dlm_layout *layout;
    dlm_compute *compute;
    dlm_learner *learner;
} model;

static void make(dlm_time time, dlm_optimizer optimizer, model *made) {
    const dlm_config config = {.vocab_size = 4,
                               .max_seq_len = 2,
                               .hidden_size = 2,
                               .depth = 1,
                               .num_heads = 1,
                               .mlp_ratio = 1,
                               .time = time};
    if (dlm__layout_create(&config, &made->layout, NULL) != DLM_OK) abort();
    if (dlm__compute_create(NULL, &made->compute, NULL) != DLM_OK) abort();
    if (dlm__learner_create(made->layout, made->compute, optimizer, DLM_F32, NULL, &made->learner, NULL) !=
        DLM_OK)
        abort();
}

static void check_finite(const float *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) abort();
    }
}

static void check_status(dlm_status status, const dlm_error *err) {
    if (status != DLM_OK && strncmp(err->message, "input: ", 7) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static model models[4];
    if (n == 0) return 0;
    size_t which = bytes[0] & 3;
    if (models[which].learner == NULL)
        make(which & 1 ? DLM_TIME_NONE : DLM_TIME_ADALN, which & 2 ? DLM_MUON : DLM_ADAMW, &models[which]);
    dlm_learner *learner = models[which].learner;
    size_t total = learner->layout->total;
    dlm_safetensors *file;
    dlm_error err;
    if (dlm__safetensors_parse("input", bytes + 1, n - 1, &file, &err) != DLM_OK) return 0;
    const dlm_tensors tensors = dlm__safetensors_tensors(file);
    dlm_status status = dlm__weights_read(learner->layout, &tensors, learner->params, &err);
    check_status(status, &err);
    if (status == DLM_OK) check_finite(learner->params, total);
    status = dlm__moments_read(learner, file, &err);
    check_status(status, &err);
    if (status == DLM_OK) {
        check_finite(learner->momentum, total);
        check_finite(learner->squares, learner->v_total);
        for (size_t i = 0; i < learner->v_total; i++) {
            if (learner->squares[i] < 0) abort();
        }
    }
    dlm__safetensors_close(file);
    return 0;
}
