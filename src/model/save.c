/* Writing models: as a checkpoint of torch.save, a safetensors file or a model folder, tensor by tensor, so
 * that no more than one of them is in memory twice. */
#include "model/save.h"

#include "format/torch_checkpoint.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One tensor after the other in the type of the file. */
typedef struct writer {
    const dlm_saved *saved;
    const char *path;
    size_t first; /* added to the number of a tensor: n for a file of raw weights */
    dlm_numbers numbers;
    dlm_st_entry *entries; /* (n) */
    uint16_t *halves;      /* (the largest tensor's count), NULL for float32 */
} writer;

static bool ends_with(const char *path, const char *end) {
    const size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

/* ---- tensors ------------------------------------------------------------------------------------------ */

/* Float16 ends at 65504: what is beyond would be infinite. */
static dlm_status check_halves(const writer *w, const dlm_param *param, const float *values, dlm_error *err) {
    const uint16_t largest = w->numbers == DLM_NUMBERS_F16 ? 0x7c00 : 0x7f80;
    for (size_t i = 0; i < param->count; i++) {
        if ((w->halves[i] & 0x7fff) < largest) continue;
        return dlm__fail(err, DLM_NOT_FINITE, "%s: value %zu of tensor %s is %g, too large for %s", w->path,
                         i, param->name, (double)values[i], w->numbers == DLM_NUMBERS_F16 ? "f16" : "bf16");
    }
    return DLM_OK;
}

static dlm_status get_bytes(void *user, size_t i, const void **bytes, dlm_error *err) {
    const writer *w = user;
    const dlm_param *param = &w->saved->layout->params[i % w->saved->layout->n];
    const float *values;
    DLM_TRY(w->saved->values(w->saved->user, i + w->first, &values, err));
    *bytes = values;
    if (w->numbers == DLM_NUMBERS_F32) return DLM_OK;
    *bytes = w->halves;
    if (w->numbers == DLM_NUMBERS_F16)
        dlm__f16_of_floats(values, param->count, w->halves);
    else
        dlm__bf16_of_floats(values, param->count, w->halves);
    return check_halves(w, param, values, err);
}

static dlm_status begin(writer *w, const dlm_saved *saved, dlm_numbers numbers, const char *path,
                        dlm_error *err) {
    static const dlm_st_type types[] = {DLM_ST_F32, DLM_ST_BF16, DLM_ST_F16};
    const dlm_layout *layout = saved->layout;
    size_t largest = 0;
    *w = (writer){.saved = saved, .numbers = numbers, .path = path};
    w->entries = dlm__calloc(layout->n, sizeof *w->entries);
    if (w->entries == NULL) return dlm__fail_memory(err, path, layout->n * sizeof *w->entries);
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        w->entries[i] = (dlm_st_entry){.name = param->name, .type = types[numbers], .ndim = param->ndim};
        memcpy(w->entries[i].shape, param->shape, param->ndim * sizeof *param->shape);
        if (param->count > largest) largest = param->count;
    }
    if (numbers == DLM_NUMBERS_F32) return DLM_OK;
    w->halves = dlm__calloc(largest, sizeof *w->halves);
    return w->halves != NULL ? DLM_OK : dlm__fail_memory(err, path, largest * sizeof *w->halves);
}

static void end(writer *w) {
    free(w->entries);
    free(w->halves);
}

/* ---- formats ------------------------------------------------------------------------------------------ */

static dlm_status write_torch(writer *w, const char *path, dlm_error *err) {
    const dlm_saved *saved = w->saved;
    json_t *config = dlm__config_original(&saved->layout->config),
           *ours = dlm__config_ours(&saved->layout->config, saved->lengths);
    const dlm_torch_content content = {.entries = w->entries,
                                       .n = saved->layout->n,
                                       .raw = saved->raw,
                                       .config = config,
                                       .diffusionlm = ours,
                                       .bytes = {.get = get_bytes, .user = w}};
    const dlm_status status = config != NULL && ours != NULL
                                  ? dlm__torch_save(path, &content, err)
                                  : dlm__fail_memory(err, path, sizeof saved->layout->config);
    json_decref(config);
    json_decref(ours);
    return status;
}

/* The average, or the raw weights, with the config and all in the metadata. */
static dlm_status write_safetensors(writer *w, bool raw, const char *path, dlm_error *err) {
    const dlm_saved *saved = w->saved;
    char *config = dlm__config_text(&saved->layout->config, saved->lengths);
    if (config == NULL) return dlm__fail_memory(err, path, sizeof saved->layout->config);
    const char *const metadata[] = {"config", config, NULL};
    const dlm_tensor_bytes bytes = {.get = get_bytes, .user = w};
    w->first = raw ? saved->layout->n : 0;
    const dlm_status status =
        dlm__safetensors_write(path, w->entries, saved->layout->n, metadata, bytes, err);
    free(config);
    return status;
}

