/* The model that several commands work with, with the option rows for it, and the words for what it is. */
#ifndef DLM_CLI_MODELS_H
#define DLM_CLI_MODELS_H

#include "options.h"

#include "diffusionlm.h"

typedef struct model_choice {
    const char *path;
    dlm_model_options options;
} model_choice;

extern const char *const preset_choices[];             /* in the order of dlm_preset */
extern const char *const weights_choices[];            /* in the order of dlm_weights */
extern const char *const precision_choices[];          /* in the order of dlm_precision */
extern const char *const training_precision_choices[]; /* the same, but for what nothing is trained in */
extern const char *const schedule_choices[];           /* in the order of dlm_schedule */
extern const char *const time_choices[];               /* in the order of dlm_time */
extern const char *const position_choices[];           /* in the order of dlm_position */
extern const char *const recipe_choices[];             /* in the order of dlm_recipe */

#define PRECISION_ROW(settings, at)                                                                         \
    OPTION_INNER_ROW(settings, at, model_choice, options.precision, .name = "precision",                    \
                     .kind = OPTION_CHOICE, .choices = precision_choices,                                   \
                     .help =                                                                                \
                         "of matrix products; auto is int8 for a model that is stored so, else bf16 where " \
                         "the processor multiplies it")

#define MODEL_PATH_ROW(settings, at, ...)                                                                   \
    OPTION_INNER_ROW(settings, at, model_choice, path, .name = "model", .letter = 'm', .kind = OPTION_TEXT, \
                     .argument = "MODEL", .required = true, __VA_ARGS__)
#define MODEL_ROWS(settings, at)                                                                          \
    MODEL_PATH_ROW(settings, at,                                                                          \
                   .help =                                                                                \
                       "a model folder, a run folder, a .pt or .safetensors file or a model of the Hub"), \
        MODEL_READING_ROWS(settings, at)
/* How it is read. */
#define MODEL_READING_ROWS(settings, at)                                                                \
    OPTION_INNER_ROW(settings, at, model_choice, options.tokenizer, .name = "tokenizer", .letter = 't', \
                     .kind = OPTION_TEXT, .argument = "DIR",                                            \
                     .help = "a tokenizer, or one of the Hub, instead of the one beside the model"),    \
        OPTION_INNER_ROW(settings, at, model_choice, options.weights, .name = "weights",                \
                         .kind = OPTION_CHOICE, .choices = weights_choices,                             \
                         .help = "the moving average of training, or the last weights"),                \
        PRECISION_ROW(settings, at),                                                                    \
        OPTION_INNER_ROW(settings, at, model_choice, options.schedule, .name = "schedule",              \
                         .kind = OPTION_CHOICE, .choices = schedule_choices,                            \
                         .help = "a masking schedule instead of the model's own"),                      \
        HEADS_ROW(settings, at)
/* The last thing to be known of a state dict without config. */
#define HEADS_ROW(settings, at)                                                                       \
    OPTION_INNER_ROW(settings, at, model_choice, options.heads, .name = "heads", .kind = OPTION_SIZE, \
                     .argument = "N", .min = 0, .max = OPTION_COUNT_MAX,                              \
                     .help =                                                                          \
                         "attention heads of a state dict that comes without config; 0: as the model says")

const char *precision_name(dlm_precision precision);

/* Loads it; EXIT_DONE, or said why not. */
int load_model(const model_choice *choice, dlm_model **model);

#endif
