/* Times, and the modulations that adaLN makes of them.
 *
 * A modulation is a function of its sequence's time alone. A pass without training makes one for each run of
 * neighbouring sequences of one time; samples of one length, revealed in step, are a single run. And where
 * passes follow each other over few times, as in sampling, where a text of L tokens has at most L + 1 of
 * them, a table keeps what was made. Reading the weights costs a product as much as 16 rows' work, so a row
 * that the pass does not need is filled with a time that a later one is expected to have: most steps of
 * sampling then read no weights of adaLN at all. */
#include "model/pass.h"

#include <string.h>

/* Floats that a table may hold. */
#define TABLE_FLOATS ((size_t)1 << 23)

size_t dlm__round_times(const dlm_workspace *w, size_t n) {
    return dlm__round_rows(w->compute, DLM_F32, n);
}

/* ---- runs --------------------------------------------------------------------------------------------- */

static bool same_modulation(const dlm_workspace *w, const dlm_batch *batch, size_t s) {
    if (w->size.training) return false;
    return w->layout->config.time == DLM_TIME_NONE || batch->times[s] == batch->times[s - 1];
}

void dlm__find_runs(dlm_workspace *w, const dlm_batch *batch) {
    size_t n = 0;
    for (size_t s = 0; s < w->S; s++) {
        if (s > 0 && same_modulation(w, batch, s)) continue;
        w->run_offsets[n] = w->seg.offsets[s];
        w->run_row_offsets[n] = w->row_seg.offsets[s];
        if (w->layout->config.time == DLM_TIME_ADALN) w->run_times[n] = batch->times[s];
        n++;
    }
    w->run_offsets[n] = w->T;
    w->run_row_offsets[n] = w->R;
    w->runs = (dlm_segments){n, w->run_offsets};
    w->row_runs = (dlm_segments){n, w->run_row_offsets};
}

/* ---- embedding ---------------------------------------------------------------------------------------- */

/* c = mlp.2(SiLU(mlp.0(features(t)))) of n times, and SiLU(c), which every adaLN takes. */
static void embed_times(dlm_workspace *w, const dlm_network *network, size_t n, const float *times) {
    const dlm_layout *layout = w->layout;
    size_t C = layout->config.hidden_size, rounded = dlm__round_times(w, n);
    size_t features = (size_t)2 * DLM_TIME_FREQUENCIES;
    dlm__time_features(w->compute, n, times, w->features, w->type);
    dlm__zero_tail(w->features, n, rounded, features, w->type);
    dlm__linear(w, network, rounded, features, C, w->features, layout->time0_w, layout->time0_b,
                w->time_hidden);
    dlm__silu(w->compute, n * C, w->time_hidden, w->time_operand, w->type);
    dlm__zero_tail(w->time_operand, n, rounded, C, w->type);
    dlm__linear(w, network, rounded, C, C, w->time_operand, layout->time2_w, layout->time2_b, w->c);
    dlm__silu(w->compute, n * C, w->c, w->condition, w->type);
    dlm__zero_tail(w->condition, n, rounded, C, w->type);
}

/* ---- the table ---------------------------------------------------------------------------------------- */

void dlm__lay_times(dlm_workspace *w) {
    const dlm_config *config = &w->layout->config;
    const size_t width = (6 * config->depth + 2) * config->hidden_size;
    if (w->size.times == 0 || config->time != DLM_TIME_ADALN) return;
    const size_t most = TABLE_FLOATS / width / 16 * 16;
    w->table.slots = w->size.times < most ? dlm__round_up(w->size.times, 16) : most;
    w->table.times = dlm__arena_take(&w->arena, w->table.slots, sizeof *w->table.times);
    w->table.values = dlm__arena_take(&w->arena, w->table.slots * width, sizeof *w->table.values);
}

void dlm__workspace_expect(dlm_workspace *w, size_t n, const float *times) {
    w->expected = times;
    w->expected_n = n;
}

/* Where block i's modulations begin, of depth those of the final layer. */
static float *table_of(const dlm_workspace *w, size_t i) {
    return w->table.values + i * w->table.slots * 6 * w->layout->config.hidden_size;
}

/* The slot of a time among the first n of the table; n: in none. */
static size_t slot_of(const dlm_time_table *table, size_t n, float time) {
    size_t i = 0;
    while (i < n && table->times[i] != time) i++;
    return i;
}

