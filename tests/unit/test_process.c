/* The masking process against PyTorch's schedule (schedule.json), and the laws of its masks. */
#include "check.h"

#include "diffusion/process.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static const char *const schedule_names[] = {"cosine", "linear"}; /* in the order of the enum */

/* schedule.json; the caller's reference. */
static json_t *schedule_fixture(void) {
    const char *path = golden_path("schedule.json");
    return path == NULL ? NULL : json_load_file(path, 0, NULL);
}

static double number(const json_t *array, size_t i) {
    return json_number_value(json_array_get(array, i));
}

/* Row "SCHEDULE.NAME" of the fixture. */
static const json_t *row(const json_t *all, size_t schedule, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", schedule_names[schedule], name);
    check_context("%s", key);
    return json_object_get(all, key);
}

/* PyTorch's are float32: 1 - cos(x) has an absolute error of an ulp of 1 there, which the inverse, whose
 * slope is below 15 on [1e-3, 1], makes 15 times larger. */
TEST(sigma_and_inverse_as_in_pytorch) {
    json_t *all = schedule_fixture();
    REQUIRE(all != NULL);
    const json_t *t = json_object_get(all, "t");
    CHECK(json_array_size(t) > 10);
    for (size_t s = 0; s < 2; s++) {
        const json_t *sigma = row(all, s, "sigma");
        CHECK_INT_EQ(json_array_size(sigma), json_array_size(t));
        for (size_t i = 0; i < json_array_size(t); i++)
            CHECK_CLOSE(dlm__sigma((dlm_schedule)s, number(t, i)), number(sigma, i), 1.2e-7);
        const json_t *inverse = row(all, s, "inverse");
        CHECK_INT_EQ(json_array_size(inverse), json_array_size(t));
        for (size_t i = 0; i < json_array_size(t); i++)
            CHECK_CLOSE(dlm__sigma_inverse((dlm_schedule)s, number(t, i)), number(inverse, i), 15 * 1.2e-7);
    }
    json_decref(all);
}

TEST(weights_as_in_pytorch) {
    static const struct {
        const char *name;
        dlm_loss_weight weight;
    } weights[] = {{"elbo", DLM_WEIGHT_ELBO},
                   {"flat", DLM_WEIGHT_FLAT},
                   {"uniform", DLM_WEIGHT_UNIFORM},
                   {"inv_sigma", DLM_WEIGHT_INV_SIGMA},
                   {"sigma", DLM_WEIGHT_SIGMA}};
    json_t *all = schedule_fixture();
    REQUIRE(all != NULL);
    const json_t *t = json_object_get(all, "t");
    for (size_t s = 0; s < 2; s++)
        for (size_t w = 0; w < sizeof weights / sizeof weights[0]; w++) {
            const json_t *want = row(all, s, weights[w].name);
            CHECK_INT_EQ(json_array_size(want), json_array_size(t));
            for (size_t i = 0; i < json_array_size(t); i++)
                CHECK_CLOSE(dlm__loss_weight(weights[w].weight, (dlm_schedule)s, number(t, i)),
                            number(want, i), 2e-6 * fmax(1, number(want, i)));
        }
    json_decref(all);
}

TEST(ends_of_the_schedule) {
    for (int s = 0; s < 2; s++) {
        dlm_schedule schedule = (dlm_schedule)s;
        CHECK(dlm__sigma(schedule, 0) == DLM_SIGMA_MIN);
        CHECK_CLOSE(dlm__sigma(schedule, 1), 1, 3e-16);
        CHECK(dlm__sigma_inverse(schedule, 1) == 1);
        CHECK(dlm__sigma_inverse(schedule, 0) == dlm__sigma_inverse(schedule, DLM_SIGMA_MIN));
        for (int i = 1; i <= 1000; i++) {
            double sigma = i * 1e-3;
            CHECK_CLOSE(dlm__sigma(schedule, dlm__sigma_inverse(schedule, sigma)), sigma, 1e-14);
        }
        for (int i = 1; i < 100; i++) { /* the slope is the derivative */
            double t = 0.1 + i * 0.008, h = 1e-5;
            CHECK_CLOSE(dlm__sigma_slope(schedule, t),
                        (dlm__sigma(schedule, t + h) - dlm__sigma(schedule, t - h)) / (2 * h), 1e-9);
        }
    }
}

