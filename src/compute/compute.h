/* The primitives of the model: everything that knows instruction sets and threads is behind this header.
 *
 * Conventions. Matrices are row-major and tight. T rows of tokens, S sequences, C channels, H heads of D =
 * C/H channels, F hidden channels of the MLP, V vocabulary. The rows of a batch are grouped in segments, one
 * per sequence. Vectors that belong to a sequence, such as a modulation, are found at base + s * stride; with
 * stride 0 all sequences share one.
 *
 * Operands of matrix products are float32 or bfloat16 (`type` says which); everything else is float32, but
 * that attention may round what it multiplies to that type too, and that what is kept for a backward pass may
 * be of it (dlm__gelu, dlm__gated_residual_backward). The primitives that make an operand write it in that
 * type, rounding to nearest even.
 *
 * Results depend on the inputs, the instruction set and the number of threads alone. reference.c holds every
 * primitive as the plainest loop; it defines what they mean, the tests compare against it, and
 * BACKEND=reference runs on it. */
#ifndef DLM_COMPUTE_H
#define DLM_COMPUTE_H

#include "base/base.h"

typedef uint16_t dlm_bf16; /* the upper half of a float */

typedef enum dlm_dtype { DLM_F32, DLM_BF16, DLM_I8 } dlm_dtype;
size_t dlm__dtype_size(dlm_dtype type);

/* The rows of a packed batch: those of segment s are offsets[s] .. offsets[s + 1] - 1; offsets (n + 1),
 * offsets[0] = 0. */
typedef struct dlm_segments {
    size_t n;
    const size_t *offsets;
} dlm_segments;

/* What a thread of control needs to compute: kernels chosen, products prepared, scratch memory. Not shared
 * between concurrent calls. A primitive that fails (a matrix product, or one that finds no scratch memory)
 * leaves its sentence in the context: later ones of these do nothing, and dlm__compute_status tells, once per
 * pass. */
typedef struct dlm_compute dlm_compute;

/* isa: NULL for the best that this machine has, or "baseline", "avx2", "avx512", "avx512_bf16", "reference"
 * (plain loops for products and kernels alike). DLM_UNSUPPORTED when the machine or the build lacks it. */
dlm_status dlm__compute_create(const char *isa, dlm_compute **compute, dlm_error *err);
/* Another of the same instruction set, for a thread beside. */
dlm_status dlm__compute_another(const dlm_compute *compute, dlm_compute **another, dlm_error *err);
/* compute has failed where one of them has. */
void dlm__compute_join(dlm_compute *compute, const dlm_compute *another);
void dlm__compute_free(dlm_compute *compute);
dlm_status dlm__compute_status(const dlm_compute *compute, dlm_error *err);
/* The i-th instruction set of this build, best first, "reference" last; NULL behind them. */
const char *dlm__isa_name(size_t i);
bool dlm__isa_available(const char *isa);
/* Whether the processor multiplies bfloat16 faster than float32. Where it does not, bfloat16 products are
 * made of float32 ones. */
bool dlm__bf16_native(void);

/* Row counts are rounded up to a few sizes where a product of a new shape costs a millisecond of
 * preparation, as those of oneDNN do: buffers that enter products as rows have this many rows, and those
 * behind the last real one hold zeros. Else the identity. At most one eighth more, or 15 below 128 rows. */
size_t dlm__round_rows(const dlm_compute *compute, dlm_dtype type, size_t rows);

/* ---- matrix products ---------------------------------------------------------------------------------- */

/* Y (M,N) = op(A) op(B) (+ bias (N) on every row) (+ Y when accumulate). op(A) is (M,K), stored (K,M) when
 * transpose_a; op(B) is (K,N), stored (N,K) when transpose_b. A and B of `type` (float32 or bfloat16),
 * accumulated in float32. A symmetric product has M = N, no bias and does not accumulate. */
