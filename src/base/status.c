/* Statuses, error messages, version. */
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#undef dlm__fail
#undef dlm__fail_errno
#undef dlm__fail_memory

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

/* Cuts text to at most n bytes, not inside a UTF-8 character. */
static void cut(char *text, size_t n) {
    if (strlen(text) <= n) return;
    for (int back = 0; back < 3 && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80; back++) n--;
    text[n] = 0;
}

/* Messages quote names and bytes of hostile files: control characters (a line break, an escape sequence for
 * the terminal) become spaces. */
static void fill(dlm_error *err, dlm_status status, const char *text) {
    err->status = status;
    (void)snprintf(err->message, sizeof err->message, "%s", text);
    for (char *c = err->message; *c != 0; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    }
}

/* One byte more than a message holds, so that the cut sees what it cuts. */
enum { MESSAGE = sizeof((dlm_error *)NULL)->message, TEXT = MESSAGE + 1 };

dlm_status dlm__fail(dlm_error *err, dlm_status status, const char *format, ...) {
    if (err == NULL) return status;
    char text[TEXT];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof text, format, arguments) < 0) text[0] = 0;
    va_end(arguments);
    cut(text, MESSAGE - 1);
    fill(err, status, text);
    return status;
}

dlm_status dlm__fail_errno(dlm_error *err, int code, const char *format, ...) {
    dlm_status status = code == ENOENT ? DLM_NOT_FOUND : DLM_IO;
    if (err == NULL) return status;
    char text[TEXT], reason[128];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof text, format, arguments) < 0) text[0] = 0;
    va_end(arguments);
    if (strerror_r(code, reason, sizeof reason) != 0) (void)snprintf(reason, sizeof reason, "error %d", code);
    /* The reason matters more than the end of a very long name. */
    cut(text, MESSAGE - sizeof ": " - strlen(reason));
    size_t n = strlen(text);
    (void)snprintf(text + n, sizeof text - n, ": %s", reason);
    fill(err, status, text);
    return status;
}

dlm_status dlm__fail_memory(dlm_error *err, const char *what, size_t bytes) {
    return dlm__fail(err, DLM_MEMORY, "%s: cannot allocate %zu bytes", what, bytes);
}
