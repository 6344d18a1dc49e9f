/* Collectives on a wire: who sends what to whom, and in which order it is added.
 *
 * Small things go round in log2(N) messages a rank (Bruck et al., Efficient algorithms for all-to-all
 * communications in multiport message-passing systems, 1997; binomial trees). Blocks go from each rank to
 * each other in N - 1 steps, in step k to the k-th rank before and from the k-th behind: every link carries
 * one message at a time, and a rank sends and receives (N - 1)/N of the block in all, the least there is
 * (Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, 2005,
 * section 4.2). A ring takes as many bytes, but passes sums on; here each owner adds everybody's part itself,
 * in one order. */
#include "ranks/ranks.h"

#include "ranks/wire.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Floats of one message of a block: large enough that its start costs nothing beside it, small enough that
 * the adding of one hides behind the transfer of the next. */
#define CHUNK ((size_t)1 << 18)

struct dlm_ranks {
    dlm_wire *wire;             /* NULL: alone */
    dlm_error lost;             /* status is DLM_OK while all ranks are there */
    unsigned char *round, *all; /* (size, DLM_EXCHANGE) each */
    float *arrived[2];          /* (CHUNK) each */
};

/* Slots of the wire. Two of each kind: one transfer goes on while the other is waited for. */
enum { SENDING = 0, RECEIVING = 2 };
_Static_assert(RECEIVING + 2 <= DLM_WIRE_SLOTS, "a slot for each transfer");

/* ---- open, close -------------------------------------------------------------------------------------- */

dlm_status dlm__ranks_create(dlm_wire *wire, dlm_ranks **ranks, dlm_error *err) {
    *ranks = NULL;
    dlm_ranks *made = dlm__calloc(1, sizeof *made);
    const size_t size = wire != NULL ? wire->size : 0;
    if (made != NULL && size > 0) {
        made->round = dlm__calloc(size, DLM_EXCHANGE);
        made->all = dlm__calloc(size, DLM_EXCHANGE);
        made->arrived[0] = dlm__aligned(CHUNK, sizeof(float));
        made->arrived[1] = dlm__aligned(CHUNK, sizeof(float));
    }
    const bool whole = made != NULL && (size == 0 || (made->round != NULL && made->all != NULL &&
                                                      made->arrived[0] != NULL && made->arrived[1] != NULL));
    if (made != NULL) made->wire = wire;
    if (whole) {
        *ranks = made;
        return DLM_OK;
    }
    if (made == NULL && wire != NULL) wire->calls->close(wire, true);
    dlm_ranks_close(made);
    return dlm__fail_memory(err, "the run's ranks", 2 * CHUNK * sizeof(float));
}

dlm_status dlm_ranks_open(dlm_ranks **ranks, dlm_error *err) {
    *ranks = NULL;
    dlm_wire *wire;
    DLM_TRY(dlm__wire_open(&wire, err));
    return dlm__ranks_create(wire, ranks, err);
}

void dlm_ranks_close(dlm_ranks *ranks) {
    if (ranks == NULL) return;
    if (ranks->wire != NULL) ranks->wire->calls->close(ranks->wire, dlm__ranks_lost(ranks));
    free(ranks->round);
    free(ranks->all);
    free(ranks->arrived[0]);
    free(ranks->arrived[1]);
    free(ranks);
}

size_t dlm_ranks_rank(const dlm_ranks *ranks) {
    return ranks != NULL && ranks->wire != NULL ? ranks->wire->rank : 0;
}

size_t dlm_ranks_size(const dlm_ranks *ranks) {
    return ranks != NULL && ranks->wire != NULL ? ranks->wire->size : 1;
}

size_t dlm_ranks_threads(const dlm_ranks *ranks) {
    const size_t processors = dlm__processors();
    const size_t sharers = ranks != NULL && ranks->wire != NULL ? ranks->wire->sharers : 1;
    return processors > sharers ? processors / sharers : 1;
}

bool dlm__ranks_lost(const dlm_ranks *ranks) {
    return ranks != NULL && ranks->lost.status != DLM_OK;
}

