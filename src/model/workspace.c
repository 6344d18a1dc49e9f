/* The memory of a pass: one layout function, run once to measure and once to bind. */
#include "model/pass.h"

#include <stdlib.h>
#include <string.h>

/* Rows of logits held at once: enough that reading and writing the final linear's gradient once for each
 * chunk costs little beside the products, few enough that logits stay small beside the activations. */
#define CHUNK_ROWS ((size_t)512)

static float *floats(dlm_workspace *w, size_t rows, size_t width) {
    size_t n;
    if (!dlm__size_mul(rows, width, &n)) w->arena.overflow = true;
    return dlm__arena_take(&w->arena, n, sizeof(float));
}

static void *operands(dlm_workspace *w, size_t rows, size_t width) {
    size_t n;
    if (!dlm__size_mul(rows, width, &n)) w->arena.overflow = true;
    return dlm__arena_take(&w->arena, n, dlm__dtype_size(w->type));
}

static void lay_block(dlm_workspace *w, dlm_layer *layer, size_t T, size_t S) {
    const dlm_config *config = &w->layout->config;
    size_t C = config->hidden_size;
    bool training = w->size.training;
    layer->h = floats(w, T, C);
    layer->mod = config->time == DLM_TIME_ADALN ? floats(w, S, 6 * C) : NULL;
    layer->mean1 = floats(w, T, 1);
    layer->rstd1 = floats(w, T, 1);
    layer->mean2 = floats(w, T, 1);
    layer->rstd2 = floats(w, T, 1);
    layer->qkv = floats(w, T, 3 * C);
    layer->lse = training ? floats(w, T, config->num_heads) : NULL;
    layer->o = operands(w, T, C);
    layer->y1 = floats(w, T, C);
    layer->y2 = training ? operands(w, T, C) : layer->y1;
    layer->f1 =
        training ? operands(w, T, dlm__config_hidden(config)) : floats(w, T, dlm__config_hidden(config));
}

static void lay_blocks(dlm_workspace *w, size_t T, size_t S) {
    size_t depth = w->layout->config.depth;
    for (size_t i = 0; i < depth; i++) {
        if (w->size.training || i == 0) {
            lay_block(w, &w->layers[i], T, S);
        } else {
            w->layers[i] = w->layers[0];
        }
    }
    w->layers[depth].h = w->size.training ? floats(w, T, w->layout->config.hidden_size) : w->layers[0].h;
}

static void lay_time(dlm_workspace *w, size_t S) {
    size_t C = w->layout->config.hidden_size;
    w->features = operands(w, S, (size_t)2 * DLM_TIME_FREQUENCIES);
    w->time_hidden = floats(w, S, C);
    w->time_operand = operands(w, S, C);
    w->c = floats(w, S, C);
    w->condition = operands(w, S, C);
    w->final_mod = floats(w, S, 2 * C);
}

/* What lives on the way from one block to another, forward or backward. */
static void lay_between(dlm_workspace *w, size_t T) {
    size_t C = w->layout->config.hidden_size, F = dlm__config_hidden(&w->layout->config);
    w->mid = floats(w, T, C);
    w->a = w->g = operands(w, T, F > C ? F : C); /* each is gone when the other comes */
    if (w->size.training) w->back.dh = floats(w, T, C);
}

static void lay_logits(dlm_workspace *w) {
    size_t V = w->layout->config.vocab_size;
    w->logits = floats(w, w->chunk, V);
    w->back.dlogits = w->size.training && w->type != DLM_F32 ? operands(w, w->chunk, V) : (void *)w->logits;
}

/* Logits and their gradients are not alive with any of that: they share its memory. */
static void lay_shared(dlm_workspace *w, size_t T) {
    const size_t first = w->arena.used;
    lay_logits(w);
    const size_t behind = w->arena.used;
    w->arena.used = first;
    lay_between(w, T);
    if (w->arena.used < behind) w->arena.used = behind;
}

static void lay_backward(dlm_workspace *w, size_t T, size_t S) {
    size_t C = w->layout->config.hidden_size, F = dlm__config_hidden(&w->layout->config);
    dlm_backward_memory *back = &w->back;
    bool convert = w->type != DLM_F32;
    back->dmod = floats(w, S, 6 * C);
    back->dmod_operand = convert ? operands(w, S, 6 * C) : back->dmod;
    back->dcondition = floats(w, S, C);
    back->dtime = floats(w, S, C);
    back->dtime_operand = convert ? operands(w, S, C) : back->dtime;
    back->wide = floats(w, T, F > 4 * C ? F : 4 * C);
    back->narrow = back->wide;
    back->dqkv = back->wide == NULL ? NULL : back->wide + T * C;
    back->dfinal = back->wide; /* R is less than 2 T */
}

