/* The global batch of a training step: which windows of the corpus, how they are corrupted, and the weight of
 * every masked row, so that all recipes are the one sum  loss = sum_r weight_r * ce_r.
 *
 * The ranks of a run share the batch, whole sequences, about as many positions each: every rank draws the
 * lengths of all sequences, and the masks and passes of its own. The weights are those of the whole batch, so
 * the ranks' losses and gradients add up to it.
 *
 * Everything is a function of (seed, step, index in the batch): the position in the data is step * batch, its
 * epoch that number divided by the windows there are, and epoch e reads the windows in the order of a
 * permutation drawn from (seed, e). Nothing needs saving but the step. */
#ifndef DLM_BATCH_H
#define DLM_BATCH_H

#include "train/data.h"

typedef struct dlm_batch_options {
    dlm_recipe recipe;
    dlm_loss_weight weight;
    dlm_schedule schedule;
    size_t seq_len;
    size_t sequences;    /* B */
    size_t micro_tokens; /* positions of one pass; a longer sequence is a pass of its own */
    double tail_share;
    uint64_t seed;
    int32_t mask_id, pad_id, end_id;
    size_t rank, ranks; /* of the batch, the share of this rank of so many; ranks 0: all of it */
} dlm_batch_options;

/* One sequence of the batch, for messages and tests. What the masks are (masked, t and scale) is known of
 * this rank's sequences alone. */
typedef struct dlm_drawn {
    uint32_t window;
    uint32_t rank; /* whose it is */
    size_t n;      /* positions, with a tail or padding */
    size_t real;   /* positions that may be masked and are scored */
    size_t masked; /* of them */
    double t;
    double scale; /* weight of each of its masked rows */
} dlm_drawn;

/* What one pass takes. */
typedef struct dlm_micro_batch {
    dlm_batch batch;
    const int32_t *targets; /* (R) */
    const float *weights;   /* (R) */
} dlm_micro_batch;

/* Sums the loss of n passes, and ADDS its gradients; ce has room for the rows of the largest. */
dlm_status dlm__passes_loss(dlm_workspace *workspace, const dlm_network *network, size_t n,
                            const dlm_micro_batch *passes, float *ce, double *loss, float *gradients,
                            dlm_error *err);

typedef struct dlm_global_batch {
    dlm_batch_options options;
    const dlm_data *data;
    const dlm_windows *windows;
    /* Of the last draw. */
    dlm_drawn *drawn;       /* (B) */
    dlm_micro_batch *micro; /* (n_micro), of this rank's sequences in their order */
    size_t n_micro;
    size_t tokens; /* positions that may be masked, in all sequences of all ranks */
    /* Where the last draw stood in the data. */
    uint64_t epoch; /* of its first sequence */
    size_t place;   /* of its first sequence in the epoch's order */
    /* Memory for the largest batch; see batch.c. */
    uint32_t *order; /* (windows) of epoch `ordered` */
    uint64_t ordered;
    uint32_t *strata;              /* (B) */
    dlm_rng *rngs;                 /* (B) of each sequence, when its length has been drawn */
    uint32_t *by_length;           /* (B) the sequences, longest first */
    size_t *starts;                /* (seq_len + 1) */
    size_t *loads;                 /* (ranks) positions that each has got */
    size_t *offsets;               /* (2 B) */
    int32_t *ids, *rows, *targets; /* (B seq_len) each */
    float *times, *weights;        /* (B), (B seq_len) */
    uint8_t *masked;               /* (seq_len) */
    uint32_t *positions;           /* (seq_len) */
    dlm_arena arena;
} dlm_global_batch;

/* data and windows are borrowed and must outlive it. Windows made as the recipe wants them: with end tokens,
 * or cut without. */
dlm_status dlm__global_batch_create(const dlm_batch_options *options, const dlm_data *data,
                                    const dlm_windows *windows, dlm_global_batch **batch, dlm_error *err);
void dlm__global_batch_free(dlm_global_batch *batch);

/* The largest pass that a draw can give. */
dlm_workspace_size dlm__global_batch_largest(const dlm_batch_options *options);

/* Draws the batch of step `step` (from 0, below 2^32). Cannot fail, allocates nothing. */
void dlm__global_batch_draw(dlm_global_batch *batch, uint64_t step);

#endif
