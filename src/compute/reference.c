/* Every kernel as the plainest loop: the definition that the tests hold the vector code against, and what
 * BACKEND=reference runs on. Sums and transcendental functions are in double, so that what is left is the
 * rounding of the results; only the optimisers keep PyTorch's float32 order, which is part of their meaning.
 */
#include "compute/kernels.h"

#include <math.h>
#include <string.h>

static float widen(dlm_bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round to nearest, ties to even: adding half a unit, less one when the result's last bit would be 0, carries
 * exactly when it must. A NaN keeps its sign and becomes quiet. */
static dlm_bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) return (dlm_bf16)(bits >> 16 | 0x40);
    return (dlm_bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float get(const void *x, dlm_dtype type, size_t i) {
    return type == DLM_BF16 ? widen(((const dlm_bf16 *)x)[i]) : ((const float *)x)[i];
}

static void put(void *x, dlm_dtype type, size_t i, double value) {
    if (type == DLM_BF16)
        ((dlm_bf16 *)x)[i] = narrow((float)value);
    else
        ((float *)x)[i] = (float)value;
}

static double dot(size_t n, const float *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* ---- elements ----------------------------------------------------------------------------------------- */

static void add(size_t n, const float *a, const float *b, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void to_bf16(size_t n, const float *x, dlm_bf16 *y) {
    for (size_t i = 0; i < n; i++) y[i] = narrow(x[i]);
}

static void from_bf16(size_t n, const dlm_bf16 *x, float *y) {
    for (size_t i = 0; i < n; i++) y[i] = widen(x[i]);
}

static const double gelu_slope = 0.79788456080286535588; /* sqrt(2/pi) */
static const double gelu_cubic = 0.044715;

static void gelu(size_t n, const float *x, void *y, void *kept, dlm_dtype type) {
    for (size_t i = 0; i < n; i++) {
        const double v = (double)x[i];
        if (kept != NULL) put(kept, type, i, v);
        put(y, type, i, 0.5 * v * (1 + tanh(gelu_slope * (v + gelu_cubic * v * v * v))));
    }
}

/* With u the argument of tanh:  GELU' = (1 + tanh u)/2 + x/2 (1 - tanh^2 u) u'. */
static void gelu_backward(size_t n, const void *x, const float *dy, void *dx, void *y, dlm_dtype type) {
    for (size_t i = 0; i < n; i++) {
        const double v = (double)get(x, type, i);
        const double t = tanh(gelu_slope * (v + gelu_cubic * v * v * v));
        const double slope = gelu_slope * (1 + 3 * gelu_cubic * v * v);
        if (y != NULL) put(y, type, i, 0.5 * v * (1 + t));
        put(dx, type, i, (double)dy[i] * (0.5 * (1 + t) + 0.5 * v * (1 - t * t) * slope));
    }
}

static void silu(size_t n, const float *x, void *y, dlm_dtype type) {
    for (size_t i = 0; i < n; i++) put(y, type, i, (double)x[i] / (1 + exp(-(double)x[i])));
}

/* s = sigmoid(x):  SiLU' = s (1 + x (1 - s)). */
static void silu_backward(size_t n, const float *x, const float *dy, float *dx) {
    for (size_t i = 0; i < n; i++) {
        const double v = (double)x[i], s = 1 / (1 + exp(-v));
        dx[i] = (float)((double)dy[i] * s * (1 + v * (1 - s)));
    }
}

static void column_sum(size_t rows, size_t N, size_t first, size_t n, const void *x, dlm_dtype type,
                       float *sum) {
    for (size_t j = 0; j < n; j++) {
        double total = 0;
        for (size_t r = 0; r < rows; r++) total += (double)get(x, type, r * N + first + j);
        sum[j] = (float)((double)sum[j] + total);
    }
}

/* ---- rows --------------------------------------------------------------------------------------------- */

static void modulated_norm(size_t rows, size_t C, const float *h, const float *shift, const float *scale,
                           float *mean, float *rstd, void *a, dlm_dtype type) {
    for (size_t r = 0; r < rows; r++) {
        const float *row = h + r * C;
        double sum = 0, squares = 0;
        for (size_t c = 0; c < C; c++) sum += (double)row[c];
        mean[r] = (float)(sum / (double)C);
        const double mu = (double)mean[r];
        for (size_t c = 0; c < C; c++) squares += ((double)row[c] - mu) * ((double)row[c] - mu);
        rstd[r] = (float)(1 / sqrt(squares / (double)C + 1e-6));
        const double inverse = (double)rstd[r];
        for (size_t c = 0; c < C; c++)
            put(a, type, r * C + c,
                ((double)row[c] - mu) * inverse * (1 + (double)scale[c]) + (double)shift[c]);
    }
}

/* x = (h - mean) rstd, g = da (1 + scale):  dh = rstd (g - average(g) - x average(g x)). */
static void modulated_norm_backward(size_t rows, size_t C, const float *da, const float *h,
                                    const float *shift, const float *scale, const float *mean,
                                    const float *rstd, float *dh, float *dshift, float *dscale, void *a,
                                    dlm_dtype type) {
    for (size_t r = 0; r < rows; r++) {
        const double mu = (double)mean[r], inverse = (double)rstd[r];
        double average = 0, average_x = 0;
        for (size_t c = 0; c < C; c++) {
            const size_t i = r * C + c;
            const double x = ((double)h[i] - mu) * inverse;
            const double g = (double)da[i] * (1 + (double)scale[c]);
            average += g / (double)C;
            average_x += g * x / (double)C;
            dshift[c] += da[i];
            dscale[c] += (float)((double)da[i] * x);
            if (a != NULL) put(a, type, i, x * (1 + (double)scale[c]) + (double)shift[c]);
        }
        for (size_t c = 0; c < C; c++) {
            const size_t i = r * C + c;
            const double x = ((double)h[i] - mu) * inverse;
            const double g = (double)da[i] * (1 + (double)scale[c]);
            dh[i] += (float)(inverse * (g - average - x * average_x));
        }
    }
}

static void gated_residual(size_t rows, size_t C, const float *h, const float *gate, const float *y,
                           float *out) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < C; c++) out[r * C + c] = h[r * C + c] + gate[c] * y[r * C + c];
}

static void gated_residual_backward(size_t rows, size_t C, const float *dout, const float *gate,
                                    const void *y, dlm_dtype y_type, void *dy, dlm_dtype type, float *dgate) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < C; c++) {
            const size_t i = r * C + c;
            dgate[c] += dout[i] * get(y, y_type, i);
            put(dy, type, i, (double)gate[c] * (double)dout[i]);
        }
}

