/* The file that a model's weights come from, of whatever format, and the config that belongs to it. */
#ifndef DLM_SOURCE_H
#define DLM_SOURCE_H

#include "format/safetensors.h"
#include "format/torch_checkpoint.h"
#include "model/model.h"

typedef struct dlm_source {
    char *file, *folder;          /* its path, and the folder it is in */
    dlm_safetensors *safetensors; /* one of the two */
    dlm_torch *torch;
    dlm_tensors tensors;
} dlm_source;

/* What MODEL names: a folder (model.safetensors, raw.safetensors, or final.pt), a run folder, or a file of
 * either format. A .pt without "model" has only "raw", which then stands for both. */
dlm_status dlm__source_open(const char *path, dlm_weights weights, dlm_source *source, dlm_error *err);
void dlm__source_close(dlm_source *source);
/* Are there raw weights beside the average that this is? */
bool dlm__source_has_raw(const dlm_source *source);

/* Its config, and lengths (max_seq_len + 1; NULL where there are none; free() them): from a .pt its own, else
 * from config.json beside it or the metadata of safetensors, which must agree where there are both. A state
 * dict without any of these tells its sizes by its tensors, but not the heads: those are `heads`, 0 where
 * that is not told either; elsewhere `heads` has to be what the config says, or 0. */
dlm_status dlm__source_config(const dlm_source *source, size_t heads, dlm_config *config, uint64_t **lengths,
                              dlm_error *err);
/* The sentence for a config without heads, from the file at `path`. */
dlm_status dlm__fail_heads(const char *path, dlm_error *err);

#endif
