/* The optimiser's moments on disk, optimizer.safetensors: m.NAME, and v.NAME where there are second moments,
 * in float32. */
#include "train/optimizer.h"

#include "format/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The tensors of the file, in its order. names has room for 2 n names; returns how many there are. */
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
        return dlm__fail_memory(err, "the moments", most * sizeof *list->entries);
    list->n = list_moments(learner, list->names, list->entries);
    return DLM_OK;
}

static void moments_free(moments *list) {
    free(list->names);
    free(list->entries);
}

dlm_status dlm__moments_save(const dlm_learner *learner, const char *path, dlm_error *err) {
    moments list;
    dlm_status status = moments_create(learner, &list, err);
    if (status == DLM_OK) status = dlm__safetensors_save(path, list.entries, list.n, NULL, err);
    moments_free(&list);
    return status;
}

static dlm_status read_moment(const dlm_safetensors *file, const dlm_st_entry *entry, float *values,
                              dlm_error *err) {
    const char *path = dlm__safetensors_path(file);
    const dlm_st_tensor *tensor = dlm__safetensors_find(file, entry->name);
    if (tensor == NULL) return dlm__fail(err, DLM_FORMAT, "%s: tensor %s is missing", path, entry->name);
    if (tensor->type != DLM_ST_F32 || tensor->ndim != entry->ndim ||
        memcmp(tensor->shape, entry->shape, entry->ndim * sizeof *entry->shape) != 0)
        return dlm__fail(err, DLM_FORMAT, "%s: tensor %s has not the shape of its parameter, in float32",
                         path, entry->name);
    DLM_TRY(dlm__safetensors_floats(file, tensor, values, err));
    bool squares = entry->name[0] == 'v';
    for (size_t i = 0; i < tensor->count; i++) {
        if (isfinite(values[i]) && !(squares && values[i] < 0)) continue;
        return dlm__fail(err, DLM_FORMAT, "%s: value %zu of tensor %s is %g, which no moment can be", path, i,
                         entry->name, (double)values[i]);
    }
    return DLM_OK;
}

dlm_status dlm__moments_read(const dlm_learner *learner, const dlm_safetensors *file, dlm_error *err) {
    moments list;
    dlm_status status = moments_create(learner, &list, err);
    if (status == DLM_OK && dlm__safetensors_count(file) != list.n)
        status = dlm__fail(err, DLM_FORMAT, "%s: %zu tensors, the optimiser has %zu",
                           dlm__safetensors_path(file), dlm__safetensors_count(file), list.n);
    for (size_t i = 0; status == DLM_OK && i < list.n; i++) {
        /* The entries point into the learner's blocks, which are ours to fill. */
        float *values = (float *)(uintptr_t)list.entries[i].data; /* NOLINT(performance-no-int-to-ptr) */
        status = read_moment(file, &list.entries[i], values, err);
    }
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
