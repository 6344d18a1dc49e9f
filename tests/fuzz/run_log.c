/* Any bytes as the log.csv of a run that is resumed: what is kept is its longest beginning of whole lines
 * that the checkpoint counts; of nothing kept, the header is new. Two bytes say how much that is, the next
 * how often the rest stands in the file. */
#include "train/run_log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static char folder[] = "/tmp/dlm-fuzz-run-XXXXXX";

static void remove_folder(void) {
    (void)dlm__remove_tree(folder, NULL);
}

static char *path_of(const char *name) {
    char *path = dlm__join(folder, name);
    if (path == NULL) abort();
    return path;
}

/* An empty run with this log. */
static void make_run(const char *text, size_t n) {
    static bool made;
    if (!made && (mkdtemp(folder) == NULL || atexit(remove_folder) != 0)) abort();
    made = true;
    if (dlm__remove_tree(folder, NULL) != DLM_OK || dlm__make_dirs(folder, NULL) != DLM_OK) abort();
    char *path = path_of("log.csv");
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(text, 1, n, file) != n || fclose(file) != 0) abort();
    free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n < 3 || n > 8192) return 0;
    size_t keep = bytes[0] + 256 * (size_t)bytes[1], times = bytes[2] % 16, size = 0, kept;
    char *text = malloc(times * n + 1), *got;
    if (text == NULL) abort();
    for (size_t i = 0; i < times; i++, size += n - 3) memcpy(text + size, bytes + 3, n - 3);
    make_run(text, size);
    dlm_run_log *log;
    const dlm_log_sizes sizes = {.log = keep};
    if (dlm__run_log_open(folder, &sizes, 5, &log, NULL) != DLM_OK) abort();
    dlm__run_log_close(log);
    size_t want = keep < size ? keep : size;
    while (want > 0 && text[want - 1] != '\n') want--;
    char *path = path_of("log.csv");
    if (dlm__read_file(path, SIZE_MAX / 2, &got, &kept, NULL) != DLM_OK) abort();
    if (want > 0 && (kept != want || memcmp(got, text, want) != 0)) abort();
    if (want == 0 && strncmp(got, "step,epoch,", 11) != 0) abort();
    free(path);
    free(got);
    free(text);
    return 0;
}
