/* Files and folders, reading; folders made whole or not at all. Writing is in output.c. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WALK_DESCRIPTORS = 16 };

static const unsigned char nothing[1];

/* Maps the open file; the caller closes it. */
static dlm_status map_descriptor(const char *path, int file, dlm_map *map, dlm_error *err) {
    struct stat about;
    if (fstat(file, &about) != 0) return dlm__fail_errno(err, errno, "%s", path);
    if (S_ISDIR(about.st_mode)) return dlm__fail(err, DLM_IO, "%s is a folder, not a file", path);
    if (!S_ISREG(about.st_mode)) return dlm__fail(err, DLM_IO, "%s is not a regular file", path);
    if ((uintmax_t)about.st_size > SIZE_MAX)
        return dlm__fail(err, DLM_IO, "%s: %jd bytes are more than can be mapped", path,
                         (intmax_t)about.st_size);
    *map = (dlm_map){.bytes = nothing, .size = (size_t)about.st_size};
    if (map->size == 0) return DLM_OK;
    void *bytes = mmap(NULL, map->size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) {
        *map = (dlm_map){0};
        return dlm__fail_errno(err, errno, "%s: mapping %jd bytes", path, (intmax_t)about.st_size);
    }
    map->bytes = bytes;
    return DLM_OK;
}

dlm_status dlm__map_open(const char *path, dlm_map *map, int *file, dlm_error *err) {
    *map = (dlm_map){0};
    /* O_NONBLOCK: opening a pipe must give the message that it is none, not wait for a writer. */
    *file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*file < 0) return dlm__fail_errno(err, errno, "%s", path);
    dlm_status status = map_descriptor(path, *file, map, err);
    if (status != DLM_OK) (void)close(*file);
    return status;
}

dlm_status dlm__map(const char *path, dlm_map *map, dlm_error *err) {
    int file;
    DLM_TRY(dlm__map_open(path, map, &file, err));
    (void)close(file);
    return DLM_OK;
}

void dlm__unmap(dlm_map *map) {
    if (map->size > 0) (void)munmap((void *)map->bytes, map->size);
    *map = (dlm_map){0};
}

/* Reads until the end of file into *bytes, which grows. */
static dlm_status read_all(const char *path, int file, size_t limit, char **bytes, size_t *size,
                           dlm_error *err) {
    size_t capacity = 0;
    for (;;) {
        char *grown = dlm__grow(*bytes, &capacity, *size + 4096, 1);
        if (grown == NULL) return dlm__fail_memory(err, path, *size + 4096);
        *bytes = grown;
        ssize_t n = read(file, *bytes + *size, capacity - *size - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return dlm__fail_errno(err, errno, "%s", path);
        *size += (size_t)n;
        (*bytes)[*size] = 0;
        if (*size > limit) return dlm__fail(err, DLM_FORMAT, "%s is larger than %zu bytes", path, limit);
        if (n == 0) return DLM_OK;
    }
}

dlm_status dlm__read_file(const char *path, size_t limit, char **bytes, size_t *size, dlm_error *err) {
    *bytes = NULL;
    *size = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return dlm__fail_errno(err, errno, "%s", path);
    dlm_status status = read_all(path, file, limit, bytes, size, err);
    (void)close(file);
    if (status != DLM_OK) {
        free(*bytes);
        *bytes = NULL;
        *size = 0;
    }
    return status;
}

bool dlm__is_file(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISREG(about.st_mode);
}

bool dlm__is_dir(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

char *dlm__join(const char *dir, const char *name) {
    size_t n = strlen(dir), m = strlen(name);
    const char *between = n > 0 && dir[n - 1] == '/' ? "" : "/";
    char *path = malloc(n + m + 2);
    if (path != NULL) (void)snprintf(path, n + m + 2, "%s%s%s", dir, between, name);
    return path;
}

dlm_status dlm__make_dirs(const char *path, dlm_error *err) {
    char *part = dlm__copy_bytes(path, strlen(path));
    if (part == NULL) return dlm__fail_memory(err, path, strlen(path));
    dlm_status status = DLM_OK;
    for (char *end = part; status == DLM_OK && *end != 0;) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        char after = *end;
        *end = 0;
        int code = mkdir(part, 0777) == 0 ? 0 : errno;
        if (code == EEXIST) code = dlm__is_dir(part) ? 0 : ENOTDIR;
        if (code != 0 && !dlm__is_dir(part)) status = dlm__fail_errno(err, code, "making folder %s", part);
        *end = after;
    }
    free(part);
    return status;
}

/* nftw hands its callbacks no context; they report by errno. */
static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *place) {
    (void)about, (void)kind, (void)place;
    return remove(path);
}

