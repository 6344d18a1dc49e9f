#include "command.h"

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGUMENTS = 60, RUNNING = 4 };

/* The commands that run, and the files their output goes to. */
static struct {
    pid_t process;
    const char *out, *err;
} running[RUNNING];

static _Noreturn void give_up(const char *what) {
    printf("tests: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* In the child: the command in place of the test. Signals as a shell would leave them. */
static _Noreturn void become_command(const char *const *arguments) {
    const char *words[ARGUMENTS] = {program_path()};
    for (size_t i = 0; arguments[i] != NULL && i + 2 < ARGUMENTS; i++) words[i + 1] = arguments[i];
    if (words[0] == NULL) _exit(127);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)execv(words[0], (char *const *)words);
    _exit(127);
}

static void redirect(const char *path, int flags, int descriptor) {
    int file = open(path, flags, 0600);
    if (file < 0 || dup2(file, descriptor) < 0) _exit(126);
    (void)close(file);
}

static pid_t start(const char *input, const char *const *arguments) {
    static unsigned runs;
    char name[32];
    size_t slot = 0;
    while (slot < RUNNING && running[slot].process != 0) slot++;
    if (slot == RUNNING) give_up("too many commands run");
    const char *dir = temporary_dir();
    (void)snprintf(name, sizeof name, "out.%u", runs++);
    running[slot].out = path_in(dir, name);
    running[slot].err = path_in(dir, "err");
    (void)fflush(stdout);
    pid_t process = fork();
    if (process < 0) give_up("fork");
    if (process == 0) {
        redirect(input, O_RDONLY, 0);
        redirect(running[slot].out, O_WRONLY | O_CREAT | O_TRUNC, 1);
        redirect(running[slot].err, O_WRONLY | O_CREAT | O_TRUNC, 2);
        become_command(arguments);
    }
    running[slot].process = process;
    return process;
}

static int exit_status(pid_t process) {
    int status;
    while (waitpid(process, &status, 0) < 0)
        if (errno != EINTR) give_up("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

outcome wait_command(pid_t command) {
    size_t slot = 0;
    while (slot < RUNNING && running[slot].process != command) slot++;
    if (slot == RUNNING) give_up("no such command");
    outcome result = {.status = exit_status(command)};
    running[slot].process = 0;
    size_t bytes;
    result.out = read_text(running[slot].out, &result.bytes);
    result.err = read_text(running[slot].err, &bytes);
    if (result.out == NULL || result.err == NULL) give_up("output of a command");
    return result;
}

pid_t start_command(const char *const *arguments) {
    return start("/dev/null", arguments);
}

outcome run_command(const char *input, size_t bytes, const char *const *arguments) {
    const char *path = path_in(temporary_dir(), "in");
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(input, 1, bytes, file) != bytes || fclose(file) != 0)
        give_up("input of a command");
    return wait_command(start(path, arguments));
}

/* Opens both ends of a new terminal. */
static int open_terminal(size_t columns, size_t rows, char *name, size_t size) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0) give_up("a pseudo terminal");
    (void)snprintf(name, size, "%s", ptsname(terminal));
    struct winsize shape = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    (void)ioctl(terminal, TIOCSWINSZ, &shape);
    return terminal;
}

/* All that the terminal shows, until the command has closed it. */
static char *read_terminal(int terminal, const char *type_at, char typed, size_t *bytes) {
    size_t capacity = 1 << 16;
    char *all = malloc(capacity + 1);
    *bytes = 0;
    while (all != NULL) {
        if (capacity - *bytes < 4096) {
            char *grown = realloc(all, 2 * capacity + 1);
            if (grown == NULL) break;
            all = grown;
            capacity *= 2;
        }
        ssize_t n = read(terminal, all + *bytes, capacity - *bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break; /* EIO when the other end is closed */
        *bytes += (size_t)n;
        all[*bytes] = 0;
        if (type_at != NULL && strstr(all, type_at) != NULL) {
            if (write(terminal, &typed, 1) != 1) give_up("typing");
            type_at = NULL;
        }
    }
    if (all == NULL) give_up("memory");
    all[*bytes] = 0;
    return all;
}

outcome run_on_terminal(size_t columns, size_t rows, const char *type_at, char typed,
                        const char *const *arguments) {
    char name[64];
    int terminal = open_terminal(columns, rows, name, sizeof name);
    (void)fflush(stdout);
    pid_t process = fork();
    if (process < 0) give_up("fork");
    if (process == 0) {
        (void)close(terminal);
        (void)setsid();
        int end = open(name, O_RDWR); /* becomes the terminal of the new session */
        if (end < 0) _exit(126);
        (void)ioctl(end, TIOCSCTTY, 0);
        for (int i = 0; i < 3; i++)
            if (dup2(end, i) < 0) _exit(126);
        if (end > 2) (void)close(end);
        (void)setenv("TERM", "xterm", 1);
        become_command(arguments);
    }
    outcome result = {.err = ""};
    char *shown = read_terminal(terminal, type_at, typed, &result.bytes);
    result.status = exit_status(process);
    (void)close(terminal);
    /* kept as every text of a test is */
    const char *path = path_in(temporary_dir(), "shown");
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(shown, 1, result.bytes, file) != result.bytes || fclose(file) != 0)
        give_up("what a terminal showed");
    free(shown);
    result.out = read_text(path, &result.bytes);
    return result;
}

_Bool check_status_is(outcome got, int status, const char *file, int line) {
    if (check_int(got.status, status, file, line, "exit status")) return true;
    printf("    it said: %s%s\n", got.err, got.err[0] == 0 ? got.out : "");
    return false;
}

_Bool check_fails(outcome got, int status, const char *text, const char *file, int line) {
    bool right = check_int(got.status, status, file, line, "exit status");
    right = check_true(strstr(got.err, text) != NULL, file, line, text) && right;
    if (!right) printf("    it said: %s\n", got.err);
    return right;
}
