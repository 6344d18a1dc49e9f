/* Draws the masks of an evaluation and gathers what the network says of them. */
#include "diffusion/likelihood.h"

#include "diffusion/nelbo.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define LN_2 0.69314718055994530942

enum { ELBO = 1, LAST_DRAW = 2, LAST_WINDOW = 4 };

struct dlm_likelihood {
    dlm_likelihood_options options;
    dlm_mask_draws draws;
    dlm_masked_score *score;
    dlm_estimate all, text;
    dlm_by_count all_counts, text_counts; /* of the window at hand, where exact */
    double ce_sum;
    uint64_t ce_positions;
    size_t windows, documents;
    uint64_t tokens, ends, bytes;
    /* the window added last, which is measured when it is known whether another of its document follows */
    dlm_scored held;
    int32_t *held_ids; /* (longest) */
    uint8_t *masked;   /* (longest) */
    uint32_t *order;   /* (longest) */
    dlm_arena arena;
};

/* ---- what the masks gave ------------------------------------------------------------------------------ */

static void count(dlm_estimate *all, dlm_estimate *text, const dlm_score_tag *tag, dlm_draw_means means) {
    dlm__estimate_draw(all, tag->n, tag->n, tag->masked, means.all);
    dlm__estimate_draw(text, tag->n, tag->n - tag->ends, tag->masked, means.text);
    if (tag->flags & LAST_DRAW) {
        dlm__estimate_end_window(all);
        dlm__estimate_end_window(text);
    }
    if (tag->flags & LAST_WINDOW) {
        dlm__estimate_end_document(all);
        dlm__estimate_end_document(text);
    }
}

/* Draws come in the order in which they were added, so in the same one for both evaluations. */
static void pair(dlm_paired *paired, const dlm_score_tag *tag, dlm_draw_means means) {
    assert(paired->n < paired->capacity);
    dlm_draw_means *other = &paired->means[paired->n++];
    if (!paired->compares) {
        *other = means;
        return;
    }
    const dlm_draw_means more = {means.all - other->all, means.text - other->text};
    count(&paired->all, &paired->text, tag, more);
}

static void add_to(dlm_by_count *counts, size_t k, double mean) {
    counts->sum[k] += mean;
    counts->masks[k]++;
}

static void take(void *user, const dlm_score_tag *tag, double ce, double end) {
    dlm_likelihood *l = user;
    const bool exact = l->options.exact;
    if (!(tag->flags & ELBO)) {
        l->ce_sum += ce;
        l->ce_positions += tag->masked;
        return;
    }
    dlm_draw_means means = {ce / (double)tag->masked, (ce - end) / (double)tag->masked};
    if (exact) {
        add_to(&l->all_counts, tag->masked, means.all);
        add_to(&l->text_counts, tag->masked, means.text);
        if (!(tag->flags & LAST_DRAW)) return;
        means.all = dlm__by_count_mean(&l->all_counts, tag->n);
        means.text = dlm__by_count_mean(&l->text_counts, tag->n);
    }
    count(&l->all, &l->text, tag, means);
    if (l->options.paired != NULL) pair(l->options.paired, tag, means);
}

/* ---- create, free ------------------------------------------------------------------------------------- */

static void layout(dlm_likelihood *l) {
    l->held_ids = dlm__arena_take(&l->arena, l->options.longest, sizeof *l->held_ids);
    l->masked = dlm__arena_take(&l->arena, l->options.longest, sizeof *l->masked);
    l->order = dlm__arena_take(&l->arena, l->options.longest, sizeof *l->order);
}

static void start_estimates(dlm_estimate *all, dlm_estimate *text, const dlm_mask_draws *draws, bool exact) {
    all->exact = text->exact = exact;
    all->draws = text->draws = draws->draws;
    all->unit = text->unit = dlm__mask_unit(draws);
}

