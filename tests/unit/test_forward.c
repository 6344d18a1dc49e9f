/* The forward pass against PyTorch's states and logits, on every instruction set; and that a sequence's
 * logits depend neither on what it is packed with nor on which rows are asked for. */
#include "network_fixture.h"

#include "model/pass.h"

/* Absolute, for values of order 1; the fixtures' logits reach about 5. */
#define TOLERANCE 2e-5

/* States before each block and behind the last, of a workspace for training, which keeps them all. */
static void check_states(const dlm_workspace *workspace, const dlm_safetensors *file, size_t depth,
                         bool adaln) {
    size_t n;
    for (size_t i = 0; i <= depth; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "h%zu", i);
        float *want = fixture_floats(file, name, &n);
        CHECK_ALL_CLOSE(workspace->layers[i].h, want, n, TOLERANCE);
        free(want);
    }
    if (!adaln) {
        CHECK(workspace->c == NULL);
        return;
    }
    float *want = fixture_floats(file, "c", &n);
    CHECK_ALL_CLOSE(workspace->c, want, n, TOLERANCE);
    free(want);
}

/* B sequences of L positions of the ids and times named, all rows: logits within tolerance of those named. */
static void check_logits(dlm_compute *compute, const dlm_network *network, const dlm_safetensors *file,
                         const char *ids_name, size_t B, const char *logits_name) {
    size_t T, count, V = network->layout->config.vocab_size;
    int32_t *ids = fixture_ints(file, ids_name, &T);
    float *times = fixture_floats(file, "t", NULL), *want = fixture_floats(file, logits_name, &count);
    float *got = dlm__calloc(count, sizeof *got), *again = dlm__calloc(count, sizeof *got);
    size_t offsets[8] = {0};
    for (size_t b = 0; b < B; b++) offsets[b + 1] = offsets[b] + T / B;
    int32_t *rows = fixture_all_rows(T);
    dlm_batch batch = {{B, offsets}, ids, times, T, rows};
    dlm_error err;
    CHECK_INT_EQ(count, T * V);
    for (int training = 0; training < 2; training++) {
        dlm_workspace *workspace = fixture_workspace(network, compute, &batch, training == 1);
        CHECK_OK(dlm__forward(workspace, network, &batch, got, &err), &err);
        CHECK_ALL_CLOSE(got, want, count, TOLERANCE);
        if (training == 1) {
            CHECK_MEM_EQ(got, again, count * sizeof *got);
            const dlm_config *config = &network->layout->config;
            if (T / B == config->max_seq_len) {
                check_states(workspace, file, config->depth, config->time == DLM_TIME_ADALN);
            }
        }
        memcpy(again, got, count * sizeof *got);
        dlm__workspace_free(workspace);
    }
    free(ids);
    free(times);
    free(want);
    free(got);
    free(again);
    free(rows);
}

static void forward(dlm_compute *compute, const char *folder) {
    dlm_model *model = fixture_model(folder, DLM_PRECISION_F32);
    dlm_safetensors *file = fixture_file(folder, "forward");
    REQUIRE(model != NULL && file != NULL);
    check_logits(compute, &model->network, file, "x_t", 4, "logits");
    check_logits(compute, &model->network, file, "short.x_t", 2, "short.logits");
    dlm__safetensors_close(file);
    dlm_model_free(model);
}

/* The packed fixture; then each sequence alone, and every other row alone. */
static void packed(dlm_compute *compute, const char *folder) {
    dlm_model *model = fixture_model(folder, DLM_PRECISION_F32);
    dlm_safetensors *file = fixture_file(folder, "packed");
    REQUIRE(model != NULL && file != NULL);
    size_t S, count, V = model->layout->config.vocab_size;
    int32_t *lengths = fixture_ints(file, "lengths", &S);
    fixture_batch f = fixture_read_batch(file, S, lengths);
    float *want = fixture_floats(file, "logits", &count), *got = dlm__calloc(count, sizeof *got);
    size_t T = f.offsets[S];
    int32_t *all = fixture_all_rows(T);
    f.batch.R = T;
    f.batch.rows = all;
    dlm_workspace *workspace = fixture_workspace(&model->network, compute, &f.batch, false);
    dlm_error err;
    CHECK_OK(dlm__forward(workspace, &model->network, &f.batch, got, &err), &err);
    CHECK_ALL_CLOSE(got, want, count, TOLERANCE);
    for (size_t s = 0; s < S; s++) {
        size_t alone[2] = {0, (size_t)lengths[s]}, first = f.offsets[s];
        dlm_batch batch = {{1, alone}, f.ids + first, f.times + s, alone[1], all};
        CHECK_OK(dlm__forward(workspace, &model->network, &batch, got, &err), &err);
        CHECK_ALL_CLOSE(got, want + first * V, alone[1] * V, TOLERANCE);
    }
    size_t R = 0;
    for (size_t t = 1; t < T; t += 2) all[R++] = (int32_t)t;
    f.batch.R = R;
    CHECK_OK(dlm__forward(workspace, &model->network, &f.batch, got, &err), &err);
    for (size_t r = 0; r < R; r++) CHECK_ALL_CLOSE(got + r * V, want + (2 * r + 1) * V, V, TOLERANCE);
    f.batch.R = 0;
    CHECK_OK(dlm__forward(workspace, &model->network, &f.batch, got, &err), &err);
    dlm__workspace_free(workspace);
    fixture_free_batch(&f);
    free(lengths);
    free(want);
    free(got);
    free(all);
    dlm__safetensors_close(file);
    dlm_model_free(model);
}

