/* Weights on disk: the parameter table against the tensors of a file, and back. */
#include "model/model.h"

#include "format/safetensors.h"

#include <math.h>
#include <stdatomic.h>
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

/* What the integers in values stand for, those of `rows` rows from `first` on. Files that hold such are read
 * in parts. */
static dlm_status apply_scale(const dlm_param *param, const dlm_tensors *file, size_t first, size_t rows,
                              float *values, dlm_error *err) {
    const size_t columns = param->shape[1];
    float *scale = dlm__calloc(rows, sizeof *scale);
    size_t at;
    if (scale == NULL) return dlm__fail_memory(err, file->path, rows * sizeof *scale);
    const dlm_status status = find_scale(param, file, &at)
                                  ? file->part(file->file, at, first, rows, scale, err)
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
    return file->at(file->file, at).int8 ? apply_scale(param, file, 0, param->shape[0], values, err) : DLM_OK;
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
    size_t param, first, n;
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
    atomic_size_t next; /* group that nobody has taken */
    float *rooms;       /* (threads, room) for pieces of what is to be absent */
    size_t room;
} reading;

/* The values of a piece, in its place or, where that is to be absent, in `room`. What cannot be read in parts
 * is in its place already. */
static dlm_status find_values(const reading *r, const piece *p, float *room, float **values, dlm_error *err) {
    const dlm_network *network = r->network;
    const dlm_param *param = &network->layout->params[p->param];
    size_t at;
    *values = network->params + param->offset + p->first;
    if (r->file->part == NULL) return DLM_OK;
    if (network->absent != NULL && network->absent[p->param]) *values = room;
    if (!dlm__tensors_find(r->file, param->name, &at))
        return dlm__fail(err, DLM_MISMATCH, "%s: tensor %s is missing", r->file->path, param->name);
    DLM_TRY(r->file->part(r->file->file, at, p->first, p->n, *values, err));
    if (!r->file->at(r->file->file, at).int8) return DLM_OK;
    const size_t columns = param->shape[1];
    return apply_scale(param, r->file, p->first / columns, p->n / columns, *values, err);
}

static dlm_status read_piece(const reading *r, const piece *p, float *room, dlm_error *err) {
    const dlm_network *network = r->network;
    const dlm_layout *layout = network->layout;
    const dlm_param *param = &layout->params[p->param];
    float *values;
    DLM_TRY(find_values(r, p, room, &values, err));
    DLM_TRY(check_finite(r->file->path, param, p->first, values, p->n, err));
    if (p->last && values != room)
        memset(values + p->n, 0,
               (dlm__layout_end(layout, p->param) - param->offset - param->count) * sizeof *values);
    if (network->int8 != NULL && network->int8[p->param] != NULL)
        return dlm__int8_pack(r->compute, network->int8[p->param], p->first / param->shape[1],
                              p->n / param->shape[1], values, err);
    if (network->params_bf16 != NULL)
        dlm__network_refresh_part(r->compute, network, param, p->first, p->n, values);
    return DLM_OK;
}

/* The i'th group, behind what is done beside them: threads that take one after the other are at places far
 * from each other. */
static void read_group(const reading *r, size_t i, float *room) {
    if (r->beside != NULL && i == 0) {
        r->beside->work(r->beside->user);
        return;
    }
    i -= r->beside != NULL;
    const size_t each = (r->groups + r->threads - 1) / r->threads;
    const size_t first = (i % r->threads * each + i / r->threads) * PIECES_AT_ONCE;
    for (size_t k = first; k < r->n && k < first + PIECES_AT_ONCE; k++)
        r->pieces[k].status = read_piece(r, &r->pieces[k], room, NULL);
}

/* Groups, one after the other, until none is left. */
static void read_groups(void *context, size_t thread) {
    reading *r = context;
    const size_t places = (r->groups + r->threads - 1) / r->threads * r->threads;
    for (;;) {
        const size_t i = atomic_fetch_add(&r->next, 1);
        if (i >= places + (r->beside != NULL)) return;
        read_group(r, i, r->rooms + thread * r->room);
    }
}

