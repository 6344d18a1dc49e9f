/* Reading tokenizer.json, encoding and decoding, against what the Hugging Face library made of the same texts
 * and ids. */
#include "check.h"

#include "base/base.h"
#include "text/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const cases[] = {"stories_1024", "stories_min5", "unicode_1500", "exhausted",
                                    "stories_8192"};
#define CASES (sizeof cases / sizeof *cases)

/* NULL where the set of fixtures does not have it. */
static const char *case_file(const char *name, const char *file) {
    char path[100];
    snprintf(path, sizeof path, "tokenizer/%s/%s", name, file);
    return golden_path(path);
}

/* Calls body with each JSON object of a file of such lines. */
static void each_line(const char *path, void (*body)(void *context, const json_t *line), void *context) {
    size_t bytes;
    dlm_error err;
    char *text = read_text(path, &bytes);
    REQUIRE(text != NULL);
    size_t number = 1;
    for (char *at = text, *end; at < text + bytes; at = end + 1, number++) {
        end = memchr(at, '\n', (size_t)(text + bytes - at));
        if (end == NULL) break;
        json_t *line;
        check_context("%s line %zu", path, number);
        if (!CHECK_OK(dlm__json_parse(path, at, (size_t)(end - at), &line, &err), &err)) return;
        body(context, line);
        json_decref(line);
    }
    CHECK(number > 100);
    check_context("%s", path);
}

static int32_t *ids_of(const json_t *line, size_t *n) {
    const json_t *array = json_object_get(line, "ids");
    *n = json_array_size(array);
    int32_t *ids = calloc(*n + 1, sizeof *ids);
    for (size_t i = 0; i < *n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

static void check_text(const char *got, size_t bytes, const json_t *want) {
    if (CHECK_INT_EQ(bytes, json_string_length(want))) CHECK_MEM_EQ(got, json_string_value(want), bytes);
    CHECK_INT_EQ(got[bytes], 0);
}

static void check_decode(void *context, const json_t *line) {
    const dlm_tokenizer *tokenizer = context;
    dlm_error err;
    size_t n, bytes;
    char *text;
    int32_t *ids = ids_of(line, &n);
    if (CHECK_OK(dlm_tokenizer_decode(tokenizer, ids, n, true, &text, &bytes, &err), &err)) {
        check_text(text, bytes, json_object_get(line, "decoded"));
        dlm_free(text);
    }
    if (CHECK_OK(dlm_tokenizer_decode(tokenizer, ids, n, false, &text, &bytes, &err), &err)) {
        check_text(text, bytes, json_object_get(line, "decoded_all"));
        dlm_free(text);
    }
    free(ids);
}

static void check_encode(void *context, const json_t *line) {
    const dlm_tokenizer *tokenizer = context;
    dlm_error err;
    const json_t *text = json_object_get(line, "text");
    size_t n, got_n;
    int32_t *want = ids_of(line, &n), *got;
    if (CHECK_OK(dlm_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), true,
                                      &got, &got_n, &err),
                 &err)) {
        if (CHECK_INT_EQ(got_n, n)) CHECK_MEM_EQ(got, want, n * sizeof *want);
        dlm_free(got);
    }
    free(want);
    check_decode(context, line);
}

TEST(encode_and_decode_as_the_library) {
    for (size_t i = 0; i < CASES; i++) {
        dlm_error err;
        dlm_tokenizer *tokenizer;
        if (case_file(cases[i], "tokenizer.json") == NULL) continue;
        if (!CHECK_OK(dlm_tokenizer_load(case_file(cases[i], "tokenizer.json"), &tokenizer, &err), &err))
            continue;
        each_line(case_file(cases[i], "encode.jsonl"), check_encode, tokenizer);
        each_line(case_file(cases[i], "decode.jsonl"), check_decode, tokenizer);
        dlm_tokenizer_free(tokenizer);
    }
}

/* One encoder for all texts of a file: what its cache holds must not show. */
static void check_encoder(void *context, const json_t *line) {
    dlm_encoder *encoder = context;
    dlm_error err;
    const json_t *text = json_object_get(line, "text");
    size_t n;
    int32_t *want = ids_of(line, &n);
    dlm_ids got = {0};
    if (CHECK_OK(
            dlm__encoder_encode(encoder, json_string_value(text), json_string_length(text), true, &got, &err),
            &err)) {
        if (CHECK_INT_EQ(got.n, n) && n > 0) CHECK_MEM_EQ(got.ids, want, n * sizeof *want);
    }
    free(got.ids);
    free(want);
}

TEST(an_encoder_that_goes_on) {
    dlm_error err;
    dlm_tokenizer *tokenizer;
    REQUIRE_OK(dlm_tokenizer_load(case_file("unicode_1500", "tokenizer.json"), &tokenizer, &err), &err);
    static const size_t sizes[] = {0, 100000, SIZE_MAX};
    for (size_t i = 0; i < 3; i++) {
        dlm_encoder *encoder = dlm__encoder_create(tokenizer, sizes[i]);
        each_line(case_file("unicode_1500", "encode.jsonl"), check_encoder, encoder);
        each_line(case_file("unicode_1500", "encode.jsonl"), check_encoder, encoder);
        dlm__encoder_free(encoder);
    }
    dlm_tokenizer_free(tokenizer);
}

TEST(what_is_saved_is_what_the_library_wrote) {
    for (size_t i = 0; i < CASES; i++) {
        const char *path = case_file(cases[i], "tokenizer.json");
        if (path == NULL) continue;
        dlm_error err;
        dlm_tokenizer *tokenizer;
        if (!CHECK_OK(dlm_tokenizer_load(path, &tokenizer, &err), &err)) continue;
        const char *dir = path_in(temporary_dir(), "new/folder");
        CHECK_OK(dlm_tokenizer_save(tokenizer, dir, &err), &err);
        size_t want_bytes, got_bytes;
        char *want = read_text(path, &want_bytes),
             *got = read_text(path_in(dir, "tokenizer.json"), &got_bytes);
        if (CHECK(got != NULL) && CHECK_INT_EQ(got_bytes, want_bytes)) CHECK_MEM_EQ(got, want, want_bytes);
        CHECK(read_text(path_in(dir, "tokenizer_config.json"), &got_bytes) != NULL);
        dlm_tokenizer *again;
        if (CHECK_OK(dlm_tokenizer_load(dir, &again, &err), &err)) {
            CHECK(dlm_tokenizer_describe(again).hash == dlm_tokenizer_describe(tokenizer).hash);
            dlm_tokenizer_free(again);
        }
        dlm_tokenizer_free(tokenizer);
    }
}
