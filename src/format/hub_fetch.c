/* One file of a repository: asked about (HEAD), transferred into a file that has another name until its hash
 * is the one that was told, and linked to from the snapshot.
 *
 * A transfer that breaks off leaves blobs/HASH.incomplete, which the next one goes on with (the Python
 * library begins anew). That is safe since the name is the hash of the whole, and the whole is verified:
 * bytes of another file, or of a server that lies, never get the name. */
#include "format/hub.h"

#include "format/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { TRIES = 5, ASKS = 4, CHUNK = 1 << 20 };
#define UNKNOWN_SIZE_MAX ((int64_t)64 << 20) /* of a file whose size the server does not tell */
#define LISTING_MAX      ((size_t)64 << 20)

/* What the server tells about a file. */
typedef struct about {
    char commit[DLM_HUB_COMMIT + 1];
    char hash[DLM_HUB_SHA256 + 1]; /* SHA-256 of a file in large file storage, or git's SHA-1 of a blob */
    int64_t size;                  /* -1: unknown */
    char *url;
    bool foreign;
} about;

typedef struct fetch {
    dlm_hub_client *client;
    const dlm_hub_repo *repo;
    const char *revision, *file;
    char *storage;
    about about;
    bool definite; /* the Hub says that there is no such file or revision: a cached one is none either */
} fetch;

/* ---- asking ------------------------------------------------------------------------------------------- */

static dlm_status take_about(fetch *job, dlm_hub_answer *answer, dlm_error *err) {
    const dlm_hub_headers *headers = &answer->headers;
    const char *host = dlm__hub_client_settings(job->client)->host;
    if (!dlm__hub_is_hex(headers->commit, DLM_HUB_COMMIT))
        return dlm__fail(err, DLM_NETWORK, "%s: %s names no commit for it (X-Repo-Commit): is it a Hub?",
                         job->file, host);
    if (dlm__hub_is_hex(job->revision, DLM_HUB_COMMIT) && strcmp(job->revision, headers->commit) != 0)
        return dlm__fail(err, DLM_NETWORK, "%s: %s answers with commit %s instead of %s", job->file, host,
                         headers->commit, job->revision);
    if (!dlm__hub_is_hex(headers->etag, DLM_HUB_SHA1) && !dlm__hub_is_hex(headers->etag, DLM_HUB_SHA256))
        return dlm__fail(err, DLM_NETWORK,
                         "%s: %s names no hash for it (ETag '%s'), so it could not be verified", job->file,
                         host, headers->etag);
    memcpy(job->about.commit, headers->commit, sizeof job->about.commit);
    memcpy(job->about.hash, headers->etag, sizeof job->about.hash);
    /* A redirect's own Content-Length is that of the redirect. */
    job->about.size = headers->linked_length >= 0 ? headers->linked_length
                      : headers->status == 200    ? headers->length
                                                  : -1;
    free(job->about.url);
    job->about.url = answer->url;
    job->about.foreign = answer->foreign;
    answer->url = NULL;
    return DLM_OK;
}

/* Sends a request up to `asks` times, as long as the Hub has had too many or a fault that may pass. */
static dlm_status send_again(dlm_hub_client *client, const dlm_hub_request *request, int asks,
                             dlm_hub_answer *answer, dlm_error *err) {
    double pause = 0.2;
    for (int i = 1;; i++) {
        DLM_TRY(dlm__hub_send(client, request, answer, err));
        const int status = answer->headers.status;
        const bool passes = status == 429 || status == 500 || (status >= 502 && status <= 504);
        if (!passes || i >= asks) return DLM_OK;
        free(answer->url);
        *answer = (dlm_hub_answer){0};
        if (dlm__hub_pause(client, pause)) return dlm__fail(err, DLM_CANCELLED, "stopped");
        pause *= 2;
    }
}

