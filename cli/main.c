/* diffusionlm: the command. Finds the command that was asked for, reads its options, runs it. */
#include "help.h"
#include "options.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int usage(const char *about, const char *message) {
    (void)fail("%s", message);
    if (about == NULL)
        say("'diffusionlm --help' lists the commands");
    else
        say("'diffusionlm %s --help' lists its options", about);
    return EXIT_USAGE;
}

static int run(const command *what, const void *settings) {
    const common *shared = settings;
    if (shared->help) {
        print_command(what);
        return flush_output();
    }
    if (shared->quiet) be_quiet();
    dlm_set_threads(shared->threads);
    if (shared->verbose) {
        char threads[24] = "all";
        if (shared->threads > 0) (void)snprintf(threads, sizeof threads, "%zu", shared->threads);
        say("diffusionlm %s, %s, %s, threads: %s", dlm_version(), dlm_backend(), dlm_instruction_set(),
            threads);
    }
    double start = seconds_now();
    int status = what->run(settings);
    clear_status();
    if (shared->verbose) say("%.2f s", seconds_now() - start);
    return status == EXIT_DONE ? flush_output() : status;
}

/* n words behind the program's name. */
static int run_words(const char *program, size_t n, char *const *words) {
    if (n == 0) {
        print_overview();
        (void)flush_output();
        return EXIT_USAGE;
    }
    bool help = strcmp(words[n - 1], "--help") == 0 || strcmp(words[n - 1], "-h") == 0;
    if (strcmp(words[0], "--version") == 0) {
        printf("diffusionlm %s\n", dlm_version());
        return flush_output();
    }
    if (n == 1 && help) {
        print_overview();
        return flush_output();
    }
    if (n == 2 && help && print_group(words[0])) return flush_output();
    parse_error error;
    size_t used;
    const command *what = find_command(n, words, &used, &error);
    if (what == NULL) return usage(NULL, error.message);
    void *settings = calloc(1, what->settings_size);
    if (settings == NULL) return fail("out of memory");
    int status = EXIT_USAGE;
    if (parse_arguments(what, n - used, words + used, settings, &error)) {
        ((common *)settings)->program = program;
        status = run(what, settings);
    } else {
        (void)usage(what->name, error.message);
    }
    parse_free(settings);
    free(settings);
    return status;
}

/* The OpenMP runtime lets threads that wait spin, by default for milliseconds. Where anything else runs, that
 * costs many times what it gains: they should soon sleep. What the user has set stays.
 *
 * GCC's runtime asks for its settings, by getenv, while it is loaded: before main, and before anything that
 * could set a variable in time. So it is this function that it asks. */
#define SPIN_COUNT "1000"

extern char **environ;

__attribute__((visibility("default"))) char *getenv(const char *name) {
    static char count[] = SPIN_COUNT;
    const size_t n = strlen(name);
    for (char **entry = environ; n > 0 && entry != NULL && *entry != NULL; entry++)
        if (strncmp(*entry, name, n) == 0 && (*entry)[n] == '=') return *entry + n + 1;
    return strcmp(name, "GOMP_SPINCOUNT") == 0 && getenv("OMP_WAIT_POLICY") == NULL ? count : NULL;
}

/* Clang's reads the environment when it is first called, and counts in milliseconds. */
static void let_threads_sleep(void) {
    if (getenv("OMP_WAIT_POLICY") == NULL) (void)setenv("KMP_BLOCKTIME", "0", 0);
}

int main(int argc, char **argv) {
    let_threads_sleep();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)setlocale(LC_CTYPE, "C.UTF-8"); /* for the widths of characters */
    return argc > 0 ? run_words(argv[0], (size_t)argc - 1, argv + 1) : EXIT_USAGE;
}
