/* Token shards and the windows of their documents: against counting by hand, and against damage of every
 * kind. The data here is written shard by shard, without dlm_prepare, which has tests of its own. */
#include "check.h"

#include "train/data.h"
#include "train/shard.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- making data -------------------------------------------------------------------------------------- */

typedef struct text {
    const int32_t *ids;
    size_t n;
    uint64_t bytes;
    bool space;
} text;

static dlm_shard_kind kind_of(const dlm_tokenizer *tokenizer, size_t seq_len) {
    dlm_tokenizer_info info = dlm_tokenizer_describe(tokenizer);
    return (dlm_shard_kind){.vocabulary_hash = info.hash, .vocab_size = info.vocab_size, .seq_len = seq_len};
}

/* Writes n texts into a new folder, `per_shard` in each shard. */
static bool write_data(const char *dir, const dlm_tokenizer *tokenizer, size_t seq_len, const text *texts,
                       size_t n, size_t per_shard) {
    dlm_error err;
    dlm_shard_kind kind = kind_of(tokenizer, seq_len);
    dlm_shard_list list;
    dlm_shard_writer *writer = NULL;
    bool ok = CHECK_OK(dlm_tokenizer_save(tokenizer, dir, &err), &err) &&
              CHECK_OK(dlm__shard_list_create(&kind, &list, &err), &err);
    for (size_t i = 0; ok && i < n; i++) {
        char name[DLM_SHARD_NAME_SIZE];
        dlm__shard_name(list.info.shards, name);
        if (writer == NULL)
            ok =
                CHECK_OK(dlm__shard_create(path_in(dir, name), &kind, list.info.shards, &writer, &err), &err);
        ok = ok &&
             CHECK_OK(dlm__shard_add(writer, texts[i].ids, texts[i].n, texts[i].bytes, texts[i].space, &err),
                      &err);
        dlm__shard_list_count(&list, texts[i].n, texts[i].bytes);
        if (ok && ((i + 1) % per_shard == 0 || i + 1 == n)) {
            dlm_shard_header header;
            ok = CHECK_OK(dlm__shard_commit(writer, &header, &err), &err) &&
                 CHECK_OK(dlm__shard_list_add(&list, &header, &err), &err);
            writer = NULL;
        }
    }
    ok = ok && CHECK_OK(dlm__shard_list_write(&list, path_in(dir, "data.json"), &err), &err);
    dlm__shard_list_free(&list);
    return ok;
}

static dlm_tokenizer *load(const char *name) {
    dlm_error err;
    dlm_tokenizer *tokenizer = NULL;
    const char *path = golden_path(name);
    if (CHECK(path != NULL)) (void)CHECK_OK(dlm_tokenizer_load(path, &tokenizer, &err), &err);
    return tokenizer;
}

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

