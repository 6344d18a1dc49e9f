/* Predictions in groups: gather sequences, run the network, turn rows of logits into tokens. */
#include "diffusion/denoiser.h"

#include <math.h>
#include <stdlib.h>

enum { BANNED_MOST = 3 };

/* A group holds at most this many positions and logits, unless a single sequence has more: enough to keep
 * matrix products busy, little enough for memory. */
#define GROUP_POSITIONS ((size_t)2048)
#define GROUP_SEQUENCES ((size_t)512)
#define GROUP_LOGITS    ((size_t)1 << 24)

struct dlm_denoiser {
    const dlm_model *model;
    dlm_compute *compute;
    dlm_workspace *workspace;
    double temperature;
    size_t V, n;
    const size_t *offsets; /* (n + 1) of all sequences */
    int32_t banned[BANNED_MOST];
    size_t banned_n;
    /* the group being gathered */
    size_t capacity, sequences; /* at most so many positions and sequences */
    size_t S, R;
    size_t *group_offsets; /* (sequences + 1) */
    float *times;          /* (sequences) */
    int32_t *ids;          /* (capacity) */
    int32_t *rows;         /* (capacity) */
    size_t *places;        /* (capacity) packed position in all sequences of each row */
    float *logits;         /* (capacity, V), then probabilities */
    uint8_t *failed;       /* (capacity) 1: a row whose probabilities are not finite */
    const dlm_prediction *prediction;
    dlm_arena arena;
};

static void layout(dlm_denoiser *d) {
    d->group_offsets = dlm__arena_take(&d->arena, d->sequences + 1, sizeof *d->group_offsets);
    d->times = dlm__arena_take(&d->arena, d->sequences, sizeof *d->times);
    d->ids = dlm__arena_take(&d->arena, d->capacity, sizeof *d->ids);
    d->rows = dlm__arena_take(&d->arena, d->capacity, sizeof *d->rows);
    d->places = dlm__arena_take(&d->arena, d->capacity, sizeof *d->places);
    d->failed = dlm__arena_take(&d->arena, d->capacity, sizeof *d->failed);
    size_t logits;
    if (!dlm__size_mul(d->capacity, d->V, &logits))
        d->arena.overflow = true;
    else
        d->logits = dlm__arena_take(&d->arena, logits, sizeof *d->logits);
}

static void ban(dlm_denoiser *d, int32_t id) {
    if (id < 0 || (size_t)id >= d->V) return;
    for (size_t i = 0; i < d->banned_n; i++)
        if (d->banned[i] == id) return;
    d->banned[d->banned_n++] = id;
}

static dlm_status prepare(dlm_denoiser *d, const char *isa, dlm_error *err) {
    const dlm_model *model = d->model;
    ban(d, model->mask_id);
    ban(d, model->pad_id);
    ban(d, model->unk_id); /* a vocabulary has at least four tokens */
    size_t longest = 0, total = d->offsets[d->n];
    for (size_t b = 0; b < d->n; b++) {
        const size_t L = d->offsets[b + 1] - d->offsets[b];
        if (L > longest) longest = L;
    }
    d->capacity = GROUP_LOGITS / d->V < GROUP_POSITIONS ? GROUP_LOGITS / d->V : GROUP_POSITIONS;
    if (d->capacity > total) d->capacity = total;
    if (d->capacity < longest) d->capacity = longest;
    d->sequences = d->n < GROUP_SEQUENCES ? d->n : GROUP_SEQUENCES;
    if (d->sequences > d->capacity) d->sequences = d->capacity;
    layout(d);
    DLM_TRY(dlm__arena_allocate(&d->arena, "the logits of samples", err));
    layout(d);
    DLM_TRY(dlm__compute_create(isa, &d->compute, err));
    const dlm_workspace_size size = {
        .tokens = d->capacity, .sequences = d->sequences, .rows = d->capacity, .training = false};
    return dlm__workspace_create(model->layout, model->network.type, d->compute, size, &d->workspace, err);
}

