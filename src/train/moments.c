/* The optimiser's moments on disk, optimizer.safetensors: m.NAME, and v.NAME where there are second moments,
 * in float32. */
#include "train/optimizer.h"

#include "format/safetensors.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- which tensors there are -------------------------------------------------------------------------- */

/* One tensor of the file. */
typedef struct moment {
    const dlm_param *param;
    bool second;
} moment;

/* Tensor `index` of the file; param is NULL behind the last. */
static moment find(const dlm_learner *learner, size_t index) {
    const dlm_layout *layout = learner->layout;
    if (index < layout->n) return (moment){.param = &layout->params[index]};
    index -= layout->n;
    for (size_t i = 0; i < layout->n; i++) {
        if (dlm__muon_takes(&layout->params[i], learner->optimizer)) continue;
        if (index-- == 0) return (moment){.param = &layout->params[i], .second = true};
    }
    return (moment){0};
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
        return dlm__fail_memory(err, "the moments", most * sizeof *list->entries);
    for (moment m; (m = find(learner, list->n)).param != NULL; list->n++) {
        char *name = list->names[list->n];
        (void)snprintf(name, sizeof *list->names, "%c.%s", m.second ? 'v' : 'm', m.param->name);
        dlm_st_entry *entry = &list->entries[list->n];
        *entry = (dlm_st_entry){.name = name, .type = DLM_ST_F32, .ndim = m.param->ndim};
        memcpy(entry->shape, m.param->shape, sizeof m.param->shape);
    }
    return DLM_OK;
}

static void moments_free(moments *list) {
    free(list->names);
    free(list->entries);
}

/* ---- where they are ----------------------------------------------------------------------------------- */

/* The part of a parameter that lies in a piece: n floats, from `first` of the blocks on; none: n is 0. */
typedef struct part {
    size_t first, n;
} part;

static part part_in(const dlm_piece *piece, const dlm_param *param) {
    const size_t end = piece->first + piece->n, param_end = param->offset + param->count;
    const size_t first = piece->first > param->offset ? piece->first : param->offset;
    const size_t last = end < param_end ? end : param_end;
    return (part){.first = first, .n = last > first ? last - first : 0};
}

/* Where float `first` of piece i is, which this rank owns. */
static float *place(const dlm_learner *learner, bool second, size_t i, size_t first) {
    const size_t within = first - learner->pieces.list[i].first;
    return second ? learner->squares + learner->v_at[i] + within
                  : learner->momentum + learner->at[i] + within;
}

static bool is_own(const dlm_learner *learner, const dlm_piece *piece) {
    return piece->rank == dlm_ranks_rank(learner->ranks);
}

