/* The matrices that multiply the states of tokens, in 8 bits: queries, keys and values, projection, MLP, and
 * the final layer. What is made of times is a small part of the work and wants precision: it is multiplied
 * in the network's type. Embeddings, norms and biases stay in float32 as they do elsewhere. */
#include "model/network.h"

#include <stdlib.h>

dlm_status dlm__network_allocate_int8(const dlm_compute *compute, dlm_network *network, dlm_error *err) {
    const dlm_layout *layout = network->layout;
    network->int8 = dlm__calloc(layout->n, sizeof(dlm_int8 *));
    network->absent = dlm__calloc(layout->n, sizeof *network->absent);
    if (network->int8 == NULL || network->absent == NULL)
        return dlm__fail_memory(err, "weights", layout->n * sizeof(dlm_int8 *));
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        if (!param->token_matrix) continue;
        DLM_TRY(dlm__int8_allocate(compute, param->shape[0], param->shape[1], &network->int8[i], err));
        network->absent[i] = true;
    }
    return DLM_OK;
}

dlm_status dlm__network_quantise(dlm_compute *compute, dlm_network *network, dlm_error *err) {
    const dlm_layout *layout = network->layout;
    DLM_TRY(dlm__network_allocate_int8(compute, network, err));
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        float *values = network->params + param->offset;
        if (network->int8[i] == NULL) continue;
        DLM_TRY(dlm__int8_pack(compute, network->int8[i], 0, param->shape[0], values, err));
        dlm__forget_values(values, param->count * sizeof *values);
    }
    return DLM_OK;
}

void dlm__network_free_int8(dlm_network *network) {
    if (network->int8 != NULL)
        for (size_t i = 0; i < network->layout->n; i++) dlm__int8_free(network->int8[i]);
    free(network->int8);
    free(network->absent);
    network->int8 = NULL;
    network->absent = NULL;
}

/* ---- products ----------------------------------------------------------------------------------------- */

const dlm_int8 *dlm__network_int8(const dlm_network *network, size_t offset, size_t *first) {
    if (network->int8 == NULL) return NULL;
    const size_t i = dlm__layout_at(network->layout, offset);
    const dlm_int8 *found = network->int8[i];
    if (found != NULL) *first = (offset - network->layout->params[i].offset) / found->K;
    return found;
}
