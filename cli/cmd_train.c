/* train: trains a model on token shards, or on text files from which it first makes a tokenizer and shards.
 */
#include "commands.h"

#include "models.h"
#include "paths.h"
#include "texts.h"
#include "json.h"
#include "prepare.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct train_settings {
    common shared;
    dlm_train_options train;
    int preset;            /* -1: none asked for */
    bool lengths_conflict; /* more than one of --steps, --epochs and --minutes */
    dlm_error recall;      /* why RUN could not tell its options, with --resume */
    dlm_recipe recipe;     /* that RUN was begun with, where it could */
    /* of `train FILE...` */
    const char *tokenizer;
    size_t vocab_size; /* 0: by the size of the text */
    text_choice text;
} train_settings;

enum { SIGNALLED = 128 }; /* of the exit status: by signal n it is this and n */

static const char *const optimizer_choices[] = {"adamw", "muon", NULL};
static const char *const weight_choices[] = {"elbo", "flat", "uniform", "inv_sigma", "sigma", NULL};

/* ---- options ------------------------------------------------------------------------------------------- */

static void defaults(void *settings) {
    train_settings *all = settings;
    *all = (train_settings){
        .train = dlm_train_defaults(DLM_RECIPE_DEFAULT), .preset = -1, .text = text_choice_defaults()};
    all->shared.seed = all->train.seed;
}

/* Is there a file or folder of that name in RUN? */
static bool run_has(const train_settings *settings, const char *name) {
    char *path = join(settings->train.run, name);
    bool there = path != NULL && exists(path);
    free(path);
    return there;
}

static void choose_preset(const train_settings *all, dlm_train_options *train) {
    if (all->preset >= 0) (void)dlm_train_preset((dlm_preset)all->preset, train, NULL);
}

/* The defaults of a run: what it was begun with, or what the recipe and the preset say. */
static dlm_train_options defaults_of_run(train_settings *all) {
    dlm_train_options train;
    char *paths = NULL;
    if (all->train.resume && all->train.run != NULL &&
        dlm_train_recall(all->train.run, &train, &paths, &all->recall) == DLM_OK) {
        all->shared.kept = paths;
        all->recipe = train.recipe;
        all->recall.status = DLM_OK;
        choose_preset(all, &train); /* another one is refused by name */
        /* A run that was moved has its own data with it still. */
        if (train.data != NULL && !exists(train.data) && run_has(all, "data")) train.data = NULL;
        return train;
    }
    train = dlm_train_defaults(all->train.recipe);
    choose_preset(all, &train);
    return train;
}

/* A length of the run that is asked for replaces the others. */
static void adjust(void *settings) {
    train_settings *all = settings;
    const bool minutes = was_given(&command_train, all, "minutes"),
               epochs = was_given(&command_train, all, "epochs"),
               steps = was_given(&command_train, all, "steps");
    all->train = defaults_of_run(all);
    all->shared.seed = all->train.seed;
    if (minutes || steps || epochs) {
        all->train.minutes = all->train.epochs = 0;
        all->train.steps = 0;
    }
    all->lengths_conflict = minutes + steps + epochs > 1;
}

#define TRAIN_ROW(field, ...) OPTION_INNER_ROW(train_settings, train, dlm_train_options, field, __VA_ARGS__)
#define SIZE_ROW(field, option, least, most, text)                                                          \
    TRAIN_ROW(field, .name = (option), .kind = OPTION_SIZE, .argument = "N", .min = (least), .max = (most), \
              .help = (text))
#define COUNT_ROW(field, option, text) SIZE_ROW(field, option, 0, OPTION_COUNT_MAX, text)
#define REAL_ROW(field, option, least, most, text)                                                          \
    TRAIN_ROW(field, .name = (option), .kind = OPTION_REAL, .argument = "X", .min = (least), .max = (most), \
              .help = (text))
#define CHOICE_ROW(field, option, words, text) \
    TRAIN_ROW(field, .name = (option), .kind = OPTION_CHOICE, .choices = (words), .help = (text))

