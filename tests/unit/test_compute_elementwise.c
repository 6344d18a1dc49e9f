/* Element-wise primitives of every instruction set against the plain loops. */
#include "compute_cases.h"

/* Sizes around the vector widths, and some that several threads share. */
static const size_t sizes[] = {0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 100, 40001};
enum { SIZES = sizeof sizes / sizeof *sizes };

TEST(instruction_sets) {
    for (size_t i = 0; dlm__isa_name(i) != NULL; i++)
        printf("isa: %s %s\n", dlm__isa_name(i),
               dlm__isa_available(dlm__isa_name(i)) ? "ran" : "not on this machine");
    dlm_compute *compute = NULL;
    dlm_error err;
    CHECK_STATUS(dlm__compute_create("mmx", &compute, &err), DLM_UNSUPPORTED, &err);
    CHECK(compute == NULL);
    CHECK_SAYS(&err, "mmx");
    CHECK(dlm__isa_available(dlm_instruction_set()));
}

/* Random, and the values where things break. */
static float *activation_inputs(size_t n) {
    static const float special[] = {0,      -0.0F,  1e-30F, -1e-30F, 5,      -5,       11.9F,  -11.9F, 12.1F,
                                    -12.1F, 88,     -88,    90,      -90,    1e20F,    -1e20F, 3e38F,  -3e38F,
                                    NAN,    1e-40F, 0.01F,  -0.01F,  103.9F, -103.97F, 1.0F,   -1.0F};
    float *x = random_floats(n, 3, 1);
    for (size_t i = 0; i < sizeof special / sizeof *special && i < n; i++) x[i] = special[i];
    return x;
}

static void activations(dlm_compute *plain, dlm_compute *compute) {
    for (size_t k = 0; k < SIZES; k++)
        for (dlm_dtype type = DLM_F32; type <= DLM_BF16; type++) {
            const size_t n = sizes[k], size = dlm__dtype_size(type);
            float *x = activation_inputs(n), *dy = random_floats(n, 1, 2);
            buffer y = buffer_make(n, size), want = buffer_make(n, size);
            buffer dx = buffer_make(n, size), want_dx = buffer_make(n, size);
            buffer kept = buffer_make(n, size), rounded = buffer_make(n, size);
            float *again = copy_floats(x, n);
            dlm__gelu(compute, n, x, y.x, NULL, type);
            dlm__gelu(plain, n, x, want.x, NULL, type);
            check_agree(y.x, want.x, type, n, 3e-7, "gelu");
            memset(y.x, 0, y.bytes);
            dlm__gelu(compute, n, x, y.x, kept.x, type);
            check_agree(y.x, want.x, type, n, 3e-7, "gelu, kept");
            dlm__to_type(plain, n, x, rounded.x, type);
            check_agree(kept.x, rounded.x, type, n, 1e-7, "what is kept"); /* the smallest numbers may be 0 */
            if (type == DLM_BF16) dlm__from_bf16(plain, n, kept.x, again);
            dlm__gelu(plain, n, again, want.x, NULL, type);
            memset(y.x, 0, y.bytes);
            dlm__gelu_backward(compute, n, kept.x, dy, dx.x, y.x, type);
            dlm__gelu_backward(plain, n, kept.x, dy, want_dx.x, NULL, type);
            check_agree(y.x, want.x, type, n, 3e-7, "gelu again");
            check_agree(dx.x, want_dx.x, type, n, 6e-7, "gelu_backward");
            dlm__gelu_backward(compute, n, kept.x, dy, kept.x, y.x, type);
            CHECK_MEM_EQ(kept.x, dx.x, dx.bytes);
            check_agree(y.x, want.x, type, n, 3e-7, "gelu again, in place");
            buffer_free(kept), buffer_free(rounded), free(again);
            dlm__silu(compute, n, x, y.x, type);
            dlm__silu(plain, n, x, want.x, type);
            check_agree(y.x, want.x, type, n, 3e-7, "silu");
            if (type == DLM_F32) {
                dlm__silu_backward(compute, n, x, dy, dx.x);
                dlm__silu_backward(plain, n, x, dy, want_dx.x);
                check_agree(dx.x, want_dx.x, type, n, 6e-7, "silu_backward");
            }
            buffer_free(y), buffer_free(want), buffer_free(dx), buffer_free(want_dx);
            free(x), free(dy);
        }
}

TEST(activations) {
    for_each_isa(activations);
}

/* By the definition, in long double: the bits that are kept, and whether the rest is more, less or just half
 * a unit. */
static dlm_bf16 nearest_even(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t kept = bits >> 16, rest = bits & 0xffff;
    if (rest > 0x8000 || (rest == 0x8000 && (kept & 1) != 0)) return (dlm_bf16)(kept + 1);
    return (dlm_bf16)kept;
}