typedef enum dlm_right {
    DLM_RIGHT_ROWS,   /* of `type` */
    DLM_RIGHT_FLOAT,  /* float32 whatever the type, rounded to it on the way */
    DLM_RIGHT_PANELS, /* as dlm__pack_panels has left it, transpose_b */
} dlm_right;
typedef struct dlm_product {
    size_t M, N, K;
    bool transpose_a, transpose_b, accumulate;
    bool symmetric; /* Y is known to be symmetric: half of it may be computed and the rest copied */
    dlm_dtype type;
    dlm_right right; /* how B lies; other than rows only in bfloat16, where dlm__bf16_panels() */
} dlm_product;
void dlm__matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                 const float *bias, float *Y);

/* Whether products of bfloat16 are this library's own in contexts of the best instruction set: these lay B
 * out in panels, which can be made once where it does not change. */
bool dlm__bf16_panels(void);
/* Rows of W that lie together in panels, which take its place where W (N,K) has a multiple of it for N, and
 * an even K; a product can take rows from any multiple on. */
#define DLM_PANEL_ROWS ((size_t)16)
void dlm__pack_panels(dlm_compute *compute, size_t N, size_t K, const float *W, dlm_bf16 *panels);

/* Weights (N,K) in 8 bits: w[n][k] is about scale[n] * q[n][k], where |q| <= 127 is reached in every row that
 * is not 0. Constant after they are made; contexts of every instruction set share them. */
typedef struct dlm_int8 {
    size_t N, K;
    int8_t *panels; /* as the kernels read it */
    int8_t *rows;   /* (N,K) as oneDNN reads it; NULL unless the context that made it uses that */
    int32_t *sums;  /* (N) of each row's integers */
    float *scale;   /* (N) */
} dlm_int8;
/* From w (N,K), which is finite. A row of more than 2^17 weights, whose sum might not fit, is
 * DLM_UNSUPPORTED.
 */
dlm_status dlm__int8_create(dlm_compute *compute, size_t N, size_t K, const float *w, dlm_int8 **made,
                            dlm_error *err);
/* The same in two steps: memory for them, and n rows from `first` on, a multiple of dlm__int8_unit(), from w
 * (n,K). Threads may pack different rows beside each other. */
dlm_status dlm__int8_allocate(const dlm_compute *compute, size_t N, size_t K, dlm_int8 **made,
                              dlm_error *err);
dlm_status dlm__int8_pack(const dlm_compute *compute, const dlm_int8 *weights, size_t first, size_t n,
                          const float *w, dlm_error *err);
void dlm__int8_free(dlm_int8 *weights);
/* q (N,K) row by row; and what they stand for. */
void dlm__int8_integers(const dlm_int8 *weights, int8_t *q);
void dlm__int8_values(const dlm_int8 *weights, float *w);
/* Columns of weights that lie together: a product can begin at a multiple of it. */
size_t dlm__int8_unit(void);
/* Whether products of so many rows need no preparation, so that these need not be rounded. */
bool dlm__int8_any_rows(const dlm_compute *compute);
/* Y (M,n) = X (M,K) W^T + bias (n), W the rows first .. first + n - 1 of the weights, X of `type`, float32 or
 * bfloat16. Each row of X is rounded to 8 bits by its own scale; the sums are exact. A row of X with a value
 * that is not finite gives no numbers. */
void dlm__int8_matmul(dlm_compute *compute, size_t M, const void *X, dlm_dtype type, const dlm_int8 *weights,
                      size_t first, size_t n, const float *bias, float *Y);

/* ---- embeddings and time ------------------------------------------------------------------------------ */

/* h (T,C) = tok (V,C)[ids] + pos (Lmax,C)[position in its segment]. */
void dlm__embed(dlm_compute *compute, dlm_segments seg, size_t C, const int32_t *ids, const float *tok,
                const float *pos, float *h);
/* dtok += , dpos += from dh (T,C). */
void dlm__embed_backward(dlm_compute *compute, dlm_segments seg, size_t C, const int32_t *ids,
                         const float *dh, float *dtok, float *dpos);
/* e (S,256) = [cos(1000 t f_i)..., sin(1000 t f_i)...], f_i = exp(-ln(10000) i/128), in float32 as PyTorch
 * computes it. */
