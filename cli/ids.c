#include "ids.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* Room for n ids, more than none. */
static int32_t *room_for(size_t n, parse_error *error) {
    int32_t *ids = calloc(n + 1, sizeof *ids);
    if (ids == NULL) (void)snprintf(error->message, sizeof error->message, "out of memory");
    return ids;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The word of n bytes as an id; false when it is none. */
static bool read_id(const char *word, size_t n, int32_t *id) {
    int64_t value = 0;
    for (size_t i = 0; i < n && value <= INT32_MAX; i++) {
        if (word[i] < '0' || word[i] > '9') return false;
        value = 10 * value + (word[i] - '0');
    }
    *id = (int32_t)value;
    return value <= INT32_MAX;
}

int32_t *ids_of_text(const char *text, size_t bytes, size_t *n, parse_error *error) {
    int32_t *ids = room_for(bytes / 2 + 1, error);
    *n = 0;
    for (size_t at = 0, end; at < bytes && ids != NULL; at = end) {
        for (end = at; end < bytes && !is_space(text[end]);) end++;
        if (end == at) {
            end++;
        } else if (!read_id(text + at, end - at, &ids[(*n)++])) {
            (void)snprintf(error->message, sizeof error->message, "%.*s is not a token id",
                           (int)(end - at < 40 ? end - at : 40), text + at);
            free(ids);
            ids = NULL;
        }
    }
    return ids;
}

int32_t *ids_of_json(const json_t *value, size_t *n, parse_error *error) {
    const json_t *array = json_object_get(value, "ids");
    *n = json_array_size(array);
    if (!json_is_array(array)) {
        (void)snprintf(error->message, sizeof error->message, "not {\"ids\": [...]}");
        return NULL;
    }
    int32_t *ids = room_for(*n, error);
    for (size_t i = 0; i < *n && ids != NULL; i++) {
        const json_t *id = json_array_get(array, i);
        json_int_t number = json_is_integer(id) ? json_integer_value(id) : -1;
        if (number >= 0 && number <= INT32_MAX) {
            ids[i] = (int32_t)number;
        } else {
            (void)snprintf(error->message, sizeof error->message, "ids[%zu] is not a token id", i);
            free(ids);
            ids = NULL;
        }
    }
    return ids;
}
