/* Training tokenizers, against the files that the Hugging Face trainer made of the same texts. */
#include "check.h"

#include "base/base.h"
#include "text/tokenizer.h"
#include "text/word_count.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORIES "corpus/tinystories-train.txt.zst"

/* Trains on one file and saves; the tokenizer.json written, NULL when that failed. */
static char *train(const char *path, dlm_text_format format, size_t vocab_size, uint64_t min_frequency) {
    dlm_error err;
    dlm_text_options text = dlm_text_defaults();
    dlm_bpe_options options = dlm_bpe_defaults();
    dlm_documents *documents;
    dlm_tokenizer *tokenizer = NULL;
    size_t bytes;
    text.format = format;
    options.vocab_size = vocab_size;
    options.min_frequency = min_frequency;
    if (!CHECK_OK(dlm_documents_open(&path, 1, &text, &documents, &err), &err)) return NULL;
    bool trained = CHECK_OK(dlm_tokenizer_train(documents, &options, &tokenizer, &err), &err);
    dlm_documents_close(documents);
    if (!trained) return NULL;
    const char *dir = path_in(temporary_dir(), "trained");
    bool saved = CHECK_OK(dlm_tokenizer_save(tokenizer, dir, &err), &err);
    dlm_tokenizer_free(tokenizer);
    return saved ? read_text(path_in(dir, "tokenizer.json"), &bytes) : NULL;
}

static void check_against(const char *name, char *got) {
    char path[100];
    size_t bytes;
    snprintf(path, sizeof path, "tokenizer/%s/tokenizer.json", name);
    check_context("%s", name);
    char *want = read_text(golden_path(path), &bytes);
    if (!CHECK(got != NULL && want != NULL)) return;
    size_t same = 0;
    while (got[same] != '\0' && got[same] == want[same]) same++;
    CHECK_STR_EQ(got + same, want + same);
}

/* The first n stories in a file of their own. */
static const char *first_stories(size_t n) {
    dlm_error err;
    const char *path = STORIES, *text;
    dlm_text_options options = dlm_text_defaults();
    dlm_documents *documents;
    size_t bytes;
    const char *out = path_in(temporary_dir(), "stories.txt");
    FILE *file = fopen(out, "w");
    if (!CHECK_OK(dlm_documents_open(&path, 1, &options, &documents, &err), &err) || file == NULL)
        return NULL;
    for (size_t i = 0;
         i < n && CHECK_OK(dlm_documents_next(documents, &text, &bytes, &err), &err) && text != NULL; i++) {
        fwrite(text, 1, bytes, file);
        fputs("\n<|endoftext|>\n", file);
    }
    dlm_documents_close(documents);
    fclose(file);
    return out;
}

TEST(first_stories) {
    check_against("stories_1024", train(first_stories(600), DLM_TEXT_SEPARATED, 1024, 0));
}

TEST(first_stories_with_min_frequency) {
    check_against("stories_min5", train(first_stories(300), DLM_TEXT_SEPARATED, 8192, 5));
}

TEST(all_stories) {
    if (golden_path("tokenizer/stories_8192/tokenizer.json") == NULL)
        SKIP("these fixtures have no stories_8192");
    check_against("stories_8192", train(STORIES, DLM_TEXT_SEPARATED, 8192, 0));
}

/* corpus.json, a list of strings, as lines of JSON objects. */
static const char *corpus_lines(const char *name) {
    char path[100];
    dlm_error err;
    json_t *corpus;
    snprintf(path, sizeof path, "tokenizer/%s/corpus.json", name);
    if (!CHECK_OK(dlm__json_load(golden_path(path), &corpus, &err), &err)) return NULL;
    const char *out = path_in(temporary_dir(), "corpus.jsonl");
    FILE *file = fopen(out, "w");
    if (file == NULL) return NULL;
    size_t i;
    json_t *text;
    json_array_foreach(corpus, i, text) {
        char *line = json_dumps(text, JSON_ENCODE_ANY);
        fprintf(file, "{\"text\": %s}\n", line);
        free(line);
    }
    fclose(file);
    json_decref(corpus);
    return out;
}

TEST(characters_of_all_kinds) {
    check_against("unicode_1500", train(corpus_lines("unicode_1500"), DLM_TEXT_JSONL, 1500, 0));
}

TEST(no_pair_is_left) {
    check_against("exhausted", train(corpus_lines("exhausted"), DLM_TEXT_JSONL, 400, 0));
}

