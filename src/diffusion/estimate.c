/* Running sums of the NELBO, and its standard errors. */
#include "diffusion/estimate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    BINS = DLM_ESTIMATE_BINS,
    TERMS = DLM_ESTIMATE_TERMS,
    NATS = 0,
    WEIGHT = 1,
    POSITIONS = 2,
    FIRST_BIN = 3
};
enum { OBSERVATIONS_PER_BIN = 8 }; /* at least, on average, or bins are joined */

/* Adds terms to moments, and empties them. */
static void add(dlm_moments *moments, dlm_terms *terms) {
    moments->n++;
    for (size_t i = 0; i < TERMS; i++) {
        moments->sum[i] += terms->at[i];
        for (size_t j = 0; j <= i; j++) moments->product[i][j] += terms->at[i] * terms->at[j];
    }
    memset(terms, 0, sizeof *terms);
}

/* The share of (k - 1)/n .. k/n that lies in bin b. */
static double share_in(size_t b, size_t n, size_t k) {
    const double low = fmax((double)(k - 1), (double)(b * n) / BINS);
    const double high = fmin((double)k, (double)((b + 1) * n) / BINS);
    return fmax(high - low, 0);
}

void dlm__estimate_draw(dlm_estimate *e, size_t n, size_t counted, size_t k, double mean) {
    assert(k >= 1 && k <= n && e->draws % e->unit == 0);
    const double weight = (double)n, unit = (double)e->unit;
    e->draw_sum.at[NATS] += weight * mean / unit;
    e->draw_sum.at[WEIGHT] += weight / unit;
    e->draw_sum.at[POSITIONS] += (double)counted / unit;
    for (size_t b = BINS * (k - 1) / n; b < BINS && b * n < BINS * k; b++) {
        const double share = share_in(b, n, k);
        e->draw_sum.at[FIRST_BIN + b] += weight * share / unit;
        e->n[b] += weight * share;
        e->nx[b] += weight * share * mean;
    }
    if (++e->in_unit < e->unit) return;
    for (size_t i = 0; i < TERMS; i++) e->window.at[i] += e->draw_sum.at[i] * unit / (double)e->draws;
    add(&e->units, &e->draw_sum);
    e->in_unit = 0;
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

static size_t groups_for(const dlm_estimate *e, double observations) {
    size_t groups = e->exact ? 1 : BINS;
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

/* The curve as units see it: itself, or for pairs, whose shares are r and about 1 - r, (m(r) + m(1 - r))/2,
 * with r from 0 to 1/2 stretched to 0 to 1. */
static void fold(const dlm_estimate *e, const double curve[BINS], double folded[BINS]) {
    for (size_t b = 0; b < BINS; b++)
        folded[b] = e->unit == 1 ? curve[b] : (curve[b / 2] + curve[BINS - 1 - b / 2]) / 2;
}

/* What lengths that differ leave of the curve: sum_w (n_w - n)^2 times the variance of the mean of U values
 * of the curve, one in each of U strata of r. */
static double uncancelled(const dlm_estimate *e, const double curve[BINS]) {
    const dlm_moments *w = &e->windows;
    const size_t units = e->draws / e->unit;
    const double U = (double)units, sum = w->sum[WEIGHT];
    const double spread = fmax(w->product[WEIGHT][WEIGHT] - sum * sum / (double)w->n, 0);
    double folded[BINS], variance = 0;
    fold(e, curve, folded);
    for (size_t b = 0; b < BINS; b++) variance += folded[b] * folded[b] / BINS;
    for (size_t u = 0; u < units; u++) {
        const double part = integral(folded, (double)(u + 1) / U) - integral(folded, (double)u / U);
        variance -= U * part * part;
    }
    return spread * fmax(variance, 0) / U;
}

/* A variance of the estimated total, and its degrees of freedom. */
typedef struct dispersion {
    double variance, degrees;
} dispersion;

/* The curve less its mean. */
static void center(double curve[BINS]) {
    const double mean = integral(curve, 1);
    for (size_t b = 0; b < BINS; b++) curve[b] -= mean;
}

/* From the masks alone, by the residuals of units within each window. */
static dispersion of_masks(const dlm_estimate *e) {
    const size_t units = e->draws / e->unit;
    const double U = (double)units, degrees = (double)e->windows.n * (U - 1);
    if (U < 2) return (dispersion){NAN, 0};
    const size_t groups = groups_for(e, degrees);
    double curve[BINS];
    fit_curve(e, groups, curve);
    const double residual = fmax(squares(&e->units, 0, curve) - U * squares(&e->windows, 0, curve), 0);
    const double left = degrees - (double)(groups - 1);
    return (dispersion){residual * degrees / left / (U * (U - 1)) + uncancelled(e, curve), left};
}

/* The same with the documents drawn from a population of them. */
static dispersion of_documents(const dlm_estimate *e) {
    const dlm_moments *d = &e->documents;
    if (d->n < 2) return (dispersion){NAN, 0};
    double curve[BINS], rest = d->sum[NATS];
    fit_curve(e, groups_for(e, (double)e->windows.n * (double)e->draws), curve);
    center(curve); /* the level goes with the positions, as the estimate has it */
    for (size_t b = 0; b < BINS; b++) rest -= curve[b] * d->sum[FIRST_BIN + b];
    const double D = (double)d->n, per_position = rest / d->sum[POSITIONS];
    return (dispersion){D / (D - 1) * squares(d, per_position, curve) + uncancelled(e, curve), D - 1};
}

/* By the expansion of Cornish and Fisher (Abramowitz and Stegun, 26.7.5), and exactly where that is poor. */
double dlm__student(double degrees) {
    const double z = 1.959963984540054, z2 = z * z;
    if (degrees < 1) return INFINITY;
    if (degrees < 2) return 12.706204736; /* of 1 */
    if (degrees < 3) return 4.302652730;  /* of 2 */
    const double g1 = z * (z2 + 1) / 4, g2 = z * ((5 * z2 + 16) * z2 + 3) / 96,
                 g3 = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384,
                 g4 = z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160;
    return z + (g1 + (g2 + (g3 + g4 / degrees) / degrees) / degrees) / degrees;
}

void dlm__interval(double value, double error, double degrees, double interval[2]) {
    const double half = error == 0 ? 0 : dlm__student(degrees) * error;
    interval[0] = value - half;
    interval[1] = value + half;
}

void dlm__estimate_sums(const dlm_estimate *e, double *nats, double *positions) {
    *nats = e->windows.sum[NATS];
    *positions = e->windows.sum[POSITIONS];
}

dlm_estimated dlm__estimate(const dlm_estimate *e) {
    if (e->windows.n == 0) return (dlm_estimated){NAN, NAN, {NAN, NAN}, NAN, {NAN, NAN}};
    const double positions = e->windows.sum[POSITIONS];
    const dispersion masks = of_masks(e), documents = of_documents(e);
    dlm_estimated result = {.nelbo = e->windows.sum[NATS] / positions,
                            .standard_error = sqrt(masks.variance) / positions,
                            .standard_error_documents = sqrt(documents.variance) / positions};
    dlm__interval(result.nelbo, result.standard_error, masks.degrees, result.interval);
    dlm__interval(result.nelbo, result.standard_error_documents, documents.degrees,
                  result.interval_documents);
    return result;
}
