/* The command, told to count what it computes: the same sources, but each call of a primitive is noted on its
 * way. bench/side_by_side learns from it what a step of training or a text really takes, since much of what a
 * formula of the model would count is left out.
 *
 *     COUNTED_TO=FILE counted train ...
 *
 * writes to FILE, when it ends, a line of JSON for each kind of call: how often, how many operations, how
 * many bytes, how long by the clock. Matrix products are told apart by all that they were asked for, other
 * primitives by their name. A step begins with the passes over its batch; what came before is step 0.
 *
 * Bytes are those of all but matrix products, each primitive reading its inputs and writing its outputs once,
 * what it adds to being both. Modulations, tables of angles and the like count; Muon's element-wise part and
 * the rows that a pass clears do not. Operations are those of products (symmetric ones as if whole),
 * attention's among them: the multiply and the add of each.
 *
 * The linker leads the calls named __wrap_* through this file (Makefile). */
#include "base/base.h"
#include "compute/compute.h"
#include "train/batch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    size_t step;
    const char *call;
    dlm_product product; /* of a pass: positions, rows, sequences */
    size_t count;
    double flop, bytes, seconds;
} entry;

static struct {
    pthread_mutex_t lock;
    entry *list;
    size_t n, room, step;
} counted = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool same_product(const dlm_product *a, const dlm_product *b) {
    return a->M == b->M && a->N == b->N && a->K == b->K && a->transpose_a == b->transpose_a &&
           a->transpose_b == b->transpose_b && a->accumulate == b->accumulate &&
           a->symmetric == b->symmetric && a->type == b->type && a->right == b->right;
}

static entry *find(const char *call, const dlm_product *product) {
    for (size_t i = counted.n; i-- > 0 && counted.list[i].step == counted.step;) {
        entry *e = &counted.list[i];
        if (strcmp(e->call, call) == 0 && same_product(&e->product, product)) return e;
    }
    if (counted.n == counted.room) {
        counted.room = counted.room == 0 ? 256 : 2 * counted.room;
        counted.list = realloc(counted.list, counted.room * sizeof *counted.list);
        if (counted.list == NULL) abort();
    }
    counted.list[counted.n] = (entry){.step = counted.step, .call = call, .product = *product};
    return &counted.list[counted.n++];
}

/* A call that has begun. */
typedef struct running {
    size_t entry;
    double begin;
} running;

static running note(const char *call, const dlm_product *product, double flop, double bytes) {
    (void)pthread_mutex_lock(&counted.lock);
    entry *e = find(call, product);
    const size_t at = (size_t)(e - counted.list);
    e->count++;
    e->flop += flop;
    e->bytes += bytes;
    (void)pthread_mutex_unlock(&counted.lock);
    return (running){at, dlm__seconds()};
}

static running note_bytes(const char *call, double bytes) {
    return note(call, &(dlm_product){0}, 0, bytes);
}

static void note_end(const running *call) {
    const double seconds = dlm__seconds() - call->begin;
    (void)pthread_mutex_lock(&counted.lock);
    counted.list[call->entry].seconds += seconds;
    (void)pthread_mutex_unlock(&counted.lock);
}

/* In front of a note: the call lasts until its function returns. */
#define CALL __attribute__((cleanup(note_end))) const running call =

__attribute__((destructor)) static void tell(void) {
    static const char *const types[] = {"f32", "bf16", "int8"}, *const rights[] = {"rows", "float", "panels"};
    const char *path = getenv("COUNTED_TO");
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file == NULL) return;
    for (size_t i = 0; i < counted.n; i++) {
        const entry *e = &counted.list[i];
        const dlm_product *p = &e->product;
        (void)fprintf(file,
                      "{\"step\": %zu, \"call\": \"%s\", \"M\": %zu, \"N\": %zu, \"K\": %zu, \"ta\": %d, "
                      "\"tb\": %d, \"accumulate\": %d, \"type\": \"%s\", \"right\": \"%s\", \"count\": %zu, "
                      "\"flop\": %.17g, \"bytes\": %.17g, \"seconds\": %.9g}\n",
                      e->step, e->call, p->M, p->N, p->K, p->transpose_a, p->transpose_b, p->accumulate,
                      types[p->type], rights[p->right], e->count, e->flop, e->bytes, e->seconds);
    }
    if (fclose(file) != 0) abort();
    free(counted.list);
}

