/* Token shards and the windows of their documents, against counting by hand; damage: test_data_damage.c. */
#include "data_fixture.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Data of documents of these lengths, all of one id; bytes are those of the ids. */
static dlm_data *data_of_lengths(const dlm_tokenizer *tokenizer, size_t seq_len, const size_t *lengths,
                                 size_t n, size_t per_shard) {
    enum { LONGEST = 4096 };
    static int32_t ids[LONGEST];
    dlm_error err;
    dlm_data *data = NULL;
    text *texts = calloc(n, sizeof *texts);
    if (texts == NULL) abort();
    for (size_t i = 0; i < LONGEST; i++) ids[i] = (int32_t)(4 + i % 256);
    for (size_t i = 0; i < n; i++) texts[i] = (text){.ids = ids, .n = lengths[i], .bytes = lengths[i]};
    const char *dir = temporary_dir();
    if (write_data(dir, tokenizer, seq_len, texts, n, per_shard))
        (void)CHECK_OK(dlm_data_open(dir, &data, &err), &err);
    free(texts);
    return data;
}

/* ---- windows ------------------------------------------------------------------------------------------ */

static void check_windows(const dlm_data *data, size_t seq_len, bool end_token, bool cut,
                          const dlm_window *want, size_t n) {
    dlm_windows windows;
    dlm_error err;
    REQUIRE_OK(dlm__windows_create(data, seq_len, end_token, cut, DLM_PART_ALL, 1, 0, 0, &windows, &err),
               &err);
    CHECK_INT_EQ(windows.n, n);
    for (size_t i = 0; i < n && i < windows.n; i++) {
        check_context("window %zu", i);
        CHECK_INT_EQ(windows.list[i].document, want[i].document);
        CHECK_INT_EQ(windows.list[i].first, want[i].first);
        CHECK_INT_EQ(windows.list[i].n, want[i].n);
        CHECK_INT_EQ(windows.list[i].continues, want[i].continues);
        CHECK_INT_EQ(windows.list[i].ends, want[i].ends);
    }
    check_context("%s", "");
    dlm__windows_free(&windows);
}

TEST(windows_by_hand) {
    static const size_t lengths[] = {0, 3, 4, 5, 8, 9};
    dlm_tokenizer *tokenizer = load("tokenizer/exhausted/tokenizer.json");
    dlm_data *data = data_of_lengths(tokenizer, 4, lengths, 6, 2);
    REQUIRE(data != NULL);
    static const dlm_window with_end[] = {
        {0, 0, 1, false, true},  {1, 0, 4, false, true},  {2, 0, 4, false, false}, {2, 4, 1, true, true},
        {3, 0, 4, false, false}, {3, 4, 2, true, true},   {4, 0, 4, false, false}, {4, 4, 4, true, false},
        {4, 8, 1, true, true},   {5, 0, 4, false, false}, {5, 4, 4, true, false},  {5, 8, 2, true, true}};
    check_windows(data, 4, true, false, with_end, 12);
    static const dlm_window without[] = {
        {1, 0, 3, false, true},  {2, 0, 4, false, true},  {3, 0, 4, false, false},
        {3, 4, 1, true, true},   {4, 0, 4, false, false}, {4, 4, 4, true, true},
        {5, 0, 4, false, false}, {5, 4, 4, true, false},  {5, 8, 1, true, true}};
    check_windows(data, 4, false, false, without, 9);
    static const dlm_window cut[] = {{1, 0, 3, false, true},
                                     {2, 0, 4, false, true},
                                     {3, 0, 4, false, false},
                                     {4, 0, 4, false, false},
                                     {5, 0, 4, false, false}};
    check_windows(data, 4, false, true, cut, 5);
    static const dlm_window other_length[] = {
        {0, 0, 1, false, true},  {1, 0, 4, false, true}, {2, 0, 5, false, true},  {3, 0, 6, false, true},
        {4, 0, 7, false, false}, {4, 7, 2, true, true},  {5, 0, 7, false, false}, {5, 7, 3, true, true}};
    check_windows(data, 7, true, false, other_length, 8);

    dlm_data_info info = dlm_data_describe(data);
    CHECK_INT_EQ(info.documents, 6);
    CHECK_INT_EQ(info.tokens, 29);
    CHECK_INT_EQ(info.bytes, 29);
    CHECK_INT_EQ(info.longest, 9);
    CHECK_INT_EQ(info.split, 4);
    CHECK_INT_EQ(info.windows, 12);
    CHECK_INT_EQ(info.shards, 3);
    static const uint64_t counts4[] = {0, 1, 0, 0, 5}, counts7[] = {0, 1, 0, 0, 1, 1, 1, 2},
                          without7[] = {1, 0, 0, 1, 1, 1, 0, 2};
    uint64_t counts[8];
    dlm__data_lengths(data, 4, true, counts);
    CHECK_MEM_EQ(counts, counts4, sizeof counts4);
    dlm__data_lengths(data, 7, true, counts);
    CHECK_MEM_EQ(counts, counts7, sizeof counts7);
    dlm__data_lengths(data, 7, false, counts); /* the original has no end token */
    CHECK_MEM_EQ(counts, without7, sizeof without7);
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
}

