/* Models: what MODEL names on disk, loading, and the public view of a loaded model. */
#include "model/model.h"

#include "format/hub.h"
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

/* ---- what a path names -------------------------------------------------------------------------------- */

static bool holds(const char *folder, const char *name) {
    char *path = dlm__join(folder, name);
    bool found = path != NULL && dlm__is_file(path);
    free(path);
    return found;
}

dlm_status dlm__latest_parse(const char *name, const char *text, size_t n, char **checkpoint,
                             dlm_error *err) {
    *checkpoint = NULL;
    size_t length = 0;
    while (length < n && text[length] != '\n' && text[length] != '\r') length++;
    size_t end = length;
    if (end < n && text[end] == '\r') end++;
    if (end < n && text[end] == '\n') end++;
    bool component = length > 0 && text[0] != '.' && memchr(text, '/', length) == NULL;
    if (!component || end < n || memchr(text, 0, length) != NULL)
        return dlm__fail(err, DLM_FORMAT, "%s does not name a checkpoint of this run", name);
    *checkpoint = dlm__copy_bytes(text, length);
    return *checkpoint != NULL ? DLM_OK : dlm__fail_memory(err, name, length);
}

/* The name in a run's file `latest`; free() it. */
static dlm_status read_latest(const char *run, char **name, dlm_error *err) {
    char *path = dlm__join(run, "latest"), *text = NULL;
    size_t n;
    *name = NULL;
    if (path == NULL) return dlm__fail_memory(err, run, strlen(run));
    dlm_status status = dlm__read_file(path, 4096, &text, &n, err);
    if (status == DLM_OK) status = dlm__latest_parse(path, text, n, name, err);
    free(text);
    free(path);
    return status;
}

dlm_status dlm__model_folder(const char *path, char **folder, dlm_error *err) {
    *folder = NULL;
    if (!dlm__is_dir(path)) return dlm__fail(err, DLM_NOT_FOUND, "%s: no such folder", path);
    if (holds(path, "config.json") || holds(path, "model.safetensors")) {
        *folder = dlm__copy_bytes(path, strlen(path));
        return *folder != NULL ? DLM_OK : dlm__fail_memory(err, path, strlen(path));
    }
    if (!holds(path, "latest")) {
        return dlm__fail(err, DLM_NOT_FOUND,
                         "%s: neither a model (config.json) nor a run with a checkpoint (latest)", path);
    }
    char *name;
    DLM_TRY(read_latest(path, &name, err));
    char *checkpoints = dlm__join(path, "checkpoints");
    *folder = checkpoints == NULL ? NULL : dlm__join(checkpoints, name);
    free(checkpoints);
    free(name);
    if (*folder == NULL) return dlm__fail_memory(err, path, strlen(path));
    if (dlm__is_dir(*folder)) return DLM_OK;
    dlm_status status =
        dlm__fail(err, DLM_NOT_FOUND, "%s: no such checkpoint, though %s/latest names it", *folder, path);
    free(*folder);
    *folder = NULL;
    return status;
}

/* The weights' file and its folder; free() both, also on failure. */
static dlm_status find_files(const char *path, dlm_weights weights, char **file, char **folder,
                             dlm_error *err) {
    *file = *folder = NULL;
    if (dlm__is_dir(path)) {
        DLM_TRY(dlm__model_folder(path, folder, err));
        *file = dlm__join(*folder, weights == DLM_WEIGHTS_RAW ? "raw.safetensors" : "model.safetensors");
    } else {
        const char *slash = strrchr(path, '/');
        size_t n = slash == NULL ? 0 : (size_t)(slash - path);
        *folder = slash == NULL ? dlm__copy_bytes(".", 1) : dlm__copy_bytes(path, n > 0 ? n : 1);
        *file = dlm__copy_bytes(path, strlen(path));
    }
    if (*file == NULL || *folder == NULL) return dlm__fail_memory(err, path, strlen(path));
    size_t n = strlen(*file);
    if (n >= 3 && strcmp(*file + n - 3, ".pt") == 0) {
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: files of torch.save are not supported, only safetensors",
                         *file);
    }
    return DLM_OK;
}

/* ---- config and weights ------------------------------------------------------------------------------- */

/* Whether two configs name the same network. */
static bool same_network(const dlm_config *a, const dlm_config *b) {
    return a->vocab_size == b->vocab_size && a->max_seq_len == b->max_seq_len &&
           a->hidden_size == b->hidden_size && a->depth == b->depth && a->num_heads == b->num_heads &&
           dlm__config_hidden(a) == dlm__config_hidden(b) && a->time == b->time && a->position == b->position;
}

