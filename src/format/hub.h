/* The Hugging Face Hub: which repository, file and revision a text names, the cache on disk that is shared
 * with the Python library huggingface_hub, and downloads into it.
 *
 *     hub_names.c      ids, revisions, names of files, addresses
 *     hub_settings.c   what the environment says
 *     hub_cache.c      the folders: refs, snapshots, blobs, locks
 *     hub_answer.c     what a server says, in headers and lists of files: hostile bytes
 *     hub_http.c       one request by libcurl, redirects by hand
 *     hub_curl.c       libcurl, loaded when something is sent
 *     hub_fetch.c      one file: asked about, transferred, verified, named
 *     hub.c            the public calls, and the files of a model
 *
 * The layout of the cache is the Python library's; docs/formats.md describes it. */
#ifndef DLM_HUB_H
#define DLM_HUB_H

#include "base/base.h"

/* ---- names (hub_names.c) ------------------------------------------------------------------------------ */

enum { DLM_HUB_COMMIT = 40, DLM_HUB_SHA1 = 40, DLM_HUB_SHA256 = 64 }; /* hexadecimal digits */

typedef struct dlm_hub_repo {
    dlm_repo_kind kind;
    char *id;       /* "org/name" or "name" */
    char *revision; /* a branch, a tag or a commit */
} dlm_hub_repo;

/* Could text be ID or ID@REVISION? By the rules of huggingface_hub for ids; nothing is asked. */
bool dlm__hub_is_id(const char *text);
/* From ID or ID@REVISION, and a revision that may be NULL: that in text, or else "main". Free with
 * dlm__hub_repo_free, also on failure. */
dlm_status dlm__hub_repo_parse(const char *text, const char *revision, dlm_repo_kind kind, dlm_hub_repo *repo,
                               dlm_error *err);
void dlm__hub_repo_free(dlm_hub_repo *repo);

/* Whether a name (n bytes) of a file in a repository stays inside the folder that it is put into; and the
 * same of a revision, which is a path below refs. */
bool dlm__hub_safe_path(const char *name, size_t n);
/* n lower-case hexadecimal digits and no more? */
bool dlm__hub_is_hex(const char *text, size_t n);

/* ENDPOINT/ID/resolve/REVISION/FILE, and ENDPOINT/api/models/ID/revision/REVISION; "datasets" likewise.
 * free() it; NULL without memory. */
char *dlm__hub_file_url(const char *endpoint, const dlm_hub_repo *repo, const char *revision,
                        const char *file);
char *dlm__hub_list_url(const char *endpoint, const dlm_hub_repo *repo);

/* Text by a format; free() it; NULL without memory. */
char *dlm__hub_text(const char *format, ...) DLM_PRINTF(1, 2);

/* ---- settings (hub_settings.c) ------------------------------------------------------------------------ */

typedef struct dlm_hub_settings {
    char *endpoint;    /* HF_ENDPOINT, without a slash at its end */
    char *host;        /* of the endpoint, for messages */
    char *cache;       /* HF_HUB_CACHE, or HF_HOME/hub, or XDG_CACHE_HOME/huggingface/hub, or ~/.cache/... */
    char *token;       /* HF_TOKEN, or what is in HF_TOKEN_PATH or HF_HOME/token; NULL: none */
    char *authorities; /* SSL_CERT_FILE: certificates to trust; NULL: those of the system */
    bool offline;      /* HF_HUB_OFFLINE */
    bool plain;        /* the endpoint is plain http, as only HF_ENDPOINT can say */
    long head_timeout, timeout; /* HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT: seconds without an answer */
} dlm_hub_settings;

/* Free with dlm__hub_settings_free, also on failure. */
dlm_status dlm__hub_settings_read(dlm_hub_settings *settings, dlm_error *err);
void dlm__hub_settings_free(dlm_hub_settings *settings);

/* ---- what a server says (hub_answer.c) ---------------------------------------------------------------- */

