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

/* ---- sums and the largest ----------------------------------------------------------------------------- */

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

static float largest_of(size_t n, const float *p) {
    float most[LANES];
    size_t i = 0;
    for (size_t j = 0; j < LANES; j++) most[j] = p[0];
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) most[j] = p[i + j] > most[j] ? p[i + j] : most[j];
    for (; i < n; i++) most[0] = p[i] > most[0] ? p[i] : most[0];
    for (size_t j = 1; j < LANES; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
    return most[0];
}

/* The block of the largest, then its place there. Where nothing is a number no block has more than the first
 * value, and none of it is equal to itself. */
size_t dlm__most_probable(size_t V, const float *p) {
    float most = p[0];
    size_t block = 0;
    for (size_t i = 0; i < V; i += BLOCK) {
        const float largest = largest_of(V - i < BLOCK ? V - i : BLOCK, p + i);
        if (!(largest > most)) continue;
        most = largest;
        block = i;
    }
    for (size_t i = block; i < V && i < block + BLOCK; i++)
        if (p[i] == most) return i;
    return 0;
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
    size_t i = 0;
    for (; i + LANES <= V; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            const float logit = p[i + j] > 0 ? logits[i + j] : 0; /* it may be -inf where p is 0 */
            sums[j] += (double)p[i + j] * (double)logit;
        }
    for (; i < V; i++)
        if (p[i] > 0) sums[0] += (double)p[i] * (double)logits[i];
    for (size_t j = 0; j < LANES; j++) sum += sums[j];
    const size_t best = dlm__most_probable(V, p);
    const double entropy = scale * ((double)logits[best] - sum) - log((double)p[best]);
    return entropy > 0 ? entropy : 0;
}

/* ---- truncation --------------------------------------------------------------------------------------- */

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

/* The weight of the values whose bits begin with `prefix`, by the 8 bits behind it. Values that follow each
 * other are often of one bucket: in sums of their own they do not wait for each other. */
enum { DIGITS = 4, DIGIT_BITS = 8, BUCKETS = 1 << DIGIT_BITS, SUMS = 4 };

static void weigh(size_t n, const float *p, int shift, uint32_t prefix, bool by_count,
                  double weight[BUCKETS]) {
    double sums[SUMS][BUCKETS];
    memset(sums, 0, sizeof sums);
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(p[i]);
        if (bits == 0 || (uint64_t)bits >> (shift + DIGIT_BITS) != prefix) continue;
        sums[i % SUMS][bits >> shift & (BUCKETS - 1)] += by_count ? 1.0 : (double)p[i];
    }
    for (size_t j = 0; j < BUCKETS; j++) weight[j] = (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
}

/* The values of p whose bits begin with `prefix`, in their order, if there is room for them; returns how
 * many, or SIZE_MAX. few may be p. */
enum { FEW = 4096 };

static size_t take_bucket(size_t n, const float *p, int shift, uint32_t prefix, float few[FEW]) {
    size_t taken = 0;
    for (size_t i = 0; i < n && taken < FEW; i++) {
        few[taken] = p[i];
        taken += bits_of(p[i]) >> shift == prefix;
    }
    return taken < FEW ? taken : SIZE_MAX;
}

/* The edge at which what is at or above it first weighs `target` or more, each value weighing itself or
 * (by_count) 1: a radix search from the largest down. */
static edge find_edge(size_t n, const float *p, double target, bool by_count) {
    double weight[BUCKETS], above = 0;
    float few[FEW];
    uint32_t prefix = 0;
    for (int digit = DIGITS - 1; digit >= 0; digit--) {
        size_t bucket = BUCKETS, lowest = BUCKETS;
        weigh(n, p, digit * DIGIT_BITS, prefix, by_count, weight);
        while (bucket-- > 0) {
            if (weight[bucket] <= 0) continue;
            lowest = bucket;
            if (above + weight[bucket] >= target) break;
            above += weight[bucket];
        }
        /* Rounding, or fewer values than asked for: the lowest there is. */
        if (bucket == SIZE_MAX) above -= weight[lowest];
        prefix = prefix << DIGIT_BITS | (uint32_t)lowest;
        const size_t taken = take_bucket(n, p, digit * DIGIT_BITS, prefix, few);
        if (taken == SIZE_MAX) continue;
        n = taken;
        p = few;
    }
    const float value = float_of(prefix);
    const double equal = ceil((target - above) / (by_count ? 1.0 : (double)value));
    return (edge){.value = value, .equal = equal > 1 ? (size_t)equal : 1};
}

/* What of p lies at or above `least`, in its order, if there is room for it; returns how many, or SIZE_MAX. A
 * peaked distribution has few values worth looking at, and a search that sees them alone is several times
 * faster. */
static size_t take_large(size_t V, const float *p, float least, float few[FEW]) {
    size_t n = 0;
    for (size_t i = 0; i < V; i += LANES) {
        const size_t lanes = V - i < LANES ? V - i : LANES;
        if (n + lanes > FEW) return SIZE_MAX;
        for (size_t j = 0; j < lanes; j++) {
            few[n] = p[i + j];
            n += p[i + j] >= least;
        }
    }
    return n;
}

static edge find_top_k(size_t V, const float *p, size_t k) {
    static const float shares[] = {0x1p-8F, 0x1p-14F};
    const float most = p[dlm__most_probable(V, p)];
    float few[FEW];
    for (size_t i = 0; i < sizeof shares / sizeof *shares && k <= FEW; i++) {
        const size_t n = take_large(V, p, most * shares[i], few);
        if (n == SIZE_MAX) break;
        if (n >= k) return find_edge(n, few, (double)k, true);
    }
    return find_edge(V, p, (double)k, true);
}

/* V values below `least` are together less than half of what may be left out, so the edge is above it. */
static edge find_top_p(size_t V, const float *p, double share) {
    const double total = dlm__total(V, p);
    const float least = (float)((1 - share) * total / (2 * (double)V));
    float few[FEW];
    const size_t n = take_large(V, p, least, few);
    return n != SIZE_MAX ? find_edge(n, few, share * total, false) : find_edge(V, p, share * total, false);
}

static void cut(size_t V, float *p, edge at) {
    size_t equal = 0;
    for (size_t i = 0; i < V; i++) equal += p[i] == at.value;
    for (size_t i = 0; i < V; i++) p[i] = p[i] >= at.value ? p[i] : 0;
    for (size_t i = V; equal > at.equal && i-- > 0;) {
        if (p[i] != at.value) continue;
        p[i] = 0;
        equal--;
    }
}

void dlm__truncate(const dlm_drawing *drawing, size_t V, float *p) {
    if (drawing->top_k > 0 && drawing->top_k < V) cut(V, p, find_top_k(V, p, drawing->top_k));
    if (drawing->top_p < 1) cut(V, p, find_top_p(V, p, drawing->top_p));
    if (drawing->min_p <= 0) return;
    const float least = (float)(drawing->min_p * (double)p[dlm__most_probable(V, p)]);
    for (size_t i = 0; i < V; i++) p[i] = p[i] < least ? 0 : p[i];
}

/* ---- the draw ----------------------------------------------------------------------------------------- */

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