static dlm_status read_config_file(const char *path, dlm_config *config, uint64_t **lengths, dlm_error *err) {
    char *text;
    size_t n;
    DLM_TRY(dlm__read_file(path, (size_t)64 << 20, &text, &n, err));
    dlm_status status = dlm__config_parse(path, text, n, config, lengths, err);
    free(text);
    return status;
}

/* From config.json beside the weights, or else from their metadata; where there are both they must agree. */
static dlm_status find_config(const dlm_safetensors *file, const char *folder, dlm_config *config,
                              uint64_t **lengths, dlm_error *err) {
    const char *inside = dlm__safetensors_metadata(file, "config"), *source = dlm__safetensors_path(file);
    *lengths = NULL;
    if (!holds(folder, "config.json")) {
        if (inside != NULL) return dlm__config_parse(source, inside, strlen(inside), config, lengths, err);
        return dlm__fail(err, DLM_NOT_FOUND, "%s: no config.json beside it, nor \"config\" in its metadata",
                         source);
    }
    char *path = dlm__join(folder, "config.json");
    if (path == NULL) return dlm__fail_memory(err, folder, strlen(folder));
    dlm_config other;
    dlm_status status = read_config_file(path, config, lengths, err);
    if (status == DLM_OK && inside != NULL) {
        status = dlm__config_parse(source, inside, strlen(inside), &other, NULL, err);
        if (status == DLM_OK && !same_network(config, &other)) {
            status = dlm__fail(err, DLM_MISMATCH, "%s describes another model than the metadata of %s", path,
                               source);
        }
    }
    free(path);
    if (status != DLM_OK) {
        free(*lengths);
        *lengths = NULL;
    }
    return status;
}

/* n zeroed elements on cache lines; free() them. */
static void *aligned(size_t n, size_t size) {
    size_t bytes;
    if (!dlm__size_mul(n, size, &bytes) || bytes > SIZE_MAX - DLM_ALIGN) return NULL;
    void *memory = aligned_alloc(DLM_ALIGN, dlm__round_up(bytes, DLM_ALIGN));
    if (memory != NULL) memset(memory, 0, bytes);
    return memory;
}

/* Memory for the parameters, and for their bfloat16 copy where products take that. */
static dlm_status allocate_network(dlm_model *model, dlm_error *err) {
    dlm_network *network = &model->network;
    size_t total = model->layout->total;
    network->params = aligned(total, sizeof *network->params);
    if (network->type == DLM_BF16) network->params_bf16 = aligned(total, sizeof *network->params_bf16);
    if (network->params != NULL && (network->type != DLM_BF16 || network->params_bf16 != NULL)) return DLM_OK;
    return dlm__fail_memory(err, "weights", total * sizeof *network->params);
}

/* The bfloat16 copy of what is in params. */
static dlm_status convert_network(dlm_model *model, dlm_error *err) {
    dlm_compute *compute;
    if (model->network.type != DLM_BF16) return DLM_OK;
    DLM_TRY(dlm__compute_create(NULL, &compute, err));
    dlm__network_refresh(compute, &model->network);
    dlm__compute_free(compute);
    return DLM_OK;
}

dlm_status dlm__precision_type(dlm_precision precision, dlm_dtype *type, dlm_error *err) {
    *type = DLM_F32;
    switch (precision) {
    case DLM_PRECISION_AUTO: *type = dlm__bf16_native() ? DLM_BF16 : DLM_F32; return DLM_OK;
    case DLM_PRECISION_F32: return DLM_OK;
    case DLM_PRECISION_BF16: *type = DLM_BF16; return DLM_OK;
    case DLM_PRECISION_I8:
        return dlm__fail(err, DLM_UNSUPPORTED, "products of int8 weights are not supported");
    }
    return dlm__fail(err, DLM_ARGUMENT, "precision %d is no such value", (int)precision);
}

/* ---- tokenizer ---------------------------------------------------------------------------------------- */

