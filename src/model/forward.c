/* The forward pass and the loss (spec 1 and 3).
 *
 * Everything works on packed rows; a sequence is a segment of them. Only the rows asked for go through the
 * final layer, in chunks, and each chunk's logits become their cross-entropy and gradient before the next
 * chunk is computed. */
#include "model/pass.h"

#include <string.h>

/* ---- pieces that the other files of a pass use too ---------------------------------------------------- */

void dlm__zero_tail(void *x, size_t rows, size_t rounded, size_t width, dlm_dtype type) {
    size_t row = width * dlm__dtype_size(type);
    if (rounded > rows) memset((unsigned char *)x + rows * row, 0, (rounded - rows) * row);
}

const void *dlm__weights(const dlm_network *network, size_t offset, bool transposed, dlm_right *right) {
    const dlm_layout *layout = network->layout;
    const bool panels = network->panels && layout->params[dlm__layout_at(layout, offset)].panels;
    if (network->params_bf16 == NULL || (panels && !transposed)) {
        *right = network->type == DLM_BF16 ? DLM_RIGHT_FLOAT : DLM_RIGHT_ROWS;
        return network->params + offset;
    }
    *right = panels ? DLM_RIGHT_PANELS : DLM_RIGHT_ROWS;
    return network->params_bf16 + offset;
}

dlm_modulation dlm__modulation(const dlm_network *network, size_t learned, const float *made, size_t n) {
    const dlm_config *config = &network->layout->config;
    if (config->time == DLM_TIME_NONE) return (dlm_modulation){network->params + learned, 0};
    return (dlm_modulation){made, n * config->hidden_size};
}

void dlm__linear(dlm_workspace *w, const dlm_network *network, size_t rows, size_t in, size_t out,
                 const void *x, size_t weight, size_t bias, float *y) {
    size_t first;
    const dlm_int8 *int8 = dlm__network_int8(network, weight, &first);
    if (int8 != NULL) {
        dlm__int8_matmul(w->compute, rows, x, w->type, int8, first, out, network->params + bias, y);
        return;
    }
    dlm_product product = {.M = rows, .N = out, .K = in, .transpose_b = true, .type = w->type};
    const void *matrix = dlm__weights(network, weight, true, &product.right);
    dlm__matmul(w->compute, &product, x, matrix, network->params + bias, y);
}

/* ---- the batch ---------------------------------------------------------------------------------------- */

static dlm_status check_sequences(const dlm_workspace *w, const dlm_batch *batch, dlm_error *err) {
    const dlm_config *config = &w->layout->config;
    size_t S = batch->seg.n;
    if (S == 0 || S > w->size.sequences || batch->seg.offsets[S] > w->size.tokens ||
        batch->R > w->size.rows) {
        return dlm__fail(
            err, DLM_ARGUMENT,
            "batch of %zu positions in %zu sequences with %zu rows, in a workspace for %zu in %zu "
            "with %zu",
            S == 0 ? 0 : batch->seg.offsets[S], S, batch->R, w->size.tokens, w->size.sequences, w->size.rows);
    }
    for (size_t s = 0; s < S; s++) {
        size_t begin = batch->seg.offsets[s], end = batch->seg.offsets[s + 1];
        if (end <= begin || end - begin > config->max_seq_len) {
            return dlm__fail(err, DLM_ARGUMENT, "sequence %zu has %td positions, not 1 to %zu", s,
                             (ptrdiff_t)(end - begin), config->max_seq_len);
        }
        if (config->time == DLM_TIME_ADALN && !(batch->times[s] >= 0 && batch->times[s] <= 1)) {
            return dlm__fail(err, DLM_ARGUMENT, "sequence %zu has time %g, not 0 to 1", s,
                             (double)batch->times[s]);
        }
    }
    return DLM_OK;
}

static dlm_status check_ids(const int32_t *ids, size_t n, size_t vocab_size, const char *what,
                            dlm_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= vocab_size) {
            return dlm__fail(err, DLM_ARGUMENT, "%s %d at %zu is outside the vocabulary of %zu", what,
                             (int)ids[i], i, vocab_size);
        }
    }
    return DLM_OK;
}

