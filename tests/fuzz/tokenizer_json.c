/* Any bytes as a tokenizer.json: refused by name, or a tokenizer that encodes, decodes and describes itself;
 * either as a reader of all of it by a tree has it. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void use(const dlm_tokenizer *tokenizer) {
    static const char text[] = " ab[MASK] 's \xc3\xa9\xe2\x80\x83  "
                               "<|endoftext|>x\n\nabababababababababababababababababababababababab";
    dlm_tokenizer_info info = dlm_tokenizer_describe(tokenizer);
    for (int added = 0; added < 2; added++) {
        int32_t *ids;
        char *decoded;
        size_t count, length;
        if (dlm_tokenizer_encode(tokenizer, text, sizeof text - 1, added == 1, &ids, &count, NULL) != DLM_OK)
            abort();
        for (size_t i = 0; i < count; i++) {
            if (ids[i] < 0 || (size_t)ids[i] >= info.vocab_size) abort();
        }
        if (dlm_tokenizer_decode(tokenizer, ids, count, added == 1, &decoded, &length, NULL) != DLM_OK)
            abort();
        if (strlen(decoded) > length) abort();
        dlm_free(decoded);
        dlm_free(ids);
    }
    for (size_t id = 0; id < info.vocab_size; id++) {
        size_t length;
        bool special;
        if (dlm_tokenizer_token(tokenizer, (int32_t)id, &length, &special) == NULL) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    dlm_tokenizer *tokenizer, *whole;
    dlm_error err = {0}, other = {0};
    dlm_status status = dlm_tokenizer_parse("input", (const char *)bytes, n, &tokenizer, &err);
    if (dlm__tokenizer_parse("input", (const char *)bytes, n, true, &whole, &other) != status ||
        strcmp(err.message, other.message) != 0)
        abort();
    if (whole != NULL) {
        if (dlm_tokenizer_describe(whole).hash != dlm_tokenizer_describe(tokenizer).hash) abort();
        dlm_tokenizer_free(whole);
    }
    if (status == DLM_OK) {
        use(tokenizer);
        dlm_tokenizer_free(tokenizer);
    } else if (tokenizer != NULL || strncmp(err.message, "input: ", 7) != 0) {
        abort();
    }
    return 0;
}
