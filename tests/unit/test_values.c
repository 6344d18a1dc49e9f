/* Float32 values of models whose products read something else: they take no memory until they are asked for,
 * and are then the file's, whatever became of its name; where the file itself was changed, that is said. */
#include "network_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* DIR/name of random weights, or these rounded. */
static const char *write_model(const char *dir, const char *name, uint64_t seed, dlm_numbers numbers) {
    const char *path = path_in(dir, name);
    dlm_save_options options = dlm_save_defaults();
    dlm_model *model;
    dlm_error err;
    options.numbers = numbers;
    options.overwrite = true;
    if (CHECK_OK(dlm_model_random(&large_config, DLM_PRECISION_F32, seed, &model, &err), &err))
        CHECK_OK(dlm_model_save(model, path, &options, &err), &err);
    dlm_model_free(model);
    return path;
}

static void same_values(const dlm_model *model, const dlm_model *want) {
    for (size_t i = 0; i < dlm_model_parameters(want); i++) {
        const dlm_parameter x = dlm_model_parameter(model, i), y = dlm_model_parameter(want, i);
        CHECK_STR_EQ(x.name, y.name);
        if (CHECK(x.values != NULL)) CHECK_MEM_EQ(x.values, y.values, y.count * sizeof *y.values);
    }
}

static size_t count_absent(const dlm_model *model) {
    size_t n = 0;
    for (size_t i = 0; model->network.absent != NULL && i < model->layout->n; i++)
        n += model->network.absent[i];
    return n;
}

/* ---- they are the file's ------------------------------------------------------------------------------ */

/* What is saved of both is the same to the byte. */
static void same_saved(const dlm_model *model, const dlm_model *want) {
    static const char *const names[] = {"f32.safetensors", "bf16.safetensors", "f16.pt", "int8.safetensors"};
    static const dlm_numbers numbers[] = {DLM_NUMBERS_F32, DLM_NUMBERS_BF16, DLM_NUMBERS_F16,
                                          DLM_NUMBERS_INT8};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *a = path_in(temporary_dir(), names[i]), *b = path_in(temporary_dir(), names[i]);
        dlm_save_options options = dlm_save_defaults();
        dlm_error err;
        size_t n, m;
        options.numbers = numbers[i];
        REQUIRE_OK(dlm_model_save(model, a, &options, &err), &err);
        REQUIRE_OK(dlm_model_save(want, b, &options, &err), &err);
        const char *left = read_text(a, &n), *right = read_text(b, &m);
        REQUIRE(left != NULL && right != NULL && CHECK_INT_EQ(n, m));
        CHECK_MEM_EQ(left, right, n);
    }
}

/* Matrices alone are absent, and what reads all of them leaves them so. */
TEST(values_of_the_file) {
    static const dlm_numbers numbers[] = {DLM_NUMBERS_F32, DLM_NUMBERS_BF16, DLM_NUMBERS_F16,
                                          DLM_NUMBERS_INT8};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const char *path = write_model(temporary_dir(), "model.safetensors", 3, numbers[i]);
        dlm_model *model = fixture_load(path, DLM_PRECISION_BF16),
                  *want = fixture_load(path, DLM_PRECISION_F32);
        dlm_error err;
        REQUIRE(model != NULL && want != NULL);
        check_context("stored as %s", dlm_model_stored(model));
        const size_t total = model->layout->total;
        float *all = dlm__calloc(total, sizeof *all);
        /* 2 of times, the final two, and 5 of each block. */
        CHECK_INT_EQ(count_absent(model), 2 + 2 + 5 * large_config.depth);
        CHECK_INT_EQ(count_absent(want), 0);
        CHECK(want->file == NULL && dlm_model_describe_parameter(model, 4).values == NULL);
        memset(all, 1, total * sizeof *all);
        CHECK_OK(dlm__network_copy_values(&model->network, all, &err), &err);
        CHECK_MEM_EQ(all, want->network.params, total * sizeof *all);
        CHECK_INT_EQ(count_absent(model), 2 + 2 + 5 * large_config.depth);
        same_saved(model, want);
        same_values(model, want);
        CHECK_INT_EQ(count_absent(model), 0);
        CHECK_MEM_EQ(model->network.params, want->network.params, total * sizeof *all);
        free(all);
        dlm_model_free(model), dlm_model_free(want);
    }
}

