/* The bfloat16 copy of the weights: rounded once for all passes, and where products lay their right factor
 * out in panels, these in the place of the matrix, since they take as much room. Training changes the weights
 * with every step and reads matrices both ways: the backward pass rounds the float32 weights on the way where
 * it can, and so does the forward pass of large models, whose copy would take more memory than it saves time.
 * Only what is multiplied is written, and not in 8 bits: what lies between takes no memory. */
#include "model/network.h"

/* Parameters up to which a model that is trained has such panels for the forward pass: 64 MB. */
#define MOST_COPIED ((size_t)1 << 25)

dlm_status dlm__network_allocate_bf16(dlm_network *network, bool training, dlm_error *err) {
    const size_t total = network->layout->total;
    const bool own = dlm__bf16_panels();
    if (network->type != DLM_BF16 || (own && training && total > MOST_COPIED)) return DLM_OK;
    network->panels = own;
    network->params_bf16 = dlm__aligned(total, sizeof *network->params_bf16);
    if (network->params_bf16 != NULL) return DLM_OK;
    return dlm__fail_memory(err, "bfloat16 weights", total * sizeof *network->params_bf16);
}

size_t dlm__refresh_unit(const dlm_network *network, const dlm_param *param) {
    return network->panels && param->panels ? DLM_PANEL_ROWS * param->shape[1] : 1;
}

void dlm__network_refresh_part(dlm_compute *compute, const dlm_network *network, const dlm_param *param,
                               size_t first, size_t n, const float *values) {
    if (!dlm__is_multiplied(network->layout, param)) return;
    dlm_bf16 *to = network->params_bf16 + param->offset + first;
    if (network->panels && param->panels)
        dlm__pack_panels(compute, n / param->shape[1], param->shape[1], values, to);
    else
        dlm__to_type(compute, n, values, to, DLM_BF16);
}

void dlm__network_refresh(dlm_compute *compute, dlm_network *network) {
    const dlm_layout *layout = network->layout;
    if (network->params_bf16 == NULL) return;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        if (network->int8 != NULL && network->int8[i] != NULL) continue;
        dlm__network_refresh_part(compute, network, param, 0, param->count, network->params + param->offset);
    }
}
