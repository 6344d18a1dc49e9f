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

/* ---- values ------------------------------------------------------------------------------------------- */

/* The first of n values that is not finite; n: none. All bits of the exponent are set in what is infinite or
 * not a number. The first loop only counts, so that it can be done many values at a time. */
static size_t find_not_finite(const float *values, size_t n) {
    uint32_t bits, wrong = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        memcpy(&bits, &values[i], sizeof bits);
        wrong += (bits & 0x7f800000) == 0x7f800000;
    }
    if (wrong == 0) return n;
    for (i = 0; isfinite(values[i]);) i++;
    return i;
}

/* values (n) are those of the parameter from `first` on. */
static dlm_status check_finite(const char *path, const dlm_param *param, size_t first, const float *values,
                               size_t n, dlm_error *err) {
    const size_t i = find_not_finite(values, n);
    if (i == n) return DLM_OK;
    return dlm__fail(err, DLM_NOT_FINITE, "%s: value %zu of tensor %s is %g as float32", path, first + i,
                     param->name, (double)values[i]);
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
    DLM_TRY(read_tensor(param, file, values, err));
    return check_finite(file->path, param, 0, values, param->count, err);
}

/* ---- all of them, by pieces --------------------------------------------------------------------------- */

/* A piece's values stay in a core's cache while they are read, looked at and rounded. */
#define PIECE ((size_t)1 << 16)
/* Pieces that a thread takes together: some large pages of memory, so that threads do not wait for the same
 * page to be cleared. */
#define PIECES_AT_ONCE ((size_t)8)

typedef struct piece {
    const dlm_param *param;
    size_t first, n;
    bool in_parts;     /* not read yet */
    bool last;         /* of its parameter */
    dlm_status status; /* of reading it */
} piece;

typedef struct reading {
    const dlm_network *network;
    dlm_compute *compute;
    const dlm_tensors *file;
    const dlm_beside *beside; /* or NULL */
    piece *pieces;
    size_t n, groups, threads;
} reading;

static dlm_status read_piece(const reading *r, const piece *p, dlm_error *err) {
    const dlm_network *network = r->network;
    const dlm_layout *layout = network->layout;
    float *values = network->params + p->param->offset + p->first;
    size_t at;
    if (p->in_parts && dlm__tensors_find(r->file, p->param->name, &at))
        DLM_TRY(r->file->part(r->file->file, at, p->first, p->n, values, err));
    DLM_TRY(check_finite(r->file->path, p->param, p->first, values, p->n, err));
    if (p->last) {
        const dlm_param *next = p->param + 1;
        const size_t end = next == layout->params + layout->n ? layout->total : next->offset;
        memset(values + p->n, 0, (end - p->param->offset - p->param->count) * sizeof *values);
    }
    if (network->params_bf16 != NULL)
        dlm__network_refresh_part(r->compute, network, p->param, p->first, p->n);
    return DLM_OK;
}

/* The i'th group, behind what is done beside them: threads that take one after the other are at places far
 * from each other. */
static void read_group(void *context, size_t i) {
    const reading *r = context;
    if (r->beside != NULL && i == 0) {
        r->beside->work(r->beside->user);
        return;
    }
    i -= r->beside != NULL;
    const size_t each = (r->groups + r->threads - 1) / r->threads;
    const size_t first = (i % r->threads * each + i / r->threads) * PIECES_AT_ONCE;
    for (size_t k = first; k < r->n && k < first + PIECES_AT_ONCE; k++)
        r->pieces[k].status = read_piece(r, &r->pieces[k], NULL);
}

/* The pieces of one parameter, appended; to NULL: they are counted only. */
static size_t cut(const dlm_network *network, const dlm_param *param, bool in_parts, piece *to) {
    const size_t unit = dlm__refresh_unit(network, param), most = unit > PIECE ? unit : PIECE / unit * unit;
    size_t n = 0;
    for (size_t first = 0; first < param->count; first += most, n++) {
        const size_t rest = param->count - first;
        if (to != NULL)
            to[n] = (piece){.param = param,
                            .first = first,
                            .n = rest < most ? rest : most,
                            .in_parts = in_parts,
                            .last = rest <= most};
    }
    return n;
}

static bool in_parts(const dlm_tensors *file, const dlm_param *param) {
    return file->part != NULL && !is_int8(param, file);
}

/* What cannot be read in parts is read whole first. */
static dlm_status read_whole(const reading *r, dlm_error *err) {
    const dlm_layout *layout = r->network->layout;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        if (!in_parts(r->file, param))
            DLM_TRY(read_tensor(param, r->file, r->network->params + param->offset, err));
    }
    return DLM_OK;
}

/* A piece that could not be read is read once more, to say why. */
static dlm_status read_all(reading *r, dlm_error *err) {
    DLM_TRY(read_whole(r, err));
    r->groups = (r->n + PIECES_AT_ONCE - 1) / PIECES_AT_ONCE;
    r->threads = dlm__threads();
    const size_t places = (r->groups + r->threads - 1) / r->threads * r->threads;
    dlm__parallel_for(places + (r->beside != NULL), read_group, r);
    for (size_t i = 0; i < r->n; i++)
        if (r->pieces[i].status != DLM_OK) DLM_TRY(read_piece(r, &r->pieces[i], err));
    return DLM_OK;
}

dlm_status dlm__network_read(const dlm_network *network, const dlm_tensors *file, dlm_compute *compute,
                             const dlm_beside *beside, dlm_error *err) {
    const dlm_layout *layout = network->layout;
    reading r = {.network = network, .compute = compute, .file = file, .beside = beside};
    DLM_TRY(dlm__weights_check(layout, file, err));
    size_t n = 0;
    for (size_t i = 0; i < layout->n; i++) n += cut(network, &layout->params[i], false, NULL);
    r.pieces = dlm__calloc(n, sizeof *r.pieces);
    if (r.pieces == NULL) return dlm__fail_memory(err, file->path, n * sizeof *r.pieces);
    for (size_t i = 0; i < layout->n; i++)
        r.n += cut(network, &layout->params[i], in_parts(file, &layout->params[i]), r.pieces + r.n);
    const dlm_status status = read_all(&r, err);
    free(r.pieces);
    return status;
}

dlm_status dlm__weights_read(const dlm_layout *layout, const dlm_tensors *file, float *params,
                             dlm_error *err) {
    const dlm_network network = {.layout = layout, .params = params};
    return dlm__network_read(&network, file, NULL, NULL, err);
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