/* ---- what the primitives' sizes come to --------------------------------------------------------------- */

static const double of_float = sizeof(float);

static double size_of(dlm_dtype type) {
    return (double)dlm__dtype_size(type);
}

static double rows_of(dlm_segments seg) {
    return (double)seg.offsets[seg.n];
}

/* Vectors of C that belong to each segment, or to all. */
static double vectors(dlm_segments seg, size_t C, size_t stride, double n) {
    return n * of_float * (double)C * (stride == 0 ? 1 : (double)seg.n);
}

static size_t longest_of(dlm_segments seg) {
    size_t longest = 0;
    for (size_t s = 0; s < seg.n; s++) {
        const size_t length = seg.offsets[s + 1] - seg.offsets[s];
        if (length > longest) longest = length;
    }
    return longest;
}

/* How many different ids there are. */
static double different(size_t n, const int32_t *ids) {
    size_t found = 0;
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) most = ids[i] > most ? ids[i] : most;
    bool *seen = calloc((size_t)most + 1, sizeof *seen);
    if (seen == NULL) abort();
    for (size_t i = 0; i < n; i++) {
        found += !seen[ids[i]];
        seen[ids[i]] = true;
    }
    free(seen);
    return (double)found;
}

/* Pairs of a query and a key, in all segments. */
static double pairs(dlm_segments keys, dlm_segments queries) {
    double sum = 0;
    for (size_t s = 0; s < keys.n; s++)
        sum += (double)(keys.offsets[s + 1] - keys.offsets[s]) *
               (double)(queries.offsets[s + 1] - queries.offsets[s]);
    return sum;
}

/* ---- the calls ---------------------------------------------------------------------------------------- */

#define WATCH(name) __typeof__(name) __real_##name, __wrap_##name

WATCH(dlm__passes_loss);
dlm_status __wrap_dlm__passes_loss(dlm_workspace *workspace, const dlm_network *network, size_t n,
                                   const dlm_micro_batch *passes, float *ce, double *loss, float *gradients,
                                   dlm_error *err) {
    if (gradients != NULL) {
        counted.step++;
        /* The trainer has just done that. */
        (void)note_bytes("clear_gradients", of_float * (double)network->layout->total);
    }
    return __real_dlm__passes_loss(workspace, network, n, passes, ce, loss, gradients, err);
}

WATCH(dlm__loss);
dlm_status __wrap_dlm__loss(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                            const int32_t *targets, const float *weight, float *ce, double *loss,
                            float *gradients, dlm_error *err) {
    (void)note("pass",
               &(dlm_product){.M = batch->seg.offsets[batch->seg.n], .N = batch->R, .K = batch->seg.n}, 0, 0);
    return __real_dlm__loss(workspace, network, batch, targets, weight, ce, loss, gradients, err);
}

WATCH(dlm__matmul);
void __wrap_dlm__matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                        const float *bias, float *Y) {
    CALL note("product", product, 2.0 * (double)product->M * (double)product->N * (double)product->K, 0);
    __real_dlm__matmul(compute, product, A, B, bias, Y);
}

WATCH(dlm__int8_matmul);
void __wrap_dlm__int8_matmul(dlm_compute *compute, size_t M, const void *X, dlm_dtype type,
                             const dlm_int8 *weights, size_t first, size_t n, const float *bias, float *Y) {
    const dlm_product product = {.M = M, .N = n, .K = weights->K, .transpose_b = true, .type = DLM_I8};
    CALL note("product", &product, 2.0 * (double)M * (double)n * (double)weights->K, 0);
    __real_dlm__int8_matmul(compute, M, X, type, weights, first, n, bias, Y);
}

