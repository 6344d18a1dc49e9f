/* The exact log-likelihood of texts under a sampler (DUEL, arXiv 2603.01367).
 *
 * Where the positions that a step reveals are a function of the state alone, there is one way only to come to
 * a text: at each step its own tokens are drawn at the positions that the sampler takes next. So the
 * probability of the text is the product of theirs, and the sum over all texts is 1. The run is the sampler's
 * own, given its tokens instead of drawing them; what depends on chance, on the clock or on a caller who may
 * change the state has no such probability and is refused. */
#include "diffusion/score.h"

#include "diffusion/order.h"
#include "text/progress.h"

#include <stdlib.h>

dlm_score_options dlm_score_defaults(void) {
    dlm_score_options options = {.sampler = dlm_sample_defaults()};
    options.sampler.temperature = 1;
    return options;
}

/* Is what a step reveals a function of the state? */
static bool chooses_by_state(const dlm_sample_options *o) {
    if (o->confidence_threshold >= 0 || o->entropy_bound >= 0) return true;
    return o->order == DLM_ORDER_CONFIDENCE || o->order == DLM_ORDER_MARGIN ||
           o->order == DLM_ORDER_ENTROPY || o->order == DLM_ORDER_LEFT_TO_RIGHT;
}

static dlm_status check_sampler(const dlm_sample_options *o, dlm_error *err) {
    DLM_TRY(dlm__sample_check(o, err));
    if (o->temperature == 0)
        return dlm__fail(err, DLM_ARGUMENT,
                         "at temperature 0 a sampler writes a single text, and no other has a likelihood");
    if (o->corrector_frac > 0 || o->remask != DLM_REMASK_NONE)
        return dlm__fail(err, DLM_ARGUMENT,
                         "with %s a text can come about in many ways: its likelihood is not one path's",
                         o->corrector_frac > 0 ? "a corrector" : "remasking");
    if (!chooses_by_state(o))
        return dlm__fail(err, DLM_ARGUMENT,
                         "the order %s is one of chance: a text's likelihood would be a sum over all orders",
                         dlm__order_name(o->order));
    if (o->max_seconds > 0)
        return dlm__fail(err, DLM_ARGUMENT, "a sampler of at most %g seconds depends on the clock",
                         o->max_seconds);
    if (o->on_step != NULL)
        return dlm__fail(err, DLM_ARGUMENT,
                         "a step callback may change a text on its way: none can be scored");
    return DLM_OK;
}

/* masked (T) gets the ids with every position masked that is not fixed. */
static dlm_status mask_free(const dlm_model *model, size_t n, const size_t *lengths, const int32_t *ids,
                            const uint8_t *fixed, int32_t *masked, dlm_error *err) {
    const size_t V = model->layout->config.vocab_size;
    size_t p = 0;
    for (size_t b = 0; b < n; b++)
        for (size_t i = 0; i < lengths[b]; i++, p++) {
            if (ids[p] < 0 || (size_t)ids[p] >= V)
                return dlm__fail(err, DLM_ARGUMENT,
                                 "position %zu of sequence %zu is token %ld, the vocabulary has %zu", i, b,
                                 (long)ids[p], V);
            if (ids[p] == model->mask_id)
                return dlm__fail(err, DLM_ARGUMENT, "position %zu of sequence %zu is masked: no text", i, b);
            masked[p] = fixed != NULL && fixed[p] ? ids[p] : model->mask_id;
        }
    return DLM_OK;
}

/* Progress, by the sampler's own callback. */
typedef struct reporter {
    dlm_meter meter;
    dlm_error *err;
    dlm_status status;
} reporter;

static bool report(void *user, const dlm_sample_step *step) {
    reporter *r = user;
    r->status = dlm__meter_report(&r->meter, "score", step->step, step->steps, r->err);
    return r->status != DLM_OK;
}

dlm_status dlm__score(const char *isa, const dlm_model *model, const dlm_score_options *options, size_t n,
                      const size_t *lengths, const int32_t *ids, const uint8_t *fixed, double *log_likelihood,
                      size_t *forwards, dlm_error *err) {
    size_t T;
    DLM_TRY(check_sampler(&options->sampler, err));
    DLM_TRY(dlm__sampling_total(model, n, lengths, &T, err));
    int32_t *masked = dlm__calloc(T > 0 ? T : 1, sizeof *masked);
    if (masked == NULL) return dlm__fail_memory(err, "masked texts", T * sizeof *masked);
    reporter r = {.meter = dlm__meter(options->progress, options->user), .err = err};
    dlm_sample_options sampler = options->sampler;
    sampler.on_step = report;
    sampler.user = &r;
    const dlm_replay replay = {.target = ids, .log_likelihood = log_likelihood, .forwards = forwards};
    dlm_status status = mask_free(model, n, lengths, ids, fixed, masked, err);
    if (status == DLM_OK)
        status = dlm__replay_sample(isa, model, &sampler, n, lengths, masked, fixed, &replay, err);
    free(masked);
    return status != DLM_OK ? status : r.status;
}

dlm_status dlm_score(const dlm_model *model, const dlm_score_options *options, size_t n,
                     const size_t *lengths, const int32_t *ids, const uint8_t *fixed, double *log_likelihood,
                     size_t *forwards, dlm_error *err) {
    return dlm__score(NULL, model, options, n, lengths, ids, fixed, log_likelihood, forwards, err);
}
