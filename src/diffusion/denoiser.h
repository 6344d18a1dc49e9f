/* What the model says about masked positions: the one place where sampling meets the network.
 *
 * The packed sequences that have something to predict go through the network in groups of bounded size, and
 * of their positions only those to predict get logits. Banned ids ([MASK], [PAD], [UNK] and those of the
 * drawing) get -inf before temperature and softmax, so that token, confidence and whatever follows from them
 * refer to the distribution really drawn from (docs/sampling.md). */
#ifndef DLM_DENOISER_H
#define DLM_DENOISER_H

#include "diffusion/distribution.h"

typedef struct dlm_denoiser dlm_denoiser;

typedef struct dlm_denoiser_options {
    dlm_drawing drawing;
    dlm_certainty certainty;
    const uint8_t *fixed; /* (T) borrowed: what guidance masks for its second branch; NULL: nothing */
} dlm_denoiser_options;

/* For n packed sequences, offsets (n + 1). temperature 0: the most probable token, the lowest id of equal
 * ones, with its probability at temperature 1 as the confidence. isa as for dlm__compute_create. model and
 * offsets are borrowed. */
dlm_status dlm__denoiser_create(const char *isa, const dlm_model *model, const dlm_denoiser_options *options,
                                size_t n, const size_t *offsets, dlm_denoiser **denoiser, dlm_error *err);
void dlm__denoiser_free(dlm_denoiser *denoiser);
/* Passes through the network that one prediction takes: 2 with guidance, else 1. */
size_t dlm__denoiser_passes(const dlm_denoiser *denoiser);

typedef struct dlm_prediction {
    const int32_t *ids;      /* (T) */
    const uint8_t *wanted;   /* (T) 1: predict this position; masked in ids */
    const double *uniform;   /* (T) in [0, 1), read where wanted: the token is drawn by the inverse of the
                                cumulative distribution; not read at temperature 0, nor with target */
    const int32_t *target;   /* NULL, or (T): what is "drawn" where wanted, however improbable */
    const double *fed;       /* NULL, or (n): the time that the model is told of each sequence */
    int32_t *token;          /* (T) written where wanted */
    float *confidence;       /* (T) largest probability; written where wanted */
    float *certainty;        /* NULL, or (T): of the kind in the options; written where wanted */
    double *log_probability; /* NULL, or (T): of token, in nats; -inf where it cannot be drawn; written where
                                wanted */
    double *times; /* (n) the time of each sequence, sigma^-1(masked share) where fed is NULL; written where
                      anything is wanted */
} dlm_prediction;

/* Probabilities that are not finite: DLM_NOT_FINITE. A position at which no token is allowed: DLM_ARGUMENT.
 */
dlm_status dlm__denoise(dlm_denoiser *denoiser, const dlm_prediction *prediction, dlm_error *err);

#endif
