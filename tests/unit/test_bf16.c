/* How far bfloat16 products may move states, logits and gradients from float32's.
 *
 * What is rounded: the operands of matrix products, and what of the MLP is kept for the backward pass.
 * bfloat16 keeps 8 significant bits, so rounding to nearest is x (1 + d) with |d| <= u = 2^-8; over a binade
 * the absolute error is uniform, so that the mean square of d is at most r^2 = u^2 / 3 (0.18 u^2 for values
 * spread evenly over the binade). The bound treats the d as independent and of mean 0 (Higham and Mary, A new
 * approach to probabilistic rounding error analysis, 2019), and counts relative errors in the Frobenius norm,
 * squared, in units of r^2:
 *
 *   product Y = X W^T    the error is sum_k x w (d_x + d_w), its expected square r^2 * 2 * sum x^2 w^2, which
 *                        is 2 r^2 |Y|^2 where X and W are not correlated: a product adds 2
 *   c                    two products: 4.  A modulation is one more: 6
 *   attention branch     the norm is invariant to scale and passes the relative error of h on; modulation 6,
 *                        qkv 2, proj 2, gate 6; the errors of q and k also reach the weights of the softmax,
 *                        as much again as qkv and its input: 4.  In all 20
 *   MLP branch           modulation 6, fc1 2, fc2 2 (GELU's slope is about 1 at most), gate 6.  In all 16
 *   h + branch           errors add in square, as do h and the branch, so the relative error of the sum is at
 *                        most the larger of the two: that of h plus 20 or 16
 *   h before block i     36 i
 *   logits, N blocks     36 N + 6 (modulation) + 2 (final linear) = 36 N + 8
 *   gradients            the error of the logits changes their softmax, that of the states what is multiplied
 *                        with the gradients, and the backward products add as many again as the forward ones,
 *                        each at most the logits' error; one more for what adds up with the sign of another:
 *                        4 (36 N + 8), that is twice the relative error.
 *                        fc1's output f and the MLP's y2 are kept in bfloat16: of a rounded f are made
 *                        GELU(f), an operand, 1, and GELU's slope, less than 1 (f GELU''(f) is 0.32 at most,
 *                        the slope 1/2 at 0); y2 enters the gradient of the gate alone, 1. So a block adds
 *                        2 at most: 4 (36 N + 8) + 2 N
 *
 * Where attention's products are of bfloat16 too, scores and output add 2 each, which the bound has room for.
 *
 * For three blocks these are 2.4 % for logits and 4.9 % for gradients. The test also checks from the other
 * side that something was rounded, and that what must stay float32 did. */
#include "network_fixture.h"

#include "model/pass.h"

#define UNIT (1.0 / 256)

static double bound(double count) {
    return UNIT * sqrt(count / 3);
}

/* |a - b| / |b|. */
static double distance(const float *a, const float *b, size_t n) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / size);
}

/* The share of values that need more than bfloat16's bits, of those that are not 0. */
static double share_finer(const float *x, size_t n) {
    size_t finer = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        finer += (bits & 0xffff) != 0;
        all += (bits & 0x7fffffff) != 0;
    }
    return (double)finer / (double)all;
}

/* One pass over the packed fixture. */
typedef struct outcome {
    dlm_model *model;
    dlm_workspace *workspace;  /* in which the logits were made */
    float *logits, *gradients; /* (R,V), (total) */
    double loss;
} outcome;

static outcome run(dlm_compute *compute, const char *folder, dlm_precision precision,
                   const fixture_batch *f) {
    outcome o = {.model = fixture_model(folder, precision)};
    size_t V = o.model->layout->config.vocab_size;
    float *ce = dlm__calloc(f->batch.R, sizeof *ce);
    dlm_error err;
    o.workspace = fixture_whole_workspace(&o.model->network, compute, &f->batch);
    dlm_workspace *training = fixture_workspace(&o.model->network, compute, &f->batch, true);
    o.logits = dlm__calloc(f->batch.R * V, sizeof *o.logits);
    o.gradients = dlm__calloc(o.model->layout->total, sizeof *o.gradients);
    CHECK_OK(dlm__forward(o.workspace, &o.model->network, &f->batch, o.logits, &err), &err);
    CHECK_OK(dlm__loss(training, &o.model->network, &f->batch, f->targets, f->weight, ce, &o.loss,
                       o.gradients, &err),
             &err);
    dlm__workspace_free(training);
    free(ce);
    return o;
}

static void free_outcome(outcome *o) {
    dlm__workspace_free(o->workspace);
    dlm_model_free(o->model);
    free(o->logits);
    free(o->gradients);
}

static void check_states(const outcome *full, const outcome *half, size_t T, size_t S) {
    size_t C = full->model->layout->config.hidden_size, depth = full->model->layout->config.depth;
    CHECK_MEM_EQ(half->workspace->layers[0].h, full->workspace->layers[0].h, T * C * sizeof(float));
    for (size_t i = 1; i <= depth; i++) {
        const float *state = half->workspace->layers[i].h;
        double moved = distance(state, full->workspace->layers[i].h, T * C);
        CHECK(moved < bound(36 * (double)i));
        CHECK(share_finer(state, T * C) > 0.95);
    }
    const float *c = half->workspace->c;
    if (c == NULL) return;
    CHECK(distance(c, full->workspace->c, S * C) < bound(4));
    CHECK(share_finer(c, S * C) > 0.95);
}