/* Values of a parameter that belong into one piece, and into any multiple of it. */
static size_t unit_of(const reading *r, size_t i) {
    const dlm_network *network = r->network;
    const dlm_param *param = &network->layout->params[i];
    if (network->int8 != NULL && network->int8[i] != NULL) return dlm__int8_unit() * param->shape[1];
    const size_t unit = dlm__refresh_unit(network, param);
    return unit == 1 && is_int8(param, r->file) ? param->shape[1] : unit;
}

/* The pieces of one parameter, appended; to NULL: they are counted only. */
static size_t cut(const reading *r, size_t i, piece *to) {
    const size_t count = r->network->layout->params[i].count, unit = unit_of(r, i),
                 most = unit > PIECE ? unit : PIECE / unit * unit;
    size_t n = 0;
    for (size_t first = 0; first < count; first += most, n++) {
        const size_t rest = count - first;
        if (to != NULL)
            to[n] = (piece){.param = i, .first = first, .n = rest < most ? rest : most, .last = rest <= most};
    }
    return n;
}

static dlm_status cut_all(reading *r, dlm_error *err) {
    const dlm_network *network = r->network;
    const size_t params = network->layout->n;
    size_t n = 0;
    for (size_t i = 0; i < params; i++) n += cut(r, i, NULL);
    r->pieces = dlm__calloc(n, sizeof *r->pieces);
    if (r->pieces == NULL) return dlm__fail_memory(err, r->file->path, n * sizeof *r->pieces);
    for (size_t i = 0; i < params; i++) r->n += cut(r, i, r->pieces + r->n);
    r->groups = (r->n + PIECES_AT_ONCE - 1) / PIECES_AT_ONCE;
    r->threads = dlm__threads();
    r->room = 1;
    for (size_t k = 0; network->absent != NULL && k < r->n; k++)
        if (network->absent[r->pieces[k].param] && r->pieces[k].n > r->room) r->room = r->pieces[k].n;
    r->room = dlm__round_up(r->room, DLM_ALIGN / sizeof *r->rooms);
    r->rooms = dlm__aligned(r->threads * r->room, sizeof *r->rooms);
    if (r->rooms != NULL) return DLM_OK;
    return dlm__fail_memory(err, r->file->path, r->threads * r->room * sizeof *r->rooms);
}

/* A file that is not read in parts is read whole first. */
static dlm_status read_whole(const reading *r, dlm_error *err) {
    const dlm_layout *layout = r->network->layout;
    if (r->file->part != NULL) return DLM_OK;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        DLM_TRY(read_tensor(param, r->file, r->network->params + param->offset, err));
    }
    return DLM_OK;
}

/* What was read whole and is to be absent has been used. */
static void forget(const reading *r) {
    const dlm_network *network = r->network;
    if (r->file->part != NULL || network->absent == NULL) return;
    for (size_t i = 0; i < network->layout->n; i++) {
        const dlm_param *param = &network->layout->params[i];
        if (network->absent[i])
            dlm__forget_values(network->params + param->offset, param->count * sizeof *network->params);
    }
}

/* A piece that could not be read is read once more, to say why. */
static dlm_status read_all(reading *r, dlm_error *err) {
    DLM_TRY(read_whole(r, err));
    DLM_TRY(cut_all(r, err));
    dlm__parallel_for(r->threads, read_groups, r);
    for (size_t k = 0; k < r->n; k++)
        if (r->pieces[k].status != DLM_OK) DLM_TRY(read_piece(r, &r->pieces[k], r->rooms, err));
    forget(r);
    return r->file->unchanged == NULL ? DLM_OK : r->file->unchanged(r->file->file, err);
}

dlm_status dlm__network_read(const dlm_network *network, const dlm_tensors *file, dlm_compute *compute,
                             const dlm_beside *beside, dlm_error *err) {
    reading r = {.network = network, .compute = compute, .file = file, .beside = beside};
    DLM_TRY(dlm__weights_check(network->layout, file, err));
    const dlm_status status = read_all(&r, err);
    free(r.pieces);
    free(r.rooms);
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
