/* What a server of the Hub says: headers and lists of files. All of it may be hostile. */
#include "format/hub.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- headers ------------------------------------------------------------------------------------------ */

/* A value (n bytes) as text, unless it does not fit or holds what is not printable ASCII: then "". */
static void take_text(char *to, size_t size, const char *value, size_t n) {
    to[0] = 0;
    if (n >= size) return;
    for (size_t i = 0; i < n; i++) {
        if (value[i] < 0x20 || value[i] == 0x7f) return;
    }
    memcpy(to, value, n);
    to[n] = 0;
}

/* Digits alone, up to 2^62; -1 for anything else. */
static int64_t take_number(const char *value, size_t n) {
    int64_t number = 0;
    if (n == 0) return -1;
    for (size_t i = 0; i < n; i++) {
        if (value[i] < '0' || value[i] > '9') return -1;
        number = 10 * number + (value[i] - '0');
        if (number > INT64_C(1) << 58) return -1;
    }
    return number;
}

/* W/"abc" or "abc": abc. */
static void take_etag(dlm_hub_headers *headers, bool linked, const char *value, size_t n) {
    if (headers->linked && !linked) return;
    if (n >= 2 && value[0] == 'W' && value[1] == '/') {
        value += 2;
        n -= 2;
    }
    if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
        value++;
        n -= 2;
    }
    take_text(headers->etag, sizeof headers->etag, value, n);
    headers->linked = linked;
}

/* "bytes 5-9/10", or a total of "*". */
static void take_range(dlm_hub_headers *headers, const char *value, size_t n) {
    headers->range_from = headers->range_of = -1;
    if (n < 6 || strncasecmp(value, "bytes ", 6) != 0) return;
    const char *dash = memchr(value, '-', n), *slash = memchr(value, '/', n);
    if (dash == NULL || slash == NULL) return;
    headers->range_from = take_number(value + 6, (size_t)(dash - value) - 6);
    headers->range_of = take_number(slash + 1, n - (size_t)(slash - value) - 1);
}

/* "HTTP/1.1 200 OK": begins a new answer. */
static bool take_status(dlm_hub_headers *headers, const char *line, size_t n) {
    if (n < 5 || memcmp(line, "HTTP/", 5) != 0) return false;
    *headers = (dlm_hub_headers){.length = -1, .linked_length = -1, .range_from = -1, .range_of = -1};
    const char *space = memchr(line, ' ', n);
    if (space == NULL || n - (size_t)(space - line) < 4) return true;
    const int64_t status = take_number(space + 1, 3);
    headers->status = status < 0 ? 0 : (int)status;
    return true;
}

static bool is_header(const char *name, const char *line, size_t n) {
    return strlen(name) == n && strncasecmp(name, line, n) == 0;
}

void dlm__hub_header(dlm_hub_headers *headers, const char *line, size_t n) {
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r' || line[n - 1] == ' ' || line[n - 1] == '\t'))
        n--;
    if (take_status(headers, line, n)) return;
    const char *colon = n == 0 ? NULL : memchr(line, ':', n);
    if (colon == NULL) return;
    const size_t name = (size_t)(colon - line);
    const char *value = colon + 1;
    while (value < line + n && (*value == ' ' || *value == '\t')) value++;
    const size_t size = n - (size_t)(value - line);
    if (is_header("ETag", line, name)) take_etag(headers, false, value, size);
    if (is_header("X-Linked-Etag", line, name)) take_etag(headers, true, value, size);
    if (is_header("X-Repo-Commit", line, name))
        take_text(headers->commit, sizeof headers->commit, value, size);
    if (is_header("Location", line, name))
        take_text(headers->location, sizeof headers->location, value, size);
    if (is_header("X-Error-Code", line, name))
        take_text(headers->error_code, sizeof headers->error_code, value, size);
    if (is_header("X-Error-Message", line, name))
        take_text(headers->error_message, sizeof headers->error_message, value, size);
    if (is_header("Content-Length", line, name)) headers->length = take_number(value, size);
    if (is_header("X-Linked-Size", line, name)) headers->linked_length = take_number(value, size);
    if (is_header("Content-Range", line, name)) take_range(headers, value, size);
}

/* ---- lists of files ----------------------------------------------------------------------------------- */

static dlm_status take_name(const char *name, const json_t *entry, char **to, dlm_error *err) {
    const json_t *file = json_object_get(entry, "rfilename");
    if (!json_is_string(file))
        return dlm__fail(err, DLM_FORMAT, "%s: \"siblings\" holds what is no file (\"rfilename\")", name);
    const char *text = json_string_value(file);
    const size_t n = json_string_length(file);
    if (!dlm__hub_safe_path(text, n))
        return dlm__fail(err, DLM_FORMAT, "%s: the file name '%s' is refused, it may leave its folder", name,
                         text);
    *to = dlm__copy_bytes(text, n);
    return *to != NULL ? DLM_OK : dlm__fail_memory(err, name, n);
}

static dlm_status take_listing(const char *name, const json_t *json, dlm_hub_listing *listing,
                               dlm_error *err) {
    const char *commit = json_string_value(json_object_get(json, "sha"));
    const json_t *files = json_object_get(json, "siblings");
    if (commit == NULL || !dlm__hub_is_hex(commit, DLM_HUB_COMMIT))
        return dlm__fail(err, DLM_FORMAT, "%s: \"sha\" is no commit, 40 hexadecimal digits", name);
    if (!json_is_array(files)) return dlm__fail(err, DLM_FORMAT, "%s: \"siblings\" is no list", name);
    memcpy(listing->commit, commit, sizeof listing->commit);
    const size_t n = json_array_size(files);
    listing->names = dlm__calloc(n, sizeof *listing->names);
    if (listing->names == NULL) return dlm__fail_memory(err, name, n * sizeof *listing->names);
    for (size_t i = 0; i < n; i++) {
        DLM_TRY(take_name(name, json_array_get(files, i), &listing->names[i], err));
        listing->n++;
    }
    return DLM_OK;
}

dlm_status dlm__hub_listing_parse(const char *name, const char *text, size_t n, dlm_hub_listing *listing,
                                  dlm_error *err) {
    *listing = (dlm_hub_listing){0};
    json_t *json;
    DLM_TRY(dlm__json_parse(name, text, n, &json, err));
    dlm_status status = take_listing(name, json, listing, err);
    json_decref(json);
    if (status != DLM_OK) dlm__hub_listing_free(listing);
    return status;
}

bool dlm__hub_listed(const dlm_hub_listing *listing, const char *name) {
    for (size_t i = 0; i < listing->n; i++) {
        if (strcmp(listing->names[i], name) == 0) return true;
    }
    return false;
}

void dlm__hub_listing_free(dlm_hub_listing *listing) {
    for (size_t i = 0; i < listing->n; i++) free(listing->names[i]);
    free(listing->names);
    *listing = (dlm_hub_listing){0};
}
