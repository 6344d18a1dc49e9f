/* Windows of a long text, and its callbacks. */
#include "diffusion/long_text.h"

#include <string.h>

static void layout(dlm_long_text *w) {
    w->window_fixed = dlm__arena_take(&w->arena, w->n, sizeof *w->window_fixed);
    w->before = dlm__arena_take(&w->arena, w->n, sizeof *w->before);
    w->confidence = dlm__arena_take(&w->arena, w->n, sizeof *w->confidence);
    w->fixed = dlm__arena_take(&w->arena, w->n, sizeof *w->fixed);
}

dlm_status dlm__long_create(dlm_long_text *w, const dlm_model *model, size_t n, int32_t *ids,
                            const uint8_t *fixed, dlm_error *err) {
    *w = (dlm_long_text){.n = n, .mask_id = model->mask_id, .ids = ids, .banned = -1};
    layout(w);
    DLM_TRY(dlm__arena_allocate(&w->arena, "a long text", err));
    layout(w);
    for (size_t p = 0; fixed != NULL && p < n; p++) {
        w->fixed[p] = fixed[p] != 0;
        w->confidence[p] = w->fixed[p] ? 1.0F : 0.0F;
    }
    return DLM_OK;
}

void dlm__long_free(dlm_long_text *w) {
    dlm__arena_free(&w->arena);
}

void dlm__long_next(dlm_long_text *w, size_t start, size_t length, size_t first, size_t last) {
    w->start = start;
    w->length = length;
    w->last_step = w->window_forwards = 0;
    for (size_t i = 0; i < length; i++) {
        const size_t p = start + i;
        const bool outside = p < first || p >= last;
        w->window_fixed[i] = w->fixed[p] || (outside && w->ids[p] != w->mask_id);
    }
}

void dlm__long_end(dlm_long_text *w) {
    w->done++;
    w->steps += w->last_step;
    w->forwards += w->window_forwards;
}

uint64_t dlm__long_seed(const dlm_long_text *w, uint64_t seed) {
    if (w->done == 0) return seed;
    dlm_rng rng = dlm__rng(seed, DLM_RNG_BLOCK, (uint32_t)w->done, 0);
    return dlm__rng_u64(&rng);
}

/* A window's step 0 is the last step of the one before, which was shown. */
bool dlm__long_step(void *user, const dlm_sample_step *step) {
    dlm_long_text *w = user;
    w->last_step = step->step;
    w->window_forwards = step->forwards;
    if (w->on_step == NULL || (step->step == 0 && w->done > 0)) return false;
    const size_t offsets[2] = {0, w->n}, ahead = w->all > w->done ? w->all - w->done - 1 : 0;
    for (size_t i = 0; i < w->length; i++)
        if (!w->window_fixed[i]) w->confidence[w->start + i] = step->confidence[i];
    memcpy(w->before, w->ids, w->n * sizeof *w->ids);
    const dlm_sample_step shown = {.step = w->steps + step->step,
                                   .steps = w->steps + step->steps * (1 + ahead),
                                   .n = 1,
                                   .offsets = offsets,
                                   .ids = w->ids,
                                   .confidence = w->confidence,
                                   .fixed = w->fixed,
                                   .times = step->times,
                                   .forwards = w->forwards + step->forwards,
                                   .mask_id = step->mask_id,
                                   .first = step->first,
                                   .tries = step->tries};
    w->stopped = w->on_step(w->user, &shown);
    for (size_t p = 0; p < w->n; p++) {
        const size_t i = p - w->start;
        if (p < w->start || i >= w->length || w->window_fixed[i])
            w->ids[p] = w->before[p];
        else
            step->confidence[i] = w->confidence[p];
    }
    return w->stopped;
}

void dlm__long_allow(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    dlm_long_text *w = user;
    (void)sequence;
    if (w->banned >= 0) allowed[w->banned] = 0;
    if (w->allow != NULL) w->allow(w->allow_user, w->sequence, w->start + position, ids - w->start, allowed);
}
