/* Matrix products against sums in double. */
#include "compute_cases.h"

#include "compute/context.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t shapes[][3] = {
    {1, 1, 1},    {1, 7, 5},      {5, 1, 3},      {16, 33, 20},  {32, 60, 159},
    {17, 16, 1},  {0, 4, 3},      {4, 0, 3},      {3, 4, 0},     {96, 128, 64},
    {70, 67, 45}, {20, 30, 1100}, {1280, 3, 270}, {3, 1280, 270}}; /* M, N, K */

static double element(const float *x, bool transposed, size_t rows, size_t columns, size_t i, size_t j) {
    return (double)(transposed ? x[j * rows + i] : x[i * columns + j]);
}

/* Operands are rounded to bfloat16 before, so they are exact in both types; what is left is the rounding of K
 * sums in float32, whose partial results are of order sqrt(K). */
static void one_product(dlm_compute *compute, const dlm_product *p, bool with_bias) {
    const size_t M = p->M, N = p->N, K = p->K;
    float *A = random_floats(M * K, 1, 1), *B = random_floats(K * N, 1, 2), *bias = random_floats(N, 1, 3);
    float *Y0 = random_floats(M * N, 1, 4);
    dlm_bf16 *a = malloc((M * K + 1) * sizeof *a), *b = malloc((K * N + 1) * sizeof *b);
    REQUIRE(a != NULL && b != NULL);
    dlm__to_type(compute, M * K, A, a, DLM_BF16);
    dlm__to_type(compute, K * N, B, b, DLM_BF16);
    dlm__from_bf16(compute, M * K, a, A);
    dlm__from_bf16(compute, K * N, b, B);
    buffer Y = buffer_make(M * N, sizeof(float));
    memcpy(Y.x, Y0, Y.bytes);
    const bool half = p->type == DLM_BF16;
    dlm__matmul(compute, p, half ? (void *)a : A, half ? (void *)b : B, with_bias ? bias : NULL, Y.x);
    double worst = 0;
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            double want = (p->accumulate ? (double)Y0[i * N + j] : 0) + (with_bias ? (double)bias[j] : 0);
            for (size_t k = 0; k < K; k++)
                want += element(A, p->transpose_a, M, K, i, k) * element(B, p->transpose_b, K, N, k, j);
            const double off = fabs((double)((float *)Y.x)[i * N + j] - want);
            if (!(off <= worst)) worst = off;
        }
    CHECK_CLOSE(worst, 0, 1e-6 + 1e-7 * (double)K);
    buffer_free(Y);
    free(A), free(B), free(bias), free(Y0), free(a), free(b);
}

/* widen: how oneDNN makes bfloat16 products, where both ways exist. */
static void all_products(dlm_compute *compute, bool widen) {
    compute->widen_bf16 = widen;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (unsigned variant = 0; variant < 32; variant++) {
            const dlm_product p = {.M = shapes[k][0],
                                   .N = shapes[k][1],
                                   .K = shapes[k][2],
                                   .transpose_a = (variant & 1) != 0,
                                   .transpose_b = (variant & 2) != 0,
                                   .accumulate = (variant & 4) != 0,
                                   .type = (variant & 8) != 0 ? DLM_BF16 : DLM_F32};
            one_product(compute, &p, (variant & 16) != 0);
        }
}

static void products(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    const bool widen = compute->widen_bf16, pairs = compute->pairs;
    compute->pairs = true;
    all_products(compute, true);
    compute->pairs = false;
    all_products(compute, true);
#ifdef DLM_BACKEND_ONEDNN
    if (compute->onednn != NULL && dlm__onednn_has_bf16(compute->onednn)) all_products(compute, false);
#endif
    compute->widen_bf16 = widen;
    compute->pairs = pairs;
}

TEST(products) {
    for_each_isa(products);
}

/* A matrix times its transpose, and a symmetric matrix times itself: the same bits whether half of the result
 * is computed or all of it. (17 x 1100: more inputs than are packed at a time.) */
