/* What `prepare` and `train FILE...` share: making a DATA folder and telling about it. */
#ifndef DLM_CLI_PREPARE_H
#define DLM_CLI_PREPARE_H

#include "texts.h"

#include "diffusionlm.h"

/* Encodes n files into the new folder `data`, with a progress bar. EXIT_DONE, or said why not. */
int prepare_data(const char *const *paths, size_t n, const text_choice *text, const dlm_tokenizer *tokenizer,
                 const char *data, dlm_prepare_options prepare, dlm_data_info *info);

/* The summary of a DATA folder, in one line. */
void say_data(const char *path, const dlm_data_info *info);

#endif
