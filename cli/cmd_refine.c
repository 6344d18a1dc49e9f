/* refine: remasks parts of given texts and draws them anew. */
#include "commands.h"

#include "samples.h"
#include "spans.h"
#include "terminal.h"
#include "texts.h"

#include "diffusionlm.h"

#include <stdlib.h>
#include <string.h>

typedef struct refine_settings {
    common shared;
    model_choice model;
    text_choice text;
    dlm_refine_options refine;
    text_list keep;
    bool diff;
    watch_choice watch;
} refine_settings;

static void defaults(void *settings) {
    refine_settings *all = settings;
    *all = (refine_settings){.model.options = dlm_model_defaults(),
                             .text = text_choice_defaults(),
                             .refine = dlm_refine_defaults(),
                             .watch = watch_choice_defaults()};
    all->shared.seed = all->refine.seed;
}

static const option options[] = {
    MODEL_ROWS(refine_settings, model),
    OPTION_ROW(refine_settings, refine.passes, .name = "passes", .kind = OPTION_SIZE, .argument = "N",
               .min = 1, .max = 1e6, .help = "how many times a part of the text is hidden and drawn anew"),
    OPTION_ROW(refine_settings, refine.frac, .name = "frac", .kind = OPTION_REAL, .argument = "X",
               .min = 1e-6, .max = 1, .help = "the share of tokens that a pass hides"),
    OPTION_ROW(refine_settings, refine.temperature, .name = "temperature", .kind = OPTION_REAL,
               .argument = "X", .min = 0, .max = 100,
               .help = "how freely tokens are drawn; 0: always the most probable one"),
    OPTION_ROW(refine_settings, refine.low_confidence, .name = "low-confidence", .kind = OPTION_FLAG,
               .help = "hide the tokens that the model is least sure of, instead of any"),
    OPTION_ROW(refine_settings, keep, .name = "keep", .kind = OPTION_TEXTS, .argument = "TEXT",
               .help =
                   "a part of the text that stays as it is, wherever it stands; may be given several times"),
    OPTION_ROW(refine_settings, refine.context, .name = "context", .kind = OPTION_SIZE, .argument = "N",
               .min = 1, .max = 65536, .word = "auto", .word_value = 0,
               .help = "of a text longer than the model takes, how many tokens around a part of it are seen "
                       "while that is refined; auto: half of what it takes"),
    OPTION_ROW(refine_settings, diff, .name = "diff", .kind = OPTION_FLAG,
               .help = "show what changed: [-old-]{+new+}, in colours on a terminal"),
    TEXT_ROWS(refine_settings, text),
    WATCH_ROWS(refine_settings, watch),
    OPTION_ROW(refine_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print a line of JSON for each text, with its ids"),
    {0}};

/* The ids of a text, which begins with the space that encoding adds (*added: 1) even where it has one of its
 * own, so that this one comes back. */
static dlm_status encode(const dlm_tokenizer *tokenizer, const char *text, size_t bytes, size_t *added,
                         int32_t **ids, size_t *n, dlm_error *err) {
    *added = bytes > 0 && dlm_tokenizer_describe(tokenizer).add_prefix_space;
    if (*added == 0 || text[0] != ' ')
        return dlm_tokenizer_encode(tokenizer, text, bytes, false, ids, n, err);
    char *spaced = malloc(bytes + 1);
    if (spaced == NULL) {
        *err = (dlm_error){.status = DLM_MEMORY, .message = "out of memory"};
        return DLM_MEMORY;
    }
    spaced[0] = ' ';
    memcpy(spaced + 1, text, bytes);
    const dlm_status status = dlm_tokenizer_encode(tokenizer, spaced, bytes + 1, false, ids, n, err);
    free(spaced);
    return status;
}

/* Adds a text to the batch; its end token, where the model knows one, stays where it is. number counts the
 * texts from 1, for messages. */
static int add_text(batch *sequences, const refine_settings *settings, const dlm_model *model,
                    const char *text, size_t bytes, size_t number) {
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    dlm_error err = {0};
    int32_t *ids;
    size_t n, added;
    if (encode(tokenizer, text, bytes, &added, &ids, &n, &err) != DLM_OK)
        return fail("text %zu: %s", number, err.message);
    const bool ends = end_id(model) >= 0;
    int status = n > 0 ? EXIT_DONE : fail("text %zu is empty", number);
    const size_t at = status == EXIT_DONE ? add_sequence(sequences, n + ends) : SIZE_MAX;
    if (at == SIZE_MAX) {
        status = EXIT_FAILED;
    } else {
        memcpy(sequences->ids + at, ids, n * sizeof *ids);
        if (ends) {
            sequences->ids[at + n] = end_id(model);
            sequences->fixed[at + n] = 1;
        }
        status =
            keep_spans(&settings->keep, tokenizer, text, bytes, added, ids, n, number, sequences->fixed + at);
    }
    dlm_free(ids);
    return status;
}

/* Fills the batch with the next texts; it stays empty at the end of them. */
static int read_batch(dlm_documents *documents, const refine_settings *settings, const dlm_model *model,
                      size_t at_once, size_t done, batch *sequences) {
    clear_batch(sequences);
    int status = EXIT_DONE;
    while (sequences->n < at_once && status == EXIT_DONE) {
        dlm_error err = {0};
        const char *text;
        size_t bytes;
        if (dlm_documents_next(documents, &text, &bytes, &err) != DLM_OK) return fail_with(&err);
        if (text == NULL) break;
        status = add_text(sequences, settings, model, text, bytes, done + sequences->n + 1);
    }
    return status;
}

/* Keeps the ids as they are now beside what becomes of them. */
static int note_before(batch *sequences) {
    int32_t *before = realloc(sequences->before, (sequences->tokens + 1) * sizeof *before);
    if (before == NULL) return fail("out of memory");
    memcpy(before, sequences->ids, sequences->tokens * sizeof *before);
    sequences->before = before;
    return EXIT_DONE;
}

static int refine(const refine_settings *settings, dlm_documents *documents, writer *to) {
    const dlm_model *model = to->model;
    /* A text ends where it ended. */
    const int32_t end = dlm_tokenizer_describe(dlm_model_tokenizer(model)).end_id;
    batch sequences = {0};
    dlm_refine_options how = settings->refine;
    how.seed = settings->shared.seed;
    how.on_step = on_step;
    how.user = to;
    how.banned = &end;
    how.banned_n = end >= 0;
    to->diff = settings->diff;
    size_t at_once = to->shown != NULL ? 1 : sequences_at_once(model, dlm_model_config(model)->max_seq_len);
    int status;
    while ((status = read_batch(documents, settings, model, at_once, to->done, &sequences)) == EXIT_DONE &&
           sequences.n > 0) {
        dlm_error err = {0};
        if ((status = note_before(&sequences)) != EXIT_DONE) break;
        begin_batch(to);
        to->all = to->done + sequences.n;
        if (dlm_refine(model, &how, to->done, sequences.n, sequences.lengths, sequences.ids, sequences.fixed,
                       &err) != DLM_OK)
            status = fail_in_options(&err);
        else
            status = write_batch(to, &sequences);
        if (status != EXIT_DONE) break;
    }
    free_batch(&sequences);
    return status;
}

static int check_options(const refine_settings *settings) {
    if (settings->diff && settings->shared.json) {
        (void)fail("--diff and --json exclude each other: \"changed\" says it in JSON");
        return EXIT_USAGE;
    }
    if (settings->diff && settings->watch.trace != NULL && strcmp(settings->watch.trace, "-") == 0) {
        (void)fail("--trace - and --diff both write to standard output; --trace FILE goes with it");
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < settings->keep.n; i++) {
        if (settings->keep.items[i][0] != 0) continue;
        (void)fail("--keep is empty");
        return EXIT_USAGE;
    }
    return EXIT_DONE;
}

static int run(const void *given) {
    const refine_settings *settings = given;
    writer to = {0};
    dlm_documents *documents = NULL;
    size_t n;
    const char *const *paths = paths_or_stdin(&settings->shared, &n);
    int status = check_options(settings);
    if (status != EXIT_DONE) return status;
    status = open_writer(&to, &command_refine, &settings->shared, &settings->model, &settings->watch);
    if (status == EXIT_DONE && dlm_model_tokenizer(to.model) == NULL)
        status =
            fail("%s: there is no tokenizer beside this model; -t names one", dlm_model_source(to.model));
    if (status == EXIT_DONE) status = open_documents(paths, n, &settings->text, &documents);
    if (status == EXIT_DONE) status = refine(settings, documents, &to);
    dlm_documents_close(documents);
    return close_writer(&to, status);
}

const command command_refine = {
    .name = "refine",
    .operands = "[FILE...]",
    .max_operands = SIZE_MAX,
    .summary = "hides parts of given texts and lets a model draw them anew",
    .description =
        "Reads texts (standard input without FILE), hides in each pass a share of their tokens and lets the "
        "model draw them anew; the number of tokens stays. Each text is followed by a line <|endoftext|>, so "
        "what generate writes can be piped in. A text longer than the model takes is refined part by part, "
        "with "
        "what stands around it in sight.\n\nWith --json a line for each text, with the keys of generate and "
        "\"changed\": [position, id before, id after] of each token that became another.",
    .example = "diffusionlm generate -m run | diffusionlm refine -m run --passes 4",
    .options = options,
    .settings_size = sizeof(refine_settings),
    .defaults = defaults,
    .run = run,
};
