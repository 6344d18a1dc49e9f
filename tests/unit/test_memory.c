/* The memory of what reads text of any size does not grow with it, and training holds no more of a model than
 * it says.
 *
 * Each measurement is a child process, whose peak the system tells. The text is the corpus, 20 MB of it, read
 * twice or five times. All threads share one arena of the allocator: else what it sets aside for each would
 * be measured, which depends on what thread happened to read. */
#include "training.h"

#include "base/base.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#define CORPUS "corpus/tinystories-train.txt.zst"
enum { FEW = 2, MOST = 5, SLACK = 4096 /* kilobytes */ };

typedef dlm_status reader(dlm_documents *documents, dlm_error *err);

static dlm_status train_tokenizer(dlm_documents *documents, dlm_error *err) {
    dlm_bpe_options options = dlm_bpe_defaults();
    options.vocab_size = 1000;
    dlm_tokenizer *tokenizer;
    DLM_TRY(dlm_tokenizer_train(documents, &options, &tokenizer, err));
    dlm_tokenizer_free(tokenizer);
    return DLM_OK;
}

static const char *data; /* where shards go */

static dlm_status prepare(dlm_documents *documents, dlm_error *err) {
    dlm_prepare_options options = dlm_prepare_defaults();
    options.shard_tokens = (size_t)1 << 20;
    options.overwrite = true;
    dlm_tokenizer *tokenizer;
    DLM_TRY(dlm_tokenizer_load(golden_path("tokenizer/stories_1024/tokenizer.json"), &tokenizer, err));
    dlm_status status = dlm_prepare(documents, tokenizer, data, &options, NULL, err);
    dlm_tokenizer_free(tokenizer);
    return status;
}

static dlm_status read_repeatedly(reader *read, size_t times, dlm_error *err) {
    const char *paths[MOST];
    for (size_t i = 0; i < times; i++) paths[i] = CORPUS;
    dlm_text_options text = dlm_text_defaults();
    dlm_documents *documents;
    DLM_TRY(dlm_documents_open(paths, times, &text, &documents, err));
    dlm_status status = read(documents, err);
    dlm_documents_close(documents);
    return status;
}

/* Kilobytes at the most, of a child that does this. This process has started no threads of its own, which a
 * child could not use. */
static long peak_of(dlm_status (*body)(const void *what, dlm_error *err), const void *what) {
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dlm_error err;
        (void)mallopt(M_ARENA_MAX, 1);
        dlm_set_threads(2);
        dlm_status status = body(what, &err);
        if (status != DLM_OK) (void)fprintf(stderr, "%s\n", err.message);
        _exit(status == DLM_OK ? 0 : 1);
    }
    int status = 1;
    struct rusage used;
    CHECK(child > 0 && wait4(child, &status, 0, &used) == child);
    CHECK_INT_EQ(status, 0);
    return used.ru_maxrss;
}

typedef struct reading {
    reader *read;
    size_t times;
} reading;

static dlm_status do_reading(const void *what, dlm_error *err) {
    const reading *r = what;
    return read_repeatedly(r->read, r->times, err);
}

static long peak(reader *read, size_t times) {
    const reading r = {read, times};
    return peak_of(do_reading, &r);
}

static void check_bounded(reader *read) {
#ifdef SANITIZED
    (void)read, (void)peak;
    SKIP("the address sanitizer keeps what was freed");
#else
    long few = peak(read, FEW), most = peak(read, MOST);
    check_context("%ld KB for %d times the corpus, %ld for %d", few, (int)FEW, most, (int)MOST);
    CHECK(few > 0 && most <= few + few / 20 + SLACK);
#endif
}

TEST(training_a_tokenizer) {
    check_bounded(train_tokenizer);
}

TEST(preparing) {
    data = path_in(temporary_dir(), "data");
    check_bounded(prepare);
}

/* ---- training ------------------------------------------------------------------------------------------ */

/* A width at which the weights, 14 million, outweigh all else. */
static dlm_train_options wide_run(dlm_precision precision, size_t every) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data, path_in(temporary_dir(), "run"));
    o.hidden_size = 768;
    o.optimizer = DLM_ADAMW;
    o.steps = 3;
    o.precision = precision;
    o.eval_every = o.sample_every = o.save_every = every;
    return o;
}

static dlm_status do_training(const void *what, dlm_error *err) {
    const dlm_train_options *o = what;
    dlm_train_report report;
    dlm_trainer *trainer;
    DLM_TRY(dlm_trainer_create(o, &trainer, err));
    const dlm_status status = train_until(trainer, SIZE_MAX, &report, err);
    dlm_trainer_free(trainer);
    return status;
}

