/* generate: samples texts. */
#include "commands.h"

#include "drafts.h"
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
    draft_choice draft;
    size_t count;
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
    DRAFT_ROWS(generate_settings, draft),
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

/* What is left of the time allowed, for the next n texts. */
static double time_for(const generate_settings *settings, double started, size_t done, size_t n) {
    const double least = 1e-3, most = settings->sampling.options.max_seconds;
    if (most <= 0) return 0;
    const double rest = (most - (seconds_now() - started)) * (double)n / (double)(settings->count - done);
    return rest > least ? rest : least;
}

/* How many texts are written at once: one where it is watched; their candidates count too. */
static size_t texts_at_once(const draft_choice *draft, const writer *to) {
    const size_t most = dlm_model_config(to->model)->max_seq_len;
    const size_t longest = draft->length > 0 && draft->length < most ? draft->length : most;
    const size_t n = sequences_at_once(to->model, longest) / (draft->tries > 0 ? draft->tries : 1);
    return to->shown != NULL || n == 0 ? 1 : n;
}

/* A dlm_progress that draws nothing. */
static bool is_stopped(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    (void)user;
    (void)stage;
    (void)done;
    (void)total;
    (void)seconds;
    return stop_signal() != 0;
}

static int write_texts(writer *to, const dlm_template *draft, const dlm_fill_options *fill, size_t n,
                       dlm_filled *filled, size_t *lengths) {
    dlm_error err = {0};
    int32_t *ids = NULL;
    begin_batch(to);
    const dlm_status status =
        dlm_fill(to->model, draft, fill, to->done, n, filled, &ids, &to->forwards, &err);
    for (size_t b = 0; b < n; b++) lengths[b] = filled[b].length;
    const batch sequences = {.n = n, .lengths = lengths, .ids = ids, .filled = filled};
    /* Stopped, there is nothing to write, but the display to be removed. */
    const int written =
        status == DLM_OK || status == DLM_CANCELLED ? write_batch(to, &sequences) : fail_in_options(&err);
    dlm_free(ids);
    return written;
}

static int generate(const generate_settings *settings, dlm_sample_options sample, const dlm_template *draft,
                    writer *to) {
    const double started = seconds_now();
    dlm_fill_options fill = dlm_fill_defaults();
    fill.sample = sample;
    fill.sample.seed = settings->shared.seed;
    fill.sample.on_step = on_step;
    fill.sample.user = to;
    fill.length = settings->draft.length;
    fill.tries = settings->draft.tries;
    fill.context = settings->draft.context;
    fill.at_once = to->shown != NULL;
    fill.progress = is_stopped;
    const size_t at_once = texts_at_once(&settings->draft, to);
    dlm_filled *filled = calloc(at_once, sizeof *filled);
    size_t *lengths = calloc(at_once, sizeof *lengths);
    if (filled == NULL || lengths == NULL) {
        free(filled);
        free(lengths);
        return fail("out of memory");
    }
    int status = EXIT_DONE;
    to->all = settings->count;
    while (to->done < settings->count && status == EXIT_DONE) {
        const size_t left = settings->count - to->done, n = left < at_once ? left : at_once;
        fill.sample.max_seconds = time_for(settings, started, to->done, n);
        status = write_texts(to, draft, &fill, n, filled, lengths);
    }
    free(filled);
    free(lengths);
    return status;
}

static int run(const void *given) {
    const generate_settings *settings = given;
    writer to;
    dlm_template *draft = NULL;
    sampling_choice sampling = settings->sampling;
    int32_t *bans = NULL;
    int status = open_writer(&to, &command_generate, &settings->shared, &settings->model, &settings->watch);
    if (status == EXIT_DONE) status = read_draft(&settings->draft, to.model, &draft);
    if (status == EXIT_DONE) status = read_bans(&sampling, to.model, &bans);
    if (status == EXIT_DONE) status = generate(settings, sampling.options, draft, &to);
    free(bans);
    dlm_template_free(draft);
    return close_writer(&to, status);
}

const command command_generate = {
    .name = "generate",
    .summary = "lets a model write texts",
    .description =
        "Samples texts: begins with nothing but masks around what is given, and reveals them step by step. "
        "Each text is followed by a line <|endoftext|>. The same --seed gives the same texts; text number i "
        "depends on the seed and i alone.\n\nWhat is given comes back as it stands. --prompt begins the "
        "text, "
        "--suffix ends it, --template is all of it with masks to fill in. A text of more tokens than the "
        "model "
        "takes (--length) is written block by block, each a continuation of what came before; it can end "
        "only in the last one.\n\nWith --json a line for each text: {\"text\", \"ids\", \"seed\", "
        "\"index\", \"forwards\", \"seconds\"}; the last two are of the batch that it was sampled in. Where "
        "several candidates were tried, \"nelbo_per_token\" is that of the one kept, in nats.",
    .example = "diffusionlm generate -m run -n 3 --prompt 'Once upon a time'",
    .options = options,
    .settings_size = sizeof(generate_settings),
    .defaults = defaults,
    .adjust = adjust,
    .run = run,
};
