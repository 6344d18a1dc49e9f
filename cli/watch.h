/* A text redrawn in place on the terminal while its masks give way. */
#ifndef DLM_CLI_WATCH_H
#define DLM_CLI_WATCH_H

#include "diffusionlm.h"

#include <stdbool.h>

typedef struct watch watch;

/* For texts of a model with a tokenizer, drawn on standard output; NULL without memory. */
watch *watch_open(const dlm_model *model);
/* Removes what is drawn and gives the cursor back; the watch can be used for a next text. Accepts NULL. */
void watch_clear(watch *shown);
void watch_close(watch *shown);

/* A dlm_step_callback for one sequence (n 1), whose user is the watch: draws the text as it is, what is new
 * brighter, and waits as long as a frame should be seen. Lets a caught signal stop. */
bool watch_step(void *user, const dlm_sample_step *step);

#endif
