/* Opening a run: data, model and memory, then the initial weights or those of its newest checkpoint. Nothing
 * is written before all of that has gone well. */
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_OUT = 50 /* one document in so many, without eval_data */ };

/* ---- opening: data ------------------------------------------------------------------------------------ */

static dlm_status copy_text(const char *text, char **copy, dlm_error *err) {
    *copy = dlm__copy_bytes(text, strlen(text));
    return *copy != NULL ? DLM_OK : dlm__fail_memory(err, text, strlen(text));
}

static dlm_status open_source(const char *path, dlm_data **data, dlm_train_source *source, dlm_error *err) {
    DLM_TRY(dlm_data_open(path, data, err));
    source->hash = dlm__data_hash(*data);
    source->path = realpath(path, NULL);
    return source->path != NULL ? DLM_OK : dlm__fail_memory(err, path, strlen(path));
}

static dlm_status open_windows(dlm_trainer *t, dlm_error *err) {
    const dlm_train_options *o = &t->options;
    bool original = o->recipe == DLM_RECIPE_ORIGINAL, held_out = t->eval_data == NULL;
    DLM_TRY(dlm__windows_create(t->data, o->seq_len, !original, original,
                                held_out ? DLM_PART_TRAIN : DLM_PART_ALL, HELD_OUT, o->seed, 0, &t->windows,
                                err));
    DLM_TRY(dlm__windows_create(held_out ? t->data : t->eval_data, o->seq_len, !original, original,
                                held_out ? DLM_PART_HELD_OUT : DLM_PART_ALL, HELD_OUT, o->seed,
                                o->eval_documents, &t->eval_windows, err));
    if (t->windows.n == 0) return dlm__fail(err, DLM_ARGUMENT, "%s holds nothing to train on", o->data);
    if (t->windows.n > UINT32_MAX)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s has %zu windows of %zu tokens, at most %" PRIu32, o->data,
                         t->windows.n, o->seq_len, UINT32_MAX);
    /* Of a single document none can be held out: such a run is not evaluated. */
    if (t->eval_windows.n == 0 && !held_out && o->eval_every > 0)
        return dlm__fail(err, DLM_ARGUMENT, "%s holds nothing to evaluate on", o->eval_data);
    return DLM_OK;
}

static dlm_status open_data(dlm_trainer *t, const dlm_train_options *o, dlm_error *err) {
    DLM_TRY(open_source(o->data, &t->data, &t->source, err));
    if (o->eval_data != NULL) {
        DLM_TRY(open_source(o->eval_data, &t->eval_data, &t->eval_source, err));
        uint64_t want = dlm_data_describe(t->data).vocabulary_hash;
        uint64_t have = dlm_data_describe(t->eval_data).vocabulary_hash;
        if (want != have)
            return dlm__fail(err, DLM_MISMATCH,
                             "%s was made with another vocabulary (%016" PRIx64 ") than %s (%016" PRIx64 ")",
                             o->eval_data, have, o->data, want);
    }
    DLM_TRY(open_windows(t, err));
    t->lengths = dlm__calloc(o->seq_len + 1, sizeof *t->lengths);
    if (t->lengths == NULL) return dlm__fail_memory(err, "a histogram", o->seq_len * sizeof *t->lengths);
    dlm__data_lengths(t->data, o->seq_len, o->recipe == DLM_RECIPE_DEFAULT, t->lengths);
    return DLM_OK;
}

/* ---- opening: model and batch ------------------------------------------------------------------------- */

static dlm_status batch_options(const dlm_trainer *t, dlm_batch_options *b, dlm_error *err) {
    const dlm_train_options *o = &t->options;
    dlm_tokenizer_info info = dlm_tokenizer_describe(dlm_data_tokenizer(t->data));
    *b = (dlm_batch_options){.recipe = o->recipe,
                             .weight = o->weight,
                             .schedule = o->schedule,
                             .seq_len = o->seq_len,
                             .sequences = o->batch,
                             .micro_tokens = o->micro_tokens,
                             .tail_share = o->tail_share,
                             .seed = o->seed,
                             .mask_id = info.mask_id,
                             .pad_id = info.pad_id,
                             .end_id = info.end_id,
                             .rank = dlm_ranks_rank(t->ranks),
                             .ranks = dlm_ranks_size(t->ranks)};
    const char *missing = info.mask_id < 0                                      ? "[MASK]"
                          : o->recipe == DLM_RECIPE_ORIGINAL && info.pad_id < 0 ? "[PAD]"
                          : o->recipe == DLM_RECIPE_DEFAULT && info.end_id < 0  ? "<|endoftext|>"
                                                                                : NULL;
    if (missing == NULL) return DLM_OK;
    return dlm__fail(err, DLM_UNSUPPORTED, "%s: its tokenizer has no token %s", o->data, missing);
}