static dlm_status write_in(writer *w, const char *folder, bool raw, dlm_error *err) {
    char *path = dlm__join(folder, raw ? "raw.safetensors" : "model.safetensors");
    if (path == NULL) return dlm__fail_memory(err, folder, strlen(folder));
    const dlm_status status = write_safetensors(w, raw, path, err);
    free(path);
    return status;
}

static dlm_status fill_folder(writer *w, const char *folder, dlm_error *err) {
    const dlm_saved *saved = w->saved;
    char *path = dlm__join(folder, "config.json");
    if (path == NULL) return dlm__fail_memory(err, folder, strlen(folder));
    dlm_status status = dlm__config_save(&saved->layout->config, saved->lengths, path, err);
    free(path);
    DLM_TRY(status);
    if (saved->tokenizer != NULL) DLM_TRY(dlm_tokenizer_save(saved->tokenizer, folder, err));
    DLM_TRY(write_in(w, folder, false, err));
    return saved->raw ? write_in(w, folder, true, err) : DLM_OK;
}

/* ---- places ------------------------------------------------------------------------------------------- */

static bool holds(const char *folder, const char *name) {
    char *path = dlm__join(folder, name);
    const bool found = path != NULL && dlm__is_file(path);
    free(path);
    return found;
}

/* Only a model folder is overwritten, and none with the state of a run in it. */
static dlm_status check_folder(const char *path, dlm_error *err) {
    struct stat about;
    if (lstat(path, &about) != 0) return DLM_OK;
    if (dlm__is_dir(path) && holds(path, "model.safetensors") && holds(path, "config.json") &&
        !holds(path, "trainer.json"))
        return DLM_OK;
    return dlm__fail(err, DLM_EXISTS,
                     "%s exists and is no model folder alone (model.safetensors and config.json)", path);
}

static dlm_status write_folder(writer *w, const char *path, bool overwrite, dlm_error *err) {
    char *working;
    if (overwrite) DLM_TRY(check_folder(path, err));
    DLM_TRY(overwrite ? dlm__folder_begin_again(path, &working, err)
                      : dlm__folder_begin(path, &working, err));
    dlm_status status = fill_folder(w, working, err);
    if (status == DLM_OK)
        status = overwrite ? dlm__folder_replace(working, path, err) : dlm__folder_end(working, path, err);
    if (status != DLM_OK) (void)dlm__remove_tree(working, NULL);
    free(working);
    return status;
}

static dlm_status check_file(const char *path, bool overwrite, dlm_error *err) {
    struct stat about;
    if (lstat(path, &about) != 0) return DLM_OK;
    if (S_ISDIR(about.st_mode)) return dlm__fail(err, DLM_EXISTS, "%s is a folder, not a file", path);
    if (overwrite) return DLM_OK;
    return dlm__fail(err, DLM_EXISTS, "%s exists, and is not overwritten", path);
}

dlm_status dlm__save(const dlm_saved *saved, const char *path, const dlm_save_options *options,
                     dlm_error *err) {
    const bool torch = ends_with(path, ".pt") || ends_with(path, ".pth"),
               file = torch || ends_with(path, ".safetensors");
    writer w;
    if ((unsigned)options->numbers > DLM_NUMBERS_F16)
        return dlm__fail(err, DLM_ARGUMENT, "numbers %d is no such value", (int)options->numbers);
    if (file) DLM_TRY(check_file(path, options->overwrite, err));
    dlm_status status = begin(&w, saved, options->numbers, path, err);
    if (status == DLM_OK) {
        if (torch)
            status = write_torch(&w, path, err);
        else
            status = file ? write_safetensors(&w, false, path, err)
                          : write_folder(&w, path, options->overwrite, err);
    }
    end(&w);
    return status;
}

/* ---- a model in memory -------------------------------------------------------------------------------- */

dlm_save_options dlm_save_defaults(void) {
    return (dlm_save_options){.numbers = DLM_NUMBERS_F32};
}

static dlm_status values_of(void *user, size_t i, const float **values, dlm_error *err) {
    const dlm_model *model = user;
    const dlm_param *param = &model->layout->params[i];
    *values = model->network.params + param->offset;
    for (size_t j = 0; j < param->count; j++) {
        if (isfinite((*values)[j])) continue;
        return dlm__fail(err, DLM_NOT_FINITE, "%s: value %zu of tensor %s is %g", model->source, j,
                         param->name, (double)(*values)[j]);
    }
    return DLM_OK;
}

dlm_status dlm_model_save(const dlm_model *model, const char *path, const dlm_save_options *options,
                          dlm_error *err) {
    const dlm_save_options defaults = dlm_save_defaults();
    if (model->network.params == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "%s was read without its weights: there is nothing to save",
                         model->source);
    const dlm_saved saved = {.layout = model->layout,
                             .lengths = model->lengths,
                             .tokenizer = model->tokenizer,
                             .values = values_of,
                             .user = (void *)model};
    return dlm__save(&saved, path, options == NULL ? &defaults : options, err);
}