/* A .pt is not read in parts: it stays as it was read, and is closed. */
TEST(values_of_a_checkpoint) {
    const char *path = write_model(temporary_dir(), "model.pt", 3, DLM_NUMBERS_F32);
    dlm_model *model = fixture_load(path, DLM_PRECISION_BF16), *want = fixture_load(path, DLM_PRECISION_F32);
    REQUIRE(model != NULL && want != NULL);
    CHECK(count_absent(model) == 0 && model->file == NULL);
    same_values(model, want);
    same_saved(model, want);
    dlm_model_free(model), dlm_model_free(want);
}

/* In 8 bits: of what is in bfloat16 beside them the file's, of the others what the integers stand for. */
TEST(values_beside_integers) {
    const char *path = write_model(temporary_dir(), "model.safetensors", 3, DLM_NUMBERS_F32),
               *pt = write_model(temporary_dir(), "model.pt", 3, DLM_NUMBERS_F32);
    dlm_model *model = fixture_load(path, DLM_PRECISION_INT8), *whole = fixture_load(pt, DLM_PRECISION_INT8),
              *want = fixture_load(path, DLM_PRECISION_F32);
    REQUIRE(model != NULL && whole != NULL && want != NULL);
    const size_t matrices = 1 + 4 * large_config.depth, others = 2 + 1 + large_config.depth;
    CHECK_INT_EQ(count_absent(model), dlm__bf16_native() ? matrices + others : matrices);
    CHECK_INT_EQ(count_absent(whole), matrices);
    for (size_t i = 0; i < model->layout->n; i++) {
        const dlm_int8 *a = model->network.int8[i], *b = whole->network.int8[i];
        const dlm_parameter x = dlm_model_parameter(model, i), y = dlm_model_parameter(want, i);
        REQUIRE((a == NULL) == (b == NULL) && (a == NULL) != model->layout->params[i].token_matrix);
        if (a == NULL) CHECK_MEM_EQ(x.values, y.values, x.count * sizeof *x.values);
        if (a == NULL) continue;
        int8_t *q = dlm__calloc(2 * a->N * a->K, 1);
        dlm__int8_integers(a, q), dlm__int8_integers(b, q + a->N * a->K);
        CHECK_MEM_EQ(q, q + a->N * a->K, a->N * a->K);
        CHECK_MEM_EQ(a->scale, b->scale, a->N * sizeof *a->scale);
        CHECK_MEM_EQ(a->sums, b->sums, a->N * sizeof *a->sums);
        free(q);
    }
    same_values(model, whole);
    dlm_model_free(model), dlm_model_free(whole), dlm_model_free(want);
}

typedef struct asking {
    const dlm_model *model, *want;
    bool backwards;
    size_t wrong;
    const float *values[64];
} asking;

static void *ask(void *user) {
    asking *a = user;
    const size_t n = a->model->layout->n;
    for (size_t k = 0; k < n; k++) {
        const size_t i = a->backwards ? n - 1 - k : k;
        const dlm_parameter x = dlm_model_parameter(a->model, i), y = dlm_model_parameter(a->want, i);
        a->wrong += x.values == NULL || memcmp(x.values, y.values, y.count * sizeof *y.values) != 0;
        a->values[i] = x.values;
    }
    return NULL;
}

