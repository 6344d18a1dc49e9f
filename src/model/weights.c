/* Weights on disk: the parameter table against the tensors of a file, and back. */
#include "model/model.h"

#include "format/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "(3072, 1024)" into text. */
static const char *shape_text(size_t ndim, const size_t *shape, char *text, size_t size) {
    size_t n = 0;
    (void)snprintf(text, size, "()");
    for (size_t i = 0; i < ndim && n < size; i++) {
        int more =
            snprintf(text + n, size - n, "%s%zu%s", i == 0 ? "(" : ", ", shape[i], i + 1 == ndim ? ")" : "");
        n += more > 0 ? (size_t)more : 0;
    }
    return text;
}

static dlm_status check_tensor(const char *path, const dlm_param *param, const dlm_tensor *tensor,
                               dlm_error *err) {
    if (tensor->number == NULL || (tensor->int8 && !param->token_matrix)) {
        return dlm__fail(err, DLM_UNSUPPORTED,
                         "%s: tensor %s holds %s, not float32, float16, bfloat16 or float64", path,
                         param->name, tensor->type_name);
    }
    if (tensor->ndim != param->ndim ||
        memcmp(tensor->shape, param->shape, param->ndim * sizeof(size_t)) != 0) {
        char has[200], wants[80];
        return dlm__fail(err, DLM_MISMATCH, "%s: tensor %s is %s, config wants %s", path, param->name,
                         shape_text(tensor->ndim, tensor->shape, has, sizeof has),
                         shape_text(param->ndim, param->shape, wants, sizeof wants));
    }
    return DLM_OK;
}

/* ---- 8-bit integers ------------------------------------------------------------------------------------ */

/* Where the file has the scales of a matrix's rows. */
static bool find_scale(const dlm_param *param, const dlm_tensors *file, size_t *at) {
    char name[DLM_MAX_NAME + sizeof ".scale"];
    (void)snprintf(name, sizeof name, "%s.scale", param->name);
    return dlm__tensors_find(file, name, at);
}

static bool is_int8(const dlm_param *param, const dlm_tensors *file) {
    size_t at;
    return dlm__tensors_find(file, param->name, &at) && file->at(file->file, at).int8;
}

bool dlm__weights_are_int8(const dlm_layout *layout, const dlm_tensors *file) {
    for (size_t i = 0; i < layout->n; i++)
        if (is_int8(&layout->params[i], file)) return true;
    return false;
}

static dlm_status check_scale(const dlm_param *param, const dlm_tensors *file, dlm_error *err) {
    size_t at;
    if (!find_scale(param, file, &at))
        return dlm__fail(err, DLM_MISMATCH, "%s: tensor %s holds I8, but there is no %s.scale", file->path,
                         param->name, param->name);
    const dlm_tensor scale = file->at(file->file, at);
    if (scale.number != NULL && !scale.int8 && scale.ndim == 1 && scale.shape[0] == param->shape[0])
        return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH, "%s: tensor %s is not %zu floating-point values, one for each row",
                     file->path, scale.name, param->shape[0]);
}

/* What the integers in values stand for. */
static dlm_status apply_scale(const dlm_param *param, const dlm_tensors *file, float *values,
                              dlm_error *err) {
    const size_t rows = param->shape[0], columns = param->shape[1];
    float *scale = dlm__calloc(rows, sizeof *scale);
    size_t at;
    if (scale == NULL) return dlm__fail_memory(err, file->path, rows * sizeof *scale);
    const dlm_status status = find_scale(param, file, &at)
                                  ? file->floats(file->file, at, scale, err)
                                  : dlm__fail(err, DLM_MISMATCH, "%s: no %s.scale", file->path, param->name);
    for (size_t i = 0; status == DLM_OK && i < rows; i++)
        for (size_t j = 0; j < columns; j++) values[i * columns + j] *= scale[i];
    free(scale);
    return status;
}

/* ---- all tensors -------------------------------------------------------------------------------------- */

/* Is a tensor that belongs to none of the parameters the scale of one in 8 bits? */
static bool is_scale(const dlm_layout *layout, const dlm_tensors *file, const char *name) {
    const size_t n = strlen(name), end = strlen(".scale");
    char matrix[DLM_MAX_NAME];
    if (n <= end || n - end >= sizeof matrix || strcmp(name + n - end, ".scale") != 0) return false;
    memcpy(matrix, name, n - end);
    matrix[n - end] = 0;
    const dlm_param *param = dlm__layout_find(layout, matrix);
    return param != NULL && is_int8(param, file);
}

dlm_status dlm__weights_check(const dlm_layout *layout, const dlm_tensors *file, dlm_error *err) {
    size_t scales = 0;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        size_t at;
        if (!dlm__tensors_find(file, param->name, &at)) {
            return dlm__fail(err, DLM_MISMATCH, "%s: tensor %s, which its config wants, is missing",
                             file->path, param->name);
        }
        const dlm_tensor tensor = file->at(file->file, at);
        DLM_TRY(check_tensor(file->path, param, &tensor, err));
        if (tensor.int8) DLM_TRY(check_scale(param, file, err));
        scales += tensor.int8;
    }
    if (file->n == layout->n + scales) return DLM_OK;
    const char *name = "";
    for (size_t i = 0; i < file->n; i++) {
        name = file->at(file->file, i).name;
        if (dlm__layout_find(layout, name) == NULL && !is_scale(layout, file, name)) break;
    }
    return dlm__fail(err, DLM_MISMATCH, "%s: tensor %s is none of this config's", file->path, name);
}