dlm_status dlm__denoiser_create(const char *isa, const dlm_model *model, double temperature, size_t n,
                                const size_t *offsets, dlm_denoiser **denoiser, dlm_error *err) {
    *denoiser = NULL;
    dlm_denoiser *d = dlm__calloc(1, sizeof *d);
    if (d == NULL) return dlm__fail_memory(err, "a denoiser", sizeof *d);
    d->model = model;
    d->temperature = temperature;
    d->V = model->layout->config.vocab_size;
    d->n = n;
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

/* Of a row of probabilities: the sum of each block of them, which lets a draw skip all blocks but one, and
 * the most probable one. Eight sums at a time do not wait for each other. */
enum { LANES = 8, BLOCK = 128 };

static double sum_of(size_t n, const float *p) {
    double sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) sums[j] += (double)p[i + j];
    for (; i < n; i++) sums[0] += (double)p[i];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

/* The first of the largest. */
static size_t most_probable(size_t n, const float *p) {
    float most[LANES];
    size_t i = 0, at = 0;
    for (size_t j = 0; j < LANES; j++) most[j] = p[0];
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) most[j] = p[i + j] > most[j] ? p[i + j] : most[j];
    for (; i < n; i++) most[0] = p[i] > most[0] ? p[i] : most[0];
    for (size_t j = 1; j < LANES; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
    while (at + 1 < n && p[at] != most[0]) at++; /* the end: nothing is a number */
    return p[at] == most[0] ? at : 0;
}

/* The token and confidence of row r from its probabilities. */
static void draw(void *context, size_t r) {
    dlm_denoiser *d = context;
    const dlm_prediction *out = d->prediction;
    const float *p = d->logits + r * d->V;
    const size_t place = d->places[r], best = most_probable(d->V, p);
    double total = 0;
    for (size_t i = 0; i < d->V; i += BLOCK) total += sum_of(d->V - i < BLOCK ? d->V - i : BLOCK, p + i);
    d->failed[r] = !(total > 0.5 && total < 2.0);
    out->confidence[place] = p[best];
    out->token[place] = (int32_t)best;
    if (d->temperature <= 0 || d->failed[r]) return;
    /* The first token with cumulative > u * total has a probability above 0. Rounding may make a block's
     * tokens, added one by one, less than their sum: then the last such token of the block is it; or u *
     * total the total: then the most probable one. */
    const double target = out->uniform[place] * total;
    double cumulative = 0;
    size_t token = best;
    for (size_t i = 0; i < d->V && cumulative <= target; i += BLOCK) {
        const size_t n = d->V - i < BLOCK ? d->V - i : BLOCK;
        const double behind = cumulative + sum_of(n, p + i);
        for (size_t j = i; behind > target && j < i + n && cumulative <= target; j++) {
            cumulative += (double)p[j];
            if (p[j] > 0) token = j;
        }
        cumulative = behind;
    }
    out->token[place] = (int32_t)token;
}

static size_t sequence_of(const dlm_denoiser *d, size_t place) {
    size_t b = 0;
    while (d->offsets[b + 1] <= place) b++;
    return b;
}

/* Runs the gathered group and empties it. */
static dlm_status run(dlm_denoiser *d, dlm_error *err) {
    if (d->S == 0) return DLM_OK;
    const dlm_batch batch = {
        .seg = {d->S, d->group_offsets}, .ids = d->ids, .times = d->times, .R = d->R, .rows = d->rows};
    DLM_TRY(dlm__forward(d->workspace, &d->model->network, &batch, d->logits, err));
    for (size_t r = 0; r < d->R; r++)
        for (size_t i = 0; i < d->banned_n; i++) d->logits[r * d->V + (size_t)d->banned[i]] = -INFINITY;
    const double scale = d->temperature > 0 ? 1.0 / d->temperature : 1.0;
    dlm__softmax(d->compute, d->R, d->V, (float)scale, d->logits);
    dlm__parallel_for(d->R, draw, d);
    for (size_t r = 0; r < d->R; r++)
        if (d->failed[r]) {
            const size_t b = sequence_of(d, d->places[r]);
            return dlm__fail(err, DLM_NOT_FINITE,
                             "the probabilities at position %zu of sequence %zu are not finite",
                             d->places[r] - d->offsets[b], b);
        }
    d->S = d->R = 0;
    return DLM_OK;
}

/* Adds sequence b to the group, at the time that its masked share stands for. */
static void gather(dlm_denoiser *d, size_t b) {
    const dlm_prediction *out = d->prediction;
    const size_t first = d->offsets[b], L = d->offsets[b + 1] - first, base = d->group_offsets[d->S];
    size_t masked = 0;
    for (size_t i = 0; i < L; i++) {
        d->ids[base + i] = out->ids[first + i];
        masked += out->ids[first + i] == d->model->mask_id;
        if (!out->wanted[first + i]) continue;
        d->rows[d->R] = (int32_t)(base + i);
        d->places[d->R++] = first + i;
    }
    out->times[b] = dlm__sigma_inverse(d->model->layout->config.schedule, (double)masked / (double)L);
    d->times[d->S++] = (float)out->times[b];
    d->group_offsets[d->S] = base + L;
}

static bool any(const uint8_t *wanted, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (wanted[i]) return true;
    return false;
}

dlm_status dlm__denoise(dlm_denoiser *d, const dlm_prediction *prediction, dlm_error *err) {
    d->prediction = prediction;
    d->S = d->R = 0;
    for (size_t b = 0; b < d->n; b++) {
        const size_t L = d->offsets[b + 1] - d->offsets[b];
        if (!any(prediction->wanted + d->offsets[b], L)) continue;
        if (d->S == d->sequences || d->group_offsets[d->S] + L > d->capacity) DLM_TRY(run(d, err));
        gather(d, b);
    }
    return run(d, err);
}
