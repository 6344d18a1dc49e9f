/* Any bytes as the headers of an answer, line by line: each text that is kept is printable ASCII and ends
 * within its field, each number is -1 or in range. */
#include "format/hub.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check_text(const char *text, size_t size) {
    const size_t n = strnlen(text, size);
    if (n == size) abort();
    for (size_t i = 0; i < n; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e) abort();
    }
}

static void check_number(int64_t number) {
    if (number < -1 || number > INT64_C(1) << 58) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static dlm_hub_headers headers;
    headers = (dlm_hub_headers){0};
    for (size_t at = 0; at < n;) {
        const uint8_t *end = memchr(bytes + at, '\n', n - at);
        const size_t line = end == NULL ? n - at : (size_t)(end - (bytes + at)) + 1;
        dlm__hub_header(&headers, (const char *)bytes + at, line);
        at += line;
    }
    if (headers.status < 0 || headers.status > 999) abort();
    check_text(headers.etag, sizeof headers.etag);
    check_text(headers.commit, sizeof headers.commit);
    check_text(headers.location, sizeof headers.location);
    check_text(headers.error_code, sizeof headers.error_code);
    check_text(headers.error_message, sizeof headers.error_message);
    check_number(headers.length);
    check_number(headers.linked_length);
    check_number(headers.range_from);
    check_number(headers.range_of);
    return 0;
}
