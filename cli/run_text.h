/* RUN/text.json: what text the tokenizer and the shards of a run are made of, and how it is read. */
#ifndef DLM_CLI_RUN_TEXT_H
#define DLM_CLI_RUN_TEXT_H

#include "texts.h"

#define RUN_TEXT_FILE "text.json"

typedef struct run_text {
    const char *const *files; /* (n) */
    size_t n;
    const text_choice *choice;
    size_t vocab_size; /* of the tokenizer to be made of it; 0: there is one */
} run_text;

/* Which parts of a run_text are to be as they were; the others were not asked for. Files always are. */
typedef struct run_text_asked {
    bool format, field, invalid, vocab_size;
} run_text_asked;

/* Written whole or not at all. EXIT_DONE, or said why not. */
int run_text_write(const char *path, const run_text *text);
/* EXIT_DONE where `now` is what the file tells; else says what of `run` differs, or what is wrong with the
 * file. Files are known by their sizes, so that they may be moved and renamed; one that is gone is taken as
 * it was. */
int run_text_same(const char *run, const char *path, const run_text *now, run_text_asked asked);

#endif
