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

/* Rows or columns of the blocks that are copied at a time, and their depth: the copies stay in the cache that
 * the cores share, and there are few shapes. */
#define BLOCK_SIDE  ((size_t)1024)
#define BLOCK_DEPTH ((size_t)256)
/* Behind each row of a copy. Rows a power of two apart would all fall on the same few sets of the first
 * cache. */
#define BLOCK_GAP ((size_t)16)

/* The block (rows, columns) at (row, column) of a stored matrix that is `stride` wide, as float32 with rows
 * columns + BLOCK_GAP apart. */
static void copy_block(dlm_compute *compute, const void *x, dlm_dtype type, size_t stride, size_t row,
                       size_t column, size_t rows, size_t columns, float *to) {
    const int team = dlm__team(rows * columns, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (size_t r = 0; r < rows; r++) {
        const void *from = dlm__const_element(x, type, (row + r) * stride + column);
        float *at = to + r * (columns + BLOCK_GAP);
        if (type == DLM_BF16)
            compute->kernels->from_bf16(columns, from, at);
        else
            memcpy(at, from, columns * sizeof *at);
    }
}

/* The same product by blocks of both operands, copied as float32, but for the order of the sums. */
static dlm_status by_blocks(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                            const float *bias, float *Y) {
    const size_t M = product->M, N = product->N, K = product->K;
    /* The longer rows make the larger copy. */
    const size_t room = BLOCK_SIDE * BLOCK_DEPTH + BLOCK_SIDE * BLOCK_GAP;
    size_t stride = 0;
    float *a = dlm__scratch(compute, 2, room, &stride), *b = a + stride;
    if (a == NULL) return compute->error.status;
    for (size_t j = 0; j < N; j += BLOCK_SIDE)
        for (size_t k = 0; k < K; k += BLOCK_DEPTH) {
            dlm_product block = *product;
            block.type = DLM_F32;
            block.N = dlm__least(BLOCK_SIDE, N - j);
            block.K = dlm__least(BLOCK_DEPTH, K - k);
            block.accumulate = product->accumulate || k > 0;
            if (product->transpose_b)
                copy_block(compute, B, product->type, K, j, k, block.N, block.K, b);
            else
                copy_block(compute, B, product->type, N, k, j, block.K, block.N, b);
            for (size_t i = 0; i < M; i += BLOCK_SIDE) {
                block.M = dlm__least(BLOCK_SIDE, M - i);
                if (product->transpose_a)
                    copy_block(compute, A, product->type, M, k, i, block.K, block.M, a);
                else
                    copy_block(compute, A, product->type, K, i, k, block.M, block.K, a);
                const dlm_strides strides = {.A = (product->transpose_a ? block.M : block.K) + BLOCK_GAP,
                                             .B = (product->transpose_b ? block.K : block.N) + BLOCK_GAP,
                                             .Y = N};
                DLM_TRY(dlm__onednn_product(compute->onednn, &block, strides, a, b,
                                            bias == NULL || k > 0 ? NULL : bias + j, Y + i * N + j,
                                            &compute->error));
            }
        }
    return DLM_OK;
}

/* oneDNN has no bfloat16 products here, or slow ones. Or it would read columns of A for a narrow result, as
 * a weight's gradient does, with either operand's rows whole kilobytes apart: that takes up to twice the time
 * of all copies and the product of them (docs/performance.md). */
static bool wants_blocks(const dlm_compute *compute, const dlm_product *product) {
    const size_t M = product->M, N = product->N;
    if (product->type == DLM_BF16) return compute->widen_bf16;
    return product->transpose_a && !product->transpose_b && dlm__least(M, N) <= 512 &&
           (M % 256 == 0 || N % 256 == 0);
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
    if (compute->pairs && product->type == DLM_BF16) {
        dlm__pairs_matmul(compute, product, A, B, bias, Y);
        return;
    }
    if (product->right != DLM_RIGHT_ROWS) {
        (void)dlm__fail(&compute->error, DLM_COMPUTE,
                        "the weights of the product (%zu, %zu) (%zu, %zu) lie as other kernels read them",
                        product->M, product->K, product->K, product->N);
        return;
    }
#ifdef DLM_BACKEND_ONEDNN
    if (compute->onednn != NULL) {
        const dlm_strides tight = {.A = product->transpose_a ? product->M : product->K,
                                   .B = product->transpose_b ? product->K : product->N,
                                   .Y = product->N};
        if (wants_blocks(compute, product))
            (void)by_blocks(compute, product, A, B, bias, Y);
        else
            (void)dlm__onednn_product(compute->onednn, product, tight, A, B, bias, Y, &compute->error);
        return;
    }
#endif
    plain(compute, product, A, B, bias, Y);
}
