/* What an instruction set provides: single-threaded kernels over rows or elements, reached through a table.
 *
 * Every table fills every entry: the plain loops of reference.c, which define what each kernel computes, and
 * the vector code of isa_*.c, compiled once per instruction set. The primitives of compute.h split their work
 * among threads and call these, so nothing here knows of threads, segments or memory management. */
#ifndef DLM_KERNELS_H
#define DLM_KERNELS_H

#include "compute/compute.h"

/* The widest vector, in floats. Attention's scratch is sized for it whatever the instruction set. */
#define DLM_LANES ((size_t)16)
/* Queries that attention handles at a time: its scratch is this many rows of L probabilities, not L. */
#define DLM_QUERIES ((size_t)32)

/* One head of one segment of L keys. Row i of k and v is at k + i * stride, and so on, D floats long; row i
 * of q at q + i * q_stride. */
typedef struct dlm_head {
    size_t L, D, stride, q_stride;
    const float *q, *k, *v;
} dlm_head;

/* Columns of the right factor of a product that lie together: a panel holds, for each pair of neighbouring
 * inputs (of 8-bit integers: each quad), that of each column after the other's; what is missing at the end of
 * either is 0. */
#define DLM_PANEL DLM_PANEL_ROWS

/* A product of bfloat16 whose right factor lies in panels: for each pair of neighbouring inputs the pair of
 * each of DLM_PANEL columns after the other's; what is missing at the end of either is 0. Pair k of row i of
 * the left factor is at a + 2 (i * row + k * step). y = or += it, + bias. */
typedef struct dlm_pairs {
    size_t rows, pairs, columns; /* pairs of inputs */
    const dlm_bf16 *a;
    size_t row, step;
    const dlm_bf16 *panels; /* (columns / DLM_PANEL, pairs, DLM_PANEL, 2) */
    const float *bias;      /* (columns), or NULL */
    bool add;
    float *y; /* (rows, columns), rows `stride` apart */
    size_t stride;
} dlm_pairs;

/* How integers of 8 bits are written: as int8_t, as int16_t, or raised by DLM_RAISED as uint8_t. */
typedef enum dlm_int8_form { DLM_INT8_SIGNED, DLM_INT8_WIDE, DLM_INT8_RAISED } dlm_int8_form;
enum { DLM_RAISED = 128 };
static inline size_t dlm__int8_size(dlm_int8_form form) {
    return form == DLM_INT8_WIDE ? sizeof(int16_t) : sizeof(int8_t);
}

/* A product of 8-bit activations and weights, by quads of inputs. Quad k of row i of the activations is at
 * a[i / int8_rows][k][i % int8_rows]; weights are in panels. What `sums` and `scale` hold for the last
 * panel's missing columns does not matter, but they are there. */
typedef struct dlm_int8_product {
    size_t rows, quads, columns;
    const void *a;        /* (rows / int8_rows, quads, int8_rows, 4) of int8_form */
    const float *a_scale; /* (rows) */
    const int8_t *panels; /* (columns / DLM_PANEL, quads, DLM_PANEL, 4) */
    const int32_t *sums;  /* (columns) each's sum of weights */
    const float *scale;   /* (columns) */
    const float *bias;    /* (columns), or NULL */
    float *y;             /* (rows, columns), rows `stride` apart */
    size_t stride;
} dlm_int8_product;

/* Coefficients of an AdamW step, made from dlm_adamw in double and rounded once. */
typedef struct dlm_adamw_step {
    float grad_scale, shrink;    /* shrink: 1 - lr * decay */
    float rate1, beta2, rate2;   /* 1 - beta1, beta2, 1 - beta2 */
    float root_bias2, eps, step; /* sqrt(1 - beta2^t), eps, lr / (1 - beta1^t) */
    float ema_decay, ema_rate;
} dlm_adamw_step;

