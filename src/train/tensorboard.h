/* Event files that TensorBoard reads: scalars and texts by tag and step. */
#ifndef DLM_TENSORBOARD_H
#define DLM_TENSORBOARD_H

#include "base/base.h"

typedef struct dlm_events dlm_events;

/* Begins a new event file in dir, which is named so that TensorBoard reads it after those that are there;
 * what they hold of steps >= first_step no longer counts. */
dlm_status dlm__events_create(const char *dir, uint64_t first_step, dlm_events **events, dlm_error *err);
void dlm__events_close(dlm_events *events); /* accepts NULL */

/* One event each, in the file when the call returns. */
typedef struct dlm_scalar {
    const char *tag;
    double value;
} dlm_scalar;
dlm_status dlm__events_scalars(dlm_events *events, uint64_t step, const dlm_scalar *scalars, size_t n,
                               dlm_error *err);
/* UTF-8, shown as Markdown. */
dlm_status dlm__events_text(dlm_events *events, uint64_t step, const char *tag, const char *text,
                            size_t bytes, dlm_error *err);

#endif
