/* The public forward pass: one call, with all that it needs allocated for it. */
#include "model/model.h"

#include <stdlib.h>

/* The sum of lengths (B), each 1 .. max_seq_len. */
static dlm_status sum_lengths(const dlm_model *model, const size_t *lengths, size_t B, size_t *total,
                              dlm_error *err) {
    size_t limit = model->layout->config.max_seq_len;
    *total = 0;
    for (size_t b = 0; b < B; b++) {
        if (lengths[b] == 0 || lengths[b] > limit) {
            return dlm__fail(err, DLM_ARGUMENT, "sequence %zu has %zu positions, not 1 to %zu", b, lengths[b],
                             limit);
        }
        *total += lengths[b];
        if (*total > INT32_MAX) return dlm__fail(err, DLM_ARGUMENT, "more than %d positions", INT32_MAX);
    }
    return DLM_OK;
}

/* offsets (B + 1), rows (T): all positions. */
static dlm_status run(const dlm_model *model, const int32_t *ids, const size_t *offsets, const int32_t *rows,
                      size_t B, const float *times, float *logits, dlm_error *err) {
    size_t T = offsets[B];
    dlm_compute *compute;
    dlm_workspace *workspace = NULL;
    DLM_TRY(dlm__compute_create(NULL, &compute, err));
    dlm_status status =
        dlm__workspace_create(model->layout, model->network.type, compute,
                              (dlm_workspace_size){.tokens = T, .sequences = B, .rows = T}, &workspace, err);
    if (status == DLM_OK) {
        dlm_batch batch = {{B, offsets}, ids, times, T, rows};
        status = dlm__forward(workspace, &model->network, &batch, logits, err);
    }
    dlm__workspace_free(workspace);
    dlm__compute_free(compute);
    return status;
}

dlm_status dlm_model_logits(const dlm_model *model, const int32_t *ids, const size_t *lengths, size_t B,
                            const float *times, float *logits, dlm_error *err) {
    size_t T;
    if (model->network.params == NULL) {
        return dlm__fail(err, DLM_ARGUMENT, "%s: its weights were not loaded", model->source);
    }
    if (times == NULL && model->layout->config.time == DLM_TIME_ADALN) {
        return dlm__fail(err, DLM_ARGUMENT, "%s: this model needs the times of its sequences", model->source);
    }
    DLM_TRY(sum_lengths(model, lengths, B, &T, err));
    if (B == 0) return DLM_OK;
    size_t *offsets = dlm__calloc(B + 1, sizeof *offsets);
    int32_t *rows = dlm__calloc(T, sizeof *rows);
    dlm_status status = DLM_OK;
    if (offsets == NULL || rows == NULL) {
        status = dlm__fail_memory(err, "batch", T * sizeof *rows);
    } else {
        for (size_t b = 0; b < B; b++) offsets[b + 1] = offsets[b] + lengths[b];
        for (size_t t = 0; t < T; t++) rows[t] = (int32_t)t;
        status = run(model, ids, offsets, rows, B, times, logits, err);
    }
    free(offsets);
    free(rows);
    return status;
}
