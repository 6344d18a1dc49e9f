/* Names of files and folders. */
#include "paths.h"

#include "terminal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
