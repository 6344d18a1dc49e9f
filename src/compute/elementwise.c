/* Primitives that treat every element or column for itself: each thread takes a contiguous piece. */
#include "compute/context.h"

#include <math.h>
#include <string.h>

void dlm__gelu(dlm_compute *compute, size_t n, const float *x, void *y, void *kept, dlm_dtype type) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        compute->kernels->gelu(r.last - r.first, x + r.first, dlm__element(y, type, r.first),
                               kept == NULL ? NULL : dlm__element(kept, type, r.first), type);
    }
}

void dlm__gelu_backward(dlm_compute *compute, size_t n, const void *x, const float *dy, void *dx, void *y,
                        dlm_dtype type) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        compute->kernels->gelu_backward(r.last - r.first, dlm__const_element(x, type, r.first), dy + r.first,
                                        dlm__element(dx, type, r.first),
                                        y == NULL ? NULL : dlm__element(y, type, r.first), type);
    }
}

void dlm__silu(dlm_compute *compute, size_t n, const float *x, void *y, dlm_dtype type) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        compute->kernels->silu(r.last - r.first, x + r.first, dlm__element(y, type, r.first), type);
    }
}

void dlm__silu_backward(dlm_compute *compute, size_t n, const float *x, const float *dy, float *dx) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        compute->kernels->silu_backward(r.last - r.first, x + r.first, dy + r.first, dx + r.first);
    }
}

void dlm__to_type(dlm_compute *compute, size_t n, const float *x, void *y, dlm_dtype type) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        void *to = dlm__element(y, type, r.first);
        if (type == DLM_BF16)
            compute->kernels->to_bf16(r.last - r.first, x + r.first, to);
        else
            memmove(to, x + r.first, (r.last - r.first) * sizeof *x);
    }
}

void dlm__from_bf16(dlm_compute *compute, size_t n, const dlm_bf16 *x, float *y) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        compute->kernels->from_bf16(r.last - r.first, x + r.first, y + r.first);
    }
}

void dlm__clear(size_t n, float *x) {
    const int team = dlm__team(n, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        memset(x + r.first, 0, (r.last - r.first) * sizeof *x);
    }
}

/* Threads take columns, so that the order of a sum does not depend on their number. */
void dlm__column_sum(dlm_compute *compute, size_t rows, size_t N, const void *x, dlm_dtype type, float *sum) {
    const int team = dlm__team(rows * N, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(N, DLM_LANES, part, team);
        compute->kernels->column_sum(rows, N, r.first, r.last - r.first, x, type, sum + r.first);
    }
}

double dlm__sum_of_squares(dlm_compute *compute, size_t n, const float *x) {
    enum { MOST = 256 };
    double sums[MOST], total = 0;
    int team = dlm__team(n, DLM_GRAIN);
    if (team > MOST) team = MOST;
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(n, DLM_LANES, part, team);
        sums[part] = compute->kernels->sum_of_squares(r.last - r.first, x + r.first);
    }
    for (int part = 0; part < team; part++) total += sums[part];
    return total;
}

/* ---- time --------------------------------------------------------------------------------------------- */

/* exp of the float32 exponent -ln(10000) i/128 (itself rounded twice), to the nearest float; but three of the
 * 128 as PyTorch has them, one unit up: models were trained with those, angles reach 1000, and what the last
 * bit moves there is seen in small gradients. */
static float frequency(int i) {
    const float log_period = (float)-9.21034037197618273607; /* -ln 10000 */
    const float nearest = (float)exp((double)(log_period * (float)i / 128.0F));
    return i == 13 || i == 44 || i == 119 ? nextafterf(nearest, 1.0F) : nearest;
}

/* In float32 throughout: every product is rounded. */
void dlm__time_features(dlm_compute *compute, size_t S, const float *times, void *e, dlm_dtype type) {
    enum { HALF = 128 };
    for (size_t s = 0; s < S; s++) {
        float row[2 * HALF];
        for (int i = 0; i < HALF; i++) {
            const float angle = times[s] * 1000.0F * frequency(i);
            row[i] = cosf(angle);
            row[HALF + i] = sinf(angle);
        }
        void *to = dlm__element(e, type, s * 2 * HALF);
        if (type == DLM_BF16) /* NOLINTNEXTLINE(bugprone-implicit-widening-of-multiplication-result) */
            compute->kernels->to_bf16(2 * HALF, row, to);
        else
            memcpy(to, row, sizeof row);
    }
}
