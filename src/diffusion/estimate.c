/* Running sums of the NELBO, and its standard errors. */
#include "diffusion/estimate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { BINS = DLM_ESTIMATE_BINS, TERMS = DLM_ESTIMATE_TERMS, NATS = 0, POSITIONS = 1, FIRST_BIN = 2 };
enum { OBSERVATIONS_PER_BIN = 8 }; /* at least, on average, or bins are joined */

void dlm__estimate_draw(dlm_estimate *e, size_t n, size_t k, double mean) {
    assert(k >= 1 && k <= n);
    const size_t bin = (BINS * k - 1) / n; /* k/n in (bin/BINS, (bin + 1)/BINS] */
    const double weight = (double)n, share = weight / (double)e->draws;
    e->window.at[NATS] += share * mean;
    e->window.at[POSITIONS] += share;
    e->window.at[FIRST_BIN + bin] += share;
    e->n[bin] += weight;
    e->nx[bin] += weight * mean;
    e->nn[bin] += weight * weight;
    e->nnx[bin] += weight * weight * mean;
    e->nnxx[bin] += weight * weight * mean * mean;
}

/* Adds terms to moments, and empties them. */
static void add(dlm_moments *moments, dlm_terms *terms) {
    moments->n++;
    for (size_t i = 0; i < TERMS; i++) {
        moments->sum[i] += terms->at[i];
        for (size_t j = 0; j <= i; j++) moments->product[i][j] += terms->at[i] * terms->at[j];
    }
    memset(terms, 0, sizeof *terms);
}

void dlm__estimate_end_window(dlm_estimate *e) {
    for (size_t i = 0; i < TERMS; i++) e->document.at[i] += e->window.at[i];
    add(&e->windows, &e->window);
}

void dlm__estimate_end_document(dlm_estimate *e) {
    add(&e->documents, &e->document);
}

/* The curve, constant in `groups` groups of bins; where nothing was seen, as in the next group below, or else
 * above, where something was. */
static void fit_curve(const dlm_estimate *e, size_t groups, double curve[BINS]) {
    const size_t width = BINS / groups;
    bool seen = false;
    for (size_t first = 0; first < BINS; first += width) {
        double n = 0, nx = 0;
        for (size_t b = first; b < first + width; b++) {
            n += e->n[b];
            nx += e->nx[b];
        }
        const double value = n > 0 ? nx / n : first > 0 ? curve[first - 1] : 0;
        const size_t from = n > 0 && !seen ? 0 : first;
        for (size_t b = from; b < first + width; b++) curve[b] = value;
        seen = seen || n > 0;
    }
}

static size_t groups_for(double observations) {
    size_t groups = BINS;
    while (groups > 1 && observations < (double)(OBSERVATIONS_PER_BIN * groups)) groups /= 2;
    return groups;
}

/* Sum over all of (nats - per_position * positions - sum_b curve_b bin_b)^2. */
static double squares(const dlm_moments *moments, double per_position, const double curve[BINS]) {
    double contrast[TERMS] = {[NATS] = 1, [POSITIONS] = -per_position}, sum = 0;
    for (size_t b = 0; b < BINS; b++) contrast[FIRST_BIN + b] = -curve[b];
    for (size_t i = 0; i < TERMS; i++) {
        for (size_t j = 0; j < i; j++) sum += 2 * contrast[i] * contrast[j] * moments->product[i][j];
        sum += contrast[i] * contrast[i] * moments->product[i][i];
    }
    return fmax(sum, 0);
}

/* Integral of the curve from 0 to r. */
static double integral(const double curve[BINS], double r) {
    double sum = 0;
    for (size_t b = 0; b < BINS; b++) sum += curve[b] * fmin(fmax(r - (double)b / BINS, 0), 1.0 / BINS);
    return sum;
}

/* What lengths that differ leave of the curve: sum_w (n_w - n)^2 times the variance of the mean of `draws`
 * values of the curve, one in each stratum of r. */
static double uncancelled(const dlm_estimate *e, const double curve[BINS]) {
    const dlm_moments *w = &e->windows;
    const double M = (double)e->draws, sum = w->sum[POSITIONS];
    const double spread = fmax(w->product[POSITIONS][POSITIONS] - sum * sum / (double)w->n, 0);
    double variance = 0;
    for (size_t b = 0; b < BINS; b++) variance += curve[b] * curve[b] / BINS;
    for (size_t d = 0; d < e->draws; d++) {
        const double part = integral(curve, (double)(d + 1) / M) - integral(curve, (double)d / M);
        variance -= M * part * part;
    }
    return spread * fmax(variance, 0) / M;
}

/* Variance of the estimated total from the masks alone, by the residuals within each window. */
static double mask_variance(const dlm_estimate *e) {
    const double M = (double)e->draws, degrees = (double)e->windows.n * (M - 1);
    const size_t groups = groups_for(degrees);
    double curve[BINS], residual = 0;
    fit_curve(e, groups, curve);
    for (size_t b = 0; b < BINS; b++)
        residual += e->nnxx[b] - 2 * curve[b] * e->nnx[b] + curve[b] * curve[b] * e->nn[b];
    residual = fmax(residual - M * squares(&e->windows, 0, curve), 0);
    residual *= degrees / (degrees - (double)(groups - 1));
    return residual / (M * (M - 1)) + uncancelled(e, curve);
}

/* The same with the documents drawn from a population of them. */
static double document_variance(const dlm_estimate *e) {
    const dlm_moments *d = &e->documents;
    double curve[BINS], rest = d->sum[NATS];
    fit_curve(e, groups_for((double)e->windows.n * (double)e->draws), curve);
    for (size_t b = 0; b < BINS; b++) rest -= curve[b] * d->sum[FIRST_BIN + b];
    const double D = (double)d->n, per_position = rest / d->sum[POSITIONS];
    return D / (D - 1) * squares(d, per_position, curve) + uncancelled(e, curve);
}

dlm_estimated dlm__estimate(const dlm_estimate *e) {
    const double positions = e->windows.sum[POSITIONS];
    dlm_estimated result = {NAN, NAN, NAN};
    if (e->windows.n == 0) return result;
    result.nelbo = e->windows.sum[NATS] / positions;
    if (e->draws > 1) result.standard_error = sqrt(mask_variance(e)) / positions;
    if (e->documents.n > 1) result.standard_error_documents = sqrt(document_variance(e)) / positions;
    return result;
}
