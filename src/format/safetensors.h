/* safetensors files: eight bytes of header length, a JSON header, then the tensors' bytes without gaps.
 * Reading maps the file and checks the header in full (offsets within the file, contiguous and in bounds,
 * sizes equal to the shapes' product, at most 100 MB of header, no duplicate names), so that a tensor can be
 * used without further care. */
#ifndef DLM_SAFETENSORS_H
#define DLM_SAFETENSORS_H

#include "format/tensors.h"

typedef enum dlm_st_type {
    DLM_ST_F32,
    DLM_ST_F16,
    DLM_ST_BF16,
    DLM_ST_F64,
    DLM_ST_I8,
    DLM_ST_U8,
    DLM_ST_I32,
    DLM_ST_I64,
    DLM_ST_OTHER
} dlm_st_type;

typedef struct dlm_st_tensor {
    const char *name;
    dlm_st_type type;
    const char *type_name; /* as in the file */
    size_t ndim, shape[DLM_TENSOR_DIMS];
    size_t count, bytes;
    const void *data; /* not necessarily aligned */
} dlm_st_tensor;

typedef struct dlm_safetensors dlm_safetensors;
dlm_status dlm__safetensors_open(const char *path, dlm_safetensors **file, dlm_error *err);
/* From memory that stays until close; name is for messages. */
dlm_status dlm__safetensors_parse(const char *name, const void *bytes, size_t n, dlm_safetensors **file,
                                  dlm_error *err);
void dlm__safetensors_close(dlm_safetensors *file);
const char *dlm__safetensors_path(const dlm_safetensors *file);
size_t dlm__safetensors_count(const dlm_safetensors *file);
const dlm_st_tensor *dlm__safetensors_at(const dlm_safetensors *file,
                                         size_t i); /* in the order of their offsets */
const dlm_st_tensor *dlm__safetensors_find(const dlm_safetensors *file, const char *name); /* NULL: none */
/* The value of a metadata key; NULL when absent. */
const char *dlm__safetensors_metadata(const dlm_safetensors *file, const char *key);
/* count values as float32 (from F32, F16, BF16, F64 or I8), or int32 (from I32, or I64 in range). */
dlm_status dlm__safetensors_floats(const dlm_safetensors *file, const dlm_st_tensor *tensor, float *values,
                                   dlm_error *err);
/* Of these the n from `first` on, by any number of threads beside each other. */
dlm_status dlm__safetensors_part(const dlm_safetensors *file, const dlm_st_tensor *tensor, size_t first,
                                 size_t n, float *values, dlm_error *err);
/* An error where the file's size or time of change is not what it was when it was opened: what is read now
 * may then belong to another model. A file that was removed, or replaced under its name, has not changed. */
dlm_status dlm__safetensors_unchanged(const dlm_safetensors *file, dlm_error *err);
dlm_status dlm__safetensors_ints(const dlm_safetensors *file, const dlm_st_tensor *tensor, int32_t *values,
                                 dlm_error *err);

/* All of them, as long as file is open. */
dlm_tensors dlm__safetensors_tensors(dlm_safetensors *file);

/* Writing: name every tensor first, then write them in that order. type F32, BF16, F16 or I32/I64/I8/U8: data
 * is in that type. */
typedef struct dlm_st_entry {
    const char *name;
    dlm_st_type type;
    size_t ndim, shape[DLM_TENSOR_DIMS];
    const void *data; /* shape's product elements of type */
} dlm_st_entry;
/* Bytes of such a tensor. */
size_t dlm__safetensors_bytes(const dlm_st_entry *entry);
/* metadata: pairs key, value, ended by NULL; may be NULL. Written beside and renamed. */
dlm_status dlm__safetensors_write(const char *path, const dlm_st_entry *entries, size_t n,
                                  const char *const *metadata, dlm_tensor_bytes bytes, dlm_error *err);
/* The same with the data of the entries, which dlm__safetensors_write does not look at. */
dlm_status dlm__safetensors_save(const char *path, const dlm_st_entry *entries, size_t n,
                                 const char *const *metadata, dlm_error *err);

#endif
