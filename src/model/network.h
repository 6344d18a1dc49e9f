/* The denoiser: configuration, its one parameter table, and the one forward pass that training, evaluation
 * and sampling share. Source: Peebles and Xie, Scalable diffusion models with transformers (2023), with the
 * time conditioning of the original (adaLN) or with learned constants in its place. */
#ifndef DLM_NETWORK_H
#define DLM_NETWORK_H

#include "compute/compute.h"
#include "format/tensors.h"

/* ---- config (config.c) -------------------------------------------------------------------------------- */

#define DLM_MAX_NAME         64
#define DLM_TIME_FREQUENCIES 128 /* half of the time features */

/* Checks every field's range; within the ranges no size of the model overflows. `name` is for messages. */
dlm_status dlm__config_check(const dlm_config *config, const char *name, dlm_error *err);
/* F = int(C * mlp_ratio), and D = C / H. */
size_t dlm__config_hidden(const dlm_config *config);
size_t dlm__config_head(const dlm_config *config);

/* The config.json beside a model: the six keys, "time" and "position", and "diffusion" with what else
 * dlm_config and the histogram of lengths hold. *lengths (max_seq_len + 1) may come out NULL; free() it;
 * lengths itself may be NULL. An unknown key is refused, since it could change what the model computes. */
dlm_status dlm__config_parse(const char *name, const char *json, size_t n, dlm_config *config,
                             uint64_t **lengths, dlm_error *err);
dlm_status dlm__config_save(const dlm_config *config, const uint64_t *lengths, const char *path,
                            dlm_error *err);
/* The same JSON in one line; lengths NULL: without the histogram. free() it. NULL without memory. */
char *dlm__config_text(const dlm_config *config, const uint64_t *lengths);
/* The same in the two parts that a .pt has: the six keys of the original, and all else. NULL without memory.
 */
struct json_t *dlm__config_original(const dlm_config *config);
struct json_t *dlm__config_ours(const dlm_config *config, const uint64_t *lengths);

/* Names of enum values as they stand in files and options ("cosine", ...). */
const char *dlm__time_name(dlm_time time);
const char *dlm__position_name(dlm_position position);
const char *dlm__schedule_name(dlm_schedule schedule);
const char *dlm__recipe_name(dlm_recipe recipe);

/* ---- parameter table (parameters.c) ------------------------------------------------------------------- */

typedef enum dlm_init { DLM_INIT_ZERO, DLM_INIT_XAVIER, DLM_INIT_NORMAL, DLM_INIT_GATES } dlm_init;

/* One tensor. All parameters of a model lie in one block of floats, as do its gradients, moments and average,
 * each at the same offsets, so that whatever handles one handles all by walking this list. */
typedef struct dlm_param {
    char name[DLM_MAX_NAME];
    size_t ndim, shape[3], count;
    size_t offset; /* floats from the block's start; a multiple of 16 */
    dlm_init init;
    bool block_matrix; /* two-dimensional and in a block: Muon's, where Muon is used */
    bool token_matrix; /* multiplies the states of tokens: in 8 bits, where that is asked for */
    bool panels;       /* a matrix of products that panels have room for (dlm__pack_panels) */
} dlm_param;

/* Offsets by role, filled by the same walk that makes the list. */
typedef struct dlm_block_layout {
    size_t qkv_w, qkv_b, proj_w, proj_b, fc1_w, fc1_b, fc2_w, fc2_b;
    size_t mod_w, mod_b; /* adaLN_modulation.1 */
    size_t mod;          /* modulation, where time is none */
} dlm_block_layout;

typedef struct dlm_layout {
    dlm_config config;
    dlm_param *params; /* in the order of the file */
    size_t n;
    size_t total; /* floats in the block, padding counted */
    size_t count; /* parameters, padding not counted */
    size_t tok, pos, time0_w, time0_b, time2_w, time2_b;
    size_t final_w, final_b, final_mod_w, final_mod_b, final_mod;
    dlm_block_layout *blocks; /* (depth) */
} dlm_layout;

dlm_status dlm__layout_create(const dlm_config *config, dlm_layout **layout, dlm_error *err);
void dlm__layout_free(dlm_layout *layout);
const dlm_param *dlm__layout_find(const dlm_layout *layout, const char *name); /* NULL when there is none */
size_t dlm__layout_at(const dlm_layout *layout, size_t offset); /* which parameter lies there */
size_t dlm__layout_end(const dlm_layout *layout, size_t i);     /* of its place, padding included */
/* Whether products read a parameter, so that passes take it in the network's type. */
bool dlm__is_multiplied(const dlm_layout *layout, const dlm_param *param);
/* Initial values into params (total floats), by (seed, index of the parameter). */
void dlm__layout_init(const dlm_layout *layout, uint64_t seed, float *params);

/* ---- network (forward.c, times.c, backward.c; bfloat16.c, int8.c, values.c) --------------------------- */

typedef struct dlm_workspace dlm_workspace;

/* Weights ready for products: the float32 block, and its bfloat16 copy where products take that, unless they
 * round the float32 weights themselves. The matrices of tokens may be in 8 bits: their places in the copy
 * then hold nothing. What passes do not read in float32 may be absent from the float32 block, until
 * dlm__network_values is asked for it. */
