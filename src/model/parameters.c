/* The parameter table: one walk over the model's parts adds every tensor and notes its offset by role.
 * Memory, initial values, files, gradients, the optimiser and `info` all go by this list. */
#include "model/network.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OFFSET_MULTIPLE ((size_t)16)
#define NORMAL_STD      0.02

/* ---- table -------------------------------------------------------------------------------------------- */

/* Adds a tensor (rows, columns), or (rows) where columns is 0, and returns its offset. */
static size_t add(dlm_layout *layout, const char *name, size_t rows, size_t columns, dlm_init init) {
    dlm_param *param = &layout->params[layout->n++];
    (void)snprintf(param->name, sizeof param->name, "%s", name);
    param->ndim = columns > 0 ? 2 : 1;
    param->shape[0] = rows;
    param->shape[1] = columns;
    param->count = columns > 0 ? rows * columns : rows;
    param->offset = layout->total;
    param->init = init;
    param->panels = rows % DLM_PANEL_ROWS == 0 && columns > 0 && columns % 2 == 0;
    layout->total += dlm__round_up(param->count, OFFSET_MULTIPLE);
    layout->count += param->count;
    return param->offset;
}

/* The same in block i; its matrices are Muon's. */
static size_t add_in_block(dlm_layout *layout, size_t i, const char *name, size_t rows, size_t columns,
                           dlm_init init) {
    char full[DLM_MAX_NAME];
    (void)snprintf(full, sizeof full, "blocks.%zu.%s", i, name);
    size_t offset = add(layout, full, rows, columns, init);
    layout->params[layout->n - 1].block_matrix = columns > 0;
    return offset;
}

/* The matrix that was just added multiplies the states of tokens. */
static size_t for_tokens(dlm_layout *layout, size_t offset) {
    layout->params[layout->n - 1].token_matrix = true;
    return offset;
}

static void add_block(dlm_layout *layout, size_t i) {
    const dlm_config *config = &layout->config;
    size_t C = config->hidden_size, F = dlm__config_hidden(config);
    dlm_block_layout *block = &layout->blocks[i];
    /* Every block is the identity at the start: closed gates with adaLN, closed branches without. */
    dlm_init branch = DLM_INIT_ZERO;
    if (config->time == DLM_TIME_ADALN) {
        block->mod_w = add_in_block(layout, i, "adaLN_modulation.1.weight", 6 * C, C, DLM_INIT_ZERO);
        block->mod_b = add_in_block(layout, i, "adaLN_modulation.1.bias", 6 * C, 0, DLM_INIT_ZERO);
        branch = DLM_INIT_XAVIER;
    } else {
        block->mod = add_in_block(layout, i, "modulation", 6 * C, 0, DLM_INIT_GATES);
    }
    block->qkv_w = for_tokens(layout, add_in_block(layout, i, "attn.qkv.weight", 3 * C, C, DLM_INIT_XAVIER));
    block->qkv_b = add_in_block(layout, i, "attn.qkv.bias", 3 * C, 0, DLM_INIT_ZERO);
    block->proj_w = for_tokens(layout, add_in_block(layout, i, "attn.proj.weight", C, C, branch));
    block->proj_b = add_in_block(layout, i, "attn.proj.bias", C, 0, DLM_INIT_ZERO);
    block->fc1_w = for_tokens(layout, add_in_block(layout, i, "mlp.fc1.weight", F, C, DLM_INIT_XAVIER));
    block->fc1_b = add_in_block(layout, i, "mlp.fc1.bias", F, 0, DLM_INIT_ZERO);
    block->fc2_w = for_tokens(layout, add_in_block(layout, i, "mlp.fc2.weight", C, F, branch));
    block->fc2_b = add_in_block(layout, i, "mlp.fc2.bias", C, 0, DLM_INIT_ZERO);
}

static void add_time_embedder(dlm_layout *layout) {
    size_t C = layout->config.hidden_size, features = (size_t)2 * DLM_TIME_FREQUENCIES;
    layout->time0_w = add(layout, "t_embedder.mlp.0.weight", C, features, DLM_INIT_NORMAL);
    layout->time0_b = add(layout, "t_embedder.mlp.0.bias", C, 0, DLM_INIT_ZERO);
    layout->time2_w = add(layout, "t_embedder.mlp.2.weight", C, C, DLM_INIT_NORMAL);
    layout->time2_b = add(layout, "t_embedder.mlp.2.bias", C, 0, DLM_INIT_ZERO);
}

static void add_final_layer(dlm_layout *layout) {
    size_t C = layout->config.hidden_size, V = layout->config.vocab_size;
    if (layout->config.time == DLM_TIME_ADALN) {
        layout->final_mod_w = add(layout, "final_layer.adaLN_modulation.1.weight", 2 * C, C, DLM_INIT_ZERO);
        layout->final_mod_b = add(layout, "final_layer.adaLN_modulation.1.bias", 2 * C, 0, DLM_INIT_ZERO);
    } else {
        layout->final_mod = add(layout, "final_layer.modulation", 2 * C, 0, DLM_INIT_ZERO);
    }
    layout->final_w = for_tokens(layout, add(layout, "final_layer.linear.weight", V, C, DLM_INIT_ZERO));
    layout->final_b = add(layout, "final_layer.linear.bias", V, 0, DLM_INIT_ZERO);
}