/* ---- attention ---------------------------------------------------------------------------------------- */

static void rotate(size_t H, size_t D, const float *cosine, const float *sine, bool inverse, float *x) {
    const size_t half = D / 2;
    for (size_t head = 0; head < H; head++, x += D)
        for (size_t i = 0; i < half; i++) {
            const double c = (double)cosine[i], s = inverse ? -(double)sine[i] : (double)sine[i];
            const double a = (double)x[i], b = (double)x[i + half];
            x[i] = (float)(a * c - b * s);
            x[i + half] = (float)(a * s + b * c);
        }
}

/* score_j = q_i k_j / sqrt(D), lse = log sum_j exp(score_j), p_j = exp(score_j - lse), o_i = sum_j p_j v_j */
static void attention(const dlm_head *head, size_t first, size_t last, void *o, size_t o_stride,
                      dlm_dtype type, float *lse, size_t lse_stride, float *scratch) {
    const size_t L = head->L, D = head->D, stride = head->stride;
    double *p =
        (double *)(void *)scratch; /* scores, then probabilities: the scratch is far longer than that */
    for (size_t i = first; i < last; i++) {
        double largest = -INFINITY, sum = 0;
        for (size_t j = 0; j < L; j++) {
            p[j] =
                (double)(float)(dot(D, head->q + i * head->q_stride, head->k + j * stride) / sqrt((double)D));
            largest = fmax(largest, p[j]);
        }
        for (size_t j = 0; j < L; j++) sum += exp(p[j] - largest);
        const double normaliser = largest + log(sum);
        if (lse != NULL) lse[i * lse_stride] = (float)normaliser;
        for (size_t j = 0; j < L; j++) p[j] = exp(p[j] - normaliser);
        for (size_t d = 0; d < D; d++) {
            double value = 0;
            for (size_t j = 0; j < L; j++) value += p[j] * (double)head->v[j * stride + d];
            put(o, type, i * o_stride + d, value);
        }
    }
}

