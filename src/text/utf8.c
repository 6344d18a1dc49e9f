/* UTF-8: see utf8.h. */
#include "text/utf8.h"
#include "text/unicode_table.h"

#include <string.h>

size_t dlm__utf8_length(const char *text, size_t n, bool *valid) {
    const unsigned char *s = (const unsigned char *)text;
    size_t length;
    unsigned char low = 0x80, high = 0xbf; /* range of the second byte */
    *valid = s[0] < 0x80;
    if (*valid) return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        length = 2;
    } else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        length = 3;
        if (s[0] == 0xe0) low = 0xa0;
        if (s[0] == 0xed) high = 0x9f;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        length = 4;
        if (s[0] == 0xf0) low = 0x90;
        if (s[0] == 0xf4) high = 0x8f;
    } else {
        return 1;
    }
    if (n < 2 || s[1] < low || s[1] > high) return 1;
    for (size_t i = 2; i < length; i++) {
        if (i >= n || (s[i] & 0xc0) != 0x80) return i;
    }
    *valid = true;
    return length;
}

size_t dlm__utf8_check(const char *text, size_t n) {
    const uint64_t not_ascii = UINT64_C(0x8080808080808080);
    size_t at = 0;
    while (at < n) {
        uint64_t eight;
        while (n - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if (eight & not_ascii) break;
            at += sizeof eight;
        }
        if (at == n) break;
        bool valid;
        size_t length = dlm__utf8_length(text + at, n - at, &valid);
        if (!valid) return at;
        at += length;
    }
    return n;
}

uint32_t dlm__utf8_read_before(const char *text, size_t at) {
    size_t length;
    do at--;
    while (((unsigned char)text[at] & 0xc0) == 0x80);
    return dlm__utf8_read(text + at, &length);
}

size_t dlm__utf8_write(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

static bool append(const char *bytes, size_t n, char **buffer, size_t *used, size_t *capacity) {
    size_t need;
    if (n == 0) return true;
    char *grown = dlm__size_add(*used, n, &need) ? dlm__grow(*buffer, capacity, need, 1) : NULL;
    if (grown == NULL) return false;
    *buffer = grown;
    memcpy(*buffer + *used, bytes, n);
    *used = need;
    return true;
}

bool dlm__utf8_append_replaced(const char *text, size_t n, char **buffer, size_t *used, size_t *capacity) {
    size_t at = 0;
    while (at < n) {
        size_t good = dlm__utf8_check(text + at, n - at);
        if (!append(text + at, good, buffer, used, capacity)) return false;
        at += good;
        if (at == n) break;
        bool valid;
        at += dlm__utf8_length(text + at, n - at, &valid);
        if (!append("\xef\xbf\xbd", 3, buffer, used, capacity)) return false;
    }
    return true;
}

size_t dlm__utf8_leading_space(const char *text, size_t n) {
    size_t at = 0;
    while (at < n) {
        size_t length;
        if (dlm__class_of(dlm__utf8_read(text + at, &length)) != DLM_CLASS_SPACE) break;
        at += length;
    }
    return at;
}

size_t dlm__utf8_trailing_space(const char *text, size_t n) {
    size_t at = n;
    while (at > 0) {
        uint32_t c = dlm__utf8_read_before(text, at);
        if (dlm__class_of(c) != DLM_CLASS_SPACE) break;
        at -= c < 0x80 ? 1 : c < 0x800 ? 2 : 3; /* no white space lies above U+FFFF */
    }
    return n - at;
}