/* Values that a thread looks at before it takes others. */
#define CHUNK ((size_t)1 << 18)

typedef struct finite_check {
    const float *values;
    size_t n;
    size_t *first; /* of each chunk: of its values that are not finite; n: none */
} finite_check;

/* All bits of the exponent are set in what is infinite or not a number. The first loop only counts, so that
 * it can be done many values at a time. */
static void check_chunk(void *context, size_t chunk) {
    const finite_check *check = context;
    const size_t begin = chunk * CHUNK, end = check->n - begin < CHUNK ? check->n : begin + CHUNK;
    uint32_t bits, wrong = 0;
    size_t i = begin;
    for (; i < end; i++) {
        memcpy(&bits, &check->values[i], sizeof bits);
        wrong += (bits & 0x7f800000) == 0x7f800000;
    }
    for (i = begin; wrong > 0 && isfinite(check->values[i]);) i++;
    check->first[chunk] = wrong > 0 ? i : check->n;
}

/* The first of n values that is not finite in *first; n: none. */
static dlm_status find_not_finite(const char *path, const float *values, size_t n, size_t *first,
                                  dlm_error *err) {
    const size_t chunks = (n + CHUNK - 1) / CHUNK;
    *first = n;
    finite_check check = {.values = values, .n = n, .first = dlm__calloc(chunks, sizeof *check.first)};
    if (check.first == NULL) return dlm__fail_memory(err, path, chunks * sizeof *check.first);
    dlm__parallel_for(chunks, check_chunk, &check);
    for (size_t chunk = chunks; chunk-- > 0;)
        if (check.first[chunk] < n) *first = check.first[chunk];
    free(check.first);
    return DLM_OK;
}

static dlm_status fail_not_finite(const char *path, const dlm_param *param, size_t i, float value,
                                  dlm_error *err) {
    return dlm__fail(err, DLM_NOT_FINITE, "%s: value %zu of tensor %s is %g as float32", path, i, param->name,
                     (double)value);
}

static dlm_status read_tensor(const dlm_param *param, const dlm_tensors *file, float *values,
                              dlm_error *err) {
    size_t at;
    if (!dlm__tensors_find(file, param->name, &at))
        return dlm__fail(err, DLM_MISMATCH, "%s: tensor %s is missing", file->path, param->name);
    DLM_TRY(file->floats(file->file, at, values, err));
    return file->at(file->file, at).int8 ? apply_scale(param, file, values, err) : DLM_OK;
}

dlm_status dlm__weights_tensor(const dlm_param *param, const dlm_tensors *file, float *values,
                               dlm_error *err) {
    size_t i;
    DLM_TRY(read_tensor(param, file, values, err));
    DLM_TRY(find_not_finite(file->path, values, param->count, &i, err));
    return i == param->count ? DLM_OK : fail_not_finite(file->path, param, i, values[i], err);
}

/* The whole block is looked at once, as one piece of parallel work. */
dlm_status dlm__weights_read(const dlm_layout *layout, const dlm_tensors *file, float *params,
                             dlm_error *err) {
    DLM_TRY(dlm__weights_check(layout, file, err));
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        const size_t end = param->offset + param->count;
        const size_t next = i + 1 < layout->n ? layout->params[i + 1].offset : layout->total;
        DLM_TRY(read_tensor(param, file, params + param->offset, err));
        memset(params + end, 0, (next - end) * sizeof *params);
    }
    size_t first, i = layout->n;
    DLM_TRY(find_not_finite(file->path, params, layout->total, &first, err));
    if (first == layout->total) return DLM_OK;
    do i--;
    while (layout->params[i].offset > first);
    return fail_not_finite(file->path, &layout->params[i], first - layout->params[i].offset, params[first],
                           err);
}

dlm_status dlm__weights_load(const dlm_layout *layout, const char *path, float *params, dlm_error *err) {
    dlm_safetensors *file;
    DLM_TRY(dlm__safetensors_open(path, &file, err));
    const dlm_tensors tensors = dlm__safetensors_tensors(file);
    dlm_status status = dlm__weights_read(layout, &tensors, params, err);
    dlm__safetensors_close(file);
    return status;
}

dlm_status dlm__weights_save(const dlm_layout *layout, const char *path, const float *params,
                             dlm_error *err) {
    dlm_st_entry *entries = dlm__calloc(layout->n, sizeof *entries);
    char *config = dlm__config_text(&layout->config, NULL);
    if (entries == NULL || config == NULL) {
        free(entries);
        free(config);
        return dlm__fail_memory(err, path, layout->n * sizeof *entries);
    }
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        entries[i] = (dlm_st_entry){
            .name = param->name, .type = DLM_ST_F32, .ndim = param->ndim, .data = params + param->offset};
        memcpy(entries[i].shape, param->shape, param->ndim * sizeof *param->shape);
    }
    const char *const metadata[] = {"config", config, NULL};
    dlm_status status = dlm__safetensors_save(path, entries, layout->n, metadata, err);
    free(entries);
    free(config);
    return status;
}