/* The shortest tokenizer.json with `vocab_size` tokens: 256 bytes are not needed where no text is encoded. */
static dlm_tokenizer *large_tokenizer(size_t vocab_size) {
    static const char head[] =
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"normalizer\": null, "
        "\"added_tokens\": [],"
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
        "\"use_regex\": true}, \"post_processor\": null,"
        "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
        "\"use_regex\": true},"
        "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
        "\"continuing_subword_prefix\": null,"
        "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": "
        "false,"
        "\"merges\": [], \"vocab\": {";
    size_t size = sizeof head + vocab_size * 32, at;
    char *json = malloc(size);
    dlm_tokenizer *tokenizer = NULL;
    dlm_error err;
    if (json == NULL) abort();
    at = (size_t)snprintf(json, size, "%s", head);
    for (size_t i = 0; i < vocab_size; i++)
        at += (size_t)snprintf(json + at, size - at, "%s\"t%zu\": %zu", i > 0 ? ", " : "", i, i);
    at += (size_t)snprintf(json + at, size - at, "}}}");
    (void)CHECK_OK(dlm_tokenizer_parse("large", json, at, &tokenizer, &err), &err);
    free(json);
    return tokenizer;
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

/* ---- damage ------------------------------------------------------------------------------------------- */

/* Puts the checksums right: what is then refused is refused for what it says. */
static void seal(char *bytes, size_t size) {
    dlm_shard_header header;
    memcpy(&header, bytes, sizeof header);
    dlm_shard_section *sections[] = {&header.token_ids, &header.marks, &header.entries};
    for (size_t i = 0; i < 3; i++) {
        dlm_shard_section *s = sections[i];
        if (s->offset <= size && s->size <= size - s->offset)
            s->checksum = dlm__hash(bytes + s->offset, (size_t)s->size, 0);
    }
    header.checksum = dlm__hash(&header, offsetof(dlm_shard_header, checksum), 0);
    memcpy(bytes, &header, sizeof header);
}

/* A folder of three shards of two documents each; the bytes of the second one. */
typedef struct victim {
    dlm_tokenizer *tokenizer;
    const char *dir, *path;
    char *bytes;
    size_t size;
    dlm_shard_header header;
} victim;

static const size_t victim_lengths[] = {10, 20, 33, 4, 5, 6};

static bool make_victim(victim *v, const char *tokenizer) {
    text texts[6];
    int32_t ids[40];
    for (size_t i = 0; i < 40; i++) ids[i] = (int32_t)(10 + i * i % 200);
    for (size_t i = 0; i < 6; i++)
        texts[i] = (text){.ids = ids + i, .n = victim_lengths[i], .bytes = victim_lengths[i]};
    v->tokenizer = load(tokenizer);
    v->dir = temporary_dir();
    if (v->tokenizer == NULL || !write_data(v->dir, v->tokenizer, 16, texts, 6, 2)) return false;
    v->path = path_in(v->dir, "shard-00001.dlm");
    v->bytes = read_text(v->path, &v->size);
    if (!CHECK(v->bytes != NULL)) return false;
    memcpy(&v->header, v->bytes, sizeof v->header);
    return true;
}

static void put_file(const char *path, const void *bytes, size_t n) {
    dlm_error err;
    (void)CHECK_OK(dlm__write_file(path, bytes, n, &err), &err);
}

/* Opening says that it is the second shard, and why. */
static void refused(const victim *v, dlm_status status, const char *why) {
    dlm_data *data;
    dlm_error err = {0};
    CHECK_STATUS(dlm_data_open(v->dir, &data, &err), status, &err);
    CHECK(data == NULL);
    CHECK_SAYS(&err, "shard-00001.dlm");
    CHECK_SAYS(&err, why);
}

TEST(cut_off) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    const dlm_shard_header *h = &v.header;
    const uint64_t edges[] = {0,
                              sizeof h->magic,
                              sizeof *h,
                              h->token_ids.offset + h->tokens * h->width,
                              h->marks.offset,
                              h->marks.offset + h->windows,
                              h->entries.offset,
                              h->entries.offset + h->documents * sizeof(dlm_shard_entry),
                              v.size};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        for (uint64_t size = edges[i] > 0 ? edges[i] - 1 : 0; size <= edges[i] + 1 && size < v.size; size++) {
            check_context("cut off at byte %d of %zu", (int)size, v.size);
            put_file(v.path, v.bytes, (size_t)size);
            refused(&v, DLM_FORMAT, "is cut off");
        }
    }
    char *longer = calloc(v.size + 64, 1);
    if (longer == NULL) abort();
    memcpy(longer, v.bytes, v.size);
    check_context("%s", "64 bytes more");
    put_file(v.path, longer, v.size + 64);
    refused(&v, DLM_FORMAT, "its header says");
    free(longer);
    dlm_tokenizer_free(v.tokenizer);
}

/* Every byte of the file, each with one bit changed. */
TEST(flipped_bits) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    dlm_rng rng = dlm__rng(5, DLM_RNG_TEST, 0, 0);
    for (size_t at = 0; at < v.size; at++) {
        char before = v.bytes[at];
        dlm_shard shard;
        dlm_error err = {0};
        v.bytes[at] = (char)(v.bytes[at] ^ (1 << dlm__rng_below(&rng, 8)));
        check_context("byte %zu", at);
        CHECK(dlm__shard_parse(v.path, (const unsigned char *)v.bytes, v.size, &shard, &err) != DLM_OK);
        CHECK_SAYS(&err, "shard-00001.dlm");
        if (at % 16 == 0) {
            dlm_data *data;
            put_file(v.path, v.bytes, v.size);
            CHECK(dlm_data_open(v.dir, &data, &err) != DLM_OK);
            CHECK_SAYS(&err, "shard-00001.dlm");
        }
        v.bytes[at] = before;
    }
    dlm_tokenizer_free(v.tokenizer);
}

