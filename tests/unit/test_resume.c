/* Resuming: a run that was stopped gives the same bytes as one that was not; what may change and what may
 * not; and checkpoints that are damaged. */
#include "check.h"

#include "training.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DOCUMENTS = 80, LONGEST = 30, SEQ_LEN = 16 };

static const char *const files[] = {"model.safetensors", "raw.safetensors",       "config.json",
                                    "trainer.json",      "optimizer.safetensors", "tokenizer.json"};
enum { FILES = sizeof files / sizeof *files };

static const char *data_folder(void) {
    return same_data(DOCUMENTS, LONGEST, SEQ_LEN);
}

static const char *in_checkpoint(const char *run, size_t step, const char *file) {
    char name[80];
    (void)snprintf(name, sizeof name, "checkpoints/step-%08zu/%s", step, file);
    return path_in(run, name);
}

static void check_same_file(const char *a, const char *b) {
    size_t n = 0, m = 0;
    const char *x = read_text(a, &n), *y = read_text(b, &m);
    check_context("%s", a);
    REQUIRE(x != NULL && y != NULL);
    if (CHECK_INT_EQ(n, m)) CHECK_MEM_EQ(x, y, n);
}

/* log.csv without its columns of seconds and tokens a second, in memory of the harness. */
static const char *log_without_clock(const char *run) {
    char *text = read_text(path_in(run, "log.csv"), NULL), *to = text;
    if (text == NULL) return "";
    size_t column = 0;
    for (const char *from = text; *from != 0; from++) {
        if (column != 3 && column != 7) *to++ = *from;
        if (*from == ',') column++;
        if (*from == '\n') column = 0;
    }
    *to = 0;
    return text;
}

/* ---- the same bytes ----------------------------------------------------------------------------------- */

typedef struct kind {
    dlm_recipe recipe;
    dlm_optimizer optimizer;
    dlm_precision precision;
} kind;

static void check_resumes(const kind *k) {
    const char *whole = new_run(), *parts = new_run();
    dlm_train_options o = tiny_run(k->recipe, data_folder(), whole);
    o.optimizer = k->optimizer;
    o.precision = k->precision;
    o.steps = 34; /* two epochs and a half */
    o.log_every = 4;
    o.eval_every = 5;
    o.sample_every = 12;
    o.save_every = 8;
    dlm_train_report report, again;
    REQUIRE(train(&o, SIZE_MAX, &report));
    o.run = parts;
    /* 9: an evaluation was written since the last row. 20: one that is saved anyway. */
    static const size_t stops[] = {1, 9, 14, 20, SIZE_MAX};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        o.resume = i > 0;
        REQUIRE(train(&o, stops[i], &again));
    }
    CHECK(again.step == 34 && again.tokens == report.tokens && again.loss == report.loss);
    for (size_t i = 0; i < FILES; i++)
        check_same_file(in_checkpoint(parts, 34, files[i]), in_checkpoint(whole, 34, files[i]));
    check_same_file(path_in(parts, "samples.txt"), path_in(whole, "samples.txt"));
    check_same_file(path_in(parts, "latest"), path_in(whole, "latest"));
    check_same_file(path_in(parts, "best"), path_in(whole, "best"));
    CHECK_STR_EQ(log_without_clock(parts), log_without_clock(whole));
}

TEST(same_bytes_as_uninterrupted) {
    REQUIRE(data_folder() != NULL);
    static const kind kinds[] = {{DLM_RECIPE_DEFAULT, DLM_MUON, DLM_PRECISION_F32},
                                 {DLM_RECIPE_DEFAULT, DLM_ADAMW, DLM_PRECISION_BF16},
                                 {DLM_RECIPE_ORIGINAL, DLM_ADAMW, DLM_PRECISION_F32},
                                 {DLM_RECIPE_ORIGINAL, DLM_MUON, DLM_PRECISION_BF16}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) check_resumes(&kinds[i]);
}

/* Steps after the last checkpoint are lost, in the logs too, and done again. */
TEST(goes_back_to_the_checkpoint) {
    const char *whole = new_run(), *lost = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), whole);
    REQUIRE(o.data != NULL);
    o.save_every = o.sample_every = 4;
    dlm_train_report report;
    REQUIRE(train(&o, SIZE_MAX, &report));
    o.run = lost;
    dlm_trainer *trainer;
    dlm_error err;
    REQUIRE_OK(dlm_trainer_create(&o, &trainer, &err), &err);
    REQUIRE_OK(train_until(trainer, 7, &report, &err), &err);
    dlm_trainer_free(trainer);
    /* And a row that was only half written. */
    FILE *log = fopen(path_in(lost, "log.csv"), "ab");
    REQUIRE(log != NULL && fputs("8,0.2", log) >= 0 && fclose(log) == 0);
    o.resume = true;
    REQUIRE(train(&o, SIZE_MAX, &report));
    CHECK_STR_EQ(log_without_clock(lost), log_without_clock(whole));
    check_same_file(path_in(lost, "samples.txt"), path_in(whole, "samples.txt"));
    for (size_t i = 0; i < FILES; i++)
        check_same_file(in_checkpoint(lost, 12, files[i]), in_checkpoint(whole, 12, files[i]));
}

