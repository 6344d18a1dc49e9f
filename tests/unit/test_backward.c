/* Loss and gradients: against PyTorch on every instruction set, and against finite differences of the plain
 * loops. */
#include "network_fixture.h"

#include "diffusion/process.h"

#define LOSS_TOLERANCE     1e-6 /* relative */
#define WEIGHT_TOLERANCE   2e-6
#define GRADIENT_TOLERANCE 1e-4 /* of a tensor's largest element */

/* The gradients of every parameter against PREFIX + name in file. */
static void check_gradients(const dlm_layout *layout, const dlm_safetensors *file, const char *prefix,
                            const float *gradients) {
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        char name[DLM_MAX_NAME + 32];
        size_t n;
        (void)snprintf(name, sizeof name, "%s%s", prefix, param->name);
        float *want = fixture_floats(file, name, &n), largest = 0;
        for (size_t j = 0; j < n; j++) largest = fmaxf(largest, fabsf(want[j]));
        if (!CHECK_ALL_CLOSE(gradients + param->offset, want, n, GRADIENT_TOLERANCE * (double)largest)) {
            printf("in %s\n", param->name);
        }
        for (size_t j = n; j < dlm__round_up(n, 16); j++) CHECK(gradients[param->offset + j] == 0);
        free(want);
    }
}

