/* dlm_eval on a small prepared corpus: its counts, both ways of cutting windows, and what it refuses. */
#include "sampling_fixture.h"

#include "diffusion/likelihood.h"
#include "train/eval.h"

#include <stdio.h>

enum { SEQ_LEN = 12, DOCUMENTS = 5 };

/* One of them is longer than a window. */
#define LONG_TEXT                                                                                          \
    "Lily saw a big red ball in the park. She was happy and she played with it all day until the sun was " \
    "gone."
static const char *const texts[DOCUMENTS] = {"Once upon a time there was a little dog.", "The dog ran.",
                                             LONG_TEXT, "Tom and Lily went home.", "a"};

/* Prepares the texts with a fixture's tokenizer. */
static dlm_data *open_data(const char *tokenizer_name) {
    char name[100];
    (void)snprintf(name, sizeof name, "tokenizer/%s", tokenizer_name);
    const char *dir = temporary_dir(), *folder = path_in(dir, "data"), *text = path_in(dir, "texts.txt");
    const char *tokenizer_path = golden_path(name);
    FILE *file = fopen(text, "w");
    if (!CHECK(file != NULL && tokenizer_path != NULL)) return NULL;
    for (size_t i = 0; i < DOCUMENTS; i++) (void)fprintf(file, "%s\n<|endoftext|>\n", texts[i]);
    (void)fclose(file);
    dlm_text_options options = dlm_text_defaults();
    dlm_prepare_options prepare = dlm_prepare_defaults();
    prepare.seq_len = SEQ_LEN;
    dlm_documents *documents = NULL;
    dlm_tokenizer *tokenizer = NULL;
    dlm_data *data = NULL;
    dlm_error err;
    if (CHECK_OK(dlm_tokenizer_load(tokenizer_path, &tokenizer, &err), &err) &&
        CHECK_OK(dlm_documents_open(&text, 1, &options, &documents, &err), &err) &&
        CHECK_OK(dlm_prepare(documents, tokenizer, folder, &prepare, NULL, &err), &err))
        (void)CHECK_OK(dlm_data_open(folder, &data, &err), &err);
    dlm_documents_close(documents);
    dlm_tokenizer_free(tokenizer);
    return data;
}

/* A model of 1,024 tokens; head: standard deviation of its last weights, 0 for one that says nothing. */
static dlm_model *new_model(bool padded, double head, const char *tokenizer) {
    const dlm_config config = {.vocab_size = 1024,
                               .max_seq_len = SEQ_LEN,
                               .hidden_size = 8,
                               .depth = 1,
                               .num_heads = 2,
                               .mlp_ratio = 2,
                               .time = DLM_TIME_ADALN,
                               .end_token = !padded,
                               .padded = padded};
    dlm_layout *layout;
    dlm_model *model = NULL;
    dlm_error err;
    dlm_set_threads(1);
    if (!CHECK_OK(dlm__layout_create(&config, &layout, &err), &err)) return NULL;
    float *params = dlm__calloc(layout->total, sizeof *params);
    dlm__layout_init(layout, 3, params);
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < 1024 * 8; i++) params[layout->final_w + i] = (float)(head * dlm__rng_normal(&rng));
    CHECK_OK(dlm__model_create(&config, params, tokenizer, NULL, DLM_PRECISION_F32, &model, &err), &err);
    free(params);
    dlm__layout_free(layout);
    return model;
}

/* Tokens of document i, without an end token, as the tokenizer of the data gives them. */
static size_t tokens_of(const dlm_data *data, size_t i) {
    int32_t *ids;
    size_t n = 0;
    dlm_error err;
    if (CHECK_OK(
            dlm_tokenizer_encode(dlm_data_tokenizer(data), texts[i], strlen(texts[i]), false, &ids, &n, &err),
            &err))
        dlm_free(ids);
    return n;
}

