/* What comes out of attention, for isa_attention*.c alone. */
#ifndef DLM_ATTENTION_ROWS_H
#define DLM_ATTENTION_ROWS_H

#include "compute/vec.h"

/* A row of the output, divided by the softmax's denominator. */
INLINE void put_row(size_t D, const float *row, float divisor, void *o, dlm_dtype type) {
    const float factor = 1.0F / divisor;
    size_t d = 0;
    for (; d + W <= D; d += W) vf_put(o, type, d, vf_load(row + d) * factor);
    if (d < D) vf_put_part(o, type, d, vf_load_part(row + d, D - d) * factor, D - d);
}

/* to (n, D) = factor * x, rows `stride` and to_stride apart. */
INLINE void scale_rows(size_t n, size_t D, const float *x, size_t stride, float factor, float *to,
                       size_t to_stride) {
    for (size_t i = 0; i < n; i++, x += stride, to += to_stride) {
        size_t c = 0;
        for (; c + W <= D; c += W) vf_store(to + c, vf_load(x + c) * factor);
        if (c < D) vf_store_part(to + c, vf_load_part(x + c, D - c) * factor, D - c);
    }
}

#endif
