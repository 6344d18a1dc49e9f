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

/* A tensor of the file: a parameter, or the scales of one that is in 8 bits. */
typedef struct file_part {
    size_t param;
    bool scale;
    char name[DLM_MAX_NAME + sizeof ".scale"];
} file_part;

/* One tensor after the other in the type of the file. */
typedef struct writer {
    const dlm_saved *saved;
    const char *path;
    size_t first; /* added to the number of a tensor: n for a file of raw weights */
    dlm_numbers numbers;
    size_t n;
    file_part *parts;      /* (n) */
    dlm_st_entry *entries; /* (n) */
    uint16_t *halves;      /* (the largest tensor's count), NULL where it is not needed */
    int8_t *integers;      /* the same */
    float *scale;          /* the same: of its rows */
    dlm_compute *compute;
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

/* A matrix in 8 bits, or its scales. */
static dlm_status get_int8(writer *w, const file_part *part, const float *values, const void **bytes,
                           dlm_error *err) {
    const dlm_param *param = &w->saved->layout->params[part->param];
    dlm_int8 *packed;
    DLM_TRY(dlm__int8_create(w->compute, param->shape[0], param->shape[1], values, &packed, err));
    dlm__int8_integers(packed, w->integers);
    memcpy(w->scale, packed->scale, packed->N * sizeof *w->scale);
    dlm__int8_free(packed);
    *bytes = part->scale ? (const void *)w->scale : w->integers;
    return DLM_OK;
}

static dlm_status get_bytes(void *user, size_t i, const void **bytes, dlm_error *err) {
    writer *w = user;
    const file_part *part = &w->parts[i % w->n];
    const dlm_param *param = &w->saved->layout->params[part->param];
    const size_t raw = i / w->n * w->saved->layout->n; /* behind the average's */
    const float *values;
    DLM_TRY(w->saved->values(w->saved->user, part->param + raw + w->first, &values, err));
    *bytes = values;
    if (w->numbers == DLM_NUMBERS_INT8)
        return param->token_matrix ? get_int8(w, part, values, bytes, err) : DLM_OK;
    if (w->numbers == DLM_NUMBERS_F32) return DLM_OK;
    *bytes = w->halves;
    if (w->numbers == DLM_NUMBERS_F16)
        dlm__f16_of_floats(values, param->count, w->halves);
    else
        dlm__bf16_of_floats(values, param->count, w->halves);
    return check_halves(w, param, values, err);
}

static bool is_int8(const writer *w, const dlm_param *param) {
    return w->numbers == DLM_NUMBERS_INT8 && param->token_matrix;
}

/* Adds parameter i to what the file will hold, or what there is to it in float32 beside its integers. */
static void announce(writer *w, size_t i) {
    static const dlm_st_type types[] = {DLM_ST_F32, DLM_ST_BF16, DLM_ST_F16, DLM_ST_F32};
    const dlm_param *param = &w->saved->layout->params[i];
    dlm_st_entry *entry = &w->entries[w->n];
    file_part *part = &w->parts[w->n++];
    part->param = i;
    part->scale = is_int8(w, param);
    (void)snprintf(part->name, sizeof part->name, "%s%s", param->name, part->scale ? ".scale" : "");
    *entry =
        (dlm_st_entry){.name = part->name, .type = types[w->numbers], .ndim = part->scale ? 1 : param->ndim};
    memcpy(entry->shape, param->shape, entry->ndim * sizeof *param->shape);
}

/* Integers come last, so that all else is aligned whatever their shapes are. */
static void announce_integers(writer *w, size_t i) {
    const dlm_param *param = &w->saved->layout->params[i];
    if (!is_int8(w, param)) return;
    w->parts[w->n].param = i;
    w->entries[w->n] = (dlm_st_entry){.name = param->name, .type = DLM_ST_I8, .ndim = param->ndim};
    memcpy(w->entries[w->n++].shape, param->shape, param->ndim * sizeof *param->shape);
}

/* What values are made into on their way to the file. */
static dlm_status allocate(writer *w, size_t largest, size_t most_rows, dlm_error *err) {
    bool ok = true;
    if (w->numbers == DLM_NUMBERS_INT8) {
        DLM_TRY(dlm__compute_create(NULL, &w->compute, err));
        w->integers = dlm__calloc(largest, sizeof *w->integers);
        w->scale = dlm__calloc(most_rows, sizeof *w->scale);
        ok = w->integers != NULL && w->scale != NULL;
    } else if (w->numbers != DLM_NUMBERS_F32) {
        w->halves = dlm__calloc(largest, sizeof *w->halves);
        ok = w->halves != NULL;
    }
    return ok ? DLM_OK : dlm__fail_memory(err, w->path, largest * sizeof *w->halves);
}

static dlm_status begin(writer *w, const dlm_saved *saved, dlm_numbers numbers, const char *path,
                        dlm_error *err) {
    const dlm_layout *layout = saved->layout;
    size_t largest = 0, most_rows = 0;
    *w = (writer){.saved = saved, .numbers = numbers, .path = path};
    w->entries = dlm__calloc(2 * layout->n, sizeof *w->entries);
    w->parts = dlm__calloc(2 * layout->n, sizeof *w->parts);
    if (w->entries == NULL || w->parts == NULL)
        return dlm__fail_memory(err, path, 2 * layout->n * (sizeof *w->entries + sizeof *w->parts));
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        announce(w, i);
        if (param->count > largest) largest = param->count;
        if (param->shape[0] > most_rows) most_rows = param->shape[0];
    }
    for (size_t i = 0; i < layout->n; i++) announce_integers(w, i);
    return allocate(w, largest, most_rows, err);
}

static void end(writer *w) {
    free(w->entries);
    free(w->parts);
    free(w->halves);
    free(w->integers);
    free(w->scale);
    dlm__compute_free(w->compute);
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
    const dlm_status status = dlm__safetensors_write(path, w->entries, w->n, metadata, bytes, err);
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
    if ((unsigned)options->numbers > DLM_NUMBERS_INT8)
        return dlm__fail(err, DLM_ARGUMENT, "numbers %d is no such value", (int)options->numbers);
    if (torch && options->numbers == DLM_NUMBERS_INT8)
        return dlm__fail(err, DLM_UNSUPPORTED,
                         "%s: a .pt cannot hold int8 weights: a folder or a .safetensors file can", path);
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
    DLM_TRY(dlm__network_values(&model->network, i, values, err));
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
