/* Parts of a text that stay as they are. */
#ifndef DLM_CLI_SPANS_H
#define DLM_CLI_SPANS_H

#include "options.h"

#include "diffusionlm.h"

/* Sets fixed (n) to 1 at the tokens of ids (n) that have a byte of any occurrence of any span in text, which
 * they were encoded from, with `added` spaces put before it (they belong to a span at its begin). number
 * counts the texts from 1. EXIT_DONE, or said which span does not occur. */
int keep_spans(const text_list *spans, const dlm_tokenizer *tokenizer, const char *text, size_t bytes,
               size_t added, const int32_t *ids, size_t n, size_t number, uint8_t *fixed);

#endif