/* Asks the Hub for the commit, the hash, the size and the address of the file. */
static dlm_status ask(fetch *job, int asks, dlm_error *err) {
    const dlm_hub_settings *settings = dlm__hub_client_settings(job->client);
    char *url = dlm__hub_file_url(settings->endpoint, job->repo, job->revision, job->file);
    if (url == NULL) return dlm__fail_memory(err, job->file, strlen(job->file));
    dlm_hub_answer answer = {0};
    dlm_status status =
        send_again(job->client, &(dlm_hub_request){.url = url, .head = true}, asks, &answer, err);
    free(url);
    const dlm_hub_headers *headers = &answer.headers;
    if (status == DLM_OK && headers->status != 200 && !(headers->status >= 300 && headers->status < 400)) {
        status = dlm__hub_judge(job->client, job->repo, job->file, headers, err);
        job->definite = strcmp(headers->error_code, "EntryNotFound") == 0 ||
                        strcmp(headers->error_code, "RevisionNotFound") == 0;
    } else if (status == DLM_OK) {
        status = take_about(job, &answer, err);
    }
    free(answer.url);
    return status;
}

/* ---- the transfer ------------------------------------------------------------------------------------- */

typedef struct transfer {
    fetch *job;
    const char *path; /* of the incomplete file */
    int file;
    int64_t have, size; /* bytes on the disk, and of the whole: -1: unknown */
    int code;           /* errno of a failed write */
    bool begun;         /* this answer's status and range were looked at */
    bool misplaced;     /* it is not what was asked for */
} transfer;

/* Looks at the answer before its first byte is taken: a part where it was asked for, or the whole. */
static bool begin_body(transfer *state, const dlm_hub_headers *headers) {
    state->begun = true;
    if (headers->status == 206) {
        state->misplaced = headers->range_from != state->have ||
                           (headers->range_of >= 0 && state->size >= 0 && headers->range_of != state->size);
        return !state->misplaced;
    }
    if (state->have > 0) {
        dlm__hub_advance(state->job->client, -state->have);
        state->have = 0;
        if (ftruncate(state->file, 0) != 0) {
            state->code = errno;
            return false;
        }
    }
    if (state->size < 0 && headers->length >= 0) state->size = headers->length;
    return true;
}

static bool take_bytes(void *user, const dlm_hub_headers *headers, const void *bytes, size_t n) {
    transfer *state = user;
    if (!state->begun && !begin_body(state, headers)) return false;
    const int64_t most = state->size >= 0 ? state->size : UNKNOWN_SIZE_MAX;
    if (state->have > most || (int64_t)n > most - state->have) {
        return false;
    }
    const char *from = bytes;
    while (n > 0) {
        const ssize_t done = pwrite(state->file, from, n, (off_t)state->have);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            state->code = done < 0 ? errno : EIO;
            return false;
        }
        from += done;
        n -= (size_t)done;
        state->have += done;
        dlm__hub_advance(state->job->client, done);
    }
    return true;
}

/* Throws away what is there. */
static dlm_status begin_anew(transfer *state, dlm_error *err) {
    dlm__hub_advance(state->job->client, -state->have);
    state->have = 0;
    if (ftruncate(state->file, 0) == 0) return DLM_OK;
    return dlm__fail_errno(err, errno, "writing %s", state->path);
}

/* The sentence for a body that was not taken. */
static dlm_status refuse_body(const transfer *state, dlm_error *err) {
    const char *file = state->job->file;
    if (state->code == ENOSPC || state->code == EDQUOT || state->code == EFBIG)
        return dlm__fail_errno(err, state->code,
                               "%s: no room for it; %" PRId64 " of %" PRId64
                               " bytes stay for the next try in %s",
                               file, state->have, state->size, state->path);
    if (state->code != 0) return dlm__fail_errno(err, state->code, "writing %s", state->path);
    return dlm__fail(err, DLM_NETWORK,
                     "%s: the server sends more than the %" PRId64 " bytes that it should have", file,
                     state->size >= 0 ? state->size : UNKNOWN_SIZE_MAX);
}

