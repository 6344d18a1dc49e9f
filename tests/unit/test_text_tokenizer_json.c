/* tokenizer.json files that are not what they should be, parts that are refused by name, and parts that few
 * files have. What the library makes of the latter is compared at length by tests/oracle/test_tokenizer.py;
 * here are single cases, worked out by hand. */
#include "check.h"

#include "base/base.h"
#include "text/bpe_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* a, b, c, space, unknown; "ab" and " ab" are merged; [MASK] is an added token. */
static const char base[] = "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, "
                           "\"added_tokens\": [{\"id\": 7, \"content\": \"[MASK]\","
                           " \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": "
                           "false, \"special\": true}],"
                           " \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                           "\"add_prefix_space\": true, \"trim_offsets\": true,"
                           " \"use_regex\": true}, \"post_processor\": null, \"decoder\": {\"type\": "
                           "\"ByteLevel\", \"add_prefix_space\": true,"
                           " \"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", "
                           "\"dropout\": null, \"unk_token\": \"?\","
                           " \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
                           "\"fuse_unk\": false, \"byte_fallback\": false,"
                           " \"ignore_merges\": false, \"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, "
                           "\"\\u0120\": 3, \"?\": 4, \"ab\": 5, \"\\u0120ab\": 6},"
                           " \"merges\": [[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]}}";

/* The base with the first `part` replaced, freed by the caller. */
static char *changed(const char *part, const char *by) {
    const char *at = strstr(base, part);
    char *text = malloc(sizeof base + strlen(by));
    if (text == NULL || at == NULL) abort();
    sprintf(text, "%.*s%s%s", (int)(at - base), base, by, at + strlen(part));
    return text;
}

/* Parses a text as every caller does, and by a tree of all of it, which has to give the same: tokenizers of
 * one hash, or one sentence. */
static dlm_status parse_both(const char *text, size_t n, dlm_tokenizer **tokenizer, dlm_error *err) {
    dlm_error other = {0};
    dlm_tokenizer *whole;
    *err = (dlm_error){0};
    dlm_status status = dlm_tokenizer_parse("t.json", text, n, tokenizer, err);
    CHECK(dlm__tokenizer_parse("t.json", text, n, true, &whole, &other) == status);
    CHECK_STR_EQ(err->message, other.message);
    CHECK((whole == NULL) == (*tokenizer == NULL));
    if (whole != NULL && *tokenizer != NULL) {
        const dlm_tokenizer_info a = dlm_tokenizer_describe(whole), b = dlm_tokenizer_describe(*tokenizer);
        CHECK(a.hash == b.hash && a.vocab_size == b.vocab_size && a.merges == b.merges &&
              a.pad_id == b.pad_id && a.unk_id == b.unk_id && a.mask_id == b.mask_id &&
              a.end_id == b.end_id && a.added_tokens == b.added_tokens);
        CHECK(memcmp(whole->byte_ids, (*tokenizer)->byte_ids, sizeof whole->byte_ids) == 0);
        for (size_t i = 0; i < whole->merge_count; i++) {
            const dlm_merge *one = &whole->merges[i], *same = &(*tokenizer)->merges[i];
            CHECK(dlm__pair_rank(*tokenizer, one->left, one->right) == i && one->result == same->result);
        }
    }
    dlm_tokenizer_free(whole);
    return status;
}

/* The text with characters in the place of their escapes, which only the reader of trees takes. */
static char *unescaped(const char *text) {
    char *plain = malloc(strlen(text) + 1), *to = plain;
    if (plain == NULL) abort();
    while (*text != 0) {
        const bool escape = strncmp(text, "\\u0120", 6) == 0;
        memcpy(to, escape ? "\u0120" : text, escape ? 2 : 1);
        to += escape ? 2 : 1;
        text += escape ? 6 : 1;
    }
    *to = 0;
    return plain;
}

static dlm_status parse_changed(const char *part, const char *by, dlm_tokenizer **tokenizer, dlm_error *err) {
    char *text = changed(part, by), *plain = unescaped(text);
    dlm_error same;
    const dlm_status other = parse_both(plain, strlen(plain), tokenizer, &same);
    dlm_tokenizer_free(*tokenizer);
    const dlm_status status = parse_both(text, strlen(text), tokenizer, err);
    CHECK(status == other);
    free(plain);
    free(text);
    return status;
}

