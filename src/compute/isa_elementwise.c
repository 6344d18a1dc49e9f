/* Element-wise kernels in vector code. */
#include "compute/isa.h"

void KERNEL(add)(size_t n, const float *a, const float *b, float *y) {
    size_t i = 0;
    for (; i + W <= n; i += W) vf_store(y + i, vf_load(a + i) + vf_load(b + i));
    if (i < n) vf_store_part(y + i, vf_load_part(a + i, n - i) + vf_load_part(b + i, n - i), n - i);
}

void KERNEL(to_bf16)(size_t n, const float *x, dlm_bf16 *y) {
    size_t i = 0;
    for (; i + W <= n; i += W) vf_put(y, DLM_BF16, i, vf_load(x + i));
    if (i < n) vf_put_part(y, DLM_BF16, i, vf_load_part(x + i, n - i), n - i);
}

void KERNEL(from_bf16)(size_t n, const dlm_bf16 *x, float *y) {
    size_t i = 0;
    for (; i + W <= n; i += W) vf_store(y + i, vf_get(x, DLM_BF16, i));
    if (i < n) vf_store_part(y + i, vf_get_part(x, DLM_BF16, i, n - i), n - i);
}

/* ---- activations -------------------------------------------------------------------------------------- */

/* With u = sqrt(2/pi) (x + 0.044715 x^3) and e = exp(-2u), (1 + tanh u)/2 = 1/(1 + e) = s: GELU = x s, one
 * exponential, no cancellation for negative u. The derivative is s + x s (1 - s) 2u', where s (1 - s) = e s s
 * does not cancel for positive u either.
 *
 * x is bounded to +-10 first, so that e stays finite and 1/e no less than the smallest normal float: s is 1
 * there, or so small that the result is 0 to within 1e-36. */

#define GELU_SLOPE 1.59576912F               /* 2 sqrt(2/pi) */
#define GELU_CUBIC (1.59576912F * 0.044715F) /* 2u = x (slope + cubic x^2) */
#define LOG2_E     1.44269504F

INLINE vf sigmoid(vf x) {
    return 1.0F / (1.0F + vf_exp(-x));
}

/* GELU of x; its derivative where slope is not NULL. */
INLINE vf gelu_of(vf x, vf *slope) {
    const vf at_least = vf_max(vf_all(-10.0F), x), b = vf_min(vf_all(10.0F), at_least), square = b * b;
    const vf e = vf_exp2(-b * vf_fma(square, vf_all(LOG2_E * GELU_CUBIC), vf_all(LOG2_E * GELU_SLOPE)));
    const vf s = 1.0F / (1.0F + e);
    if (slope != NULL) {
        const vf twice = vf_fma(square, vf_all(3.0F * GELU_CUBIC), vf_all(GELU_SLOPE)); /* 2u' */
        *slope = vf_fma(b * (e * s * s), twice, s);
    }
    return at_least * s;
}

INLINE void gelu(size_t n, const float *x, void *y, void *kept, dlm_dtype type) {
    size_t i = 0;
    for (; i + W <= n; i += W) {
        const vf v = vf_load(x + i);
        if (kept != NULL) vf_put(kept, type, i, v);
        vf_put(y, type, i, gelu_of(v, NULL));
    }
    if (i < n) {
        const vf v = vf_load_part(x + i, n - i);
        if (kept != NULL) vf_put_part(kept, type, i, v, n - i);
        vf_put_part(y, type, i, gelu_of(v, NULL), n - i);
    }
}

INLINE void gelu_backward(size_t n, const void *x, const float *dy, void *dx, void *y, dlm_dtype type) {
    size_t i = 0;
    for (; i + W <= n; i += W) {
        vf slope;
        const vf value = gelu_of(vf_get(x, type, i), &slope), up = vf_load(dy + i);
        if (y != NULL) vf_put(y, type, i, value);
        vf_put(dx, type, i, up * slope);
    }
    if (i < n) {
        const size_t rest = n - i;
        vf slope;
        const vf value = gelu_of(vf_get_part(x, type, i, rest), &slope), up = vf_load_part(dy + i, rest);
        if (y != NULL) vf_put_part(y, type, i, value, rest);
        vf_put_part(dx, type, i, up * slope, rest);
    }
}

