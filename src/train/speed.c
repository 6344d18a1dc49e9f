/* How fast this machine is: the same passes, samples and steps as everywhere, timed on random ids. */
#include "train/batch.h"
#include "train/optimizer.h"

#include "diffusion/process.h"
#include "text/progress.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_REPETITIONS = 3, MOST_REPETITIONS = 1000 };

/* Sequences of one length, packed, in passes of bounded size. */
typedef struct speed_work {
    const dlm_model *model;
    const dlm_speed_options *options;
    dlm_train_options recipe; /* what a step does */
    size_t T, rows_n, passes_n;
    size_t *lengths;             /* (sequences) */
    size_t *offsets;             /* (sequences + 1): those of every pass, since all lengths are equal */
    int32_t *start, *ids;        /* (T); start stays */
    int32_t *rows, *targets;     /* (rows) of each pass one behind the other */
    float *times, *weights, *ce; /* (sequences), (rows), (rows) */
    float *logits;               /* (rows of a pass, V) */
    uint8_t *masked;             /* (length) */
    uint32_t *order;             /* (length) */
    dlm_micro_batch *passes;     /* (passes) */
    dlm_arena arena;
    dlm_compute *compute;
    dlm_workspace *workspace;
    dlm_learner *learner; /* with its network, to train */
    dlm_network network;
    uint64_t step;
    size_t forwards;
    dlm_meter meter;
    uint64_t done;     /* repetitions */
    dlm_status status; /* DLM_CANCELLED where the caller stopped it */
} speed_work;

dlm_speed_options dlm_speed_defaults(void) {
    return (dlm_speed_options){.work = DLM_WORK_FORWARD, .sequences = 1, .length = 80, .seconds = 1};
}

static dlm_status check(const dlm_model *model, const dlm_speed_options *o, size_t *T, dlm_error *err) {
    const size_t most = model->layout->config.max_seq_len;
    if (model->network.params == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "%s was read without its weights", model->source);
    if ((unsigned)o->work > DLM_WORK_TRAIN)
        return dlm__fail(err, DLM_ARGUMENT, "work %d is none of 0 to %d", (int)o->work, DLM_WORK_TRAIN);
    if (o->length == 0 || o->length > most)
        return dlm__fail(err, DLM_ARGUMENT, "length %zu is not from 1 to %zu, which the model takes",
                         o->length, most);
    if (!dlm__size_mul(o->sequences, o->length, T) || *T == 0 || *T > INT32_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "%zu sequences are none, or too many of length %zu", o->sequences,
                         o->length);
    if (!(o->seconds >= 0 && o->seconds <= 1e6))
        return dlm__fail(err, DLM_ARGUMENT, "%g seconds are not from 0 to a million", o->seconds);
    return DLM_OK;
}

/* ---- the batch ---------------------------------------------------------------------------------------- */

static size_t sequences_in_pass(const speed_work *w) {
    const size_t fit = w->recipe.micro_tokens / w->options->length;
    return fit == 0 ? 1 : fit < w->options->sequences ? fit : w->options->sequences;
}

static void layout(speed_work *w) {
    const size_t n = w->options->sequences, L = w->options->length, largest = sequences_in_pass(w) * L;
    w->lengths = dlm__arena_take(&w->arena, n, sizeof *w->lengths);
    w->offsets = dlm__arena_take(&w->arena, n + 1, sizeof *w->offsets);
    w->start = dlm__arena_take(&w->arena, w->T, sizeof *w->start);
    w->ids = dlm__arena_take(&w->arena, w->T, sizeof *w->ids);
    w->rows = dlm__arena_take(&w->arena, w->T, sizeof *w->rows);
    w->targets = dlm__arena_take(&w->arena, w->T, sizeof *w->targets);
    w->times = dlm__arena_take(&w->arena, n, sizeof *w->times);
    w->weights = dlm__arena_take(&w->arena, w->T, sizeof *w->weights);
    w->ce = dlm__arena_take(&w->arena, largest, sizeof *w->ce);
    w->masked = dlm__arena_take(&w->arena, L, sizeof *w->masked);
    w->order = dlm__arena_take(&w->arena, L, sizeof *w->order);
    w->passes = dlm__arena_take(&w->arena, n, sizeof *w->passes);
    if (w->options->work != DLM_WORK_FORWARD) return;
    size_t logits;
    if (dlm__size_mul(largest, w->model->layout->config.vocab_size, &logits))
        w->logits = dlm__arena_take(&w->arena, logits, sizeof *w->logits);
    else
        w->arena.overflow = true;
}

