/* generate: samples texts. */
#include "commands.h"

#include "samples.h"
#include "sampling.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct generate_settings {
    common shared;
    model_choice model;
    sampling_choice sampling;
    size_t count, length; /* length 0: drawn from the model's histogram */
    const char *prompt;
    watch_choice watch;
} generate_settings;

static void defaults(void *settings) {
    generate_settings *all = settings;
    *all = (generate_settings){.model.options = dlm_model_defaults(),
                               .sampling.options = dlm_sample_defaults(),
                               .count = 1,
                               .watch = watch_choice_defaults()};
    all->shared.seed = all->sampling.options.seed;
}

static void adjust(void *settings) {
    generate_settings *all = settings;
    adjust_sampling(&all->sampling);
}

static const option options[] = {
    MODEL_ROWS(generate_settings, model),
    OPTION_ROW(generate_settings, count, .name = "count", .letter = 'n', .kind = OPTION_SIZE, .argument = "N",
               .min = 1, .max = OPTION_COUNT_MAX, .help = "how many texts"),
    OPTION_ROW(generate_settings, length, .name = "length", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = 65536, .word = "auto", .word_value = 0,
               .help = "tokens of a text; auto: drawn from the lengths of the texts it was trained on"),
    OPTION_ROW(generate_settings, prompt, .name = "prompt", .kind = OPTION_TEXT, .argument = "TEXT",
               .help = "how each text begins"),
    OPTION_ROW(generate_settings, sampling.options.order, .name = "order", .kind = OPTION_CHOICE,
               .choices = order_choices, .help = "which positions are revealed first"),
    REVEAL_ROWS(generate_settings, sampling),
    DRAWING_ROWS(generate_settings, sampling),
    REMASK_ROWS(generate_settings, sampling),
    OPTION_ROW(generate_settings, sampling.options.guidance, .name = "guidance", .kind = OPTION_REAL,
               .argument = "X", .min = 0, .max = 1000,
               .help =
                   "with given text: how much more it counts than it would by itself; each pass is two then; "
                   "0: off"),
    OPTION_ROW(
        generate_settings, sampling.options.max_seconds, .name = "max-seconds", .kind = OPTION_REAL,
        .argument = "X", .min = 0.001, .max = 1e9, .word = "off", .word_value = 0,
        .help = "be done with all texts after this time, with fewer steps where need be; such texts do not "
                "repeat"),
    WATCH_ROWS(generate_settings, watch),
    OPTION_ROW(generate_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print a line of JSON for each text, with its ids"),
    {0}};

/* The ids that a text begins with. */
typedef struct prompt {
    int32_t *ids;
    size_t n;
} prompt;

static int read_prompt(const generate_settings *settings, const dlm_model *model, prompt *start) {
    if (settings->prompt == NULL) return EXIT_DONE;
    if (settings->prompt[0] == 0) {
        (void)fail("--prompt is empty");
        return EXIT_USAGE;
    }
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    if (tokenizer == NULL)
        return fail("--prompt needs a tokenizer, and there is none beside %s; -t names one",
                    dlm_model_source(model));
    dlm_error err = {0};
    dlm_status read = dlm_tokenizer_encode(tokenizer, settings->prompt, strlen(settings->prompt), false,
                                           &start->ids, &start->n, &err);
    return read == DLM_OK ? EXIT_DONE : fail("--prompt: %s", err.message);
}

/* Do length and prompt fit the model and each other? */
static int check_lengths(const generate_settings *settings, const dlm_model *model, const prompt *start) {
    size_t most = dlm_model_config(model)->max_seq_len;
    if (settings->length > most)
        return fail("--length %zu: the model takes at most %zu tokens", settings->length, most);
    size_t room = settings->length > 0 ? settings->length : most;
    if (start->n >= room)
        return fail("--prompt has %zu tokens and leaves nothing to write: %s %zu", start->n,
                    settings->length > 0 ? "--length is" : "the model takes at most", room);
    return EXIT_DONE;
}

/* The length of text `index`: given, or drawn until it is longer than the prompt. */
static size_t choose_length(const generate_settings *settings, const dlm_model *model, const prompt *start,
                            size_t index) {
    enum { TRIES = 1000 };
    if (settings->length > 0) return settings->length;
    for (uint64_t i = 0; i < TRIES; i++) {
        size_t length = dlm_sample_length(model, settings->shared.seed + i, index);
        if (length > start->n) return length;
    }
    return dlm_model_config(model)->max_seq_len;
}

/* Adds text `index` to the batch, all masks behind the prompt. */
static int add_text(batch *sequences, const dlm_model *model, const prompt *start, size_t length) {
    size_t at = add_sequence(sequences, length);
    if (at == SIZE_MAX) return EXIT_FAILED;
    for (size_t i = 0; i < length; i++) {
        bool given = i < start->n;
        sequences->ids[at + i] = given ? start->ids[i] : mask_id(model);
        sequences->fixed[at + i] = given;
    }
    return EXIT_DONE;
}

/* What is left of the time allowed, for the next n texts. */
static double time_for(const generate_settings *settings, double started, size_t done, size_t n) {
    const double least = 1e-3, most = settings->sampling.options.max_seconds;
    if (most <= 0) return 0;
    const double rest = (most - (seconds_now() - started)) * (double)n / (double)(settings->count - done);
    return rest > least ? rest : least;
}

static int generate(const generate_settings *settings, dlm_sample_options sample, const prompt *start,
                    writer *to) {
    const double started = seconds_now();
    const dlm_model *model = to->model;
    dlm_error err = {0};
    batch sequences = {0};
    sample.seed = settings->shared.seed;
    sample.on_step = on_step;
    sample.user = to;
    size_t longest = settings->length > 0 ? settings->length : dlm_model_config(model)->max_seq_len;
    size_t at_once = to->shown != NULL ? 1 : sequences_at_once(model, longest);
    int status = EXIT_DONE;
    to->all = settings->count;
    while (to->done < settings->count && status == EXIT_DONE) {
        clear_batch(&sequences);
        for (size_t i = to->done; i < settings->count && sequences.n < at_once && status == EXIT_DONE; i++)
            status = add_text(&sequences, model, start, choose_length(settings, model, start, i));
        if (status != EXIT_DONE) break;
        begin_batch(to);
        sample.max_seconds = time_for(settings, started, to->done, sequences.n);
        if (dlm_sample(model, &sample, to->done, sequences.n, sequences.lengths, sequences.ids,
                       sequences.fixed, NULL, &to->forwards, &err) != DLM_OK)
            status = fail_in_options(&err);
        else
            status = write_batch(to, &sequences);
    }
    free_batch(&sequences);
    return status;
}

static int run(const void *given) {
    const generate_settings *settings = given;
    writer to;
    prompt start = {0};
    sampling_choice sampling = settings->sampling;
    int32_t *bans = NULL;
    int status = open_writer(&to, &command_generate, &settings->shared, &settings->model, &settings->watch);
    if (status == EXIT_DONE) status = read_prompt(settings, to.model, &start);
    if (status == EXIT_DONE) status = check_lengths(settings, to.model, &start);
    if (status == EXIT_DONE) status = read_bans(&sampling, to.model, &bans);
    if (status == EXIT_DONE) status = generate(settings, sampling.options, &start, &to);
    free(bans);
    dlm_free(start.ids);
    return close_writer(&to, status);
}

const command command_generate = {
    .name = "generate",
    .summary = "lets a model write texts",
    .description =
        "Samples texts: begins with nothing but masks (after the prompt, if there is one) and reveals them "
        "step "
        "by step. Each text is followed by a line <|endoftext|>. The same --seed gives the same texts; text "
        "number i depends on the seed and i alone.\n\nWith --json a line for each text: {\"text\", \"ids\", "
        "\"seed\", \"index\", \"forwards\", \"seconds\"}; the last two are of the batch that it was sampled "
        "in.",
    .example = "diffusionlm generate -m run -n 3 --prompt 'Once upon a time'",
    .options = options,
    .settings_size = sizeof(generate_settings),
    .defaults = defaults,
    .adjust = adjust,
    .run = run,
};