static void symmetric_product(dlm_compute *compute, size_t N, size_t K, bool tall) {
    float *X = random_floats(N * K, 1, 5), *all = random_floats(N * N, 1, 6);
    dlm_bf16 *x = malloc((N * K + 1) * sizeof *x), *square = malloc((N * N + 1) * sizeof *square);
    REQUIRE(x != NULL && square != NULL);
    dlm__to_type(compute, N * K, X, x, DLM_BF16);
    buffer half = buffer_make(N * N, sizeof(float));
    dlm_product p = {.M = N, .N = N, .K = K, .transpose_a = tall, .transpose_b = !tall, .type = DLM_BF16};
    for (int twice = 0; twice < 2; twice++) {
        const dlm_bf16 *factor = twice ? square : x;
        p.symmetric = false;
        dlm__matmul(compute, &p, factor, factor, NULL, all);
        p.symmetric = true;
        dlm__matmul(compute, &p, factor, factor, NULL, half.x);
        CHECK(memcmp(half.x, all, half.bytes) == 0);
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < i; j++) CHECK(all[i * N + j] == all[j * N + i]);
        dlm__to_type(compute, N * N, all, square, DLM_BF16);
        p = (dlm_product){.M = N, .N = N, .K = N, .type = DLM_BF16};
    }
    buffer_free(half);
    free(X), free(all), free(x), free(square);
}

static void symmetric_products(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    const bool pairs = compute->pairs;
    compute->pairs = true;
    for (int tall = 0; tall < 2; tall++) {
        symmetric_product(compute, 1, 3, tall != 0);
        symmetric_product(compute, 17, 1100, tall != 0);
        symmetric_product(compute, 64, 20, tall != 0);
        symmetric_product(compute, 33, 33, tall != 0);
        symmetric_product(compute, 202, 96, tall != 0);
    }
    compute->pairs = pairs;
}

TEST(symmetric_products) {
    for_each_isa(symmetric_products);
}

/* The same product under another number of threads, and through a table that has grown. */
TEST(prepared_products) {
    dlm_compute *compute = NULL;
    dlm_error err;
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    for (size_t round = 0; round < 3; round++) {
        dlm_set_threads(round + 1);
        for (size_t M = 1; M <= 40; M++) {
            const dlm_product p = {.M = M, .N = 9, .K = 12, .transpose_b = true};
            one_product(compute, &p, false);
        }
    }
    dlm_set_threads(0);
    CHECK_OK(dlm__compute_status(compute, &err), &err);
    dlm__compute_free(compute);
}

/* With fewer threads than were asked for: where the caller is one of a team himself, and where OpenMP decides
 * how many there are. */
static void fewer_threads(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    const bool pairs = compute->pairs;
    for (unsigned variant = 0; variant < 8; variant++) {
        const dlm_product p = {.M = 128,
                               .N = 160,
                               .K = 96,
                               .transpose_a = (variant & 1) != 0,
                               .transpose_b = (variant & 2) != 0,
                               .type = (variant & 4) != 0 ? DLM_BF16 : DLM_F32};
        compute->pairs = true;
#pragma omp parallel num_threads(2)
#pragma omp single
        {
            CHECK_INT_EQ(dlm__threads(), 1);
            one_product(compute, &p, false);
        }
        omp_set_dynamic(1);
        one_product(compute, &p, false);
        omp_set_dynamic(0);
        compute->pairs = pairs;
    }
}

TEST(fewer_threads_than_asked_for) {
    for_each_isa(fewer_threads);
    dlm_set_threads(2 * dlm__processors());
    for_each_isa(fewer_threads);
    dlm_set_threads(0);
}