TEST(reveal_counts_as_in_python) {
    json_t *all = schedule_fixture(), *run;
    REQUIRE(all != NULL);
    size_t index;
    CHECK(json_array_size(json_object_get(all, "reveal")) > 4);
    json_array_foreach(json_object_get(all, "reveal"), index, run) {
        const size_t n = (size_t)json_integer_value(json_object_get(run, "n"));
        const size_t steps = (size_t)json_integer_value(json_object_get(run, "steps"));
        const char *name = json_string_value(json_object_get(run, "reveal"));
        const json_t *counts = json_object_get(run, "counts");
        const dlm_reveal reveal = strcmp(name, "linear") == 0 ? DLM_REVEAL_LINEAR : DLM_REVEAL_COSINE;
        check_context("n %zu, %zu steps, %s", n, steps, name);
        size_t revealed = 0, i = 0;
        for (; i < steps && revealed < n; i++) {
            const size_t k = dlm__reveal_count(reveal, n, (double)(i + 1) / (double)steps, revealed);
            CHECK_INT_EQ(k, json_integer_value(json_array_get(counts, i)));
            revealed += k;
        }
        CHECK_INT_EQ(i, json_array_size(counts));
        CHECK_INT_EQ(revealed, n);
    }
    json_decref(all);
}

/* Whatever has been revealed before, the last step takes the rest, and no step takes nothing or too much. */
TEST(reveal_counts_end) {
    for (size_t n = 1; n < 40; n++)
        for (size_t steps = 1; steps < 50; steps += 3)
            for (size_t revealed = 0; revealed < n; revealed++)
                for (int r = 0; r < 2; r++) {
                    CHECK_INT_EQ(dlm__reveal_count((dlm_reveal)r, n, 1, revealed), n - revealed);
                    size_t k = dlm__reveal_count((dlm_reveal)r, n, 1 / (double)steps, revealed);
                    CHECK(k >= 1 && k <= n - revealed);
                }
}

/* Every choice of k of 5 positions is equally frequent. */
TEST(exact_masks_are_uniform) {
    enum { N = 5, DRAWS = 40000 };
    static const size_t choices[] = {1, 5, 10, 10, 5, 1};
    for (size_t k = 0; k <= N; k++) {
        size_t seen[1 << N] = {0};
        dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, (uint32_t)k, 0);
        for (int d = 0; d < DRAWS; d++) {
            uint8_t masked[N];
            uint32_t order[N];
            dlm__mask_exactly(&rng, N, k, masked, order);
            size_t which = 0, count = 0;
            for (size_t i = 0; i < N; i++) {
                REQUIRE(masked[i] <= 1);
                which |= (size_t)masked[i] << i;
                count += masked[i];
            }
            REQUIRE(count == k);
            seen[which]++;
        }
        const double expected = (double)DRAWS / (double)choices[k];
        double chi = 0;
        for (size_t i = 0; i < 1 << N; i++)
            if (seen[i] > 0) chi += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
        size_t kinds = 0;
        for (size_t i = 0; i < 1 << N; i++) kinds += seen[i] > 0;
        check_context("k %zu", k);
        CHECK_INT_EQ(kinds, choices[k]);
        CHECK(chi < 30); /* at most 9 degrees of freedom: one seed in 2000 */
    }
}