TEST(states_and_logits) {
    for_each_network(forward);
}

TEST(packed_sequences) {
    for_each_network(packed);
}

/* ---- a model made here -------------------------------------------------------------------------------- */

static const dlm_config made_config = {.vocab_size = 11,
                                       .max_seq_len = 700,
                                       .hidden_size = 8,
                                       .depth = 2,
                                       .num_heads = 2,
                                       .mlp_ratio = 3,
                                       .time = DLM_TIME_NONE,
                                       .position = DLM_POSITION_BOTH};

/* Random weights of order `scale`. */
static dlm_model *made_model(const dlm_config *config, float scale, dlm_precision precision) {
    dlm_layout *layout;
    dlm_model *model = NULL;
    dlm_error err;
    if (!CHECK_OK(dlm__layout_create(config, &layout, &err), &err)) return NULL;
    float *params = dlm__calloc(layout->total, sizeof *params);
    dlm_rng rng = dlm__rng(3, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < layout->total; i++) params[i] = scale * (float)dlm__rng_normal(&rng);
    CHECK_OK(dlm__model_create(config, params, NULL, NULL, precision, &model, &err), &err);
    free(params);
    dlm__layout_free(layout);
    return model;
}

/* More rows than one chunk of logits holds: every row equals the same row asked for alone. */
static void many_rows(dlm_compute *compute, const char *folder) {
    (void)folder;
    enum { T = 700, V = 11 };
    static int32_t ids[T];
    static float all[T * V], one[V];
    dlm_model *model = made_model(&made_config, 0.3F, DLM_PRECISION_F32);
    REQUIRE(model != NULL);
    for (int32_t t = 0; t < T; t++) ids[t] = t * 7 % V;
    int32_t *rows = fixture_all_rows(T);
    size_t offsets[2] = {0, T};
    dlm_batch batch = {{1, offsets}, ids, NULL, T, rows};
    dlm_workspace *workspace = fixture_workspace(&model->network, compute, &batch, false);
    dlm_error err;
    CHECK_OK(dlm__forward(workspace, &model->network, &batch, all, &err), &err);
    batch.R = 1;
    for (int32_t row = 0; row < T; row += 73) {
        batch.rows = &row;
        CHECK_OK(dlm__forward(workspace, &model->network, &batch, one, &err), &err);
        CHECK_ALL_CLOSE(one, all + (size_t)row * V, V, TOLERANCE);
    }
    dlm__workspace_free(workspace);
    free(rows);
    dlm_model_free(model);
}

TEST(chunks_of_rows) {
    for_each_compute(many_rows, "made");
}

/* At its initial values the model gives every token the same logit, whatever it reads: the loss is ln V. */
static void initial_loss(dlm_time time) {
    dlm_config config = made_config;
    config.time = time;
    dlm_layout *layout;
    dlm_model *model;
    dlm_compute *compute;
    dlm_error err;
    REQUIRE_OK(dlm__layout_create(&config, &layout, &err), &err);
    float *params = dlm__calloc(layout->total, sizeof *params), ce[3], weight[3] = {1, 1, 1};
    dlm__layout_init(layout, 1, params);
    REQUIRE_OK(dlm__model_create(&config, params, NULL, NULL, DLM_PRECISION_F32, &model, &err), &err);
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    int32_t ids[3] = {2, 5, 2}, rows[3] = {0, 1, 2}, targets[3] = {4, 5, 6};
    size_t offsets[2] = {0, 3};
    float times[1] = {0.5F};
    double loss;
    dlm_batch batch = {{1, offsets}, ids, times, 3, rows};
    dlm_workspace *workspace = fixture_workspace(&model->network, compute, &batch, true);
    CHECK_OK(dlm__loss(workspace, &model->network, &batch, targets, weight, ce, &loss, NULL, &err), &err);
    CHECK_CLOSE(loss / 3, log(11), 1e-6);
    CHECK_MEM_EQ(workspace->layers[2].h, workspace->layers[0].h, 3 * 8 * sizeof(float));
    dlm__workspace_free(workspace);
    dlm__compute_free(compute);
    dlm_model_free(model);
    free(params);
    dlm__layout_free(layout);
}

