/* Checkpoints: RUN/checkpoints/step-N, written whole or not at all; `latest` and `best`, which name one.
 *
 * A folder gets its name when all its files are on the disk, `latest` is replaced after that, and only then
 * are older folders removed. So whenever the process is killed, or a write fails, `latest` names a whole
 * checkpoint. A folder that `latest` did not come to name is replaced when the resumed run gets to its step
 * again. docs/formats.md describes the files. */
#include "train/trainer.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 40 };

/* trainer.json and clock.json are a few kilobytes. */
#define STATE_LIMIT ((size_t)1 << 20)

static const char weights_file[] = "model.safetensors", raw_file[] = "raw.safetensors",
                  optimizer_file[] = "optimizer.safetensors", config_file[] = "config.json",
                  state_file[] = "trainer.json", clock_file[] = "clock.json";

static void step_name(uint64_t step, char name[NAME_SIZE]) {
    (void)snprintf(name, NAME_SIZE, "step-%08" PRIu64, step);
}

/* The step of a checkpoint's name; false when it is none. */
static bool parse_step_name(const char *name, uint64_t *step) {
    char again[NAME_SIZE], *end;
    if (strncmp(name, "step-", 5) != 0) return false;
    *step = strtoull(name + 5, &end, 10);
    step_name(*step, again);
    return strcmp(again, name) == 0;
}

