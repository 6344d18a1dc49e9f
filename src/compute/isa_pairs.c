/* Matrix products of bfloat16 in vector code, and the panels of their right factor. */
#include "compute/pairs.h"
#include "compute/isa.h"

/* ---- panels ------------------------------------------------------------------------------------------- */

/* W x W numbers of 32 bits, transposed: halves are exchanged at distances of 1, 2, .. W / 2 rows. */
INLINE void transpose(vu x[W]) {
#if defined(__AVX512F__)
    for (int distance = 1; distance < (int)W; distance *= 2) {
        vi low, high;
        for (int i = 0; i < (int)W; i++) {
            low[i] = (i & distance) ? i - distance + (int)W : i;
            high[i] = (i & distance) ? i + (int)W : i + distance;
        }
        for (int i = 0; i < (int)W; i++) {
            if (i & distance) continue;
            const __m512i a = (__m512i)x[i], b = (__m512i)x[i + distance];
            x[i] = (vu)_mm512_permutex2var_epi32(a, (__m512i)low, b);
            x[i + distance] = (vu)_mm512_permutex2var_epi32(a, (__m512i)high, b);
        }
    }
#else
    for (size_t i = 0; i < W; i++)
        for (size_t j = 0; j < i; j++) {
            const uint32_t kept = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = kept;
        }
#endif
}

/* The n <= 2W elements of x from i on as pairs, those behind them 0. */
INLINE vu pairs_at(const void *x, dlm_dtype type, size_t i, size_t n) {
    vu v = {0};
    if (type == DLM_BF16) {
        const dlm_bf16 *from = (const dlm_bf16 *)x + i;
        if (n == 2 * W) return vu_load(from);
        memcpy(&v, from, n * sizeof *from);
        return v;
    }
    const vh low =
        vf_narrow_operand(n < W ? vf_load_part((const float *)x + i, n) : vf_load((const float *)x + i));
    memcpy(&v, &low, sizeof low);
    if (n > W) {
        const float *from = (const float *)x + i + W;
        const vh high = vf_narrow_operand(n < 2 * W ? vf_load_part(from, n - W) : vf_load(from));
        memcpy((char *)&v + sizeof low, &high, sizeof high);
    }
    return v;
}

void KERNEL(pack_rows)(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel) {
    for (size_t first = 0; first < DLM_PANEL; first += W)
        for (size_t k = 0; k < K; k += 2 * W) {
            vu block[W];
            const size_t inputs = K - k < 2 * W ? K - k : 2 * W;
            for (size_t i = 0; i < W; i++)
                block[i] = first + i >= n ? (vu){0} : pairs_at(x, type, (first + i) * stride + k, inputs);
            transpose(block);
            for (size_t i = 0; i < (inputs + 1) / 2; i++)
                memcpy(panel + 2 * ((k / 2 + i) * DLM_PANEL + first), &block[i], sizeof block[i]);
        }
}

/* The n <= W elements of x from i on, those behind them 0. */
INLINE vf values_at(const void *x, dlm_dtype type, size_t i, size_t n) {
    return n < W ? vf_get_part(x, type, i, n) : vf_get(x, type, i);
}

void KERNEL(pack_columns)(size_t K, size_t n, const void *x, dlm_dtype type, size_t stride, dlm_bf16 *panel) {
    for (size_t first = 0; first < DLM_PANEL; first += W) {
        const size_t columns = first >= n ? 0 : n - first < W ? n - first : W;
        for (size_t k = 0; k < K; k += 2) {
            const size_t at = k * stride + first;
            const vf low = values_at(x, type, at, columns);
            const vf high = k + 1 < K ? values_at(x, type, at + stride, columns) : vf_all(0);
            const vu pairs = type == DLM_BF16 ? (vu)low >> 16 | (vu)high : vu_paired(low, high);
            memcpy(panel + 2 * (k / 2 * DLM_PANEL + first), &pairs, sizeof pairs);
        }
    }
}

/* ---- the product -------------------------------------------------------------------------------------- */

/* A row of a tile: W columns or `columns` < W of them. */
INLINE void put(vf sum, const float *bias, bool add, size_t columns, float *y) {
    if (columns < W) {
        if (bias != NULL) sum += vf_load_part(bias, columns);
        if (add) sum += vf_load_part(y, columns);
        vf_store_part(y, sum, columns);
    } else {
        if (bias != NULL) sum += vf_load(bias);
        if (add) sum += vf_load(y);
        vf_store(y, sum);
    }
}

INLINE void tile(const dlm_pairs *x, size_t rows, size_t vectors, size_t i, size_t j) {
    vf sum[PAIRS_ROWS][PAIRS_VECTORS];
    const size_t panel = 2 * x->pairs * DLM_PANEL;
    pairs_tile(rows, vectors, x->pairs, x->a + 2 * i * x->row, x->row, x->step,
               x->panels + j / DLM_PANEL * panel, panel, sum);
    for (size_t r = 0; r < rows; r++)
        for (size_t v = 0; v < vectors; v++) {
            const size_t at = j + v * W;
            if (at >= x->columns) continue;
            put(sum[r][v], x->bias == NULL ? NULL : x->bias + at, x->add, x->columns - at,
                x->y + (i + r) * x->stride + at);
        }
}

INLINE void column(const dlm_pairs *x, size_t vectors, size_t j) {
    size_t i = 0;
    for (; i + PAIRS_ROWS <= x->rows; i += PAIRS_ROWS) tile(x, PAIRS_ROWS, vectors, i, j);
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
