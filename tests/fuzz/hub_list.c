/* Any bytes as a repository's list of files: refused by name, or names that stay inside their folder. */
#include "format/hub.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check_name(const char *name) {
    if (name[0] == 0 || name[0] == '/' || strchr(name, '\\') != NULL || strstr(name, "//") != NULL) abort();
    for (const char *part = name; part != NULL; part = strchr(part, '/')) {
        part += *part == '/';
        const size_t n = strcspn(part, "/");
        if (n == 0 || (n <= 2 && strspn(part, ".") >= n)) abort();
    }
    for (const char *c = name; *c != 0; c++) {
        if ((unsigned char)*c < 0x20) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    dlm_hub_listing listing;
    dlm_error err;
    if (dlm__hub_listing_parse("input", (const char *)bytes, n, &listing, &err) != DLM_OK) {
        if (listing.names != NULL || strncmp(err.message, "input:", 6) != 0) abort();
        return 0;
    }
    if (!dlm__hub_is_hex(listing.commit, DLM_HUB_COMMIT)) abort();
    for (size_t i = 0; i < listing.n; i++) check_name(listing.names[i]);
    if (listing.n > 0 && !dlm__hub_listed(&listing, listing.names[listing.n - 1])) abort();
    dlm__hub_listing_free(&listing);
    return 0;
}
