/* Every command; each is defined in the file of its name, cmd_*.c. */
#ifndef DLM_CLI_COMMANDS_H
#define DLM_CLI_COMMANDS_H

#include "options.h"

extern const command command_tokenizer_train, command_tokenizer_encode, command_tokenizer_decode,
    command_tokenizer_info, command_prepare, command_train, command_eval, command_generate, command_refine,
    command_score, command_convert, command_info, command_download, command_bench, command_help;

#endif
