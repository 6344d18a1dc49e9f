/* Rows of probabilities. Nothing is sorted: a truncation needs only the value at its edge, found by the bits
 * of positive floats, which are ordered as the floats are. */
#include "diffusion/distribution.h"

#include <math.h>
#include <string.h>

#define TEMPERATURE_MIN 1e-3
#define TEMPERATURE_MAX 1e3
#define PENALTY_MIN     1e-3
#define PENALTY_MAX     1e3
#define GUIDANCE_MAX    1e3

dlm_drawing dlm__drawing(double temperature) {
    return (dlm_drawing){.temperature = temperature, .top_p = 1, .repetition_penalty = 1};
}

static dlm_status check_range(const char *what, double value, double least, double most, dlm_error *err) {
    if (value >= least && value <= most) return DLM_OK;
    return dlm__fail(err, DLM_ARGUMENT, "%s %g is not from %g to %g", what, value, least, most);
}

dlm_status dlm__drawing_check(const dlm_drawing *d, size_t V, dlm_error *err) {
    if (d->temperature != 0 && !(d->temperature >= TEMPERATURE_MIN && d->temperature <= TEMPERATURE_MAX))
        return dlm__fail(err, DLM_ARGUMENT, "temperature %g is neither 0 nor from %g to %g", d->temperature,
                         TEMPERATURE_MIN, TEMPERATURE_MAX);
    if (!(d->top_p > 0 && d->top_p <= 1))
        return dlm__fail(err, DLM_ARGUMENT, "top-p %g is not above 0 and at most 1", d->top_p);
    DLM_TRY(check_range("min-p", d->min_p, 0, 1, err));
    DLM_TRY(check_range("repetition penalty", d->repetition_penalty, PENALTY_MIN, PENALTY_MAX, err));
    DLM_TRY(check_range("guidance", d->guidance, 0, GUIDANCE_MAX, err));
    for (size_t i = 0; i < d->banned_n; i++)
        if (d->banned[i] < 0 || (size_t)d->banned[i] >= V)
            return dlm__fail(err, DLM_ARGUMENT, "banned token %ld: the vocabulary has %zu",
                             (long)d->banned[i], V);
    return DLM_OK;
}

double dlm__drawing_scale(const dlm_drawing *drawing) {
    return drawing->temperature > 0 ? 1.0 / drawing->temperature : 1.0;
}

void dlm__penalise(float *logits, const int32_t *ids, size_t n, double penalty) {
    for (size_t i = 0; i < n; i++) {
        float *logit = &logits[ids[i]];
        *logit = (float)(*logit > 0 ? (double)*logit / penalty : (double)*logit * penalty);
    }
}

/* ---- sums and the largest --------------------------------------------------------------------------------
 */

/* Eight sums at a time do not wait for each other; the sum of each block lets a draw skip all blocks but one.
 */
enum { LANES = 8, BLOCK = 128 };

static double sum_of(size_t n, const float *p) {
    double sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) sums[j] += (double)p[i + j];
    for (; i < n; i++) sums[0] += (double)p[i];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

double dlm__total(size_t V, const float *p) {
    double total = 0;
    for (size_t i = 0; i < V; i += BLOCK) total += sum_of(V - i < BLOCK ? V - i : BLOCK, p + i);
    return total;
}