TEST(defaults) {
    const dlm_eval_options options = dlm_eval_defaults();
    CHECK_INT_EQ(options.seed, 1);
    CHECK_INT_EQ(options.draws, 2);
    CHECK_INT_EQ(options.seq_len, 0);
    CHECK_INT_EQ(options.max_documents, 0);
    CHECK_INT_EQ(options.masks, DLM_MASKS_AUTO);
    CHECK(!options.exact);
}

/* A model that says nothing has ln V nats per token, whatever is masked. */
TEST(counts_with_end_tokens) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *model = new_model(false, 0, golden_path("tokenizer/stories_1024"));
    REQUIRE(data != NULL && model != NULL);
    size_t tokens = 0, windows = 0, bytes = 0;
    for (size_t i = 0; i < DOCUMENTS; i++) {
        const size_t n = tokens_of(data, i) + 1;
        tokens += n;
        windows += (n + SEQ_LEN - 1) / SEQ_LEN;
        bytes += strlen(texts[i]);
    }
    const dlm_eval_options options = dlm_eval_defaults();
    dlm_eval_result result;
    dlm_error err;
    REQUIRE_OK(dlm_eval(model, data, &options, &result, &err), &err);
    CHECK_INT_EQ(result.documents, DOCUMENTS);
    CHECK_INT_EQ(result.windows, windows);
    CHECK_INT_EQ(result.all.tokens, tokens);
    CHECK_INT_EQ(result.bytes, bytes);
    CHECK(windows > DOCUMENTS);
    CHECK_CLOSE(result.all.nelbo, log(1024), 1e-4);
    CHECK_CLOSE(result.eval_ce, log(1024), 1e-4);
    CHECK_CLOSE(result.perplexity, 1024, 0.2);
    CHECK_CLOSE(result.all.standard_error, 0, 1e-3);
    CHECK_CLOSE(result.all.bits_per_byte, 10 * (double)tokens / (double)bytes, 1e-3);
    CHECK(result.seconds >= 0);
    CHECK(result.end_token && !result.exact);
    CHECK_INT_EQ(result.text.tokens, tokens - DOCUMENTS);
    CHECK_CLOSE(result.text.bits_per_byte, 10 * (double)(tokens - DOCUMENTS) / (double)bytes, 0.2);

    dlm_eval_options some = options;
    some.max_documents = 2;
    CHECK_OK(dlm_eval(model, data, &some, &result, &err), &err);
    CHECK_INT_EQ(result.documents, 2);
    CHECK_INT_EQ(result.bytes, strlen(texts[0]) + strlen(texts[1]));
    dlm_model_free(model);
    dlm_data_close(data);
}

/* The original's: one window a document, cut at the sequence length, no end token. */
TEST(counts_of_the_original) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *model = new_model(true, 0, NULL);
    REQUIRE(data != NULL && model != NULL);
    size_t tokens = 0;
    for (size_t i = 0; i < DOCUMENTS; i++) {
        const size_t n = tokens_of(data, i);
        tokens += n < SEQ_LEN ? n : SEQ_LEN;
    }
    const dlm_eval_options options = dlm_eval_defaults();
    dlm_eval_result result;
    dlm_error err;
    REQUIRE_OK(dlm_eval(model, data, &options, &result, &err), &err);
    CHECK_INT_EQ(result.windows, DOCUMENTS);
    CHECK(!result.end_token && result.text.nelbo == result.all.nelbo);
    CHECK_INT_EQ(result.all.tokens, tokens);
    CHECK_CLOSE(result.all.nelbo, log(1024), 1e-4);
    dlm_model_free(model);
    dlm_data_close(data);
}

/* The windows of the data, measured one by one with the core: padded ones hold [PAD] up to the sequence
 * length. */
