/* Attention and rotary positions of every instruction set against the plain loops. */
#include "compute_cases.h"

#include "compute/context.h"

enum { T = MIXED_ROWS };
static const size_t shapes[][2] = {{1, 1}, {3, 8}, {2, 15}, {2, 20}, {4, 32}, {1, 64}, {2, 100}}; /* H, D */
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void attention(dlm_compute *plain, dlm_compute *compute) {
    const bool pairs = compute->pairs;
    compute->pairs = false;
    for (size_t k = 0; k < SHAPES; k++)
        for (int sharp = 0; sharp < 2; sharp++) {
            const size_t H = shapes[k][0], D = shapes[k][1], C = H * D;
            /* Sharp: scores of some hundreds, so that softmax is nearly one-hot. */
            float *qkv = random_floats(T * 3 * C, sharp == 1 ? 6 : 1, 1), *d_o = random_floats(T * C, 1, 2);
            buffer o[2], half[2], lse[2], dqkv[2];
            for (int i = 0; i < 2; i++) {
                dlm_compute *on = i == 0 ? compute : plain;
                o[i] = buffer_make(T * C, sizeof(float)), half[i] = buffer_make(T * C, sizeof(dlm_bf16));
                lse[i] = buffer_make(T * H, sizeof(float)), dqkv[i] = buffer_make(T * 3 * C, sizeof(float));
                dlm__attention(on, mixed, H, D, qkv, o[i].x, DLM_F32, lse[i].x);
                dlm__attention(on, mixed, H, D, qkv, half[i].x, DLM_BF16, NULL);
                dlm__attention_backward(on, mixed, H, D, qkv, lse[1].bytes == 0 ? lse[0].x : lse[i].x, d_o,
                                        DLM_F32, dqkv[i].x);
            }
            const double tolerance = sharp == 1 ? 3e-4 : 2e-6;
            check_agree(lse[0].x, lse[1].x, DLM_F32, T * H, sharp == 1 ? 1e-5 : 1e-6, "attention, lse");
            check_agree(o[0].x, o[1].x, DLM_F32, T * C, tolerance, "attention");
            check_agree(half[0].x, half[1].x, DLM_BF16, T * C, tolerance, "attention, bfloat16");
            check_agree(dqkv[0].x, dqkv[1].x, DLM_F32, T * 3 * C, 10 * tolerance, "attention_backward");
            for (int i = 0; i < 2; i++)
                buffer_free(o[i]), buffer_free(half[i]), buffer_free(lse[i]), buffer_free(dqkv[i]);
            free(qkv), free(d_o);
        }
    compute->pairs = pairs;
}

TEST(attention) {
    for_each_isa(attention);
}

static void round_all(dlm_compute *compute, size_t n, float *x) {
    dlm_bf16 *rounded = malloc(n * sizeof *rounded);
    REQUIRE(rounded != NULL);
    dlm__to_type(compute, n, x, rounded, DLM_BF16);
    dlm__from_bf16(compute, n, rounded, x);
    free(rounded);
}

/* With products of bfloat16. What comes in is rounded already; what is left are the roundings of scaled
 * queries, of probabilities and of slopes, half a part in 256 each, of which many add up. */
static void attention_of_pairs(dlm_compute *plain, dlm_compute *compute) {
    const bool pairs = compute->pairs;
    for (size_t k = 0; k < SHAPES; k++) {
        const size_t H = shapes[k][0], D = shapes[k][1], C = H * D;
        float *qkv = random_floats(T * 3 * C, 1, 1), *d_o = random_floats(T * C, 1, 2);
        round_all(plain, T * 3 * C, qkv), round_all(plain, T * C, d_o);
        buffer o[2], lse[2], dqkv[2];
        for (int i = 0; i < 2; i++) {
            dlm_compute *on = i == 0 ? compute : plain;
            o[i] = buffer_make(T * C, sizeof(dlm_bf16)), lse[i] = buffer_make(T * H, sizeof(float));
            dqkv[i] = buffer_make(T * 3 * C, sizeof(float));
            compute->pairs = true;
            dlm__attention(on, mixed, H, D, qkv, o[i].x, DLM_BF16, lse[i].x);
            dlm__attention_backward(on, mixed, H, D, qkv, lse[i].x, d_o, DLM_BF16, dqkv[i].x);
            compute->pairs = pairs;
        }
        check_agree(lse[0].x, lse[1].x, DLM_F32, T * H, 4e-3, "attention of pairs, lse");
        check_agree(o[0].x, o[1].x, DLM_BF16, T * C, 4e-3, "attention of pairs");
        check_agree(dqkv[0].x, dqkv[1].x, DLM_F32, T * 3 * C, 8e-3, "attention_backward of pairs");
        for (int i = 0; i < 2; i++) buffer_free(o[i]), buffer_free(lse[i]), buffer_free(dqkv[i]);
        free(qkv), free(d_o);
    }
}

TEST(attention_of_pairs) {
    for_each_isa(attention_of_pairs);
}

