/* Matrix products of bfloat16 in vector code, and the panels of their right factor. */
#include "compute/isa.h"
#include "compute/pairs.h"

/* ---- panels ------------------------------------------------------------------------------------------- */

/* Rows i and i + distance of W x W numbers of 32 bits exchange what lies `distance` columns aside. All is
 * unrolled, so that the rows stay in registers. */
INLINE void exchange(vu x[W], size_t distance) {
#if defined(__AVX512F__)
    vi low, high;
    for (size_t i = 0; i < W; i++) {
        low[i] = (int)((i & distance) != 0 ? i - distance + W : i);
        high[i] = (int)((i & distance) != 0 ? i + W : i + distance);
    }
    UNROLL
    for (size_t i = 0; i < W; i++) {
        if ((i & distance) != 0) continue;
        const __m512i a = (__m512i)x[i], b = (__m512i)x[i + distance];
        x[i] = (vu)_mm512_permutex2var_epi32(a, (__m512i)low, b);
        x[i + distance] = (vu)_mm512_permutex2var_epi32(a, (__m512i)high, b);
    }
#else
    for (size_t i = 0; i < W; i++)
        for (size_t j = 0; j < W; j++) {
            if ((i & distance) != 0 || (j & distance) == 0) continue;
            const uint32_t kept = x[i][j];
            x[i][j] = x[i + distance][j - distance];
            x[i + distance][j - distance] = kept;
        }
#endif
}

INLINE void transpose(vu x[W]) {
    exchange(x, 1);
    exchange(x, 2);
    if (W > 4) exchange(x, 4);
    if (W > 8) exchange(x, 8);
}

/* The 2W elements of x from i on as pairs. */
INLINE vu whole_pairs_at(const void *x, dlm_dtype type, size_t i) {
    if (type == DLM_BF16) return vu_load((const dlm_bf16 *)x + i);
    const vf low = vf_load((const float *)x + i), high = vf_load((const float *)x + i + W);
    return vu_rounded(low, high);
}

/* The first n <= 2W of them, those behind 0. */
static vu pairs_at(const void *x, dlm_dtype type, size_t i, size_t n) {
    dlm_bf16 pairs[2 * W] = {0};
    const size_t size = type == DLM_BF16 ? sizeof(dlm_bf16) : sizeof(float);
    float some[2 * W] = {0};
    memcpy(some, (const char *)x + i * size, n * size);
    const vu made = whole_pairs_at(some, type, 0);
    memcpy(pairs, &made, n * sizeof *pairs);
    return vu_load(pairs);
}

/* W columns of a panel, of which n are rows of x: pairs k / 2 and on, of `inputs` <= 2W. */
INLINE void pack_block(size_t n, size_t inputs, const void *x, dlm_dtype type, size_t stride, size_t k,
                       dlm_bf16 *to) {
    vu block[W];
    if (n == W && inputs == 2 * W) {
        UNROLL
        for (size_t i = 0; i < W; i++) block[i] = whole_pairs_at(x, type, i * stride + k);
        transpose(block);
        UNROLL
        for (size_t i = 0; i < W; i++) memcpy(to + 2 * i * DLM_PANEL, &block[i], sizeof block[i]);
    } else {
        for (size_t i = 0; i < W; i++) block[i] = i < n ? pairs_at(x, type, i * stride + k, inputs) : (vu){0};
        transpose(block);
        for (size_t i = 0; i < (inputs + 1) / 2; i++)
            memcpy(to + 2 * i * DLM_PANEL, &block[i], sizeof block[i]);
    }
}

INLINE void pack_rows_of(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel) {
    for (size_t first = 0; first < DLM_PANEL; first += W)
        for (size_t k = 0; k < K; k += 2 * W) {
            const size_t rows = first >= n ? 0 : n - first < W ? n - first : W;
            const void *from = type == DLM_BF16 ? (const void *)((const dlm_bf16 *)x + first * stride)
                                                : (const void *)((const float *)x + first * stride);
            pack_block(rows, K - k < 2 * W ? K - k : 2 * W, from, type, stride, k,
                       panel + 2 * (k / 2 * DLM_PANEL + first));
        }
}

void KERNEL(pack_rows)(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel) {
    if (type == DLM_BF16)
        pack_rows_of(K, n, x, DLM_BF16, stride, panel);
    else
        pack_rows_of(K, n, x, DLM_F32, stride, panel);
}

/* The n <= W elements of x from i on, those behind them 0. */
INLINE vf values_at(const void *x, dlm_dtype type, size_t i, size_t n) {
    return n < W ? vf_get_part(x, type, i, n) : vf_get(x, type, i);
}

