/* The backward pass: the steps of forward.c in reverse, each adding to the gradient block.
 *
 * Of every layer the forward pass keeps what is dear to compute (see pass.h), what goes no further than into
 * an operand or a sum over tokens in the operand type; the state between a block's branches, the normalised
 * operands and GELU's outputs are computed again. What of a layer has been read for the last time leaves its
 * memory to gradients. */
#include "model/pass.h"

#include <string.h>

/* ---- linear ------------------------------------------------------------------------------------------- */

/* Of y = x W^T + b, with dy (rounded, out) and x (rounded, in) operands, both zero behind `rows`:
 * dW += dy^T x, db += column sums of dy. */
static void linear_gradients(dlm_workspace *w, size_t rows, size_t rounded, size_t in, size_t out,
                             const void *dy, const void *x, float *dweight, float *dbias) {
    dlm_product product = {
        .M = out, .N = in, .K = rounded, .transpose_a = true, .accumulate = true, .type = w->type};
    dlm__matmul(w->compute, &product, dy, x, NULL, dweight);
    dlm__column_sum(w->compute, rows, out, dy, w->type, dbias);
}

/* dx (rounded, in) = dy W, or += when accumulate. */
static void linear_input(dlm_workspace *w, const dlm_network *network, size_t rounded, size_t in, size_t out,
                         const void *dy, size_t weight, bool accumulate, float *dx) {
    dlm_product product = {.M = rounded, .N = in, .K = out, .accumulate = accumulate, .type = w->type};
    const void *matrix = dlm__weights(network, weight, false, &product.right);
    dlm__matmul(w->compute, &product, dy, matrix, NULL, dx);
}

/* x (rows, width) as an operand, zero behind its rows: x itself, or a conversion into `operand`. */
static void make_operand(dlm_workspace *w, size_t rows, size_t rounded, size_t width, const float *x,
                         void *operand) {
    if (w->type != DLM_F32) dlm__to_type(w->compute, rows * width, x, operand, w->type);
    dlm__zero_tail(operand, rows, rounded, width, w->type);
}

/* ---- modulations -------------------------------------------------------------------------------------- */

/* From back.dmod (S, n*C): the gradients of the learned constants, or of adaLN's linear and of SiLU(c). */
static void modulation_backward(dlm_workspace *w, const dlm_network *network, size_t n, size_t learned,
                                size_t weight, size_t bias, float *gradients) {
    size_t C = w->layout->config.hidden_size;
    if (w->layout->config.time == DLM_TIME_NONE) {
        dlm__column_sum(w->compute, w->S, n * C, w->back.dmod, DLM_F32, gradients + learned);
        return;
    }
    void *dy = w->back.dmod_operand;
    make_operand(w, w->S, w->S_rounded, n * C, w->back.dmod, dy);
    linear_gradients(w, w->S, w->S_rounded, C, n * C, dy, w->condition, gradients + weight, gradients + bias);
    linear_input(w, network, w->S_rounded, C, n * C, dy, weight, true, w->back.dcondition);
}

/* From back.dcondition: through SiLU, mlp.2, SiLU and mlp.0. */
static void time_backward(dlm_workspace *w, const dlm_network *network, float *gradients) {
    const dlm_layout *layout = w->layout;
    dlm_backward_memory *back = &w->back;
    size_t C = layout->config.hidden_size, S = w->S, rounded = w->S_rounded;
    dlm__silu_backward(w->compute, S * C, w->c, back->dcondition, back->dtime);
    make_operand(w, S, rounded, C, back->dtime, back->dtime_operand);
    linear_gradients(w, S, rounded, C, C, back->dtime_operand, w->time_operand, gradients + layout->time2_w,
                     gradients + layout->time2_b);
    linear_input(w, network, rounded, C, C, back->dtime_operand, layout->time2_w, false, back->dcondition);
    dlm__silu_backward(w->compute, S * C, w->time_hidden, back->dcondition, back->dtime);
    make_operand(w, S, rounded, C, back->dtime, back->dtime_operand);
    linear_gradients(w, S, rounded, (size_t)2 * DLM_TIME_FREQUENCIES, C, back->dtime_operand, w->features,
                     gradients + layout->time0_w, gradients + layout->time0_b);
}

/* ---- blocks ------------------------------------------------------------------------------------------- */

/* Of next = mid + gate2 * mlp(LN(mid) * (1 + scale2) + shift2) of the rows in seg, with w->mid filled:
 * back.dh from d next to d mid. */
