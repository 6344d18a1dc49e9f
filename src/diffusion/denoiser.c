/* Predictions in groups: gather sequences, run the network, turn rows of logits into tokens. */
#include "diffusion/denoiser.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A group holds at most this many positions and logits, unless a single sequence has more: enough to keep
 * matrix products busy, little enough for memory. */
#define GROUP_POSITIONS ((size_t)2048)
#define GROUP_SEQUENCES ((size_t)512)
#define GROUP_LOGITS    ((size_t)1 << 24)

enum { ALWAYS_BANNED = 3, EXPECTED = 16 };

/* A prediction that is wanted: at a position of the group, for a packed position of all sequences. */
typedef struct request {
    size_t position, place, next; /* next: another of the same row; NONE */
} request;
#define NONE SIZE_MAX

struct dlm_denoiser {
    const dlm_model *model;
    dlm_compute *compute;
    dlm_workspace *workspace;
    dlm_denoiser_options options;
    size_t V, n, branches;
    const size_t *offsets; /* (n + 1) of all sequences */
    int32_t always_banned[ALWAYS_BANNED];
    /* the group being gathered: S sequences and R rows, of at most `sequences` and `capacity` positions; with
     * guidance the same again behind them, with the fixed positions masked. Sequences that look the same, as
     * all of one length do before anything is revealed, go through the network as one (`shares`). */
    size_t capacity, sequences;
    size_t S, R, W;
    bool shares;
    size_t *group_offsets; /* (branches sequences + 1) */
    float *times;          /* (branches sequences) */
    int32_t *ids;          /* (branches capacity) */
    int32_t *rows;         /* (branches capacity) */
    uint64_t *hashes;      /* (sequences) of their ids */
    size_t *masked;        /* (sequences) */
    size_t *members;       /* (sequences) the first of all sequences that looks so */
    request *wants;        /* (T) W of them, in the order of their places */
    size_t *first;         /* (capacity) of each position, then of each row: its first wanted prediction */
    size_t *owners;        /* (capacity) group sequence of each row */
    float expected[EXPECTED];
    int32_t *present;  /* (capacity) distinct ids of each group sequence from its offset on, present_n many */
    size_t *present_n; /* (sequences) */
    uint8_t *allowed;  /* (V) */
    float *logits;     /* (branches capacity, V), then probabilities */
    float *kept_logits; /* (capacity, V) for the entropy */
    uint8_t *failed;    /* (capacity) 1: a row whose probabilities are not finite */
    const dlm_prediction *prediction;
    dlm_arena arena;
};

static bool penalises(const dlm_denoiser *d) {
    return d->options.drawing.repetition_penalty != 1;
}

static bool keeps_logits(const dlm_denoiser *d) {
    return d->options.certainty == DLM_CERTAINTY_ENTROPY;
}

/* ---- making one --------------------------------------------------------------------------------------- */

static float *take_logits(dlm_denoiser *d, size_t rows) {
    size_t count;
    if (dlm__size_mul(rows, d->V, &count)) return dlm__arena_take(&d->arena, count, sizeof(float));
    d->arena.overflow = true;
    return NULL;
}

static void layout(dlm_denoiser *d) {
    const size_t sequences = d->branches * d->sequences, capacity = d->branches * d->capacity;
    d->group_offsets = dlm__arena_take(&d->arena, sequences + 1, sizeof *d->group_offsets);
    d->times = dlm__arena_take(&d->arena, sequences, sizeof *d->times);
    d->ids = dlm__arena_take(&d->arena, capacity, sizeof *d->ids);
    d->rows = dlm__arena_take(&d->arena, capacity, sizeof *d->rows);
    d->hashes = dlm__arena_take(&d->arena, d->sequences, sizeof *d->hashes);
    d->masked = dlm__arena_take(&d->arena, d->sequences, sizeof *d->masked);
    d->members = dlm__arena_take(&d->arena, d->sequences, sizeof *d->members);
    d->wants = dlm__arena_take(&d->arena, d->offsets[d->n], sizeof *d->wants);
    d->first = dlm__arena_take(&d->arena, d->capacity, sizeof *d->first);
    d->owners = dlm__arena_take(&d->arena, d->capacity, sizeof *d->owners);
    d->present = dlm__arena_take(&d->arena, penalises(d) ? d->capacity : 0, sizeof *d->present);
    d->present_n = dlm__arena_take(&d->arena, d->sequences, sizeof *d->present_n);
    d->allowed = dlm__arena_take(&d->arena, d->options.drawing.allow != NULL ? d->V : 0, 1);
    d->failed = dlm__arena_take(&d->arena, d->capacity, sizeof *d->failed);
    d->logits = take_logits(d, capacity);
    d->kept_logits = take_logits(d, keeps_logits(d) ? d->capacity : 0);
}

