/* Filling in a template: lengths for its blanks, candidates of these lengths, and the choice among them by
 * their likelihood. */
#include "diffusion/nelbo.h"
#include "diffusion/sampler.h"
#include "diffusion/template.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TRIES_OF_RANGES ((size_t)8)
#define TRIES_MOST      ((size_t)1000)

/* A call's state: C = n tries candidates, those of text b from b tries on. */
typedef struct fill {
    const dlm_model *model;
    const dlm_template *text;
    const dlm_fill_options *options;
    size_t first, n, tries, C;
    size_t *blanks;     /* (C, blanks of the text) lengths */
    size_t *lengths;    /* (C) of the candidates */
    size_t *offsets;    /* (C + 1) */
    uint32_t *shuffled; /* (tries) */
    int32_t *ids;       /* (T) */
    uint8_t *fixed;     /* (T) */
    double *nats;       /* (C) NELBO per token */
    size_t draws;       /* masks of each for that */
    double reserved;    /* of the time allowed, what scoring will take */
    size_t at;          /* first candidate of those sampled at the moment */
    size_t forwards;
    bool stopped;
    dlm_arena arena;
} fill;

dlm_fill_options dlm_fill_defaults(void) {
    return (dlm_fill_options){.sample = dlm_sample_defaults(), .draws = 16};
}

static size_t *blanks_of(const fill *f, size_t candidate) {
    return f->blanks + candidate * f->text->n;
}

/* ---- lengths ------------------------------------------------------------------------------------------ */

static bool is_open(const dlm_blank *blank) {
    return blank->most == 0;
}

/* How many combinations of lengths there are, at most `most`; that for a blank of any number. */
static size_t combinations(const dlm_template *text, size_t most) {
    size_t all = 1;
    for (size_t i = 0; i < text->n; i++) {
        const size_t own =
            is_open(&text->blanks[i]) ? most : text->blanks[i].most - text->blanks[i].least + 1;
        if (own >= most || all * own >= most) return most;
        all *= own;
    }
    return all;
}

static size_t count_tries(const dlm_template *text, size_t wanted) {
    bool ranges = false;
    for (size_t i = 0; i < text->n; i++)
        ranges |= !is_open(&text->blanks[i]) && text->blanks[i].most > text->blanks[i].least;
    if (wanted == 0) wanted = ranges ? TRIES_OF_RANGES : 1;
    return ranges ? combinations(text, wanted) : wanted;
}

/* The length of a whole text: the one asked for, or drawn until it leaves room, so that a long prompt gets
 * the lengths of long texts. */
static size_t whole_length(const fill *f, size_t candidate, size_t given) {
    enum { DRAWS = 1000 };
    const uint64_t seed = f->options->sample.seed;
    if (f->options->length > 0) return f->options->length;
    for (uint64_t i = 0; i < DRAWS; i++) {
        const size_t length = dlm_sample_length(f->model, seed + i, f->first * f->tries + candidate);
        if (length > given) return length;
    }
    return f->model->layout->config.max_seq_len;
}

/* Spread lengths of all blanks over the candidates of text b: each blank's range is cut into as many equal
 * parts as there are candidates, and each of them gets a length in another part, in an order that is random
 * but for the first blank (Latin hypercube sampling; McKay, Beckman, Conover 1979). */
static void spread_lengths(fill *f, size_t b) {
    for (size_t i = 0; i < f->text->n; i++) {
        const dlm_blank *blank = &f->text->blanks[i];
        const size_t own = blank->most - blank->least + 1;
        dlm_rng rng = dlm__rng(f->options->sample.seed, DLM_RNG_FILL, (uint32_t)(f->first + b), (uint32_t)i);
        dlm__rng_permutation(&rng, f->shuffled, f->tries);
        for (size_t k = 0; k < f->tries; k++) {
            const double part = i == 0 ? (double)k : (double)f->shuffled[k];
            const double share = (part + dlm__rng_uniform(&rng)) / (double)f->tries;
            const size_t more = (size_t)(share * (double)own);
            blanks_of(f, b * f->tries + k)[i] = blank->least + (more < own ? more : own - 1);
        }
    }
}

static void choose_lengths(fill *f, size_t b) {
    const dlm_template *text = f->text;
    const size_t given = text->starts[text->n + 1], all = combinations(text, f->tries + 1);
    for (size_t k = 0; k < f->tries; k++) {
        const size_t c = b * f->tries + k;
        size_t rest = k; /* a number whose digits are the lengths */
        for (size_t i = 0; i < text->n; i++) {
            const dlm_blank *blank = &text->blanks[i];
            const size_t own = is_open(blank) ? 1 : blank->most - blank->least + 1;
            blanks_of(f, c)[i] =
                is_open(blank) ? whole_length(f, c, given) - given : blank->least + rest % own;
            rest /= own;
        }
    }
    if (all > f->tries && text->n > 0 && !is_open(&text->blanks[0])) spread_lengths(f, b);
}

