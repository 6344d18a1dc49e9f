/* Products of 8-bit integers: the sums of every instruction set are those of the plain loop bit for bit, and
 * all of it is near the product of what was rounded. */
#include "compute_cases.h"

#include "compute/context.h"

/* The last has more rows than go through all columns of a thread at a time. */
static const size_t shapes[][3] = {/* M, N, K */
                                   {1, 1, 1},    {1, 16, 2},      {2, 17, 3},    {3, 15, 8},
                                   {5, 33, 31},  {7, 48, 64},     {16, 80, 96},  {97, 24, 200},
                                   {200, 40, 7}, {13, 128, 1025}, {1100, 18, 12}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static dlm_int8 *make(dlm_compute *compute, size_t N, size_t K, const float *w) {
    dlm_int8 *made = NULL;
    dlm_error err;
    CHECK_OK(dlm__int8_create(compute, N, K, w, &made, &err), &err);
    return made;
}

/* Rows of integers up to 127, which is there: scales are 1, and nothing is rounded. */
static float *whole_numbers(size_t rows, size_t K, uint32_t stream) {
    float *x = random_floats(rows * K, 50, stream);
    for (size_t i = 0; i < rows * K; i++) x[i] = fminf(fmaxf(rintf(x[i]), -127), 127) + 0.0F; /* no -0 */
    for (size_t r = 0; r < rows; r++) x[r * K + r % K] = r % 2 == 0 ? 127 : -127;
    return x;
}

/* Values whose product by this library's own kernels has to be exact, of columns first .. N - 1, with and
 * without bias, from float32 and from bfloat16. The context is one whose products oneDNN may make otherwise.
 */
static void exact_product(dlm_compute *compute, size_t M, size_t N, size_t K, size_t first, const float *x,
                          const float *w) {
    const size_t n = N - first;
    const bool onednn = compute->onednn_int8;
    float *bias = random_floats(N, 100, 5);
    buffer y = buffer_make(M * n, sizeof(float)), with = buffer_make(M * n, sizeof(float));
    buffer half = buffer_make(M * K, sizeof(dlm_bf16)), same = buffer_make(M * n, sizeof(float));
    dlm__to_type(compute, M * K, x, half.x, DLM_BF16);
    compute->onednn_int8 = false;
    dlm_int8 *weights = make(compute, N, K, w);
    REQUIRE(weights != NULL && weights->rows == NULL);
    check_context("%zu x %zu x %zu from column %zu", M, N, K, first);
    dlm__int8_matmul(compute, M, x, DLM_F32, weights, first, n, NULL, y.x);
    dlm__int8_matmul(compute, M, x, DLM_F32, weights, first, n, bias + first, with.x);
    dlm__int8_matmul(compute, M, half.x, DLM_BF16, weights, first, n, NULL, same.x);
    CHECK_MEM_EQ(same.x, y.x, M * n * sizeof(float));
    compute->onednn_int8 = onednn;
    for (size_t m = 0; m < M; m++)
        for (size_t j = 0; j < n; j++) {
            int64_t sum = 0;
            for (size_t i = 0; i < K; i++) sum += (int64_t)x[m * K + i] * (int64_t)w[(first + j) * K + i];
            const float want = (float)sum, more = want + bias[first + j];
            CHECK_MEM_EQ((float *)y.x + m * n + j, &want, sizeof want);
            CHECK_MEM_EQ((float *)with.x + m * n + j, &more, sizeof more);
        }
    dlm__int8_free(weights);
    buffer_free(y), buffer_free(with), buffer_free(half), buffer_free(same);
    free(bias);
}

static void exact(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    for (size_t k = 0; k < SHAPES; k++) {
        const size_t M = shapes[k][0], N = shapes[k][1], K = shapes[k][2];
        float *x = whole_numbers(M, K, 1), *w = whole_numbers(N, K, 2), *back = copy_floats(w, N * K);
        dlm_int8 *weights = make(compute, N, K, w);
        REQUIRE(weights != NULL);
        dlm__int8_values(weights, back);
        CHECK_MEM_EQ(back, w, N * K * sizeof *w);
        dlm__int8_free(weights);
        exact_product(compute, M, N, K, 0, x, w);
        free(x), free(w), free(back);
    }
}

TEST(integer_sums_are_exact) {
    for_each_isa(exact);
}

/* Every count of rows up to some tiles of them, with every rest of columns and of inputs. */
static void every_tile(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    for (size_t M = 1; M <= 40; M++)
        for (size_t k = 0; k < 6; k++) {
            const size_t N = 1 + (17 * M + 29 * k) % 120, K = 1 + (5 * M + 7 * k) % 24;
            const size_t unit = dlm__int8_unit(), first = k % 2 == 0 ? 0 : N / 2 / unit * unit;
            float *x = whole_numbers(M, K, 1), *w = whole_numbers(N, K, 2);
            exact_product(compute, M, N, K, first, x, w);
            free(x), free(w);
        }
}

TEST(every_tile_is_exact) {
    for_each_isa(every_tile);
}

/* More rows than go through all columns at once. */
static void many_rows(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { N = 20, K = 24 };
    static const size_t counts[] = {511, 512, 513, 1025, 1600};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        float *x = whole_numbers(counts[k], K, 1), *w = whole_numbers(N, K, 2);
        exact_product(compute, counts[k], N, K, 0, x, w);
        free(x), free(w);
    }
}

