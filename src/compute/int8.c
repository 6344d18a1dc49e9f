/* Products of 8-bit integers: weights are rounded once, each row of activations by its own scale as it
 * comes. Threads take panels of columns, so that each reads its part of the weights alone. */
#include "compute/context.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* 2^17 products of at most 127 x 127 fit 32 bits. */
#define MOST_INPUTS ((size_t)1 << 17)

static size_t pairs_of(size_t K) {
    return (K + 1) / 2;
}

static size_t panel_bytes(size_t K) {
    return pairs_of(K) * DLM_PANEL * 2;
}

bool dlm__int8_any_rows(const dlm_compute *compute) {
    return !compute->onednn_int8;
}

size_t dlm__int8_unit(void) {
    return DLM_PANEL;
}

/* Row n, whose weight k is at place(k). */
static int8_t *row_of(const dlm_int8 *weights, size_t n) {
    return weights->panels + n / DLM_PANEL * panel_bytes(weights->K) + n % DLM_PANEL * 2;
}

static size_t place(size_t k) {
    return k / 2 * DLM_PANEL * 2 + k % 2;
}

static void pack(dlm_compute *compute, const float *w, const dlm_int8 *weights, int16_t *row, size_t n) {
    weights->scale[n] = compute->kernels->quantise(weights->K, w + n * weights->K, row);
    int8_t *to = row_of(weights, n);
    weights->sums[n] = 0;
    for (size_t k = 0; k < weights->K; k++) {
        to[place(k)] = (int8_t)row[k];
        weights->sums[n] += row[k];
        if (weights->rows != NULL) weights->rows[n * weights->K + k] = (int8_t)row[k];
    }
}

/* Threads take whole panels: rows of one share lines of the cache. */
static void pack_all(dlm_compute *compute, const float *w, const dlm_int8 *weights, int16_t *rows) {
    const size_t N = weights->N, K = weights->K;
    const int team = dlm__team(N * K, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(N, DLM_PANEL, part, team);
        for (size_t n = r.first; n < r.last; n++) pack(compute, w, weights, rows + (size_t)part * K, n);
    }
}

dlm_status dlm__int8_create(dlm_compute *compute, size_t N, size_t K, const float *w, dlm_int8 **made,
                            dlm_error *err) {
    const size_t panels = (N + DLM_PANEL - 1) / DLM_PANEL;
    *made = NULL;
    if (K > MOST_INPUTS)
        return dlm__fail(err, DLM_UNSUPPORTED, "rows of %zu weights are too long for int8, which takes %zu",
                         K, MOST_INPUTS);
    dlm_int8 *weights = dlm__calloc(1, sizeof *weights);
    int16_t *rows = dlm__calloc(dlm__threads() * K, sizeof *rows);
    if (weights != NULL) {
        *weights = (dlm_int8){.N = N, .K = K};
        weights->panels = dlm__aligned(panels * panel_bytes(K), 1);
        weights->scale = dlm__calloc(N, sizeof *weights->scale);
        weights->sums = dlm__calloc(N, sizeof *weights->sums);
        weights->rows = compute->onednn_int8 ? dlm__calloc(N, K) : NULL;
    }
    if (weights == NULL || rows == NULL || weights->panels == NULL || weights->scale == NULL ||
        weights->sums == NULL || (compute->onednn_int8 && weights->rows == NULL)) {
        dlm__int8_free(weights);
        free(rows);
        return dlm__fail_memory(err, "int8 weights", panels * panel_bytes(K));
    }
    memset(weights->panels, 0, panels * panel_bytes(K));
    pack_all(compute, w, weights, rows);
    free(rows);
    *made = weights;
    return DLM_OK;
}

void dlm__int8_free(dlm_int8 *weights) {
    if (weights == NULL) return;
    free(weights->panels);
    free(weights->rows);
    free(weights->sums);
    free(weights->scale);
    free(weights);
}

void dlm__int8_integers(const dlm_int8 *weights, int8_t *q) {
    for (size_t n = 0; n < weights->N; n++) {
        const int8_t *row = row_of(weights, n);
        for (size_t k = 0; k < weights->K; k++) q[n * weights->K + k] = row[place(k)];
    }
}

