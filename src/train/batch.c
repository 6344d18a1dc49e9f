/* Draws global batches.
 *
 * The default recipe (spec 9.1, 9.2). Each sequence has its own length, padding is never made. The number k
 * of masked positions is drawn itself, as the schedule has it at a time from strata of the batch that a
 * permutation deals out anew at each step; t = sigma^-1(k/n). With weight `elbo` a sequence's mean
 * cross-entropy counts n / sum n times 1 / (n chance of k), 1 on the linear schedule: the expectation is that
 * of k uniform on 1 .. n, so the loss is an unbiased estimate of the NELBO per token. Few masks make a noisy
 * mean; the cosine schedule draws them oftener and weighs them less, which evens the noise out. Any other
 * weight w, meant for t uniform, counts w(t)/sigma'(t) times that.
 *
 * Tails: a share of the sequences is longer than its document by a uniform draw up to seq_len, the rest end
 * tokens that are masked and scored like all others. Only windows that end their document and leave room can
 * have one, so a little less than the share of all sequences does.
 *
 * The original recipe (spec 3, 5). Cut and padded to seq_len; t = max(u, 1e-3); each real position is masked
 * with probability sigma(t); the loss is the plain mean over the batch of w(t) times the mean cross-entropy
 * over the masked positions, 0 where there are none. */
#include "train/batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static size_t ranks_of(const dlm_global_batch *batch) {
    return batch->options.ranks > 1 ? batch->options.ranks : 1;
}

static void bind(dlm_global_batch *batch, dlm_arena *arena) {
    size_t B = batch->options.sequences, L = batch->options.seq_len, most = 0;
    if (!dlm__size_mul(B, L, &most)) arena->overflow = true;
    batch->drawn = dlm__arena_take(arena, B, sizeof *batch->drawn);
    batch->micro = dlm__arena_take(arena, B, sizeof *batch->micro);
    batch->order = dlm__arena_take(arena, batch->windows->n, sizeof *batch->order);
    batch->strata = dlm__arena_take(arena, B, sizeof *batch->strata);
    /* A pass of S sequences has S + 1 offsets, and there are at most B passes. */
    batch->offsets = dlm__arena_take(arena, B, 2 * sizeof *batch->offsets);
    batch->ids = dlm__arena_take(arena, most, sizeof *batch->ids);
    batch->rows = dlm__arena_take(arena, most, sizeof *batch->rows);
    batch->targets = dlm__arena_take(arena, most, sizeof *batch->targets);
    batch->times = dlm__arena_take(arena, B, sizeof *batch->times);
    batch->weights = dlm__arena_take(arena, most, sizeof *batch->weights);
    batch->masked = dlm__arena_take(arena, L, sizeof *batch->masked);
    batch->positions = dlm__arena_take(arena, L, sizeof *batch->positions);
    batch->rngs = dlm__arena_take(arena, B, sizeof *batch->rngs);
    batch->by_length = dlm__arena_take(arena, B, sizeof *batch->by_length);
    batch->starts = dlm__arena_take(arena, L + 1, sizeof *batch->starts);
    batch->loads = dlm__arena_take(arena, ranks_of(batch), sizeof *batch->loads);
}

static void shuffle(dlm_global_batch *batch, uint64_t epoch) {
    dlm_rng rng = dlm__rng(batch->options.seed, DLM_RNG_SHUFFLE, (uint32_t)epoch, 0);
    dlm__rng_permutation(&rng, batch->order, batch->windows->n);
    batch->ordered = epoch;
}

dlm_status dlm__global_batch_create(const dlm_batch_options *options, const dlm_data *data,
                                    const dlm_windows *windows, dlm_global_batch **batch, dlm_error *err) {
    *batch = NULL;
    assert(options->sequences > 0 && windows->n > 0);
    dlm_global_batch *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "a batch", sizeof *made);
    *made = (dlm_global_batch){.options = *options, .data = data, .windows = windows};
    bind(made, &made->arena);
    dlm_status status = dlm__arena_allocate(&made->arena, "a batch", err);
    if (status != DLM_OK) {
        free(made);
        return status;
    }
    bind(made, &made->arena);
    shuffle(made, 0);
    *batch = made;
    return DLM_OK;
}

void dlm__global_batch_free(dlm_global_batch *batch) {
    if (batch == NULL) return;
    dlm__arena_free(&batch->arena);
    free(batch);
}

dlm_workspace_size dlm__global_batch_largest(const dlm_batch_options *options) {
    size_t tokens = options->micro_tokens > options->seq_len ? options->micro_tokens : options->seq_len;
    size_t all;
    if (dlm__size_mul(options->sequences, options->seq_len, &all) && all < tokens) tokens = all;
    size_t sequences = options->sequences < tokens ? options->sequences : tokens;
    return (dlm_workspace_size){.tokens = tokens, .sequences = sequences, .rows = tokens, .training = true};
}

