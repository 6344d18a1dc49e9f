/* The masking process, in double: its schedules, loss weights, reveal counts and masks. */
#include "diffusion/process.h"

#include <assert.h>
#include <math.h>

#define HALF_PI           1.57079632679489661923
#define INV_SIGMA_LARGEST 10.0 /* the original's max_weight */

static double clamp_sigma(double sigma) {
    return fmin(fmax(sigma, DLM_SIGMA_MIN), 1.0);
}

/* 1 - cos x = 2 sin^2 (x/2), without the cancellation. */
double dlm__sigma_exact(dlm_schedule schedule, double t) {
    const double half = sin(HALF_PI / 2 * t);
    return schedule == DLM_SCHEDULE_LINEAR ? t : 2 * half * half;
}

double dlm__sigma_exact_inverse(dlm_schedule schedule, double sigma) {
    return schedule == DLM_SCHEDULE_LINEAR ? sigma : 2 * asin(sqrt(sigma / 2)) / HALF_PI;
}

double dlm__sigma(dlm_schedule schedule, double t) {
    return clamp_sigma(dlm__sigma_exact(schedule, t));
}

double dlm__sigma_inverse(dlm_schedule schedule, double sigma) {
    double s = clamp_sigma(sigma);
    /* A quotient, so that sigma = 1 gives t = 1 exactly. */
    return schedule == DLM_SCHEDULE_LINEAR ? s : acos(1.0 - s) / HALF_PI;
}

double dlm__sigma_slope(dlm_schedule schedule, double t) {
    return schedule == DLM_SCHEDULE_LINEAR ? 1.0 : HALF_PI * sin(HALF_PI * t);
}

double dlm__loss_weight(dlm_loss_weight weight, dlm_schedule schedule, double t) {
    switch (weight) {
    case DLM_WEIGHT_ELBO: return dlm__sigma_slope(schedule, t);
    case DLM_WEIGHT_FLAT: return dlm__sigma(schedule, t) * dlm__sigma_slope(schedule, t);
    case DLM_WEIGHT_UNIFORM: return 1.0;
    case DLM_WEIGHT_INV_SIGMA: return fmin(1.0 / dlm__sigma(schedule, t), INV_SIGMA_LARGEST);
    case DLM_WEIGHT_SIGMA: return dlm__sigma(schedule, t);
    }
    assert(false);
    return 0;
}

size_t dlm__reveal_count(dlm_reveal reveal, size_t L, double r, size_t revealed) {
    assert(revealed <= L);
    const double target = (double)L * (reveal == DLM_REVEAL_LINEAR ? r : 1.0 - cos(HALF_PI * r));
    const double k = rint(target - (double)revealed); /* half to even, in the default rounding mode */
    const size_t left = L - revealed, count = k > 1.0 ? (size_t)k : 1;
    return count < left ? count : left;
}

void dlm__mask_exactly(dlm_rng *rng, size_t n, size_t k, uint8_t *masked, uint32_t *order) {
    assert(k <= n && n <= UINT32_MAX);
    for (size_t i = 0; i < n; i++) {
        order[i] = (uint32_t)i;
        masked[i] = 0;
    }
    /* The first k places of a Fisher-Yates shuffle are a uniform choice of k. */
    for (size_t i = 0; i < k; i++) {
        size_t j = i + (size_t)dlm__rng_below(rng, (uint64_t)(n - i));
        masked[order[j]] = 1;
        order[j] = order[i];
    }
}

size_t dlm__mask_independently(dlm_rng *rng, size_t n, double sigma, uint8_t *masked) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        masked[i] = dlm__rng_uniform(rng) < sigma;
        count += masked[i];
    }
    return count;
}

size_t dlm__count_at(size_t n, double share) {
    assert(n > 0 && share >= 0);
    const double below = floor((double)n * share);
    return below < (double)n ? 1 + (size_t)below : n;
}

size_t dlm__stratified_count(dlm_rng *rng, dlm_schedule schedule, size_t n, size_t stratum, size_t strata) {
    assert(stratum < strata);
    const double t = ((double)stratum + dlm__rng_uniform(rng)) / (double)strata;
    return dlm__count_at(n, dlm__sigma_exact(schedule, t));
}

double dlm__count_chance(dlm_schedule schedule, size_t n, size_t k) {
    assert(k > 0 && k <= n);
    return dlm__sigma_exact_inverse(schedule, (double)k / (double)n) -
           dlm__sigma_exact_inverse(schedule, (double)(k - 1) / (double)n);
}
