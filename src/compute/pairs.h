/* Products of pairs of bfloat16, for the isa_*.c files alone: what matrix products and attention share.
 *
 * The right factor lies in panels of DLM_PANEL columns that hold, for each pair of neighbouring inputs, the
 * pair of each column after the other's, so that one vector has a pair of W columns. Of the left factor a
 * pair at a time is spread over a vector. A tile of the result stays in registers over all inputs. */
#ifndef DLM_PAIRS_H
#define DLM_PAIRS_H

#include "compute/vec.h"

/* sum + a[2i] b[2i] + a[2i + 1] b[2i + 1], i the lane: by the processor's instruction, which flushes
 * subnormal numbers to 0, or by two of float32. */
INLINE vf vf_pairs(vf sum, vu a, vu b) {
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    const vf odd = vf_fma((vf)(a & 0xffff0000U), (vf)(b & 0xffff0000U), sum);
    return vf_fma((vf)(a << 16), (vf)(b << 16), odd);
#endif
}

INLINE vu vu_load(const void *x) {
    vu v;
    memcpy(&v, x, sizeof v);
    return v;
}

/* The pair at x in all lanes. */
INLINE vu vu_spread(const dlm_bf16 *x) {
    uint32_t pair;
    memcpy(&pair, x, sizeof pair);
    return pair - (vu){0};
}

/* The same for operands of products of bfloat16, where the processor's take subnormal numbers for 0 anyway.
 */
INLINE vh vf_narrow_operand(vf x) {
#if defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    return vf_narrow(x);
#endif
}

/* The lanes of x, then those of y, rounded. */
INLINE vu vu_rounded(vf x, vf y) {
#if defined(__AVX512BF16__)
    return (vu)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x);
#else
    const vh halves[2] = {vf_narrow(x), vf_narrow(y)};
    vu both;
    memcpy(&both, halves, sizeof both);
    return both;
#endif
}

/* Of those: lane i of x and lane i of y side by side. */
INLINE vu vu_paired(vu rounded) {
#if defined(__AVX512BW__)
    vs order;
    for (int i = 0; i < (int)W; i++) {
        order[2 * i] = (int16_t)i;
        order[2 * i + 1] = (int16_t)(i + (int)W);
    }
    return (vu)_mm512_permutexvar_epi16((__m512i)order, (__m512i)rounded);
#else
    vh halves[2];
    memcpy(halves, &rounded, sizeof halves);
    return __builtin_convertvector(halves[0], vu) | __builtin_convertvector(halves[1], vu) << 16;
#endif
}

#define PANEL_VECTORS (DLM_PANEL / W)

/* Rows of a tile, and its vectors: with 32 registers 24 sums, with 16 at most 12. */
#if defined(__AVX512F__)
#define PAIRS_ROWS    ((size_t)8)
#define PAIRS_VECTORS ((size_t)3)
#elif defined(__AVX2__)
#define PAIRS_ROWS    ((size_t)4)
#define PAIRS_VECTORS ((size_t)2)
#else
#define PAIRS_ROWS    ((size_t)2)
#define PAIRS_VECTORS ((size_t)4)
#endif
/* Panels of the widest tile. */
#define PAIRS_PANELS (PAIRS_VECTORS / PANEL_VECTORS)

/* sum[i][j] = the products of row i of the left factor and vector j of neighbouring panels. Rows and vectors
 * are constants where this is called. Pair k of row i is at a + 2 (i * row + k * step); `panel` bfloat16 lie
 * between panels. */
INLINE void pairs_tile(size_t rows, size_t vectors, size_t pairs, const dlm_bf16 *a, size_t row, size_t step,
                       const dlm_bf16 *panels, size_t panel, vf sum[PAIRS_ROWS][PAIRS_VECTORS]) {
    UNROLL
    for (size_t i = 0; i < rows; i++) {
        UNROLL
        for (size_t j = 0; j < vectors; j++) sum[i][j] = vf_all(0);
    }
    for (size_t k = 0; k < pairs; k++) {
        vu b[PAIRS_VECTORS];
        UNROLL
        for (size_t j = 0; j < vectors; j++)
            b[j] = vu_load(panels + j / PANEL_VECTORS * panel + 2 * (k * DLM_PANEL + j % PANEL_VECTORS * W));
        UNROLL
        for (size_t i = 0; i < rows; i++) {
            const vu pair = vu_spread(a + 2 * (i * row + k * step));
            UNROLL
            for (size_t j = 0; j < vectors; j++) sum[i][j] = vf_pairs(sum[i][j], pair, b[j]);
        }
    }
}

#endif
