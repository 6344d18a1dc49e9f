/* JSON lines by jansson. */
#include "json.h"

#include "terminal.h"

#include "diffusionlm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int print_json(json_t *value) {
    if (value == NULL) return fail("out of memory");
    int wrong = json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    json_decref(value);
    if (wrong == 0) (void)putchar('\n');
    return flush_output();
}

json_t *json_text(const char *text, size_t n) {
    return json_stringn(text, n);
}

json_t *json_name(const char *name) {
    if (name == NULL) return json_null();
    json_t *plain = json_string(name);
    if (plain != NULL) return plain;
    char *shown = malloc(3 * strlen(name) + 1), *to = shown;
    if (shown == NULL) return NULL;
    for (; *name != 0; name++) {
        if ((unsigned char)*name < 0x80) {
            *to++ = *name;
        } else {
            memcpy(to, "\xef\xbf\xbd", 3);
            to += 3;
        }
    }
    plain = json_stringn(shown, (size_t)(to - shown));
    free(shown);
    return plain;
}

json_t *json_ids(const int32_t *ids, size_t n) {
    json_t *all = json_array();
    for (size_t i = 0; i < n && all != NULL; i++) {
        if (json_array_append_new(all, json_integer(ids[i])) == 0) continue;
        json_decref(all);
        all = NULL;
    }
    return all;
}

json_t *json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *json_hash(uint64_t hash) {
    return json_sprintf("%016llx", (unsigned long long)hash);
}

/* The JSON lines of one file. */
static int read_file_lines(const char *path, json_handler handle, void *user) {
    dlm_error err = {0};
    dlm_text_options options = dlm_text_defaults();
    options.format = DLM_TEXT_LINES;
    dlm_documents *lines;
    if (dlm_documents_open(&path, 1, &options, &lines, &err) != DLM_OK) return fail_with(&err);
    int status = EXIT_DONE;
    for (size_t count = 1; status == EXIT_DONE; count++) {
        const char *text;
        size_t n;
        if (dlm_documents_next(lines, &text, &n, &err) != DLM_OK) {
            status = fail_with(&err);
            break;
        }
        if (text == NULL) break;
        char where[300];
        (void)snprintf(where, sizeof where, "%.200s, value %zu", path, count);
        json_error_t wrong;
        json_t *value =
            json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &wrong);
        status = value == NULL ? fail("%s is not JSON: %s", where, wrong.text) : handle(user, value, where);
        json_decref(value);
    }
    dlm_documents_close(lines);
    return status;
}

int read_json_lines(const char *const *paths, size_t n, json_handler handle, void *user) {
    int status = EXIT_DONE;
    for (size_t i = 0; i < n && status == EXIT_DONE; i++) status = read_file_lines(paths[i], handle, user);
    return status;
}
