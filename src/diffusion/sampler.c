/* The sampler: reveals masked positions step by step (predictor) and masks committed ones again (corrector,
 * remasking). docs/sampling.md describes the rules.
 *
 * Sources: order.c and reverse.h name those of the orders; remasking committed tokens as a corrector follows
 * Lezama et al. (2022). */
#include "diffusion/sampler.h"

#include "diffusion/order.h"
#include "diffusion/reverse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct sampler {
    const dlm_sample_options *options;
    dlm_sampling *state;
    size_t steps; /* of the sequence that takes the most */
    dlm_choice choice;
    double *share;   /* (n) share of each sequence that was masked at the start */
    double *masked;  /* (n) FIRST_HITTING: probability that a free position is masked by now */
    uint8_t *remask; /* (T) what this step masks again */
    double started, step_started, step_seconds;
    double clock_share; /* of the time allowed, how much will be used when this step ends; 0 without limit */
    dlm_arena arena;
} sampler;

dlm_sample_options dlm_sample_defaults(void) {
    return (dlm_sample_options){.temperature = 0.9,
                                .top_p = 1,
                                .repetition_penalty = 1,
                                .order = DLM_ORDER_CONFIDENCE,
                                .reveal = DLM_REVEAL_COSINE,
                                .confidence_threshold = -1,
                                .entropy_bound = -1,
                                .corrector_every = 2,
                                .corrector_mode = DLM_CORRECTOR_RANDOM,
                                .eta = -1};
}

dlm_status dlm__sample_check(const dlm_sample_options *o, dlm_error *err) {
    DLM_TRY(dlm__order_check(o, err));
    DLM_TRY(dlm__remask_check(o, err));
    if (!(o->corrector_frac >= 0 && o->corrector_frac <= 1))
        return dlm__fail(err, DLM_ARGUMENT, "corrector fraction %g is not from 0 to 1", o->corrector_frac);
    if (o->corrector_every == 0)
        return dlm__fail(err, DLM_ARGUMENT, "the corrector cannot run every 0 steps");
    if ((unsigned)o->corrector_mode > DLM_CORRECTOR_LOW_CONFIDENCE)
        return dlm__fail(err, DLM_ARGUMENT, "corrector mode %d is none of 0 to %d", (int)o->corrector_mode,
                         DLM_CORRECTOR_LOW_CONFIDENCE);
    if (!(o->max_seconds >= 0))
        return dlm__fail(err, DLM_ARGUMENT, "%g seconds at most are less than none", o->max_seconds);
    return DLM_OK;
}

dlm_drawing dlm__drawing_of(const dlm_sample_options *o) {
    return (dlm_drawing){.temperature = o->temperature,
                         .top_k = o->top_k,
                         .top_p = o->top_p,
                         .min_p = o->min_p,
                         .repetition_penalty = o->repetition_penalty,
                         .guidance = o->guidance,
                         .banned = o->banned,
                         .banned_n = o->banned_n,
                         .allow = o->allow,
                         .allow_user = o->allow_user};
}

/* ---- steps of a sequence ------------------------------------------------------------------------------ */

static size_t length_of(const sampler *s, size_t b) {
    return s->state->offsets[b + 1] - s->state->offsets[b];
}

/* Sequence b takes its own number of steps and is left alone after them, so that its text does not depend on
 * what is sampled beside it. */
static size_t steps_of(const sampler *s, size_t b) {
    return dlm__steps_of(s->options, length_of(s, b));
}

static bool finished(const sampler *s, size_t b, size_t step) {
    return step >= steps_of(s, b);
}

/* Of the sequence's run, the share that is over when this step ends. */
static double share_of(const sampler *s, size_t b, size_t step) {
    const double share = (double)(step + 1) / (double)steps_of(s, b);
    return fmin(fmax(share, s->clock_share), 1);
}

/* ---- predictor ---------------------------------------------------------------------------------------- */

/* The masked positions of sequence b; returns how many. */
static size_t masked_candidates(sampler *s, size_t b) {
    const dlm_sampling *state = s->state;
    const size_t first = state->offsets[b];
    size_t n = 0;
    for (size_t p = first; p < state->offsets[b + 1]; p++)
        if (state->ids[p] == state->model->mask_id)
            s->choice.candidates[n++] = (dlm_candidate){state->certainty[p], (uint32_t)(p - first)};
    return n;
}

