/* Any bytes as a text: refused where they are no UTF-8; else its ids decode to it again, and an encoder that
 * has seen it before gives the same. */
#include "fuzz_tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void encode_again(dlm_encoder *encoder, const char *text, size_t n, bool added_tokens,
                         const int32_t *want, size_t count) {
    dlm_ids ids = {0};
    for (int time = 0; time < 2; time++) {
        ids.n = 0;
        if (dlm__encoder_encode(encoder, text, n, added_tokens, &ids, NULL) != DLM_OK || ids.n != count)
            abort();
        if (count > 0 && memcmp(ids.ids, want, count * sizeof *want) != 0) abort();
    }
    free(ids.ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static dlm_tokenizer *tokenizer;
    static dlm_encoder *encoder;
    if (tokenizer == NULL) tokenizer = fuzz_tokenizer();
    if (encoder == NULL && (encoder = dlm__encoder_create(tokenizer, 1000)) == NULL) abort();
    const char *text = (const char *)bytes;
    int32_t *ids;
    char *decoded;
    size_t count, length;
    bool valid = dlm__utf8_check(text, n) == n;
    if ((dlm_tokenizer_encode(tokenizer, text, n, false, &ids, &count, NULL) == DLM_OK) != valid) abort();
    if (!valid) return 0;
    if (dlm_tokenizer_decode(tokenizer, ids, count, false, &decoded, &length, NULL) != DLM_OK) abort();
    size_t prefix = n > 0 && text[0] != ' ';
    if (length != n + prefix || (n > 0 && memcmp(decoded + prefix, text, n) != 0)) abort();
    encode_again(encoder, text, n, false, ids, count);
    dlm_free(decoded);
    dlm_free(ids);
    if (dlm_tokenizer_encode(tokenizer, text, n, true, &ids, &count, NULL) != DLM_OK) abort();
    encode_again(encoder, text, n, true, ids, count);
    dlm_free(ids);
    return 0;
}
