/* Evaluation of a model on a corpus. */
#include "train/eval.h"

#include "diffusion/curve.h"
#include "diffusion/nelbo.h"

#include <stdlib.h>

#define SECONDS_BETWEEN_REPORTS 0.2

dlm_eval_options dlm_eval_defaults(void) {
    return (dlm_eval_options){.seed = 1, .draws = 2};
}

/* ---- windows of a corpus ------------------------------------------------------------------------------ */

/* How far an evaluation is; `after_pass` reports it, and so does its end. */
typedef struct course {
    const dlm_eval_options *options;
    const char *stage;
    size_t done, all; /* windows */
    double start, last;
} course;

static course begin(const dlm_eval_options *options, const char *stage, size_t windows) {
    const double now = dlm__seconds();
    return (course){.options = options, .stage = stage, .all = windows, .start = now, .last = now};
}

static bool report(course *c) {
    c->last = dlm__seconds();
    return c->options->progress(c->options->user, c->stage, c->done, c->all, c->last - c->start);
}

static bool after_pass(void *user) {
    course *c = user;
    if (c->options->progress == NULL || dlm__seconds() - c->last < SECONDS_BETWEEN_REPORTS) return false;
    return report(c);
}

/* What takes windows: the likelihood or the curve. */
typedef dlm_status (*take_window)(void *taker, const dlm_scored *window, dlm_error *err);

static dlm_status add_likelihood(void *taker, const dlm_scored *window, dlm_error *err) {
    return dlm__likelihood_add(taker, window, err);
}

static dlm_status add_curve(void *taker, const dlm_scored *window, dlm_error *err) {
    return dlm__curve_add(taker, window, err);
}

/* Where the network was trained on padding, windows are shown with it. ids (seq_len) is scratch. */
static dlm_status add_windows(const dlm_config *config, int32_t pad_id, const dlm_data *data,
                              const dlm_windows *windows, course *c, take_window take, void *taker,
                              int32_t *ids, dlm_error *err) {
    for (; c->done < windows->n; c->done++) {
        const dlm_window *window = &windows->list[c->done];
        dlm_scored scored = {.ids = ids,
                             .n = window->n,
                             .shown = config->padded ? windows->seq_len : window->n,
                             .continues = window->continues,
                             .ends = config->end_token && window->ends};
        scored.bytes = dlm__window_ids(data, window, ids);
        for (size_t i = window->n; i < scored.shown; i++) ids[i] = pad_id;
        DLM_TRY(take(taker, &scored, err));
    }
    return DLM_OK;
}

static dlm_status feed(const dlm_config *config, int32_t pad_id, const dlm_data *data,
                       const dlm_windows *windows, course *c, take_window take, void *taker, dlm_error *err) {
    int32_t *ids = dlm__calloc(windows->seq_len, sizeof *ids);
    if (ids == NULL) return dlm__fail_memory(err, "a window", windows->seq_len * sizeof *ids);
    const dlm_status status = add_windows(config, pad_id, data, windows, c, take, taker, ids, err);
    free(ids);
    return status;
}

/* The last report. What was stopped says how far it came. */
static dlm_status finish(course *c, dlm_status status, dlm_error *err) {
    if (status == DLM_OK && c->options->progress != NULL && report(c)) status = DLM_CANCELLED;
    if (status != DLM_CANCELLED) return status;
    return dlm__fail(err, status, "stopped after %zu of %zu windows", c->done, c->all);
}

static dlm_status check_windows(const dlm_config *config, int32_t mask_id, int32_t pad_id,
                                const dlm_windows *windows, dlm_error *err) {
    if (windows->n == 0) return dlm__fail(err, DLM_ARGUMENT, "no document to measure the model on");
    if (mask_id < 0 || (config->padded && pad_id < 0))
        return dlm__fail(err, DLM_ARGUMENT, "the tokenizer has no [%s]", mask_id < 0 ? "MASK" : "PAD");
    return DLM_OK;
}

/* The likelihood by these windows, of which all but what it holds back is measured; the first has that index.
 * To be freed, also after an error. */
