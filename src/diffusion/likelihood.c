/* Draws the masks of an evaluation and gathers what the network says of them. */
#include "diffusion/likelihood.h"

#include "diffusion/masked_score.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define LN_2 0.69314718055994530942

/* The draw of the stream (seed, DLM_RNG_EVALUATE, window, draw) that is none of the NELBO's. */
#define DRAW_CROSS_ENTROPY UINT32_C(0x40000000)

enum { ELBO = 1, LAST_DRAW = 2, LAST_WINDOW = 4 };

struct dlm_likelihood {
    dlm_likelihood_options options;
    dlm_masked_score *score;
    dlm_estimate estimate;
    double ce_sum;
    uint64_t ce_positions;
    size_t windows, documents;
    uint64_t tokens, bytes;
    /* the window added last, which is measured when it is known whether another of its document follows */
    dlm_scored held;
    int32_t *held_ids; /* (longest) */
    uint8_t *masked;   /* (longest) */
    uint32_t *order;   /* (longest) */
    dlm_arena arena;
};

static void count(dlm_estimate *estimate, const dlm_score_tag *tag, double mean) {
    dlm__estimate_draw(estimate, tag->n, tag->masked, mean);
    if (tag->flags & LAST_DRAW) dlm__estimate_end_window(estimate);
    if (tag->flags & LAST_WINDOW) dlm__estimate_end_document(estimate);
}

/* Draws come in the order in which they were added, so in the same one for both evaluations. */
static void pair(dlm_paired *paired, const dlm_score_tag *tag, double mean) {
    assert(paired->n < paired->capacity);
    double *other = &paired->means[paired->n++];
    if (paired->compares)
        count(&paired->difference, tag, mean - *other);
    else
        *other = mean;
}

static void take(void *user, const dlm_score_tag *tag, double ce) {
    dlm_likelihood *l = user;
    if (!(tag->flags & ELBO)) {
        l->ce_sum += ce;
        l->ce_positions += tag->masked;
        return;
    }
    const double mean = ce / (double)tag->masked;
    count(&l->estimate, tag, mean);
    if (l->options.paired != NULL) pair(l->options.paired, tag, mean);
}

static void layout(dlm_likelihood *l) {
    l->held_ids = dlm__arena_take(&l->arena, l->options.longest, sizeof *l->held_ids);
    l->masked = dlm__arena_take(&l->arena, l->options.longest, sizeof *l->masked);
    l->order = dlm__arena_take(&l->arena, l->options.longest, sizeof *l->order);
}

static dlm_status prepare(dlm_likelihood *l, const dlm_network *network, dlm_compute *compute,
                          dlm_error *err) {
    const dlm_likelihood_options *o = &l->options;
    const size_t least = o->cross_entropy ? 0 : 1;
    if (o->draws < least || o->draws > DLM_DRAWS_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "%zu draws are not from %zu to %zu", o->draws, least,
                         DLM_DRAWS_MAX);
    l->estimate.draws = o->draws;
    layout(l);
    DLM_TRY(dlm__arena_allocate(&l->arena, "an evaluation", err));
    layout(l);
    return dlm__masked_score_create(network, compute, o->longest, SIZE_MAX, o->mask_id, take, l, &l->score,
                                    err);
}

dlm_status dlm__likelihood_create(const dlm_network *network, dlm_compute *compute,
                                  const dlm_likelihood_options *options, dlm_likelihood **likelihood,
                                  dlm_error *err) {
    *likelihood = NULL;
    dlm_likelihood *l = dlm__calloc(1, sizeof *l);
    if (l == NULL) return dlm__fail_memory(err, "an evaluation", sizeof *l);
    l->options = *options;
    const dlm_status status = prepare(l, network, compute, err);
    if (status != DLM_OK) {
        dlm__likelihood_free(l);
        return status;
    }
    *likelihood = l;
    return DLM_OK;
}

void dlm__likelihood_free(dlm_likelihood *l) {
    if (l == NULL) return;
    dlm__masked_score_free(l->score);
    dlm__arena_free(&l->arena);
    free(l);
}

