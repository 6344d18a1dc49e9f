/* Draws the masks by which likelihoods are estimated. */
#include "diffusion/masks.h"

#define GOLDEN_RATIO UINT64_C(0x9E3779B97F4A7C15) /* of 2^64 */

/* Draws of the stream (seed, DLM_RNG_EVALUATE, window, draw) that are no masks. */
#define DRAW_OFFSET UINT32_C(0x80000000) /* with the draw: u_d */

/* u of draw d of window w. The product and the sum wrap, which is the mod 1. */
static double spread(uint64_t seed, size_t window, size_t draw) {
    dlm_rng rng = dlm__rng(seed, DLM_RNG_EVALUATE, 0, DRAW_OFFSET | (uint32_t)draw);
    return (double)((dlm__rng_u64(&rng) + (uint64_t)window * GOLDEN_RATIO) >> 11) * 0x1p-53;
}

size_t dlm__draw_mask(const dlm_mask_draws *draws, size_t window, size_t draw, size_t n, uint8_t *masked,
                      uint32_t *order) {
    const double share = ((double)draw + spread(draws->seed, window, draw)) / (double)draws->draws;
    const size_t k = dlm__count_at(n, share);
    dlm_rng rng = dlm__rng(draws->seed, DLM_RNG_EVALUATE, (uint32_t)window, (uint32_t)draw);
    dlm__mask_exactly(&rng, n, k, masked, order);
    return k;
}

size_t dlm__mask_of_set(uint32_t set, size_t n, uint8_t *masked) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        masked[i] = set >> i & 1;
        k += masked[i];
    }
    return k;
}