static void lay(dlm_workspace *w) {
    const dlm_config *config = &w->layout->config;
    size_t C = config->hidden_size;
    size_t T = dlm__round_rows(w->compute, w->type, w->size.tokens),
           S = dlm__round_times(w, w->size.sequences);
    size_t R = dlm__round_up(w->size.rows, w->chunk);
    w->row_offsets = dlm__arena_take(&w->arena, w->size.sequences + 1, sizeof *w->row_offsets);
    w->run_offsets = dlm__arena_take(&w->arena, w->size.sequences + 1, sizeof *w->run_offsets);
    w->run_row_offsets = dlm__arena_take(&w->arena, w->size.sequences + 1, sizeof *w->run_row_offsets);
    w->run_times = dlm__arena_take(&w->arena, w->size.sequences, sizeof *w->run_times);
    w->run_slots = dlm__arena_take(&w->arena, w->size.sequences, sizeof *w->run_slots);
    if (config->position == DLM_POSITION_BOTH) {
        w->positions = dlm__arena_take(&w->arena, w->size.tokens, sizeof *w->positions);
        w->row_positions = dlm__arena_take(&w->arena, w->size.rows, sizeof *w->row_positions);
    }
    dlm__lay_times(w);
    if (config->time == DLM_TIME_ADALN) lay_time(w, S);
    lay_blocks(w, T, S);
    w->rows_h = floats(w, R, C);
    w->row_mean = floats(w, R, 1);
    w->row_rstd = floats(w, R, 1);
    w->final_a = operands(w, R, C);
    lay_shared(w, T);
    if (w->size.training) lay_backward(w, T, S);
}

static dlm_status check_size(dlm_workspace_size size, dlm_error *err) {
    if (size.tokens > 0 && size.sequences > 0 && size.rows > 0 && size.tokens <= INT32_MAX &&
        size.sequences <= size.tokens && size.rows <= size.tokens) {
        return DLM_OK;
    }
    return dlm__fail(err, DLM_ARGUMENT, "no workspace for %zu positions in %zu sequences with %zu rows",
                     size.tokens, size.sequences, size.rows);
}

/* For what was laid out: the lender's, or its own. */
static dlm_status find_memory(dlm_workspace *w, dlm_error *err) {
    dlm_workspace *lender = w->size.lender;
    dlm_arena *arena = &w->arena;
    w->borrows = lender != NULL && !lender->lent && !arena->overflow && arena->used <= lender->arena.size;
    if (!w->borrows) return dlm__arena_allocate(arena, "workspace", err);
    lender->lent = true;
    *arena = (dlm_arena){.base = lender->arena.base, .size = arena->used};
    return DLM_OK;
}

/* They stay from pass to pass, and so are not in memory that may be lent. */
static dlm_status make_rotary_tables(dlm_workspace *w, dlm_error *err) {
    const dlm_config *config = &w->layout->config;
    const size_t D = dlm__config_head(config), n = config->max_seq_len * (D / 2);
    if (config->position != DLM_POSITION_BOTH) return DLM_OK;
    w->cos_table = dlm__calloc(n, 2 * sizeof *w->cos_table);
    if (w->cos_table == NULL) return dlm__fail_memory(err, "workspace", n * 2 * sizeof *w->cos_table);
    w->sin_table = w->cos_table + n;
    dlm__rotary_table(config->max_seq_len, D, w->cos_table, w->sin_table);
    return DLM_OK;
}

dlm_status dlm__workspace_create(const dlm_layout *layout, dlm_dtype type, dlm_compute *compute,
                                 dlm_workspace_size size, dlm_workspace **workspace, dlm_error *err) {
    *workspace = NULL;
    DLM_TRY(check_size(size, err));
    dlm_workspace *w = dlm__calloc(1, sizeof *w);
    if (w == NULL) return dlm__fail_memory(err, "workspace", sizeof *w);
    w->layout = layout;
    w->compute = compute;
    w->type = type;
    w->size = size;
    w->compact = size.training && type != DLM_F32;
    w->chunk = dlm__round_rows(compute, type, size.rows < CHUNK_ROWS ? size.rows : CHUNK_ROWS);
    w->layers = dlm__calloc(layout->config.depth + 1, sizeof *w->layers);
    dlm_status status = DLM_OK;
    if (w->layers == NULL)
        status = dlm__fail_memory(err, "workspace", layout->config.depth * sizeof *w->layers);
    if (status == DLM_OK) {
        lay(w);
        status = find_memory(w, err);
    }
    if (status == DLM_OK) status = make_rotary_tables(w, err);
    if (status != DLM_OK) {
        dlm__workspace_free(w);
        return status;
    }
    lay(w);
    *workspace = w;
    return DLM_OK;
}

void dlm__workspace_free(dlm_workspace *workspace) {
    if (workspace == NULL) return;
    if (workspace->borrows) workspace->size.lender->lent = false;
    dlm__arena_free(&workspace->arena);
    free(workspace->cos_table);
    free(workspace->layers);
    free(workspace);
}
