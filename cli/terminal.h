/* What the commands say on standard error, how they show progress there, and the signals that stop them.
 *
 * There is one terminal and one set of signals, so this part alone of the program keeps its state in static
 * variables. */
#ifndef DLM_CLI_TERMINAL_H
#define DLM_CLI_TERMINAL_H

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* After this say() and progress are silent; failures still speak. */
void be_quiet(void);

/* A line on standard error. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
/* Writes text that a model made: where `terminal`, what would be read there as a control character (all but
 * line ends and tabs) becomes U+FFFD. False when writing failed. */
bool write_text(FILE *file, bool terminal, const char *text, size_t n);
/* "diffusionlm: " and the sentence, on standard error, and EXIT_FAILED. */
__attribute__((format(printf, 1, 2))) int fail(const char *format, ...);
/* The same of a failed library call; when a signal had asked to stop, says just that and gives its status. */
int fail_with(const dlm_error *err);
/* The same of a call whose arguments (DLM_ARGUMENT) are values of options: these are errors of usage. */
int fail_in_options(const dlm_error *err);

/* Sends out what was written to standard output. EXIT_DONE; or EXIT_FAILED said, without words when the
 * reader has left, as in `| head`. */
int flush_output(void);

/* SIGINT, SIGTERM and SIGHUP (unless ignored, as under nohup) from now on only ask to stop; the second kills.
 */
void catch_signals(void);
/* The same of one more signal. */
void catch_signal(int number);
/* The signal that asked to stop, or 0. */
int stop_signal(void);
/* The exit status of a command that such a signal stopped: 130 for SIGINT. */
int stop_status(void);

/* ---- progress ----------------------------------------------------------------------------------------- */

/* Is standard error a terminal that can redraw, and are we not quiet? */
bool shows_progress(void);
/* Redraws the status line: one line, cut to the terminal's width, replaced by the next, removed by whatever
 * is said next. Nothing unless shows_progress(). */
__attribute__((format(printf, 1, 2))) void draw_status(const char *format, ...);
void clear_status(void);

/* A dlm_progress that draws a bar and lets a caught signal cancel. user is not used. */
bool draw_progress(void *user, const char *stage, uint64_t done, uint64_t total, double seconds);
/* Seconds of a clock that only runs forward. */
double seconds_now(void);
/* A bar of `width` characters, filled by share 0 .. 1, in buffer. */
void write_bar(double share, size_t width, char *buffer, size_t size);
/* 03:07 or 1:02:03. */
void write_clock(double seconds, char *buffer, size_t size);
/* 1234567 as 1,234,567. */
void write_count(uint64_t value, char *buffer, size_t size);

/* ---- the screen --------------------------------------------------------------------------------------- */

/* Columns and rows of the terminal behind a file descriptor; 80 and 24 when unknown. */
void terminal_size(int descriptor, size_t *columns, size_t *rows);
/* Can text be redrawn in place there: a terminal, and not TERM=dumb? */
bool can_redraw(int descriptor);
/* Hides the cursor of the terminal on standard output until show_cursor(), also across Ctrl-Z and when a
 * signal ends the program. */
void hide_cursor(void);
void show_cursor(void);
/* Did the program sleep and go on (Ctrl-Z, fg) since this was last asked, with a hidden cursor? Then
 * something else was written below what it had drawn. */
bool was_resumed(void);
/* clear(user) is called before anything is said, to remove what is drawn; NULL: nothing is. */
void before_messages(void (*clear)(void *user), void *user);

#endif
