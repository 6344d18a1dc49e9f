/* Training by several ranks: the losses of one, the same bytes again, checkpoints that any number goes on
 * with, and failures that end all of them. The ranks are threads here; tests/mpi.sh has processes. */
#include "check.h"

#include "ranks_fixture.h"
#include "training.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOCUMENTS = 120, LONGEST = 30, SEQ_LEN = 16, STEPS = 12 };

static const char *data_folder(void) {
    return same_data(DOCUMENTS, LONGEST, SEQ_LEN);
}

/* What a run of some ranks is to do, and what came of it. */
typedef struct trial {
    dlm_train_options options;
    size_t until, threads; /* steps, if there are as many; threads of each rank */
    /* Changes a rank's options or trainer; NULL: nothing. */
    void (*spoil)(dlm_trainer *trainer, size_t rank);
    void (*change)(dlm_train_options *options, size_t rank);
    size_t dies; /* the rank that leaves after `until` steps; NOBODY: none */
    dlm_train_report reports[RANKS_MAX];
    double losses[RANKS_MAX][64];
    dlm_status created[RANKS_MAX], status[RANKS_MAX], saved[RANKS_MAX];
    size_t all, own[RANKS_MAX]; /* floats of a model, and of a moment that a rank keeps */
    dlm_error errors[RANKS_MAX];
} trial;

/* Steps until `until` or an error; the losses by the number of the step. */
static dlm_status go(trial *t, dlm_trainer *trainer, size_t rank, size_t until) {
    bool finished = false;
    dlm_train_report *report = &t->reports[rank];
    do {
        DLM_TRY(dlm_trainer_step(trainer, report, &finished, &t->errors[rank]));
        if (report->stepped && report->step <= 64) t->losses[rank][report->step - 1] = report->loss;
    } while (!finished && report->step < until);
    return DLM_OK;
}

static void take_part(void *context, dlm_ranks *ranks, thread_meeting *meeting) {
    trial *t = context;
    const size_t r = dlm_ranks_rank(ranks);
    dlm_train_options options = t->options;
    dlm_trainer *trainer;
    options.ranks = ranks;
    dlm_set_threads(t->threads);
    if (t->change != NULL) t->change(&options, r);
    t->created[r] = dlm_trainer_create(&options, &trainer, &t->errors[r]);
    if (t->created[r] != DLM_OK) return;
    t->own[r] = trainer->learner->own;
    if (r == 0) t->all = trainer->layout->total;
    t->status[r] = go(t, trainer, r, t->until);
    if (t->spoil != NULL) t->spoil(trainer, r);
    if (t->dies == r)
        die(meeting, r);
    else if (t->spoil != NULL || t->dies != NOBODY)
        t->status[r] = go(t, trainer, r, SIZE_MAX);
    if (t->dies != r) t->saved[r] = dlm_trainer_save(trainer, t->status[r] == DLM_OK ? &t->errors[r] : NULL);
    t->reports[r].sample = t->reports[r].checkpoint = NULL;
    dlm_trainer_free(trainer);
}

static trial trial_of(const dlm_train_options *options, size_t until) {
    return (trial){.options = *options, .until = until, .threads = 1, .dies = NOBODY};
}

/* The ranks train; all of it goes well. */
static bool train_on(size_t ranks, trial *t) {
    on_ranks(ranks, take_part, t);
    bool ok = true;
    for (size_t r = 0; r < ranks; r++) {
        ok = CHECK_STATUS(t->created[r], DLM_OK, &t->errors[r]) && ok;
        ok = CHECK_STATUS(t->status[r], DLM_OK, &t->errors[r]) && ok;
        ok = CHECK_STATUS(t->saved[r], DLM_OK, &t->errors[r]) && ok;
    }
    return ok;
}

static dlm_train_options options_of(dlm_recipe recipe, dlm_optimizer optimizer, const char *run) {
    dlm_train_options o = tiny_run(recipe, data_folder(), run);
    o.optimizer = optimizer;
    o.precision = DLM_PRECISION_F32;
    o.steps = STEPS;
    o.log_every = 3;
    o.eval_every = 4;
    o.sample_every = 6;
    o.save_every = 5;
    o.keep = 0;
    return o;
}

static const char *in_checkpoint(const char *run, size_t step, const char *file) {
    char name[80];
    (void)snprintf(name, sizeof name, "checkpoints/step-%08zu/%s", step, file);
    return path_in(run, name);
}

