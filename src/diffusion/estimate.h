/* The NELBO of a set of documents from random masks, with its standard errors, by running sums.
 *
 * A draw d of window w masks k of its n positions at random and measures x, the mean cross-entropy over them;
 * n x is an unbiased estimate of the window's NELBO when k is uniform on 1 .. n. The estimate is
 * sum_w n_w mean_d x_wd / sum_w n_w. Its error has two sources, and each gets its standard error: the masks,
 * the documents being fixed; and both, the documents being a sample (of clusters of windows, by the usual
 * formula for a ratio).
 *
 * How large x is depends above all on the masked share r = k/n, by a curve m(r) common to all windows. Draws
 * are spread evenly over r (stratified, see likelihood.h), so that the curve cancels out of the estimate; it
 * must then not be counted as error either. So m is estimated, constant in bins of r, from all draws, and
 * what is left of x, e = x - m(r), counts: its variance between the draws of a window for the first error,
 * its sum over a document for the second. Where windows differ in length the curve does not cancel quite: its
 * weights n_w are spread about their mean n, which adds sum_w (n_w - n)^2 times the variance of m within a
 * stratum over the number of draws. With few draws, m has fewer bins, and with very few none: the errors are
 * too large then. */
#ifndef DLM_ESTIMATE_H
#define DLM_ESTIMATE_H

#include "base/base.h"

enum { DLM_ESTIMATE_BINS = 16, DLM_ESTIMATE_TERMS = DLM_ESTIMATE_BINS + 2 };

/* Sums over the draws of a window, or of a document: n times x and n times how many of the draws fell into
 * each bin, over the number of draws; and n. */
typedef struct dlm_terms {
    double at[DLM_ESTIMATE_TERMS]; /* nats, positions, bins */
} dlm_terms;

/* Sums of terms over windows or documents, and of their products. */
typedef struct dlm_moments {
    uint64_t n;
    double sum[DLM_ESTIMATE_TERMS];
    double product[DLM_ESTIMATE_TERMS][DLM_ESTIMATE_TERMS];
} dlm_moments;

typedef struct dlm_estimate {
    size_t draws; /* of each window */
    dlm_terms window, document;
    dlm_moments windows, documents;
    /* per bin, sums over draws of n, n x, n^2, n^2 x, n^2 x^2 */
    double n[DLM_ESTIMATE_BINS], nx[DLM_ESTIMATE_BINS];
    double nn[DLM_ESTIMATE_BINS], nnx[DLM_ESTIMATE_BINS], nnxx[DLM_ESTIMATE_BINS];
} dlm_estimate;

/* A zeroed estimate with `draws` set takes, for each document, each of its windows with all its draws. */
void dlm__estimate_draw(dlm_estimate *estimate, size_t n, size_t k, double mean);
void dlm__estimate_end_window(dlm_estimate *estimate);
void dlm__estimate_end_document(dlm_estimate *estimate);

/* Nats per token. A standard error that the data do not tell (of the masks from one draw a window, of the
 * documents from one document) is not a number, as is everything without any window. */
typedef struct dlm_estimated {
    double nelbo, standard_error, standard_error_documents;
} dlm_estimated;
dlm_estimated dlm__estimate(const dlm_estimate *estimate);

#endif