static void check_gradients(const outcome *full, const outcome *half, double limit) {
    const dlm_layout *layout = full->model->layout;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        const float *a = half->gradients + param->offset, *b = full->gradients + param->offset;
        if (!CHECK(distance(a, b, param->count) < limit)) printf("gradient of %s\n", param->name);
        if (!CHECK(share_finer(a, param->count) > 0.3)) printf("gradient of %s\n", param->name);
    }
}

static void compare(dlm_compute *compute, const char *folder) {
    dlm_safetensors *file = fixture_file(folder, "packed");
    REQUIRE(file != NULL);
    size_t S;
    int32_t *lengths = fixture_ints(file, "lengths", &S);
    fixture_batch f = fixture_read_batch(file, S, lengths);
    double of_sequence[8];
    for (size_t s = 0; s < S; s++) of_sequence[s] = (double)lengths[s] / (double)f.offsets[S];
    fixture_weigh(&f, of_sequence);
    outcome full = run(compute, folder, DLM_PRECISION_F32, &f),
            half = run(compute, folder, DLM_PRECISION_BF16, &f);
    const dlm_config *config = &full.model->layout->config;
    size_t n = f.batch.R * config->vocab_size;
    double count = 36 * (double)config->depth + 8, size = 0;
    double moved = distance(half.logits, full.logits, n);
    check_states(&full, &half, f.offsets[S], S);
    CHECK(moved < bound(count));
    CHECK(moved > UNIT / 4);
    CHECK(bound(count) < 0.05);
    /* A row's cross-entropy moves by at most twice what its logits do. */
    for (size_t i = 0; i < n; i++) size += (double)full.logits[i] * (double)full.logits[i] / (double)n;
    CHECK_CLOSE(half.loss, full.loss, 2 * bound(count) * sqrt(size));
    CHECK(half.loss < full.loss || half.loss > full.loss);
    check_gradients(&full, &half, bound(4 * count + 2 * (double)config->depth));
    free_outcome(&full);
    free_outcome(&half);
    fixture_free_batch(&f);
    free(lengths);
    dlm__safetensors_close(file);
}

TEST(rounded_operands) {
    for_each_network(compare);
}

/* A forward pass reads the same numbers from rows, from panels, and from float32 weights that it rounds; the
 * backward pass from rows and from float32 weights. */
TEST(however_weights_lie) {
    dlm_compute *compute;
    dlm_error err;
    if (!dlm__bf16_panels()) SKIP("products of bfloat16 are not the library's own here");
    dlm_safetensors *file = fixture_file("tiny", "packed");
    dlm_model *model = fixture_model("tiny", DLM_PRECISION_BF16);
    REQUIRE(file != NULL && model != NULL);
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    size_t S;
    int32_t *lengths = fixture_ints(file, "lengths", &S);
    fixture_batch f = fixture_read_batch(file, S, lengths);
    double of_sequence[8];
    for (size_t s = 0; s < S; s++) of_sequence[s] = 1;
    fixture_weigh(&f, of_sequence);
    const size_t n = f.batch.R * model->layout->config.vocab_size, total = model->layout->total;
    float *logits[3], *gradients[3], *ce = dlm__calloc(f.batch.R, sizeof *ce);
    dlm_network as[3] = {model->network, model->network, model->network};
    as[1].params_bf16 = NULL;
    as[2].panels = true;
    as[2].params_bf16 = dlm__calloc(total, sizeof *as[2].params_bf16);
    dlm__network_refresh(compute, &as[2]);
    CHECK(memcmp(as[2].params_bf16, as[0].params_bf16, total * sizeof(dlm_bf16)) != 0);
    for (int i = 0; i < 3; i++) {
        double loss;
        dlm_workspace *workspace = fixture_workspace(&as[i], compute, &f.batch, true);
        logits[i] = dlm__calloc(n, sizeof(float));
        gradients[i] = dlm__calloc(total, sizeof(float));
        CHECK_OK(dlm__forward(workspace, &as[i], &f.batch, logits[i], &err), &err);
        CHECK_MEM_EQ(logits[i], logits[0], n * sizeof(float));
        if (i < 2) {
            CHECK_OK(
                dlm__loss(workspace, &as[i], &f.batch, f.targets, f.weight, ce, &loss, gradients[i], &err),
                &err);
            CHECK_MEM_EQ(gradients[i], gradients[0], total * sizeof(float));
        }
        dlm__workspace_free(workspace);
    }
    for (int i = 0; i < 3; i++) free(logits[i]), free(gradients[i]);
    free(ce);
    free(as[2].params_bf16);
    fixture_free_batch(&f);
    free(lengths);
    dlm__safetensors_close(file);
    dlm__compute_free(compute);
    dlm_model_free(model);
}
