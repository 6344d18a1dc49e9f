/* Sources: `confidence` is MaskGIT's order (Chang et al. 2022) and that of the mask-predict family
 * (Ghazvininejad et al. 2019); `margin` is from Kim et al., Train for the worst, plan for the best (2025);
 * the threshold is the parallel decoding of Wu et al., Fast-dLLM (2025); the entropy bound is after Ben-Hamu
 * et al., Accelerated sampling from masked diffusion models via entropy bounded unmasking (2025). */
#include "diffusion/order.h"

#include <stdlib.h>
#include <string.h>

const char *dlm__order_name(dlm_order order) {
    static const char *const names[] = {"confidence", "confidence_weighted", "random",    "margin",
                                        "entropy",    "left_to_right",       "ancestral", "first_hitting"};
    return names[order];
}

static bool in_unit_interval(double x) {
    return x >= 0 && x <= 1;
}

static dlm_status check_ranges(const dlm_sample_options *o, dlm_error *err) {
    if (o->steps > UINT32_MAX - 1)
        return dlm__fail(err, DLM_ARGUMENT, "%zu steps are more than %lu", o->steps,
                         (unsigned long)(UINT32_MAX - 1));
    if ((unsigned)o->order > DLM_ORDER_FIRST_HITTING)
        return dlm__fail(err, DLM_ARGUMENT, "order %d is none of 0 to %d", (int)o->order,
                         DLM_ORDER_FIRST_HITTING);
    if ((unsigned)o->reveal > DLM_REVEAL_LINEAR)
        return dlm__fail(err, DLM_ARGUMENT, "reveal schedule %d is none of 0 to %d", (int)o->reveal,
                         DLM_REVEAL_LINEAR);
    if (o->confidence_threshold != -1 && !in_unit_interval(o->confidence_threshold))
        return dlm__fail(err, DLM_ARGUMENT, "confidence threshold %g is neither -1 (off) nor from 0 to 1",
                         o->confidence_threshold);
    if (o->entropy_bound != -1 && !(o->entropy_bound >= 0))
        return dlm__fail(err, DLM_ARGUMENT, "entropy bound %g is neither -1 (off) nor at least 0",
                         o->entropy_bound);
    return DLM_OK;
}

/* A number of reveals leaves nothing for another rule to say. */
static dlm_status check_reveals(const dlm_sample_options *o, dlm_error *err) {
    if (o->reveals_per_step == 0) return DLM_OK;
    if (o->steps > 0)
        return dlm__fail(err, DLM_ARGUMENT,
                         "%zu reveals a step leave no choice of steps, which are to be %zu",
                         o->reveals_per_step, o->steps);
    if (o->confidence_threshold >= 0 || o->entropy_bound >= 0)
        return dlm__fail(
            err, DLM_ARGUMENT, "%zu reveals a step, and %s that says how many positions a step reveals",
            o->reveals_per_step, o->entropy_bound >= 0 ? "an entropy bound" : "a confidence threshold");
    if (o->order == DLM_ORDER_ANCESTRAL || o->order == DLM_ORDER_FIRST_HITTING)
        return dlm__fail(err, DLM_ARGUMENT, "%zu reveals a step: the order %s has its own",
                         o->reveals_per_step, dlm__order_name(o->order));
    return DLM_OK;
}

/* With the threshold the original's three orders play no part, as in the original; naming another one would
 * be a mistake. */
dlm_status dlm__order_check(const dlm_sample_options *o, dlm_error *err) {
    DLM_TRY(check_ranges(o, err));
    if (o->confidence_threshold >= 0 && o->entropy_bound >= 0)
        return dlm__fail(
            err, DLM_ARGUMENT,
            "a confidence threshold and an entropy bound both say how many positions a step reveals");
    if (o->confidence_threshold >= 0 && o->order > DLM_ORDER_RANDOM)
        return dlm__fail(
            err, DLM_ARGUMENT,
            "with a confidence threshold a step reveals the confident positions: there is no other order");
    if (o->entropy_bound >= 0 && o->order != DLM_ORDER_CONFIDENCE && o->order != DLM_ORDER_ENTROPY)
        return dlm__fail(
            err, DLM_ARGUMENT,
            "with an entropy bound a step reveals the positions of lowest entropy: there is no other order");
    DLM_TRY(check_reveals(o, err));
    if (o->order == DLM_ORDER_FIRST_HITTING && o->steps > 0)
        return dlm__fail(err, DLM_ARGUMENT,
                         "the order first_hitting takes a step for each masked position, not %zu", o->steps);
    return DLM_OK;
}

size_t dlm__steps_of(const dlm_sample_options *o, size_t L) {
    if (o->reveals_per_step > 0) return (L - 1) / o->reveals_per_step + 1;
    return o->steps > 0 ? o->steps : L;
}

