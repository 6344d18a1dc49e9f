/* log.csv, samples.txt, event files.
 *
 * The first two are only appended to. A run that is resumed cuts them back to the sizes that the checkpoint
 * kept, so that each step is in them once; a file that is shorter than that, as after a power failure, is cut
 * back to its last whole line. */
#include "train/run_log.h"

#include "train/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char log_name[] = "log.csv", samples_name[] = "samples.txt";
static const char header[] =
    "step,epoch,tokens,seconds,loss,lr,grad_norm,tokens_per_s,eval_ce,eval_ppl,eval_nelbo\n";

typedef struct appended {
    FILE *file;
    char *path;
} appended;

struct dlm_run_log {
    appended log, samples;
    dlm_events *events;
};

/* The size up to which the open file is kept: at most `keep`, and behind the end of a line. */
static dlm_status whole_lines(const appended *a, uint64_t keep, uint64_t *size, dlm_error *err) {
    struct stat about;
    int file = fileno(a->file);
    if (fstat(file, &about) != 0) return dlm__fail_errno(err, errno, "%s", a->path);
    uint64_t end = (uint64_t)about.st_size < keep ? (uint64_t)about.st_size : keep;
    for (*size = 0; end > 0 && *size == 0;) {
        char block[4096];
        uint64_t from = end > sizeof block ? end - sizeof block : 0;
        ssize_t n = (ssize_t)(end - from);
        if (pread(file, block, (size_t)n, (off_t)from) != n)
            return dlm__fail_errno(err, errno, "reading %s", a->path);
        while (n > 0 && block[n - 1] != '\n') n--;
        if (n > 0) *size = from + (uint64_t)n;
        end = from;
    }
    return DLM_OK;
}

static dlm_status open_appended(const char *run, const char *name, appended *a, dlm_error *err) {
    a->path = dlm__join(run, name);
    if (a->path == NULL) return dlm__fail_memory(err, run, strlen(run));
    a->file = fopen(a->path, "a+be");
    return a->file != NULL ? DLM_OK : dlm__fail_errno(err, errno, "opening %s", a->path);
}

/* Cuts the file back to `keep` bytes, to none without. */
static dlm_status cut_back(const appended *a, const uint64_t *keep, dlm_error *err) {
    uint64_t size = 0;
    if (keep != NULL) DLM_TRY(whole_lines(a, *keep, &size, err));
    if (ftruncate(fileno(a->file), (off_t)size) != 0)
        return dlm__fail_errno(err, errno, "cutting %s back to %" PRIu64 " bytes", a->path, size);
    return DLM_OK;
}

static void close_appended(appended *a) {
    if (a->file != NULL) (void)fclose(a->file);
    free(a->path);
}

/* Hands what was printed to the system; `printed` is what fprintf or fwrite said of it. */
static dlm_status flush(const appended *a, bool printed, dlm_error *err) {
    if (printed && fflush(a->file) == 0) return DLM_OK;
    return dlm__fail_errno(err, errno, "writing %s", a->path);
}

static dlm_status sync_appended(const appended *a, uint64_t *size, dlm_error *err) {
    struct stat about;
    if (fsync(fileno(a->file)) != 0 || fstat(fileno(a->file), &about) != 0)
        return dlm__fail_errno(err, errno, "writing %s", a->path);
    *size = (uint64_t)about.st_size;
    return DLM_OK;
}

/* One process at a time. The lock ends with the file's descriptor, so with the process at the latest; file
 * systems without locks go without. */
static dlm_status lock(const appended *a, const char *run, dlm_error *err) {
    if (flock(fileno(a->file), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return DLM_OK;
    return dlm__fail(err, DLM_EXISTS, "%s is being trained by another process", run);
}

static dlm_status open_all(const char *run, const dlm_log_sizes *resumed, uint64_t step, dlm_run_log *log,
                           dlm_error *err) {
    DLM_TRY(open_appended(run, log_name, &log->log, err));
    DLM_TRY(lock(&log->log, run, err));
    DLM_TRY(open_appended(run, samples_name, &log->samples, err));
    DLM_TRY(cut_back(&log->log, resumed != NULL ? &resumed->log : NULL, err));
    DLM_TRY(cut_back(&log->samples, resumed != NULL ? &resumed->samples : NULL, err));
    uint64_t size;
    DLM_TRY(sync_appended(&log->log, &size, err));
    if (size == 0) DLM_TRY(flush(&log->log, fputs(header, log->log.file) >= 0, err));
    return dlm__events_create(run, step + 1, &log->events, err);
}

dlm_status dlm__run_log_open(const char *run, const dlm_log_sizes *resumed, uint64_t step, dlm_run_log **log,
                             dlm_error *err) {
    *log = NULL;
    dlm_run_log *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, run, sizeof *made);
    dlm_status status = open_all(run, resumed, step, made, err);
    if (status == DLM_OK)
        *log = made;
    else
        dlm__run_log_close(made);
    return status;
}

void dlm__run_log_close(dlm_run_log *log) {
    if (log == NULL) return;
    close_appended(&log->log);
    close_appended(&log->samples);
    dlm__events_close(log->events);
    free(log);
}

dlm_status dlm__run_log_row(dlm_run_log *log, const dlm_log_row *row, dlm_error *err) {
    /* A few short documents may have had no position masked: then there is no cross-entropy. */
    const bool has_ce = row->evaluated && !isnan(row->eval_ce);
    char ce[64] = ",", nelbo[32] = "";
    if (has_ce) (void)snprintf(ce, sizeof ce, "%.6f,%.6g", row->eval_ce, row->eval_ppl);
    if (row->evaluated) (void)snprintf(nelbo, sizeof nelbo, "%.6f", row->eval_nelbo);
    int n = fprintf(log->log.file, "%" PRIu64 ",%.6f,%" PRIu64 ",%.3f,%.6f,%.9g,%.6g,%.1f,%s,%s\n", row->step,
                    row->epoch, row->tokens, row->seconds, row->loss, row->lr, row->grad_norm,
                    row->tokens_per_second, ce, nelbo);
    DLM_TRY(flush(&log->log, n >= 0, err));
    const dlm_scalar scalars[] = {
        {"train/loss", row->loss},           {"train/lr", row->lr},
        {"train/grad_norm", row->grad_norm}, {"train/tokens_per_s", row->tokens_per_second},
        {"eval/nelbo", row->eval_nelbo},     {"eval/ce", row->eval_ce},
        {"eval/ppl", row->eval_ppl}};
    return dlm__events_scalars(log->events, row->step, scalars, has_ce ? 7 : row->evaluated ? 5 : 4, err);
}

dlm_status dlm__run_log_sample(dlm_run_log *log, uint64_t step, const char *text, size_t bytes,
                               dlm_error *err) {
    FILE *file = log->samples.file;
    bool printed = fprintf(file, "---- step %" PRIu64 "\n", step) >= 0 &&
                   fwrite(text, 1, bytes, file) == bytes && fputs("\n\n", file) >= 0;
    DLM_TRY(flush(&log->samples, printed, err));
    return dlm__events_text(log->events, step, "samples", text, bytes, err);
}

dlm_status dlm__run_log_sync(dlm_run_log *log, dlm_log_sizes *sizes, dlm_error *err) {
    DLM_TRY(sync_appended(&log->log, &sizes->log, err));
    return sync_appended(&log->samples, &sizes->samples, err);
}

bool dlm__run_log_exists(const char *run) {
    char *path = dlm__join(run, log_name);
    bool exists = path != NULL && dlm__is_file(path);
    free(path);
    return exists;
}
