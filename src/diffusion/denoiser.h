/* What the model says about masked positions: the one place where sampling meets the network.
 *
 * The packed sequences that have something to predict go through the network in groups of bounded size, and
 * of their positions only those to predict get logits. Banned ids (mask, padding, unknown) get -inf before
 * temperature and softmax, so that token, confidence and whatever follows from them refer to the distribution
 * really drawn from. */
#ifndef DLM_DENOISER_H
#define DLM_DENOISER_H

#include "diffusion/process.h"

typedef struct dlm_denoiser dlm_denoiser;

/* For n packed sequences, offsets (n + 1). temperature 0: the most probable token, the lowest id of equal
 * ones, with its probability at temperature 1 as the confidence. isa as for dlm__compute_create. model and
 * offsets are borrowed. */
dlm_status dlm__denoiser_create(const char *isa, const dlm_model *model, double temperature, size_t n,
                                const size_t *offsets, dlm_denoiser **denoiser, dlm_error *err);
void dlm__denoiser_free(dlm_denoiser *denoiser);

typedef struct dlm_prediction {
    const int32_t *ids;    /* (T) */
    const uint8_t *wanted; /* (T) 1: predict this position; masked in ids */
    const double *uniform; /* (T) in [0, 1), read where wanted: the token is drawn by the inverse of the
                              cumulative distribution; not read at temperature 0 */
    int32_t *token;        /* (T) written where wanted */
    float *confidence;     /* (T) largest probability; written where wanted */
    double *times;         /* (n) sigma^-1(masked share of the sequence); written where anything is wanted */
} dlm_prediction;

/* Probabilities that are not finite: DLM_NOT_FINITE. */
dlm_status dlm__denoise(dlm_denoiser *denoiser, const dlm_prediction *prediction, dlm_error *err);

#endif