bool dlm__order_is_blind(const dlm_sample_options *o) {
    if (o->confidence_threshold >= 0 || o->entropy_bound >= 0) return false;
    return o->order == DLM_ORDER_RANDOM || o->order == DLM_ORDER_LEFT_TO_RIGHT ||
           o->order == DLM_ORDER_ANCESTRAL || o->order == DLM_ORDER_FIRST_HITTING;
}

dlm_certainty dlm__order_certainty(const dlm_sample_options *o) {
    if (o->confidence_threshold >= 0) return DLM_CERTAINTY_CONFIDENCE;
    if (o->entropy_bound >= 0 || o->order == DLM_ORDER_ENTROPY) return DLM_CERTAINTY_ENTROPY;
    return o->order == DLM_ORDER_MARGIN ? DLM_CERTAINTY_MARGIN : DLM_CERTAINTY_CONFIDENCE;
}

/* Equals in order of position, so that the choice is a function of the certainties. */
static int by_position(const dlm_candidate *a, const dlm_candidate *b) {
    return a->position < b->position ? -1 : 1;
}

static int most_certain_first(const void *left, const void *right) {
    const dlm_candidate *a = left, *b = right;
    if (a->certainty != b->certainty) return a->certainty > b->certainty ? -1 : 1;
    return by_position(a, b);
}

static int least_certain_first(const void *left, const void *right) {
    const dlm_candidate *a = left, *b = right;
    if (a->certainty != b->certainty) return a->certainty < b->certainty ? -1 : 1;
    return by_position(a, b);
}

static void take_first(dlm_choice *c, size_t n, size_t k) {
    for (size_t i = 0; i < n; i++) c->chosen[i] = i < k;
}

void dlm__choose_least_certain(size_t n, size_t k, dlm_choice *c) {
    qsort(c->candidates, n, sizeof *c->candidates, least_certain_first);
    take_first(c, n, k);
}

/* k one after the other, each with probability proportional to its certainty among those that are left. */
static void choose_weighted(dlm_choice *c, dlm_rng *rng, size_t n, size_t k) {
    memset(c->chosen, 0, n);
    for (size_t draw = 0; draw < k; draw++) {
        double total = 0, cumulative = 0;
        for (size_t i = 0; i < n; i++)
            if (!c->chosen[i]) total += (double)c->candidates[i].certainty;
        const double target = dlm__rng_uniform(rng) * total;
        size_t pick = n;
        for (size_t i = 0; i < n && cumulative <= target; i++) {
            if (c->chosen[i]) continue;
            cumulative += (double)c->candidates[i].certainty;
            pick = i;
        }
        c->chosen[pick] = 1;
    }
}

static void choose_above(dlm_choice *c, size_t n, double threshold) {
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        c->chosen[i] = (double)c->candidates[i].certainty >= threshold;
        if (c->candidates[i].certainty > c->candidates[best].certainty) best = i;
    }
    c->chosen[best] = 1;
}

/* Those of the lowest entropy (a certainty is minus an entropy) while their sum is at most `bound`. */
static void choose_within(dlm_choice *c, size_t n, double bound) {
    qsort(c->candidates, n, sizeof *c->candidates, most_certain_first);
    double sum = 0;
    size_t k = 0;
    while (k < n && (sum -= (double)c->candidates[k].certainty) <= bound) k++;
    take_first(c, n, k > 0 ? k : 1);
}

/* How many of the n that are masked. */
static size_t reveal_count(const dlm_sample_options *o, size_t L, double share, size_t n) {
    const size_t most = o->reveals_per_step;
    if (most == 0) return dlm__reveal_count(o->reveal, L, share, L - n);
    return share >= 1 || n < most ? n : most;
}

void dlm__choose(const dlm_sample_options *o, dlm_rng *rng, size_t L, double share, size_t n, dlm_choice *c) {
    const size_t k = reveal_count(o, L, share, n);
    if ((o->confidence_threshold >= 0 || o->entropy_bound >= 0) && share >= 1)
        take_first(c, n, n);
    else if (o->confidence_threshold >= 0)
        choose_above(c, n, o->confidence_threshold);
    else if (o->entropy_bound >= 0)
        choose_within(c, n, o->entropy_bound);
    else if (o->order == DLM_ORDER_LEFT_TO_RIGHT)
        take_first(c, n, k);
    else if (o->order == DLM_ORDER_RANDOM)
        dlm__mask_exactly(rng, n, k, c->chosen, c->scratch);
    else if (o->order == DLM_ORDER_CONFIDENCE_WEIGHTED)
        choose_weighted(c, rng, n, k);
    else {
        qsort(c->candidates, n, sizeof *c->candidates, most_certain_first);
        take_first(c, n, k);
    }
}