/* How far the arrays of a batch are filled. */
typedef struct filled {
    size_t positions, rows, sequences, offsets;
} filled;

static const dlm_window *choose_window(dlm_global_batch *batch, uint64_t step, size_t b, dlm_drawn *drawn) {
    uint64_t at = step * batch->options.sequences + b, n = batch->windows->n;
    uint64_t epoch = at / n;
    if (epoch != batch->ordered) shuffle(batch, epoch);
    if (b == 0) {
        batch->epoch = epoch;
        batch->place = (size_t)(at % n);
    }
    drawn->window = batch->order[at % n];
    return &batch->windows->list[drawn->window];
}

/* The pass that takes a sequence of n positions next: the last one, or a new one when that is full. */
static dlm_micro_batch *pass_for(dlm_global_batch *batch, filled *at, size_t n) {
    if (batch->n_micro > 0) {
        dlm_micro_batch *last = &batch->micro[batch->n_micro - 1];
        size_t tokens = last->batch.seg.offsets[last->batch.seg.n];
        if (tokens + n <= batch->options.micro_tokens) return last;
    }
    dlm_micro_batch *next = &batch->micro[batch->n_micro++];
    *next = (dlm_micro_batch){.batch = {.seg = {.offsets = batch->offsets + at->offsets},
                                        .ids = batch->ids + at->positions,
                                        .times = batch->times + at->sequences,
                                        .rows = batch->rows + at->rows},
                              .targets = batch->targets + at->rows,
                              .weights = batch->weights + at->rows};
    batch->offsets[at->offsets++] = 0;
    return next;
}

/* Lengths of a sequence by the default recipe. */
static void lengthen(const dlm_batch_options *o, dlm_rng *rng, const dlm_window *window, dlm_drawn *drawn) {
    bool room = window->ends && window->n < o->seq_len;
    bool tail = dlm__rng_uniform(rng) < o->tail_share && room;
    drawn->n = tail ? window->n + 1 + (size_t)dlm__rng_below(rng, o->seq_len - window->n) : window->n;
    drawn->real = drawn->n;
}

/* t and mask (into batch->masked) by the default recipe; scale lacks 1 / sum n. */
static void corrupt_default(dlm_global_batch *batch, dlm_rng *rng, size_t stratum, dlm_drawn *drawn) {
    const dlm_batch_options *o = &batch->options;
    size_t n = drawn->n, k = dlm__stratified_count(rng, o->schedule, n, stratum, o->sequences);
    dlm__mask_exactly(rng, n, k, batch->masked, batch->positions);
    drawn->masked = k;
    drawn->t = dlm__sigma_inverse(o->schedule, (double)k / (double)n);
    double relative = dlm__loss_weight(o->weight, o->schedule, drawn->t) /
                      dlm__loss_weight(DLM_WEIGHT_ELBO, o->schedule, drawn->t);
    drawn->scale = relative / (dlm__count_chance(o->schedule, n, k) * (double)k);
}

/* The same by the original recipe; scale is complete. */
static void corrupt_original(dlm_global_batch *batch, dlm_rng *rng, dlm_drawn *drawn) {
    const dlm_batch_options *o = &batch->options;
    double u = dlm__rng_uniform(rng);
    drawn->t = u > DLM_T_MIN ? u : DLM_T_MIN;
    drawn->masked =
        dlm__mask_independently(rng, drawn->real, dlm__sigma(o->schedule, drawn->t), batch->masked);
    double weight = dlm__loss_weight(o->weight, o->schedule, drawn->t);
    drawn->scale = drawn->masked == 0 ? 0 : weight / ((double)drawn->masked * (double)o->sequences);
}

/* ---- lengths, and whose sequence each is -------------------------------------------------------------- */

static void draw_lengths(dlm_global_batch *batch, uint64_t step) {
    const dlm_batch_options *o = &batch->options;
    batch->tokens = 0;
    for (size_t b = 0; b < o->sequences; b++) {
        dlm_drawn *drawn = &batch->drawn[b];
        *drawn = (dlm_drawn){.n = o->seq_len};
        const dlm_window *window = choose_window(batch, step, b, drawn);
        batch->rngs[b] = dlm__rng(o->seed, DLM_RNG_CORRUPT, (uint32_t)step, (uint32_t)b);
        drawn->real = window->n;
        if (o->recipe != DLM_RECIPE_ORIGINAL) lengthen(o, &batch->rngs[b], window, drawn);
        batch->tokens += drawn->real;
    }
}

