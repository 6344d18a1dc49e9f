/* How the parameters are divided among the ranks of a run. */
#ifndef DLM_PIECES_H
#define DLM_PIECES_H

#include "model/network.h"
#include "ranks/ranks.h"

/* Whether Muon takes this parameter, and AdamW does not. */
bool dlm__muon_takes(const dlm_param *param, dlm_optimizer optimizer);

/* All floats of the parameters' block in ascending order, padding counted: Muon's matrices, and stretches of
 * what AdamW takes between them. */
typedef struct dlm_pieces {
    size_t n;
    dlm_piece *list;            /* (n) */
    const dlm_param **matrices; /* (n) what Muon takes there; NULL: AdamW does */
} dlm_pieces;
/* A function of its arguments: the same on every rank. layout must outlive it. */
dlm_status dlm__pieces_create(const dlm_layout *layout, dlm_optimizer optimizer, size_t ranks,
                              dlm_pieces *pieces, dlm_error *err);
/* How much work piece i is, in operations: those of Newton-Schulz, or what AdamW's reads and writes take as
 * long as. */
double dlm__piece_cost(const dlm_pieces *pieces, size_t i);
void dlm__pieces_free(dlm_pieces *pieces);

#endif