/* A launcher of Open MPI, or of MPICH and its kin, sets one of these. */
size_t dlm__wire_started(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *text = getenv(names[i]);
        const long n = text != NULL ? strtol(text, NULL, 10) : 0;
        if (n > 1) return (size_t)n;
    }
    return 1;
}

/* ---- transfers ---------------------------------------------------------------------------------------- */

/* Keeps the sentence of what went wrong on the wire: nothing is tried after that. */
static dlm_status keep(dlm_ranks *ranks, dlm_status status, const dlm_error *why, dlm_error *err) {
    if (status == DLM_OK) return DLM_OK;
    ranks->lost = *why;
    if (err != NULL) *err = *why;
    return status;
}

static dlm_status send(dlm_ranks *ranks, size_t slot, size_t to, const void *bytes, size_t n,
                       dlm_error *err) {
    dlm_error why;
    return keep(ranks, ranks->wire->calls->send(ranks->wire, slot, to, bytes, n, &why), &why, err);
}

static dlm_status receive(dlm_ranks *ranks, size_t slot, size_t from, void *bytes, size_t n, dlm_error *err) {
    dlm_error why;
    return keep(ranks, ranks->wire->calls->receive(ranks->wire, slot, from, bytes, n, &why), &why, err);
}

static dlm_status wait_for(dlm_ranks *ranks, size_t slot, dlm_error *err) {
    dlm_error why;
    return keep(ranks, ranks->wire->calls->wait(ranks->wire, slot, &why), &why, err);
}

/* Sends to one rank what it receives from another at the same time. */
static dlm_status pass(dlm_ranks *ranks, size_t to, const void *sent, size_t from, void *received, size_t n,
                       dlm_error *err) {
    DLM_TRY(receive(ranks, RECEIVING, from, received, n, err));
    DLM_TRY(send(ranks, SENDING, to, sent, n, err));
    DLM_TRY(wait_for(ranks, RECEIVING, err));
    return wait_for(ranks, SENDING, err);
}

/* The sentence of a rank that is gone, again. */
static dlm_status check(const dlm_ranks *ranks, dlm_error *err) {
    if (!dlm__ranks_lost(ranks)) return DLM_OK;
    if (err != NULL) *err = ranks->lost;
    return ranks->lost.status;
}

/* ---- small things ------------------------------------------------------------------------------------- */

dlm_status dlm__ranks_exchange(dlm_ranks *ranks, const void *mine, size_t bytes, void *all, dlm_error *err) {
    const size_t N = dlm_ranks_size(ranks), r = dlm_ranks_rank(ranks);
    assert(bytes > 0 && bytes <= DLM_EXCHANGE);
    if (N == 1) {
        memcpy(all, mine, bytes);
        return DLM_OK;
    }
    DLM_TRY(check(ranks, err));
    /* round[i] is of the i-th rank behind this one; each round doubles how many are there. */
    memcpy(ranks->round, mine, bytes);
    for (size_t have = 1; have < N; have *= 2) {
        const size_t more = have < N - have ? have : N - have;
        DLM_TRY(pass(ranks, (r + N - have) % N, ranks->round, (r + have) % N, ranks->round + have * bytes,
                     more * bytes, err));
    }
    for (size_t i = 0; i < N; i++)
        memcpy((unsigned char *)all + (r + i) % N * bytes, ranks->round + i * bytes, bytes);
    return DLM_OK;
}

dlm_status dlm_ranks_max(dlm_ranks *ranks, int *value, dlm_error *err) {
    if (dlm_ranks_size(ranks) == 1) return DLM_OK;
    const int mine = *value;
    DLM_TRY(dlm__ranks_exchange(ranks, &mine, sizeof mine, ranks->all, err));
    for (size_t i = 0; i < dlm_ranks_size(ranks); i++) {
        int other;
        memcpy(&other, ranks->all + i * sizeof other, sizeof other);
        if (other > *value) *value = other;
    }
    return DLM_OK;
}

