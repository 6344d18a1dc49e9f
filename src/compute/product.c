/* Matrix products: by oneDNN, or by the plain loops of the reference. */
#include "compute/context.h"

#include <string.h>

/* op(B) as float32 (K,N), row k at to + k * N. */
static void spread(const dlm_product *product, const void *B, float *to) {
    const size_t N = product->N, K = product->K;
    for (size_t k = 0; k < K; k++)
        for (size_t j = 0; j < N; j++) {
            const size_t i = product->transpose_b ? j * K + k : k * N + j;
            if (product->type == DLM_BF16)
                dlm__kernels_reference.from_bf16(1, (const dlm_bf16 *)B + i, to + k * N + j);
            else
                to[k * N + j] = ((const float *)B)[i];
        }
}

static void plain(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                  const float *bias, float *Y) {
    size_t stride = 0;
    const float *b = B;
    if (product->transpose_b || product->type == DLM_BF16) {
        size_t count = 0;
        if (!dlm__size_mul(product->K, product->N, &count)) count = SIZE_MAX;
        float *copy = dlm__scratch(compute, 1, count, &stride);
        if (copy == NULL) return;
        spread(product, B, copy);
        b = copy;
    }
    const int team = dlm__team(product->M * product->N * product->K, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(product->M, 1, part, team);
        dlm__reference_product(product, r.first, r.last, A, b, bias, Y);
    }
}

#ifdef DLM_BACKEND_ONEDNN

/* Rows, columns and depth of the blocks that are widened at a time: their copies stay in the cache that the
 * cores share, and there are few shapes. */
#define BLOCK ((size_t)512)

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The block (rows, columns) at (row, column) of a stored matrix that is `stride` wide, as float32. */
static void widen(dlm_compute *compute, const dlm_bf16 *x, size_t stride, size_t row, size_t column,
                  size_t rows, size_t columns, float *to) {
    const int team = dlm__team(rows * columns, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (size_t r = 0; r < rows; r++)
        compute->kernels->from_bf16(columns, x + (row + r) * stride + column, to + r * columns);
}

/* A bfloat16 product where oneDNN has none, or a slow one: blocks of both operands are widened and multiplied
 * in float32, which is the same but for the order of the sums. */
static dlm_status widened(dlm_compute *compute, const dlm_product *product, const dlm_bf16 *A,
                          const dlm_bf16 *B, const float *bias, float *Y) {
    const size_t M = product->M, N = product->N, K = product->K;
    size_t stride = 0;
    float *a = dlm__scratch(compute, 2, BLOCK * BLOCK, &stride), *b = a + stride;
    if (a == NULL) return compute->error.status;
    for (size_t j = 0; j < N; j += BLOCK)
        for (size_t k = 0; k < K; k += BLOCK) {
            dlm_product block = *product;
            block.type = DLM_F32;
            block.N = least(BLOCK, N - j);
            block.K = least(BLOCK, K - k);
            block.accumulate = product->accumulate || k > 0;
            if (product->transpose_b)
                widen(compute, B, K, j, k, block.N, block.K, b);
            else
                widen(compute, B, N, k, j, block.K, block.N, b);
            for (size_t i = 0; i < M; i += BLOCK) {
                block.M = least(BLOCK, M - i);
                if (product->transpose_a)
                    widen(compute, A, M, k, i, block.K, block.M, a);
                else
                    widen(compute, A, K, i, k, block.M, block.K, a);
                DLM_TRY(dlm__onednn_product(compute->onednn, &block, a, b,
                                            bias == NULL || k > 0 ? NULL : bias + j, Y + i * N + j, N,
                                            &compute->error));
            }
        }
    return DLM_OK;
}
#endif

/* A sum of no terms. */
static void empty(const dlm_product *product, const float *bias, float *Y) {
    const size_t N = product->N;
    for (size_t i = 0; i < product->M; i++)
        for (size_t j = 0; j < N; j++)
            Y[i * N + j] = (product->accumulate ? Y[i * N + j] : 0) + (bias == NULL ? 0 : bias[j]);
}

void dlm__matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                 const float *bias, float *Y) {
    if (compute->error.status != DLM_OK || product->M == 0 || product->N == 0) return;
    if (product->K == 0) {
        empty(product, bias, Y);
        return;
    }
#ifdef DLM_BACKEND_ONEDNN
    if (compute->onednn != NULL) {
        if (product->type == DLM_BF16 && compute->widen_bf16)
            (void)widened(compute, product, A, B, bias, Y);
        else
            (void)dlm__onednn_product(compute->onednn, product, A, B, bias, Y, product->N, &compute->error);
        return;
    }
#endif
    plain(compute, product, A, B, bias, Y);
}