static void conversions(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { N = 1 << 16 };
    float *x = malloc(N * sizeof *x), *back = malloc(N * sizeof *back);
    buffer y = buffer_make(N, sizeof(dlm_bf16));
    REQUIRE(x != NULL && back != NULL);
    /* Every upper half, with lower halves that round down, up, and tie. */
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (size_t k = 0; k < sizeof low / sizeof *low; k++) {
        for (uint32_t i = 0; i < N; i++) {
            const uint32_t bits = i << 16 | low[k];
            memcpy(&x[i], &bits, sizeof bits);
        }
        dlm__to_type(compute, N, x, y.x, DLM_BF16);
        size_t wrong = 0;
        for (size_t i = 0; i < N; i++) {
            const dlm_bf16 got = ((const dlm_bf16 *)y.x)[i];
            if (isnan(x[i]) ? !isnan(bf16_value(got)) : got != nearest_even(x[i])) wrong++;
        }
        CHECK_INT_EQ(wrong, 0);
        if (low[k] != 0) continue;
        dlm__from_bf16(compute, N, y.x, back);
        for (size_t i = 0; i < N; i++)
            if (!isnan(x[i]) && memcmp(&x[i], &back[i], sizeof *x) != 0) wrong++;
        CHECK_INT_EQ(wrong, 0);
    }
    buffer_free(y);
    free(x), free(back);
    for (size_t k = 0; k < SIZES; k++) {
        const size_t n = sizes[k];
        float *from = random_floats(n, 1, 3);
        buffer to = buffer_make(n, sizeof(dlm_bf16)), widened = buffer_make(n, sizeof(float));
        buffer same = buffer_make(n, sizeof(float));
        dlm__to_type(compute, n, from, to.x, DLM_BF16);
        dlm__from_bf16(compute, n, to.x, widened.x);
        check_agree(widened.x, from, DLM_F32, n, 1.0 / 256, "there and back");
        dlm__to_type(compute, n, from, same.x, DLM_F32);
        CHECK_MEM_EQ(same.x, from, n * sizeof *from);
        buffer_free(to), buffer_free(widened), buffer_free(same);
        free(from);
    }
}

TEST(conversions) {
    for_each_isa(conversions);
}

static void cleared(dlm_compute *plain, dlm_compute *compute) {
    (void)plain, (void)compute;
    static const size_t counts[] = {0, 1, 15, 17, 40001, 100000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        buffer x = buffer_make(counts[i], sizeof(float));
        dlm__clear(counts[i], x.x);
        for (size_t k = 0; k < counts[i]; k++)
            if (!CHECK(((float *)x.x)[k] == 0)) break;
        buffer_free(x);
    }
}

TEST(clear) {
    for_each_isa(cleared);
}

static void sums(dlm_compute *plain, dlm_compute *compute) {
    static const size_t shapes[][2] = {{0, 5}, {1, 1}, {7, 3}, {8, 16}, {9, 33}, {100, 60}, {301, 257}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const size_t rows = shapes[k][0], N = shapes[k][1];
        float *x = random_floats(rows * N, 1, 4), *start = random_floats(N, 1, 5);
        dlm_bf16 *half = malloc((rows * N + 1) * sizeof *half);
        REQUIRE(half != NULL);
        dlm__to_type(plain, rows * N, x, half, DLM_BF16);
        for (dlm_dtype type = DLM_F32; type <= DLM_BF16; type++) {
            const void *from = type == DLM_F32 ? (const void *)x : half;
            buffer sum = buffer_make(N, sizeof(float));
            float *want = copy_floats(start, N);
            memcpy(sum.x, start, N * sizeof *start);
            dlm__column_sum(compute, rows, N, from, type, sum.x);
            dlm__column_sum(plain, rows, N, from, type, want);
            check_agree(sum.x, want, DLM_F32, N, 1e-5, "column_sum");
            buffer_free(sum);
            free(want);
        }
        free(x), free(start), free(half);
    }
}

TEST(sums) {
    for_each_isa(sums);
}

static void squares(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    for (size_t k = 0; k < SIZES; k++) {
        const size_t n = sizes[k];
        float *x = random_floats(n, 1e3, 7);
        double want = 0;
        for (size_t i = 0; i < n; i++) want += (double)x[i] * (double)x[i];
        const double got = dlm__sum_of_squares(compute, n, x);
        CHECK_CLOSE(got, want, 1e-12 * want);
        CHECK(got == dlm__sum_of_squares(compute, n, x));
        if (n > 0) {
            x[n / 2] = 3e38F; /* its square is no float */
            CHECK(isfinite(dlm__sum_of_squares(compute, n, x)));
            x[n / 2] = -INFINITY;
            CHECK(isinf(dlm__sum_of_squares(compute, n, x)));
            x[n - 1] = NAN;
            CHECK(isnan(dlm__sum_of_squares(compute, n, x)));
        }
        free(x);
    }
}

TEST(sum_of_squares) {
    for_each_isa(squares);
}