WATCH(dlm__embed);
void __wrap_dlm__embed(dlm_compute *compute, dlm_segments seg, size_t C, const int32_t *ids, const float *tok,
                       const float *pos, float *h) {
    const double n = different(seg.offsets[seg.n], ids) + (double)longest_of(seg) + rows_of(seg);
    CALL note_bytes("embed", of_float * (double)C * n);
    __real_dlm__embed(compute, seg, C, ids, tok, pos, h);
}

WATCH(dlm__embed_backward);
void __wrap_dlm__embed_backward(dlm_compute *compute, dlm_segments seg, size_t C, const int32_t *ids,
                                const float *dh, float *dtok, float *dpos) {
    const double sums = different(seg.offsets[seg.n], ids) + (double)longest_of(seg);
    CALL note_bytes("embed_backward", of_float * (double)C * (2 * sums + rows_of(seg)));
    __real_dlm__embed_backward(compute, seg, C, ids, dh, dtok, dpos);
}

WATCH(dlm__time_features);
void __wrap_dlm__time_features(dlm_compute *compute, size_t S, const float *times, void *e, dlm_dtype type) {
    CALL note_bytes("time_features", (double)S * (of_float + 256 * size_of(type)));
    __real_dlm__time_features(compute, S, times, e, type);
}

WATCH(dlm__modulated_norm);
void __wrap_dlm__modulated_norm(dlm_compute *compute, dlm_segments seg, size_t C, const float *h,
                                const float *shift, const float *scale, size_t stride, float *mean,
                                float *rstd, void *a, dlm_dtype type) {
    const double row = (double)C * (of_float + size_of(type)) + 2 * of_float;
    CALL note_bytes("modulated_norm", rows_of(seg) * row + vectors(seg, C, stride, 2));
    __real_dlm__modulated_norm(compute, seg, C, h, shift, scale, stride, mean, rstd, a, type);
}

WATCH(dlm__modulated_norm_backward);
void __wrap_dlm__modulated_norm_backward(dlm_compute *compute, dlm_segments seg, size_t C, const float *da,
                                         const float *h, const float *shift, const float *scale,
                                         size_t stride, const float *mean, const float *rstd, float *dh,
                                         float *dshift, float *dscale, size_t dstride, void *a,
                                         dlm_dtype type) {
    const double row = (double)C * (4 * of_float + (a == NULL ? 0 : size_of(type))) + 2 * of_float;
    CALL note_bytes("modulated_norm_backward",
                    rows_of(seg) * row + vectors(seg, C, stride, 2) + vectors(seg, C, dstride, 4));
    __real_dlm__modulated_norm_backward(compute, seg, C, da, h, shift, scale, stride, mean, rstd, dh, dshift,
                                        dscale, dstride, a, type);
}

WATCH(dlm__gated_residual);
void __wrap_dlm__gated_residual(dlm_compute *compute, dlm_segments seg, size_t C, const float *h,
                                const float *gate, size_t stride, const float *y, float *out) {
    CALL note_bytes("gated_residual", 3 * of_float * (double)C * rows_of(seg) + vectors(seg, C, stride, 1));
    __real_dlm__gated_residual(compute, seg, C, h, gate, stride, y, out);
}

WATCH(dlm__gated_residual_backward);
void __wrap_dlm__gated_residual_backward(dlm_compute *compute, dlm_segments seg, size_t C, const float *dout,
                                         const float *gate, size_t stride, const void *y, dlm_dtype y_type,
                                         void *dy, dlm_dtype type, float *dgate, size_t dstride) {
    const double row = (double)C * (of_float + size_of(y_type) + size_of(type));
    CALL note_bytes("gated_residual_backward",
                    rows_of(seg) * row + vectors(seg, C, stride, 1) + vectors(seg, C, dstride, 2));
    __real_dlm__gated_residual_backward(compute, seg, C, dout, gate, stride, y, y_type, dy, type, dgate,
                                        dstride);
}

