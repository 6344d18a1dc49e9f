/* From the model's lengths to a sample's length, and from its ids to text. */
#include "diffusion/process.h"

#include <string.h>

#define LENGTH_WITHOUT_HISTOGRAM ((size_t)80)

size_t dlm_sample_length(const dlm_model *model, uint64_t seed, size_t index) {
    const size_t most = model->layout->config.max_seq_len;
    const size_t fallback = most < LENGTH_WITHOUT_HISTOGRAM ? most : LENGTH_WITHOUT_HISTOGRAM;
    if (model->lengths == NULL) return fallback;
    double total = 0;
    for (size_t i = 1; i <= most; i++) total += (double)model->lengths[i];
    dlm_rng rng = dlm__rng(seed, DLM_RNG_LENGTH, (uint32_t)index, (uint32_t)((uint64_t)index >> 32));
    const double target = dlm__rng_uniform(&rng) * total;
    size_t length = fallback;
    double cumulative = 0;
    for (size_t i = 1; i <= most && cumulative <= target; i++) {
        cumulative += (double)model->lengths[i];
        if (model->lengths[i] > 0) length = i;
    }
    return length;
}

dlm_status dlm_sample_text(const dlm_model *model, const int32_t *ids, size_t n, char **text, size_t *bytes,
                           dlm_error *err) {
    *text = NULL;
    *bytes = 0;
    if (model->tokenizer == NULL) return dlm__fail(err, DLM_ARGUMENT, "the model has no tokenizer");
    if (model->layout->config.end_token && model->end_id >= 0)
        for (size_t i = 0; i < n; i++)
            if (ids[i] == model->end_id) n = i;
    DLM_TRY(dlm_tokenizer_decode(model->tokenizer, ids, n, true, text, bytes, err));
    if (*bytes > 0 && (*text)[0] == ' ' && dlm_tokenizer_describe(model->tokenizer).add_prefix_space) {
        memmove(*text, *text + 1, *bytes); /* with the 0 behind it */
        --*bytes;
    }
    return DLM_OK;
}
