/* Messages, the status line, signals and the cursor. */
#include "terminal.h"

#include <errno.h>
#include <poll.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { STATUS_BYTES = 400, BAR_WIDTH = 24 };

static bool quiet;
static bool status_drawn;
static volatile sig_atomic_t stop;
static volatile sig_atomic_t cursor_hidden, resumed;
static void (*clear_drawn)(void *user);
static void *drawn;

/* ---- messages ----------------------------------------------------------------------------------------- */

void be_quiet(void) {
    quiet = true;
}

static void print_line(const char *before, const char *format, va_list values) {
    clear_status();
    if (clear_drawn != NULL) clear_drawn(drawn);
    (void)fputs(before, stderr);
    (void)vfprintf(stderr, format, values);
    (void)fputc('\n', stderr);
}

void say(const char *format, ...) {
    if (quiet) return;
    va_list values;
    va_start(values, format);
    print_line("", format, values);
    va_end(values);
}

/* Bytes of the control character at the start of n bytes of UTF-8, 0 when it is none: those of ASCII, and
 * U+0080 to U+009F, which some terminals obey too. */
static size_t control_bytes(const char *text, size_t n) {
    unsigned char c = (unsigned char)text[0], next = n > 1 ? (unsigned char)text[1] : 0;
    if (c == 0xC2 && next >= 0x80 && next < 0xA0) return 2;
    return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
}

bool write_text(FILE *file, bool terminal, const char *text, size_t n) {
    static const char replacement[] = "\uFFFD";
    if (!terminal) return fwrite(text, 1, n, file) == n;
    for (size_t i = 0, bytes; i<n; i += bytes> 0 ? bytes : 1) {
        bytes = control_bytes(text + i, n - i);
        if ((bytes > 0 ? fputs(replacement, file) : putc(text[i], file)) == EOF) return false;
    }
    return true;
}

int fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    print_line("diffusionlm: ", format, values);
    va_end(values);
    return EXIT_FAILED;
}

int fail_with(const dlm_error *err) {
    if (stop != 0) {
        (void)fail("stopped; nothing is left half-written");
        return stop_status();
    }
    return fail("%s", err->message[0] != 0 ? err->message : dlm_status_text(err->status));
}

int fail_in_options(const dlm_error *err) {
    const int status = fail_with(err);
    return status == EXIT_FAILED && err->status == DLM_ARGUMENT ? EXIT_USAGE : status;
}

/* Has the reader of standard output left? Asked where an earlier write failed, whose reason the C library
 * does not keep. */
static bool reader_left(void) {
    struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

int flush_output(void) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_DONE;
    const int code = errno;
    if (code == EPIPE || (code == 0 && reader_left())) return EXIT_FAILED;
    return fail("standard output: %s", code != 0 ? strerror(code) : "writing failed");
}

/* ---- signals ------------------------------------------------------------------------------------------ */

static const char hide_sequence[] = "\033[?25l", show_sequence[] = "\033[0m\033[?25h";

/* Only what POSIX allows in a handler. */
static void write_sequence(const char *sequence, size_t n) {
    ssize_t written = write(STDOUT_FILENO, sequence, n);
    (void)written;
}

static void on_stop(int number) {
    if (stop == 0) {
        stop = number;
        return;
    }
    if (cursor_hidden) write_sequence(show_sequence, sizeof show_sequence - 1);
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

/* Ends the program as it would end without us, or puts it to sleep, but with a cursor. */
static void on_default(int number) {
    write_sequence(show_sequence, sizeof show_sequence - 1);
    (void)signal(number, SIG_DFL);
    (void)raise(number); /* pending until this handler returns, then the process sleeps */
}

static void on_continue(int number) {
    (void)number;
    if (!cursor_hidden) return;
    resumed = 1;
    struct sigaction action = {.sa_handler = on_default, .sa_flags = SA_RESTART};
    (void)sigaction(SIGTSTP, &action, NULL);
    write_sequence(hide_sequence, sizeof hide_sequence - 1);
}

/* SA_RESTART: a signal must not make the write of a checkpoint fail. */
static void handle(int number, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    (void)sigaction(number, &action, NULL);
}

void catch_signals(void) {
    handle(SIGINT, on_stop);
    handle(SIGTERM, on_stop);
    struct sigaction before;
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) handle(SIGHUP, on_stop);
}

void catch_signal(int number) {
    handle(number, on_stop);
}

int stop_signal(void) {
    return (int)stop;
}

int stop_status(void) {
    return 128 + (int)stop;
}

/* ---- progress ----------------------------------------------------------------------------------------- */