static dlm_status open_network(dlm_trainer *t, dlm_error *err) {
    dlm_batch_options options;
    size_t vocab_size = dlm_tokenizer_describe(dlm_data_tokenizer(t->data)).vocab_size;
    dlm_config config = dlm__train_config(&t->options, vocab_size);
    dlm_dtype type = t->options.precision == DLM_PRECISION_BF16 ? DLM_BF16 : DLM_F32;
    DLM_TRY(batch_options(t, &options, err));
    DLM_TRY(dlm__layout_create(&config, &t->layout, err));
    DLM_TRY(dlm__compute_create(NULL, &t->compute, err));
    DLM_TRY(
        dlm__learner_create(t->layout, t->compute, t->options.optimizer, type, t->ranks, &t->learner, err));
    t->network = (dlm_network){.layout = t->layout, .params = t->learner->params, .type = type};
    DLM_TRY(dlm__network_allocate_bf16(&t->network, true, err));
    dlm_workspace_size largest = dlm__global_batch_largest(&options);
    DLM_TRY(dlm__workspace_create(t->layout, type, t->compute, largest, &t->workspace, err));
    t->network.lender = t->workspace;
    dlm_network average = t->network;
    average.params = t->learner->gradients;
    DLM_TRY(dlm__model_around(&config, &average, t->source.path, t->lengths, &t->model, err));
    t->ce = dlm__calloc(largest.rows, sizeof *t->ce);
    if (t->ce == NULL) return dlm__fail_memory(err, "a batch", largest.rows * sizeof *t->ce);
    return dlm__global_batch_create(&options, t->data, &t->windows, &t->batch, err);
}

/* Whether a model to start from is the one that is trained; the message names the first difference. */
static dlm_status same_shape(const char *source, const dlm_config *have, const dlm_config *want,
                             dlm_error *err) {
    const struct {
        const char *name;
        double have, want;
    } fields[] = {{"vocab_size", (double)have->vocab_size, (double)want->vocab_size},
                  {"max_seq_len", (double)have->max_seq_len, (double)want->max_seq_len},
                  {"hidden_size", (double)have->hidden_size, (double)want->hidden_size},
                  {"depth", (double)have->depth, (double)want->depth},
                  {"num_heads", (double)have->num_heads, (double)want->num_heads},
                  {"mlp_ratio", have->mlp_ratio, want->mlp_ratio}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].have == fields[i].want) continue;
        return dlm__fail(err, DLM_MISMATCH, "%s has %s %g, the model to be trained %g", source,
                         fields[i].name, fields[i].have, fields[i].want);
    }
    if (have->time == want->time && have->position == want->position) return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH, "%s has time %s and position %s, the model to be trained %s and %s",
                     source, dlm__time_name(have->time), dlm__position_name(have->position),
                     dlm__time_name(want->time), dlm__position_name(want->position));
}

/* Weights of options.init. */
static dlm_status start_from(dlm_trainer *t, const char *path, dlm_error *err) {
    dlm_model_options options = dlm_model_defaults();
    options.precision = DLM_PRECISION_F32;
    options.heads = t->layout->config.num_heads;
    dlm_model *model;
    DLM_TRY(dlm_model_load(path, &options, &model, err));
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    dlm_status status = same_shape(dlm_model_source(model), dlm_model_config(model), &t->layout->config, err);
    if (status == DLM_OK && tokenizer != NULL &&
        dlm_tokenizer_describe(tokenizer).hash != dlm_data_describe(t->data).vocabulary_hash)
        status = dlm__fail(err, DLM_MISMATCH, "%s has another vocabulary than %s", dlm_model_source(model),
                           t->options.data);
    if (status == DLM_OK) memcpy(t->learner->params, model->network.params, t->layout->total * sizeof(float));
    dlm_model_free(model);
    return status;
}

