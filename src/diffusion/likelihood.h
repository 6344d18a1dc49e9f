/* Likelihood of sequences: the NELBO by exact mask counts (any-order autoregressive bound: Uria et al. 2014,
 * Hoogeboom et al. 2022; spec of the estimate in docs/likelihood.md), and the original's evaluation
 * cross-entropy.
 *
 * The masks are those of masks.h. */
#ifndef DLM_LIKELIHOOD_H
#define DLM_LIKELIHOOD_H

#include "diffusion/estimate.h"
#include "diffusion/masked_score.h"
#include "diffusion/masks.h"

/* What a draw gave: sum of cross-entropies over k, of all positions and without the end token. */
typedef struct dlm_draw_means {
    double all, text;
} dlm_draw_means;

/* What the draws of one evaluation gave (of an exact one the mean of all masks, for one draw a window), and
 * the estimates of how much more another one gives on the same windows and masks. Used by an evaluation that
 * records, then by one that compares. */
typedef struct dlm_paired {
    bool compares;
    dlm_draw_means *means; /* (capacity); the owner's */
    size_t n, capacity;
    dlm_estimate all, text;
} dlm_paired;

typedef struct dlm_likelihood_options {
    uint64_t seed;
    size_t draws; /* masks of each window, 1 .. DLM_DRAWS_MAX; 0: no NELBO, only cross_entropy */
    dlm_masks masks;
    bool exact;         /* by all masks of each window, draws and masks are not read */
    bool cross_entropy; /* also the original's, by one more mask of each window */
    dlm_schedule schedule;
    int32_t mask_id;
    size_t longest;               /* positions of the longest window */
    size_t first;                 /* index of the first window that is added, by which its masks are drawn */
    dlm_paired *paired;           /* or NULL */
    dlm_pass_callback after_pass; /* or NULL */
    void *pass_user;
} dlm_likelihood_options;

typedef struct dlm_likelihood dlm_likelihood;
/* network and compute are borrowed. */
dlm_status dlm__likelihood_create(const dlm_network *network, dlm_compute *compute,
                                  const dlm_likelihood_options *options, dlm_likelihood **likelihood,
                                  dlm_error *err);
void dlm__likelihood_free(dlm_likelihood *likelihood);

/* A window to score: the first n of the ids that the model is shown; the others are padding. */
typedef struct dlm_scored {
    const int32_t *ids; /* (shown) */
    size_t n, shown;
    uint64_t bytes; /* of text that the n ids stand for */
    bool continues; /* belongs to the document of the window before */
    bool ends;      /* the last of the n is an end token */
} dlm_scored;

/* Adds the next window; its index is options.first and how many were added before. ids are copied. A
 * cross-entropy that is not finite is DLM_NOT_FINITE (perhaps reported with a later window, since they are
 * measured in packed passes). DLM_ARGUMENT names a window that is longer than `longest`, or than an exact
 * evaluation takes.
 */
dlm_status dlm__likelihood_add(dlm_likelihood *likelihood, const dlm_scored *window, dlm_error *err);
/* What an evaluation of some of the windows adds to one of all: nats over positions is the NELBO, ce over
 * ce_positions the cross-entropy. */
typedef struct dlm_likelihood_sums {
    double nats, positions, ce, ce_positions;
} dlm_likelihood_sums;
/* Measures what is left to measure. To be called once, in place of dlm__likelihood_end. */
dlm_status dlm__likelihood_sums(dlm_likelihood *likelihood, dlm_likelihood_sums *sums, dlm_error *err);

/* Measures what is left to measure and fills in all of result but seconds. To be called once. Cross-entropy
 * and NELBO that were not asked for, and standard errors that the data do not tell, are not numbers. */
dlm_status dlm__likelihood_end(dlm_likelihood *likelihood, dlm_eval_result *result, dlm_error *err);

/* An estimate as callers see it; tokens is what it is per. exact: the masks leave no error. */
dlm_bound dlm__bound(const dlm_estimate *estimate, bool exact, uint64_t tokens, uint64_t bytes);

#endif
