/* How texts are sampled, as several commands ask for it: the option rows, and the list of banned tokens. */
#ifndef DLM_CLI_SAMPLING_H
#define DLM_CLI_SAMPLING_H

#include "options.h"

#include "diffusionlm.h"

typedef struct sampling_choice {
    dlm_sample_options options;
    const char *ban; /* the list of --ban, or NULL */
} sampling_choice;

extern const char *const order_choices[];     /* in the order of dlm_order */
extern const char *const reveal_choices[];    /* in the order of dlm_reveal */
extern const char *const corrector_choices[]; /* in the order of dlm_corrector */
extern const char *const remask_choices[];    /* in the order of dlm_remask */

#define SAMPLING_ROW(settings, at, field, ...) \
    OPTION_INNER_ROW(settings, at, sampling_choice, field, __VA_ARGS__)

/* Which tokens are drawn. */
#define DRAWING_ROWS(settings, at)                                                                           \
    SAMPLING_ROW(settings, at, options.temperature, .name = "temperature", .kind = OPTION_REAL,              \
                 .argument = "X", .min = 0, .max = 100,                                                      \
                 .help = "how freely tokens are drawn; 0: always the most probable one"),                    \
        SAMPLING_ROW(settings, at, options.top_k, .name = "top-k", .kind = OPTION_SIZE, .argument = "N",     \
                     .min = 1, .max = 1 << 24, .word = "off", .word_value = 0,                               \
                     .help = "draw from the N most probable tokens only"),                                   \
        SAMPLING_ROW(settings, at, options.top_p, .name = "top-p", .kind = OPTION_REAL, .argument = "X",     \
                     .min = 1e-6, .max = 1,                                                                  \
                     .help = "draw from the fewest tokens that have this share of the probability; 1: off"), \
        SAMPLING_ROW(settings, at, options.min_p, .name = "min-p", .kind = OPTION_REAL, .argument = "X",     \
                     .min = 0, .max = 1,                                                                     \
                     .help =                                                                                 \
                         "draw only tokens at least X times as probable as the most probable one; 0: off"),  \
        SAMPLING_ROW(settings, at, options.repetition_penalty, .name = "repetition-penalty",                 \
                     .kind = OPTION_REAL, .argument = "X", .min = 0.001, .max = 1000,                        \
                     .help = "make tokens that the text has already less probable (above 1); 1: off"),       \
        SAMPLING_ROW(settings, at, ban, .name = "ban", .kind = OPTION_TEXT, .argument = "LIST",              \
                     .help =                                                                                 \
                         "tokens never drawn: words that are one token each, or #ID, separated by commas")

/* How many positions a step reveals. */
#define REVEAL_ROWS(settings, at)                                                                           \
    SAMPLING_ROW(settings, at, options.steps, .name = "steps", .kind = OPTION_SIZE, .argument = "N",        \
                 .min = 1, .max = 1e6, .word = "auto", .word_value = 0,                                     \
                 .help = "steps from all masks to none; auto: as many as there are tokens"),                \
        SAMPLING_ROW(settings, at, options.reveal, .name = "reveal", .kind = OPTION_CHOICE,                 \
                     .choices = reveal_choices,                                                             \
                     .help =                                                                                \
                         "how many positions a step reveals: few at first and many at last, or always as "  \
                         "many"),                                                                           \
        SAMPLING_ROW(settings, at, options.reveals_per_step, .name = "reveals", .kind = OPTION_SIZE,        \
                     .argument = "N", .min = 1, .max = 65536, .word = "auto", .word_value = 0,              \
                     .help = "reveal so many positions in each step; auto: by --steps and --reveal"),       \
        SAMPLING_ROW(settings, at, options.confidence_threshold, .name = "confidence-threshold",            \
                     .kind = OPTION_REAL, .argument = "X", .min = 0, .max = 1, .word = "off",               \
                     .word_value = -1,                                                                      \
                     .help = "instead reveal in each step every token at least this probable"),             \
        SAMPLING_ROW(settings, at, options.entropy_bound, .name = "entropy-bound", .kind = OPTION_REAL,     \
                     .argument = "X", .min = 0, .max = 1e6, .word = "off", .word_value = -1,                \
                     .help = "instead reveal in each step the positions of the lowest entropy while their " \
                             "sum is at most X nats")

/* What is masked again. */
#define REMASK_ROWS(settings, at)                                                                           \
    SAMPLING_ROW(settings, at, options.corrector_frac, .name = "corrector-frac", .kind = OPTION_REAL,       \
                 .argument = "X", .min = 0, .max = 1,                                                       \
                 .help = "the share of revealed tokens that a correction hides and draws anew; 0: none"),   \
        SAMPLING_ROW(settings, at, options.corrector_every, .name = "corrector-every", .kind = OPTION_SIZE, \
                     .argument = "N", .min = 1, .max = 1e6, .help = "correct after every so many steps"),   \
        SAMPLING_ROW(settings, at, options.corrector_mode, .name = "corrector-mode", .kind = OPTION_CHOICE, \
                     .choices = corrector_choices, .help = "which tokens are corrected"),                   \
        SAMPLING_ROW(settings, at, options.remask, .name = "remask", .kind = OPTION_CHOICE,                 \
                     .choices = remask_choices,                                                             \
                     .help = "hide revealed tokens again on the way, as ReMDM does; makes the order "       \
                             "ancestral"),                                                                  \
        SAMPLING_ROW(settings, at, options.eta, .name = "eta", .kind = OPTION_REAL, .argument = "X",        \
                     .min = 0, .max = 1, .word = "auto", .word_value = -1,                                  \
                     .help = "with --remask: how much is hidden again; auto: 0.02, of conf 1")

/* A default that depends on another option: remasking is part of the order ancestral. */
void adjust_sampling(sampling_choice *choice);

/* Turns the list of --ban into choice->options.banned, which *bans owns: the caller frees it, whatever is
 * returned. EXIT_DONE, or said what is no token. */
int read_bans(sampling_choice *choice, const dlm_model *model, int32_t **bans);

#endif
