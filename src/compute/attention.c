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

void dlm__rotate_rows(dlm_compute *compute, size_t R, const int32_t *positions, size_t heads, size_t D,
                      size_t stride, const float *cos_table, const float *sin_table, bool inverse, float *x) {
    const int team = dlm__team(R * heads * D, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) {
        const dlm_range r = dlm__part(R, 1, part, team);
        for (size_t row = r.first; row < r.last; row++) {
            const size_t angles = (size_t)positions[row] * (D / 2);
            compute->kernels->rotate(heads, D, cos_table + angles, sin_table + angles, inverse,
                                     x + row * stride);
        }
    }
}

/* What attention works on: keys and values of segments, and the queries of each. */
typedef struct operands {
    dlm_segments keys, queries;
    size_t H, D, stride, q_stride; /* between the rows of k and v; of q */
    const float *q, *k, *v;
} operands;

static dlm_head head_of(const operands *x, size_t segment, size_t head) {
    const size_t row = x->keys.offsets[segment], at = row * x->stride + head * x->D;
    return (dlm_head){.L = x->keys.offsets[segment + 1] - row,
                      .D = x->D,
                      .stride = x->stride,
                      .q_stride = x->q_stride,
                      .q = x->q + x->queries.offsets[segment] * x->q_stride + head * x->D,
                      .k = x->k + at,
                      .v = x->v + at};
}

static size_t length_of(dlm_segments seg, size_t s) {
    return seg.offsets[s + 1] - seg.offsets[s];
}

static size_t longest_of(dlm_segments seg) {
    size_t longest = 0;
    for (size_t s = 0; s < seg.n; s++) longest = length_of(seg, s) > longest ? length_of(seg, s) : longest;
    return longest;
}

/* Threads that attention is worth: a query costs L D a head. */
static int team_for(const operands *x) {
    size_t work = 0;
    for (size_t s = 0; s < x->keys.n; s++)
        work += length_of(x->keys, s) * length_of(x->queries, s) * x->H * x->D;
    return dlm__team(work, 16 * DLM_GRAIN);
}

/* Whether products of operands of `type` are of bfloat16 here. */
static bool in_pairs(const dlm_compute *compute, dlm_dtype type) {
    return compute->pairs && type == DLM_BF16;
}

static void attend(dlm_compute *compute, const operands *x, void *o, dlm_dtype type, float *lse) {
    __typeof__(compute->kernels->attention) kernel =
        in_pairs(compute, type) ? compute->kernels->attention_pairs : compute->kernels->attention;
    const size_t H = x->H, C = H * x->D, longest = longest_of(x->queries);
    const int team = team_for(x);
    size_t stride = 0;
    float *scratch =
        dlm__scratch(compute, (size_t)team, dlm__attention_scratch(longest_of(x->keys), x->D), &stride);
    if (scratch == NULL || longest == 0) return;
    /* A head is cut where there are too few of them to keep all threads busy. */
    const size_t wanted = 4 * (size_t)team, heads = x->keys.n * H;
    const size_t most = (longest + DLM_QUERIES - 1) / DLM_QUERIES;
    size_t cuts = team == 1 ? 1 : (wanted + heads - 1) / heads;
    if (cuts > most) cuts = most;
#pragma omp parallel num_threads(team) if (team > 1)
    {
        float *own = scratch + (size_t)omp_get_thread_num() * stride;
#pragma omp for schedule(dynamic)
        for (size_t piece = 0; piece < heads * cuts; piece++) {
            const size_t s = piece / (H * cuts), h = piece / cuts % H;
            const dlm_head head = head_of(x, s, h);
            const dlm_range r =
                dlm__part(length_of(x->queries, s), DLM_QUERIES, (int)(piece % cuts), (int)cuts);
            if (r.first == r.last) continue;
            const size_t row = x->queries.offsets[s];
            kernel(&head, r.first, r.last, dlm__element(o, type, row * C + h * x->D), C, type,
                   lse == NULL ? NULL : lse + row * H + h, H, own);
        }
    }
}

