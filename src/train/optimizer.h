/* Optimisation: what is trained (weights, gradients, moments, running average), and one update of it.
 *
 * AdamW takes every parameter, or Muon the matrices of the blocks and AdamW the rest (spec 4; Loshchilov and
 * Hutter 2019; Jordan et al. 2024). Learning rate and weight decay are the same for both.
 *
 * The ranks of a run divide the work (Rajbhandari et al., ZeRO: memory optimizations toward training trillion
 * parameter models, 2020, stage 1): every one has all weights and its own gradients, but the moments and the
 * average of its pieces alone, and updates these. Of one rank, that is all. */
#ifndef DLM_OPTIMIZER_H
#define DLM_OPTIMIZER_H

#include "train/pieces.h"

typedef struct dlm_learner {
    const dlm_layout *layout;
    dlm_ranks *ranks;
    dlm_optimizer optimizer;
    dlm_dtype muon_type; /* of the operands of Newton-Schulz */
    /* Blocks of layout->total floats. */
    float *params, *gradients;
    dlm_pieces pieces;
    /* Of this rank's pieces, one behind the other in their order; piece i begins at at[i]. Without other
     * ranks that is where it is in the blocks. */
    float *momentum, *average; /* (own) */
    size_t *at;
    size_t own;
    /* AdamW's second moments of its pieces, likewise, at v_at[i]. */
    float *squares; /* (v_total) */
    size_t *v_at;
    size_t v_total;
    float *tensor;  /* with other ranks: the largest parameter, on its way to or from a file */
    float *scratch; /* for the largest of Muon's matrices */
    /* Threads that each take some of Muon's small matrices whole, and what they need; 0: all threads share
     * every matrix. */
    size_t teams;
    dlm_compute **team_compute; /* (teams) */
    float *team_scratch;        /* (teams, team_stride) */
    size_t team_stride;
    size_t *team; /* of each piece: who takes it, SIZE_MAX for all */
    dlm_arena arena;
} dlm_learner;

/* All zero; the caller fills params, then calls dlm__learner_begin. layout, compute and ranks (NULL: alone)
 * must outlive it. */
dlm_status dlm__learner_create(const dlm_layout *layout, const dlm_compute *compute, dlm_optimizer optimizer,
                               dlm_dtype muon_type, dlm_ranks *ranks, dlm_learner **learner, dlm_error *err);
void dlm__learner_free(dlm_learner *learner);

/* The average becomes the weights. */
void dlm__learner_begin(dlm_learner *learner);
/* The whole average of all ranks into a block (total floats). */
dlm_status dlm__learner_average(const dlm_learner *learner, float *block, dlm_error *err);

/* The norm of this rank's pieces of the gradients together; not finite when one of them is not. */
double dlm__learner_norm(const dlm_learner *learner, dlm_compute *compute);
/* Adds up the ranks' gradients, each rank its pieces, and the loss, of which each has its part; the norm is
 * of all gradients. `mine` is how this rank came here: nothing is done where one of them failed. */
dlm_status dlm__learner_reduce(dlm_learner *learner, dlm_compute *compute, dlm_status mine, double *loss,
                               double *norm, dlm_error *err);

typedef struct dlm_update {
    double lr, weight_decay;
    double clip;      /* largest norm of all gradients; 0: any */
    double ema_decay; /* average = ema_decay * average + (1 - ema_decay) * params, after the update */
    double norm;      /* of all gradients */
    uint64_t step;    /* from 1 */
} dlm_update;
/* Of this rank's pieces. */
void dlm__learner_update(dlm_learner *learner, dlm_compute *compute, const dlm_update *update);
/* Every rank gets the others' pieces of the weights; `mine` as above. */
dlm_status dlm__learner_collect(dlm_learner *learner, dlm_status mine, dlm_error *err);

/* What the learning rate is multiplied with at step `step` (from 0): a linear rise from 0 over the warm-up,
 * then a half cosine from 1 to min_ratio, of which `progress` (0 .. 1) is done. */
double dlm__lr_multiplier(uint64_t step, uint64_t warmup, double min_ratio, double progress);
/* The share of the decay that is done at step `step` of `total`. */
double dlm__lr_progress(uint64_t step, uint64_t warmup, uint64_t total);
/* The average's decay at step `step` (from 0): `decay`, or with warm_up less at first, since the average
 * starts as a copy of the initial weights and would keep a share of them of decay^steps. */
double dlm__ema_decay(double decay, bool warm_up, uint64_t step);

/* ---- on disk (moments.c) ------------------------------------------------------------------------------ */

/* Writes the moments as a safetensors file. With other ranks, rank 0 calls this, any number of times, and
 * then dlm__moments_done, whatever came of it; meanwhile the others are in dlm__moments_serve, and send their
 * parts. */
dlm_status dlm__moments_save(const dlm_learner *learner, const char *path, dlm_error *err);
dlm_status dlm__moments_done(const dlm_learner *learner, dlm_error *err);
dlm_status dlm__moments_serve(const dlm_learner *learner, dlm_error *err);
/* Reads them from such a file, which must hold just this learner's: missing, extra or differently shaped
 * tensors, and values that are not finite, are errors that name them. What was read before an error stays. A
 * rank reads its own, and looks at no other tensor's values. */
struct dlm_safetensors;
dlm_status dlm__moments_read(const dlm_learner *learner, const struct dlm_safetensors *file, dlm_error *err);
/* The same from the file at path. */
dlm_status dlm__moments_load(const dlm_learner *learner, const char *path, dlm_error *err);

#endif