/* Sequence b, whose pass begins with sequence `first`: to train, k of its positions are masked and wanted,
 * k as evenly spread over the batch as in training; else all are. */
static void draw_sequence(speed_work *w, size_t b, size_t first, dlm_micro_batch *pass) {
    const size_t L = w->options->length, V = w->model->layout->config.vocab_size;
    int32_t *ids = w->start + b * L;
    dlm_rng rng = dlm__rng(w->options->seed, DLM_RNG_CORRUPT, (uint32_t)b, 0);
    const dlm_schedule schedule = w->model->layout->config.schedule;
    const size_t k = w->options->work == DLM_WORK_TRAIN
                         ? dlm__stratified_count(&rng, schedule, L, b, w->options->sequences)
                         : L;
    dlm__mask_exactly(&rng, L, k, w->masked, w->order);
    for (size_t i = 0; i < L; i++) {
        ids[i] = (int32_t)dlm__rng_below(&rng, V);
        if (!w->masked[i]) continue;
        w->rows[w->rows_n] = (int32_t)((b - first) * L + i);
        w->targets[w->rows_n] = ids[i];
        w->weights[w->rows_n++] = (float)((double)L / (double)k / (double)w->T);
        if (w->options->work != DLM_WORK_FORWARD) ids[i] = w->model->mask_id;
    }
    w->times[b] = (float)dlm__sigma_inverse(schedule, (double)k / (double)L);
    pass->batch.R += k;
    pass->batch.seg.n++;
}

static void draw_batch(speed_work *w) {
    const size_t n = w->options->sequences, L = w->options->length, each = sequences_in_pass(w);
    for (size_t b = 0; b < n; b++) {
        w->lengths[b] = L;
        w->offsets[b + 1] = (b + 1) * L;
    }
    for (size_t first = 0; first < n; first += each) {
        dlm_micro_batch *pass = &w->passes[w->passes_n++];
        *pass = (dlm_micro_batch){.batch = {.seg.offsets = w->offsets,
                                            .ids = w->start + first * L,
                                            .times = w->times + first,
                                            .rows = w->rows + w->rows_n},
                                  .targets = w->targets + w->rows_n,
                                  .weights = w->weights + w->rows_n};
        for (size_t b = first; b < n && b < first + each; b++) draw_sequence(w, b, first, pass);
    }
}

/* ---- the work ----------------------------------------------------------------------------------------- */

/* A copy of the model's weights to train. */
static dlm_status prepare_learner(speed_work *w, dlm_error *err) {
    const dlm_layout *of = w->model->layout;
    const dlm_dtype type = w->model->network.type;
    DLM_TRY(dlm__learner_create(of, w->compute, w->recipe.optimizer, type, NULL, &w->learner, err));
    DLM_TRY(dlm__network_copy_values(&w->model->network, w->learner->params, err));
    dlm__learner_begin(w->learner);
    w->network = (dlm_network){.layout = of, .params = w->learner->params, .type = type};
    DLM_TRY(dlm__network_allocate_bf16(&w->network, true, err));
    dlm__network_refresh(w->compute, &w->network);
    return DLM_OK;
}

static dlm_status prepare(speed_work *w, dlm_error *err) {
    const bool training = w->options->work == DLM_WORK_TRAIN;
    layout(w);
    DLM_TRY(dlm__arena_allocate(&w->arena, "a batch to measure with", err));
    layout(w);
    draw_batch(w);
    if (w->options->work == DLM_WORK_SAMPLE) return DLM_OK;
    DLM_TRY(dlm__compute_create(NULL, &w->compute, err));
    if (training) DLM_TRY(prepare_learner(w, err));
    const size_t each = sequences_in_pass(w), largest = each * w->options->length;
    const dlm_workspace_size size = {
        .tokens = largest, .sequences = each, .rows = largest, .training = training};
    return dlm__workspace_create(w->model->layout, w->model->network.type, w->compute, size, &w->workspace,
                                 err);
}

