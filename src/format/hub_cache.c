/* The cache of the Hub on disk, as the Python library lays it out.
 *
 * A blob gets its name by renaming when it is whole; a snapshot links to blobs; a ref names a snapshot. So
 * nothing that a name promises is ever absent, and nobody need be asked to read. Locks only save work: they
 * keep two processes from transferring the same bytes. */
#include "format/hub.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH_MAX = 64, LOCK_POLL_NANOSECONDS = 50 * 1000 * 1000 };

/* ---- names -------------------------------------------------------------------------------------------- */

/* models--org--name; free() it. */
static char *repo_folder(const dlm_hub_repo *repo) {
    const char *kind = repo->kind == DLM_REPO_DATASET ? "datasets" : "models";
    const char *slash = strchr(repo->id, '/');
    if (slash == NULL) return dlm__hub_text("%s--%s", kind, repo->id);
    return dlm__hub_text("%s--%.*s--%s", kind, (int)(slash - repo->id), repo->id, slash + 1);
}

char *dlm__hub_storage(const char *cache, const dlm_hub_repo *repo) {
    char *folder = repo_folder(repo);
    char *path = folder == NULL ? NULL : dlm__join(cache, folder);
    free(folder);
    return path;
}

char *dlm__hub_snapshot(const char *storage, const char *commit, const char *file) {
    if (file == NULL) return dlm__hub_text("%s/snapshots/%s", storage, commit);
    return dlm__hub_text("%s/snapshots/%s/%s", storage, commit, file);
}

bool dlm__hub_has(const char *pointer) {
    return pointer != NULL && dlm__is_file(pointer);
}

/* Makes the folder that path is in. */
static dlm_status make_parent(const char *path, dlm_error *err) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL || slash == path) return DLM_OK;
    char *parent = dlm__copy_bytes(path, (size_t)(slash - path));
    if (parent == NULL) return dlm__fail_memory(err, path, strlen(path));
    const dlm_status status = dlm__make_dirs(parent, err);
    free(parent);
    return status;
}

void dlm__hub_tag(const char *cache) {
    static const char text[] = "Signature: 8a477f597d28d172789f06886806bc55\n"
                               "# A cache directory; see https://bford.info/cachedir/\n";
    char *path = dlm__join(cache, "CACHEDIR.TAG");
    if (path != NULL && !dlm__is_file(path)) (void)dlm__write_file(path, text, sizeof text - 1, NULL);
    free(path);
}

/* ---- refs --------------------------------------------------------------------------------------------- */

static char *ref_path(const char *storage, const char *revision) {
    return dlm__hub_text("%s/refs/%s", storage, revision);
}

/* What the ref holds, if that is a commit. */
static bool read_ref(const char *path, char commit[DLM_HUB_COMMIT + 1]) {
    char *text = NULL;
    size_t n = 0;
    if (path == NULL || dlm__read_file(path, 256, &text, &n, NULL) != DLM_OK) return false;
    const bool right = dlm__hub_is_hex(text, DLM_HUB_COMMIT);
    if (right) memcpy(commit, text, DLM_HUB_COMMIT + 1);
    free(text);
    return right;
}

bool dlm__hub_commit(const char *storage, const char *revision, char commit[DLM_HUB_COMMIT + 1]) {
    if (dlm__hub_is_hex(revision, DLM_HUB_COMMIT)) {
        memcpy(commit, revision, DLM_HUB_COMMIT + 1);
        return true;
    }
    char *path = ref_path(storage, revision);
    const bool found = read_ref(path, commit);
    free(path);
    return found;
}

dlm_status dlm__hub_set_commit(const char *storage, const char *revision, const char *commit,
                               dlm_error *err) {
    char now[DLM_HUB_COMMIT + 1];
    if (dlm__hub_commit(storage, revision, now) && strcmp(now, commit) == 0) return DLM_OK;
    if (dlm__hub_is_hex(revision, DLM_HUB_COMMIT)) return DLM_OK;
    char *path = ref_path(storage, revision);
    if (path == NULL) return dlm__fail_memory(err, storage, strlen(revision));
    dlm_status status = make_parent(path, err);
    if (status == DLM_OK) status = dlm__write_file(path, commit, strlen(commit), err);
    free(path);
    return status;
}

/* ---- links -------------------------------------------------------------------------------------------- */

/* The way from a file of a snapshot to its blob: ../../blobs/HASH, with one ../ more for each folder in the
 * file's name; free() it. */
static char *way_to_blob(const char *file, const char *hash) {
    char *way = dlm__hub_text("../../blobs/%s", hash);
    for (const char *c = file; way != NULL && *c != 0; c++) {
        if (*c != '/') continue;
        char *longer = dlm__hub_text("../%s", way);
        free(way);
        way = longer;
    }
    return way;
}

/* Is that what a file system says that has no such thing as a link, or a lock? */
static bool is_lack(int code) {
    return code == EPERM || code == ENOSYS || code == EOPNOTSUPP || code == ENOLCK;
}

/* Where there is a link already it is left if it leads to a file; one that leads nowhere is replaced. Without
 * links in the file system the blob itself goes there, as the Python library has it. */
