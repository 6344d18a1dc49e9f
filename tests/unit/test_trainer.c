/* The trainer: that it learns, what it writes, what it refuses, and that it stops at values that are not
 * finite. Resuming is test_resume.c's, interruption test_crash.c's. */
#include "check.h"

#include "training.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOCUMENTS = 120, LONGEST = 30, SEQ_LEN = 16 };

static const char *data_folder(void) {
    return same_data(DOCUMENTS, LONGEST, SEQ_LEN);
}

static dlm_trainer *create(const dlm_train_options *options) {
    dlm_error err;
    dlm_trainer *trainer = NULL;
    (void)CHECK_OK(dlm_trainer_create(options, &trainer, &err), &err);
    return trainer;
}

/* The options are refused with this status, and a sentence that contains the text; nothing is made. */
static void check_refused(const dlm_train_options *options, dlm_status status, const char *text) {
    dlm_error err;
    dlm_trainer *trainer;
    CHECK_STATUS(dlm_trainer_create(options, &trainer, &err), status, &err);
    CHECK_SAYS(&err, text);
    CHECK(trainer == NULL);
    if (options->run != NULL) CHECK(!dlm__is_dir(options->run));
}

/* ---- options ------------------------------------------------------------------------------------------ */

TEST(defaults) {
    dlm_train_options o = dlm_train_defaults(DLM_RECIPE_DEFAULT);
    CHECK(o.recipe == DLM_RECIPE_DEFAULT && o.time == DLM_TIME_NONE && o.position == DLM_POSITION_BOTH);
    CHECK(o.weight == DLM_WEIGHT_ELBO && o.optimizer == DLM_MUON && o.schedule == DLM_SCHEDULE_COSINE);
    CHECK(o.lr == 5e-3 && o.ema == 0.999 && o.tail_share == 0.1 && o.seq_len == 256 && o.epochs == 6);
    o = dlm_train_defaults(DLM_RECIPE_ORIGINAL);
    CHECK(o.recipe == DLM_RECIPE_ORIGINAL && o.time == DLM_TIME_ADALN && o.position == DLM_POSITION_LEARNED);
    CHECK(o.weight == DLM_WEIGHT_UNIFORM && o.optimizer == DLM_ADAMW && o.schedule == DLM_SCHEDULE_COSINE);
    CHECK(o.lr == 3e-4 && o.ema == 0.999 && o.tail_share == 0 && o.batch == 64 && o.warmup == 500);
    CHECK(o.weight_decay == 0.01 && o.clip == 1 && o.min_lr_ratio == 0.1 && o.epochs == 6);
    CHECK(o.log_every == 50 && o.eval_every == 1000 && o.sample_every == 1000 && o.save_every == 2000);
}

TEST(options_out_of_range) {
    const char *data = data_folder();
    REQUIRE(data != NULL);
    dlm_train_options good = tiny_run(DLM_RECIPE_DEFAULT, data, new_run()), o;
#define REFUSED(change, text) \
    o = good;                 \
    change;                   \
    check_refused(&o, DLM_ARGUMENT, (text))
    REFUSED(o.data = NULL, "folder of data");
    REFUSED(o.run = NULL, "one for the run");
    REFUSED(o.batch = 0, "batch is 0");
    REFUSED(o.lr = NAN, "lr is nan");
    REFUSED(o.lr = -1, "lr is -1");
    REFUSED(o.ema = 1.5, "ema is 1.5, allowed are 0 to 1");
    REFUSED(o.clip = INFINITY, "clip is inf");
    REFUSED(o.tail_share = -0.1, "tail_share");
    REFUSED(o.micro_tokens = 0, "micro_tokens");
    REFUSED(o.steps = (size_t)1 << 40, "steps is 1099511627776");
    REFUSED(o.seq_len = 0, "seq_len");
    REFUSED(o.num_heads = 3, "multiple of num_heads 3");
    REFUSED(o.hidden_size = 0, "hidden_size is 0");
    REFUSED(o.weight = (dlm_loss_weight)9, "weight is 9");
    REFUSED(o.optimizer = (dlm_optimizer)-1, "optimizer is -1");
    REFUSED(o.precision = DLM_PRECISION_INT8, "precision is 3");
    REFUSED((o.steps = 0, o.epochs = 0), "minutes, steps and epochs");
    REFUSED((o.steps = 0, o.epochs = 1e9), "epochs");
    REFUSED(o.recipe = DLM_RECIPE_ORIGINAL, "tail_share is 0.1, but the original");
#undef REFUSED
}