TEST(initial_loss_plain) {
    initial_loss(DLM_TIME_NONE);
}
TEST(initial_loss_adaln) {
    initial_loss(DLM_TIME_ADALN);
}

/* ---- refusals ----------------------------------------------------------------------------------------- */

TEST(refused_batches) {
    dlm_config config = made_config;
    config.time = DLM_TIME_ADALN;
    config.max_seq_len = 4;
    dlm_model *model = made_model(&config, 0.1F, DLM_PRECISION_F32);
    dlm_compute *compute;
    dlm_workspace *workspace, *none;
    dlm_error err;
    REQUIRE(model != NULL);
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    dlm_workspace_size size = {.tokens = 6, .sequences = 2, .rows = 3};
    REQUIRE_OK(dlm__workspace_create(model->layout, DLM_F32, compute, size, &workspace, &err), &err);
    int32_t ids[8] = {2, 2, 2, 2, 2, 2, 2, 2}, rows[4] = {0, 1, 2, 3};
    size_t offsets[4] = {0, 3, 6, 7};
    float times[3] = {0, 1, 0.5F}, logits[4 * 11];
    const dlm_batch good = {{2, offsets}, ids, times, 3, rows};
#define REFUSED(says)                                                                                 \
    CHECK_STATUS(dlm__forward(workspace, &model->network, &batch, logits, &err), DLM_ARGUMENT, &err); \
    CHECK_SAYS(&err, says);                                                                           \
    batch = good
    dlm_batch batch = good;
    CHECK_OK(dlm__forward(workspace, &model->network, &batch, logits, &err), &err);
    batch.seg.n = 0;
    REFUSED("0 sequences");
    batch.seg.n = 3;
    REFUSED("batch of 7 positions in 3 sequences with 3 rows, in a workspace for 6 in 2 with 3");
    batch.R = 4;
    REFUSED("with 4 rows");
    batch.seg.offsets = (const size_t[]){0, 1, 6};
    REFUSED("sequence 1 has 5 positions, not 1 to 4");
    batch.seg.offsets = (const size_t[]){0, 3, 3};
    REFUSED("sequence 1 has 0 positions");
    batch.times = (const float[]){0.5F, 1.5F};
    REFUSED("sequence 1 has time 1.5");
    batch.times = (const float[]){NAN, 1};
    REFUSED("sequence 0 has time");
    batch.ids = (const int32_t[]){2, 2, 11, 2, 2, 2};
    REFUSED("id 11 at 2 is outside the vocabulary of 11");
    batch.ids = (const int32_t[]){2, 2, 2, 2, 2, -1};
    REFUSED("id -1 at 5");
    batch.rows = (const int32_t[]){0, 1, 6};
    REFUSED("row 2 is position 6");
    batch.rows = (const int32_t[]){0, 0, 1};
    REFUSED("row 1 is position 0");
    batch.rows = (const int32_t[]){4, 1, 5};
    REFUSED("row 1 is position 1");
    batch.rows = (const int32_t[]){-1, 1, 5};
    REFUSED("row 0 is position -1");
#undef REFUSED
    float weight[3] = {1, 1, 1}, ce[3];
    double loss;
    CHECK_STATUS(dlm__loss(workspace, &model->network, &good, (const int32_t[]){1, 2, 11}, weight, ce, &loss,
                           NULL, &err),
                 DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "target 11 at 2");
    CHECK_STATUS(dlm__loss(workspace, &model->network, &good, ids, weight, ce, &loss, logits, &err),
                 DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "workspace for training");
    dlm_network other = model->network;
    other.type = DLM_BF16;
    CHECK_STATUS(dlm__forward(workspace, &other, &good, logits, &err), DLM_ARGUMENT, &err);
    size.rows = 7;
    CHECK_STATUS(dlm__workspace_create(model->layout, DLM_F32, compute, size, &none, &err), DLM_ARGUMENT,
                 &err);
    size = (dlm_workspace_size){.tokens = (size_t)1 << 40, .sequences = 1, .rows = 1};
    CHECK_STATUS(dlm__workspace_create(model->layout, DLM_F32, compute, size, &none, &err), DLM_ARGUMENT,
                 &err);
    CHECK(none == NULL);
    dlm__workspace_free(workspace);
    dlm__compute_free(compute);
    dlm_model_free(model);
}