/* The whole of a moment, where this rank has it in one piece. */
static float *whole(const dlm_learner *learner, moment m) {
    for (size_t i = 0; i < learner->pieces.n; i++) {
        const dlm_piece *piece = &learner->pieces.list[i];
        const part p = part_in(piece, m.param);
        if (p.n == m.param->count && is_own(learner, piece)) return place(learner, m.second, i, p.first);
    }
    return NULL;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

/* All parts of a moment come to learner->tensor of rank 0. */
static dlm_status gather(const dlm_learner *learner, moment m, dlm_error *err) {
    for (size_t i = 0; i < learner->pieces.n; i++) {
        const dlm_piece *piece = &learner->pieces.list[i];
        const part p = part_in(piece, m.param);
        if (p.n == 0) continue;
        const float *source = is_own(learner, piece) ? place(learner, m.second, i, p.first) : NULL;
        float *target = learner->tensor + (p.first - m.param->offset);
        DLM_TRY(dlm__ranks_bring(learner->ranks, piece->rank, source, target, p.n, err));
    }
    return DLM_OK;
}

/* Which tensor rank 0 asks for: its index plus 1, or that it has asked for the last. */
enum { DONE = 0 };

static dlm_status ask(const dlm_learner *learner, uint64_t *asked, dlm_error *err) {
    return dlm__ranks_share(learner->ranks, asked, sizeof *asked, err);
}

/* A dlm_tensor_bytes. */
static dlm_status get(void *user, size_t index, const void **bytes, dlm_error *err) {
    const dlm_learner *learner = user;
    const moment m = find(learner, index);
    uint64_t asked = index + 1;
    *bytes = whole(learner, m);
    if (*bytes != NULL) return DLM_OK;
    *bytes = learner->tensor;
    DLM_TRY(ask(learner, &asked, err));
    return gather(learner, m, err);
}

dlm_status dlm__moments_save(const dlm_learner *learner, const char *path, dlm_error *err) {
    moments list;
    dlm_status status = moments_create(learner, &list, err);
    const dlm_tensor_bytes bytes = {get, (void *)(uintptr_t)learner}; /* NOLINT(performance-no-int-to-ptr) */
    if (status == DLM_OK) status = dlm__safetensors_write(path, list.entries, list.n, NULL, bytes, err);
    moments_free(&list);
    return status;
}

dlm_status dlm__moments_done(const dlm_learner *learner, dlm_error *err) {
    uint64_t asked = DONE;
    return ask(learner, &asked, err);
}

dlm_status dlm__moments_serve(const dlm_learner *learner, dlm_error *err) {
    for (;;) {
        uint64_t asked = DONE;
        DLM_TRY(ask(learner, &asked, err));
        if (asked == DONE) return DLM_OK;
        const moment m = find(learner, (size_t)asked - 1);
        assert(m.param != NULL);
        DLM_TRY(gather(learner, m, err));
    }
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static dlm_status check_shape(const dlm_safetensors *file, const dlm_st_entry *entry, dlm_error *err) {
    const char *path = dlm__safetensors_path(file);
    const dlm_st_tensor *tensor = dlm__safetensors_find(file, entry->name);
    if (tensor == NULL) return dlm__fail(err, DLM_FORMAT, "%s: tensor %s is missing", path, entry->name);
    if (tensor->type == DLM_ST_F32 && tensor->ndim == entry->ndim &&
        memcmp(tensor->shape, entry->shape, entry->ndim * sizeof *entry->shape) == 0)
        return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "%s: tensor %s has not the shape of its parameter, in float32", path,
                     entry->name);
}

static dlm_status read_values(const dlm_safetensors *file, const char *name, bool second, float *values,
                              dlm_error *err) {
    const dlm_st_tensor *tensor = dlm__safetensors_find(file, name);
    DLM_TRY(dlm__safetensors_floats(file, tensor, values, err));
    for (size_t i = 0; i < tensor->count; i++) {
        if (isfinite(values[i]) && !(second && values[i] < 0)) continue;
        return dlm__fail(err, DLM_FORMAT, "%s: value %zu of tensor %s is %g, which no moment can be",
                         dlm__safetensors_path(file), i, name, (double)values[i]);
    }
    return DLM_OK;
}

static dlm_status read_moment(const dlm_learner *learner, const dlm_safetensors *file,
                              const dlm_st_entry *entry, moment m, dlm_error *err) {
    float *here = whole(learner, m);
    DLM_TRY(check_shape(file, entry, err));
    if (here != NULL) return read_values(file, entry->name, m.second, here, err);
    bool read = false;
    for (size_t i = 0; i < learner->pieces.n; i++) {
        const dlm_piece *piece = &learner->pieces.list[i];
        const part p = part_in(piece, m.param);
        if (p.n == 0 || !is_own(learner, piece)) continue;
        if (!read) DLM_TRY(read_values(file, entry->name, m.second, learner->tensor, err));
        read = true;
        memcpy(place(learner, m.second, i, p.first), learner->tensor + (p.first - m.param->offset),
               p.n * sizeof(float));
    }
    return DLM_OK;
}

dlm_status dlm__moments_read(const dlm_learner *learner, const dlm_safetensors *file, dlm_error *err) {
    moments list;
    dlm_status status = moments_create(learner, &list, err);
    if (status == DLM_OK && dlm__safetensors_count(file) != list.n)
        status = dlm__fail(err, DLM_FORMAT, "%s: %zu tensors, the optimiser has %zu",
                           dlm__safetensors_path(file), dlm__safetensors_count(file), list.n);
    for (size_t i = 0; status == DLM_OK && i < list.n; i++)
        status = read_moment(learner, file, &list.entries[i], find(learner, i), err);
    moments_free(&list);
    return status;
}

dlm_status dlm__moments_load(const dlm_learner *learner, const char *path, dlm_error *err) {
    dlm_safetensors *file;
    DLM_TRY(dlm__safetensors_open(path, &file, err));
    dlm_status status = dlm__moments_read(learner, file, err);
    dlm__safetensors_close(file);
    return status;
}
