/* Walks the parameter table with AdamW and Muon; learning rate, clipping and the running average.
 *
 * Neighbouring parameters of AdamW are updated in one call, the padding between them included: where a weight
 * and its gradient are zero, both stay so. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

static const double pi = 3.14159265358979323846;

/* PyTorch's defaults, but for Muon's momentum, which is torch.optim.Muon's. */
static const double beta1 = 0.9, beta2 = 0.999, adam_eps = 1e-8, momentum = 0.95;
static const double clip_eps = 1e-6; /* as torch.nn.utils.clip_grad_norm_ */

bool dlm__learner_muon(const dlm_learner *learner, size_t i) {
    return learner->optimizer == DLM_MUON && learner->layout->params[i].block_matrix;
}

float *dlm__learner_squares(const dlm_learner *learner, size_t i) {
    return dlm__learner_muon(learner, i) ? NULL : learner->squares + learner->v_offset[i];
}

/* Where parameter i ends in the blocks, padding included. */
static size_t end_of(const dlm_layout *layout, size_t i) {
    return i + 1 < layout->n ? layout->params[i + 1].offset : layout->total;
}

static size_t largest_scratch(const dlm_learner *learner, const dlm_compute *compute) {
    size_t most = 0;
    for (size_t i = 0; i < learner->layout->n; i++) {
        if (!dlm__learner_muon(learner, i)) continue;
        const dlm_param *p = &learner->layout->params[i];
        size_t need = dlm__muon_scratch(compute, p->shape[0], p->shape[1]);
        if (need > most) most = need;
    }
    return most;
}

static void bind(dlm_learner *learner, size_t scratch) {
    dlm_arena *arena = &learner->arena;
    const dlm_layout *layout = learner->layout;
    learner->params = dlm__arena_take(arena, layout->total, sizeof(float));
    learner->gradients = dlm__arena_take(arena, layout->total, sizeof(float));
    learner->momentum = dlm__arena_take(arena, layout->total, sizeof(float));
    learner->average = dlm__arena_take(arena, layout->total, sizeof(float));
    learner->squares = dlm__arena_take(arena, learner->v_total, sizeof(float));
    learner->scratch = dlm__arena_take(arena, scratch, sizeof(float));
}

dlm_status dlm__learner_create(const dlm_layout *layout, const dlm_compute *compute, dlm_optimizer optimizer,
                               dlm_dtype muon_type, dlm_learner **learner, dlm_error *err) {
    *learner = NULL;
    dlm_learner *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "the optimiser's state", sizeof *made);
    *made = (dlm_learner){.layout = layout, .optimizer = optimizer, .muon_type = muon_type};
    made->v_offset = dlm__calloc(layout->n, sizeof *made->v_offset);
    dlm_status status = DLM_OK;
    if (made->v_offset == NULL)
        status = dlm__fail_memory(err, "the optimiser's state", layout->n * sizeof *made->v_offset);
    for (size_t i = 0; status == DLM_OK && i < layout->n; i++) {
        made->v_offset[i] = made->v_total;
        if (!dlm__learner_muon(made, i)) made->v_total += end_of(layout, i) - layout->params[i].offset;
    }
    if (status == DLM_OK) {
        size_t scratch = largest_scratch(made, compute);
        bind(made, scratch);
        status = dlm__arena_allocate(&made->arena, "weights, gradients and the optimiser's state", err);
        if (status == DLM_OK) bind(made, scratch);
    }
    if (status == DLM_OK)
        *learner = made;
    else
        dlm__learner_free(made);
    return status;
}

void dlm__learner_free(dlm_learner *learner) {
    if (learner == NULL) return;
    dlm__arena_free(&learner->arena);
    free(learner->v_offset);
    free(learner);
}

double dlm__learner_norm(const dlm_learner *learner, dlm_compute *compute) {
    return sqrt(dlm__sum_of_squares(compute, learner->layout->total, learner->gradients));
}

void dlm__learner_update(dlm_learner *learner, dlm_compute *compute, const dlm_update *update) {
    const dlm_layout *layout = learner->layout;
    /* g *= min(1, clip / (norm + eps)) */
    double scale = update->clip > 0 ? fmin(1.0, update->clip / (update->norm + clip_eps)) : 1.0;
    dlm_adamw adamw = {.lr = update->lr,
                       .beta1 = beta1,
                       .beta2 = beta2,
                       .eps = adam_eps,
                       .decay = update->weight_decay,
                       .ema_decay = update->ema_decay,
                       .grad_scale = scale,
                       .step = update->step};
    dlm_muon muon = {.lr = update->lr,
                     .momentum = momentum,
                     .decay = update->weight_decay,
                     .ema_decay = update->ema_decay,
                     .grad_scale = scale,
                     .type = learner->muon_type};
    for (size_t i = 0, next; i < layout->n; i = next) {
        size_t at = layout->params[i].offset;
        next = i + 1;
        if (dlm__learner_muon(learner, i)) {
            dlm__muon(compute, &muon, layout->params[i].shape[0], layout->params[i].shape[1],
                      learner->params + at, learner->gradients + at, learner->momentum + at,
                      learner->average + at, learner->scratch);
            continue;
        }
        while (next < layout->n && !dlm__learner_muon(learner, next)) next++;
        dlm__adamw(compute, &adamw, end_of(layout, next - 1) - at, learner->params + at,
                   learner->gradients + at, learner->momentum + at, learner->squares + learner->v_offset[i],
                   learner->average + at);
    }
}

double dlm__lr_multiplier(uint64_t step, uint64_t warmup, double min_ratio, double progress) {
    if (step < warmup) return (double)step / (double)warmup;
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + cos(pi * fmin(1.0, progress)));
}

double dlm__lr_progress(uint64_t step, uint64_t warmup, uint64_t total) {
    if (step <= warmup) return 0;
    uint64_t span = total > warmup ? total - warmup : 1;
    return fmin(1.0, (double)(step - warmup) / (double)span);
}

double dlm__ema_decay(double decay, bool warm_up, uint64_t step) {
    return warm_up ? fmin(decay, (1 + (double)step) / (10 + (double)step)) : decay;
}
