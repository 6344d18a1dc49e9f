/* Every backward pass of the plain loops against finite differences of its forward pass.
 *
 * The forward pass f maps an input x to an output y, both many numbers; with random weights w, the sum w . y
 * is one number, whose derivative along a random direction r is r . (backward of w). Both sides are formed
 * in double; the step is chosen so that rounding of the float32 output and curvature are both small. */
#include "compute_cases.h"

enum { T = 12, H = 2, D = 6, C = H * D };
static const size_t offsets[] = {0, 5, 6, T};
static const dlm_segments seg = {3, offsets};

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Everything that a forward pass reads besides x. */
typedef struct fixed {
    dlm_compute *plain;
    const float *h, *shift, *scale, *gate, *y;
    const int32_t *targets;
} fixed;

/* A forward pass of x (n) into out (up to 3 T C). */
typedef void (*forward)(const fixed *f, const float *x, float *out);

static double along(forward pass, const fixed *f, const float *x, const float *r, const float *w, size_t n,
                    size_t n_out) {
    const double step = 4e-3;
    float *moved = malloc(n * sizeof *moved);
    float up[3 * T * C], down[3 * T * C];
    if (moved == NULL) abort();
    for (size_t i = 0; i < n; i++) moved[i] = (float)((double)x[i] + step * (double)r[i]);
    pass(f, moved, up);
    for (size_t i = 0; i < n; i++) moved[i] = (float)((double)x[i] - step * (double)r[i]);
    pass(f, moved, down);
    free(moved);
    return (dot(w, up, n_out) - dot(w, down, n_out)) / (2 * step);
}

/* Checks gradient (n), the backward pass of w, in several directions. */
static void check_gradient(forward pass, const fixed *f, const float *x, const float *w,
                           const float *gradient, size_t n, size_t n_out) {
    for (uint32_t k = 0; k < 5; k++) {
        float *r = random_floats(n, 1, 100 + k);
        const double want = along(pass, f, x, r, w, n, n_out), got = dot(r, gradient, n);
        CHECK_CLOSE(got, want, 2e-3 * (sqrt(dot(gradient, gradient, n)) + 0.1));
        free(r);
    }
}

static void gelu_pass(const fixed *f, const float *x, float *out) {
    dlm__gelu(f->plain, T * C, x, out, NULL, DLM_F32);
}
static void silu_pass(const fixed *f, const float *x, float *out) {
    dlm__silu(f->plain, T * C, x, out, DLM_F32);
}
static void norm_of_h(const fixed *f, const float *x, float *out) {
    float mean[T], rstd[T];
    dlm__modulated_norm(f->plain, seg, C, x, f->shift, f->scale, C, mean, rstd, out, DLM_F32);
}
static void norm_of_shift(const fixed *f, const float *x, float *out) {
    float mean[T], rstd[T];
    dlm__modulated_norm(f->plain, seg, C, f->h, x, f->scale, C, mean, rstd, out, DLM_F32);
}
static void norm_of_scale(const fixed *f, const float *x, float *out) {
    float mean[T], rstd[T];
    dlm__modulated_norm(f->plain, seg, C, f->h, f->shift, x, C, mean, rstd, out, DLM_F32);
}
static void residual_of_gate(const fixed *f, const float *x, float *out) {
    dlm__gated_residual(f->plain, seg, C, f->h, x, C, f->y, out);
}
static void residual_of_y(const fixed *f, const float *x, float *out) {
    dlm__gated_residual(f->plain, seg, C, f->h, f->gate, C, x, out);
}
static void attention_pass(const fixed *f, const float *x, float *out) {
    dlm__attention(f->plain, seg, H, D, x, out, DLM_F32, NULL);
}
static void loss_pass(const fixed *f, const float *x, float *out) {
    dlm__cross_entropy(f->plain, T, C, x, f->targets, NULL, out, NULL, DLM_F32);
}

TEST(gradients) {
    dlm_compute *plain = NULL;
    dlm_error err;
    REQUIRE_OK(dlm__compute_create("reference", &plain, &err), &err);
    float *x = random_floats(3 * T * C, 1, 1), *w = random_floats(3 * T * C, 1, 2);
    float *shift = random_floats(3 * C, 1, 3), *scale = random_floats(3 * C, 1, 4);
    int32_t *targets = random_ids(T, C, 5);
    const fixed f = {plain, x, shift, scale, shift, x + T * C, targets};
    float gradient[3 * T * C], first[3 * C], second[3 * C], mean[T], rstd[T], out[T * C], lse[T * H];

    check_context("gelu");
    dlm__gelu_backward(plain, T * C, x, w, gradient, NULL, DLM_F32);
    check_gradient(gelu_pass, &f, x, w, gradient, T * C, T * C);
    check_context("silu");
    dlm__silu_backward(plain, T * C, x, w, gradient);
    check_gradient(silu_pass, &f, x, w, gradient, T * C, T * C);

    dlm__modulated_norm(plain, seg, C, x, shift, scale, C, mean, rstd, out, DLM_F32);
    memset(gradient, 0, sizeof gradient);
    memset(first, 0, sizeof first);
    memset(second, 0, sizeof second);
    dlm__modulated_norm_backward(plain, seg, C, w, x, shift, scale, C, mean, rstd, gradient, first, second, C,
                                 NULL, DLM_F32);
    check_context("norm, h");
    check_gradient(norm_of_h, &f, x, w, gradient, T * C, T * C);
    check_context("norm, shift");
    check_gradient(norm_of_shift, &f, shift, w, first, 3 * C, T * C);
    check_context("norm, scale");
    check_gradient(norm_of_scale, &f, scale, w, second, 3 * C, T * C);

    memset(first, 0, sizeof first);
    dlm__gated_residual_backward(plain, seg, C, w, shift, C, x + T * C, DLM_F32, gradient, DLM_F32, first, C);
    check_context("residual, y");
    check_gradient(residual_of_y, &f, x + T * C, w, gradient, T * C, T * C);
    check_context("residual, gate");
    check_gradient(residual_of_gate, &f, shift, w, first, 3 * C, T * C);

    check_context("attention");
    dlm__attention(plain, seg, H, D, x, out, DLM_F32, lse);
    dlm__attention_backward(plain, seg, H, D, x, lse, w, DLM_F32, gradient);
    check_gradient(attention_pass, &f, x, w, gradient, 3 * T * C, T * C);

    check_context("cross-entropy");
    dlm__cross_entropy(plain, T, C, x, targets, w, mean, gradient, DLM_F32);
    check_gradient(loss_pass, &f, x, w, gradient, T * C, T);
    free(x), free(w), free(shift), free(scale), free(targets);
    dlm__compute_free(plain);
}