typedef struct dlm_kernels {
    const char *name;

    /* y (n) = a + b; y may be a or b. */
    void (*add)(size_t n, const float *a, const float *b, float *y);
    /* y (n) = x rounded to nearest even; NaN stays NaN. */
    void (*to_bf16)(size_t n, const float *x, dlm_bf16 *y);
    void (*from_bf16)(size_t n, const dlm_bf16 *x, float *y);
    void (*gelu)(size_t n, const float *x, void *y, void *kept, dlm_dtype type);
    void (*gelu_backward)(size_t n, const void *x, const float *dy, void *dx, void *y, dlm_dtype type);
    void (*silu)(size_t n, const float *x, void *y, dlm_dtype type);
    void (*silu_backward)(size_t n, const float *x, const float *dy, float *dx);
    /* sum (n) += the columns first .. first + n - 1 of x (rows, N), summed. */
    void (*column_sum)(size_t rows, size_t N, size_t first, size_t n, const void *x, dlm_dtype type,
                       float *sum);

    /* The primitives of compute.h for rows that share their modulation. */
    void (*modulated_norm)(size_t rows, size_t C, const float *h, const float *shift, const float *scale,
                           float *mean, float *rstd, void *a, dlm_dtype type);
    void (*modulated_norm_backward)(size_t rows, size_t C, const float *da, const float *h,
                                    const float *shift, const float *scale, const float *mean,
                                    const float *rstd, float *dh, float *dshift, float *dscale, void *a,
                                    dlm_dtype type);
    void (*gated_residual)(size_t rows, size_t C, const float *h, const float *gate, const float *y,
                           float *out);
    void (*gated_residual_backward)(size_t rows, size_t C, const float *dout, const float *gate,
                                    const void *y, dlm_dtype y_type, void *dy, dlm_dtype type, float *dgate);

    /* Turns the H heads of x (H, D) by the angles of one position; cosine, sine (D/2). */
    void (*rotate)(size_t H, size_t D, const float *cosine, const float *sine, bool inverse, float *x);
    /* The output of one head for the queries first .. last - 1: o + i * o_stride (elements of type), and lse
     * + i * lse_stride unless NULL. scratch: dlm__attention_scratch floats, aligned to DLM_ALIGN. */
    void (*attention)(const dlm_head *head, size_t first, size_t last, void *o, size_t o_stride,
                      dlm_dtype type, float *lse, size_t lse_stride, float *scratch);
    /* From the output of n queries: dq (n rows, head->q_stride apart), and dk, dv (L rows, head->stride
     * apart) of one head are written; these are 0 when n is. */
    void (*attention_backward)(const dlm_head *head, size_t n, const float *lse, size_t lse_stride,
                               const float *d_o, size_t o_stride, float *dq, float *dk, float *dv,
                               float *scratch);

    /* The same with the factors of all products rounded to bfloat16. (The plain loops round nothing.) */
    void (*attention_pairs)(const dlm_head *head, size_t first, size_t last, void *o, size_t o_stride,
                            dlm_dtype type, float *lse, size_t lse_stride, float *scratch);
    void (*attention_pairs_backward)(const dlm_head *head, size_t n, const float *lse, size_t lse_stride,
                                     const float *d_o, size_t o_stride, float *dq, float *dk, float *dv,
                                     float *scratch);
    /* A panel of K inputs, rounded: its columns are the n <= DLM_PANEL rows of x, K long and `stride` apart,
     * or the first columns of x, K rows that are `stride` apart. */
    void (*pack_rows)(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel);
    void (*pack_columns)(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel);
    void (*pairs_product)(const dlm_pairs *product);

    /* One row. */
    void (*softmax)(size_t V, float scale, float *x);
    float (*cross_entropy)(size_t V, const float *logits, size_t target, float weight, void *dlogits,
                           dlm_dtype type);

    /* x (n) of `type` is about scale * q with the largest |q| 127: the scale is returned, not a number where
     * any x is not finite (q is then 0). Quads of q are `step` quads apart, the last one filled up with 0. */
    float (*quantise)(size_t n, const void *x, dlm_dtype type, dlm_int8_form form, size_t step, void *q);
    /* The same of each row of x (rows,n), at most int8_rows of them, as a group that int8_product takes. */
    void (*quantise_rows)(size_t rows, size_t n, const void *x, dlm_dtype type, void *q, float *scale);
    /* y = (float)(sum of a * panel, exact) * (a_scale * scale) + bias */
    void (*int8_product)(const dlm_int8_product *product);
    /* How it takes the activations. */
    dlm_int8_form int8_form;
    size_t int8_rows;
    /* Sums of activations that were raised, int32_t, become values of the same size in their place, y (n):
     * (sum - DLM_RAISED * sums) * (a_scale * scale) + bias. */
    void (*int8_values)(size_t n, const int32_t *sums, float a_scale, const float *scale, const float *bias,
                        void *y);

    double (*sum_of_squares)(size_t n, const float *x);
    void (*adamw)(size_t n, const dlm_adamw_step *step, float *p, const float *g, float *m, float *v,
                  float *ema);
    /* m += rate * (grad_scale * g - m); u = m + rate * (grad_scale * g - m). */
    void (*muon_momentum)(size_t n, float grad_scale, float rate, const float *g, float *m, float *u);
    /* z = a * x + b * y, x and z of type. z may be x. */
    void (*combine)(size_t n, float a, const void *x, float b, const float *y, void *z, dlm_dtype type);
    /* x /= divisor, x of type. */
    void (*divide)(size_t n, float divisor, void *x, dlm_dtype type);
    /* p = shrink * p - step * x, x of type; ema as adamw. */
    void (*muon_update)(size_t n, float shrink, float step, const void *x, dlm_dtype type, float ema_decay,
                        float ema_rate, float *p, float *ema);
} dlm_kernels;

extern const dlm_kernels dlm__kernels_reference, dlm__kernels_baseline, dlm__kernels_avx2,
    dlm__kernels_avx512, dlm__kernels_avx512_bf16;

/* The distance between rows of L scores: whole vectors, and an odd number of cache lines, since rows a power
 * of two apart would all fall on the same few sets of the first cache. */
static inline size_t dlm__attention_stride(size_t L) {
    return dlm__round_up(L, DLM_LANES) | DLM_LANES;
}
/* Floats of scratch that the attention kernels need for one head. */
size_t dlm__attention_scratch(size_t L, size_t D);

/* Y (M,N) rows first .. last - 1 of a product, with op(B) (K,N) in float32: the plain loops. */
void dlm__reference_product(const dlm_product *product, size_t first, size_t last, const void *A,
                            const float *B, const float *bias, float *Y);

/* ---- elements of either type -------------------------------------------------------------------------- */

/* The address of element i. */
static inline void *dlm__element(void *x, dlm_dtype type, size_t i) {
    return (char *)x + i * (type == DLM_BF16 ? sizeof(dlm_bf16) : sizeof(float));
}

static inline const void *dlm__const_element(const void *x, dlm_dtype type, size_t i) {
    return (const char *)x + i * (type == DLM_BF16 ? sizeof(dlm_bf16) : sizeof(float));
}

#endif
