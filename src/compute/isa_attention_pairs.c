/* Attention of one head as isa_attention.c computes it, with the factors of its products rounded to bfloat16:
 * queries, keys and values, what comes back from the output, probabilities and their slopes. Sums, softmax
 * and what is written are float32.
 *
 * The right factors lie in panels (pairs.h): keys and values with pairs of channels for the scores and their
 * gradient, values and keys with pairs of keys for the output and the gradient of the queries. The gradients
 * of keys and values sum over queries, so that probabilities and slopes are stored with pairs of queries too,
 * as left factors that are read by columns. */
#include "compute/attention_rows.h"
#include "compute/isa.h"
#include "compute/pairs.h"

/* Scores are taken to the base of 2. */
#define LOG2_E 1.44269504F
#define LN_2   0.693147182F

static size_t panels_of(size_t n) {
    return (n + DLM_PANEL - 1) / DLM_PANEL;
}

static size_t pairs_of(size_t n) {
    return (n + 1) / 2;
}

/* Bfloat16 in the panels of a factor of K inputs and n columns. */
static size_t panels_size(size_t K, size_t n) {
    return panels_of(n) * pairs_of(K) * 2 * DLM_PANEL;
}

/* The columns of the factor are the n rows of x, K long. */
static void pack_rows(size_t K, size_t n, const float *x, size_t stride, dlm_bf16 *to) {
    for (size_t j = 0; j < n; j += DLM_PANEL, to += pairs_of(K) * 2 * DLM_PANEL)
        KERNEL(pack_rows)(K, n - j < DLM_PANEL ? n - j : DLM_PANEL, x + j * stride, DLM_F32, stride, to);
}

/* The columns of the factor are those of x (K,n). */
static void pack_columns(size_t K, size_t n, const float *x, size_t stride, dlm_bf16 *to) {
    for (size_t j = 0; j < n; j += DLM_PANEL, to += pairs_of(K) * 2 * DLM_PANEL)
        KERNEL(pack_columns)(K, n - j < DLM_PANEL ? n - j : DLM_PANEL, x + j, DLM_F32, stride, to);
}

/* to (n, width) = factor * x (n, D), a left factor; columns D .. width - 1 are 0. */
static void round_rows(size_t n, size_t D, size_t width, const float *x, size_t stride, float factor,
                       dlm_bf16 *to) {
    for (size_t i = 0; i < n; i++, x += stride, to += width)
        for (size_t d = 0; d < width; d += W) {
            const vf v = d + W <= D ? vf_load(x + d) : d < D ? vf_load_part(x + d, D - d) : vf_all(0);
            const vh narrow = vf_narrow_operand(v * factor);
            memcpy(to + d, &narrow, sizeof narrow);
        }
}

/* y (rows, columns) = or += the left factor at a, whose rows are `width` apart, times panels of K inputs. */
static void multiply(size_t rows, size_t columns, size_t K, const dlm_bf16 *a, size_t width,
                     const dlm_bf16 *panels, float *y, size_t stride) {
    const dlm_pairs x = {.rows = rows,
                         .pairs = pairs_of(K),
                         .columns = columns,
                         .a = a,
                         .row = width / 2,
                         .step = 1,
                         .panels = panels,
                         .y = y,
                         .stride = stride};
    KERNEL(pairs_product)(&x);
}

/* The same of a left factor that is stored by columns: pairs of one input of neighbouring rows lie side by
 * side, and `width` bfloat16 between those of an input and of the next. */
static void multiply_columns(size_t rows, size_t columns, size_t K, const dlm_bf16 *a, size_t width,
                             const dlm_bf16 *panels, float *y, size_t stride, bool add) {
    const dlm_pairs x = {.rows = rows,
                         .pairs = pairs_of(K),
                         .columns = columns,
                         .a = a,
                         .row = 1,
                         .step = width / 2,
                         .panels = panels,
                         .add = add,
                         .y = y,
                         .stride = stride};
    KERNEL(pairs_product)(&x);
}

