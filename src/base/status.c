/* Statuses, error messages, version. */
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

const char *dlm_version(void) {
    return DLM_VERSION;
}

const char *dlm_status_text(dlm_status status) {
    switch (status) {
#define X(name, text) \
    case name: return text;
        DLM_STATUSES(X)
#undef X
    }
    return "unknown status";
}

/* Messages quote names and bytes of hostile files: control characters (a line break, an escape sequence for
 * the terminal) become spaces, and a UTF-8 character that the end of the message cut in two is dropped. */
static void clean(char *message, size_t size) {
    size_t n = strlen(message);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)message[i];
        if (c < 0x20 || c == 0x7f) message[i] = ' ';
    }
    if (n + 1 < size) return;
    size_t start = n;
    while (start > 0 && n - start < 3 && ((unsigned char)message[start - 1] & 0xc0) == 0x80) start--;
    if (start > 0 && (unsigned char)message[start - 1] >= 0xc0) message[start - 1] = 0;
}

DLM_PRINTF(3, 0)
static void fill(dlm_error *err, dlm_status status, const char *format, va_list arguments) {
    err->status = status;
    if (vsnprintf(err->message, sizeof err->message, format, arguments) < 0) {
        (void)snprintf(err->message, sizeof err->message, "%s", dlm_status_text(status));
    }
    clean(err->message, sizeof err->message);
}

dlm_status dlm__fail(dlm_error *err, dlm_status status, const char *format, ...) {
    if (err != NULL) {
        va_list arguments;
        va_start(arguments, format);
        fill(err, status, format, arguments);
        va_end(arguments);
    }
    return status;
}

dlm_status dlm__fail_errno(dlm_error *err, int code, const char *format, ...) {
    dlm_status status = code == ENOENT ? DLM_NOT_FOUND : DLM_IO;
    if (err == NULL) return status;
    va_list arguments;
    va_start(arguments, format);
    fill(err, status, format, arguments);
    va_end(arguments);
    char reason[128];
    if (strerror_r(code, reason, sizeof reason) != 0) (void)snprintf(reason, sizeof reason, "error %d", code);
    /* The reason matters more than the end of a very long name. */
    size_t room = sizeof err->message - strlen(reason) - sizeof ": ";
    size_t n = strlen(err->message);
    if (n > room) n = room;
    (void)snprintf(err->message + n, sizeof err->message - n, ": %s", reason);
    return status;
}

dlm_status dlm__fail_memory(dlm_error *err, const char *what, size_t bytes) {
    return dlm__fail(err, DLM_MEMORY, "%s: cannot allocate %zu bytes", what, bytes);
}
