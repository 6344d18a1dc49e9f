/* Collectives: what the ranks of a run do together, each of them making the same calls in the same order.
 *
 * Sums are taken in an order that depends on the number of ranks alone, not on who comes first, so that a run
 * repeats bit for bit; that, and that a rank's death is told in a sentence, is why they are not MPI's own.
 * docs/distributed.md says what each costs.
 *
 * ranks may be NULL: then there is one, and nothing is done. After a call has failed because a rank is gone
 * (DLM_NETWORK), every later one fails with the same sentence. */
#ifndef DLM_RANKS_H
#define DLM_RANKS_H

#include "base/base.h"

struct dlm_wire;

/* On this wire, which is taken over, also when it fails; NULL: alone. */
dlm_status dlm__ranks_create(struct dlm_wire *wire, dlm_ranks **ranks, dlm_error *err);

/* Whether a rank is gone. */
bool dlm__ranks_lost(const dlm_ranks *ranks);

/* ---- small things ------------------------------------------------------------------------------------- */

/* Every rank's `bytes` bytes, one behind the other in `all` by rank. At most DLM_EXCHANGE bytes. */
enum { DLM_EXCHANGE = 64 };
dlm_status dlm__ranks_exchange(dlm_ranks *ranks, const void *mine, size_t bytes, void *all, dlm_error *err);
/* Each of n values (at most DLM_EXCHANGE / 8) becomes its sum over the ranks, added by rank. */
dlm_status dlm__ranks_sum(dlm_ranks *ranks, double *values, size_t n, dlm_error *err);
/* Where any rank comes with a failure (its sentence in err), all return that of the first such rank. */
dlm_status dlm__ranks_agree(dlm_ranks *ranks, dlm_status mine, dlm_error *err);
/* Rank 0's n bytes for all. */
dlm_status dlm__ranks_share(dlm_ranks *ranks, void *bytes, size_t n, dlm_error *err);

/* ---- blocks of floats --------------------------------------------------------------------------------- */

/* A stretch of a block, and the rank that owns it. */
typedef struct dlm_piece {
    size_t first, n;
    size_t rank;
} dlm_piece;

/* Each owner's pieces become the sum over all ranks' blocks, added to its own in the order of the ranks
 * behind it; what the others have there stays. n pieces, the same table on every rank. */
dlm_status dlm__ranks_reduce(dlm_ranks *ranks, float *block, const dlm_piece *pieces, size_t n,
                             dlm_error *err);
/* Everybody's block gets each piece from its owner. */
dlm_status dlm__ranks_collect(dlm_ranks *ranks, float *block, const dlm_piece *pieces, size_t n,
                              dlm_error *err);
/* Rank `from` has n floats at `source`, which come to `target` of rank 0. Calls for the two ranks alone; the
 * others may leave it out. */
dlm_status dlm__ranks_bring(dlm_ranks *ranks, size_t from, const float *source, float *target, size_t n,
                            dlm_error *err);

#endif
