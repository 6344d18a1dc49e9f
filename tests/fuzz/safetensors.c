/* Any bytes as a safetensors file: refused, or every tensor can be read. */
#include "format/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    dlm_safetensors *file;
    dlm_error err;
    if (dlm__safetensors_parse("input", bytes, n, &file, &err) != DLM_OK) return 0;
    for (size_t i = 0; i < dlm__safetensors_count(file); i++) {
        const dlm_st_tensor *tensor = dlm__safetensors_at(file, i);
        if (tensor->bytes > n || dlm__safetensors_find(file, tensor->name) != tensor) abort();
        /* At least four bits a value, so this is at most eight times the input. */
        void *values = dlm__calloc(tensor->count, sizeof(float));
        if (tensor->bytes > 0 && values != NULL) {
            (void)dlm__safetensors_floats(file, tensor, values, &err);
            (void)dlm__safetensors_ints(file, tensor, values, &err);
        }
        free(values);
    }
    (void)dlm__safetensors_metadata(file, "config");
    dlm__safetensors_close(file);
    return 0;
}