static dlm_status add_elbo(dlm_likelihood *l, size_t window, bool last, dlm_error *err) {
    const dlm_likelihood_options *o = &l->options;
    const dlm_mask_draws draws = {.seed = o->seed, .draws = o->draws};
    const size_t n = l->held.n;
    for (size_t d = 0; d < o->draws; d++) {
        const size_t k = dlm__draw_mask(&draws, window, d, n, l->masked, l->order);
        dlm_score_tag tag = {.n = n, .masked = k, .window = window, .flags = ELBO};
        if (d + 1 == o->draws) tag.flags |= LAST_DRAW | (last ? LAST_WINDOW : 0U);
        DLM_TRY(dlm__masked_score_add(l->score, l->held_ids, l->held.shown, l->masked,
                                      dlm__sigma_inverse(o->schedule, (double)k / (double)n), tag, err));
    }
    return DLM_OK;
}

static dlm_status add_cross_entropy(dlm_likelihood *l, size_t window, dlm_error *err) {
    const dlm_likelihood_options *o = &l->options;
    dlm_rng rng = dlm__rng(o->seed, DLM_RNG_EVALUATE, (uint32_t)window, DRAW_CROSS_ENTROPY);
    const double t = fmax(dlm__rng_uniform(&rng), DLM_T_MIN);
    const size_t masked = dlm__mask_independently(&rng, l->held.n, dlm__sigma(o->schedule, t), l->masked);
    if (masked == 0) return DLM_OK;
    const dlm_score_tag tag = {.n = l->held.n, .masked = masked, .window = window};
    return dlm__masked_score_add(l->score, l->held_ids, l->held.shown, l->masked, t, tag, err);
}

/* The masks of the window added last, which is its document's last or not. */
static dlm_status measure_held(dlm_likelihood *l, bool last, dlm_error *err) {
    if (l->windows == 0) return DLM_OK;
    DLM_TRY(add_elbo(l, l->windows - 1, last, err));
    return l->options.cross_entropy ? add_cross_entropy(l, l->windows - 1, err) : DLM_OK;
}

dlm_status dlm__likelihood_add(dlm_likelihood *l, const dlm_scored *window, dlm_error *err) {
    assert(window->n > 0 && window->n <= window->shown);
    if (window->shown > l->options.longest)
        return dlm__fail(err, DLM_ARGUMENT, "window %zu has %zu positions, the longest was to have %zu",
                         l->windows, window->shown, l->options.longest);
    if (l->windows == UINT32_MAX)
        return dlm__fail(err, DLM_UNSUPPORTED, "more than %lu windows", (unsigned long)UINT32_MAX);
    DLM_TRY(measure_held(l, !window->continues, err));
    l->held = *window;
    for (size_t i = 0; i < window->shown; i++) l->held_ids[i] = window->ids[i];
    l->documents += l->windows == 0 || !window->continues;
    l->windows++;
    l->tokens += window->n;
    l->bytes += window->bytes;
    return DLM_OK;
}

dlm_status dlm__likelihood_end(dlm_likelihood *l, dlm_eval_result *result, dlm_error *err) {
    DLM_TRY(measure_held(l, true, err));
    DLM_TRY(dlm__masked_score_flush(l->score, err));
    dlm_estimated e = {.nelbo = NAN, .standard_error = NAN, .standard_error_documents = NAN};
    if (l->options.draws > 0) e = dlm__estimate(&l->estimate);
    const double ce = l->ce_positions > 0 ? l->ce_sum / (double)l->ce_positions : NAN;
    *result = (dlm_eval_result){
        .eval_ce = ce,
        .perplexity = exp(ce),
        .nelbo = e.nelbo,
        .standard_error = e.standard_error,
        .standard_error_documents = e.standard_error_documents,
        .bits_per_byte = l->bytes > 0 ? e.nelbo * (double)l->tokens / LN_2 / (double)l->bytes : NAN,
        .documents = l->documents,
        .windows = l->windows,
        .tokens = l->tokens,
        .bytes = l->bytes};
    return DLM_OK;
}