static void transform_backward(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                               const dlm_layer *layer, dlm_modulation mod, dlm_segments seg,
                               float *gradients) {
    dlm_backward_memory *back = &w->back;
    size_t C = w->layout->config.hidden_size, F = dlm__config_hidden(&w->layout->config);
    size_t n = seg.offsets[seg.n], rounded = dlm__round_rows(w->compute, w->type, n);
    const float *shift = mod.base + 3 * C, *scale = mod.base + 4 * C, *gate = mod.base + 5 * C;
    void *dy = layer->y2, *df1 = layer->f1; /* each in the place of what it is made from */
    float *dshift = back->dmod + 3 * C, *dscale = back->dmod + 4 * C, *dgate = back->dmod + 5 * C;
    dlm__gated_residual_backward(w->compute, seg, C, back->dh, gate, mod.stride, layer->y2, w->type, dy,
                                 w->type, dgate, 6 * C);
    dlm__zero_tail(dy, n, rounded, C, w->type);
    linear_input(w, network, rounded, F, C, dy, block->fc2_w, false, back->wide);
    dlm__gelu_backward(w->compute, n * F, layer->f1, back->wide, df1, w->g, w->type);
    dlm__zero_tail(w->g, n, rounded, F, w->type);
    dlm__zero_tail(df1, n, rounded, F, w->type);
    linear_gradients(w, n, rounded, F, C, dy, w->g, gradients + block->fc2_w, gradients + block->fc2_b);
    linear_input(w, network, rounded, C, F, df1, block->fc1_w, false, back->narrow);
    dlm__modulated_norm_backward(w->compute, seg, C, back->narrow, w->mid, shift, scale, mod.stride,
                                 layer->mean2, layer->rstd2, back->dh, dshift, dscale, 6 * C, w->a, w->type);
    dlm__zero_tail(w->a, n, rounded, C, w->type);
    linear_gradients(w, n, rounded, C, F, df1, w->a, gradients + block->fc1_w, gradients + block->fc1_b);
}

/* From back.dh, d mid of the rows in seg, to back.narrow, d o. */
static void project_backward(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                             const dlm_layer *layer, dlm_modulation mod, dlm_segments seg, float *gradients) {
    dlm_backward_memory *back = &w->back;
    size_t C = w->layout->config.hidden_size, n = seg.offsets[seg.n];
    size_t rounded = dlm__round_rows(w->compute, w->type, n);
    void *dy = layer->y2; /* which is done with */
    dlm__gated_residual_backward(w->compute, seg, C, back->dh, mod.base + 2 * C, mod.stride, layer->y1,
                                 DLM_F32, dy, w->type, back->dmod + 2 * C, 6 * C);
    dlm__zero_tail(dy, n, rounded, C, w->type);
    linear_gradients(w, n, rounded, C, C, dy, layer->o, gradients + block->proj_w, gradients + block->proj_b);
    linear_input(w, network, rounded, C, C, dy, block->proj_w, false, back->narrow);
}

/* From back.narrow, the gradient of a = LN(h) * (1 + scale1) + shift1 at all positions: adds to back.dh, and
 * w->a becomes a. */
static void norm_backward(dlm_workspace *w, const dlm_layer *layer, dlm_modulation mod) {
    dlm_backward_memory *back = &w->back;
    size_t C = w->layout->config.hidden_size;
    dlm__modulated_norm_backward(w->compute, w->seg, C, back->narrow, layer->h, mod.base, mod.base + C,
                                 mod.stride, layer->mean1, layer->rstd1, back->dh, back->dmod, back->dmod + C,
                                 6 * C, w->a, w->type);
    dlm__zero_tail(w->a, w->T, w->T_rounded, C, w->type);
}

/* Where the operand of back.dqkv goes. */
static void *attention_operand(const dlm_workspace *w, const dlm_layer *layer) {
    return w->type == DLM_F32 ? w->back.dqkv : layer->qkv;
}

/* back.narrow, d loss / d o, to the operand of d loss / d qkv, which is returned. */
static const void *attention_backward(dlm_workspace *w, const dlm_layer *layer) {
    const dlm_config *config = &w->layout->config;
    dlm_backward_memory *back = &w->back;
    size_t C = config->hidden_size, H = config->num_heads, D = C / H;
    void *operand = attention_operand(w, layer);
    dlm__attention_backward(w->compute, w->seg, H, D, layer->qkv, layer->lse, back->narrow, w->type,
                            back->dqkv);
    if (config->position == DLM_POSITION_BOTH) {
        dlm__rotate(w->compute, w->seg, H, D, w->cos_table, w->sin_table, true, back->dqkv);
    }
    make_operand(w, w->T, w->T_rounded, 3 * C, back->dqkv, operand);
    return operand;
}

