/* Philox4x32-10 and what is drawn from it. */
#include "base/base.h"

#include <assert.h>
#include <math.h>

enum { ROUNDS = 10 };

/* One block: ten rounds over the counter under a key that is raised by the Weyl constants after each
 * (section 4.3 of the paper; multipliers and constants from its table 2). */
static void philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53U * x0;
        uint64_t p1 = (uint64_t)0xCD9E8D57U * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)p1;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)p0;
        k0 += 0x9E3779B9U;
        k1 += 0xBB67AE85U;
    }
    out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

dlm_rng dlm__rng(uint64_t seed, dlm_rng_purpose purpose, uint32_t a, uint32_t b) {
    return (dlm_rng){
        .key = {(uint32_t)seed, (uint32_t)(seed >> 32)}, .counter = {0, (uint32_t)purpose, a, b}, .used = 4};
}

uint32_t dlm__rng_u32(dlm_rng *rng) {
    if (rng->used == 4) {
        philox(rng->key, rng->counter, rng->block);
        rng->counter[0]++;
        rng->used = 0;
    }
    return rng->block[rng->used++];
}

uint64_t dlm__rng_u64(dlm_rng *rng) {
    uint64_t low = dlm__rng_u32(rng);
    return low | (uint64_t)dlm__rng_u32(rng) << 32;
}

double dlm__rng_uniform(dlm_rng *rng) {
    return (double)(dlm__rng_u64(rng) >> 11) * 0x1p-53;
}

uint64_t dlm__rng_below(dlm_rng *rng, uint64_t n) {
    assert(n > 0);
    /* 2^64 mod n numbers at the bottom are rejected, so that each remainder has equally many. */
    uint64_t reject = (0 - n) % n, r;
    do r = dlm__rng_u64(rng);
    while (r < reject);
    return r % n;
}

double dlm__rng_normal(dlm_rng *rng) {
    const double two_pi = 6.283185307179586476925286766559;
    double u = 1.0 - dlm__rng_uniform(rng); /* not 0 */
    double v = dlm__rng_uniform(rng);
    return sqrt(-2.0 * log(u)) * cos(two_pi * v);
}

void dlm__rng_permutation(dlm_rng *rng, uint32_t *order, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t j = (size_t)dlm__rng_below(rng, (uint64_t)i + 1);
        order[i] = order[j];
        order[j] = (uint32_t)i;
    }
}
