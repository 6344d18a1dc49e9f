/* The list of all commands, and the options that all of them have. */
#include "commands.h"

const command *const commands[] = {
    &command_tokenizer_train,
    &command_tokenizer_encode,
    &command_tokenizer_decode,
    &command_tokenizer_info,
    &command_prepare,
    &command_train,
    &command_eval,
    &command_score,
    &command_generate,
    &command_refine,
    &command_convert,
    &command_info,
    &command_download,
    &command_bench,
    &command_help,
    NULL,
};

const option common_options[] = {
    OPTION_ROW(common, seed, .name = "seed", .kind = OPTION_WHOLE, .argument = "N", .max = OPTION_SEED_MAX,
               .help = "where random numbers start: the same seed repeats a run"),
    OPTION_ROW(common, threads, .name = "threads", .kind = OPTION_SIZE, .argument = "N",
               .max = OPTION_THREADS_MAX, .help = "threads to use; 0: one for each processor"),
    OPTION_ROW(common, quiet, .name = "quiet", .letter = 'q', .kind = OPTION_FLAG,
               .help = "say nothing on standard error but failures"),
    OPTION_ROW(common, verbose, .name = "verbose", .letter = 'v', .kind = OPTION_FLAG,
               .help = "also say which machine code runs, on how many threads, and how long it took"),
    OPTION_ROW(common, help, .name = "help", .letter = 'h', .kind = OPTION_FLAG, .help = "show this"),
    {0}};
