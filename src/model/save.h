/* Writing models in every format there is. */
#ifndef DLM_SAVE_H
#define DLM_SAVE_H

#include "model/model.h"

/* A model that is to be written. */
typedef struct dlm_saved {
    const dlm_layout *layout;
    const uint64_t *lengths;        /* or NULL */
    const dlm_tokenizer *tokenizer; /* or NULL */
    bool raw; /* raw weights besides: `values` is asked for 2n tensors, theirs the second n */
    /* Tensor i % n of the layout as float32, all finite, until the next call. */
    dlm_status (*values)(void *user, size_t i, const float **values, dlm_error *err);
    void *user;
} dlm_saved;
dlm_status dlm__save(const dlm_saved *saved, const char *path, const dlm_save_options *options,
                     dlm_error *err);

#endif
