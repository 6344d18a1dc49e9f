/* Vectors of the instruction set that a file is compiled for, for the isa_*.c files alone: 16 floats with
 * AVX-512, 8 with AVX2, else 4 (SSE2, NEON, or whatever the compiler makes of it).
 *
 * Arithmetic and comparison are the compilers' vector extensions; intrinsics stand only where those have no
 * word for it. Multiply-add is fused where the hardware does it, and always by name, so that a value does not
 * depend on what the compiler chose to contract.
 *
 * Loops over n elements run over whole vectors, then once over the rest by the partial load and store, whose
 * other lanes are zero and are not written. */
#ifndef DLM_VEC_H
#define DLM_VEC_H

#include "compute/kernels.h"

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define W ((size_t)16)
#elif defined(__AVX2__)
#include <immintrin.h>
#define W ((size_t)8)
#else
#define W ((size_t)4)
#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif
#endif

typedef float vf __attribute__((vector_size(W * sizeof(float))));
typedef int32_t vi __attribute__((vector_size(W * sizeof(float))));
typedef uint32_t vu __attribute__((vector_size(W * sizeof(float))));
typedef uint16_t vh __attribute__((vector_size(W * sizeof(uint16_t)))); /* W bfloat16 */

/* The name of a symbol of this instruction set: ISA_NAME(dlm__kernels) is dlm__kernels_avx2. */
#define ISA_JOIN(name, isa)  name##_##isa
#define ISA_PASTE(name, isa) ISA_JOIN(name, isa)
#define ISA_NAME(name)       ISA_PASTE(name, DLM_ISA)

#define INLINE static inline __attribute__((always_inline, unused))

/* Before a loop of a few steps, their number known once functions are inlined: vectors of an array whose
 * indices are then constants stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ---- loads and stores --------------------------------------------------------------------------------- */

INLINE vf vf_all(float x) {
    return x - (vf){0};
}

INLINE vf vf_load(const float *x) {
    vf v;
    memcpy(&v, x, sizeof v);
    return v;
}

INLINE void vf_store(float *x, vf v) {
    memcpy(x, &v, sizeof v);
}

/* The first n < W lanes; the others are 0. */
INLINE vf vf_load_part(const float *x, size_t n) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1U << n) - 1), x);
#else
    vf v = {0};
    memcpy(&v, x, n * sizeof *x);
    return v;
#endif
}

INLINE void vf_store_part(float *x, vf v, size_t n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(x, (__mmask16)((1U << n) - 1), (__m512)v);
#else
    memcpy(x, &v, n * sizeof *x);
#endif
}

/* ---- arithmetic --------------------------------------------------------------------------------------- */

/* a * b + c */
INLINE vf vf_fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE vf vf_select(vi mask, vf yes, vf no) {
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

/* The larger; x where either is NaN. */
INLINE vf vf_max(vf bound, vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)bound, (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)bound, (__m256)x);
#else
    return vf_select((vi)(bound > x), bound, x);
#endif
}

/* The smaller; x where either is NaN. */
INLINE vf vf_min(vf bound, vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)bound, (__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)bound, (__m256)x);
#else
    return vf_select((vi)(bound < x), bound, x);
#endif
}

INLINE vf vf_sqrt(vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    vf y = x;
    for (size_t i = 0; i < W; i++) y[i] = sqrtf(x[i]);
    return y;
#endif
}

/* The first n < W lanes: a mask for vf_select. */
INLINE vi vf_lanes(size_t n) {
    vi index;
    for (size_t i = 0; i < W; i++) index[i] = (int32_t)i;
    return index < (int32_t)n;
}

/* Sum of the lanes, by halves. */
INLINE float vf_sum(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float lane[W];
    vf_store(lane, v);
    for (size_t half = W / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
#endif
}

INLINE float vf_largest(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float lane[W], largest;
    vf_store(lane, v);
    largest = lane[0];
    for (size_t i = 1; i < W; i++) largest = lane[i] > largest ? lane[i] : largest;
    return largest;
#endif
}

/* The first n < W elements at x, the other lanes `rest`. */
INLINE vf vf_load_part_or(const float *x, size_t n, float rest) {
    return vf_select(vf_lanes(n), vf_load_part(x, n), vf_all(rest));
}

/* ---- bfloat16 ----------------------------------------------------------------------------------------- */

INLINE vf vf_widen(vh x) {
#if defined(__AVX512F__)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16);
#else
    return (vf)(__builtin_convertvector(x, vu) << 16);
#endif
}

/* To nearest, ties to even: adding half a unit, less one when the result's last bit would be 0, carries
 * exactly when it must. A NaN becomes quiet. */
INLINE vh vf_narrow(vf x) {
#if defined(__AVX512BF16__)
    /* The instruction takes subnormal numbers for 0. */
    enum { SUBNORMAL = 0x20 };
    if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)x, SUBNORMAL) == 0, 1))
        return (vh)_mm512_cvtneps_pbh((__m512)x);
