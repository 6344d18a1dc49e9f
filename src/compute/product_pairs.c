/* Products of bfloat16 by this library's own kernels: the threads pack what is not packed, then share tiles
 * of the result. */
#include "compute/context.h"

#include <omp.h>

/* Inputs that are packed and multiplied at a time. A panel's part of them stays in the second cache;
 * gradients of weights, whose both factors are packed, have as many inputs as there are tokens, and what is
 * packed of them in the third. */
#define MOST_INPUTS ((size_t)4096)
#define MOST_PACKED ((size_t)1024)
/* Products that are worth a thread more. */
#define GRAIN ((size_t)1 << 18)

typedef struct factors {
    const dlm_product *product;
    const dlm_bf16 *A;
    size_t first, K;       /* the inputs of this round */
    const dlm_bf16 *a, *b; /* panels; a may be NULL */
} factors;

static size_t panels_of(size_t n) {
    return (n + DLM_PANEL - 1) / DLM_PANEL;
}

static size_t panel_size(size_t K) {
    return (K + 1) / 2 * 2 * DLM_PANEL;
}

/* The part'th share of the panels of a factor of `n` columns, whose stored rows are K inputs long, or n
 * columns where its columns are stored as such. */
static void pack(const dlm_compute *compute, const factors *f, const void *x, dlm_dtype type, size_t n,
                 bool as_columns, dlm_bf16 *to, int part, int team) {
    const size_t stride = as_columns ? n : f->product->K;
    const dlm_range r = dlm__part(n, DLM_PANEL, part, team);
    for (size_t j = r.first; j < r.last; j += DLM_PANEL) {
        const size_t columns = dlm__least(DLM_PANEL, n - j),
                     at = as_columns ? f->first * n + j : j * stride + f->first;
        dlm_bf16 *panel = to + j / DLM_PANEL * panel_size(f->K);
        (as_columns ? compute->kernels->pack_columns : compute->kernels->pack_rows)(
            f->K, columns, dlm__const_element(x, type, at), type, stride, panel);
    }
}

static void multiply(const dlm_compute *compute, const factors *f, dlm_range rows, dlm_range columns,
                     const float *bias, float *Y) {
    const dlm_product *p = f->product;
    dlm_pairs x = {.pairs = (f->K + 1) / 2,
                   .columns = columns.last - columns.first,
                   .panels = f->b + columns.first / DLM_PANEL * panel_size(f->K),
                   .bias = bias == NULL || f->first > 0 ? NULL : bias + columns.first,
                   .add = p->accumulate || f->first > 0,
                   .stride = p->N};
    if (f->a == NULL) {
        x.rows = rows.last - rows.first;
        x.a = f->A + rows.first * p->K + f->first;
        x.row = p->K / 2;
        x.step = 1;
        x.y = Y + rows.first * p->N + columns.first;
        compute->kernels->pairs_product(&x);
        return;
    }
    for (size_t i = rows.first; i < rows.last; i += DLM_PANEL) {
        x.rows = dlm__least(DLM_PANEL, rows.last - i);
        x.a = f->a + i / DLM_PANEL * panel_size(f->K);
        x.row = 1;
        x.step = DLM_PANEL;
        x.y = Y + i * p->N + columns.first;
        compute->kernels->pairs_product(&x);
    }
}

/* ---- symmetric results -------------------------------------------------------------------------------- */

/* Rows of a symmetric result that are computed together, from the diagonal on. */
#define BLOCK_ROWS ((size_t)32)

/* What lies below the block of rows and its diagonal is what lies right of it. */
static void mirror(size_t N, dlm_range rows, float *Y) {
    for (size_t j = rows.last; j < N; j++)
        for (size_t i = rows.first; i < rows.last; i++) Y[j * N + i] = Y[i * N + j];
}

/* The part'th share of a symmetric result (N,N): blocks dealt out back and forth, since the first ones are
 * the widest. Terms and their order are the same on both sides of the diagonal, so its halves are equal to
 * the last bit. */
static void multiply_half(const dlm_compute *compute, const factors *f, int part, int team, float *Y) {
    const size_t N = f->product->N, period = 2 * (size_t)team, own = (size_t)part;
    const bool last = f->first + f->K == f->product->K;
    for (size_t b = 0; b * BLOCK_ROWS < N; b++) {
        if (b % period != own && b % period != period - 1 - own) continue;
        const dlm_range rows = {b * BLOCK_ROWS, dlm__least(N, (b + 1) * BLOCK_ROWS)};
        multiply(compute, f, rows, (dlm_range){rows.first, N}, NULL, Y);
        if (last) mirror(N, rows, Y);
    }
}

/* ---- panels and products ------------------------------------------------------------------------------ */

void dlm__pack_panels(dlm_compute *compute, size_t N, size_t K, const float *W, dlm_bf16 *panels) {
    const dlm_product product = {.N = N, .K = K};
    const factors f = {.product = &product, .K = K};
    const int team = dlm__team(N * K, DLM_GRAIN);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int part = 0; part < team; part++) pack(compute, &f, W, DLM_F32, N, false, panels, part, team);
}

void dlm__pairs_matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                       const float *bias, float *Y) {
    const size_t M = product->M, N = product->N, K = product->K;
    /* Rows of an odd number of inputs cannot be read by pairs. */
    const bool pack_a = product->transpose_a || K % 2 != 0, pack_b = product->right != DLM_RIGHT_PANELS;
    const size_t most = !pack_b ? K : dlm__least(K, pack_a ? MOST_PACKED : MOST_INPUTS),
                 size = panel_size(most);
    const size_t a_panels = pack_a ? panels_of(M) : 0, panels = a_panels + (pack_b ? panels_of(N) : 0);
    const dlm_dtype b_type = product->right == DLM_RIGHT_FLOAT ? DLM_F32 : DLM_BF16;
    size_t stride = 0;
    dlm_bf16 *packed = NULL;
    if (panels > 0) {
        packed = (dlm_bf16 *)(void *)dlm__scratch(compute, panels, size / 2, &stride);
        if (packed == NULL) return;
    }
    const int wanted = dlm__team(M * N * K, GRAIN);
    const size_t unit = pack_a ? DLM_PANEL : 8;
#pragma omp parallel num_threads(wanted) if (wanted > 1)
    {
        /* The runtime may give fewer threads than it is asked for. */
        const int part = omp_get_thread_num(), team = omp_get_num_threads();
        const int down = dlm__cut((M + unit - 1) / unit, panels_of(N), team), across = team / down;
        for (size_t k = 0; k < K; k += most) {
            const factors f = {.product = product,
                               .A = A,
                               .first = k,
                               .K = dlm__least(most, K - k),
                               .a = pack_a ? packed : NULL,
                               .b = pack_b ? packed + a_panels * size : B};
            if (k > 0) {
#pragma omp barrier
            }
            if (pack_a) pack(compute, &f, A, DLM_BF16, M, product->transpose_a, packed, part, team);
            if (pack_b)
                pack(compute, &f, B, b_type, N, !product->transpose_b, packed + a_panels * size, part, team);
            if (panels > 0) {
#pragma omp barrier
            }
            if (product->symmetric)
                multiply_half(compute, &f, part, team, Y);
            else
                multiply(compute, &f, dlm__part(M, unit, part / across, down),
                         dlm__part(N, DLM_PANEL, part % across, across), bias, Y);
        }
    }
}