/* ids as "1 2 3". */
static void check_ids(const dlm_tokenizer *tokenizer, const char *text, const char *want) {
    dlm_error err;
    int32_t *ids;
    size_t n;
    char got[500] = "";
    check_context("\"%s\"", text);
    if (!CHECK_OK(dlm_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &n, &err), &err)) return;
    for (size_t i = 0; i < n && i < 50; i++)
        sprintf(got + strlen(got), "%s%d", i > 0 ? " " : "", (int)ids[i]);
    CHECK_STR_EQ(got, want);
    dlm_free(ids);
}

static void check_changed(const char *part, const char *by, const char *text, const char *ids) {
    dlm_error err;
    dlm_tokenizer *tokenizer;
    check_context("%s", by);
    if (!CHECK_OK(parse_changed(part, by, &tokenizer, &err), &err)) return;
    check_ids(tokenizer, text, ids);
    dlm_tokenizer_free(tokenizer);
}

static void check_refused(const char *part, const char *by, dlm_status status, const char *says) {
    dlm_error err;
    dlm_tokenizer *tokenizer;
    check_context("%s", by);
    CHECK_STATUS(parse_changed(part, by, &tokenizer, &err), status, &err);
    CHECK_SAYS(&err, "t.json: ");
    CHECK_SAYS(&err, says);
    CHECK(tokenizer == NULL);
}

/* Is this a text whose vocabulary and merges are read where they stand? */
static bool read_in_place(const char *text, size_t n) {
    dlm_bpe_json bpe;
    const bool right = dlm__bpe_json_read(text, n, &bpe);
    dlm__bpe_json_free(&bpe);
    return right;
}

