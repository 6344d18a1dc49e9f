/* A loaded model: weights, config, tokenizer, lengths, and where they came from; and the model folder on
 * disk. */
#ifndef DLM_MODEL_H
#define DLM_MODEL_H

#include "format/tensors.h"
#include "model/network.h"

struct dlm_model {
    dlm_layout *layout;
    dlm_network network;      /* params NULL after dlm_model_inspect */
    dlm_tokenizer *tokenizer; /* or NULL */
    uint64_t *lengths;        /* (max_seq_len + 1) or NULL */
    const char **stored;      /* (layout->n) how the file has each parameter, or NULL: from memory */
    char *source;             /* file of the weights */
    struct dlm_source *file;  /* that file, open while network.file is read from it; or NULL */
    bool int8;                /* its token matrices are, or would be, in 8 bits */
    bool borrowed;            /* its network's blocks are another's */
    int32_t mask_id, pad_id, unk_id,
        end_id; /* the tokenizer's; without one 2, 0, 1 and, where config.end_token, 3; -1: none */
};

/* The type of products for a wanted precision on this machine: AUTO as the public header says. BF16 works
 * everywhere (operands rounded, then widened where the hardware has none). I8, which is for models that are
 * not trained: DLM_UNSUPPORTED. */
dlm_status dlm__precision_type(dlm_precision precision, dlm_dtype *type, dlm_error *err);

/* dlm_tokenizer_load, with progress (NULL: none) of a download. */
dlm_status dlm__tokenizer_load(const char *name, dlm_progress progress, void *user, dlm_tokenizer **tokenizer,
                               dlm_error *err);

/* The folder that MODEL names: itself, or the newest checkpoint of a run folder, checkpoints/NAME with the
 * NAME in its file `latest`. free() it. */
dlm_status dlm__model_folder(const char *path, char **folder, dlm_error *err);
/* That NAME from the n bytes of such a file: one path component, and at most a line end behind it. free() it;
 * name is for messages. */
dlm_status dlm__latest_parse(const char *name, const char *text, size_t n, char **checkpoint, dlm_error *err);

/* Whether a file holds just layout's tensors: missing, extra or differently shaped ones are errors that name
 * them. A token matrix may be of 8-bit integers, with the scales of its rows in a tensor NAME.scale. */
dlm_status dlm__weights_check(const dlm_layout *layout, const dlm_tensors *file, dlm_error *err);
/* One of them, checked, as float32 (its count); a value that is not finite is an error that names it. */
dlm_status dlm__weights_tensor(const dlm_param *param, const dlm_tensors *file, float *values,
                               dlm_error *err);
/* Has such a file matrices of 8-bit integers? */
bool dlm__weights_are_int8(const dlm_layout *layout, const dlm_tensors *file);
/* Checks, and reads them all into params (total floats, padding zeroed). */
dlm_status dlm__weights_read(const dlm_layout *layout, const dlm_tensors *file, float *params,
                             dlm_error *err);
/* The same into a network: what is to be absent only into the bfloat16 copy or the 8-bit matrices that it has
 * memory for, for which there has to be a context; all else into the float32 block, and into the copy. */
typedef struct dlm_beside { /* what one of the threads is to do meanwhile, unless reading fails before */
    void (*work)(void *user);
    void *user;
} dlm_beside;
dlm_status dlm__network_read(const dlm_network *network, const dlm_tensors *file, dlm_compute *compute,
                             const dlm_beside *beside, dlm_error *err);
/* The same as dlm__weights_read from the safetensors file at path. */
dlm_status dlm__weights_load(const dlm_layout *layout, const char *path, float *params, dlm_error *err);
/* Writes params as float32 safetensors, with the config as metadata "config". */
dlm_status dlm__weights_save(const dlm_layout *layout, const char *path, const float *params, dlm_error *err);

/* A model from memory: a copy of params (total floats; NULL: all 0) with a config, the tokenizer of
 * tokenizer_dir (may be NULL: none) and a copy of lengths (may be NULL). */
dlm_status dlm__model_create(const dlm_config *config, const float *params, const char *tokenizer_dir,
                             const uint64_t *lengths, dlm_precision precision, dlm_model **model,
                             dlm_error *err);
/* The same around the caller's blocks, those of `network` in its type, which are not looked at here, and
 * whose bfloat16 copy is the caller's to refresh: for evaluation and samples of what is trained. */
dlm_status dlm__model_around(const dlm_config *config, const dlm_network *network, const char *tokenizer_dir,
                             const uint64_t *lengths, dlm_model **model, dlm_error *err);

#endif