TEST(blocks_of_rows_are_exact) {
    for_each_isa(many_rows);
}

/* Neighbouring products that all have the largest size: any sum of two or four of them saturates in 16 bits,
 * and of four raised ones also when it is added. */
static void traps(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { M = 4, N = 33, K = 259 };
    float *x = malloc(sizeof(float) * M * K), *w = malloc(sizeof(float) * N * K);
    REQUIRE(x != NULL);
    REQUIRE(w != NULL);
    for (size_t i = 0; i < (size_t)M * K; i++) x[i] = i / K % 2 == 0 || i % 4 < 2 ? 127 : -127;
    for (size_t i = 0; i < (size_t)N * K; i++)
        w[i] = i / K % 3 == 0 || (i / K % 3 == 1 && i % 4 < 2) ? 127 : -127;
    exact_product(compute, M, N, K, 0, x, w);
    free(x), free(w);
}

TEST(nothing_saturates) {
    for_each_isa(traps);
}

/* Of all these teams, each result is the plain loops', and no column or row is left to nobody. */
TEST(teams_of_any_size) {
    static const size_t more[][3] = {{320, 256, 512}, {97, 400, 768}, {8, 4096, 256}, {600, 48, 1024}};
    dlm_compute *compute = NULL;
    dlm_error err;
    for (size_t threads = 1; threads <= 7; threads++) {
        dlm_set_threads(threads);
        REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
        for (size_t k = 0; k < sizeof more / sizeof *more; k++) {
            const size_t M = more[k][0], N = more[k][1], K = more[k][2];
            float *x = whole_numbers(M, K, 1), *w = whole_numbers(N, K, 2);
            check_context("%zu threads", threads);
            exact_product(compute, M, N, K, 0, x, w);
            free(x), free(w);
        }
        dlm__compute_free(compute);
    }
    dlm_set_threads(0);
}

/* Integers of every form, side by side and apart, from either type, are the plain loops'. */
static void forms(dlm_compute *plain, dlm_compute *compute) {
    enum { MOST = 100 };
    for (size_t n = 1; n <= MOST; n++)
        for (int form = DLM_INT8_SIGNED; form <= DLM_INT8_RAISED; form++)
            for (size_t step = 1; step <= 16; step += step < 3 ? 1 : step < 9 ? 3 : 4) {
                const dlm_int8_form as = (dlm_int8_form)form;
                const dlm_dtype type = (n + step) % 2 == 0 ? DLM_F32 : DLM_BF16;
                const size_t bytes = ((n - 1) / 4 * step + 1) * 4 * dlm__int8_size(as);
                float *x = random_floats(n, 3, (uint32_t)n);
                if (n % 10 == 0) x[n / 2] = n % 20 == 0 ? NAN : -INFINITY;
                if (n % 10 == 1) memset(x, 0, n * sizeof *x);
                buffer q = buffer_make(bytes, 1), want = buffer_make(bytes, 1);
                buffer of = buffer_make(n, dlm__dtype_size(type));
                dlm__to_type(plain, n, x, of.x, type);
                check_context("%zu in form %d, %zu apart, type %d", n, form, step, (int)type);
                const float scale = compute->kernels->quantise(n, of.x, type, as, step, q.x);
                const float same = plain->kernels->quantise(n, of.x, type, as, step, want.x);
                CHECK(isnan(same) ? isnan(scale) : scale == same);
                CHECK_MEM_EQ(q.x, want.x, bytes);
                buffer_free(q), buffer_free(want), buffer_free(of);
                free(x);
            }
}

TEST(forms_of_integers) {
    for_each_isa(forms);
}

/* Groups of rows, whole and not, are their rows one by one; a row that has no scale takes nothing from
 * others. */
