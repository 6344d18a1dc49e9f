/* Progress reports: see progress.h. */
#include "text/progress.h"

#define INTERVAL 0.1 /* seconds */

dlm_meter dlm__meter(dlm_progress call, void *user) {
    double now = dlm__seconds();
    return (dlm_meter){.call = call, .user = user, .start = now, .last = now};
}

dlm_status dlm__meter_report(dlm_meter *meter, const char *stage, uint64_t done, uint64_t total,
                             dlm_error *err) {
    double now = dlm__seconds();
    if (meter->call == NULL || (meter->stage == stage && now - meter->last < INTERVAL)) return DLM_OK;
    meter->last = now;
    meter->stage = stage;
    if (!meter->call(meter->user, stage, done, total, now - meter->start)) return DLM_OK;
    return dlm__fail(err, DLM_CANCELLED, "stopped while at \"%s\"", stage);
}
