/* From one format to another, tensor by tensor: what is in memory of the weights is one tensor. */
#include "model/save.h"
#include "model/source.h"

#include <stdlib.h>
#include <string.h>

typedef struct conversion {
    dlm_model *model;      /* as dlm_model_inspect has it */
    dlm_source sources[2]; /* of the weights, and of the raw ones besides */
    float *values;         /* (the largest tensor's count) */
} conversion;

static dlm_status read_values(void *user, size_t i, const float **values, dlm_error *err) {
    const conversion *c = user;
    const dlm_layout *layout = c->model->layout;
    *values = c->values;
    return dlm__weights_tensor(&layout->params[i % layout->n], &c->sources[i / layout->n].tensors, c->values,
                               err);
}

/* Opens the raw weights where they are wanted, can be written, and are there. */
static dlm_status open_raw(conversion *c, const char *from, bool *raw, dlm_error *err) {
    *raw = dlm__source_has_raw(&c->sources[0]);
    if (!*raw) return DLM_OK;
    DLM_TRY(dlm__source_open(from, DLM_WEIGHTS_RAW, &c->sources[1], err));
    return dlm__weights_check(c->model->layout, &c->sources[1].tensors, err);
}

static dlm_status write(conversion *c, const char *to, bool raw, const dlm_convert_options *options,
                        dlm_error *err) {
    const dlm_layout *layout = c->model->layout;
    size_t largest = 0;
    for (size_t i = 0; i < layout->n; i++)
        if (layout->params[i].count > largest) largest = layout->params[i].count;
    c->values = dlm__calloc(largest, sizeof *c->values);
    if (c->values == NULL) return dlm__fail_memory(err, to, largest * sizeof *c->values);
    const dlm_saved saved = {.layout = layout,
                             .lengths = c->model->lengths,
                             .tokenizer = c->model->tokenizer,
                             .raw = raw,
                             .values = read_values,
                             .user = c};
    return dlm__save(&saved, to, &options->save, err);
}

static dlm_status convert(conversion *c, const char *from, const char *to, const dlm_convert_options *options,
                          dlm_error *err) {
    bool raw = false;
    DLM_TRY(dlm_model_inspect(from, &options->model, &c->model, err));
    if (c->model->layout->config.num_heads == 0) return dlm__fail_heads(c->model->source, err);
    DLM_TRY(dlm__source_open(from, options->model.weights, &c->sources[0], err));
    DLM_TRY(dlm__weights_check(c->model->layout, &c->sources[0].tensors, err));
    if (options->both) DLM_TRY(open_raw(c, from, &raw, err));
    return write(c, to, raw, options, err);
}

dlm_convert_options dlm_convert_defaults(void) {
    return (dlm_convert_options){.model = dlm_model_defaults(), .both = true, .save = dlm_save_defaults()};
}

dlm_status dlm_model_convert(const char *from, const char *to, const dlm_convert_options *options,
                             dlm_error *err) {
    const dlm_convert_options defaults = dlm_convert_defaults();
    if (options == NULL) options = &defaults;
    if (options->both && options->model.weights != DLM_WEIGHTS_EMA)
        return dlm__fail(err, DLM_ARGUMENT, "raw weights alone and both kinds at once cannot be asked for");
    conversion c = {0};
    const dlm_status status = convert(&c, from, to, options, err);
    free(c.values);
    for (int i = 0; i < 2; i++) dlm__source_close(&c.sources[i]);
    dlm_model_free(c.model);
    return status;
}
