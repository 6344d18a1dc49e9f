/* Optimiser steps of every instruction set against formulas in double. */
#include "compute_cases.h"

static void adamw(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    static const size_t sizes[] = {1, 15, 33, 30001};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const size_t n = sizes[k];
        float *p = random_floats(n, 1, 1), *m = random_floats(n, 0, 2), *v = random_floats(n, 0, 3);
        float *ema = copy_floats(p, n);
        double *x = malloc(4 * n * sizeof *x), *dm = x + n, *dv = x + 2 * n, *de = x + 3 * n;
        REQUIRE(x != NULL);
        for (size_t i = 0; i < n; i++) x[i] = de[i] = (double)p[i], dm[i] = dv[i] = 0;
        for (uint64_t t = 1; t <= 5; t++) {
            const dlm_adamw a = {.lr = 3e-3,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .eps = 1e-8,
                                 .decay = 0.1,
                                 .ema_decay = 0.99,
                                 .grad_scale = 0.5,
                                 .step = t};
            float *g = random_floats(n, 1, 10 + (uint32_t)t);
            g[0] = 0;
            dlm__adamw(compute, &a, n, p, g, m, v, ema);
            for (size_t i = 0; i < n; i++) {
                const double gradient = 0.5 * (double)g[i];
                dm[i] = 0.9 * dm[i] + 0.1 * gradient;
                dv[i] = 0.999 * dv[i] + 0.001 * gradient * gradient;
                const double corrected = dm[i] / (1 - pow(0.9, (double)t));
                const double root = sqrt(dv[i] / (1 - pow(0.999, (double)t)));
                x[i] = x[i] * (1 - 3e-3 * 0.1) - 3e-3 * corrected / (root + 1e-8);
                de[i] = 0.99 * de[i] + 0.01 * x[i];
            }
            free(g);
        }
        double worst = 0;
        for (size_t i = 0; i < n; i++) {
            worst = fmax(worst, fabs((double)p[i] - x[i]));
            worst = fmax(worst, fabs((double)ema[i] - de[i]));
        }
        CHECK_CLOSE(worst, 0, 2e-6);
        free(p), free(m), free(v), free(ema), free(x);
    }
}

TEST(adamw) {
    for_each_isa(adamw);
}

/* ---- Muon by spec 4 in double, transposed where it says so -------------------------------------------- */

static void newton_schulz(size_t rows, size_t columns, double *x) {
    double *A = malloc(rows * rows * sizeof *A), *B = malloc(rows * rows * sizeof *B);
    double *y = malloc(rows * columns * sizeof *y);
    if (A == NULL || B == NULL || y == NULL) abort();
    for (int iteration = 0; iteration < 5; iteration++) {
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < rows; j++) {
                A[i * rows + j] = 0;
                for (size_t k = 0; k < columns; k++)
                    A[i * rows + j] += x[i * columns + k] * x[j * columns + k];
            }
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < rows; j++) {
                B[i * rows + j] = -4.7750 * A[i * rows + j];
                for (size_t k = 0; k < rows; k++)
                    B[i * rows + j] += 2.0315 * A[i * rows + k] * A[k * rows + j];
            }
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < columns; j++) {
                y[i * columns + j] = 3.4445 * x[i * columns + j];
                for (size_t k = 0; k < rows; k++) y[i * columns + j] += B[i * rows + k] * x[k * columns + j];
            }
        memcpy(x, y, rows * columns * sizeof *y);
    }
    free(A), free(B), free(y);
}

/* u (rows, columns) replaced by its Newton-Schulz iterate. */
static void orthogonalise(size_t rows, size_t columns, double *u) {
    double norm = 0;
    for (size_t i = 0; i < rows * columns; i++) norm += u[i] * u[i];
    norm = fmax(sqrt(norm), 1e-7);
    const bool tall = rows > columns;
    double *x = malloc(rows * columns * sizeof *x);
    if (x == NULL) abort();
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            x[tall ? j * rows + i : i * columns + j] = u[i * columns + j] / norm;
    newton_schulz(tall ? columns : rows, tall ? rows : columns, x);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) u[i * columns + j] = x[tall ? j * rows + i : i * columns + j];
    free(x);
}

static void muon_case(dlm_compute *compute, size_t rows, size_t columns, dlm_dtype type, float scale) {
    const size_t n = rows * columns;
    float *p = random_floats(n, 1, 1), *m = random_floats(n, 0, 2), *ema = copy_floats(p, n);
    float *scratch = malloc(dlm__muon_scratch(compute, rows, columns) * sizeof *scratch);
    double *x = malloc(4 * n * sizeof *x), *dm = x + n, *u = x + 2 * n, *de = x + 3 * n;
    REQUIRE(scratch != NULL && x != NULL);
    for (size_t i = 0; i < n; i++) x[i] = de[i] = (double)p[i], dm[i] = 0;
    for (uint32_t t = 0; t < 3; t++) {
        const dlm_muon a = {
            .lr = 0.02, .momentum = 0.95, .decay = 0.1, .ema_decay = 0.9, .grad_scale = 2, .type = type};
        float *g = random_floats(n, (double)scale, 20 + t);
        dlm__muon(compute, &a, rows, columns, p, g, m, ema, scratch);
        for (size_t i = 0; i < n; i++) {
            dm[i] = 0.95 * dm[i] + 0.05 * 2 * (double)g[i];
            u[i] = 0.05 * 2 * (double)g[i] + 0.95 * dm[i];
        }
        orthogonalise(rows, columns, u);
        const double step = 0.02 * 0.2 * sqrt((double)(rows > columns ? rows : columns));
        for (size_t i = 0; i < n; i++) {
            x[i] = x[i] * (1 - 0.02 * 0.1) - step * u[i];
            de[i] = 0.9 * de[i] + 0.1 * x[i];
        }
        free(g);
    }
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = fmax(worst, fmax(fabs((double)p[i] - x[i]), fabs((double)ema[i] - de[i])));
    /* Three steps of 0.004 sqrt(max) times an error of the iterate, whose elements are about 1/sqrt(max):
     * some 1e-5 of it in float32, some hundredths in bfloat16. */
    CHECK_CLOSE(worst, 0, type == DLM_F32 ? 4e-6 : 4e-3);
    free(p), free(m), free(ema), free(scratch), free(x);
}

static void muon(dlm_compute *plain, dlm_compute *compute) {
    (void)plain;
    for (dlm_dtype type = DLM_F32; type <= DLM_BF16; type++) {
        muon_case(compute, 24, 40, type, 1);
        muon_case(compute, 60, 20, type, 1e-3F);
        muon_case(compute, 17, 17, type, 1);
        muon_case(compute, 3, 129, type, 1);
        muon_case(compute, 1, 5, type, 1);
        muon_case(compute, 8, 8, type, 0);
        muon_case(compute, 192, 128, type, 1);
    }
}

TEST(muon) {
    for_each_isa(muon);
}
