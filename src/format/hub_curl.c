#include "format/hub_curl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static dlm_curl calls;
static bool loaded;
static char why[200]; /* not */

static void say_why(void) {
    const char *text = dlerror();
    (void)snprintf(why, sizeof why, "%s", text != NULL ? text : "unknown error");
}

/* A pointer to an object is made one to a function as POSIX has it. */
static bool find(void *library, const char *name, void *pointer) {
    void *found = dlsym(library, name);
    if (found == NULL) say_why();
    memcpy(pointer, &found, sizeof found);
    return found != NULL;
}

/* With OpenSSL, or as Debian calls the one with GnuTLS; both have the same calls. */
static void load(void) {
    void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        say_why();
        library = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_LOCAL);
    }
#define FIND(name) &&find(library, "curl_" #name, &calls.name)
    loaded = library != NULL DLM_CURL_CALLS(FIND);
#undef FIND
    if (loaded) (void)calls.global_init(CURL_GLOBAL_DEFAULT);
}

const dlm_curl *dlm__curl(dlm_error *err) {
    (void)pthread_once(&once, load);
    if (loaded) return &calls;
    (void)dlm__fail(
        err, DLM_NETWORK,
        "downloads need libcurl, which cannot be loaded: %s (the package is libcurl4 on Debian and "
        "Ubuntu, libcurl on Fedora, curl on Arch)",
        why);
    return NULL;
}