/* Rows ascend within the batch; the rows of each sequence become a segment of their own. */
static dlm_status place_rows(dlm_workspace *w, const dlm_batch *batch, dlm_error *err) {
    size_t r = 0;
    w->row_offsets[0] = 0;
    for (size_t s = 0; s < batch->seg.n; s++) {
        while (r < batch->R && (size_t)batch->rows[r] < batch->seg.offsets[s + 1]) {
            if (r > 0 && batch->rows[r] <= batch->rows[r - 1]) break;
            r++;
        }
        w->row_offsets[s + 1] = r;
    }
    if (r == batch->R) return DLM_OK;
    return dlm__fail(err, DLM_ARGUMENT, "row %zu is position %d: rows must ascend and lie in the batch", r,
                     (int)batch->rows[r]);
}

/* The last block is read at the rows asked for alone, which have to see the keys and values of all. */
static bool only_rows(const dlm_workspace *w, const dlm_network *network) {
    /* The keys and values of 8-bit weights have to begin where these can be cut. */
    const bool cut = network->int8 == NULL || w->layout->config.hidden_size % dlm__int8_unit() == 0;
    return !w->size.whole && w->R < w->T && cut;
}

static dlm_status begin(dlm_workspace *w, const dlm_network *network, const dlm_batch *batch,
                        dlm_error *err) {
    if (network->layout != w->layout || network->type != w->type) {
        return dlm__fail(err, DLM_ARGUMENT, "this workspace was made for another network");
    }
    DLM_TRY(dlm__compute_status(w->compute, err));
    DLM_TRY(check_sequences(w, batch, err));
    w->seg = batch->seg;
    w->S = batch->seg.n;
    w->T = batch->seg.offsets[w->S];
    w->R = batch->R;
    w->S_rounded = dlm__round_times(w, w->S);
    w->T_rounded = dlm__round_rows(w->compute, w->type, w->T);
    w->R_rounded = dlm__round_rows(w->compute, w->type, w->R);
    DLM_TRY(check_ids(batch->ids, w->T, w->layout->config.vocab_size, "id", err));
    DLM_TRY(place_rows(w, batch, err));
    w->row_seg = (dlm_segments){w->S, w->row_offsets};
    w->only_rows = only_rows(w, network);
    dlm__find_runs(w, batch);
    return DLM_OK;
}

/* ---- blocks ------------------------------------------------------------------------------------------- */

/* y1 = attn(LN(h) * (1 + scale1) + shift1); mid = h + gate1 * y1. */
static void attend(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                   const dlm_layer *layer, dlm_modulation mod) {
    const dlm_config *config = &w->layout->config;
    size_t C = config->hidden_size, H = config->num_heads, D = C / H, T = w->T, rounded = w->T_rounded;
    const float *shift = mod.base, *scale = mod.base + C, *gate = mod.base + 2 * C;
    dlm__modulated_norm(w->compute, w->runs, C, layer->h, shift, scale, mod.stride, layer->mean1,
                        layer->rstd1, w->a, w->type);
    dlm__zero_tail(w->a, T, rounded, C, w->type);
    dlm__linear(w, network, rounded, C, 3 * C, w->a, block->qkv_w, block->qkv_b, layer->qkv);
    if (config->position == DLM_POSITION_BOTH) {
        dlm__rotate(w->compute, w->seg, H, D, w->cos_table, w->sin_table, false, layer->qkv);
    }
    dlm__attention(w->compute, w->seg, H, D, layer->qkv, layer->o, w->type, layer->lse);
    dlm__zero_tail(layer->o, T, rounded, C, w->type);
    dlm__linear(w, network, rounded, C, C, layer->o, block->proj_w, block->proj_b, layer->y1);
    dlm__gated_residual(w->compute, w->runs, C, layer->h, gate, mod.stride, layer->y1, w->mid);
}

/* y2 = mlp(LN(mid) * (1 + scale2) + shift2); next = mid + gate2 * y2, of the rows in runs. */
static void transform(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                      const dlm_layer *layer, dlm_modulation mod, dlm_segments runs, float *next) {
    size_t C = w->layout->config.hidden_size, F = dlm__config_hidden(&w->layout->config);
    size_t n = runs.offsets[runs.n], rounded = dlm__round_rows(w->compute, w->type, n);
    float *f1 = w->compact ? w->back.wide : layer->f1, *y2 = w->compact ? w->back.narrow : layer->y2;
    const float *shift = mod.base + 3 * C, *scale = mod.base + 4 * C, *gate = mod.base + 5 * C;
    dlm__modulated_norm(w->compute, runs, C, w->mid, shift, scale, mod.stride, layer->mean2, layer->rstd2,
                        w->a, w->type);
    dlm__zero_tail(w->a, n, rounded, C, w->type);
    dlm__linear(w, network, rounded, C, F, w->a, block->fc1_w, block->fc1_b, f1);
    dlm__gelu(w->compute, n * F, f1, w->g, w->compact ? layer->f1 : NULL, w->type);
    dlm__zero_tail(w->g, n, rounded, F, w->type);
    dlm__linear(w, network, rounded, F, C, w->g, block->fc2_w, block->fc2_b, y2);
    dlm__gated_residual(w->compute, runs, C, w->mid, gate, mod.stride, y2, next);
    if (w->compact) dlm__to_type(w->compute, n * C, y2, layer->y2, w->type);
}

