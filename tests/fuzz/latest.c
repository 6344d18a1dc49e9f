/* Any bytes as a run's file `latest`: refused by name, or the name of something inside the run's
 * folder. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    char *name = NULL;
    dlm_error err;
    if (dlm__latest_parse("input", (const char *)bytes, n, &name, &err) != DLM_OK) {
        if (name != NULL || strncmp(err.message, "input ", 6) != 0) abort();
        return 0;
    }
    size_t length = strlen(name);
    if (length == 0 || length > n || length + 2 < n || memcmp(name, bytes, length) != 0) abort();
    if (name[0] == '.' || strpbrk(name, "/\r\n") != NULL) abort();
    free(name);
    return 0;
}
