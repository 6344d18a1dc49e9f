/* The inside of dlm_compute, and how primitives share their work among threads. */
#ifndef DLM_CONTEXT_H
#define DLM_CONTEXT_H

#include "compute/kernels.h"

/* Prepared oneDNN products (product_onednn.c). */
typedef struct dlm_onednn dlm_onednn;

struct dlm_compute {
    const dlm_kernels *kernels;
    dlm_onednn *onednn; /* NULL: products by plain loops */
    bool pairs;         /* products of bfloat16 are this library's own */
    bool widen_bf16;    /* oneDNN gets bfloat16 operands widened to float32 */
    bool onednn_int8;   /* products of 8-bit integers are oneDNN's */
    unsigned char *scratch;
    size_t scratch_size; /* bytes */
    dlm_error error;     /* the first failure; status DLM_OK while there is none */
};

/* At least `count` floats for each of `parts` threads, aligned to DLM_ALIGN, that keep until the next call;
 * thread i's begin at i * (*stride). NULL when there is no memory, which is recorded in the context; so it is
 * after an earlier failure. */
float *dlm__scratch(dlm_compute *compute, size_t parts, size_t count, size_t *stride);

/* How many threads n units of work are worth, `grain` units each at least: 1 .. dlm__threads(). */
int dlm__team(size_t n, size_t grain);
/* Whether the threads of this one's team may be others than when it was last said to be settled: a smaller
 * team ends threads, a larger one begins some. */
bool dlm__team_changed(void);
void dlm__team_settled(void);

/* Elements of element-wise work that are worth a thread of their own: some microseconds. */
#define DLM_GRAIN ((size_t)8192)

static inline size_t dlm__least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The part'th of `parts` nearly equal contiguous pieces of 0 .. n - 1, cut at multiples of `unit`. */
typedef struct dlm_range {
    size_t first, last;
} dlm_range;

static inline dlm_range dlm__part(size_t n, size_t unit, int part, int parts) {
    const size_t units = (n + unit - 1) / unit, p = (size_t)part, all = (size_t)parts;
    const size_t each = units / all, more = units % all;
    const size_t first = (p * each + (p < more ? p : more)) * unit;
    const size_t last = first + (each + (p < more ? 1 : 0)) * unit;
    return (dlm_range){first < n ? first : n, last < n ? last : n};
}

/* A result of so many units of rows and of columns, shared by `team` threads: into how many equal parts its
 * rows are cut, the columns into as many as are left for them, so that the largest share is least. A divisor
 * of team. */
int dlm__cut(size_t row_units, size_t column_units, int team);

/* The segment that row belongs to (row < offsets[n]). */
static inline size_t dlm__segment_of(dlm_segments seg, size_t row) {
    size_t low = 0, high = seg.n; /* offsets[low] <= row < offsets[high] */
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (seg.offsets[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- own products of bfloat16 (product_pairs.c) -------------------------------------------------------- */

void dlm__pairs_matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                       const float *bias, float *Y);

/* ---- oneDNN (product_onednn.c; only in builds with it) ------------------------------------------------ */

dlm_status dlm__onednn_create(dlm_onednn **onednn, dlm_error *err);
void dlm__onednn_free(dlm_onednn *onednn);
/* Whether oneDNN may use an instruction set: this processor has it, and the user has not set a lower limit in
 * its variable ONEDNN_MAX_CPU_ISA, which own kernels keep to as well. */
typedef enum dlm_isa_limit {
    DLM_LIMIT_AVX2,
    DLM_LIMIT_AVX512,
    DLM_LIMIT_VNNI,
    DLM_LIMIT_BF16,
    DLM_LIMIT_AMX
} dlm_isa_limit;
bool dlm__onednn_may_use(dlm_isa_limit set);
/* Whether products of bfloat16 operands exist here, be they slow. */
bool dlm__onednn_has_bf16(const dlm_onednn *onednn);
/* Whether they are faster than those of float32. */
bool dlm__onednn_bf16_fast(void);
/* Whether they are made by matrix units. */
bool dlm__onednn_has_amx(void);
/* Whether its products of 8-bit integers are exact here. */
bool dlm__onednn_int8_exact(void);
/* Elements between the rows of a product's matrices as they are stored. */
typedef struct dlm_strides {
    size_t A, B, Y;
} dlm_strides;
/* Of type DLM_I8: A unsigned, B signed, Y int32_t. */
dlm_status dlm__onednn_product(dlm_onednn *onednn, const dlm_product *product, dlm_strides strides,
                               const void *A, const void *B, const float *bias, void *Y, dlm_error *err);

#endif
