/* The test harness: the list of tests, what a failing check prints, and main. */
#include "check.h"

#include "base/base.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TESTS = 1000, FOLDERS = 200, SHOWN = 10 /* failures of one test that are printed */ };

static struct {
    const char *name;
    void (*body)(void);
} tests[TESTS];
static size_t count;
static const char *running;
static size_t failures; /* of the running test */
static bool skipped;
static char context[200];
static void **kept; /* freed at exit */
static size_t kept_count, kept_capacity;
static const char *folders[FOLDERS]; /* temporary ones, removed at exit */
static size_t folder_count;
static pid_t owner; /* only this process cleans up: forked children exit without */

static _Noreturn void give_up(const char *what) {
    printf("tests: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *keep(void *memory) {
    if (memory == NULL) give_up("memory");
    void **grown = dlm__grow(kept, &kept_capacity, kept_count + 1, sizeof *kept);
    if (grown == NULL) give_up("memory");
    kept = grown;
    return kept[kept_count++] = memory;
}

void check_register(const char *name, void (*body)(void)) {
    if (count == TESTS) give_up("more tests than check.c has room for");
    tests[count].name = name;
    tests[count++].body = body;
}

/* Counts a failure; true when it is to be printed. */
static bool failed(const char *file, int line, const char *text) {
    failures++;
    if (failures > SHOWN) return false;
    printf("%s:%d: %s: failed: %s", file, line, running, text);
    if (context[0] != 0) printf(" [%s]", context);
    return true;
}

bool check_true(bool held, const char *file, int line, const char *text) {
    if (!held && failed(file, line, text)) printf("\n");
    return held;
}

bool check_int(intmax_t got, intmax_t want, const char *file, int line, const char *text) {
    if (got == want) return true;
    if (failed(file, line, text)) printf(": %jd, not %jd\n", got, want);
    return false;
}

bool check_string(const char *got, const char *want, const char *file, int line, const char *text) {
    if (got != NULL && want != NULL && strcmp(got, want) == 0) return true;
    if (failed(file, line, text))
        printf(": \"%s\", not \"%s\"\n", got == NULL ? "(null)" : got, want == NULL ? "(null)" : want);
    return false;
}

bool check_memory(const void *got, const void *want, size_t bytes, const char *file, int line,
                  const char *text) {
    const unsigned char *a = got, *b = want;
    size_t i = 0;
    while (i < bytes && a[i] == b[i]) i++;
    if (i == bytes) return true;
    if (failed(file, line, text)) printf(": byte %zu of %zu is %02x, not %02x\n", i, bytes, a[i], b[i]);
    return false;
}

bool check_close(double got, double want, double tolerance, const char *file, int line, const char *text) {
    double difference = fabs(got - want);
    if (got == want || difference <= tolerance) return true;
    if (failed(file, line, text))
        printf(": %.9g, not %.9g: off by %.3g, allowed %.3g\n", got, want, difference, tolerance);
    return false;
}

bool check_all_close(const float *got, const float *want, size_t n, double tolerance, const char *file,
                     int line, const char *text) {
    size_t worst = n;
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = fabs((double)got[i] - (double)want[i]);
        if (got[i] == want[i] || difference <= tolerance) continue;
        bool finite = isfinite(difference);
        if (worst < n && finite && difference <= most) continue;
        worst = i;
        most = finite ? difference : INFINITY;
    }
    if (worst == n) return true;
    if (failed(file, line, text))
        printf(": element %zu of %zu is %.9g, not %.9g: off by %.3g, allowed %.3g\n", worst, n,
               (double)got[worst], (double)want[worst], most, tolerance);
    return false;
}

bool check_status(dlm_status got, dlm_status want, const dlm_error *err, const char *file, int line,
                  const char *text) {
    if (got == want && (got == DLM_OK || err == NULL || err->status == got)) return true;
    if (failed(file, line, text))
        printf(": status %d (%s), not %d (%s); message: %s\n", (int)got, dlm_status_text(got), (int)want,
               dlm_status_text(want), got == DLM_OK || err == NULL ? "(none)" : err->message);
    return false;
}

bool check_says(const dlm_error *err, const char *part, const char *file, int line) {
    if (strstr(err->message, part) != NULL) return true;
    if (failed(file, line, "message")) printf(": \"%s\" does not contain \"%s\"\n", err->message, part);
    return false;
}

void check_skip(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("note: %s skipped: ", running);
    (void)vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    skipped = true;
}

void check_context(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
}

const char *golden_dir(void) {
    const char *dir = getenv("GOLDEN");
    return dir != NULL && dir[0] != 0 ? dir : DLM_TEST_GOLDEN;
}

const char *shared_dir(void) {
    const char *dir = getenv("SHARED");
    return dir != NULL && dlm__is_dir(dir) ? dir : NULL;
}

const char *program_path(void) {
    const char *program = getenv("PROGRAM");
    return program != NULL && dlm__is_file(program) ? program : NULL;
}

const char *path_in(const char *dir, const char *name) {
    return keep(dlm__join(dir, name));
}

const char *golden_path(const char *name) {
    const char *slash = strrchr(name, '/');
    char *folder = keep(dlm__copy_bytes(name, slash == NULL ? 0 : (size_t)(slash - name)));
    const char *dir = golden_dir(), *shared = shared_dir();
    if (!dlm__is_dir(path_in(dir, folder)) && shared != NULL) dir = path_in(shared, "golden");
    const char *path = path_in(dir, name);
    return access(path, R_OK) == 0 ? path : NULL;
}

const char *temporary_dir(void) {
    const char *where = getenv("TMPDIR");
    char *dir = keep(dlm__join(where != NULL && where[0] != 0 ? where : "/tmp", "diffusionlm-test-XXXXXX"));
    if (folder_count == FOLDERS || mkdtemp(dir) == NULL) give_up(dir);
    return folders[folder_count++] = dir;
}

char *read_text(const char *path, size_t *bytes) {
    char *text;
    size_t size;
    if (dlm__read_file(path, SIZE_MAX / 2, &text, &size, NULL) != DLM_OK) return NULL;
    if (bytes != NULL) *bytes = size;
    return keep(text);
}

static void clean_up(void) {
    if (getpid() != owner) return;
    for (size_t i = 0; i < folder_count; i++) (void)dlm__remove_tree(folders[i], NULL);
    for (size_t i = 0; i < kept_count; i++) free(kept[i]);
    free(kept);
}

static bool wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], name) == 0) return true;
    }
    return argc <= 1;
}

int main(int argc, char **argv) {
    size_t passed = 0, lost = 0;
    owner = getpid();
    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* what was printed before a crash is seen */
    (void)atexit(clean_up);
    for (size_t i = 0; i < count; i++) {
        if (!wanted(tests[i].name, argc, argv)) continue;
        running = tests[i].name;
        failures = 0;
        skipped = false;
        context[0] = 0;
        tests[i].body();
        if (failures > SHOWN) printf("%s: %zu more failures\n", running, failures - SHOWN);
        if (failures > 0)
            lost++;
        else if (!skipped)
            passed++;
    }
    printf("%zu passed, %zu failed\n", passed, lost);
    return lost == 0 ? 0 : 1;
}
