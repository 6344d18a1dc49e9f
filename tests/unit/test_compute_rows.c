/* Primitives over packed rows, of every instruction set, against the plain loops. */
#include "compute_cases.h"

#include "base/base.h"

#include <jansson.h>

static const size_t widths[] = {1, 5, 16, 20, 60, 100, 256};
enum { WIDTHS = sizeof widths / sizeof *widths, T = MIXED_ROWS };

static void norm(dlm_compute *plain, dlm_compute *compute) {
    for (size_t k = 0; k < WIDTHS; k++)
        for (int variant = 0; variant < 4; variant++) {
            const dlm_dtype type = variant % 2 == 0 ? DLM_F32 : DLM_BF16;
            const size_t C = widths[k], stride = variant < 2 ? 0 : 2 * C, size = dlm__dtype_size(type);
            float *h = random_floats(T * C, 2, 1), *modulation = random_floats(mixed.n * 2 * C, 0.5, 2);
            float *da = random_floats(T * C, 1, 3), *dh0 = random_floats(T * C, 1, 4);
            float *dmod0 = random_floats(mixed.n * 2 * C, 1, 5);
            for (size_t i = 0; i < 3 * C; i++) h[i] = 0;         /* rows of zeros: variance 0 */
            for (size_t i = 3 * C; i < 4 * C; i++) h[i] += 3000; /* a mean far from 0 */
            buffer a[2], mean[2], rstd[2], dh[2], dmod[2], again[2];
            for (int i = 0; i < 2; i++) {
                dlm_compute *on = i == 0 ? compute : plain;
                a[i] = buffer_make(T * C, size), again[i] = buffer_make(T * C, size);
                mean[i] = buffer_make(T, sizeof(float)), rstd[i] = buffer_make(T, sizeof(float));
                dh[i] = buffer_make(T * C, sizeof(float));
                dmod[i] = buffer_make(mixed.n * 2 * C, sizeof(float));
                memcpy(dh[i].x, dh0, dh[i].bytes);
                memcpy(dmod[i].x, dmod0, dmod[i].bytes);
                dlm__modulated_norm(on, mixed, C, h, modulation, modulation + C, stride, mean[i].x, rstd[i].x,
                                    a[i].x, type);
                float *dshift = dmod[i].x;
                dlm__modulated_norm_backward(on, mixed, C, da, h, modulation, modulation + C, stride,
                                             mean[1].bytes == 0 || i == 0 ? mean[0].x : mean[1].x, rstd[i].x,
                                             dh[i].x, dshift, dshift + C, 2 * C,
                                             variant == 3 ? NULL : again[i].x, type);
            }
            /* The row around 3000 loses 11 bits of its deviations to the input's own rounding. */
            check_agree(mean[0].x, mean[1].x, DLM_F32, T, 3e-7, "mean");
            check_agree(rstd[0].x, rstd[1].x, DLM_F32, T, 2e-6, "rstd");
            check_agree(a[0].x, a[1].x, type, T * C, C == 1 ? 1e-3 : 3e-4, "norm");
            const size_t row = 4 * C;
            check_agree((char *)a[0].x + row * size, (char *)a[1].x + row * size, type, (T - 4) * C, 2e-6,
                        "norm, ordinary rows");
            if (variant != 3) CHECK_MEM_EQ(again[0].x, a[0].x, a[0].bytes);
            check_agree((float *)dh[0].x + row, (float *)dh[1].x + row, DLM_F32, (T - 4) * C,
                        C == 1 ? 1e-3 : 1e-5, "norm_backward, dh");
            check_agree(dmod[0].x, dmod[1].x, DLM_F32, mixed.n * 2 * C, C == 1 ? 1e-2 : 3e-4,
                        "norm_backward, modulation");
            for (int i = 0; i < 2; i++) {
                buffer_free(a[i]), buffer_free(mean[i]), buffer_free(rstd[i]), buffer_free(again[i]);
                buffer_free(dh[i]), buffer_free(dmod[i]);
            }
            free(h), free(modulation), free(da), free(dh0), free(dmod0);
        }
}

TEST(modulated_norm) {
    for_each_isa(norm);
}