/* dq, dk and dv lie as q, k and v do. */
static void attend_backward(dlm_compute *compute, const operands *x, const float *lse, const float *d_o,
                            dlm_dtype type, float *dq, float *dk, float *dv) {
    __typeof__(compute->kernels->attention_backward) kernel = in_pairs(compute, type)
                                                                  ? compute->kernels->attention_pairs_backward
                                                                  : compute->kernels->attention_backward;
    const size_t H = x->H, D = x->D, C = H * D, longest = longest_of(x->keys);
    const int team = team_for(x);
    size_t stride = 0;
    float *scratch = dlm__scratch(compute, (size_t)team, dlm__attention_scratch(longest, D), &stride);
    if (scratch == NULL || longest == 0) return;
#pragma omp parallel num_threads(team) if (team > 1)
    {
        float *own = scratch + (size_t)omp_get_thread_num() * stride;
#pragma omp for schedule(dynamic)
        for (size_t piece = 0; piece < x->keys.n * H; piece++) {
            const size_t s = piece / H, h = piece % H, row = x->queries.offsets[s];
            const size_t at = x->keys.offsets[s] * x->stride + h * D;
            const dlm_head head = head_of(x, s, h);
            if (head.L == 0) continue;
            kernel(&head, length_of(x->queries, s), lse + row * H + h, H, d_o + row * C + h * D, C,
                   dq + row * x->q_stride + h * D, dk + at, dv + at, own);
        }
    }
}

/* Queries in rows `q_stride` long; keys and values side by side in rows `stride` long. */
static operands operands_of(dlm_segments seg, dlm_segments queries, size_t H, size_t D, const float *q,
                            size_t q_stride, const float *k, size_t stride) {
    return (operands){.keys = seg,
                      .queries = queries,
                      .H = H,
                      .D = D,
                      .stride = stride,
                      .q_stride = q_stride,
                      .q = q,
                      .k = k,
                      .v = k + H * D};
}

/* Queries, keys and values side by side. */
static operands whole(dlm_segments seg, size_t H, size_t D, const float *qkv) {
    const size_t C = H * D;
    return operands_of(seg, seg, H, D, qkv, 3 * C, qkv + C, 3 * C);
}

/* Queries by themselves. */
static operands apart(dlm_segments seg, dlm_segments queries, size_t H, size_t D, const float *q,
                      const float *kv) {
    return operands_of(seg, queries, H, D, q, H * D, kv, 2 * H * D);
}

void dlm__attention(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *qkv, void *o,
                    dlm_dtype type, float *lse) {
    const operands x = whole(seg, H, D, qkv);
    attend(compute, &x, o, type, lse);
}

void dlm__attention_rows(dlm_compute *compute, dlm_segments seg, dlm_segments queries, size_t H, size_t D,
                         const float *q, const float *kv, void *o, dlm_dtype type, float *lse) {
    const operands x = apart(seg, queries, H, D, q, kv);
    attend(compute, &x, o, type, lse);
}

void dlm__attention_backward(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *qkv,
                             const float *lse, const float *d_o, dlm_dtype type, float *dqkv) {
    const size_t C = H * D;
    const operands x = whole(seg, H, D, qkv);
    attend_backward(compute, &x, lse, d_o, type, dqkv, dqkv + C, dqkv + 2 * C);
}

void dlm__attention_rows_backward(dlm_compute *compute, dlm_segments seg, dlm_segments queries, size_t H,
                                  size_t D, const float *q, const float *kv, const float *lse,
                                  const float *d_o, dlm_dtype type, float *dq, float *dkv) {
    const operands x = apart(seg, queries, H, D, q, kv);
    attend_backward(compute, &x, lse, d_o, type, dq, dkv, dkv + H * D);
}
