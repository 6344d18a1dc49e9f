/* How fast the primitives of src/compute are here: products and attention in GFLOP/s, the rest in GB/s of
 * memory read and written, each beside what the machine gives in the same run (the largest float32 product;
 * a copy of memory).
 *
 *     bench_compute [ISA [THREADS]]
 *
 * A figure is the best of several repetitions. */
#include "base/base.h"
#include "compute/compute.h"

#include <stdlib.h>
#include <string.h>

typedef struct bench {
    dlm_compute *compute;
    double peak;      /* GFLOP/s of the largest float32 product */
    double bandwidth; /* GB/s of a copy */
} bench;

static float *floats(size_t n) {
    float *x = dlm__calloc(n, sizeof *x);
    if (x == NULL) abort();
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++) x[i] = (float)dlm__rng_uniform(&rng) - 0.5F;
    return x;
}

/* Seconds of one call of `work`, best of those that fit into a quarter of a second. */
#define BEST(seconds, work)                                                        \
    do {                                                                           \
        work;                                                                      \
        (seconds) = 1e9;                                                           \
        const double begin = dlm__seconds();                                       \
        for (int count = 0; count < 3 || dlm__seconds() < begin + 0.25; count++) { \
            const double start = dlm__seconds();                                   \
            work;                                                                  \
            const double took = dlm__seconds() - start;                            \
            if (took < (seconds)) (seconds) = took;                                \
        }                                                                          \
    } while (0)

static void report_flops(const bench *b, const char *what, double flops, double seconds) {
    const double rate = flops / seconds * 1e-9;
    printf("%-44s %9.3f ms %8.1f GFLOP/s", what, seconds * 1e3, rate);
    if (b->peak > 0) printf(" %5.0f %%", 100 * rate / b->peak);
    printf("\n");
}

static void report_bytes(const bench *b, const char *what, double bytes, double seconds) {
    const double rate = bytes / seconds * 1e-9;
    printf("%-44s %9.3f ms %8.1f GB/s", what, seconds * 1e3, rate);
    if (b->bandwidth > 0) printf("    %5.0f %%", 100 * rate / b->bandwidth);
    printf("\n");
}

static double product(bench *b, size_t M, size_t N, size_t K, bool ta, bool tb, dlm_dtype type) {
    const dlm_product p = {.M = M, .N = N, .K = K, .transpose_a = ta, .transpose_b = tb, .type = type};
    float *A = floats(M * K), *B = floats(K * N), *Y = floats(M * N);
    dlm__to_type(b->compute, M * K, A, A, type);
    dlm__to_type(b->compute, K * N, B, B, type);
    double seconds;
    BEST(seconds, dlm__matmul(b->compute, &p, A, B, NULL, Y));
    char what[80];
    snprintf(what, sizeof what, "product %zu %zu %zu%s%s %s", M, N, K, ta ? " A'" : "", tb ? " B'" : "",
             type == DLM_BF16 ? "bf16" : "f32");
    const double flops = 2.0 * (double)M * (double)N * (double)K;
    report_flops(b, what, flops, seconds);
    free(A), free(B), free(Y);
    return flops / seconds * 1e-9;
}

/* The three products of a linear layer: forward, gradient of its input, gradient of its weight. */
static void products(bench *b) {
    b->peak = product(b, 512, 512, 512, false, true, DLM_F32);
    static const size_t layers[][3] = {{2048, 1024, 256}, {2048, 768, 256}, {2048, 256, 1024},
                                       {2048, 512, 128},  {320, 3072, 768}, {80, 3072, 768}};
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        for (dlm_dtype type = DLM_F32; type <= DLM_BF16; type++) {
            const size_t T = layers[i][0], out = layers[i][1], in = layers[i][2];
            (void)product(b, T, out, in, false, true, type);
            (void)product(b, T, in, out, false, false, type);
            (void)product(b, out, in, T, true, false, type);
        }
}