bool shows_progress(void) {
    return !quiet && can_redraw(STDERR_FILENO);
}

/* Bytes of text that fit in `columns`; all of it is ASCII but for what library messages quote. */
static size_t cut(const char *text, size_t columns) {
    size_t n = strlen(text);
    if (n <= columns) return n;
    n = columns;
    while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    return n;
}

void draw_status(const char *format, ...) {
    if (!shows_progress()) return;
    char text[STATUS_BYTES];
    va_list values;
    va_start(values, format);
    (void)vsnprintf(text, sizeof text, format, values);
    va_end(values);
    size_t columns, rows;
    terminal_size(STDERR_FILENO, &columns, &rows);
    (void)fprintf(stderr, "\r%.*s\033[K", (int)cut(text, columns - 1), text);
    (void)fflush(stderr);
    status_drawn = true;
}

void clear_status(void) {
    if (!status_drawn) return;
    (void)fputs("\r\033[K", stderr);
    (void)fflush(stderr);
    status_drawn = false;
}

double seconds_now(void) {
    struct timespec time = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void write_bar(double share, size_t width, char *buffer, size_t size) {
    if (!(share > 0)) share = 0;
    size_t filled = share >= 1 ? width : (size_t)(share * (double)width), n = 0;
    for (size_t i = 0; i < width && n + 1 < size; i++) buffer[n++] = i < filled ? '#' : '.';
    buffer[n] = 0;
}

void write_clock(double seconds, char *buffer, size_t size) {
    if (!(seconds >= 0) || seconds > 1e9) {
        (void)snprintf(buffer, size, "--:--");
        return;
    }
    unsigned long whole = (unsigned long)lround(seconds), hours = whole / 3600, minutes = whole / 60 % 60;
    if (hours > 0)
        (void)snprintf(buffer, size, "%lu:%02lu:%02lu", hours, minutes, whole % 60);
    else
        (void)snprintf(buffer, size, "%02lu:%02lu", minutes, whole % 60);
}

void write_count(uint64_t value, char *buffer, size_t size) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    size_t at = 0;
    for (int i = 0; i < n && at + 2 < size; i++) {
        if (i > 0 && (n - i) % 3 == 0) buffer[at++] = ',';
        buffer[at++] = digits[i];
    }
    buffer[at] = 0;
}

bool draw_progress(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    (void)user;
    char bar[BAR_WIDTH + 1], elapsed[24], left[24], rate[32];
    write_clock(seconds, elapsed, sizeof elapsed);
    write_count(seconds > 0 ? (uint64_t)((double)done / seconds) : 0, rate, sizeof rate);
    if (total == 0) {
        char count[32];
        write_count(done, count, sizeof count);
        draw_status("%s  %s, %s a second, %s", stage, count, rate, elapsed);
    } else {
        double share = (double)done / (double)total;
        write_bar(share, BAR_WIDTH, bar, sizeof bar);
        write_clock(done > 0 ? seconds * (1 / share - 1) : -1, left, sizeof left);
        draw_status("%s  %s %3.0f%%  %s a second, %s left", stage, bar, 100 * share, rate, left);
    }
    return stop != 0;
}

/* ---- the screen --------------------------------------------------------------------------------------- */

void terminal_size(int descriptor, size_t *columns, size_t *rows) {
    struct winsize size = {0};
    bool known = ioctl(descriptor, TIOCGWINSZ, &size) == 0;
    *columns = known && size.ws_col > 0 ? size.ws_col : 80;
    *rows = known && size.ws_row > 0 ? size.ws_row : 24;
}

bool can_redraw(int descriptor) {
    const char *kind = getenv("TERM");
    return isatty(descriptor) && (kind == NULL || strcmp(kind, "dumb") != 0);
}

void hide_cursor(void) {
    cursor_hidden = 1;
    handle(SIGTSTP, on_default);
    handle(SIGQUIT, on_default);
    handle(SIGCONT, on_continue);
    write_sequence(hide_sequence, sizeof hide_sequence - 1);
}

void show_cursor(void) {
    if (!cursor_hidden) return;
    cursor_hidden = 0;
    (void)signal(SIGTSTP, SIG_DFL);
    (void)signal(SIGQUIT, SIG_DFL);
    (void)signal(SIGCONT, SIG_DFL);
    write_sequence(show_sequence, sizeof show_sequence - 1);
}

bool was_resumed(void) {
    const bool was = resumed != 0;
    resumed = 0;
    return was;
}

void before_messages(void (*clear)(void *user), void *user) {
    clear_drawn = clear;
    drawn = user;
}