static void groups(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { MOST = 70 };
    const dlm_kernels *kernels = compute->kernels;
    const size_t size = dlm__int8_size(kernels->int8_form), step = kernels->int8_rows;
    for (size_t n = 1; n <= MOST; n++)
        for (size_t rows = 1; rows <= step; rows++) {
            const dlm_dtype type = (n + rows) % 2 == 0 ? DLM_F32 : DLM_BF16;
            const size_t bytes = (n + 3) / 4 * step * 4 * size;
            float *x = random_floats(rows * n, 3, (uint32_t)n), scale[16], same[16];
            if (n % 10 == 0) x[rows * n / 2] = n % 20 == 0 ? NAN : -INFINITY;
            if (n % 10 == 1) memset(x, 0, n * sizeof *x);
            buffer q = buffer_make(bytes, 1), want = buffer_make(bytes, 1);
            buffer of = buffer_make(rows * n, dlm__dtype_size(type));
            dlm__to_type(compute, rows * n, x, of.x, type);
            check_context("%zu of %zu rows of %zu, type %d", rows, step, n, (int)type);
            kernels->quantise_rows(rows, n, of.x, type, q.x, scale);
            for (size_t r = 0; r < rows; r++) {
                same[r] = kernels->quantise(n, dlm__const_element(of.x, type, r * n), type,
                                            kernels->int8_form, step, (char *)want.x + r * 4 * size);
                CHECK(isnan(same[r]) ? isnan(scale[r]) : scale[r] == same[r]);
            }
            CHECK_MEM_EQ(q.x, want.x, bytes);
            buffer_free(q), buffer_free(want), buffer_free(of);
            free(x);
        }
}

TEST(groups_of_rows) {
    for_each_isa(groups);
}

/* The largest there can be: 2^17 products of 127 x 127 and their negative. */
static void largest(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { K = 1 << 17 };
    float *x = malloc(K * sizeof *x), y[2];
    REQUIRE(x != NULL);
    float *w = malloc(2 * K * sizeof *w);
    REQUIRE(w != NULL);
    for (size_t i = 0; i < K; i++) x[i] = w[i] = 127, w[K + i] = -127;
    dlm_int8 *weights = make(compute, 2, K, w);
    REQUIRE(weights != NULL);
    dlm__int8_matmul(compute, 1, x, DLM_F32, weights, 0, 2, NULL, y);
    CHECK_CLOSE(y[0], 127.0 * 127 * K, 128);
    CHECK_CLOSE(y[1], -127.0 * 127 * K, 128);
    dlm__int8_free(weights);
    dlm_error err;
    CHECK_STATUS(dlm__int8_create(compute, 1, K + 1, w, &weights, &err), DLM_UNSUPPORTED, &err);
    CHECK_SAYS(&err, "131073 weights");
    free(x), free(w);
}

TEST(sums_fit) {
    for_each_isa(largest);
}

/* Random values, with bias, in parts of the columns: near the float product, as near as two roundings of
 * half a step each; and equal to the plain loops. */
static void rounded(dlm_compute *plain, dlm_compute *compute) {
    for (size_t k = 0; k < SHAPES; k++) {
        const size_t M = shapes[k][0], N = shapes[k][1], K = shapes[k][2];
        float *x = random_floats(M * K, 3, 3), *w = random_floats(N * K, 0.1, 4),
              *bias = random_floats(N, 1, 5);
        buffer y = buffer_make(M * N, sizeof(float)), want = buffer_make(M * N, sizeof(float));
        dlm_int8 *weights = make(compute, N, K, w), *same = make(plain, N, K, w);
        REQUIRE(weights != NULL && same != NULL);
        check_context("%zu x %zu x %zu", M, N, K);
        CHECK_MEM_EQ(weights->scale, same->scale, N * sizeof *same->scale);
        int8_t *q = malloc(2 * N * K);
        REQUIRE(q != NULL);
        dlm__int8_integers(weights, q), dlm__int8_integers(same, q + N * K);
        CHECK_MEM_EQ(q, q + N * K, N * K);
        free(q);
        dlm__int8_matmul(compute, M, x, DLM_F32, weights, 0, N, bias, y.x);
        dlm__int8_matmul(plain, M, x, DLM_F32, weights, 0, N, bias, want.x);
        check_agree(y.x, want.x, DLM_F32, M * N, 3e-7, "int8 product");
        for (size_t m = 0; m < M; m++)
            for (size_t n = 0; n < N; n++) {
                double sum = (double)bias[n], off = 1e-5, reach = 0;
                for (size_t i = 0; i < K; i++) {
                    sum += (double)x[m * K + i] * (double)w[n * K + i];
                    reach = fmax(reach, fabs((double)x[m * K + i]));
                }
                for (size_t i = 0; i < K; i++)
                    off += 0.51 * (reach / 127 * fabs((double)w[n * K + i]) +
                                   (double)weights->scale[n] * fabs((double)x[m * K + i]));
                CHECK_CLOSE(((float *)want.x)[m * N + n], sum,
                            off + 0.3 * (double)K * reach / 127 * (double)weights->scale[n]);
            }
        const size_t unit = dlm__int8_unit(), first = N / 2 / unit * unit, n = N - first;
        dlm__int8_matmul(compute, M, x, DLM_F32, weights, first, n, bias + first, want.x);
        for (size_t m = 0; m < M; m++)
            CHECK_MEM_EQ((float *)want.x + m * n, (float *)y.x + m * N + first, n * sizeof(float));
        dlm__int8_free(weights), dlm__int8_free(same);
        buffer_free(y), buffer_free(want);
        free(x), free(w), free(bias);
    }
}

