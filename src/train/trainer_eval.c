/* What a run measures of itself: evaluation on documents that it does not train on, and sample texts. */
#include "train/trainer.h"

#include "diffusion/likelihood.h"

#include <stdlib.h>

enum { EVALUATION_SEED = 1 /* of the masks: evaluations of all runs can be compared */ };

/* Scores all windows of the evaluation: the NELBO by `draws` masks each, the original's cross-entropy by one.
 * As in training, a padded model sees the padding. */
static dlm_status score(dlm_trainer *t, const dlm_network *network, size_t draws, bool cross_entropy,
                        dlm_eval_result *result, dlm_error *err) {
    dlm_tokenizer_info info = dlm_tokenizer_describe(dlm_data_tokenizer(t->data));
    const dlm_data *data = t->eval_data != NULL ? t->eval_data : t->data;
    size_t L = t->options.seq_len;
    bool padded = t->options.recipe == DLM_RECIPE_ORIGINAL;
    dlm_likelihood_options options = {.seed = EVALUATION_SEED,
                                      .draws = draws,
                                      .cross_entropy = cross_entropy,
                                      .schedule = t->options.schedule,
                                      .mask_id = info.mask_id,
                                      .longest = L};
    dlm_likelihood *likelihood;
    int32_t *ids = dlm__calloc(L, sizeof *ids);
    if (ids == NULL) return dlm__fail_memory(err, "an evaluation", L * sizeof *ids);
    dlm_status status = dlm__likelihood_create(network, t->compute, &options, &likelihood, err);
    for (size_t w = 0; status == DLM_OK && w < t->eval_windows.n; w++) {
        const dlm_window *window = &t->eval_windows.list[w];
        dlm_scored scored = {
            .ids = ids, .n = window->n, .shown = padded ? L : window->n, .continues = window->continues};
        scored.bytes = dlm__window_ids(data, window, ids);
        for (size_t i = window->n; i < scored.shown; i++) ids[i] = info.pad_id;
        status = dlm__likelihood_add(likelihood, &scored, err);
    }
    if (status == DLM_OK) status = dlm__likelihood_end(likelihood, result, err);
    dlm__likelihood_free(likelihood);
    free(ids);
    return status;
}

dlm_status dlm__trainer_evaluate(dlm_trainer *trainer, double *ce, double *nelbo, dlm_error *err) {
    dlm_eval_result raw, average;
    DLM_TRY(score(trainer, &trainer->network, 0, true, &raw, err));
    dlm__model_set_params(trainer->model, trainer->compute, trainer->learner->average);
    DLM_TRY(score(trainer, &trainer->model->network, 1, false, &average, err));
    *ce = raw.eval_ce;
    *nelbo = average.nelbo;
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

dlm_status dlm__trainer_sample(dlm_trainer *trainer, size_t *bytes, dlm_error *err) {
    dlm__model_set_params(trainer->model, trainer->compute, trainer->learner->average);
    size_t length = dlm_sample_length(trainer->model, trainer->options.seed, (size_t)trainer->progress.step);
    int32_t *ids = dlm__calloc(length, sizeof *ids);
    if (ids == NULL) return dlm__fail_memory(err, "a sample", length * sizeof *ids);
    dlm_status status = draw_text(trainer, length, ids, bytes, err);
    free(ids);
    return status;
}