/* What is wrong in the rest may be left to the parser of the rest. */
TEST(what_is_read_in_place) {
    static const struct {
        const char *part, *by;
        bool in_place;
    } cases[] = {
        {"1.0", "1.0", true},
        {"\"?\": 4", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\" \n\t : \r 4", true},
        {"\"merges\": [[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "\"merges\": []", true},
        {"[\"a\", \"b\"], [\"\\u0120\", \"ab\"]", "\"a b\", \"\\u0120 ab\"", true},
        {"[\"a\", \"b\"], [\"\\u0120\", \"ab\"]", "\"a b\", [\"\\u0120\", \"ab\"]", false},
        {"[\"a\", \"b\"], [\"\\u0120\", \"ab\"]", "\"a b\", \"\\u0120 a b\"", false},
        {"[\"a\", \"b\"], [\"\\u0120\", \"ab\"]", "\"#version: 0.2\", \"a b\"", false},
        {"[\"a\", \"b\"]", "[\"a\", \"b\", \"c\"]", false},
        {"[\"a\", \"b\"]", "[\"a\"]", false},
        {"[\"a\", \"b\"],", "[\"a\", \"b\"]", false},
        {"[\"a\", \"b\"]", "[\"a\", \"c\"]", true},
        {"[\"a\", \"b\"]", "[\"\", \"b\"]", true},
        {"\"a\": 0, \"b\": 1", "\"b\": 1, \"a\": 0", false},
        {"\"a\": 0, \"b\": 1", "\"a\": 0, \"a\": 1", true},
        {"\"a\": 0, \"b\": 1", "\"a\": 0, \"b\": 0", false},
        {"\"a\": 0", "\"\\u0061\": 0", false},
        {"\"a\": 0", "\"a\": 00", false},
        {"\"a\": 0", "\"a\": -0", false},
        {"\"a\": 0", "\"a\": 0.0", false},
        {"\"a\": 0", "\"a\": 0e0", false},
        {"\"a\": 0", "\"a\": 4294967296", false},
        {"\"a\": 0", "\"a\": 18446744073709551616", false},
        {"\"a\": 0", "\"a\": \"0\"", false},
        {"\"a\": 0", "\"a\" 0", false},
        {"\"a\": 0", "\"a\": 0,", false},
        {"\"a\": 0", "\"a\n\": 0", false},
        {"\"a\": 0", "\"\\a\": 0", false},
        {"\"a\": 0", "\"a\\\": 0", false},
        {"\"a\": 0", "\"\x80\": 0", false},
        {"\"vocab\": {", "\"vocab\": {}, \"other\": {", false},
        {"\"vocab\": {", "\"vocab\": [], \"other\": {", false},
        {"\"vocab\": {", "\"voc\\u0061b\": {", false},
        {"\"vocab\": {", "\"voc\\u0061b\": {}, \"vocab\": {", true},
        {"\"model\": {", "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}, \"model\": {", false},
        {"\"model\": {", "\"other\": {\"vocab\": [{}, \"]}\\\"\"], \"model\": 3}, \"model\": {", true},
        {"\"model\": {", "\"merges\": [1], \"vocab\": 2, \"model\": {", true},
        {"\"model\": {", "\"other\": [}, \"model\": {", true},
        {"\"model\": {", "\"other\": [{], \"x\": 1, \"model\": {", false},
        {"\"version\": \"1.0\"", "\"version\": \"1.0\", \"x\": 01", true},
        {"\"version\": \"1.0\"", "\"version\": \"1.0\", \"x\": [}", true},
        {"]]}}", "]]}}x", true},
        {"]]}}", "]]},}", false},
        {"]]}}", "]]}", false},
        {"]]}}", "]]", false},
        {"]]}}", "]", false},
        {"]]}}", "\\", false},
        {"]]}}", "\"\\", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = changed(cases[i].part, cases[i].by), *plain = unescaped(text);
        dlm_tokenizer *tokenizer;
        dlm_error err;
        check_context("%zu: %s", i, cases[i].by);
        /* Exactly as many bytes as there are, so that a sanitizer sees who reads beyond them. */
        const size_t n = strlen(plain);
        char *exact = malloc(n);
        if (exact == NULL) abort();
        memcpy(exact, plain, n);
        CHECK(read_in_place(exact, n) == cases[i].in_place);
        (void)parse_both(exact, n, &tokenizer, &err);
        dlm_tokenizer_free(tokenizer);
        free(exact);
        free(plain);
        free(text);
    }
}

/* As far as it goes, at every byte. */
TEST(a_text_that_is_cut_off) {
    char *plain = unescaped(base);
    for (size_t n = 0; n < strlen(plain); n++) {
        dlm_tokenizer *tokenizer;
        dlm_error err;
        char *cut = malloc(n + 1);
        if (cut == NULL) abort();
        memcpy(cut + 1, plain, n);
        check_context("%zu bytes", n);
        CHECK(!read_in_place(cut + 1, n));
        CHECK_STATUS(parse_both(cut + 1, n, &tokenizer, &err), DLM_FORMAT, &err);
        free(cut);
    }
    free(plain);
}

static bool is_token(const dlm_tokenizer *tokenizer, int32_t id, const char *content, size_t n) {
    size_t bytes;
    const char *has = dlm__tokenizer_content(tokenizer, id, &bytes);
    return bytes == n && memcmp(has, content, n) == 0;
}

/* The text is read in place, and as the tokenizer that was made of a tree has it. */
static void check_parts(const char *text, size_t n) {
    dlm_bpe_json bpe;
    dlm_error err;
    dlm_tokenizer *tokenizer;
    REQUIRE_OK(dlm__tokenizer_parse("t.json", text, n, true, &tokenizer, &err), &err);
    CHECK(dlm__bpe_json_read(text, n, &bpe));
    CHECK(bpe.n == tokenizer->model_size && bpe.merge_count == tokenizer->merge_count);
    for (size_t id = 0; id < bpe.n; id++)
        CHECK(is_token(tokenizer, (int32_t)id, bpe.tokens[id].content, bpe.tokens[id].bytes));
    for (size_t i = 0; i < bpe.merge_count; i++) {
        const dlm_bpe_merge *has = &bpe.merges[i];
        const dlm_merge *merge = &tokenizer->merges[i];
        CHECK(is_token(tokenizer, merge->left, has->joined, has->bytes[0]));
        CHECK(is_token(tokenizer, merge->right, has->joined + has->bytes[0], has->bytes[1]));
        CHECK(is_token(tokenizer, merge->result, has->joined, has->bytes[0] + has->bytes[1]));
    }
    dlm__bpe_json_free(&bpe);
    dlm_tokenizer_free(tokenizer);
}

TEST(merges_are_read_in_place) {
    char *pairs = unescaped(base);
    char *text = changed("[\"a\", \"b\"], [\"\\u0120\", \"ab\"]", "\"a b\", \"\\u0120 ab\"");
    char *strings = unescaped(text);
    check_parts(pairs, strlen(pairs));
    check_parts(strings, strlen(strings));
    free(pairs);
    free(strings);
    free(text);
}

/* What the Hugging Face library writes, and what is written here. */
TEST(files_are_read_in_place) {
    static const char *const names[] = {"stories_8192", "stories_1024"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1000];
        const char *folder = temporary_dir();
        char *text;
        size_t n;
        dlm_error err;
        dlm_tokenizer *tokenizer;
        (void)snprintf(path, sizeof path, "%s/tokenizer/%s/tokenizer.json", golden_dir(), names[i]);
        check_context("%s", path);
        REQUIRE_OK(dlm__read_file(path, DLM_JSON_LIMIT, &text, &n, &err), &err);
        check_parts(text, n);
        REQUIRE_OK(parse_both(text, n, &tokenizer, &err), &err);
        free(text);
        REQUIRE_OK(dlm_tokenizer_save(tokenizer, folder, &err), &err);
        (void)snprintf(path, sizeof path, "%s/tokenizer.json", folder);
        REQUIRE_OK(dlm__read_file(path, DLM_JSON_LIMIT, &text, &n, &err), &err);
        check_parts(text, n);
        free(text);
        dlm_tokenizer_free(tokenizer);
    }
}

