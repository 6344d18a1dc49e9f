/* What a run measures of itself: evaluation on documents that it does not train on, and sample texts. */
#include "train/trainer.h"

#include "train/eval.h"

#include <math.h>
#include <stdlib.h>

enum { EVALUATION_SEED = 1 /* of the masks: evaluations of all runs can be compared */ };

/* This rank's part of the windows, as many as any other's. */
static dlm_status score(dlm_trainer *t, const dlm_network *network, size_t draws, bool cross_entropy,
                        dlm_likelihood_sums *sums, dlm_error *err) {
    const dlm_tokenizer_info info = dlm_tokenizer_describe(dlm_data_tokenizer(t->data));
    const dlm_data *data = t->eval_data != NULL ? t->eval_data : t->data;
    const dlm_eval_options options = {.seed = EVALUATION_SEED, .draws = draws};
    const size_t n = t->eval_windows.n, ranks = dlm_ranks_size(t->ranks), rank = dlm_ranks_rank(t->ranks);
    const size_t first = n / ranks * rank + (rank < n % ranks ? rank : n % ranks);
    return dlm__eval_sums(network, t->compute, info.mask_id, info.pad_id, data, &t->eval_windows, first,
                          n / ranks + (rank < n % ranks), &options, cross_entropy, sums, err);
}

/* The model becomes the average of all ranks, until put_back is called. */
static dlm_status take_average(dlm_trainer *t, dlm_error *err) {
    DLM_TRY(dlm__learner_average(t->learner, t->model->network.params, err));
    dlm__network_refresh(t->compute, &t->model->network);
    return DLM_OK;
}

static void put_back(dlm_trainer *t) {
    dlm__network_refresh(t->compute, &t->network);
}

/* The NELBO of the averaged weights by one mask a window, the original's cross-entropy of the raw ones. */
dlm_status dlm__trainer_evaluate(dlm_trainer *trainer, double *ce, double *nelbo, dlm_error *err) {
    dlm_ranks *ranks = trainer->ranks;
    dlm_likelihood_sums raw, average;
    dlm_status status = score(trainer, &trainer->network, 0, true, &raw, err);
    DLM_TRY(dlm__ranks_agree(ranks, status, err));
    DLM_TRY(take_average(trainer, err));
    status = score(trainer, &trainer->model->network, 1, false, &average, err);
    put_back(trainer);
    DLM_TRY(dlm__ranks_agree(ranks, status, err));
    double sums[4] = {raw.ce, raw.ce_positions, average.nats, average.positions};
    DLM_TRY(dlm__ranks_sum(ranks, sums, 4, err));
    *ce = sums[1] > 0 ? sums[0] / sums[1] : NAN;
    *nelbo = sums[2] / sums[3];
    return DLM_OK;
}

/* Draws ids of this length and makes them trainer->sample. */
static dlm_status draw_text(dlm_trainer *t, size_t length, int32_t *ids, size_t *bytes, dlm_error *err) {
    dlm_sample_options options = dlm_sample_defaults();
    options.seed = t->options.seed;
    for (size_t i = 0; i < length; i++) ids[i] = t->model->mask_id;
    size_t index = (size_t)t->progress.step;
    DLM_TRY(dlm_sample(t->model, &options, index, 1, &length, ids, NULL, NULL, NULL, err));
    char *text;
    DLM_TRY(dlm_sample_text(t->model, ids, length, &text, bytes, err));
    free(t->sample);
    t->sample = text;
    return DLM_OK;
}

static dlm_status sample(dlm_trainer *t, size_t *bytes, dlm_error *err) {
    size_t length = dlm_sample_length(t->model, t->options.seed, (size_t)t->progress.step);
    int32_t *ids = dlm__calloc(length, sizeof *ids);
    if (ids == NULL) return dlm__fail_memory(err, "a sample", length * sizeof *ids);
    const dlm_status status = draw_text(t, length, ids, bytes, err);
    free(ids);
    return status;
}

dlm_status dlm__trainer_sample(dlm_trainer *trainer, size_t *bytes, dlm_error *err) {
    *bytes = 0;
    DLM_TRY(take_average(trainer, err));
    const dlm_status status = dlm_ranks_rank(trainer->ranks) == 0 ? sample(trainer, bytes, err) : DLM_OK;
    put_back(trainer);
    return status;
}
