/* Refinement: masks a part of a text and samples it anew, pass after pass (the repeated noising and denoising
 * of Reid et al., DiffusER, 2022, in its simplest form; by low confidence: Ghazvininejad et al.,
 * Mask-predict, 2019). A text longer than the model takes is refined window by window. */
#include "diffusion/long_text.h"
#include "diffusion/order.h"
#include "diffusion/sampler.h"

#include <math.h>
#include <string.h>

enum { PARTS = 4 };

dlm_refine_options dlm_refine_defaults(void) {
    return (dlm_refine_options){.passes = 8, .frac = 0.15, .temperature = 0.9};
}

static dlm_status check_options(const dlm_model *model, const dlm_refine_options *o, dlm_error *err) {
    const size_t limit = model->layout->config.max_seq_len;
    if (o->passes == 0 || o->passes > UINT32_MAX - 1)
        return dlm__fail(err, DLM_ARGUMENT, "%zu passes are not from 1 to %lu", o->passes,
                         (unsigned long)(UINT32_MAX - 1));
    if (!(o->frac > 0 && o->frac <= 1))
        return dlm__fail(err, DLM_ARGUMENT, "fraction %g is not above 0 and at most 1", o->frac);
    if (o->context < limit) return DLM_OK;
    return dlm__fail(err, DLM_ARGUMENT,
                     "a context of %zu tokens leaves none to refine of the %zu that the model takes",
                     o->context, limit);
}

static dlm_drawing drawing_of(const dlm_refine_options *o) {
    dlm_drawing drawing = dlm__drawing(o->temperature);
    drawing.banned = o->banned;
    drawing.banned_n = o->banned_n;
    drawing.allow = o->allow;
    drawing.allow_user = o->allow_user;
    return drawing;
}

/* ---- how sure the model is of a text ------------------------------------------------------------------ */

/* What scoring needs. */
typedef struct scores {
    int32_t *ids, *token;    /* (T) */
    uint8_t *wanted;         /* (T) */
    float *confidence;       /* (T) not used */
    double *log_probability; /* (T) */
    double *times;           /* (n) */
    dlm_arena arena;
} scores;

static void layout_scores(scores *c, const dlm_sampling *s) {
    c->ids = dlm__arena_take(&c->arena, s->T, sizeof *c->ids);
    c->token = dlm__arena_take(&c->arena, s->T, sizeof *c->token);
    c->wanted = dlm__arena_take(&c->arena, s->T, sizeof *c->wanted);
    c->confidence = dlm__arena_take(&c->arena, s->T, sizeof *c->confidence);
    c->log_probability = dlm__arena_take(&c->arena, s->T, sizeof *c->log_probability);
    c->times = dlm__arena_take(&c->arena, s->n, sizeof *c->times);
}

/* Masks part `part` of each sequence: of its free positions that have a token, every fourth. Are there any?
 */
static bool mask_part(scores *c, const dlm_sampling *s, size_t part) {
    bool any = false;
    for (size_t b = 0; b < s->n; b++) {
        size_t place = 0;
        for (size_t p = s->offsets[b]; p < s->offsets[b + 1]; p++) {
            const bool free = !s->fixed[p] && s->ids[p] != s->model->mask_id;
            c->wanted[p] = free && place++ % PARTS == part;
            c->ids[p] = c->wanted[p] ? s->model->mask_id : s->ids[p];
            any = any || c->wanted[p];
        }
    }
    return any;
}

static dlm_status score_parts(scores *c, dlm_denoiser *denoiser, dlm_sampling *s, dlm_error *err) {
    const dlm_prediction prediction = {.ids = c->ids,
                                       .wanted = c->wanted,
                                       .target = s->ids,
                                       .token = c->token,
                                       .confidence = c->confidence,
                                       .log_probability = c->log_probability,
                                       .times = c->times};
    for (size_t part = 0; part < PARTS; part++) {
        if (!mask_part(c, s, part)) continue;
        s->forwards += dlm__denoiser_passes(denoiser);
        DLM_TRY(dlm__denoise(denoiser, &prediction, err));
        for (size_t p = 0; p < s->T; p++)
            if (c->wanted[p]) s->confidence[p] = (float)exp(c->log_probability[p]);
    }
    return DLM_OK;
}

/* The confidence of given tokens: the probability of each when its part is masked, at the temperature, or at
 * 1 where that is 0 (then all probabilities would be 0 or 1). */