/* Both get what is there for good; integers are multiplied by their scales once. */
TEST(two_threads_ask_at_once) {
    const char *path = write_model(temporary_dir(), "model.safetensors", 3, DLM_NUMBERS_INT8);
    dlm_model *want = fixture_load(path, DLM_PRECISION_F32);
    for (int round = 0; round < 8; round++) {
        dlm_model *model = fixture_load(path, DLM_PRECISION_BF16);
        REQUIRE(model != NULL && want != NULL && model->layout->n <= 64);
        asking asked[2] = {{.model = model, .want = want, .backwards = round % 2 == 1},
                           {.model = model, .want = want}};
        pthread_t threads[2];
        for (size_t i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, ask, &asked[i]) == 0);
        for (size_t i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
        for (size_t i = 0; i < model->layout->n; i++) CHECK(asked[0].values[i] == asked[1].values[i]);
        CHECK(asked[0].wrong == 0 && asked[1].wrong == 0);
        dlm_model_free(model);
    }
    dlm_model_free(want);
}

/* ---- what becomes of the file ------------------------------------------------------------------------- */

TEST(a_file_that_is_replaced_or_removed) {
    const char *dir = temporary_dir(), *path = write_model(dir, "model.safetensors", 3, DLM_NUMBERS_F32);
    for (int removed = 0; removed < 2; removed++) {
        dlm_model *model = fixture_load(path, DLM_PRECISION_BF16),
                  *want = fixture_load(path, DLM_PRECISION_F32);
        REQUIRE(model != NULL && want != NULL);
        if (removed == 1) CHECK(unlink(path) == 0);
        if (removed == 0) CHECK(rename(write_model(dir, "other.safetensors", 4, DLM_NUMBERS_F32), path) == 0);
        same_values(model, want);
        dlm_model_free(model), dlm_model_free(want);
    }
}

/* A model is saved over the file or folder that it is read from meanwhile. */
TEST(saved_over_itself) {
    const char *dir = temporary_dir();
    const char *const paths[] = {write_model(dir, "model.safetensors", 3, DLM_NUMBERS_F32),
                                 write_model(dir, "folder", 3, DLM_NUMBERS_F32)};
    for (size_t i = 0; i < 2; i++) {
        dlm_model *want = fixture_load(paths[i], DLM_PRECISION_F32),
                  *model = fixture_load(paths[i], DLM_PRECISION_BF16);
        dlm_save_options options = dlm_save_defaults();
        dlm_error err;
        REQUIRE(model != NULL && want != NULL);
        options.overwrite = true;
        options.numbers = DLM_NUMBERS_F16;
        REQUIRE_OK(dlm_model_save(model, paths[i], &options, &err), &err);
        options.numbers = DLM_NUMBERS_F32;
        REQUIRE_OK(dlm_model_save(model, paths[i], &options, &err), &err);
        same_values(model, want);
        dlm_model_free(model);
        model = fixture_load(paths[i], DLM_PRECISION_F32);
        same_values(model, want);
        dlm_model_free(model), dlm_model_free(want);
    }
}

static float *logits_of(const dlm_model *model) {
    static const int32_t ids[] = {5, 2, 7, 2};
    const size_t length = sizeof ids / sizeof *ids;
    const float time = 0.5F;
    float *logits = dlm__calloc(length * large_config.vocab_size, sizeof *logits);
    dlm_error err;
    CHECK_OK(dlm_model_logits(model, ids, &length, 1, &time, logits, &err), &err);
    return logits;
}

