/* The state of sampling and refinement. */
#include "diffusion/sampling.h"

#include <stdlib.h>
#include <string.h>

static dlm_status check_model(const dlm_model *model, dlm_error *err) {
    if (model->network.params == NULL)
        return dlm__fail(err, DLM_ARGUMENT, "%s was read without its weights",
                         model->source != NULL ? model->source : "the model");
    if (model->mask_id < 0) return dlm__fail(err, DLM_ARGUMENT, "the model's tokenizer has no [MASK]");
    return DLM_OK;
}

static dlm_status check_indices(const dlm_sampling_start *start, dlm_error *err) {
    if (start->first > UINT32_MAX || start->n > UINT32_MAX - start->first)
        return dlm__fail(err, DLM_ARGUMENT, "%zu samples from index %zu on pass the last index, %lu",
                         start->n, start->first, (unsigned long)UINT32_MAX);
    return DLM_OK;
}

dlm_status dlm__sampling_total(const dlm_model *model, size_t n, const size_t *lengths, size_t *total,
                               dlm_error *err) {
    const size_t most = model->layout->config.max_seq_len;
    *total = 0;
    for (size_t b = 0; b < n; b++) {
        const size_t L = lengths[b];
        if (L == 0 || L > most)
            return dlm__fail(err, DLM_ARGUMENT, "sequence %zu has %zu positions, the model takes 1 to %zu", b,
                             L, most);
        if (!dlm__size_add(*total, L, total))
            return dlm__fail(err, DLM_ARGUMENT, "%zu sequences have too many positions", n);
    }
    return DLM_OK;
}

static dlm_status check_ids(const dlm_sampling *s, dlm_error *err) {
    const size_t V = s->model->layout->config.vocab_size;
    for (size_t b = 0; b < s->n; b++)
        for (size_t p = s->offsets[b]; p < s->offsets[b + 1]; p++) {
            if (s->ids[p] < 0 || (size_t)s->ids[p] >= V)
                return dlm__fail(err, DLM_ARGUMENT,
                                 "position %zu of sequence %zu is token %ld, the vocabulary has %zu",
                                 p - s->offsets[b], b, (long)s->ids[p], V);
            if (s->fixed[p] && s->ids[p] == s->model->mask_id)
                return dlm__fail(err, DLM_ARGUMENT, "position %zu of sequence %zu is fixed, but masked",
                                 p - s->offsets[b], b);
        }
    return DLM_OK;
}

static dlm_status check_guidance(const dlm_sampling *s, dlm_error *err) {
    if (s->start.drawing.guidance <= 0) return DLM_OK;
    for (size_t p = 0; p < s->T; p++)
        if (s->fixed[p]) return DLM_OK;
    return dlm__fail(err, DLM_ARGUMENT, "guidance %g, but nothing is given that could guide",
                     s->start.drawing.guidance);
}

static void layout(dlm_sampling *s) {
    s->offsets = dlm__arena_take(&s->arena, s->n + 1, sizeof *s->offsets);
    s->confidence = dlm__arena_take(&s->arena, s->T, sizeof *s->confidence);
    s->fixed = dlm__arena_take(&s->arena, s->T, sizeof *s->fixed);
    s->given = dlm__arena_take(&s->arena, s->T, sizeof *s->given);
    s->times = dlm__arena_take(&s->arena, s->n, sizeof *s->times);
    s->fed = dlm__arena_take(&s->arena, s->n, sizeof *s->fed);
    s->rng = dlm__arena_take(&s->arena, s->n, sizeof *s->rng);
    s->wanted = dlm__arena_take(&s->arena, s->T, sizeof *s->wanted);
    s->uniform = dlm__arena_take(&s->arena, s->T, sizeof *s->uniform);
    s->token = dlm__arena_take(&s->arena, s->T, sizeof *s->token);
    s->token_confidence = dlm__arena_take(&s->arena, s->T, sizeof *s->token_confidence);
    s->certainty = dlm__arena_take(&s->arena, s->T, sizeof *s->certainty);
    const size_t targets = s->start.target != NULL ? s->T : 0;
    s->log_probability = dlm__arena_take(&s->arena, targets, sizeof *s->log_probability);
    s->committed = dlm__arena_take(&s->arena, targets, sizeof *s->committed);
    s->passes = dlm__arena_take(&s->arena, s->n, sizeof *s->passes);
}

static void set_up(dlm_sampling *s) {
    for (size_t b = 0; b < s->n; b++) {
        const size_t L = s->start.lengths[b];
        s->offsets[b + 1] = s->offsets[b] + L;
        if (L > s->longest) s->longest = L;
        s->times[b] = dlm__sigma_inverse(s->model->layout->config.schedule,
                                         (double)dlm__sampling_masked(s, b) / (double)L);
    }
    memcpy(s->given, s->ids, s->T * sizeof *s->given);
    for (size_t p = 0; s->start.fixed != NULL && p < s->T; p++) {
        s->fixed[p] = s->start.fixed[p] != 0;
        s->confidence[p] = s->fixed[p] ? 1.0F : 0.0F;
    }
}

static dlm_status prepare(dlm_sampling *s, const char *isa, dlm_error *err) {
    DLM_TRY(check_model(s->model, err));
    DLM_TRY(check_indices(&s->start, err));
    DLM_TRY(dlm__sampling_total(s->model, s->n, s->start.lengths, &s->T, err));
    layout(s);
    DLM_TRY(dlm__arena_allocate(&s->arena, "the state of samples", err));
    layout(s);
    set_up(s);
    DLM_TRY(check_ids(s, err));
    DLM_TRY(check_guidance(s, err));
    const dlm_denoiser_options options = {
        .drawing = s->start.drawing, .certainty = s->start.certainty, .fixed = s->fixed};
    return dlm__denoiser_create(isa, s->model, &options, s->n, s->offsets, &s->denoiser, err);
}