/* ---- checks ------------------------------------------------------------------------------------------- */

static dlm_status check_length(const fill *f, dlm_error *err) {
    const dlm_template *text = f->text;
    const size_t limit = f->model->layout->config.max_seq_len, given = text->starts[text->n + 1];
    const size_t length = f->options->length;
    if (text->n != 1 || !is_open(&text->blanks[0])) {
        if (length == 0) return DLM_OK;
        return dlm__fail(err, DLM_ARGUMENT,
                         "the length is asked to be %zu tokens, but the template's masks say how long it is",
                         length);
    }
    if (length > 0 && given >= length)
        return dlm__fail(err, DLM_ARGUMENT,
                         "%zu tokens are given, which leaves nothing to write: the length is %zu", given,
                         length);
    if (length == 0 && given >= limit)
        return dlm__fail(err, DLM_ARGUMENT,
                         "%zu tokens are given, which leaves nothing to write: the model takes at most %zu, "
                         "unless a greater length is asked for",
                         given, limit);
    if (length > UINT32_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "a length of %zu tokens is more than %lu", length,
                         (unsigned long)UINT32_MAX);
    return DLM_OK;
}

static dlm_status check_options(const fill *f, dlm_error *err) {
    if (f->options->tries > TRIES_MOST)
        return dlm__fail(err, DLM_ARGUMENT, "%zu tries are more than %zu", f->options->tries, TRIES_MOST);
    if (f->first > UINT32_MAX / f->tries || f->n > UINT32_MAX / f->tries - f->first)
        return dlm__fail(err, DLM_ARGUMENT,
                         "%zu texts from index %zu on, of %zu tries, pass the last index, %lu", f->n,
                         f->first, f->tries, (unsigned long)UINT32_MAX);
    return check_length(f, err);
}

/* ---- likelihoods -------------------------------------------------------------------------------------- */

/* What counts of candidate c: up to its first end token. What stands behind that costs next to nothing for
 * each token, so it would make short texts look good. */
static size_t scored_length(const fill *f, size_t c) {
    const int32_t *ids = f->ids + f->offsets[c];
    size_t n = 0;
    if (!f->model->layout->config.end_token || f->model->end_id < 0) return f->lengths[c];
    while (n < f->lengths[c] && ids[n] != f->model->end_id) n++;
    return n < f->lengths[c] ? n + 1 : n;
}

/* Candidates as sequences to be scored: a long one by consecutive windows, as in training. */
typedef struct windows {
    size_t n, tokens;
    size_t *lengths, *streams, *owners; /* (n) the number of each in its candidate, and which that is */
    double *nats;                       /* (n) */
    int32_t *ids;                       /* (tokens) */
    dlm_arena arena;
} windows;

static void layout_windows(windows *w, size_t n, size_t tokens) {
    w->lengths = dlm__arena_take(&w->arena, n, sizeof *w->lengths);
    w->streams = dlm__arena_take(&w->arena, n, sizeof *w->streams);
    w->owners = dlm__arena_take(&w->arena, n, sizeof *w->owners);
    w->nats = dlm__arena_take(&w->arena, n, sizeof *w->nats);
    w->ids = dlm__arena_take(&w->arena, tokens, sizeof *w->ids);
}

/* Masks, where nothing has been sampled yet, become some other token: only the time counts then. */
static void add_windows(windows *w, const fill *f, size_t c) {
    const size_t limit = f->model->layout->config.max_seq_len, n = scored_length(f, c);
    const int32_t *ids = f->ids + f->offsets[c], mask = f->model->mask_id;
    for (size_t at = 0; at < n; at += limit) {
        w->lengths[w->n] = n - at < limit ? n - at : limit;
        w->streams[w->n] = at / limit;
        w->owners[w->n++] = c;
    }
    for (size_t i = 0; i < n; i++) w->ids[w->tokens++] = ids[i] != mask ? ids[i] : mask == 0;
}

static bool choosing(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    (void)stage;
    const fill *f = user;
    return f->options->progress(f->options->progress_user, "choose", done, total, seconds);
}

