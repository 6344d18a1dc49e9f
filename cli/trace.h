/* The steps of sampling as JSON lines: docs/formats.md says what they hold. */
#ifndef DLM_CLI_TRACE_H
#define DLM_CLI_TRACE_H

#include "options.h"

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct trace trace;

/* Begins a file, which is written beside `path` and takes its name when it is closed; "-" is standard output,
 * and what is no regular file is written to as it is. Only an earlier trace, or an empty file, is replaced.
 * EXIT_DONE, or said why not. */
int trace_open(const char *path, trace **steps);
/* The first line: the model, and the command with its settings, which begin with a `common`. */
void trace_begin(trace *steps, const dlm_model *model, const command *what, const common *settings);
/* A line for each sample that this step changed. */
void trace_step(trace *steps, const dlm_sample_step *step);
/* The last line of a sample; candidate: -1, or which one of several was kept; text may be NULL. */
void trace_sample(trace *steps, size_t index, int candidate, const int32_t *ids, size_t n, const char *text,
                  size_t bytes);
/* Could something not be written? Nothing more is then tried. */
bool trace_failed(const trace *steps);
/* Ends the file, or with keep false removes it. EXIT_DONE, or said what could not be written. Accepts NULL.
 */
int trace_close(trace *steps, bool keep);

#endif
