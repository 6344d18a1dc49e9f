/* Names of one instruction set's kernels, for the isa_*.c files alone. A kernel is defined as
 *
 *     void KERNEL(add)(size_t n, const float *a, const float *b, float *y) { ... }
 *
 * which makes dlm__add_avx512 and so on; the table's entries give the declarations. */
#ifndef DLM_ISA_H
#define DLM_ISA_H

#include "compute/vec.h"

#define KERNEL(name) ISA_NAME(dlm__##name)

/* The table's int8_form and int8_rows: those of a tile whose sums are held in registers. */
#if defined(__AVX512VNNI__)
#define INT8_FORM DLM_INT8_RAISED
#define INT8_ROWS ((size_t)8)
#else
#define INT8_FORM DLM_INT8_WIDE
#if defined(__AVX512F__)
#define INT8_ROWS ((size_t)12)
#elif defined(__AVX2__)
#define INT8_ROWS ((size_t)6)
#else
#define INT8_ROWS ((size_t)2)
#endif
#endif

/* Weights come from memory where the model is larger than the caches, so that while a column of tiles is
 * made, the panels of the next are asked for, some lines with each tile; not where tiles are few, which then
 * wait for them. */
typedef struct ahead {
    const char *at;
    size_t each;
} ahead;

INLINE ahead ahead_of(const void *panels, size_t bytes, size_t tiles) {
    enum { ENOUGH_TILES = 8 };
    const size_t lines = bytes / DLM_ALIGN;
    return (ahead){panels, tiles < ENOUGH_TILES ? 0 : (lines + tiles - 1) / tiles};
}

INLINE void ask_ahead(ahead *a) {
    for (size_t i = 0; i < a->each; i++, a->at += DLM_ALIGN) __builtin_prefetch(a->at, 0, 2);
}

#define ISA_KERNELS(X)          \
    X(add)                      \
    X(to_bf16)                  \
    X(from_bf16)                \
    X(gelu)                     \
    X(gelu_backward)            \
    X(silu)                     \
    X(silu_backward)            \
    X(column_sum)               \
    X(modulated_norm)           \
    X(modulated_norm_backward)  \
    X(gated_residual)           \
    X(gated_residual_backward)  \
    X(rotate)                   \
    X(attention)                \
    X(attention_backward)       \
    X(attention_pairs)          \
    X(attention_pairs_backward) \
    X(pack_rows)                \
    X(pack_columns)             \
    X(pairs_product)            \
    X(softmax)                  \
    X(cross_entropy)            \
    X(quantise)                 \
    X(quantise_rows)            \
    X(int8_product)             \
    X(int8_values)              \
    X(sum_of_squares)           \
    X(adamw)                    \
    X(muon_momentum)            \
    X(combine)                  \
    X(divide)                   \
    X(muon_update)

#define X(name) extern __typeof__(*((dlm_kernels *)0)->name) KERNEL(name);
ISA_KERNELS(X)
#undef X

#endif
