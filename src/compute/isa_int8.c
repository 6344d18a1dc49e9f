/* Products of 8-bit integers in vector code.
 *
 * Weights lie in panels of quads: four inputs of a column, then of the next. With VNNI the hardware
 * multiplies quads of bytes and adds them in 32 bits. The bytes of activations have no sign there, so they
 * come raised, and sums begin with what that adds. Else both factors are widened to 16 bits and multiplied in
 * pairs whose sum the hardware adds in 32: a column has two sums, which are added at the end. Activations
 * come widened, weights are widened as they are read, once for a tile of rows. Either way is exact. (AVX2's
 * product of bytes saturates at 16 bits, so it is not used.) */
#include "compute/isa.h"

/* ---- activations -------------------------------------------------------------------------------------- */

/* Bits of floats without their sign order as they do, those that are not finite last: the largest |x| is
 * found among these. It is not a number where one of them is not finite. */
static float reach_of(uint32_t bits) {
    float reach;
    memcpy(&reach, &bits, sizeof reach);
    return isfinite(reach) ? reach : NAN;
}

static float row_reach(size_t n, const float *x) {
    const vi magnitude = 0x7fffffff - (vi){0};
    vi even = {0}, odd = {0};
    size_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        even = vi_max(even, (vi)vf_load(x + i) & magnitude);
        odd = vi_max(odd, (vi)vf_load(x + i + W) & magnitude);
    }
    for (; i < n; i += W) {
        const vf v = n - i < W ? vf_load_part(x + i, n - i) : vf_load(x + i);
        even = vi_max(even, (vi)v & magnitude);
    }
    const vi largest = vi_max(even, odd);
    int32_t bits = 0;
    for (i = 0; i < W; i++) bits = largest[i] > bits ? largest[i] : bits;
    return reach_of((uint32_t)bits);
}

static float row_reach_bf16(size_t n, const dlm_bf16 *x) {
    const vs magnitude = 0x7fff - (vs){0};
    vs largest = {0};
    for (size_t i = 0; i < n; i += 2 * W) {
        vs v = {0};
        if (n - i < 2 * W)
            memcpy(&v, x + i, (n - i) * sizeof *x);
        else
            memcpy(&v, x + i, sizeof v);
        largest = vs_max(largest, v & magnitude);
    }
    int16_t bits = 0;
    for (size_t i = 0; i < 2 * W; i++) bits = largest[i] > bits ? largest[i] : bits;
    return reach_of((uint32_t)bits << 16);
}

/* The first quads of W integers, `size` bytes each: side by side, or `step` of their sizes apart. */
INLINE void put_quads(const void *v, size_t size, size_t quads, size_t step, char *q) {
    if (step == 1) {
        memcpy(q, v, quads * size);
        return;
    }
    for (size_t i = 0; i < quads; i++) memcpy(q + i * step * size, (const char *)v + i * size, size);
}

INLINE void put_integers(vi v, dlm_int8_form form, size_t quads, size_t step, char *q) {
    if (form == DLM_INT8_WIDE) {
        const vh wide = __builtin_convertvector(v, vh);
        put_quads(&wide, 4 * sizeof(int16_t), quads, step, q);
    } else {
        const vb narrow = __builtin_convertvector(form == DLM_INT8_RAISED ? v + DLM_RAISED : v, vb);
        put_quads(&narrow, 4, quads, step, q);
    }
}

INLINE void put_row(size_t n, const void *x, dlm_dtype type, float factor, dlm_int8_form form, size_t step,
                    char *q) {
    const size_t size = dlm__int8_size(form);
    size_t i = 0;
    for (; i + W <= n; i += W)
        put_integers(vi_round(vf_get(x, type, i) * factor), form, W / 4, step, q + i * step * size);
    if (i < n)
        put_integers(vi_round(vf_get_part(x, type, i, n - i) * factor), form, (n - i + 3) / 4, step,
                     q + i * step * size);
}