static dlm_status score_given(const char *isa, dlm_sampling *s, dlm_error *err) {
    dlm_denoiser_options options = {.drawing = s->start.drawing};
    if (options.drawing.temperature <= 0) options.drawing.temperature = 1;
    scores c = {0};
    dlm_denoiser *denoiser = NULL;
    layout_scores(&c, s);
    dlm_status status = dlm__arena_allocate(&c.arena, "the scores of a text", err);
    if (status == DLM_OK) {
        layout_scores(&c, s);
        status = dlm__denoiser_create(isa, s->model, &options, s->n, s->offsets, &denoiser, err);
    }
    if (status == DLM_OK) status = score_parts(&c, denoiser, s, err);
    dlm__denoiser_free(denoiser);
    dlm__arena_free(&c.arena);
    return status;
}

/* ---- passes ------------------------------------------------------------------------------------------- */

/* Wants what is masked already, and every free position with probability frac. */
static void want_randomly(dlm_sampling *s, double frac) {
    for (size_t b = 0; b < s->n; b++)
        for (size_t p = s->offsets[b]; p < s->offsets[b + 1]; p++)
            if (!s->fixed[p])
                s->wanted[p] = dlm__rng_uniform(&s->rng[b]) < frac || s->ids[p] == s->model->mask_id;
}

/* Wants what is masked already, and of the other free positions the share frac (at least one) of the lowest
 * confidence. */
static void want_unsure(dlm_sampling *s, double frac, dlm_choice *choice) {
    for (size_t b = 0; b < s->n; b++) {
        const size_t first = s->offsets[b];
        size_t n = 0;
        for (size_t p = first; p < s->offsets[b + 1]; p++) {
            s->wanted[p] = s->ids[p] == s->model->mask_id;
            if (!s->fixed[p] && !s->wanted[p])
                choice->candidates[n++] = (dlm_candidate){s->confidence[p], (uint32_t)(p - first)};
        }
        if (n == 0) continue;
        const double k = rint(frac * (double)n); /* half to even */
        dlm__choose_least_certain(n, k > 1 ? (size_t)k : 1, choice);
        for (size_t i = 0; i < n; i++)
            if (choice->chosen[i]) s->wanted[first + choice->candidates[i].position] = 1;
    }
}

static dlm_status run(dlm_sampling *s, const dlm_refine_options *o, dlm_choice *choice, dlm_error *err) {
    DLM_TRY(dlm__sampling_report(s, 0, o->passes, err));
    for (size_t i = 0; i < o->passes && !s->stopped; i++) {
        dlm__sampling_begin(s, i);
        if (o->low_confidence)
            want_unsure(s, o->frac, choice);
        else
            want_randomly(s, o->frac);
        DLM_TRY(dlm__sampling_resample(s, err));
        DLM_TRY(dlm__sampling_report(s, i + 1, o->passes, err));
    }
    if (s->stopped || dlm__sampling_left(s) == 0) return DLM_OK;
    dlm__sampling_begin(s, o->passes);
    DLM_TRY(dlm__sampling_fill(s, err));
    return dlm__sampling_report(s, o->passes + 1, o->passes + 1, err);
}

static void layout_choice(dlm_arena *arena, size_t longest, dlm_choice *choice) {
    choice->candidates = dlm__arena_take(arena, longest, sizeof *choice->candidates);
    choice->chosen = dlm__arena_take(arena, longest, sizeof *choice->chosen);
    choice->scratch = dlm__arena_take(arena, longest, sizeof *choice->scratch);
}

static dlm_status score_and_run(const char *isa, dlm_sampling *s, const dlm_refine_options *o,
                                dlm_error *err) {
    dlm_arena arena = {0};
    dlm_choice choice;
    layout_choice(&arena, s->longest, &choice);
    DLM_TRY(dlm__arena_allocate(&arena, "a refinement", err));
    layout_choice(&arena, s->longest, &choice);
    dlm_status status = o->low_confidence ? score_given(isa, s, err) : DLM_OK;
    if (status == DLM_OK) status = run(s, o, &choice, err);
    dlm__arena_free(&arena);
    return status;
}

/* Texts that the model takes whole. */
static dlm_status refine_short(const char *isa, const dlm_model *model, const dlm_refine_options *options,
                               size_t first, size_t n, const size_t *lengths, int32_t *ids,
                               const uint8_t *fixed, bool *stopped, dlm_error *err) {
    const dlm_sampling_start start = {.purpose = DLM_RNG_REFINE,
                                      .seed = options->seed,
                                      .drawing = drawing_of(options),
                                      .first = first,
                                      .n = n,
                                      .lengths = lengths,
                                      .ids = ids,
                                      .fixed = fixed,
                                      .on_step = options->on_step,
                                      .user = options->user};
    dlm_sampling *s;
    DLM_TRY(dlm__sampling_create(isa, model, &start, &s, err));
    const dlm_status status = score_and_run(isa, s, options, err);
    *stopped = s->stopped;
    dlm__sampling_free(s);
    return status;
}

