/* The wire by MPI: messages between two processes, and an eye on whether the other one still lives.
 *
 * MPI tells of a dead process late or never: through shared memory it waits for it for ever. So who waits
 * here asks the system now and then for the processes that are on the same machine. Those on others are left
 * to the launcher, which sees them end, says so, and ends the rest.
 *
 * MPI belongs to the process and cannot be begun a second time after it was ended. Where the program has
 * begun it already, it is used and left alone. */
#include "ranks/wire.h"

#include <errno.h>
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Waiting: at first for an answer that is nearly there, then with the processor left to others. */
#define SECONDS_OF_HASTE   200e-6
#define NANOSECONDS_ASLEEP 50000L
#define SECONDS_TO_A_LOOK  0.02

enum { TAG = 1 };

typedef struct neighbour {
    uint64_t machine;    /* a hash: equal where process numbers mean the same processes */
    uint64_t processors; /* a hash of those that it may run on */
    int64_t process;
    char name[40]; /* of the machine */
} neighbour;

typedef struct mpi_wire {
    dlm_wire base;
    MPI_Comm comm;
    MPI_Request requests[DLM_WIRE_SLOTS];
    size_t peers[DLM_WIRE_SLOTS];
    neighbour *ranks; /* (size); process 0: not watched */
    bool began;       /* MPI was begun here, and is to be ended */
} mpi_wire;

static mpi_wire *own(dlm_wire *wire) {
    return (mpi_wire *)wire;
}

/* ---- failures ----------------------------------------------------------------------------------------- */

static dlm_status fail_mpi(const mpi_wire *w, size_t peer, int code, dlm_error *err) {
    char reason[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(code, reason, &n) != MPI_SUCCESS) n = 0;
    return dlm__fail(err, DLM_NETWORK, "rank %zu of %zu cannot be reached: MPI says %.*s", peer, w->base.size,
                     n, reason);
}

/* Is every rank on this machine still there? */
static dlm_status look(const mpi_wire *w, dlm_error *err) {
    for (size_t i = 0; i < w->base.size; i++) {
        const neighbour *other = &w->ranks[i];
        if (other->process == 0 || kill((pid_t)other->process, 0) == 0 || errno != ESRCH) continue;
        return dlm__fail(err, DLM_NETWORK, "rank %zu of %zu is gone: its process %lld on %s has ended", i,
                         w->base.size, (long long)other->process, other->name);
    }
    return DLM_OK;
}

/* ---- transfers ---------------------------------------------------------------------------------------- */

static dlm_status wire_send(dlm_wire *wire, size_t slot, size_t to, const void *bytes, size_t n,
                            dlm_error *err) {
    mpi_wire *w = own(wire);
    w->peers[slot] = to;
    const int code = MPI_Isend(bytes, (int)n, MPI_BYTE, (int)to, TAG, w->comm, &w->requests[slot]);
    return code == MPI_SUCCESS ? DLM_OK : fail_mpi(w, to, code, err);
}

static dlm_status wire_receive(dlm_wire *wire, size_t slot, size_t from, void *bytes, size_t n,
                               dlm_error *err) {
    mpi_wire *w = own(wire);
    w->peers[slot] = from;
    const int code = MPI_Irecv(bytes, (int)n, MPI_BYTE, (int)from, TAG, w->comm, &w->requests[slot]);
    return code == MPI_SUCCESS ? DLM_OK : fail_mpi(w, from, code, err);
}

static dlm_status wire_wait(dlm_wire *wire, size_t slot, dlm_error *err) {
    mpi_wire *w = own(wire);
    if (w->requests[slot] == MPI_REQUEST_NULL) return DLM_OK;
    const double begin = dlm__seconds();
    for (double looked = begin;;) {
        int there = 0;
        const int code = MPI_Test(&w->requests[slot], &there, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS) return fail_mpi(w, w->peers[slot], code, err);
        if (there) return DLM_OK;
        const double now = dlm__seconds();
        if (now - begin < SECONDS_OF_HASTE) {
            (void)sched_yield();
            continue;
        }
        const struct timespec nap = {.tv_nsec = NANOSECONDS_ASLEEP};
        (void)nanosleep(&nap, NULL);
        if (now - looked < SECONDS_TO_A_LOOK) continue;
        looked = now;
        DLM_TRY(look(w, err));
    }
}

static void wire_close(dlm_wire *wire, bool lost) {
    mpi_wire *w = own(wire);
    /* Both calls wait for all ranks: without one of them that would be for ever. */
    if (!lost && w->comm != MPI_COMM_NULL) (void)MPI_Comm_free(&w->comm);
    if (!lost && w->began) (void)MPI_Finalize();
    free(w->ranks);
    free(w);
}

