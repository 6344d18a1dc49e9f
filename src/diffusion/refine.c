/* Refinement: masks a random part of a text and samples it anew, pass after pass (the repeated noising and
 * denoising of Reid et al., DiffusER, 2022, in its simplest form). */
#include "diffusion/sampler.h"

dlm_refine_options dlm_refine_defaults(void) {
    return (dlm_refine_options){.passes = 8, .frac = 0.15, .temperature = 0.9};
}

static dlm_status check_options(const dlm_refine_options *o, dlm_error *err) {
    if (o->passes == 0 || o->passes > UINT32_MAX - 1)
        return dlm__fail(err, DLM_ARGUMENT, "%zu passes are not from 1 to %lu", o->passes,
                         (unsigned long)(UINT32_MAX - 1));
    if (!(o->frac > 0 && o->frac <= 1))
        return dlm__fail(err, DLM_ARGUMENT, "fraction %g is not above 0 and at most 1", o->frac);
    return DLM_OK;
}

/* Wants what is masked already, and every free position with probability frac. */
static void want(dlm_sampling *s, double frac) {
    for (size_t b = 0; b < s->n; b++)
        for (size_t p = s->offsets[b]; p < s->offsets[b + 1]; p++)
            if (!s->fixed[p])
                s->wanted[p] = dlm__rng_uniform(&s->rng[b]) < frac || s->ids[p] == s->model->mask_id;
}

static dlm_status run(dlm_sampling *s, const dlm_refine_options *o, dlm_error *err) {
    DLM_TRY(dlm__sampling_report(s, 0, o->passes, err));
    for (size_t i = 0; i < o->passes && !s->stopped; i++) {
        dlm__sampling_begin(s, i);
        want(s, o->frac);
        DLM_TRY(dlm__sampling_resample(s, err));
        DLM_TRY(dlm__sampling_report(s, i + 1, o->passes, err));
    }
    if (s->stopped || dlm__sampling_left(s) == 0) return DLM_OK;
    dlm__sampling_begin(s, o->passes);
    DLM_TRY(dlm__sampling_fill(s, err));
    return dlm__sampling_report(s, o->passes + 1, o->passes + 1, err);
}

dlm_status dlm__refine(const char *isa, const dlm_model *model, const dlm_refine_options *options,
                       size_t first, size_t n, const size_t *lengths, int32_t *ids, const uint8_t *fixed,
                       dlm_error *err) {
    DLM_TRY(check_options(options, err));
    if (n == 0) return DLM_OK;
    const dlm_sampling_start start = {.purpose = DLM_RNG_REFINE,
                                      .seed = options->seed,
                                      .drawing = dlm__drawing(options->temperature),
                                      .first = first,
                                      .n = n,
                                      .lengths = lengths,
                                      .ids = ids,
                                      .fixed = fixed,
                                      .on_step = options->on_step,
                                      .user = options->user};
    dlm_sampling *s;
    DLM_TRY(dlm__sampling_create(isa, model, &start, &s, err));
    const dlm_status status = run(s, options, err);
    dlm__sampling_free(s);
    return status;
}

dlm_status dlm_refine(const dlm_model *model, const dlm_refine_options *options, size_t first, size_t n,
                      const size_t *lengths, int32_t *ids, const uint8_t *fixed, dlm_error *err) {
    return dlm__refine(NULL, model, options, first, n, lengths, ids, fixed, err);
}