static void residual(dlm_compute *plain, dlm_compute *compute) {
    for (size_t k = 0; k < WIDTHS; k++)
        for (int variant = 0; variant < 4; variant++) {
            const dlm_dtype type = variant % 2 == 0 ? DLM_F32 : DLM_BF16;
            const size_t C = widths[k], stride = variant < 2 ? 0 : C;
            float *h = random_floats(T * C, 1, 1), *gate = random_floats(mixed.n * C, 1, 2);
            float *y = random_floats(T * C, 1, 3);
            buffer kept = buffer_make(T * C, dlm__dtype_size(type));
            dlm__to_type(plain, T * C, y, kept.x, type);
            float *dgate0 = random_floats(mixed.n * C, 1, 4);
            float *in_place = copy_floats(h, T * C), *dout = random_floats(T * C, 1, 5);
            buffer out[2], dy[2], dgate[2];
            for (int i = 0; i < 2; i++) {
                dlm_compute *on = i == 0 ? compute : plain;
                out[i] = buffer_make(T * C, sizeof(float));
                dy[i] = buffer_make(T * C, dlm__dtype_size(type));
                dgate[i] = buffer_make(mixed.n * C, sizeof(float));
                memcpy(dgate[i].x, dgate0, dgate[i].bytes);
                dlm__gated_residual(on, mixed, C, h, gate, stride, y, out[i].x);
                dlm__gated_residual_backward(on, mixed, C, dout, gate, stride, kept.x, type, dy[i].x, type,
                                             dgate[i].x, C);
            }
            dlm__gated_residual(compute, mixed, C, in_place, gate, stride, y, in_place);
            check_agree(out[0].x, out[1].x, DLM_F32, T * C, 2e-7, "gated_residual");
            CHECK_MEM_EQ(in_place, out[0].x, out[0].bytes);
            memcpy(dgate[1].x, dgate0, dgate[1].bytes);
            dlm__gated_residual_backward(compute, mixed, C, dout, gate, stride, kept.x, type, kept.x, type,
                                         dgate[1].x, C);
            CHECK_MEM_EQ(kept.x, dy[0].x, dy[0].bytes);
            CHECK_MEM_EQ(dgate[1].x, dgate[0].x, dgate[0].bytes);
            check_agree(dy[0].x, dy[1].x, type, T * C, 1e-7, "gated_residual_backward, dy");
            check_agree(dgate[0].x, dgate[1].x, DLM_F32, mixed.n * C, 1e-5, "gated_residual_backward, dgate");
            for (int i = 0; i < 2; i++) buffer_free(out[i]), buffer_free(dy[i]), buffer_free(dgate[i]);
            free(h), free(gate), free(y), free(dgate0), free(in_place), free(dout), buffer_free(kept);
        }
}

TEST(gated_residual) {
    for_each_isa(residual);
}

static void embedding(dlm_compute *plain, dlm_compute *compute) {
    enum { V = 11, LONGEST = 156 };
    for (size_t k = 0; k < WIDTHS; k++) {
        const size_t C = widths[k];
        int32_t *ids = random_ids(T, V, 1);
        float *tok = random_floats(V * C, 1, 2), *pos = random_floats(LONGEST * C, 1, 3);
        float *dh = random_floats(T * C, 1, 4);
        buffer h = buffer_make(T * C, sizeof(float)), want = buffer_make(T * C, sizeof(float));
        dlm__embed(compute, mixed, C, ids, tok, pos, h.x);
        for (size_t s = 0; s < mixed.n; s++)
            for (size_t row = mixed.offsets[s]; row < mixed.offsets[s + 1]; row++)
                for (size_t c = 0; c < C; c++)
                    ((float *)want.x)[row * C + c] =
                        tok[(size_t)ids[row] * C + c] + pos[(row - mixed.offsets[s]) * C + c];
        CHECK_MEM_EQ(h.x, want.x, want.bytes);
        float *dtok = calloc(V * C, sizeof *dtok), *dpos = calloc(LONGEST * C, sizeof *dpos);
        float *dtok2 = calloc(V * C, sizeof *dtok), *dpos2 = calloc(LONGEST * C, sizeof *dpos);
        REQUIRE(dtok != NULL && dpos != NULL && dtok2 != NULL && dpos2 != NULL);
        dlm__embed_backward(compute, mixed, C, ids, dh, dtok, dpos);
        for (size_t s = 0; s < mixed.n; s++)
            for (size_t row = mixed.offsets[s]; row < mixed.offsets[s + 1]; row++)
                for (size_t c = 0; c < C; c++) {
                    dtok2[(size_t)ids[row] * C + c] += dh[row * C + c];
                    dpos2[(row - mixed.offsets[s]) * C + c] += dh[row * C + c];
                }
        CHECK_MEM_EQ(dtok, dtok2, V * C * sizeof *dtok);
        CHECK_MEM_EQ(dpos, dpos2, LONGEST * C * sizeof *dpos);
        enum { R = 150 };
        int32_t rows[R];
        for (int32_t i = 0; i < R; i++) rows[i] = 2 * i + 1;
        buffer out = buffer_make(R * C, sizeof(float));
        dlm__gather_rows(compute, R, C, rows, dh, out.x);
        dlm__scatter_add_rows(compute, R, C, rows, out.x, h.x);
        for (size_t row = 0; row < T; row++)
            for (size_t c = 0; c < C; c++) {
                if (row % 2 == 1 && row / 2 < R) {
                    CHECK(((float *)out.x)[row / 2 * C + c] == dh[row * C + c]);
                    ((float *)want.x)[row * C + c] += dh[row * C + c];
                }
            }
        CHECK_MEM_EQ(h.x, want.x, want.bytes);
        buffer_free(h), buffer_free(want), buffer_free(out);
        free(ids), free(tok), free(pos), free(dh), free(dtok), free(dpos), free(dtok2), free(dpos2);
    }
    (void)plain;
}

