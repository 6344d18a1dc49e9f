/* Primitives over the rows of a packed batch: embedding, modulated norm, gated residual, gathering, softmax
 * and cross-entropy. Each thread takes a contiguous piece of the rows. */
#include "compute/context.h"

#include <string.h>

/* How many threads T rows of C elements are worth. */
static int team_for(size_t T, size_t C) {
    return dlm__team(T * C, DLM_GRAIN);
}

static size_t rows_of(dlm_segments seg) {
    return seg.offsets[seg.n];
}

/* The stretch of rows, from *row on and before `last`, that lies in one segment: its end; *segment is moved
 * to that segment, which starts out as that of *row or one before. */
static size_t stretch(dlm_segments seg, size_t row, size_t last, size_t *segment) {
    while (seg.offsets[*segment + 1] <= row) (*segment)++;
    return seg.offsets[*segment + 1] < last ? seg.offsets[*segment + 1] : last;
}

/* ---- embedding ---------------------------------------------------------------------------------------- */

void dlm__embed(dlm_compute *compute, dlm_segments seg, size_t C, const int32_t *ids, const float *tok,
                const float *pos, float *h) {
    const size_t T = rows_of(seg);
    const int team = team_for(T, C);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(T, 1, part, team);
        size_t s = 0;
        for (size_t row = r.first; row < r.last; row++) {
            (void)stretch(seg, row, r.last, &s);
            compute->kernels->add(C, tok + (size_t)ids[row] * C, pos + (row - seg.offsets[s]) * C,
                                  h + row * C);
        }
    }
}

/* Threads take columns: two rows may have the same token or position. */
void dlm__embed_backward(dlm_compute *compute, dlm_segments seg, size_t C, const int32_t *ids,
                         const float *dh, float *dtok, float *dpos) {
    const size_t T = rows_of(seg);
    const int team = team_for(T, C);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(C, DLM_LANES, part, team);
        const size_t n = r.last - r.first;
        size_t s = 0;
        for (size_t row = 0; row < T; row++) {
            (void)stretch(seg, row, T, &s);
            float *to_tok = dtok + (size_t)ids[row] * C + r.first;
            float *to_pos = dpos + (row - seg.offsets[s]) * C + r.first;
            compute->kernels->add(n, dh + row * C + r.first, to_tok, to_tok);
            compute->kernels->add(n, dh + row * C + r.first, to_pos, to_pos);
        }
    }
}

void dlm__gather_rows(dlm_compute *compute, size_t R, size_t C, const int32_t *rows, const float *h,
                      float *out) {
    (void)compute;
    const int team = team_for(R, C);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(R, 1, part, team);
        for (size_t i = r.first; i < r.last; i++)
            memcpy(out + i * C, h + (size_t)rows[i] * C, C * sizeof *out);
    }
}

void dlm__scatter_add_rows(dlm_compute *compute, size_t R, size_t C, const int32_t *rows, const float *dout,
                           float *dh) {
    const int team = team_for(R, C);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(R, 1, part, team);
        for (size_t i = r.first; i < r.last; i++) {
            float *to = dh + (size_t)rows[i] * C;
            compute->kernels->add(C, dout + i * C, to, to);
        }
    }
}

/* ---- norm and residual -------------------------------------------------------------------------------- */

void dlm__modulated_norm(dlm_compute *compute, dlm_segments seg, size_t C, const float *h, const float *shift,
                         const float *scale, size_t stride, float *mean, float *rstd, void *a,
                         dlm_dtype type) {
    const size_t T = rows_of(seg);
    const int team = team_for(T, C);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(T, 1, part, team);
        size_t s = 0;
        for (size_t row = r.first, end; row < r.last; row = end) {
            end = stretch(seg, row, r.last, &s);
            compute->kernels->modulated_norm(end - row, C, h + row * C, shift + s * stride,
                                             scale + s * stride, mean + row, rstd + row,
                                             dlm__element(a, type, row * C), type);
        }
    }
}

void dlm__gated_residual(dlm_compute *compute, dlm_segments seg, size_t C, const float *h, const float *gate,
                         size_t stride, const float *y, float *out) {
    const size_t T = rows_of(seg);
    const int team = team_for(T, C);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(T, 1, part, team);
        size_t s = 0;
        for (size_t row = r.first, end; row < r.last; row = end) {
            end = stretch(seg, row, r.last, &s);
            compute->kernels->gated_residual(end - row, C, h + row * C, gate + s * stride, y + row * C,
                                             out + row * C);
        }
    }
}