static const option options[] = {
    TRAIN_ROW(run, .name = "output", .letter = 'o', .kind = OPTION_TEXT, .argument = "RUN", .required = true,
              .help = "the folder for checkpoints and logs"),
    TRAIN_ROW(data, .name = "data", .letter = 'd', .kind = OPTION_TEXT, .argument = "DATA",
              .help = "token shards made by prepare, in place of text files"),
    TRAIN_ROW(eval_data, .name = "eval-data", .kind = OPTION_TEXT, .argument = "DATA",
              .help = "token shards to evaluate on; without, one document in 50 is held out"),
    TRAIN_ROW(resume, .name = "resume", .kind = OPTION_FLAG,
              .help = "go on with RUN; other options are as they were, and a new length may be given"),
    TRAIN_ROW(init, .name = "init", .kind = OPTION_TEXT, .argument = "MODEL",
              .help = "begin with the weights of a model"),
    SIZE_ROW(steps, "steps", 1, OPTION_COUNT_MAX, "how long: optimiser steps"),
    REAL_ROW(epochs, "epochs", 0.001, 1e6, "or passes over the data"),
    REAL_ROW(minutes, "minutes", 0.01, 1e6,
             "or by the clock, with the learning rate; such a run does not repeat bit for bit"),
    OPTION_ROW(train_settings, preset, .name = "preset", .kind = OPTION_CHOICE, .choices = preset_choices,
               .help = "channels, blocks and heads: 128, 4, 4; 256, 8, 8; or 768, 12, 12"),
    SIZE_ROW(hidden_size, "hidden", 1, 65536, "channels"),
    SIZE_ROW(depth, "depth", 1, 1024, "blocks"),
    SIZE_ROW(num_heads, "heads", 1, 1024, "attention heads, a divisor of the channels"),
    REAL_ROW(mlp_ratio, "mlp-ratio", 0.01, 64,
             "hidden channels of a block's MLP, in multiples of its channels"),
    SIZE_ROW(seq_len, "seq-len", 1, 1 << 20, "tokens of the longest sequence"),
    CHOICE_ROW(time, "time", time_choices,
               "how the model learns the time: not at all, or as the original does"),
    CHOICE_ROW(position, "position", position_choices, "learned positions, or rotary ones too"),
    CHOICE_ROW(recipe, "recipe", recipe_choices,
               "all other defaults: what trains fast, or what the original program did"),
    SIZE_ROW(batch, "batch", 1, 1 << 20, "sequences in a step"),
    CHOICE_ROW(optimizer, "optimizer", optimizer_choices,
               "Muon is for the blocks' matrices, the rest stays with AdamW"),
    REAL_ROW(lr, "lr", 0, 100, "the highest learning rate"),
    COUNT_ROW(warmup, "warmup", "steps until the learning rate is at its highest"),
    REAL_ROW(min_lr_ratio, "min-lr-ratio", 0, 1, "the last learning rate, as a share of the highest"),
    REAL_ROW(weight_decay, "weight-decay", 0, 100, "decoupled, of every parameter"),
    REAL_ROW(clip, "clip", 0, 1e6, "the largest norm of the gradient; 0: any"),
    REAL_ROW(ema, "ema", 0, 1, "decay of the moving average of the weights"),
    CHOICE_ROW(weight, "weight", weight_choices,
               "how the noise levels are weighted; elbo makes the loss the likelihood bound"),
    CHOICE_ROW(schedule, "schedule", schedule_choices, "the masking schedule"),
    REAL_ROW(tail_share, "tail-share", 0, 1,
             "the share of sequences with end tokens behind their end, from which it learns to end"),
    CHOICE_ROW(precision, "precision", training_precision_choices,
               "of matrix products; auto is bf16 where the processor multiplies it"),
    SIZE_ROW(micro_tokens, "micro-tokens", 1, 1e8, "tokens of one pass; a step of more sums over several"),
    COUNT_ROW(log_every, "log-every", "steps between lines of the log; 0: none"),
    COUNT_ROW(eval_every, "eval-every", "steps between evaluations; 0: none"),
    COUNT_ROW(eval_documents, "eval-documents", "documents that an evaluation reads at most; 0: all"),
    COUNT_ROW(sample_every, "sample-every", "steps between sample texts; 0: none"),
    COUNT_ROW(save_every, "save-every", "steps between checkpoints; 0: only the last"),
    COUNT_ROW(keep, "keep", "checkpoints kept, besides the best and the latest; 0: all"),
    OPTION_ROW(train_settings, tokenizer, .name = "tokenizer", .letter = 't', .kind = OPTION_TEXT,
               .argument = "DIR",
               .help = "with FILE...: a tokenizer, or one of the Hub, in place of a new one"),
    OPTION_ROW(train_settings, vocab_size, .name = "vocab-size", .kind = OPTION_SIZE, .argument = "N",
               .min = 260, .max = 1e6, .word = "auto", .word_value = 0,
               .help =
                   "with FILE...: tokens of the new tokenizer; auto: 1024 to 8192, by the size of the text"),
    TEXT_ROWS(train_settings, text),
    OPTION_ROW(train_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "at the end print what was reached as JSON"),
    {0}};