/* ---- opening: the run --------------------------------------------------------------------------------- */

/* The logs are rank 0's. */
static dlm_status open_log(dlm_trainer *t, const dlm_log_sizes *resumed, dlm_error *err) {
    if (dlm_ranks_rank(t->ranks) > 0) return DLM_OK;
    DLM_TRY(dlm__make_dirs(t->run, err));
    return dlm__run_log_open(t->run, resumed, t->progress.step, &t->log, err);
}

static dlm_status begin(dlm_trainer *t, const char *init, dlm_error *err) {
    dlm__layout_init(t->layout, t->options.seed, t->learner->params);
    if (init != NULL) DLM_TRY(start_from(t, init, err));
    dlm__learner_begin(t->learner);
    return open_log(t, NULL, err);
}

static dlm_status same_source(const dlm_trainer *t, const char *what, const dlm_train_source *was,
                              const dlm_train_source *is, dlm_error *err) {
    if ((was->path == NULL) == (is->path == NULL) && was->hash == is->hash) return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH,
                     "%s goes on with other data than it began with: %s was %s (content %016" PRIx64
                     "), is %s (content %016" PRIx64 ")",
                     t->run, what, was->path != NULL ? was->path : "none", was->hash,
                     is->path != NULL ? is->path : "none", is->hash);
}

/* Goes on from the checkpoint, whose folder the trainer takes over. */
static dlm_status resume(dlm_trainer *t, dlm_checkpoint *checkpoint, dlm_error *err) {
    DLM_TRY(dlm__train_options_same(t->run, &checkpoint->options, &t->options, err));
    DLM_TRY(same_source(t, "data", &checkpoint->source, &t->source, err));
    DLM_TRY(same_source(t, "eval_data", &checkpoint->eval_source, &t->eval_source, err));
    if (t->steps > 0 && checkpoint->progress.step > t->steps)
        return dlm__fail(err, DLM_ARGUMENT, "%s has done %" PRIu64 " steps, more than the %zu of the options",
                         t->run, checkpoint->progress.step, t->steps);
    DLM_TRY(dlm__checkpoint_load(checkpoint, t->learner, err));
    t->progress = checkpoint->progress;
    t->before = checkpoint->clock;
    t->checkpoint = checkpoint->folder;
    t->checkpoint_step = t->progress.step;
    checkpoint->folder = NULL;
    return open_log(t, &t->before.sizes, err);
}

/* What is in the folder of a run. */
typedef enum found { FOUND_NOTHING, FOUND_TEXT, FOUND_RUN } found;

static found look_at(const char *run) {
    if (dlm__run_log_exists(run)) return FOUND_RUN;
    return dlm__run_only_prepared(run) ? FOUND_TEXT : FOUND_NOTHING;
}

/* there: as rank 0 saw it before it wrote anything. */
static dlm_status begin_or_resume(dlm_trainer *t, const dlm_train_options *options, found there,
                                  dlm_error *err) {
    if (there == FOUND_RUN && !options->resume)
        return dlm__fail(err, DLM_EXISTS, "%s holds a run already; resume it, or name another folder",
                         t->run);
    if (!options->resume) return begin(t, options->init, err);
    if (there == FOUND_TEXT) return begin(t, options->init, err);
    if (there == FOUND_NOTHING) return dlm__fail(err, DLM_NOT_FOUND, "%s holds no run to resume", t->run);
    dlm_checkpoint checkpoint;
    dlm_status status = dlm__checkpoint_read(t->run, &checkpoint, err);
    if (status == DLM_OK && checkpoint.folder == NULL) return begin(t, options->init, err);
    if (status == DLM_OK) status = resume(t, &checkpoint, err);
    dlm__checkpoint_release(&checkpoint);
    return status;
}

/* Precision and length as they are on this machine and for these data. */
static dlm_status resolve(dlm_trainer *t, dlm_error *err) {
    dlm_train_options *o = &t->options;
    dlm_dtype type;
    DLM_TRY(dlm__precision_type(o->precision, &type, err));
    o->precision = type == DLM_BF16 ? DLM_PRECISION_BF16 : DLM_PRECISION_F32;
    t->steps = o->minutes > 0 ? 0 : o->steps;
    if (o->minutes > 0 || o->steps > 0) return DLM_OK;
    double steps = ceil(o->epochs * (double)t->windows.n / (double)o->batch);
    if (!(steps <= UINT32_MAX))
        return dlm__fail(err, DLM_ARGUMENT, "%g epochs of %zu windows are %g steps, at most %" PRIu32,
                         o->epochs, t->windows.n, steps, UINT32_MAX);
    t->steps = steps > 1 ? (size_t)steps : 1;
    return DLM_OK;
}