dlm_status dlm__sampling_create(const char *isa, const dlm_model *model, const dlm_sampling_start *start,
                                dlm_sampling **sampling, dlm_error *err) {
    *sampling = NULL;
    dlm_sampling *s = dlm__calloc(1, sizeof *s);
    if (s == NULL) return dlm__fail_memory(err, "the state of samples", sizeof *s);
    s->start = *start;
    s->model = model;
    s->n = start->n;
    s->ids = start->ids;
    const dlm_status status = prepare(s, isa, err);
    if (status != DLM_OK) {
        dlm__sampling_free(s);
        return status;
    }
    *sampling = s;
    return DLM_OK;
}

void dlm__sampling_free(dlm_sampling *s) {
    if (s == NULL) return;
    dlm__denoiser_free(s->denoiser);
    dlm__arena_free(&s->arena);
    free(s);
}

size_t dlm__sampling_masked(const dlm_sampling *s, size_t b) {
    size_t masked = 0;
    for (size_t p = s->offsets[b]; p < s->offsets[b + 1]; p++) masked += s->ids[p] == s->model->mask_id;
    return masked;
}

size_t dlm__sampling_left(const dlm_sampling *s) {
    size_t masked = 0;
    for (size_t b = 0; b < s->n; b++) masked += dlm__sampling_masked(s, b);
    return masked;
}

void dlm__sampling_begin(dlm_sampling *s, size_t step) {
    for (size_t b = 0; b < s->n; b++)
        s->rng[b] = dlm__rng(s->start.seed, s->start.purpose, (uint32_t)(s->start.first + b), (uint32_t)step);
    memset(s->wanted, 0, s->T);
    s->told = false;
}

/* A uniform number for each wanted position of sequence b; is there any? */
static bool draw_uniforms(dlm_sampling *s, size_t b) {
    const bool draws = s->start.drawing.temperature > 0 && s->start.target == NULL;
    bool any = false;
    for (size_t p = s->offsets[b]; p < s->offsets[b + 1]; p++) {
        if (!s->wanted[p]) continue;
        any = true;
        if (draws) s->uniform[p] = dlm__rng_uniform(&s->rng[b]);
    }
    return any;
}

dlm_status dlm__sampling_predict(dlm_sampling *s, dlm_error *err) {
    const size_t passes = dlm__denoiser_passes(s->denoiser);
    bool any = false;
    for (size_t b = 0; b < s->n; b++) {
        if (!draw_uniforms(s, b)) continue;
        any = true;
        s->passes[b] += passes;
    }
    if (!any) return DLM_OK;
    s->forwards += passes;
    const dlm_prediction prediction = {.ids = s->ids,
                                       .wanted = s->wanted,
                                       .uniform = s->uniform,
                                       .target = s->start.target,
                                       .log_probability = s->start.target != NULL ? s->log_probability : NULL,
                                       .token = s->token,
                                       .fed = s->told ? s->fed : NULL,
                                       .confidence = s->token_confidence,
                                       .certainty = s->certainty,
                                       .times = s->times};
    return dlm__denoise(s->denoiser, &prediction, err);
}

void dlm__sampling_commit(dlm_sampling *s, size_t p) {
    s->ids[p] = s->token[p];
    s->confidence[p] = s->token_confidence[p];
    if (s->start.target != NULL) s->committed[p] = s->log_probability[p];
}

dlm_status dlm__sampling_resample(dlm_sampling *s, dlm_error *err) {
    for (size_t p = 0; p < s->T; p++)
        if (s->wanted[p]) s->ids[p] = s->model->mask_id;
    DLM_TRY(dlm__sampling_predict(s, err));
    for (size_t p = 0; p < s->T; p++)
        if (s->wanted[p]) dlm__sampling_commit(s, p);
    return DLM_OK;
}

dlm_status dlm__sampling_fill(dlm_sampling *s, dlm_error *err) {
    for (size_t p = 0; p < s->T; p++) s->wanted[p] = s->ids[p] == s->model->mask_id;
    return dlm__sampling_resample(s, err);
}

dlm_status dlm__sampling_report(dlm_sampling *s, size_t step, size_t steps, dlm_error *err) {
    if (s->start.on_step == NULL) return DLM_OK;
    const dlm_sample_step shown = {.step = step,
                                   .steps = steps,
                                   .n = s->n,
                                   .offsets = s->offsets,
                                   .ids = s->ids,
                                   .confidence = s->confidence,
                                   .fixed = s->fixed,
                                   .times = s->times,
                                   .forwards = s->forwards,
                                   .mask_id = s->model->mask_id,
                                   .first = s->start.first,
                                   .tries = 1};
    s->stopped = s->start.on_step(s->start.user, &shown);
    const size_t V = s->model->layout->config.vocab_size;
    for (size_t p = 0; p < s->T; p++) {
        if (s->fixed[p]) {
            s->ids[p] = s->given[p];
            s->confidence[p] = 1;
            continue;
        }
        if (s->ids[p] < 0 || (size_t)s->ids[p] >= V)
            return dlm__fail(err, DLM_ARGUMENT,
                             "the step callback set position %zu to token %ld, the vocabulary has %zu", p,
                             (long)s->ids[p], V);
        if (s->ids[p] == s->model->mask_id || !(s->confidence[p] >= 0 && s->confidence[p] <= 1))
            s->confidence[p] = 0;
    }
    return DLM_OK;
}