static const char *const files[] = {"model.safetensors", "raw.safetensors", "optimizer.safetensors",
                                    "trainer.json",      "config.json",     "tokenizer.json"};
enum { FILES = sizeof files / sizeof *files };

static void check_same_file(const char *a, const char *b) {
    size_t n = 0, m = 0;
    const char *x = read_text(a, &n), *y = read_text(b, &m);
    check_context("%s", a);
    REQUIRE(x != NULL && y != NULL);
    if (CHECK_INT_EQ(n, m)) CHECK_MEM_EQ(x, y, n);
}

/* How far another order of sums may move what is trained: by last bits of floats, and where these are rounded
 * to bfloat16 next, a few of them by a last bit of that (2^-8 of it). Relative, but for a single value of a
 * file: one whose gradient is next to nothing may have gone the other way. */
typedef struct allowance {
    double loss, norm, nelbo, whole, value;
} allowance;

static const allowance of_float = {2e-5, 1e-3, 1e-4, 1e-4, 5e-4}, of_bfloat16 = {1e-3, 2e-2, 2e-3, 5e-2, 0.1};

static double distance(const float *a, const float *b, size_t n) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / size);
}

/* Two safetensors files of the same tensors, within rounding: the header is that of one process, byte by
 * byte. */
static void check_near(const char *a, const char *b, const allowance *allow) {
    size_t n = 0, m = 0;
    const char *x = read_text(a, &n), *y = read_text(b, &m);
    check_context("%s", a);
    REQUIRE(x != NULL && y != NULL && n == m && n > 8);
    uint64_t header;
    memcpy(&header, x, sizeof header);
    REQUIRE(8 + header <= n);
    CHECK_MEM_EQ(x, y, 8 + header);
    const size_t floats = (n - 8 - (size_t)header) / sizeof(float);
    float *p = malloc(floats * sizeof *p), *q = malloc(floats * sizeof *q);
    REQUIRE(p != NULL && q != NULL);
    memcpy(p, x + 8 + header, floats * sizeof *p);
    memcpy(q, y + 8 + header, floats * sizeof *q);
    CHECK_ALL_CLOSE(p, q, floats, allow->value);
    CHECK(distance(p, q, floats) < allow->whole);
    free(p);
    free(q);
}

/* ---- the same as one ---------------------------------------------------------------------------------- */

typedef struct kind {
    dlm_recipe recipe;
    dlm_optimizer optimizer;
    dlm_time time;
    dlm_precision precision;
    size_t threads; /* of each rank; with several the model is one that they share */
} kind;

static const kind kinds[] = {{DLM_RECIPE_DEFAULT, DLM_MUON, DLM_TIME_NONE, DLM_PRECISION_F32, 1},
                             {DLM_RECIPE_DEFAULT, DLM_ADAMW, DLM_TIME_ADALN, DLM_PRECISION_F32, 1},
                             {DLM_RECIPE_ORIGINAL, DLM_MUON, DLM_TIME_ADALN, DLM_PRECISION_F32, 1},
                             {DLM_RECIPE_DEFAULT, DLM_MUON, DLM_TIME_NONE, DLM_PRECISION_BF16, 1},
                             {DLM_RECIPE_ORIGINAL, DLM_ADAMW, DLM_TIME_ADALN, DLM_PRECISION_BF16, 1},
                             {DLM_RECIPE_DEFAULT, DLM_MUON, DLM_TIME_NONE, DLM_PRECISION_BF16, 2}};

static const allowance *allowed(const kind *k) {
    return k->precision == DLM_PRECISION_BF16 ? &of_bfloat16 : &of_float;
}

static void check_losses(const allowance *allow, const trial *one, const trial *some, size_t ranks) {
    for (size_t r = 0; r < ranks; r++) {
        const dlm_train_report *a = &one->reports[0], *b = &some->reports[r];
        for (size_t s = 0; s < STEPS; s++)
            CHECK_CLOSE(some->losses[r][s], one->losses[0][s], allow->loss * one->losses[0][s]);
        CHECK(a->tokens == b->tokens && a->step == b->step && a->lr == b->lr && b->saved && b->evaluated);
        CHECK_CLOSE(b->grad_norm, a->grad_norm, allow->norm * a->grad_norm);
        CHECK_CLOSE(b->eval_nelbo, a->eval_nelbo, allow->nelbo * a->eval_nelbo);
        CHECK_CLOSE(b->eval_ce, a->eval_ce, allow->nelbo * a->eval_ce);
        /* All know the same numbers. */
        CHECK(b->loss == some->reports[0].loss && b->grad_norm == some->reports[0].grad_norm);
        CHECK(b->eval_nelbo == some->reports[0].eval_nelbo && b->eval_ce == some->reports[0].eval_ce);
    }
}