/* ---- opening: together -------------------------------------------------------------------------------- */

static dlm_status same_content(const char *what, const dlm_train_source *first, const dlm_train_source *mine,
                               dlm_error *err) {
    if ((first->path == NULL) == (mine->path == NULL) && first->hash == mine->hash) return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH,
                     "%s is not that of rank 0: %s (content %016" PRIx64 ") there, %s (content %016" PRIx64
                     ") here",
                     what, first->path != NULL ? first->path : "none", first->hash,
                     mine->path != NULL ? mine->path : "none", mine->hash);
}

/* text: what rank 0 is about to do, as trainer.json says it. */
static dlm_status same_as_first(const dlm_trainer *t, const char *text, size_t n, dlm_error *err) {
    dlm_checkpoint first = {0};
    dlm_status status = dlm__checkpoint_state_parse("rank 0", text, n, &first, err);
    if (status == DLM_OK) status = dlm__train_options_equal(&first.options, &t->options, err);
    if (status == DLM_OK) status = same_content("data", &first.source, &t->source, err);
    if (status == DLM_OK) status = same_content("eval_data", &first.eval_source, &t->eval_source, err);
    dlm__checkpoint_release(&first);
    return status;
}

/* Rank 0's text in *text, which is to be freed. */
static dlm_status share_text(dlm_ranks *ranks, char **text, size_t *n, dlm_error *err) {
    const bool first = dlm_ranks_rank(ranks) == 0;
    uint64_t length = first && *text != NULL ? strlen(*text) : 0;
    DLM_TRY(dlm__ranks_share(ranks, &length, sizeof length, err));
    if (!first) *text = dlm__calloc((size_t)length + 1, 1);
    const dlm_status status =
        *text != NULL ? DLM_OK : dlm__fail_memory(err, "the options of the run", (size_t)length + 1);
    DLM_TRY(dlm__ranks_agree(ranks, status, err));
    *n = (size_t)length;
    return dlm__ranks_share(ranks, *text, *n, err);
}

/* Do all ranks train the same? */
static dlm_status compare(const dlm_trainer *t, dlm_error *err) {
    if (dlm_ranks_size(t->ranks) == 1) return DLM_OK;
    const dlm_checkpoint mine = {.options = t->options, .source = t->source, .eval_source = t->eval_source};
    char *text = dlm_ranks_rank(t->ranks) == 0 ? dlm__checkpoint_state_text(&mine, t->windows.n) : NULL;
    size_t n;
    dlm_status status = share_text(t->ranks, &text, &n, err);
    if (status == DLM_OK) {
        status = same_as_first(t, text, n, err);
        status = dlm__ranks_agree(t->ranks, status, err);
    }
    free(text);
    return status;
}

/* Did all ranks find the same checkpoint, or none? */
static dlm_status compare_steps(const dlm_trainer *t, dlm_error *err) {
    uint64_t first = t->progress.step;
    DLM_TRY(dlm__ranks_share(t->ranks, &first, sizeof first, err));
    dlm_status status = DLM_OK;
    if (first != t->progress.step)
        status = dlm__fail(err, DLM_MISMATCH,
                           "%s is not the folder of rank 0: its run is at step %" PRIu64 ", here at %" PRIu64,
                           t->run, first, t->progress.step);
    return dlm__ranks_agree(t->ranks, status, err);
}

/* What a rank can do by itself, before anything is written. */
static dlm_status open_own(dlm_trainer *t, const dlm_train_options *options, dlm_error *err) {
    if (options->data == NULL || options->run == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "training needs a folder of data and one for the run");
    DLM_TRY(dlm_train_check(options, err));
    if (options->batch < dlm_ranks_size(t->ranks))
        return dlm__fail(err, DLM_ARGUMENT, "a batch of %zu sequences is not enough for %zu ranks",
                         options->batch, dlm_ranks_size(t->ranks));
    DLM_TRY(copy_text(options->run, &t->run, err));
    DLM_TRY(open_data(t, options, err));
    DLM_TRY(resolve(t, err));
    return open_network(t, err);
}