dlm_status dlm__remove_tree(const char *path, dlm_error *err) {
    if (nftw(path, remove_one, WALK_DESCRIPTORS, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT) return DLM_OK;
    return dlm__fail_errno(err, errno, "removing %s", path);
}

static int sync_one(const char *path, const struct stat *about, int kind, struct FTW *place) {
    (void)about, (void)place;
    if (kind != FTW_F && kind != FTW_DP) return 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    int result = fsync(file);
    if (result != 0 && errno == EINVAL) result = 0; /* a file system that has no such call */
    int code = errno;
    (void)close(file);
    errno = code;
    return result;
}

dlm_status dlm__sync_parent(const char *path, dlm_error *err) {
    const char *slash = strrchr(path, '/');
    char *parent = slash == NULL   ? dlm__copy_bytes(".", 1)
                   : slash == path ? dlm__copy_bytes("/", 1)
                                   : dlm__copy_bytes(path, (size_t)(slash - path));
    if (parent == NULL) return dlm__fail_memory(err, path, strlen(path));
    int result = sync_one(parent, NULL, FTW_DP, NULL);
    int code = errno;
    free(parent);
    return result == 0 ? DLM_OK : dlm__fail_errno(err, code, "syncing the folder of %s", path);
}

char *dlm__partial_name(const char *path) {
    size_t n = strlen(path), size = n + sizeof ".partial";
    char *name = malloc(size);
    if (name == NULL) return NULL;
    while (n > 1 && path[n - 1] == '/') n--;
    (void)snprintf(name, size, "%.*s.partial", (int)n, path);
    return name;
}

dlm_status dlm__folder_begin_again(const char *path, char **working, dlm_error *err) {
    char *name = dlm__partial_name(path);
    *working = NULL;
    if (name == NULL) return dlm__fail_memory(err, path, strlen(path));
    dlm_status status = dlm__remove_tree(name, err);
    if (status == DLM_OK) status = dlm__make_dirs(name, err);
    if (status == DLM_OK)
        *working = name;
    else
        free(name);
    return status;
}

dlm_status dlm__folder_begin(const char *path, char **working, dlm_error *err) {
    struct stat about;
    *working = NULL;
    if (lstat(path, &about) == 0)
        return dlm__fail(err, DLM_EXISTS, "%s exists, and is not overwritten", path);
    return dlm__folder_begin_again(path, working, err);
}

static dlm_status sync_folder(const char *working, dlm_error *err) {
    if (nftw(working, sync_one, WALK_DESCRIPTORS, FTW_DEPTH | FTW_PHYS) == 0) return DLM_OK;
    return dlm__fail_errno(err, errno, "syncing %s", working);
}

dlm_status dlm__folder_end(const char *working, const char *path, dlm_error *err) {
    DLM_TRY(sync_folder(working, err));
    /* rename would replace an empty folder without a word. */
    struct stat about;
    if (lstat(path, &about) == 0)
        return dlm__fail(err, DLM_EXISTS, "%s exists, and is not overwritten", path);
    if (rename(working, path) != 0) return dlm__fail_errno(err, errno, "renaming %s to %s", working, path);
    return dlm__sync_parent(path, err);
}

/* Exchanges two names in one step; false where the system or the file system cannot. */
static bool exchange(const char *a, const char *b) {
#ifdef SYS_renameat2
    const unsigned rename_exchange = 2; /* RENAME_EXCHANGE; the C library names it for _GNU_SOURCE only */
    return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, rename_exchange) == 0;
#else
    (void)a, (void)b;
    return false;
#endif
}

/* What `exchange` does, in three steps over a third name. */
static bool exchange_slowly(const char *working, const char *path, const char *aside) {
    if (rename(path, aside) != 0) return false;
    if (rename(working, path) == 0) return rename(aside, working) == 0;
    int code = errno;
    (void)rename(aside, path);
    errno = code;
    return false;
}

dlm_status dlm__folder_replace(const char *working, const char *path, dlm_error *err) {
    struct stat about;
    if (lstat(path, &about) != 0) return dlm__folder_end(working, path, err);
    DLM_TRY(sync_folder(working, err));
    if (!exchange(working, path)) {
        size_t n = strlen(working) + sizeof ".old";
        char *aside = malloc(n);
        if (aside == NULL) return dlm__fail_memory(err, path, n);
        (void)snprintf(aside, n, "%s.old", working);
        bool done = exchange_slowly(working, path, aside);
        int code = errno;
        free(aside);
        if (!done) return dlm__fail_errno(err, code, "renaming %s to %s", working, path);
    }
    DLM_TRY(dlm__sync_parent(path, err));
    return dlm__remove_tree(working, err);
}
