/* The masking process run backwards: with which probability a step reveals a masked position, and masks a
 * revealed one again. Behind the order ANCESTRAL, with and without remasking.
 *
 * Free positions are masked with probability m(t), from m = 1 at the start to m = 0 at the end. Without
 * remasking a masked position is revealed with probability (m(t) - m(s))/m(t) by a step from t to s < t: the
 * posterior of the masking process (Sahoo et al. 2024, Shi et al. 2024). With remasking (ReMDM: Wang et al.,
 * Remasking discrete diffusion models with inference-time scaling, 2025) a revealed position is masked again
 * with probability r, and a masked one revealed with probability (m(t) - m(s) + r (1 - m(t)))/m(t), so that a
 * position is still masked with probability m(s) after the step; r is at most min(1, m(s)/(1 - m(t))).
 *
 * A sequence that begins with only a share of its positions masked begins at the time that this share stands
 * for: the model is told sigma^-1(m(t) share). */
#ifndef DLM_REVERSE_H
#define DLM_REVERSE_H

#include "diffusion/process.h"

/* Ranges of remask and eta, and what they go with. */
dlm_status dlm__remask_check(const dlm_sample_options *options, dlm_error *err);

typedef struct dlm_reverse_step {
    double fed;    /* the time that the model is told */
    double masked; /* m(s): the probability that a free position is masked after the step */
    double reveal; /* of a masked position */
    double remask; /* of a revealed position; of CONF, of all revealed positions together */
} dlm_reverse_step;

/* Step `step` of `steps` of a sequence of whose positions the share `share` was masked at the start. */
dlm_reverse_step dlm__reverse_step(const dlm_sample_options *options, dlm_schedule schedule, double share,
                                   size_t steps, size_t step);

/* FIRST_HITTING: with n positions masked, each masked with probability m, all of them are still masked until
 * m has fallen to m u^(1/n), u uniform on [0, 1); then one of them, any, is revealed (Zheng et al., Masked
 * diffusion models are secretly time-agnostic masked models, 2024). Returns that m. */
double dlm__next_hit(dlm_rng *rng, double m, size_t n);

#endif
