/* Values of parameters in float32, of which passes need only a part: matrices are multiplied in bfloat16 or
 * in 8 bits where that is faster. What no pass reads is absent from the float32 block, whose pages then take
 * no memory, and is made when somebody asks for it: from the 8-bit matrix, or from the file that the weights
 * came from, which stays open. It is read by its descriptor, so it may have been removed or replaced
 * meanwhile. */
#include "model/model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

dlm_status dlm__network_leave_out(dlm_network *network, const dlm_tensors *file, dlm_error *err) {
    const dlm_layout *layout = network->layout;
    size_t first = layout->total, end = 0;
    if (file->part == NULL || (network->params_bf16 == NULL && network->int8 == NULL)) return DLM_OK;
    if (network->absent == NULL) network->absent = dlm__calloc(layout->n, sizeof *network->absent);
    if (network->absent == NULL) return dlm__fail_memory(err, "weights", layout->n * sizeof(bool));
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        if (network->params_bf16 != NULL && dlm__is_multiplied(layout, param)) network->absent[i] = true;
        if (!network->absent[i]) continue;
        if (network->int8 == NULL || network->int8[i] == NULL) network->file = file;
        if (param->offset < first) first = param->offset;
        end = dlm__layout_end(layout, i);
    }
    /* Large pages would come whole with each of the vectors that lie between the matrices. */
    if (first < end) dlm__expect_gaps(network->params + first, (end - first) * sizeof *network->params);
    return DLM_OK;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Parameter i, which is absent. */
static dlm_status make(const dlm_network *network, size_t i, float *values, dlm_error *err) {
    const dlm_param *param = &network->layout->params[i];
    memset(values + param->count, 0,
           (dlm__layout_end(network->layout, i) - param->offset - param->count) * sizeof *values);
    if (network->int8 != NULL && network->int8[i] != NULL) {
        dlm__int8_values(network->int8[i], values);
        return DLM_OK;
    }
    const dlm_status status = dlm__weights_tensor(param, network->file, values, err);
    DLM_TRY(network->file->unchanged(network->file->file, err));
    return status;
}

dlm_status dlm__network_values(const dlm_network *network, size_t i, const float **values, dlm_error *err) {
    float *place = network->params + network->layout->params[i].offset;
    dlm_status status = DLM_OK;
    if (network->absent != NULL) {
        (void)pthread_mutex_lock(&lock);
        if (network->absent[i]) status = make(network, i, place, err);
        if (status == DLM_OK) network->absent[i] = false;
        (void)pthread_mutex_unlock(&lock);
    }
    *values = status == DLM_OK ? place : NULL;
    return status;
}

static bool is_absent(const dlm_network *network, size_t i) {
    if (network->absent == NULL) return false;
    (void)pthread_mutex_lock(&lock);
    const bool absent = network->absent[i];
    (void)pthread_mutex_unlock(&lock);
    return absent;
}

dlm_status dlm__network_copy_values(const dlm_network *network, float *to, dlm_error *err) {
    const dlm_layout *layout = network->layout;
    for (size_t i = 0; i < layout->n; i++) {
        const size_t offset = layout->params[i].offset;
        if (is_absent(network, i))
            DLM_TRY(make(network, i, to + offset, err));
        else
            memcpy(to + offset, network->params + offset, (dlm__layout_end(layout, i) - offset) * sizeof *to);
    }
    return DLM_OK;
}