TEST(the_base) {
    check_changed("1.0", "1.0", "", "");
    check_changed("1.0", "1.0", "ab ab", "6 6");
    check_changed("1.0", "1.0", "abab", "6 5");
    check_changed("1.0", "1.0", "ab[MASK]ba", "6 7 3 1 0");
    check_changed("1.0", "1.0", "a [MASK] b", "3 0 3 7 3 1");
}

TEST(options_that_change_ids) {
    check_changed("\"add_prefix_space\": true", "\"add_prefix_space\": false", "ab ab", "5 6");
    check_changed("\"use_regex\": true", "\"use_regex\": false", "a' ab", "3 0 4 6");
    check_changed("\"fuse_unk\": false", "\"fuse_unk\": true", "axyzb", "3 0 4 1");
    check_changed("\"fuse_unk\": false", "\"fuse_unk\": false", "axyzb", "3 0 4 4 4 1");
    check_changed("\"unk_token\": \"?\"", "\"unk_token\": null", "axyzb",
                  "6"); /* unknown bytes vanish, and a meets b */
    check_changed("\"merges\": [[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "\"merges\": []", "ab", "3 0 1");
    check_changed("\"ignore_merges\": false, \"vocab\"", "\"ignore_merges\": true, \"vocab\"", "ab", "6");
    check_changed("\"single_word\": false", "\"single_word\": true", "c[MASK] [MASK].",
                  "3 2 4 4 4 4 4 4 3 7 3 4");
    check_changed("\"lstrip\": false", "\"lstrip\": true", "c  [MASK] c", "3 2 7 3 2");
    check_changed("\"rstrip\": false", "\"rstrip\": true", "c [MASK] \xe2\x80\x83 c", "3 2 3 7 3 2");
}

