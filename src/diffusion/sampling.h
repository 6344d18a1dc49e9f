/* The state that sampling and refinement share: n packed sequences, some of their positions masked, and what
 * is done to them: predict, commit, mask and resample, show to the step callback.
 *
 * Randomness: step i of sample s draws from the stream (seed, purpose, s, i) alone, in an order that depends
 * on its own sequence only, so a sample is the same whatever is sampled beside it. */
#ifndef DLM_SAMPLING_H
#define DLM_SAMPLING_H

#include "diffusion/denoiser.h"

typedef struct dlm_sampling_start {
    dlm_rng_purpose purpose;
    uint64_t seed;
    dlm_drawing drawing;
    dlm_certainty certainty;
    size_t first, n;
    const size_t *lengths; /* (n) */
    int32_t *ids;          /* (T) borrowed: changed in place */
    const uint8_t *fixed;  /* (T) or NULL */
    const int32_t *target; /* (T) or NULL: what is committed instead of what would be drawn */
    dlm_step_callback on_step;
    void *user;
} dlm_sampling_start;

typedef struct dlm_sampling {
    dlm_sampling_start start;
    const dlm_model *model;
    dlm_denoiser *denoiser;
    size_t n, T, longest;
    size_t *offsets;   /* (n + 1) */
    int32_t *ids;      /* (T) */
    float *confidence; /* (T) at commitment; 0 while masked, 1 where fixed, 0 where given and not fixed */
    uint8_t *fixed;    /* (T) */
    int32_t *given;    /* (T) ids at the start, to restore fixed ones */
    double *times;     /* (n) */
    double *fed;       /* (n) times that the next prediction tells the model, if it is `told` */
    bool told;
    dlm_rng *rng;            /* (n) streams of the step */
    uint8_t *wanted;         /* (T) positions that the next prediction is for */
    double *uniform;         /* (T) */
    int32_t *token;          /* (T) predictions */
    float *token_confidence; /* (T) */
    float *certainty;        /* (T) of the predictions */
    double *log_probability; /* (T) of the predictions; as `committed`, only with a target */
    double *committed;       /* (T) log-probabilities of tokens at their commitment, 0 where there was none */
    size_t forwards;
    size_t *passes; /* (n) of the forward passes those with something to predict in each sequence */
    bool stopped;   /* by the callback */
    dlm_arena arena;
} dlm_sampling;

/* Positions of n sequences together; DLM_ARGUMENT where the model does not take a length. */
dlm_status dlm__sampling_total(const dlm_model *model, size_t n, const size_t *lengths, size_t *total,
                               dlm_error *err);

/* Checks the arguments; no sequence (n = 0) is for the caller to handle. */
dlm_status dlm__sampling_create(const char *isa, const dlm_model *model, const dlm_sampling_start *start,
                                dlm_sampling **sampling, dlm_error *err);
void dlm__sampling_free(dlm_sampling *sampling);

/* Masked positions of sequence b, and of all. */
size_t dlm__sampling_masked(const dlm_sampling *sampling, size_t b);
size_t dlm__sampling_left(const dlm_sampling *sampling);

/* Starts the streams of step `step` and wants nothing. */
void dlm__sampling_begin(dlm_sampling *sampling, size_t step);
/* Token and confidence of all wanted positions, which are masked, in one pass; nothing when none is. */
dlm_status dlm__sampling_predict(dlm_sampling *sampling, dlm_error *err);
/* Position p takes its prediction. */
void dlm__sampling_commit(dlm_sampling *sampling, size_t p);
/* Masks all wanted positions, predicts them and commits them. */
dlm_status dlm__sampling_resample(dlm_sampling *sampling, dlm_error *err);
/* Commits all masked positions in one pass. */
dlm_status dlm__sampling_fill(dlm_sampling *sampling, dlm_error *err);

/* Shows the state after `step` of `steps` to the callback, and takes over what it changed. */
dlm_status dlm__sampling_report(dlm_sampling *sampling, size_t step, size_t steps, dlm_error *err);
#endif