/* The ids that have a meaning, from the tokenizer where there is one, and whether it fits the config. */
static dlm_status set_special_ids(dlm_model *model, dlm_error *err) {
    const dlm_config *config = &model->layout->config;
    model->pad_id = 0;
    model->unk_id = 1;
    model->mask_id = 2;
    model->end_id = config->end_token ? 3 : -1;
    if (model->tokenizer == NULL) return DLM_OK;
    dlm_tokenizer_info info = dlm_tokenizer_describe(model->tokenizer);
    if (info.vocab_size > config->vocab_size) {
        return dlm__fail(err, DLM_MISMATCH, "%s: the tokenizer has %zu tokens, the model %zu", model->source,
                         info.vocab_size, config->vocab_size);
    }
    if (info.mask_id < 0) {
        return dlm__fail(err, DLM_MISMATCH, "%s: the tokenizer has no token [MASK]", model->source);
    }
    if (config->end_token && info.end_id < 0) {
        return dlm__fail(err, DLM_MISMATCH,
                         "%s: the model was trained with end tokens, the tokenizer has no <|endoftext|>",
                         model->source);
    }
    model->pad_id = info.pad_id;
    model->unk_id = info.unk_id;
    model->mask_id = info.mask_id;
    model->end_id = info.end_id;
    return DLM_OK;
}

/* The tokenizer at `given`, or the one in folder where that has one; either may be NULL. */
static dlm_status load_tokenizer(dlm_model *model, const char *given, const char *folder, dlm_error *err) {
    if (given != NULL) {
        DLM_TRY(dlm_tokenizer_load(given, &model->tokenizer, err));
    } else if (folder != NULL && holds(folder, "tokenizer.json")) {
        DLM_TRY(dlm_tokenizer_load(folder, &model->tokenizer, err));
    }
    return set_special_ids(model, err);
}

/* ---- loading ------------------------------------------------------------------------------------------ */

dlm_model_options dlm_model_defaults(void) {
    return (dlm_model_options){.weights = DLM_WEIGHTS_EMA, .precision = DLM_PRECISION_AUTO, .schedule = -1};
}

static dlm_status check_options(const dlm_model_options *options, dlm_error *err) {
    if ((unsigned)options->weights > DLM_WEIGHTS_RAW) {
        return dlm__fail(err, DLM_ARGUMENT, "weights %d is no such value", (int)options->weights);
    }
    if (options->schedule < -1 || options->schedule > DLM_SCHEDULE_LINEAR) {
        return dlm__fail(err, DLM_ARGUMENT, "schedule %d is no such value", options->schedule);
    }
    return DLM_OK;
}

/* Everything but the tokenizer, from an open file; with_values: the weights too. */
static dlm_status read_model(dlm_model *model, const dlm_safetensors *file, const char *folder,
                             const dlm_model_options *options, bool with_values, dlm_error *err) {
    dlm_config config;
    DLM_TRY(find_config(file, folder, &config, &model->lengths, err));
    if (options->schedule >= 0) config.schedule = (dlm_schedule)options->schedule;
    DLM_TRY(dlm__layout_create(&config, &model->layout, err));
    model->network.layout = model->layout;
    DLM_TRY(dlm__precision_type(options->precision, &model->network.type, err));
    DLM_TRY(dlm__weights_check(model->layout, file, err));
    if (!with_values) return DLM_OK;
    DLM_TRY(allocate_network(model, err));
    DLM_TRY(dlm__weights_read(model->layout, file, model->network.params, err));
    return convert_network(model, err);
}

static dlm_status load_files(dlm_model *model, const char *folder, const dlm_model_options *options,
                             bool with_values, dlm_error *err) {
    dlm_safetensors *file;
    DLM_TRY(dlm__safetensors_open(model->source, &file, err));
    dlm_status status = read_model(model, file, folder, options, with_values, err);
    dlm__safetensors_close(file);
    if (status == DLM_OK) status = load_tokenizer(model, options->tokenizer, folder, err);
    return status;
}

static dlm_status load_path(const char *path, const dlm_model_options *options, bool with_values,
                            dlm_model **model, dlm_error *err) {
    dlm_model *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, path, sizeof *made);
    char *folder;
    dlm_status status = find_files(path, options->weights, &made->source, &folder, err);
    if (status == DLM_OK) status = load_files(made, folder, options, with_values, err);
    free(folder);
    if (status != DLM_OK) {
        dlm_model_free(made);
        return status;
    }
    *model = made;
    return DLM_OK;
}

/* A path that exists wins over a model of the Hub by the same name. */
static dlm_status load(const char *path, const dlm_model_options *options, bool with_values,
                       dlm_model **model, dlm_error *err) {
    dlm_model_options defaults = dlm_model_defaults();
    if (options == NULL) options = &defaults;
    *model = NULL;
    DLM_TRY(check_options(options, err));
    if (!dlm__hub_is_model(path)) return load_path(path, options, with_values, model, err);
    char *folder;
    DLM_TRY(dlm__hub_model_folder(path, options->weights == DLM_WEIGHTS_RAW, options->progress, options->user,
                                  &folder, err));
    const dlm_status status = load_path(folder, options, with_values, model, err);
    free(folder);
    return status;
}