static double norm(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static float fixture_number(const dlm_safetensors *file, const char *mode, const char *what) {
    char name[64];
    (void)snprintf(name, sizeof name, "%s.%s", mode, what);
    float *values = fixture_floats(file, name, NULL), value = values[0];
    free(values);
    return value;
}

/* ---- padded fixtures: B sequences of full length, whose rows are the masked positions ----------------- */

static const char *const modes[] = {"elbo", "flat", "uniform", "inv_sigma", "sigma"}; /* as dlm_loss_weight */

/* The weights of a mode on the mean of each sequence: w(t) / B, checked against the file's. */
static void weigh(fixture_batch *f, const dlm_safetensors *file, size_t mode, dlm_schedule schedule) {
    char name[64];
    double of_sequence[8];
    size_t B = f->batch.seg.n;
    (void)snprintf(name, sizeof name, "%s.weight", modes[mode]);
    float *want = fixture_floats(file, name, NULL);
    for (size_t b = 0; b < B; b++) {
        double weight = dlm__loss_weight((dlm_loss_weight)mode, schedule, (double)f->times[b]);
        CHECK_CLOSE(weight, want[b], WEIGHT_TOLERANCE * fmax(1, weight));
        of_sequence[b] = weight / (double)B;
    }
    fixture_weigh(f, of_sequence);
    free(want);
}

static void check_means(const fixture_batch *f, const dlm_safetensors *file, const float *ce) {
    float *want = fixture_floats(file, "mean_ce", NULL);
    size_t r = 0;
    for (size_t b = 0; b < f->batch.seg.n; b++) {
        double sum = 0;
        for (size_t i = 0; i < f->counts[b]; i++) sum += (double)ce[r++];
        if (f->counts[b] > 0) sum /= (double)f->counts[b];
        CHECK_CLOSE(sum, want[b], 2e-6 * fmax(1, (double)want[b]));
    }
    free(want);
}

static void check_schedule(dlm_compute *compute, const char *folder, const char *name, dlm_schedule schedule,
                           const char *with_gradients) {
    dlm_model *model = fixture_model(folder, DLM_PRECISION_F32);
    dlm_safetensors *file = fixture_file(folder, name);
    REQUIRE(model != NULL && file != NULL);
    size_t total = model->layout->total;
    int32_t lengths[4];
    for (size_t b = 0; b < 4; b++) lengths[b] = (int32_t)model->layout->config.max_seq_len;
    fixture_batch f = fixture_read_batch(file, 4, lengths);
    float *gradients = dlm__calloc(total, sizeof *gradients), *ce = dlm__calloc(f.batch.R, sizeof *ce);
    dlm_workspace *workspace = fixture_workspace(&model->network, compute, &f.batch, true);
    dlm_error err;
    for (size_t mode = 0; mode < sizeof modes / sizeof modes[0]; mode++) {
        double loss;
        weigh(&f, file, mode, schedule);
        memset(gradients, 0, total * sizeof *gradients);
        CHECK_OK(
            dlm__loss(workspace, &model->network, &f.batch, f.targets, f.weight, ce, &loss, gradients, &err),
            &err);
        double want = (double)fixture_number(file, modes[mode], "loss");
        CHECK_CLOSE(loss, want, LOSS_TOLERANCE * want);
        want = (double)fixture_number(file, modes[mode], "grad_norm");
        CHECK_CLOSE(norm(gradients, total), want, 1e-5 * want);
        check_means(&f, file, ce);
        if (strcmp(modes[mode], with_gradients) == 0) {
            char prefix[32];
            (void)snprintf(prefix, sizeof prefix, "%s.grad.", with_gradients);
            check_gradients(model->layout, file, prefix, gradients);
        }
    }
    dlm__workspace_free(workspace);
    fixture_free_batch(&f);
    free(gradients);
    free(ce);
    dlm__safetensors_close(file);
    dlm_model_free(model);
}

static void padded(dlm_compute *compute, const char *folder) {
    check_schedule(compute, folder, "loss_cosine", DLM_SCHEDULE_COSINE, "uniform");
    check_schedule(compute, folder, "loss_linear", DLM_SCHEDULE_LINEAR, "elbo");
}

/* ---- packed fixtures: sum_b L_b mean_b / sum_b L_b ---------------------------------------------------- */

static void packed(dlm_compute *compute, const char *folder) {
    dlm_model *model = fixture_model(folder, DLM_PRECISION_F32);
    dlm_safetensors *file = fixture_file(folder, "packed");
    REQUIRE(model != NULL && file != NULL);
    size_t S, total = model->layout->total;
    int32_t *lengths = fixture_ints(file, "lengths", &S);
    fixture_batch f = fixture_read_batch(file, S, lengths);
    double of_sequence[8], loss, again;
    for (size_t s = 0; s < S; s++) of_sequence[s] = (double)lengths[s] / (double)f.offsets[S];
    fixture_weigh(&f, of_sequence);
    float *gradients = dlm__calloc(total, sizeof *gradients), *ce = dlm__calloc(f.batch.R, sizeof *ce);
    float *first = dlm__calloc(total, sizeof *first), *want = fixture_floats(file, "loss", NULL);
    dlm_workspace *workspace = fixture_workspace(&model->network, compute, &f.batch, true);
    dlm_error err;
    CHECK_OK(dlm__loss(workspace, &model->network, &f.batch, f.targets, f.weight, ce, &loss, gradients, &err),
             &err);
    CHECK_CLOSE(loss, want[0], LOSS_TOLERANCE * (double)want[0]);
    check_gradients(model->layout, file, "grad.", gradients);
    /* A second pass adds the same again; one without gradients gives the same loss. */
    memcpy(first, gradients, total * sizeof *first);
    CHECK_OK(
        dlm__loss(workspace, &model->network, &f.batch, f.targets, f.weight, ce, &again, gradients, &err),
        &err);
    CHECK(again <= loss && again >= loss);
    for (size_t i = 0; i < total; i++) first[i] *= 2;
    CHECK_ALL_CLOSE(gradients, first, total, 1e-6 * norm(first, total));
    CHECK_OK(dlm__loss(workspace, &model->network, &f.batch, f.targets, f.weight, ce, &again, NULL, &err),
             &err);
    CHECK(again <= loss && again >= loss);
    dlm__workspace_free(workspace);
    fixture_free_batch(&f);
    free(lengths);
    free(want);
    free(gradients);
    free(first);
    free(ce);
    dlm__safetensors_close(file);
    dlm_model_free(model);
}

TEST(losses_and_gradients) {
    for_each_network(padded);
}

TEST(packed_gradients) {
    for_each_network(packed);
}

/* ---- finite differences, on the plain loops ----------------------------------------------------------- */

/* Loss and batch as functions of the parameters alone. */
typedef struct problem {
    dlm_model *model;
    dlm_workspace *workspace;
    fixture_batch *f;
    float *ce;
} problem;

static double loss_of(const problem *p, float *gradients) {
    double loss = NAN;
    dlm_error err;
    CHECK_OK(dlm__loss(p->workspace, &p->model->network, &p->f->batch, p->f->targets, p->f->weight, p->ce,
                       &loss, gradients, &err),
             &err);
    return loss;
}

/* The derivative of the loss along direction (count values of one parameter), by central differences at two
 * steps, extrapolated: the error is O(step^4) and the loss's rounding over the step. */
static double slope(const problem *p, const dlm_param *param, const float *direction, double step) {
    float *values = p->model->network.params + param->offset;
    float *saved = dlm__calloc(param->count, sizeof *saved);
    double difference[2];
    memcpy(saved, values, param->count * sizeof *saved);
    for (int half = 0; half < 2; half++) {
        double h = half ? step / 2 : step, at[2];
        for (int side = 0; side < 2; side++) {
            double signed_h = side ? h : -h;
            for (size_t i = 0; i < param->count; i++)
                values[i] = saved[i] + (float)(signed_h * (double)direction[i]);
            at[side] = loss_of(p, NULL);
        }
        difference[half] = (at[1] - at[0]) / (2 * h);
    }
    memcpy(values, saved, param->count * sizeof *saved);
    free(saved);
    return (4 * difference[1] - difference[0]) / 3;
}

/* Every parameter along its own gradient and along a random direction, both of length 1. The loss is summed
 * in float32 per row, so its error is some 1e-7, and that of a slope over a step of 0.02 some 1e-5. */
static void check_slopes(const problem *p, const float *gradients) {
    dlm_rng rng = dlm__rng(5, DLM_RNG_TEST, 0, 0);
    const dlm_layout *layout = p->model->layout;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        const float *g = gradients + param->offset;
        float *direction = dlm__calloc(param->count, sizeof *direction);
        double length = norm(g, param->count);
        if (CHECK(length > 1e-3)) {
            for (size_t j = 0; j < param->count; j++) direction[j] = (float)((double)g[j] / length);
            if (!CHECK_CLOSE(slope(p, param, direction, 0.02), length, 5e-5 + 2e-4 * length)) {
                printf("along the gradient of %s\n", param->name);
            }
        }
        for (size_t j = 0; j < param->count; j++) direction[j] = (float)dlm__rng_normal(&rng);
        double random = norm(direction, param->count), along = 0;
        for (size_t j = 0; j < param->count; j++) {
            direction[j] = (float)((double)direction[j] / random);
            along += (double)direction[j] * (double)g[j];
        }
        if (!CHECK_CLOSE(slope(p, param, direction, 0.02), along, 5e-5 + 2e-4 * length)) {
            printf("along a random direction of %s\n", param->name);
        }
        free(direction);
    }
}