/* Products of few rows, as sampling has them: of 8-bit weights, each behind its float32. */
static void int8_products(bench *b) {
    static const size_t shapes[][3] = {{80, 768, 256},   {320, 768, 256},  {320, 1024, 256}, {320, 256, 1024},
                                       {80, 2304, 768},  {320, 2304, 768}, {320, 768, 768},  {320, 3072, 768},
                                       {320, 768, 3072}, {160, 8192, 256}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t M = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
        float *x = floats(M * K), *w = floats(N * K), *y = floats(M * N);
        dlm_int8 *weights;
        if (dlm__int8_create(b->compute, N, K, w, &weights, NULL) != DLM_OK) abort();
        double seconds;
        char what[80];
        (void)product(b, M, N, K, false, true, DLM_F32);
        BEST(seconds, dlm__int8_matmul(b->compute, M, x, DLM_F32, weights, 0, N, NULL, y));
        snprintf(what, sizeof what, "product %zu %zu %zu B' int8", M, N, K);
        report_flops(b, what, 2.0 * (double)M * (double)N * (double)K, seconds);
        dlm__int8_free(weights);
        free(x), free(w), free(y);
    }
}

static void attention(bench *b, size_t S, size_t L, size_t H, size_t D) {
    const size_t T = S * L, C = H * D;
    size_t *offsets = dlm__calloc(S + 1, sizeof *offsets);
    float *qkv = floats(T * 3 * C), *dqkv = floats(T * 3 * C), *o = floats(T * C), *lse = floats(T * H);
    if (offsets == NULL) abort();
    for (size_t s = 0; s <= S; s++) offsets[s] = s * L;
    const dlm_segments seg = {S, offsets};
    const double flops = 4.0 * (double)T * (double)L * (double)C;
    for (int half = 0; half < 2; half++) {
        const dlm_dtype type = half ? DLM_BF16 : DLM_F32;
        double seconds;
        char what[80];
        BEST(seconds, dlm__attention(b->compute, seg, H, D, qkv, o, type, lse));
        snprintf(what, sizeof what, "attention %zu x %zu, %zu heads of %zu, %s", S, L, H, D,
                 half ? "bf16" : "f32");
        report_flops(b, what, flops, seconds);
        memset(o, 0, T * C * sizeof *o);
        BEST(seconds, dlm__attention_backward(b->compute, seg, H, D, qkv, lse, o, type, dqkv));
        report_flops(b, "    backward", 2.5 * flops, seconds);
    }
    free(offsets), free(qkv), free(dqkv), free(o), free(lse);
}

static void copy(bench *b, size_t n) {
    float *x = floats(n), *y = floats(n);
    double seconds;
    BEST(seconds, dlm__to_type(b->compute, n, x, y, DLM_F32));
    b->bandwidth = 0;
    char what[80];
    snprintf(what, sizeof what, "copy of %zu MB", n * sizeof *x >> 20);
    report_bytes(b, what, 8.0 * (double)n, seconds);
    b->bandwidth = 8.0 * (double)n / seconds * 1e-9;
    free(x), free(y);
}

/* T rows of C, as in a batch of 10 sequences. */
static void rows(bench *b, size_t T, size_t C) {
    enum { S = 10 };
    size_t offsets[S + 1];
    for (size_t s = 0; s <= S; s++) offsets[s] = T / S * s;
    const dlm_segments seg = {S, offsets};
    const size_t n = T / S * S * C;
    float *h = floats(n), *a = floats(n), *d = floats(n), *mod = floats(S * 2 * C), *dmod = floats(S * 2 * C);
    float *mean = floats(T), *rstd = floats(T), *sum = floats(C);
    double seconds;
    const double N = (double)n;
    BEST(seconds, dlm__modulated_norm(b->compute, seg, C, h, mod, mod + C, 2 * C, mean, rstd, a, DLM_F32));
    report_bytes(b, "modulated_norm", 8 * N, seconds);
    BEST(seconds, dlm__modulated_norm_backward(b->compute, seg, C, a, h, mod, mod + C, 2 * C, mean, rstd, d,
                                               dmod, dmod + C, 2 * C, NULL, DLM_F32));
    report_bytes(b, "modulated_norm_backward", 16 * N, seconds);
    BEST(seconds, dlm__gated_residual(b->compute, seg, C, h, mod, 2 * C, d, a));
    report_bytes(b, "gated_residual", 12 * N, seconds);
    BEST(seconds, dlm__gated_residual_backward(b->compute, seg, C, h, mod, 2 * C, d, DLM_F32, a, DLM_F32,
                                               dmod, 2 * C));
    report_bytes(b, "gated_residual_backward", 12 * N, seconds);
    BEST(seconds, dlm__column_sum(b->compute, T / S * S, C, h, DLM_F32, sum));
    report_bytes(b, "column_sum", 4 * N, seconds);
    free(h), free(a), free(d), free(mod), free(dmod), free(mean), free(rstd), free(sum);
}

