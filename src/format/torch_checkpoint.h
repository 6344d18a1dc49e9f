/* Checkpoints of torch.save: a zip archive of a pickle, data.pkl, and of the storages of its tensors. Reads
 * {"model": state dict, "raw": state dict, "config": dict}, where "raw" or "config" may be absent, and a
 * state dict alone. Nothing in the file is executed; what the pickle may hold is in pickle.h.
 *
 * Opening reads the directory and the pickle, and checks every tensor against its storage; values are read on
 * request, straight to where they are wanted if a tensor is all of a float32 storage in order. */
#ifndef DLM_TORCH_CHECKPOINT_H
#define DLM_TORCH_CHECKPOINT_H

#include "format/safetensors.h"

typedef struct dlm_torch dlm_torch;
dlm_status dlm__torch_open(const char *path, dlm_torch **file, dlm_error *err);
/* From memory that stays until close; name is for messages. */
dlm_status dlm__torch_parse(const char *name, const void *bytes, size_t n, dlm_torch **file, dlm_error *err);
void dlm__torch_close(dlm_torch *file);

/* A state dict of the file; one that is there alone is MODEL. */
typedef enum dlm_torch_dict { DLM_TORCH_MODEL, DLM_TORCH_RAW } dlm_torch_dict;
bool dlm__torch_has(const dlm_torch *file, dlm_torch_dict which);
/* Its tensors, as long as file is open; it has to be there. */
dlm_tensors dlm__torch_tensors(dlm_torch *file, dlm_torch_dict which);

/* "config" and, where there is one, "diffusionlm" as the JSON of a config.json; free() it. NULL where there
 * is no "config". */
dlm_status dlm__torch_config(const dlm_torch *file, char **json, dlm_error *err);

/* ---- writing (torch_save.c) --------------------------------------------------------------------------- */

struct json_t;
typedef struct dlm_torch_content {
    const dlm_st_entry *entries; /* (n) of types F32, BF16 or F16; their data is not looked at */
    size_t n;
    bool raw; /* "raw" besides "model": their tensors are 0 .. n - 1 and n .. 2n - 1 of `bytes` */
    struct json_t *config; /* of the keys of this name; borrowed */
    struct json_t *diffusionlm;
    dlm_tensor_bytes bytes;
} dlm_torch_content;
/* A file that torch.load(weights_only=True) reads, written beside and renamed. */
dlm_status dlm__torch_save(const char *path, const dlm_torch_content *content, dlm_error *err);

#endif