INLINE void pack_columns_of(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride,
                            dlm_bf16 *panel) {
    for (size_t first = 0; first < DLM_PANEL; first += W) {
        const size_t columns = first >= n ? 0 : n - first < W ? n - first : W;
        for (size_t k = 0; k < K; k += 2) {
            const size_t at = k * stride + first;
            const vf low = values_at(x, type, at, columns);
            const vf high = k + 1 < K ? values_at(x, type, at + stride, columns) : vf_all(0);
            const vu pairs = type == DLM_BF16 ? (vu)low >> 16 | (vu)high : vu_paired(vu_rounded(low, high));
            memcpy(panel + 2 * (k / 2 * DLM_PANEL + first), &pairs, sizeof pairs);
        }
    }
}

void KERNEL(pack_columns)(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel) {
    if (type == DLM_BF16)
        pack_columns_of(K, n, x, DLM_BF16, stride, panel);
    else
        pack_columns_of(K, n, x, DLM_F32, stride, panel);
}

/* ---- the product -------------------------------------------------------------------------------------- */

/* What of a tile lies in the result, which ends after `columns` more. */
static void put_part(const dlm_pairs *x, size_t rows, size_t columns, const float *tile, size_t width,
                     const float *bias, float *y) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            float *to = y + r * x->stride + c;
            *to = tile[r * width + c] + (bias == NULL ? 0 : bias[c]) + (x->add ? *to : 0);
        }
}

/* y (rows, vectors * W), its rows `stride` apart, = sum. All is unrolled: sums that are told apart by
 * constants alone stay in registers. */
INLINE void put_sums(size_t rows, size_t vectors, vf sum[PAIRS_ROWS][PAIRS_VECTORS], float *y,
                     size_t stride) {
    UNROLL
    for (size_t r = 0; r < rows; r++, y += stride) {
        UNROLL
        for (size_t v = 0; v < vectors; v++) vf_store(y + v * W, sum[r][v]);
    }
}

/* The tile at row i and column j of the result. Where it is whole its sums never leave their registers: the
 * loops are unrolled. */
INLINE void tile(const dlm_pairs *x, size_t rows, size_t vectors, size_t i, size_t j) {
    vf sum[PAIRS_ROWS][PAIRS_VECTORS];
    const size_t panel = 2 * x->pairs * DLM_PANEL, columns = x->columns - j;
    const float *bias = x->bias == NULL ? NULL : x->bias + j;
    float *y = x->y + i * x->stride + j;
    pairs_tile(rows, vectors, x->pairs, x->a + 2 * i * x->row, x->row, x->step,
               x->panels + j / DLM_PANEL * panel, panel, sum);
    if (columns < vectors * W) {
        float all[PAIRS_ROWS * PAIRS_VECTORS * W];
        put_sums(rows, vectors, sum, all, vectors * W);
        put_part(x, rows, columns, all, vectors * W, bias, y);
        return;
    }
    if (bias != NULL) {
        UNROLL
        for (size_t v = 0; v < vectors; v++) {
            const vf b = vf_load(bias + v * W);
            UNROLL
            for (size_t r = 0; r < rows; r++) sum[r][v] += b;
        }
    }
    if (x->add) {
        const float *old = y;
        UNROLL
        for (size_t r = 0; r < rows; r++, old += x->stride) {
            UNROLL
            for (size_t v = 0; v < vectors; v++) sum[r][v] += vf_load(old + v * W);
        }
    }
    put_sums(rows, vectors, sum, y, x->stride);
}

INLINE void column(const dlm_pairs *x, size_t vectors, size_t j) {
    const size_t panel = x->pairs * DLM_PANEL * 2;
    const size_t next = (j + vectors * W) / DLM_PANEL, end = (x->columns + DLM_PANEL - 1) / DLM_PANEL;
    const size_t panels = next >= end ? 0 : end - next < PAIRS_PANELS ? end - next : PAIRS_PANELS;
    ahead coming =
        ahead_of(x->panels + next * panel, panels * panel * sizeof *x->panels, x->rows / PAIRS_ROWS);
    size_t i = 0;
    for (; i + PAIRS_ROWS <= x->rows; i += PAIRS_ROWS) {
        ask_ahead(&coming);
        tile(x, PAIRS_ROWS, vectors, i, j);
    }
    if (PAIRS_ROWS > 4)
        for (; i + 4 <= x->rows; i += 4) tile(x, 4, vectors, i, j);
    for (; i + 2 <= x->rows; i += 2) tile(x, 2, vectors, i, j);
    for (; i < x->rows; i++) tile(x, 1, vectors, i, j);
}

void KERNEL(pairs_product)(const dlm_pairs *x) {
    size_t j = 0;
    for (; j + (PAIRS_PANELS - 1) * DLM_PANEL < x->columns; j += PAIRS_PANELS * DLM_PANEL)
        column(x, PAIRS_VECTORS, j);
#if defined(__AVX512F__)
    if (j + DLM_PANEL < x->columns) {
        column(x, 2, j);
        j += 2 * DLM_PANEL;
    }
#endif
    if (j < x->columns) column(x, PANEL_VECTORS, j);
}