void dlm__int8_values(const dlm_int8 *weights, float *w) {
    const int team = dlm__team(weights->N * weights->K, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (size_t n = 0; n < weights->N; n++) {
        const int8_t *row = row_of(weights, n);
        for (size_t k = 0; k < weights->K; k++)
            w[n * weights->K + k] = weights->scale[n] * (float)row[place(k)];
    }
}

/* Activations in 8 bits, widened: a (M, 2 pairs) and a_scale (M), in the context's scratch; behind them there
 * is room for (M,K) bytes. */
static bool quantise_rows(dlm_compute *compute, size_t M, size_t K, const float *X, int16_t **a,
                          float **a_scale) {
    const size_t width = 2 * pairs_of(K);
    size_t stride = 0;
    float *scratch = dlm__scratch(compute, M, 2 * pairs_of(K) + 1, &stride);
    if (scratch == NULL) return false;
    *a_scale = scratch;
    *a = (int16_t *)(void *)(scratch + M);
    int16_t *rows = *a;
    const int team = dlm__team(M * K, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(M, 1, part, team);
        for (size_t m = r.first; m < r.last; m++) {
            rows[m * width + width - 1] = 0;
            scratch[m] = compute->kernels->quantise(K, X + m * K, rows + m * width);
        }
    }
    return true;
}

#ifdef DLM_BACKEND_ONEDNN
/* What makes integers of 8 bits unsigned. */
enum { RAISED = 128 };

/* By oneDNN, whose bytes of activations have no sign: the sums are in Y, then the values in their place. */
static void by_onednn(dlm_compute *compute, size_t M, const int16_t *a, const float *a_scale,
                      const dlm_int8 *weights, size_t first, size_t n, const float *bias, float *Y) {
    const size_t K = weights->K, width = 2 * pairs_of(K);
    uint8_t *raised = (uint8_t *)(void *)(a + M * width);
    const dlm_product product = {.M = M, .N = n, .K = K, .transpose_b = true, .type = DLM_I8};
    int team = dlm__team(M * K, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (size_t m = 0; m < M; m++)
        for (size_t k = 0; k < K; k++) raised[m * K + k] = (uint8_t)(a[m * width + k] + RAISED);
    if (dlm__onednn_product(compute->onednn, &product, (dlm_strides){K, K, n}, raised,
                            weights->rows + first * K, NULL, Y, &compute->error) != DLM_OK)
        return;
    team = dlm__team(M * n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (size_t m = 0; m < M; m++)
        compute->kernels->int8_values(n, RAISED, weights->sums + first, a_scale[m], weights->scale + first,
                                      bias, Y + m * n);
}
#endif

/* Rows that go through all panels of a thread before the next do: their activations stay in its cache. */
#define BLOCK ((size_t)96)

void dlm__int8_matmul(dlm_compute *compute, size_t M, const float *X, const dlm_int8 *weights, size_t first,
                      size_t n, const float *bias, float *Y) {
    int16_t *a;
    float *a_scale;
    const size_t K = weights->K, pairs = pairs_of(K), panel = panel_bytes(K);
    assert(first % DLM_PANEL == 0 && first + n <= weights->N);
    if (M == 0 || n == 0 || !quantise_rows(compute, M, K, X, &a, &a_scale)) return;
#ifdef DLM_BACKEND_ONEDNN
    if (compute->onednn_int8 && weights->rows != NULL) {
        by_onednn(compute, M, a, a_scale, weights, first, n, bias, Y);
        return;
    }
#endif
    const int team = dlm__team(M * n * K, 8 * DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_PANEL, part, team);
        for (size_t m = 0; m < M; m += BLOCK)
            for (size_t j = r.first; j < r.last; j += DLM_PANEL) {
                const dlm_int8_operands x = {.rows = M - m < BLOCK ? M - m : BLOCK,
                                             .pairs = pairs,
                                             .columns = r.last - j < DLM_PANEL ? r.last - j : DLM_PANEL,
                                             .a = a + m * 2 * pairs,
                                             .a_scale = a_scale + m,
                                             .panel = weights->panels + (first + j) / DLM_PANEL * panel,
                                             .scale = weights->scale + first + j,
                                             .bias = bias == NULL ? NULL : bias + j};
                compute->kernels->int8_panel(&x, Y + m * n + j, n);
            }
    }
}