/* What a run has in it, its text files' at least. */
static bool is_run(const train_settings *settings) {
    static const char *const names[] = {"log.csv", "checkpoints", "text.json", "tokenizer", "data"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (run_has(settings, names[i])) return true;
    return false;
}

static int check_usage(const train_settings *settings) {
    const char *wrong = NULL;
    bool files = settings->shared.n_operands > 0;
    if (!files && settings->train.data == NULL && !(settings->train.resume && run_has(settings, "data")))
        wrong = "what to train on is missing: -d DATA or FILE...";
    else if (files && settings->train.data != NULL && settings->shared.kept == NULL)
        wrong = "-d DATA and FILE... exclude each other";
    else if (!files && settings->tokenizer != NULL)
        wrong = "--tokenizer goes with FILE...; DATA has one already";
    else if (!files && settings->vocab_size != 0)
        wrong = "--vocab-size goes with FILE...; DATA has a tokenizer already";
    else if (settings->tokenizer != NULL && settings->vocab_size != 0)
        wrong =
            "--tokenizer and --vocab-size exclude each other: one names a tokenizer, one is for a new one";
    else if (settings->shared.kept != NULL && was_given(&command_train, settings, "init"))
        wrong = "--init is for the beginning of a run; this one goes on with its own weights";
    else if (settings->lengths_conflict)
        wrong = "--steps, --epochs and --minutes exclude each other";
    if (wrong == NULL) return EXIT_DONE;
    (void)fail("%s", wrong);
    return EXIT_USAGE;
}

/* ---- from text files ---------------------------------------------------------------------------------- */

/* Where there are shards, only what was asked for is looked at: the rest is as it was. */
static dlm_train_text text_of(const train_settings *settings) {
    dlm_train_text text = dlm_train_text_defaults();
    text.files = settings->shared.operands;
    text.n = settings->shared.n_operands;
    text.text = text_options(&settings->text);
    text.tokenizer = settings->tokenizer;
    text.vocab_size = settings->vocab_size;
    text.seq_len = settings->train.seq_len;
    text.same_format = was_given(&command_train, settings, "format");
    text.same_field = was_given(&command_train, settings, "field");
    text.same_invalid = was_given(&command_train, settings, "invalid");
    text.same_vocab_size = was_given(&command_train, settings, "vocab-size");
    text.progress = draw_progress;
    return text;
}

/* Makes RUN/data where it is not there yet. */
static int make_data(const train_settings *settings, const char *data) {
    if (settings->shared.n_operands == 0 && exists(data)) return EXIT_DONE;
    const dlm_train_text text = text_of(settings);
    dlm_train_made made;
    dlm_error err = {0};
    const dlm_status status = dlm_train_prepare(settings->train.run, &text, &made, &err);
    clear_status();
    if (status != DLM_OK) return fail_with(&err);
    if (made.tokenizer) say("%s/tokenizer: %zu tokens", settings->train.run, made.vocab_size);
    if (made.data)
        say_data(data, &made.info);
    else
        say("%s is there already, with %zu tokens: the text files are not read again", data, made.vocab_size);
    return EXIT_DONE;
}

/* ---- the run ------------------------------------------------------------------------------------------- */

typedef struct run_state {
    const train_settings *settings;
    dlm_ranks *ranks;
    dlm_trainer *trainer;
    dlm_train_report report;
    double eval_ce, eval_ppl, eval_nelbo; /* of the last evaluation */
    bool evaluated;
    double drawn_at; /* when the progress line was last drawn */
    double loss;     /* mean of the latest steps, older ones counting ever less */
    size_t losses;
} run_state;

/* A shell reads it as the one word it is. */
static void print_quoted(const char *word) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+./,:@%";
    if (word[0] != 0 && word[strspn(word, plain)] == 0) {
        (void)fputs(word, stderr);
        return;
    }
    (void)fputc('\'', stderr);
    for (; *word != 0; word++) (void)fputs(*word == '\'' ? "'\\''" : (char[]){*word, 0}, stderr);
    (void)fputc('\'', stderr);
}