typedef struct dlm_hub_headers {
    int status;                    /* of HTTP; 0: none yet */
    char etag[80];                 /* X-Linked-Etag, or else ETag; without quotes */
    bool linked;                   /* the former */
    char commit[48];               /* X-Repo-Commit */
    char location[8192];           /* "": none, or too long */
    char error_code[64];           /* X-Error-Code: RepoNotFound, EntryNotFound, ... */
    char error_message[128];       /* X-Error-Message */
    int64_t length, linked_length; /* Content-Length and X-Linked-Size; -1: none */
    int64_t range_from, range_of;  /* Content-Range: bytes FROM-TO/OF; -1: none, or OF unknown */
} dlm_hub_headers;

/* Takes one line (n bytes, with or without its line end) into headers; a status line clears them. Values that
 * do not fit, or are no numbers, are as if absent. */
void dlm__hub_header(dlm_hub_headers *headers, const char *line, size_t n);

/* The files of a repository at a commit. */
typedef struct dlm_hub_listing {
    char commit[DLM_HUB_COMMIT + 1];
    size_t n;
    char **names; /* each dlm__hub_safe_path */
} dlm_hub_listing;
/* From n bytes of JSON as the Hub's api/models/ID/revision/REVISION gives it; name is for messages. */
dlm_status dlm__hub_listing_parse(const char *name, const char *text, size_t n, dlm_hub_listing *listing,
                                  dlm_error *err);
bool dlm__hub_listed(const dlm_hub_listing *listing, const char *name);
void dlm__hub_listing_free(dlm_hub_listing *listing);

/* ---- the cache (hub_cache.c) -------------------------------------------------------------------------- */

/* CACHE/models--org--name; free() it; NULL without memory. */
char *dlm__hub_storage(const char *cache, const dlm_hub_repo *repo);
/* The commit that a revision was when it was last downloaded: the revision itself if it is one, or what
 * refs/REVISION holds; false when there is none. */
bool dlm__hub_commit(const char *storage, const char *revision, char commit[DLM_HUB_COMMIT + 1]);
/* Writes refs/REVISION, unless it holds that commit already or the revision is one. */
dlm_status dlm__hub_set_commit(const char *storage, const char *revision, const char *commit, dlm_error *err);
/* storage/snapshots/COMMIT, with /FILE behind it unless that is NULL; free() it; NULL without memory. */
char *dlm__hub_snapshot(const char *storage, const char *commit, const char *file);
/* Is there a file under this name, or a link to one? */
bool dlm__hub_has(const char *pointer);
/* Makes pointer, a file in a snapshot, a relative link to storage/blobs/HASH; where there are no links, the
 * blob itself. */
dlm_status dlm__hub_link(const char *storage, const char *commit, const char *file, const char *hash,
                         dlm_error *err);
/* CACHE/CACHEDIR.TAG, by which backups know a cache; failing does not matter. */
void dlm__hub_tag(const char *cache);
/* The files of a snapshot on disk as a listing. */
dlm_status dlm__hub_list_snapshot(const char *folder, dlm_hub_listing *listing, dlm_error *err);

/* One process at a time for each hash, where the file system has locks:
 * CACHE/.locks/models--org--name/HASH.lock, by flock as the Python library does. Waits, and asks `stop(user)`
 * meanwhile. The file stays. */
typedef bool (*dlm_hub_stop)(void *user);
dlm_status dlm__hub_lock(const char *cache, const dlm_hub_repo *repo, const char *hash, dlm_hub_stop stop,
                         void *user, int *lock, dlm_error *err);
void dlm__hub_unlock(int lock);

/* ---- requests (hub_http.c) ---------------------------------------------------------------------------- */

typedef struct dlm_hub_client dlm_hub_client;
/* settings stay the caller's. progress may be NULL. libcurl is not asked for before the first request. */
dlm_status dlm__hub_client_create(const dlm_hub_settings *settings, dlm_progress progress, void *user,
                                  dlm_hub_client **client, dlm_error *err);
void dlm__hub_client_free(dlm_hub_client *client); /* accepts NULL */
const dlm_hub_settings *dlm__hub_client_settings(const dlm_hub_client *client);

