/* The wire of a build without MPI: there is none. */
#include "ranks/wire.h"

dlm_status dlm__wire_open(dlm_wire **wire, dlm_error *err) {
    *wire = NULL;
    const size_t started = dlm__wire_started();
    if (started == 1) return DLM_OK;
    return dlm__fail(
        err, DLM_UNSUPPORTED,
        "this is one of %zu processes that were started together, and this build trains in one alone; "
        "build it with make MPI=1",
        started);
}