/* dp_j = do_i v_j, ds_j = p_j (dp_j - sum_k p_k dp_k) / sqrt(D):
 * dq_i = sum_j ds_j k_j, dk_j = sum_i ds_j q_i, dv_j = sum_i p_j do_i. */
static void attention_backward(const dlm_head *head, size_t n, const float *lse, size_t lse_stride,
                               const float *d_o, size_t o_stride, float *dq, float *dk, float *dv,
                               float *scratch) {
    const size_t L = head->L, D = head->D, stride = head->stride, q_stride = head->q_stride;
    float *p = scratch, *dp = scratch + L;
    for (size_t i = 0; i < n; i++) memset(dq + i * q_stride, 0, D * sizeof *dq);
    for (size_t j = 0; j < L; j++) {
        memset(dk + j * stride, 0, D * sizeof *dk);
        memset(dv + j * stride, 0, D * sizeof *dv);
    }
    for (size_t i = 0; i < n; i++) {
        const float *q = head->q + i * q_stride, *output = d_o + i * o_stride;
        double sum = 0;
        for (size_t j = 0; j < L; j++) {
            const double score = dot(D, q, head->k + j * stride) / sqrt((double)D);
            p[j] = (float)exp(score - (double)lse[i * lse_stride]);
            dp[j] = (float)dot(D, output, head->v + j * stride);
            sum += (double)p[j] * (double)dp[j];
        }
        for (size_t j = 0; j < L; j++) {
            const float ds = (float)((double)p[j] * ((double)dp[j] - sum) / sqrt((double)D));
            for (size_t d = 0; d < D; d++) {
                dq[i * q_stride + d] += ds * head->k[j * stride + d];
                dk[j * stride + d] += ds * q[d];
                dv[j * stride + d] += p[j] * output[d];
            }
        }
    }
}

/* ---- products of bfloat16 from panels ------------------------------------------------------------------ */

static void pack(size_t K, size_t n, const void *x, dlm_dtype type, size_t row, size_t column,
                 dlm_bf16 *panel) {
    for (size_t k = 0; k < K + K % 2; k++)
        for (size_t c = 0; c < DLM_PANEL; c++) {
            dlm_bf16 *to = panel + (k / 2 * DLM_PANEL + c) * 2 + k % 2;
            *to = 0;
            if (k >= K || c >= n) continue;
            const void *from = dlm__const_element(x, type, k * row + c * column);
            if (type == DLM_BF16)
                *to = *(const dlm_bf16 *)from;
            else
                to_bf16(1, from, to);
        }
}

static void pack_rows(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel) {
    pack(K, n, x, type, 1, stride, panel);
}

static void pack_columns(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel) {
    pack(K, n, x, type, stride, 1, panel);
}

static void pairs_product(const dlm_pairs *x) {
    for (size_t i = 0; i < x->rows; i++)
        for (size_t j = 0; j < x->columns; j++) {
            const dlm_bf16 *panel = x->panels + j / DLM_PANEL * x->pairs * DLM_PANEL * 2;
            float *y = x->y + i * x->stride + j;
            float sum = (x->add ? *y : 0) + (x->bias == NULL ? 0 : x->bias[j]);
            for (size_t k = 0; k < x->pairs; k++) {
                float a[2], b[2];
                from_bf16(2, x->a + 2 * (i * x->row + k * x->step), a);
                from_bf16(2, panel + (k * DLM_PANEL + j % DLM_PANEL) * 2, b);
                sum += a[0] * b[0] + a[1] * b[1];
            }
            *y = sum;
        }
}

