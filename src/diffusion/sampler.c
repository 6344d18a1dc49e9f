/* The sampler: reveals masked positions step by step (predictor) and masks committed ones again (corrector).
 *
 * Sources: the orders and the cosine reveal are MaskGIT's (Chang et al. 2022) and those of the mask-predict
 * family (Ghazvininejad et al. 2019); remasking committed tokens as a corrector follows Lezama et al. (2022)
 * and Wang et al., Remasking discrete diffusion models (2025); revealing whatever passes a confidence
 * threshold is the parallel decoding of Wu et al., Fast-dLLM (2025). docs/sampling.md describes the rules. */
#include "diffusion/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A position that may be chosen. */
typedef struct candidate {
    float confidence;
    uint32_t position; /* in its sequence */
} candidate;

typedef struct sampler {
    const dlm_sample_options *options;
    dlm_sampling *state;
    size_t steps;          /* of the sequence that takes the most */
    candidate *candidates; /* (longest) */
    uint8_t *chosen;       /* (longest) by place among the candidates */
    uint32_t *order;       /* (longest) */
    dlm_arena arena;
} sampler;

dlm_sample_options dlm_sample_defaults(void) {
    return (dlm_sample_options){.temperature = 0.9,
                                .order = DLM_ORDER_CONFIDENCE,
                                .reveal = DLM_REVEAL_COSINE,
                                .confidence_threshold = -1,
                                .corrector_every = 2,
                                .corrector_mode = DLM_CORRECTOR_RANDOM};
}

static bool in_unit_interval(double x) {
    return x >= 0 && x <= 1;
}

static dlm_status check_options(const dlm_sample_options *o, dlm_error *err) {
    DLM_TRY(dlm__temperature_check(o->temperature, err));
    if (o->steps > UINT32_MAX - 1)
        return dlm__fail(err, DLM_ARGUMENT, "%zu steps are more than %lu", o->steps,
                         (unsigned long)(UINT32_MAX - 1));
    if ((unsigned)o->order > DLM_ORDER_RANDOM)
        return dlm__fail(err, DLM_ARGUMENT, "order %d is none of 0 to %d", (int)o->order, DLM_ORDER_RANDOM);
    if ((unsigned)o->reveal > DLM_REVEAL_LINEAR)
        return dlm__fail(err, DLM_ARGUMENT, "reveal schedule %d is none of 0 to %d", (int)o->reveal,
                         DLM_REVEAL_LINEAR);
    if (o->confidence_threshold != -1 && !in_unit_interval(o->confidence_threshold))
        return dlm__fail(err, DLM_ARGUMENT, "confidence threshold %g is neither -1 (off) nor from 0 to 1",
                         o->confidence_threshold);
    if (!in_unit_interval(o->corrector_frac))
        return dlm__fail(err, DLM_ARGUMENT, "corrector fraction %g is not from 0 to 1", o->corrector_frac);
    if (o->corrector_every == 0)
        return dlm__fail(err, DLM_ARGUMENT, "the corrector cannot run every 0 steps");
    if ((unsigned)o->corrector_mode > DLM_CORRECTOR_LOW_CONFIDENCE)
        return dlm__fail(err, DLM_ARGUMENT, "corrector mode %d is none of 0 to %d", (int)o->corrector_mode,
                         DLM_CORRECTOR_LOW_CONFIDENCE);
    return DLM_OK;
}

/* ---- choosing k of the candidates: chosen[i] tells of candidates[i] ------------------------------------ */

/* Equals in order of position, so that the choice is a function of the confidences. */
static int by_position(const candidate *a, const candidate *b) {
    return a->position < b->position ? -1 : 1;
}

static int most_confident_first(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    if (a->confidence != b->confidence) return a->confidence > b->confidence ? -1 : 1;
    return by_position(a, b);
}

static int least_confident_first(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    if (a->confidence != b->confidence) return a->confidence < b->confidence ? -1 : 1;
    return by_position(a, b);
}

static void choose_first(sampler *s, size_t n, size_t k, int (*compare)(const void *, const void *)) {
    qsort(s->candidates, n, sizeof *s->candidates, compare);
    for (size_t i = 0; i < n; i++) s->chosen[i] = i < k;
}