/* The type is a constant where this is called. */
INLINE float quantise_row(size_t n, const void *x, dlm_dtype type, dlm_int8_form form, size_t step, void *q) {
    const float scale = (type == DLM_BF16 ? row_reach_bf16(n, x) : row_reach(n, x)) / 127.0F,
                factor = 1.0F / scale;
    if (!isfinite(factor)) {
        for (size_t i = 0; i < n; i += 4)
            put_integers((vi){0}, form, 1, step, (char *)q + i * step * dlm__int8_size(form));
    } else if (form == INT8_FORM && step == INT8_ROWS) {
        put_row(n, x, type, factor, INT8_FORM, INT8_ROWS, q);
    } else {
        put_row(n, x, type, factor, form, step, q);
    }
    return scale;
}

float KERNEL(quantise)(size_t n, const void *x, dlm_dtype type, dlm_int8_form form, size_t step, void *q) {
    if (type == DLM_BF16) return quantise_row(n, x, DLM_BF16, form, step, q);
    return quantise_row(n, x, DLM_F32, form, step, q);
}

#if defined(__AVX512VNNI__)

/* W integers of each of eight rows, raised, as four quads of all rows. */
INLINE void put_group(const vi v[INT8_ROWS], char *q) {
    const __m512i low = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(2));
    __m512i halves[2];
    UNROLL
    for (size_t h = 0; h < 2; h++) {
        __m128i rows[4];
        UNROLL
        for (size_t r = 0; r < 4; r++) rows[r] = _mm512_cvtepi32_epi8((__m512i)(v[4 * h + r] + DLM_RAISED));
        halves[h] = _mm512_inserti32x4(_mm512_castsi128_si512(rows[0]), rows[1], 1);
        halves[h] = _mm512_inserti32x4(halves[h], rows[2], 2);
        halves[h] = _mm512_inserti32x4(halves[h], rows[3], 3);
    }
    const __m512i quads[2] = {_mm512_permutex2var_epi32(halves[0], low, halves[1]),
                              _mm512_permutex2var_epi32(halves[0], high, halves[1])};
    memcpy(q, quads, sizeof quads);
}

/* Elements i .. i + n - 1, n <= W, of each row, to their quads. */
INLINE void quantise_part(size_t i, size_t n, size_t row, const void *x, dlm_dtype type,
                          const float factor[INT8_ROWS], char *q) {
    vi v[INT8_ROWS];
    UNROLL
    for (size_t r = 0; r < INT8_ROWS; r++) {
        const size_t at = r * row + i;
        v[r] = vi_round((n < W ? vf_get_part(x, type, at, n) : vf_get(x, type, at)) * factor[r]);
    }
    put_group(v, q);
}

/* A whole group whose scales are all right, or nothing. The type is a constant where this is called. */
INLINE bool quantise_group(size_t n, const void *x, dlm_dtype type, char *q, float *scale) {
    float factor[INT8_ROWS];
    for (size_t r = 0; r < INT8_ROWS; r++) {
        const void *row = dlm__const_element(x, type, r * n);
        scale[r] = (type == DLM_BF16 ? row_reach_bf16(n, row) : row_reach(n, row)) / 127.0F;
        factor[r] = 1.0F / scale[r];
        if (!isfinite(factor[r])) return false;
    }
    size_t i = 0;
    for (; i + W <= n; i += W) quantise_part(i, W, n, x, type, factor, q + i * INT8_ROWS);
    if (i < n) {
        char last[W * INT8_ROWS];
        quantise_part(i, n - i, n, x, type, factor, last);
        memcpy(q + i * INT8_ROWS, last, (n - i + 3) / 4 * 4 * INT8_ROWS);
    }
    return true;
}

static bool whole_group(size_t rows, size_t n, const void *x, dlm_dtype type, void *q, float *scale) {
    if (rows < INT8_ROWS) return false;
    return type == DLM_BF16 ? quantise_group(n, x, DLM_BF16, q, scale)
                            : quantise_group(n, x, DLM_F32, q, scale);
}

#else

static bool whole_group(size_t rows, size_t n, const void *x, dlm_dtype type, void *q, const float *scale) {
    (void)rows, (void)n, (void)x, (void)type, (void)q, (void)scale;
    return false;
}

#endif

void KERNEL(quantise_rows)(size_t rows, size_t n, const void *x, dlm_dtype type, void *q, float *scale) {
    if (whole_group(rows, n, x, type, q, scale)) return;
    for (size_t r = 0; r < rows; r++)
        scale[r] = KERNEL(quantise)(n, dlm__const_element(x, type, r * n), type, INT8_FORM, INT8_ROWS,
                                    (char *)q + r * 4 * dlm__int8_size(INT8_FORM));
}

