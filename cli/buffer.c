/* Arrays that grow. */
#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool grow(void **array, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return true;
    const size_t more = need < 64 ? 64 : 2 * need;
    void *grown = realloc(*array, more * size);
    if (grown == NULL) return false;
    *array = grown;
    *capacity = more;
    return true;
}

void put(buffer *to, const void *bytes, size_t n) {
    void *array = to->bytes;
    if (n == 0 || to->failed) return;
    to->failed = !grow(&array, &to->capacity, to->n + n, 1);
    if (to->failed) return;
    to->bytes = array;
    memcpy(to->bytes + to->n, bytes, n);
    to->n += n;
}

void put_string(buffer *to, const char *string) {
    put(to, string, strlen(string));
}

void put_format(buffer *to, const char *format, ...) {
    char text[256];
    va_list values;
    va_start(values, format);
    const int n = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    put(to, text, n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}
