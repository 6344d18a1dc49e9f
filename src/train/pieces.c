/* Which rank owns which part of the parameters.
 *
 * Owning a part means to add up its gradient, to hold its moments and its average, and to update it. Muon's
 * matrices are owned whole, since Newton-Schulz takes a matrix whole; what AdamW takes is cut where it suits.
 * The costliest piece goes first, each to the rank that has least to do (Graham, Bounds on multiprocessing
 * timing anomalies, 1969): every rank comes to the same table by itself. */
#include "train/pieces.h"

#include <stdlib.h>

/* What AdamW takes is cut into pieces of at most this part of a rank's even share of it. */
enum { CUTS = 4 };

/* Operations in the time in which one byte is read or written, from what docs/performance.md measures: about
 * 300 GFLOP/s for Muon, 11 GB/s for memory. It need not be exact, but all ranks must come to the same table,
 * on whatever processor: so it is a constant, not measured. */
#define OPERATIONS_PER_BYTE 27.0

bool dlm__muon_takes(const dlm_param *param, dlm_optimizer optimizer) {
    return optimizer == DLM_MUON && param->block_matrix;
}

/* Five Newton-Schulz steps on k rows of K columns: 2kkK for the Gram matrix, 2kkk for its square, 2kkK to
 * turn X. */
static double cost_of_matrix(const dlm_param *param) {
    const double a = (double)param->shape[0], b = (double)param->shape[1];
    const double k = a < b ? a : b, K = a < b ? b : a;
    return 5 * 2 * k * k * (2 * K + k);
}

/* Weight, gradient, two moments and average are read, all but the gradient written. */
static double cost_of_floats(size_t n) {
    return OPERATIONS_PER_BYTE * 9 * sizeof(float) * (double)n;
}

double dlm__piece_cost(const dlm_pieces *pieces, size_t i) {
    const dlm_param *matrix = pieces->matrices[i];
    return matrix != NULL ? cost_of_matrix(matrix) : cost_of_floats(pieces->list[i].n);
}

/* Adds n floats of AdamW's from `first` on, in pieces of at most `most`; counts them where pieces has no
 * list. */
static void cut(dlm_pieces *pieces, size_t first, size_t n, size_t most) {
    for (size_t at = 0; at < n; at += most, pieces->n++) {
        if (pieces->list == NULL) continue;
        pieces->list[pieces->n] = (dlm_piece){.first = first + at, .n = n - at < most ? n - at : most};
    }
}

/* The pieces in their order, without owners. */
static void cut_all(const dlm_layout *layout, dlm_optimizer optimizer, size_t most, dlm_pieces *pieces) {
    pieces->n = 0;
    for (size_t i = 0, next; i < layout->n; i = next) {
        const dlm_param *param = &layout->params[i];
        next = i + 1;
        if (!dlm__muon_takes(param, optimizer)) {
            while (next < layout->n && !dlm__muon_takes(&layout->params[next], optimizer)) next++;
            cut(pieces, param->offset, dlm__layout_end(layout, next - 1) - param->offset, most);
            continue;
        }
        if (pieces->list != NULL) {
            pieces->list[pieces->n] =
                (dlm_piece){.first = param->offset, .n = dlm__layout_end(layout, i) - param->offset};
            pieces->matrices[pieces->n] = param;
        }
        pieces->n++;
    }
}

static size_t adamw_floats(const dlm_layout *layout, dlm_optimizer optimizer) {
    size_t n = 0;
    for (size_t i = 0; i < layout->n; i++) {
        if (!dlm__muon_takes(&layout->params[i], optimizer))
            n += dlm__layout_end(layout, i) - layout->params[i].offset;
    }
    return n;
}

/* The costliest piece that has no owner yet, the first of equal ones. */
static size_t costliest(const dlm_pieces *pieces, size_t ranks) {
    size_t found = pieces->n;
    for (size_t i = 0; i < pieces->n; i++) {
        if (pieces->list[i].rank != ranks) continue;
        if (found == pieces->n || dlm__piece_cost(pieces, i) > dlm__piece_cost(pieces, found)) found = i;
    }
    return found;
}

/* loads (ranks) is zero. */
static void deal(dlm_pieces *pieces, size_t ranks, double *loads) {
    for (size_t i = 0; i < pieces->n; i++) pieces->list[i].rank = ranks;
    for (size_t dealt = 0; dealt < pieces->n; dealt++) {
        const size_t i = costliest(pieces, ranks);
        size_t least = 0;
        for (size_t r = 1; r < ranks; r++) {
            if (loads[r] < loads[least]) least = r;
        }
        pieces->list[i].rank = least;
        loads[least] += dlm__piece_cost(pieces, i);
    }
}

dlm_status dlm__pieces_create(const dlm_layout *layout, dlm_optimizer optimizer, size_t ranks,
                              dlm_pieces *pieces, dlm_error *err) {
    *pieces = (dlm_pieces){0};
    const size_t lanes = DLM_ALIGN / sizeof(float);
    const size_t share = adamw_floats(layout, optimizer) / (ranks * CUTS);
    const size_t most = ranks > 1 ? dlm__round_up(share + 1, lanes) : layout->total;
    cut_all(layout, optimizer, most, pieces);
    double *loads = dlm__calloc(ranks, sizeof *loads);
    pieces->matrices = dlm__calloc(pieces->n, sizeof *pieces->matrices);
    pieces->list = dlm__calloc(pieces->n, sizeof *pieces->list);
    const bool there = loads != NULL && pieces->matrices != NULL && pieces->list != NULL;
    if (there) {
        cut_all(layout, optimizer, most, pieces);
        deal(pieces, ranks, loads);
    }
    free(loads);
    if (there) return DLM_OK;
    const dlm_status status =
        dlm__fail_memory(err, "the optimiser's state", pieces->n * sizeof *pieces->list);
    dlm__pieces_free(pieces);
    return status;
}

void dlm__pieces_free(dlm_pieces *pieces) {
    free(pieces->list);
    free(pieces->matrices);
    *pieces = (dlm_pieces){0};
}