/* The matrix that was just added is looked up, not multiplied by. */
static size_t for_rows(dlm_layout *layout, size_t offset) {
    layout->params[layout->n - 1].panels = false;
    return offset;
}

/* pos_embed is (1, max_seq_len, C). */
static size_t add_positions(dlm_layout *layout) {
    size_t C = layout->config.hidden_size, L = layout->config.max_seq_len;
    size_t offset = for_rows(layout, add(layout, "pos_embed", L, C, DLM_INIT_NORMAL));
    dlm_param *param = &layout->params[layout->n - 1];
    param->ndim = 3;
    param->shape[0] = 1;
    param->shape[1] = L;
    param->shape[2] = C;
    return offset;
}

dlm_status dlm__layout_create(const dlm_config *config, dlm_layout **layout, dlm_error *err) {
    *layout = NULL;
    DLM_TRY(dlm__config_check(config, "config", err));
    bool adaln = config->time == DLM_TIME_ADALN;
    size_t per_block = adaln ? 10 : 9, around = adaln ? 10 : 5;
    size_t n = around + config->depth * per_block;
    dlm_layout *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "parameter table", sizeof *made);
    made->config = *config;
    made->params = dlm__calloc(n, sizeof *made->params);
    made->blocks = dlm__calloc(config->depth, sizeof *made->blocks);
    if (made->params == NULL || made->blocks == NULL) {
        dlm__layout_free(made);
        return dlm__fail_memory(err, "parameter table", n * sizeof *made->params);
    }
    made->pos = add_positions(made);
    made->tok = for_rows(
        made, add(made, "tok_embed.weight", config->vocab_size, config->hidden_size, DLM_INIT_NORMAL));
    if (adaln) add_time_embedder(made);
    for (size_t i = 0; i < config->depth; i++) add_block(made, i);
    add_final_layer(made);
    assert(made->n == n);
    *layout = made;
    return DLM_OK;
}

void dlm__layout_free(dlm_layout *layout) {
    if (layout == NULL) return;
    free(layout->params);
    free(layout->blocks);
    free(layout);
}

const dlm_param *dlm__layout_find(const dlm_layout *layout, const char *name) {
    for (size_t i = 0; i < layout->n; i++) {
        if (strcmp(layout->params[i].name, name) == 0) return &layout->params[i];
    }
    return NULL;
}

size_t dlm__layout_at(const dlm_layout *layout, size_t offset) {
    size_t low = 0, high = layout->n; /* it is one of low .. high - 1 */
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (layout->params[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

size_t dlm__layout_end(const dlm_layout *layout, size_t i) {
    return i + 1 < layout->n ? layout->params[i + 1].offset : layout->total;
}

bool dlm__is_multiplied(const dlm_layout *layout, const dlm_param *param) {
    return param->ndim == 2 && param->offset != layout->tok;
}

/* ---- initial values ----------------------------------------------------------------------------------- */

typedef struct initialisation {
    const dlm_layout *layout;
    uint64_t seed;
    float *params;
} initialisation;

static void set(float *values, size_t n, float value) {
    for (size_t i = 0; i < n; i++) values[i] = value;
}

static void init_param(void *context, size_t index) {
    const initialisation *init = context;
    const dlm_param *param = &init->layout->params[index];
    float *values = init->params + param->offset;
    dlm_rng rng = dlm__rng(init->seed, DLM_RNG_INIT, (uint32_t)index, 0);
    set(values, dlm__round_up(param->count, OFFSET_MULTIPLE), 0);
    switch (param->init) {
    case DLM_INIT_ZERO: break;
    case DLM_INIT_XAVIER: {
        /* Glorot and Bengio 2010: uniform on +-sqrt(6 / (fan in + fan out)). */
        double bound = sqrt(6.0 / (double)(param->shape[0] + param->shape[1]));
        for (size_t i = 0; i < param->count; i++) {
            values[i] = (float)(bound * (2 * dlm__rng_uniform(&rng) - 1));
        }
        break;
    }
    case DLM_INIT_NORMAL:
        for (size_t i = 0; i < param->count; i++) values[i] = (float)(NORMAL_STD * dlm__rng_normal(&rng));
        break;
    case DLM_INIT_GATES: {
        /* shift1, scale1, gate1, shift2, scale2, gate2 */
        size_t C = param->count / 6;
        set(values + 2 * C, C, 1);
        set(values + 5 * C, C, 1);
        break;
    }
    }
}

void dlm__layout_init(const dlm_layout *layout, uint64_t seed, float *params) {
    initialisation init = {layout, seed, params};
    dlm__parallel_for(layout->n, init_param, &init);
}