WATCH(dlm__gelu);
void __wrap_dlm__gelu(dlm_compute *compute, size_t n, const float *x, void *y, void *kept, dlm_dtype type) {
    CALL note_bytes("gelu", (double)n * (of_float + (kept == NULL ? 1 : 2) * size_of(type)));
    __real_dlm__gelu(compute, n, x, y, kept, type);
}

WATCH(dlm__gelu_backward);
void __wrap_dlm__gelu_backward(dlm_compute *compute, size_t n, const void *x, const float *dy, void *dx,
                               void *y, dlm_dtype type) {
    CALL note_bytes("gelu_backward", (double)n * (of_float + (y == NULL ? 2 : 3) * size_of(type)));
    __real_dlm__gelu_backward(compute, n, x, dy, dx, y, type);
}

WATCH(dlm__silu);
void __wrap_dlm__silu(dlm_compute *compute, size_t n, const float *x, void *y, dlm_dtype type) {
    CALL note_bytes("silu", (double)n * (of_float + size_of(type)));
    __real_dlm__silu(compute, n, x, y, type);
}

WATCH(dlm__silu_backward);
void __wrap_dlm__silu_backward(dlm_compute *compute, size_t n, const float *x, const float *dy, float *dx) {
    CALL note_bytes("silu_backward", 3 * of_float * (double)n);
    __real_dlm__silu_backward(compute, n, x, dy, dx);
}

WATCH(dlm__column_sum);
void __wrap_dlm__column_sum(dlm_compute *compute, size_t rows, size_t N, const void *x, dlm_dtype type,
                            float *sum) {
    CALL note_bytes("column_sum", (double)N * ((double)rows * size_of(type) + 2 * of_float));
    __real_dlm__column_sum(compute, rows, N, x, type, sum);
}

WATCH(dlm__to_type);
void __wrap_dlm__to_type(dlm_compute *compute, size_t n, const float *x, void *y, dlm_dtype type) {
    CALL note_bytes("to_type", (double)n * (of_float + size_of(type)));
    __real_dlm__to_type(compute, n, x, y, type);
}

WATCH(dlm__from_bf16);
void __wrap_dlm__from_bf16(dlm_compute *compute, size_t n, const dlm_bf16 *x, float *y) {
    CALL note_bytes("from_bf16", (double)n * (of_float + size_of(DLM_BF16)));
    __real_dlm__from_bf16(compute, n, x, y);
}

WATCH(dlm__gather_rows);
void __wrap_dlm__gather_rows(dlm_compute *compute, size_t R, size_t C, const int32_t *rows, const float *h,
                             float *out) {
    CALL note_bytes("gather_rows", 2 * of_float * (double)R * (double)C);
    __real_dlm__gather_rows(compute, R, C, rows, h, out);
}

WATCH(dlm__scatter_add_rows);
void __wrap_dlm__scatter_add_rows(dlm_compute *compute, size_t R, size_t C, const int32_t *rows,
                                  const float *dout, float *dh) {
    CALL note_bytes("scatter_add_rows", 3 * of_float * (double)R * (double)C);
    __real_dlm__scatter_add_rows(compute, R, C, rows, dout, dh);
}

WATCH(dlm__rotate);
void __wrap_dlm__rotate(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *cos_table,
                        const float *sin_table, bool inverse, float *qkv) {
    CALL note_bytes("rotate",
                    of_float * (double)D * (4 * rows_of(seg) * (double)H + (double)longest_of(seg)));
    __real_dlm__rotate(compute, seg, H, D, cos_table, sin_table, inverse, qkv);
}

WATCH(dlm__rotate_rows);
void __wrap_dlm__rotate_rows(dlm_compute *compute, size_t R, const int32_t *positions, size_t heads, size_t D,
                             size_t stride, const float *cos_table, const float *sin_table, bool inverse,
                             float *x) {
    CALL note_bytes("rotate_rows", 2 * of_float * (double)R * (double)heads * (double)D);
    __real_dlm__rotate_rows(compute, R, positions, heads, D, stride, cos_table, sin_table, inverse, x);
}

/* Two products forward, of queries with keys and of weights with values; five backward, since the first is
 * made again. */

