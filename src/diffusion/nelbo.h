/* The NELBO of single sequences (docs/likelihood.md): by random masks, or by enumeration of all of them. */
#ifndef DLM_NELBO_H
#define DLM_NELBO_H

#include "diffusion/masked_score.h"
#include "diffusion/masks.h"

#define DLM_NELBO_EXACT_LIMIT ((size_t)20) /* positions */

/* Means by mask count of the masks of a window, for the exact NELBO per position: their mean over counts. */
typedef struct dlm_by_count {
    double sum[DLM_NELBO_EXACT_LIMIT + 1]; /* of means over the masks of k positions */
    double masks[DLM_NELBO_EXACT_LIMIT + 1];
} dlm_by_count;
/* The mean over k = 1 .. n of the means; empties counts. */
double dlm__by_count_mean(dlm_by_count *counts, size_t n);

/* dlm_nelbo, in which sequence b gets the masks that sequence streams[b] would; equal streams and lengths,
 * equal masks. streams: (n), or NULL for each sequence's own. */
dlm_status dlm__nelbo(const dlm_model *model, const dlm_nelbo_options *options, const size_t *streams,
                      size_t n, const size_t *lengths, const int32_t *ids, double *nats,
                      double *standard_errors, dlm_error *err);

/* Standard error of the mean of n values, one from each of n strata in their order; not a number for n < 2.
 *
 * Neighbours are taken together, as if two were drawn from one stratum (collapsed strata; Cochran, Sampling
 * techniques, 1977, section 5A.12): with d_j the differences within J pairs the variance of the mean is about
 * sum d_j^2 / n^2, too much by the squares of the differences of the strata's means. Of those the part common
 * to all pairs is taken out: J/(J - 1) sum (d_j - mean d)^2 / n^2, whose expectation is the variance where
 * the strata's means lie on a line, whatever each stratum's variance, and more elsewhere. The last of an odd
 * number makes a pair with its neighbour, which counts twice. Of two values there is one pair, and nothing to
 * take out. */
double dlm__strata_error(const double *values, size_t n);

#endif