/* Scores far below zero in every column: the gradient must not see the columns that only fill a vector. */
static void low_scores(dlm_compute *plain, dlm_compute *compute) {
    enum { L = 5, D = 8 };
    static const size_t offsets[] = {0, L};
    const dlm_segments seg = {1, offsets};
    float qkv[L * 3 * D], d_o[L * D], lse[L], o[L * D], got[L * 3 * D], want[L * 3 * D];
    float *noise = random_floats(L * 3 * D, 0.1, 1);
    for (size_t i = 0; i < (size_t)L * 3 * D; i++) {
        const size_t part = i % (3 * D) / D;
        qkv[i] = noise[i] + (part == 0 ? 20.0F : part == 1 ? -20.0F : 0.0F);
    }
    for (size_t i = 0; i < (size_t)L * D; i++) d_o[i] = noise[i];
    dlm__attention(compute, seg, 1, D, qkv, o, DLM_F32, lse);
    CHECK(lse[0] < -1000);
    dlm__attention_backward(compute, seg, 1, D, qkv, lse, d_o, DLM_F32, got);
    dlm__attention(plain, seg, 1, D, qkv, o, DLM_F32, lse);
    dlm__attention_backward(plain, seg, 1, D, qkv, lse, d_o, DLM_F32, want);
    check_agree(got, want, DLM_F32, (size_t)L * 3 * D, 1e-3, "attention_backward");
    free(noise);
}

TEST(attention_low_scores) {
    for_each_isa(low_scores);
}

/* One long sequence on many threads is cut into pieces of queries, which must change nothing. */
static void pieces(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { L = 200, H = 1, D = 32 };
    static const size_t offsets[] = {0, L};
    const dlm_segments seg = {1, offsets};
    float *qkv = random_floats(L * 3 * D, 1, 1);
    buffer one = buffer_make(L * D, sizeof(float)), many = buffer_make(L * D, sizeof(float));
    const size_t threads = dlm__threads();
    dlm_set_threads(1);
    dlm__attention(compute, seg, H, D, qkv, one.x, DLM_F32, NULL);
    dlm_set_threads(threads);
    dlm__attention(compute, seg, H, D, qkv, many.x, DLM_F32, NULL);
    CHECK_MEM_EQ(many.x, one.x, one.bytes);
    buffer_free(one), buffer_free(many);
    free(qkv);
}

TEST(attention_in_pieces) {
    for_each_isa(pieces);
}

static void rotation(dlm_compute *plain, dlm_compute *compute) {
    static const size_t even[][2] = {{1, 2}, {3, 8}, {2, 20}, {4, 32}, {2, 100}};
    for (size_t k = 0; k < sizeof even / sizeof *even; k++) {
        const size_t H = even[k][0], D = even[k][1], C = H * D, half = D / 2, longest = 156;
        float *cosine = malloc(longest * half * sizeof *cosine),
              *sine = malloc(longest * half * sizeof *sine);
        REQUIRE(cosine != NULL && sine != NULL);
        dlm__rotary_table(longest, D, cosine, sine);
        for (size_t p = 0; p < longest; p += 31)
            for (size_t i = 0; i < half; i++) {
                const double angle = (double)p * pow(10000, -2.0 * (double)i / (double)D);
                CHECK_CLOSE(cosine[p * half + i], cos(angle), 2e-5);
                CHECK_CLOSE(sine[p * half + i], sin(angle), 2e-5);
            }
        float *start = random_floats(T * 3 * C, 1, 1), *want = copy_floats(start, T * 3 * C);
        buffer qkv = buffer_make(T * 3 * C, sizeof(float));
        memcpy(qkv.x, start, qkv.bytes);
        dlm__rotate(compute, mixed, H, D, cosine, sine, false, qkv.x);
        dlm__rotate(plain, mixed, H, D, cosine, sine, false, want);
        check_agree(qkv.x, want, DLM_F32, T * 3 * C, 3e-7, "rotate");
        for (size_t row = 0; row < T; row++)
            CHECK_MEM_EQ((float *)qkv.x + row * 3 * C + 2 * C, start + row * 3 * C + 2 * C,
                         C * sizeof *start);
        dlm__rotate(compute, mixed, H, D, cosine, sine, true, qkv.x);
        check_agree(qkv.x, start, DLM_F32, T * 3 * C, 1e-6, "rotate there and back");
        buffer_free(qkv);
        free(cosine), free(sine), free(start), free(want);
    }
}

TEST(rotation) {
    for_each_isa(rotation);
}

/* Of each segment some rows: none of the fourth, the last alone of the sixth, two thirds of the others. */
static size_t choose_rows(size_t *offsets, size_t *rows) {
    size_t R = 0;
    offsets[0] = 0;
    for (size_t s = 0; s < mixed.n; s++) {
        for (size_t t = mixed.offsets[s]; t < mixed.offsets[s + 1]; t++)
            if (s == 3 ? false : s == 5 ? t + 1 == mixed.offsets[s + 1] : t % 3 != 1) rows[R++] = t;
        offsets[s + 1] = R;
    }
    return R;
}

/* Some queries are those of all, bit for bit; and so are their gradients, where those of the others' outputs
 * are 0, but for dk and dv, which are sums in another order. */