/* Each revealed position with probability `remask`; of CONF with a share of it by exp(-confidence). */
static void mark_remasked(sampler *s, size_t b, double remask) {
    const dlm_sampling *state = s->state;
    double total = 1;
    if (s->options->remask == DLM_REMASK_CONF) {
        total = 0;
        for (size_t p = state->offsets[b]; p < state->offsets[b + 1]; p++)
            if (!state->fixed[p] && state->ids[p] != state->model->mask_id)
                total += exp(-(double)state->confidence[p]);
    }
    for (size_t p = state->offsets[b]; p < state->offsets[b + 1]; p++) {
        if (state->fixed[p] || state->ids[p] == state->model->mask_id) continue;
        const double weight =
            s->options->remask == DLM_REMASK_CONF ? exp(-(double)state->confidence[p]) / total : 1;
        s->remask[p] = dlm__rng_uniform(&state->rng[b]) < remask * weight;
    }
}

/* What the reverse process does in sequence b, `left` of whose positions are masked. */
static void want_ancestral(sampler *s, size_t b, size_t step, size_t left) {
    const dlm_sampling *state = s->state;
    const dlm_reverse_step at = dlm__reverse_step(s->options, state->model->layout->config.schedule,
                                                  s->share[b], steps_of(s, b), step);
    state->fed[b] = at.fed;
    (void)dlm__mask_independently(&state->rng[b], left, at.reveal, s->choice.chosen);
    if (s->options->remask != DLM_REMASK_NONE) mark_remasked(s, b, at.remask);
}

static void want_first_hit(sampler *s, size_t b, size_t left) {
    const dlm_sampling *state = s->state;
    if (left == 0) return;
    s->masked[b] = dlm__next_hit(&state->rng[b], s->masked[b], left);
    state->fed[b] = dlm__sigma_inverse(state->model->layout->config.schedule, s->masked[b] * s->share[b]);
    memset(s->choice.chosen, 0, left);
    s->choice.chosen[dlm__rng_below(&state->rng[b], left)] = 1;
}

/* An order that does not look at the predictions: its positions are chosen first, and only they are
 * predicted. */
static void want_blindly(sampler *s, size_t step) {
    dlm_sampling *state = s->state;
    const dlm_order order = s->options->order;
    state->told = order == DLM_ORDER_ANCESTRAL || order == DLM_ORDER_FIRST_HITTING;
    for (size_t b = 0; b < state->n; b++) {
        if (finished(s, b, step)) continue;
        const size_t left = masked_candidates(s, b);
        if (order == DLM_ORDER_ANCESTRAL)
            want_ancestral(s, b, step, left);
        else if (order == DLM_ORDER_FIRST_HITTING)
            want_first_hit(s, b, left);
        else if (left > 0)
            dlm__choose(s->options, &state->rng[b], length_of(s, b), share_of(s, b, step), left, &s->choice);
        for (size_t i = 0; i < left; i++)
            state->wanted[state->offsets[b] + s->choice.candidates[i].position] = s->choice.chosen[i];
    }
}

/* Of what was predicted in sequence b, commits what the order chooses. */
static void reveal(sampler *s, size_t b, size_t step) {
    const size_t left = masked_candidates(s, b);
    if (left == 0) return;
    dlm__choose(s->options, &s->state->rng[b], length_of(s, b), share_of(s, b, step), left, &s->choice);
    for (size_t i = 0; i < left; i++)
        if (s->choice.chosen[i])
            dlm__sampling_commit(s->state, s->state->offsets[b] + s->choice.candidates[i].position);
}

/* Masks what the step chose to, after its predictions: reveals and remasks are of the same state. */
static void remask(sampler *s) {
    dlm_sampling *state = s->state;
    for (size_t p = 0; p < state->T; p++)
        if (s->remask[p]) {
            state->ids[p] = state->model->mask_id;
            state->confidence[p] = 0;
            s->remask[p] = 0;
        }
}

