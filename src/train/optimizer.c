/* Walks the parameter table with AdamW and Muon; learning rate, clipping and the running average.
 *
 * Neighbouring parameters of AdamW are updated in one call, the padding between them included: where a weight
 * and its gradient are zero, both stay so. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

/* PyTorch's defaults, but for Muon's momentum, which is torch.optim.Muon's. */
static const double beta1 = 0.9, beta2 = 0.999, adam_eps = 1e-8, momentum = 0.95;
static const double clip_eps = 1e-6; /* as torch.nn.utils.clip_grad_norm_ */

static bool is_own(const dlm_learner *learner, size_t piece) {
    return learner->pieces.list[piece].rank == dlm_ranks_rank(learner->ranks);
}

/* ---- small matrices ----------------------------------------------------------------------------------- */

/* Elements of a matrix that threads take one of each, rather than share: Newton-Schulz has some forty steps
 * at each of which they would wait for each other. */
#define SMALL_MATRIX ((size_t)1 << 18)

static bool is_small(const dlm_learner *learner, size_t piece) {
    return learner->pieces.matrices[piece] != NULL && learner->pieces.list[piece].n <= SMALL_MATRIX &&
           is_own(learner, piece);
}

/* Each to the team that has least to do. */
static void deal_small(dlm_learner *learner, double *loads) {
    for (size_t i = 0; i < learner->pieces.n; i++) {
        learner->team[i] = SIZE_MAX;
        if (learner->teams == 0 || !is_small(learner, i)) continue;
        size_t least = 0;
        for (size_t t = 1; t < learner->teams; t++)
            if (loads[t] < loads[least]) least = t;
        learner->team[i] = least;
        loads[least] += dlm__piece_cost(&learner->pieces, i);
    }
}

/* As many teams as there are threads; none where these are more than small matrices, of which some would have
 * nothing to do. */
static dlm_status make_teams(dlm_learner *learner, const dlm_compute *compute, dlm_error *err) {
    const size_t threads = dlm__threads();
    size_t small = 0;
    for (size_t i = 0; i < learner->pieces.n; i++) {
        if (!is_small(learner, i)) continue;
        const dlm_param *p = learner->pieces.matrices[i];
        const size_t need = dlm__muon_scratch(compute, p->shape[0], p->shape[1]);
        if (need > learner->team_stride) learner->team_stride = need;
        small++;
    }
    const size_t teams = threads > 1 && threads <= small ? threads : 0;
    double *loads = dlm__calloc(teams + 1, sizeof *loads);
    learner->team = dlm__calloc(learner->pieces.n, sizeof *learner->team);
    learner->team_compute = dlm__calloc(teams + 1, sizeof *learner->team_compute);
    dlm_status status = DLM_OK;
    if (loads == NULL || learner->team == NULL || learner->team_compute == NULL)
        status = dlm__fail_memory(err, "the optimiser's state", learner->pieces.n * sizeof *learner->team);
    for (; status == DLM_OK && learner->teams < teams; learner->teams++)
        status = dlm__compute_another(compute, &learner->team_compute[learner->teams], err);
    if (status == DLM_OK) deal_small(learner, loads);
    free(loads);
    return status;
}

/* ---- create, free ------------------------------------------------------------------------------------- */

/* The largest scratch that Muon needs for a matrix of this rank that all threads share. */
static size_t largest_scratch(const dlm_learner *learner, const dlm_compute *compute) {
    size_t most = 0;
    for (size_t i = 0; i < learner->pieces.n; i++) {
        const dlm_param *p = learner->pieces.matrices[i];
        if (p == NULL || !is_own(learner, i) || learner->team[i] != SIZE_MAX) continue;
        size_t need = dlm__muon_scratch(compute, p->shape[0], p->shape[1]);
        if (need > most) most = need;
    }
    return most;
}

static size_t largest_tensor(const dlm_learner *learner) {
    size_t most = 0;
    for (size_t i = 0; i < learner->layout->n; i++) {
        if (learner->layout->params[i].count > most) most = learner->layout->params[i].count;
    }
    return dlm_ranks_size(learner->ranks) > 1 ? most : 0;
}

