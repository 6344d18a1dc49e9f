/* libcurl, loaded when the first request is sent: it brings 26 others with it, whose loading would
 * cost every start of the program more than all else that it loads. */
#ifndef DLM_HUB_CURL_H
#define DLM_HUB_CURL_H

#include "base/base.h"

#include <curl/curl.h>

/* The calls that are used, each by its name behind curl_. */
#define DLM_CURL_CALLS(CALL) \
    CALL(easy_cleanup)       \
    CALL(easy_init)          \
    CALL(easy_perform)       \
    CALL(easy_reset)         \
    CALL(easy_setopt)        \
    CALL(easy_strerror)      \
    CALL(free)               \
    CALL(global_init)        \
    CALL(slist_append)       \
    CALL(slist_free_all)     \
    CALL(url)                \
    CALL(url_cleanup)        \
    CALL(url_get)            \
    CALL(url_set)

#define DLM_CURL_POINTER(name) __typeof__ (&curl_##name)(name);
typedef struct dlm_curl {
    DLM_CURL_CALLS(DLM_CURL_POINTER)
} dlm_curl;
#undef DLM_CURL_POINTER

/* The same pointers in every call, from any thread; NULL with DLM_NETWORK and what to install where there is
 * no libcurl. */
const dlm_curl *dlm__curl(dlm_error *err);

#endif
