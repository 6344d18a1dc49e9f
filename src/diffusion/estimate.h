/* The NELBO of a set of documents from random masks, with its standard errors, by running sums.
 *
 * A draw d of window w masks k of its n positions at random and measures x, the mean cross-entropy over them;
 * n x is an unbiased estimate of the window's NELBO when k is uniform on 1 .. n. The estimate is
 * sum_w n_w mean_d x_wd / sum_w n_w. Its error has two sources, and each gets its standard error: the masks,
 * the documents being fixed; and both, the documents being a sample (of clusters of windows, by the usual
 * formula for a ratio).
 *
 * How large x is depends above all on the masked share, by a curve m(r) common to all windows, r from 0 to 1;
 * k of n stand for the r between (k - 1)/n and k/n. Draws are spread evenly over r (stratified, see masks.h),
 * so that the curve cancels out of the estimate; it must then not be counted as error either. So m is
 * estimated, constant in bins of r, from all draws, and what is left of x, e = x - mean of m over its r,
 * counts: its variance between the units of a window for the first error (a unit is
 * a draw, or a pair of complementary ones, which depend on each other), its sum over a document for the
 * second. Where windows differ in length the curve does not cancel quite: its weights n_w are spread about
 * their mean n, which adds sum_w (n_w - n)^2 times the variance of m within a stratum over the number of
 * units. With few draws, m has fewer bins, and with very few none: the errors are too large then.
 *
 * The end token may be left out of the sum: x is then what the other positions add to the mean over all k,
 * and the estimate sum_w n_w mean_d x_wd / sum_w (positions without it). */
#ifndef DLM_ESTIMATE_H
#define DLM_ESTIMATE_H

#include "base/base.h"

enum { DLM_ESTIMATE_BINS = 16, DLM_ESTIMATE_TERMS = DLM_ESTIMATE_BINS + 3 };

/* Means over the draws of a unit or a window, or their sum over a document: n x, n, the positions that the
 * estimate is for, and n times the shares of the draw's r that fall into each bin. */
typedef struct dlm_terms {
    double at[DLM_ESTIMATE_TERMS]; /* nats, weight, positions, bins */
} dlm_terms;

/* Sums of terms over units, windows or documents, and of their products. */
typedef struct dlm_moments {
    uint64_t n;
    double sum[DLM_ESTIMATE_TERMS];
    double product[DLM_ESTIMATE_TERMS][DLM_ESTIMATE_TERMS];
} dlm_moments;

typedef struct dlm_estimate {
    size_t draws;   /* of each window */
    size_t unit;    /* draws that are one observation: 1, or 2, which divides draws */
    size_t in_unit; /* draws taken of the unit at hand */
    bool exact;     /* a draw is the mean over all k, of which it is told one: there is no curve */
    dlm_terms draw_sum, window, document;
    dlm_moments units, windows, documents;
    double n[DLM_ESTIMATE_BINS],
        nx[DLM_ESTIMATE_BINS]; /* per bin, sums over draws of n and n x, by their shares in the bin */
} dlm_estimate;

/* A zeroed estimate with `draws` and `unit` set takes, for each document, each of its windows with all its
 * draws, those of a unit together: k of n positions masked, mean the sum of cross-entropies over k. counted:
 * the positions that the sum is over, masked or not (n, or n - 1 without the end token). */
void dlm__estimate_draw(dlm_estimate *estimate, size_t n, size_t counted, size_t k, double mean);
void dlm__estimate_end_window(dlm_estimate *estimate);
void dlm__estimate_end_document(dlm_estimate *estimate);

/* Nats per token, and 95 % intervals by Student's t with as many degrees of freedom as the error has. A
 * standard error that the data do not tell (of the masks from one unit a window, of the documents from one
 * document) is not a number, as is everything without any window. */
typedef struct dlm_estimated {
    double nelbo;
    double standard_error, interval[2];
    double standard_error_documents, interval_documents[2];
} dlm_estimated;
dlm_estimated dlm__estimate(const dlm_estimate *estimate);
/* Nats and positions of all windows: their quotient is the NELBO. */
void dlm__estimate_sums(const dlm_estimate *estimate, double *nats, double *positions);

/* The 97.5th percentile of Student's t: within 0.005 for `degrees` of freedom from 1 on, infinite below. */
double dlm__student(double degrees);
/* interval = value -+ dlm__student(degrees) * error. */
void dlm__interval(double value, double error, double degrees, double interval[2]);

#endif
