/* Checkpoints: RUN/checkpoints/step-N, written whole or not at all; `latest` and `best`, which name one.
 *
 * A folder gets its name when all its files are on the disk, `latest` is replaced after that, and only then
 * are older folders removed. So whenever the process is killed, or a write fails, `latest` names a whole
 * checkpoint. A folder that `latest` did not come to name is replaced when the resumed run gets to its step
 * again. docs/formats.md describes the files. */
#include "train/trainer.h"

#include "format/safetensors.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT_VERSION = 1, NAME_SIZE = 40 };

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

/* ---- the optimiser's moments -------------------------------------------------------------------------- */

/* The tensors of optimizer.safetensors: m.NAME, and v.NAME where there are second moments. names has room for
 * 2 n names; returns how many there are. */
static size_t list_moments(const dlm_learner *learner, char (*names)[DLM_MAX_NAME + 2],
                           dlm_st_entry *entries) {
    size_t n = 0;
    for (size_t part = 0; part < 2; part++) {
        for (size_t i = 0; i < learner->layout->n; i++) {
            const dlm_param *p = &learner->layout->params[i];
            const float *data = part == 0 ? learner->momentum + p->offset : dlm__learner_squares(learner, i);
            if (data == NULL) continue;
            (void)snprintf(names[n], sizeof names[n], "%c.%s", part == 0 ? 'm' : 'v', p->name);
            entries[n] = (dlm_st_entry){.name = names[n], .type = DLM_ST_F32, .ndim = p->ndim, .data = data};
            memcpy(entries[n].shape, p->shape, sizeof p->shape);
            n++;
        }
    }
    return n;
}

typedef struct moments {
    char (*names)[DLM_MAX_NAME + 2];
    dlm_st_entry *entries;
    size_t n;
} moments;

static dlm_status moments_create(const dlm_learner *learner, moments *list, dlm_error *err) {
    size_t most = 2 * learner->layout->n;
    *list = (moments){.names = dlm__calloc(most, sizeof *list->names),
                      .entries = dlm__calloc(most, sizeof *list->entries)};
    if (list->names == NULL || list->entries == NULL)
        return dlm__fail_memory(err, optimizer_file, most * sizeof *list->entries);
    list->n = list_moments(learner, list->names, list->entries);
    return DLM_OK;
}

static void moments_free(moments *list) {
    free(list->names);
    free(list->entries);
}

static dlm_status save_moments(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    moments list;
    dlm_status status = moments_create(trainer->learner, &list, err);
    if (status == DLM_OK) status = dlm__safetensors_save(path, list.entries, list.n, NULL, err);
    moments_free(&list);
    return status;
}

static dlm_status load_moment(const dlm_safetensors *file, const dlm_st_entry *entry, float *values,
                              dlm_error *err) {
    const char *path = dlm__safetensors_path(file);
    const dlm_st_tensor *tensor = dlm__safetensors_find(file, entry->name);
    if (tensor == NULL) return dlm__fail(err, DLM_FORMAT, "%s: tensor %s is missing", path, entry->name);
    if (tensor->type != DLM_ST_F32 || tensor->ndim != entry->ndim ||
        memcmp(tensor->shape, entry->shape, entry->ndim * sizeof *entry->shape) != 0)
        return dlm__fail(err, DLM_FORMAT, "%s: tensor %s has not the shape of its parameter, in float32",
                         path, entry->name);
    DLM_TRY(dlm__safetensors_floats(file, tensor, values, err));
    for (size_t i = 0; i < tensor->count; i++) {
        if (!isfinite(values[i]))
            return dlm__fail(err, DLM_FORMAT, "%s: tensor %s holds a value that is not finite", path,
                             entry->name);
    }
    return DLM_OK;
}

static dlm_status load_moments(const dlm_learner *learner, const char *path, dlm_error *err) {
    dlm_safetensors *file;
    moments list;
    DLM_TRY(dlm__safetensors_open(path, &file, err));
    dlm_status status = moments_create(learner, &list, err);
    if (status == DLM_OK && dlm__safetensors_count(file) != list.n)
        status = dlm__fail(err, DLM_FORMAT, "%s: %zu tensors, the optimiser has %zu", path,
                           dlm__safetensors_count(file), list.n);
    for (size_t i = 0; status == DLM_OK && i < list.n; i++) {
        /* The entries point into the learner's blocks, which are ours to fill. */
        float *values = (float *)(uintptr_t)list.entries[i].data; /* NOLINT(performance-no-int-to-ptr) */
        status = load_moment(file, &list.entries[i], values, err);
    }
    moments_free(&list);
    dlm__safetensors_close(file);
    return status;
}

