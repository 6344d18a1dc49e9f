/* The masks of the NELBO: each draw has its law, alone and in a pair, and they depend on seed, window and
 * draw alone. */
#include "check.h"

#include "diffusion/masks.h"

#include <math.h>
#include <string.h>

enum { N = 5, SETS = 1 << N };

static uint32_t set_of(const dlm_mask_draws *draws, size_t window, size_t draw, size_t *k) {
    uint8_t masked[N];
    uint32_t order[N], set = 0;
    size_t marked = 0;
    *k = dlm__draw_mask(draws, window, draw, N, masked, order);
    for (size_t i = 0; i < N; i++) {
        set |= (uint32_t)masked[i] << i;
        marked += masked[i];
    }
    CHECK_INT_EQ(marked, *k);
    return set;
}

static double choose(size_t n, size_t k) {
    double ways = 1;
    for (size_t i = 0; i < k; i++) ways = ways * (double)(n - i) / (double)(i + 1);
    return ways;
}

/* The share of stratum `stratum` of `strata` in which k of N are masked. */
static double share_of(size_t stratum, size_t strata, size_t k) {
    const double low = fmax((double)(k - 1) / N, (double)stratum / (double)strata);
    const double high = fmin((double)k / N, (double)(stratum + 1) / (double)strata);
    return fmax(high - low, 0) * (double)strata;
}

/* Over seeds each draw's set has its chance: uniform in k over the stratum, then among sets of k. */
static void check_law(bool complementary, size_t draws, size_t draw, size_t stratum) {
    enum { SEEDS = 20000 };
    size_t seen[SETS] = {0}, k;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const dlm_mask_draws drawn = {.seed = seed, .draws = draws, .complementary = complementary};
        seen[set_of(&drawn, 7, draw, &k)]++;
    }
    double chi = 0, df = -1, total = 0;
    for (uint32_t set = 1; set < SETS; set++) {
        uint8_t masked[N];
        const size_t count = dlm__mask_of_set(set, N, masked);
        const double chance = share_of(stratum, draws, count) / choose(N, count);
        const double expected = chance * SEEDS, difference = (double)seen[set] - expected;
        total += chance;
        if (expected == 0) CHECK_INT_EQ(seen[set], 0);
        if (expected == 0) continue;
        chi += difference * difference / expected;
        df++;
    }
    check_context("%s, draw %zu of %zu: chi-squared %g of %g", complementary ? "pairs" : "one by one", draw,
                  draws, chi, df);
    CHECK_CLOSE(total, 1, 1e-9);
    CHECK(chi < df + 4.3 * sqrt(2 * df) + 3);
}

TEST(each_draw_has_its_law) {
    for (size_t draw = 0; draw < 3; draw++) check_law(false, 3, draw, draw);
    check_law(false, 1, 0, 0);
    for (size_t draw = 0; draw < 6; draw++) check_law(true, 6, draw, draw % 2 == 0 ? draw / 2 : 5 - draw / 2);
    for (size_t draw = 0; draw < 2; draw++) check_law(true, 2, draw, draw);
}

/* Together the masks of a pair hold every position, and one of them twice, each as often. */
TEST(pairs_are_complementary) {
    enum { SEEDS = 5000 };
    size_t twice[N] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const dlm_mask_draws draws = {.seed = seed, .draws = 4, .complementary = true};
        size_t k[2];
        const uint32_t first = set_of(&draws, seed % 3, 2, &k[0]),
                       second = set_of(&draws, seed % 3, 3, &k[1]);
        CHECK_INT_EQ(first | second, SETS - 1);
        CHECK_INT_EQ(k[0] + k[1], N + 1);
        for (size_t i = 0; i < N; i++) twice[i] += first & second & (1U << i) ? 1 : 0;
    }
    for (size_t i = 0; i < N; i++) CHECK_CLOSE((double)twice[i], SEEDS / N, 4.5 * sqrt(SEEDS / N));
}

/* Consecutive windows share out the strata evenly: whatever the seed, of W windows about W/n mask k. */
TEST(counts_are_spread_over_windows) {
    enum { WINDOWS = 1000 };
    for (int complementary = 0; complementary < 2; complementary++) {
        const dlm_mask_draws draws = {.seed = 3, .draws = 2, .complementary = complementary};
        size_t seen[N + 1] = {0};
        for (size_t w = 0; w < WINDOWS; w++)
            for (size_t d = 0; d < 2; d++) {
                size_t k;
                (void)set_of(&draws, w, d, &k);
                seen[k]++;
            }
        for (size_t k = 1; k <= N; k++) CHECK_CLOSE((double)seen[k], 2.0 * WINDOWS / N, 12);
    }
}

TEST(what_is_settled_and_refused) {
    dlm_mask_draws draws;
    dlm_error err;
    for (size_t n = 1; n < 7; n++) {
        REQUIRE_OK(dlm__mask_draws(5, n, DLM_MASKS_AUTO, &draws, &err), &err);
        CHECK(draws.complementary == (n == 4 || n == 6));
        CHECK_INT_EQ(draws.draws, n);
        CHECK_INT_EQ(draws.seed, 5);
        REQUIRE_OK(dlm__mask_draws(5, n, DLM_MASKS_INDEPENDENT, &draws, &err), &err);
        CHECK_INT_EQ(dlm__mask_unit(&draws), 1);
    }
    REQUIRE_OK(dlm__mask_draws(5, 2, DLM_MASKS_COMPLEMENTARY, &draws, &err), &err);
    CHECK_INT_EQ(dlm__mask_unit(&draws), 2);
    CHECK_STATUS(dlm__mask_draws(5, 3, DLM_MASKS_COMPLEMENTARY, &draws, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "3 draws are odd, complementary masks come in pairs");
    CHECK_STATUS(dlm__mask_draws(5, 0, DLM_MASKS_AUTO, &draws, &err), DLM_ARGUMENT, &err);
    CHECK_STATUS(dlm__mask_draws(5, DLM_DRAWS_MAX + 1, DLM_MASKS_AUTO, &draws, &err), DLM_ARGUMENT, &err);
}
