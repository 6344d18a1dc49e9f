/* JSON, by jansson. */
#include "base/base.h"

#include <jansson.h>
#include <stdlib.h>

dlm_status dlm__json_parse(const char *name, const char *bytes, size_t n, struct json_t **json,
                           dlm_error *err) {
    json_error_t error;
    *json = json_loadb(bytes, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    if (*json != NULL) return DLM_OK;
    if (json_error_code(&error) == json_error_out_of_memory) return dlm__fail_memory(err, name, n);
    return dlm__fail(err, DLM_FORMAT, "%s: line %d, column %d: %s", name, error.line, error.column,
                     error.text);
}

dlm_status dlm__json_load(const char *path, struct json_t **json, dlm_error *err) {
    char *bytes;
    size_t size;
    *json = NULL;
    DLM_TRY(dlm__read_file(path, DLM_JSON_LIMIT, &bytes, &size, err));
    dlm_status status = dlm__json_parse(path, bytes, size, json, err);
    free(bytes);
    return status;
}
