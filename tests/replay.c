/* Runs a fuzz target without a fuzzer: over every file of its corpus, over each cut short at many places, and
 * over each with single bytes changed. The corpus of tests/fuzz/NAME.c is the folder tests/fuzz/NAME. */
#include "base/base.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { CUTS = 32, CHANGES = 64 };

/* A copy of its own for each run, so that a sanitizer sees a read past the end. */
static void run(const char *bytes, size_t n) {
    uint8_t *copy = malloc(n > 0 ? n : 1);
    if (copy == NULL) abort();
    if (n > 0) memcpy(copy, bytes, n);
    (void)LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static bool replay(const char *path, uint32_t index) {
    char *bytes;
    size_t n;
    if (dlm__read_file(path, (size_t)1 << 24, &bytes, &n, NULL) != DLM_OK) return false;
    run(bytes, n);
    for (size_t i = 0; i < CUTS && n > 0; i++) run(bytes, n * i / CUTS);
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, index, 0);
    for (size_t i = 0; i < CHANGES && n > 0; i++) {
        size_t at = (size_t)dlm__rng_below(&rng, n);
        char before = bytes[at];
        bytes[at] = (char)dlm__rng_below(&rng, 256);
        run(bytes, n);
        bytes[at] = before;
    }
    free(bytes);
    return true;
}

/* "build/.../tests/fuzz/NAME-replay" to "tests/fuzz/NAME". */
static char *corpus_of(const char *program) {
    const char *base = strrchr(program, '/');
    char *name =
        dlm__copy_bytes(base == NULL ? program : base + 1, strlen(base == NULL ? program : base + 1));
    if (name == NULL) return NULL;
    char *suffix = strstr(name, "-replay");
    if (suffix != NULL) *suffix = 0;
    char *path = dlm__join("tests/fuzz", name);
    free(name);
    return path;
}

int main(int argc, char **argv) {
    char *dir = argc > 1 ? dlm__copy_bytes(argv[1], strlen(argv[1])) : corpus_of(argv[0]);
    DIR *folder = dir == NULL ? NULL : opendir(dir);
    size_t passed = 0, failed = 0;
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        char *path = dlm__join(dir, entry->d_name);
        if (path == NULL) abort();
        printf("%s\n", path);
        (void)fflush(stdout); /* the name is seen when the target crashes */
        if (replay(path, (uint32_t)passed))
            passed++;
        else
            failed++;
        free(path);
    }
    if (folder != NULL) (void)closedir(folder);
    if (passed == 0) {
        printf("no corpus in %s\n", dir == NULL ? "(no memory)" : dir);
        failed++;
    }
    free(dir);
    printf("%zu passed, %zu failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