#endif
    const vu bits = (vu)x;
    const vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const vu quiet = (bits >> 16) | 0x40;
    /* NOLINTNEXTLINE(misc-redundant-expression): false only for NaN */
    const vu nan = (vu)(x != x);
    return __builtin_convertvector((quiet & nan) | (rounded & ~nan), vh);
}

/* Elements i .. i + W - 1 of x, of either type, and the first n < W of them. */
INLINE vf vf_get(const void *x, dlm_dtype type, size_t i) {
    if (type != DLM_BF16) return vf_load((const float *)x + i);
    vh v;
    memcpy(&v, (const dlm_bf16 *)x + i, sizeof v);
    return vf_widen(v);
}

INLINE vf vf_get_part(const void *x, dlm_dtype type, size_t i, size_t n) {
    if (type != DLM_BF16) return vf_load_part((const float *)x + i, n);
    vh v = {0};
    memcpy(&v, (const dlm_bf16 *)x + i, n * sizeof(dlm_bf16));
    return vf_widen(v);
}

INLINE void vf_put(void *x, dlm_dtype type, size_t i, vf v) {
    if (type != DLM_BF16) {
        vf_store((float *)x + i, v);
    } else {
        const vh narrow = vf_narrow(v);
        memcpy((dlm_bf16 *)x + i, &narrow, sizeof narrow);
    }
}

INLINE void vf_put_part(void *x, dlm_dtype type, size_t i, vf v, size_t n) {
    if (type != DLM_BF16) {
        vf_store_part((float *)x + i, v, n);
    } else {
        const vh narrow = vf_narrow(v);
        memcpy((dlm_bf16 *)x + i, &narrow, n * sizeof(dlm_bf16));
    }
}

/* ---- integers ------------------------------------------------------------------------------------------ */

typedef int16_t vs __attribute__((vector_size(W * sizeof(float)))); /* 2W of 16 bits */
typedef int8_t vb __attribute__((vector_size(W)));                  /* W of 8 bits */

INLINE vi vi_load(const int32_t *x) {
    vi v;
    memcpy(&v, x, sizeof v);
    return v;
}

INLINE vi vi_max(vi a, vi b) {
#if defined(__AVX512F__)
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const vi larger = a > b;
    return (a & larger) | (b & ~larger);
#endif
}

INLINE vs vs_max(vs a, vs b) {
#if defined(__AVX512BW__)
    return (vs)_mm512_max_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vs)_mm256_max_epi16((__m256i)a, (__m256i)b);
#else
    const vs larger = a > b;
    return (a & larger) | (b & ~larger);
#endif
}

/* 2W integers of 8 bits. */
INLINE vs vs_widen(const int8_t *x) {
#if defined(__AVX512BW__)
    return (vs)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)x));
#elif defined(__AVX2__)
    return (vs)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)x));
#else
    int8_t v __attribute__((vector_size(2 * W)));
    memcpy(&v, x, sizeof v);
    return __builtin_convertvector(v, vs);
#endif
}

/* The four of x, again and again. */
INLINE vs vs_quad(const int16_t *x) {
    typedef int64_t quads __attribute__((vector_size(W * sizeof(float))));
    int64_t quad;
    memcpy(&quad, x, sizeof quad);
    return (vs)(quad - (quads){0});
}