typedef struct dlm_network {
    const dlm_layout *layout;
    float *params;           /* (total); what is absent is not set, and takes no memory */
    dlm_bf16 *params_bf16;   /* (total), or NULL */
    bool panels;             /* of the copy the matrices that can lie in panels, for the forward pass; the
                                backward pass then reads params */
    dlm_dtype type;          /* of the operands of products */
    dlm_int8 **int8;         /* NULL, or (layout->n): those of token matrices, NULL for the rest; only without
                                training */
    bool *absent;            /* NULL: nothing; or (layout->n), under the lock of values.c */
    const dlm_tensors *file; /* where values that are absent are read, but for those of int8; or NULL */
    dlm_workspace *lender;   /* of memory to those who evaluate or sample this; or NULL */
} dlm_network;

/* A packed batch. rows lists, in ascending order, the packed positions whose logits are wanted. */
typedef struct dlm_batch {
    dlm_segments seg;   /* S sequences, T = seg.offsets[S] positions */
    const int32_t *ids; /* (T) */
    const float *times; /* (S); not read when the model has no time conditioning */
    size_t R;
    const int32_t *rows; /* (R) */
} dlm_batch;

/* Memory of a pass: activations for up to `tokens` positions in up to `sequences` sequences, of which up to
 * `rows` rows go through the final layer; with `training` also what the backward pass needs. `times`: how
 * many different times passes will have, if these are few and come again, so that what is made of them is
 * kept; that takes at most 32 MB, and weights that stay as they are. `whole`: the last block is computed of
 * all positions, though it is read at the rows alone (for tests). `lender`: a workspace whose memory is taken
 * where that is enough and not lent already, and which makes no pass until this one is freed; or NULL.
 * Allocated once; a pass allocates nothing. */
typedef struct dlm_workspace_size {
    size_t tokens, sequences, rows;
    bool training, whole;
    size_t times;
    dlm_workspace *lender;
} dlm_workspace_size;
dlm_status dlm__workspace_create(const dlm_layout *layout, dlm_dtype type, dlm_compute *compute,
                                 dlm_workspace_size size, dlm_workspace **workspace, dlm_error *err);
void dlm__workspace_free(dlm_workspace *workspace);

/* Times (n) that passes after the next may have: what is made of them is made in the next one, where that
 * costs nothing. They are borrowed until then. */
void dlm__workspace_expect(dlm_workspace *workspace, size_t n, const float *times);

/* logits (R,V) of the batch's rows. A batch larger than the workspace, or an id outside the vocabulary, is
 * DLM_ARGUMENT. */
dlm_status dlm__forward(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                        float *logits, dlm_error *err);

/* The forward pass and the loss  sum_r weight[r] * ce[r],  ce[r] the cross-entropy of row r against
 * targets[r]. ce (R) and *loss are written. With gradients (total floats, the parameters' layout) not NULL, d
 * loss / d parameter is ADDED to them. The (R,V) logits are never held whole. */
dlm_status dlm__loss(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                     const int32_t *targets, const float *weight, float *ce, double *loss, float *gradients,
                     dlm_error *err);

/* Makes the 8-bit matrices from the float32 block, whose memory in their places is given back (int8.c). */
dlm_status dlm__network_quantise(dlm_compute *compute, dlm_network *network, dlm_error *err);
/* Only memory for them, whose values are then absent. */
dlm_status dlm__network_allocate_int8(const dlm_compute *compute, dlm_network *network, dlm_error *err);
/* Frees them, and the list of what is absent. */
void dlm__network_free_int8(dlm_network *network);
/* The 8-bit matrix that has the weights at this offset of the block, which are its rows from *first on; NULL:
 * none has. */
const dlm_int8 *dlm__network_int8(const dlm_network *network, size_t offset, size_t *first);

/* Of a network that is about to be read from a file: what passes will not take from the float32 block is to
 * be absent there, where the file can be asked for it again; it then has to stay open (values.c). */
dlm_status dlm__network_leave_out(dlm_network *network, const dlm_tensors *file, dlm_error *err);
/* The values of parameter i in its place in the block: what is absent is made or read once, and stays. Any
 * thread may ask. *values is NULL where that fails. */
dlm_status dlm__network_values(const dlm_network *network, size_t i, const float **values, dlm_error *err);
/* The whole block (total) with all values; what is absent stays so. */
dlm_status dlm__network_copy_values(const dlm_network *network, float *to, dlm_error *err);

/* Memory for the bfloat16 copy, as layout, type and what is to be done with the network want it; free() it.
 * Refreshing follows a change of the float32 block, of which nothing is absent but what is in 8 bits. */
dlm_status dlm__network_allocate_bf16(dlm_network *network, bool training, dlm_error *err);
void dlm__network_refresh(dlm_compute *compute, dlm_network *network);
/* The same of the n values of a parameter from `first` on, both multiples of the unit, which lie anywhere. */
size_t dlm__refresh_unit(const dlm_network *network, const dlm_param *param);
void dlm__network_refresh_part(dlm_compute *compute, const dlm_network *network, const dlm_param *param,
                               size_t first, size_t n, const float *values);

#endif
