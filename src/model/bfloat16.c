/* The bfloat16 copy of the weights: rounded once for all passes, and where products lay their right factor
 * out in panels, these in the place of the matrix, since they take as much room. Training changes the weights
 * with every step and reads matrices both ways, so there products round the float32 weights on the way where
 * they can: no copy. */
#include "model/network.h"

dlm_status dlm__network_allocate_bf16(dlm_network *network, bool training, dlm_error *err) {
    const size_t total = network->layout->total;
    const bool own = dlm__bf16_panels();
    if (network->type != DLM_BF16 || (own && training)) return DLM_OK;
    network->panels = own;
    network->params_bf16 = dlm__aligned(total, sizeof *network->params_bf16);
    if (network->params_bf16 != NULL) return DLM_OK;
    return dlm__fail_memory(err, "bfloat16 weights", total * sizeof *network->params_bf16);
}

void dlm__network_refresh(dlm_compute *compute, dlm_network *network) {
    const dlm_layout *layout = network->layout;
    if (network->params_bf16 == NULL) return;
    if (!network->panels) {
        dlm__to_type(compute, layout->total, network->params, network->params_bf16, DLM_BF16);
        return;
    }
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        const float *from = network->params + param->offset;
        dlm_bf16 *to = network->params_bf16 + param->offset;
        if (param->panels)
            dlm__pack_panels(compute, param->shape[0], param->shape[1], from, to);
        else
            dlm__to_type(compute, param->count, from, to, DLM_BF16);
    }
}
