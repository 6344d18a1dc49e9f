/* The test harness: tests that register themselves, and checks that print the place and the values when they
 * fail.
 *
 *     TEST(addition) { CHECK_INT_EQ(1 + 1, 2); }
 *
 * One program per file, no main of its own. `program` runs all tests, `program NAME...` those named; the last
 * line is "N passed, N failed", and counts tests. Checks evaluate to whether they held, and the test goes on;
 * REQUIRE returns from the test, for what makes no sense without. Lines that start with "isa:" or "note:" are
 * shown by `make test`. */
#ifndef DLM_TESTS_CHECK_H
#define DLM_TESTS_CHECK_H

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEST(name)                                                   \
    static void test_##name(void);                                   \
    __attribute__((constructor)) static void register_##name(void) { \
        check_register(#name, test_##name);                          \
    }                                                                \
    static void test_##name(void)

#define CHECK(condition) check_true((condition), __FILE__, __LINE__, #condition)
#define CHECK_INT_EQ(got, want) \
    check_int((intmax_t)(got), (intmax_t)(want), __FILE__, __LINE__, #got " is " #want)
#define CHECK_STR_EQ(got, want) check_string((got), (want), __FILE__, __LINE__, #got " is " #want)
#define CHECK_MEM_EQ(got, want, bytes) \
    check_memory((got), (want), (bytes), __FILE__, __LINE__, #got " has the bytes of " #want)
/* |got - want| <= tolerance; NaN fails. */
#define CHECK_CLOSE(got, want, tolerance)                                               \
    check_close((double)(got), (double)(want), (double)(tolerance), __FILE__, __LINE__, \
                #got " is near " #want)
/* All n floats; the worst one is named. */
#define CHECK_ALL_CLOSE(got, want, n, tolerance) \
    check_all_close((got), (want), (n), (double)(tolerance), __FILE__, __LINE__, #got " is near " #want)
/* CHECK_OK(dlm_thing_load(path, &thing, &err), &err): prints the message when it failed. */
#define CHECK_OK(call, err)             check_status((call), DLM_OK, (err), __FILE__, __LINE__, #call)
#define CHECK_STATUS(call, status, err) check_status((call), (status), (err), __FILE__, __LINE__, #call)
/* The message of an error contains the text. */
#define CHECK_SAYS(err, text) check_says((err), (text), __FILE__, __LINE__)

#define REQUIRE(condition)             \
    do {                               \
        if (!CHECK(condition)) return; \
    } while (0)
#define REQUIRE_OK(call, err)             \
    do {                                  \
        if (!CHECK_OK(call, err)) return; \
    } while (0)
/* Ends the test, which then counts as neither passed nor failed. */
#define SKIP(...)                \
    do {                         \
        check_skip(__VA_ARGS__); \
        return;                  \
    } while (0)

void check_register(const char *name, void (*body)(void));
bool check_true(bool held, const char *file, int line, const char *text);
bool check_int(intmax_t got, intmax_t want, const char *file, int line, const char *text);
bool check_string(const char *got, const char *want, const char *file, int line, const char *text);
bool check_memory(const void *got, const void *want, size_t bytes, const char *file, int line,
                  const char *text);
bool check_close(double got, double want, double tolerance, const char *file, int line, const char *text);
bool check_all_close(const float *got, const float *want, size_t n, double tolerance, const char *file,
                     int line, const char *text);
bool check_status(dlm_status got, dlm_status want, const dlm_error *err, const char *file, int line,
                  const char *text);
bool check_says(const dlm_error *err, const char *part, const char *file, int line);
__attribute__((format(printf, 1, 2))) void check_skip(const char *format, ...);
/* In loops: said with each failing check until the next call or the end of the test; "" for nothing. */
__attribute__((format(printf, 1, 2))) void check_context(const char *format, ...);

/* What makes the environment of a test: each ends the program with a message when it cannot. Strings belong
 * to the harness. */

/* The folder of the fixtures: $GOLDEN, or where the build unpacks them. */
const char *golden_dir(void);
/* A fixture by its name in that folder, as "tiny/model.safetensors". A folder that is not in it is looked for
 * in shared_dir()/golden; NULL when it is in neither, and the test SKIPs. */
const char *golden_path(const char *name);
/* The folder of what is shared but not in the repository ($SHARED); NULL when there is none. */
const char *shared_dir(void);
/* A new empty folder, removed with all in it at exit. */
const char *temporary_dir(void);
/* dir/name, freed at exit. */
const char *path_in(const char *dir, const char *name);
/* The command that was built ($PROGRAM); NULL when there is none. */
const char *program_path(void);
/* The whole file, with a 0 behind it, freed at exit; NULL when it cannot be read. */
char *read_text(const char *path, size_t *bytes);

#endif