/* ---- the product -------------------------------------------------------------------------------------- */

/* Sums that a column has, columns of a vector of them, and the vectors of a tile. */
#if defined(__AVX512VNNI__)
#define SUMS_OF_A_COLUMN ((size_t)1)
#define TILE_VECTORS     ((size_t)3)
#elif defined(__AVX2__)
#define SUMS_OF_A_COLUMN ((size_t)2)
#define TILE_VECTORS     ((size_t)2)
#else
#define SUMS_OF_A_COLUMN ((size_t)2)
#define TILE_VECTORS     ((size_t)4)
#endif
#define COLUMNS (W / SUMS_OF_A_COLUMN)

#if defined(__AVX512VNNI__)

typedef vi operand;

/* The quads of COLUMNS weights. */
INLINE operand weights_at(const int8_t *quads) {
    operand v;
    memcpy(&v, quads, sizeof v);
    return v;
}

/* A quad of activations for each of them. */
INLINE operand spread(const void *a, size_t quad) {
    int32_t four;
    memcpy(&four, (const uint8_t *)a + 4 * quad, sizeof four);
    return four - (vi){0};
}

INLINE vi add_products(vi sum, operand a, operand b) {
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}

/* What the sums begin with. They stay within what 2^17 products of 128 x 127 give, so they fit too. */
INLINE vi first_sum(const int32_t *sums) {
    return (vi)(-((vu)vi_load(sums) * DLM_RAISED));
}

/* The sums of W columns, from vector j on. */
INLINE vi whole_sum(const vi sum[TILE_VECTORS], size_t j) {
    return sum[j];
}

#else

typedef vs operand;

INLINE operand weights_at(const int8_t *quads) {
    return vs_widen(quads);
}

INLINE operand spread(const void *a, size_t quad) {
    return vs_quad((const int16_t *)a + 4 * quad);
}

INLINE vi add_products(vi sum, operand a, operand b) {
    return sum + vi_pairs(a, b);
}

INLINE vi first_sum(const int32_t *sums) {
    (void)sums;
    return (vi){0};
}

INLINE vi whole_sum(const vi sum[TILE_VECTORS], size_t j) {
    return vi_fold(sum[j], sum[j + 1]);
}

#endif

/* y (rows, vectors * COLUMNS), its rows `stride` apart: sums times their scales, and the bias. All is
 * unrolled here and below: sums that are told apart by constants alone stay in registers. */
INLINE void put_sums(size_t rows, size_t vectors, vi sum[INT8_ROWS][TILE_VECTORS], const float *a_scale,
                     const float *scale, const float *bias, float *y, size_t stride) {
    UNROLL
    for (size_t r = 0; r < rows; r++, y += stride) {
        UNROLL
        for (size_t v = 0; v < vectors; v += SUMS_OF_A_COLUMN) {
            const vf value = __builtin_convertvector(whole_sum(sum[r], v), vf);
            vf_store(y + v * COLUMNS,
                     vf_fma(value, vf_load(scale + v * COLUMNS) * a_scale[r], vf_load(bias + v * COLUMNS)));
        }
    }
}

/* The result's rows lie pages apart, often in the same few sets of the first cache: it is asked for ahead. */
INLINE void ask_for(const dlm_int8_product *x, size_t rows, size_t width, size_t i, size_t j) {
    const float *y = x->y + i * x->stride + j;
    for (size_t r = 0; r < rows; r++, y += x->stride)
        for (size_t c = 0; c < width; c += DLM_LANES) __builtin_prefetch(y + c, 1);
}

