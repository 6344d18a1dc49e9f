/* Pickles, opcode by opcode. */
#ifndef DLM_TESTS_PICKLE_FIXTURE_H
#define DLM_TESTS_PICKLE_FIXTURE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct pickle_bytes {
    char bytes[1 << 14];
    size_t n;
} pickle_bytes;

static inline void p_bytes(pickle_bytes *to, const char *bytes, size_t n) {
    if (n > sizeof to->bytes - to->n) abort();
    memcpy(to->bytes + to->n, bytes, n);
    to->n += n;
}

/* A literal, which may hold zeros. */
#define P(to, literal) p_bytes((to), (literal), sizeof(literal) - 1)

static inline void p_text(pickle_bytes *to, const char *text) {
    const char head[] = {(char)0x8c, (char)strlen(text)}; /* SHORT_BINUNICODE */
    p_bytes(to, head, sizeof head);
    p_bytes(to, text, strlen(text));
}

static inline void p_int(pickle_bytes *to, int64_t integer) {
    const char head[] = {(char)0x8a, 8}; /* LONG1 */
    p_bytes(to, head, sizeof head);
    for (int i = 0; i < 8; i++) {
        const char byte = (char)(integer >> 8 * i & 0xff);
        p_bytes(to, &byte, 1);
    }
}

static inline void p_numbers(pickle_bytes *to, size_t n, const int64_t *numbers) {
    P(to, "(");
    for (size_t i = 0; i < n; i++) p_int(to, numbers[i]);
    P(to, "t");
}

/* A view of the storage `key`, of so many elements of a type such as "FloatStorage". */
typedef struct pickle_view {
    const char *key, *type;
    int64_t count, offset;
    size_t ndim;
    int64_t shape[9], stride[9];
} pickle_view;

static inline void p_storage(pickle_bytes *to, const pickle_view *view) {
    P(to, "(");
    p_text(to, "storage");
    P(to, "ctorch\n");
    p_bytes(to, view->type, strlen(view->type));
    P(to, "\n");
    p_text(to, view->key);
    p_text(to, "cpu");
    p_int(to, view->count);
    P(to, "tQ");
}

static inline void p_tensor(pickle_bytes *to, pickle_view view) {
    P(to, "ctorch._utils\n_rebuild_tensor_v2\n(");
    p_storage(to, &view);
    p_int(to, view.offset);
    p_numbers(to, view.ndim, view.shape);
    p_numbers(to, view.ndim, view.stride);
    P(to, "\x89"
          "ccollections\nOrderedDict\n)RtR");
}

#endif