static dlm_status predictor(sampler *s, size_t step, dlm_error *err) {
    dlm_sampling *state = s->state;
    if (dlm__order_is_blind(s->options)) {
        want_blindly(s, step);
        DLM_TRY(dlm__sampling_resample(state, err));
        if (s->options->remask != DLM_REMASK_NONE) remask(s);
        return DLM_OK;
    }
    for (size_t b = 0; b < state->n; b++)
        for (size_t p = state->offsets[b]; p < state->offsets[b + 1]; p++)
            state->wanted[p] = !finished(s, b, step) && state->ids[p] == state->model->mask_id;
    DLM_TRY(dlm__sampling_predict(state, err));
    for (size_t b = 0; b < state->n; b++)
        if (!finished(s, b, step)) reveal(s, b, step);
    return DLM_OK;
}

/* ---- corrector ---------------------------------------------------------------------------------------- */

static size_t committed_candidates(sampler *s, size_t b) {
    const dlm_sampling *state = s->state;
    const size_t first = state->offsets[b];
    size_t n = 0;
    for (size_t p = first; p < state->offsets[b + 1]; p++)
        if (state->ids[p] != state->model->mask_id && !state->fixed[p])
            s->choice.candidates[n++] = (dlm_candidate){state->confidence[p], (uint32_t)(p - first)};
    return n;
}

static dlm_status corrector(sampler *s, size_t step, dlm_error *err) {
    dlm_sampling *state = s->state;
    const double frac = s->options->corrector_frac;
    memset(state->wanted, 0, state->T);
    state->told = false;
    for (size_t b = 0; b < state->n; b++) {
        const size_t committed = finished(s, b, step) ? 0 : committed_candidates(s, b);
        if (committed == 0) continue;
        if (s->options->corrector_mode == DLM_CORRECTOR_RANDOM) {
            (void)dlm__mask_independently(&state->rng[b], committed, frac, s->choice.chosen);
        } else {
            const double k = rint(frac * (double)committed); /* half to even */
            dlm__choose_least_certain(committed, k > 1 ? (size_t)k : 1, &s->choice);
        }
        for (size_t i = 0; i < committed; i++)
            state->wanted[state->offsets[b] + s->choice.candidates[i].position] = s->choice.chosen[i];
    }
    return dlm__sampling_resample(state, err);
}

/* ---- the steps ---------------------------------------------------------------------------------------- */

/* Is the time up? Else how far the clock will be when a step as long as the longest so far has been taken. */
static bool out_of_time(sampler *s) {
    const double most = s->options->max_seconds, now = dlm__seconds();
    if (most <= 0) return false;
    s->step_seconds = fmax(s->step_seconds, now - s->step_started);
    s->step_started = now;
    s->clock_share = (now - s->started + s->step_seconds) / most;
    /* This step and, should it not be the last, the one that reveals the rest. */
    return s->clock_share + s->step_seconds / most > 1;
}

/* Reveals what is left, in a pass of its own; the step's stream is that of no other. */
static dlm_status reveal_rest(sampler *s, size_t step, size_t steps, dlm_error *err) {
    dlm__sampling_begin(s->state, UINT32_MAX);
    DLM_TRY(dlm__sampling_fill(s->state, err));
    return dlm__sampling_report(s->state, step, steps, err);
}

static dlm_status run(sampler *s, dlm_error *err) {
    dlm_sampling *state = s->state;
    const dlm_sample_options *o = s->options;
    s->started = s->step_started = dlm__seconds();
    DLM_TRY(dlm__sampling_report(state, 0, s->steps, err));
    for (size_t i = 0; i < s->steps && !state->stopped; i++) {
        const size_t left = dlm__sampling_left(state);
        if (left == 0 && o->corrector_frac <= 0 && (o->remask == DLM_REMASK_NONE || i == 0)) return DLM_OK;
        if (out_of_time(s)) return left > 0 ? reveal_rest(s, i + 1, s->steps, err) : DLM_OK;
        dlm__sampling_begin(state, i);
        if (left > 0 || o->remask != DLM_REMASK_NONE) DLM_TRY(predictor(s, i, err));
        if (o->corrector_frac > 0 && (i + 1) % o->corrector_every == 0) DLM_TRY(corrector(s, i, err));
        DLM_TRY(dlm__sampling_report(state, i + 1, s->steps, err));
    }
    if (state->stopped || dlm__sampling_left(state) == 0) return DLM_OK;
    /* Only the callback can have masked positions at a sequence's last step. */
    return reveal_rest(s, s->steps + 1, s->steps + 1, err);
}