/* a[2i] b[2i] + a[2i + 1] b[2i + 1] */
INLINE vi vi_pairs(vs a, vs b) {
#if defined(__AVX512BW__)
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    vi sum;
    for (size_t i = 0; i < W; i++) sum[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sum;
#endif
}

/* The sums of neighbouring lanes, a's before b's. */
INLINE vi vi_fold(vi a, vi b) {
#if defined(__AVX512F__)
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return (vi)_mm512_permutex2var_epi32((__m512i)a, even, (__m512i)b) +
           (vi)_mm512_permutex2var_epi32((__m512i)a, odd, (__m512i)b);
#elif defined(__AVX2__)
    return (vi)_mm256_permute4x64_epi64(_mm256_hadd_epi32((__m256i)a, (__m256i)b), 0xd8);
#elif defined(__SSE2__)
    return (vi)_mm_shuffle_ps((__m128)a, (__m128)b, 0x88) + (vi)_mm_shuffle_ps((__m128)a, (__m128)b, 0xdd);
#else
    vi sum;
    for (size_t i = 0; i < W / 2; i++) {
        sum[i] = a[2 * i] + a[2 * i + 1];
        sum[W / 2 + i] = b[2 * i] + b[2 * i + 1];
    }
    return sum;
#endif
}

/* To the nearest integers, ties to even; of values that fit. */
INLINE vi vi_round(vf x) {
#if defined(__AVX512F__)
    return (vi)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX2__)
    return (vi)_mm256_cvtps_epi32((__m256)x);
#elif defined(__SSE2__)
    return (vi)_mm_cvtps_epi32((__m128)x);
#else
    vi y;
    for (size_t i = 0; i < W; i++) y[i] = (int32_t)lrintf(x[i]);
    return y;
#endif
}

/* ---- functions ---------------------------------------------------------------------------------------- */

/* exp(x) within about 1 ulp; 0 below -87.33 (where it would be subnormal), inf above 88.72, NaN of NaN.
 *
 * x = n ln 2 + r with |r| <= ln(2)/2, exp x = 2^n exp r. n is found by adding 1.5 * 2^23, whose last bit is
 * 1; ln 2 is subtracted in two parts, the first short enough for an exact product. exp r = 1 + r + r^2 q(r),
 * q the minimax polynomial of degree 4 (relative error 3e-9); 2^n goes straight into the exponent field, or
 * AVX-512's instruction multiplies by it, which knows its limits. */
INLINE vf vf_exp_reduced(vf n, vf x) {
    const vf r = vf_fma(n, vf_all(-1.42860682e-6F), vf_fma(n, vf_all(-0.693145751953125F), x));
    vf q = vf_all(0.0013814539415761828F);
    q = vf_fma(q, r, vf_all(0.00836874544620514F));
    q = vf_fma(q, r, vf_all(0.04166838899254799F));
    q = vf_fma(q, r, vf_all(0.1666652113199234F));
    q = vf_fma(q, r, vf_all(0.4999999403953552F));
    return vf_fma(q * r, r, r) + 1.0F;
}

INLINE vf vf_exp(vf x) {
#if defined(__AVX512F__)
    const vf bounded = vf_min(vf_all(89.0F), x);
    const vf n = (vf)_mm512_roundscale_ps((__m512)(bounded * 1.44269504F),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.336F), _CMP_NLT_UQ);
    return (vf)_mm512_maskz_scalef_ps(kept, (__m512)vf_exp_reduced(n, bounded), (__m512)n);
#else
    const vf shifter = vf_all(12582912.0F);
    const vf bounded = vf_min(vf_all(89.0F), vf_max(vf_all(-88.0F), x));
    const vf shifted = vf_fma(bounded, vf_all(1.44269504F), shifter);
    const vf p = vf_exp_reduced(shifted - shifter, bounded);
    const vi power = ((vi)shifted - (vi)shifter) << 23;
    const vf y = (vf)((vi)p + power);
    const vi below = (vi)(x < -87.336F), above = (vi)(x > 88.72283F);
    return (vf)((vi)vf_select(above, vf_all(INFINITY), y) & ~below);
#endif
}

/* 2^x; 0 of -inf, inf of +inf. x = n + f with f from 0 to 1, and 2^f by its minimax polynomial of degree 4,
 * within 3e-6 of itself, or of degree 5, within 8e-8. */
INLINE vf vf_exp2_short(vf x) {
#if defined(__AVX512DQ__)
    const vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = vf_all(0.01353417057543993F);
    p = vf_fma(p, f, vf_all(0.05201146379113197F));
    p = vf_fma(p, f, vf_all(0.2414427548646927F));
    p = vf_fma(p, f, vf_all(0.6930038332939148F));
    p = vf_fma(p, f, vf_all(1.0000026226043701F));
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return vf_exp(x * 0.693147182F);
#endif
}

INLINE vf vf_exp2(vf x) {
#if defined(__AVX512DQ__)
    const vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = vf_all(0.0018775769276544452F);
    p = vf_fma(p, f, vf_all(0.008989340625703335F));
    p = vf_fma(p, f, vf_all(0.05582631751894951F));
    p = vf_fma(p, f, vf_all(0.24015361070632935F));
    p = vf_fma(p, f, vf_all(0.6931530833244324F));
    p = vf_fma(p, f, vf_all(0.9999999403953552F));
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return vf_exp(x * 0.693147182F);
#endif
}

#endif