static void check_against_core(bool padded) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *model = new_model(padded, 0.5, NULL);
    REQUIRE(data != NULL && model != NULL);
    dlm_windows windows;
    dlm_compute *compute;
    dlm_likelihood *likelihood;
    dlm_eval_result got, want;
    dlm_error err;
    const dlm_likelihood_options core = {
        .seed = 9, .draws = 3, .cross_entropy = true, .mask_id = model->mask_id, .longest = SEQ_LEN};
    REQUIRE_OK(dlm__windows_create(data, SEQ_LEN, !padded, padded, DLM_PART_ALL, 1, 0, 0, &windows, &err),
               &err);
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    REQUIRE_OK(dlm__likelihood_create(&model->network, compute, &core, &likelihood, &err), &err);
    for (size_t w = 0; w < windows.n; w++) {
        int32_t ids[SEQ_LEN] = {0}; /* [PAD] is 0 */
        dlm_scored scored = {.ids = ids,
                             .n = windows.list[w].n,
                             .shown = padded ? SEQ_LEN : windows.list[w].n,
                             .continues = windows.list[w].continues,
                             .ends = !padded && windows.list[w].ends};
        scored.bytes = dlm__window_ids(data, &windows.list[w], ids);
        CHECK_OK(dlm__likelihood_add(likelihood, &scored, &err), &err);
    }
    CHECK_OK(dlm__likelihood_end(likelihood, &want, &err), &err);
    const dlm_eval_options options = {.seed = 9, .draws = 3};
    CHECK_OK(dlm_eval(model, data, &options, &got, &err), &err);
    check_context("padded %d", padded);
    CHECK_CLOSE(got.all.nelbo, want.all.nelbo, 1e-9);
    CHECK_CLOSE(got.eval_ce, want.eval_ce, 1e-9);
    CHECK_CLOSE(got.all.standard_error, want.all.standard_error, 1e-9);
    CHECK_CLOSE(got.text.nelbo, want.text.nelbo, 1e-9);
    CHECK(got.end_token == !padded && (got.text.nelbo == got.all.nelbo) == padded);
    CHECK_CLOSE(got.all.standard_error_documents, want.all.standard_error_documents, 1e-9);
    CHECK_CLOSE(got.all.bits_per_byte, want.all.bits_per_byte, 1e-9);
    CHECK_INT_EQ(got.documents, want.documents);
    CHECK(fabs(got.all.nelbo - log(1024)) > 0.01);
    dlm__likelihood_free(likelihood);
    dlm__compute_free(compute);
    dlm__windows_free(&windows);
    dlm_model_free(model);
    dlm_data_close(data);
}

TEST(windows_as_the_config_says) {
    check_against_core(false);
    check_against_core(true);
}

/* The same windows by all masks, and their curve. */
static void check_exact_and_curve(bool padded) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *model = new_model(padded, 0.5, NULL);
    REQUIRE(data != NULL && model != NULL);
    dlm_eval_options options = {.draws = 500, .seed = 2};
    dlm_eval_result drawn, exact;
    dlm_error err;
    REQUIRE_OK(dlm_eval(model, data, &options, &drawn, &err), &err);
    options.exact = true;
    options.draws = 0; /* not read */
    REQUIRE_OK(dlm_eval(model, data, &options, &exact, &err), &err);
    check_context("padded %d: %g, all masks %g", padded, drawn.all.nelbo, exact.all.nelbo);
    CHECK(exact.exact && exact.all.standard_error == 0 && drawn.all.standard_error > 0);
    CHECK_CLOSE(drawn.all.nelbo, exact.all.nelbo, 4.5 * drawn.all.standard_error);
    CHECK_CLOSE(drawn.text.nelbo, exact.text.nelbo, 4.5 * drawn.text.standard_error);
    CHECK_CLOSE(drawn.all.standard_error_documents, exact.all.standard_error_documents,
                0.2 * exact.all.standard_error_documents);
    CHECK(drawn.all.interval[0] < drawn.all.nelbo && drawn.all.nelbo < drawn.all.interval[1]);

    /* with every token hidden there is one mask: what the model says of nothing but masks */
    const double ratios[] = {0.25, 1};
    dlm_curve_point points[2];
    options.draws = 3;
    REQUIRE_OK(dlm_eval_curve(model, data, &options, 2, ratios, points, &err), &err);
    CHECK(points[0].ratio == 0.25 && points[1].ratio == 1);
    CHECK_CLOSE(points[1].standard_error, 0, 1e-7);
    CHECK(points[0].standard_error > 0 && points[0].standard_error_documents > 0);
    options.draws = 0;
    CHECK_STATUS(dlm_eval_curve(model, data, &options, 2, ratios, points, &err), DLM_ARGUMENT, &err);
    dlm_model_free(model);
    dlm_data_close(data);
}