static dlm_status score(const dlm_network *network, dlm_compute *compute, int32_t mask_id, int32_t pad_id,
                        const dlm_data *data, const dlm_windows *windows, size_t first, bool cross_entropy,
                        dlm_paired *paired, course *c, dlm_likelihood **likelihood, dlm_error *err) {
    const dlm_config *config = &network->layout->config;
    const dlm_eval_options *options = c->options;
    *likelihood = NULL;
    DLM_TRY(check_windows(config, mask_id, pad_id, windows, err));
    const dlm_likelihood_options likelihood_options = {.seed = options->seed,
                                                       .draws = options->draws,
                                                       .masks = options->masks,
                                                       .exact = options->exact,
                                                       .cross_entropy = cross_entropy,
                                                       .schedule = config->schedule,
                                                       .mask_id = mask_id,
                                                       .longest = windows->seq_len,
                                                       .first = first,
                                                       .paired = paired,
                                                       .after_pass = after_pass,
                                                       .pass_user = c};
    DLM_TRY(dlm__likelihood_create(network, compute, &likelihood_options, likelihood, err));
    return feed(config, pad_id, data, windows, c, add_likelihood, *likelihood, err);
}

dlm_status dlm__eval_sums(const dlm_network *network, dlm_compute *compute, int32_t mask_id, int32_t pad_id,
                          const dlm_data *data, const dlm_windows *windows, size_t first, size_t n,
                          const dlm_eval_options *options, bool cross_entropy, dlm_likelihood_sums *sums,
                          dlm_error *err) {
    *sums = (dlm_likelihood_sums){0};
    if (n == 0) return DLM_OK;
    const dlm_windows some = {.list = windows->list + first, .n = n, .seq_len = windows->seq_len};
    course c = begin(options, "eval", n);
    dlm_likelihood *likelihood;
    dlm_status status = score(network, compute, mask_id, pad_id, data, &some, first, cross_entropy, NULL, &c,
                              &likelihood, err);
    if (status == DLM_OK) status = dlm__likelihood_sums(likelihood, sums, err);
    dlm__likelihood_free(likelihood);
    return finish(&c, status, err);
}

dlm_status dlm__eval_windows(const dlm_network *network, dlm_compute *compute, int32_t mask_id,
                             int32_t pad_id, const dlm_data *data, const dlm_windows *windows,
                             const dlm_eval_options *options, bool cross_entropy, dlm_paired *paired,
                             dlm_eval_result *result, dlm_error *err) {
    course c = begin(options, "eval", windows->n);
    dlm_likelihood *likelihood;
    dlm_status status = score(network, compute, mask_id, pad_id, data, windows, 0, cross_entropy, paired, &c,
                              &likelihood, err);
    if (status == DLM_OK) status = dlm__likelihood_end(likelihood, result, err);
    if (status == DLM_OK) result->seconds = dlm__seconds() - c.start;
    dlm__likelihood_free(likelihood);
    return finish(&c, status, err);
}

/* ---- one model ---------------------------------------------------------------------------------------- */