/* The type is a constant where the loops are. */
void KERNEL(gelu)(size_t n, const float *x, void *y, void *kept, dlm_dtype type) {
    if (type == DLM_BF16)
        gelu(n, x, y, kept, DLM_BF16);
    else
        gelu(n, x, y, kept, DLM_F32);
}

void KERNEL(gelu_backward)(size_t n, const void *x, const float *dy, void *dx, void *y, dlm_dtype type) {
    if (type == DLM_BF16)
        gelu_backward(n, x, dy, dx, y, DLM_BF16);
    else
        gelu_backward(n, x, dy, dx, y, DLM_F32);
}

void KERNEL(silu)(size_t n, const float *x, void *y, dlm_dtype type) {
    size_t i = 0;
    for (; i + W <= n; i += W) {
        const vf v = vf_load(x + i);
        vf_put(y, type, i, v * sigmoid(v));
    }
    if (i < n) {
        const vf v = vf_load_part(x + i, n - i);
        vf_put_part(y, type, i, v * sigmoid(v), n - i);
    }
}

/* s = sigmoid(x):  SiLU' = s (1 + x (1 - s)). */
INLINE vf silu_slope(vf x) {
    const vf s = sigmoid(x);
    return s * vf_fma(x, 1.0F - s, vf_all(1.0F));
}

void KERNEL(silu_backward)(size_t n, const float *x, const float *dy, float *dx) {
    size_t i = 0;
    for (; i + W <= n; i += W) vf_store(dx + i, vf_load(dy + i) * silu_slope(vf_load(x + i)));
    if (i < n) {
        const vf slope = silu_slope(vf_load_part(x + i, n - i));
        vf_store_part(dx + i, vf_load_part(dy + i, n - i) * slope, n - i);
    }
}

/* ---- sums --------------------------------------------------------------------------------------------- */

/* Rows are added eight at a time before they meet the running sum, which keeps its rounding error small. */
enum { GROUP = 8 };

void KERNEL(column_sum)(size_t rows, size_t N, size_t first, size_t n, const void *x, dlm_dtype type,
                        float *sum) {
    for (size_t r = 0; r < rows; r += GROUP) {
        const size_t count = rows - r < GROUP ? rows - r : GROUP;
        size_t j = 0;
        for (; j + W <= n; j += W) {
            vf total = vf_all(0);
            for (size_t k = 0; k < count; k++) total += vf_get(x, type, (r + k) * N + first + j);
            vf_store(sum + j, vf_load(sum + j) + total);
        }
        if (j < n) {
            vf total = vf_all(0);
            for (size_t k = 0; k < count; k++) total += vf_get_part(x, type, (r + k) * N + first + j, n - j);
            vf_store_part(sum + j, vf_load_part(sum + j, n - j) + total, n - j);
        }
    }
}

/* In double, by halves of a vector. */
double KERNEL(sum_of_squares)(size_t n, const float *x) {
    typedef float half __attribute__((vector_size(W / 2 * sizeof(float))));
    typedef double wide __attribute__((vector_size(W / 2 * sizeof(double))));
    enum { STREAMS = 4 };
    wide sums[STREAMS] = {{0}};
    size_t i = 0;
    for (; i + STREAMS * (W / 2) <= n; i += STREAMS * (W / 2))
        for (size_t k = 0; k < STREAMS; k++) {
            half part;
            memcpy(&part, x + i + k * (W / 2), sizeof part);
            const wide value = __builtin_convertvector(part, wide);
            sums[k] += value * value;
        }
    double total = 0;
    for (; i < n; i++) total += (double)x[i] * (double)x[i];
    for (size_t k = 0; k < STREAMS; k++)
        for (size_t lane = 0; lane < W / 2; lane++) total += sums[k][lane];
    return total;
}