static dlm_status forward(speed_work *w, dlm_error *err) {
    for (size_t i = 0; i < w->passes_n; i++)
        DLM_TRY(dlm__forward(w->workspace, &w->model->network, &w->passes[i].batch, w->logits, err));
    w->forwards = 1;
    return DLM_OK;
}

static bool on_step(void *user, const dlm_sample_step *step) {
    (void)step;
    speed_work *w = user;
    if (w->status == DLM_OK) w->status = dlm__meter_report(&w->meter, "speed", w->done, 0, NULL);
    return w->status != DLM_OK;
}

static dlm_status sample(speed_work *w, dlm_error *err) {
    dlm_sample_options options = dlm_sample_defaults();
    options.seed = w->options->seed;
    options.on_step = w->meter.call != NULL ? on_step : NULL;
    options.user = w;
    memcpy(w->ids, w->start, w->T * sizeof *w->ids);
    DLM_TRY(dlm_sample(w->model, &options, 0, w->options->sequences, w->lengths, w->ids, NULL, NULL,
                       &w->forwards, err));
    return w->status == DLM_OK ? DLM_OK : dlm__fail(err, w->status, "stopped by the caller");
}

static dlm_status train(speed_work *w, dlm_error *err) {
    const dlm_train_options *o = &w->recipe;
    double loss;
    dlm__clear(w->model->layout->total, w->learner->gradients);
    DLM_TRY(dlm__passes_loss(w->workspace, &w->network, w->passes_n, w->passes, w->ce, &loss,
                             w->learner->gradients, err));
    const dlm_update update = {.lr = o->lr,
                               .weight_decay = o->weight_decay,
                               .clip = o->clip,
                               .ema_decay = o->ema,
                               .norm = dlm__learner_norm(w->learner, w->compute),
                               .step = ++w->step};
    dlm__learner_update(w->learner, w->compute, &update);
    dlm__network_refresh(w->compute, &w->network);
    w->forwards = 1;
    return dlm__compute_status(w->compute, err);
}

static int by_value(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static dlm_status measure(speed_work *w, dlm_speed *speed, dlm_error *err) {
    dlm_status (*const work)(speed_work *, dlm_error *) =
        (dlm_status(*const[])(speed_work *, dlm_error *)){forward, sample, train}[w->options->work];
    double times[MOST_REPETITIONS];
    size_t n = 0;
    if (w->options->work != DLM_WORK_SAMPLE) DLM_TRY(work(w, err)); /* what is prepared once */
    const double begin = dlm__seconds();
    while (n < LEAST_REPETITIONS || (n < MOST_REPETITIONS && dlm__seconds() - begin < w->options->seconds)) {
        const double start = dlm__seconds();
        DLM_TRY(work(w, err));
        times[n++] = dlm__seconds() - start;
        w->done = n;
        DLM_TRY(dlm__meter_report(&w->meter, "speed", n, 0, err));
    }
    qsort(times, n, sizeof *times, by_value);
    *speed = (dlm_speed){.seconds = (times[(n - 1) / 2] + times[n / 2]) / 2,
                         .fastest = times[0],
                         .repetitions = n,
                         .tokens = w->T,
                         .forwards = w->forwards,
                         .threads = dlm__threads()};
    return DLM_OK;
}

dlm_status dlm_speed_measure(const dlm_model *model, const dlm_speed_options *options, dlm_speed *speed,
                             dlm_error *err) {
    const dlm_speed_options defaults = dlm_speed_defaults();
    speed_work w = {.model = model, .options = options != NULL ? options : &defaults};
    w.meter = dlm__meter(w.options->progress, w.options->user);
    *speed = (dlm_speed){0};
    DLM_TRY(check(model, w.options, &w.T, err));
    w.recipe = dlm_train_defaults(model->layout->config.recipe);
    dlm_status status = prepare(&w, err);
    if (status == DLM_OK) status = measure(&w, speed, err);
    dlm__workspace_free(w.workspace);
    dlm__learner_free(w.learner);
    free(w.network.params_bf16);
    dlm__compute_free(w.compute);
    dlm__arena_free(&w.arena);
    return status;
}
