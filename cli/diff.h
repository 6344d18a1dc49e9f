/* What a text became, in words. */
#ifndef DLM_CLI_DIFF_H
#define DLM_CLI_DIFF_H

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Writes the text of after (n) to standard output, with what it replaced of before (n): token i of one became
 * token i of the other, so no alignment need be searched for. Changes are shown by whole words:
 * [-old-]{+new+}, or in colours. n does not count the end of the text. terminal: it goes to one. EXIT_DONE,
 * or said why not.
 */
int write_diff(const dlm_model *model, const int32_t *before, const int32_t *after, size_t n, bool terminal);

#endif
