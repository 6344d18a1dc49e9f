/* Optimiser kernels in vector code. */
#include "compute/isa.h"

/* W elements, in PyTorch's order of operations. */
INLINE void adamw_step(const dlm_adamw_step *s, vf g, vf *p, vf *m, vf *v, vf *ema) {
    const vf gradient = g * s->grad_scale;
    *m = vf_fma(vf_all(s->rate1), gradient - *m, *m);
    *v = vf_fma(s->rate2 * gradient, gradient, *v * s->beta2);
    const vf denominator = vf_sqrt(*v) / s->root_bias2 + s->eps;
    *p = vf_fma(vf_all(-s->step), *m / denominator, *p * s->shrink);
    *ema = vf_fma(vf_all(s->ema_rate), *p, *ema * s->ema_decay);
}

void KERNEL(adamw)(size_t n, const dlm_adamw_step *step, float *p, const float *g, float *m, float *v,
                   float *ema) {
    const dlm_adamw_step s = *step;
    size_t i = 0;
    for (; i + W <= n; i += W) {
        vf vp = vf_load(p + i), vm = vf_load(m + i), vv = vf_load(v + i), ve = vf_load(ema + i);
        adamw_step(&s, vf_load(g + i), &vp, &vm, &vv, &ve);
        vf_store(p + i, vp);
        vf_store(m + i, vm);
        vf_store(v + i, vv);
        vf_store(ema + i, ve);
    }
    if (i < n) {
        const size_t rest = n - i;
        vf vp = vf_load_part(p + i, rest), vm = vf_load_part(m + i, rest);
        vf vv = vf_load_part(v + i, rest), ve = vf_load_part(ema + i, rest);
        adamw_step(&s, vf_load_part(g + i, rest), &vp, &vm, &vv, &ve);
        vf_store_part(p + i, vp, rest);
        vf_store_part(m + i, vm, rest);
        vf_store_part(v + i, vv, rest);
        vf_store_part(ema + i, ve, rest);
    }
}

void KERNEL(muon_momentum)(size_t n, float grad_scale, float rate, const float *g, float *m, float *u) {
    size_t i = 0;
    for (; i + W <= n; i += W) {
        const vf gradient = vf_load(g + i) * grad_scale, old = vf_load(m + i);
        const vf moment = vf_fma(vf_all(rate), gradient - old, old);
        vf_store(m + i, moment);
        vf_store(u + i, vf_fma(vf_all(rate), gradient - moment, moment));
    }
    if (i < n) {
        const size_t rest = n - i;
        const vf gradient = vf_load_part(g + i, rest) * grad_scale, old = vf_load_part(m + i, rest);
        const vf moment = vf_fma(vf_all(rate), gradient - old, old);
        vf_store_part(m + i, moment, rest);
        vf_store_part(u + i, vf_fma(vf_all(rate), gradient - moment, moment), rest);
    }
}

void KERNEL(combine)(size_t n, float a, const void *x, float b, const float *y, void *z, dlm_dtype type) {
    size_t i = 0;
    for (; i + W <= n; i += W) vf_put(z, type, i, vf_fma(vf_all(a), vf_get(x, type, i), vf_load(y + i) * b));
    if (i < n) {
        const size_t rest = n - i;
        const vf value = vf_fma(vf_all(a), vf_get_part(x, type, i, rest), vf_load_part(y + i, rest) * b);
        vf_put_part(z, type, i, value, rest);
    }
}

void KERNEL(divide)(size_t n, float divisor, void *x, dlm_dtype type) {
    size_t i = 0;
    for (; i + W <= n; i += W) vf_put(x, type, i, vf_get(x, type, i) / divisor);
    if (i < n) vf_put_part(x, type, i, vf_get_part(x, type, i, n - i) / divisor, n - i);
}

void KERNEL(muon_update)(size_t n, float shrink, float step, const void *x, dlm_dtype type, float ema_decay,
                         float ema_rate, float *p, float *ema) {
    size_t i = 0;
    for (; i + W <= n; i += W) {
        const vf value = vf_fma(vf_all(-step), vf_get(x, type, i), vf_load(p + i) * shrink);
        vf_store(p + i, value);
        vf_store(ema + i, vf_fma(vf_all(ema_rate), value, vf_load(ema + i) * ema_decay));
    }
    if (i < n) {
        const size_t rest = n - i;
        const vf x_part = vf_get_part(x, type, i, rest);
        const vf value = vf_fma(vf_all(-step), x_part, vf_load_part(p + i, rest) * shrink);
        vf_store_part(p + i, value, rest);
        vf_store_part(ema + i, vf_fma(vf_all(ema_rate), value, vf_load_part(ema + i, rest) * ema_decay),
                      rest);
    }
}
