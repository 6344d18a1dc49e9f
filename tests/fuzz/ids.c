/* Any bytes as token ids, in words and as JSON: refused with a sentence, or ids that are given back when they
 * are written in words again. */
#include "cli/ids.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check(int32_t *ids, size_t n, const parse_error *error) {
    if (ids == NULL) {
        if (error->message[0] == 0) abort();
        return;
    }
    char *text = malloc(12 * n + 1);
    size_t used = 0, count;
    if (text == NULL) abort();
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0) abort();
        used += (size_t)sprintf(text + used, "%d\n", (int)ids[i]);
    }
    parse_error wrong;
    int32_t *again = ids_of_text(text, used, &count, &wrong);
    if (again == NULL || count != n || memcmp(again, ids, n * sizeof *ids) != 0) abort();
    free(again);
    free(text);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    parse_error error = {""};
    size_t count;
    int32_t *ids = ids_of_text((const char *)bytes, n, &count, &error);
    check(ids, count, &error);
    json_t *value = json_loadb((const char *)bytes, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    error.message[0] = 0;
    ids = ids_of_json(value, &count, &error);
    check(ids, count, &error);
    json_decref(value);
    return 0;
}