/* k one after the other, each with probability proportional to its confidence among those that are left. */
static void choose_weighted(sampler *s, dlm_rng *rng, size_t n, size_t k) {
    memset(s->chosen, 0, n);
    for (size_t draw = 0; draw < k; draw++) {
        double total = 0, cumulative = 0;
        for (size_t i = 0; i < n; i++)
            if (!s->chosen[i]) total += (double)s->candidates[i].confidence;
        const double target = dlm__rng_uniform(rng) * total;
        size_t pick = n;
        for (size_t i = 0; i < n && cumulative <= target; i++) {
            if (s->chosen[i]) continue;
            cumulative += (double)s->candidates[i].confidence;
            pick = i;
        }
        s->chosen[pick] = 1;
    }
}

static void choose_above(sampler *s, size_t n, double threshold) {
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        s->chosen[i] = (double)s->candidates[i].confidence >= threshold;
        if (s->candidates[i].confidence > s->candidates[best].confidence) best = i;
    }
    s->chosen[best] = 1;
}

/* ---- predictor ------------------------------------------------------------------------------------------
 */

static size_t length_of(const sampler *s, size_t b) {
    return s->state->offsets[b + 1] - s->state->offsets[b];
}

/* Sequence b takes its own number of steps and is left alone after them, so that its text does not depend on
 * what is sampled beside it. */
static size_t steps_of(const sampler *s, size_t b) {
    return s->options->steps > 0 ? s->options->steps : length_of(s, b);
}

static bool finished(const sampler *s, size_t b, size_t step) {
    return step >= steps_of(s, b);
}

/* The masked positions of sequence b; returns how many. */
static size_t masked_candidates(sampler *s, size_t b) {
    const dlm_sampling *state = s->state;
    const size_t first = state->offsets[b];
    size_t n = 0;
    for (size_t p = first; p < state->offsets[b + 1]; p++)
        if (state->ids[p] == state->model->mask_id)
            s->candidates[n++] = (candidate){state->token_confidence[p], (uint32_t)(p - first)};
    return n;
}

static size_t reveal_count(const sampler *s, size_t b, size_t step, size_t left) {
    const size_t L = length_of(s, b);
    return dlm__reveal_count(s->options->reveal, L, steps_of(s, b), step, L - left);
}

/* The order `random` does not look at the predictions: its positions are chosen first, and only they are
 * predicted. */
static bool chooses_first(const sampler *s) {
    return s->options->order == DLM_ORDER_RANDOM && s->options->confidence_threshold < 0;
}

static void want_random(sampler *s, size_t step) {
    for (size_t b = 0; b < s->state->n; b++) {
        const size_t left = finished(s, b, step) ? 0 : masked_candidates(s, b);
        if (left == 0) continue;
        dlm__mask_exactly(&s->state->rng[b], left, reveal_count(s, b, step, left), s->chosen, s->order);
        for (size_t i = 0; i < left; i++)
            s->state->wanted[s->state->offsets[b] + s->candidates[i].position] = s->chosen[i];
    }
}

/* Of what was predicted in sequence b, commits what the order chooses. */
static void reveal(sampler *s, size_t b, size_t step) {
    const dlm_sample_options *o = s->options;
    const size_t left = masked_candidates(s, b);
    if (left == 0) return;
    const size_t k = reveal_count(s, b, step, left);
    if (o->confidence_threshold >= 0)
        choose_above(s, left, step + 1 == steps_of(s, b) ? 0 : o->confidence_threshold);
    else if (o->order == DLM_ORDER_CONFIDENCE)
        choose_first(s, left, k, most_confident_first);
    else
        choose_weighted(s, &s->state->rng[b], left, k);
    for (size_t i = 0; i < left; i++)
        if (s->chosen[i]) dlm__sampling_commit(s->state, s->state->offsets[b] + s->candidates[i].position);
}

static dlm_status predictor(sampler *s, size_t step, dlm_error *err) {
    dlm_sampling *state = s->state;
    if (chooses_first(s)) {
        want_random(s, step);
        return dlm__sampling_resample(state, err);
    }
    for (size_t b = 0; b < state->n; b++)
        for (size_t p = state->offsets[b]; p < state->offsets[b + 1]; p++)
            state->wanted[p] = !finished(s, b, step) && state->ids[p] == state->model->mask_id;
    DLM_TRY(dlm__sampling_predict(state, err));
    for (size_t b = 0; b < state->n; b++)
        if (!finished(s, b, step)) reveal(s, b, step);
    return DLM_OK;
}

/* ---- corrector ------------------------------------------------------------------------------------------
 */

static size_t committed_candidates(sampler *s, size_t b) {
    const dlm_sampling *state = s->state;
    const size_t first = state->offsets[b];
    size_t n = 0;
    for (size_t p = first; p < state->offsets[b + 1]; p++)
        if (state->ids[p] != state->model->mask_id && !state->fixed[p])
            s->candidates[n++] = (candidate){state->confidence[p], (uint32_t)(p - first)};
    return n;
}