dlm_status dlm_model_load(const char *path, const dlm_model_options *options, dlm_model **model,
                          dlm_error *err) {
    return load(path, options, true, model, err);
}

dlm_status dlm_model_inspect(const char *path, const dlm_model_options *options, dlm_model **model,
                             dlm_error *err) {
    return load(path, options, false, model, err);
}

/* Fills a model from memory; what it got so far is the caller's to free. */
static dlm_status fill_model(dlm_model *model, const dlm_config *config, const float *params,
                             const char *tokenizer_dir, const uint64_t *lengths, dlm_precision precision,
                             dlm_error *err) {
    size_t n = config->max_seq_len + 1;
    DLM_TRY(dlm__layout_create(config, &model->layout, err));
    model->network.layout = model->layout;
    model->source = dlm__copy_bytes("memory", strlen("memory"));
    if (model->source == NULL) return dlm__fail_memory(err, "model", strlen("memory"));
    if (lengths != NULL) {
        model->lengths = dlm__calloc(n, sizeof *lengths);
        if (model->lengths == NULL) return dlm__fail_memory(err, "lengths", n * sizeof *lengths);
        memcpy(model->lengths, lengths, n * sizeof *lengths);
    }
    DLM_TRY(dlm__precision_type(precision, &model->network.type, err));
    DLM_TRY(allocate_network(model, err));
    if (params != NULL) memcpy(model->network.params, params, model->layout->total * sizeof *params);
    DLM_TRY(convert_network(model, err));
    return load_tokenizer(model, tokenizer_dir, NULL, err);
}

dlm_status dlm__model_create(const dlm_config *config, const float *params, const char *tokenizer_dir,
                             const uint64_t *lengths, dlm_precision precision, dlm_model **model,
                             dlm_error *err) {
    *model = NULL;
    dlm_model *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "model", sizeof *made);
    dlm_status status = fill_model(made, config, params, tokenizer_dir, lengths, precision, err);
    if (status != DLM_OK) {
        dlm_model_free(made);
        return status;
    }
    *model = made;
    return DLM_OK;
}

dlm_status dlm_model_random(const dlm_config *config, dlm_precision precision, uint64_t seed,
                            dlm_model **model, dlm_error *err) {
    DLM_TRY(dlm__model_create(config, NULL, NULL, NULL, precision, model, err));
    dlm__layout_init((*model)->layout, seed, (*model)->network.params);
    const dlm_status status = convert_network(*model, err);
    if (status != DLM_OK) {
        dlm_model_free(*model);
        *model = NULL;
    }
    return status;
}

void dlm__model_set_params(dlm_model *model, dlm_compute *compute, const float *params) {
    memcpy(model->network.params, params, model->layout->total * sizeof *params);
    dlm__network_refresh(compute, &model->network);
}

void dlm_model_free(dlm_model *model) {
    if (model == NULL) return;
    dlm__layout_free(model->layout);
    free(model->network.params);
    free(model->network.params_bf16);
    dlm_tokenizer_free(model->tokenizer);
    free(model->lengths);
    free(model->source);
    free(model);
}

/* ---- the public view ---------------------------------------------------------------------------------- */

const dlm_config *dlm_model_config(const dlm_model *model) {
    return &model->layout->config;
}

const dlm_tokenizer *dlm_model_tokenizer(const dlm_model *model) {
    return model->tokenizer;
}

dlm_precision dlm_model_precision(const dlm_model *model) {
    return model->network.type == DLM_BF16 ? DLM_PRECISION_BF16 : DLM_PRECISION_F32;
}

const char *dlm_model_source(const dlm_model *model) {
    return model->source;
}

const uint64_t *dlm_model_lengths(const dlm_model *model, size_t *n) {
    if (n != NULL) *n = model->layout->config.max_seq_len + 1;
    return model->lengths;
}

size_t dlm_model_parameters(const dlm_model *model) {
    return model->layout->n;
}

dlm_parameter dlm_model_parameter(const dlm_model *model, size_t i) {
    if (i >= model->layout->n) return (dlm_parameter){0};
    const dlm_param *param = &model->layout->params[i];
    dlm_parameter parameter = {.name = param->name, .ndim = param->ndim, .count = param->count};
    memcpy(parameter.shape, param->shape, sizeof parameter.shape);
    if (model->network.params != NULL) parameter.values = model->network.params + param->offset;
    return parameter;
}
