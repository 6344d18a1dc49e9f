/* Packed passes over masked sequences. */
#include "diffusion/masked_score.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* Of a pass; a sequence longer than that is one of its own. */
#define PASS_POSITIONS ((size_t)4096)
#define PASS_SEQUENCES ((size_t)512)

struct dlm_masked_score {
    dlm_masked_scoring scoring;
    dlm_workspace *workspace;
    size_t capacity, sequences; /* of a pass: positions, sequences */
    size_t S, R;
    size_t *offsets;     /* (sequences + 1) */
    float *times;        /* (sequences) */
    dlm_score_tag *tags; /* (sequences) */
    bool *end_masked;    /* (sequences) */
    int32_t *ids;        /* (capacity) */
    int32_t *rows;       /* (capacity) */
    int32_t *targets;    /* (capacity) */
    float *weights;      /* (capacity) all 1: the loss is the sum */
    float *ce;           /* (capacity) */
    dlm_arena arena;
};

static void layout(dlm_masked_score *s) {
    s->offsets = dlm__arena_take(&s->arena, s->sequences + 1, sizeof *s->offsets);
    s->times = dlm__arena_take(&s->arena, s->sequences, sizeof *s->times);
    s->tags = dlm__arena_take(&s->arena, s->sequences, sizeof *s->tags);
    s->end_masked = dlm__arena_take(&s->arena, s->sequences, sizeof *s->end_masked);
    s->ids = dlm__arena_take(&s->arena, s->capacity, sizeof *s->ids);
    s->rows = dlm__arena_take(&s->arena, s->capacity, sizeof *s->rows);
    s->targets = dlm__arena_take(&s->arena, s->capacity, sizeof *s->targets);
    s->weights = dlm__arena_take(&s->arena, s->capacity, sizeof *s->weights);
    s->ce = dlm__arena_take(&s->arena, s->capacity, sizeof *s->ce);
}

static dlm_status prepare(dlm_masked_score *s, dlm_error *err) {
    const dlm_network *network = s->scoring.network;
    layout(s);
    DLM_TRY(dlm__arena_allocate(&s->arena, "an evaluation", err));
    layout(s);
    for (size_t r = 0; r < s->capacity; r++) s->weights[r] = 1;
    const dlm_workspace_size size = {
        .tokens = s->capacity, .sequences = s->sequences, .rows = s->capacity, .lender = network->lender};
    return dlm__workspace_create(network->layout, network->type, s->scoring.compute, size, &s->workspace,
                                 err);
}

dlm_status dlm__masked_score_create(const dlm_masked_scoring *scoring, dlm_masked_score **score,
                                    dlm_error *err) {
    *score = NULL;
    dlm_masked_score *s = dlm__calloc(1, sizeof *s);
    if (s == NULL) return dlm__fail_memory(err, "an evaluation", sizeof *s);
    s->scoring = *scoring;
    s->capacity = scoring->all < PASS_POSITIONS ? scoring->all : PASS_POSITIONS;
    if (s->capacity < scoring->longest) s->capacity = scoring->longest;
    s->sequences = s->capacity < PASS_SEQUENCES ? s->capacity : PASS_SEQUENCES;
    const dlm_status status = prepare(s, err);
    if (status != DLM_OK) {
        dlm__masked_score_free(s);
        return status;
    }
    *score = s;
    return DLM_OK;
}

void dlm__masked_score_free(dlm_masked_score *s) {
    if (s == NULL) return;
    dlm__workspace_free(s->workspace);
    dlm__arena_free(&s->arena);
    free(s);
}

dlm_status dlm__masked_score_add(dlm_masked_score *s, const int32_t *ids, size_t shown, const uint8_t *masked,
                                 double t, dlm_score_tag tag, dlm_error *err) {
    assert(shown <= s->capacity && tag.n <= shown && tag.masked > 0);
    if (s->S == s->sequences || s->offsets[s->S] + shown > s->capacity)
        DLM_TRY(dlm__masked_score_flush(s, err));
    const size_t base = s->offsets[s->S];
    for (size_t i = 0; i < shown; i++) {
        s->ids[base + i] = ids[i];
        if (i >= tag.n || !masked[i]) continue;
        s->ids[base + i] = s->scoring.mask_id;
        s->targets[s->R] = ids[i];
        s->rows[s->R++] = (int32_t)(base + i);
    }
    s->times[s->S] = (float)t;
    s->end_masked[s->S] = tag.ends && masked[tag.n - 1];
    s->tags[s->S++] = tag;
    s->offsets[s->S] = base + shown;
    return DLM_OK;
}

dlm_status dlm__masked_score_flush(dlm_masked_score *s, dlm_error *err) {
    if (s->S == 0) return DLM_OK;
    const dlm_batch batch = {
        .seg = {s->S, s->offsets}, .ids = s->ids, .times = s->times, .R = s->R, .rows = s->rows};
    double loss;
    DLM_TRY(
        dlm__loss(s->workspace, s->scoring.network, &batch, s->targets, s->weights, s->ce, &loss, NULL, err));
    size_t r = 0;
    for (size_t b = 0; b < s->S; b++) {
        double sum = 0;
        for (size_t i = 0; i < s->tags[b].masked; i++) sum += (double)s->ce[r++];
        if (!isfinite(sum))
            return dlm__fail(err, DLM_NOT_FINITE, "the cross-entropy of window %zu is not finite",
                             s->tags[b].window);
        s->scoring.take(s->scoring.user, &s->tags[b], sum, s->end_masked[b] ? (double)s->ce[r - 1] : 0);
    }
    assert(r == s->R);
    s->S = s->R = 0;
    if (s->scoring.after_pass != NULL && s->scoring.after_pass(s->scoring.pass_user))
        return dlm__fail(err, DLM_CANCELLED, "stopped by the caller");
    return DLM_OK;
}