/* Everybody starts from rank 0's weights: other machines may have drawn or read others. */
static dlm_status open_together(dlm_trainer *t, const dlm_train_options *options, dlm_error *err) {
    dlm_ranks *ranks = t->ranks;
    DLM_TRY(compare(t, err));
    found there = look_at(t->run);
    DLM_TRY(dlm__ranks_share(ranks, &there, sizeof there, err));
    dlm_status status = begin_or_resume(t, options, there, err);
    DLM_TRY(dlm__ranks_agree(ranks, status, err));
    DLM_TRY(compare_steps(t, err));
    DLM_TRY(dlm__ranks_share(ranks, t->learner->params, t->layout->total * sizeof(float), err));
    if (t->checkpoint == NULL) dlm__learner_begin(t->learner);
    dlm__network_refresh(t->compute, &t->network);
    t->first_step = t->progress.step;
    t->started = dlm__seconds();
    return dlm__ranks_agree(ranks, dlm__compute_status(t->compute, err), err);
}

dlm_status dlm_trainer_create(const dlm_train_options *options, dlm_trainer **trainer, dlm_error *err) {
    *trainer = NULL;
    dlm_trainer *made = dlm__calloc(1, sizeof *made);
    dlm_status status = DLM_OK;
    if (made == NULL) {
        status = dlm__fail_memory(err, "a trainer", sizeof *made);
    } else {
        made->options = *options;
        made->ranks = options->ranks;
        status = open_own(made, options, err);
    }
    status = dlm__ranks_agree(options->ranks, status, err);
    if (status == DLM_OK && made != NULL) {
        status = open_together(made, options, err);
        /* The caller's strings end with this call. */
        made->options.run = made->run;
        made->options.data = made->source.path;
        made->options.eval_data = made->eval_source.path;
        made->options.init = NULL;
    }
    if (status == DLM_OK)
        *trainer = made;
    else
        dlm_trainer_free(made);
    return status;
}

void dlm_trainer_free(dlm_trainer *trainer) {
    if (trainer == NULL) return;
    dlm__run_log_close(trainer->log);
    dlm_model_free(trainer->model);
    dlm__global_batch_free(trainer->batch);
    dlm__workspace_free(trainer->workspace);
    free(trainer->network.params_bf16);
    dlm__learner_free(trainer->learner);
    dlm__compute_free(trainer->compute);
    dlm__layout_free(trainer->layout);
    dlm__windows_free(&trainer->windows);
    dlm__windows_free(&trainer->eval_windows);
    dlm_data_close(trainer->data);
    dlm_data_close(trainer->eval_data);
    free(trainer->ce);
    free(trainer->lengths);
    free(trainer->sample);
    free(trainer->checkpoint);
    free(trainer->run);
    free(trainer->source.path);
    free(trainer->eval_source.path);
    free(trainer);
}

/* ---- recalling a run's options ------------------------------------------------------------------------ */

/* Both paths in one piece of memory. */
static dlm_status join_paths(const char *data, const char *eval_data, dlm_train_options *options,
                             char **paths, dlm_error *err) {
    size_t n = strlen(data) + 1, m = eval_data != NULL ? strlen(eval_data) + 1 : 0;
    *paths = malloc(n + m);
    if (*paths == NULL) return dlm__fail_memory(err, data, n + m);
    options->data = memcpy(*paths, data, n);
    if (eval_data != NULL) options->eval_data = memcpy(*paths + n, eval_data, m);
    return DLM_OK;
}

dlm_status dlm_train_recall(const char *run, dlm_train_options *options, char **paths, dlm_error *err) {
    *paths = NULL;
    dlm_checkpoint checkpoint;
    DLM_TRY(dlm__checkpoint_read(run, &checkpoint, err));
    if (checkpoint.folder == NULL) return dlm__fail(err, DLM_NOT_FOUND, "%s has no checkpoint", run);
    *options = checkpoint.options;
    options->run = run;
    options->resume = true;
    dlm_status status = join_paths(checkpoint.source.path, checkpoint.eval_source.path, options, paths, err);
    dlm__checkpoint_release(&checkpoint);
    return status;
}