WATCH(dlm__attention);
void __wrap_dlm__attention(dlm_compute *compute, dlm_segments seg, size_t H, size_t D, const float *qkv,
                           void *o, dlm_dtype type, float *lse) {
    const double C = (double)(H * D), row = C * (3 * of_float + size_of(type)),
                 sums = lse == NULL ? 0 : of_float * (double)H;
    CALL note("attention", &(dlm_product){.type = type}, 4 * C * pairs(seg, seg),
              rows_of(seg) * (row + sums));
    __real_dlm__attention(compute, seg, H, D, qkv, o, type, lse);
}

WATCH(dlm__attention_rows);
void __wrap_dlm__attention_rows(dlm_compute *compute, dlm_segments seg, dlm_segments queries, size_t H,
                                size_t D, const float *q, const float *kv, void *o, dlm_dtype type,
                                float *lse) {
    const double C = (double)(H * D), row = C * (of_float + size_of(type)),
                 sums = lse == NULL ? 0 : of_float * (double)H;
    CALL note("attention", &(dlm_product){.type = type}, 4 * C * pairs(seg, queries),
              rows_of(queries) * (row + sums) + 2 * of_float * C * rows_of(seg));
    __real_dlm__attention_rows(compute, seg, queries, H, D, q, kv, o, type, lse);
}

WATCH(dlm__attention_backward);
void __wrap_dlm__attention_backward(dlm_compute *compute, dlm_segments seg, size_t H, size_t D,
                                    const float *qkv, const float *lse, const float *d_o, dlm_dtype type,
                                    float *dqkv) {
    const double C = (double)(H * D);
    CALL note("attention", &(dlm_product){.type = type}, 10 * C * pairs(seg, seg),
              of_float * rows_of(seg) * (7 * C + (double)H));
    __real_dlm__attention_backward(compute, seg, H, D, qkv, lse, d_o, type, dqkv);
}

WATCH(dlm__attention_rows_backward);
void __wrap_dlm__attention_rows_backward(dlm_compute *compute, dlm_segments seg, dlm_segments queries,
                                         size_t H, size_t D, const float *q, const float *kv,
                                         const float *lse, const float *d_o, dlm_dtype type, float *dq,
                                         float *dkv) {
    const double C = (double)(H * D);
    CALL note("attention", &(dlm_product){.type = type}, 10 * C * pairs(seg, queries),
              of_float * (rows_of(queries) * (3 * C + (double)H) + 4 * C * rows_of(seg)));
    __real_dlm__attention_rows_backward(compute, seg, queries, H, D, q, kv, lse, d_o, type, dq, dkv);
}

WATCH(dlm__softmax);
void __wrap_dlm__softmax(dlm_compute *compute, size_t R, size_t V, float scale, float *x) {
    CALL note_bytes("softmax", 2 * of_float * (double)R * (double)V);
    __real_dlm__softmax(compute, R, V, scale, x);
}

WATCH(dlm__cross_entropy);
void __wrap_dlm__cross_entropy(dlm_compute *compute, size_t R, size_t V, const float *logits,
                               const int32_t *targets, const float *weight, float *ce, void *dlogits,
                               dlm_dtype type) {
    CALL note_bytes("cross_entropy",
                    (double)R * (double)V * (of_float + (dlogits == NULL ? 0 : size_of(type))));
    __real_dlm__cross_entropy(compute, R, V, logits, targets, weight, ce, dlogits, type);
}

WATCH(dlm__sum_of_squares);
double __wrap_dlm__sum_of_squares(dlm_compute *compute, size_t n, const float *x) {
    CALL note_bytes("sum_of_squares", of_float * (double)n);
    return __real_dlm__sum_of_squares(compute, n, x);
}

WATCH(dlm__adamw);
void __wrap_dlm__adamw(dlm_compute *compute, const dlm_adamw *a, size_t n, float *p, const float *g, float *m,
                       float *v, float *ema) {
    CALL note_bytes("adamw", 9 * of_float * (double)n);
    __real_dlm__adamw(compute, a, n, p, g, m, v, ema);
}
