/* Cross-entropy by mask ratio. */
#include "diffusion/curve.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum { LAST_DRAW = 1, NEW_DOCUMENT = 2 };

/* Sums at one ratio. y and k are a document's cross-entropy (mean over draws) and masked positions. */
typedef struct sums {
    double ce, ce_squares;   /* over the draws of the window at hand */
    double y, k;             /* of the document at hand */
    double Y, K, yy, yk, kk; /* of all documents before it */
    double within;           /* sum over windows of the variance between draws */
    size_t windows, documents;
} sums;

struct dlm_curve {
    dlm_curve_options options;
    dlm_masked_score *score;
    size_t windows;
    sums *at;        /* (n) */
    uint8_t *masked; /* (longest) */
    uint32_t *order; /* (longest) */
    dlm_arena arena;
};

static void end_document(sums *s) {
    if (s->k == 0) return;
    s->documents++;
    s->Y += s->y;
    s->K += s->k;
    s->yy += s->y * s->y;
    s->yk += s->y * s->k;
    s->kk += s->k * s->k;
    s->y = s->k = 0;
}

static void take(void *user, const dlm_score_tag *tag, double ce, double end) {
    (void)end;
    const dlm_curve *curve = user;
    sums *s = &curve->at[tag->place];
    const double M = (double)curve->options.draws;
    if (tag->flags & NEW_DOCUMENT) end_document(s);
    s->ce += ce;
    s->ce_squares += ce * ce;
    if (!(tag->flags & LAST_DRAW)) return;
    s->windows++;
    s->y += s->ce / M;
    s->k += (double)tag->masked;
    if (M > 1) s->within += fmax(s->ce_squares - s->ce * s->ce / M, 0) / (M - 1);
    s->ce = s->ce_squares = 0;
}

static void layout(dlm_curve *curve) {
    const dlm_curve_options *o = &curve->options;
    curve->at = dlm__arena_take(&curve->arena, o->n, sizeof *curve->at);
    curve->masked = dlm__arena_take(&curve->arena, o->longest, sizeof *curve->masked);
    curve->order = dlm__arena_take(&curve->arena, o->longest, sizeof *curve->order);
}

static dlm_status check(const dlm_curve_options *options, dlm_error *err) {
    dlm_mask_draws draws;
    DLM_TRY(dlm__mask_draws(options->seed, options->draws, DLM_MASKS_INDEPENDENT, &draws, err));
    if (options->n == 0 || options->n > DLM_CURVE_POINTS)
        return dlm__fail(err, DLM_ARGUMENT, "%zu mask ratios are not from 1 to %zu", options->n,
                         DLM_CURVE_POINTS);
    for (size_t i = 0; i < options->n; i++)
        if (!(options->ratios[i] > 0 && options->ratios[i] <= 1))
            return dlm__fail(err, DLM_ARGUMENT, "mask ratio %g is not above 0 and at most 1",
                             options->ratios[i]);
    return DLM_OK;
}

static dlm_status prepare(dlm_curve *curve, const dlm_network *network, dlm_compute *compute,
                          dlm_error *err) {
    const dlm_curve_options *o = &curve->options;
    DLM_TRY(check(o, err));
    layout(curve);
    DLM_TRY(dlm__arena_allocate(&curve->arena, "an evaluation", err));
    layout(curve);
    const dlm_masked_scoring scoring = {.network = network,
                                        .compute = compute,
                                        .mask_id = o->mask_id,
                                        .longest = o->longest,
                                        .all = SIZE_MAX,
                                        .take = take,
                                        .user = curve,
                                        .after_pass = o->after_pass,
                                        .pass_user = o->pass_user};
    return dlm__masked_score_create(&scoring, &curve->score, err);
}

dlm_status dlm__curve_create(const dlm_network *network, dlm_compute *compute,
                             const dlm_curve_options *options, dlm_curve **curve, dlm_error *err) {
    *curve = NULL;
    dlm_curve *c = dlm__calloc(1, sizeof *c);
    if (c == NULL) return dlm__fail_memory(err, "an evaluation", sizeof *c);
    c->options = *options;
    const dlm_status status = prepare(c, network, compute, err);
    if (status != DLM_OK) {
        dlm__curve_free(c);
        return status;
    }
    *curve = c;
    return DLM_OK;
}

void dlm__curve_free(dlm_curve *curve) {
    if (curve == NULL) return;
    dlm__masked_score_free(curve->score);
    dlm__arena_free(&curve->arena);
    free(curve);
}

static size_t masked_at(double ratio, size_t n) {
    const double k = floor(ratio * (double)n + 0.5);
    return k < 1 ? 1 : k > (double)n ? n : (size_t)k;
}

static dlm_status add_point(dlm_curve *curve, const dlm_scored *window, size_t point, dlm_error *err) {
    const dlm_curve_options *o = &curve->options;
    const size_t n = window->n, k = masked_at(o->ratios[point], n);
    const double t = dlm__sigma_inverse(o->schedule, (double)k / (double)n);
    for (size_t d = 0; d < o->draws; d++) {
        dlm__curve_mask(o->seed, curve->windows, point, d, n, k, curve->masked, curve->order);
        dlm_score_tag tag = {.n = n, .masked = k, .window = curve->windows, .place = (unsigned)point};
        if (d == 0 && !window->continues) tag.flags |= NEW_DOCUMENT;
        if (d + 1 == o->draws) tag.flags |= LAST_DRAW;
        DLM_TRY(dlm__masked_score_add(curve->score, window->ids, window->shown, curve->masked, t, tag, err));
    }
    return DLM_OK;
}

dlm_status dlm__curve_add(dlm_curve *curve, const dlm_scored *window, dlm_error *err) {
    assert(window->n > 0 && window->n <= window->shown && window->shown <= curve->options.longest);
    if (curve->windows == UINT32_MAX)
        return dlm__fail(err, DLM_UNSUPPORTED, "more than %lu windows", (unsigned long)UINT32_MAX);
    for (size_t point = 0; point < curve->options.n; point++) DLM_TRY(add_point(curve, window, point, err));
    curve->windows++;
    return DLM_OK;
}

static dlm_curve_point point_of(sums *s, double ratio, size_t draws) {
    end_document(s);
    const double R = s->Y / s->K, D = (double)s->documents, M = (double)draws;
    const double residual = fmax(s->yy - 2 * R * s->yk + R * R * s->kk, 0);
    dlm_curve_point point = {.ratio = ratio,
                             .cross_entropy = R,
                             .standard_error = draws > 1 ? sqrt(s->within / M) / s->K : NAN,
                             .standard_error_documents =
                                 s->documents > 1 ? sqrt(D / (D - 1) * residual) / s->K : NAN};
    dlm__interval(R, point.standard_error, (double)s->windows * (M - 1), point.interval);
    dlm__interval(R, point.standard_error_documents, D - 1, point.interval_documents);
    return point;
}

dlm_status dlm__curve_end(dlm_curve *curve, dlm_curve_point *points, dlm_error *err) {
    const dlm_curve_options *o = &curve->options;
    DLM_TRY(dlm__masked_score_flush(curve->score, err));
    for (size_t i = 0; i < o->n; i++) points[i] = point_of(&curve->at[i], o->ratios[i], o->draws);
    return DLM_OK;
}