/* ---- trainer.json and clock.json ---------------------------------------------------------------------- */

static json_t *source_json(const dlm_train_source *source) {
    if (source->path == NULL) return json_null();
    return json_pack("{s:s, s:o}", "path", source->path, "hash", json_sprintf("%016" PRIx64, source->hash));
}

static json_t *best_json(const dlm_train_progress *p) {
    if (!p->evaluated) return json_null();
    return json_pack("{s:I, s:f}", "step", (json_int_t)p->best_step, "nelbo", p->best_nelbo);
}

static json_t *state_json(const dlm_trainer *trainer) {
    const dlm_train_progress *p = &trainer->progress;
    uint64_t sequences = p->step * trainer->options.batch;
    json_t *next = json_pack("{s:I, s:I}", "epoch", (json_int_t)(sequences / trainer->windows.n), "place",
                             (json_int_t)(sequences % trainer->windows.n));
    json_t *row = json_pack("{s:I, s:I, s:f, s:f}", "steps", (json_int_t)p->row_steps, "tokens",
                            (json_int_t)p->row_tokens, "loss", p->row_loss, "grad_norm", p->row_norm);
    return json_pack("{s:i, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "format", (int)FORMAT_VERSION, "step",
                     (json_int_t)p->step, "tokens", (json_int_t)p->tokens, "next", next, "since_row", row,
                     "best", best_json(p), "data", source_json(&trainer->source), "eval_data",
                     source_json(&trainer->eval_source), "options",
                     dlm__train_options_json(&trainer->options));
}

static json_t *clock_json(const dlm_train_clock *clock) {
    return json_pack("{s:f, s:f, s:I, s:I}", "seconds", clock->seconds, "row_seconds", clock->row_seconds,
                     "log_bytes", (json_int_t)clock->sizes.log, "samples_bytes",
                     (json_int_t)clock->sizes.samples);
}

/* Writes and releases the value, which is NULL when there was no memory for it. */
static dlm_status save_json(json_t *value, const char *path, dlm_error *err) {
    char *text = value == NULL ? NULL : json_dumps(value, JSON_INDENT(2));
    json_decref(value);
    if (text == NULL) return dlm__fail_memory(err, path, 0);
    dlm_output *output;
    dlm_status status = dlm__output_create(path, &output, err);
    if (status == DLM_OK) {
        dlm__output_printf(output, "%s\n", text);
        status = dlm__output_commit(output, err);
    }
    free(text);
    return status;
}

/* Reads members of an object: the first that is missing or of another type is remembered. */
typedef struct reader {
    const char *missing;
} reader;

static uint64_t read_count(reader *r, const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (json_is_integer(value) && json_integer_value(value) >= 0) return (uint64_t)json_integer_value(value);
    if (r->missing == NULL) r->missing = key;
    return 0;
}

static double read_real(reader *r, const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (json_is_number(value) && isfinite(json_number_value(value))) return json_number_value(value);
    if (r->missing == NULL) r->missing = key;
    return 0;
}

static void read_source(reader *r, const json_t *object, const char *key, dlm_train_source *source) {
    const json_t *value = json_object_get(object, key);
    if (json_is_null(value)) return;
    const char *path = json_string_value(json_object_get(value, "path"));
    const char *hash = json_string_value(json_object_get(value, "hash"));
    char rest;
    if (path != NULL) source->path = dlm__copy_bytes(path, strlen(path));
    if (source->path == NULL || hash == NULL || sscanf(hash, "%16" SCNx64 "%c", &source->hash, &rest) != 1) {
        if (r->missing == NULL) r->missing = key;
    }
}

static dlm_status parse_state(const char *name, const json_t *json, dlm_checkpoint *checkpoint,
                              dlm_error *err) {
    reader r = {0};
    dlm_train_progress *p = &checkpoint->progress;
    uint64_t format = read_count(&r, json, "format");
    if (r.missing == NULL && format != FORMAT_VERSION)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: format %" PRIu64 ", this program reads %d", name, format,
                         (int)FORMAT_VERSION);
    p->step = read_count(&r, json, "step");
    p->tokens = read_count(&r, json, "tokens");
    const json_t *row = json_object_get(json, "since_row"), *best = json_object_get(json, "best");
    p->row_steps = read_count(&r, row, "steps");
    p->row_tokens = read_count(&r, row, "tokens");
    p->row_loss = read_real(&r, row, "loss");
    p->row_norm = read_real(&r, row, "grad_norm");
    p->evaluated = !json_is_null(best);
    if (p->evaluated) {
        p->best_step = read_count(&r, best, "step");
        p->best_nelbo = read_real(&r, best, "nelbo");
    }
    read_source(&r, json, "data", &checkpoint->source);
    read_source(&r, json, "eval_data", &checkpoint->eval_source);
    if (r.missing == NULL && checkpoint->source.path == NULL) r.missing = "data";
    if (r.missing != NULL)
        return dlm__fail(err, DLM_FORMAT, "%s: %s is missing or has a value that it cannot have", name,
                         r.missing);
    uint64_t step;
    const char *slash = strrchr(checkpoint->folder, '/');
    if (!parse_step_name(slash == NULL ? checkpoint->folder : slash + 1, &step) || step != p->step)
        return dlm__fail(err, DLM_FORMAT, "%s: step %" PRIu64 " is not that of its folder", name, p->step);
    return dlm__train_options_parse(name, json_object_get(json, "options"), &checkpoint->options, err);
}