/* dir/name in *path, which is to be freed. */
static dlm_status join(const char *dir, const char *name, char **path, dlm_error *err) {
    *path = dlm__join(dir, name);
    return *path != NULL ? DLM_OK : dlm__fail_memory(err, name, strlen(dir) + strlen(name) + 2);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* One of the checkpoint's files, whole; its path and its bytes are to be freed. */
static dlm_status read_small(const dlm_checkpoint *checkpoint, const char *file, char **path, char **bytes,
                             size_t *n, dlm_error *err) {
    *bytes = NULL;
    DLM_TRY(join(checkpoint->folder, file, path, err));
    return dlm__read_file(*path, STATE_LIMIT, bytes, n, err);
}

static dlm_status read_state(dlm_checkpoint *checkpoint, dlm_error *err) {
    char *path, *bytes;
    size_t n;
    dlm_status status = read_small(checkpoint, state_file, &path, &bytes, &n, err);
    if (status == DLM_OK) status = dlm__checkpoint_state_parse(path, bytes, n, checkpoint, err);
    const char *slash = strrchr(checkpoint->folder, '/');
    uint64_t step;
    if (status == DLM_OK && (!parse_step_name(slash == NULL ? checkpoint->folder : slash + 1, &step) ||
                             step != checkpoint->progress.step))
        status = dlm__fail(err, DLM_FORMAT, "%s: step %" PRIu64 " is not that of its folder", path,
                           checkpoint->progress.step);
    free(bytes);
    free(path);
    return status;
}

static dlm_status read_clock(dlm_checkpoint *checkpoint, dlm_error *err) {
    char *path, *bytes;
    size_t n;
    dlm_status status = read_small(checkpoint, clock_file, &path, &bytes, &n, err);
    if (status == DLM_OK) status = dlm__checkpoint_clock_parse(path, bytes, n, &checkpoint->clock, err);
    free(bytes);
    free(path);
    return status;
}

static int newest_first(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* The steps of the checkpoints in dir, newest first, in *steps (to be freed). */
static dlm_status list_steps(const char *dir, uint64_t **steps, size_t *n, dlm_error *err) {
    *steps = NULL;
    *n = 0;
    size_t capacity = 0;
    DIR *list = opendir(dir);
    if (list == NULL) return errno == ENOENT ? DLM_OK : dlm__fail_errno(err, errno, "%s", dir);
    dlm_status status = DLM_OK;
    for (const struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        uint64_t step;
        if (!parse_step_name(entry->d_name, &step)) continue;
        uint64_t *grown = dlm__grow(*steps, &capacity, *n + 1, sizeof **steps);
        if (grown == NULL) {
            status = dlm__fail_memory(err, dir, (*n + 1) * sizeof **steps);
            break;
        }
        *steps = grown;
        (*steps)[(*n)++] = step;
    }
    (void)closedir(list);
    if (*n > 0) qsort(*steps, *n, sizeof **steps, newest_first);
    return status;
}

/* The folder of the most steps in *folder; NULL when there is none. A process that was killed between its
 * first checkpoint and `latest` leaves that. */
static dlm_status newest_folder(const char *run, char **folder, dlm_error *err) {
    char *dir, name[NAME_SIZE];
    uint64_t *steps;
    size_t n;
    DLM_TRY(join(run, "checkpoints", &dir, err));
    dlm_status status = list_steps(dir, &steps, &n, err);
    if (status == DLM_OK && n > 0) {
        step_name(steps[0], name);
        status = join(dir, name, folder, err);
    }
    free(steps);
    free(dir);
    return status;
}

dlm_status dlm__checkpoint_read(const char *run, dlm_checkpoint *checkpoint, dlm_error *err) {
    *checkpoint = (dlm_checkpoint){0};
    char *latest;
    DLM_TRY(join(run, "latest", &latest, err));
    dlm_status status = dlm__is_file(latest) ? dlm__model_folder(run, &checkpoint->folder, err)
                                             : newest_folder(run, &checkpoint->folder, err);
    free(latest);
    if (status == DLM_OK && checkpoint->folder == NULL) return DLM_OK;
    if (status == DLM_OK) status = read_state(checkpoint, err);
    if (status == DLM_OK) status = read_clock(checkpoint, err);
    if (status != DLM_OK) dlm__checkpoint_release(checkpoint);
    return status;
}

void dlm__checkpoint_release(dlm_checkpoint *checkpoint) {
    free(checkpoint->folder);
    free(checkpoint->source.path);
    free(checkpoint->eval_source.path);
    *checkpoint = (dlm_checkpoint){0};
}

static dlm_status load_weights(const dlm_checkpoint *checkpoint, const dlm_layout *layout, const char *file,
                               float *params, dlm_error *err) {
    char *path;
    DLM_TRY(join(checkpoint->folder, file, &path, err));
    dlm_status status = dlm__weights_load(layout, path, params, err);
    free(path);
    return status;
}

dlm_status dlm__checkpoint_load(const dlm_checkpoint *checkpoint, dlm_learner *learner, dlm_error *err) {
    /* The average comes by way of the weights: a rank has not room for all of it. */
    DLM_TRY(load_weights(checkpoint, learner->layout, weights_file, learner->params, err));
    dlm__learner_begin(learner);
    DLM_TRY(load_weights(checkpoint, learner->layout, raw_file, learner->params, err));
    char *path;
    DLM_TRY(join(checkpoint->folder, optimizer_file, &path, err));
    dlm_status status = dlm__moments_load(learner, path, err);
    free(path);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static dlm_status save_average(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    const bool alone = dlm_ranks_size(trainer->ranks) == 1;
    const float *average = alone ? trainer->learner->average : trainer->learner->gradients;
    return dlm__weights_save(trainer->layout, path, average, err);
}

static dlm_status save_raw(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    return dlm__weights_save(trainer->layout, path, trainer->learner->params, err);
}

static dlm_status save_config(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    return dlm__config_save(&trainer->layout->config, trainer->lengths, path, err);
}

static dlm_status save_moments(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    return dlm__moments_save(trainer->learner, path, err);
}

/* Writes and frees the text, which is NULL when there was no memory for it. */
static dlm_status save_text(char *text, const char *path, dlm_error *err) {
    dlm_status status =
        text == NULL ? dlm__fail_memory(err, path, 0) : dlm__write_file(path, text, strlen(text), err);
    free(text);
    return status;
}

static dlm_status save_state(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    const dlm_checkpoint checkpoint = {.options = trainer->options,
                                       .progress = trainer->progress,
                                       .source = trainer->source,
                                       .eval_source = trainer->eval_source};
    return save_text(dlm__checkpoint_state_text(&checkpoint, trainer->windows.n), path, err);
}

static dlm_status save_clock(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    dlm_train_clock clock = trainer->before;
    clock.seconds += dlm__seconds() - trainer->started;
    DLM_TRY(dlm__run_log_sync(trainer->log, &clock.sizes, err));
    return save_text(dlm__checkpoint_clock_text(&clock), path, err);
}

static dlm_status fill_folder(const dlm_trainer *trainer, const char *dir, dlm_error *err) {
    static const struct {
        const char *file;
        dlm_status (*save)(const dlm_trainer *trainer, const char *path, dlm_error *err);
    } parts[] = {{weights_file, save_average}, {raw_file, save_raw},     {optimizer_file, save_moments},
                 {config_file, save_config},   {state_file, save_state}, {clock_file, save_clock}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char *path;
        DLM_TRY(join(dir, parts[i].file, &path, err));
        dlm_status status = parts[i].save(trainer, path, err);
        free(path);
        if (status != DLM_OK) return status;
    }
    return dlm_tokenizer_save(dlm_data_tokenizer(trainer->data), dir, err);
}

/* Removes a checkpoint. It loses its name first: half a folder must never bear one. */
static dlm_status remove_checkpoint(const char *path, dlm_error *err) {
    char *partial = dlm__partial_name(path);
    if (partial == NULL) return dlm__fail_memory(err, path, strlen(path));
    dlm_status status = dlm__remove_tree(partial, err);
    if (status == DLM_OK && rename(path, partial) != 0)
        status = dlm__fail_errno(err, errno, "renaming %s to %s", path, partial);
    if (status == DLM_OK) status = dlm__remove_tree(partial, err);
    free(partial);
    return status;
}

static dlm_status make_folder(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    char *working;
    if (dlm__is_dir(path)) DLM_TRY(remove_checkpoint(path, err)); /* `latest` did not come to name it */
    DLM_TRY(dlm__folder_begin(path, &working, err));
    dlm_status status = fill_folder(trainer, working, err);
    if (status == DLM_OK) status = dlm__folder_end(working, path, err);
    if (status != DLM_OK) (void)dlm__remove_tree(working, NULL);
    free(working);
    return status;
}

/* Writes the name of a checkpoint to RUN/file. */
static dlm_status point(const dlm_trainer *trainer, const char *file, const char *name, dlm_error *err) {
    char *path, line[NAME_SIZE + 1];
    DLM_TRY(join(trainer->run, file, &path, err));
    int n = snprintf(line, sizeof line, "%s\n", name);
    assert(n > 0);
    dlm_status status = dlm__write_file(path, line, (size_t)n, err);
    free(path);
    return status;
}

/* ---- what is kept ------------------------------------------------------------------------------------- */

/* Removes what a killed run left half written or half removed. */
static dlm_status remove_partial(const char *dir, dlm_error *err) {
    DIR *list = opendir(dir);
    if (list == NULL) return dlm__fail_errno(err, errno, "%s", dir);
    dlm_status status = DLM_OK;
    for (const struct dirent *entry = readdir(list); status == DLM_OK && entry != NULL;
         entry = readdir(list)) {
        if (strncmp(entry->d_name, "step-", 5) != 0 || strstr(entry->d_name, ".partial") == NULL) continue;
        char *path;
        status = join(dir, entry->d_name, &path, err);
        if (status == DLM_OK) status = dlm__remove_tree(path, err);
        free(path);
    }
    (void)closedir(list);
    return status;
}

/* Removes all but the `keep` newest checkpoints, the best and those of later steps, which are not ours to
 * judge: a run may have been set back to an earlier one. */
static dlm_status prune(const dlm_trainer *trainer, const char *dir, dlm_error *err) {
    uint64_t *steps;
    size_t n, kept = 0;
    const dlm_train_progress *p = &trainer->progress;
    DLM_TRY(remove_partial(dir, err));
    dlm_status status = list_steps(dir, &steps, &n, err);
    for (size_t i = 0; status == DLM_OK && i < n && trainer->options.keep > 0; i++) {
        if (steps[i] > p->step || kept++ < trainer->options.keep) continue;
        if (p->evaluated && steps[i] == p->best_step) continue;
        char name[NAME_SIZE], *path;
        step_name(steps[i], name);
        status = join(dir, name, &path, err);
        if (status == DLM_OK) status = remove_checkpoint(path, err);
        free(path);
    }
    free(steps);
    return status;
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

/* A step may have left values that the next loss would find out about. */
static dlm_status check_finite(const dlm_trainer *trainer, dlm_error *err) {
    const dlm_learner *l = trainer->learner;
    const struct {
        const char *name;
        size_t n;
        const float *values;
    } blocks[] = {{"weights", l->layout->total, l->params},
                  {"averaged weights", l->own, l->average},
                  {"first moments", l->own, l->momentum},
                  {"second moments", l->v_total, l->squares}};
    for (size_t i = 0; i < 4; i++) {
        if (isfinite(dlm__sum_of_squares(trainer->compute, blocks[i].n, blocks[i].values))) continue;
        return dlm__fail(err, DLM_NOT_FINITE,
                         "after step %" PRIu64 " the %s are not all finite, and are not saved; the last good "
                         "checkpoint is %s",
                         trainer->progress.step, blocks[i].name,
                         trainer->checkpoint != NULL ? trainer->checkpoint : "none");
    }
    return DLM_OK;
}

/* Writes the checkpoint `name` as `path` in dir; what others it may do without is removed. *there: it has
 * been written, whatever came after. */
static dlm_status write_checkpoint(const dlm_trainer *trainer, const char *name, const char *dir,
                                   const char *path, bool *there, dlm_error *err) {
    DLM_TRY(dlm__make_dirs(dir, err));
    DLM_TRY(make_folder(trainer, path, err));
    DLM_TRY(point(trainer, "latest", name, err));
    *there = true;
    if (trainer->progress.evaluated && trainer->progress.best_step == trainer->progress.step)
        DLM_TRY(point(trainer, "best", name, err));
    return prune(trainer, dir, err);
}

/* Rank 0 writes, asking the others for their moments, who answer until it is done; all know in the end what
 * came of it. */
static dlm_status save_together(const dlm_trainer *trainer, const char *name, const char *dir,
                                const char *path, bool *there, dlm_error *err) {
    dlm_ranks *ranks = trainer->ranks;
    dlm_status status;
    if (dlm_ranks_rank(ranks) == 0) {
        status = write_checkpoint(trainer, name, dir, path, there, err);
        DLM_TRY(dlm__moments_done(trainer->learner, err));
    } else {
        status = dlm__moments_serve(trainer->learner, err);
    }
    DLM_TRY(dlm__ranks_share(ranks, there, sizeof *there, err));
    return dlm__ranks_agree(ranks, status, err);
}

/* Takes over path. */
static dlm_status save_as(dlm_trainer *trainer, const char *name, const char *dir, char *path,
                          dlm_error *err) {
    bool there = false;
    dlm_status status = save_together(trainer, name, dir, path, &there, err);
    if (!there) {
        free(path);
        return status;
    }
    free(trainer->checkpoint);
    trainer->checkpoint = path;
    trainer->checkpoint_step = trainer->progress.step;
    return status;
}

/* What a rank needs before it can take its part in writing. */
static dlm_status prepare(const dlm_trainer *trainer, const char *name, char **dir, char **path,
                          dlm_error *err) {
    DLM_TRY(check_finite(trainer, err));
    DLM_TRY(join(trainer->run, "checkpoints", dir, err));
    return join(*dir, name, path, err);
}

dlm_status dlm__checkpoint_save(dlm_trainer *trainer, dlm_error *err) {
    char name[NAME_SIZE], *dir = NULL, *path = NULL;
    step_name(trainer->progress.step, name);
    dlm_status status = prepare(trainer, name, &dir, &path, err);
    status = dlm__ranks_agree(trainer->ranks, status, err);
    /* Of several ranks the average goes where the gradients were. */
    if (status == DLM_OK && dlm_ranks_size(trainer->ranks) > 1)
        status = dlm__learner_average(trainer->learner, trainer->learner->gradients, err);
    if (status == DLM_OK)
        status = save_as(trainer, name, dir, path, err);
    else
        free(path);
    free(dir);
    return status;
}