/* Over the windows of every document: ids are those that were written, with the end token where there should
 * be one, and bytes sum up to the document's. */
static void check_text(const dlm_data *data, const text *texts, size_t n, size_t seq_len, bool end_token) {
    dlm_windows windows;
    dlm_error err;
    uint64_t *bytes = calloc(n, sizeof *bytes);
    size_t *got = calloc(n, sizeof *got);
    int32_t *ids = calloc(seq_len, sizeof *ids);
    if (bytes == NULL || got == NULL || ids == NULL) abort();
    int32_t end = dlm_tokenizer_describe(dlm_data_tokenizer(data)).end_id;
    if (!CHECK_OK(dlm__windows_create(data, seq_len, end_token, false, DLM_PART_ALL, 1, 0, 0, &windows, &err),
                  &err))
        return;
    for (size_t i = 0; i < windows.n; i++) {
        const dlm_window *w = &windows.list[i];
        const text *t = &texts[w->document];
        bytes[w->document] += dlm__window_ids(data, w, ids);
        for (size_t j = 0; j < w->n; j++) {
            int32_t want = w->first + j < t->n ? t->ids[w->first + j] : end;
            if (ids[j] != want && !CHECK_INT_EQ(ids[j], want)) break;
        }
        got[w->document] += w->n;
    }
    for (size_t i = 0; i < n; i++) {
        check_context("document %zu, sequence length %zu", i, seq_len);
        CHECK_INT_EQ(got[i], texts[i].n + (end_token ? 1 : 0));
        CHECK_INT_EQ(bytes[i], texts[i].bytes);
    }
    check_context("%s", "");
    dlm__windows_free(&windows);
    free(bytes);
    free(got);
    free(ids);
}

/* Encodes and writes texts, and checks them at several sequence lengths. */
static void check_texts(const dlm_tokenizer *tokenizer, const char *const *strings, size_t n) {
    dlm_error err;
    dlm_data *data;
    text *texts = calloc(n, sizeof *texts);
    if (texts == NULL) abort();
    for (size_t i = 0; i < n; i++) {
        int32_t *ids;
        size_t bytes = strlen(strings[i]);
        if (!CHECK_OK(dlm_tokenizer_encode(tokenizer, strings[i], bytes, false, &ids, &texts[i].n, &err),
                      &err))
            return;
        texts[i].ids = ids;
        texts[i].bytes = bytes;
        texts[i].space = bytes > 0 && strings[i][0] != ' ';
    }
    const char *dir = temporary_dir();
    if (!write_data(dir, tokenizer, 16, texts, n, 3)) return;
    REQUIRE_OK(dlm_data_open(dir, &data, &err), &err);
    for (size_t seq_len = 1; seq_len < 400; seq_len = seq_len * 3 + seq_len % 2) {
        check_text(data, texts, n, seq_len, false);
        if (dlm_tokenizer_describe(tokenizer).end_id >= 0) check_text(data, texts, n, seq_len, true);
    }
    for (size_t i = 0; i < n; i++) {
        dlm_document document = dlm__data_document(data, i);
        CHECK_INT_EQ(document.n, texts[i].n);
        CHECK_INT_EQ(document.bytes, texts[i].bytes);
        dlm_free((void *)texts[i].ids);
    }
    dlm_data_close(data);
    free(texts);
}

static const char *const sentences[] = {
    "Once upon a time there was a little girl called Lily.",
    " a space of its own",
    "",
    "x",
    " ",
    "   three spaces, then\n\na paragraph\n",
    "\xf0\x9f\x98\x80 smiling \xc3\xa9t\xc3\xa9 \xe2\x80\x9cquotes\xe2\x80\x9d",
    "a literal [MASK] and an <|endoftext|>, [PAD] and [UNK]",
    "\n"};

