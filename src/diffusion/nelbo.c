/* NELBO of single sequences. */
#include "diffusion/nelbo.h"

#include "text/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

dlm_nelbo_options dlm_nelbo_defaults(void) {
    return (dlm_nelbo_options){.seed = 1, .draws = 16};
}

double dlm__by_count_mean(dlm_by_count *counts, size_t n) {
    double sum = 0;
    for (size_t k = 1; k <= n; k++) sum += counts->sum[k] / counts->masks[k];
    memset(counts, 0, sizeof *counts);
    return sum / (double)n;
}

double dlm__strata_error(const double *values, size_t n) {
    if (n < 2) return NAN;
    const size_t pairs = (n + 1) / 2;
    double sum = 0, squares = 0;
    for (size_t j = 0; j < pairs; j++) {
        const size_t second = 2 * j + 1 < n ? 2 * j + 1 : n - 1;
        const double d = values[second] - values[second - 1];
        sum += d;
        squares += d * d;
    }
    const double J = (double)pairs;
    if (pairs > 1) squares = fmax(squares - sum * sum / J, 0) * J / (J - 1);
    return sqrt(squares) / (double)n;
}

/* ---- one sequence after the other --------------------------------------------------------------------- */

/* What the masks of the sequence at hand gave so far. Sequences are measured in their order, and so are the
 * masks of each. */
typedef struct gathered {
    double *nats, *errors; /* (n), errors may be NULL */
    bool exact;
    dlm_by_count counts;
    dlm_mask_draws draws;
    double *means; /* (draws) of the cross-entropy; where draws are pairs, (draws / 2) sums of two */
    size_t seen;
    uint64_t done, all; /* masks */
    dlm_meter meter;
} gathered;

static void finish(gathered *g, const dlm_score_tag *tag) {
    const double n = (double)tag->n;
    const size_t unit = dlm__mask_unit(&g->draws), units = g->draws.draws / unit;
    double mean = 0, error = 0;
    if (g->exact) {
        mean = dlm__by_count_mean(&g->counts, tag->n);
    } else {
        for (size_t u = 0; u < units; u++) mean += g->means[u] / (double)g->draws.draws;
        error = dlm__strata_error(g->means, units) / (double)unit;
        for (size_t u = 0; u < units; u++) g->means[u] = 0;
    }
    g->nats[tag->window] = n * mean;
    if (g->errors != NULL) g->errors[tag->window] = n * error;
    g->seen = 0;
}

static bool after_pass(void *user) {
    gathered *g = user;
    return dlm__meter_report(&g->meter, "nelbo", g->done, g->all, NULL) != DLM_OK;
}

static void take(void *user, const dlm_score_tag *tag, double ce, double end) {
    (void)end;
    gathered *g = user;
    const double mean = ce / (double)tag->masked;
    g->done++;
    if (g->exact) {
        g->counts.sum[tag->masked] += mean;
        g->counts.masks[tag->masked]++;
    } else {
        g->means[g->seen / dlm__mask_unit(&g->draws)] += mean;
    }
    if (++g->seen == (g->exact ? ((size_t)1 << tag->n) - 1 : g->draws.draws)) finish(g, tag);
}

/* masked and order (n) are scratch. */
static dlm_status add_draws(dlm_masked_score *score, const dlm_mask_draws *draws, dlm_schedule schedule,
                            size_t index, size_t stream, const int32_t *ids, size_t n, uint8_t *masked,
                            uint32_t *order, dlm_error *err) {
    for (size_t d = 0; d < draws->draws; d++) {
        const size_t k = dlm__draw_mask(draws, stream, d, n, masked, order);
        const double t = dlm__sigma_inverse(schedule, (double)k / (double)n);
        const dlm_score_tag tag = {.n = n, .masked = k, .window = index};
        DLM_TRY(dlm__masked_score_add(score, ids, n, masked, t, tag, err));
    }
    return DLM_OK;
}

static dlm_status add_all_masks(dlm_masked_score *score, dlm_schedule schedule, size_t index,
                                const int32_t *ids, size_t n, dlm_error *err) {
    for (uint32_t set = 1; set < UINT32_C(1) << n; set++) {
        uint8_t masked[DLM_NELBO_EXACT_LIMIT];
        const size_t k = dlm__mask_of_set(set, n, masked);
        const double t = dlm__sigma_inverse(schedule, (double)k / (double)n);
        const dlm_score_tag tag = {.n = n, .masked = k, .window = index};
        DLM_TRY(dlm__masked_score_add(score, ids, n, masked, t, tag, err));
    }
    return DLM_OK;
}

/* ---- the public call ---------------------------------------------------------------------------------- */

static dlm_status check_options(const dlm_model *model, const dlm_nelbo_options *options, size_t n,
                                dlm_mask_draws *draws, dlm_error *err) {
    if (model->network.params == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "%s was read without its weights",
                         model->source != NULL ? model->source : "the model");
    if (model->mask_id < 0) return dlm__fail(err, DLM_ARGUMENT, "the model's tokenizer has no [MASK]");
    if (n > UINT32_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "%zu sequences are more than %lu", n, (unsigned long)UINT32_MAX);
    *draws = (dlm_mask_draws){.draws = 1};
    return options->exact ? DLM_OK
                          : dlm__mask_draws(options->seed, options->draws, options->masks, draws, err);
}

