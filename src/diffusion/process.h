/* The absorbing (masking) process: how likely a token is masked at time t, which weights make its loss a
 * bound, and the corruption of training sequences. Sources: Sahoo et al., Simple and effective masked
 * diffusion language models (2024); Shi et al., Simplified and generalized masked diffusion for discrete data
 * (2024); the exact mask counts are the any-order autoregressive bound of Uria et al. (2014) and Hoogeboom et
 * al. (2022). */
#ifndef DLM_PROCESS_H
#define DLM_PROCESS_H

#include "model/model.h"

#define DLM_SIGMA_MIN 1e-3
#define DLM_T_MIN     1e-3 /* of the original, which draws t = max(u, this) */

/* Cumulative masking probability sigma(t), clamped to [1e-3, 1]; its inverse t(sigma), sigma clamped
 * likewise; its slope sigma'(t), not clamped. */
double dlm__sigma(dlm_schedule schedule, double t);
double dlm__sigma_inverse(dlm_schedule schedule, double sigma);
double dlm__sigma_slope(dlm_schedule schedule, double t);

/* sigma and its inverse as the formulas have them, not clamped: sigma(0) = 0. */
double dlm__sigma_exact(dlm_schedule schedule, double t);
double dlm__sigma_exact_inverse(dlm_schedule schedule, double sigma);

/* Weight on a sequence's mean cross-entropy over its masked positions (spec 3 and 9.1). */
double dlm__loss_weight(dlm_loss_weight weight, dlm_schedule schedule, double t);

/* Positions that the next step reveals: L positions in all, `revealed` so far, r in (0, 1] the share of the
 * run that is over with it, (i + 1)/steps for step i = 0 .. steps - 1; at least 1, at most what is left (spec
 * 6; half rounds to even, in double). */
size_t dlm__reveal_count(dlm_reveal reveal, size_t L, double r, size_t revealed);

/* Marks exactly k of n positions, uniformly at random: masked (n) gets 1 or 0. order (n) is scratch. */
void dlm__mask_exactly(dlm_rng *rng, size_t n, size_t k, uint8_t *masked, uint32_t *order);
/* Marks each of n positions with probability sigma; returns how many. */
size_t dlm__mask_independently(dlm_rng *rng, size_t n, double sigma, uint8_t *masked);
/* 1 + floor(n share), at most n: a count uniform on 1 .. n when share is uniform on [0, 1). */
size_t dlm__count_at(size_t n, double share);
/* A mask count of the process at a time uniform on stratum `stratum` of `strata` of [0, 1): k = 1 + floor(n
 * sigma(t)). Over all strata k has the chance sigma^-1(k/n) - sigma^-1((k-1)/n), 1/n each on the linear
 * schedule. */
size_t dlm__stratified_count(dlm_rng *rng, dlm_schedule schedule, size_t n, size_t stratum, size_t strata);
double dlm__count_chance(dlm_schedule schedule, size_t n, size_t k);

#endif
