/* What the tables of options.h say, in four forms: the help on a terminal, the manual page, and completions
 * for three shells. All write to standard output. */
#ifndef DLM_CLI_HELP_H
#define DLM_CLI_HELP_H

#include "options.h"

/* The list of commands: all, or those of a group ("tokenizer"); false when there is no such group. */
void print_overview(void);
bool print_group(const char *group);
void print_command(const command *what);

/* A settings struct with the defaults of a command, freed by free(); NULL without memory. */
void *default_settings(const command *what);

/* The synopsis after the program's name, as in "generate -m MODEL [options]", in buffer. */
void write_synopsis(const command *what, char *buffer, size_t size);
/* What an option's value is called, or its choices: "N|auto", "cosine|linear", "" for a flag. */
void write_argument(const option *what, char *buffer, size_t size);

/* manual.c: the manual page in man(7) form. */
void print_manual(void);

/* completion.c */
extern const char *const shells[]; /* "bash", "zsh", "fish", NULL */
void print_completion(int shell);

#endif
