/* Text files made into the tokenizer and shards of a run: what is made, what a later call goes on with and
 * what it refuses; presets. The command's own tests have the rest (cli_train.sh). */
#include "check.h"

#include "training.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VOCABULARY = 280 };

static void write_text(const char *path, size_t documents) {
    FILE *file = fopen(path, "wb");
    REQUIRE(file != NULL);
    for (size_t i = 0; i < documents; i++) (void)fprintf(file, "The cat saw %zu dogs.\n<|endoftext|>\n", i);
    REQUIRE(fclose(file) == 0);
}

static dlm_train_text text_of(const char *const *files, size_t n) {
    dlm_train_text text = dlm_train_text_defaults();
    text.files = files;
    text.n = n;
    text.vocab_size = VOCABULARY;
    text.seq_len = 16;
    return text;
}

static bool exists(const char *run, const char *name) {
    return access(path_in(run, name), F_OK) == 0;
}

static bool cancel(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    (void)done, (void)total, (void)seconds;
    return strcmp(stage, user) == 0;
}

TEST(made_once) {
    const char *run = new_run(), *file = path_in(temporary_dir(), "text");
    write_text(file, 200);
    dlm_train_text text = text_of(&file, 1);
    dlm_train_made made;
    dlm_error err;
    REQUIRE_OK(dlm_train_prepare(run, &text, &made, &err), &err);
    CHECK(made.tokenizer && made.data);
    CHECK_INT_EQ(made.vocab_size, VOCABULARY);
    CHECK_INT_EQ(made.info.documents, 200);
    CHECK_INT_EQ(made.info.seq_len, 16);
    CHECK(exists(run, "tokenizer/tokenizer.json") && exists(run, "data/data.json") &&
          exists(run, "text.json"));
    REQUIRE_OK(dlm_train_prepare(run, &text, &made, &err), &err);
    CHECK(!made.tokenizer && !made.data);
    CHECK_INT_EQ(made.vocab_size, VOCABULARY);

    /* What was not asked for may differ, what was asked for may not. */
    text.text.format = DLM_TEXT_LINES;
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_MISMATCH, &err);
    CHECK_SAYS(&err, "format was separated, is lines");
    text.same_format = false;
    CHECK_OK(dlm_train_prepare(run, &text, NULL, &err), &err);
    write_text(file, 201);
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_MISMATCH, &err);
    CHECK_SAYS(&err, "bytes, had");
}

TEST(stopped_and_gone_on_with) {
    const char *run = new_run(), *file = path_in(temporary_dir(), "text");
    write_text(file, 200);
    dlm_train_text text = text_of(&file, 1);
    dlm_train_made made;
    dlm_error err;
    char stage[] = "encoding";
    text.progress = cancel;
    text.user = stage;
    CHECK_STATUS(dlm_train_prepare(run, &text, &made, &err), DLM_CANCELLED, &err);
    CHECK(made.tokenizer && !made.data && !exists(run, "data"));
    CHECK(exists(run, "tokenizer/tokenizer.json") && dlm__run_only_prepared(run));
    text.progress = NULL;
    REQUIRE_OK(dlm_train_prepare(run, &text, &made, &err), &err);
    CHECK(!made.tokenizer && made.data);

    /* A run that is nothing but that is resumed by beginning it; one that is nothing at all is not. */
    dlm_train_options options = tiny_run(DLM_RECIPE_DEFAULT, path_in(run, "data"), run);
    dlm_trainer *trainer = NULL;
    options.resume = true;
    REQUIRE_OK(dlm_trainer_create(&options, &trainer, &err), &err);
    dlm_trainer_free(trainer);
    CHECK(!dlm__run_only_prepared(run));
    options.run = new_run();
    CHECK_STATUS(dlm_trainer_create(&options, &trainer, &err), DLM_NOT_FOUND, &err);
}

TEST(what_fails_leaves_nothing) {
    const char *run = new_run(), *file = path_in(temporary_dir(), "text"), *pipe = "-";
    dlm_train_text text = text_of(&file, 1);
    dlm_error err;
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, file);
    write_text(file, 0);
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_FORMAT, &err);
    write_text(file, 20);
    text.text.format = (dlm_text_format)9;
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_ARGUMENT, &err);
    text = text_of(&pipe, 1);
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "standard input can be read only once");
    text.tokenizer = file;
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_ARGUMENT, &err);
    text = text_of(NULL, 0);
    CHECK_STATUS(dlm_train_prepare(run, &text, NULL, &err), DLM_ARGUMENT, &err);
    CHECK(access(run, F_OK) != 0);
}

TEST(presets) {
    dlm_train_options options = dlm_train_defaults(DLM_RECIPE_DEFAULT), small = options;
    dlm_error err;
    CHECK_OK(dlm_train_preset(DLM_PRESET_SMALL, &small, &err), &err);
    CHECK_MEM_EQ(&small, &options, sizeof small);
    CHECK_OK(dlm_train_preset(DLM_PRESET_BASE, &options, &err), &err);
    CHECK_INT_EQ(options.hidden_size, 768);
    CHECK_INT_EQ(options.depth, 12);
    CHECK_INT_EQ(options.num_heads, 12);
    CHECK_STATUS(dlm_train_preset((dlm_preset)3, &options, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "preset 3 is none of 0 to 2");
    CHECK_INT_EQ(options.hidden_size, 768);
}