/* ---- products of 8-bit integers ------------------------------------------------------------------------ */

static void put_integer(dlm_int8_form form, void *q, size_t i, long value) {
    if (form == DLM_INT8_SIGNED)
        ((int8_t *)q)[i] = (int8_t)value;
    else if (form == DLM_INT8_WIDE)
        ((int16_t *)q)[i] = (int16_t)value;
    else
        ((uint8_t *)q)[i] = (uint8_t)(value + DLM_RAISED);
}

static float quantise(size_t n, const void *x, dlm_dtype type, dlm_int8_form form, size_t step, void *q) {
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite = finite && isfinite(get(x, type, i));
        largest = fmaxf(largest, fabsf(get(x, type, i)));
    }
    const float scale = largest / 127.0F, factor = 1.0F / scale;
    const bool any = finite && isfinite(factor);
    for (size_t i = 0; i < (n + 3) / 4 * 4; i++)
        put_integer(form, q, i / 4 * step * 4 + i % 4, i < n && any ? lrintf(get(x, type, i) * factor) : 0);
    return finite ? scale : NAN;
}

static void quantise_rows(size_t rows, size_t n, const void *x, dlm_dtype type, void *q, float *scale) {
    for (size_t r = 0; r < rows; r++)
        scale[r] =
            quantise(n, dlm__const_element(x, type, r * n), type, DLM_INT8_WIDE, 1, (int16_t *)q + 4 * r);
}

static void int8_product(const dlm_int8_product *x) {
    for (size_t r = 0; r < x->rows; r++) {
        const int16_t *a = (const int16_t *)x->a + r * 4 * x->quads;
        for (size_t c = 0; c < x->columns; c++) {
            const int8_t *panel = x->panels + c / DLM_PANEL * x->quads * DLM_PANEL * 4;
            int32_t sum = 0;
            for (size_t k = 0; k < 4 * x->quads; k++)
                sum += a[k] * panel[(k / 4 * DLM_PANEL + c % DLM_PANEL) * 4 + k % 4];
            const float value = (float)sum * (x->a_scale[r] * x->scale[c]);
            x->y[r * x->stride + c] = value + (x->bias == NULL ? 0 : x->bias[c]);
        }
    }
}

static void int8_values(size_t n, const int32_t *sums, float a_scale, const float *scale, const float *bias,
                        void *y) {
    for (size_t i = 0; i < n; i++) {
        uint32_t sum;
        memcpy(&sum, (char *)y + i * sizeof sum, sizeof sum);
        const int32_t right = (int32_t)(sum - DLM_RAISED * (uint32_t)sums[i]);
        const float value = (float)right * (a_scale * scale[i]) + (bias == NULL ? 0 : bias[i]);
        memcpy((char *)y + i * sizeof value, &value, sizeof value);
    }
}

/* ---- softmax and loss --------------------------------------------------------------------------------- */

static double largest_of(size_t n, const float *x) {
    double largest = -INFINITY;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, (double)x[i]);
    return largest;
}

static void softmax(size_t V, float scale, float *x) {
    const double largest = largest_of(V, x);
    double sum = 0;
    for (size_t i = 0; i < V; i++) sum += exp(((double)x[i] - largest) * (double)scale);
    for (size_t i = 0; i < V; i++) x[i] = (float)(exp(((double)x[i] - largest) * (double)scale) / sum);
}

static float cross_entropy(size_t V, const float *logits, size_t target, float weight, void *dlogits,
                           dlm_dtype type) {
    const double largest = largest_of(V, logits);
    double sum = 0;
    for (size_t i = 0; i < V; i++) sum += exp((double)logits[i] - largest);
    const double ce = log(sum) + largest - (double)logits[target];
    if (dlogits != NULL)
        for (size_t i = 0; i < V; i++)
            put(dlogits, type, i,
                (double)weight * (exp((double)logits[i] - largest) / sum - (i == target ? 1 : 0)));
    return (float)ce;
}

/* ---- optimisers --------------------------------------------------------------------------------------- */

