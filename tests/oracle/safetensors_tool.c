/* What test_model.py asks of the library's safetensors files:
 *     check FILE...   prints for each "ok", or the status and sentence of its refusal
 *     copy IN OUT     writes IN's tensors and its metadata "config" and "note" anew */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

static int check(int n, char **paths) {
    for (int i = 0; i < n; i++) {
        dlm_safetensors *file;
        dlm_error err;
        if (dlm__safetensors_open(paths[i], &file, &err) == DLM_OK) {
            puts("ok");
        } else {
            printf("%d %s\n", (int)err.status, err.message);
        }
        dlm__safetensors_close(file);
    }
    return 0;
}

static int copy(const char *from, const char *to) {
    dlm_safetensors *file;
    dlm_error err;
    if (dlm__safetensors_open(from, &file, &err) != DLM_OK) return 1;
    size_t n = dlm__safetensors_count(file);
    dlm_st_entry *entries = dlm__calloc(n, sizeof *entries);
    if (entries == NULL) return 1;
    for (size_t i = 0; i < n; i++) {
        const dlm_st_tensor *tensor = dlm__safetensors_at(file, i);
        entries[i] = (dlm_st_entry){
            .name = tensor->name, .type = tensor->type, .ndim = tensor->ndim, .data = tensor->data};
        memcpy(entries[i].shape, tensor->shape, sizeof tensor->shape);
    }
    const char *metadata[] = {"config", dlm__safetensors_metadata(file, "config"), "note",
                              dlm__safetensors_metadata(file, "note"), NULL};
    dlm_status status = dlm__safetensors_save(to, entries, n, metadata[1] == NULL ? NULL : metadata, &err);
    if (status != DLM_OK) (void)fprintf(stderr, "%s\n", err.message);
    free(entries);
    dlm__safetensors_close(file);
    return status == DLM_OK ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "check") == 0) return check(argc - 2, argv + 2);
    if (argc == 4 && strcmp(argv[1], "copy") == 0) return copy(argv[2], argv[3]);
    return 2;
}