/* Kilobytes of one number for each weight. */
static long copy_of(const dlm_train_options *o) {
    dlm_error err;
    dlm_data *opened = NULL;
    dlm_layout *layout = NULL;
    if (!CHECK_OK(dlm_data_open(o->data, &opened, &err), &err)) return 0;
    const dlm_config config =
        dlm__train_config(o, dlm_tokenizer_describe(dlm_data_tokenizer(opened)).vocab_size);
    dlm_data_close(opened);
    if (!CHECK_OK(dlm__layout_create(&config, &layout, &err), &err)) return 0;
    const long floats = (long)layout->total;
    dlm__layout_free(layout);
    return floats * (long)sizeof(float) / 1024;
}

/* Weights, gradients, two moments and the average, in bfloat16 half a copy more; an evaluation, a sample and
 * a checkpoint take none. The rest is what the program, the data and the activations are. */
TEST(training) {
#ifdef SANITIZED
    (void)do_training, (void)copy_of, (void)wide_run;
    SKIP("the address sanitizer keeps what was freed");
#else
    enum { REST = 45 * 1024, REPORTS = 45 * 1024 };
    data = make_data(1, 60, 30, 16);
    for (int half = 0; half < 2; half++) {
        const dlm_train_options quiet = wide_run(half == 0 ? DLM_PRECISION_F32 : DLM_PRECISION_BF16, 0);
        const long least = peak_of(do_training, &quiet);
        const dlm_train_options reports = wide_run(quiet.precision, 1);
        const long most = peak_of(do_training, &reports), copy = copy_of(&reports);
        check_context("%ld KB, %ld with reports, for copies of %ld", least, most, copy);
        CHECK(least > 5 * copy && least < 5 * copy + half * copy / 2 + REST);
        CHECK(most < least + REPORTS);
    }
#endif
}

/* ---- loading ------------------------------------------------------------------------------------------- */

typedef struct loading {
    const char *path;
    dlm_precision precision;
    bool inspect;
} loading;

static dlm_status do_loading(const void *what, dlm_error *err) {
    const loading *l = what;
    dlm_model_options options = dlm_model_defaults();
    dlm_model *model;
    options.precision = l->precision;
    DLM_TRY((l->inspect ? dlm_model_inspect : dlm_model_load)(l->path, &options, &model, err));
    dlm_model_free(model);
    return DLM_OK;
}

/* Kilobytes that the model's numbers take: matrices what products read, all else float32. */
static long expected(const dlm_config *config, dlm_precision precision) {
    dlm_layout *layout;
    dlm_error err;
    size_t bytes = 0;
    if (!CHECK_OK(dlm__layout_create(config, &layout, &err), &err)) return 0;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        size_t each = sizeof(float);
        if (precision == DLM_PRECISION_BF16 && dlm__is_multiplied(layout, param)) each = 2;
        if (precision == DLM_PRECISION_INT8 && param->token_matrix) each = 1;
        bytes += each * param->count;
    }
    dlm__layout_free(layout);
    return (long)(bytes / 1024);
}

/* At no time does a matrix take more than what products read of it, in whatever numbers its file has it. */
TEST(loading_a_model) {
#ifdef SANITIZED
    (void)do_loading, (void)expected;
    SKIP("the address sanitizer keeps what was freed");
#else
    enum { REST = 8 * 1024 };
    static const dlm_precision precisions[] = {DLM_PRECISION_F32, DLM_PRECISION_BF16, DLM_PRECISION_INT8};
    const dlm_config config = {.vocab_size = 4096,
                               .max_seq_len = 64,
                               .hidden_size = 768,
                               .depth = 3,
                               .num_heads = 12,
                               .mlp_ratio = 4,
                               .time = DLM_TIME_NONE};
    for (int int8 = 0; int8 < 2; int8++) {
        const char *path = path_in(temporary_dir(), "model.safetensors");
        dlm_save_options options = dlm_save_defaults();
        dlm_model *model;
        dlm_error err;
        options.numbers = int8 == 1 ? DLM_NUMBERS_INT8 : DLM_NUMBERS_F32;
        dlm_set_threads(1);
        REQUIRE_OK(dlm_model_random(&config, DLM_PRECISION_F32, 1, &model, &err), &err);
        CHECK_OK(dlm_model_save(model, path, &options, &err), &err);
        dlm_model_free(model);
        for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
            const loading nothing = {path, precisions[i], true}, all = {path, precisions[i], false};
            const long least = peak_of(do_loading, &nothing), most = peak_of(do_loading, &all),
                       want = expected(&config, precisions[i]);
            check_context("precision %d: %ld KB, %ld of them for numbers of %ld", (int)precisions[i], most,
                          most - least, want);
            CHECK(most - least > want / 2 && most - least < want + REST);
        }
    }
#endif
}