static dlm_status make_link(const char *way, const char *blob, const char *pointer, dlm_error *err) {
    DLM_TRY(make_parent(pointer, err));
    if (symlink(way, pointer) == 0) return DLM_OK;
    const int code = errno;
    if ((code == EEXIST || is_lack(code)) && dlm__is_file(pointer)) return DLM_OK;
    if (code == EEXIST && unlink(pointer) == 0 && symlink(way, pointer) == 0) return DLM_OK;
    if (is_lack(code) && rename(blob, pointer) == 0) return DLM_OK;
    return dlm__fail_errno(err, code, "linking %s to %s", pointer, way);
}

dlm_status dlm__hub_link(const char *storage, const char *commit, const char *file, const char *hash,
                         dlm_error *err) {
    char *pointer = dlm__hub_snapshot(storage, commit, file), *way = way_to_blob(file, hash),
         *blob = dlm__hub_text("%s/blobs/%s", storage, hash);
    const dlm_status status = pointer == NULL || way == NULL || blob == NULL
                                  ? dlm__fail_memory(err, file, strlen(file))
                                  : make_link(way, blob, pointer, err);
    free(blob);
    free(pointer);
    free(way);
    return status;
}

/* ---- what a snapshot holds ---------------------------------------------------------------------------- */

typedef struct walk {
    dlm_hub_listing *listing;
    size_t capacity;
} walk;

static bool add_name(walk *state, const char *name) {
    dlm_hub_listing *listing = state->listing;
    char **names = dlm__grow(listing->names, &state->capacity, listing->n + 1, sizeof *names);
    if (names == NULL) return false;
    listing->names = names;
    names[listing->n] = dlm__copy_bytes(name, strlen(name));
    if (names[listing->n] == NULL) return false;
    listing->n++;
    return true;
}

/* The files below folder/inside ("" for the folder itself); false without memory. */
static bool walk_folder(walk *state, const char *folder, const char *inside, unsigned depth) {
    char *path = inside[0] == 0 ? dlm__hub_text("%s", folder) : dlm__join(folder, inside);
    DIR *opened = path == NULL ? NULL : opendir(path);
    bool right = path != NULL;
    for (const struct dirent *entry; right && opened != NULL && (entry = readdir(opened)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *name = inside[0] == 0 ? dlm__hub_text("%s", entry->d_name) : dlm__join(inside, entry->d_name);
        char *whole = name == NULL ? NULL : dlm__join(folder, name);
        if (whole == NULL)
            right = false;
        else if (dlm__is_file(whole))
            right = add_name(state, name);
        else if (dlm__is_dir(whole) && depth < DEPTH_MAX)
            right = walk_folder(state, folder, name, depth + 1); /* NOLINT(misc-no-recursion) */
        free(whole);
        free(name);
    }
    if (opened != NULL) (void)closedir(opened);
    free(path);
    return right;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

dlm_status dlm__hub_list_snapshot(const char *folder, dlm_hub_listing *listing, dlm_error *err) {
    walk state = {.listing = listing};
    if (!walk_folder(&state, folder, "", 0)) return dlm__fail_memory(err, folder, strlen(folder));
    if (listing->n > 0) qsort(listing->names, listing->n, sizeof *listing->names, by_name);
    return DLM_OK;
}

/* ---- locks -------------------------------------------------------------------------------------------- */

/* Is the open file still the one under that name? Whoever held the lock may have removed it. */
static bool is_current(int file, const char *path) {
    struct stat ours, there;
    return fstat(file, &ours) == 0 && stat(path, &there) == 0 && ours.st_dev == there.st_dev &&
           ours.st_ino == there.st_ino;
}

/* One try: the locked file, or -1 with errno EWOULDBLOCK when somebody else has it. Without locks in the file
 * system nobody has. */
static int try_lock(const char *path) {
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
    if (file < 0) return -1;
    if (flock(file, LOCK_EX | LOCK_NB) == 0) {
        if (is_current(file, path)) return file;
        errno = EWOULDBLOCK;
    } else if (is_lack(errno)) {
        return file;
    }
    const int code = errno;
    (void)close(file);
    errno = code;
    return -1;
}

static dlm_status wait_lock(const char *path, dlm_hub_stop stop, void *user, int *lock, dlm_error *err) {
    const struct timespec pause = {.tv_nsec = LOCK_POLL_NANOSECONDS};
    DLM_TRY(make_parent(path, err));
    for (;;) {
        *lock = try_lock(path);
        if (*lock >= 0) return DLM_OK;
        if (errno != EWOULDBLOCK && errno != EINTR) return dlm__fail_errno(err, errno, "locking %s", path);
        if (stop(user)) return dlm__fail(err, DLM_CANCELLED, "stopped while another process held %s", path);
        (void)nanosleep(&pause, NULL);
    }
}

dlm_status dlm__hub_lock(const char *cache, const dlm_hub_repo *repo, const char *hash, dlm_hub_stop stop,
                         void *user, int *lock, dlm_error *err) {
    *lock = -1;
    char *folder = repo_folder(repo);
    char *path = folder == NULL ? NULL : dlm__hub_text("%s/.locks/%s/%s.lock", cache, folder, hash);
    const dlm_status status =
        path == NULL ? dlm__fail_memory(err, cache, strlen(cache)) : wait_lock(path, stop, user, lock, err);
    free(folder);
    free(path);
    return status;
}

void dlm__hub_unlock(int lock) {
    if (lock >= 0) (void)close(lock);
}
