/* The generator: known answers of Philox4x32-10, and the distributions of what is drawn. */
#include "check.h"

#include "base/base.h"

#include <math.h>
#include <string.h>

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
TEST(known_answers) {
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX},
         {UINT32_MAX, UINT32_MAX},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t v = 0; v < sizeof vectors / sizeof vectors[0]; v++) {
        check_context("vector %zu", v);
        dlm_rng rng = {.used = 4};
        memcpy(rng.key, vectors[v].key, sizeof rng.key);
        memcpy(rng.counter, vectors[v].counter, sizeof rng.counter);
        for (size_t i = 0; i < 4; i++) CHECK_INT_EQ(dlm__rng_u32(&rng), vectors[v].want[i]);
    }
}

TEST(numbers_follow_from_the_coordinates) {
    dlm_rng one = dlm__rng(0x123456789abcdef0, DLM_RNG_TEST, 5, 6), same = one, other;
    uint64_t first = dlm__rng_u64(&one);
    CHECK(dlm__rng_u64(&same) == first);
    other = dlm__rng(0x023456789abcdef0, DLM_RNG_TEST, 5, 6);
    CHECK(dlm__rng_u64(&other) != first);
    other = dlm__rng(0x123456789abcdef0, DLM_RNG_SAMPLE, 5, 6);
    CHECK(dlm__rng_u64(&other) != first);
    other = dlm__rng(0x123456789abcdef0, DLM_RNG_TEST, 4, 6);
    CHECK(dlm__rng_u64(&other) != first);
    other = dlm__rng(0x123456789abcdef0, DLM_RNG_TEST, 5, 7);
    CHECK(dlm__rng_u64(&other) != first);
    /* A copy in the middle of a block goes on alike. */
    (void)dlm__rng_u32(&one);
    same = one;
    for (int i = 0; i < 9; i++) CHECK_INT_EQ(dlm__rng_u32(&one), dlm__rng_u32(&same));
}

/* Pearson's statistic of n draws in `cells` equally likely cells. */
static double chi_squared(const size_t *counts, size_t cells, size_t n) {
    double expected = (double)n / (double)cells, sum = 0;
    for (size_t i = 0; i < cells; i++) {
        double difference = (double)counts[i] - expected;
        sum += difference * difference / expected;
    }
    return sum;
}

/* The statistic of an honest generator exceeds its mean by more than this once in about 10^5 seeds (normal
 * limit, 4.3 standard deviations of sqrt(2 df)); the seeds are fixed. */
static void check_even(const size_t *counts, size_t cells, size_t n) {
    double df = (double)cells - 1;
    CHECK(chi_squared(counts, cells, n) < df + 4.3 * sqrt(2 * df) + 5);
}

TEST(uniform) {
    enum { CELLS = 100, N = 200000 };
    size_t counts[CELLS] = {0};
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, 0, 0);
    double sum = 0, squares = 0;
    for (int i = 0; i < N; i++) {
        double u = dlm__rng_uniform(&rng);
        REQUIRE(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
        counts[(size_t)(u * CELLS)]++;
    }
    check_even(counts, CELLS, N);
    CHECK_CLOSE(sum / N, 0.5, 4.5 * sqrt(1.0 / 12 / N));
    CHECK_CLOSE(squares / N, 1.0 / 3, 4.5 * sqrt(4.0 / 45 / N));
}

TEST(below) {
    static const uint64_t limits[] = {1, 2, 3, 7, 100};
    for (size_t l = 0; l < sizeof limits / sizeof limits[0]; l++) {
        enum { N = 70000 };
        size_t counts[100] = {0};
        dlm_rng rng = dlm__rng(2, DLM_RNG_TEST, (uint32_t)l, 0);
        for (int i = 0; i < N; i++) {
            uint64_t r = dlm__rng_below(&rng, limits[l]);
            REQUIRE(r < limits[l]);
            counts[r]++;
        }
        check_context("below %d", (int)limits[l]);
        check_even(counts, (size_t)limits[l], N);
    }
}

/* With n = 3 * 2^62, a plain remainder would give the lower third twice as often as the others. */
TEST(below_has_no_bias_for_large_n) {
    enum { N = 30000 };
    size_t counts[3] = {0};
    dlm_rng rng = dlm__rng(3, DLM_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) counts[dlm__rng_below(&rng, (uint64_t)3 << 62) >> 62]++;
    check_even(counts, 3, N);
}

TEST(normal_moments) {
    enum { N = 200000 };
    dlm_rng rng = dlm__rng(4, DLM_RNG_TEST, 0, 0);
    double sums[5] = {0};
    for (int i = 0; i < N; i++) {
        double x = dlm__rng_normal(&rng), power = 1;
        REQUIRE(isfinite(x));
        for (int k = 1; k <= 4; k++) sums[k] += power *= x;
    }
    /* The variance of x^k is the 2k-th moment less the square of the k-th: 1, 2, 15, 96. */
    CHECK_CLOSE(sums[1] / N, 0, 4.5 * sqrt(1.0 / N));
    CHECK_CLOSE(sums[2] / N, 1, 4.5 * sqrt(2.0 / N));
    CHECK_CLOSE(sums[3] / N, 0, 4.5 * sqrt(15.0 / N));
    CHECK_CLOSE(sums[4] / N, 3, 4.5 * sqrt(96.0 / N));
}

TEST(permutations_are_uniform) {
    enum { N = 48000 };
    size_t counts[24] = {0};
    dlm_rng rng = dlm__rng(5, DLM_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        uint32_t order[4];
        dlm__rng_permutation(&rng, order, 4);
        size_t index = 0; /* Lehmer code */
        for (size_t a = 0; a < 4; a++) {
            size_t smaller = 0;
            for (size_t b = a + 1; b < 4; b++) smaller += order[b] < order[a];
            index = index * (4 - a) + smaller;
        }
        counts[index]++;
    }
    check_even(counts, 24, N);
}

TEST(permutations_hold_each_number_once) {
    static uint32_t order[1000];
    static bool seen[1000];
    dlm_rng rng = dlm__rng(6, DLM_RNG_TEST, 0, 0);
    dlm__rng_permutation(&rng, order, 1000);
    for (size_t i = 0; i < 1000; i++) {
        REQUIRE(order[i] < 1000 && !seen[order[i]]);
        seen[order[i]] = true;
    }
    dlm__rng_permutation(&rng, order, 0);
}
