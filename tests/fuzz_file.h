/* The input of a fuzz target as a file. */
#ifndef DLM_TESTS_FUZZ_FILE_H
#define DLM_TESTS_FUZZ_FILE_H

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static char fuzz_path[] = "/tmp/dlm-fuzz-XXXXXX";

static inline void fuzz_remove(void) {
    (void)unlink(fuzz_path);
}

/* Its path; it is the same file each time, with these bytes and no others, removed when the program ends. */
static inline const char *fuzz_file(const uint8_t *bytes, size_t n) {
    static int file = -1;
    if (file < 0) {
        file = mkstemp(fuzz_path);
        if (file < 0 || atexit(fuzz_remove) != 0) abort();
    }
    if (ftruncate(file, 0) != 0 || pwrite(file, bytes, n, 0) != (ssize_t)n) abort();
    return fuzz_path;
}

#endif
