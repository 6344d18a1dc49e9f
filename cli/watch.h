/* A text redrawn in place on the terminal while its masks give way. */
#ifndef DLM_CLI_WATCH_H
#define DLM_CLI_WATCH_H

#include "options.h"

#include "diffusionlm.h"

#include <stdbool.h>

/* How the steps of sampling are to be seen, with the option rows for it. */
typedef struct watch_choice {
    bool watched;
    double fps;        /* frames a second at most; 0 or less: as they come */
    const char *trace; /* a file for the steps, or NULL */
} watch_choice;

#define WATCH_ROWS(settings, at)                                                                            \
    OPTION_INNER_ROW(settings, at, watch_choice, watched, .name = "watch", .kind = OPTION_FLAG,             \
                     .help = "on a terminal: show the text while it changes"),                              \
        OPTION_INNER_ROW(settings, at, watch_choice, fps, .name = "fps", .kind = OPTION_REAL,               \
                         .argument = "X", .max = 1000, .word = "max", .word_value = -1,                     \
                         .help = "with --watch: steps shown a second, at most; max: as fast as they come"), \
        OPTION_INNER_ROW(                                                                                   \
            settings, at, watch_choice, trace, .name = "trace", .kind = OPTION_TEXT, .argument = "FILE",    \
            .help = "write each step as a line of JSON; -: to standard output, instead of the texts")

watch_choice watch_choice_defaults(void);

typedef struct watch watch;

/* For texts of a model with a tokenizer, drawn on standard output; NULL without memory. */
watch *watch_open(const dlm_model *model, const watch_choice *choice);
/* Lets the last frame be seen, removes it and gives the cursor back; the watch can be used for a next text.
 * Accepts NULL. */
void watch_end(watch *shown);
/* Without that wait. */
void watch_close(watch *shown);

/* A dlm_step_callback for one sequence (n 1), whose user is the watch: waits until the frame before has been
 * seen long enough, then draws the text as it is. Lets a caught signal stop. Messages remove what is drawn.
 */
bool watch_step(void *user, const dlm_sample_step *step);

#endif