/* What a run of that kind in a folder of its own came to. */
static trial run_of(const kind *k, size_t ranks) {
    dlm_train_options o = options_of(k->recipe, k->optimizer, new_run());
    o.time = k->time;
    o.precision = k->precision;
    if (k->threads > 1) {
        o.hidden_size = 128;
        o.micro_tokens = 4096;
    }
    trial t = trial_of(&o, SIZE_MAX);
    t.threads = k->threads;
    CHECK(train_on(ranks, &t));
    return t;
}

/* The optimiser's state is divided: together they have it once, and none has much more than its share. */
static void check_shares(const trial *t, size_t ranks) {
    size_t sum = 0;
    for (size_t r = 0; r < ranks; r++) {
        sum += t->own[r];
        CHECK(t->own[r] > 0 && t->own[r] < t->all / ranks + t->all / 4);
    }
    CHECK_INT_EQ(sum, t->all);
}

static void check_kind(const kind *k) {
    const trial one = run_of(k, 1);
    for (size_t ranks = 2; ranks <= 4; ranks++) {
        const trial some = run_of(k, ranks), again = run_of(k, ranks);
        const char *alone = one.options.run, *first = some.options.run, *second = again.options.run;
        check_context("kind %td, %zu ranks", k - kinds, ranks);
        check_losses(allowed(k), &one, &some, ranks);
        check_shares(&some, ranks);
        for (size_t i = 0; i < 3; i++)
            check_near(in_checkpoint(first, STEPS, files[i]), in_checkpoint(alone, STEPS, files[i]),
                       allowed(k));
        for (size_t i = 4; i < FILES; i++)
            check_same_file(in_checkpoint(first, STEPS, files[i]), in_checkpoint(alone, STEPS, files[i]));
        /* And bit for bit by as many. */
        CHECK_MEM_EQ(again.losses, some.losses, sizeof again.losses);
        for (size_t i = 0; i < FILES; i++)
            check_same_file(in_checkpoint(second, STEPS, files[i]), in_checkpoint(first, STEPS, files[i]));
        check_same_file(path_in(second, "samples.txt"), path_in(first, "samples.txt"));
    }
}

TEST(ranks_train_what_one_does) {
    REQUIRE(data_folder() != NULL);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) check_kind(&kinds[i]);
}

/* A wire is not needed by one: the same bytes with and without ranks. */
TEST(one_rank_is_no_rank) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, new_run());
    REQUIRE(o.data != NULL);
    trial one = trial_of(&o, SIZE_MAX);
    REQUIRE(train_on(1, &one));
    const char *first = o.run;
    o.run = new_run();
    dlm_train_report report;
    dlm_set_threads(1);
    REQUIRE(train(&o, SIZE_MAX, &report));
    dlm_set_threads(0);
    for (size_t i = 0; i < FILES; i++)
        check_same_file(in_checkpoint(o.run, STEPS, files[i]), in_checkpoint(first, STEPS, files[i]));
}

/* ---- resuming ----------------------------------------------------------------------------------------- */

/* As many again: the bytes of a run that was not stopped. Others: its losses, within rounding. */
TEST(any_number_goes_on) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, new_run());
    REQUIRE(o.data != NULL);
    trial whole = trial_of(&o, SIZE_MAX);
    REQUIRE(train_on(3, &whole));
    const char *uninterrupted = o.run;
    static const size_t same[] = {3, 3, 3}, others[] = {3, 1, 4}, stops[] = {4, 9, SIZE_MAX};
    for (int mixed = 0; mixed < 2; mixed++) {
        o.run = new_run();
        o.resume = false;
        for (size_t i = 0; i < 3; i++) {
            const size_t ranks = mixed ? others[i] : same[i];
            check_context("part %zu, by %zu ranks", i, ranks);
            trial part = trial_of(&o, stops[i]);
            REQUIRE(train_on(ranks, &part));
            for (size_t s = i == 0 ? 0 : stops[i - 1]; s < STEPS && s < stops[i]; s++)
                CHECK_CLOSE(part.losses[0][s], whole.losses[0][s], mixed ? 2e-5 * whole.losses[0][s] : 0);
            o.resume = true;
        }
        for (size_t i = 0; i < FILES && !mixed; i++)
            check_same_file(in_checkpoint(o.run, STEPS, files[i]),
                            in_checkpoint(uninterrupted, STEPS, files[i]));
        for (size_t i = 0; i < 3; i++)
            check_near(in_checkpoint(o.run, STEPS, files[i]), in_checkpoint(uninterrupted, STEPS, files[i]),
                       &of_float);
    }
}

