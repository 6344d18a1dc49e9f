/* UTF-8: checking, reading one character, and replacing what is invalid.
 *
 * Well-formed is what Unicode says: no overlong forms, no surrogates, nothing above U+10FFFF. The replacement
 * of invalid bytes is that of Unicode 3.9 ("maximal subparts"), WHATWG, Rust and Python: one U+FFFD for each
 * longest beginning of a character, else for each byte. */
#ifndef DLM_TEXT_UTF8_H
#define DLM_TEXT_UTF8_H

#include "base/base.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character that `text` (n > 0 bytes) begins with, and in *valid whether it is well-formed; when
 * it is not, the length of the invalid part. */
size_t dlm__utf8_length(const char *text, size_t n, bool *valid);

/* The offset of the first invalid byte; n when all are valid. */
size_t dlm__utf8_check(const char *text, size_t n);

/* The code point at `text`, which was checked; *length gets its bytes. */
static inline uint32_t dlm__utf8_read(const char *text, size_t *length) {
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *length = 1;
        return s[0];
    }
    if (s[0] < 0xe0) {
        *length = 2;
        return (uint32_t)(s[0] & 0x1f) << 6 | (s[1] & 0x3f);
    }
    if (s[0] < 0xf0) {
        *length = 3;
        return (uint32_t)(s[0] & 0x0f) << 12 | (uint32_t)(s[1] & 0x3f) << 6 | (s[2] & 0x3f);
    }
    *length = 4;
    return (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3f) << 12 | (uint32_t)(s[2] & 0x3f) << 6 |
           (s[3] & 0x3f);
}

/* The code point that ends before text + at (at > 0) in checked text. */
uint32_t dlm__utf8_read_before(const char *text, size_t at);

/* Writes c as 1 to 4 bytes to out; returns how many. */
size_t dlm__utf8_write(uint32_t c, char *out);

/* Appends text (n) to the growing buffer with each invalid part replaced by U+FFFD; false without memory. */
bool dlm__utf8_append_replaced(const char *text, size_t n, char **buffer, size_t *used, size_t *capacity);

/* Bytes of white space (as the tokenizer sees it) at the start and at the end of checked text. */
size_t dlm__utf8_leading_space(const char *text, size_t n);
size_t dlm__utf8_trailing_space(const char *text, size_t n);

#endif