static dlm_status parse_clock(const char *name, const json_t *json, dlm_checkpoint *checkpoint,
                              dlm_error *err) {
    reader r = {0};
    checkpoint->clock = (dlm_train_clock){.seconds = read_real(&r, json, "seconds"),
                                          .row_seconds = read_real(&r, json, "row_seconds"),
                                          .sizes = {.log = read_count(&r, json, "log_bytes"),
                                                    .samples = read_count(&r, json, "samples_bytes")}};
    if (r.missing == NULL) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "%s: %s is missing or has a value that it cannot have", name,
                     r.missing);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static dlm_status read_json(const char *file, dlm_checkpoint *checkpoint,
                            dlm_status (*parse)(const char *name, const json_t *json,
                                                dlm_checkpoint *checkpoint, dlm_error *err),
                            dlm_error *err) {
    char *path;
    json_t *json;
    DLM_TRY(join(checkpoint->folder, file, &path, err));
    dlm_status status = dlm__json_load(path, &json, err);
    if (status == DLM_OK) {
        status = parse(path, json, checkpoint, err);
        json_decref(json);
    }
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
    if (status == DLM_OK) status = read_json(state_file, checkpoint, parse_state, err);
    if (status == DLM_OK) status = read_json(clock_file, checkpoint, parse_clock, err);
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
    DLM_TRY(load_weights(checkpoint, learner->layout, weights_file, learner->average, err));
    DLM_TRY(load_weights(checkpoint, learner->layout, raw_file, learner->params, err));
    char *path;
    DLM_TRY(join(checkpoint->folder, optimizer_file, &path, err));
    dlm_status status = load_moments(learner, path, err);
    free(path);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static dlm_status save_average(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    return dlm__weights_save(trainer->layout, path, trainer->learner->average, err);
}

static dlm_status save_raw(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    return dlm__weights_save(trainer->layout, path, trainer->learner->params, err);
}

static dlm_status save_config(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    return dlm__config_save(&trainer->layout->config, trainer->lengths, path, err);
}

static dlm_status save_state(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    return save_json(state_json(trainer), path, err);
}

static dlm_status save_clock(const dlm_trainer *trainer, const char *path, dlm_error *err) {
    dlm_train_clock clock = trainer->before;
    clock.seconds += dlm__seconds() - trainer->started;
    DLM_TRY(dlm__run_log_sync(trainer->log, &clock.sizes, err));
    return save_json(clock_json(&clock), path, err);
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
                  {"averaged weights", l->layout->total, l->average},
                  {"first moments", l->layout->total, l->momentum},
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

/* Takes over path. */
static dlm_status save_as(dlm_trainer *trainer, const char *name, const char *dir, char *path,
                          dlm_error *err) {
    dlm_status status = make_folder(trainer, path, err);
    if (status == DLM_OK) status = point(trainer, "latest", name, err);
    if (status != DLM_OK) {
        free(path);
        return status;
    }
    free(trainer->checkpoint);
    trainer->checkpoint = path;
    trainer->checkpoint_step = trainer->progress.step;
    if (trainer->progress.evaluated && trainer->progress.best_step == trainer->progress.step)
        DLM_TRY(point(trainer, "best", name, err));
    return prune(trainer, dir, err);
}

dlm_status dlm__checkpoint_save(dlm_trainer *trainer, dlm_error *err) {
    DLM_TRY(check_finite(trainer, err));
    char name[NAME_SIZE], *dir, *path = NULL;
    step_name(trainer->progress.step, name);
    DLM_TRY(join(trainer->run, "checkpoints", &dir, err));
    dlm_status status = dlm__make_dirs(dir, err);
    if (status == DLM_OK) status = join(dir, name, &path, err);
    if (status == DLM_OK) status = save_as(trainer, name, dir, path, err);
    free(dir);
    return status;
}