TEST(data_that_cannot_be_used) {
    const char *data = data_folder(), *run = new_run();
    REQUIRE(data != NULL);
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, path_in(temporary_dir(), "none"), run);
    check_refused(&o, DLM_NOT_FOUND, "none");
    o.data = data;
    o.eval_data = make_data(1, 0, LONGEST, SEQ_LEN);
    REQUIRE(o.eval_data != NULL);
    o.eval_every = 5;
    check_refused(&o, DLM_ARGUMENT, "nothing to evaluate on");
}

/* One document, a book perhaps: none is held out, all of it is learnt. */
TEST(a_single_document) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, make_data(1, 1, LONGEST, SEQ_LEN), new_run());
    REQUIRE(o.data != NULL);
    o.eval_every = 1;
    dlm_train_report report;
    REQUIRE(train(&o, 4, &report));
    CHECK(report.step == 4 && !report.evaluated);
}

/* A run shorter than its warm-up reaches its rate all the same, and decays. */
TEST(short_runs_warm_up) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), new_run());
    REQUIRE(o.data != NULL);
    o.warmup = 100;
    o.steps = 8;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    double lrs[8];
    bool finished = false;
    for (size_t i = 0; i < 8; i++) {
        dlm_train_report report;
        dlm_error err;
        REQUIRE_OK(dlm_trainer_step(trainer, &report, &finished, &err), &err);
        lrs[i] = report.lr / o.lr;
    }
    CHECK_CLOSE(lrs[2], 0.5, 1e-12);
    CHECK_CLOSE(lrs[4], 1, 1e-12);
    CHECK(finished && lrs[7] < 0.5);
    dlm_trainer_free(trainer);
}

/* ---- learning ----------------------------------------------------------------------------------------- */

typedef struct learning {
    dlm_recipe recipe;
    dlm_optimizer optimizer;
    dlm_time time;
    dlm_precision precision;
    dlm_schedule schedule;
    dlm_loss_weight weight;
} learning;

/* Loss at the start is that of the uniform distribution; some hundred steps later less than what the
 * distribution of letters alone gives. */
static void check_learns(const learning *l) {
    dlm_train_options o = tiny_run(l->recipe, data_folder(), new_run());
    o.optimizer = l->optimizer;
    o.time = l->time;
    o.precision = l->precision;
    o.schedule = l->schedule;
    o.weight = l->weight;
    o.batch = 24;
    o.micro_tokens = 200;
    o.hidden_size = 32;
    o.steps = 300;
    o.log_every = 0;
    o.lr = 7e-3;
    o.ema = 0.9; /* with 0.999 from the start, the average of the original recipe is still the beginning */
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_error err;
    dlm_train_report report;
    REQUIRE_OK(train_until(trainer, 1, &report, &err), &err);
    double V = (double)dlm_trainer_config(trainer)->vocab_size;
    /* The weights are 1 in sum on the linear schedule, near it on the other. */
    if (l->recipe == DLM_RECIPE_DEFAULT && l->weight == DLM_WEIGHT_ELBO)
        CHECK_CLOSE(report.loss, log(V), l->schedule == DLM_SCHEDULE_LINEAR ? 1e-5 : 0.2 * log(V));
    double ce, nelbo;
    REQUIRE_OK(train_until(trainer, o.steps, &report, &err), &err);
    REQUIRE_OK(dlm__trainer_evaluate(trainer, &ce, &nelbo, &err), &err);
    CHECK(ce < log(26) && nelbo < log(27));
    dlm_trainer_free(trainer);
}

