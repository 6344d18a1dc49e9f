/* Models: loading, and the public view of a loaded model. */
#include "model/source.h"

#include "format/hub.h"
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static bool holds(const char *folder, const char *name) {
    char *path = dlm__join(folder, name);
    bool found = path != NULL && dlm__is_file(path);
    free(path);
    return found;
}

/* ---- weights ------------------------------------------------------------------------------------------ */

/* Memory for the parameters, and for their bfloat16 copy where products take that; what is in it is whatever
 * it was, so that no pass over a large model is made to clear what is then filled. */
static dlm_status allocate_network(dlm_model *model, dlm_error *err) {
    dlm_network *network = &model->network;
    size_t total = model->layout->total;
    network->params = dlm__aligned(total, sizeof *network->params);
    if (network->params == NULL) return dlm__fail_memory(err, "weights", total * sizeof *network->params);
    return dlm__network_allocate_bf16(network, false, err);
}

/* The 8-bit matrices and the bfloat16 copy of what is in params, all of it. */
static dlm_status convert_network(dlm_model *model, dlm_error *err) {
    dlm_compute *compute;
    dlm_status status = DLM_OK;
    if (model->network.type != DLM_BF16 && !model->int8) return DLM_OK;
    DLM_TRY(dlm__compute_create(NULL, &compute, err));
    if (model->int8) status = dlm__network_quantise(compute, &model->network, err);
    if (status == DLM_OK) dlm__network_refresh(compute, &model->network);
    dlm__compute_free(compute);
    return status;
}

/* The weights of a file, in what passes take. */
static dlm_status read_weights(dlm_model *model, const dlm_tensors *tensors, const dlm_beside *beside,
                               dlm_error *err) {
    dlm_network *network = &model->network;
    dlm_compute *compute = NULL;
    dlm_status status = DLM_OK;
    if (model->int8 || network->params_bf16 != NULL) DLM_TRY(dlm__compute_create(NULL, &compute, err));
    if (model->int8) status = dlm__network_allocate_int8(compute, network, err);
    if (status == DLM_OK) status = dlm__network_leave_out(network, tensors, err);
    if (status == DLM_OK) status = dlm__network_read(network, tensors, compute, beside, err);
    dlm__compute_free(compute);
    return status;
}

/* What products work on: beside 8-bit matrices what is fastest here. */
static dlm_status choose_type(dlm_model *model, dlm_precision precision, dlm_error *err) {
    model->int8 = precision == DLM_PRECISION_INT8;
    return dlm__precision_type(model->int8 ? DLM_PRECISION_AUTO : precision, &model->network.type, err);
}

