/* JSON: any bytes give a value or a message of one printable line. */
#include "base/base.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    json_t *json;
    dlm_error err;
    if (dlm__json_parse("input", (const char *)bytes, n, &json, &err) == DLM_OK) {
        json_decref(json);
        return 0;
    }
    if (strncmp(err.message, "input: ", 7) != 0) abort();
    for (const char *c = err.message; *c != 0; c++) {
        if ((unsigned char)*c < 0x20) abort();
    }
    return 0;
}