/* Lanes of a row of L scores from j on: -inf behind its end, where the exponential is 0. */
INLINE vf scores_at(const float *s, size_t L, size_t j) {
    return j + W <= L ? vf_load(s + j) : vf_load_part_or(s + j, L - j, -INFINITY);
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* p = 2^(s - max s), rounded, 0 behind L up to whole vectors; *sum of what is not rounded, and the maximum.
 */
static float exponentials(size_t L, const float *s, dlm_bf16 *p, float *sum) {
    vf most = vf_all(-INFINITY), total = vf_all(0);
    for (size_t j = 0; j < L; j += W) most = vf_max(most, scores_at(s, L, j));
    const float largest = vf_largest(most);
    for (size_t j = 0; j < L; j += W) {
        const vf e = vf_exp2_short(scores_at(s, L, j) - largest);
        const vh narrow = vf_narrow_operand(e);
        total += e;
        memcpy(p + j, &narrow, sizeof narrow);
    }
    *sum = vf_sum(total);
    return largest;
}

void KERNEL(attention_pairs)(const dlm_head *head, size_t first, size_t last, void *o, size_t o_stride,
                             dlm_dtype type, float *lse, size_t lse_stride, float *scratch) {
    const size_t L = head->L, D = head->D, d = dlm__round_up(D, DLM_LANES), l = dlm__attention_stride(L);
    float *s = scratch;                                        /* (block, l) */
    float *out = s + DLM_QUERIES * l;                          /* (block, d) */
    dlm_bf16 *p = (dlm_bf16 *)(void *)(out + DLM_QUERIES * d); /* (block, l) */
    dlm_bf16 *q = p + DLM_QUERIES * l;                         /* (block, d) */
    dlm_bf16 *keys = q + DLM_QUERIES * d;                      /* panels of D inputs, L columns */
    dlm_bf16 *values = keys + panels_size(D, L);               /* panels of L inputs, D columns */
    const float scale = LOG2_E / sqrtf((float)D);
    pack_rows(D, L, head->k, head->stride, keys);
    pack_columns(L, D, head->v, head->stride, values);
    for (size_t i = first; i < last; i += DLM_QUERIES) {
        const size_t n = last - i < DLM_QUERIES ? last - i : DLM_QUERIES;
        float sum[DLM_QUERIES];
        round_rows(n, D, d, head->q + i * head->q_stride, head->q_stride, scale, q);
        multiply(n, L, D, q, d, keys, s, l);
        for (size_t r = 0; r < n; r++) {
            const float largest = exponentials(L, s + r * l, p + r * l, &sum[r]);
            if (lse != NULL) lse[(i + r) * lse_stride] = largest * LN_2 + logf(sum[r]);
        }
        multiply(n, D, L, p, l, values, out, d);
        for (size_t r = 0; r < n; r++)
            put_row(D, out + r * d, sum[r], dlm__element(o, type, (i + r) * o_stride), type);
    }
}

/* ---- backward ----------------------------------------------------------------------------------------- */

/* The first n lanes from x on, the others 0. */
INLINE vf slope_at(const float *x, size_t n) {
    return n >= W ? vf_load(x) : vf_load_part(x, n);
}

/* p (L) = 2^(s - lse), in place of the scores; the sum of p dp. */
static float probabilities(size_t L, float *s, const float *dp, float lse) {
    vf total = vf_all(0);
    for (size_t j = 0; j < L; j += W) {
        const vf e = vf_exp2_short(scores_at(s, L, j) - lse);
        total = vf_fma(e, slope_at(dp + j, L - j), total);
        vf_store(s + j, e);
    }
    return vf_sum(total);
}

/* Of two queries, or of one (dp1 NULL): their slopes ds = p (dp - sum) as rows; and p and ds with pairs of
 * queries. */
typedef struct slopes {
    dlm_bf16 *rows; /* two, l apart */
    dlm_bf16 *p_pairs, *ds_pairs;
} slopes;

static void make_slopes(size_t L, size_t l, const float *p, const float *dp, const float sum[2], bool two,
                        slopes to) {
    for (size_t j = 0; j < L; j += W) {
        /* Behind L p is 0, but dp is whatever was there. */
        const size_t n = L - j;
        const vf p0 = vf_load(p + j), p1 = two ? vf_load(p + l + j) : vf_all(0);
        const vf dp0 = slope_at(dp + j, n), dp1 = two ? slope_at(dp + l + j, n) : vf_all(0);
        const vu ds = vu_rounded(p0 * (dp0 - sum[0]), p1 * (dp1 - sum[1]));
        const vu ds_pairs = vu_paired(ds), p_pairs = vu_paired(vu_rounded(p0, p1));
        memcpy(to.rows + j, &ds, sizeof ds / 2);
        memcpy(to.rows + l + j, (const char *)&ds + sizeof ds / 2, sizeof ds / 2);
        memcpy(to.p_pairs + 2 * j, &p_pairs, sizeof p_pairs);
        memcpy(to.ds_pairs + 2 * j, &ds_pairs, sizeof ds_pairs);
    }
}

void KERNEL(attention_pairs_backward)(const dlm_head *head, size_t n, const float *lse, size_t lse_stride,
                                      const float *d_o, size_t o_stride, float *dq, float *dk, float *dv,
                                      float *scratch) {
    const size_t L = head->L, D = head->D, stride = head->stride, q_stride = head->q_stride;
    const size_t d = dlm__round_up(D, DLM_LANES), l = dlm__attention_stride(L);
    float *to_keys = scratch;                                       /* (L, d): dk, but for the scale */
    float *to_values = to_keys + L * d;                             /* (L, d): dv */
    float *to_q = to_values + L * d;                                /* (block, d) */
    float *p = to_q + DLM_QUERIES * d;                              /* (block, l) */
    float *dp = p + DLM_QUERIES * l;                                /* (block, l) */
    dlm_bf16 *p_pairs = (dlm_bf16 *)(void *)(dp + DLM_QUERIES * l); /* (block / 2, l, 2) */
    dlm_bf16 *ds_pairs = p_pairs + DLM_QUERIES * l;                 /* (block / 2, l, 2) */
    dlm_bf16 *ds = ds_pairs + DLM_QUERIES * l;                      /* (block, l) */
    dlm_bf16 *left = ds + DLM_QUERIES * l;                          /* (block, d): q, then d_o */
    dlm_bf16 *q_panels = left + DLM_QUERIES * d;                    /* panels of block inputs, D columns */
    dlm_bf16 *o_panels = q_panels + DLM_QUERIES * d;                /* the same */
    dlm_bf16 *keys = o_panels + DLM_QUERIES * d;                    /* panels of D inputs, L columns */
    dlm_bf16 *values = keys + panels_size(D, L);                    /* the same */
    dlm_bf16 *keys_by_pairs = values + panels_size(D, L);           /* panels of L inputs, D columns */
    const float scale = 1.0F / sqrtf((float)D);
    pack_rows(D, L, head->k, stride, keys);
    pack_rows(D, L, head->v, stride, values);
    pack_columns(L, D, head->k, stride, keys_by_pairs);
    if (n == 0) memset(to_keys, 0, 2 * L * d * sizeof *to_keys);
    for (size_t i = 0; i < n; i += DLM_QUERIES) {
        const size_t rows = n - i < DLM_QUERIES ? n - i : DLM_QUERIES;
        const float *d_out = d_o + i * o_stride;
        round_rows(rows, D, d, head->q + i * q_stride, q_stride, scale * LOG2_E, left);
        multiply(rows, L, D, left, d, keys, p, l);
        round_rows(rows, D, d, d_out, o_stride, 1.0F, left);
        multiply(rows, L, D, left, d, values, dp, l);
        for (size_t r = 0; r < rows; r += 2) {
            const bool two = r + 1 < rows;
            const float sum[2] = {probabilities(L, p + r * l, dp + r * l, LOG2_E * lse[(i + r) * lse_stride]),
                                  two ? probabilities(L, p + (r + 1) * l, dp + (r + 1) * l,
                                                      LOG2_E * lse[(i + r + 1) * lse_stride])
                                      : 0};
            make_slopes(L, l, p + r * l, dp + r * l, sum, two,
                        (slopes){ds + r * l, p_pairs + r * l, ds_pairs + r * l});
        }
        pack_columns(rows, D, head->q + i * q_stride, q_stride, q_panels);
        pack_columns(rows, D, d_out, o_stride, o_panels);
        multiply_columns(L, D, rows, p_pairs, 2 * l, o_panels, to_values, d, i > 0);
        multiply_columns(L, D, rows, ds_pairs, 2 * l, q_panels, to_keys, d, i > 0);
        multiply(rows, D, L, ds, l, keys_by_pairs, to_q, d);
        scale_rows(rows, D, to_q, d, scale, dq + i * q_stride, q_stride);
    }
    scale_rows(L, D, to_keys, d, scale, dk, stride);
    scale_rows(L, D, to_values, d, 1.0F, dv, stride);
}
