/* Evaluations of made-up windows by the smallest models, and their exact NELBO by enumeration of all masks
 * and the public forward pass. */
#ifndef DLM_TESTS_LIKELIHOOD_FIXTURE_H
#define DLM_TESTS_LIKELIHOOD_FIXTURE_H

#include "sampling_fixture.h"

#include "diffusion/likelihood.h"

static inline dlm_compute *new_compute(void) {
    dlm_compute *compute = NULL;
    dlm_error err;
    CHECK_OK(dlm__compute_create(NULL, &compute, &err), &err);
    return compute;
}

static inline dlm_likelihood_options options_for(const dlm_model *model, size_t draws, uint64_t seed) {
    const dlm_config *config = dlm_model_config(model);
    return (dlm_likelihood_options){.seed = seed,
                                    .draws = draws,
                                    .cross_entropy = true,
                                    .schedule = config->schedule,
                                    .mask_id = model->mask_id,
                                    .longest = config->max_seq_len};
}

/* Measures n windows, each a document. */
static inline bool measure(const dlm_model *model, const dlm_likelihood_options *options,
                           const dlm_scored *windows, size_t n, dlm_eval_result *result) {
    dlm_likelihood *likelihood;
    dlm_error err;
    dlm_compute *compute = new_compute();
    bool ok = CHECK_OK(dlm__likelihood_create(&model->network, compute, options, &likelihood, &err), &err);
    for (size_t w = 0; ok && w < n; w++)
        ok = CHECK_OK(dlm__likelihood_add(likelihood, &windows[w], &err), &err);
    ok = ok && CHECK_OK(dlm__likelihood_end(likelihood, result, &err), &err);
    dlm__likelihood_free(likelihood);
    dlm__compute_free(compute);
    return ok;
}

/* ---- all masks of a window, by the public forward pass ------------------------------------------------ */

enum { SMALL_V = 11, SMALL_L = 8, WINDOWS = 40 };

static inline size_t bits_of(size_t set) {
    size_t n = 0;
    for (; set > 0; set &= set - 1) n++;
    return n;
}

/* A set of the first n positions that is masked, its time, and the sum of its cross-entropies. */
typedef struct masked_set {
    size_t set;
    double t, ce;
} masked_set;

/* Fills in ce of `count` sets of the first n of `shown` ids, in one call of the public forward pass; the sum
 * is over the first `counted` positions. */
static inline void fill_in(const dlm_model *model, const int32_t *ids, size_t n, size_t counted, size_t shown,
                           masked_set *sets, size_t count) {
    int32_t *masked = dlm__calloc(count * shown, sizeof *masked);
    size_t *lengths = dlm__calloc(count, sizeof *lengths);
    float *times = dlm__calloc(count, sizeof *times);
    float *logits = dlm__calloc(count * shown * SMALL_V, sizeof *logits);
    for (size_t s = 0; s < count; s++) {
        for (size_t i = 0; i < shown; i++)
            masked[s * shown + i] = i < n && (sets[s].set >> i & 1) ? model->mask_id : ids[i];
        lengths[s] = shown;
        times[s] = (float)sets[s].t;
    }
    dlm_error err;
    CHECK_OK(dlm_model_logits(model, masked, lengths, count, times, logits, &err), &err);
    for (size_t s = 0; s < count; s++) {
        sets[s].ce = 0;
        for (size_t i = 0; i < counted; i++) {
            if (!(sets[s].set >> i & 1)) continue;
            const float *x = logits + (s * shown + i) * SMALL_V;
            double largest = -INFINITY, total = 0;
            for (size_t v = 0; v < SMALL_V; v++) largest = fmax(largest, (double)x[v]);
            for (size_t v = 0; v < SMALL_V; v++) total += exp((double)x[v] - largest);
            sets[s].ce += log(total) + largest - (double)x[ids[i]];
        }
    }
    free(masked);
    free(lengths);
    free(times);
    free(logits);
}

/* n times the mean over k of the mean over sets of k of their mean cross-entropy, or of what the first
 * `counted` positions add to it. */
static inline double enumerate(const dlm_model *model, const int32_t *ids, size_t n, size_t counted,
                               size_t shown) {
    static masked_set sets[1 << SMALL_L];
    double by_count[SMALL_L + 1] = {0}, of_count[SMALL_L + 1] = {0}, sum = 0;
    const size_t count = ((size_t)1 << n) - 1;
    for (size_t s = 0; s < count; s++) {
        sets[s].set = s + 1;
        sets[s].t = dlm__sigma_inverse(dlm_model_config(model)->schedule, (double)bits_of(s + 1) / (double)n);
    }
    fill_in(model, ids, n, counted, shown, sets, count);
    for (size_t s = 0; s < count; s++) {
        by_count[bits_of(s + 1)] += sets[s].ce / (double)bits_of(s + 1);
        of_count[bits_of(s + 1)]++;
    }
    for (size_t k = 1; k <= n; k++) sum += by_count[k] / of_count[k];
    return sum;
}

static inline dlm_model *small_model(dlm_schedule schedule) {
    return random_model(SMALL_V, SMALL_L, DLM_TIME_ADALN, schedule, 0.5, NULL);
}

/* Windows of 1 to SMALL_L random ids. */
static inline void make_windows(int32_t ids[WINDOWS][SMALL_L], dlm_scored windows[WINDOWS]) {
    dlm_rng rng = dlm__rng(8, DLM_RNG_TEST, 0, 0);
    for (size_t w = 0; w < WINDOWS; w++) {
        const size_t n = 1 + (size_t)dlm__rng_below(&rng, SMALL_L);
        for (size_t i = 0; i < n; i++) ids[w][i] = 3 + (int32_t)dlm__rng_below(&rng, SMALL_V - 3);
        windows[w] = (dlm_scored){.ids = ids[w], .n = n, .shown = n, .bytes = 3 * n};
    }
}

#endif