static double sum_of_squares(size_t n, const float *x) {
    return dot(n, x, x);
}

static void adamw(size_t n, const dlm_adamw_step *step, float *p, const float *g, float *m, float *v,
                  float *ema) {
    for (size_t i = 0; i < n; i++) {
        const float gradient = g[i] * step->grad_scale;
        p[i] *= step->shrink;
        m[i] += step->rate1 * (gradient - m[i]);
        v[i] = v[i] * step->beta2 + step->rate2 * gradient * gradient;
        p[i] -= step->step * (m[i] / (sqrtf(v[i]) / step->root_bias2 + step->eps));
        ema[i] = step->ema_decay * ema[i] + step->ema_rate * p[i];
    }
}

static void muon_momentum(size_t n, float grad_scale, float rate, const float *g, float *m, float *u) {
    for (size_t i = 0; i < n; i++) {
        const float gradient = g[i] * grad_scale;
        m[i] += rate * (gradient - m[i]);
        u[i] = m[i] + rate * (gradient - m[i]);
    }
}

static void combine(size_t n, float a, const void *x, float b, const float *y, void *z, dlm_dtype type) {
    for (size_t i = 0; i < n; i++) put(z, type, i, (double)(a * get(x, type, i) + b * y[i]));
}

static void divide(size_t n, float divisor, void *x, dlm_dtype type) {
    for (size_t i = 0; i < n; i++) put(x, type, i, (double)(get(x, type, i) / divisor));
}

static void muon_update(size_t n, float shrink, float step, const void *x, dlm_dtype type, float ema_decay,
                        float ema_rate, float *p, float *ema) {
    for (size_t i = 0; i < n; i++) {
        p[i] = p[i] * shrink - step * get(x, type, i);
        ema[i] = ema_decay * ema[i] + ema_rate * p[i];
    }
}

/* ---- products ----------------------------------------------------------------------------------------- */

/* Each element sums over k in order, in float32. The loop over columns is the inner one so that it runs along
 * rows of B and Y. */
void dlm__reference_product(const dlm_product *product, size_t first, size_t last, const void *A,
                            const float *B, const float *bias, float *Y) {
    const size_t M = product->M, N = product->N, K = product->K;
    for (size_t i = first; i < last; i++) {
        float *y = Y + i * N;
        if (!product->accumulate) memset(y, 0, N * sizeof *y);
        for (size_t k = 0; k < K; k++) {
            const float a = get(A, product->type, product->transpose_a ? k * M + i : i * K + k);
            const float *b = B + k * N;
            for (size_t j = 0; j < N; j++) y[j] += a * b[j];
        }
        if (bias != NULL)
            for (size_t j = 0; j < N; j++) y[j] += bias[j];
    }
}

const dlm_kernels dlm__kernels_reference = {
    .name = "reference",
    .add = add,
    .to_bf16 = to_bf16,
    .from_bf16 = from_bf16,
    .gelu = gelu,
    .gelu_backward = gelu_backward,
    .silu = silu,
    .silu_backward = silu_backward,
    .column_sum = column_sum,
    .modulated_norm = modulated_norm,
    .modulated_norm_backward = modulated_norm_backward,
    .gated_residual = gated_residual,
    .gated_residual_backward = gated_residual_backward,
    .rotate = rotate,
    .attention = attention,
    .attention_backward = attention_backward,
    .attention_pairs = attention,
    .attention_pairs_backward = attention_backward,
    .pack_rows = pack_rows,
    .pack_columns = pack_columns,
    .pairs_product = pairs_product,
    .softmax = softmax,
    .cross_entropy = cross_entropy,
    .quantise = quantise,
    .quantise_rows = quantise_rows,
    .int8_product = int8_product,
    .int8_form = DLM_INT8_WIDE,
    .int8_rows = 1,
    .int8_values = int8_values,
    .sum_of_squares = sum_of_squares,
    .adamw = adamw,
    .muon_momentum = muon_momentum,
    .combine = combine,
    .divide = divide,
    .muon_update = muon_update,
};
