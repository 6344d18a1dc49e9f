/* Names of files and folders. */
#ifndef DLM_CLI_PATHS_H
#define DLM_CLI_PATHS_H

#include <stdbool.h>
#include <stddef.h>

/* dir/name, freed by the caller; NULL, said, without memory. */
char *join(const char *dir, const char *name);
/* Makes a folder and those that it is in; true when it is there. errno tells why not. */
bool make_folders(const char *path);
/* Is there a file or folder of that name; is it a folder without anything in it? */
bool exists(const char *path);
bool is_empty_folder(const char *path);

/* Writes n bytes into a file that has another name, path.partial, until it is whole; one of that name is
 * replaced. "-" is standard output. EXIT_DONE, or said why not, path as it was. */
int write_whole_file(const char *path, const char *bytes, size_t n);

#endif