TEST(learns) {
    REQUIRE(data_folder() != NULL);
    static const learning all[] = {
        {DLM_RECIPE_DEFAULT, DLM_MUON, DLM_TIME_NONE, DLM_PRECISION_F32, DLM_SCHEDULE_COSINE,
         DLM_WEIGHT_ELBO},
        {DLM_RECIPE_DEFAULT, DLM_MUON, DLM_TIME_NONE, DLM_PRECISION_BF16, DLM_SCHEDULE_LINEAR,
         DLM_WEIGHT_ELBO},
        {DLM_RECIPE_DEFAULT, DLM_ADAMW, DLM_TIME_ADALN, DLM_PRECISION_F32, DLM_SCHEDULE_COSINE,
         DLM_WEIGHT_FLAT},
        {DLM_RECIPE_ORIGINAL, DLM_ADAMW, DLM_TIME_ADALN, DLM_PRECISION_F32, DLM_SCHEDULE_COSINE,
         DLM_WEIGHT_UNIFORM},
        {DLM_RECIPE_ORIGINAL, DLM_MUON, DLM_TIME_ADALN, DLM_PRECISION_BF16, DLM_SCHEDULE_LINEAR,
         DLM_WEIGHT_INV_SIGMA},
        {DLM_RECIPE_ORIGINAL, DLM_MUON, DLM_TIME_NONE, DLM_PRECISION_F32, DLM_SCHEDULE_COSINE,
         DLM_WEIGHT_SIGMA},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        check_context("case %zu", i);
        check_learns(&all[i]);
    }
}

/* However a batch is split into passes, loss and gradient norm are the same up to rounding. */
TEST(passes_add_up) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), NULL);
    REQUIRE(o.data != NULL);
    o.precision = DLM_PRECISION_F32;
    static const size_t micro[] = {1, 37, 1000};
    dlm_train_report first = {0}, report;
    for (size_t i = 0; i < 3; i++) {
        o.micro_tokens = micro[i];
        o.run = new_run();
        REQUIRE(train(&o, 4, &report));
        if (i == 0) first = report;
        CHECK_CLOSE(report.loss, first.loss, 1e-5 * first.loss);
        CHECK_CLOSE(report.grad_norm, first.grad_norm, 1e-4 * first.grad_norm);
    }
}

TEST(ends_by_the_clock) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), new_run());
    REQUIRE(o.data != NULL);
    o.minutes = 1.0 / 60;
    dlm_train_report report;
    REQUIRE(train(&o, SIZE_MAX, &report));
    CHECK(report.steps == 0 && report.step > 1 && report.share == 1 && report.seconds >= 1);
    CHECK(report.lr < 0.5 * o.lr && report.saved);
}

/* As when an evaluation or a checkpoint took longer than was left: a last step comes, and with it what ends a
 * run. */
TEST(time_that_runs_out_between_steps) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), new_run());
    REQUIRE(o.data != NULL);
    o.minutes = 10;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_train_report r;
    dlm_error err;
    bool finished;
    REQUIRE_OK(dlm_trainer_step(trainer, &r, &finished, &err), &err);
    CHECK(!finished && !r.saved);
    trainer->started -= 1000;
    REQUIRE_OK(dlm_trainer_step(trainer, &r, &finished, &err), &err);
    CHECK(finished && r.stepped && r.saved && r.step == 2 && r.share == 1);
    REQUIRE_OK(dlm_trainer_step(trainer, &r, &finished, &err), &err);
    CHECK(finished && !r.stepped && r.step == 2);
    dlm_trainer_free(trainer);
}

TEST(epochs_give_the_steps) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), new_run());
    REQUIRE(o.data != NULL);
    o.steps = 0;
    o.epochs = 0.2;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    CHECK_INT_EQ(trainer->steps, ceil(0.2 * (double)trainer->windows.n / 6));
    dlm_trainer_free(trainer);
}

/* ---- what is written ---------------------------------------------------------------------------------- */

/* Field `column` of line `line` (from 0) of a CSV text, in a buffer that the next call overwrites. */
static const char *csv_field(const char *text, size_t line, size_t column) {
    static char field[100];
    for (; line > 0 && text != NULL; line--) text = strchr(text, '\n') + 1;
    for (; column > 0; column--) text += strcspn(text, ",\n") + 1;
    (void)snprintf(field, sizeof field, "%.*s", (int)strcspn(text, ",\n"), text);
    return field;
}

/* Evaluated on one short document, with nothing masked for the cross-entropy: its columns are empty. */
TEST(no_cross_entropy) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    o.eval_data = make_data(5, 1, 1, SEQ_LEN);
    REQUIRE(o.data != NULL && o.eval_data != NULL);
    o.eval_every = 2;
    dlm_train_report report;
    REQUIRE(train(&o, 2, &report));
    const char *log = read_text(path_in(run, "log.csv"), NULL);
    REQUIRE(log != NULL && report.evaluated);
    CHECK(isnan(report.eval_ce));
    CHECK(csv_field(log, 2, 8)[0] == 0);
    CHECK(csv_field(log, 2, 9)[0] == 0);
    CHECK(strtod(csv_field(log, 2, 10), NULL) > 0);
    CHECK(strstr(log, "nan") == NULL);
}

