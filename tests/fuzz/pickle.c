/* Any bytes as a pickle: refused, or a tree whose every value can be reached, within the input's bounds. */
#include "format/pickle.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

typedef struct input {
    const uint8_t *bytes;
    size_t n;
    const dlm_pickle *pickle;
    size_t left; /* values to look at: a list may hold itself */
} input;

static void check_text(const input *in, const dlm_pickle_value *value) {
    const uint8_t *text = (const uint8_t *)value->text;
    if (text < in->bytes || value->bytes > in->n || text + value->bytes > in->bytes + in->n) abort();
}

/* The last element of the view lies within the storage. */
static void check_view(const input *in, const dlm_pickle_value *tensor) {
    const dlm_pickle_view *view = tensor->view;
    const dlm_pickle_value *storage = dlm__pickle_at(in->pickle, view->storage);
    uint64_t last = view->offset;
    if (storage->kind != DLM_PICKLE_STORAGE || storage->type != tensor->type || view->ndim > DLM_TENSOR_DIMS)
        abort();
    for (size_t i = 0; i < view->ndim && view->count > 0; i++) last += (view->shape[i] - 1) * view->stride[i];
    if (view->count > 0 && last >= storage->count) abort();
}

static void walk(input *in, const dlm_pickle_value *value, int depth) {
    if (depth > 20 || in->left == 0) return;
    in->left--;
    switch (value->kind) {
    case DLM_PICKLE_TEXT:
    case DLM_PICKLE_STORAGE: check_text(in, value); break;
    case DLM_PICKLE_TENSOR: check_view(in, value); break;
    case DLM_PICKLE_DICT:
        if (value->n % 2 != 0) abort();
        (void)dlm__pickle_get(in->pickle, value, "model");
        /* fallthrough */
    case DLM_PICKLE_TUPLE:
    case DLM_PICKLE_LIST:
        for (size_t i = 0; i < value->n; i++)
            walk(in, dlm__pickle_at(in->pickle, value->items[i]), depth + 1);
        break;
    default: break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    dlm_pickle *pickle;
    dlm_error err;
    if (dlm__pickle_parse("input", bytes, n, &pickle, &err) != DLM_OK) {
        if (pickle != NULL || strncmp(err.message, "input: ", 7) != 0) abort();
        return 0;
    }
    input in = {.bytes = bytes, .n = n, .pickle = pickle, .left = 10000};
    walk(&in, dlm__pickle_root(pickle), 0);
    dlm__pickle_free(pickle);
    return 0;
}