void dlm__time_features(dlm_compute *compute, size_t S, const float *times, void *e, dlm_dtype type);

/* ---- normalisation, modulation, residual -------------------------------------------------------------- */

/* a = LN(h) * (1 + scale_s) + shift_s, LN over C with eps 1e-6 and no affine parameters. mean, rstd (T) are
 * kept for the backward pass. a (T,C) of `type`. */
void dlm__modulated_norm(dlm_compute *compute, dlm_segments seg, size_t C, const float *h, const float *shift,
                         const float *scale, size_t stride, float *mean, float *rstd, void *a,
                         dlm_dtype type);
/* From da (T,C): dh (T,C) += ; dshift, dscale (one per segment at s * dstride, never shared) +=. When a is
 * not NULL it is computed again into it, as the forward call did. */
void dlm__modulated_norm_backward(dlm_compute *compute, dlm_segments seg, size_t C, const float *da,
                                  const float *h, const float *shift, const float *scale, size_t stride,
                                  const float *mean, const float *rstd, float *dh, float *dshift,
                                  float *dscale, size_t dstride, void *a, dlm_dtype type);
/* out (T,C) = h + gate_s * y. out may be h. */
void dlm__gated_residual(dlm_compute *compute, dlm_segments seg, size_t C, const float *h, const float *gate,
                         size_t stride, const float *y, float *out);
/* From dout (T,C): dy = gate_s * dout, of `type`; dgate (at s * dstride) += sum of dout * y, y of y_type. dy
 * may be y when their types are one. (dh is dout.) */
void dlm__gated_residual_backward(dlm_compute *compute, dlm_segments seg, size_t C, const float *dout,
                                  const float *gate, size_t stride, const void *y, dlm_dtype y_type, void *dy,
                                  dlm_dtype type, float *dgate, size_t dstride);

/* ---- activations and sums ----------------------------------------------------------------------------- */

/* y (n) = GELU, tanh form; kept (n) = x for the backward pass, unless NULL. y and kept of `type`. */
void dlm__gelu(dlm_compute *compute, size_t n, const float *x, void *y, void *kept, dlm_dtype type);
/* dx (n) = dy * GELU'(x); y (may be NULL) computed again. x, dx and y of `type`; dx may be x. */
void dlm__gelu_backward(dlm_compute *compute, size_t n, const void *x, const float *dy, void *dx, void *y,
                        dlm_dtype type);
/* y (n) = x sigmoid(x); dx (n) = dy * SiLU'(x). */
void dlm__silu(dlm_compute *compute, size_t n, const float *x, void *y, dlm_dtype type);
void dlm__silu_backward(dlm_compute *compute, size_t n, const float *x, const float *dy, float *dx);
/* sum (N) += the column sums of x (rows, N) of `type`. */
void dlm__column_sum(dlm_compute *compute, size_t rows, size_t N, const void *x, dlm_dtype type, float *sum);
/* x (n) = 0, by all threads: gradients are too many for one. */
void dlm__clear(size_t n, float *x);
/* Conversions of n elements; from and to float32. */
void dlm__to_type(dlm_compute *compute, size_t n, const float *x, void *y, dlm_dtype type);
void dlm__from_bf16(dlm_compute *compute, size_t n, const dlm_bf16 *x, float *y);

/* out (R,C) = h[rows]; and dh[rows] += dout. rows (R) are distinct. */
void dlm__gather_rows(dlm_compute *compute, size_t R, size_t C, const int32_t *rows, const float *h,
                      float *out);
void dlm__scatter_add_rows(dlm_compute *compute, size_t R, size_t C, const int32_t *rows, const float *dout,
                           float *dh);

/* ---- attention ---------------------------------------------------------------------------------------- */

/* cos and sin (Lmax, D/2 each) of position * 10000^(-2i/D), computed in float32 as PyTorch does. */
void dlm__rotary_table(size_t Lmax, size_t D, float *cos_table, float *sin_table);
/* Turns the q and k parts of qkv (T,3C) in place: channels i and i + D/2 of each head by their position's
 * angle, or back again when inverse (which is the backward pass). */