/* Of mid = h + gate1 * attn(LN(h) * (1 + scale1) + shift1): back.dh from d mid to d h. */
static void attend_backward(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                            const dlm_layer *layer, dlm_modulation mod, float *gradients) {
    size_t C = w->layout->config.hidden_size, T = w->T, rounded = w->T_rounded;
    project_backward(w, network, block, layer, mod, w->seg, gradients);
    const void *dqkv = attention_backward(w, layer);
    linear_input(w, network, rounded, C, 3 * C, dqkv, block->qkv_w, false, w->back.narrow);
    norm_backward(w, layer, mod);
    linear_gradients(w, T, rounded, C, 3 * C, dqkv, w->a, gradients + block->qkv_w, gradients + block->qkv_b);
}

static void block_backward(dlm_workspace *w, const dlm_network *network, size_t i, float *gradients) {
    const dlm_block_layout *block = &w->layout->blocks[i];
    const dlm_layer *layer = &w->layers[i];
    size_t C = w->layout->config.hidden_size;
    dlm_modulation mod = dlm__modulation(network, block->mod, layer->mod, 6);
    memset(w->back.dmod, 0, w->S * 6 * C * sizeof *w->back.dmod);
    dlm__gated_residual(w->compute, w->seg, C, layer->h, mod.base + 2 * C, mod.stride, layer->y1, w->mid);
    transform_backward(w, network, block, layer, mod, w->seg, gradients);
    attend_backward(w, network, block, layer, mod, gradients);
    modulation_backward(w, network, 6, block->mod, block->mod_w, block->mod_b, gradients);
}

/* ---- the last block, where only the rows go through it ------------------------------------------------ */

/* back.dh from the rows to all positions, 0 at the others. */
static void spread_rows(dlm_workspace *w, const int32_t *rows) {
    size_t C = w->layout->config.hidden_size;
    memcpy(w->rows_h, w->back.dh, w->R * C * sizeof *w->rows_h);
    memset(w->back.dh, 0, w->T * C * sizeof *w->back.dh);
    dlm__scatter_add_rows(w->compute, w->R, C, rows, w->rows_h, w->back.dh);
}

/* back.narrow, d loss / d o of the rows, to the operand of d loss / d (k, v) and the rows' q behind these. */
static unsigned char *rows_attention_backward(dlm_workspace *w, const dlm_layer *layer) {
    const dlm_config *config = &w->layout->config;
    dlm_backward_memory *back = &w->back;
    size_t C = config->hidden_size, H = config->num_heads, D = C / H;
    float *dkv = back->dqkv, *dq = dlm__queries(w, dkv);
    unsigned char *operand = attention_operand(w, layer);
    dlm__attention_rows_backward(w->compute, w->seg, w->row_seg, H, D, dlm__queries(w, layer->qkv),
                                 layer->qkv, layer->lse, back->narrow, w->type, dq, dkv);
    if (config->position == DLM_POSITION_BOTH) {
        dlm__rotate_rows(w->compute, w->T, w->positions, H, D, 2 * C, w->cos_table, w->sin_table, true, dkv);
        dlm__rotate_rows(w->compute, w->R, w->row_positions, H, D, C, w->cos_table, w->sin_table, true, dq);
    }
    make_operand(w, w->T, w->T_rounded, 2 * C, dkv, operand);
    make_operand(w, w->R, w->R_rounded, C, dq, operand + (size_t)(dq - dkv) * dlm__dtype_size(w->type));
    return operand;
}

/* As attend_backward, but back.dh is d mid of the rows at first. */
static void attend_rows_backward(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                                 const dlm_layer *layer, dlm_modulation mod, const int32_t *rows,
                                 float *gradients) {
    dlm_backward_memory *back = &w->back;
    size_t C = w->layout->config.hidden_size, keys_w = block->qkv_w + C * C, keys_b = block->qkv_b + C;
    project_backward(w, network, block, layer, mod, w->row_seg, gradients);
    const unsigned char *dkv = rows_attention_backward(w, layer);
    const unsigned char *dq = dkv + w->T_rounded * 2 * C * dlm__dtype_size(w->type);
    dlm__rows_operand(w, layer, mod, rows);
    linear_gradients(w, w->R, w->R_rounded, C, C, dq, w->a, gradients + block->qkv_w,
                     gradients + block->qkv_b);
    linear_input(w, network, w->R_rounded, C, C, dq, block->qkv_w, false, w->mid);
    linear_input(w, network, w->T_rounded, C, 2 * C, dkv, keys_w, false, back->narrow);
    dlm__scatter_add_rows(w->compute, w->R, C, rows, w->mid, back->narrow);
    spread_rows(w, rows);
    norm_backward(w, layer, mod);
    linear_gradients(w, w->T, w->T_rounded, C, 2 * C, dkv, w->a, gradients + keys_w, gradients + keys_b);
}