/* How much a group holds. */
static void size_group(dlm_denoiser *d) {
    size_t longest = 0, total = d->offsets[d->n];
    for (size_t b = 0; b < d->n; b++) {
        const size_t L = d->offsets[b + 1] - d->offsets[b];
        if (L > longest) longest = L;
    }
    d->capacity = GROUP_LOGITS / d->V < GROUP_POSITIONS ? GROUP_LOGITS / d->V : GROUP_POSITIONS;
    d->capacity /= d->branches;
    if (d->capacity > total) d->capacity = total;
    if (d->capacity < longest) d->capacity = longest;
    d->sequences = d->n < GROUP_SEQUENCES ? d->n : GROUP_SEQUENCES;
    if (d->sequences > d->capacity) d->sequences = d->capacity;
}

static dlm_status prepare(dlm_denoiser *d, const char *isa, dlm_error *err) {
    const dlm_model *model = d->model;
    DLM_TRY(dlm__drawing_check(&d->options.drawing, d->V, err));
    d->always_banned[0] = model->mask_id;
    d->always_banned[1] = model->pad_id;
    d->always_banned[2] = model->unk_id;
    size_group(d);
    layout(d);
    DLM_TRY(dlm__arena_allocate(&d->arena, "the logits of samples", err));
    layout(d);
    DLM_TRY(dlm__compute_create(isa, &d->compute, err));
    const dlm_workspace_size size = {.tokens = d->branches * d->capacity,
                                     .sequences = d->branches * d->sequences,
                                     .rows = d->branches * d->capacity,
                                     .times = d->offsets[d->n] + d->n,
                                     .lender = model->network.lender};
    return dlm__workspace_create(model->layout, model->network.type, d->compute, size, &d->workspace, err);
}

dlm_status dlm__denoiser_create(const char *isa, const dlm_model *model, const dlm_denoiser_options *options,
                                size_t n, const size_t *offsets, dlm_denoiser **denoiser, dlm_error *err) {
    *denoiser = NULL;
    dlm_denoiser *d = dlm__calloc(1, sizeof *d);
    if (d == NULL) return dlm__fail_memory(err, "a denoiser", sizeof *d);
    d->model = model;
    d->options = *options;
    d->V = model->layout->config.vocab_size;
    d->n = n;
    d->branches = options->drawing.guidance > 0 && options->fixed != NULL ? 2 : 1;
    d->shares = d->branches == 1 && options->drawing.allow == NULL;
    d->offsets = offsets;
    const dlm_status status = prepare(d, isa, err);
    if (status != DLM_OK) {
        dlm__denoiser_free(d);
        return status;
    }
    *denoiser = d;
    return DLM_OK;
}

void dlm__denoiser_free(dlm_denoiser *d) {
    if (d == NULL) return;
    dlm__workspace_free(d->workspace);
    dlm__compute_free(d->compute);
    dlm__arena_free(&d->arena);
    free(d);
}

size_t dlm__denoiser_passes(const dlm_denoiser *d) {
    return d->branches;
}

/* ---- rows of logits ----------------------------------------------------------------------------------- */

/* Guidance, repetition penalty and bans of row r; keeps its logits where asked to. */
static void adjust(void *context, size_t r) {
    dlm_denoiser *d = context;
    const dlm_drawing *drawing = &d->options.drawing;
    float *logits = d->logits + r * d->V;
    if (d->branches == 2) {
        const float w = (float)drawing->guidance, *free_logits = d->logits + (d->R + r) * d->V;
        for (size_t i = 0; i < d->V; i++) logits[i] += w * (logits[i] - free_logits[i]);
    }
    if (penalises(d))
        dlm__penalise(logits, d->present + d->group_offsets[d->owners[r]], d->present_n[d->owners[r]],
                      drawing->repetition_penalty);
    for (size_t i = 0; i < ALWAYS_BANNED; i++) {
        const int32_t id = d->always_banned[i];
        if (id >= 0 && (size_t)id < d->V) logits[id] = -INFINITY;
    }
    for (size_t i = 0; i < drawing->banned_n; i++) logits[drawing->banned[i]] = -INFINITY;
    /* What is not allowed, which is not known yet, has probability 0 and no part in an entropy. */
    if (keeps_logits(d)) memcpy(d->kept_logits + r * d->V, logits, d->V * sizeof *logits);
}

