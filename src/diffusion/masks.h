/* The masks by which likelihoods are estimated: a function of (seed, window, draw) alone, so that two models
 * are measured on the same ones.
 *
 * Draw d of M of window w masks k = 1 + floor(n (d + u)/M) of its n positions, u = (u_d + w * golden ratio)
 * mod 1 with u_d drawn once: uniform for each window, and spread evenly over consecutive ones (a Weyl
 * sequence).
 *
 * Complementary masks come in pairs, draws 2j and 2j + 1. The first masks k positions as above, by stratum j
 * of the M; the second what the first leaves, and one more of the k, chosen at random: n + 1 - k positions,
 * which is uniform on 1 .. n too and falls into stratum M - 1 - j. Each alone is a draw like any other, and
 * over all M draws the strata are the same; but between them the two score every position once and one twice,
 * so that it cancels which tokens are hard. A pair is one observation: nothing is known of its own spread. */
#ifndef DLM_MASKS_H
#define DLM_MASKS_H

#include "diffusion/process.h"

#define DLM_DRAWS_MAX ((size_t)1 << 20)

typedef struct dlm_mask_draws {
    uint64_t seed;
    size_t draws; /* M */
    bool complementary;
} dlm_mask_draws;

/* Checks draws (1 .. DLM_DRAWS_MAX, even for pairs) and settles what DLM_MASKS_AUTO means for them. */
dlm_status dlm__mask_draws(uint64_t seed, size_t draws, dlm_masks masks, dlm_mask_draws *result,
                           dlm_error *err);
/* Draws that are one observation: 1, or the 2 of a pair. */
size_t dlm__mask_unit(const dlm_mask_draws *draws);

/* Marks what draw `draw` of `window` masks: masked (n) gets 1 or 0; returns k. order (n) is scratch. */
size_t dlm__draw_mask(const dlm_mask_draws *draws, size_t window, size_t draw, size_t n, uint8_t *masked,
                      uint32_t *order);

/* Marks k of n positions as draw `draw` of a point `point` (below DLM_CURVE_POINTS) of a curve does: apart
 * from all others. */
#define DLM_CURVE_POINTS ((size_t)256)
void dlm__curve_mask(uint64_t seed, size_t window, size_t point, size_t draw, size_t n, size_t k,
                     uint8_t *masked, uint32_t *order);

/* Marks positions by chance, for the original's cross-entropy: see dlm__mask_independently; *t is drawn too.
 */
size_t dlm__original_mask(uint64_t seed, size_t window, dlm_schedule schedule, size_t n, double *t,
                          uint8_t *masked);

/* Marks the positions i of n <= 32 with bit i of `set`; returns how many. */
size_t dlm__mask_of_set(uint32_t set, size_t n, uint8_t *masked);

#endif