TEST(log_and_samples) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    o.log_every = 5;
    o.eval_every = 4;
    o.sample_every = 6;
    o.steps = 10;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_train_report r;
    dlm_error err;
    double losses = 0, ppl = 0;
    bool finished = false;
    for (size_t i = 1; i <= 10; i++) {
        REQUIRE_OK(dlm_trainer_step(trainer, &r, &finished, &err), &err);
        CHECK_INT_EQ(finished, i == 10);
        CHECK_INT_EQ(r.evaluated, i == 4 || i == 8 || i == 10);
        CHECK_INT_EQ(r.sample != NULL, i == 6 || i == 10);
        CHECK_INT_EQ(r.saved, i == 10);
        if (i == 5) losses = r.loss; /* the evaluation at 4 wrote a row: the next is of one step */
        if (i == 8) ppl = r.eval_ppl;
    }
    CHECK(r.step == 10 && r.steps == 10 && r.share == 1 && r.tokens > 200);
    REQUIRE_OK(dlm_trainer_step(trainer, &r, &finished, &err), &err);
    CHECK(finished && r.step == 10 && !r.saved);
    const char *log = read_text(path_in(run, "log.csv"), NULL);
    REQUIRE(log != NULL);
    CHECK(strncmp(log,
                  "step,epoch,tokens,seconds,loss,lr,grad_norm,tokens_per_s,eval_ce,eval_ppl,eval_nelbo\n",
                  84) == 0);
    static const char *const steps[] = {"4", "5", "8", "10"};
    for (size_t i = 0; i < 4; i++) {
        CHECK_STR_EQ(csv_field(log, 1 + i, 0), steps[i]);
        CHECK_INT_EQ(csv_field(log, 1 + i, 10)[0] != 0, i != 1);
    }
    CHECK_CLOSE(strtod(csv_field(log, 2, 4), NULL), losses, 1e-5);
    CHECK_CLOSE(strtod(csv_field(log, 3, 9), NULL), ppl, 1e-4 * ppl);
    CHECK_CLOSE(strtod(csv_field(log, 4, 2), NULL), (double)r.tokens, 0);
    size_t bytes; /* a sample may hold any byte, 0 too */
    char *samples = read_text(path_in(run, "samples.txt"), &bytes);
    REQUIRE(samples != NULL);
    for (size_t i = 0; i < bytes; i++)
        if (samples[i] == 0) samples[i] = '0';
    CHECK(strncmp(samples, "---- step 6\n", 12) == 0 && strstr(samples, "\n\n---- step 10\n") != NULL);
    dlm_trainer_free(trainer);
}

/* Evaluations, samples and checkpoints leave what is trained as it is, though they are made in its memory. */
TEST(reports_change_nothing) {
    for (int precision = 0; precision < 2; precision++) {
        dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), NULL);
        dlm_train_report report;
        char *weights[2];
        size_t bytes[2];
        REQUIRE(o.data != NULL);
        o.precision = precision == 0 ? DLM_PRECISION_F32 : DLM_PRECISION_BF16;
        for (size_t every = 0; every < 2; every++) {
            o.run = new_run();
            o.eval_every = o.sample_every = o.save_every = every * 2;
            REQUIRE(train(&o, SIZE_MAX, &report));
            weights[every] =
                read_text(path_in(o.run, "checkpoints/step-00000012/raw.safetensors"), &bytes[every]);
            REQUIRE(weights[every] != NULL);
        }
        CHECK_INT_EQ(bytes[0], bytes[1]);
        CHECK_MEM_EQ(weights[0], weights[1], bytes[0]);
    }
}

/* Whether RUN/checkpoints holds exactly these. */
static void check_folders(const char *run, const size_t *steps, size_t n) {
    DIR *list = opendir(path_in(run, "checkpoints"));
    REQUIRE(list != NULL);
    size_t found = 0;
    for (const struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        if (entry->d_name[0] == '.') continue;
        size_t i = 0, step = strtoul(entry->d_name + 5, NULL, 10);
        while (i < n && steps[i] != step) i++;
        if (i == n) CHECK_STR_EQ(entry->d_name, "not there");
        found++;
    }
    CHECK_INT_EQ(found, n);
    (void)closedir(list);
}