/* What the next requests are said to be for: begins a stage of `total` bytes (0: unknown) of which progress
 * tells. stage must stay until the next one. */
void dlm__hub_stage(dlm_hub_client *client, const char *stage, uint64_t total);
/* Adds to what is done of it, below 0 too. */
void dlm__hub_advance(dlm_hub_client *client, int64_t bytes);
/* Reports progress if that is due; true when the caller wants to stop, from then on always. */
bool dlm__hub_stopped(dlm_hub_client *client);
/* Sleeps so long; true as above. */
bool dlm__hub_pause(dlm_hub_client *client, double seconds);

/* Takes n bytes of the body of an answer; false ends the request. Not asked of redirects and failures (a
 * status other than 200 and 206). */
typedef bool (*dlm_hub_take)(void *user, const dlm_hub_headers *headers, const void *bytes, size_t n);

typedef struct dlm_hub_request {
    const char *url;
    bool head; /* HEAD: a redirect to another host is the answer if it tells about the file, and not followed
                */
    bool foreign;  /* url came from a redirect away from the endpoint: no token goes there */
    uint64_t from; /* Range: from this byte on */
    dlm_hub_take take;
    void *user;
} dlm_hub_request;

typedef struct dlm_hub_answer {
    dlm_hub_headers headers;
    char *url;      /* where the answer came from; of HEAD, where a redirect leads; free() it */
    bool foreign;   /* url is not at the endpoint */
    bool transient; /* the call failed, but may succeed when it is tried again */
    bool refused;   /* it failed since take returned false */
} dlm_hub_answer;

/* Sends a request and follows redirects, at most 10, never to plain http unless the endpoint is; the token
 * goes to the endpoint's scheme, host and port alone, and not any more once a redirect has left them. OK is
 * an answer of any status: judge it. DLM_NETWORK, DLM_CANCELLED. */
dlm_status dlm__hub_send(dlm_hub_client *client, const dlm_hub_request *request, dlm_hub_answer *answer,
                         dlm_error *err);
/* A sentence for an answer that is no success, about `file` of the repository, or the repository for NULL.
 * DLM_NOT_FOUND, DLM_DENIED or DLM_NETWORK. */
dlm_status dlm__hub_judge(const dlm_hub_client *client, const dlm_hub_repo *repo, const char *file,
                          const dlm_hub_headers *headers, dlm_error *err);

/* ---- files (hub_fetch.c) ------------------------------------------------------------------------------ */

/* Puts a file of repo at revision (its own, or a commit) into the cache: *path (free() it) is where, commit
 * gets what the revision is now. Without a network, offline, or refused, the file as it was last downloaded;
 * the ref is not written. */
dlm_status dlm__hub_fetch(dlm_hub_client *client, const dlm_hub_repo *repo, const char *revision,
                          const char *file, char commit[DLM_HUB_COMMIT + 1], char **path, dlm_error *err);
/* The files of repo, or of the snapshot last downloaded where the Hub cannot be asked; *cached tells which.
 */
dlm_status dlm__hub_list(dlm_hub_client *client, const dlm_hub_repo *repo, dlm_hub_listing *listing,
                         bool *cached, dlm_error *err);

/* ---- models (hub.c) ----------------------------------------------------------------------------------- */

/* Does the name of a model or a tokenizer mean one of the Hub: no path that exists, no file by its ending,
 * but an id? */
bool dlm__hub_is_model(const char *model);
/* Downloads the model ID or ID@REVISION, as much of it as loading takes: its folder in the cache; free() it.
 * model.safetensors or, with raw, raw.safetensors, where the repository has them, or else final.pt; with
 * config.json, tokenizer.json and tokenizer_config.json where it has these. A failure says that there is no
 * such path either. */
dlm_status dlm__hub_model_folder(const char *id, bool raw, dlm_progress progress, void *user, char **folder,
                                 dlm_error *err);
/* The same of its tokenizer: tokenizer.json, with tokenizer_config.json where it has that. */
dlm_status dlm__hub_tokenizer_folder(const char *id, dlm_progress progress, void *user, char **folder,
                                     dlm_error *err);

#endif
