/* Evaluation of a model on a corpus. */
#include "train/eval.h"

#include <stdlib.h>

#define SECONDS_BETWEEN_REPORTS 0.2

dlm_eval_options dlm_eval_defaults(void) {
    return (dlm_eval_options){.seed = 1, .draws = 2};
}

static dlm_status add_windows(dlm_likelihood *likelihood, const dlm_data *data, const dlm_windows *windows,
                              size_t shown, int32_t pad_id, const dlm_eval_options *options, int32_t *ids,
                              dlm_error *err) {
    const double start = dlm__seconds();
    double last = start;
    for (size_t w = 0; w < windows->n; w++) {
        const dlm_window *window = &windows->list[w];
        dlm_scored scored = {.ids = ids,
                             .n = window->n,
                             .shown = shown > 0 ? shown : window->n,
                             .continues = window->continues};
        scored.bytes = dlm__window_ids(data, window, ids);
        for (size_t i = window->n; i < scored.shown; i++) ids[i] = pad_id;
        DLM_TRY(dlm__likelihood_add(likelihood, &scored, err));
        const double now = dlm__seconds();
        if (options->progress == NULL || (now - last < SECONDS_BETWEEN_REPORTS && w + 1 < windows->n))
            continue;
        last = now;
        if (options->progress(options->user, "eval", w + 1, windows->n, now - start))
            return dlm__fail(err, DLM_CANCELLED, "stopped after %zu of %zu windows", w + 1, windows->n);
    }
    return DLM_OK;
}

dlm_status dlm__eval_windows(const dlm_network *network, dlm_compute *compute, int32_t mask_id,
                             int32_t pad_id, const dlm_data *data, const dlm_windows *windows,
                             const dlm_eval_options *options, bool cross_entropy, dlm_paired *paired,
                             dlm_eval_result *result, dlm_error *err) {
    const double start = dlm__seconds();
    const dlm_config *config = &network->layout->config;
    if (windows->n == 0) return dlm__fail(err, DLM_ARGUMENT, "no document to measure the model on");
    if (mask_id < 0 || (config->padded && pad_id < 0))
        return dlm__fail(err, DLM_ARGUMENT, "the tokenizer has no [%s]", mask_id < 0 ? "MASK" : "PAD");
    const dlm_likelihood_options likelihood_options = {.seed = options->seed,
                                                       .draws = options->draws,
                                                       .cross_entropy = cross_entropy,
                                                       .schedule = config->schedule,
                                                       .mask_id = mask_id,
                                                       .longest = windows->seq_len,
                                                       .paired = paired};
    dlm_likelihood *likelihood;
    DLM_TRY(dlm__likelihood_create(network, compute, &likelihood_options, &likelihood, err));
    int32_t *ids = dlm__calloc(windows->seq_len, sizeof *ids);
    dlm_status status = ids == NULL
                            ? dlm__fail_memory(err, "a window", windows->seq_len * sizeof *ids)
                            : add_windows(likelihood, data, windows, config->padded ? windows->seq_len : 0,
                                          pad_id, options, ids, err);
    if (status == DLM_OK) status = dlm__likelihood_end(likelihood, result, err);
    if (status == DLM_OK) result->seconds = dlm__seconds() - start;
    free(ids);
    dlm__likelihood_free(likelihood);
    return status;
}

static dlm_status check(const dlm_model *model, const dlm_data *data, const dlm_eval_options *options,
                        dlm_error *err) {
    const dlm_config *config = &model->layout->config;
    if (model->network.params == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "%s was read without its weights", model->source);
    if (options->draws == 0 || options->draws > DLM_DRAWS_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "%zu draws are not from 1 to %zu", options->draws, DLM_DRAWS_MAX);
    if (options->seq_len > config->max_seq_len)
        return dlm__fail(err, DLM_ARGUMENT, "sequence length %zu is above the model's %zu", options->seq_len,
                         config->max_seq_len);
    const dlm_tokenizer_info of_data = dlm_tokenizer_describe(dlm_data_tokenizer(data));
    if (of_data.vocab_size > config->vocab_size)
        return dlm__fail(err, DLM_MISMATCH, "the data's vocabulary has %zu tokens, the model's %zu",
                         of_data.vocab_size, config->vocab_size);
    if (model->tokenizer == NULL) return DLM_OK;
    const uint64_t of_model = dlm_tokenizer_describe(model->tokenizer).hash;
    if (of_data.hash == of_model) return DLM_OK;
    return dlm__fail(
        err, DLM_MISMATCH,
        "the data was made with another tokenizer (vocabulary hash %016llx) than the model's (%016llx)",
        (unsigned long long)of_data.hash, (unsigned long long)of_model);
}