static const dlm_wire_calls calls = {wire_send, wire_receive, wire_wait, wire_close};

/* ---- who is there ------------------------------------------------------------------------------------- */

/* A hash of a small file of /proc, or of one line of it; 0 where it cannot be read. */
static uint64_t hash_of(const char *path, const char *line) {
    char *text;
    size_t n;
    if (dlm__read_file(path, (size_t)1 << 20, &text, &n, NULL) != DLM_OK) return 0;
    const char *at = line != NULL ? strstr(text, line) : text;
    const uint64_t hash = at != NULL ? dlm__hash(at, line != NULL ? strcspn(at, "\n") : n, 0) : 0;
    free(text);
    return hash;
}

/* Process numbers mean the same where the kernel's boot and the name space of processes are the same. */
static neighbour describe(void) {
    neighbour me = {.processors = hash_of("/proc/self/status", "Cpus_allowed:"),
                    .process = (int64_t)getpid()};
    struct stat space = {0};
    uint64_t parts[3] = {hash_of("/proc/sys/kernel/random/boot_id", NULL)};
    if (stat("/proc/self/ns/pid", &space) == 0) {
        parts[1] = (uint64_t)space.st_ino;
        parts[2] = (uint64_t)space.st_dev;
    }
    if (parts[0] != 0 && parts[1] != 0) me.machine = dlm__hash(parts, sizeof parts, 0);
    if (gethostname(me.name, sizeof me.name - 1) != 0) me.name[0] = 0;
    return me;
}

/* Fills in the ranks, and which of them share processors with this one. */
static dlm_status meet(mpi_wire *w, dlm_error *err) {
    const neighbour me = describe();
    w->ranks = dlm__calloc(w->base.size, sizeof *w->ranks);
    if (w->ranks == NULL) return dlm__fail_memory(err, "the run's ranks", w->base.size * sizeof *w->ranks);
    const int code =
        MPI_Allgather(&me, (int)sizeof me, MPI_BYTE, w->ranks, (int)sizeof me, MPI_BYTE, w->comm);
    if (code != MPI_SUCCESS) return fail_mpi(w, w->base.rank, code, err);
    for (size_t i = 0; i < w->base.size; i++) {
        neighbour *other = &w->ranks[i];
        const bool here = me.machine != 0 && other->machine == me.machine;
        w->base.sharers += here && other->processors == me.processors;
        if (!here || i == w->base.rank || kill((pid_t)other->process, 0) != 0) other->process = 0;
    }
    if (w->base.sharers == 0) w->base.sharers = 1;
    return DLM_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

static dlm_status begin_mpi(bool *began, dlm_error *err) {
    int begun = 0, ended = 0, level;
    (void)MPI_Finalized(&ended);
    if (ended)
        return dlm__fail(err, DLM_UNSUPPORTED, "MPI was ended in this process, and cannot be begun again");
    (void)MPI_Initialized(&begun);
    *began = !begun;
    if (begun || MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) == MPI_SUCCESS) return DLM_OK;
    return dlm__fail(err, DLM_NETWORK, "MPI cannot be begun");
}

static dlm_status join(mpi_wire *w, dlm_error *err) {
    int rank, size;
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size);
    w->base.rank = (size_t)rank;
    w->base.size = (size_t)size;
    /* Messages of ours do not mix with those of the program. */
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &w->comm);
    if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(w->comm, MPI_ERRORS_RETURN);
    if (code != MPI_SUCCESS) return fail_mpi(w, w->base.rank, code, err);
    return meet(w, err);
}

/* Alone, a process has no need of MPI, which takes its time to begin. */
static bool may_be_several(void) {
    int begun = 0;
    (void)MPI_Initialized(&begun);
    return begun || dlm__wire_started() > 1 || getenv("PMIX_RANK") != NULL;
}

dlm_status dlm__wire_open(dlm_wire **wire, dlm_error *err) {
    *wire = NULL;
    if (!may_be_several()) return DLM_OK;
    mpi_wire *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "the run's ranks", sizeof *made);
    made->base.calls = &calls;
    made->comm = MPI_COMM_NULL;
    for (size_t i = 0; i < DLM_WIRE_SLOTS; i++) made->requests[i] = MPI_REQUEST_NULL;
    dlm_status status = begin_mpi(&made->began, err);
    if (status == DLM_OK) status = join(made, err);
    if (status == DLM_OK && made->base.size > 1)
        *wire = &made->base;
    else
        wire_close(&made->base, status != DLM_OK);
    return status;
}