void dlm__rotate(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *cos_table,
                 const float *sin_table, bool inverse, float *qkv);
/* The same for R rows of `heads` heads side by side, `stride` floats apart, that are at positions (R). */
void dlm__rotate_rows(dlm_compute *compute, size_t R, const int32_t *positions, size_t heads, size_t D,
                      size_t stride, const float *cos_table, const float *sin_table, bool inverse, float *x);
/* o (T,C) of `type` = softmax(q k^T / sqrt(D)) v within each segment and head; qkv (T,3C): q, k, v of C each,
 * heads side by side. Its products are of float32, or of factors rounded to `type` where the context's
 * kernels gain by it. lse (T,H): log of the softmax's denominator with its maximum, for the backward pass;
 * may be NULL. */
void dlm__attention(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *qkv, void *o,
                    dlm_dtype type, float *lse);
/* The same for some queries of each segment: q and o (R,C), R = queries.offsets[queries.n]; kv (T,2C); lse
 * (R,H). */
void dlm__attention_rows(dlm_compute *compute, dlm_segments seg, dlm_segments queries, size_t H, size_t D,
                         const float *q, const float *kv, void *o, dlm_dtype type, float *lse);
/* dqkv (T,3C) from d_o (T,C), in one pass that recomputes the probabilities; type as forward. */
void dlm__attention_backward(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *qkv,
                             const float *lse, const float *d_o, dlm_dtype type, float *dqkv);
/* dq (R,C) and dkv (T,2C) from d_o (R,C). */
void dlm__attention_rows_backward(dlm_compute *compute, dlm_segments seg, dlm_segments queries, size_t H,
                                  size_t D, const float *q, const float *kv, const float *lse,
                                  const float *d_o, dlm_dtype type, float *dq, float *dkv);

/* ---- softmax and loss --------------------------------------------------------------------------------- */

/* Each row of x (R,V) becomes softmax(x * scale), scale > 0. -inf gives exactly 0. */
void dlm__softmax(dlm_compute *compute, size_t R, size_t V, float scale, float *x);
/* ce (R) = logsumexp(logits) - logits[target]. With dlogits not NULL: dlogits (R,V) of `type` = weight[r] *
 * (softmax - onehot); it may be the same memory as logits when type is float32. weight is read only then. */
void dlm__cross_entropy(dlm_compute *compute, size_t R, size_t V, const float *logits, const int32_t *targets,
                        const float *weight, float *ce, void *dlogits, dlm_dtype type);

/* ---- optimiser ---------------------------------------------------------------------------------------- */

/* Sum of squares in double, in an order that depends on n and the threads alone; not finite when an element
 * is not. */
double dlm__sum_of_squares(dlm_compute *compute, size_t n, const float *x);

/* One AdamW update (Loshchilov and Hutter 2019; PyTorch's order of operations) of n elements, gradient g
 * scaled by grad_scale, then ema = ema_decay * ema + (1 - ema_decay) * p. step counts from 1. */
typedef struct dlm_adamw {
    double lr, beta1, beta2, eps, decay, ema_decay, grad_scale;
    uint64_t step;
} dlm_adamw;
void dlm__adamw(dlm_compute *compute, const dlm_adamw *a, size_t n, float *p, const float *g, float *m,
                float *v, float *ema);

/* One Muon update of a matrix p (rows, columns) by spec 4: momentum m, Newton-Schulz with operands of `type`
 * (bfloat16: every intermediate is rounded too, as torch.optim.Muon does), RMS matched to AdamW; then ema.
 * scratch: dlm__muon_scratch floats. */
typedef struct dlm_muon {
    double lr, momentum, decay, ema_decay, grad_scale;
    dlm_dtype type;
} dlm_muon;
size_t dlm__muon_scratch(const dlm_compute *compute, size_t rows, size_t columns);
void dlm__muon(dlm_compute *compute, const dlm_muon *a, size_t rows, size_t columns, float *p, const float *g,
               float *m, float *ema, float *scratch);

#endif