TEST(ids_and_bytes) {
    static const char *const tokenizers[] = {"tokenizer/stories_1024/tokenizer.json",
                                             "tokenizer/unicode_1500/tokenizer.json",
                                             "tokenizer/exhausted/tokenizer.json"};
    for (size_t i = 0; i < 3; i++) {
        dlm_tokenizer *tokenizer = load(tokenizers[i]);
        REQUIRE(tokenizer != NULL);
        check_texts(tokenizer, sentences, sizeof sentences / sizeof *sentences);
        dlm_tokenizer_free(tokenizer);
    }
}

/* The space that encoding added counts nowhere. Where a byte has no token, [UNK] stands for it and is no
 * measure of its bytes: the last window has them. */
TEST(bytes_of_windows) {
    static const char json[] =
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"normalizer\": null, "
        "\"added_tokens\": ["
        "{\"id\": 0, \"content\": \"[UNK]\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
        "\"normalized\": false, \"special\": true}],"
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
        "\"use_regex\": true}, \"post_processor\": null,"
        "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
        "\"use_regex\": true},"
        "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"[UNK]\", "
        "\"continuing_subword_prefix\": null,"
        "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": "
        "false,"
        "\"vocab\": {\"[UNK]\": 0, \"\\u0120\": 1, \"a\": 2, \"b\": 3, \"ab\": 4}, \"merges\": [[\"a\", "
        "\"b\"]]}}";
    /* Ids are [UNK] 0, space 1, a 2, b 3, ab 4; a window each. */
    static const int32_t ids[] = {1, 4, 1, 0, 0, 3};
    static const text texts[] = {{.ids = ids, .n = 4, .bytes = 8, .space = true},  /* "ab \u1234xy" */
                                 {.ids = ids, .n = 3, .bytes = 4, .space = false}, /* " ab " */
                                 {.ids = ids, .n = 6, .bytes = 6, .space = true}}; /* "ab yzb" */
    static const uint64_t bytes[] = {0, 2, 1, 5, 1, 2, 1, 0, 2, 1, 0, 0, 3};
    dlm_tokenizer *tokenizer;
    dlm_windows windows;
    dlm_data *data;
    dlm_error err;
    const char *dir = temporary_dir();
    REQUIRE_OK(dlm_tokenizer_parse("small", json, sizeof json - 1, &tokenizer, &err), &err);
    REQUIRE(write_data(dir, tokenizer, 16, texts, 3, 3));
    REQUIRE_OK(dlm_data_open(dir, &data, &err), &err);
    REQUIRE_OK(dlm__windows_create(data, 1, false, false, DLM_PART_ALL, 1, 0, 0, &windows, &err), &err);
    CHECK_INT_EQ(windows.n, sizeof bytes / sizeof *bytes);
    for (size_t i = 0; i < windows.n; i++) {
        int32_t id;
        check_context("window %zu", i);
        CHECK_INT_EQ(dlm__window_ids(data, &windows.list[i], &id), bytes[i]);
    }
    check_context("%s", "");
    dlm__windows_free(&windows);
    for (size_t seq_len = 1; seq_len < 8; seq_len++) check_text(data, texts, 3, seq_len, false);
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
}

TEST(width_of_ids) {
    static const size_t sizes[] = {65535, 65536, 65537, 70000};
    static const size_t widths[] = {2, 2, 4, 4};
    for (size_t i = 0; i < 4; i++) {
        check_context("vocabulary of %zu", sizes[i]);
        dlm_tokenizer *tokenizer = large_tokenizer(sizes[i]);
        dlm_error err;
        dlm_data *data;
        int32_t last = (int32_t)sizes[i] - 1, ids[] = {last, 0, last - 1, 300}, got[4];
        text one = {.ids = ids, .n = 4, .bytes = 20};
        const char *dir = temporary_dir();
        REQUIRE(tokenizer != NULL && write_data(dir, tokenizer, 8, &one, 1, 1));
        REQUIRE_OK(dlm_data_open(dir, &data, &err), &err);
        CHECK_INT_EQ(dlm__data_document(data, 0).width, widths[i]);
        dlm_window window = {.n = 4, .ends = true};
        CHECK_INT_EQ(dlm__window_ids(data, &window, got), 20);
        CHECK_MEM_EQ(got, ids, sizeof ids);
        dlm_data_close(data);
        dlm_tokenizer_free(tokenizer);
    }
}

