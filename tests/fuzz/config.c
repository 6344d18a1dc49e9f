/* Any bytes as a config.json: refused, or a config that is in range, makes a parameter table and survives
 * being written. */
#include "model/network.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    dlm_config config, again;
    uint64_t *lengths;
    dlm_error err;
    if (dlm__config_parse("input", (const char *)bytes, n, &config, &lengths, &err) != DLM_OK) return 0;
    free(lengths);
    dlm_layout *layout;
    if (dlm__layout_create(&config, &layout, &err) != DLM_OK) abort();
    if (layout->count > layout->total) abort();
    dlm__layout_free(layout);
    char *text = dlm__config_text(&config, NULL);
    if (text == NULL || dlm__config_parse("again", text, strlen(text), &again, NULL, &err) != DLM_OK) abort();
    if (again.mlp_ratio < config.mlp_ratio || again.mlp_ratio > config.mlp_ratio) abort();
    if (again.vocab_size != config.vocab_size || again.recipe != config.recipe) abort();
    free(text);
    return 0;
}