TEST(checkpoints_that_are_kept) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    o.save_every = 2;
    o.keep = 2;
    o.eval_every = 3;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_train_report r;
    dlm_error err;
    REQUIRE_OK(train_until(trainer, 5, &r, &err), &err);
    check_folders(run, (const size_t[]){3, 4}, 2); /* 3 is the best so far, and saved for that */
    CHECK_STR_EQ(read_text(path_in(run, "latest"), NULL), "step-00000004\n");
    CHECK_STR_EQ(read_text(path_in(run, "best"), NULL), "step-00000003\n");
    trainer->progress.best_nelbo = -1; /* no evaluation is better from here on */
    REQUIRE_OK(train_until(trainer, 9, &r, &err), &err);
    check_folders(run, (const size_t[]){3, 6, 8}, 3);
    CHECK_STR_EQ(read_text(path_in(run, "latest"), NULL), "step-00000008\n");
    CHECK_STR_EQ(read_text(path_in(run, "best"), NULL), "step-00000003\n");
    dlm_trainer_free(trainer);
}

/* The checkpoint is a model folder: averaged weights, or the raw ones. */
TEST(a_checkpoint_is_a_model) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_ORIGINAL, data_folder(), run);
    REQUIRE(o.data != NULL);
    o.schedule = DLM_SCHEDULE_LINEAR;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_train_report r;
    dlm_error err;
    REQUIRE_OK(train_until(trainer, 12, &r, &err), &err);
    for (int weights = 0; weights < 2; weights++) {
        dlm_model_options options = dlm_model_defaults();
        options.weights = (dlm_weights)weights;
        options.precision = DLM_PRECISION_F32;
        dlm_model *model;
        REQUIRE_OK(dlm_model_load(run, &options, &model, &err), &err);
        const float *want = weights == 0 ? trainer->learner->average : trainer->learner->params;
        CHECK_MEM_EQ(model->network.params, want, trainer->layout->total * sizeof *want);
        const dlm_config *c = dlm_model_config(model);
        CHECK(c->padded && !c->end_token && c->recipe == DLM_RECIPE_ORIGINAL && c->tail_share == 0);
        CHECK(c->schedule == DLM_SCHEDULE_LINEAR && dlm_model_tokenizer(model) != NULL);
        size_t n;
        const uint64_t *lengths = dlm_model_lengths(model, &n);
        CHECK(lengths != NULL && n == SEQ_LEN + 1);
        dlm_model_free(model);
    }
    dlm_trainer_free(trainer);
}

/* ---- a run that is there; starting from a model ------------------------------------------------------- */

TEST(a_run_is_not_overwritten) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    dlm_error err;
    dlm_trainer *trainer;
    o.resume = true;
    CHECK_STATUS(dlm_trainer_create(&o, &trainer, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "holds no run");
    o.resume = false;
    dlm_train_report report;
    REQUIRE(train(&o, 12, &report));
    const char *before = read_text(path_in(run, "log.csv"), NULL);
    CHECK_STATUS(dlm_trainer_create(&o, &trainer, &err), DLM_EXISTS, &err);
    CHECK_SAYS(&err, "holds a run already");
    CHECK_STR_EQ(read_text(path_in(run, "log.csv"), NULL), before);
}

TEST(one_process_at_a_time) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), new_run());
    REQUIRE(o.data != NULL);
    dlm_trainer *trainer = create(&o), *second;
    REQUIRE(trainer != NULL);
    dlm_error err;
    o.resume = true;
    CHECK_STATUS(dlm_trainer_create(&o, &second, &err), DLM_EXISTS, &err);
    CHECK_SAYS(&err, "is being trained");
    dlm_trainer_free(trainer);
}

TEST(starts_from_a_model) {
    const char *first = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), first);
    REQUIRE(o.data != NULL);
    dlm_train_report report;
    REQUIRE(train(&o, 12, &report));
    dlm_model_options options = dlm_model_defaults();
    options.precision = DLM_PRECISION_F32;
    dlm_model *model;
    dlm_error err;
    REQUIRE_OK(dlm_model_load(first, &options, &model, &err), &err);
    o.run = new_run();
    o.init = first;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    size_t bytes = trainer->layout->total * sizeof(float);
    CHECK_MEM_EQ(trainer->learner->params, model->network.params, bytes);
    CHECK_MEM_EQ(trainer->learner->average, model->network.params, bytes);
    CHECK_INT_EQ(trainer->progress.step, 0);
    dlm_trainer_free(trainer);
    dlm_model_free(model);
    o.run = new_run();
    o.hidden_size = 32;
    check_refused(&o, DLM_MISMATCH, "has hidden_size 16, the model to be trained 32");
}