/* Rows i .. of a group, columns j ..; how many rows and vectors are constants where this is called. */
INLINE void tile(const dlm_int8_product *x, size_t rows, size_t vectors, size_t i, size_t j) {
    static const float none[TILE_VECTORS * COLUMNS];
    const size_t panel = x->quads * DLM_PANEL * 4, group = i / INT8_ROWS * x->quads * INT8_ROWS;
    const size_t width = vectors * COLUMNS, columns = x->columns - j;
    const char *a = (const char *)x->a + (group + i % INT8_ROWS) * 4 * dlm__int8_size(INT8_FORM);
    const int8_t *panels = x->panels + j / DLM_PANEL * panel + j % DLM_PANEL * 4;
    vi sum[INT8_ROWS][TILE_VECTORS];
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        UNROLL
        for (size_t v = 0; v < vectors; v++) sum[r][v] = first_sum(x->sums + j + v * COLUMNS);
    }
    ask_for(x, rows, width, i, j);
    for (size_t k = 0; k < x->quads; k++) {
        operand b[TILE_VECTORS];
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            b[v] = weights_at(panels + v * COLUMNS / DLM_PANEL * panel +
                              (k * DLM_PANEL + v * COLUMNS % DLM_PANEL) * 4);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            const operand q = spread(a, k * INT8_ROWS + r);
            UNROLL
            for (size_t v = 0; v < vectors; v++) sum[r][v] = add_products(sum[r][v], q, b[v]);
        }
    }
    const float *bias = x->bias == NULL ? none : x->bias + j;
    float *y = x->y + i * x->stride + j;
    if (columns < width) {
        float all[INT8_ROWS * TILE_VECTORS * COLUMNS], some[TILE_VECTORS * COLUMNS] = {0};
        memcpy(some, bias, columns * sizeof *some);
        put_sums(rows, vectors, sum, x->a_scale + i, x->scale + j, some, all, width);
        for (size_t r = 0; r < rows; r++) memcpy(y + r * x->stride, all + r * width, columns * sizeof *y);
    } else {
        put_sums(rows, vectors, sum, x->a_scale + i, x->scale + j, bias, y, x->stride);
    }
}

INLINE void column(const dlm_int8_product *x, size_t vectors, size_t j) {
    const size_t panel = x->quads * DLM_PANEL * 4,
                 most = (TILE_VECTORS * COLUMNS + DLM_PANEL - 1) / DLM_PANEL;
    const size_t next = (j + vectors * COLUMNS + DLM_PANEL - 1) / DLM_PANEL,
                 end = (x->columns + DLM_PANEL - 1) / DLM_PANEL;
    const size_t panels = next >= end ? 0 : end - next < most ? end - next : most;
    ahead coming = ahead_of(x->panels + next * panel, panels * panel, x->rows / INT8_ROWS);
    size_t i = 0;
    for (; i + INT8_ROWS <= x->rows; i += INT8_ROWS) {
        ask_ahead(&coming);
        tile(x, INT8_ROWS, vectors, i, j);
    }
    if (INT8_ROWS > 4)
        for (; i + 4 <= x->rows; i += 4) tile(x, 4, vectors, i, j);
    if (INT8_ROWS > 2)
        for (; i + 2 <= x->rows; i += 2) tile(x, 2, vectors, i, j);
    for (; i < x->rows; i++) tile(x, 1, vectors, i, j);
}

void KERNEL(int8_product)(const dlm_int8_product *x) {
    const size_t width = TILE_VECTORS * COLUMNS;
    size_t j = 0;
#if defined(__AVX512VNNI__)
    for (; j + 2 * DLM_PANEL < x->columns; j += width) column(x, TILE_VECTORS, j);
    if (j + DLM_PANEL < x->columns) {
        column(x, 2, j);
        j += 2 * DLM_PANEL;
    }
    if (j < x->columns) column(x, 1, j);
#else
    for (; j < x->columns; j += width) column(x, TILE_VECTORS, j);
#endif
}

/* ---- sums of other products --------------------------------------------------------------------------- */

void KERNEL(int8_values)(size_t n, const int32_t *sums, float a_scale, const float *scale, const float *bias,
                         void *y) {
    char *at = y;
    for (size_t i = 0; i < n; i += W, at += W * sizeof(float)) {
        const size_t lanes = n - i < W ? n - i : W;
        vu sum = {0}, row = {0};
        memcpy(&sum, at, lanes * sizeof(int32_t));
        memcpy(&row, sums + i, lanes * sizeof(int32_t));
        const vi right = (vi)(sum - row * DLM_RAISED);
        const vf scales = lanes < W ? vf_load_part(scale + i, lanes) : vf_load(scale + i);
        const vf add = bias == NULL ? vf_all(0)
                       : lanes < W  ? vf_load_part(bias + i, lanes)
                                    : vf_load(bias + i);
        const vf value = vf_fma(__builtin_convertvector(right, vf), scales * a_scale, add);
        memcpy(at, &value, lanes * sizeof(float));
    }
}
