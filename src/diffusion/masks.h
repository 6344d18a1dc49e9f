/* The masks by which likelihoods are estimated: a function of (seed, window, draw) alone, so that two models
 * are measured on the same ones.
 *
 * Draw d of M of window w masks k = 1 + floor(n (d + u)/M) of its n positions, u = (u_d + w * golden ratio)
 * mod 1 with u_d drawn once: uniform for each window, and spread evenly over consecutive ones (a Weyl
 * sequence). */
#ifndef DLM_MASKS_H
#define DLM_MASKS_H

#include "diffusion/process.h"

#define DLM_DRAWS_MAX ((size_t)1 << 20)

typedef struct dlm_mask_draws {
    uint64_t seed;
    size_t draws; /* M */
} dlm_mask_draws;

/* Marks what draw `draw` of `window` masks: masked (n) gets 1 or 0; returns k. order (n) is scratch. */
size_t dlm__draw_mask(const dlm_mask_draws *draws, size_t window, size_t draw, size_t n, uint8_t *masked,
                      uint32_t *order);

/* Marks the positions i of n <= 32 with bit i of `set`; returns how many. */
size_t dlm__mask_of_set(uint32_t set, size_t n, uint8_t *masked);

#endif