/* ---- long texts --------------------------------------------------------------------------------------- */

/* Windows of which the middle part is refined, with half of the context on either side; at the ends of the
 * text more of it. */
static dlm_status refine_windows(const char *isa, const dlm_model *model, const dlm_refine_options *given,
                                 size_t index, dlm_long_text *text, dlm_error *err) {
    const size_t limit = model->layout->config.max_seq_len;
    const size_t context = given->context > 0 ? given->context : limit / 2, part = limit - context;
    dlm_refine_options options = *given;
    options.on_step = dlm__long_step;
    options.user = text;
    options.allow = text->allow != NULL ? dlm__long_allow : NULL;
    options.allow_user = text;
    text->all = (text->n + part - 1) / part;
    for (size_t at = 0; at < text->n && !text->stopped; at += part) {
        const size_t last = text->n - at < part ? text->n : at + part;
        size_t start = at > context / 2 ? at - context / 2 : 0;
        if (start > text->n - limit) start = text->n - limit;
        dlm__long_next(text, start, limit, at, last);
        options.seed = dlm__long_seed(text, given->seed);
        bool stopped;
        DLM_TRY(refine_short(isa, model, &options, index, 1, &limit, text->ids + start, text->window_fixed,
                             &stopped, err));
        dlm__long_end(text);
    }
    return DLM_OK;
}

static dlm_status refine_long(const char *isa, const dlm_model *model, const dlm_refine_options *options,
                              size_t index, size_t n, int32_t *ids, const uint8_t *fixed, bool *stopped,
                              dlm_error *err) {
    dlm_long_text text;
    DLM_TRY(dlm__long_create(&text, model, n, ids, fixed, err));
    text.on_step = options->on_step;
    text.user = options->user;
    text.allow = options->allow;
    text.allow_user = options->allow_user;
    const dlm_status status = refine_windows(isa, model, options, index, &text, err);
    *stopped = text.stopped;
    dlm__long_free(&text);
    return status;
}

/* ---- the call ----------------------------------------------------------------------------------------- */

/* One of the texts, when they are refined one by one. */
typedef struct one_text {
    const dlm_refine_options *options;
    size_t sequence;
} one_text;

static void allow_in_text(void *user, size_t sequence, size_t position, const int32_t *ids,
                          uint8_t *allowed) {
    const one_text *one = user;
    (void)sequence;
    one->options->allow(one->options->allow_user, one->sequence, position, ids, allowed);
}

static dlm_status refine_one_by_one(const char *isa, const dlm_model *model, const dlm_refine_options *given,
                                    size_t first, size_t n, const size_t *lengths, int32_t *ids,
                                    const uint8_t *fixed, dlm_error *err) {
    one_text one = {.options = given};
    dlm_refine_options options = *given;
    if (given->allow != NULL) options.allow = allow_in_text;
    options.allow_user = &one;
    bool stopped = false;
    for (size_t base = 0; one.sequence < n && !stopped; base += lengths[one.sequence++]) {
        const size_t index = first + one.sequence, length = lengths[one.sequence];
        const uint8_t *own = fixed != NULL ? fixed + base : NULL;
        if (length > model->layout->config.max_seq_len)
            DLM_TRY(refine_long(isa, model, &options, index, length, ids + base, own, &stopped, err));
        else
            DLM_TRY(refine_short(isa, model, &options, index, 1, &length, ids + base, own, &stopped, err));
    }
    return DLM_OK;
}

dlm_status dlm__refine(const char *isa, const dlm_model *model, const dlm_refine_options *options,
                       size_t first, size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                       dlm_error *err) {
    bool fit = true, stopped;
    DLM_TRY(check_options(model, options, err));
    if (n == 0) return DLM_OK;
    for (size_t b = 0; b < n; b++) fit = fit && lengths[b] <= model->layout->config.max_seq_len;
    if (fit) return refine_short(isa, model, options, first, n, lengths, ids, fixed, &stopped, err);
    return refine_one_by_one(isa, model, options, first, n, lengths, ids, fixed, err);
}

dlm_status dlm_refine(const dlm_model *model, const dlm_refine_options *options, size_t first, size_t n,
                      const size_t *lengths, int32_t *ids, const uint8_t *fixed, dlm_error *err) {
    return dlm__refine(NULL, model, options, first, n, lengths, ids, fixed, err);
}
