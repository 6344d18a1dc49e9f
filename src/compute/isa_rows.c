/* Kernels over rows in vector code: modulated norm, gated residual, rotation, softmax, cross-entropy. A row
 * fits the first or second cache, so it is read as often as is convenient. */
#include "compute/isa.h"

/* ---- modulated norm ----------------------------------------------------------------------------------- */

static float row_mean(size_t C, const float *x) {
    vf sum = vf_all(0), sum2 = vf_all(0);
    size_t c = 0;
    for (; c + 2 * W <= C; c += 2 * W) {
        sum += vf_load(x + c);
        sum2 += vf_load(x + c + W);
    }
    for (; c + W <= C; c += W) sum += vf_load(x + c);
    if (c < C) sum2 += vf_load_part(x + c, C - c);
    return vf_sum(sum + sum2) / (float)C;
}

/* Mean of (x - mean)^2. */
static float row_variance(size_t C, const float *x, float mean) {
    vf sum = vf_all(0), sum2 = vf_all(0);
    size_t c = 0;
    for (; c + 2 * W <= C; c += 2 * W) {
        const vf a = vf_load(x + c) - mean, b = vf_load(x + c + W) - mean;
        sum = vf_fma(a, a, sum);
        sum2 = vf_fma(b, b, sum2);
    }
    for (; c + W <= C; c += W) {
        const vf a = vf_load(x + c) - mean;
        sum = vf_fma(a, a, sum);
    }
    if (c < C) {
        const vf a = vf_load_part_or(x + c, C - c, mean) - mean;
        sum2 = vf_fma(a, a, sum2);
    }
    return vf_sum(sum + sum2) / (float)C;
}

void KERNEL(modulated_norm)(size_t rows, size_t C, const float *h, const float *shift, const float *scale,
                            float *mean, float *rstd, void *a, dlm_dtype type) {
    for (size_t r = 0; r < rows; r++) {
        const float *x = h + r * C;
        const float mu = row_mean(C, x);
        const float inverse = 1.0F / sqrtf(row_variance(C, x, mu) + 1e-6F);
        mean[r] = mu;
        rstd[r] = inverse;
        size_t c = 0;
        for (; c + W <= C; c += W) {
            const vf normal = (vf_load(x + c) - mu) * inverse;
            vf_put(a, type, r * C + c, vf_fma(normal, 1.0F + vf_load(scale + c), vf_load(shift + c)));
        }
        if (c < C) {
            const size_t n = C - c;
            const vf normal = (vf_load_part(x + c, n) - mu) * inverse;
            const vf factor = 1.0F + vf_load_part(scale + c, n);
            vf_put_part(a, type, r * C + c, vf_fma(normal, factor, vf_load_part(shift + c, n)), n);
        }
    }
}

/* What the backward pass makes of W elements of a row, with x = (h - mean) rstd and g = da (1 + scale). */
typedef struct norm_sums {
    vf g, gx;
} norm_sums;

INLINE vf norm_backward_sums(vf da, vf x, vf factor, vf *dshift, vf *dscale, norm_sums *sums) {
    const vf g = da * factor;
    *dshift += da;
    *dscale = vf_fma(da, x, *dscale);
    sums->g += g;
    sums->gx = vf_fma(g, x, sums->gx);
    return g;
}

/* The first pass over a row: sums of g and g x, gradients of the modulation, a once more. */
static norm_sums norm_backward_row(size_t C, const float *da, const float *h, const float *shift,
                                   const float *scale, float mean, float rstd, float *dshift, float *dscale,
                                   void *a, dlm_dtype type, size_t at) {
    norm_sums sums = {vf_all(0), vf_all(0)};
    size_t c = 0;
    for (; c + W <= C; c += W) {
        const vf x = (vf_load(h + c) - mean) * rstd, factor = 1.0F + vf_load(scale + c);
        vf to_shift = vf_load(dshift + c), to_scale = vf_load(dscale + c);
        (void)norm_backward_sums(vf_load(da + c), x, factor, &to_shift, &to_scale, &sums);
        vf_store(dshift + c, to_shift);
        vf_store(dscale + c, to_scale);
        if (a != NULL) vf_put(a, type, at + c, vf_fma(x, factor, vf_load(shift + c)));
    }
    if (c < C) {
        const size_t n = C - c;
        const vf x = (vf_load_part(h + c, n) - mean) * rstd, factor = 1.0F + vf_load_part(scale + c, n);
        vf to_shift = vf_load_part(dshift + c, n), to_scale = vf_load_part(dscale + c, n);
        (void)norm_backward_sums(vf_load_part(da + c, n), x, factor, &to_shift, &to_scale, &sums);
        vf_store_part(dshift + c, to_shift, n);
        vf_store_part(dscale + c, to_scale, n);
        if (a != NULL) vf_put_part(a, type, at + c, vf_fma(x, factor, vf_load_part(shift + c, n)), n);
    }
    return sums;
}