/* One request for what is missing. OK: all is there. *again: it is not, but may be after another request. */
static dlm_status transfer_once(transfer *state, bool *again, dlm_error *err) {
    fetch *job = state->job;
    dlm_hub_answer answer;
    state->begun = state->misplaced = false;
    dlm_status status = dlm__hub_send(job->client,
                                      &(dlm_hub_request){.url = job->about.url,
                                                         .foreign = job->about.foreign,
                                                         .from = (uint64_t)state->have,
                                                         .take = take_bytes,
                                                         .user = state},
                                      &answer, err);
    const int got = answer.headers.status;
    free(answer.url);
    *again = answer.transient;
    if (answer.refused && !state->misplaced) return refuse_body(state, err);
    if (answer.refused || (status == DLM_OK && got == 416)) { /* not the part that was asked for */
        *again = true;
        DLM_TRY(begin_anew(state, err));
        return dlm__fail(err, DLM_NETWORK, "%s: the server does not send the part that is missing",
                         job->file);
    }
    if (status != DLM_OK) return status;
    if (got == 200 || got == 206) {
        if (state->size < 0 || state->have == state->size) return DLM_OK;
        *again = true;
        return dlm__fail(err, DLM_NETWORK, "the connection was closed");
    }
    /* An address at a storage host is signed for a time; another may still be accepted. */
    *again = got == 429 || got >= 500 || job->about.foreign;
    return dlm__hub_judge(job->client, job->repo, job->file, &answer.headers, err);
}

/* Asks for the address again, before the next request to a storage host. */
static dlm_status ask_again(fetch *job, dlm_error *err) {
    char hash[sizeof job->about.hash];
    memcpy(hash, job->about.hash, sizeof hash);
    if (!job->about.foreign || ask(job, 1, NULL) != DLM_OK || strcmp(hash, job->about.hash) == 0)
        return DLM_OK;
    return dlm__fail(err, DLM_NETWORK, "%s changed on the server meanwhile; try again", job->file);
}

/* All bytes, in as many requests as it takes: until TRIES in a row have brought nothing. */
static dlm_status transfer_all(transfer *state, dlm_error *err) {
    fetch *job = state->job;
    dlm_error last = {0};
    double pause = 0.2;
    for (int tries = 0; tries < TRIES; tries++) {
        const int64_t before = state->have;
        bool again = false;
        if (state->size >= 0 && state->have == state->size) return DLM_OK;
        const dlm_status status = transfer_once(state, &again, &last);
        if (status == DLM_OK) return DLM_OK;
        if (!again) {
            if (err != NULL) *err = last;
            return status;
        }
        if (state->have > before) tries = -1;
        if (tries + 1 == TRIES) break;
        pause = state->have > before ? 0.2 : 2 * pause;
        if (dlm__hub_pause(job->client, pause))
            return dlm__fail(err, DLM_CANCELLED, "%s: stopped", job->file);
        DLM_TRY(ask_again(job, err));
    }
    if (err != NULL) *err = last;
    if (state->have == 0) return last.status;
    return dlm__fail(err, DLM_NETWORK,
                     "%s broke off after %" PRId64 " of %" PRId64
                     " bytes, which the next try goes on from (%.200s)",
                     job->file, state->have, state->size, last.message);
}

/* ---- the hash ----------------------------------------------------------------------------------------- */

/* Of the file's bytes; for SHA-1 as git hashes a blob: "blob SIZE", a 0 byte, and the bytes. */
static dlm_status hash_file(const transfer *state, dlm_digest *digest, char hex[65], dlm_error *err) {
    char *chunk = malloc(CHUNK);
    if (chunk == NULL) return dlm__fail_memory(err, state->path, CHUNK);
    char head[40];
    const int n = snprintf(head, sizeof head, "blob %" PRId64, state->have);
    bool right = dlm__hub_is_hex(state->job->about.hash, DLM_HUB_SHA256) ||
                 dlm__digest_add(digest, head, (size_t)n + 1);
    dlm_status status = DLM_OK;
    for (int64_t at = 0; right && status == DLM_OK && at < state->have;) {
        const ssize_t got = pread(state->file, chunk, CHUNK, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) status = dlm__fail_errno(err, got < 0 ? errno : EIO, "reading %s", state->path);
        if (got > 0) right = dlm__digest_add(digest, chunk, (size_t)got);
        at += got > 0 ? got : 0;
        if (dlm__hub_stopped(state->job->client))
            status = dlm__fail(err, DLM_CANCELLED, "%s: stopped", state->job->file);
    }
    free(chunk);
    if (status != DLM_OK) return status;
    if (right && dlm__digest_finish(digest, hex)) return DLM_OK;
    return dlm__fail(err, DLM_UNSUPPORTED, "%s: libcrypto does not hash it", state->job->file);
}

