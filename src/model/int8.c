/* The matrices that multiply the states of tokens, in 8 bits: queries, keys and values, projection, MLP, and
 * the final layer. What is made of times is a small part of the work and wants precision: it is multiplied
 * in the network's type. Embeddings, norms and biases stay in float32 as they do elsewhere. */
#include "model/network.h"

#include <stdlib.h>
#include <string.h>

dlm_status dlm__network_quantise(dlm_compute *compute, dlm_network *network, dlm_error *err) {
    const dlm_layout *layout = network->layout;
    network->int8 = dlm__calloc(layout->n, sizeof(dlm_int8 *));
    network->in_floats = dlm__calloc(layout->n, sizeof *network->in_floats);
    if (network->int8 == NULL || network->in_floats == NULL)
        return dlm__fail_memory(err, "weights", layout->n * sizeof(dlm_int8 *));
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        float *values = network->params + param->offset;
        if (!param->token_matrix) continue;
        DLM_TRY(dlm__int8_create(compute, param->shape[0], param->shape[1], values, &network->int8[i], err));
        dlm__forget_values(values, param->count * sizeof *values);
    }
    return DLM_OK;
}

void dlm__network_free_int8(dlm_network *network) {
    if (network->int8 != NULL)
        for (size_t i = 0; i < network->layout->n; i++) dlm__int8_free(network->int8[i]);
    free(network->int8);
    free(network->in_floats);
    network->int8 = NULL;
    network->in_floats = NULL;
}

/* ---- values ------------------------------------------------------------------------------------------- */

const float *dlm__network_values(const dlm_network *network, size_t i) {
    float *values = network->params + network->layout->params[i].offset;
    if (network->int8 == NULL || network->int8[i] == NULL) return values;
    dlm__int8_values_once(network->int8[i], &network->in_floats[i], values);
    return values;
}

void dlm__network_copy_values(const dlm_network *network, float *to) {
    const dlm_layout *layout = network->layout;
    memcpy(to, network->params, layout->total * sizeof *to);
    if (network->int8 == NULL) return;
    for (size_t i = 0; i < layout->n; i++)
        if (network->int8[i] != NULL) dlm__int8_values(network->int8[i], to + layout->params[i].offset);
}

/* ---- products ----------------------------------------------------------------------------------------- */

const dlm_int8 *dlm__network_int8(const dlm_network *network, size_t offset, size_t *first) {
    if (network->int8 == NULL) return NULL;
    const size_t i = dlm__layout_at(network->layout, offset);
    const dlm_int8 *found = network->int8[i];
    if (found != NULL) *first = (offset - network->layout->params[i].offset) / found->K;
    return found;
}