/* ---- the last block ----------------------------------------------------------------------------------- */

/* kv (T,2C): keys, turned by their positions, and values. */
static void make_keys(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                      const dlm_layer *layer, dlm_modulation mod) {
    const dlm_config *config = &w->layout->config;
    size_t C = config->hidden_size, H = config->num_heads;
    dlm__modulated_norm(w->compute, w->runs, C, layer->h, mod.base, mod.base + C, mod.stride, layer->mean1,
                        layer->rstd1, w->a, w->type);
    dlm__zero_tail(w->a, w->T, w->T_rounded, C, w->type);
    dlm__linear(w, network, w->T_rounded, C, 2 * C, w->a, block->qkv_w + C * C, block->qkv_b + C, layer->qkv);
    if (config->position == DLM_POSITION_LEARNED) return;
    for (size_t s = 0; s < w->S; s++)
        for (size_t t = w->seg.offsets[s]; t < w->seg.offsets[s + 1]; t++)
            w->positions[t] = (int32_t)(t - w->seg.offsets[s]);
    dlm__rotate_rows(w->compute, w->T, w->positions, H, C / H, 2 * C, w->cos_table, w->sin_table, false,
                     layer->qkv);
}

void dlm__rows_operand(dlm_workspace *w, const dlm_layer *layer, dlm_modulation mod, const int32_t *rows) {
    size_t C = w->layout->config.hidden_size;
    dlm__gather_rows(w->compute, w->R, C, rows, layer->h, w->mid);
    dlm__modulated_norm(w->compute, w->row_runs, C, w->mid, mod.base, mod.base + C, mod.stride, w->row_mean,
                        w->row_rstd, w->a, w->type);
    dlm__zero_tail(w->a, w->R, w->R_rounded, C, w->type);
}

/* q (R,C). */
static void make_queries(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                         const dlm_layer *layer, dlm_modulation mod, const int32_t *rows) {
    const dlm_config *config = &w->layout->config;
    size_t C = config->hidden_size, H = config->num_heads;
    float *q = dlm__queries(w, layer->qkv);
    dlm__rows_operand(w, layer, mod, rows);
    dlm__linear(w, network, w->R_rounded, C, C, w->a, block->qkv_w, block->qkv_b, q);
    if (config->position == DLM_POSITION_LEARNED) return;
    for (size_t r = 0; r < w->R; r++) w->row_positions[r] = w->positions[rows[r]];
    dlm__rotate_rows(w->compute, w->R, w->row_positions, H, C / H, C, w->cos_table, w->sin_table, false, q);
}

/* The last block of the rows, whose states behind it become rows_h (R,C). */
static void run_last(dlm_workspace *w, const dlm_network *network, const dlm_block_layout *block,
                     const dlm_layer *layer, dlm_modulation mod, const int32_t *rows) {
    size_t C = w->layout->config.hidden_size, H = w->layout->config.num_heads;
    if (w->R == 0) return;
    make_keys(w, network, block, layer, mod);
    make_queries(w, network, block, layer, mod, rows);
    dlm__attention_rows(w->compute, w->seg, w->row_seg, H, C / H, dlm__queries(w, layer->qkv), layer->qkv,
                        layer->o, w->type, layer->lse);
    dlm__zero_tail(layer->o, w->R, w->R_rounded, C, w->type);
    dlm__linear(w, network, w->R_rounded, C, C, layer->o, block->proj_w, block->proj_b, layer->y1);
    dlm__gated_residual(w->compute, w->row_runs, C, w->mid, mod.base + 2 * C, mod.stride, layer->y1, w->mid);
    transform(w, network, block, layer, mod, w->row_runs, w->rows_h);
}

/* ---- all blocks --------------------------------------------------------------------------------------- */