/* *same: is it the file whose hash was told? */
static dlm_status verify(const transfer *state, char hex[65], bool *same, dlm_error *err) {
    const bool large = dlm__hub_is_hex(state->job->about.hash, DLM_HUB_SHA256);
    dlm_digest *digest = dlm__digest_create(large ? DLM_SHA256 : DLM_SHA1);
    *same = false;
    if (digest == NULL)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: libcrypto offers no %s", state->job->file,
                         large ? "SHA-256" : "SHA-1");
    const dlm_status status = hash_file(state, digest, hex, err);
    dlm__digest_free(digest);
    *same = status == DLM_OK && strcmp(hex, state->job->about.hash) == 0;
    return status;
}

/* ---- the blob ----------------------------------------------------------------------------------------- */

/* Is there room for what is missing? */
static dlm_status check_room(const transfer *state, dlm_error *err) {
    struct statvfs disk;
    if (state->size < 0 || fstatvfs(state->file, &disk) != 0) return DLM_OK;
    const uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    const uint64_t need = (uint64_t)(state->size - state->have);
    if (need <= room) return DLM_OK;
    return dlm__fail(err, DLM_IO,
                     "%s: no room for it: %" PRIu64 " bytes are to come, %" PRIu64 " are free beside %s",
                     state->job->file, need, room, state->path);
}

/* Transfers and verifies; what was resumed and turns out wrong is fetched once more as a whole. */
static dlm_status fill_file(transfer *state, dlm_error *err) {
    const bool resumed = state->have > 0;
    for (int round = 0;; round++) {
        char hex[65];
        bool same;
        DLM_TRY(check_room(state, err));
        DLM_TRY(transfer_all(state, err));
        DLM_TRY(verify(state, hex, &same, err));
        if (same) break;
        DLM_TRY(begin_anew(state, err));
        if (!resumed || round > 0) {
            (void)unlink(state->path);
            return dlm__fail(err, DLM_FORMAT, "%s: what came has the hash %s, not %s, and is thrown away",
                             state->job->file, hex, state->job->about.hash);
        }
    }
    if (fsync(state->file) == 0) return DLM_OK;
    return dlm__fail_errno(err, errno, "writing %s", state->path);
}

