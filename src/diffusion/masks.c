/* Draws the masks by which likelihoods are estimated. */
#include "diffusion/masks.h"

#include <math.h>

#define GOLDEN_RATIO UINT64_C(0x9E3779B97F4A7C15) /* of 2^64 */

/* The streams (seed, DLM_RNG_EVALUATE, window, .) but for the draws of the NELBO, which are below
 * DLM_DRAWS_MAX. */
#define STREAM_CURVE    UINT32_C(0x20000000) /* with point and draw */
#define STREAM_ORIGINAL UINT32_C(0x40000000)
#define STREAM_OFFSET   UINT32_C(0x80000000) /* with the draw, of window 0: u_d */
#define DRAW_BITS       20                   /* 2^20 is DLM_DRAWS_MAX */

/* u of draw d of window w. The product and the sum wrap, which is the mod 1. */
static double spread(uint64_t seed, size_t window, size_t draw) {
    dlm_rng rng = dlm__rng(seed, DLM_RNG_EVALUATE, 0, STREAM_OFFSET | (uint32_t)draw);
    return (double)((dlm__rng_u64(&rng) + (uint64_t)window * GOLDEN_RATIO) >> 11) * 0x1p-53;
}

dlm_status dlm__mask_draws(uint64_t seed, size_t draws, dlm_masks masks, dlm_mask_draws *result,
                           dlm_error *err) {
    if (draws == 0 || draws > DLM_DRAWS_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "%zu draws are not from 1 to %zu", draws, DLM_DRAWS_MAX);
    if (masks == DLM_MASKS_COMPLEMENTARY && draws % 2 != 0)
        return dlm__fail(err, DLM_ARGUMENT, "%zu draws are odd, complementary masks come in pairs", draws);
    const bool pairs =
        masks == DLM_MASKS_AUTO ? draws % 2 == 0 && draws >= 4 : masks == DLM_MASKS_COMPLEMENTARY;
    *result = (dlm_mask_draws){.seed = seed, .draws = draws, .complementary = pairs};
    return DLM_OK;
}

size_t dlm__mask_unit(const dlm_mask_draws *draws) {
    return draws->complementary ? 2 : 1;
}

/* Masks what is not masked, and one of the k that are. */
static void complement(dlm_rng *rng, size_t n, size_t k, uint8_t *masked) {
    size_t again = (size_t)dlm__rng_below(rng, k);
    for (size_t i = 0; i < n; i++) {
        const bool first = masked[i];
        masked[i] = !first || again == 0;
        if (first) again--; /* past 0 it wraps, to what no mask reaches */
    }
}

size_t dlm__draw_mask(const dlm_mask_draws *draws, size_t window, size_t draw, size_t n, uint8_t *masked,
                      uint32_t *order) {
    const size_t unit = draw / dlm__mask_unit(draws);
    const double share = ((double)unit + spread(draws->seed, window, unit)) / (double)draws->draws;
    const size_t k = dlm__count_at(n, share);
    dlm_rng rng = dlm__rng(draws->seed, DLM_RNG_EVALUATE, (uint32_t)window, (uint32_t)unit);
    dlm__mask_exactly(&rng, n, k, masked, order);
    if (!draws->complementary || draw % 2 == 0) return k;
    complement(&rng, n, k, masked);
    return n + 1 - k;
}

void dlm__curve_mask(uint64_t seed, size_t window, size_t point, size_t draw, size_t n, size_t k,
                     uint8_t *masked, uint32_t *order) {
    const uint32_t stream = STREAM_CURVE | (uint32_t)point << DRAW_BITS | (uint32_t)draw;
    dlm_rng rng = dlm__rng(seed, DLM_RNG_EVALUATE, (uint32_t)window, stream);
    dlm__mask_exactly(&rng, n, k, masked, order);
}

size_t dlm__original_mask(uint64_t seed, size_t window, dlm_schedule schedule, size_t n, double *t,
                          uint8_t *masked) {
    dlm_rng rng = dlm__rng(seed, DLM_RNG_EVALUATE, (uint32_t)window, STREAM_ORIGINAL);
    *t = fmax(dlm__rng_uniform(&rng), DLM_T_MIN);
    return dlm__mask_independently(&rng, n, dlm__sigma(schedule, *t), masked);
}

size_t dlm__mask_of_set(uint32_t set, size_t n, uint8_t *masked) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        masked[i] = set >> i & 1;
        k += masked[i];
    }
    return k;
}