dlm_status dlm__precision_type(dlm_precision precision, dlm_dtype *type, dlm_error *err) {
    *type = DLM_F32;
    switch (precision) {
    case DLM_PRECISION_AUTO: *type = dlm__bf16_native() ? DLM_BF16 : DLM_F32; return DLM_OK;
    case DLM_PRECISION_F32: return DLM_OK;
    case DLM_PRECISION_BF16: *type = DLM_BF16; return DLM_OK;
    case DLM_PRECISION_INT8: return dlm__fail(err, DLM_UNSUPPORTED, "nothing is trained in int8");
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

/* A tokenizer that is read by one thread while others read weights. */
typedef struct tokenizer_beside {
    const char *path; /* NULL: none is to be read */
    bool done;
    dlm_tokenizer *tokenizer;
    dlm_status status;
    dlm_error err;
} tokenizer_beside;

static void read_beside(void *user) {
    tokenizer_beside *beside = user;
    if (beside->path == NULL) return;
    beside->status = dlm__tokenizer_read(beside->path, &beside->tokenizer, &beside->err);
    beside->done = true;
}

/* Where the tokenizer is that the options name, or the one in folder; NULL: at the Hub, which the caller is
 * told the progress of, or there is none. */
static const char *tokenizer_on_disk(const dlm_model_options *options, const char *folder) {
    if (options->tokenizer != NULL) return dlm__hub_is_model(options->tokenizer) ? NULL : options->tokenizer;
    return holds(folder, "tokenizer.json") ? folder : NULL;
}

static dlm_status load_tokenizer(dlm_model *model, const dlm_model_options *options, tokenizer_beside *beside,
                                 dlm_error *err) {
    if (!beside->done) read_beside(beside);
    model->tokenizer = beside->tokenizer;
    if (beside->status != DLM_OK) return dlm__fail(err, beside->status, "%s", beside->err.message);
    if (beside->path == NULL && options->tokenizer != NULL)
        DLM_TRY(dlm__tokenizer_load(options->tokenizer, options->progress, options->user, &model->tokenizer,
                                    err));
    return set_special_ids(model, err);
}

dlm_status dlm__tokenizer_load(const char *name, dlm_progress progress, void *user, dlm_tokenizer **tokenizer,
                               dlm_error *err) {
    char *folder;
    *tokenizer = NULL;
    if (!dlm__hub_is_model(name)) return dlm__tokenizer_read(name, tokenizer, err);
    DLM_TRY(dlm__hub_tokenizer_folder(name, progress, user, &folder, err));
    const dlm_status status = dlm__tokenizer_read(folder, tokenizer, err);
    free(folder);
    return status;
}

dlm_status dlm_tokenizer_load(const char *path, dlm_tokenizer **tokenizer, dlm_error *err) {
    return dlm__tokenizer_load(path, NULL, NULL, tokenizer, err);
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

/* The parameter table; one head stands for heads that nobody told, which it does not depend on. */
static dlm_status lay_out(dlm_model *model, const dlm_config *config, dlm_error *err) {
    dlm_config known = *config;
    if (known.num_heads == 0) known.num_heads = 1;
    DLM_TRY(dlm__layout_create(&known, &model->layout, err));
    model->layout->config.num_heads = config->num_heads;
    model->network.layout = model->layout;
    return DLM_OK;
}

/* Checks the tensors, and keeps in mind what numbers they are. */
static dlm_status look_at_tensors(dlm_model *model, const dlm_tensors *tensors, dlm_error *err) {
    const dlm_layout *layout = model->layout;
    DLM_TRY(dlm__weights_check(layout, tensors, err));
    model->stored = dlm__calloc(layout->n, sizeof *model->stored);
    if (model->stored == NULL) return dlm__fail_memory(err, tensors->path, layout->n * sizeof *model->stored);
    for (size_t i = 0; i < layout->n; i++) {
        size_t at;
        if (dlm__tensors_find(tensors, layout->params[i].name, &at))
            model->stored[i] = tensors->at(tensors->file, at).number;
    }
    return DLM_OK;
}

/* Everything but the tokenizer; with_values: the weights too, and what can be done beside that. */
static dlm_status read_model(dlm_model *model, const dlm_source *source, const dlm_model_options *options,
                             bool with_values, const dlm_beside *beside, dlm_error *err) {
    dlm_config config;
    DLM_TRY(dlm__source_config(source, options->heads, &config, &model->lengths, err));
    if (options->schedule >= 0) config.schedule = (dlm_schedule)options->schedule;
    if (with_values && config.num_heads == 0) return dlm__fail_heads(source->file, err);
    DLM_TRY(lay_out(model, &config, err));
    DLM_TRY(look_at_tensors(model, &source->tensors, err));
    const bool stored =
        options->precision == DLM_PRECISION_AUTO && dlm__weights_are_int8(model->layout, &source->tensors);
    DLM_TRY(choose_type(model, stored ? DLM_PRECISION_INT8 : options->precision, err));
    if (!with_values) return DLM_OK;
    DLM_TRY(allocate_network(model, err));
    return read_weights(model, &source->tensors, beside, err);
}

static void close_file(dlm_model *model) {
    if (model->file != NULL) dlm__source_close(model->file);
    free(model->file);
    model->file = NULL;
}

static dlm_status open_file(dlm_model *model, const char *path, dlm_weights weights, dlm_error *err) {
    model->file = dlm__calloc(1, sizeof *model->file);
    if (model->file == NULL) return dlm__fail_memory(err, path, sizeof *model->file);
    DLM_TRY(dlm__source_open(path, weights, model->file, err));
    model->source = dlm__copy_bytes(model->file->file, strlen(model->file->file));
    return model->source != NULL ? DLM_OK : dlm__fail_memory(err, path, strlen(model->file->file));
}

/* The file stays open where values are left in it. */
static dlm_status load_files(dlm_model *model, const char *path, const dlm_model_options *options,
                             bool with_values, dlm_error *err) {
    tokenizer_beside tokenizer = {0};
    const dlm_beside beside = {read_beside, &tokenizer};
    DLM_TRY(open_file(model, path, options->weights, err));
    tokenizer.path = tokenizer_on_disk(options, model->file->folder);
    dlm_status status = read_model(model, model->file, options, with_values, &beside, err);
    if (status == DLM_OK)
        status = load_tokenizer(model, options, &tokenizer, err);
    else
        dlm_tokenizer_free(tokenizer.tokenizer);
    if (model->network.file == NULL) close_file(model);
    return status;
}

static dlm_status load_path(const char *path, const dlm_model_options *options, bool with_values,
                            dlm_model **model, dlm_error *err) {
    dlm_model *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, path, sizeof *made);
    const dlm_status status = load_files(made, path, options, with_values, err);
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

/* A model without weights and tokenizer. */
static dlm_status begin_model(const dlm_config *config, const uint64_t *lengths, dlm_model **model,
                              dlm_error *err) {
    size_t n = config->max_seq_len + 1;
    dlm_model *made = *model = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "model", sizeof *made);
    DLM_TRY(dlm__layout_create(config, &made->layout, err));
    made->network.layout = made->layout;
    made->source = dlm__copy_bytes("memory", strlen("memory"));
    if (made->source == NULL) return dlm__fail_memory(err, "model", strlen("memory"));
    if (lengths == NULL) return DLM_OK;
    made->lengths = dlm__calloc(n, sizeof *lengths);
    if (made->lengths == NULL) return dlm__fail_memory(err, "lengths", n * sizeof *lengths);
    memcpy(made->lengths, lengths, n * sizeof *lengths);
    return DLM_OK;
}

static dlm_status fill_network(dlm_model *model, const float *params, dlm_precision precision,
                               dlm_error *err) {
    const size_t bytes = model->layout->total * sizeof *params;
    DLM_TRY(choose_type(model, precision, err));
    DLM_TRY(allocate_network(model, err));
    if (params != NULL)
        memcpy(model->network.params, params, bytes);
    else
        memset(model->network.params, 0, bytes);
    return convert_network(model, err);
}

/* The rest, where all went well until now. */
static dlm_status end_model(dlm_status status, const char *tokenizer_dir, dlm_model **model, dlm_error *err) {
    dlm_model *made = *model;
    if (status == DLM_OK && tokenizer_dir != NULL)
        status = dlm__tokenizer_read(tokenizer_dir, &made->tokenizer, err);
    if (status == DLM_OK) status = set_special_ids(made, err);
    if (status == DLM_OK) return DLM_OK;
    dlm_model_free(made);
    *model = NULL;
    return status;
}

dlm_status dlm__model_create(const dlm_config *config, const float *params, const char *tokenizer_dir,
                             const uint64_t *lengths, dlm_precision precision, dlm_model **model,
                             dlm_error *err) {
    dlm_status status = begin_model(config, lengths, model, err);
    if (status == DLM_OK) status = fill_network(*model, params, precision, err);
    return end_model(status, tokenizer_dir, model, err);
}

dlm_status dlm__model_around(const dlm_config *config, const dlm_network *network, const char *tokenizer_dir,
                             const uint64_t *lengths, dlm_model **model, dlm_error *err) {
    const dlm_status status = begin_model(config, lengths, model, err);
    if (status == DLM_OK) {
        const dlm_layout *own = (*model)->layout;
        (*model)->network = *network;
        (*model)->network.layout = own;
        (*model)->borrowed = true;
    }
    return end_model(status, tokenizer_dir, model, err);
}

dlm_status dlm_model_random(const dlm_config *config, dlm_precision precision, uint64_t seed,
                            dlm_model **model, dlm_error *err) {
    DLM_TRY(dlm__model_create(config, NULL, NULL, NULL, precision, model, err));
    dlm__layout_init((*model)->layout, seed, (*model)->network.params);
    dlm__network_free_int8(&(*model)->network);
    const dlm_status status = convert_network(*model, err);
    if (status != DLM_OK) {
        dlm_model_free(*model);
        *model = NULL;
    }
    return status;
}

void dlm_model_free(dlm_model *model) {
    if (model == NULL) return;
    if (!model->borrowed) {
        dlm__network_free_int8(&model->network);
        free(model->network.params);
        free(model->network.params_bf16);
    }
    close_file(model);
    dlm__layout_free(model->layout);
    dlm_tokenizer_free(model->tokenizer);
    free(model->lengths);
    free(model->stored);
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
    if (model->int8) return DLM_PRECISION_INT8;
    return model->network.type == DLM_BF16 ? DLM_PRECISION_BF16 : DLM_PRECISION_F32;
}

const char *dlm_model_source(const dlm_model *model) {
    return model->source;
}

const char *dlm_model_stored(const dlm_model *model) {
    if (model->stored == NULL) return NULL;
    for (size_t i = 0; i < model->layout->n; i++)
        if (strcmp(model->stored[i], "int8") == 0) return "int8";
    for (size_t i = 1; i < model->layout->n; i++)
        if (strcmp(model->stored[i], model->stored[0]) != 0) return "mixed";
    return model->stored[0];
}

const uint64_t *dlm_model_lengths(const dlm_model *model, size_t *n) {
    if (n != NULL) *n = model->layout->config.max_seq_len + 1;
    return model->lengths;
}

size_t dlm_model_parameters(const dlm_model *model) {
    return model->layout->n;
}

dlm_parameter dlm_model_describe_parameter(const dlm_model *model, size_t i) {
    if (i >= model->layout->n) return (dlm_parameter){0};
    const dlm_param *param = &model->layout->params[i];
    dlm_parameter parameter = {.name = param->name, .ndim = param->ndim, .count = param->count};
    memcpy(parameter.shape, param->shape, sizeof parameter.shape);
    if (model->stored != NULL) parameter.stored = model->stored[i];
    return parameter;
}

dlm_status dlm_model_values(const dlm_model *model, size_t i, const float **values, dlm_error *err) {
    *values = NULL;
    if (i >= model->layout->n)
        return dlm__fail(err, DLM_ARGUMENT, "%s has %zu parameters, none of number %zu", model->source,
                         model->layout->n, i);
    if (model->network.params == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "%s was read without its weights", model->source);
    return dlm__network_values(&model->network, i, values, err);
}

dlm_parameter dlm_model_parameter(const dlm_model *model, size_t i) {
    dlm_parameter parameter = dlm_model_describe_parameter(model, i);
    (void)dlm_model_values(model, i, &parameter.values, NULL);
    return parameter;
}
