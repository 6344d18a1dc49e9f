/* dlm_sample and dlm_refine on a chosen instruction set (isa as for dlm__compute_create, NULL: the best). */
#ifndef DLM_SAMPLER_H
#define DLM_SAMPLER_H

#include "diffusion/sampling.h"

/* How the options draw tokens. */
dlm_drawing dlm__drawing_of(const dlm_sample_options *options);

/* Ranges of the options, and whether they go together. */
dlm_status dlm__sample_check(const dlm_sample_options *options, dlm_error *err);

dlm_status dlm__sample(const char *isa, const dlm_model *model, const dlm_sample_options *options,
                       size_t first, size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                       float *confidence, size_t *forwards, dlm_error *err);

/* A run of the sampler in which each position takes the token that it is given, and what is told of it. */
typedef struct dlm_replay {
    const int32_t *target;  /* (T) */
    double *log_likelihood; /* (n) in nats, of what was committed */
    size_t *forwards;       /* NULL, or (n): passes that each sequence took */
} dlm_replay;
/* Arguments as dlm__sample. */
dlm_status dlm__replay_sample(const char *isa, const dlm_model *model, const dlm_sample_options *options,
                              size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                              const dlm_replay *replay, dlm_error *err);

/* dlm_sample_blocks of more positions than the model takes; the allow callback is told this sequence number.
 * *stopped: by the step callback. */
dlm_status dlm__sample_blocks(const char *isa, const dlm_model *model, const dlm_sample_options *options,
                              size_t context, size_t sequence, size_t index, size_t n, int32_t *ids,
                              const uint8_t *fixed, size_t *forwards, bool *stopped, dlm_error *err);
dlm_status dlm__refine(const char *isa, const dlm_model *model, const dlm_refine_options *options,
                       size_t first, size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                       dlm_error *err);

#endif
