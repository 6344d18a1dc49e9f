/* The wire between the ranks of a run: what the collectives of ranks.c stand on, bytes from one process to
 * another.
 *
 * A build has one of two: wire_mpi.c, or wire_alone.c, where there is no other process. They differ in
 * dlm__wire_open alone, so a test can bring a wire of its own. */
#ifndef DLM_WIRE_H
#define DLM_WIRE_H

#include "base/base.h"

/* Transfers that can be under way at once, numbered by the caller. */
enum { DLM_WIRE_SLOTS = 4 };
/* Bytes of the largest. */
#define DLM_WIRE_MOST ((size_t)1 << 26)

typedef struct dlm_wire dlm_wire;

typedef struct dlm_wire_calls {
    /* Begins to send or receive n bytes (0 < n <= DLM_WIRE_MOST), which must stay until they are waited for.
     * What goes from one rank to another arrives in the order in which it was sent. */
    dlm_status (*send)(dlm_wire *wire, size_t slot, size_t to, const void *bytes, size_t n, dlm_error *err);
    dlm_status (*receive)(dlm_wire *wire, size_t slot, size_t from, void *bytes, size_t n, dlm_error *err);
    /* Waits for the transfer in this slot, for nothing where there is none. DLM_NETWORK names the rank that
     * is gone or cannot be reached: then the wire is of no more use. */
    dlm_status (*wait)(dlm_wire *wire, size_t slot, dlm_error *err);
    /* lost: some rank is gone, and cannot be waited for. */
    void (*close)(dlm_wire *wire, bool lost);
} dlm_wire_calls;

struct dlm_wire {
    const dlm_wire_calls *calls;
    size_t rank, size;
    size_t sharers; /* ranks that may run on the same processors as this one, it included */
};

/* The wire to the processes that were started together with this one; NULL, with DLM_OK, where there are
 * none. */
dlm_status dlm__wire_open(dlm_wire **wire, dlm_error *err);

/* How many processes a launcher of MPI says it has started: 1 where it says nothing. */
size_t dlm__wire_started(void);

#endif
