/* Sampling past the model's length, block by block. Each block is a window that begins with the end of the
 * text so far (semi-autoregressive generation: Sahoo et al., Simple and effective masked diffusion language
 * models, 2024, section 3.3; Arriola et al., Block diffusion, 2025). */
#include "diffusion/sampler.h"
#include "diffusion/long_text.h"

#include <math.h>

typedef struct block {
    size_t start, first; /* where its window begins, and the first of its masks */
} block;

/* The block whose first mask is the first one at or after `from`; false: there is none. */
static bool next_block(const dlm_model *model, size_t context, size_t n, const int32_t *ids, size_t from,
                       block *next) {
    const size_t limit = model->layout->config.max_seq_len;
    while (from < n && ids[from] != model->mask_id) from++;
    if (from == n) return false;
    next->first = from;
    next->start = from > context ? from - context : 0;
    if (next->start > n - limit) next->start = n - limit;
    return true;
}

static size_t count_blocks(const dlm_model *model, size_t context, size_t n, const int32_t *ids) {
    size_t count = 0;
    block next = {0};
    for (size_t from = 0; next_block(model, context, n, ids, from, &next); count++)
        from = next.start + model->layout->config.max_seq_len;
    return count;
}

static size_t masked_in(const dlm_long_text *w) {
    size_t masked = 0;
    for (size_t i = 0; i < w->length; i++) masked += w->ids[w->start + i] == w->mask_id;
    return masked;
}

/* The rule for how many positions a step reveals counts all of a window as one text, so in a block that
 * begins with much of it revealed the first steps would have next to nothing to do and the last ones all.
 * Equally many are revealed there instead, which is what the later part of either rule comes to. */
static void share_out_steps(dlm_sample_options *options, size_t masked) {
    const bool by_rule = options->order != DLM_ORDER_ANCESTRAL && options->order != DLM_ORDER_FIRST_HITTING &&
                         options->confidence_threshold < 0 && options->entropy_bound < 0;
    if (!by_rule || options->steps == 0 || options->corrector_frac > 0) return;
    options->reveals_per_step = (masked + options->steps - 1) / options->steps;
    options->steps = 0;
}

/* Of the time allowed, this block's part of what is left. */
static double share_of_time(const dlm_long_text *w, double most, double started) {
    if (most <= 0) return 0;
    const double left = started + most - dlm__seconds();
    return fmax(left / (double)(w->all - w->done), 1e-9);
}

static dlm_status sample_windows(const char *isa, const dlm_model *model, const dlm_sample_options *given,
                                 size_t context, size_t index, dlm_long_text *w, dlm_error *err) {
    const size_t limit = model->layout->config.max_seq_len;
    const int32_t end = model->layout->config.end_token ? model->end_id : -1;
    const double started = dlm__seconds();
    dlm_sample_options options = *given;
    options.on_step = dlm__long_step;
    options.user = w;
    options.allow_user = w;
    w->all = count_blocks(model, context, w->n, w->ids);
    block next = {0};
    for (size_t from = 0; next_block(model, context, w->n, w->ids, from, &next) && !w->stopped;
         from = next.start + limit) {
        dlm__long_next(w, next.start, limit, next.first, w->n);
        w->banned = next.start + limit < w->n ? end : -1;
        options.allow = w->banned >= 0 || w->allow != NULL ? dlm__long_allow : NULL;
        options.seed = dlm__long_seed(w, given->seed);
        options.steps = given->steps;
        options.reveals_per_step = given->reveals_per_step;
        if (next.start > 0) share_out_steps(&options, masked_in(w));
        options.max_seconds = share_of_time(w, given->max_seconds, started);
        DLM_TRY(dlm__sample(isa, model, &options, index, 1, &limit, w->ids + next.start, w->window_fixed,
                            NULL, NULL, err));
        dlm__long_end(w);
    }
    return DLM_OK;
}

static dlm_status check(const dlm_model *model, size_t context, size_t n, const int32_t *ids,
                        dlm_error *err) {
    const size_t limit = model->layout->config.max_seq_len, V = model->layout->config.vocab_size;
    if (context >= limit)
        return dlm__fail(err, DLM_ARGUMENT,
                         "a context of %zu tokens leaves no room to write in the %zu that the model takes",
                         context, limit);
    /* Of each block only its own window is looked at when it is sampled. */
    for (size_t p = 0; p < n; p++)
        if (ids[p] < 0 || (size_t)ids[p] >= V)
            return dlm__fail(err, DLM_ARGUMENT, "position %zu is token %ld, the vocabulary has %zu", p,
                             (long)ids[p], V);
    return DLM_OK;
}

dlm_status dlm__sample_blocks(const char *isa, const dlm_model *model, const dlm_sample_options *options,
                              size_t context, size_t sequence, size_t index, size_t n, int32_t *ids,
                              const uint8_t *fixed, size_t *forwards, bool *stopped, dlm_error *err) {
    const size_t limit = model->layout->config.max_seq_len;
    if (forwards != NULL) *forwards = 0;
    if (context == 0) context = limit / 2;
    DLM_TRY(check(model, context, n, ids, err));
    DLM_TRY(dlm__sample_check(options, err));
    dlm_long_text w;
    DLM_TRY(dlm__long_create(&w, model, n, ids, fixed, err));
    w.on_step = options->on_step;
    w.user = options->user;
    w.allow = options->allow;
    w.allow_user = options->allow_user;
    w.sequence = sequence;
    const dlm_status status = sample_windows(isa, model, options, context, index, &w, err);
    if (forwards != NULL) *forwards = w.forwards;
    *stopped = w.stopped;
    dlm__long_free(&w);
    return status;
}

dlm_status dlm_sample_blocks(const dlm_model *model, const dlm_sample_options *options, size_t context,
                             size_t index, size_t n, int32_t *ids, const uint8_t *fixed, size_t *forwards,
                             dlm_error *err) {
    bool stopped;
    if (n <= model->layout->config.max_seq_len)
        return dlm_sample(model, options, index, n > 0, &n, ids, fixed, NULL, forwards, err);
    return dlm__sample_blocks(NULL, model, options, context, 0, index, n, ids, fixed, forwards, &stopped,
                              err);
}
