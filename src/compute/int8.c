/* Products of 8-bit integers: weights are rounded once, each row of activations by its own scale as it
 * comes. */
#include "compute/context.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* 2^17 products of at most 127 x 127 fit 32 bits. */
#define MOST_INPUTS ((size_t)1 << 17)

static size_t quads_of(size_t K) {
    return (K + 3) / 4;
}

static size_t panel_bytes(size_t K) {
    return quads_of(K) * DLM_PANEL * 4;
}

bool dlm__int8_any_rows(const dlm_compute *compute) {
    return !compute->onednn_int8;
}

size_t dlm__int8_unit(void) {
    return DLM_PANEL;
}

/* Row n, whose weight k is at place(k). */
static int8_t *row_of(const dlm_int8 *weights, size_t n) {
    return weights->panels + n / DLM_PANEL * panel_bytes(weights->K) + n % DLM_PANEL * 4;
}

static size_t place(size_t k) {
    return k / 4 * DLM_PANEL * 4 + k % 4;
}

/* Row n from its weights, through `row`, which is 0 behind them. */
static void pack_row(const dlm_compute *compute, const dlm_int8 *weights, size_t n, const float *w,
                     int8_t *row) {
    const size_t K = weights->K;
    weights->scale[n] = compute->kernels->quantise(K, w, DLM_F32, DLM_INT8_SIGNED, 1, row);
    int8_t *to = row_of(weights, n);
    int32_t sum = 0;
    for (size_t k = 0; k < K; k++) sum += row[k];
    for (size_t k = 0; k < K; k += 4) memcpy(to + place(k), row + k, 4);
    weights->sums[n] = sum;
    if (weights->rows != NULL) memcpy(weights->rows + n * K, row, K);
}

/* Threads take whole panels: rows of one share lines of the cache. */
dlm_status dlm__int8_pack(const dlm_compute *compute, const dlm_int8 *weights, size_t first, size_t n,
                          const float *w, dlm_error *err) {
    const size_t K = weights->K, each = 4 * quads_of(K);
    const int team = dlm__team(n * K, DLM_GRAIN);
    int8_t *rows = dlm__calloc((size_t)team, each);
    assert(first % DLM_PANEL == 0 && first + n <= weights->N);
    if (rows == NULL) return dlm__fail_memory(err, "int8 weights", (size_t)team * each);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_PANEL, part, team);
        for (size_t i = r.first; i < r.last; i++)
            pack_row(compute, weights, first + i, w + i * K, rows + (size_t)part * each);
    }
    free(rows);
    return DLM_OK;
}

dlm_status dlm__int8_allocate(const dlm_compute *compute, size_t N, size_t K, dlm_int8 **made,
                              dlm_error *err) {
    const size_t panels = (N + DLM_PANEL - 1) / DLM_PANEL, columns = panels * DLM_PANEL;
    *made = NULL;
    if (K > MOST_INPUTS)
        return dlm__fail(err, DLM_UNSUPPORTED, "rows of %zu weights are too long for int8, which takes %zu",
                         K, MOST_INPUTS);
    dlm_int8 *weights = dlm__calloc(1, sizeof *weights);
    if (weights != NULL) {
        *weights = (dlm_int8){.N = N, .K = K};
        weights->panels = dlm__aligned(panels * panel_bytes(K), 1);
        weights->scale = dlm__calloc(columns, sizeof *weights->scale);
        weights->sums = dlm__calloc(columns, sizeof *weights->sums);
        weights->rows = compute->onednn_int8 ? dlm__calloc(N, K) : NULL;
    }
    if (weights == NULL || weights->panels == NULL || weights->scale == NULL || weights->sums == NULL ||
        (compute->onednn_int8 && weights->rows == NULL)) {
        dlm__int8_free(weights);
        return dlm__fail_memory(err, "int8 weights", panels * panel_bytes(K));
    }
    /* Rows that are missing in the last panel stay 0. */
    if (N % DLM_PANEL != 0) memset(weights->panels + (panels - 1) * panel_bytes(K), 0, panel_bytes(K));
    *made = weights;
    return DLM_OK;
}