/* Puts those of the times that the table lacks behind the `n` that it knows, up to `most`; returns how many
 * there are then. */
static size_t list_times(dlm_time_table *table, size_t n, size_t most, size_t count, const float *times) {
    for (size_t i = 0; i < count && n < most; i++) {
        if (slot_of(table, n, times[i]) < n) continue;
        table->times[n++] = times[i];
    }
    return n;
}

/* The modulations of the table's slots known .. n - 1. */
static void fill_table(dlm_workspace *w, const dlm_network *network, size_t n) {
    const dlm_layout *layout = w->layout;
    const size_t C = layout->config.hidden_size, first = w->table.known;
    const size_t rounded = dlm__round_times(w, n - first);
    embed_times(w, network, n - first, w->table.times + first);
    for (size_t i = 0; i < layout->config.depth; i++)
        dlm__linear(w, network, rounded, C, 6 * C, w->condition, layout->blocks[i].mod_w,
                    layout->blocks[i].mod_b, table_of(w, i) + first * 6 * C);
    dlm__linear(w, network, rounded, C, 2 * C, w->condition, layout->final_mod_w, layout->final_mod_b,
                table_of(w, layout->config.depth) + first * 2 * C);
    w->table.known = n;
}

/* Sees to it that the table has the times of all runs, and tells their slots; false where it has no room. A
 * table that would overflow forgets what it knows. */
static bool look_up(dlm_workspace *w, const dlm_network *network) {
    dlm_time_table *table = &w->table;
    for (int attempt = 0; attempt < 2 && w->runs.n <= table->slots; attempt++) {
        const size_t n = list_times(table, table->known, table->slots, w->runs.n, w->run_times);
        const size_t rounded = dlm__round_times(w, n - table->known);
        size_t found = 0;
        for (size_t i = 0; i < w->runs.n && rounded <= table->slots - table->known; i++) {
            const size_t slot = slot_of(table, n, w->run_times[i]);
            w->run_slots[i] = (int32_t)slot;
            found += slot < n;
        }
        if (found == w->runs.n) {
            const size_t most = table->known + rounded;
            if (n > table->known)
                fill_table(w, network, list_times(table, n, most, w->expected_n, w->expected));
            return true;
        }
        table->known = 0;
    }
    return false;
}

/* ---- modulations -------------------------------------------------------------------------------------- */

void dlm__begin_times(dlm_workspace *w, const dlm_network *network) {
    w->tabled = w->layout->config.time == DLM_TIME_ADALN && look_up(w, network);
    w->expected_n = 0;
    if (w->layout->config.time == DLM_TIME_ADALN && !w->tabled)
        embed_times(w, network, w->runs.n, w->run_times);
}

/* The n vectors of each run, of layer i, in `made`; or where the table has them. */
static dlm_modulation modulation(dlm_workspace *w, const dlm_network *network, size_t i, size_t n,
                                 size_t learned, size_t weight, size_t bias, float *made) {
    const size_t C = w->layout->config.hidden_size, width = n * C;
    const float *from = w->tabled ? table_of(w, i) : NULL;
    if (w->tabled && w->runs.n == 1) return (dlm_modulation){from + (size_t)w->run_slots[0] * width, width};
    if (w->tabled)
        dlm__gather_rows(w->compute, w->runs.n, width, w->run_slots, from, made);
    else if (w->layout->config.time == DLM_TIME_ADALN)
        dlm__linear(w, network, dlm__round_times(w, w->runs.n), C, width, w->condition, weight, bias, made);
    return dlm__modulation(network, learned, made, n);
}

dlm_modulation dlm__block_modulation(dlm_workspace *w, const dlm_network *network, size_t i) {
    const dlm_block_layout *block = &w->layout->blocks[i];
    return modulation(w, network, i, 6, block->mod, block->mod_w, block->mod_b, w->layers[i].mod);
}

dlm_modulation dlm__final_modulation(dlm_workspace *w, const dlm_network *network) {
    const dlm_layout *layout = w->layout;
    return modulation(w, network, layout->config.depth, 2, layout->final_mod, layout->final_mod_w,
                      layout->final_mod_b, w->final_mod);
}
