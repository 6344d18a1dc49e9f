/* Files written whole or not at all.
 *
 * The bytes go to NAME.partial, which is renamed to NAME after its fsync, so that NAME is at every moment
 * either the earlier file or the new one. The fixed name means that what a killed run left is replaced by the
 * next, and that nothing piles up; two writers of one name notice each other by the file's inode. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct dlm_output {
    FILE *file;
    char *path;      /* the final name, links resolved; for messages only when nothing is renamed */
    char *temporary; /* NULL: written in place */
    uint64_t written;
    dlm_error error; /* the first one */
};

static void fail(dlm_output *output, int code) {
    if (output->error.status == DLM_OK)
        (void)dlm__fail_errno(&output->error, code, "writing %s", output->path);
}

static void release(dlm_output *output) {
    free(output->path);
    free(output->temporary);
    free(output);
}

/* The name to rename to: what path links to, or path itself where there is nothing yet. */
static char *resolve(const char *path) {
    char *target = realpath(path, NULL);
    return target != NULL ? target : dlm__copy_bytes(path, strlen(path));
}

/* Opens the temporary file, or a device or pipe in place. */
static dlm_status open_output(dlm_output *output, dlm_error *err) {
    struct stat about;
    bool there = stat(output->path, &about) == 0;
    if (there && S_ISDIR(about.st_mode))
        return dlm__fail(err, DLM_IO, "%s is a folder, not a file", output->path);
    int file;
    if (there && !S_ISREG(about.st_mode)) {
        file = open(output->path, O_WRONLY | O_CLOEXEC);
    } else {
        output->temporary = dlm__partial_name(output->path);
        if (output->temporary == NULL) return dlm__fail_memory(err, output->path, strlen(output->path));
        /* Removed and made anew, never opened: it may be a link that somebody else put there. */
        (void)unlink(output->temporary);
        file = open(output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (file >= 0) output->file = fdopen(file, "wb");
    if (output->file != NULL) return DLM_OK;
    int code = errno;
    if (file >= 0) (void)close(file);
    if (file >= 0 && output->temporary != NULL) (void)unlink(output->temporary);
    return dlm__fail_errno(err, code, "creating %s", output->path);
}

dlm_status dlm__output_create(const char *path, dlm_output **output, dlm_error *err) {
    *output = NULL;
    bool standard = strcmp(path, "-") == 0;
    dlm_output *made = dlm__calloc(1, sizeof *made);
    char *name = standard ? dlm__copy_bytes("standard output", 15) : resolve(path);
    dlm_status status = DLM_OK;
    if (made == NULL || name == NULL) {
        free(made);
        free(name);
        return dlm__fail_memory(err, path, sizeof *made);
    }
    made->path = name;
    if (standard)
        made->file = stdout;
    else
        status = open_output(made, err);
    if (status == DLM_OK)
        *output = made;
    else
        release(made);
    return status;
}

void dlm__output_write(dlm_output *output, const void *bytes, size_t n) {
    if (output->error.status != DLM_OK || n == 0) return;
    if (fwrite(bytes, 1, n, output->file) != n) fail(output, errno);
    output->written += n;
}

void dlm__output_printf(dlm_output *output, const char *format, ...) {
    if (output->error.status != DLM_OK) return;
    va_list arguments;
    va_start(arguments, format);
    int n = vfprintf(output->file, format, arguments);
    va_end(arguments);
    if (n < 0)
        fail(output, errno);
    else
        output->written += (uint64_t)n;
}

uint64_t dlm__output_tell(const dlm_output *output) {
    return output->written;
}

void dlm__output_patch(dlm_output *output, uint64_t offset, const void *bytes, size_t n) {
    if (output->error.status != DLM_OK) return;
    if (output->temporary == NULL || fflush(output->file) != 0) {
        fail(output, output->temporary == NULL ? ESPIPE : errno);
        return;
    }
    const unsigned char *from = bytes;
    while (n > 0) {
        ssize_t done = pwrite(fileno(output->file), from, n, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            fail(output, done < 0 ? errno : EIO);
            return;
        }
        from += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
}

/* Is the temporary name still the file that we wrote? */
static bool still_ours(const dlm_output *output) {
    struct stat ours, there;
    return fstat(fileno(output->file), &ours) == 0 && lstat(output->temporary, &there) == 0 &&
           there.st_dev == ours.st_dev && there.st_ino == ours.st_ino;
}

/* Flushes, syncs, closes and renames; an error goes to output->error and leaves nothing but the earlier file.
 */
static void finish(dlm_output *output) {
    bool beside = output->temporary != NULL;
    if (fflush(output->file) != 0) fail(output, errno);
    if (beside && fsync(fileno(output->file)) != 0) fail(output, errno);
    bool ours = beside && still_ours(output);
    if (beside && !ours && output->error.status == DLM_OK)
        (void)dlm__fail(&output->error, DLM_IO, "%s is being written by somebody else", output->path);
    if (output->file != stdout && fclose(output->file) != 0) fail(output, errno);
    if (!ours) return;
    if (output->error.status == DLM_OK && rename(output->temporary, output->path) != 0) fail(output, errno);
    if (output->error.status != DLM_OK) (void)unlink(output->temporary);
}

dlm_status dlm__output_commit(dlm_output *output, dlm_error *err) {
    finish(output);
    dlm_status status = output->error.status;
    if (status != DLM_OK && err != NULL) *err = output->error;
    if (status == DLM_OK && output->temporary != NULL) status = dlm__sync_parent(output->path, err);
    release(output);
    return status;
}

void dlm__output_abort(dlm_output *output) {
    if (output == NULL) return;
    if (output->temporary != NULL && still_ours(output)) (void)unlink(output->temporary);
    if (output->file != stdout) (void)fclose(output->file);
    release(output);
}

dlm_status dlm__write_file(const char *path, const void *bytes, size_t n, dlm_error *err) {
    dlm_output *output;
    DLM_TRY(dlm__output_create(path, &output, err));
    dlm__output_write(output, bytes, n);
    return dlm__output_commit(output, err);
}
