/* What the files of one pass share: the workspace's memory, and the steps of forward and backward. Row counts
 * that enter products are rounded (dlm__round_rows), and every operand's rows behind the last real one hold
 * zeros, so that they add nothing to the gradient of a weight. */
#ifndef DLM_PASS_H
#define DLM_PASS_H

#include "model/network.h"

/* What a block leaves for its backward pass. Without training all blocks share one of these, and h is
 * overwritten in place. Where only the rows asked for go through the last block, its h, mean1 and rstd1 are
 * still of all positions, qkv has their keys and values (T,2C) and behind these the rows' queries (R,C), and
 * all else is of the rows. */
typedef struct dlm_layer {
    float *h;   /* (T,C) before the block */
    float *mod; /* (S,6C), with adaLN: shift1, scale1, gate1, shift2, scale2, gate2 */
    float *mean1, *rstd1, *mean2, *rstd2; /* (T) of the two norms */
    float *qkv;                           /* (T,3C), q and k rotated */
    float *lse;                           /* (T,H), or NULL */
    void *o;                              /* (T,C) of the operand type: attention before proj */
    float *y1;                            /* (T,C) what attention adds, before its gate */
    void *y2;                             /* (T,C) what the MLP adds; of the operand type with training */
    void *f1;                             /* (T,F) before GELU; so too */
} dlm_layer;

/* Gradients under way, and operands made from them. */
typedef struct dlm_backward_memory {
    float *dh;                 /* (T,C), or first (R,C) */
    float *dmod;               /* (S,6C) */
    void *dmod_operand;        /* (S,6C); dmod itself in float32 */
    float *dcondition, *dtime; /* (S,C) */
    void *dtime_operand;       /* (S,C) */
    float *wide;               /* (T, max(F,4C)) of the MLP's inside; or both of these: */
    float *narrow;             /* (T,C) */
    float *dqkv;               /* (T,3C) */
    float *dfinal;             /* (R,C) of the final norm's output, in wide */
    void *dlogits;             /* (chunk,V) operand; the logits themselves in float32 */
} dlm_backward_memory;

/* Modulations of times that passes had (times.c): (slots, 6C) of each block, then (slots, 2C). */
typedef struct dlm_time_table {
    size_t slots, known;
    float *times; /* (slots) of which the first `known` have their modulations */
    float *values;
} dlm_time_table;

struct dlm_workspace {
    const dlm_layout *layout;
    dlm_compute *compute;
    dlm_dtype type;
    dlm_workspace_size size;
    size_t chunk; /* rows whose logits are held at once */
    bool compact; /* y2 and f1 are rounded when the forward pass has done with them, made in `back` until then
                   */
    dlm_arena arena;
    bool borrows, lent; /* the arena is size.lender's; another has this one's */

    /* the batch of the last pass */
    size_t S, T, R; /* its sequences, positions, rows */
    size_t S_rounded, T_rounded, R_rounded;
    dlm_segments seg, row_seg; /* of its positions, and of its rows */
    size_t *row_offsets;       /* (S + 1) */
    /* Runs of neighbouring sequences that share their modulations: with training each is one. */
    dlm_segments runs, row_runs;
    size_t *run_offsets, *run_row_offsets; /* (S + 1) */
    float *run_times;                      /* (S) */
    int32_t *run_slots;                    /* (S) of the table */
    dlm_time_table table;
    bool tabled;    /* this pass's modulations are in the table */
    bool only_rows; /* this pass takes only its rows through the last block */
    const float *expected;
    size_t expected_n;
    int32_t *positions, *row_positions; /* (T), (R) in their sequences, with rotary positions */

    float *cos_table, *sin_table; /* (Lmax, D/2), with rotary positions */
    void *features;               /* (S,256) operand */
    float *time_hidden;           /* (S,C) t_embedder.mlp.0's output; here and below S: of the runs */
    void *time_operand;           /* (S,C) SiLU of it */
    float *c;                     /* (S,C) */
    void *condition;              /* (S,C) operand SiLU(c) */
    dlm_layer *layers;            /* (depth + 1), of the last only h */
    float *mid;                   /* (T,C) between a block's branches */
    void *a;                      /* (T,C) operand: modulated norm */
    void *g;                      /* (T,F) operand: GELU */
    float *final_mod;             /* (S,2C) */
    float *rows_h;                /* (R,C) */
    float *row_mean, *row_rstd;   /* (R) of the rows' last norm */
    void *final_a;                /* (R,C) operand */
    float *logits;                /* (chunk,V) */
    dlm_backward_memory back;
};

/* Modulation vectors: vector k of run s is at base + k*C + s*stride. */
typedef struct dlm_modulation {
    const float *base;
    size_t stride;
} dlm_modulation;

/* Zeroes rows `rows` .. rounded - 1 of x (rounded, width). */
void dlm__zero_tail(void *x, size_t rows, size_t rounded, size_t width, dlm_dtype type);
/* The weights of a product as the network's operand type has them, and how they lie; transposed: to multiply
 * by W^T, as the forward pass does. */
const void *dlm__weights(const dlm_network *network, size_t offset, bool transposed, dlm_right *right);
/* y (rows, out) = x (rows, in) W^T + b. */
void dlm__linear(dlm_workspace *workspace, const dlm_network *network, size_t rows, size_t in, size_t out,
                 const void *x, size_t weight, size_t bias, float *y);
/* The queries in the last block's qkv, or their gradients in that of these, where it is made of the rows. */
static inline float *dlm__queries(const dlm_workspace *workspace, float *qkv) {
    return qkv + workspace->T_rounded * 2 * workspace->layout->config.hidden_size;
}
/* The rows of the last block's h in w->mid, and in w->a what their queries are made of. */
void dlm__rows_operand(dlm_workspace *workspace, const dlm_layer *layer, dlm_modulation mod,
                       const int32_t *rows);
/* Modulations of a block or the final layer: `learned` where time is none, else what the forward pass left in
 * `made` (S, n*C). */
dlm_modulation dlm__modulation(const dlm_network *network, size_t learned, const float *made, size_t n);

/* times.c. Rows of times that products get for n; see there. */
size_t dlm__round_times(const dlm_workspace *workspace, size_t n);
/* The runs of the batch whose seg and row_seg are set. */
void dlm__find_runs(dlm_workspace *workspace, const dlm_batch *batch);
/* What the modulations of this pass are made of. */
void dlm__begin_times(dlm_workspace *workspace, const dlm_network *network);
/* Those of block i, and of the final layer, until the next of them is asked for; with training they stay. */
dlm_modulation dlm__block_modulation(dlm_workspace *workspace, const dlm_network *network, size_t i);
dlm_modulation dlm__final_modulation(dlm_workspace *workspace, const dlm_network *network);
/* The table, as the workspace's size asks for. */
void dlm__lay_times(dlm_workspace *workspace);

/* d loss / d logits of rows first .. first + n - 1 is in back.dlogits (rows behind them zero): the final
 * linear's gradients, and back.dfinal of these rows. */
void dlm__backward_logits(dlm_workspace *workspace, const dlm_network *network, size_t first, size_t n,
                          float *gradients);
/* The rest, from back.dfinal. */
void dlm__backward(dlm_workspace *workspace, const dlm_network *network, const int32_t *ids,
                   const int32_t *rows, float *gradients);

#endif
