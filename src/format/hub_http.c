/* Requests to the Hub and to the storage that it redirects to, by libcurl.
 *
 * Redirects are followed here and not by libcurl, which would decide by its own rules where a token goes.
 * Here it goes to the endpoint's scheme, host and port, and after a redirect away from them nowhere any more.
 */
#include "format/hub.h"
#include "format/hub_curl.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { REDIRECTS_MAX = 10, CONNECT_SECONDS = 10 };
#define REPORT_SECONDS 0.1

struct dlm_hub_client {
    const dlm_hub_settings *settings;
    const dlm_curl *curl; /* NULL until something is sent */
    CURL *handle;
    char message[CURL_ERROR_SIZE];
    dlm_progress progress;
    void *user;
    const char *stage;
    uint64_t total;
    int64_t done;
    double begun, reported; /* seconds of the clock */
    bool stopped;
};

dlm_status dlm__hub_client_create(const dlm_hub_settings *settings, dlm_progress progress, void *user,
                                  dlm_hub_client **client, dlm_error *err) {
    *client = dlm__calloc(1, sizeof **client);
    if (*client == NULL) return dlm__fail_memory(err, settings->host, sizeof **client);
    **client = (dlm_hub_client){.settings = settings, .progress = progress, .user = user, .stage = ""};
    return DLM_OK;
}

/* What is in the cache can be used without libcurl. */
static dlm_status begin(dlm_hub_client *client, dlm_error *err) {
    if (client->handle != NULL) return DLM_OK;
    client->curl = dlm__curl(err);
    if (client->curl == NULL) return DLM_NETWORK;
    client->handle = client->curl->easy_init();
    return client->handle != NULL ? DLM_OK : dlm__fail(err, DLM_NETWORK, "libcurl cannot begin");
}

void dlm__hub_client_free(dlm_hub_client *client) {
    if (client == NULL) return;
    if (client->handle != NULL) client->curl->easy_cleanup(client->handle);
    free(client);
}

const dlm_hub_settings *dlm__hub_client_settings(const dlm_hub_client *client) {
    return client->settings;
}

/* ---- progress ----------------------------------------------------------------------------------------- */

void dlm__hub_stage(dlm_hub_client *client, const char *stage, uint64_t total) {
    client->stage = stage;
    client->total = total;
    client->done = 0;
    client->begun = dlm__seconds();
    client->reported = client->begun - REPORT_SECONDS;
}

void dlm__hub_advance(dlm_hub_client *client, int64_t bytes) {
    client->done += bytes;
    if (client->done < 0) client->done = 0;
}

bool dlm__hub_stopped(dlm_hub_client *client) {
    const double now = dlm__seconds();
    if (client->stopped || client->progress == NULL || now - client->reported < REPORT_SECONDS)
        return client->stopped;
    client->reported = now;
    uint64_t done = (uint64_t)client->done;
    if (client->total > 0 && done > client->total) done = client->total;
    client->stopped = client->progress(client->user, client->stage, done, client->total, now - client->begun);
    return client->stopped;
}

bool dlm__hub_pause(dlm_hub_client *client, double seconds) {
    const struct timespec pause = {.tv_nsec = 20L * 1000 * 1000};
    for (const double until = dlm__seconds() + seconds; dlm__seconds() < until;) {
        if (dlm__hub_stopped(client)) return true;
        (void)nanosleep(&pause, NULL);
    }
    return dlm__hub_stopped(client);
}

/* ---- addresses ---------------------------------------------------------------------------------------- */

/* base followed by location, which may be relative; free() it; NULL: no address of http or https. */
static char *follow(const dlm_curl *curl, const char *base, const char *location) {
    CURLU *url = curl->url();
    char *whole = NULL, *copy = NULL;
    if (url != NULL && curl->url_set(url, CURLUPART_URL, base, 0) == CURLUE_OK &&
        curl->url_set(url, CURLUPART_URL, location, CURLU_DISALLOW_USER) == CURLUE_OK &&
        curl->url_get(url, CURLUPART_URL, &whole, 0) == CURLUE_OK)
        copy = dlm__copy_bytes(whole, strlen(whole));
    curl->free(whole);
    curl->url_cleanup(url);
    return copy;
}

