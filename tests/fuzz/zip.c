/* Any bytes as a zip archive: refused, or every entry can be looked for and read, or refused when it is. */
#include "format/zip.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Entries that claim more are not read, as reading them is the same. */
#define READ_MOST ((uint64_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    dlm_zip *zip;
    dlm_error err;
    if (dlm__zip_parse("input", bytes, n, &zip, &err) != DLM_OK) {
        if (zip != NULL || strncmp(err.message, "input", 5) != 0) abort();
        return 0;
    }
    for (size_t i = 0; i < dlm__zip_count(zip); i++) {
        const dlm_zip_entry *entry = dlm__zip_at(zip, i);
        if (dlm__zip_find(zip, entry->name) != entry) abort();
        if (entry->size > READ_MOST) continue;
        void *contents = malloc((size_t)entry->size + 1);
        if (contents == NULL) abort();
        if (dlm__zip_read(zip, entry, contents, &err) != DLM_OK && strncmp(err.message, "input", 5) != 0)
            abort();
        free(contents);
    }
    dlm__zip_close(zip);
    return 0;
}
