/* A small tokenizer for fuzz targets. */
#ifndef DLM_TESTS_FUZZ_TOKENIZER_H
#define DLM_TESTS_FUZZ_TOKENIZER_H

#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* All bytes, some merges, and added tokens of every kind. */
static inline dlm_tokenizer *fuzz_tokenizer(void) {
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

#endif
