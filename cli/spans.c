#include "spans.h"

#include "terminal.h"

#include <string.h>

/* Marks the tokens that have a byte of [start, stop) of what they stand for together; false when that is not
 * so many bytes. */
static bool mark(const dlm_tokenizer *tokenizer, const int32_t *ids, size_t n, size_t start, size_t stop,
                 uint8_t *fixed) {
    size_t at = 0;
    for (size_t i = 0; i < n && at < stop; i++) {
        size_t bytes;
        bool special;
        if (dlm_tokenizer_token(tokenizer, ids[i], &bytes, &special) == NULL) return false;
        if (at + bytes > start) fixed[i] = 1;
        at += bytes;
    }
    return at >= stop;
}

/* Every occurrence of one span, overlapping ones too; *found tells whether there was any. */
static bool mark_all(const dlm_tokenizer *tokenizer, const char *span, const char *text, size_t bytes,
                     size_t added, const int32_t *ids, size_t n, bool *found, uint8_t *fixed) {
    const size_t length = strlen(span);
    for (size_t at = 0; at + length <= bytes; at++) {
        if (memcmp(text + at, span, length) != 0) continue;
        *found = true;
        /* What the text begins with, it goes on beginning with. */
        const size_t start = at > 0 ? added + at : 0;
        if (!mark(tokenizer, ids, n, start, added + at + length, fixed)) return false;
    }
    return true;
}

int keep_spans(const text_list *spans, const dlm_tokenizer *tokenizer, const char *text, size_t bytes,
               size_t added, const int32_t *ids, size_t n, size_t number, uint8_t *fixed) {
    for (size_t i = 0; i < spans->n; i++) {
        bool found = false;
        if (!mark_all(tokenizer, spans->items[i], text, bytes, added, ids, n, &found, fixed))
            return fail("text %zu: the tokenizer has no tokens for a part of it, so --keep cannot be placed",
                        number);
        if (!found) return fail("--keep: text %zu does not have \"%.100s\"", number, spans->items[i]);
    }
    return EXIT_DONE;
}