/* NELBO per token of m candidates from `first` on. Those of one length get the same masks. */
static dlm_status score(fill *f, size_t first, size_t m, size_t draws, dlm_error *err) {
    const size_t limit = f->model->layout->config.max_seq_len;
    size_t n = 0;
    windows w = {0};
    dlm_nelbo_options options = dlm_nelbo_defaults();
    options.draws = draws;
    options.progress = f->options->progress != NULL ? choosing : NULL;
    options.user = f;
    for (size_t c = first; c < first + m; c++) n += (f->lengths[c] - 1) / limit + 1;
    layout_windows(&w, n, f->offsets[first + m] - f->offsets[first]);
    DLM_TRY(dlm__arena_allocate(&w.arena, "candidates", err));
    layout_windows(&w, n, f->offsets[first + m] - f->offsets[first]);
    for (size_t c = first; c < first + m; c++) add_windows(&w, f, c);
    const dlm_status status =
        dlm__nelbo(f->model, &options, w.streams, w.n, w.lengths, w.ids, w.nats, NULL, err);
    for (size_t c = first; c < first + m; c++) f->nats[c] = 0;
    for (size_t i = 0; i < w.n && status == DLM_OK; i++)
        f->nats[w.owners[i]] += w.nats[i] / (double)scored_length(f, w.owners[i]);
    dlm__arena_free(&w.arena);
    return status;
}

/* Where time is limited, scoring gets a part of it, half at most: by how long one mask of each candidate of
 * the first text takes. */
static dlm_status reserve_time(fill *f, dlm_error *err) {
    const double most = f->options->sample.max_seconds, started = dlm__seconds();
    f->draws = f->options->draws;
    if (!(most > 0) || f->tries == 1 || f->n == 0) return DLM_OK;
    DLM_TRY(score(f, 0, f->tries, 1, err));
    const double measured = dlm__seconds() - started, each = measured * (double)f->n;
    if (each * (double)f->draws > most / 2) f->draws = (size_t)fmax(most / 2 / each, 1);
    f->reserved = each * (double)f->draws + measured;
    return DLM_OK;
}

/* ---- candidates --------------------------------------------------------------------------------------- */

static bool on_step(void *user, const dlm_sample_step *step) {
    fill *f = user;
    const dlm_sample_options *sample = &f->options->sample;
    dlm_sample_step shown = *step;
    shown.tries = f->tries;
    f->stopped = sample->on_step != NULL && sample->on_step(sample->user, &shown);
    return f->stopped;
}

static void allow(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    fill *f = user;
    const dlm_sample_options *sample = &f->options->sample;
    dlm_template_choice choice = {f->text, blanks_of(f, f->at + sequence)};
    dlm_template_allow(&choice, sequence, position, ids, allowed);
    if (sample->allow != NULL) sample->allow(sample->allow_user, sequence, position, ids, allowed);
}

/* Samples m candidates from f->at on: all at once, or one that is longer than the model takes. */
static dlm_status sample(fill *f, const dlm_sample_options *options, size_t m, dlm_error *err) {
    const size_t limit = f->model->layout->config.max_seq_len, at = f->at, start = f->offsets[at];
    const size_t index = f->first * f->tries + at;
    size_t forwards = 0;
    dlm_status status;
    if (f->lengths[at] > limit)
        status = dlm__sample_blocks(NULL, f->model, options, f->options->context, 0, index, f->lengths[at],
                                    f->ids + start, f->fixed + start, &forwards, &f->stopped, err);
    else
        status = dlm_sample(f->model, options, index, m, f->lengths + at, f->ids + start, f->fixed + start,
                            NULL, &forwards, err);
    f->forwards += forwards;
    return status;
}

/* Of the time allowed, the part of the next m candidates. */
static double share_of_time(const fill *f, double started, size_t m) {
    const double most = f->options->sample.max_seconds;
    if (!(most > 0)) return most;
    return fmax((started + most - dlm__seconds()) * (double)m / (double)(f->C - f->at), 1e-9);
}

static dlm_status sample_all(fill *f, dlm_error *err) {
    const double started = dlm__seconds() - f->reserved;
    const size_t limit = f->model->layout->config.max_seq_len;
    const size_t most = f->options->at_once > 0 ? f->options->at_once : f->C;
    dlm_sample_options options = f->options->sample;
    options.on_step = options.on_step != NULL ? on_step : NULL;
    options.user = f;
    if (dlm__template_restricts(f->text)) {
        options.allow = allow;
        options.allow_user = f;
    }
    for (f->at = 0; f->at < f->C && !f->stopped;) {
        size_t m = 1;
        while (m < most && f->at + m < f->C && f->lengths[f->at] <= limit && f->lengths[f->at + m] <= limit)
            m++;
        options.max_seconds = share_of_time(f, started, m);
        DLM_TRY(sample(f, &options, m, err));
        f->at += m;
    }
    return f->stopped ? dlm__fail(err, DLM_CANCELLED, "stopped by the step callback") : DLM_OK;
}