TEST(merges_in_either_form) {
    check_changed("[[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "[\"a b\", \"\\u0120 ab\"]", "ab", "6");
    check_changed("[[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "[\"#version: 0.2\", \"a b\", \"\\u0120 ab\"]",
                  "ab", "6");
    check_changed("[[\"a\", \"b\"], ", "[[\"a\", \"b\"], [\"a\", \"b\"], ", "ab", "6");
    check_refused("[[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "[\"a b\", [\"\\u0120\", \"ab\"]]", DLM_FORMAT,
                  "merge 1");
    check_refused("[[\"a\", \"b\"], ", "[[\"a\", \"b\", \"c\"], ", DLM_FORMAT, "merge 0");
    check_refused("[[\"a\", \"b\"], ", "[[\"a\", 5], ", DLM_FORMAT, "merge 0");
    check_refused("[[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "[\"ab\"]", DLM_FORMAT, "merge 0");
    check_refused("[[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "[\"a b c\"]", DLM_FORMAT, "merge 0");
    check_refused("[[\"a\", \"b\"], ", "[[\"a\", \"z\"], ", DLM_FORMAT, "merge 0 needs token \"z\"");
    check_refused("[[\"a\", \"b\"], ", "[[\"b\", \"a\"], ", DLM_FORMAT, "merge 0 needs token \"ba\"");
}

TEST(the_hash_tells_tokenizers_apart) {
    static const char *const same[][2] = {
        {"\"a\": 0, \"b\": 1", "\"b\" : 1,\n\"a\":0"},
        {"[[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "[\"a b\", \"\\u0120 ab\"]"},
        {"[[\"a\", \"b\"], ", "[[\"a\", \"b\"], [\"a\", \"b\"], "}};
    static const char *const other[][2] = {
        {"\"a\": 0, \"b\": 1", "\"a\": 1, \"b\": 0"},
        {"[[\"a\", \"b\"], [\"\\u0120\", \"ab\"]]", "[[\"\\u0120\", \"ab\"], [\"a\", \"b\"]]"},
        {"\"special\": true", "\"special\": false"},
        {"\"add_prefix_space\": true", "\"add_prefix_space\": false"},
        {"\"use_regex\": true", "\"use_regex\": false"},
        {"[MASK]", "[MASK2]"},
        {"\"lstrip\": false", "\"lstrip\": true"}};
    dlm_error err;
    dlm_tokenizer *tokenizer;
    REQUIRE_OK(parse_changed("1.0", "1.0", &tokenizer, &err), &err);
    uint64_t hash = dlm_tokenizer_describe(tokenizer).hash;
    dlm_tokenizer_free(tokenizer);
    size_t n_same = sizeof same / sizeof *same, n = n_same + sizeof other / sizeof *other;
    for (size_t i = 0; i < n; i++) {
        const char *const *change = i < n_same ? same[i] : other[i - n_same];
        check_context("%s", change[1]);
        if (!CHECK_OK(parse_changed(change[0], change[1], &tokenizer, &err), &err)) continue;
        CHECK((dlm_tokenizer_describe(tokenizer).hash == hash) == (i < n_same));
        dlm_tokenizer_free(tokenizer);
    }
}

TEST(what_it_says_about_itself) {
    dlm_error err;
    dlm_tokenizer *tokenizer;
    REQUIRE_OK(parse_changed("1.0", "1.0", &tokenizer, &err), &err);
    dlm_tokenizer_info info = dlm_tokenizer_describe(tokenizer);
    CHECK_INT_EQ(info.vocab_size, 8);
    CHECK_INT_EQ(info.merges, 2);
    CHECK_INT_EQ(info.added_tokens, 1);
    CHECK_INT_EQ(info.mask_id, 7);
    CHECK_INT_EQ(info.pad_id, -1);
    CHECK_INT_EQ(info.end_id, -1);
    CHECK(info.add_prefix_space);
    size_t bytes;
    bool special;
    const char *token = dlm_tokenizer_token(tokenizer, 6, &bytes, &special);
    CHECK(bytes == 3 && memcmp(token, " ab", 3) == 0 && !special);
    token = dlm_tokenizer_token(tokenizer, 7, &bytes, &special);
    CHECK(bytes == 6 && memcmp(token, "[MASK]", 6) == 0 && special);
    CHECK(dlm_tokenizer_token(tokenizer, 8, &bytes, &special) == NULL);
    CHECK(dlm_tokenizer_token(tokenizer, -1, &bytes, &special) == NULL);
    dlm_tokenizer_free(tokenizer);
}

TEST(parts_that_are_not_supported) {
    check_refused("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", DLM_UNSUPPORTED,
                  "normalizer NFC");
    check_refused("\"truncation\": null", "\"truncation\": {\"max_length\": 5}", DLM_UNSUPPORTED,
                  "truncation");
    check_refused("\"padding\": null", "\"padding\": {}", DLM_UNSUPPORTED, "padding");
    check_refused("\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\"}",
                  DLM_UNSUPPORTED, "post_processor \"TemplateProcessing\"");
    check_refused(
        "\"post_processor\": null",
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": "
        "{\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"[MASK]\", \"type_id\": 0}}]}",
        DLM_UNSUPPORTED, "post_processor \"TemplateProcessing\"");
    check_refused("{\"type\": \"ByteLevel\"", "{\"type\": \"Whitespace\"", DLM_UNSUPPORTED,
                  "pre_tokenizer \"Whitespace\"");
    check_refused("\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"WordPiece\"",
                  DLM_UNSUPPORTED, "decoder \"WordPiece\"");
    check_refused("\"decoder\":", "\"undecoder\":", DLM_UNSUPPORTED, "no decoder");
    check_refused("\"BPE\"", "\"Unigram\"", DLM_UNSUPPORTED, "Unigram");
    check_refused("\"dropout\": null", "\"dropout\": 0.1", DLM_UNSUPPORTED, "dropout");
    check_refused("\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"",
                  DLM_UNSUPPORTED, "continuing_subword_prefix");
    check_refused("\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", DLM_UNSUPPORTED,
                  "end_of_word_suffix");
    check_refused("\"byte_fallback\": false", "\"byte_fallback\": true", DLM_UNSUPPORTED, "byte_fallback");
    check_refused("\"1.0\"", "\"2.0\"", DLM_UNSUPPORTED, "version");
    check_refused("\"unk_token\": \"?\"", "\"unk_token\": \"[UNK]\"", DLM_UNSUPPORTED, "[UNK]");
    check_refused("\"content\": \"[MASK]\"", "\"content\": \"x\\u0000\"", DLM_UNSUPPORTED, "added token 0");
}

TEST(parts_at_their_defaults) {
    check_changed("\"dropout\": null", "\"dropout\": 0.0", "ab", "6");
    check_changed("\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"\"", "ab", "6");
    check_changed("\"type\": \"BPE\", ", "", "ab", "6");
    check_changed(
        "\"post_processor\": null",
        "\"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false}",
        "ab", "6");
    check_changed("\"post_processor\": null",
                  "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": "
                  "{\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": {}}",
                  "ab", "6");
    check_changed(", \"use_regex\": true", "", "ab c", "6 3 2");
}

TEST(numbers_that_do_not_fit) {
    check_refused("\"a\": 0", "\"a\": 1", DLM_FORMAT, "0 to 6");
    check_refused("\"a\": 0", "\"a\": 7", DLM_FORMAT, "has id 7");
    check_refused("\"a\": 0", "\"a\": -1", DLM_FORMAT, "0 to 6");
    check_refused("\"a\": 0", "\"a\": 4294967296", DLM_FORMAT, "0 to 6");
    check_refused("\"a\": 0", "\"a\": \"0\"", DLM_FORMAT, "0 to 6");
    check_refused("\"a\": 0", "\"a\": 0.0", DLM_FORMAT, "0 to 6");
    check_refused("\"a\": 0", "\"a\": 99999999999999999999", DLM_FORMAT, "line 1");
    check_refused("\"a\": 0", "\"a\": 0, \"a\": 0", DLM_FORMAT, "line 1");
    check_refused("\"id\": 7", "\"id\": 8", DLM_FORMAT, "\"[MASK]\" has id 8");
    check_refused("\"content\": \"[MASK]\"", "\"content\": \"ab\"", DLM_FORMAT, "\"ab\" has id 7");
    check_refused("\"content\": \"[MASK]\"", "\"content\": \"\"", DLM_FORMAT, "added token 0");
    check_refused("\"id\": 7, ", "", DLM_FORMAT, "added token 0");
    check_refused("\"special\": true", "\"special\": 1", DLM_FORMAT, "special");
    check_refused(
        "[{\"id\": 7",
        "[{\"id\": 5, \"content\": \"ab\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
        "\"normalized\": false, \"special\": true}, {\"id\": 5, \"content\": \"ab\", \"single_word\": false, "
        "\"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}, {\"id\": 7",
        DLM_FORMAT, "appears twice");
}

TEST(shapes_that_are_wrong) {
    check_refused("\"vocab\": {", "\"vocab\": {}, \"v\": {", DLM_FORMAT, "vocab");
    check_refused("\"vocab\"", "\"v\"", DLM_FORMAT, "vocab");
    check_refused("\"merges\": [", "\"merges\": 5, \"m\": [", DLM_FORMAT, "merges");
    check_refused("\"model\"", "\"m\"", DLM_FORMAT, "BPE");
    check_refused("\"added_tokens\": [", "\"added_tokens\": {}, \"x\": [", DLM_FORMAT, "added_tokens");
    check_refused("\"added_tokens\": [", "\"added_tokens\": [5], \"x\": [", DLM_FORMAT, "added token 0");
    check_refused("\"unk_token\": \"?\"", "\"unk_token\": 5", DLM_FORMAT, "unk_token");
    check_refused("\"fuse_unk\": false", "\"fuse_unk\": null", DLM_FORMAT, "fuse_unk");
    check_refused("\"add_prefix_space\": true, ", "", DLM_FORMAT, "add_prefix_space");
    dlm_error err;
    dlm_tokenizer *tokenizer;
    for (size_t n = 0; n < sizeof base - 1; n++) {
        check_context("cut after %zu bytes", n);
        CHECK_STATUS(dlm_tokenizer_parse("t.json", base, n, &tokenizer, &err), DLM_FORMAT, &err);
    }
    CHECK_STATUS(dlm_tokenizer_load(path_in(temporary_dir(), "absent"), &tokenizer, &err), DLM_NOT_FOUND,
                 &err);
    CHECK_SAYS(&err, "absent");
    CHECK_STATUS(dlm_tokenizer_load(temporary_dir(), &tokenizer, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "tokenizer.json");
}

TEST(texts_and_ids_that_are_refused) {
    dlm_error err;
    dlm_tokenizer *tokenizer;
    int32_t *ids, wrong[2] = {0, 8};
    char *text;
    size_t n;
    REQUIRE_OK(parse_changed("1.0", "1.0", &tokenizer, &err), &err);
    CHECK_STATUS(dlm_tokenizer_encode(tokenizer, "ab\xc3(", 4, true, &ids, &n, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "byte 2");
    CHECK(ids == NULL && n == 0);
    CHECK_STATUS(dlm_tokenizer_decode(tokenizer, wrong, 2, true, &text, &n, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "id 8 at position 1");
    wrong[1] = -1;
    CHECK_STATUS(dlm_tokenizer_decode(tokenizer, wrong, 2, true, &text, &n, &err), DLM_ARGUMENT, &err);
    CHECK(text == NULL && n == 0);
    dlm_tokenizer_free(tokenizer);
}

/* A word of a megabyte must not take the time of its square. */
TEST(very_long_words) {
    dlm_error err;
    dlm_tokenizer *tokenizer;
    size_t bytes = (size_t)1 << 20, n;
    char *text = malloc(bytes);
    int32_t *ids;
    REQUIRE(text != NULL);
    for (size_t i = 0; i < bytes; i++) text[i] = "ab"[i & 1];
    REQUIRE_OK(parse_changed("1.0", "1.0", &tokenizer, &err), &err);
    if (CHECK_OK(dlm_tokenizer_encode(tokenizer, text, bytes, true, &ids, &n, &err), &err)) {
        CHECK_INT_EQ(n, bytes / 2);
        CHECK(ids[0] == 6 && ids[1] == 5 && ids[n - 1] == 5);
        dlm_free(ids);
    }
    dlm_tokenizer_free(tokenizer);
    free(text);
}