size_t dlm__most_probable(size_t V, const float *p) {
    float most[LANES];
    size_t i = 0, at = 0;
    for (size_t j = 0; j < LANES; j++) most[j] = p[0];
    for (; i + LANES <= V; i += LANES)
        for (size_t j = 0; j < LANES; j++) most[j] = p[i + j] > most[j] ? p[i + j] : most[j];
    for (; i < V; i++) most[0] = p[i] > most[0] ? p[i] : most[0];
    for (size_t j = 1; j < LANES; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
    while (at + 1 < V && p[at] != most[0]) at++; /* the end: nothing is a number */
    return p[at] == most[0] ? at : 0;
}

float dlm__margin(size_t V, const float *p) {
    float first = 0, second = 0;
    for (size_t i = 0; i < V; i++) {
        if (p[i] <= second) continue;
        second = p[i] > first ? first : p[i];
        first = p[i] > first ? p[i] : first;
    }
    return first - second;
}

/* log p_i = scale x_i - log Z, so H = log Z - scale sum p_i x_i, with log Z from the most probable token. */
double dlm__entropy(size_t V, const float *p, const float *logits, double scale) {
    double sums[LANES] = {0}, sum = 0;
    for (size_t i = 0; i < V; i++)
        if (p[i] > 0) sums[i % LANES] += (double)p[i] * (double)logits[i];
    for (size_t j = 0; j < LANES; j++) sum += sums[j];
    const size_t best = dlm__most_probable(V, p);
    const double entropy = scale * ((double)logits[best] - sum) - log((double)p[best]);
    return entropy > 0 ? entropy : 0;
}

/* ---- truncation ------------------------------------------------------------------------------------------
 */

/* Where a truncation ends: all values above `value` stay, and of those equal to it the first `equal`. */
typedef struct edge {
    float value;
    size_t equal;
} edge;

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The edge at which what is at or above it first weighs `target` or more, each value weighing itself or
 * (by_count) 1: a radix search from the largest down, 11 bits at a time (the sign is 0). */
enum { DIGITS = 3, DIGIT_BITS = 11, BUCKETS = 1 << DIGIT_BITS };

static edge find_edge(size_t V, const float *p, double target, bool by_count) {
    double weight[BUCKETS], above = 0;
    uint32_t prefix = 0;
    for (int digit = DIGITS - 1; digit >= 0; digit--) {
        const int shift = digit * DIGIT_BITS;
        size_t bucket = BUCKETS, lowest = BUCKETS;
        memset(weight, 0, sizeof weight);
        for (size_t i = 0; i < V; i++) {
            const uint32_t bits = bits_of(p[i]);
            if (bits == 0 || (uint64_t)bits >> (shift + DIGIT_BITS) != prefix) continue;
            weight[bits >> shift & (BUCKETS - 1)] += by_count ? 1.0 : (double)p[i];
        }
        while (bucket-- > 0) {
            if (weight[bucket] <= 0) continue;
            lowest = bucket;
            if (above + weight[bucket] >= target) break;
            above += weight[bucket];
        }
        /* Rounding, or fewer values than asked for: the lowest there is. */
        if (bucket == SIZE_MAX) above -= weight[lowest];
        prefix = prefix << DIGIT_BITS | (uint32_t)lowest;
    }
    const float value = float_of(prefix);
    const double equal = ceil((target - above) / (by_count ? 1.0 : (double)value));
    return (edge){.value = value, .equal = equal > 1 ? (size_t)equal : 1};
}

static void cut(size_t V, float *p, edge at) {
    for (size_t i = 0; i < V; i++) {
        if (p[i] > at.value) continue;
        if (p[i] < at.value || at.equal == 0)
            p[i] = 0;
        else
            at.equal--;
    }
}

void dlm__truncate(const dlm_drawing *drawing, size_t V, float *p) {
    if (drawing->top_k > 0 && drawing->top_k < V) cut(V, p, find_edge(V, p, (double)drawing->top_k, true));
    if (drawing->top_p < 1) cut(V, p, find_edge(V, p, drawing->top_p * dlm__total(V, p), false));
    if (drawing->min_p <= 0) return;
    const float least = (float)(drawing->min_p * (double)p[dlm__most_probable(V, p)]);
    for (size_t i = 0; i < V; i++)
        if (p[i] < least) p[i] = 0;
}

/* ---- the draw --------------------------------------------------------------------------------------------
 */

/* The first token with cumulative > u * total has a probability above 0. Rounding may make a block's tokens,
 * added one by one, less than their sum: then the last such token of the block is it; or u * total the total:
 * then `best`. */
size_t dlm__draw(size_t V, const float *p, double total, double u, size_t best) {
    const double target = u * total;
    double cumulative = 0;
    size_t token = best;
    for (size_t i = 0; i < V && cumulative <= target; i += BLOCK) {
        const size_t n = V - i < BLOCK ? V - i : BLOCK;
        const double behind = cumulative + sum_of(n, p + i);
        for (size_t j = i; behind > target && j < i + n && cumulative <= target; j++) {
            cumulative += (double)p[j];
            if (p[j] > 0) token = j;
        }
        cumulative = behind;
    }
    return token;
}
