/* bench: how fast this machine is with a model. */
#include "commands.h"

#include "json.h"
#include "models.h"
#include "samples.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench_settings {
    common shared;
    model_choice model;
    size_t length; /* 0: as long as the model takes */
    double seconds;
} bench_settings;

static void defaults(void *settings) {
    *(bench_settings *)settings = (bench_settings){.model.options = dlm_model_defaults(), .seconds = 2};
}

static const option options[] = {
    MODEL_ROWS(bench_settings, model),
    OPTION_ROW(bench_settings, length, .name = "length", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = 65536, .word = "model", .word_value = 0,
               .help = "tokens of a sequence; model: as many as the model takes"),
    OPTION_ROW(bench_settings, seconds, .name = "seconds", .kind = OPTION_REAL, .argument = "X", .min = 0.01,
               .max = 3600, .help = "how long each line is measured"),
    OPTION_ROW(bench_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print each line as JSON"),
    {0}};

/* One line of the table: what is repeated, and how many tokens it deals with. */
typedef struct measure {
    const char *name;
    const dlm_model *model;
    size_t sequences, length;
    bool sample; /* a whole text, in as many steps as tokens, in place of one pass */
} measure;

typedef struct timing {
    double best, median; /* seconds of one repetition */
    size_t repetitions;
} timing;

/* One pass over masked sequences, or one batch of texts. */
static int repeat(const measure *what, batch *sequences, float *logits, const float *times) {
    dlm_error err = {0};
    for (size_t i = 0; i < sequences->tokens; i++) sequences->ids[i] = mask_id(what->model);
    dlm_status done;
    if (what->sample) {
        dlm_sample_options sample = dlm_sample_defaults();
        done = dlm_sample(what->model, &sample, 0, sequences->n, sequences->lengths, sequences->ids, NULL,
                          NULL, NULL, &err);
    } else {
        done = dlm_model_logits(what->model, sequences->ids, sequences->lengths, sequences->n, times, logits,
                                &err);
    }
    return done == DLM_OK ? EXIT_DONE : fail_with(&err);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Repeats for so many seconds, at least three times; the first is not counted. */
static int time_repetitions(const measure *what, batch *sequences, float *logits, const float *times,
                            double seconds, timing *result) {
    enum { REPETITIONS = 1000, LEAST = 3 };
    double taken[REPETITIONS], sum = 0;
    size_t n = 0;
    int status = repeat(what, sequences, logits, times);
    while (status == EXIT_DONE && n < REPETITIONS && (n < LEAST || sum < seconds)) {
        double start = seconds_now();
        status = repeat(what, sequences, logits, times);
        taken[n] = seconds_now() - start;
        sum += taken[n++];
        draw_status("%s, %zu x %zu: %zu times", what->name, what->sequences, what->length, n);
        if (stop_signal() == 0) continue;
        (void)fail("stopped");
        return stop_status();
    }
    clear_status();
    if (status != EXIT_DONE) return status;
    qsort(taken, n, sizeof *taken, by_size);
    *result = (timing){.best = taken[0], .median = taken[n / 2], .repetitions = n};
    return EXIT_DONE;
}

static int print_timing(const measure *what, const timing *result, bool json) {
    double tokens = (double)(what->sequences * what->length);
    const char *precision = precision_name(dlm_model_precision(what->model));
    if (json)
        return print_json(json_pack("{s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:I}", "what", what->name,
                                    "precision", precision, "sequences", (json_int_t)what->sequences,
                                    "length", (json_int_t)what->length, "seconds_best", result->best,
                                    "seconds_median", result->median, "tokens_per_second",
                                    tokens / result->median, "repetitions", (json_int_t)result->repetitions));
    char rate[32];
    write_count((uint64_t)(tokens / result->median), rate, sizeof rate);
    printf("%-10s %-5s %3zu x %-6zu %11.2f ms %11.2f ms %14s %6zu\n", what->name, precision, what->sequences,
           what->length, 1e3 * result->median, 1e3 * result->best, rate, result->repetitions);
    return flush_output();
}

static int run_measure(const bench_settings *settings, const measure *what) {
    batch sequences = {0};
    size_t vocab = dlm_model_config(what->model)->vocab_size;
    float *logits = NULL, *times = calloc(what->sequences, sizeof *times);
    int status = times == NULL ? fail("out of memory") : EXIT_DONE;
    for (size_t i = 0; i < what->sequences && status == EXIT_DONE; i++) {
        times[i] = 1; /* all is masked */
        if (add_sequence(&sequences, what->length) == SIZE_MAX) status = EXIT_FAILED;
    }
    if (status == EXIT_DONE && !what->sample) {
        logits = calloc(sequences.tokens, vocab * sizeof *logits);
        if (logits == NULL) status = fail("out of memory");
    }
    timing result;
    if (status == EXIT_DONE)
        status = time_repetitions(what, &sequences, logits, times, settings->seconds, &result);
    if (status == EXIT_DONE) status = print_timing(what, &result, settings->shared.json);
    free_batch(&sequences);
    free(logits);
    free(times);
    return status;
}

static int run(const void *given) {
    const bench_settings *settings = given;
    catch_signals();
    dlm_model *model;
    int status = load_model(&settings->model, &model);
    if (status != EXIT_DONE) return status;
    size_t longest = dlm_model_config(model)->max_seq_len,
           length = settings->length > 0 ? settings->length : longest;
    if (length > longest) status = fail("--length %zu: the model takes at most %zu tokens", length, longest);
    if (status == EXIT_DONE && !settings->shared.json) {
        printf("%s, %s\n", dlm_backend(), dlm_instruction_set());
        printf("%-10s %-5s %12s %14s %14s %14s %6s\n", "what", "", "texts x len", "median", "best",
               "tokens/s", "times");
    }
    const measure all[] = {{"forward", model, 1, length, false},
                           {"forward", model, 4, length, false},
                           {"forward", model, 16, length, false},
                           {"generate", model, 1, length, true},
                           {"generate", model, 4, length, true}};
    for (size_t i = 0; i < sizeof all / sizeof *all && status == EXIT_DONE; i++)
        status = run_measure(settings, &all[i]);
    dlm_model_free(model);
    return status;
}

const command command_bench = {
    .name = "bench",
    .summary = "how fast this machine runs a model",
    .description = "Times a model on this machine: one pass over 1, 4 and 16 sequences that are all masks, "
                   "and the sampling of "
                   "1 and of 4 whole texts, with one step for each token. The first repetition is not "
                   "counted; tokens per "
                   "second come from the median.",
    .example = "diffusionlm bench -m run --length 80",
    .options = options,
    .settings_size = sizeof(bench_settings),
    .defaults = defaults,
    .run = run,
};
