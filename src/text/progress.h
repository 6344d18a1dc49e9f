/* Calls a dlm_progress a few times a second. */
#ifndef DLM_TEXT_PROGRESS_H
#define DLM_TEXT_PROGRESS_H

#include "base/base.h"

typedef struct dlm_meter {
    dlm_progress call; /* may be NULL */
    void *user;
    double start, last; /* dlm__seconds() at the beginning and of the last call */
    const char *stage;  /* of the last call */
} dlm_meter;

dlm_meter dlm__meter(dlm_progress call, void *user);

/* Reports, unless the last report was of the same stage and less than a tenth of a second ago. DLM_CANCELLED
 * when the callback says so. stage must stay. */
dlm_status dlm__meter_report(dlm_meter *meter, const char *stage, uint64_t done, uint64_t total,
                             dlm_error *err);

#endif
