/* What a run tells about itself while it goes on: log.csv, samples.txt and TensorBoard's event files, in the
 * run's folder. */
#ifndef DLM_RUN_LOG_H
#define DLM_RUN_LOG_H

#include "base/base.h"

/* A row of log.csv. */
typedef struct dlm_log_row {
    uint64_t step;
    double epoch;
    uint64_t tokens;
    double seconds, loss, lr, grad_norm, tokens_per_second;
    bool evaluated; /* then the rest holds; else those columns are empty */
    double eval_ce, eval_ppl, eval_nelbo;
} dlm_log_row;

/* How much of the files belongs to the steps up to now. */
typedef struct dlm_log_sizes {
    uint64_t log, samples;
} dlm_log_sizes;

typedef struct dlm_run_log dlm_run_log;

/* resumed NULL: begins the files anew. Else goes on with them behind those sizes, which a checkpoint of step
 * `step` kept: what was written later is cut off, and its TensorBoard events are declared void. */
dlm_status dlm__run_log_open(const char *run, const dlm_log_sizes *resumed, uint64_t step, dlm_run_log **log,
                             dlm_error *err);
void dlm__run_log_close(dlm_run_log *log); /* accepts NULL */

dlm_status dlm__run_log_row(dlm_run_log *log, const dlm_log_row *row, dlm_error *err);
dlm_status dlm__run_log_sample(dlm_run_log *log, uint64_t step, const char *text, size_t bytes,
                               dlm_error *err);
/* Makes all that was written last, and tells the sizes. */
dlm_status dlm__run_log_sync(dlm_run_log *log, dlm_log_sizes *sizes, dlm_error *err);

/* Whether a run has begun in this folder: it has a log. */
bool dlm__run_log_exists(const char *run);

#endif