TEST(threads_do_not_matter) {
    const char *path = first_stories(2000);
    dlm_set_threads(1);
    char *one = train(path, DLM_TEXT_SEPARATED, 2000, 0);
    dlm_set_threads(5);
    char *five = train(path, DLM_TEXT_SEPARATED, 2000, 0);
    dlm_set_threads(0);
    REQUIRE(one != NULL && five != NULL);
    CHECK(strcmp(one, five) == 0);
}

TEST(nothing_to_train_on) {
    dlm_error err;
    const char *path = path_in(temporary_dir(), "empty.txt");
    fclose(fopen(path, "w"));
    dlm_text_options text = dlm_text_defaults();
    dlm_bpe_options options = dlm_bpe_defaults();
    dlm_documents *documents;
    dlm_tokenizer *tokenizer;
    REQUIRE_OK(dlm_documents_open(&path, 1, &text, &documents, &err), &err);
    CHECK_STATUS(dlm_tokenizer_train(documents, &options, &tokenizer, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "the text is empty");
    CHECK(tokenizer == NULL);
    dlm_documents_close(documents);
}

static bool cancel_when_merging(void *user, const char *stage, uint64_t done, uint64_t total,
                                double seconds) {
    size_t *calls = user;
    CHECK(done <= total && total > 0 && seconds >= 0);
    ++*calls;
    return strcmp(stage, "merging") == 0;
}

TEST(progress_can_cancel) {
    dlm_error err;
    const char *path = STORIES;
    dlm_text_options text = dlm_text_defaults();
    dlm_documents *documents;
    size_t calls = 0;
    dlm_bpe_options options = dlm_bpe_defaults();
    options.vocab_size = 60000;
    options.progress = cancel_when_merging;
    options.user = &calls;
    dlm_tokenizer *tokenizer;
    REQUIRE_OK(dlm_documents_open(&path, 1, &text, &documents, &err), &err);
    CHECK_STATUS(dlm_tokenizer_train(documents, &options, &tokenizer, &err), DLM_CANCELLED, &err);
    CHECK(tokenizer == NULL && calls > 0);
    dlm_documents_close(documents);
}

/* A tokenizer of a text of one long run, whose tokens double in length with each merge. */
static dlm_tokenizer *train_on_a_run(size_t bytes, size_t max_token_length) {
    dlm_error err;
    const char *path = path_in(temporary_dir(), "run.txt");
    FILE *file = fopen(path, "w");
    for (size_t i = 0; i < bytes && file != NULL; i++) fputc('a', file);
    if (!CHECK(file != NULL && fclose(file) == 0)) return NULL;
    dlm_text_options text = dlm_text_defaults();
    dlm_bpe_options options = dlm_bpe_defaults();
    dlm_documents *documents;
    dlm_tokenizer *tokenizer = NULL;
    options.max_token_length = max_token_length;
    if (!CHECK_OK(dlm_documents_open(&path, 1, &text, &documents, &err), &err)) return NULL;
    (void)CHECK_OK(dlm_tokenizer_train(documents, &options, &tokenizer, &err), &err);
    dlm_documents_close(documents);
    return tokenizer;
}

static size_t longest_token(const dlm_tokenizer *tokenizer) {
    size_t longest = 0, n = dlm_tokenizer_describe(tokenizer).vocab_size;
    for (size_t id = 0; id < n; id++) {
        size_t bytes;
        bool special;
        (void)dlm_tokenizer_token(tokenizer, (int32_t)id, &bytes, &special);
        if (bytes > longest) longest = bytes;
    }
    return longest;
}

TEST(tokens_have_a_longest_length) {
    const size_t bounds[] = {dlm_bpe_defaults().max_token_length, 0, 100, SIZE_MAX};
    const size_t longest[] = {65535, 65535, 99, 140001};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        check_context("bound %zu", bounds[i]);
        dlm_tokenizer *tokenizer = train_on_a_run(140000, bounds[i]);
        REQUIRE(tokenizer != NULL);
        size_t got = longest_token(tokenizer);
        CHECK(got <= longest[i] && got > longest[i] / 2);
        dlm_tokenizer_free(tokenizer);
    }
}