/* dh += rstd (g - average(g) - x average(g x)) */
INLINE vf norm_gradient(vf dh, vf da, vf h, vf factor, float mean, float rstd, float g, float gx) {
    const vf x = (h - mean) * rstd;
    return vf_fma(vf_all(rstd), vf_fma(x, vf_all(-gx), vf_fma(da, factor, vf_all(-g))), dh);
}

void KERNEL(modulated_norm_backward)(size_t rows, size_t C, const float *da, const float *h,
                                     const float *shift, const float *scale, const float *mean,
                                     const float *rstd, float *dh, float *dshift, float *dscale, void *a,
                                     dlm_dtype type) {
    for (size_t r = 0; r < rows; r++, da += C, h += C, dh += C) {
        const norm_sums sums =
            norm_backward_row(C, da, h, shift, scale, mean[r], rstd[r], dshift, dscale, a, type, r * C);
        const float g = vf_sum(sums.g) / (float)C, gx = vf_sum(sums.gx) / (float)C;
        size_t c = 0;
        for (; c + W <= C; c += W) {
            const vf factor = 1.0F + vf_load(scale + c);
            vf_store(dh + c, norm_gradient(vf_load(dh + c), vf_load(da + c), vf_load(h + c), factor, mean[r],
                                           rstd[r], g, gx));
        }
        if (c < C) {
            const size_t n = C - c;
            const vf factor = 1.0F + vf_load_part(scale + c, n);
            vf_store_part(dh + c,
                          norm_gradient(vf_load_part(dh + c, n), vf_load_part(da + c, n),
                                        vf_load_part(h + c, n), factor, mean[r], rstd[r], g, gx),
                          n);
        }
    }
}

/* ---- gated residual ----------------------------------------------------------------------------------- */

void KERNEL(gated_residual)(size_t rows, size_t C, const float *h, const float *gate, const float *y,
                            float *out) {
    for (size_t r = 0; r < rows; r++, h += C, y += C, out += C) {
        size_t c = 0;
        for (; c + W <= C; c += W)
            vf_store(out + c, vf_fma(vf_load(gate + c), vf_load(y + c), vf_load(h + c)));
        if (c < C) {
            const size_t n = C - c;
            const vf gates = vf_load_part(gate + c, n);
            vf_store_part(out + c, vf_fma(gates, vf_load_part(y + c, n), vf_load_part(h + c, n)), n);
        }
    }
}

void KERNEL(gated_residual_backward)(size_t rows, size_t C, const float *dout, const float *gate,
                                     const void *y, dlm_dtype y_type, void *dy, dlm_dtype type,
                                     float *dgate) {
    for (size_t r = 0; r < rows; r++, dout += C) {
        size_t c = 0;
        for (; c + W <= C; c += W) {
            const vf slope = vf_load(dout + c);
            vf_store(dgate + c, vf_fma(slope, vf_get(y, y_type, r * C + c), vf_load(dgate + c)));
            vf_put(dy, type, r * C + c, slope * vf_load(gate + c));
        }
        if (c < C) {
            const size_t n = C - c;
            const vf slope = vf_load_part(dout + c, n);
            const vf value = vf_get_part(y, y_type, r * C + c, n);
            vf_store_part(dgate + c, vf_fma(slope, value, vf_load_part(dgate + c, n)), n);
            vf_put_part(dy, type, r * C + c, slope * vf_load_part(gate + c, n), n);
        }
    }
}

/* ---- rotation ----------------------------------------------------------------------------------------- */

INLINE void turn(vf c, vf s, vf *a, vf *b) {
    const vf old = *a;
    *a = vf_fma(old, c, -(*b * s));
    *b = vf_fma(old, s, *b * c);
}