/* ---- what is refused ---------------------------------------------------------------------------------- */

static void check_refused(size_t ranks, trial *t, dlm_status status, const char *text) {
    on_ranks(ranks, take_part, t);
    for (size_t r = 0; r < ranks; r++) {
        CHECK_STATUS(t->created[r], status, &t->errors[r]);
        CHECK_SAYS(&t->errors[r], text);
    }
}

static const char *other_data;

static void other_rate(dlm_train_options *options, size_t rank) {
    if (rank == 1) options->lr = 0.5;
}
static void other_length(dlm_train_options *options, size_t rank) {
    if (rank == 2) options->steps = 7;
}
static void other_source(dlm_train_options *options, size_t rank) {
    if (rank == 1) options->data = other_data;
}
static void no_source(dlm_train_options *options, size_t rank) {
    if (rank == 1) options->data = "/nowhere";
}

TEST(what_ranks_cannot_do_together) {
    const char *run = new_run();
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, run);
    other_data = make_data(2, DOCUMENTS, LONGEST, SEQ_LEN);
    REQUIRE(o.data != NULL && other_data != NULL);
    trial t = trial_of(&o, SIZE_MAX);
    check_refused(7, &t, DLM_ARGUMENT, "a batch of 6 sequences is not enough for 7 ranks");
    t = trial_of(&o, SIZE_MAX);
    t.change = other_rate;
    check_refused(3, &t, DLM_MISMATCH,
                  "on rank 1 of 3: the options are not those of rank 0: lr is 0.01 there and here 0.5");
    t = trial_of(&o, SIZE_MAX);
    t.change = other_length;
    check_refused(3, &t, DLM_MISMATCH,
                  "on rank 2 of 3: the options are not those of rank 0: steps is 12 there and here 7");
    t = trial_of(&o, SIZE_MAX);
    t.change = other_source;
    check_refused(2, &t, DLM_MISMATCH, "on rank 1 of 2: data is not that of rank 0: ");
    t = trial_of(&o, SIZE_MAX);
    t.change = no_source;
    check_refused(2, &t, DLM_NOT_FOUND, "on rank 1 of 2: /nowhere: ");
    CHECK(!dlm__is_dir(run));
    t = trial_of(&o, SIZE_MAX);
    REQUIRE(train_on(2, &t));
    t = trial_of(&o, SIZE_MAX);
    check_refused(2, &t, DLM_EXISTS, "holds a run already");
}

static const char *empty_run;

static void other_run(dlm_train_options *options, size_t rank) {
    if (rank == 1) options->run = empty_run;
}

TEST(a_run_that_a_rank_does_not_see) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, new_run());
    empty_run = new_run();
    REQUIRE(o.data != NULL);
    trial t = trial_of(&o, 5);
    REQUIRE(train_on(2, &t));
    t = trial_of(&o, SIZE_MAX);
    t.options.resume = true;
    t.change = other_run;
    check_refused(2, &t, DLM_MISMATCH, "is not the folder of rank 0: its run is at step 5, here at 0");
}

/* ---- what goes wrong ---------------------------------------------------------------------------------- */

static void poison(dlm_trainer *trainer, size_t rank) {
    if (rank == 1) trainer->learner->params[trainer->layout->final_b] = NAN;
}

TEST(a_loss_that_is_not_finite_on_one_rank) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, new_run());
    REQUIRE(o.data != NULL);
    trial t = trial_of(&o, 7);
    t.spoil = poison;
    on_ranks(3, take_part, &t);
    for (size_t r = 0; r < 3; r++) {
        CHECK_STATUS(t.status[r], DLM_NOT_FINITE, &t.errors[r]);
        CHECK_SAYS(&t.errors[r], "step 8: loss nan");
        CHECK_SAYS(&t.errors[r], "step-00000005");
        CHECK_STATUS(t.saved[r], DLM_NOT_FINITE, NULL);
    }
    CHECK_STR_EQ(read_text(path_in(o.run, "latest"), NULL), "step-00000005\n");
}

