/* The byte-level alphabet and words: see byte_level.h. The pattern is matched by hand: its alternatives are
 * told apart by the class of the first character, or of the second behind a space. */
#include "text/byte_level.h"
#include "text/unicode_table.h"
#include "text/utf8.h"

#include <string.h>

#define MOVED_FIRST 0x100u /* the characters of the bytes that do not stand for themselves */
#define MOVED_COUNT 68u

static int stands_for_itself(uint32_t c) {
    return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

/* Bytes 0..0x20, 0x7f..0xa0 and 0xad move, in this order. */
uint32_t dlm__byte_character(unsigned char byte) {
    if (stands_for_itself(byte)) return byte;
    if (byte <= 0x20) return MOVED_FIRST + byte;
    if (byte <= 0xa0) return MOVED_FIRST + 0x21u + (byte - 0x7fu);
    return MOVED_FIRST + MOVED_COUNT - 1;
}

int dlm__character_byte(uint32_t c) {
    if (c < MOVED_FIRST) return stands_for_itself(c) ? (int)c : -1;
    uint32_t i = c - MOVED_FIRST;
    if (i >= MOVED_COUNT) return -1;
    if (i <= 0x20) return (int)i;
    return i < MOVED_COUNT - 1 ? (int)(i - 0x21u + 0x7fu) : 0xad;
}

#define O DLM_CLASS_OTHER
#define L DLM_CLASS_LETTER
#define N DLM_CLASS_NUMBER
#define S DLM_CLASS_SPACE
static const uint8_t ascii_class[128] = {
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O,
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /* controls */
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O, /* space to ? */
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* @ to _ */
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* ` to delete */
};
#undef O
#undef L
#undef N
#undef S

static inline unsigned class_at(const char *text, size_t *length) {
    unsigned char first = (unsigned char)*text;
    if (first < 0x80) {
        *length = 1;
        return ascii_class[first];
    }
    return dlm__class_of(dlm__utf8_read(text, length));
}

/* Where the run of characters of a class from `at` on ends; *last: where its last character begins. */
static inline size_t run_end(const char *text, size_t n, size_t at, unsigned class, size_t *last) {
    *last = at;
    while (at < n) {
        size_t length;
        if (class_at(text + at, &length) != class) break;
        *last = at;
        at += length;
    }
    return at;
}

/* Bytes of 's 't 'm 'd 're 've 'll at the apostrophe text[0], or 0. */
static size_t contraction(const char *text, size_t n) {
    if (n >= 2 && (text[1] == 's' || text[1] == 't' || text[1] == 'm' || text[1] == 'd')) return 2;
    if (n >= 3 && (memcmp(text + 1, "re", 2) == 0 || memcmp(text + 1, "ve", 2) == 0 ||
                   memcmp(text + 1, "ll", 2) == 0)) {
        return 3;
    }
    return 0;
}

size_t dlm__word_end(const char *text, size_t n, size_t at) {
    size_t length, last;
    if (text[at] == '\'') {
        length = contraction(text + at, n - at);
        if (length > 0) return at + length;
    }
    size_t start = at + (text[at] == ' ' && at + 1 < n);
    unsigned class = class_at(text + start, &length);
    if (class != DLM_CLASS_SPACE) return run_end(text, n, start, class, &last);
    /* \s+(?!\S) leaves the last white space of a run to the word behind it; \s+ takes it where it is alone.
     */
    size_t end = run_end(text, n, at, DLM_CLASS_SPACE, &last);
    return end == n || last == at ? end : last;
}