static bool same_part(const dlm_curl *curl, CURLU *a, CURLU *b, CURLUPart part) {
    char *first = NULL, *second = NULL;
    const bool same = curl->url_get(a, part, &first, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                      curl->url_get(b, part, &second, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                      strcasecmp(first, second) == 0;
    curl->free(first);
    curl->free(second);
    return same;
}

/* Have two addresses the same scheme, host and port? */
static bool same_origin(const dlm_curl *curl, const char *a, const char *b) {
    CURLU *first = curl->url(), *second = curl->url();
    const bool same =
        first != NULL && second != NULL && curl->url_set(first, CURLUPART_URL, a, 0) == CURLUE_OK &&
        curl->url_set(second, CURLUPART_URL, b, 0) == CURLUE_OK &&
        same_part(curl, first, second, CURLUPART_SCHEME) && same_part(curl, first, second, CURLUPART_HOST) &&
        same_part(curl, first, second, CURLUPART_PORT);
    curl->url_cleanup(first);
    curl->url_cleanup(second);
    return same;
}

static bool is_allowed(const dlm_hub_client *client, const char *url) {
    return strncasecmp(url, "https://", 8) == 0 ||
           (client->settings->plain && strncasecmp(url, "http://", 7) == 0);
}

/* ---- one request -------------------------------------------------------------------------------------- */

typedef struct exchange {
    dlm_hub_client *client;
    const dlm_hub_request *request;
    dlm_hub_answer *answer;
} exchange;

static size_t on_header(char *line, size_t size, size_t n, void *given) {
    const exchange *state = given;
    (void)size; /* 1 */
    dlm__hub_header(&state->answer->headers, line, n);
    return n;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *given) {
    const exchange *state = given;
    (void)size; /* 1 */
    const int status = state->answer->headers.status;
    if ((status != 200 && status != 206) || state->request->take == NULL) return n;
    if (state->request->take(state->request->user, &state->answer->headers, bytes, n)) return n;
    state->answer->refused = true;
    return 0;
}

static int on_progress(void *given, curl_off_t down, curl_off_t of, curl_off_t up, curl_off_t of_up) {
    (void)down, (void)of, (void)up, (void)of_up;
    return dlm__hub_stopped(given) ? 1 : 0;
}

static bool add_line(const dlm_curl *curl, struct curl_slist **list, const char *line) {
    struct curl_slist *longer = line == NULL ? NULL : curl->slist_append(*list, line);
    if (longer != NULL) *list = longer;
    return longer != NULL;
}

/* The headers that are sent; curl_slist_free_all() them. False without memory. */
static bool request_lines(const dlm_hub_client *client, const dlm_hub_request *request, bool with_token,
                          struct curl_slist **list) {
    char *token = with_token ? dlm__hub_text("Authorization: Bearer %s", client->settings->token) : NULL;
    char *range =
        request->from > 0 ? dlm__hub_text("Range: bytes=%llu-", (unsigned long long)request->from) : NULL;
    const bool right = add_line(client->curl, list, "Accept-Encoding: identity") &&
                       (!with_token || add_line(client->curl, list, token)) &&
                       (request->from == 0 || add_line(client->curl, list, range));
    free(token);
    free(range);
    return right;
}

static void set_protocols(const dlm_curl *curl, CURL *handle, bool plain) {
#if LIBCURL_VERSION_NUM >= 0x075500
    (void)curl->easy_setopt(handle, CURLOPT_PROTOCOLS_STR, plain ? "http,https" : "https");
#else
    (void)curl->easy_setopt(handle, CURLOPT_PROTOCOLS,
                            plain ? CURLPROTO_HTTP | CURLPROTO_HTTPS : CURLPROTO_HTTPS);
#endif
}

static void set_options(dlm_hub_client *client, const char *url, struct curl_slist *lines, exchange *state) {
    const dlm_curl *curl = client->curl;
    CURL *handle = client->handle;
    const dlm_hub_settings *settings = client->settings;
    const long timeout = state->request->head ? settings->head_timeout : settings->timeout;
    curl->easy_reset(handle); /* connections stay */
    (void)curl->easy_setopt(handle, CURLOPT_URL, url);
    set_protocols(curl, handle, settings->plain);
    (void)curl->easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl->easy_setopt(handle, CURLOPT_NOBODY, state->request->head ? 1L : 0L);
    (void)curl->easy_setopt(handle, CURLOPT_HTTPHEADER, lines);
    (void)curl->easy_setopt(handle, CURLOPT_USERAGENT, "diffusionlm/" DLM_VERSION);
    (void)curl->easy_setopt(handle, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl->easy_setopt(handle, CURLOPT_HEADERDATA, state);
    (void)curl->easy_setopt(handle, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl->easy_setopt(handle, CURLOPT_WRITEDATA, state);
    (void)curl->easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
    (void)curl->easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, on_progress);
    (void)curl->easy_setopt(handle, CURLOPT_XFERINFODATA, client);
    (void)curl->easy_setopt(handle, CURLOPT_ERRORBUFFER, client->message);
    (void)curl->easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    (void)curl->easy_setopt(handle, CURLOPT_BUFFERSIZE, 256L * 1024);
    (void)curl->easy_setopt(handle, CURLOPT_CONNECTTIMEOUT,
                            timeout < CONNECT_SECONDS ? timeout : CONNECT_SECONDS);
    /* Not the length of a transfer is limited, but how long it may stand still. */
    (void)curl->easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl->easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, timeout);
    if (settings->authorities != NULL) (void)curl->easy_setopt(handle, CURLOPT_CAINFO, settings->authorities);
}

/* May the same call succeed when it is tried again? */
static bool is_transient(CURLcode code) {
    switch (code) {
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_COULDNT_CONNECT:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM: return true;
    default: return false;
    }
}

static dlm_status explain(const dlm_hub_client *client, CURLcode code, const char *url, dlm_error *err) {
    const char *start = strstr(url, "://");
    const char *host = start == NULL ? url : start + 3;
    const int n = (int)strcspn(host, "/?#");
    const char *why = client->message[0] != 0 ? client->message : client->curl->easy_strerror(code);
    switch (code) {
    case CURLE_OUT_OF_MEMORY: return dlm__fail(err, DLM_MEMORY, "%.*s: out of memory", n, host);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return dlm__fail(err, DLM_NETWORK, "%.*s is not found: %s (is there a network?)", n, host, why);
    case CURLE_COULDNT_CONNECT:
        return dlm__fail(err, DLM_NETWORK, "%.*s cannot be reached: %s", n, host, why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return dlm__fail(err, DLM_NETWORK, "%.*s cannot be trusted: %s (SSL_CERT_FILE names certificates)", n,
                         host, why);
    case CURLE_OPERATION_TIMEDOUT:
        return dlm__fail(err, DLM_NETWORK, "%.*s does not answer: %s", n, host, why);
    default: return dlm__fail(err, DLM_NETWORK, "%.*s: %s", n, host, why);
    }
}

/* One request without redirects; the answer's headers, and its body to take. */
static dlm_status send_once(dlm_hub_client *client, const dlm_hub_request *request, const char *url,
                            bool with_token, dlm_hub_answer *answer, dlm_error *err) {
    struct curl_slist *lines = NULL;
    exchange state = {.client = client, .request = request, .answer = answer};
    answer->headers = (dlm_hub_headers){0};
    client->message[0] = 0;
    CURLcode code = CURLE_OUT_OF_MEMORY;
    if (request_lines(client, request, with_token, &lines)) {
        set_options(client, url, lines, &state);
        code = client->curl->easy_perform(client->handle);
    }
    (void)client->curl->easy_setopt(client->handle, CURLOPT_HTTPHEADER, NULL);
    client->curl->slist_free_all(lines);
    if (code == CURLE_OK) return DLM_OK;
    if (client->stopped) return dlm__fail(err, DLM_CANCELLED, "%s: stopped", client->stage);
    answer->transient = !answer->refused && is_transient(code);
    return explain(client, code, url, err);
}

/* ---- redirects ---------------------------------------------------------------------------------------- */

static bool is_redirect(int status) {
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Does the redirect itself tell about the file? It does at the Hub; a mirror's may not. */
static bool tells(const dlm_hub_headers *headers) {
    return headers->commit[0] != 0 && (headers->linked || headers->etag[0] != 0);
}

/* Moves answer->url on to where the redirect leads. */
static dlm_status redirect(const dlm_hub_client *client, dlm_hub_answer *answer, dlm_error *err) {
    const char *host = client->settings->host, *location = answer->headers.location;
    char *next = location[0] == 0 ? NULL : follow(client->curl, answer->url, location);
    if (next == NULL)
        return dlm__fail(err, DLM_NETWORK, "%s redirects without an address that can be followed", host);
    if (!is_allowed(client, next)) {
        dlm_status status = dlm__fail(
            err, DLM_NETWORK, "%s redirects to %.200s, which is not https and not followed", host, next);
        free(next);
        return status;
    }
    if (!same_origin(client->curl, client->settings->endpoint, next)) answer->foreign = true;
    free(answer->url);
    answer->url = next;
    return DLM_OK;
}

dlm_status dlm__hub_send(dlm_hub_client *client, const dlm_hub_request *request, dlm_hub_answer *answer,
                         dlm_error *err) {
    const dlm_hub_settings *settings = client->settings;
    *answer = (dlm_hub_answer){.foreign = request->foreign};
    DLM_TRY(begin(client, err));
    answer->url = dlm__copy_bytes(request->url, strlen(request->url));
    if (answer->url == NULL) return dlm__fail_memory(err, request->url, strlen(request->url));
    if (!answer->foreign) answer->foreign = !same_origin(client->curl, settings->endpoint, request->url);
    for (int i = 0; i <= REDIRECTS_MAX; i++) {
        const bool with_token = settings->token != NULL && !answer->foreign;
        DLM_TRY(send_once(client, request, answer->url, with_token, answer, err));
        if (!is_redirect(answer->headers.status)) return DLM_OK;
        DLM_TRY(redirect(client, answer, err));
        if (request->head && answer->foreign && tells(&answer->headers)) return DLM_OK;
    }
    return dlm__fail(err, DLM_NETWORK, "%s redirects more than %d times", settings->host, REDIRECTS_MAX);
}

/* ---- answers that are no success ---------------------------------------------------------------------- */

static dlm_status judge_denied(const dlm_hub_client *client, const dlm_hub_repo *repo,
                               const dlm_hub_headers *headers, dlm_error *err) {
    const dlm_hub_settings *settings = client->settings;
    if (strcmp(headers->error_code, "GatedRepo") == 0) {
        return dlm__fail(
            err, DLM_DENIED, "%s is gated (%d): accept its conditions at %s/%s%s, and set HF_TOKEN", repo->id,
            headers->status, settings->endpoint, repo->kind == DLM_REPO_DATASET ? "datasets/" : "", repo->id);
    }
    if (headers->status == 403)
        return dlm__fail(err, DLM_DENIED, "%s: %s forbids it (403)%s%s", repo->id, settings->host,
                         headers->error_message[0] != 0 ? ": " : ", the token may lack the permission",
                         headers->error_message);
    if (settings->token != NULL)
        return dlm__fail(err, DLM_DENIED,
                         "%s: %s does not accept the token of HF_TOKEN or the token file (401)", repo->id,
                         settings->host);
    return dlm__fail(err, DLM_DENIED,
                     "%s does not exist on %s, or is private (401): a private one takes a token in HF_TOKEN",
                     repo->id, settings->host);
}

static dlm_status judge_absent(const dlm_hub_client *client, const dlm_hub_repo *repo, const char *file,
                               const dlm_hub_headers *headers, dlm_error *err) {
    const char *host = client->settings->host;
    if (strcmp(headers->error_code, "RevisionNotFound") == 0)
        return dlm__fail(err, DLM_NOT_FOUND, "%s has no revision '%s' on %s (404)", repo->id, repo->revision,
                         host);
    if (strcmp(headers->error_code, "EntryNotFound") == 0 && file != NULL)
        return dlm__fail(err, DLM_NOT_FOUND, "%s has no file '%s' at revision '%s' on %s (404)", repo->id,
                         file, repo->revision, host);
    return dlm__fail(err, DLM_NOT_FOUND, "there is no %s '%s' on %s (404)",
                     repo->kind == DLM_REPO_DATASET ? "dataset" : "model", repo->id, host);
}

dlm_status dlm__hub_judge(const dlm_hub_client *client, const dlm_hub_repo *repo, const char *file,
                          const dlm_hub_headers *headers, dlm_error *err) {
    const char *host = client->settings->host;
    const int status = headers->status;
    if (strcmp(headers->error_code, "RepoNotFound") == 0 && status != 401)
        return judge_absent(client, repo, NULL, headers, err);
    if (status == 401 || status == 403) return judge_denied(client, repo, headers, err);
    if (status == 404) return judge_absent(client, repo, file, headers, err);
    if (status == 429)
        return dlm__fail(err, DLM_NETWORK, "%s: %s has had too many requests (429); try later", repo->id,
                         host);
    if (status >= 500)
        return dlm__fail(err, DLM_NETWORK, "%s: %s has a fault of its own (%d); try later", repo->id, host,
                         status);
    return dlm__fail(err, DLM_NETWORK, "%s: %s answers with status %d, not as a Hub does", repo->id, host,
                     status);
}