/* rows_h (R,C): the rows' states behind the last block. */
static void run_blocks(dlm_workspace *w, const dlm_network *network, const dlm_batch *batch) {
    const dlm_layout *layout = w->layout;
    size_t C = layout->config.hidden_size, depth = layout->config.depth;
    dlm__embed(w->compute, w->seg, C, batch->ids, network->params + layout->tok,
               network->params + layout->pos, w->layers[0].h);
    dlm__begin_times(w, network);
    for (size_t i = 0; i < depth; i++) {
        const dlm_block_layout *block = &layout->blocks[i];
        const dlm_layer *layer = &w->layers[i];
        dlm_modulation mod = dlm__block_modulation(w, network, i);
        if (i == depth - 1 && w->only_rows) {
            run_last(w, network, block, layer, mod, batch->rows);
            return;
        }
        attend(w, network, block, layer, mod);
        transform(w, network, block, layer, mod, w->runs, w->layers[i + 1].h);
    }
    dlm__gather_rows(w->compute, w->R, C, batch->rows, w->layers[depth].h, w->rows_h);
}

/* ---- final layer -------------------------------------------------------------------------------------- */

/* final_a = LN(rows_h) * (1 + scale) + shift. */
static void normalise_rows(dlm_workspace *w, const dlm_network *network) {
    size_t C = w->layout->config.hidden_size;
    dlm_modulation mod = dlm__final_modulation(w, network);
    dlm__modulated_norm(w->compute, w->row_runs, C, w->rows_h, mod.base, mod.base + C, mod.stride,
                        w->row_mean, w->row_rstd, w->final_a, w->type);
    dlm__zero_tail(w->final_a, w->R, dlm__round_up(w->R, w->chunk), C, w->type);
}

/* Rows that a product of the final layer takes for n. */
static size_t logit_rows(const dlm_workspace *w, const dlm_network *network, size_t n) {
    const bool any = network->int8 != NULL && dlm__int8_any_rows(w->compute);
    return any ? n : dlm__round_rows(w->compute, w->type, n);
}

/* Logits of rows first .. first + n - 1 into out (logit_rows, V). */
static void compute_logits(dlm_workspace *w, const dlm_network *network, size_t first, size_t n, float *out) {
    const dlm_layout *layout = w->layout;
    size_t C = layout->config.hidden_size;
    const unsigned char *a = (const unsigned char *)w->final_a + first * C * dlm__dtype_size(w->type);
    dlm__linear(w, network, logit_rows(w, network, n), C, layout->config.vocab_size, a, layout->final_w,
                layout->final_b, out);
}

static size_t chunk_at(const dlm_workspace *w, size_t first) {
    return w->R - first < w->chunk ? w->R - first : w->chunk;
}

dlm_status dlm__forward(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                        float *logits, dlm_error *err) {
    dlm_workspace *w = workspace;
    DLM_TRY(begin(w, network, batch, err));
    size_t V = w->layout->config.vocab_size;
    run_blocks(w, network, batch);
    normalise_rows(w, network);
    for (size_t first = 0, n; first < w->R; first += n) {
        n = chunk_at(w, first);
        bool fits = logit_rows(w, network, n) == n;
        compute_logits(w, network, first, n, fits ? logits + first * V : w->logits);
        if (!fits) memcpy(logits + first * V, w->logits, n * V * sizeof *logits);
    }
    return dlm__compute_status(w->compute, err);
}

dlm_status dlm__loss(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                     const int32_t *targets, const float *weight, float *ce, double *loss, float *gradients,
                     dlm_error *err) {
    dlm_workspace *w = workspace;
    size_t V = w->layout->config.vocab_size;
    if (gradients != NULL && !w->size.training) {
        return dlm__fail(err, DLM_ARGUMENT, "gradients need a workspace for training");
    }
    DLM_TRY(begin(w, network, batch, err));
    DLM_TRY(check_ids(targets, w->R, V, "target", err));
    run_blocks(w, network, batch);
    normalise_rows(w, network);
    for (size_t first = 0, n; first < w->R; first += n) {
        n = chunk_at(w, first);
        compute_logits(w, network, first, n, w->logits);
        dlm__cross_entropy(w->compute, n, V, w->logits, targets + first, weight + first, ce + first,
                           gradients == NULL ? NULL : w->back.dlogits, w->type);
        if (gradients != NULL) dlm__backward_logits(w, network, first, n, gradients);
    }
    *loss = 0;
    for (size_t r = 0; r < w->R; r++) *loss += (double)weight[r] * (double)ce[r];
    if (gradients != NULL && w->R > 0) dlm__backward(w, network, batch->ids, batch->rows, gradients);
    return dlm__compute_status(w->compute, err);
}
