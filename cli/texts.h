/* Text files as several commands read them, with the option rows for it. */
#ifndef DLM_CLI_TEXTS_H
#define DLM_CLI_TEXTS_H

#include "options.h"

#include "diffusionlm.h"

typedef struct text_choice {
    int format; /* of dlm_text_format */
    const char *field;
    int invalid; /* in invalid_choices */
} text_choice;

extern const char *const format_choices[];  /* in the order of dlm_text_format */
extern const char *const invalid_choices[]; /* error, replace */

#define TEXT_ROWS(settings, at)                                                                         \
    OPTION_INNER_ROW(                                                                                   \
        settings, at, text_choice, format, .name = "format", .kind = OPTION_CHOICE,                     \
        .choices = format_choices,                                                                      \
        .help = "where a document ends: at lines <|endoftext|>, at line ends, with the JSON object of " \
                "a line, with its file"),                                                               \
        OPTION_INNER_ROW(settings, at, text_choice, field, .name = "field", .kind = OPTION_TEXT,        \
                         .argument = "NAME", .help = "with jsonl: the field that holds the document"),  \
        OPTION_INNER_ROW(settings, at, text_choice, invalid, .name = "invalid", .kind = OPTION_CHOICE,  \
                         .choices = invalid_choices, .help = "what to do about bytes that are not UTF-8")

text_choice text_choice_defaults(void);

/* The operands, or standard input when there are none; *n gets how many. They belong to settings. */
const char *const *paths_or_stdin(const common *settings, size_t *n);
dlm_text_options text_options(const text_choice *choice);
/* Opens n files as documents of that form. EXIT_DONE, or said why not. */
int open_documents(const char *const *paths, size_t n, const text_choice *choice, dlm_documents **documents);

#endif
