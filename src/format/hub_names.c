/* Ids, revisions and names of files of the Hub, and the addresses made from them.
 *
 * A name of a file comes from a server, and becomes a path below a folder: one that could leave that folder
 * is refused before anything is done with it. */
#include "format/hub.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { ID_PART_MAX = 96, PATH_MAX_BYTES = 1024, SEGMENT_MAX = 255 };

char *dlm__hub_text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text == NULL) return NULL;
    va_start(arguments, format);
    (void)vsnprintf(text, (size_t)n + 1, format, arguments);
    va_end(arguments);
    return text;
}

/* ---- what a text names -------------------------------------------------------------------------------- */

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* One of the at most two parts of an id: of letters, digits, '_', '-' and '.', the last two not at an end. */
static bool is_id_part(const char *part, size_t n) {
    if (n == 0 || n > ID_PART_MAX || !is_word(part[0]) || !is_word(part[n - 1])) return false;
    for (size_t i = 0; i < n; i++) {
        if (!is_word(part[i]) && part[i] != '-' && part[i] != '.') return false;
    }
    return true;
}

static bool holds_pair(const char *text, size_t n, char c) {
    for (size_t i = 1; i < n; i++) {
        if (text[i - 1] == c && text[i] == c) return true;
    }
    return false;
}

static bool is_id(const char *text, size_t n) {
    const char *slash = memchr(text, '/', n);
    const size_t first = slash == NULL ? 0 : (size_t)(slash - text);
    if (slash != NULL && !is_id_part(text, first)) return false;
    const char *name = slash == NULL ? text : slash + 1;
    const size_t rest = n - (size_t)(name - text);
    if (!is_id_part(name, rest) || holds_pair(text, n, '-') || holds_pair(text, n, '.')) return false;
    return rest < 4 || memcmp(name + rest - 4, ".git", 4) != 0;
}

bool dlm__hub_is_id(const char *text) {
    const size_t n = strcspn(text, "@");
    if (text[n] == '@' && !dlm__hub_safe_path(text + n + 1, strlen(text + n + 1))) return false;
    return is_id(text, n);
}

bool dlm__hub_safe_path(const char *name, size_t n) {
    if (n == 0 || n > PATH_MAX_BYTES) return false;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)name[i], next = i + 1 < n ? (unsigned char)name[i + 1] : 0;
        if (c < 0x20 || c == 0x7f || c == '\\') return false;
        if (c == 0xc2 && next >= 0x80 && next < 0xa0) return false; /* control characters too, in UTF-8 */
    }
    for (size_t at = 0; at <= n;) {
        const char *slash = memchr(name + at, '/', n - at);
        const size_t segment = slash == NULL ? n - at : (size_t)(slash - name) - at;
        if (segment == 0 || segment > SEGMENT_MAX) return false;
        if (name[at] == '.' && (segment == 1 || (segment == 2 && name[at + 1] == '.'))) return false;
        at += segment + 1;
    }
    return true;
}

bool dlm__hub_is_hex(const char *text, size_t n) {
    return strlen(text) == n && strspn(text, "0123456789abcdef") == n;
}

dlm_status dlm__hub_repo_parse(const char *text, const char *revision, dlm_repo_kind kind, dlm_hub_repo *repo,
                               dlm_error *err) {
    *repo = (dlm_hub_repo){.kind = kind};
    const size_t n = strcspn(text, "@");
    const char *inside = text[n] == '@' ? text + n + 1 : NULL;
    if (!is_id(text, n)) {
        return dlm__fail(err, DLM_ARGUMENT,
                         "'%s' is no id of the Hub: org/name or name, of letters, digits, '-', '_' and '.', "
                         "without '--' and '..'",
                         text);
    }
    if (inside != NULL && revision != NULL && strcmp(inside, revision) != 0)
        return dlm__fail(err, DLM_ARGUMENT, "'%s' names one revision, and '%s' is another", text, revision);
    const char *wanted = inside != NULL ? inside : revision != NULL ? revision : "main";
    if (!dlm__hub_safe_path(wanted, strlen(wanted)))
        return dlm__fail(err, DLM_ARGUMENT, "'%s' is no revision: a branch, a tag or a commit", wanted);
    repo->id = dlm__copy_bytes(text, n);
    repo->revision = dlm__copy_bytes(wanted, strlen(wanted));
    if (repo->id == NULL || repo->revision == NULL) return dlm__fail_memory(err, text, strlen(text));
    return DLM_OK;
}

void dlm__hub_repo_free(dlm_hub_repo *repo) {
    free(repo->id);
    free(repo->revision);
    *repo = (dlm_hub_repo){0};
}

/* ---- addresses ---------------------------------------------------------------------------------------- */

/* text with all but letters, digits, "_.-~" and the bytes of `keep` as %XX; free() it. */
static char *escape(const char *text, const char *keep) {
    static const char digits[] = "0123456789ABCDEF";
    char *escaped = dlm__calloc(strlen(text) + 1, 3);
    if (escaped == NULL) return NULL;
    size_t n = 0;
    for (const char *c = text; *c != 0; c++) {
        if (is_word(*c) || strchr(".-~", *c) != NULL || strchr(keep, *c) != NULL) {
            escaped[n++] = *c;
        } else {
            escaped[n++] = '%';
            escaped[n++] = digits[(unsigned char)*c >> 4];
            escaped[n++] = digits[(unsigned char)*c & 15];
        }
    }
    return escaped;
}

char *dlm__hub_file_url(const char *endpoint, const dlm_hub_repo *repo, const char *revision,
                        const char *file) {
    char *at = escape(revision, ""), *name = escape(file, "/");
    const char *folder = repo->kind == DLM_REPO_DATASET ? "datasets/" : "";
    char *url = at == NULL || name == NULL
                    ? NULL
                    : dlm__hub_text("%s/%s%s/resolve/%s/%s", endpoint, folder, repo->id, at, name);
    free(at);
    free(name);
    return url;
}

char *dlm__hub_list_url(const char *endpoint, const dlm_hub_repo *repo) {
    char *at = escape(repo->revision, "");
    const char *folder = repo->kind == DLM_REPO_DATASET ? "datasets" : "models";
    char *url = at == NULL ? NULL : dlm__hub_text("%s/api/%s/%s/revision/%s", endpoint, folder, repo->id, at);
    free(at);
    return url;
}
