/* The command line as tables: what a command is called, which options it has, where their values go.
 *
 * An option is a row that names a field of its command's settings by offset. The parser writes that field,
 * the help, the manual and the completions read the same row, and a default is shown by reading the field
 * after the command filled its settings: none of them can disagree with another. A settings struct begins
 * with a `common`. */
#ifndef DLM_CLI_OPTIONS_H
#define DLM_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum option_kind {
    OPTION_FLAG,   /* bool, set by its mention */
    OPTION_SIZE,   /* size_t */
    OPTION_WHOLE,  /* uint64_t */
    OPTION_REAL,   /* double */
    OPTION_CHOICE, /* int, or an enum: the place of the value in `choices` */
    OPTION_TEXT,   /* const char * */
    OPTION_TEXTS   /* text_list: the option may stand several times, in commands without `adjust` */
} option_kind;

enum { TEXT_LIST_MAX = 64 };
typedef struct text_list {
    size_t n;
    const char *items[TEXT_LIST_MAX];
} text_list;

typedef struct option {
    const char *name;           /* without its dashes */
    const char *argument;       /* what the help calls the value; not for flags and choices */
    size_t offset;              /* of the field in the settings */
    double min, max;            /* of numbers; both are allowed */
    const char *const *choices; /* ends with NULL */
    const char *word;           /* a word that stands for the number `word_value`, or NULL */
    double word_value;
    const char *help;
    option_kind kind; /* says what type the field has */
    char letter;      /* 0: none */
    bool required;
    size_t again; /* of a text: where a second one goes, which commands without `adjust` may take; 0: the last
                     counts */
} option;

/* Rows of a table: OPTION_ROW(generate_settings, sample.steps, "steps", OPTION_SIZE, "N", .min = 1, ...). */
#define OPTION_ROW(settings, field, ...) \
    { .offset = offsetof(settings, field), __VA_ARGS__ }
/* The same of a field of type `inner` in the settings, which has a field of its own. */
#define OPTION_INNER_ROW(settings, field, inner, own, ...) \
    { .offset = offsetof(settings, field) + offsetof(inner, own), __VA_ARGS__ }

#define OPTION_SEED_MAX    9007199254740991.0 /* 2^53 - 1: every JSON reader keeps it exactly */
#define OPTION_COUNT_MAX   1e9
#define OPTION_THREADS_MAX 4096

/* What every command has. */
typedef struct common {
    uint64_t seed;
    size_t threads; /* 0: all processors */
    bool quiet, verbose, json, help;
    const char **operands; /* what is not an option, in order */
    size_t n_operands;
    uint64_t given;      /* bit i: row i of the command's options stood among the arguments */
    void *kept;          /* what settings point into, of the library's memory: freed with them */
    const char *program; /* as it was called, and what followed the command's name */
    char *const *arguments;
    size_t n_arguments;
} common;

typedef struct command {
    const char *name;     /* "generate", or of two words: "tokenizer train" */
    const char *operands; /* as in "FILE...", NULL: takes none */
    size_t min_operands, max_operands;
    const char *summary;     /* for lists: one line without full stop */
    const char *description; /* paragraphs, separated by an empty line */
    const char *example;     /* one command line */
    const option *options;   /* ends with a row without a name */
    size_t settings_size;
    void (*defaults)(void *settings); /* settings come zeroed */
    /* NULL, or: given settings that hold defaults and then the arguments, fills in the defaults that depend
     * on an argument; the arguments are then applied again. */
    void (*adjust)(void *settings);
    int (*run)(const void *settings); /* returns the exit status */
} command;

/* All commands, in the order of the help; ends with a row without a name. */
extern const command *const commands[];
/* What every command has besides its own. */
extern const option common_options[];

typedef struct parse_error {
    char message[400]; /* a sentence without full stop */
} parse_error;

/* Fills settings (settings_size zeroed bytes) from n arguments that follow the command's name. The operands
 * array holds pointers into arguments and is freed by parse_free. False: error says why. With --help among
 * the arguments the rest is not looked at. */
bool parse_arguments(const command *what, size_t n, char *const *arguments, void *settings,
                     parse_error *error);
void parse_free(void *settings);
/* Did the option of that name stand among the arguments, whatever its value? For commands of at most 64. */
bool was_given(const command *what, const void *settings, const char *name);

/* The command that the first words of n arguments name; *used gets how many words that took. NULL: error says
 * why. */
const command *find_command(size_t n, char *const *arguments, size_t *used, parse_error *error);

/* The option's value in settings as text, in buffer (size bytes); false when it stands for nothing that could
 * be typed. */
bool option_value(const option *what, const void *settings, char *buffer, size_t size);

/* The nearest of the names to a mistyped word, or NULL when none is near. next(state, i) gives name i, NULL
 * at the end. */
typedef const char *(*name_at)(const void *state, size_t i);
const char *nearest_name(const char *word, name_at next, const void *state);

#endif