static void bind(dlm_learner *learner, size_t scratch) {
    dlm_arena *arena = &learner->arena;
    const dlm_layout *layout = learner->layout;
    learner->params = dlm__arena_take(arena, layout->total, sizeof(float));
    learner->gradients = dlm__arena_take(arena, layout->total, sizeof(float));
    learner->momentum = dlm__arena_take(arena, learner->own, sizeof(float));
    learner->average = dlm__arena_take(arena, learner->own, sizeof(float));
    learner->squares = dlm__arena_take(arena, learner->v_total, sizeof(float));
    learner->scratch = dlm__arena_take(arena, scratch, sizeof(float));
    learner->team_scratch = dlm__arena_take(arena, learner->teams * learner->team_stride, sizeof(float));
    learner->tensor = dlm__arena_take(arena, largest_tensor(learner), sizeof(float));
}

/* What belongs to this rank, and where it lies in the blocks of that. */
static dlm_status divide(dlm_learner *learner, dlm_error *err) {
    dlm_pieces *pieces = &learner->pieces;
    DLM_TRY(
        dlm__pieces_create(learner->layout, learner->optimizer, dlm_ranks_size(learner->ranks), pieces, err));
    learner->at = dlm__calloc(pieces->n, sizeof *learner->at);
    learner->v_at = dlm__calloc(pieces->n, sizeof *learner->v_at);
    if (learner->at == NULL || learner->v_at == NULL)
        return dlm__fail_memory(err, "the optimiser's state", 2 * pieces->n * sizeof *learner->at);
    for (size_t i = 0; i < pieces->n; i++) {
        if (!is_own(learner, i)) continue;
        learner->at[i] = learner->own;
        learner->v_at[i] = learner->v_total;
        learner->own += pieces->list[i].n;
        if (pieces->matrices[i] == NULL) learner->v_total += pieces->list[i].n;
    }
    return DLM_OK;
}

dlm_status dlm__learner_create(const dlm_layout *layout, const dlm_compute *compute, dlm_optimizer optimizer,
                               dlm_dtype muon_type, dlm_ranks *ranks, dlm_learner **learner, dlm_error *err) {
    *learner = NULL;
    dlm_learner *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "the optimiser's state", sizeof *made);
    *made = (dlm_learner){.layout = layout, .ranks = ranks, .optimizer = optimizer, .muon_type = muon_type};
    dlm_status status = divide(made, err);
    if (status == DLM_OK) status = make_teams(made, compute, err);
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
    dlm__pieces_free(&learner->pieces);
    for (size_t t = 0; t < learner->teams; t++) dlm__compute_free(learner->team_compute[t]);
    free(learner->team_compute);
    free(learner->team);
    free(learner->at);
    free(learner->v_at);
    free(learner);
}

/* ---- the average -------------------------------------------------------------------------------------- */

void dlm__learner_begin(dlm_learner *learner) {
    for (size_t i = 0; i < learner->pieces.n; i++) {
        const dlm_piece *piece = &learner->pieces.list[i];
        if (is_own(learner, i))
            memcpy(learner->average + learner->at[i], learner->params + piece->first,
                   piece->n * sizeof(float));
    }
}

dlm_status dlm__learner_average(const dlm_learner *learner, float *block, dlm_error *err) {
    const dlm_pieces *pieces = &learner->pieces;
    for (size_t i = 0; i < pieces->n; i++) {
        if (!is_own(learner, i)) continue;
        const dlm_piece *piece = &pieces->list[i];
        memcpy(block + piece->first, learner->average + learner->at[i], piece->n * sizeof(float));
    }
    return dlm__ranks_collect(learner->ranks, block, pieces->list, pieces->n, err);
}

/* ---- an update ---------------------------------------------------------------------------------------- */

