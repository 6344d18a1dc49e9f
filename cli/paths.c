/* Names of files and folders. */
#include "paths.h"

#include "terminal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *join(const char *dir, const char *name) {
    const size_t size = strlen(dir) + strlen(name) + 2;
    char *path = malloc(size);
    if (path == NULL)
        (void)fail("out of memory");
    else
        (void)snprintf(path, size, "%s/%s", dir, name);
    return path;
}

bool make_folders(const char *path) {
    char *part = strdup(path);
    int code = part == NULL ? ENOMEM : 0;
    for (char *end = part; code == 0 && *end != 0;) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        const char after = *end;
        *end = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST) code = errno;
        *end = after;
    }
    free(part);
    errno = code;
    return code == 0;
}

bool exists(const char *path) {
    struct stat facts;
    return stat(path, &facts) == 0;
}

bool is_empty_folder(const char *path) {
    DIR *folder = opendir(path);
    if (folder == NULL) return false;
    bool empty = true;
    for (const struct dirent *entry = readdir(folder); entry != NULL && empty; entry = readdir(folder))
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    (void)closedir(folder);
    return empty;
}

static bool write_and_sync(const char *path, const char *bytes, size_t n) {
    FILE *file = fopen(path, "wb");
    if (file == NULL) return false;
    bool right = fwrite(bytes, 1, n, file) == n && fflush(file) == 0 && fsync(fileno(file)) == 0;
    const int why = errno;
    if (fclose(file) != 0 && right) return false;
    if (!right) errno = why;
    return right;
}

int write_whole_file(const char *path, const char *bytes, size_t n) {
    if (strcmp(path, "-") == 0) {
        (void)fwrite(bytes, 1, n, stdout);
        return flush_output();
    }
    const size_t size = strlen(path) + sizeof ".partial";
    char *partial = malloc(size);
    if (partial == NULL) return fail("out of memory");
    (void)snprintf(partial, size, "%s.partial", path);
    int status = EXIT_DONE;
    if (!write_and_sync(partial, bytes, n) || rename(partial, path) != 0) {
        status = fail("%s: cannot be written: %s", path, strerror(errno));
        (void)unlink(partial);
    }
    free(partial);
    return status;
}