TEST(all_masks_and_the_curve) {
    check_exact_and_curve(false);
    check_exact_and_curve(true);
}

/* Of a document that is longer than all masks are tried of. */
TEST(documents_too_long_for_all_masks) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *model = random_model(1024, 64, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.3, NULL);
    REQUIRE(data != NULL && model != NULL);
    dlm_eval_options options = dlm_eval_defaults();
    options.exact = true;
    dlm_eval_result result;
    dlm_error err;
    char want[200];
    CHECK_STATUS(dlm_eval(model, data, &options, &result, &err), DLM_ARGUMENT, &err);
    (void)snprintf(want, sizeof want,
                   "document 3 has %zu tokens in windows of up to 64, and all masks are tried of at most 20",
                   tokens_of(data, 2));
    CHECK_SAYS(&err, want);
    dlm_model_free(model);
    dlm_data_close(data);
}

static bool cancel(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    size_t *calls = user;
    ++*calls;
    CHECK_STR_EQ(stage, "eval");
    CHECK(done >= 1 && done <= total && seconds >= 0);
    return true;
}

TEST(what_it_refuses) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *model = new_model(false, 0, golden_path("tokenizer/stories_1024"));
    REQUIRE(data != NULL && model != NULL);
    dlm_eval_options options = dlm_eval_defaults();
    dlm_eval_result result;
    dlm_error err;
    options.seq_len = SEQ_LEN + 1;
    CHECK_STATUS(dlm_eval(model, data, &options, &result, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence length 13 is above the model's 12");
    options.seq_len = 0;
    options.draws = 0;
    CHECK_STATUS(dlm_eval(model, data, &options, &result, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "0 draws");
    options.draws = 1;
    size_t calls = 0;
    options.progress = cancel;
    options.user = &calls;
    CHECK_STATUS(dlm_eval(model, data, &options, &result, &err), DLM_CANCELLED, &err);
    CHECK_INT_EQ(calls, 1);
    CHECK_SAYS(&err, "windows");
    dlm_data_close(data);

    options.progress = NULL;
    data = open_data("stories_min5");
    REQUIRE(data != NULL);
    CHECK_STATUS(dlm_eval(model, data, &options, &result, &err), DLM_MISMATCH, &err);
    dlm_model_free(model);
    model = random_model(20, SEQ_LEN, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.3, NULL);
    REQUIRE(model != NULL);
    CHECK_STATUS(dlm_eval(model, data, &options, &result, &err), DLM_MISMATCH, &err);
    CHECK_SAYS(&err, "the model's 20");
    dlm_model_free(model);
    dlm_data_close(data);
}

/* ---- two models --------------------------------------------------------------------------------------- */

/* The difference is that of the results, which are those of each alone, and over many seeds it is spread as
 * its standard error says, which is less than what both errors apart would give. */
TEST(difference_of_two_models) {
    enum { SEEDS = 60 };
    dlm_data *data = open_data("stories_1024");
    dlm_model *first = new_model(false, 0.3, golden_path("tokenizer/stories_1024"));
    dlm_model *second = new_model(false, 0.31, golden_path("tokenizer/stories_1024"));
    REQUIRE(data != NULL && first != NULL && second != NULL);
    dlm_eval_options options = dlm_eval_defaults();
    options.draws = 32;
    double sum = 0, squares = 0, variance = 0, apart = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        dlm_eval_result results[2], alone, difference;
        dlm_error err;
        options.seed = seed;
        REQUIRE_OK(dlm_eval_pair(first, second, data, &options, results, &difference, &err), &err);
        CHECK_CLOSE(difference.all.nelbo, results[1].all.nelbo - results[0].all.nelbo, 1e-12);
        sum += difference.all.nelbo;
        squares += difference.all.nelbo * difference.all.nelbo;
        variance += difference.all.standard_error * difference.all.standard_error / SEEDS;
        apart += (results[0].all.standard_error * results[0].all.standard_error +
                  results[1].all.standard_error * results[1].all.standard_error) /
                 SEEDS;
        CHECK_CLOSE(difference.text.nelbo, results[1].text.nelbo - results[0].text.nelbo, 1e-12);
        CHECK(difference.all.interval[0] < difference.all.nelbo && difference.text.standard_error > 0);
        CHECK_INT_EQ(difference.all.tokens, results[0].all.tokens);
        if (seed > 0) continue;
        REQUIRE_OK(dlm_eval(second, data, &options, &alone, &err), &err);
        CHECK(results[1].all.nelbo == alone.all.nelbo && results[1].eval_ce == alone.eval_ce);
        CHECK(results[1].all.standard_error == alone.all.standard_error);
        CHECK_CLOSE(difference.eval_ce, results[1].eval_ce - results[0].eval_ce, 1e-12);
        CHECK_CLOSE(difference.all.bits_per_byte, results[1].all.bits_per_byte - results[0].all.bits_per_byte,
                    1e-12);
    }
    double seen = (squares - sum * sum / SEEDS) / (SEEDS - 1);
    check_context("variance %g, by the standard error %g, by those apart %g", seen, variance, apart);
    CHECK(seen > 0.5 * variance && seen < 2 * variance);
    CHECK(variance < apart / 20);
    dlm_model_free(first);
    dlm_model_free(second);
    dlm_data_close(data);
}

/* By all masks the difference has no error from them. */
TEST(exact_difference) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *first = new_model(false, 0.3, golden_path("tokenizer/stories_1024"));
    dlm_model *second = new_model(false, 0.4, golden_path("tokenizer/stories_1024"));
    REQUIRE(data != NULL && first != NULL && second != NULL);
    dlm_eval_options options = dlm_eval_defaults();
    options.exact = true;
    dlm_eval_result results[2], difference;
    dlm_error err;
    REQUIRE_OK(dlm_eval_pair(first, second, data, &options, results, &difference, &err), &err);
    CHECK_CLOSE(difference.all.nelbo, results[1].all.nelbo - results[0].all.nelbo, 1e-9);
    CHECK_CLOSE(difference.text.nelbo, results[1].text.nelbo - results[0].text.nelbo, 1e-9);
    CHECK(difference.exact && difference.all.standard_error == 0);
    CHECK(difference.all.standard_error_documents > 0 &&
          difference.all.standard_error_documents <
              results[0].all.standard_error_documents + results[1].all.standard_error_documents);
    dlm_model_free(first);
    dlm_model_free(second);
    dlm_data_close(data);
}

TEST(models_that_score_other_tokens) {
    dlm_data *data = open_data("stories_1024");
    dlm_model *first = new_model(false, 0.3, golden_path("tokenizer/stories_1024"));
    dlm_model *second = new_model(true, 0.3, golden_path("tokenizer/stories_1024"));
    REQUIRE(data != NULL && first != NULL && second != NULL);
    const dlm_eval_options options = dlm_eval_defaults();
    dlm_eval_result results[2], difference;
    dlm_error err;
    CHECK_INT_EQ(dlm_eval_pair(first, second, data, &options, results, &difference, &err), DLM_MISMATCH);
    CHECK(strstr(err.message, "score other tokens") != NULL);
    dlm_model_free(first);
    dlm_model_free(second);
    dlm_data_close(data);
}