static void elements(bench *b, size_t n) {
    float *x = floats(n), *y = floats(n), *z = floats(n), *v = floats(n), *w = floats(n);
    double seconds;
    const double N = (double)n;
    BEST(seconds, dlm__gelu(b->compute, n, x, y, NULL, DLM_F32));
    report_bytes(b, "gelu", 8 * N, seconds);
    BEST(seconds, dlm__gelu(b->compute, n, x, y, NULL, DLM_BF16));
    report_bytes(b, "gelu, bf16", 6 * N, seconds);
    BEST(seconds, dlm__to_type(b->compute, n, x, v, DLM_BF16));
    report_bytes(b, "to bf16", 6 * N, seconds);
    BEST(seconds, dlm__gelu_backward(b->compute, n, v, w, z, y, DLM_BF16));
    report_bytes(b, "gelu_backward, bf16, y again", 10 * N, seconds);
    BEST(seconds, (void)dlm__sum_of_squares(b->compute, n, x));
    report_bytes(b, "sum_of_squares", 4 * N, seconds);
    const dlm_adamw a = {1e-3, 0.9, 0.999, 1e-8, 0.01, 0.999, 1, 1};
    memset(v, 0, n * sizeof *v);
    BEST(seconds, dlm__adamw(b->compute, &a, n, x, y, z, v, w));
    report_bytes(b, "adamw and ema", 36 * N, seconds);
    free(x), free(y), free(z), free(v), free(w);
}

static void losses(bench *b, size_t R, size_t V) {
    float *logits = floats(R * V), *ce = floats(R), *d = floats(R * V);
    int32_t *targets = dlm__calloc(R, sizeof *targets);
    if (targets == NULL) abort();
    double seconds;
    char what[80];
    snprintf(what, sizeof what, "cross_entropy %zu x %zu, gradient bf16", R, V);
    BEST(seconds, dlm__cross_entropy(b->compute, R, V, logits, targets, ce, ce, d, DLM_BF16));
    report_bytes(b, what, 6.0 * (double)(R * V), seconds);
    free(logits), free(ce), free(d), free(targets);
}

static void muon(bench *b, size_t rows, size_t columns, dlm_dtype type) {
    const size_t n = rows * columns;
    float *p = floats(n), *g = floats(n), *m = floats(n), *ema = floats(n);
    float *scratch = floats(dlm__muon_scratch(b->compute, rows, columns));
    const dlm_muon a = {1e-3, 0.95, 0.01, 0.999, 1, type};
    const double k = (double)(rows < columns ? rows : columns), N = (double)n;
    double seconds;
    char what[80];
    BEST(seconds, dlm__muon(b->compute, &a, rows, columns, p, g, m, ema, scratch));
    snprintf(what, sizeof what, "muon %zu x %zu %s", rows, columns, type == DLM_BF16 ? "bf16" : "f32");
    report_flops(b, what, 5 * (4 * N * k + 2 * k * k * k), seconds);
    free(p), free(g), free(m), free(ema), free(scratch);
}

int main(int argc, char **argv) {
    bench b = {0};
    dlm_error err;
    if (argc > 2) dlm_set_threads((size_t)strtoul(argv[2], NULL, 10));
    if (dlm__compute_create(argc > 1 ? argv[1] : NULL, &b.compute, &err) != DLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("%s, %s, %zu threads\n", argc > 1 ? argv[1] : dlm_instruction_set(), dlm_backend(),
           dlm__threads());
    products(&b);
    int8_products(&b);
    attention(&b, 10, 200, 8, 32);
    attention(&b, 10, 200, 4, 32);
    attention(&b, 8, 256, 12, 64);
    attention(&b, 1, 80, 12, 64);
    attention(&b, 1, 4096, 2, 32);
    muon(&b, 256, 256, DLM_BF16);
    muon(&b, 1024, 256, DLM_BF16);
    muon(&b, 1024, 256, DLM_F32);
    copy(&b, 16 << 20);
    elements(&b, 8 << 20);
    copy(&b, 2000 * 256);
    rows(&b, 2000, 256);
    elements(&b, 2000 * 256);
    losses(&b, 1000, 1024);
    losses(&b, 500, 8192);
    if (dlm__compute_status(b.compute, &err) != DLM_OK) fprintf(stderr, "%s\n", err.message);
    dlm__compute_free(b.compute);
    return 0;
}
