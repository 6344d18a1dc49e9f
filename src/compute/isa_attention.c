/* Attention of one head in vector code, forward and backward.
 *
 * Keys and values are first copied into tight panels, transposed where a product wants it, rows padded with
 * zeros to whole vectors; then blocks of DLM_QUERIES queries are taken through all keys, so that the
 * probabilities in flight stay in the cache whatever L is. The five products of a block run through one
 * register-blocked micro-kernel. The softmax is not made online, in pieces of the keys: a block of whole rows
 * is small enough, and needs one pass less over the output. */
#include "compute/attention_rows.h"
#include "compute/isa.h"

/* ---- small products ----------------------------------------------------------------------------------- */

/* A tile of the result is held in registers: 24 accumulators of 32 registers, or 12 of 16. */
#if defined(__AVX512F__)
#define TILE_ROWS    ((size_t)8)
#define TILE_VECTORS ((size_t)3)
#else
#define TILE_ROWS    ((size_t)6)
#define TILE_VECTORS ((size_t)2)
#endif

/* Element (i, k) of a left factor is at x + i * row + k * column, so that it may be read transposed. */
typedef struct left {
    const float *x;
    size_t row, column;
} left;

/* C (rows, vectors * W) = or += A (rows, K) B (K, vectors * W); rows and vectors are constants where this is
 * called. */
INLINE void tile(size_t rows, size_t vectors, size_t K, left A, const float *B, size_t b_stride, float *C,
                 size_t c_stride, bool add) {
    vf sum[TILE_ROWS][TILE_VECTORS];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < vectors; j++) sum[i][j] = add ? vf_load(C + i * c_stride + j * W) : vf_all(0);
    for (size_t k = 0; k < K; k++) {
        vf b[TILE_VECTORS];
        for (size_t j = 0; j < vectors; j++) b[j] = vf_load(B + k * b_stride + j * W);
        for (size_t i = 0; i < rows; i++) {
            const vf a = vf_all(A.x[i * A.row + k * A.column]);
            for (size_t j = 0; j < vectors; j++) sum[i][j] = vf_fma(a, b[j], sum[i][j]);
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < vectors; j++) vf_store(C + i * c_stride + j * W, sum[i][j]);
}

/* All M rows of one column of tiles. */
INLINE void column(size_t M, size_t vectors, size_t K, left A, const float *B, size_t b_stride, float *C,
                   size_t c_stride, bool add) {
    size_t i = 0;
#define ROWS(n)                                                                                              \
    for (; i + (n) <= M; i += (n))                                                                           \
    tile((n), vectors, K, (left){A.x + i * A.row, A.row, A.column}, B, b_stride, C + i * c_stride, c_stride, \
         add)
    ROWS(TILE_ROWS);
    ROWS(4);
    ROWS(2);
    ROWS(1);
#undef ROWS
}

/* C (M,N) = or += A (M,K) B (K,N); N is a multiple of W, rows of B and C are b_stride and c_stride apart. */
static void multiply(size_t M, size_t N, size_t K, left A, const float *B, size_t b_stride, float *C,
                     size_t c_stride, bool add) {
    size_t j = 0;
    for (; j + TILE_VECTORS * W <= N; j += TILE_VECTORS * W)
        column(M, TILE_VECTORS, K, A, B + j, b_stride, C + j, c_stride, add);
#if defined(__AVX512F__)
    if (j + 2 * W <= N) {
        column(M, 2, K, A, B + j, b_stride, C + j, c_stride, add);
        j += 2 * W;
    }
#endif
    if (j < N) column(M, 1, K, A, B + j, b_stride, C + j, c_stride, add);
}

INLINE left rows_of(const float *x, size_t stride) {
    return (left){x, stride, 1};
}

INLINE left columns_of(const float *x, size_t stride) {
    return (left){x, 1, stride};
}

/* ---- panels ------------------------------------------------------------------------------------------- */