TEST(what_could_not_be_read_is_not_written) {
    dlm_error err;
    const char *dir = path_in(temporary_dir(), "saved");
    dlm_tokenizer *tokenizer = train_on_a_run(1000, 0);
    REQUIRE(tokenizer != NULL);
    CHECK_STATUS(dlm__tokenizer_save_within(tokenizer, dir, 5000, &err), DLM_UNSUPPORTED, &err);
    CHECK_SAYS(&err, "more than the 5000 that are read");
    CHECK(!dlm__is_file(path_in(dir, "tokenizer.json")));
    CHECK_OK(dlm__tokenizer_save_within(tokenizer, dir, 50000, &err), &err);
    dlm_tokenizer_free(tokenizer);
}

/* A tokenizer of these words with these counts, as if they had been found in text. */
static dlm_tokenizer *train_on_counts(const char *const *words, const uint64_t *counts, size_t n,
                                      size_t vocab_size) {
    dlm_word_table *table = dlm__calloc(1, sizeof *table);
    dlm_word_counts all = {table, 1};
    dlm_bpe_options options = dlm_bpe_defaults();
    dlm_meter meter = dlm__meter(NULL, NULL);
    dlm_tokenizer *tokenizer = NULL;
    dlm_error err;
    options.vocab_size = vocab_size;
    *table = (dlm_word_table){.words = dlm__calloc(n, sizeof *table->words), .n = n, .text = malloc(1000)};
    for (size_t i = 0; i < n; i++) {
        size_t bytes = strlen(words[i]);
        table->words[i] = (dlm_word){.at = table->text_used, .bytes = bytes, .count = counts[i]};
        memcpy(table->text + table->text_used, words[i], bytes);
        table->text_used += bytes;
    }
    (void)CHECK_OK(dlm__bpe_train(&all, &options, &meter, &tokenizer, &err), &err);
    dlm__words_free(&all);
    return tokenizer;
}

/* The tokens that merges gave, in their order. */
static void check_merged(const dlm_tokenizer *tokenizer, const char *const *want, size_t n) {
    enum { FIRST = 260 };
    REQUIRE(tokenizer != NULL);
    REQUIRE(CHECK_INT_EQ(dlm_tokenizer_describe(tokenizer).vocab_size, FIRST + n));
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        bool special;
        const char *got = dlm_tokenizer_token(tokenizer, (int32_t)(FIRST + i), &bytes, &special);
        if (CHECK_INT_EQ(bytes, strlen(want[i]))) CHECK_MEM_EQ(got, want[i], bytes);
    }
}

/* In 32 bits the counts of the first text would be 5, 6, 7 and 8, from last to first; in doubles those of the
 * second would all be equal, and the pair of the smaller ids would come first. */
TEST(counts_beyond_32_bits) {
    const uint64_t k = (uint64_t)1 << 32, m = (uint64_t)1 << 60;
    const char *const words[] = {"gh", "ef", "cd", "ab"};
    const char *const falling[] = {"ab", "cd", "ef", "gh"}, *const rising[] = {"gh", "ef", "cd", "ab"};
    dlm_tokenizer *tokenizer = train_on_counts(words, (uint64_t[]){8, k + 7, 2 * k + 6, 3 * k + 5}, 4, 264);
    check_merged(tokenizer, falling, 4);
    dlm_tokenizer_free(tokenizer);
    tokenizer = train_on_counts(words, (uint64_t[]){m + 4, m + 3, m + 2, m + 1}, 4, 264);
    check_merged(tokenizer, rising, 4);
    dlm_tokenizer_free(tokenizer);
}

/* The counts of pairs are what passes 32 bits here, not those of words: xy stands 2^32 + 2 times, and once it
 * is merged, xyz 2^31 + 1 times, one more than pq. */
TEST(pairs_that_add_up_beyond_32_bits) {
    const uint64_t k = (uint64_t)1 << 31;
    const char *const words[] = {"xyz", "wxy", "pq"}, *const merged[] = {"xy", "wxy", "xyz", "pq"};
    dlm_tokenizer *tokenizer = train_on_counts(words, (uint64_t[]){k + 1, k + 1, k}, 3, 264);
    check_merged(tokenizer, merged, 4);
    dlm_tokenizer_free(tokenizer);
}

TEST(sizes_that_are_impossible) {
    dlm_error err;
    const char *path = STORIES;
    dlm_text_options text = dlm_text_defaults();
    dlm_documents *documents;
    dlm_bpe_options options = dlm_bpe_defaults();
    options.vocab_size = 259;
    dlm_tokenizer *tokenizer;
    REQUIRE_OK(dlm_documents_open(&path, 1, &text, &documents, &err), &err);
    CHECK_STATUS(dlm_tokenizer_train(documents, &options, &tokenizer, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "259");
    dlm_documents_close(documents);
}