/* The command line that goes on with this run, with as many ranks. */
static void print_resume(const common *shared, const dlm_ranks *ranks) {
    clear_status();
    (void)fputs("go on with:  ", stderr);
    if (dlm_ranks_size(ranks) > 1) (void)fprintf(stderr, "mpirun -np %zu ", dlm_ranks_size(ranks));
    print_quoted(shared->program);
    (void)fputs(" train --resume", stderr);
    for (size_t i = 0; i < shared->n_arguments; i++) {
        if (strcmp(shared->arguments[i], "--resume") == 0) continue;
        (void)fputc(' ', stderr);
        print_quoted(shared->arguments[i]);
    }
    (void)fputc('\n', stderr);
}

static void say_start(const run_state *run) {
    const dlm_config *config = dlm_trainer_config(run->trainer);
    dlm_data_info data = dlm_trainer_data(run->trainer);
    char tokens[32], documents[32];
    write_count(data.tokens, tokens, sizeof tokens);
    write_count(data.documents, documents, sizeof documents);
    say("%s: vocabulary %zu, %zu channels, %zu blocks, %zu heads, sequences up to %zu tokens; data: %s "
        "documents, %s tokens",
        run->settings->train.run, config->vocab_size, config->hidden_size, config->depth, config->num_heads,
        config->max_seq_len, documents, tokens);
    const size_t asked = run->settings->shared.threads,
                 threads = asked > 0 ? asked : dlm_ranks_threads(run->ranks);
    if (dlm_ranks_size(run->ranks) > 1)
        say("%s: trained by %zu ranks, each with %zu thread%s", run->settings->train.run,
            dlm_ranks_size(run->ranks), threads, threads == 1 ? "" : "s");
    const dlm_train_options *train = &run->settings->train;
    if (data.documents == 1 && train->eval_data == NULL && train->eval_every > 0)
        say("%s: of its one document none can be held out, so nothing is evaluated; --eval-data DATA gives "
            "another",
            train->run);
}

/* A step's loss depends much on its masks; a running mean shows where it goes. */
static void average_loss(run_state *run) {
    const double share = 1 / (double)(++run->losses < 50 ? run->losses : 50);
    run->loss += share * (run->report.loss - run->loss);
}

/* How far, loss, learning rate, speed, time left. */
static void write_progress(const run_state *run, char *buffer, size_t size) {
    const dlm_train_report *report = &run->report;
    char of[32] = "", rate[32], left[24];
    if (report->steps > 0) (void)snprintf(of, sizeof of, "/%zu", report->steps);
    write_count((uint64_t)report->tokens_per_second, rate, sizeof rate);
    write_clock(report->seconds_left, left, sizeof left);
    (void)snprintf(buffer, size, "step %zu%s  loss %.4f  lr %.2e  %s tokens/s  %s left", report->step, of,
                   run->loss, report->lr, rate, left);
}

/* The line redrawn on a terminal, at most ten times a second; elsewhere a plain one with each line of the
 * log. */
static void show_progress(run_state *run, bool finished) {
    const dlm_train_report *report = &run->report;
    char line[200], bar[17];
    write_progress(run, line, sizeof line);
    size_t every = run->settings->train.log_every;
    if (!shows_progress()) {
        if (finished || (every > 0 && report->step % every == 0)) say("%s", line);
        return;
    }
    if (!finished && seconds_now() - run->drawn_at < 0.1) return;
    run->drawn_at = seconds_now();
    write_bar(report->share, sizeof bar - 1, bar, sizeof bar);
    draw_status("%s %3.0f%%  %s", bar, 100 * report->share, line);
}