dlm_status dlm__ranks_sum(dlm_ranks *ranks, double *values, size_t n, dlm_error *err) {
    if (dlm_ranks_size(ranks) == 1) return DLM_OK;
    DLM_TRY(dlm__ranks_exchange(ranks, values, n * sizeof *values, ranks->all, err));
    for (size_t v = 0; v < n; v++) values[v] = 0;
    for (size_t i = 0; i < dlm_ranks_size(ranks); i++) {
        for (size_t v = 0; v < n; v++) {
            double part;
            memcpy(&part, ranks->all + (i * n + v) * sizeof part, sizeof part);
            values[v] += part;
        }
    }
    return DLM_OK;
}

/* The n bytes of rank `root` for all, by a binomial tree: a rank gets them from the one whose number, counted
 * from the root, lacks its lowest bit, and hands them to those that have one lower bit more. */
static dlm_status spread(dlm_ranks *ranks, size_t root, void *bytes, size_t n, dlm_error *err) {
    const size_t N = dlm_ranks_size(ranks), from_root = (dlm_ranks_rank(ranks) + N - root) % N;
    size_t bit = 1;
    while (bit < N && (from_root & bit) == 0) bit *= 2;
    if (from_root > 0) {
        DLM_TRY(receive(ranks, RECEIVING, (from_root - bit + root) % N, bytes, n, err));
        DLM_TRY(wait_for(ranks, RECEIVING, err));
    }
    for (bit /= 2; bit > 0; bit /= 2) {
        if (from_root + bit >= N) continue;
        DLM_TRY(send(ranks, SENDING, (from_root + bit + root) % N, bytes, n, err));
        DLM_TRY(wait_for(ranks, SENDING, err));
    }
    return DLM_OK;
}

dlm_status dlm__ranks_share(dlm_ranks *ranks, void *bytes, size_t n, dlm_error *err) {
    if (dlm_ranks_size(ranks) == 1) return DLM_OK;
    DLM_TRY(check(ranks, err));
    const size_t most = CHUNK * sizeof(float);
    for (size_t at = 0; at < n; at += most)
        DLM_TRY(spread(ranks, 0, (unsigned char *)bytes + at, n - at < most ? n - at : most, err));
    return DLM_OK;
}

/* The first rank that comes with a failure; the number of ranks when none does. */
static dlm_status find_failure(dlm_ranks *ranks, dlm_status mine, size_t *first, dlm_error *err) {
    const int status = (int)mine;
    DLM_TRY(dlm__ranks_exchange(ranks, &status, sizeof status, ranks->all, err));
    for (*first = 0; *first < dlm_ranks_size(ranks); (*first)++) {
        int other;
        memcpy(&other, ranks->all + *first * sizeof other, sizeof other);
        if (other != DLM_OK) return DLM_OK;
    }
    return DLM_OK;
}

dlm_status dlm__ranks_agree(dlm_ranks *ranks, dlm_status mine, dlm_error *err) {
    if (dlm_ranks_size(ranks) == 1) return mine;
    dlm_error why = {0};
    if (mine != DLM_OK && err != NULL) why = *err;
    if (mine != DLM_OK && err == NULL) (void)dlm__fail(&why, mine, "%s", dlm_status_text(mine));
    size_t first;
    DLM_TRY(check(ranks, err));
    DLM_TRY(find_failure(ranks, mine, &first, err));
    if (first == dlm_ranks_size(ranks)) return DLM_OK;
    DLM_TRY(spread(ranks, first, &why, sizeof why, err));
    if (first == 0) return dlm__fail(err, why.status, "%s", why.message);
    return dlm__fail(err, why.status, "on rank %zu of %zu: %s", first, dlm_ranks_size(ranks), why.message);
}

/* ---- blocks of floats --------------------------------------------------------------------------------- */

/* Walks through the pieces of one rank, chunk by chunk. */
typedef struct cursor {
    const dlm_piece *pieces;
    size_t n, rank;
    size_t i, at; /* the next chunk begins `at` floats into piece i */
} cursor;

typedef struct chunk {
    size_t first, n;
} chunk;

static cursor pieces_of(const dlm_piece *pieces, size_t n, size_t rank) {
    return (cursor){.pieces = pieces, .n = n, .rank = rank};
}