static dlm_status check_sequence(const dlm_model *model, const dlm_nelbo_options *options, size_t index,
                                 const int32_t *ids, size_t n, dlm_error *err) {
    const dlm_config *config = &model->layout->config;
    if (n == 0 || n > config->max_seq_len)
        return dlm__fail(err, DLM_ARGUMENT, "sequence %zu has %zu tokens, the model takes 1 to %zu", index, n,
                         config->max_seq_len);
    if (options->exact && n > DLM_NELBO_EXACT_LIMIT)
        return dlm__fail(err, DLM_ARGUMENT, "sequence %zu has %zu tokens, the exact NELBO takes at most %zu",
                         index, n, DLM_NELBO_EXACT_LIMIT);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= config->vocab_size)
            return dlm__fail(err, DLM_ARGUMENT,
                             "position %zu of sequence %zu is token %ld, the vocabulary has %zu", i, index,
                             (long)ids[i], config->vocab_size);
        if (ids[i] == model->mask_id)
            return dlm__fail(err, DLM_ARGUMENT, "position %zu of sequence %zu is masked: no text", i, index);
    }
    return DLM_OK;
}

static dlm_status check_sequences(const dlm_model *model, const dlm_nelbo_options *options, size_t n,
                                  const size_t *lengths, const int32_t *ids, size_t *longest, size_t *total,
                                  uint64_t *all_masks, dlm_error *err) {
    *longest = *total = 0;
    *all_masks = 0;
    size_t base = 0;
    for (size_t b = 0; b < n; base += lengths[b++]) {
        DLM_TRY(check_sequence(model, options, b, ids + base, lengths[b], err));
        if (lengths[b] > *longest) *longest = lengths[b];
        const size_t masks = options->exact ? ((size_t)1 << lengths[b]) - 1 : options->draws;
        size_t positions;
        *all_masks += masks;
        if (!dlm__size_mul(lengths[b], masks, &positions) || !dlm__size_add(*total, positions, total))
            *total = SIZE_MAX;
    }
    return DLM_OK;
}

/* masked and order (longest) are scratch. */
static dlm_status measure(const dlm_model *model, const dlm_mask_draws *draws, bool exact, size_t n,
                          const size_t *lengths, const size_t *streams, const int32_t *ids,
                          dlm_masked_score *score, uint8_t *masked, uint32_t *order, dlm_error *err) {
    const dlm_schedule schedule = model->layout->config.schedule;
    size_t base = 0;
    for (size_t b = 0; b < n; base += lengths[b++])
        DLM_TRY(exact ? add_all_masks(score, schedule, b, ids + base, lengths[b], err)
                      : add_draws(score, draws, schedule, b, streams != NULL ? streams[b] : b, ids + base,
                                  lengths[b], masked, order, err));
    return dlm__masked_score_flush(score, err);
}

dlm_status dlm__nelbo(const dlm_model *model, const dlm_nelbo_options *options, const size_t *streams,
                      size_t n, const size_t *lengths, const int32_t *ids, double *nats,
                      double *standard_errors, dlm_error *err) {
    gathered g = {.nats = nats,
                  .errors = standard_errors,
                  .exact = options->exact,
                  .meter = dlm__meter(options->progress, options->user)};
    size_t longest, total; /* positions of a sequence, and of all with all their masks */
    DLM_TRY(check_options(model, options, n, &g.draws, err));
    DLM_TRY(check_sequences(model, options, n, lengths, ids, &longest, &total, &g.all, err));
    if (n == 0) return DLM_OK;
    g.means = dlm__calloc(g.draws.draws, sizeof *g.means);
    uint8_t *masked = dlm__calloc(longest, sizeof *masked);
    uint32_t *order = dlm__calloc(longest, sizeof *order);
    dlm_masked_scoring scoring = {.network = &model->network,
                                  .mask_id = model->mask_id,
                                  .longest = longest,
                                  .all = total,
                                  .take = take,
                                  .user = &g,
                                  .after_pass = after_pass,
                                  .pass_user = &g};
    dlm_masked_score *score = NULL;
    dlm_status status = g.means != NULL && masked != NULL && order != NULL
                            ? dlm__compute_create(NULL, &scoring.compute, err)
                            : dlm__fail_memory(err, "a NELBO", longest * (sizeof *masked + sizeof *order));
    if (status == DLM_OK) status = dlm__masked_score_create(&scoring, &score, err);
    if (status == DLM_OK)
        status = measure(model, &g.draws, g.exact, n, lengths, streams, ids, score, masked, order, err);
    dlm__masked_score_free(score);
    dlm__compute_free(scoring.compute);
    free(g.means);
    free(masked);
    free(order);
    return status;
}

dlm_status dlm_nelbo(const dlm_model *model, const dlm_nelbo_options *options, size_t n,
                     const size_t *lengths, const int32_t *ids, double *nats, double *standard_errors,
                     dlm_error *err) {
    return dlm__nelbo(model, options, NULL, n, lengths, ids, nats, standard_errors, err);
}
