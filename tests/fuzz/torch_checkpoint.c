/* Any bytes as a checkpoint of torch.save: refused, or its config is JSON and all its tensors can be read. An
 * input that begins as a zip archive is one; of any other the first byte is the byte order and the rest is
 * the data.pkl of an archive with four storages, since no checksum stands before that. */
#include "format/torch_checkpoint.h"

#include "zip_fixture.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define VALUES_MOST ((size_t)1 << 16)

static void read_tensors(dlm_torch *file, dlm_torch_dict which) {
    dlm_error err;
    if (!dlm__torch_has(file, which)) return;
    const dlm_tensors tensors = dlm__torch_tensors(file, which);
    for (size_t i = 0; i < tensors.n; i++) {
        const dlm_tensor tensor = tensors.at(tensors.file, i);
        size_t found;
        if (!dlm__tensors_find(&tensors, tensor.name, &found) || found != i) abort();
        if (tensor.count > VALUES_MOST) continue;
        float *values = dlm__calloc(tensor.count + 1, sizeof *values);
        if (values == NULL) abort();
        (void)tensors.floats(tensors.file, i, values, &err);
        free(values);
    }
}

static void try(const void *bytes, size_t n) {
    dlm_torch *file;
    dlm_error err;
    char *config;
    if (dlm__torch_parse("input", bytes, n, &file, &err) != DLM_OK) {
        if (file != NULL || strncmp(err.message, "input", 5) != 0) abort();
        return;
    }
    if (dlm__torch_config(file, &config, &err) != DLM_OK && config != NULL) abort();
    free(config);
    read_tensors(file, DLM_TORCH_MODEL);
    read_tensors(file, DLM_TORCH_RAW);
    dlm__torch_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const float storage[64] = {1, -2, 3e9F, -4e-9F};
    if (n == 0) return 0;
    if (n >= 2 && memcmp(bytes, "PK", 2) == 0) {
        try(bytes, n);
        return 0;
    }
    const char *order = bytes[0] & 1 ? "big" : "little";
    const zip_part parts[] = {{"a/data.pkl", bytes + 1, n - 1}, {"a/byteorder", order, strlen(order)},
                              {"a/data/0", storage, 4},         {"a/data/1", storage, 24},
                              {"a/data/2", storage, 48},        {"a/data/3", storage, sizeof storage}};
    zip_image image = zip_make(parts, sizeof parts / sizeof parts[0]);
    try(image.bytes, image.n);
    free(image.bytes);
    return 0;
}
