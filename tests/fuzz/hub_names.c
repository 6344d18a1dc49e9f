/* Any text as ID@REVISION, with or without a revision beside it: refused, or the names made of it stay inside
 * the cache and the endpoint. */
#include "format/hub.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Has an address that was made of names nothing but what addresses are made of? */
static void check_url(char *url) {
    static const char prefix[] = "https://x/";
    if (url == NULL || strncmp(url, prefix, sizeof prefix - 1) != 0) abort();
    for (const char *c = url; *c != 0; c++) {
        if (*c <= 0x20 || *c >= 0x7f || strchr("?#\\@\"", *c) != NULL) abort();
    }
    if (strstr(url, "/../") != NULL || strstr(url + 8, "//") != NULL) abort();
    free(url);
}

static void check_storage(char *path) {
    if (path == NULL || strncmp(path, "/c/models--", 11) != 0 || strchr(path + 3, '/') != NULL) abort();
    free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    char *text = dlm__copy_bytes(bytes, n);
    if (text == NULL) abort();
    const size_t first = strlen(text);
    const char *revision = first < n ? text + first + 1 : NULL;
    dlm_hub_repo repo;
    dlm_error err;
    const dlm_status status = dlm__hub_repo_parse(text, revision, DLM_REPO_MODEL, &repo, &err);
    if (revision == NULL && (status == DLM_OK) != dlm__hub_is_id(text)) abort();
    if (status == DLM_OK) {
        check_url(dlm__hub_file_url("https://x", &repo, repo.revision, repo.revision));
        check_url(dlm__hub_list_url("https://x", &repo));
        check_storage(dlm__hub_storage("/c", &repo));
    }
    dlm__hub_repo_free(&repo);
    free(text);
    return 0;
}