static void last_block_backward(dlm_workspace *w, const dlm_network *network, const int32_t *rows,
                                float *gradients) {
    size_t C = w->layout->config.hidden_size, last = w->layout->config.depth - 1;
    const dlm_block_layout *block = &w->layout->blocks[last];
    const dlm_layer *layer = &w->layers[last];
    dlm_modulation mod = dlm__modulation(network, block->mod, layer->mod, 6);
    memset(w->back.dmod, 0, w->S * 6 * C * sizeof *w->back.dmod);
    dlm__gather_rows(w->compute, w->R, C, rows, layer->h, w->mid);
    dlm__gated_residual(w->compute, w->row_seg, C, w->mid, mod.base + 2 * C, mod.stride, layer->y1, w->mid);
    transform_backward(w, network, block, layer, mod, w->row_seg, gradients);
    attend_rows_backward(w, network, block, layer, mod, rows, gradients);
    modulation_backward(w, network, 6, block->mod, block->mod_w, block->mod_b, gradients);
}

/* ---- final layer -------------------------------------------------------------------------------------- */

void dlm__backward_logits(dlm_workspace *workspace, const dlm_network *network, size_t first, size_t n,
                          float *gradients) {
    dlm_workspace *w = workspace;
    const dlm_layout *layout = w->layout;
    size_t C = layout->config.hidden_size, V = layout->config.vocab_size;
    size_t rounded = dlm__round_rows(w->compute, w->type, n);
    const unsigned char *a = (const unsigned char *)w->final_a + first * C * dlm__dtype_size(w->type);
    dlm__zero_tail(w->back.dlogits, n, rounded, V, w->type);
    linear_gradients(w, n, rounded, C, V, w->back.dlogits, a, gradients + layout->final_w,
                     gradients + layout->final_b);
    linear_input(w, network, rounded, C, V, w->back.dlogits, layout->final_w, false,
                 w->back.dfinal + first * C);
}

/* back.dfinal to back.dh of the rows. */
static void rows_backward(dlm_workspace *w, const dlm_network *network, float *gradients) {
    const dlm_layout *layout = w->layout;
    dlm_backward_memory *back = &w->back;
    size_t C = layout->config.hidden_size;
    dlm_modulation mod = dlm__modulation(network, layout->final_mod, w->final_mod, 2);
    memset(back->dmod, 0, w->S * 2 * C * sizeof *back->dmod);
    memset(back->dh, 0, w->R * C * sizeof *back->dh);
    dlm__modulated_norm_backward(w->compute, w->row_seg, C, back->dfinal, w->rows_h, mod.base, mod.base + C,
                                 mod.stride, w->row_mean, w->row_rstd, back->dh, back->dmod, back->dmod + C,
                                 2 * C, NULL, w->type);
    modulation_backward(w, network, 2, layout->final_mod, layout->final_mod_w, layout->final_mod_b,
                        gradients);
}

void dlm__backward(dlm_workspace *workspace, const dlm_network *network, const int32_t *ids,
                   const int32_t *rows, float *gradients) {
    dlm_workspace *w = workspace;
    const dlm_layout *layout = w->layout;
    size_t C = layout->config.hidden_size;
    bool adaln = layout->config.time == DLM_TIME_ADALN;
    if (adaln) memset(w->back.dcondition, 0, w->S_rounded * C * sizeof *w->back.dcondition);
    rows_backward(w, network, gradients);
    size_t blocks = layout->config.depth;
    if (w->only_rows) {
        blocks--;
        last_block_backward(w, network, rows, gradients);
    } else {
        spread_rows(w, rows);
    }
    while (blocks-- > 0) block_backward(w, network, blocks, gradients);
    dlm__embed_backward(w->compute, w->seg, C, ids, w->back.dh, gradients + layout->tok,
                        gradients + layout->pos);
    if (adaln) time_backward(w, network, gradients);
}
