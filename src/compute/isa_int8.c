/* Products of 8-bit integers in vector code.
 *
 * Both factors are widened to 16 bits and multiplied in pairs whose sum the hardware adds in 32: every
 * instruction set has that, and it is exact. (AVX2's product of bytes saturates at 16 bits, so it is not
 * used.) Activations come widened, weights are widened as they are read, once for a tile of rows. */
#include "compute/isa.h"

/* ---- activations -------------------------------------------------------------------------------------- */

/* The largest |x|; a value that is not finite makes it not a number. */
static float row_reach(size_t n, const float *x) {
    vf largest = vf_all(0), wrong = vf_all(0);
    for (size_t i = 0; i < n; i += W) {
        const vf v = n - i < W ? vf_load_part(x + i, n - i) : vf_load(x + i);
        largest = vf_max(largest, vf_max(v, -v));
        wrong += v * 0.0F;
    }
    return vf_largest(largest) + vf_sum(wrong);
}

float KERNEL(quantise)(size_t n, const float *x, int16_t *q) {
    const float scale = row_reach(n, x) / 127.0F, factor = 1.0F / scale;
    size_t i = 0;
    if (!isfinite(factor)) {
        memset(q, 0, n * sizeof *q);
        return scale;
    }
    for (; i + W <= n; i += W) {
        const vh narrow = __builtin_convertvector(vi_round(vf_load(x + i) * factor), vh);
        memcpy(q + i, &narrow, sizeof narrow);
    }
    if (i < n) {
        const vh narrow = __builtin_convertvector(vi_round(vf_load_part(x + i, n - i) * factor), vh);
        memcpy(q + i, &narrow, (n - i) * sizeof *q);
    }
    return scale;
}

/* ---- the product -------------------------------------------------------------------------------------- */

#define VECTORS (DLM_PANEL / W)
/* The sums of a tile are held in registers. */
#if defined(__AVX512F__)
#define TILE_ROWS ((size_t)12)
#elif defined(__AVX2__)
#define TILE_ROWS ((size_t)6)
#else
#define TILE_ROWS ((size_t)2)
#endif

/* Sums times their scales, and the bias. */
INLINE vf value_of(vi sum, float a_scale, const float *scale, const float *bias) {
    return vf_fma(__builtin_convertvector(sum, vf), vf_load(scale) * a_scale, vf_load(bias));
}

/* A row of sums where the panel has fewer columns than room for them. */
static void put_part(const dlm_int8_operands *x, size_t row, const vi sum[VECTORS], float *y) {
    float line[DLM_PANEL], scale[DLM_PANEL] = {0}, bias[DLM_PANEL] = {0};
    memcpy(scale, x->scale, x->columns * sizeof *scale);
    if (x->bias != NULL) memcpy(bias, x->bias, x->columns * sizeof *bias);
    for (size_t j = 0; j < VECTORS; j++)
        vf_store(line + j * W, value_of(sum[j], x->a_scale[row], scale + j * W, bias + j * W));
    memcpy(y, line, x->columns * sizeof *y);
}

INLINE void put_sums(const dlm_int8_operands *x, size_t row, const vi sum[VECTORS], float *y) {
    static const float none[DLM_PANEL] = {0};
    const float *bias = x->bias == NULL ? none : x->bias;
    if (x->columns < DLM_PANEL) {
        put_part(x, row, sum, y);
        return;
    }
    for (size_t j = 0; j < VECTORS; j++)
        vf_store(y + j * W, value_of(sum[j], x->a_scale[row], x->scale + j * W, bias + j * W));
}

/* `rows` rows from `first` on; a constant where this is called. */
INLINE void tile(const dlm_int8_operands *x, size_t rows, size_t first, float *y, size_t stride) {
    const size_t width = 2 * x->pairs;
    const int16_t *a = x->a + first * width;
    vi sum[TILE_ROWS][VECTORS];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < VECTORS; j++) sum[i][j] = (vi){0};
    for (size_t k = 0; k < x->pairs; k++) {
        vs b[VECTORS];
        for (size_t j = 0; j < VECTORS; j++) b[j] = vs_widen(x->panel + (k * DLM_PANEL + j * W) * 2);
        for (size_t i = 0; i < rows; i++) {
            const vs pair = vs_all(a + i * width + 2 * k);
            for (size_t j = 0; j < VECTORS; j++) sum[i][j] += vi_pairs(pair, b[j]);
        }
    }
    for (size_t i = 0; i < rows; i++) put_sums(x, first + i, sum[i], y + (first + i) * stride);
}

void KERNEL(int8_panel)(const dlm_int8_operands *x, float *y, size_t stride) {
    size_t i = 0;
    for (; i + TILE_ROWS <= x->rows; i += TILE_ROWS) tile(x, TILE_ROWS, i, y, stride);
    for (; i + 2 <= x->rows; i += 2) tile(x, 2, i, y, stride);
    for (; i < x->rows; i++) tile(x, 1, i, y, stride);
}

/* ---- sums of other products --------------------------------------------------------------------------- */

void KERNEL(int8_values)(size_t n, int32_t raised, const int32_t *sums, float a_scale, const float *scale,
                         const float *bias, void *y) {
    char *at = y;
    for (size_t i = 0; i < n; i += W, at += W * sizeof(float)) {
        const size_t lanes = n - i < W ? n - i : W;
        vi sum = {0}, row = {0};
        memcpy(&sum, at, lanes * sizeof(int32_t));
        memcpy(&row, sums + i, lanes * sizeof(int32_t));
        sum -= row * raised;
        const vf scales = lanes < W ? vf_load_part(scale + i, lanes) : vf_load(scale + i);
        const vf add = bias == NULL ? vf_all(0)
                       : lanes < W  ? vf_load_part(bias + i, lanes)
                                    : vf_load(bias + i);
        const vf value = vf_fma(__builtin_convertvector(sum, vf), scales * a_scale, add);
        memcpy(at, &value, lanes * sizeof(float));
    }
}