static void layout(sampler *s) {
    const size_t longest = s->state->longest;
    s->choice.candidates = dlm__arena_take(&s->arena, longest, sizeof *s->choice.candidates);
    s->choice.chosen = dlm__arena_take(&s->arena, longest, sizeof *s->choice.chosen);
    s->choice.scratch = dlm__arena_take(&s->arena, longest, sizeof *s->choice.scratch);
    s->share = dlm__arena_take(&s->arena, s->state->n, sizeof *s->share);
    s->masked = dlm__arena_take(&s->arena, s->state->n, sizeof *s->masked);
    s->remask = dlm__arena_take(&s->arena, s->state->T, sizeof *s->remask);
}

static dlm_status allocate_and_run(sampler *s, dlm_error *err) {
    layout(s);
    DLM_TRY(dlm__arena_allocate(&s->arena, "the sampler", err));
    layout(s);
    for (size_t b = 0; b < s->state->n; b++) {
        if (steps_of(s, b) > s->steps) s->steps = steps_of(s, b);
        const size_t masked = dlm__sampling_masked(s->state, b);
        /* Without masks there is no process to run, whatever the share. */
        s->share[b] = masked > 0 ? (double)masked / (double)length_of(s, b) : 1;
        s->masked[b] = 1;
    }
    return run(s, err);
}

static dlm_sampling_start start_of(const dlm_sample_options *o, size_t n, const size_t *lengths, int32_t *ids,
                                   const uint8_t *fixed) {
    return (dlm_sampling_start){.purpose = DLM_RNG_SAMPLE,
                                .seed = o->seed,
                                .drawing = dlm__drawing_of(o),
                                .certainty = dlm__order_certainty(o),
                                .n = n,
                                .lengths = lengths,
                                .ids = ids,
                                .fixed = fixed,
                                .on_step = o->on_step,
                                .user = o->user};
}

dlm_status dlm__sample(const char *isa, const dlm_model *model, const dlm_sample_options *options,
                       size_t first, size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                       float *confidence, size_t *forwards, dlm_error *err) {
    if (forwards != NULL) *forwards = 0;
    DLM_TRY(dlm__sample_check(options, err));
    if (n == 0) return DLM_OK;
    dlm_sampling_start start = start_of(options, n, lengths, ids, fixed);
    start.first = first;
    sampler s = {.options = options};
    DLM_TRY(dlm__sampling_create(isa, model, &start, &s.state, err));
    const dlm_status status = allocate_and_run(&s, err);
    if (forwards != NULL) *forwards = s.state->forwards;
    if (confidence != NULL) memcpy(confidence, s.state->confidence, s.state->T * sizeof *confidence);
    dlm__arena_free(&s.arena);
    dlm__sampling_free(s.state);
    return status;
}

dlm_status dlm__replay_sample(const char *isa, const dlm_model *model, const dlm_sample_options *options,
                              size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                              const dlm_replay *replay, dlm_error *err) {
    DLM_TRY(dlm__sample_check(options, err));
    if (n == 0) return DLM_OK;
    dlm_sampling_start start = start_of(options, n, lengths, ids, fixed);
    start.target = replay->target;
    sampler s = {.options = options};
    DLM_TRY(dlm__sampling_create(isa, model, &start, &s.state, err));
    const dlm_status status = allocate_and_run(&s, err);
    for (size_t b = 0; b < n; b++) {
        double sum = 0;
        for (size_t p = s.state->offsets[b]; p < s.state->offsets[b + 1]; p++) sum += s.state->committed[p];
        replay->log_likelihood[b] = sum;
        if (replay->forwards != NULL) replay->forwards[b] = s.state->passes[b];
    }
    dlm__arena_free(&s.arena);
    dlm__sampling_free(s.state);
    return status;
}

dlm_status dlm_sample(const dlm_model *model, const dlm_sample_options *options, size_t first, size_t n,
                      const size_t *lengths, int32_t *ids, const uint8_t *fixed, float *confidence,
                      size_t *forwards, dlm_error *err) {
    return dlm__sample(NULL, model, options, first, n, lengths, ids, fixed, confidence, forwards, err);
}