TEST(near_the_product) {
    for_each_isa(rounded);
}

/* Rows of zeros, tiny ones, and ones with a value that is not finite. */
static void odd_rows(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { M = 6, N = 3, K = 19 };
    float x[M * K], y[M * N], *w = random_floats((size_t)N * K, 1, 1),
                              *noise = random_floats((size_t)M * K, 1, 2);
    memcpy(x, noise, sizeof x);
    memset(x, 0, K * sizeof *x);
    for (size_t i = 0; i < K; i++) x[K + i] = 1e-44F;
    x[2 * K + 18] = NAN;
    x[3 * K] = INFINITY;
    x[4 * K + 8] = -INFINITY;
    memset(w + K, 0, K * sizeof *w);
    dlm_int8 *weights = make(compute, N, K, w);
    REQUIRE(weights != NULL);
    dlm__int8_matmul(compute, M, x, DLM_F32, weights, 0, N, NULL, y);
    for (size_t n = 0; n < N; n++) {
        CHECK(y[n] == 0 && fabsf(y[N + n]) < 1e-40F);
        for (size_t m = 2; m < 5; m++) CHECK(isnan(y[m * N + n]));
        CHECK(n == 1 ? y[5 * N + n] == 0 : isfinite(y[5 * N + n]));
    }
    dlm__int8_free(weights);
    free(w), free(noise);
}

TEST(rows_that_are_odd) {
    for_each_isa(odd_rows);
}

/* The same by oneDNN, whose products of bytes may saturate on the machine at hand: of weights so small that
 * they do not anywhere. */
static void by_onednn(dlm_compute *plain, dlm_compute *compute) {
    if (compute->onednn == NULL) return;
    compute->onednn_int8 = true;
    for (size_t k = 0; k < SHAPES; k++) {
        const size_t M = shapes[k][0], N = shapes[k][1], K = shapes[k][2];
        float *x = random_floats(M * K, 3, 3), *w = random_floats(N * K, 20, 4),
              *bias = random_floats(N, 1, 5);
        for (size_t i = 0; i < N * K; i++) w[i] = fminf(fmaxf(rintf(w[i]), -64), 64);
        for (size_t n = 0; n < N; n++) {
            w[n * K] = 127;
            if (K > 1) w[n * K + 1] = 0;
        }
        buffer y = buffer_make(M * N, sizeof(float)), want = buffer_make(M * N, sizeof(float));
        dlm_int8 *weights = make(compute, N, K, w), *same = make(plain, N, K, w);
        REQUIRE(weights != NULL && same != NULL && weights->rows != NULL && same->rows == NULL);
        check_context("%zu x %zu x %zu", M, N, K);
        dlm__int8_matmul(compute, M, x, DLM_F32, weights, 0, N, NULL, y.x);
        dlm__int8_matmul(plain, M, x, DLM_F32, same, 0, N, NULL, want.x);
        check_agree(y.x, want.x, DLM_F32, M * N, 3e-7, "oneDNN's int8 product");
        const size_t unit = dlm__int8_unit(), first = N / 2 / unit * unit, n = N - first;
        dlm__int8_matmul(compute, M, x, DLM_F32, weights, first, n, bias + first, y.x);
        dlm__int8_matmul(plain, M, x, DLM_F32, same, first, n, bias + first, want.x);
        check_agree(y.x, want.x, DLM_F32, M * n, 3e-7, "oneDNN's int8 product, a part");
        dlm__int8_free(weights), dlm__int8_free(same);
        buffer_free(y), buffer_free(want);
        free(x), free(w), free(bias);
    }
    compute->onednn_int8 = false;
}

TEST(onednn_gives_the_same) {
    for_each_isa(by_onednn);
}
