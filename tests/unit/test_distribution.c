/* What becomes of a row of logits: truncation against sorting, entropy and margin against their definitions,
 * draws against the probabilities. */
#include "check.h"

#include "diffusion/distribution.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST = 5000 };

static float p[LARGEST], logits[LARGEST], kept[LARGEST];
static size_t ranks[LARGEST];

/* Softmax of n random logits; with `ties` many of them are equal, some -inf. */
static void make_row(size_t n, double spread, bool ties, uint32_t number) {
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, number, (uint32_t)n);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double x = spread * dlm__rng_normal(&rng);
        if (ties) x = i % 7 == 3 ? -(double)INFINITY : floor(x);
        logits[i] = (float)x;
        sum += exp((double)logits[i]);
    }
    for (size_t i = 0; i < n; i++) p[i] = (float)(exp((double)logits[i]) / sum);
}

/* The larger first, of equal ones the lower id. */
static int larger_first(const void *left, const void *right) {
    const size_t a = *(const size_t *)left, b = *(const size_t *)right;
    if (p[a] != p[b]) return p[a] > p[b] ? -1 : 1;
    return a < b ? -1 : 1;
}

/* By sorting all of it; the number that stays. */
static size_t truncate_by_sorting(const dlm_drawing *drawing, size_t n) {
    size_t left = 0;
    for (size_t i = 0; i < n; i++) ranks[i] = i;
    qsort(ranks, n, sizeof *ranks, larger_first);
    while (left < n && p[ranks[left]] > 0) left++;
    if (drawing->top_k > 0 && drawing->top_k < left) left = drawing->top_k;
    double sum = 0, cumulative = 0;
    for (size_t i = 0; i < left; i++) sum += (double)p[ranks[i]];
    if (drawing->top_p < 1)
        for (size_t i = 0; i < left; i++)
            if ((cumulative += (double)p[ranks[i]]) >= drawing->top_p * sum) left = i + 1;
    while (left > 1 && (double)p[ranks[left - 1]] < drawing->min_p * (double)p[ranks[0]]) left--;
    memset(kept, 0, n * sizeof *kept);
    for (size_t i = 0; i < left; i++) kept[ranks[i]] = p[ranks[i]];
    return left;
}

TEST(truncation_as_by_sorting) {
    static const size_t sizes[] = {1, 2, 7, 64, 513, LARGEST};
    static const double shares[] = {1, 0.999, 0.9, 0.5, 0.01}, least[] = {0, 0.05, 0.7, 1};
    size_t cases = 0, shortest = LARGEST;
    for (size_t s = 0; s < 6; s++)
        for (size_t row = 0; row < 6; row++)
            for (size_t k = 0; k < 4; k++)
                for (size_t c = 0; c < 5; c++)
                    for (size_t m = 0; m < 4; m++) {
                        const size_t n = sizes[s], counts[] = {0, 1, 3, n / 2 + 1};
                        dlm_drawing drawing = dlm__drawing(1);
                        drawing.top_k = counts[k];
                        drawing.top_p = shares[c];
                        drawing.min_p = least[m];
                        make_row(n, row < 3 ? 1 : 5, row % 2 == 1, (uint32_t)row);
                        const size_t left = truncate_by_sorting(&drawing, n);
                        dlm__truncate(&drawing, n, p);
                        check_context("n %zu, row %zu, k %zu, p %g, least %g", n, row, counts[k], shares[c],
                                      least[m]);
                        /* Sums are rounded in another order, so a set may end one value sooner or later. */
                        size_t different = 0;
                        for (size_t i = 0; i < n; i++) different += p[i] != kept[i];
                        CHECK(different <= (shares[c] < 1 ? 1U : 0U));
                        if (left < shortest) shortest = left;
                        cases++;
                    }
    CHECK_INT_EQ(cases, 6 * 6 * 4 * 5 * 4);
    CHECK_INT_EQ(shortest, 1);
}

TEST(entropy_and_margin_by_definition) {
    for (size_t n = 2; n < 3000; n = 3 * n + 1)
        for (uint32_t row = 0; row < 4; row++) {
            make_row(n, row < 2 ? 1 : 6, row % 2 == 1, row);
            double entropy = 0;
            float first = 0, second = 0;
            for (size_t i = 0; i < n; i++) {
                if (p[i] > 0) entropy -= (double)p[i] * log((double)p[i]);
                if (p[i] > first) {
                    second = first;
                    first = p[i];
                } else if (p[i] > second) {
                    second = p[i];
                }
            }
            check_context("n %zu, row %u", n, row);
            CHECK_CLOSE(dlm__entropy(n, p, logits, 1), entropy, 2e-5);
            CHECK_CLOSE(dlm__margin(n, p), first - second, 0);
            CHECK_CLOSE(p[dlm__most_probable(n, p)], first, 0);
        }
    /* At another temperature, and where one token has it all. */
    for (size_t i = 0; i < 4; i++) logits[i] = (float)i;
    const double z = 1 + exp(0.5) + exp(1) + exp(1.5);
    double entropy = 0;
    for (size_t i = 0; i < 4; i++) {
        p[i] = (float)(exp(0.5 * (double)i) / z);
        entropy -= (double)p[i] * log((double)p[i]);
    }
    CHECK_CLOSE(dlm__entropy(4, p, logits, 0.5), entropy, 1e-6);
    const float sure[] = {0, 1, 0}, of_sure[] = {-INFINITY, 3, -INFINITY};
    CHECK_CLOSE(dlm__entropy(3, sure, of_sure, 1), 0, 0);
    CHECK_CLOSE(dlm__margin(3, sure), 1, 0);
    const float even[] = {0.5F, 0.5F};
    CHECK_CLOSE(dlm__margin(2, even), 0, 0);
}

TEST(penalty_pulls_towards_less_probable) {
    float x[] = {2, -2, 0, 3};
    const int32_t ids[] = {0, 1, 2};
    dlm__penalise(x, ids, 3, 2);
    CHECK_CLOSE(x[0], 1, 0);
    CHECK_CLOSE(x[1], -4, 0);
    CHECK_CLOSE(x[2], 0, 0);
    CHECK_CLOSE(x[3], 3, 0);
}

/* Every u gives the token whose part of the cumulative sum it falls into. */
TEST(draws_invert_the_cumulative_sum) {
    make_row(1000, 3, true, 9);
    const double total = dlm__total(1000, p);
    double cumulative = 0;
    size_t wrong = 0, seen = 0;
    for (size_t i = 0; i < 1000; i++) {
        const double middle = (cumulative + (double)p[i] / 2) / total;
        cumulative += (double)p[i];
        if (p[i] < 1e-9F) continue; /* under the rounding of the sums */
        wrong += dlm__draw(1000, p, total, middle, 0) != i;
        seen++;
    }
    CHECK_INT_EQ(wrong, 0);
    CHECK(seen > 500);
    CHECK(p[dlm__draw(1000, p, total, 0, 0)] > 0);
    CHECK(p[dlm__draw(1000, p, total, 1 - 0x1p-53, 5)] > 0);
}