dlm_status dlm__int8_create(dlm_compute *compute, size_t N, size_t K, const float *w, dlm_int8 **made,
                            dlm_error *err) {
    DLM_TRY(dlm__int8_allocate(compute, N, K, made, err));
    const dlm_status status = dlm__int8_pack(compute, *made, 0, N, w, err);
    if (status == DLM_OK) return DLM_OK;
    dlm__int8_free(*made);
    *made = NULL;
    return status;
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

/* ---- products ------------------------------------------------------------------------------------------ */

/* Products that are worth a thread more. */
#define GRAIN ((size_t)1 << 19)
/* Rows that go through all columns of a thread before the next do, which read all weights again; fewer where
 * these are no whole groups. */
#define BLOCK ((size_t)512)

/* Rows in 8 bits, in the context's scratch: by groups of so many, as a kernel takes them, or of one. */
typedef struct activations {
    dlm_int8_form form;
    size_t group, quads, row; /* bytes of a row */
    unsigned char *q;
    float *scale;
} activations;

static bool make_room(dlm_compute *compute, size_t M, size_t K, dlm_int8_form form, size_t group,
                      activations *a) {
    size_t stride = 0;
    *a = (activations){.form = form, .group = group, .quads = quads_of(K)};
    a->row = 4 * a->quads * dlm__int8_size(form);
    const size_t rows = dlm__round_up(M, group);
    float *scratch = dlm__scratch(compute, rows + 1, a->row / sizeof(float) + 1, &stride);
    if (scratch == NULL) return false;
    a->scale = scratch;
    a->q = (unsigned char *)(scratch + dlm__round_up(M, DLM_ALIGN / sizeof(float)));
    return true;
}

static unsigned char *row_at(const activations *a, size_t m) {
    return a->q + m / a->group * a->group * a->row + m % a->group * 4 * dlm__int8_size(a->form);
}

static void quantise(const dlm_compute *compute, size_t K, const void *X, dlm_dtype type,
                     const activations *a, dlm_range rows) {
    for (size_t m = rows.first; m < rows.last; m += a->group)
        compute->kernels->quantise_rows(dlm__least(a->group, rows.last - m), K,
                                        dlm__const_element(X, type, m * K), type, row_at(a, m), a->scale + m);
}

/* Some rows, all columns that w has. */
static void multiply(const dlm_compute *compute, const activations *a, dlm_range rows, dlm_int8_product w) {
    const size_t block = BLOCK / a->group * a->group;
    float *Y = w.y;
    for (size_t m = rows.first; m < rows.last; m += block) {
        w.rows = rows.last - m < block ? rows.last - m : block;
        w.a = row_at(a, m);
        w.a_scale = a->scale + m;
        w.y = Y + m * w.stride;
        compute->kernels->int8_product(&w);
    }
}

#ifdef DLM_BACKEND_ONEDNN
/* By oneDNN, whose bytes of activations have no sign: the sums are in Y, then the values in their place. */
static void by_onednn(dlm_compute *compute, size_t M, const void *X, dlm_dtype type, const dlm_int8 *weights,
                      size_t first, size_t n, const float *bias, float *Y) {
    const size_t K = weights->K;
    const dlm_product product = {.M = M, .N = n, .K = K, .transpose_b = true, .type = DLM_I8};
    activations a;
    if (!make_room(compute, M, K, DLM_INT8_RAISED, 1, &a)) return;
    int team = dlm__team(M * K, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (size_t m = 0; m < M; m++)
        a.scale[m] = compute->kernels->quantise(K, dlm__const_element(X, type, m * K), type, a.form, a.group,
                                                row_at(&a, m));
    if (dlm__onednn_product(compute->onednn, &product, (dlm_strides){a.row, K, n}, a.q,
                            weights->rows + first * K, NULL, Y, &compute->error) != DLM_OK)
        return;
    team = dlm__team(M * n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (size_t m = 0; m < M; m++)
        compute->kernels->int8_values(n, weights->sums + first, a.scale[m], weights->scale + first, bias,
                                      Y + m * n);
}
#endif

void dlm__int8_matmul(dlm_compute *compute, size_t M, const void *X, dlm_dtype type, const dlm_int8 *weights,
                      size_t first, size_t n, const float *bias, float *Y) {
    const size_t K = weights->K;
    activations a;
    assert(first % DLM_PANEL == 0 && first + n <= weights->N);
    if (M == 0 || n == 0) return;
#ifdef DLM_BACKEND_ONEDNN
    if (compute->onednn_int8 && weights->rows != NULL) {
        by_onednn(compute, M, X, type, weights, first, n, bias, Y);
        return;
    }
#endif
    const size_t group = compute->kernels->int8_rows;
    if (!make_room(compute, M, K, compute->kernels->int8_form, group, &a)) return;
    const int team = dlm__team(M * n * K, GRAIN);
    const int down = dlm__cut((M + group - 1) / group, (n + DLM_PANEL - 1) / DLM_PANEL, team),
              across = team / down;
#pragma omp parallel num_threads(team) if (team > 1)
    {
#pragma omp for schedule(static)
        for (int part = 0; part < team; part++)
            quantise(compute, K, X, type, &a, dlm__part(M, group, part, team));
#pragma omp for schedule(static) nowait
        for (int part = 0; part < team; part++) {
            const dlm_range r = dlm__part(n, DLM_PANEL, part % across, across);
            const size_t from = first + r.first;
            if (r.first == r.last) continue;
            multiply(compute, &a, dlm__part(M, group, part / across, down),
                     (dlm_int8_product){.quads = a.quads,
                                        .columns = r.last - r.first,
                                        .panels = weights->panels + from / DLM_PANEL * panel_bytes(K),
                                        .sums = weights->sums + from,
                                        .scale = weights->scale + from,
                                        .bias = bias == NULL ? NULL : bias + r.first,
                                        .y = Y + r.first,
                                        .stride = n});
        }
    }
}