static dlm_status corrector(sampler *s, size_t step, dlm_error *err) {
    dlm_sampling *state = s->state;
    const double frac = s->options->corrector_frac;
    memset(state->wanted, 0, state->T);
    for (size_t b = 0; b < state->n; b++) {
        const size_t committed = finished(s, b, step) ? 0 : committed_candidates(s, b);
        if (committed == 0) continue;
        if (s->options->corrector_mode == DLM_CORRECTOR_RANDOM) {
            (void)dlm__mask_independently(&state->rng[b], committed, frac, s->chosen);
        } else {
            const double k = rint(frac * (double)committed); /* half to even */
            choose_first(s, committed, k > 1 ? (size_t)k : 1, least_confident_first);
        }
        for (size_t i = 0; i < committed; i++)
            state->wanted[state->offsets[b] + s->candidates[i].position] = s->chosen[i];
    }
    return dlm__sampling_resample(state, err);
}

/* ---- the steps ------------------------------------------------------------------------------------------
 */

static dlm_status run(sampler *s, dlm_error *err) {
    dlm_sampling *state = s->state;
    const dlm_sample_options *o = s->options;
    DLM_TRY(dlm__sampling_report(state, 0, s->steps, err));
    for (size_t i = 0; i < s->steps && !state->stopped; i++) {
        const size_t left = dlm__sampling_left(state);
        if (left == 0 && o->corrector_frac <= 0) return DLM_OK;
        dlm__sampling_begin(state, i);
        if (left > 0) DLM_TRY(predictor(s, i, err));
        if (o->corrector_frac > 0 && (i + 1) % o->corrector_every == 0) DLM_TRY(corrector(s, i, err));
        DLM_TRY(dlm__sampling_report(state, i + 1, s->steps, err));
    }
    if (state->stopped || dlm__sampling_left(state) == 0) return DLM_OK;
    /* Only the callback can have masked positions at a sequence's last step. The stream is that of no step.
     */
    dlm__sampling_begin(state, UINT32_MAX);
    DLM_TRY(dlm__sampling_fill(state, err));
    return dlm__sampling_report(state, s->steps + 1, s->steps + 1, err);
}

static void layout(sampler *s) {
    s->candidates = dlm__arena_take(&s->arena, s->state->longest, sizeof *s->candidates);
    s->chosen = dlm__arena_take(&s->arena, s->state->longest, sizeof *s->chosen);
    s->order = dlm__arena_take(&s->arena, s->state->longest, sizeof *s->order);
}

static dlm_status allocate_and_run(sampler *s, dlm_error *err) {
    layout(s);
    DLM_TRY(dlm__arena_allocate(&s->arena, "the sampler", err));
    layout(s);
    return run(s, err);
}

dlm_status dlm__sample(const char *isa, const dlm_model *model, const dlm_sample_options *options,
                       size_t first, size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                       float *confidence, size_t *forwards, dlm_error *err) {
    if (forwards != NULL) *forwards = 0;
    DLM_TRY(check_options(options, err));
    if (n == 0) return DLM_OK;
    const dlm_sampling_start start = {.purpose = DLM_RNG_SAMPLE,
                                      .seed = options->seed,
                                      .temperature = options->temperature,
                                      .first = first,
                                      .n = n,
                                      .lengths = lengths,
                                      .ids = ids,
                                      .fixed = fixed,
                                      .on_step = options->on_step,
                                      .user = options->user};
    sampler s = {.options = options};
    DLM_TRY(dlm__sampling_create(isa, model, &start, &s.state, err));
    for (size_t b = 0; b < n; b++)
        if (steps_of(&s, b) > s.steps) s.steps = steps_of(&s, b);
    const dlm_status status = allocate_and_run(&s, err);
    if (forwards != NULL) *forwards = s.state->forwards;
    if (confidence != NULL) memcpy(confidence, s.state->confidence, s.state->T * sizeof *confidence);
    dlm__arena_free(&s.arena);
    dlm__sampling_free(s.state);
    return status;
}

dlm_status dlm_sample(const dlm_model *model, const dlm_sample_options *options, size_t first, size_t n,
                      const size_t *lengths, int32_t *ids, const uint8_t *fixed, float *confidence,
                      size_t *forwards, dlm_error *err) {
    return dlm__sample(NULL, model, options, first, n, lengths, ids, fixed, confidence, forwards, err);
}
