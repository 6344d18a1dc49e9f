/* What is given of the texts that a model writes: prompt, suffix, template, length, with the option rows for
 * it.
 */
#ifndef DLM_CLI_DRAFTS_H
#define DLM_CLI_DRAFTS_H

#include "options.h"

#include "diffusionlm.h"

typedef struct draft_choice {
    const char *prompt, *suffix, *pattern; /* pattern: of --template */
    size_t length;                         /* 0: drawn from the model's histogram, or by the template */
    size_t tries, context;                 /* as in dlm_fill_options */
} draft_choice;

#define DRAFT_ROW(settings, at, field, ...) OPTION_INNER_ROW(settings, at, draft_choice, field, __VA_ARGS__)

#define DRAFT_ROWS(settings, at)                                                                             \
    DRAFT_ROW(settings, at, length, .name = "length", .kind = OPTION_SIZE, .argument = "N", .min = 1,        \
              .max = 65536, .word = "auto", .word_value = 0,                                                 \
              .help = "tokens of a text, past the model's own length too; auto: drawn from the lengths of "  \
                      "the texts it was trained on"),                                                        \
        DRAFT_ROW(settings, at, prompt, .name = "prompt", .kind = OPTION_TEXT, .argument = "TEXT",           \
                  .help = "how each text begins"),                                                           \
        DRAFT_ROW(settings, at, suffix, .name = "suffix", .kind = OPTION_TEXT, .argument = "TEXT",           \
                  .help = "how each text ends"),                                                             \
        DRAFT_ROW(settings, at, pattern, .name = "template", .kind = OPTION_TEXT, .argument = "TEXT",        \
                  .help = "all of a text, with masks to fill in: [MASK] for one token, [MASK:8] for 8, "     \
                          "[MASK:20-60] for as many as suit best"),                                          \
        DRAFT_ROW(settings, at, tries, .name = "tries", .kind = OPTION_SIZE, .argument = "N", .min = 1,      \
                  .max = 1000, .word = "auto", .word_value = 0,                                              \
                  .help =                                                                                    \
                      "write each text so many times and keep the likeliest; auto: 8 for templates with "    \
                      "a choice of lengths, else 1"),                                                        \
        DRAFT_ROW(settings, at, context, .name = "context", .kind = OPTION_SIZE, .argument = "N", .min = 1,  \
                  .max = 65536, .word = "auto", .word_value = 0,                                             \
                  .help = "past the model's own length: how many tokens of the earlier text it sees; auto: " \
                          "half of what it takes")

/* The template that the choice stands for, NULL when nothing is given. EXIT_DONE, or said why not. */
int read_draft(const draft_choice *choice, const dlm_model *model, dlm_template **draft);

#endif
