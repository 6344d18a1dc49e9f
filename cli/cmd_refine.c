/* refine: remasks parts of given texts and draws them anew. */
#include "commands.h"

#include "texts.h"
#include "samples.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <stdlib.h>
#include <string.h>

typedef struct refine_settings {
    common shared;
    model_choice model;
    text_choice text;
    dlm_refine_options refine;
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
    TEXT_ROWS(refine_settings, text),
    WATCH_ROWS(refine_settings, watch),
    OPTION_ROW(refine_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print a line of JSON for each text, with its ids"),
    {0}};

/* Adds a text to the batch; its end token, where the model knows one, stays where it is. number counts the
 * texts from 1, for messages. */
static int add_text(batch *sequences, const dlm_model *model, const char *text, size_t bytes, size_t number) {
    dlm_error err = {0};
    int32_t *ids;
    size_t n;
    if (dlm_tokenizer_encode(dlm_model_tokenizer(model), text, bytes, false, &ids, &n, &err) != DLM_OK)
        return fail("text %zu: %s", number, err.message);
    bool ends = end_id(model) >= 0;
    size_t length = n + ends, most = dlm_model_config(model)->max_seq_len;
    int status = EXIT_DONE;
    if (length > most)
        status = fail("text %zu has %zu tokens%s, and the model takes at most %zu; a shorter text goes",
                      number, length, ends ? " with its end" : "", most);
    else if (n == 0)
        status = fail("text %zu is empty", number);
    size_t at = status == EXIT_DONE ? add_sequence(sequences, length) : SIZE_MAX;
    if (at != SIZE_MAX) {
        memcpy(sequences->ids + at, ids, n * sizeof *ids);
        if (ends) {
            sequences->ids[at + n] = end_id(model);
            sequences->fixed[at + n] = 1;
        }
    } else {
        status = EXIT_FAILED;
    }
    dlm_free(ids);
    return status;
}

/* Fills the batch with the next texts; it stays empty at the end of them. */
static int read_batch(dlm_documents *documents, const dlm_model *model, size_t at_once, size_t done,
                      batch *sequences) {
    clear_batch(sequences);
    int status = EXIT_DONE;
    while (sequences->n < at_once && status == EXIT_DONE) {
        dlm_error err = {0};
        const char *text;
        size_t bytes;
        if (dlm_documents_next(documents, &text, &bytes, &err) != DLM_OK) return fail_with(&err);
        if (text == NULL) break;
        status = add_text(sequences, model, text, bytes, done + sequences->n + 1);
    }
    return status;
}

static int refine(const refine_settings *settings, dlm_documents *documents, writer *to) {
    const dlm_model *model = to->model;
    batch sequences = {0};
    dlm_refine_options how = settings->refine;
    how.seed = settings->shared.seed;
    how.on_step = on_step;
    how.user = to;
    size_t at_once = to->shown != NULL ? 1 : sequences_at_once(model, dlm_model_config(model)->max_seq_len);
    int status;
    while ((status = read_batch(documents, model, at_once, to->done, &sequences)) == EXIT_DONE &&
           sequences.n > 0) {
        dlm_error err = {0};
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

static int run(const void *given) {
    const refine_settings *settings = given;
    writer to;
    dlm_documents *documents = NULL;
    size_t n;
    const char *const *paths = paths_or_stdin(&settings->shared, &n);
    int status = open_writer(&to, &command_refine, &settings->shared, &settings->model, &settings->watch);
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
        "what generate writes can be piped in.",
    .example = "diffusionlm generate -m run | diffusionlm refine -m run --passes 4",
    .options = options,
    .settings_size = sizeof(refine_settings),
    .defaults = defaults,
    .run = run,
};