/* ---- what may change ---------------------------------------------------------------------------------- */

static void check_refused(const dlm_train_options *o, dlm_status status, const char *text) {
    dlm_error err;
    dlm_trainer *trainer;
    CHECK_STATUS(dlm_trainer_create(o, &trainer, &err), status, &err);
    CHECK_SAYS(&err, text);
}

TEST(changed_options) {
    const char *run = new_run(), *data = data_folder();
    REQUIRE(data != NULL);
    dlm_train_options good = tiny_run(DLM_RECIPE_DEFAULT, data, run), o;
    dlm_train_report report;
    REQUIRE(train(&good, SIZE_MAX, &report));
    good.resume = true;
#define REFUSED(change, text) \
    o = good;                 \
    change;                   \
    check_refused(&o, DLM_MISMATCH, (text))
    REFUSED(o.lr = 0.5, "lr was 0.01, is 0.5");
    REFUSED(o.hidden_size = 32, "hidden_size was 16, is 32");
    REFUSED(o.seed = 6, "seed was 5, is 6");
    REFUSED(o.optimizer = DLM_ADAMW, "optimizer was muon, is adamw");
    REFUSED(o.weight = DLM_WEIGHT_FLAT, "weight was elbo, is flat");
    REFUSED(o.micro_tokens = 50, "micro_tokens was 40, is 50");
    REFUSED((o.batch = 7, o.ema = 0.5), "batch was 6, is 7; ema was 0.999, is 0.5");
    REFUSED(o.eval_data = data, "eval_data was none");
    REFUSED(o.data = make_data(2, DOCUMENTS, LONGEST, SEQ_LEN), "other data than it began with");
#undef REFUSED
    o = good;
    o.steps = 11;
    check_refused(&o, DLM_ARGUMENT, "has done 12 steps, more than the 11");
    o.steps = 20;
    o.log_every = 3;
    o.save_every = 5;
    o.keep = 1;
    REQUIRE(train(&o, SIZE_MAX, &report));
    CHECK_INT_EQ(report.step, 20);
    CHECK(dlm__is_file(in_checkpoint(run, 20, "trainer.json")));
    CHECK(!dlm__is_file(in_checkpoint(run, 15, "trainer.json")));
}

TEST(options_are_recalled) {
    const char *run = new_run();
    dlm_train_options made = tiny_run(DLM_RECIPE_ORIGINAL, data_folder(), run), o;
    REQUIRE(made.data != NULL);
    made.eval_data = made.data;
    made.seed = UINT64_MAX;
    made.lr = 0.1 + 0.2;
    char *paths;
    dlm_error err;
    CHECK_STATUS(dlm_train_recall(run, &o, &paths, &err), DLM_NOT_FOUND, &err);
    dlm_train_report report;
    REQUIRE(train(&made, 2, &report));
    REQUIRE_OK(dlm_train_recall(run, &o, &paths, &err), &err);
    CHECK(o.resume && o.seed == UINT64_MAX && o.lr == 0.1 + 0.2 && o.recipe == DLM_RECIPE_ORIGINAL);
    CHECK_STR_EQ(o.run, run);
    CHECK(o.eval_data != NULL && strcmp(o.data, o.eval_data) == 0);
    REQUIRE(train(&o, SIZE_MAX, &report));
    CHECK_INT_EQ(report.step, 12);
    dlm_free(paths);
}

/* ---- runs without a checkpoint, and damaged ones ------------------------------------------------------ */

TEST(killed_before_its_first_checkpoint) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    dlm_trainer *trainer;
    dlm_error err;
    dlm_train_report report;
    REQUIRE_OK(dlm_trainer_create(&o, &trainer, &err), &err);
    REQUIRE_OK(train_until(trainer, 3, &report, &err), &err);
    dlm_trainer_free(trainer);
    o.resume = true;
    REQUIRE(train(&o, SIZE_MAX, &report));
    const char *log = read_text(path_in(run, "log.csv"), NULL);
    REQUIRE(log != NULL);
    size_t lines = 0;
    for (const char *at = log; *at != 0; at++) lines += *at == '\n';
    CHECK_INT_EQ(lines, 13);
    /* And between its first checkpoint and `latest`. */
    CHECK(unlink(path_in(run, "latest")) == 0);
    REQUIRE(train(&o, SIZE_MAX, &report));
    CHECK_INT_EQ(report.step, 12);
}

