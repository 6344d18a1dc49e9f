/* What the environment says about the Hub, by the names that the Python library reads. An empty variable is
 * as if unset. */
#include "format/hub.h"

#include <ctype.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { TOKEN_FILE_MAX = 4096, TIMEOUT_DEFAULT = 10, TIMEOUT_MAX = 86400 };

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value != NULL && value[0] != 0 ? value : NULL;
}

static bool is_on(const char *name) {
    const char *value = variable(name);
    return value != NULL && (strcmp(value, "1") == 0 || strcasecmp(value, "on") == 0 ||
                             strcasecmp(value, "yes") == 0 || strcasecmp(value, "true") == 0);
}

static long seconds_of(const char *name) {
    const char *value = variable(name);
    char *end;
    const long seconds = value == NULL ? 0 : strtol(value, &end, 10);
    return seconds > 0 && seconds <= TIMEOUT_MAX ? seconds : TIMEOUT_DEFAULT;
}

/* ---- folders ------------------------------------------------------------------------------------------ */

static const char *home(void) {
    const char *folder = variable("HOME");
    if (folder != NULL) return folder;
    const struct passwd *user = getpwuid(getuid());
    return user != NULL && user->pw_dir != NULL ? user->pw_dir : "/";
}

/* The variable that stands at `at` as $NAME or ${NAME}: its value, and behind it in *end; NULL: none. */
static const char *variable_at(const char *at, const char **end) {
    char name[128];
    const bool braces = at[1] == '{';
    const char *start = at + (braces ? 2 : 1);
    const size_t n = strspn(start, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
    if (n == 0 || n >= sizeof name || (braces && start[n] != '}')) return NULL;
    memcpy(name, start, n);
    name[n] = 0;
    *end = start + n + (braces ? 1 : 0);
    return getenv(name);
}

/* A leading ~ and variables replaced, as Python's expanduser and expandvars do (but for ~user); free() it. */
static char *expand(const char *text) {
    char *path = text[0] == '~' && (text[1] == 0 || text[1] == '/') ? dlm__hub_text("%s%s", home(), text + 1)
                                                                    : dlm__hub_text("%s", text);
    for (size_t at = 0; path != NULL && path[at] != 0;) {
        const char *end;
        const char *value = path[at] == '$' ? variable_at(path + at, &end) : NULL;
        if (value == NULL) {
            at++;
            continue;
        }
        char *replaced = dlm__hub_text("%.*s%s%s", (int)at, path, value, end);
        free(path);
        path = replaced;
        at += strlen(value);
    }
    return path;
}

/* HF_HOME; free() it; NULL without memory. */
static char *hub_home(void) {
    if (variable("HF_HOME") != NULL) return expand(variable("HF_HOME"));
    char *caches = variable("XDG_CACHE_HOME") != NULL ? expand(variable("XDG_CACHE_HOME"))
                                                      : dlm__hub_text("%s/.cache", home());
    char *path = caches == NULL ? NULL : dlm__join(caches, "huggingface");
    free(caches);
    return path;
}

/* ---- the token ---------------------------------------------------------------------------------------- */

/* text without white space around it; NULL when nothing is left, or without memory. A token that holds
 * anything else than printable ASCII would put lines of its own into a request. */
static dlm_status clean_token(const char *source, const char *text, char **token, dlm_error *err) {
    const char *space = " \t\r\n";
    text += strspn(text, space);
    size_t n = strlen(text);
    while (n > 0 && strchr(space, text[n - 1]) != NULL) n--;
    if (n == 0) return DLM_OK;
    for (size_t i = 0; i < n; i++) {
        if (text[i] <= 0x20 || text[i] >= 0x7f)
            return dlm__fail(err, DLM_ARGUMENT, "%s holds no token: byte %zu of it is no printable ASCII",
                             source, i + 1);
    }
    *token = dlm__copy_bytes(text, n);
    return *token != NULL ? DLM_OK : dlm__fail_memory(err, source, n);
}

static dlm_status read_token(const char *hub, char **token, dlm_error *err) {
    const char *given =
        variable("HF_TOKEN") != NULL ? variable("HF_TOKEN") : variable("HUGGING_FACE_HUB_TOKEN");
    if (is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return DLM_OK;
    if (given != NULL) DLM_TRY(clean_token("HF_TOKEN", given, token, err));
    if (*token != NULL) return DLM_OK;
    char *path =
        variable("HF_TOKEN_PATH") != NULL ? expand(variable("HF_TOKEN_PATH")) : dlm__join(hub, "token");
    char *text = NULL;
    size_t n;
    if (path == NULL) return dlm__fail_memory(err, "token", strlen(hub));
    dlm_status status = DLM_OK;
    if (dlm__is_file(path)) status = dlm__read_file(path, TOKEN_FILE_MAX, &text, &n, err);
    if (text != NULL) status = clean_token(path, text, token, err);
    free(text);
    free(path);
    return status;
}

/* ---- the endpoint ------------------------------------------------------------------------------------- */

/* The host in HOST, HOST:PORT or [HOST]:PORT (n bytes), in *host of *length bytes; false: it is none of
 * these. libcurl has the last word, when something is sent. */
static bool split_authority(const char *text, size_t n, const char **host, size_t *length) {
    const char *bracket = text[0] == '[' ? memchr(text, ']', n) : NULL;
    const char *colon = bracket != NULL ? bracket + 1 : memchr(text, ':', n);
    const size_t end = colon != NULL ? (size_t)(colon - text) : n;
    for (size_t i = 0; i < n; i++)
        if (text[i] == '@' || (i > end && !isdigit((unsigned char)text[i]))) return false;
    *host = text;
    *length = end;
    return end > 0 && (text[0] != '[' || (bracket != NULL && end > 2)) && (end == n || text[end] == ':');
}

static bool split_endpoint(const char *url, bool plain, const char **host, size_t *length) {
    if (!plain && strncasecmp(url, "https://", 8) != 0) return false;
    for (const char *at = url; *at != 0; at++)
        if ((unsigned char)*at <= ' ' || *at == 0x7f || *at == '?' || *at == '#') return false;
    const char *authority = strstr(url, "://") + 3;
    return split_authority(authority, strcspn(authority, "/"), host, length);
}

static dlm_status read_endpoint(dlm_hub_settings *settings, dlm_error *err) {
    const char *given = variable("HF_ENDPOINT") != NULL ? variable("HF_ENDPOINT") : "https://huggingface.co";
    size_t n = strlen(given), length;
    while (n > 0 && given[n - 1] == '/') n--;
    settings->endpoint = dlm__copy_bytes(given, n);
    if (settings->endpoint == NULL) return dlm__fail_memory(err, "HF_ENDPOINT", n);
    settings->plain = strncasecmp(settings->endpoint, "http://", 7) == 0;
    const char *host;
    if (!split_endpoint(settings->endpoint, settings->plain, &host, &length))
        return dlm__fail(err, DLM_ARGUMENT, "HF_ENDPOINT is '%s', no address https://HOST or http://HOST",
                         given);
    settings->host = dlm__copy_bytes(host, length);
    return settings->host != NULL ? DLM_OK : dlm__fail_memory(err, "HF_ENDPOINT", n);
}

/* ---- all of it ---------------------------------------------------------------------------------------- */

static dlm_status read_cache(dlm_hub_settings *settings, const char *hub, dlm_error *err) {
    const char *given =
        variable("HF_HUB_CACHE") != NULL ? variable("HF_HUB_CACHE") : variable("HUGGINGFACE_HUB_CACHE");
    settings->cache = given != NULL ? expand(given) : dlm__join(hub, "hub");
    return settings->cache != NULL ? DLM_OK : dlm__fail_memory(err, "HF_HUB_CACHE", strlen(hub));
}

dlm_status dlm__hub_settings_read(dlm_hub_settings *settings, dlm_error *err) {
    *settings = (dlm_hub_settings){.offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
                                   .head_timeout = seconds_of("HF_HUB_ETAG_TIMEOUT"),
                                   .timeout = seconds_of("HF_HUB_DOWNLOAD_TIMEOUT")};
    char *hub = hub_home();
    if (hub == NULL) return dlm__fail_memory(err, "HF_HOME", 0);
    dlm_status status = read_cache(settings, hub, err);
    if (status == DLM_OK) status = read_endpoint(settings, err);
    if (status == DLM_OK) status = read_token(hub, &settings->token, err);
    free(hub);
    if (status == DLM_OK && variable("SSL_CERT_FILE") != NULL) {
        settings->authorities = dlm__hub_text("%s", variable("SSL_CERT_FILE"));
        if (settings->authorities == NULL) return dlm__fail_memory(err, "SSL_CERT_FILE", 0);
    }
    return status;
}

void dlm__hub_settings_free(dlm_hub_settings *settings) {
    free(settings->endpoint);
    free(settings->host);
    free(settings->cache);
    free(settings->token);
    free(settings->authorities);
    *settings = (dlm_hub_settings){0};
}