/* Every way to the values of a file that was changed says so, and passes go on. */
static void check_changed(const dlm_model *model, const char *path, const float *logits, const char *says) {
    const size_t at =
        (size_t)(dlm__layout_find(model->layout, "final_layer.linear.weight") - model->layout->params);
    const float *values = logits;
    dlm_error err;
    CHECK_STATUS(dlm_model_values(model, at, &values, &err), DLM_IO, &err);
    CHECK_SAYS(&err, path);
    CHECK_SAYS(&err, says);
    CHECK(values == NULL && dlm_model_parameter(model, at).values == NULL);
    CHECK_INT_EQ(dlm_model_parameter(model, at).count, large_config.vocab_size * large_config.hidden_size);
    CHECK(dlm_model_parameter(model, at + 1).values != NULL); /* its bias, which passes read */
    const char *to = path_in(temporary_dir(), "saved");
    CHECK_STATUS(dlm_model_save(model, to, NULL, &err), DLM_IO, &err);
    CHECK_SAYS(&err, says);
    CHECK(!dlm__is_dir(to));
    dlm_speed_options options = dlm_speed_defaults();
    dlm_speed speed;
    options.work = DLM_WORK_TRAIN;
    options.length = 4;
    CHECK_STATUS(dlm_speed_measure(model, &options, &speed, &err), DLM_IO, &err);
    CHECK_SAYS(&err, says);
    float *again = logits_of(model);
    CHECK_MEM_EQ(again, logits, 4 * large_config.vocab_size * sizeof *again);
    free(again);
}

TEST(a_file_that_is_changed) {
    const char *dir = temporary_dir();
    for (int cut = 0; cut < 2; cut++) {
        const char *path = write_model(dir, "model.safetensors", 3, DLM_NUMBERS_F32);
        dlm_model *model = fixture_load(path, DLM_PRECISION_BF16);
        REQUIRE(model != NULL);
        float *logits = logits_of(model);
        if (cut == 1) {
            CHECK(truncate(path, 100000) == 0);
        } else { /* another model of the same size, as cp writes it */
            size_t n;
            char *bytes = read_text(write_model(dir, "other.safetensors", 4, DLM_NUMBERS_F32), &n);
            int file = open(path, O_WRONLY | O_CLOEXEC);
            REQUIRE(bytes != NULL && file >= 0);
            CHECK(write(file, bytes, n) == (ssize_t)n && close(file) == 0);
        }
        check_changed(model, path, logits, "has been written to since it was opened");
        free(logits);
        dlm_model_free(model);
    }
}

/* Another mode or another name are no change. */
TEST(a_file_that_is_only_touched_around) {
    const char *dir = temporary_dir(), *path = write_model(dir, "model.safetensors", 3, DLM_NUMBERS_F32);
    dlm_model *model = fixture_load(path, DLM_PRECISION_BF16), *want = fixture_load(path, DLM_PRECISION_F32);
    REQUIRE(model != NULL && want != NULL);
    CHECK(chmod(path, 0400) == 0 && link(path, path_in(dir, "second")) == 0);
    CHECK(rename(path, path_in(dir, "third")) == 0);
    same_values(model, want);
    dlm_model_free(model), dlm_model_free(want);
}

/* ---- descriptors and processes ------------------------------------------------------------------------ */

#ifdef __linux__
/* Descriptors that are open, of those up to 255; *inherited: those that a program started from here gets. */
static size_t count_descriptors(size_t *inherited) {
    size_t n = 0;
    *inherited = 0;
    for (int i = 0; i < 256; i++) {
        const int flags = fcntl(i, F_GETFD);
        n += flags >= 0;
        *inherited += flags >= 0 && (flags & FD_CLOEXEC) == 0;
    }
    return n;
}

TEST(one_descriptor_each) {
    const char *dir = temporary_dir(), *path = write_model(dir, "model.safetensors", 3, DLM_NUMBERS_F32);
    size_t inherited, still, before = count_descriptors(&inherited);
    dlm_model *models[3] = {fixture_load(path, DLM_PRECISION_BF16), fixture_load(path, DLM_PRECISION_BF16),
                            fixture_load(path, DLM_PRECISION_F32)};
    CHECK_INT_EQ(count_descriptors(&still), before + 2);
    CHECK_INT_EQ(still, inherited);
    for (size_t i = 0; i < 3; i++) dlm_model_free(models[i]);
    CHECK_INT_EQ(count_descriptors(&still), before);
    dlm_model_options options = dlm_model_defaults();
    options.tokenizer = "/nowhere/tokenizer.json";
    dlm_error err;
    CHECK_STATUS(dlm_model_load(path, &options, models, &err), DLM_NOT_FOUND, &err);
    CHECK_INT_EQ(count_descriptors(&still), before);
}
#endif