static void spoil_moments(dlm_trainer *trainer, size_t rank) {
    if (rank == 2) trainer->learner->momentum[3] = INFINITY;
    trainer->steps = 8;
    trainer->options.eval_every = trainer->options.sample_every = 0;
}

TEST(a_state_that_is_not_finite_on_one_rank) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_ADAMW, new_run());
    REQUIRE(o.data != NULL);
    o.lr = 0; /* so that the weights stay finite */
    trial t = trial_of(&o, 7);
    t.spoil = spoil_moments;
    on_ranks(3, take_part, &t);
    for (size_t r = 0; r < 3; r++) CHECK(t.status[r] != DLM_OK && t.saved[r] != DLM_OK);
    CHECK_STR_EQ(read_text(path_in(o.run, "latest"), NULL), "step-00000005\n");
}

static void fill_the_place(dlm_trainer *trainer, size_t rank) {
    /* A file where checkpoints are to go, as bad as a full disk. */
    if (rank != 0) return;
    FILE *file = fopen(path_in(trainer->run, "checkpoints"), "w");
    if (CHECK(file != NULL)) (void)fclose(file);
}

TEST(a_checkpoint_that_cannot_be_written) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, new_run());
    REQUIRE(o.data != NULL);
    o.save_every = 0;
    o.eval_every = 0;
    trial t = trial_of(&o, 3);
    t.spoil = fill_the_place;
    on_ranks(3, take_part, &t);
    for (size_t r = 0; r < 3; r++) {
        CHECK_STATUS(t.status[r], DLM_IO, &t.errors[r]);
        CHECK_SAYS(&t.errors[r], "checkpoints");
    }
}

/* The rest end with a sentence, nothing is saved; resuming takes the last checkpoint. */
TEST(a_rank_that_dies) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, new_run());
    REQUIRE(o.data != NULL);
    for (size_t dies = 0; dies < 3; dies++) {
        check_context("rank %zu", dies);
        o.run = new_run();
        o.resume = false;
        trial t = trial_of(&o, 7);
        t.dies = dies;
        on_ranks(3, take_part, &t);
        char gone[80];
        (void)snprintf(gone, sizeof gone,
                       "rank %zu of 3 is gone; nothing is saved any more, the last good checkpoint is ",
                       dies);
        for (size_t r = 0; r < 3; r++) {
            if (r == dies) continue;
            CHECK_STATUS(t.status[r], DLM_NETWORK, &t.errors[r]);
            CHECK_SAYS(&t.errors[r], gone);
            CHECK_SAYS(&t.errors[r], "step-00000005");
            CHECK_STATUS(t.saved[r], DLM_NETWORK, NULL);
        }
        CHECK_STR_EQ(read_text(path_in(o.run, "latest"), NULL), "step-00000005\n");
        o.resume = true;
        trial rest = trial_of(&o, SIZE_MAX);
        REQUIRE(train_on(2, &rest));
        CHECK_INT_EQ(rest.reports[1].step, STEPS);
    }
}

/* ---- the clock ---------------------------------------------------------------------------------------- */

static void wrong_clock(dlm_trainer *trainer, size_t rank) {
    trainer->started -= rank == 1 ? 1000 : 0; /* rank 1 believes that the time is over */
}

TEST(rank_0_has_the_clock) {
    dlm_train_options o = options_of(DLM_RECIPE_DEFAULT, DLM_MUON, new_run());
    REQUIRE(o.data != NULL);
    o.minutes = 3.0 / 60;
    trial t = trial_of(&o, 2);
    t.spoil = wrong_clock;
    on_ranks(3, take_part, &t);
    for (size_t r = 0; r < 3; r++) {
        CHECK_STATUS(t.status[r], DLM_OK, &t.errors[r]);
        CHECK(t.reports[r].step == t.reports[0].step && t.reports[r].lr == t.reports[0].lr);
        CHECK_CLOSE(t.reports[r].share, 1, 0);
        CHECK(t.reports[r].saved && t.reports[r].stepped);
    }
    CHECK(t.reports[0].step > 3 && t.reports[0].seconds >= 3);
}