/* ---- the choice --------------------------------------------------------------------------------------- */

/* Of each text the best candidate, moved to the front of ids. */
static dlm_status keep_best(fill *f, dlm_filled *filled, dlm_error *err) {
    size_t end = 0;
    if (f->tries > 1) DLM_TRY(score(f, 0, f->C, f->draws, err));
    for (size_t b = 0; b < f->n; b++) {
        size_t best = b * f->tries;
        for (size_t k = 1; k < f->tries; k++)
            if (f->nats[b * f->tries + k] < f->nats[best]) best = b * f->tries + k;
        memmove(f->ids + end, f->ids + f->offsets[best], f->lengths[best] * sizeof *f->ids);
        filled[b] = (dlm_filled){.length = f->lengths[best],
                                 .candidate = best - b * f->tries,
                                 .nats_per_token = f->tries > 1 ? f->nats[best] : (double)NAN};
        end += f->lengths[best];
    }
    return DLM_OK;
}

/* ---- the call ----------------------------------------------------------------------------------------- */

static void layout(fill *f) {
    size_t lengths;
    if (!dlm__size_mul(f->C, f->text->n, &lengths)) f->arena.overflow = true;
    f->blanks = dlm__arena_take(&f->arena, lengths, sizeof *f->blanks);
    f->lengths = dlm__arena_take(&f->arena, f->C, sizeof *f->lengths);
    f->offsets = dlm__arena_take(&f->arena, f->C + 1, sizeof *f->offsets);
    f->shuffled = dlm__arena_take(&f->arena, f->tries, sizeof *f->shuffled);
    f->nats = dlm__arena_take(&f->arena, f->C, sizeof *f->nats);
}

static dlm_status lay_out_candidates(fill *f, dlm_error *err) {
    layout(f);
    DLM_TRY(dlm__arena_allocate(&f->arena, "candidates", err));
    layout(f);
    for (size_t b = 0; b < f->n; b++) choose_lengths(f, b);
    for (size_t c = 0; c < f->C; c++) {
        f->lengths[c] = dlm_template_layout(f->text, blanks_of(f, c), NULL, NULL);
        if (!dlm__size_add(f->offsets[c], f->lengths[c], &f->offsets[c + 1]))
            return dlm__fail_memory(err, "candidates", f->lengths[c]);
    }
    const size_t T = f->offsets[f->C];
    f->ids = dlm__calloc(T, sizeof *f->ids);
    f->fixed = dlm__calloc(T, sizeof *f->fixed);
    if (f->ids == NULL || f->fixed == NULL) return dlm__fail_memory(err, "candidates", T * sizeof *f->ids);
    for (size_t c = 0; c < f->C; c++)
        (void)dlm_template_layout(f->text, blanks_of(f, c), f->ids + f->offsets[c], f->fixed + f->offsets[c]);
    return DLM_OK;
}

static dlm_status run(fill *f, dlm_filled *filled, dlm_error *err) {
    if (f->text->model != f->model)
        return dlm__fail(err, DLM_ARGUMENT, "the template was made for another model");
    if (f->options->draws == 0) return dlm__fail(err, DLM_ARGUMENT, "0 draws tell nothing of a likelihood");
    f->tries = count_tries(f->text, f->options->tries);
    DLM_TRY(check_options(f, err));
    f->C = f->n * f->tries;
    DLM_TRY(lay_out_candidates(f, err));
    DLM_TRY(reserve_time(f, err));
    DLM_TRY(sample_all(f, err));
    return keep_best(f, filled, err);
}

dlm_status dlm_fill(const dlm_model *model, const dlm_template *text, const dlm_fill_options *options,
                    size_t first, size_t n, dlm_filled *filled, int32_t **ids, size_t *forwards,
                    dlm_error *err) {
    *ids = NULL;
    if (forwards != NULL) *forwards = 0;
    dlm_template *nothing = NULL;
    if (text == NULL) DLM_TRY(dlm_template_around(model, NULL, 0, NULL, 0, &nothing, err));
    fill f = {
        .model = model, .text = text != NULL ? text : nothing, .options = options, .first = first, .n = n};
    const dlm_status status = run(&f, filled, err);
    if (forwards != NULL) *forwards = f.forwards;
    if (status == DLM_OK)
        *ids = f.ids;
    else
        free(f.ids);
    free(f.fixed);
    dlm__arena_free(&f.arena);
    dlm_template_free(nothing);
    return status;
}
