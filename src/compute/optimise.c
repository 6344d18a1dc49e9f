/* Optimiser steps: AdamW in one sweep over parameters and moments, Muon by Newton-Schulz. */
#include "compute/context.h"

#include <math.h>

void dlm__adamw(dlm_compute *compute, const dlm_adamw *a, size_t n, float *p, const float *g, float *m,
                float *v, float *ema) {
    const double t = (double)a->step;
    const dlm_adamw_step step = {.grad_scale = (float)a->grad_scale,
                                 .shrink = (float)(1 - a->lr * a->decay),
                                 .rate1 = (float)(1 - a->beta1),
                                 .beta2 = (float)a->beta2,
                                 .rate2 = (float)(1 - a->beta2),
                                 .root_bias2 = (float)sqrt(1 - pow(a->beta2, t)),
                                 .eps = (float)a->eps,
                                 .step = (float)(a->lr / (1 - pow(a->beta1, t))),
                                 .ema_decay = (float)a->ema_decay,
                                 .ema_rate = (float)(1 - a->ema_decay)};
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        const size_t i = r.first;
        compute->kernels->adamw(r.last - i, &step, p + i, g + i, m + i, v + i, ema + i);
    }
}

/* ---- Muon ---------------------------------------------------------------------------------------------- */

/* Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024), with the scaling of
 * Liu et al., Muon is scalable for LLM training (2025).
 *
 * Newton-Schulz works on X with no more rows than columns. Where the matrix has more rows, its transpose
 * would be meant; instead the Gram matrix is taken over the rows and multiplied from the right, which is the
 * same transposed (the polynomial of a symmetric matrix is symmetric). */

/* Scratch: u (n) float, then X (n), A (k,k), B (k,k) of type and two float results, (k,k) and (n). */
typedef struct newton_schulz {
    size_t rows, columns, n, k; /* n = rows * columns, k = min(rows, columns) */
    dlm_dtype type;
    float *u, *square, *product;
    void *X, *A, *B;
} newton_schulz;

static size_t padded(size_t floats) {
    return dlm__round_up(floats, DLM_ALIGN / sizeof(float));
}

size_t dlm__muon_scratch(const dlm_compute *compute, size_t rows, size_t columns) {
    (void)compute;
    const size_t k = rows < columns ? rows : columns;
    return 3 * padded(rows * columns) + 3 * padded(k * k);
}

static newton_schulz bind(size_t rows, size_t columns, dlm_dtype type, float *scratch) {
    const size_t n = rows * columns, k = rows < columns ? rows : columns;
    newton_schulz w = {.rows = rows, .columns = columns, .n = n, .k = k, .type = type};
    w.u = scratch;
    w.product = w.u + padded(n);
    w.X = w.product + padded(n);
    w.square = w.product + 2 * padded(n);
    w.A = w.square + padded(k * k);
    w.B = w.square + 2 * padded(k * k);
    return w;
}

static void combine(dlm_compute *compute, size_t n, float a, const void *x, float b, const float *y, void *z,
                    dlm_dtype type) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        compute->kernels->combine(r.last - r.first, a, dlm__const_element(x, type, r.first), b, y + r.first,
                                  dlm__element(z, type, r.first), type);
    }
}

/* X = u / max(|u|, 1e-7), with u, its norm and the quotient rounded to type. */
static void normalise(dlm_compute *compute, const newton_schulz *w) {
    dlm__to_type(compute, w->n, w->u, w->X, w->type);
    const float *rounded = w->X;
    if (w->type == DLM_BF16) {
        dlm__from_bf16(compute, w->n, w->X, w->u);
        rounded = w->u;
    }
    float norm = (float)sqrt(dlm__sum_of_squares(compute, w->n, rounded));
    if (w->type == DLM_BF16) {
        dlm_bf16 half;
        compute->kernels->to_bf16(1, &norm, &half);
        compute->kernels->from_bf16(1, &half, &norm);
    }
    if (norm < 1e-7F) norm = 1e-7F;
    const int team = dlm__team(w->n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(w->n, DLM_LANES, part, team);
        compute->kernels->divide(r.last - r.first, norm, dlm__element(w->X, w->type, r.first), w->type);
    }
}

/* A = X X^T;  B = -4.7750 A + 2.0315 A A;  X = 3.4445 X + B X. */
static void iterate(dlm_compute *compute, const newton_schulz *w) {
    const bool tall = w->rows > w->columns;
    const dlm_product gram = {.M = w->k,
                              .N = w->k,
                              .K = tall ? w->rows : w->columns,
                              .transpose_a = tall,
                              .transpose_b = !tall,
                              .symmetric = true,
                              .type = w->type};
    const dlm_product square = {.M = w->k, .N = w->k, .K = w->k, .symmetric = true, .type = w->type};
    const dlm_product turn = {.M = w->rows, .N = w->columns, .K = w->k, .type = w->type};
    dlm__matmul(compute, &gram, w->X, w->X, NULL, w->square);
    dlm__to_type(compute, w->k * w->k, w->square, w->A, w->type);
    dlm__matmul(compute, &square, w->A, w->A, NULL, w->square);
    combine(compute, w->k * w->k, -4.7750F, w->A, 2.0315F, w->square, w->B, w->type);
    dlm__matmul(compute, &turn, tall ? w->X : w->B, tall ? w->B : w->X, NULL, w->product);
    combine(compute, w->n, 3.4445F, w->X, 1.0F, w->product, w->X, w->type);
}

void dlm__muon(dlm_compute *compute, const dlm_muon *a, size_t rows, size_t columns, float *p, const float *g,
               float *m, float *ema, float *scratch) {
    const newton_schulz w = bind(rows, columns, a->type, scratch);
    const float grad_scale = (float)a->grad_scale, rate = (float)(1 - a->momentum);
    const int team = dlm__team(w.n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(w.n, DLM_LANES, part, team);
        const size_t i = r.first;
        compute->kernels->muon_momentum(r.last - i, grad_scale, rate, g + i, m + i, w.u + i);
    }
    normalise(compute, &w);
    for (int i = 0; i < 5; i++) iterate(compute, &w);
    const float shrink = (float)(1 - a->lr * a->decay);
    const float step = (float)(a->lr * 0.2 * sqrt((double)(rows > columns ? rows : columns)));
    const float ema_decay = (float)a->ema_decay, ema_rate = (float)(1 - a->ema_decay);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(w.n, DLM_LANES, part, team);
        const size_t i = r.first;
        compute->kernels->muon_update(r.last - i, shrink, step, dlm__const_element(w.X, a->type, i), a->type,
                                      ema_decay, ema_rate, p + i, ema + i);
    }
}