static void show_events(run_state *run) {
    const dlm_train_report *report = &run->report;
    if (report->evaluated) {
        run->evaluated = true;
        run->eval_ce = report->eval_ce;
        run->eval_ppl = report->eval_ppl;
        run->eval_nelbo = report->eval_nelbo;
        say("step %zu: held-out NELBO %.4f nats per token, cross-entropy %.4f, perplexity %.2f", report->step,
            report->eval_nelbo, report->eval_ce, report->eval_ppl);
    }
    if (report->sample != NULL && !run->settings->shared.quiet) {
        say("step %zu writes:", report->step);
        (void)write_text(stderr, isatty(STDERR_FILENO), report->sample, strlen(report->sample));
        (void)fputs("\n\n", stderr);
    }
    if (report->saved && run->settings->shared.verbose)
        say("step %zu: saved %s", report->step, report->checkpoint);
}

static json_t *describe(const run_state *run) {
    const dlm_train_report *report = &run->report;
    json_t *all = json_pack("{s:o, s:o, s:I, s:f, s:I, s:f, s:f}", "run", json_name(run->settings->train.run),
                            "checkpoint", json_name(report->checkpoint), "step", (json_int_t)report->step,
                            "epoch", report->epoch, "tokens", (json_int_t)report->tokens, "seconds",
                            report->seconds, "loss", report->loss);
    if (all == NULL || !run->evaluated) return all;
    (void)json_object_set_new(all, "eval_ce", json_number(run->eval_ce));
    (void)json_object_set_new(all, "eval_ppl", json_number(run->eval_ppl));
    (void)json_object_set_new(all, "eval_nelbo", json_number(run->eval_nelbo));
    return all;
}

/* What ends all ranks is told by the first; that one of them is gone, by each of the others. */
static int fail_together(const dlm_ranks *ranks, const dlm_error *err) {
    if (dlm_ranks_rank(ranks) > 0 && err->status != DLM_NETWORK) return EXIT_FAILED;
    return fail("%s", err->message);
}

static int stop(const run_state *run, int signal) {
    dlm_error err = {0};
    if (dlm_trainer_save(run->trainer, &err) != DLM_OK) return fail_together(run->ranks, &err);
    say("stopped after step %zu, all of it saved", run->report.step);
    if (!run->settings->shared.quiet && dlm_ranks_rank(run->ranks) == 0)
        print_resume(&run->settings->shared, run->ranks);
    return SIGNALLED + signal;
}

static int train_to_end(run_state *run) {
    bool finished = false;
    while (!finished) {
        dlm_error err = {0};
        if (dlm_trainer_step(run->trainer, &run->report, &finished, &err) != DLM_OK)
            return fail_together(run->ranks, &err);
        if (!run->report.stepped) {
            say("%s was complete already, after step %zu; --resume %s goes further", run->settings->train.run,
                run->report.step, run->report.steps > 0 ? "--steps N" : "--minutes X");
            break;
        }
        average_loss(run);
        show_events(run);
        show_progress(run, finished);
        int signal = stop_signal();
        if (dlm_ranks_max(run->ranks, &signal, &err) != DLM_OK) return fail_together(run->ranks, &err);
        if (signal != 0 && !finished) return stop(run, signal);
    }
    clear_status();
    if (run->settings->shared.json && dlm_ranks_rank(run->ranks) == 0) return print_json(describe(run));
    say("done: step %zu in %s\nwrite a text with:  %s generate -m %s", run->report.step,
        run->settings->train.run, run->settings->shared.program, run->settings->train.run);
    return EXIT_DONE;
}

static int train(const train_settings *settings, const char *data, dlm_ranks *ranks) {
    run_state run = {.settings = settings, .ranks = ranks};
    dlm_train_options train_options = settings->train;
    dlm_error err = {0};
    train_options.data = data;
    train_options.seed = settings->shared.seed;
    train_options.ranks = ranks;
    if (dlm_trainer_create(&train_options, &run.trainer, &err) != DLM_OK)
        return dlm_ranks_rank(ranks) > 0 ? fail_together(ranks, &err) : fail_with(&err);
    say_start(&run);
    int status = train_to_end(&run);
    dlm_trainer_free(run.trainer);
    return status;
}