TEST(independent_masks) {
    enum { N = 100000 };
    static uint8_t masked[N];
    static const double sigmas[] = {0, 0.1, 0.5, 0.93, 1};
    for (size_t s = 0; s < sizeof sigmas / sizeof sigmas[0]; s++) {
        dlm_rng rng = dlm__rng(2, DLM_RNG_TEST, (uint32_t)s, 0);
        size_t count = dlm__mask_independently(&rng, N, sigmas[s], masked), sum = 0, pairs = 0;
        for (size_t i = 0; i < N; i++) sum += masked[i];
        for (size_t i = 1; i < N; i++) pairs += masked[i] && masked[i - 1];
        CHECK_INT_EQ(sum, count);
        double p = sigmas[s], pp = p * p;
        CHECK_CLOSE((double)count / N, p, 4.5 * sqrt(p * (1 - p) / N));
        CHECK_CLOSE((double)pairs / (N - 1), pp, 4.5 * sqrt(3 * pp * (1 - pp) / N));
    }
}

/* On the cosine schedule: each count as often as its chance says, from the stratum that its time is in. */
TEST(counts_of_the_cosine) {
    enum { STRATA = 8, ROUNDS = 20000 };
    static const size_t lengths[] = {1, 2, 13, 1500};
    for (size_t i = 0; i < 4; i++) {
        const size_t n = lengths[i];
        static size_t seen[1501];
        memset(seen, 0, sizeof seen);
        dlm_rng rng = dlm__rng(4, DLM_RNG_TEST, (uint32_t)n, 0);
        check_context("n %zu", n);
        for (int round = 0; round < ROUNDS; round++)
            for (size_t s = 0; s < STRATA; s++) {
                const size_t k = dlm__stratified_count(&rng, DLM_SCHEDULE_COSINE, n, s, STRATA);
                REQUIRE(k >= 1 && k <= n);
                const double above = acos(1 - (double)k / (double)n) / acos(0);
                const double below = acos(1 - (double)(k - 1) / (double)n) / acos(0);
                REQUIRE(above > (double)s / STRATA - 1e-9 && below < (double)(s + 1) / STRATA + 1e-9);
                seen[k]++;
            }
        const double total = (double)STRATA * ROUNDS;
        double sum = 0;
        for (size_t k = 1; k <= n; k++) {
            const double p = dlm__count_chance(DLM_SCHEDULE_COSINE, n, k);
            sum += p;
            CHECK_CLOSE((double)seen[k] / total, p, 5 * sqrt(p / total));
        }
        CHECK_CLOSE(sum, 1, 1e-12);
        CHECK_CLOSE(dlm__count_chance(DLM_SCHEDULE_COSINE, n, 1), acos(1 - 1 / (double)n) / acos(0), 1e-12);
    }
}

TEST(stratified_counts) {
    enum { STRATA = 8, ROUNDS = 20000 };
    for (size_t n = 1; n <= 13; n += 4) {
        size_t seen[14] = {0};
        dlm_rng rng = dlm__rng(3, DLM_RNG_TEST, (uint32_t)n, 0);
        for (int round = 0; round < ROUNDS; round++)
            for (size_t s = 0; s < STRATA; s++) {
                size_t k = dlm__stratified_count(&rng, DLM_SCHEDULE_LINEAR, n, s, STRATA);
                REQUIRE(k >= 1 + n * s / STRATA && k <= 1 + (n * (s + 1) - 1) / STRATA);
                seen[k]++;
            }
        check_context("n %zu", n);
        const double total = (double)STRATA * ROUNDS, p = 1 / (double)n;
        for (size_t k = 1; k <= n; k++) {
            CHECK_CLOSE(dlm__count_chance(DLM_SCHEDULE_LINEAR, n, k), p, 1e-15);
            CHECK_CLOSE((double)seen[k] / total, p, 4.5 * sqrt(p / total));
        }
    }
    CHECK_INT_EQ(dlm__count_at(7, 0), 1);
    CHECK_INT_EQ(dlm__count_at(7, 1), 7);
    CHECK_INT_EQ(dlm__count_at(1, 0.999), 1);
}