/* A product that cannot be says so once and for all, and what follows does nothing. */
TEST(failure_stays) {
    dlm_compute *compute = NULL;
    dlm_error err;
    REQUIRE_OK(dlm__compute_create("reference", &compute, &err), &err);
    const dlm_product huge = {.M = 1, .N = SIZE_MAX / 4, .K = 8, .type = DLM_BF16};
    float x = 1, y = 2;
    dlm__matmul(compute, &huge, &x, &x, NULL, &y);
    CHECK_STATUS(dlm__compute_status(compute, &err), DLM_MEMORY, &err);
    const dlm_product small = {.M = 1, .N = 1, .K = 1};
    dlm__matmul(compute, &small, &x, &x, NULL, &y);
    CHECK(y == 2.0F);
    CHECK_STATUS(dlm__compute_status(compute, NULL), DLM_MEMORY, &err);
    dlm__compute_free(compute);
}

/* Panels are for the kernels that read them. */
TEST(panels_elsewhere) {
    dlm_compute *compute = NULL;
    dlm_error err;
    REQUIRE_OK(dlm__compute_create("reference", &compute, &err), &err);
    const dlm_product p = {
        .M = 1, .N = 16, .K = 2, .transpose_b = true, .type = DLM_BF16, .right = DLM_RIGHT_PANELS};
    dlm_bf16 x[32] = {0};
    float y[16];
    dlm__matmul(compute, &p, x, x, NULL, y);
    CHECK_STATUS(dlm__compute_status(compute, &err), DLM_COMPUTE, &err);
    dlm__compute_free(compute);
}

/* Is the word in the first line of /proc/cpuinfo that begins with name? */
static bool cpuinfo_has(const char *info, const char *name, const char *word) {
    const char *line = strstr(info, name), *end = line == NULL ? NULL : strchr(line, '\n');
    size_t n = strlen(word);
    for (const char *at = line; end != NULL && (at = strstr(at, word)) != NULL && at < end; at += n)
        if ((at[-1] == ' ' || at[-1] == '\t') && (at[n] == ' ' || at[n] == '\n')) return true;
    return false;
}

/* As the kernel tells it: matrix units, or AMD's vector instruction. */
TEST(bfloat16_is_used_where_the_processor_has_it) {
    const char *info = read_text("/proc/cpuinfo", NULL);
    if (strcmp(dlm_backend(), "reference") == 0) {
        CHECK(!dlm__bf16_native());
        return;
    }
    if (info == NULL || strstr(info, "vendor_id") == NULL) SKIP("no /proc/cpuinfo of x86-64");
    if (getenv("ONEDNN_MAX_CPU_ISA") != NULL || getenv("DNNL_MAX_CPU_ISA") != NULL)
        SKIP("oneDNN is told to use less than the processor has");
    const bool matrix = cpuinfo_has(info, "flags", "amx_bf16") && cpuinfo_has(info, "flags", "amx_tile");
    const bool vector = cpuinfo_has(info, "flags", "avx512_bf16");
    const bool amd = cpuinfo_has(info, "vendor_id", "AuthenticAMD");
    CHECK_INT_EQ(dlm__bf16_native(), matrix || (vector && amd));
    printf("isa: bfloat16 products %s\n", matrix   ? "by AMX"
                                          : vector ? "by AVX-512"
                                                   : "are missing on this machine, blocks are widened");
}

TEST(rounded_rows) {
    dlm_compute *compute = NULL;
    dlm_error err;
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    size_t sizes = 0, last = 0;
    for (size_t rows = 0; rows <= 65536; rows++) {
        const size_t rounded = dlm__round_rows(compute, DLM_F32, rows);
        const size_t waste = rounded - rows;
        if (!CHECK(rounded >= rows && (waste <= rows / 8 || waste < 16))) break;
        CHECK_INT_EQ(dlm__round_rows(compute, DLM_F32, rounded), rounded);
        if (rounded != last) sizes++;
        last = rounded;
    }
    if (strcmp(dlm_backend(), "reference") != 0) CHECK(sizes <= 100);
    dlm__compute_free(compute);
}