/* to (n, width) = factor * x (n, D), rows of x `stride` apart; columns D .. width - 1 are 0. */
static void pack(size_t n, size_t D, size_t width, const float *x, size_t stride, float factor, float *to) {
    for (size_t i = 0; i < n; i++, x += stride, to += width) {
        size_t d = 0;
        for (; d + W <= D; d += W) vf_store(to + d, vf_load(x + d) * factor);
        for (; d < width; d += W) vf_store(to + d, d < D ? vf_load_part(x + d, D - d) * factor : vf_all(0));
    }
}

typedef float quad __attribute__((vector_size(4 * sizeof(float))));

/* A block of four rows and columns. */
INLINE void transpose_quad(const float *x, size_t stride, float *to, size_t width) {
    quad a, b, c, d;
    memcpy(&a, x, sizeof a);
    memcpy(&b, x + stride, sizeof b);
    memcpy(&c, x + 2 * stride, sizeof c);
    memcpy(&d, x + 3 * stride, sizeof d);
    const quad low_ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const quad low_cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const quad high_ab = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const quad high_cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(low_ab, low_cd, 0, 1, 4, 5);
    b = __builtin_shufflevector(low_ab, low_cd, 2, 3, 6, 7);
    c = __builtin_shufflevector(high_ab, high_cd, 0, 1, 4, 5);
    d = __builtin_shufflevector(high_ab, high_cd, 2, 3, 6, 7);
    memcpy(to, &a, sizeof a);
    memcpy(to + width, &b, sizeof b);
    memcpy(to + 2 * width, &c, sizeof c);
    memcpy(to + 3 * width, &d, sizeof d);
}

/* to (D, width) = the transpose of x (n, D), rows `stride` and to_stride apart; columns n .. width - 1 are 0.
 */
static void pack_transposed(size_t n, size_t D, size_t width, const float *x, size_t stride, float *to,
                            size_t to_stride) {
    const size_t whole = n / 4 * 4, quads = D / 4 * 4;
    for (size_t i = 0; i < whole; i += 4)
        for (size_t d = 0; d < quads; d += 4)
            transpose_quad(x + i * stride + d, stride, to + d * to_stride + i, to_stride);
    for (size_t d = 0; d < D; d++) {
        for (size_t i = d < quads ? whole : 0; i < n; i++) to[d * to_stride + i] = x[i * stride + d];
        memset(to + d * to_stride + n, 0, (width - n) * sizeof *to);
    }
}

