/* eval --samples: statistics of texts that a model wrote, beside those of held-out documents. */
#ifndef DLM_CLI_EVAL_SAMPLES_H
#define DLM_CLI_EVAL_SAMPLES_H

#include "options.h"
#include "sample_texts.h"

typedef struct samples_choice {
    const char *path;  /* NULL: a model is measured, no samples */
    const char *train; /* DATA, or NULL */
    int format;        /* in samples_format_choices */
} samples_choice;

#define SAMPLES_ROWS(settings, at)                                                                          \
    OPTION_INNER_ROW(settings, at, samples_choice, path, .name = "samples", .kind = OPTION_TEXT,            \
                     .argument = "FILE",                                                                    \
                     .help = "measure the texts in FILE instead, as generate writes them, with or without " \
                             "--json; needs no MODEL"),                                                     \
        OPTION_INNER_ROW(settings, at, samples_choice, format, .name = "format", .kind = OPTION_CHOICE,     \
                         .choices = samples_format_choices,                                                 \
                         .help = "of these texts, as other commands read text; auto: jsonl where the "      \
                                 "file begins with {, else separated"),                                     \
        OPTION_INNER_ROW(settings, at, samples_choice, train, .name = "train-data", .kind = OPTION_TEXT,    \
                         .argument = "DATA",                                                                \
                         .help = "the shards that the model was trained on: how much of these texts is "    \
                                 "copied from them")

/* Only the options that the samples need may be given with them; and theirs only with them. EXIT_DONE, or
 * said what does not go. */
int check_samples_options(const command *what, const void *settings, const samples_choice *samples);

/* model may be NULL; data names the held-out documents. */
int eval_samples(const common *shared, const samples_choice *samples, const char *model, const char *data);

#endif