/* Of no floats behind the last. */
static chunk next(cursor *c) {
    while (c->i < c->n && (c->pieces[c->i].rank != c->rank || c->at == c->pieces[c->i].n)) {
        c->i++;
        c->at = 0;
    }
    if (c->i == c->n) return (chunk){0};
    const dlm_piece *piece = &c->pieces[c->i];
    const size_t rest = piece->n - c->at;
    const chunk found = {.first = piece->first + c->at, .n = rest < CHUNK ? rest : CHUNK};
    c->at += found.n;
    return found;
}

static void add(size_t n, const float *x, float *y) {
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

/* One step: the chunks of `out` go to rank `to`, those of `in` come from rank `from`, into the block or, with
 * `sum`, to be added to it. Two at a time each way. */
static dlm_status step(dlm_ranks *ranks, float *block, cursor out, size_t to, cursor in, size_t from,
                       bool sum, dlm_error *err) {
    chunk arriving = {0};
    for (size_t i = 0;; i++) {
        const size_t half = i % 2, other = 1 - half;
        const chunk sent = next(&out), received = next(&in);
        if (received.n > 0) {
            float *place = sum ? ranks->arrived[half] : block + received.first;
            DLM_TRY(receive(ranks, RECEIVING + half, from, place, received.n * sizeof(float), err));
        }
        DLM_TRY(wait_for(ranks, SENDING + half, err));
        if (sent.n > 0)
            DLM_TRY(send(ranks, SENDING + half, to, block + sent.first, sent.n * sizeof(float), err));
        DLM_TRY(wait_for(ranks, RECEIVING + other, err));
        if (sum && arriving.n > 0) add(arriving.n, ranks->arrived[other], block + arriving.first);
        arriving = received;
        if (sent.n > 0 || received.n > 0) continue;
        return wait_for(ranks, SENDING + other, err);
    }
}

dlm_status dlm__ranks_reduce(dlm_ranks *ranks, float *block, const dlm_piece *pieces, size_t n,
                             dlm_error *err) {
    const size_t N = dlm_ranks_size(ranks), r = dlm_ranks_rank(ranks);
    if (N > 1) DLM_TRY(check(ranks, err));
    for (size_t k = 1; k < N; k++) {
        const size_t to = (r + N - k) % N, from = (r + k) % N;
        DLM_TRY(step(ranks, block, pieces_of(pieces, n, to), to, pieces_of(pieces, n, r), from, true, err));
    }
    return DLM_OK;
}

dlm_status dlm__ranks_collect(dlm_ranks *ranks, float *block, const dlm_piece *pieces, size_t n,
                              dlm_error *err) {
    const size_t N = dlm_ranks_size(ranks), r = dlm_ranks_rank(ranks);
    if (N > 1) DLM_TRY(check(ranks, err));
    for (size_t k = 1; k < N; k++) {
        const size_t to = (r + N - k) % N, from = (r + k) % N;
        DLM_TRY(
            step(ranks, block, pieces_of(pieces, n, r), to, pieces_of(pieces, n, from), from, false, err));
    }
    return DLM_OK;
}

dlm_status dlm__ranks_bring(dlm_ranks *ranks, size_t from, const float *source, float *target, size_t n,
                            dlm_error *err) {
    const size_t r = dlm_ranks_rank(ranks);
    if (from == 0) {
        if (r == 0) memcpy(target, source, n * sizeof *target);
        return DLM_OK;
    }
    if (r != 0 && r != from) return DLM_OK;
    DLM_TRY(check(ranks, err));
    for (size_t at = 0; at < n; at += CHUNK) {
        const size_t bytes = (n - at < CHUNK ? n - at : CHUNK) * sizeof(float);
        if (r == 0)
            DLM_TRY(receive(ranks, RECEIVING, from, target + at, bytes, err));
        else
            DLM_TRY(send(ranks, SENDING, 0, source + at, bytes, err));
        DLM_TRY(wait_for(ranks, r == 0 ? RECEIVING : SENDING, err));
    }
    return DLM_OK;
}