/* Changes n bytes at offset, seals, and expects the parser to say why. */
static void forged(const victim *v, uint64_t offset, const void *bytes, size_t n, const char *why) {
    char *copy = dlm__copy_bytes(v->bytes, v->size);
    dlm_shard shard;
    dlm_error err = {0};
    if (copy == NULL) abort();
    memcpy(copy + offset, bytes, n);
    seal(copy, v->size);
    check_context("%s", why);
    CHECK(dlm__shard_parse("forged", (const unsigned char *)copy, v->size, &shard, &err) != DLM_OK);
    CHECK_SAYS(&err, "forged");
    CHECK_SAYS(&err, why);
    free(copy);
}

#define FORGE(v, field, type, value, why) \
    forged(v, offsetof(dlm_shard_header, field), &(type){value}, sizeof(type), why)

TEST(forged_headers) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    forged(&v, 0, "SOMETHNG", 8, "is not a token shard");
    FORGE(&v, version, uint32_t, 2, "version 2, not 1");
    FORGE(&v, width, uint32_t, 4, "token ids of 4 bytes");
    FORGE(&v, vocab_size, uint64_t, 0, "a vocabulary of 0 tokens");
    FORGE(&v, vocab_size, uint64_t, UINT64_MAX, "a vocabulary of 18446744073709551615 tokens");
    FORGE(&v, vocab_size, uint64_t, 100, "is outside the vocabulary of 100");
    FORGE(&v, seq_len, uint64_t, 0, "a sequence length of 0");
    FORGE(&v, seq_len, uint64_t, UINT64_MAX, "a sequence length of 18446744073709551615");
    FORGE(&v, seq_len, uint64_t, 17, "windows");
    FORGE(&v, tokens, uint64_t, UINT64_MAX, "its header is inconsistent");
    FORGE(&v, tokens, uint64_t, UINT64_MAX / 2 + 1, "its header is inconsistent");
    FORGE(&v, tokens, uint64_t, 36, "document 1 is tokens 33 to 37 of 36");
    FORGE(&v, tokens, uint64_t, 38, "its documents have 37 tokens");
    FORGE(&v, documents, uint64_t, UINT64_MAX, "its header is inconsistent");
    FORGE(&v, documents, uint64_t, UINT64_MAX / 16 + 1, "its header is inconsistent");
    FORGE(&v, documents, uint64_t, 3, "document 2 is tokens 37 to 0 of 37");
    FORGE(&v, windows, uint64_t, UINT64_MAX, "its header is inconsistent");
    FORGE(&v, windows, uint64_t, 3, "the windows of document 1 are not marked");
    FORGE(&v, windows, uint64_t, 5, "4 windows");
    FORGE(&v, bytes, uint64_t, 1, "37 bytes, its header says 37, 4 and 1");
    FORGE(&v, token_ids.offset, uint64_t, 128, "its header is inconsistent");
    FORGE(&v, marks.offset, uint64_t, UINT64_MAX - 63, "its header is inconsistent");
    FORGE(&v, entries.size, uint64_t, 0, "its header is inconsistent");
    dlm_tokenizer_free(v.tokenizer);
}

TEST(forged_tables) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    const dlm_shard_header *h = &v.header;
    static const dlm_shard_entry back = {.end = 30, .text = 8}, far = {.end = 38, .text = 66},
                                 short_of = {.end = 36, .text = 8}, many = {.end = 37, .text = UINT64_MAX};
    forged(&v, h->entries.offset + sizeof back, &back, sizeof back, "document 1 is tokens 33 to 30 of 37");
    forged(&v, h->entries.offset, &far, sizeof far, "document 0 is tokens 0 to 38 of 37");
    forged(&v, h->entries.offset + sizeof back, &short_of, sizeof short_of, "its documents have 36 tokens");
    forged(&v, h->entries.offset + sizeof back, &many, sizeof many, "bytes, its header says");
    forged(&v, h->marks.offset, "\1", 1, "the windows of document 0 are not marked");
    forged(&v, h->marks.offset + 2, "\1", 1, "the windows of document 0 are not marked");
    forged(&v, h->marks.offset + 3, "\3", 1, "the windows of document 1 are not marked");
    uint16_t outside = (uint16_t)h->vocab_size;
    forged(&v, h->token_ids.offset + 36 * 2, &outside, 2, "is outside the vocabulary");
    dlm_tokenizer_free(v.tokenizer);
}