/* Most rows allow all but a token or two, so eight at a time are looked at. */
static void forbid(size_t V, const uint8_t *allowed, float *logits) {
    static const uint8_t all[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (size_t i = 0; i < V; i += sizeof all) {
        const size_t n = V - i < sizeof all ? V - i : sizeof all;
        if (n == sizeof all && memcmp(allowed + i, all, sizeof all) == 0) continue;
        for (size_t j = i; j < i + n; j++)
            if (!allowed[j]) logits[j] = -INFINITY;
    }
}

/* The place of row r, or of the first that it is for. */
static size_t place_of(const dlm_denoiser *d, size_t r) {
    return d->wants[d->first[r]].place;
}

/* Asks which tokens may stand at each row. */
static void disallow(dlm_denoiser *d) {
    const dlm_drawing *drawing = &d->options.drawing;
    for (size_t r = 0; r < d->R; r++) {
        const size_t b = d->members[d->owners[r]], first = d->offsets[b];
        memset(d->allowed, 1, d->V);
        drawing->allow(drawing->allow_user, b, place_of(d, r) - first, d->prediction->ids + first,
                       d->allowed);
        forbid(d->V, d->allowed, d->logits + r * d->V);
    }
}

static dlm_status check_allowed(const dlm_denoiser *d, dlm_error *err) {
    if (d->options.drawing.allow == NULL && d->options.drawing.banned_n == 0) return DLM_OK;
    for (size_t r = 0; r < d->R; r++) {
        size_t i = 0;
        while (i < d->V && d->logits[r * d->V + i] == -INFINITY) i++;
        if (i < d->V) continue;
        const size_t b = d->members[d->owners[r]];
        return dlm__fail(err, DLM_ARGUMENT, "no token is allowed at position %zu of sequence %zu",
                         place_of(d, r) - d->offsets[b], b);
    }
    return DLM_OK;
}

static float certainty_of(const dlm_denoiser *d, size_t r, const float *p, size_t best) {
    switch (d->options.certainty) {
    case DLM_CERTAINTY_CONFIDENCE: break;
    case DLM_CERTAINTY_MARGIN: return dlm__margin(d->V, p);
    case DLM_CERTAINTY_ENTROPY:
        return (float)-dlm__entropy(d->V, p, d->kept_logits + r * d->V,
                                    dlm__drawing_scale(&d->options.drawing));
    }
    return p[best];
}

/* What is wanted at one place of a row: its probabilities are p, cut to what may be drawn, of this total. */
static void draw_at(const dlm_denoiser *d, const request *want, const float *p, double total, size_t best) {
    const dlm_prediction *out = d->prediction;
    const double temperature = d->options.drawing.temperature;
    size_t token = best;
    if (out->target != NULL)
        token = (size_t)out->target[want->place];
    else if (temperature > 0)
        token = dlm__draw(d->V, p, total, out->uniform[want->place], best);
    out->token[want->place] = (int32_t)token;
    if (out->log_probability == NULL) return;
    out->log_probability[want->place] = temperature > 0 ? log((double)p[token] / total)
                                        : token == best ? 0
                                                        : -(double)INFINITY;
}

/* The tokens of row r from its probabilities, and what is told of them. */
static void draw(void *context, size_t r) {
    dlm_denoiser *d = context;
    const dlm_drawing *drawing = &d->options.drawing;
    const dlm_prediction *out = d->prediction;
    float *p = d->logits + r * d->V;
    const size_t best = dlm__most_probable(d->V, p);
    const float confidence = p[best];
    double total = dlm__total(d->V, p);
    d->failed[r] = !(total > 0.5 && total < 2.0);
    if (d->failed[r]) return;
    const float certainty = out->certainty != NULL ? certainty_of(d, r, p, best) : 0;
    if (drawing->temperature > 0 && (drawing->top_k > 0 || drawing->top_p < 1 || drawing->min_p > 0)) {
        dlm__truncate(drawing, d->V, p);
        total = dlm__total(d->V, p);
    }
    for (size_t i = d->first[r]; i != NONE; i = d->wants[i].next) {
        const request *want = &d->wants[i];
        out->confidence[want->place] = confidence;
        if (out->certainty != NULL) out->certainty[want->place] = certainty;
        draw_at(d, want, p, total, best);
    }
}

/* ---- groups ------------------------------------------------------------------------------------------- */

/* The time that a sequence of L positions is at, `masked` of them masked. */
static double time_of(const dlm_denoiser *d, size_t masked, size_t L) {
    return dlm__sigma_inverse(d->model->layout->config.schedule, (double)masked / (double)L);
}

/* Behind the group its sequences once more, their fixed positions masked, with the same rows. */
static void add_free_branch(dlm_denoiser *d) {
    const size_t tokens = d->group_offsets[d->S];
    const int32_t mask = d->model->mask_id;
    for (size_t s = 0; s < d->S; s++) {
        const size_t base = d->group_offsets[s], L = d->group_offsets[s + 1] - base;
        const uint8_t *fixed = d->options.fixed + d->offsets[d->members[s]];
        size_t masked = 0;
        for (size_t i = 0; i < L; i++) {
            const int32_t id = fixed[i] ? mask : d->ids[base + i];
            masked += id == mask;
            d->ids[tokens + base + i] = id;
        }
        d->times[d->S + s] = (float)time_of(d, masked, L);
        d->group_offsets[d->S + s + 1] = tokens + base + L;
    }
    for (size_t r = 0; r < d->R; r++) d->rows[d->R + r] = d->rows[r] + (int32_t)tokens;
}

/* The rows that are wanted of the group, ascending, each with all that it is wanted for. */
static void list_rows(dlm_denoiser *d) {
    d->R = 0;
    for (size_t i = 0; i < d->group_offsets[d->S]; i++) d->first[i] = NONE;
    for (size_t i = d->W; i-- > 0;) {
        request *want = &d->wants[i];
        want->next = d->first[want->position];
        d->first[want->position] = i;
    }
    for (size_t s = 0; s < d->S; s++)
        for (size_t i = d->group_offsets[s]; i < d->group_offsets[s + 1]; i++) {
            if (d->first[i] == NONE) continue;
            d->rows[d->R] = (int32_t)i;
            d->owners[d->R] = s;
            d->first[d->R++] = d->first[i];
        }
}

/* The group's sequences will have fewer masks in later passes. */
static void expect_times(dlm_denoiser *d) {
    size_t n = 0;
    if (d->prediction->fed != NULL) return;
    for (size_t fewer = 1; fewer <= EXPECTED && n < EXPECTED; fewer++)
        for (size_t s = 0; s < d->S && n < EXPECTED; s++) {
            if (d->masked[s] <= fewer) continue;
            const float t =
                (float)time_of(d, d->masked[s] - fewer, d->group_offsets[s + 1] - d->group_offsets[s]);
            if (n == 0 || d->expected[n - 1] != t) d->expected[n++] = t;
        }
    dlm__workspace_expect(d->workspace, n, d->expected);
}

/* Runs the gathered group and empties it. */
static dlm_status run(dlm_denoiser *d, dlm_error *err) {
    if (d->S == 0) return DLM_OK;
    list_rows(d);
    if (d->branches == 2) add_free_branch(d);
    expect_times(d);
    const dlm_batch batch = {.seg = {d->branches * d->S, d->group_offsets},
                             .ids = d->ids,
                             .times = d->times,
                             .R = d->branches * d->R,
                             .rows = d->rows};
    DLM_TRY(dlm__forward(d->workspace, &d->model->network, &batch, d->logits, err));
    dlm__parallel_for(d->R, adjust, d);
    if (d->options.drawing.allow != NULL) disallow(d);
    DLM_TRY(check_allowed(d, err));
    dlm__softmax(d->compute, d->R, d->V, (float)dlm__drawing_scale(&d->options.drawing), d->logits);
    dlm__parallel_for(d->R, draw, d);
    for (size_t r = 0; r < d->R; r++)
        if (d->failed[r]) {
            const size_t b = d->members[d->owners[r]];
            return dlm__fail(err, DLM_NOT_FINITE,
                             "the probabilities at position %zu of sequence %zu are not finite",
                             place_of(d, r) - d->offsets[b], b);
        }
    d->S = d->W = 0;
    return DLM_OK;
}

static int by_id(const void *left, const void *right) {
    const int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

/* The distinct ids of group sequence s, without masks and special tokens: what the penalty is for. */
static void list_present(dlm_denoiser *d, size_t s) {
    const dlm_model *model = d->model;
    const size_t base = d->group_offsets[s];
    int32_t *present = d->present + base;
    size_t n = 0, distinct = 0;
    for (size_t i = base; i < d->group_offsets[s + 1]; i++) {
        const int32_t id = d->ids[i];
        if (id != model->mask_id && id != model->pad_id && id != model->unk_id && id != model->end_id)
            present[n++] = id;
    }
    qsort(present, n, sizeof *present, by_id);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || present[i] != present[i - 1]) present[distinct++] = present[i];
    d->present_n[s] = distinct;
}

/* What the network is shown of sequence b. */
typedef struct view {
    const int32_t *ids; /* (L) */
    size_t L, masked;
    float time;
    uint64_t hash;
} view;

/* At the time that the sequence is told, or that its masked share stands for. */
static view view_of(dlm_denoiser *d, size_t b) {
    const dlm_prediction *out = d->prediction;
    const size_t L = d->offsets[b + 1] - d->offsets[b];
    view seen = {.ids = out->ids + d->offsets[b], .L = L};
    for (size_t i = 0; i < L; i++) seen.masked += seen.ids[i] == d->model->mask_id;
    out->times[b] = out->fed != NULL ? out->fed[b] : time_of(d, seen.masked, L);
    seen.time = (float)out->times[b];
    seen.hash = d->shares ? dlm__hash(seen.ids, L * sizeof *seen.ids, 0) : 0;
    return seen;
}

/* The group sequence that looks like that; S: none. */
static size_t find_same(const dlm_denoiser *d, const view *seen) {
    for (size_t s = 0; s < d->S && d->shares; s++) {
        const size_t base = d->group_offsets[s];
        if (d->hashes[s] == seen->hash && d->times[s] == seen->time &&
            d->group_offsets[s + 1] - base == seen->L &&
            memcmp(d->ids + base, seen->ids, seen->L * sizeof *seen->ids) == 0)
            return s;
    }
    return d->S;
}

/* Adds a sequence to the group, that of all sequences is b. */
static void add_sequence(dlm_denoiser *d, size_t b, const view *seen) {
    const size_t base = d->group_offsets[d->S];
    memcpy(d->ids + base, seen->ids, seen->L * sizeof *seen->ids);
    d->times[d->S] = seen->time;
    d->hashes[d->S] = seen->hash;
    d->masked[d->S] = seen->masked;
    d->members[d->S] = b;
    d->group_offsets[d->S + 1] = base + seen->L;
    if (penalises(d)) list_present(d, d->S);
    d->S++;
}

/* Adds what is wanted of sequence b, running the group before where it is full. */
static dlm_status gather(dlm_denoiser *d, size_t b, dlm_error *err) {
    const view seen = view_of(d, b);
    size_t s = find_same(d, &seen);
    if (s == d->S) {
        if (s == d->sequences || d->group_offsets[s] + seen.L > d->capacity) DLM_TRY(run(d, err));
        s = d->S;
        add_sequence(d, b, &seen);
    }
    for (size_t i = 0; i < seen.L; i++)
        if (d->prediction->wanted[d->offsets[b] + i])
            d->wants[d->W++] =
                (request){.position = d->group_offsets[s] + i, .place = d->offsets[b] + i, .next = NONE};
    return DLM_OK;
}

static bool any(const uint8_t *wanted, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (wanted[i]) return true;
    return false;
}

dlm_status dlm__denoise(dlm_denoiser *d, const dlm_prediction *prediction, dlm_error *err) {
    d->prediction = prediction;
    d->S = d->W = 0;
    for (size_t b = 0; b < d->n; b++)
        if (any(prediction->wanted + d->offsets[b], d->offsets[b + 1] - d->offsets[b]))
            DLM_TRY(gather(d, b, err));
    return run(d, err);
}
