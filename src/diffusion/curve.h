/* The cross-entropy of masked tokens as a function of the share that is masked.
 *
 * At ratio r each window of n positions has k = round(r n) of them masked at random, at least one, `draws`
 * times. The estimate is sum ce / sum k over all windows and draws, a ratio; its errors are those of
 * estimate.h, but simpler, since k does not vary within a window: from the masks alone, by the variance of ce
 * within windows; with the documents as a sample, by the residuals of documents. */
#ifndef DLM_CURVE_H
#define DLM_CURVE_H

#include "diffusion/likelihood.h"

typedef struct dlm_curve_options {
    uint64_t seed;
    size_t draws; /* masks of each window at each ratio, 1 .. DLM_DRAWS_MAX */
    size_t n;
    const double *ratios; /* (n), 1 .. DLM_CURVE_POINTS of them, in (0, 1]; borrowed */
    dlm_schedule schedule;
    int32_t mask_id;
    size_t longest;               /* positions of the longest window */
    dlm_pass_callback after_pass; /* or NULL */
    void *pass_user;
} dlm_curve_options;

typedef struct dlm_curve dlm_curve;
/* network and compute are borrowed. */
dlm_status dlm__curve_create(const dlm_network *network, dlm_compute *compute,
                             const dlm_curve_options *options, dlm_curve **curve, dlm_error *err);
void dlm__curve_free(dlm_curve *curve);
/* Adds the next window; ids are copied. */
dlm_status dlm__curve_add(dlm_curve *curve, const dlm_scored *window, dlm_error *err);
/* Measures what is left to measure; points (n). To be called once. */
dlm_status dlm__curve_end(dlm_curve *curve, dlm_curve_point *points, dlm_error *err);

#endif