/* Fills by_length: a counting sort, which keeps the order of equal lengths. */
static void sort_by_length(dlm_global_batch *batch) {
    const size_t B = batch->options.sequences, L = batch->options.seq_len;
    memset(batch->starts, 0, (L + 1) * sizeof *batch->starts);
    /* Length n begins behind all that are longer. */
    for (size_t b = 0; b < B; b++) batch->starts[batch->drawn[b].n]++;
    for (size_t n = L + 1, begin = 0, count; n-- > 0; begin += count) {
        count = batch->starts[n];
        batch->starts[n] = begin;
    }
    for (size_t b = 0; b < B; b++) batch->by_length[batch->starts[batch->drawn[b].n]++] = (uint32_t)b;
}

/* The longest goes first, each to the rank that has the fewest positions: with as many sequences as ranks,
 * each has one. */
static void share_out(dlm_global_batch *batch) {
    const size_t ranks = ranks_of(batch);
    if (ranks == 1) return;
    sort_by_length(batch);
    memset(batch->loads, 0, ranks * sizeof *batch->loads);
    for (size_t i = 0; i < batch->options.sequences; i++) {
        dlm_drawn *drawn = &batch->drawn[batch->by_length[i]];
        size_t least = 0;
        for (size_t r = 1; r < ranks; r++) {
            if (batch->loads[r] < batch->loads[least]) least = r;
        }
        drawn->rank = (uint32_t)least;
        batch->loads[least] += drawn->n;
    }
}

/* ---- the passes --------------------------------------------------------------------------------------- */

/* Appends the ids of a sequence, corrupted, and its masked rows. */
static void append(dlm_global_batch *batch, filled *at, const dlm_window *window, const dlm_drawn *drawn) {
    const dlm_batch_options *o = &batch->options;
    dlm_micro_batch *pass = pass_for(batch, at, drawn->n);
    size_t first = pass->batch.seg.offsets[pass->batch.seg.n];
    int32_t *ids = batch->ids + at->positions;
    (void)dlm__window_ids(batch->data, window, ids);
    int32_t filler = o->recipe == DLM_RECIPE_ORIGINAL ? o->pad_id : o->end_id;
    for (size_t i = window->n; i < drawn->n; i++) ids[i] = filler;
    for (size_t i = 0; i < drawn->real; i++) {
        if (!batch->masked[i]) continue;
        batch->rows[at->rows] = (int32_t)(first + i);
        batch->targets[at->rows++] = ids[i];
        ids[i] = o->mask_id;
    }
    pass->batch.R += drawn->masked;
    pass->batch.seg.n++;
    batch->offsets[at->offsets++] = first + drawn->n;
    batch->times[at->sequences++] = (float)drawn->t;
    at->positions += drawn->n;
}

void dlm__global_batch_draw(dlm_global_batch *batch, uint64_t step) {
    const dlm_batch_options *o = &batch->options;
    bool original = o->recipe == DLM_RECIPE_ORIGINAL;
    filled at = {0};
    batch->n_micro = 0;
    dlm_rng deal = dlm__rng(o->seed, DLM_RNG_STRATA, (uint32_t)step, 0);
    dlm__rng_permutation(&deal, batch->strata, o->sequences);
    draw_lengths(batch, step);
    share_out(batch);
    for (size_t b = 0; b < o->sequences; b++) {
        dlm_drawn *drawn = &batch->drawn[b];
        if (drawn->rank != o->rank) continue;
        if (original)
            corrupt_original(batch, &batch->rngs[b], drawn);
        else
            corrupt_default(batch, &batch->rngs[b], batch->strata[b], drawn);
        append(batch, &at, &batch->windows->list[drawn->window], drawn);
    }
    size_t row = 0;
    for (size_t b = 0; b < o->sequences; b++) {
        dlm_drawn *drawn = &batch->drawn[b];
        if (!original) drawn->scale /= (double)batch->tokens;
        for (size_t i = 0; i < drawn->masked; i++) batch->weights[row++] = (float)drawn->scale;
    }
}

dlm_status dlm__passes_loss(dlm_workspace *workspace, const dlm_network *network, size_t n,
                            const dlm_micro_batch *passes, float *ce, double *loss, float *gradients,
                            dlm_error *err) {
    *loss = 0;
    for (size_t i = 0; i < n; i++) {
        if (passes[i].batch.R == 0) continue; /* nothing is masked: no loss, no gradient */
        double part;
        DLM_TRY(dlm__loss(workspace, network, &passes[i].batch, passes[i].targets, passes[i].weights, ce,
                          &part, gradients, err));
        *loss += part;
    }
    return DLM_OK;
}
