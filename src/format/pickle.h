/* A pickle machine that knows only what a PyTorch state dict needs: dict, OrderedDict, tuple, list, text,
 * int, float, bool, None, and tensors as views of storages that lie elsewhere. Any other global is refused by
 * its name; nothing is ever called. Protocols 2 to 5 (Python's pickletools.py describes the opcodes).
 *
 * Values are nodes of one table, referred to by number, so that what a pickle names twice is there once, and
 * no input can make more nodes than it has bytes, or than 2^22. A container may hold itself; whoever walks
 * values has to bound the depth. */
#ifndef DLM_PICKLE_H
#define DLM_PICKLE_H

#include "format/tensors.h"

typedef enum dlm_pickle_kind {
    DLM_PICKLE_NONE,
    DLM_PICKLE_BOOL,
    DLM_PICKLE_INT,
    DLM_PICKLE_FLOAT,
    DLM_PICKLE_TEXT,
    DLM_PICKLE_TUPLE,
    DLM_PICKLE_LIST,
    DLM_PICKLE_DICT,
    DLM_PICKLE_GLOBAL,
    DLM_PICKLE_STORAGE,
    DLM_PICKLE_TENSOR
} dlm_pickle_kind;

/* What the elements of a storage are. */
typedef enum dlm_storage_type {
    DLM_STORAGE_F32,
    DLM_STORAGE_F16,
    DLM_STORAGE_BF16,
    DLM_STORAGE_F64,
    DLM_STORAGE_TYPES
} dlm_storage_type;
/* Bytes of an element. */
size_t dlm__storage_element(dlm_storage_type type);

typedef uint32_t dlm_pickle_ref;

/* Elements of a storage as a tensor: where the first one is, and how far it is to the next along each axis.
 */
typedef struct dlm_pickle_view {
    dlm_pickle_ref storage;
    size_t ndim;
    uint64_t offset, shape[DLM_TENSOR_DIMS], stride[DLM_TENSOR_DIMS];
    uint64_t count; /* the shape's product */
} dlm_pickle_view;

typedef struct dlm_pickle_value {
    dlm_pickle_kind kind;
    dlm_storage_type type; /* of STORAGE and TENSOR */
    union {
        struct { /* the first, so that a value made of its kind alone is an empty container */
            dlm_pickle_ref *items; /* of TUPLE and LIST; of DICT keys and values in turn */
            size_t n, capacity;
        };
        struct {
            const char *text; /* of TEXT, and of STORAGE its key: UTF-8, without a 0 behind it */
            size_t bytes;
            uint64_t count; /* of STORAGE: its elements */
        };
        int global;            /* of GLOBAL: which */
        int64_t integer;       /* of INT and BOOL */
        double real;           /* of FLOAT */
        dlm_pickle_view *view; /* of TENSOR */
    };
} dlm_pickle_value;

typedef struct dlm_pickle dlm_pickle;
/* Parses n bytes, which must stay until free; name is for messages. */
dlm_status dlm__pickle_parse(const char *name, const void *bytes, size_t n, dlm_pickle **pickle,
                             dlm_error *err);
void dlm__pickle_free(dlm_pickle *pickle);
/* The object that was pickled, and any other by its number. */
const dlm_pickle_value *dlm__pickle_root(const dlm_pickle *pickle);
const dlm_pickle_value *dlm__pickle_at(const dlm_pickle *pickle, dlm_pickle_ref ref);
/* The value of a text key in a DICT, the last one of several; NULL: none, or value is no DICT. */
const dlm_pickle_value *dlm__pickle_get(const dlm_pickle *pickle, const dlm_pickle_value *value,
                                        const char *key);

#endif