/* Whether what was asked for can be begun; nothing is written. */
static int check_run(const train_settings *settings) {
    int status = check_usage(settings);
    if (status != EXIT_DONE) return status;
    const char *name = settings->train.run;
    if (!settings->train.resume && exists(name) && !is_empty_folder(name))
        return is_run(settings) ? fail("%s is already there; --resume goes on with it", name)
                                : fail("%s is already there, and is no run: give another name", name);
    if (settings->train.resume && !exists(name)) return fail("%s: there is no such run to resume", name);
    if (settings->recall.status != DLM_OK && settings->recall.status != DLM_NOT_FOUND)
        return fail("%s", settings->recall.message);
    /* First: under another recipe the other options have other bounds. */
    if (settings->shared.kept != NULL && settings->train.recipe != settings->recipe)
        return fail("%s goes on with other options than it began with: recipe was %s, is %s", name,
                    recipe_choices[settings->recipe], recipe_choices[settings->train.recipe]);
    dlm_error err = {0};
    return dlm_train_check(&settings->train, &err) == DLM_OK ? EXIT_DONE : fail_in_options(&err);
}

/* What rank 0 came to is what all come to; nobody goes on before. */
static int together(dlm_ranks *ranks, int status) {
    dlm_error err = {0};
    return dlm_ranks_max(ranks, &status, &err) == DLM_OK ? status : fail_together(ranks, &err);
}

/* Rank 0 alone looks at RUN and makes data of text; the others wait for it. */
static int run_on(const train_settings *settings, dlm_ranks *ranks) {
    const bool first = dlm_ranks_rank(ranks) == 0;
    int status = together(ranks, first ? check_run(settings) : EXIT_DONE);
    if (status != EXIT_DONE) return status;
    catch_signals();
    if (settings->train.data != NULL && settings->shared.n_operands == 0)
        return train(settings, settings->train.data, ranks);
    char *data = join(settings->train.run, "data");
    if (data == NULL) return EXIT_FAILED;
    status = together(ranks, first ? make_data(settings, data) : EXIT_DONE);
    if (status == EXIT_DONE)
        status = train(settings, data, ranks);
    else if (stop_signal() != 0 && first && !settings->shared.quiet)
        print_resume(&settings->shared, ranks);
    free(data);
    return status;
}

static int run(const void *given) {
    const train_settings *settings = given;
    dlm_ranks *ranks;
    dlm_error err = {0};
    if (dlm_ranks_open(&ranks, &err) != DLM_OK) return fail_with(&err);
    if (dlm_ranks_rank(ranks) > 0) be_quiet();
    if (dlm_ranks_size(ranks) > 1) {
        catch_signal(SIGUSR1);
        if (settings->shared.threads == 0) dlm_set_threads(dlm_ranks_threads(ranks));
    }
    const int status = run_on(settings, ranks);
    dlm_ranks_close(ranks);
    return status;
}

const command command_train = {
    .name = "train",
    .operands = "[FILE...]",
    .max_operands = SIZE_MAX,
    .summary = "trains a model",
    .description =
        "Trains a model on token shards (-d), or on text files: then a tokenizer is made in "
        "RUN/tokenizer and the shards in RUN/data first.\n\nRUN gets checkpoints, log.csv, "
        "TensorBoard event files and samples.txt. Ctrl-C and SIGTERM finish the step, save "
        "everything and say how to go on; the run then ends with the same bytes as one that was "
        "never stopped. A run that exists is only touched with --resume.\n\n"
        "A program that was built with MPI=1 trains in several processes: mpirun -np N diffusionlm "
        "train ... Then --threads is of each of them, and SIGUSR1 stops them like SIGTERM.",
    .example = "diffusionlm train stories.txt -o run --preset tiny --minutes 5",
    .options = options,
    .settings_size = sizeof(train_settings),
    .defaults = defaults,
    .adjust = adjust,
    .run = run,
};