/* The backward passes add up over the rows of a segment, which may be cut by the border between two threads.
 * A thread adds straight to the sums of the segments that begin in its piece; what it finds for a segment
 * that began earlier goes to sums of its own, which are added afterwards in the order of the threads. */
typedef struct partial_sums {
    float *own; /* thread i's begin at i * stride */
    size_t stride;
} partial_sums;

static bool partial_sums_begin(dlm_compute *compute, int team, size_t n, partial_sums *sums) {
    sums->own = dlm__scratch(compute, (size_t)team, n, &sums->stride);
    if (sums->own == NULL) return false;
    memset(sums->own, 0, (size_t)team * sums->stride * sizeof *sums->own);
    return true;
}

/* Adds n elements at `from` of every thread's own sums to `to` + s * dstride, s the segment that the thread's
 * piece began in the midst of. */
static void partial_sums_end(dlm_compute *compute, const partial_sums *sums, int team, dlm_segments seg,
                             size_t from, size_t n, float *to, size_t dstride) {
    const size_t T = rows_of(seg);
    for (int part = 1; part < team; part++) {
        const dlm_range r = dlm__part(T, 1, part, team);
        if (r.first == r.last) continue;
        float *total = to + dlm__segment_of(seg, r.first) * dstride;
        compute->kernels->add(n, sums->own + (size_t)part * sums->stride + from, total, total);
    }
}

void dlm__modulated_norm_backward(dlm_compute *compute, dlm_segments seg, size_t C, const float *da,
                                  const float *h, const float *shift, const float *scale, size_t stride,
                                  const float *mean, const float *rstd, float *dh, float *dshift,
                                  float *dscale, size_t dstride, void *a, dlm_dtype type) {
    const size_t T = rows_of(seg);
    const int team = team_for(T, C);
    partial_sums sums;
    if (!partial_sums_begin(compute, team, 2 * C, &sums)) return;
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(T, 1, part, team);
        float *own = sums.own + (size_t)part * sums.stride;
        size_t s = 0;
        for (size_t row = r.first, end; row < r.last; row = end) {
            end = stretch(seg, row, r.last, &s);
            const bool cut = seg.offsets[s] < r.first;
            compute->kernels->modulated_norm_backward(
                end - row, C, da + row * C, h + row * C, shift + s * stride, scale + s * stride, mean + row,
                rstd + row, dh + row * C, cut ? own : dshift + s * dstride,
                cut ? own + C : dscale + s * dstride, a == NULL ? NULL : dlm__element(a, type, row * C),
                type);
        }
    }
    partial_sums_end(compute, &sums, team, seg, 0, C, dshift, dstride);
    partial_sums_end(compute, &sums, team, seg, C, C, dscale, dstride);
}

void dlm__gated_residual_backward(dlm_compute *compute, dlm_segments seg, size_t C, const float *dout,
                                  const float *gate, size_t stride, const void *y, dlm_dtype y_type, void *dy,
                                  dlm_dtype type, float *dgate, size_t dstride) {
    const size_t T = rows_of(seg);
    const int team = team_for(T, C);
    partial_sums sums;
    if (!partial_sums_begin(compute, team, C, &sums)) return;
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(T, 1, part, team);
        float *own = sums.own + (size_t)part * sums.stride;
        size_t s = 0;
        for (size_t row = r.first, end; row < r.last; row = end) {
            end = stretch(seg, row, r.last, &s);
            compute->kernels->gated_residual_backward(end - row, C, dout + row * C, gate + s * stride,
                                                      dlm__const_element(y, y_type, row * C), y_type,
                                                      dlm__element(dy, type, row * C), type,
                                                      seg.offsets[s] < r.first ? own : dgate + s * dstride);
        }
    }
    partial_sums_end(compute, &sums, team, seg, 0, C, dgate, dstride);
}

/* ---- softmax and loss --------------------------------------------------------------------------------- */

void dlm__softmax(dlm_compute *compute, size_t R, size_t V, float scale, float *x) {
    const int team = team_for(R, V);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(R, 1, part, team);
        for (size_t i = r.first; i < r.last; i++) compute->kernels->softmax(V, scale, x + i * V);
    }
}

void dlm__cross_entropy(dlm_compute *compute, size_t R, size_t V, const float *logits, const int32_t *targets,
                        const float *weight, float *ce, void *dlogits, dlm_dtype type) {
    const int team = team_for(R, V);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(R, 1, part, team);
        for (size_t i = r.first; i < r.last; i++)
            ce[i] = compute->kernels->cross_entropy(
                V, logits + i * V, (size_t)targets[i], dlogits == NULL ? 0 : weight[i],
                dlogits == NULL ? NULL : dlm__element(dlogits, type, i * V), type);
    }
}