static void replace(const char *path, const char *text, size_t n) {
    FILE *file = fopen(path, "wb");
    REQUIRE(file != NULL);
    CHECK(fwrite(text, 1, n, file) == n && fclose(file) == 0);
}

static void check_damage(const dlm_train_options *o, const char *file) {
    const char *path = in_checkpoint(o->run, 4, file);
    size_t n;
    const char *good = read_text(path, &n);
    REQUIRE(good != NULL && n > 0);
    dlm_error err;
    dlm_trainer *trainer;
    for (size_t i = 0; i < 6; i++) {
        check_context("%s cut at %zu of %zu", file, i * n / 6, n);
        replace(path, good, i * n / 6);
        CHECK(dlm_trainer_create(o, &trainer, &err) != DLM_OK);
        CHECK_SAYS(&err, file);
    }
    CHECK(unlink(path) == 0);
    CHECK(dlm_trainer_create(o, &trainer, &err) != DLM_OK);
    CHECK_SAYS(&err, file);
    replace(path, good, n);
}

/* Replaces one text in a file by another of any length and tries to resume. */
static void check_edit(const dlm_train_options *o, const char *file, const char *from, const char *to,
                       const char *message) {
    const char *path = in_checkpoint(o->run, 4, file);
    size_t n;
    const char *good = read_text(path, &n), *at = good != NULL ? strstr(good, from) : NULL;
    check_context("%s: %s", file, to);
    REQUIRE(at != NULL);
    char edited[8192];
    int m = snprintf(edited, sizeof edited, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    REQUIRE(m > 0 && (size_t)m < sizeof edited);
    replace(path, edited, (size_t)m);
    dlm_error err;
    dlm_trainer *trainer;
    CHECK(dlm_trainer_create(o, &trainer, &err) != DLM_OK);
    CHECK_SAYS(&err, message);
    replace(path, good, n);
}

TEST(a_path_that_is_not_utf8) {
    const char *data = make_data(1, 20, 10, 16), *odd = path_in(temporary_dir(), "data\xff");
    REQUIRE(data != NULL && rename(data, odd) == 0);
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, odd, new_run());
    o.steps = 2;
    dlm_train_report report;
    REQUIRE(train(&o, 1, &report));
    o.resume = true;
    REQUIRE(train(&o, SIZE_MAX, &report));
    CHECK_INT_EQ(report.step, 2);
}

TEST(damaged_checkpoints) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    o.steps = 4;
    dlm_train_report report;
    REQUIRE(train(&o, SIZE_MAX, &report));
    o.resume = true;
    static const char *const needed[] = {"model.safetensors", "raw.safetensors", "optimizer.safetensors",
                                         "trainer.json", "clock.json"};
    const char *log = read_text(path_in(run, "log.csv"), NULL);
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) check_damage(&o, needed[i]);
    check_edit(&o, "trainer.json", "\"step\": 4", "\"step\": 5", "step 5 is not that of its folder");
    check_edit(&o, "trainer.json", "\"step\": 4", "\"step\": -4", "step is missing or has a value");
    check_edit(&o, "trainer.json", "\"format\": 1", "\"format\": 2", "format 2, this program reads 1");
    check_edit(&o, "trainer.json", "\"tokens\": ", "\"tokens\": 1e99, \"x\": ", "tokens");
    check_edit(&o, "trainer.json", "\"depth\": 2", "\"depth\": 0", "depth is 0");
    check_edit(&o, "trainer.json", "\"muon\"", "\"sgd\"", "option optimizer has a value");
    check_edit(&o, "trainer.json", "\"seed\": \"5\"", "\"seed\": \"5x\"", "option seed has a value");
    check_edit(&o, "trainer.json", "\"options\"", "\"opinions\"", "options is missing");
    check_edit(&o, "trainer.json", "\"data\"", "\"date\"", "data is missing");
    check_edit(&o, "clock.json", "\"seconds\"", "\"minutes\"", "seconds is missing");
    check_edit(&o, "trainer.json", "\"grad_norm\": ", "\"grad_norm\": -1",
               "grad_norm is missing or has a value");
    check_edit(&o, "trainer.json", "\"steps\": ", "\"steps\": 5, \"x\": ", "steps is missing or has a value");
    check_edit(&o, "clock.json", "\"seconds\": ", "\"seconds\": -1", "seconds is missing or has a value");
    CHECK_STR_EQ(read_text(path_in(run, "log.csv"), NULL), log);
    replace(path_in(run, "latest"), "../../etc", 9);
    check_refused(&o, DLM_FORMAT, "latest");
    replace(path_in(run, "latest"), "step-00000009\n", 14);
    check_refused(&o, DLM_NOT_FOUND, "step-00000009");
    replace(path_in(run, "latest"), "step-00000004\n", 14);
    REQUIRE(train(&o, SIZE_MAX, &report));
}