TEST(refused_windows) {
    static const size_t lengths[] = {5, 6};
    dlm_tokenizer *tokenizer = large_tokenizer(300); /* without an end token */
    dlm_data *data = data_of_lengths(tokenizer, 4, lengths, 2, 2);
    dlm_windows windows;
    dlm_error err;
    REQUIRE(data != NULL);
    CHECK_STATUS(dlm__windows_create(data, 0, false, false, DLM_PART_ALL, 1, 0, 0, &windows, &err),
                 DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "a sequence length of 0");
    CHECK_STATUS(dlm__windows_create(data, 4, false, false, DLM_PART_TRAIN, 0, 0, 0, &windows, &err),
                 DLM_ARGUMENT, &err);
    CHECK_STATUS(dlm__windows_create(data, 4, true, false, DLM_PART_ALL, 1, 0, 0, &windows, &err),
                 DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "has no token <|endoftext|>");
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
}

/* ---- held out ----------------------------------------------------------------------------------------- */

/* Marks the documents of a part in marks (n); returns how many. */
static size_t part_of(const dlm_data *data, dlm_part part, size_t one_in, uint64_t seed, uint64_t most,
                      uint8_t *marks, size_t n) {
    dlm_windows windows;
    dlm_error err;
    size_t documents = 0;
    memset(marks, 0, n);
    if (!CHECK_OK(dlm__windows_create(data, 4, false, false, part, one_in, seed, most, &windows, &err), &err))
        return 0;
    for (size_t i = 0; i < windows.n; i++) {
        documents += !windows.list[i].continues;
        marks[windows.list[i].document] = 1;
    }
    dlm__windows_free(&windows);
    return documents;
}

TEST(held_out_share) {
    enum { N = 20000, ONE_IN = 50 };
    static uint8_t train[N], held_out[N], other[N];
    static size_t lengths[N];
    for (size_t i = 0; i < N; i++) lengths[i] = 1 + i % 7;
    dlm_tokenizer *tokenizer = load("tokenizer/exhausted/tokenizer.json");
    dlm_data *data = data_of_lengths(tokenizer, 4, lengths, N, 7000);
    dlm_data *fewer = data_of_lengths(tokenizer, 4, lengths, N / 2, 500);
    REQUIRE(data != NULL && fewer != NULL);
    size_t n = part_of(data, DLM_PART_HELD_OUT, ONE_IN, 3, 0, held_out, N);
    CHECK_INT_EQ(part_of(data, DLM_PART_TRAIN, ONE_IN, 3, 0, train, N), N - n);
    for (size_t i = 0; i < N; i++) REQUIRE(train[i] + held_out[i] == 1);
    CHECK_CLOSE(n, N / ONE_IN, 5 * 19.8); /* five standard deviations of a binomial count */

    /* Which depends on the seed and the document alone. */
    (void)part_of(fewer, DLM_PART_HELD_OUT, ONE_IN, 3, 0, other, N / 2);
    CHECK_MEM_EQ(other, held_out, N / 2);
    (void)part_of(data, DLM_PART_HELD_OUT, ONE_IN, 4, 0, other, N);
    CHECK(memcmp(other, held_out, N) != 0);

    /* At most so many are the first so many. */
    CHECK_INT_EQ(part_of(data, DLM_PART_HELD_OUT, ONE_IN, 3, 10, other, N), 10);
    size_t seen = 0;
    for (size_t i = 0; i < N; i++) {
        CHECK_INT_EQ(other[i], held_out[i] == 1 && seen < 10);
        seen += held_out[i];
    }
    dlm_data_close(data);
    dlm_data_close(fewer);
    dlm_tokenizer_free(tokenizer);
}

TEST(both_parts_have_documents) {
    enum { MOST = 12 };
    dlm_tokenizer *tokenizer = load("tokenizer/exhausted/tokenizer.json");
    for (size_t n = 1; n <= MOST; n++) {
        size_t lengths[MOST];
        uint8_t train[MOST], held_out[MOST];
        /* Documents without tokens have no window, so neither part may count on them. */
        for (size_t i = 0; i < n; i++) lengths[i] = i % 3 == 1 ? 0 : 5;
        size_t there = n - (n + 1) / 3;
        dlm_data *data = data_of_lengths(tokenizer, 4, lengths, n, 4);
        REQUIRE(data != NULL);
        for (uint64_t seed = 0; seed < 20; seed++) {
            for (size_t one_in = 1; one_in < 60; one_in += 7) {
                check_context("%zu documents, seed %d, one in %zu", n, (int)seed, one_in);
                size_t a = part_of(data, DLM_PART_TRAIN, one_in, seed, 0, train, n);
                size_t b = part_of(data, DLM_PART_HELD_OUT, one_in, seed, 0, held_out, n);
                CHECK_INT_EQ(a + b, there);
                if (there >= 2) CHECK(a > 0 && b > 0);
            }
        }
        dlm_data_close(data);
    }
    dlm_tokenizer_free(tokenizer);
}