static dlm_status prepare(dlm_likelihood *l, const dlm_network *network, dlm_compute *compute,
                          dlm_error *err) {
    const dlm_likelihood_options *o = &l->options;
    l->draws = (dlm_mask_draws){.draws = 1};
    if (!o->exact && (o->draws > 0 || !o->cross_entropy))
        DLM_TRY(dlm__mask_draws(o->seed, o->draws, o->masks, &l->draws, err));
    start_estimates(&l->all, &l->text, &l->draws, o->exact);
    if (o->paired != NULL) start_estimates(&o->paired->all, &o->paired->text, &l->draws, o->exact);
    layout(l);
    DLM_TRY(dlm__arena_allocate(&l->arena, "an evaluation", err));
    layout(l);
    const dlm_masked_scoring scoring = {.network = network,
                                        .compute = compute,
                                        .mask_id = o->mask_id,
                                        .longest = o->longest,
                                        .all = SIZE_MAX,
                                        .take = take,
                                        .user = l,
                                        .after_pass = o->after_pass,
                                        .pass_user = o->pass_user};
    return dlm__masked_score_create(&scoring, &l->score, err);
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

/* ---- masks -------------------------------------------------------------------------------------------- */

static dlm_status add_masked(dlm_likelihood *l, size_t window, size_t k, double t, unsigned flags,
                             dlm_error *err) {
    const dlm_score_tag tag = {
        .n = l->held.n, .masked = k, .ends = l->held.ends, .window = window, .flags = flags};
    return dlm__masked_score_add(l->score, l->held_ids, l->held.shown, l->masked, t, tag, err);
}

static double time_of(const dlm_likelihood *l, size_t k) {
    return dlm__sigma_inverse(l->options.schedule, (double)k / (double)l->held.n);
}

static dlm_status add_draws(dlm_likelihood *l, size_t window, unsigned last, dlm_error *err) {
    for (size_t d = 0; d < l->options.draws; d++) {
        const size_t k = dlm__draw_mask(&l->draws, window, d, l->held.n, l->masked, l->order);
        const unsigned flags = ELBO | (d + 1 == l->options.draws ? last : 0);
        DLM_TRY(add_masked(l, window, k, time_of(l, k), flags, err));
    }
    return DLM_OK;
}

static dlm_status add_all_masks(dlm_likelihood *l, size_t window, unsigned last, dlm_error *err) {
    const uint32_t sets = UINT32_C(1) << l->held.n;
    for (uint32_t set = 1; set < sets; set++) {
        const size_t k = dlm__mask_of_set(set, l->held.n, l->masked);
        DLM_TRY(add_masked(l, window, k, time_of(l, k), ELBO | (set + 1 == sets ? last : 0), err));
    }
    return DLM_OK;
}

static dlm_status add_cross_entropy(dlm_likelihood *l, size_t window, dlm_error *err) {
    const dlm_likelihood_options *o = &l->options;
    double t;
    const size_t k = dlm__original_mask(o->seed, window, o->schedule, l->held.n, &t, l->masked);
    return k > 0 ? add_masked(l, window, k, t, 0, err) : DLM_OK;
}

/* The masks of the window added last, which is its document's last or not. */
static dlm_status measure_held(dlm_likelihood *l, bool last_window, dlm_error *err) {
    if (l->windows == 0) return DLM_OK;
    const size_t window = l->options.first + l->windows - 1;
    const unsigned last = LAST_DRAW | (last_window ? LAST_WINDOW : 0U);
    DLM_TRY(l->options.exact ? add_all_masks(l, window, last, err) : add_draws(l, window, last, err));
    return l->options.cross_entropy ? add_cross_entropy(l, window, err) : DLM_OK;
}

dlm_status dlm__likelihood_add(dlm_likelihood *l, const dlm_scored *window, dlm_error *err) {
    assert(window->n > 0 && window->n <= window->shown);
    if (window->shown > l->options.longest)
        return dlm__fail(err, DLM_ARGUMENT, "window %zu has %zu positions, the longest was to have %zu",
                         l->windows, window->shown, l->options.longest);
    if (l->options.exact && window->n > DLM_NELBO_EXACT_LIMIT)
        return dlm__fail(err, DLM_ARGUMENT, "window %zu has %zu tokens, all masks are tried of at most %zu",
                         l->windows, window->n, DLM_NELBO_EXACT_LIMIT);
    if (l->windows >= UINT32_MAX - l->options.first)
        return dlm__fail(err, DLM_UNSUPPORTED, "more than %lu windows", (unsigned long)UINT32_MAX);
    DLM_TRY(measure_held(l, !window->continues, err));
    l->held = *window;
    for (size_t i = 0; i < window->shown; i++) l->held_ids[i] = window->ids[i];
    l->documents += l->windows == 0 || !window->continues;
    l->windows++;
    l->tokens += window->n;
    l->ends += window->ends;
    l->bytes += window->bytes;
    return DLM_OK;
}

/* ---- results ------------------------------------------------------------------------------------------ */

dlm_bound dlm__bound(const dlm_estimate *estimate, bool exact, uint64_t tokens, uint64_t bytes) {
    const dlm_estimated e = dlm__estimate(estimate);
    dlm_bound bound = {.nelbo = e.nelbo,
                       .standard_error = e.standard_error,
                       .interval = {e.interval[0], e.interval[1]},
                       .standard_error_documents = e.standard_error_documents,
                       .interval_documents = {e.interval_documents[0], e.interval_documents[1]},
                       .bits_per_byte = bytes > 0 ? e.nelbo * (double)tokens / LN_2 / (double)bytes : NAN,
                       .tokens = tokens};
    if (exact) {
        bound.standard_error = 0;
        bound.interval[0] = bound.interval[1] = bound.nelbo;
    }
    return bound;
}

dlm_status dlm__likelihood_sums(dlm_likelihood *l, dlm_likelihood_sums *sums, dlm_error *err) {
    DLM_TRY(measure_held(l, true, err));
    DLM_TRY(dlm__masked_score_flush(l->score, err));
    *sums = (dlm_likelihood_sums){.ce = l->ce_sum, .ce_positions = (double)l->ce_positions};
    dlm__estimate_sums(&l->all, &sums->nats, &sums->positions);
    return DLM_OK;
}

dlm_status dlm__likelihood_end(dlm_likelihood *l, dlm_eval_result *result, dlm_error *err) {
    DLM_TRY(measure_held(l, true, err));
    DLM_TRY(dlm__masked_score_flush(l->score, err));
    const double ce = l->ce_positions > 0 ? l->ce_sum / (double)l->ce_positions : NAN;
    *result = (dlm_eval_result){.eval_ce = ce,
                                .perplexity = exp(ce),
                                .all = dlm__bound(&l->all, l->options.exact, l->tokens, l->bytes),
                                .text = dlm__bound(&l->text, l->options.exact, l->tokens - l->ends, l->bytes),
                                .end_token = l->ends > 0,
                                .exact = l->options.exact,
                                .documents = l->documents,
                                .windows = l->windows,
                                .bytes = l->bytes};
    return DLM_OK;
}
