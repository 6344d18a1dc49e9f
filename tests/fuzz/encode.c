/* Any bytes as a text: refused where they are no UTF-8; else its ids decode to it again, and an encoder that
 * has seen it before gives the same. */
#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* All bytes, some merges, and added tokens of every kind. */
static dlm_tokenizer *make(void) {
    static const char *const merges[][2] = {
        {"a", "b"}, {"ab", "ab"}, {"\u0120", "a"}, {"\u00c3", "\u00a9"}, {"\u0120", "ab"}};
    static const char *const added[] = {"[MASK]", "<x>", "ab ", "\u00e9"};
    dlm_tokenizer *tokenizer;
    if (dlm__tokenizer_create(&tokenizer, NULL) != DLM_OK) abort();
    for (int byte = 0; byte < 256; byte++) {
        char symbol[4];
        size_t length = dlm__utf8_write(dlm__byte_character((unsigned char)byte), symbol);
        if (dlm__tokenizer_add(tokenizer, symbol, length, NULL) != DLM_OK) abort();
    }
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        char both[16];
        strcat(strcpy(both, merges[i][0]), merges[i][1]);
        if (dlm__tokenizer_add(tokenizer, both, strlen(both), NULL) != DLM_OK) abort();
        dlm_merge merge = {dlm__tokenizer_find(tokenizer, merges[i][0], strlen(merges[i][0])),
                           dlm__tokenizer_find(tokenizer, merges[i][1], strlen(merges[i][1])),
                           (int32_t)tokenizer->vocab_size - 1};
        if (dlm__tokenizer_merge(tokenizer, merge, NULL) != DLM_OK) abort();
    }
    tokenizer->model_size = tokenizer->vocab_size;
    for (size_t i = 0; i < sizeof added / sizeof *added; i++) {
        int32_t id = dlm__tokenizer_find(tokenizer, added[i], strlen(added[i]));
        if (id < 0 && dlm__tokenizer_add(tokenizer, added[i], strlen(added[i]), NULL) != DLM_OK) abort();
        dlm_added_token token = {.id = id < 0 ? (int32_t)tokenizer->vocab_size - 1 : id,
                                 .single_word = i == 1,
                                 .left_strip = i < 2,
                                 .right_strip = i == 2,
                                 .normalized = i % 2 == 1};
        if (dlm__tokenizer_mark_added(tokenizer, &token, i == 0, NULL) != DLM_OK) abort();
    }
    tokenizer->pre = tokenizer->decoder = (dlm_byte_level){true, true, true};
    if (dlm__tokenizer_finish(tokenizer, NULL) != DLM_OK) abort();
    return tokenizer;
}

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
    if (tokenizer == NULL) tokenizer = make();
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