static size_t padded(size_t n) {
    return (n + W - 1) / W * W;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* Scores behind L, in the last vector of a row, become -inf: their exponential is 0. */
static void close_row(size_t L, float *s) {
    if (L % W == 0) return;
    float *last = s + L / W * W;
    vf_store(last, vf_select(vf_lanes(L % W), vf_load(last), vf_all(-INFINITY)));
}

/* The row s (L, whole vectors long) becomes exp(s - max s), 0 behind L; *sum and the maximum. */
static float exponentials(size_t L, float *s, float *sum) {
    const size_t width = padded(L);
    close_row(L, s);
    vf most = vf_all(-INFINITY), total = vf_all(0);
    for (size_t j = 0; j < width; j += W) most = vf_max(most, vf_load(s + j));
    const float largest = vf_largest(most);
    for (size_t j = 0; j < width; j += W) {
        const vf e = vf_exp(vf_load(s + j) - largest);
        total += e;
        vf_store(s + j, e);
    }
    *sum = vf_sum(total);
    return largest;
}

void KERNEL(attention)(const dlm_head *head, size_t first, size_t last, void *o, size_t o_stride,
                       dlm_dtype type, float *lse, size_t lse_stride, float *scratch) {
    const size_t L = head->L, D = head->D, d = padded(D), width = padded(L), l = dlm__attention_stride(L);
    float *keys = scratch;            /* (D, l) */
    float *values = keys + D * l;     /* (L, d) */
    float *q = values + L * d;        /* (block, d) */
    float *out = q + DLM_QUERIES * d; /* (block, d) */
    float *p = out + DLM_QUERIES * d; /* (block, l) */
    const float scale = 1.0F / sqrtf((float)D);
    pack_transposed(L, D, width, head->k, head->stride, keys, l);
    pack(L, D, d, head->v, head->stride, 1.0F, values);
    for (size_t i = first; i < last; i += DLM_QUERIES) {
        const size_t n = last - i < DLM_QUERIES ? last - i : DLM_QUERIES;
        float sum[DLM_QUERIES];
        pack(n, D, d, head->q + i * head->q_stride, head->q_stride, scale, q);
        multiply(n, width, D, rows_of(q, d), keys, l, p, l, false);
        for (size_t r = 0; r < n; r++) {
            const float largest = exponentials(L, p + r * l, &sum[r]);
            if (lse != NULL) lse[(i + r) * lse_stride] = largest + logf(sum[r]);
        }
        multiply(n, d, L, rows_of(p, l), values, d, out, d, false);
        for (size_t r = 0; r < n; r++)
            put_row(D, out + r * d, sum[r], dlm__element(o, type, (i + r) * o_stride), type);
    }
}

/* ---- backward ----------------------------------------------------------------------------------------- */

/* p (L) = exp(score - lse), in place of the scores, and ds = p (dp - sum p dp), in place of dp. */
static void slopes(size_t L, float *p, float *dp, float lse) {
    const size_t width = padded(L);
    close_row(L, p);
    vf total = vf_all(0);
    for (size_t j = 0; j < width; j += W) {
        const vf e = vf_exp(vf_load(p + j) - lse);
        total = vf_fma(e, vf_load(dp + j), total);
        vf_store(p + j, e);
    }
    const float sum = vf_sum(total);
    for (size_t j = 0; j < width; j += W) vf_store(dp + j, vf_load(p + j) * (vf_load(dp + j) - sum));
}

void KERNEL(attention_backward)(const dlm_head *head, size_t n, const float *lse, size_t lse_stride,
                                const float *d_o, size_t o_stride, float *dq, float *dk, float *dv,
                                float *scratch) {
    const size_t L = head->L, D = head->D, stride = head->stride, q_stride = head->q_stride, d = padded(D);
    const size_t width = padded(L), l = dlm__attention_stride(L);
    float *keys_t = scratch;             /* (D, l) */
    float *values_t = keys_t + D * l;    /* (D, l) */
    float *keys = values_t + D * l;      /* (L, d) */
    float *to_keys = keys + L * d;       /* (L, d): dk, scaled queries counted in */
    float *to_values = to_keys + L * d;  /* (L, d): dv */
    float *q = to_values + L * d;        /* (block, d) */
    float *out = q + DLM_QUERIES * d;    /* (block, d): d_o */
    float *to_q = out + DLM_QUERIES * d; /* (block, d) */
    float *p = to_q + DLM_QUERIES * d;   /* (block, l) */
    float *dp = p + DLM_QUERIES * l;     /* (block, l) */
    const float scale = 1.0F / sqrtf((float)D);
    pack_transposed(L, D, width, head->k, stride, keys_t, l);
    pack_transposed(L, D, width, head->v, stride, values_t, l);
    pack(L, D, d, head->k, stride, 1.0F, keys);
    if (n == 0) memset(to_keys, 0, 2 * L * d * sizeof *to_keys);
    for (size_t i = 0; i < n; i += DLM_QUERIES) {
        const size_t rows = n - i < DLM_QUERIES ? n - i : DLM_QUERIES;
        pack(rows, D, d, head->q + i * q_stride, q_stride, scale, q);
        pack(rows, D, d, d_o + i * o_stride, o_stride, 1.0F, out);
        multiply(rows, width, D, rows_of(q, d), keys_t, l, p, l, false);
        multiply(rows, width, D, rows_of(out, d), values_t, l, dp, l, false);
        for (size_t r = 0; r < rows; r++) slopes(L, p + r * l, dp + r * l, lse[(i + r) * lse_stride]);
        multiply(L, d, rows, columns_of(p, l), out, d, to_values, d, i > 0);
        multiply(L, d, rows, columns_of(dp, l), q, d, to_keys, d, i > 0);
        multiply(rows, d, L, rows_of(dp, l), keys, d, to_q, d, false);
        scale_rows(rows, D, to_q, d, scale, dq + i * q_stride, q_stride);
    }
    scale_rows(L, D, to_keys, d, 1.0F, dk, stride);
    scale_rows(L, D, to_values, d, 1.0F, dv, stride);
}
