/* Arrays that grow. */
#ifndef DLM_CLI_BUFFER_H
#define DLM_CLI_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

/* Room for `need` elements of `size` bytes in an array of `capacity`; false, and all as it was, without
 * memory. */
bool grow(void **array, size_t *capacity, size_t need, size_t size);

/* Bytes to be written at once. Without memory `failed` is set, and what came after is lost. */
typedef struct buffer {
    char *bytes;
    size_t n, capacity;
    bool failed;
} buffer;

void put(buffer *to, const void *bytes, size_t n);
void put_string(buffer *to, const char *string);
__attribute__((format(printf, 2, 3))) void put_format(buffer *to, const char *format, ...);

#endif