TEST(wrong_shard) {
    victim v, other;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    REQUIRE(make_victim(&other, "tokenizer/stories_1024/tokenizer.json"));
    put_file(v.path, other.bytes, other.size);
    refused(&v, DLM_MISMATCH, "was made with another tokenizer");

    size_t size;
    char *first = read_text(path_in(v.dir, "shard-00000.dlm"), &size);
    put_file(v.path, first, size);
    refused(&v, DLM_MISMATCH, "is shard 0 of its data, not 1");

    /* Whole, in place, but not the one that data.json lists. */
    char *changed = dlm__copy_bytes(v.bytes, v.size);
    if (changed == NULL) abort();
    changed[v.header.token_ids.offset] ^= 1;
    seal(changed, v.size);
    put_file(v.path, changed, v.size);
    refused(&v, DLM_MISMATCH, "is not the shard that data.json lists");
    free(changed);

    CHECK_INT_EQ(unlink(v.path), 0);
    refused(&v, DLM_NOT_FOUND, "No such file");
    put_file(v.path, v.bytes, v.size);
    dlm_data *data;
    dlm_error err;
    REQUIRE_OK(dlm_data_open(v.dir, &data, &err), &err);
    dlm_data_close(data);

    char *json = read_text(path_in(other.dir, "tokenizer.json"), &size);
    put_file(path_in(v.dir, "tokenizer.json"), json, size);
    CHECK_STATUS(dlm_data_open(v.dir, &data, &err), DLM_MISMATCH, &err);
    CHECK_SAYS(&err, "another tokenizer");
    dlm_tokenizer_free(v.tokenizer);
    dlm_tokenizer_free(other.tokenizer);
}

/* ---- data.json ---------------------------------------------------------------------------------------- */

/* data.json with the first `from` made `to`. */
static void listed(const victim *v, const char *from, const char *to, const char *why) {
    const char *path = path_in(v->dir, "data.json");
    size_t size;
    char *json = read_text(path, &size), *at = json == NULL ? NULL : strstr(json, from);
    dlm_data *data;
    dlm_error err = {0};
    check_context("%s made %s", from, to);
    REQUIRE(at != NULL);
    size_t n = size + strlen(to) + 1;
    char *changed = malloc(n);
    if (changed == NULL) abort();
    (void)snprintf(changed, n, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    put_file(path, changed, strlen(changed));
    CHECK(dlm_data_open(v->dir, &data, &err) != DLM_OK);
    CHECK_SAYS(&err, "data.json");
    CHECK_SAYS(&err, why);
    put_file(path, json, size);
    free(changed);
}

TEST(wrong_list) {
    victim v;
    dlm_data *data;
    dlm_error err;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    listed(&v, "diffusionlm data", "something else", "\"kind\"");
    listed(&v, "\"version\": 1", "\"version\": 7", "version 7, not 1");
    listed(&v, "\"vocab_size\"", "\"vocab_sizes\"", "\"vocab_size\" is not a whole number");
    listed(&v, "\"seq_len\": 16", "\"seq_len\": 0", "a sequence length of 0");
    listed(&v, "\"seq_len\": 16", "\"seq_len\": 17", "\"lengths\"");
    listed(&v, "\"seq_len\": 16", "\"seq_len\": 1000000000000", "a sequence length of 1000000000000");
    listed(&v, "\"documents\": 6", "\"documents\": -6", "\"documents\" is not a whole number");
    listed(&v, "\"documents\": 6", "\"documents\": 7", "\"lengths\"");
    listed(&v, "\"tokens\": 78", "\"tokens\": 79", "79 tokens");
    listed(&v, "\"bytes\": 78", "\"bytes\": 79", "does not describe its shards");
    listed(&v, "\"longest\": 33", "\"longest\": 32", "does not describe its shards");
    listed(&v, "\"split\": 2", "\"split\": 1", "does not describe its shards");
    listed(&v, "[0, 0, 0", "[0, 0, 1", "\"lengths\"");
    listed(&v, "[0, 0, 0", "[0, 0, \"0\"", "\"lengths\"");
    listed(&v, "shard-00002.dlm", "../../secret", "\"file\" is not \"shard-00002.dlm\"");
    listed(&v, "\"checksum\": \"", "\"checksum\": \"0", "\"checksum\" is not a hash");
    listed(&v, "\"checksum\": \"", "\"checksum\": \"G", "\"checksum\" is not a hash");
    listed(&v, "}\n  ]", "}", "line");
    listed(&v, "{", "[", "line");

    CHECK_INT_EQ(unlink(path_in(v.dir, "data.json")), 0);
    CHECK_STATUS(dlm_data_open(v.dir, &data, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "is no folder of prepared data");
    CHECK_STATUS(dlm_data_open(path_in(v.dir, "nothing"), &data, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "no such folder");
    dlm_tokenizer_free(v.tokenizer);
}