/* ---- values that are not finite ----------------------------------------------------------------------- */

TEST(poisoned_weights) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    o.save_every = 2;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_train_report r;
    dlm_error err;
    REQUIRE_OK(train_until(trainer, 5, &r, &err), &err);
    const char *log = read_text(path_in(run, "log.csv"), NULL);
    trainer->learner->params[trainer->layout->final_b] = NAN;
    bool finished;
    CHECK_STATUS(dlm_trainer_step(trainer, &r, &finished, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "step 6: loss nan");
    CHECK_SAYS(&err, "a batch of 6 windows from number 30 of ");
    CHECK_SAYS(&err, "in epoch 0");
    CHECK_SAYS(&err, path_in(run, "checkpoints/step-00000004"));
    CHECK(!finished && r.step == 5);
    /* It stays so, and nothing is saved. */
    trainer->learner->params[trainer->layout->final_b] = 0;
    CHECK_STATUS(dlm_trainer_step(trainer, &r, &finished, &err), DLM_NOT_FINITE, &err);
    CHECK_STATUS(dlm_trainer_save(trainer, &err), DLM_NOT_FINITE, &err);
    CHECK_STR_EQ(read_text(path_in(run, "log.csv"), NULL), log);
    CHECK_STR_EQ(read_text(path_in(run, "latest"), NULL), "step-00000004\n");
    check_folders(run, (const size_t[]){2, 4}, 2);
    dlm_trainer_free(trainer);
    o.resume = true;
    REQUIRE(train(&o, 12, &r));
}

/* An update that goes wrong is noticed before it gets into a checkpoint. */
TEST(a_broken_state_is_not_saved) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), NULL);
    REQUIRE(o.data != NULL);
    for (size_t i = 0; i < 4; i++) {
        o.run = new_run();
        dlm_trainer *trainer = create(&o);
        REQUIRE(trainer != NULL);
        dlm_train_report r;
        dlm_error err;
        REQUIRE_OK(train_until(trainer, 3, &r, &err), &err);
        dlm_learner *l = trainer->learner;
        float *const blocks[] = {l->params, l->average, l->momentum, l->squares};
        blocks[i][7] = INFINITY;
        CHECK_STATUS(dlm_trainer_save(trainer, &err), DLM_NOT_FINITE, &err);
        CHECK_SAYS(&err, "after step 3 the ");
        CHECK_SAYS(&err, "the last good checkpoint is none");
        CHECK(!dlm__is_file(path_in(o.run, "latest")) && !dlm__is_dir(path_in(o.run, "checkpoints")));
        dlm_trainer_free(trainer);
    }
}

TEST(an_evaluation_that_is_not_finite) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    o.save_every = 2;
    o.eval_every = 3;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_train_report r;
    dlm_error err;
    REQUIRE_OK(train_until(trainer, 2, &r, &err), &err);
    trainer->learner->average[trainer->layout->final_b] = NAN;
    CHECK_STATUS(train_until(trainer, 12, &r, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "evaluation after step 3: ");
    CHECK_SAYS(&err, path_in(run, "checkpoints/step-00000002"));
    CHECK_STATUS(dlm_trainer_save(trainer, &err), DLM_NOT_FINITE, &err);
    check_folders(run, (const size_t[]){2}, 1);
    dlm_trainer_free(trainer);
}

TEST(a_learning_rate_that_is_far_too_high) {
    const char *run = new_run();
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    REQUIRE(o.data != NULL);
    o.save_every = 1;
    o.lr = 1e6;
    o.weight_decay = 1e6;
    o.warmup = 0;
    o.steps = 1000;
    dlm_trainer *trainer = create(&o);
    REQUIRE(trainer != NULL);
    dlm_train_report r;
    dlm_error err;
    CHECK_STATUS(train_until(trainer, 1000, &r, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "the last good checkpoint is ");
    if (dlm__is_file(path_in(run, "latest"))) {
        dlm_model *model;
        CHECK_OK(dlm_model_load(run, NULL, &model, &err), &err);
        dlm_model_free(model);
    }
    dlm_trainer_free(trainer);
}