static void some_rows(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    for (size_t k = 0; k < SHAPES; k++) {
        const size_t H = shapes[k][0], D = shapes[k][1], C = H * D;
        float *qkv = random_floats(T * 3 * C, 1, 1), *d_rows = random_floats(T * C, 1, 4),
              *q = random_floats(T * C, 1, 2), *kv = random_floats(T * 2 * C, 1, 3),
              *d_o = dlm__calloc(T * C, sizeof *d_o), *got = malloc(T * 2 * C * sizeof *got),
              *want = malloc(T * 2 * C * sizeof *want);
        REQUIRE(d_o != NULL && got != NULL && want != NULL);
        size_t offsets[sizeof mixed_offsets / sizeof *mixed_offsets], rows[T], R = choose_rows(offsets, rows);
        const dlm_segments queries = {mixed.n, offsets};
        buffer o[2] = {buffer_make(T * C, sizeof(float)), buffer_make(R * C, sizeof(float))};
        buffer lse[2] = {buffer_make(T * H, sizeof(float)), buffer_make(R * H, sizeof(float))};
        buffer dqkv = buffer_make(T * 3 * C, sizeof(float)), dq = buffer_make(R * C, sizeof(float));
        buffer dkv = buffer_make(T * 2 * C, sizeof(float));
        for (size_t r = 0; r < R; r++) {
            memcpy(q + r * C, qkv + rows[r] * 3 * C, C * sizeof *q);
            memcpy(d_o + rows[r] * C, d_rows + r * C, C * sizeof *d_o);
        }
        for (size_t t = 0; t < T; t++) memcpy(kv + t * 2 * C, qkv + t * 3 * C + C, 2 * C * sizeof *kv);
        dlm__attention(compute, mixed, H, D, qkv, o[0].x, DLM_F32, lse[0].x);
        dlm__attention_rows(compute, mixed, queries, H, D, q, kv, o[1].x, DLM_F32, lse[1].x);
        dlm__attention_backward(compute, mixed, H, D, qkv, lse[0].x, d_o, DLM_F32, dqkv.x);
        dlm__attention_rows_backward(compute, mixed, queries, H, D, q, kv, lse[1].x, d_rows, DLM_F32, dq.x,
                                     dkv.x);
        for (size_t r = 0; r < R; r++) {
            CHECK_MEM_EQ((float *)o[1].x + r * C, (float *)o[0].x + rows[r] * C, C * sizeof *q);
            CHECK_MEM_EQ((float *)lse[1].x + r * H, (float *)lse[0].x + rows[r] * H, H * sizeof *q);
            CHECK_MEM_EQ((float *)dq.x + r * C, (float *)dqkv.x + rows[r] * 3 * C, C * sizeof *q);
        }
        for (size_t t = 0; t < T; t++)
            memcpy(want + t * 2 * C, (float *)dqkv.x + t * 3 * C + C, 2 * C * sizeof *want);
        memcpy(got, dkv.x, dkv.bytes);
        check_agree(got, want, DLM_F32, T * 2 * C, 2e-6, "attention_rows_backward");
        for (size_t i = mixed.offsets[3] * 2 * C; i < mixed.offsets[4] * 2 * C; i++) CHECK(got[i] == 0);
        for (int i = 0; i < 2; i++) buffer_free(o[i]), buffer_free(lse[i]);
        buffer_free(dqkv), buffer_free(dq), buffer_free(dkv);
        free(qkv), free(d_rows), free(q), free(kv), free(d_o), free(got), free(want);
    }
}

TEST(attention_of_some_rows) {
    for_each_isa(some_rows);
}

/* Rows turned by positions of their own are those of all, bit for bit. */
static void rotated_rows(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { H = 3, D = 20, C = H * D, LONGEST = 156 };
    float cosine[LONGEST * D / 2], sine[LONGEST * D / 2];
    int32_t positions[T];
    float *start = random_floats(T * 3 * C, 1, 1), *want = copy_floats(start, T * 3 * C);
    dlm__rotary_table(LONGEST, D, cosine, sine);
    for (size_t s = 0; s < mixed.n; s++)
        for (size_t t = mixed.offsets[s]; t < mixed.offsets[s + 1]; t++)
            positions[t] = (int32_t)(t - mixed.offsets[s]);
    dlm__rotate(compute, mixed, H, D, cosine, sine, false, want);
    dlm__rotate_rows(compute, T, positions, (size_t)2 * H, D, (size_t)3 * C, cosine, sine, false, start);
    CHECK_MEM_EQ(start, want, (size_t)T * 3 * C * sizeof *want);
    dlm__rotate(compute, mixed, H, D, cosine, sine, true, want);
    dlm__rotate_rows(compute, T, positions, (size_t)2 * H, D, (size_t)3 * C, cosine, sine, true, start);
    CHECK_MEM_EQ(start, want, (size_t)T * 3 * C * sizeof *want);
    free(start), free(want);
}

TEST(rotation_of_rows) {
    for_each_isa(rotated_rows);
}