TEST(embedding_and_gathering) {
    for_each_isa(embedding);
}

static void softmax(dlm_compute *plain, dlm_compute *compute) {
    static const size_t sizes[] = {1, 3, 16, 67, 512, 1001};
    enum { R = 40 };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const size_t V = sizes[k];
        buffer x = buffer_make(R * V, sizeof(float)), want = buffer_make(R * V, sizeof(float));
        float *logits = random_floats(R * V, 3, 1);
        for (size_t i = 0; i < R * V; i++) {
            if (i / V % 4 == 1) logits[i] *= 1e4F;
            if (i / V % 4 == 2 && i % V % 3 == 1) logits[i] = -INFINITY;
            if (i / V % 4 == 3) logits[i] += 1e5F;
        }
        memcpy(x.x, logits, x.bytes);
        memcpy(want.x, logits, x.bytes);
        dlm__softmax(compute, R, V, 1.25F, x.x);
        dlm__softmax(plain, R, V, 1.25F, want.x);
        check_agree(x.x, want.x, DLM_F32, R * V, 3e-6, "softmax");
        size_t wrong = 0;
        for (size_t i = 0; i < R * V; i++)
            if (isinf(logits[i]) && ((float *)x.x)[i] != 0) wrong++;
        CHECK_INT_EQ(wrong, 0);
        buffer_free(x), buffer_free(want);
        free(logits);
    }
}

TEST(softmax) {
    for_each_isa(softmax);
}

static void loss(dlm_compute *plain, dlm_compute *compute) {
    static const size_t sizes[] = {1, 3, 16, 67, 512, 1001};
    enum { R = 40 };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (dlm_dtype type = DLM_F32; type <= DLM_BF16; type++) {
            const size_t V = sizes[k];
            float *logits = random_floats(R * V, 3, 1), *weight = random_floats(R, 1, 2);
            int32_t *targets = random_ids(R, V, 3);
            for (size_t i = 0; i < R * V; i++) {
                if (i / V % 4 == 1) logits[i] *= 1e4F;
                if (i / V % 4 == 2 && i % V % 3 == 1 && (int32_t)(i % V) != targets[i / V])
                    logits[i] = -INFINITY;
            }
            weight[5] = 0;
            buffer ce[2], d[2];
            for (int i = 0; i < 2; i++) {
                ce[i] = buffer_make(R, sizeof(float)), d[i] = buffer_make(R * V, dlm__dtype_size(type));
                dlm__cross_entropy(i == 0 ? compute : plain, R, V, logits, targets, weight, ce[i].x, d[i].x,
                                   type);
            }
            check_agree(ce[0].x, ce[1].x, DLM_F32, R, 4e-7, "cross_entropy");
            check_agree(d[0].x, d[1].x, type, R * V, 1e-6, "cross_entropy, dlogits");
            dlm__cross_entropy(compute, R, V, logits, targets, weight, ce[1].x, NULL, type);
            CHECK_MEM_EQ(ce[1].x, ce[0].x, ce[0].bytes);
            if (type == DLM_F32) {
                dlm__cross_entropy(compute, R, V, logits, targets, weight, ce[1].x, logits, type);
                CHECK_MEM_EQ(logits, d[0].x, d[0].bytes);
            }
            for (int i = 0; i < 2; i++) buffer_free(ce[i]), buffer_free(d[i]);
            free(logits), free(weight), free(targets);
        }
}

TEST(cross_entropy) {
    for_each_isa(loss);
}

/* The fixture's frequencies are PyTorch's. */
static void time_features(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    enum { HALF = 128 };
    size_t bytes = 0;
    const char *path = golden_path("schedule.json");
    REQUIRE(path != NULL);
    const char *text = read_text(path, &bytes);
    json_t *json = NULL;
    dlm_error err;
    REQUIRE_OK(dlm__json_parse(path, text, bytes, &json, &err), &err);
    const json_t *frequencies = json_object_get(json, "frequencies");
    CHECK_INT_EQ(json_array_size(frequencies), HALF);
    const float times[3] = {0, 0.37F, 1};
    float e[3][2 * HALF];
    dlm_bf16 half[3][2 * HALF];
    dlm__time_features(compute, 3, times, e, DLM_F32);
    dlm__time_features(compute, 3, times, half, DLM_BF16);
    for (size_t s = 0; s < 3; s++)
        for (size_t i = 0; i < HALF; i++) {
            const float angle = times[s] * 1000.0F * (float)json_real_value(json_array_get(frequencies, i));
            CHECK_CLOSE(e[s][i], cosf(angle), 0);
            CHECK_CLOSE(e[s][HALF + i], sinf(angle), 0);
            CHECK_CLOSE(bf16_value(half[s][i]), e[s][i], 1.0 / 256);
        }
    json_decref(json);
}

TEST(time_features) {
    for_each_isa(time_features);
}