static dlm_status measure(const dlm_model *model, const dlm_data *data, const dlm_windows *windows,
                          const dlm_eval_options *options, dlm_paired *paired, dlm_eval_result *result,
                          dlm_error *err) {
    dlm_compute *compute = NULL;
    dlm_status status = dlm__compute_create(NULL, &compute, err);
    if (status == DLM_OK)
        status = dlm__eval_windows(&model->network, compute, model->mask_id, model->pad_id, data, windows,
                                   options, true, paired, result, err);
    dlm__compute_free(compute);
    return status;
}

static dlm_status cut(const dlm_model *model, const dlm_data *data, size_t longest,
                      const dlm_eval_options *options, dlm_windows *windows, dlm_error *err) {
    const dlm_config *config = &model->layout->config;
    const size_t seq_len = options->seq_len > 0 ? options->seq_len : longest;
    return dlm__windows_create(data, seq_len, config->end_token, config->padded, DLM_PART_ALL, 1, 0,
                               options->max_documents, windows, err);
}

dlm_status dlm_eval(const dlm_model *model, const dlm_data *data, const dlm_eval_options *options,
                    dlm_eval_result *result, dlm_error *err) {
    DLM_TRY(check(model, data, options, err));
    dlm_windows windows;
    DLM_TRY(cut(model, data, model->layout->config.max_seq_len, options, &windows, err));
    const dlm_status status = measure(model, data, &windows, options, NULL, result, err);
    dlm__windows_free(&windows);
    return status;
}

static dlm_status check_pair(const dlm_model *first, const dlm_model *second, dlm_error *err) {
    const dlm_config *a = &first->layout->config, *b = &second->layout->config;
    if (a->end_token == b->end_token && a->padded == b->padded) return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH,
                     "%s (%s end token, %s padding) and %s (%s, %s) score other tokens: measure each alone",
                     first->source, a->end_token ? "with" : "without", a->padded ? "with" : "without",
                     second->source, b->end_token ? "with" : "without", b->padded ? "with" : "without");
}

static dlm_eval_result difference_of(const dlm_eval_result results[2], const dlm_estimate *estimate) {
    const dlm_estimated e = dlm__estimate(estimate);
    dlm_eval_result difference = results[1];
    difference.eval_ce -= results[0].eval_ce;
    difference.perplexity -= results[0].perplexity;
    difference.nelbo -= results[0].nelbo;
    difference.standard_error = e.standard_error;
    difference.standard_error_documents = e.standard_error_documents;
    difference.bits_per_byte -= results[0].bits_per_byte;
    difference.seconds += results[0].seconds;
    return difference;
}

dlm_status dlm_eval_pair(const dlm_model *first, const dlm_model *second, const dlm_data *data,
                         const dlm_eval_options *options, dlm_eval_result results[2],
                         dlm_eval_result *difference, dlm_error *err) {
    DLM_TRY(check(first, data, options, err));
    DLM_TRY(check(second, data, options, err));
    DLM_TRY(check_pair(first, second, err));
    size_t longest = first->layout->config.max_seq_len;
    if (second->layout->config.max_seq_len < longest) longest = second->layout->config.max_seq_len;
    dlm_windows windows;
    DLM_TRY(cut(first, data, longest, options, &windows, err));
    dlm_paired paired = {.capacity = windows.n * options->draws, .difference.draws = options->draws};
    paired.means = dlm__calloc(paired.capacity, sizeof *paired.means);
    dlm_status status =
        paired.means != NULL
            ? measure(first, data, &windows, options, &paired, &results[0], err)
            : dlm__fail_memory(err, "two evaluations", paired.capacity * sizeof *paired.means);
    paired.compares = true;
    paired.n = 0;
    if (status == DLM_OK) status = measure(second, data, &windows, options, &paired, &results[1], err);
    if (status == DLM_OK) *difference = difference_of(results, &paired.difference);
    free(paired.means);
    dlm__windows_free(&windows);
    return status;
}
