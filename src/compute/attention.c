/* Attention and rotary positions over a packed batch. A piece of work is one head of one segment, or,
 * forward, some queries of it: no piece's result depends on another, so threads take them as they come, the
 * largest share of a batch of unequal lengths never waiting for its turn. */
#include "compute/context.h"

#include <math.h>
#include <omp.h>

/* float32 power, product, cosine and sine, as PyTorch computes pos * 10000.0 ** (-arange(half) / half). */
void dlm__rotary_table(size_t Lmax, size_t D, float *cos_table, float *sin_table) {
    const size_t half = D / 2;
    for (size_t position = 0; position < Lmax; position++)
        for (size_t i = 0; i < half; i++) {
            const float frequency = (float)pow(10000.0, (double)(-(float)i / (float)half));
            const float angle = (float)position * frequency;
            cos_table[position * half + i] = cosf(angle);
            sin_table[position * half + i] = sinf(angle);
        }
}

void dlm__rotate(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *cos_table,
                 const float *sin_table, bool inverse, float *qkv) {
    const size_t T = seg.offsets[seg.n], C = H * D;
    const int team = dlm__team(T * 2 * C, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(T, 1, part, team);
        size_t s = r.first < r.last ? dlm__segment_of(seg, r.first) : 0;
        for (size_t row = r.first; row < r.last; row++) {
            while (seg.offsets[s + 1] <= row) s++;
            const size_t angles = (row - seg.offsets[s]) * (D / 2);
            /* The 2H heads of q and k lie side by side. */
            compute->kernels->rotate(2 * H, D, cos_table + angles, sin_table + angles, inverse,
                                     qkv + row * 3 * C);
        }
    }
}

static dlm_head head_of(dlm_segments seg, size_t segment, size_t head, size_t H, size_t D, const float *qkv) {
    const size_t C = H * D;
    const float *q = qkv + seg.offsets[segment] * 3 * C + head * D;
    return (dlm_head){.L = seg.offsets[segment + 1] - seg.offsets[segment],
                      .D = D,
                      .stride = 3 * C,
                      .q = q,
                      .k = q + C,
                      .v = q + 2 * C};
}

static size_t longest_of(dlm_segments seg) {
    size_t longest = 0;
    for (size_t s = 0; s < seg.n; s++) {
        const size_t length = seg.offsets[s + 1] - seg.offsets[s];
        if (length > longest) longest = length;
    }
    return longest;
}

/* Threads that attention is worth: a segment of length L costs L^2 D a head. */
static int team_for(dlm_segments seg, size_t C) {
    size_t work = 0;
    for (size_t s = 0; s < seg.n; s++) {
        const size_t length = seg.offsets[s + 1] - seg.offsets[s];
        work += length * length * C;
    }
    return dlm__team(work, 16 * DLM_GRAIN);
}

void dlm__attention(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *qkv, void *o,
                    dlm_dtype type, float *lse) {
    const size_t C = H * D, longest = longest_of(seg);
    const int team = team_for(seg, C);
    size_t stride = 0;
    float *scratch = dlm__scratch(compute, (size_t)team, dlm__attention_scratch(longest, D), &stride);
    if (scratch == NULL || longest == 0) return;
    /* A head is cut where there are too few of them to keep all threads busy. */
    const size_t wanted = 4 * (size_t)team, heads = seg.n * H;
    const size_t most = (longest + DLM_QUERIES - 1) / DLM_QUERIES;
    size_t cuts = team == 1 ? 1 : (wanted + heads - 1) / heads;
    if (cuts > most) cuts = most;
#pragma omp parallel num_threads(team) if (team > 1)
    {
        float *own = scratch + (size_t)omp_get_thread_num() * stride;
#pragma omp for schedule(dynamic)
        for (size_t piece = 0; piece < heads * cuts; piece++) {
            const size_t s = piece / (H * cuts), h = piece / cuts % H;
            const dlm_head head = head_of(seg, s, h, H, D, qkv);
            const dlm_range r = dlm__part(head.L, DLM_QUERIES, (int)(piece % cuts), (int)cuts);
            if (r.first == r.last) continue;
            const size_t row = seg.offsets[s];
            compute->kernels->attention(&head, r.first, r.last, dlm__element(o, type, row * C + h * D), C,
                                        type, lse == NULL ? NULL : lse + row * H + h, H, own);
        }
    }
}

void dlm__attention_backward(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *qkv,
                             const float *lse, const float *d_o, float *dqkv) {
    const size_t C = H * D, longest = longest_of(seg);
    const int team = team_for(seg, C);
    size_t stride = 0;
    float *scratch = dlm__scratch(compute, (size_t)team, dlm__attention_scratch(longest, D), &stride);
    if (scratch == NULL || longest == 0) return;
#pragma omp parallel num_threads(team) if (team > 1)
    {
        float *own = scratch + (size_t)omp_get_thread_num() * stride;
#pragma omp for schedule(dynamic)
        for (size_t piece = 0; piece < seg.n * H; piece++) {
            const size_t s = piece / H, h = piece % H, row = seg.offsets[s];
            const dlm_head head = head_of(seg, s, h, H, D, qkv);
            if (head.L == 0) continue;
            float *dq = dqkv + row * 3 * C + h * D;
            compute->kernels->attention_backward(&head, lse + row * H + h, H, d_o + row * C + h * D, C, dq,
                                                 dq + C, dq + 2 * C, own);
        }
    }
}