static dlm_status open_incomplete(transfer *state, dlm_error *err) {
    struct stat facts;
    state->file = open(state->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (state->file < 0) return dlm__fail_errno(err, errno, "creating %s", state->path);
    if (fstat(state->file, &facts) == 0 && S_ISREG(facts.st_mode)) state->have = facts.st_size;
    dlm__hub_stage(state->job->client, state->job->file,
                   state->size > state->have ? (uint64_t)(state->size - state->have) : 0);
    const int64_t most = state->size >= 0 ? state->size : 0;
    return state->have > most ? begin_anew(state, err) : DLM_OK;
}

/* The blob at `path`, which is not there yet; the lock is held. */
static dlm_status make_blob(fetch *job, const char *path, dlm_error *err) {
    char *incomplete = dlm__hub_text("%s.incomplete", path);
    if (incomplete == NULL) return dlm__fail_memory(err, path, strlen(path));
    transfer state = {.job = job, .path = incomplete, .file = -1, .size = job->about.size};
    dlm_status status = open_incomplete(&state, err);
    if (status == DLM_OK) status = fill_file(&state, err);
    if (state.file >= 0 && close(state.file) != 0 && status == DLM_OK)
        status = dlm__fail_errno(err, errno, "writing %s", incomplete);
    if (status == DLM_OK && rename(incomplete, path) != 0)
        status = dlm__fail_errno(err, errno, "renaming %s", incomplete);
    if (status == DLM_OK) status = dlm__sync_parent(path, err);
    free(incomplete);
    return status;
}

static bool waits(void *client) {
    return dlm__hub_stopped(client);
}

/* Makes the blob, if it is not there, and the link to it. */
static dlm_status bring(fetch *job, dlm_error *err) {
    const dlm_hub_settings *settings = dlm__hub_client_settings(job->client);
    const char *hash = job->about.hash;
    char *blobs = dlm__join(job->storage, "blobs"), *path = blobs == NULL ? NULL : dlm__join(blobs, hash);
    int lock = -1;
    dlm_status status = path == NULL ? dlm__fail_memory(err, hash, 1) : dlm__make_dirs(blobs, err);
    if (status == DLM_OK) {
        dlm__hub_tag(settings->cache);
        dlm__hub_stage(job->client, "waiting for another process", 0);
        status = dlm__hub_lock(settings->cache, job->repo, hash, waits, job->client, &lock, err);
    }
    if (status == DLM_OK && !dlm__is_file(path)) status = make_blob(job, path, err);
    if (status == DLM_OK) status = dlm__hub_link(job->storage, job->about.commit, job->file, hash, err);
    dlm__hub_unlock(lock);
    free(path);
    free(blobs);
    return status;
}

/* ---- a file ------------------------------------------------------------------------------------------- */

/* The file as it was last downloaded, if it was: its commit and path. */
static bool find_cached(const fetch *job, char commit[DLM_HUB_COMMIT + 1], char **path) {
    *path = NULL;
    if (!dlm__hub_commit(job->storage, job->revision, commit)) return false;
    *path = dlm__hub_snapshot(job->storage, commit, job->file);
    if (dlm__hub_has(*path)) return true;
    free(*path);
    *path = NULL;
    return false;
}

static dlm_status fetch_online(fetch *job, char commit[DLM_HUB_COMMIT + 1], char **path, dlm_error *err) {
    dlm_error why = {0};
    dlm__hub_stage(job->client, job->file, 0);
    /* Nobody waits for a Hub in trouble who has the file as it was. */
    const bool cached = find_cached(job, commit, path);
    dlm_status status = ask(job, cached ? 1 : ASKS, &why);
    if (status != DLM_OK) {
        if (cached && status != DLM_CANCELLED && status != DLM_MEMORY && !job->definite) return DLM_OK;
        if (err != NULL) *err = why;
        return status;
    }
    free(*path);
    memcpy(commit, job->about.commit, DLM_HUB_COMMIT + 1);
    *path = dlm__hub_snapshot(job->storage, commit, job->file);
    if (*path == NULL) return dlm__fail_memory(err, job->file, strlen(job->file));
    return dlm__hub_has(*path) ? DLM_OK : bring(job, err);
}

dlm_status dlm__hub_fetch(dlm_hub_client *client, const dlm_hub_repo *repo, const char *revision,
                          const char *file, char commit[DLM_HUB_COMMIT + 1], char **path, dlm_error *err) {
    const dlm_hub_settings *settings = dlm__hub_client_settings(client);
    *path = NULL;
    if (!dlm__hub_safe_path(file, strlen(file)))
        return dlm__fail(err, DLM_ARGUMENT, "'%s' is no name of a file in a repository", file);
    fetch job = {.client = client, .repo = repo, .revision = revision, .file = file};
    job.storage = dlm__hub_storage(settings->cache, repo);
    if (job.storage == NULL) return dlm__fail_memory(err, file, strlen(file));
    dlm_status status = DLM_OK;
    const bool is_commit = dlm__hub_is_hex(revision, DLM_HUB_COMMIT);
    if (!(is_commit || settings->offline) || !find_cached(&job, commit, path)) {
        status = settings->offline
                     ? dlm__fail(err, DLM_NOT_FOUND,
                                 "%s of %s@%s is not in the cache %s, and HF_HUB_OFFLINE is set", file,
                                 repo->id, revision, settings->cache)
                     : fetch_online(&job, commit, path, err);
    }
    if (status != DLM_OK) {
        free(*path);
        *path = NULL;
    }
    free(job.about.url);
    free(job.storage);
    return status;
}

/* ---- the list of files -------------------------------------------------------------------------------- */

typedef struct body {
    char *bytes;
    size_t n, capacity;
} body;

static bool take_body(void *user, const dlm_hub_headers *headers, const void *bytes, size_t n) {
    body *state = user;
    (void)headers;
    if (n > LISTING_MAX - state->n) return false;
    char *grown = dlm__grow(state->bytes, &state->capacity, state->n + n + 1, 1);
    if (grown == NULL) return false;
    state->bytes = grown;
    memcpy(grown + state->n, bytes, n);
    state->n += n;
    return true;
}

static dlm_status list_online(dlm_hub_client *client, const dlm_hub_repo *repo, int asks,
                              dlm_hub_listing *listing, bool *definite, dlm_error *err) {
    char *url = dlm__hub_list_url(dlm__hub_client_settings(client)->endpoint, repo);
    if (url == NULL) return dlm__fail_memory(err, repo->id, strlen(repo->id));
    body text = {0};
    dlm_hub_answer answer = {0};
    dlm__hub_stage(client, repo->id, 0);
    dlm_status status = send_again(client, &(dlm_hub_request){.url = url, .take = take_body, .user = &text},
                                   asks, &answer, err);
    if (answer.refused)
        status = dlm__fail(err, DLM_NETWORK, "%s: its list of files is longer than %zu bytes", repo->id,
                           LISTING_MAX);
    if (status == DLM_OK && answer.headers.status != 200) {
        status = dlm__hub_judge(client, repo, NULL, &answer.headers, err);
        *definite = strcmp(answer.headers.error_code, "RevisionNotFound") == 0;
    } else if (status == DLM_OK) {
        status = dlm__hub_listing_parse(url, text.bytes, text.n, listing, err);
    }
    if (status == DLM_OK && dlm__hub_is_hex(repo->revision, DLM_HUB_COMMIT) &&
        strcmp(repo->revision, listing->commit) != 0) {
        status = dlm__fail(err, DLM_FORMAT, "%s: the list of files is of commit %s", url, listing->commit);
        dlm__hub_listing_free(listing);
    }
    free(text.bytes);
    free(answer.url);
    free(url);
    return status;
}

/* The snapshot on disk; NOT_FOUND, without words, where there is none. */
static dlm_status list_cached(const dlm_hub_settings *settings, const dlm_hub_repo *repo,
                              dlm_hub_listing *listing, dlm_error *err) {
    char *storage = dlm__hub_storage(settings->cache, repo), *folder = NULL;
    if (storage == NULL) return dlm__fail_memory(err, repo->id, strlen(repo->id));
    if (dlm__hub_commit(storage, repo->revision, listing->commit))
        folder = dlm__hub_snapshot(storage, listing->commit, NULL);
    free(storage);
    dlm_status status = DLM_NOT_FOUND;
    if (folder != NULL && dlm__is_dir(folder)) status = dlm__hub_list_snapshot(folder, listing, err);
    free(folder);
    if (status != DLM_OK) dlm__hub_listing_free(listing);
    return status;
}

dlm_status dlm__hub_list(dlm_hub_client *client, const dlm_hub_repo *repo, dlm_hub_listing *listing,
                         bool *cached, dlm_error *err) {
    const dlm_hub_settings *settings = dlm__hub_client_settings(client);
    dlm_hub_listing old = {0};
    dlm_error why = {0};
    bool definite = false;
    *listing = (dlm_hub_listing){0};
    *cached = false;
    const dlm_status there = list_cached(settings, repo, &old, err);
    if (there == DLM_MEMORY) return there;
    const dlm_status status =
        settings->offline
            ? dlm__fail(&why, DLM_NOT_FOUND, "%s@%s is not in the cache %s, and HF_HUB_OFFLINE is set",
                        repo->id, repo->revision, settings->cache)
            : list_online(client, repo, there == DLM_OK ? 1 : ASKS, listing, &definite, &why);
    *cached = there == DLM_OK && status != DLM_OK && status != DLM_CANCELLED && status != DLM_MEMORY &&
              status != DLM_FORMAT && !definite;
    if (*cached) {
        *listing = old;
        return DLM_OK;
    }
    dlm__hub_listing_free(&old);
    if (status != DLM_OK && err != NULL) *err = why;
    return status;
}