static dlm_status check(const dlm_model *model, const dlm_data *data, const dlm_eval_options *options,
                        dlm_error *err) {
    const dlm_config *config = &model->layout->config;
    if (model->network.params == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "%s was read without its weights", model->source);
    dlm_mask_draws draws;
    if (!options->exact) DLM_TRY(dlm__mask_draws(options->seed, options->draws, options->masks, &draws, err));
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

/* All masks are tried of short windows only; names the first document that has none. */
static dlm_status check_exact(const dlm_windows *windows, dlm_error *err) {
    for (size_t w = 0; w < windows->n; w++) {
        if (windows->list[w].n <= DLM_NELBO_EXACT_LIMIT) continue;
        const uint64_t document = windows->list[w].document;
        size_t tokens = 0;
        for (; w < windows->n && windows->list[w].document == document; w++) tokens += windows->list[w].n;
        return dlm__fail(
            err, DLM_ARGUMENT,
            "document %llu has %zu tokens in windows of up to %zu, and all masks are tried of at "
            "most %zu",
            (unsigned long long)document + 1, tokens, windows->seq_len, DLM_NELBO_EXACT_LIMIT);
    }
    return DLM_OK;
}

static dlm_status cut(const dlm_model *model, const dlm_data *data, size_t longest,
                      const dlm_eval_options *options, dlm_windows *windows, dlm_error *err) {
    const dlm_config *config = &model->layout->config;
    const size_t seq_len = options->seq_len > 0 ? options->seq_len : longest;
    DLM_TRY(dlm__windows_create(data, seq_len, config->end_token, config->padded, DLM_PART_ALL, 1, 0,
                                options->max_documents, windows, err));
    const dlm_status status = options->exact ? check_exact(windows, err) : DLM_OK;
    if (status != DLM_OK) dlm__windows_free(windows);
    return status;
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

/* ---- the curve ---------------------------------------------------------------------------------------- */

static dlm_status measure_curve(const dlm_model *model, dlm_compute *compute, const dlm_data *data,
                                const dlm_windows *windows, const dlm_eval_options *options, size_t n,
                                const double *ratios, dlm_curve_point *points, dlm_error *err) {
    const dlm_config *config = &model->layout->config;
    course c = begin(options, "curve", windows->n);
    const dlm_curve_options curve_options = {.seed = options->seed,
                                             .draws = options->draws,
                                             .n = n,
                                             .ratios = ratios,
                                             .schedule = config->schedule,
                                             .mask_id = model->mask_id,
                                             .longest = windows->seq_len,
                                             .after_pass = after_pass,
                                             .pass_user = &c};
    dlm_curve *curve;
    DLM_TRY(dlm__curve_create(&model->network, compute, &curve_options, &curve, err));
    dlm_status status = feed(config, model->pad_id, data, windows, &c, add_curve, curve, err);
    if (status == DLM_OK) status = dlm__curve_end(curve, points, err);
    dlm__curve_free(curve);
    return finish(&c, status, err);
}

dlm_status dlm_eval_curve(const dlm_model *model, const dlm_data *data, const dlm_eval_options *options,
                          size_t n, const double *ratios, dlm_curve_point *points, dlm_error *err) {
    dlm_eval_options own = *options;
    own.exact = false;
    own.masks = DLM_MASKS_INDEPENDENT;
    DLM_TRY(check(model, data, &own, err));
    dlm_windows windows;
    DLM_TRY(cut(model, data, model->layout->config.max_seq_len, &own, &windows, err));
    dlm_compute *compute = NULL;
    dlm_status status = check_windows(&model->layout->config, model->mask_id, model->pad_id, &windows, err);
    if (status == DLM_OK) status = dlm__compute_create(NULL, &compute, err);
    if (status == DLM_OK)
        status = measure_curve(model, compute, data, &windows, &own, n, ratios, points, err);
    dlm__compute_free(compute);
    dlm__windows_free(&windows);
    return status;
}

/* ---- two models --------------------------------------------------------------------------------------- */

static dlm_status check_pair(const dlm_model *first, const dlm_model *second, dlm_error *err) {
    const dlm_config *a = &first->layout->config, *b = &second->layout->config;
    if (a->end_token == b->end_token && a->padded == b->padded) return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH,
                     "%s (%s end token, %s padding) and %s (%s, %s) score other tokens: measure each alone",
                     first->source, a->end_token ? "with" : "without", a->padded ? "with" : "without",
                     second->source, b->end_token ? "with" : "without", b->padded ? "with" : "without");
}

/* Of the counts, the second's. */
static dlm_bound bound_of(const dlm_bound *first, const dlm_bound *second, const dlm_estimate *estimate,
                          bool exact) {
    dlm_bound difference = dlm__bound(estimate, exact, second->tokens, 0);
    difference.bits_per_byte = second->bits_per_byte - first->bits_per_byte;
    return difference;
}

static dlm_eval_result difference_of(const dlm_eval_result results[2], const dlm_paired *paired) {
    dlm_eval_result difference = results[1];
    difference.eval_ce -= results[0].eval_ce;
    difference.perplexity -= results[0].perplexity;
    difference.all = bound_of(&results[0].all, &results[1].all, &paired->all, results[1].exact);
    difference.text = bound_of(&results[0].text, &results[1].text, &paired->text, results[1].exact);
    difference.seconds += results[0].seconds;
    return difference;
}

static dlm_status measure_pair(const dlm_model *first, const dlm_model *second, const dlm_data *data,
                               const dlm_windows *windows, const dlm_eval_options *options,
                               dlm_eval_result results[2], dlm_eval_result *difference, dlm_error *err) {
    const size_t draws = options->exact ? 1 : options->draws;
    dlm_paired paired = {.capacity = windows->n * draws};
    paired.means = dlm__calloc(paired.capacity, sizeof *paired.means);
    if (paired.means == NULL)
        return dlm__fail_memory(err, "two evaluations", paired.capacity * sizeof *paired.means);
    dlm_status status = measure(first, data, windows, options, &paired, &results[0], err);
    paired.compares = true;
    paired.n = 0;
    if (status == DLM_OK) status = measure(second, data, windows, options, &paired, &results[1], err);
    if (status == DLM_OK) *difference = difference_of(results, &paired);
    free(paired.means);
    return status;
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
    const dlm_status status = measure_pair(first, second, data, &windows, options, results, difference, err);
    dlm__windows_free(&windows);
    return status;
}