/* A child reads beside its parent: the place in the file is neither's. */
TEST(forked_processes) {
    const char *path = write_model(temporary_dir(), "model.safetensors", 3, DLM_NUMBERS_F32);
    dlm_model *model = fixture_load(path, DLM_PRECISION_BF16), *want = fixture_load(path, DLM_PRECISION_F32);
    REQUIRE(model != NULL && want != NULL);
    (void)fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        bool same = true;
        for (size_t i = 0; i < model->layout->n; i++) {
            const dlm_parameter x = dlm_model_parameter(model, i), y = dlm_model_parameter(want, i);
            same = same && x.values != NULL && memcmp(x.values, y.values, x.count * sizeof(float)) == 0;
        }
        _exit(same ? 0 : 1);
    }
    int status = 1;
    same_values(model, want);
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_INT_EQ(status, 0);
    dlm_model_free(model), dlm_model_free(want);
}

/* ---- memory ------------------------------------------------------------------------------------------- */

#ifdef __linux__
/* Of the pages that lie whole in what is or was absent from the float32 block, the share that is in memory.
 */
static double share_in_memory(const dlm_model *model, const bool *which) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t n = 0, all = 0;
    for (size_t i = 0; i < model->layout->n; i++) {
        const dlm_param *param = &model->layout->params[i];
        const uintptr_t at = (uintptr_t)(model->network.params + param->offset);
        const size_t begin = dlm__round_up(at, page), end = (at + param->count * sizeof(float)) / page * page;
        if (!which[i] || end <= begin) continue;
        unsigned char *there = dlm__calloc((end - begin) / page, 1);
        char *first = (char *)model->network.params + (begin - (uintptr_t)model->network.params);
        if (!CHECK(there != NULL) || !CHECK(mincore(first, end - begin, there) == 0)) return 1;
        for (size_t k = 0; k < (end - begin) / page; k++) n += there[k] & 1;
        all += (end - begin) / page;
        free(there);
    }
    CHECK(all > 0);
    return (double)n / (double)all;
}

/* Whatever the sizes of pages are: loading touches none of what is absent, nor do passes. What lies between
 * is small. */
TEST(memory) {
    static const dlm_precision precisions[] = {DLM_PRECISION_BF16, DLM_PRECISION_INT8};
    dlm_config wide = large_config;
    dlm_model *model;
    dlm_error err;
    wide.hidden_size = 512; /* 51 MB: more than the allocator keeps */
    const char *path = path_in(temporary_dir(), "model.safetensors");
    REQUIRE_OK(dlm_model_random(&wide, DLM_PRECISION_F32, 3, &model, &err), &err);
    REQUIRE_OK(dlm__weights_save(model->layout, path, model->network.params, &err), &err);
    dlm_model_free(model);
    for (size_t i = 0; i < 2; i++) {
        model = fixture_load(path, precisions[i]);
        REQUIRE(model != NULL);
        const size_t n = model->layout->n;
        bool *which = dlm__calloc(n, 1);
        memcpy(which, model->network.absent, n);
        check_context("precision %d", (int)precisions[i]);
        CHECK(count_absent(model) >= 1 + 4 * wide.depth);
        CHECK_CLOSE(share_in_memory(model, which), 0, 0.001);
        free(logits_of(model));
        CHECK_CLOSE(share_in_memory(model, which), 0, 0.001);
        for (size_t p = 0; p < n; p++) CHECK(dlm_model_parameter(model, p).values != NULL);
        CHECK_CLOSE(share_in_memory(model, which), 1, 0);
        free(which);
        dlm_model_free(model);
    }
}
#endif
