/* The bytes of a text file, decompressed where it begins as gzip or Zstandard do, whatever its name. */
#ifndef DLM_TEXT_INPUT_H
#define DLM_TEXT_INPUT_H

#include "base/base.h"

typedef struct dlm_input dlm_input;

/* path "-" is standard input. path must stay until close. */
dlm_status dlm__input_open(const char *path, dlm_input **input, dlm_error *err);

/* Up to n (> 0) more bytes of text; *got 0 at the end. Compressed data that is corrupt or cut off:
 * DLM_FORMAT. */
dlm_status dlm__input_read(dlm_input *input, char *text, size_t n, size_t *got, dlm_error *err);

/* Bytes of the file used so far: compressed ones where it is compressed. */
uint64_t dlm__input_used(const dlm_input *input);

/* "decompressed " where offsets in the text are not offsets in the file, else "". */
const char *dlm__input_kind(const dlm_input *input);

void dlm__input_close(dlm_input *input); /* accepts NULL */

#endif
