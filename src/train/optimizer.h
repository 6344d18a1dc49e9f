/* Optimisation: what is trained (weights, gradients, moments, running average), and one update of it.
 *
 * AdamW takes every parameter, or Muon the matrices of the blocks and AdamW the rest (spec 4; Loshchilov and
 * Hutter 2019; Jordan et al. 2024). Learning rate and weight decay are the same for both. */
#ifndef DLM_OPTIMIZER_H
#define DLM_OPTIMIZER_H

#include "model/network.h"

typedef struct dlm_learner {
    const dlm_layout *layout;
    dlm_optimizer optimizer;
    dlm_dtype muon_type; /* of the operands of Newton-Schulz */
    /* Blocks of layout->total floats. */
    float *params, *gradients, *momentum, *average;
    /* AdamW's second moments, of the parameters that it takes alone, one behind the other with the padding of
     * the layout; v_offset (n) says where. */
    float *squares;
    size_t *v_offset;
    size_t v_total;
    float *scratch; /* for the largest of Muon's matrices */
    dlm_arena arena;
} dlm_learner;

/* All zero; the caller fills params and average. layout and compute must outlive it. */
dlm_status dlm__learner_create(const dlm_layout *layout, const dlm_compute *compute, dlm_optimizer optimizer,
                               dlm_dtype muon_type, dlm_learner **learner, dlm_error *err);
void dlm__learner_free(dlm_learner *learner);

/* Whether Muon takes parameter i. */
bool dlm__learner_muon(const dlm_learner *learner, size_t i);
/* AdamW's second moments of parameter i; NULL where Muon takes it. */
float *dlm__learner_squares(const dlm_learner *learner, size_t i);

/* The norm of all gradients together; not finite when one of them is not. */
double dlm__learner_norm(const dlm_learner *learner, dlm_compute *compute);

typedef struct dlm_update {
    double lr, weight_decay;
    double clip;      /* largest norm of all gradients; 0: any */
    double ema_decay; /* average = ema_decay * average + (1 - ema_decay) * params, after the update */
    double norm;      /* dlm__learner_norm */
    uint64_t step;    /* from 1 */
} dlm_update;
void dlm__learner_update(dlm_learner *learner, dlm_compute *compute, const dlm_update *update);

/* What the learning rate is multiplied with at step `step` (from 0): a linear rise from 0 over the warm-up,
 * then a half cosine from 1 to min_ratio, of which `progress` (0 .. 1) is done. */
double dlm__lr_multiplier(uint64_t step, uint64_t warmup, double min_ratio, double progress);
/* The share of the decay that is done at step `step` of `total`. */
double dlm__lr_progress(uint64_t step, uint64_t warmup, uint64_t total);
/* The average's decay at step `step` (from 0): `decay`, or with warm_up less at first, since the average
 * starts as a copy of the initial weights and would keep a share of them of decay^steps. */
double dlm__ema_decay(double decay, bool warm_up, uint64_t step);

/* ---- on disk (moments.c) ------------------------------------------------------------------------------ */

/* Writes the moments as a safetensors file. */
dlm_status dlm__moments_save(const dlm_learner *learner, const char *path, dlm_error *err);
/* Reads them from such a file, which must hold just this learner's: missing, extra or differently shaped
 * tensors, and values that are not finite, are errors that name them. What was read before an error stays. */
struct dlm_safetensors;
dlm_status dlm__moments_read(const dlm_learner *learner, const struct dlm_safetensors *file, dlm_error *err);
/* The same from the file at path. */
dlm_status dlm__moments_load(const dlm_learner *learner, const char *path, dlm_error *err);

#endif