/* Neighbouring pieces in one sum, all of them without other ranks. */
static double own_squares(const dlm_learner *learner, dlm_compute *compute) {
    const dlm_pieces *pieces = &learner->pieces;
    double sum = 0;
    for (size_t i = 0, next; i < pieces->n; i = next) {
        next = i + 1;
        if (!is_own(learner, i)) continue;
        while (next < pieces->n && is_own(learner, next)) next++;
        const size_t first = pieces->list[i].first,
                     end = pieces->list[next - 1].first + pieces->list[next - 1].n;
        sum += dlm__sum_of_squares(compute, end - first, learner->gradients + first);
    }
    return sum;
}

double dlm__learner_norm(const dlm_learner *learner, dlm_compute *compute) {
    return sqrt(own_squares(learner, compute));
}

dlm_status dlm__learner_reduce(dlm_learner *learner, dlm_compute *compute, dlm_status mine, double *loss,
                               double *norm, dlm_error *err) {
    DLM_TRY(dlm__ranks_agree(learner->ranks, mine, err));
    const dlm_pieces *pieces = &learner->pieces;
    DLM_TRY(dlm__ranks_reduce(learner->ranks, learner->gradients, pieces->list, pieces->n, err));
    double sums[2] = {*loss, own_squares(learner, compute)};
    DLM_TRY(dlm__ranks_sum(learner->ranks, sums, 2, err));
    *loss = sums[0];
    *norm = sqrt(sums[1]);
    return DLM_OK;
}

typedef struct updating {
    const dlm_learner *learner;
    dlm_adamw adamw;
    dlm_muon muon;
} updating;

static void update_piece(const updating *u, size_t i, dlm_compute *compute, float *scratch) {
    const dlm_learner *learner = u->learner;
    const dlm_piece *piece = &learner->pieces.list[i];
    const dlm_param *matrix = learner->pieces.matrices[i];
    float *params = learner->params + piece->first, *gradients = learner->gradients + piece->first;
    float *momenta = learner->momentum + learner->at[i], *average = learner->average + learner->at[i];
    if (matrix != NULL)
        dlm__muon(compute, &u->muon, matrix->shape[0], matrix->shape[1], params, gradients, momenta, average,
                  scratch);
    else
        dlm__adamw(compute, &u->adamw, piece->n, params, gradients, momenta,
                   learner->squares + learner->v_at[i], average);
}

/* The small matrices of a team, which is one thread. */
static void update_team(void *context, size_t team) {
    const updating *u = context;
    const dlm_learner *learner = u->learner;
    for (size_t i = 0; i < learner->pieces.n; i++)
        if (learner->team[i] == team)
            update_piece(u, i, learner->team_compute[team],
                         learner->team_scratch + team * learner->team_stride);
}

void dlm__learner_update(dlm_learner *learner, dlm_compute *compute, const dlm_update *update) {
    /* g *= min(1, clip / (norm + eps)) */
    const double scale = update->clip > 0 ? fmin(1.0, update->clip / (update->norm + clip_eps)) : 1.0;
    updating u = {.learner = learner,
                  .adamw = {.lr = update->lr,
                            .beta1 = beta1,
                            .beta2 = beta2,
                            .eps = adam_eps,
                            .decay = update->weight_decay,
                            .ema_decay = update->ema_decay,
                            .grad_scale = scale,
                            .step = update->step},
                  .muon = {.lr = update->lr,
                           .momentum = momentum,
                           .decay = update->weight_decay,
                           .ema_decay = update->ema_decay,
                           .grad_scale = scale,
                           .type = learner->muon_type}};
    for (size_t i = 0; i < learner->pieces.n; i++)
        if (is_own(learner, i) && learner->team[i] == SIZE_MAX)
            update_piece(&u, i, compute, learner->scratch);
    dlm__parallel_for(learner->teams, update_team, &u);
    for (size_t t = 0; t < learner->teams; t++) dlm__compute_join(compute, learner->team_compute[t]);
}

dlm_status dlm__learner_collect(dlm_learner *learner, dlm_status mine, dlm_error *err) {
    DLM_TRY(dlm__ranks_agree(learner->ranks, mine, err));
    return dlm__ranks_collect(learner->ranks, learner->params, learner->pieces.list, learner->pieces.n, err);
}

/* ---- schedules ---------------------------------------------------------------------------------------- */

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