void KERNEL(rotate)(size_t H, size_t D, const float *cosine, const float *sine, bool inverse, float *x) {
    const size_t half = D / 2;
    const float sign = inverse ? -1.0F : 1.0F;
    for (size_t head = 0; head < H; head++, x += D) {
        size_t i = 0;
        for (; i + W <= half; i += W) {
            vf a = vf_load(x + i), b = vf_load(x + half + i);
            turn(vf_load(cosine + i), vf_load(sine + i) * sign, &a, &b);
            vf_store(x + i, a);
            vf_store(x + half + i, b);
        }
        if (i < half) {
            const size_t n = half - i;
            vf a = vf_load_part(x + i, n), b = vf_load_part(x + half + i, n);
            turn(vf_load_part(cosine + i, n), vf_load_part(sine + i, n) * sign, &a, &b);
            vf_store_part(x + i, a, n);
            vf_store_part(x + half + i, b, n);
        }
    }
}

/* ---- softmax and loss --------------------------------------------------------------------------------- */

static float row_largest(size_t V, const float *x) {
    vf largest = vf_all(-INFINITY), largest2 = largest;
    size_t i = 0;
    for (; i + 2 * W <= V; i += 2 * W) {
        largest = vf_max(largest, vf_load(x + i));
        largest2 = vf_max(largest2, vf_load(x + i + W));
    }
    for (; i + W <= V; i += W) largest = vf_max(largest, vf_load(x + i));
    if (i < V) largest2 = vf_max(largest2, vf_load_part_or(x + i, V - i, -INFINITY));
    return vf_largest(vf_max(largest, largest2));
}

void KERNEL(softmax)(size_t V, float scale, float *x) {
    const float largest = row_largest(V, x);
    vf sum = vf_all(0), sum2 = vf_all(0);
    size_t i = 0;
    for (; i + 2 * W <= V; i += 2 * W) {
        const vf a = vf_exp((vf_load(x + i) - largest) * scale);
        const vf b = vf_exp((vf_load(x + i + W) - largest) * scale);
        sum += a;
        sum2 += b;
        vf_store(x + i, a);
        vf_store(x + i + W, b);
    }
    for (; i < V; i += W) {
        const size_t n = V - i < W ? V - i : W;
        const vf rest = n < W ? vf_load_part_or(x + i, n, -INFINITY) : vf_load(x + i);
        const vf a = vf_exp((rest - largest) * scale);
        sum += a;
        if (n < W)
            vf_store_part(x + i, a, n);
        else
            vf_store(x + i, a);
    }
    const float inverse = 1.0F / vf_sum(sum + sum2);
    for (i = 0; i + W <= V; i += W) vf_store(x + i, vf_load(x + i) * inverse);
    if (i < V) vf_store_part(x + i, vf_load_part(x + i, V - i) * inverse, V - i);
}

/* sum exp(x - largest) */
static float row_exponentials(size_t V, const float *x, float largest) {
    vf sum = vf_all(0), sum2 = vf_all(0);
    size_t i = 0;
    for (; i + 2 * W <= V; i += 2 * W) {
        sum += vf_exp(vf_load(x + i) - largest);
        sum2 += vf_exp(vf_load(x + i + W) - largest);
    }
    for (; i + W <= V; i += W) sum += vf_exp(vf_load(x + i) - largest);
    if (i < V) sum2 += vf_exp(vf_load_part_or(x + i, V - i, -INFINITY) - largest);
    return vf_sum(sum + sum2);
}

/* The gradient at the target is weight (p - 1), which loses nothing: it is put there from the logit that was
 * read before the row may have been overwritten. */
float KERNEL(cross_entropy)(size_t V, const float *logits, size_t target, float weight, void *dlogits,
                            dlm_dtype type) {
    const float largest = row_largest(V, logits), below = logits[target] - largest;
    const float sum = row_exponentials(V, logits, largest);
    if (dlogits != NULL) {
        const float factor = weight / sum;
        size_t i = 0;
        for (; i + W <= V; i += W) vf_put(dlogits, type, i, vf_exp(vf_load(logits + i) - largest) * factor);
        if (i < V)
            vf_put_part(dlogits, type, i, vf_exp(vf_load_part(logits + i, V - i) - largest) * factor, V - i);
        const vf at_target = weight * (vf_exp(vf_all(below)) / sum - 1.0F);
        vf_put_part(dlogits, type, target, at_target, 1);
    }
    return logf(sum) - below;
}
