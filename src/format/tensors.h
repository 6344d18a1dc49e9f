/* The named tensors of a file, whatever its format: what the parameter table of a model is held against. */
#ifndef DLM_TENSORS_H
#define DLM_TENSORS_H

#include "base/base.h"

#define DLM_TENSOR_DIMS 8

typedef struct dlm_tensor {
    const char *name;      /* belongs to the file */
    const char *type_name; /* as the file has it */
    const char *number;    /* "float32", "bfloat16", "float16", "float64", "int8"; NULL: no such numbers */
    bool int8;             /* these */
    size_t ndim, shape[DLM_TENSOR_DIMS], count;
} dlm_tensor;

/* A view of an open file, which it does not own. */
typedef struct dlm_tensors {
    const char *path; /* for messages */
    size_t n;
    void *file;
    dlm_tensor (*at)(const void *file, size_t i); /* in the order of their names, all different */
    /* Tensor i, which has a `number`, as count float32. */
    dlm_status (*floats)(void *file, size_t i, float *values, dlm_error *err);
    /* Of these the n from `first` on, by any number of threads beside each other; NULL: the file is read by
     * whole tensors. */
    dlm_status (*part)(const void *file, size_t i, size_t first, size_t n, float *values, dlm_error *err);
    /* With `part`: an error where the file has been written to since it was opened. */
    dlm_status (*unchanged)(const void *file, dlm_error *err);
} dlm_tensors;

/* Which tensor has that name; false: none. */
bool dlm__tensors_find(const dlm_tensors *tensors, const char *name, size_t *i);

/* ---- what is written ---------------------------------------------------------------------------------- */

/* The bytes of tensor i of a file that is being written, in the type that was announced for it; they need
 * stay only until the next call. */
typedef struct dlm_tensor_bytes {
    dlm_status (*get)(void *user, size_t i, const void **bytes, dlm_error *err);
    void *user;
} dlm_tensor_bytes;

/* ---- numbers (tensors.c) ------------------------------------------------------------------------------ */

/* n values of other floating-point types, which need not be aligned, as float32; exact but for float64. */
void dlm__floats_of_f16(const void *from, size_t n, float *values);
void dlm__floats_of_bf16(const void *from, size_t n, float *values);
void dlm__floats_of_f64(const void *from, size_t n, float *values);
/* And back: to the nearest, ties to even. What is too large becomes infinite. */
void dlm__f16_of_floats(const float *values, size_t n, uint16_t *to);
void dlm__bf16_of_floats(const float *values, size_t n, uint16_t *to);

#endif
