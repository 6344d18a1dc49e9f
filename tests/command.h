/* Runs the built command the way a shell, a signal or a terminal does. */
#ifndef DLM_TESTS_COMMAND_H
#define DLM_TESTS_COMMAND_H

#include <stddef.h>
#include <sys/types.h>

typedef struct outcome {
    int status;      /* the exit status, or minus the signal that ended it */
    const char *out; /* standard output, or all that a terminal showed; with a 0 behind it */
    size_t bytes;
    const char *err; /* standard error; "" where that is the terminal */
} outcome;

/* The command with these arguments (NULL at the end) and input on its standard input. */
outcome run_command(const char *input, size_t bytes, const char *const *arguments);
#define RUN(...)           run_command("", 0, (const char *const[]){__VA_ARGS__, NULL})
#define RUN_ON(input, ...) run_command((input), strlen(input), (const char *const[]){__VA_ARGS__, NULL})

/* Runs in the background until it is waited for, so that a test can send signals. */
pid_t start_command(const char *const *arguments);
outcome wait_command(pid_t command);

/* On a terminal of that size. When it has shown `type_at` (NULL: never), the byte `typed` is typed, such as
 * Ctrl-C, 3. */
outcome run_on_terminal(size_t columns, size_t rows, const char *type_at, char typed,
                        const char *const *arguments);

/* The rest of a run that a test expects to succeed: prints what it said when it did not. */
#define CHECK_DONE(outcome) check_status_is((outcome), 0, __FILE__, __LINE__)
/* It ended with this status and said `text` on standard error. */
#define CHECK_FAILS(outcome, status, text) check_fails((outcome), (status), (text), __FILE__, __LINE__)
_Bool check_status_is(outcome got, int status, const char *file, int line);
_Bool check_fails(outcome got, int status, const char *text, const char *file, int line);

#endif