static void finite_differences(const char *folder) {
    dlm_compute *compute;
    dlm_error err;
    dlm_safetensors *file = fixture_file(folder, "packed");
    problem p = {.model = fixture_model(folder, DLM_PRECISION_F32)};
    REQUIRE(p.model != NULL && file != NULL);
    REQUIRE_OK(dlm__compute_create("reference", &compute, &err), &err);
    size_t S;
    int32_t *lengths = fixture_ints(file, "lengths", &S);
    fixture_batch f = fixture_read_batch(file, S, lengths);
    double of_sequence[8];
    for (size_t s = 0; s < S; s++) of_sequence[s] = (double)lengths[s] / (double)f.offsets[S];
    fixture_weigh(&f, of_sequence);
    p.f = &f;
    p.ce = dlm__calloc(f.batch.R, sizeof *p.ce);
    p.workspace = fixture_workspace(&p.model->network, compute, &f.batch, true);
    float *gradients = dlm__calloc(p.model->layout->total, sizeof *gradients);
    dlm_set_threads(1);
    (void)loss_of(&p, gradients);
    check_context("%s", folder);
    check_slopes(&p, gradients);
    dlm_set_threads(0);
    dlm__workspace_free(p.workspace);
    dlm__compute_free(compute);
    fixture_free_batch(&f);
    free(lengths);
    free(p.ce);
    free(gradients);
    dlm__safetensors_close(file);
    dlm_model_free(p.model);
}

TEST(finite_differences_tiny) {
    finite_differences("tiny");
}
TEST(finite_differences_plain) {
    finite_differences("plain");
}
TEST(finite_differences_halfway) {
    finite_differences("halfway");
}

/* A batch in which nothing is masked costs nothing and moves nothing. */
TEST(no_rows) {
    dlm_model *model = fixture_model("plain", DLM_PRECISION_F32);
    dlm_compute *compute;
    dlm_error err;
    REQUIRE(model != NULL);
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    int32_t ids[2] = {4, 5};
    size_t offsets[2] = {0, 2};
    dlm_batch batch = {{1, offsets}, ids, NULL, 0, NULL};
    dlm_workspace *workspace = fixture_workspace(&model->network, compute, &batch, true);
    float *gradients = dlm__calloc(model->layout->total, sizeof *gradients);
    double loss = 1;
    CHECK_OK(dlm__loss(workspace, &model->network, &batch, NULL, NULL, NULL, &loss, gradients, &err), &err);
    CHECK(loss == 0 && norm(gradients, model->layout->total) == 0);
    free(gradients);
    dlm__workspace_free(workspace);
    dlm__compute_free(compute);
    dlm_model_free(model);
}
