/* Lengths of samples, and their text. */
#include "sampling_fixture.h"

TEST(lengths_follow_the_histogram) {
    enum { LONGEST = 6, DRAWS = 60000 };
    static const uint64_t counts[LONGEST + 1] = {1000, 5, 0, 20, 10, 0, 65}; /* none of length 0 */
    dlm_model *model = random_model(9, LONGEST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, counts);
    REQUIRE(model != NULL);
    size_t seen[LONGEST + 1] = {0};
    for (size_t i = 0; i < DRAWS; i++) {
        const size_t length = dlm_sample_length(model, 3, i);
        REQUIRE(length >= 1 && length <= LONGEST);
        seen[length]++;
    }
    for (size_t l = 1; l <= LONGEST; l++) {
        const double p = (double)counts[l] / 100;
        CHECK_CLOSE((double)seen[l] / DRAWS, p, 4.5 * sqrt(p * (1 - p) / DRAWS));
    }
    CHECK_INT_EQ(dlm_sample_length(model, 3, 17), dlm_sample_length(model, 3, 17));
    dlm_model_free(model);
}

TEST(length_without_a_histogram) {
    static const uint64_t empty[101] = {7}; /* nothing but documents of no tokens */
    dlm_model *model = random_model(9, 6, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    CHECK_INT_EQ(dlm_sample_length(model, 0, 0), 6);
    dlm_model_free(model);
    model = random_model(9, 100, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    CHECK_INT_EQ(dlm_sample_length(model, 0, 0), 80);
    dlm_model_free(model);
    model = random_model(9, 100, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, empty);
    REQUIRE(model != NULL);
    CHECK_INT_EQ(dlm_sample_length(model, 0, 0), 80);
    dlm_model_free(model);
}

/* Counts that would overflow 64 bits when summed. */
TEST(length_of_a_huge_histogram) {
    static const uint64_t counts[4] = {0, UINT64_MAX, UINT64_MAX, 0};
    dlm_model *model = random_model(9, 3, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, counts);
    REQUIRE(model != NULL);
    size_t ones = 0;
    for (size_t i = 0; i < 1000; i++) {
        const size_t length = dlm_sample_length(model, 1, i);
        REQUIRE(length == 1 || length == 2);
        ones += length == 1;
    }
    CHECK(ones > 400 && ones < 600);
    dlm_model_free(model);
}

/* A model with the fixtures' tokenizer and no weights to speak of. */
static dlm_model *with_tokenizer(bool end_token) {
    dlm_config config = {.vocab_size = 1024,
                         .max_seq_len = 16,
                         .hidden_size = 8,
                         .depth = 1,
                         .num_heads = 2,
                         .mlp_ratio = 2,
                         .end_token = end_token};
    dlm_layout *layout;
    dlm_model *model = NULL;
    dlm_error err;
    const char *tokenizer = golden_path("tokenizer/stories_1024");
    if (tokenizer == NULL || !CHECK_OK(dlm__layout_create(&config, &layout, &err), &err)) return NULL;
    float *params = dlm__calloc(layout->total, sizeof *params);
    CHECK_OK(dlm__model_create(&config, params, tokenizer, NULL, DLM_PRECISION_F32, &model, &err), &err);
    free(params);
    dlm__layout_free(layout);
    return model;
}

static void check_text(const dlm_model *model, const int32_t *ids, size_t n, const char *want) {
    char *text;
    size_t bytes;
    dlm_error err;
    if (!CHECK_OK(dlm_sample_text(model, ids, n, &text, &bytes, &err), &err)) return;
    CHECK_STR_EQ(text, want);
    CHECK_INT_EQ(bytes, strlen(want));
    dlm_free(text);
}

TEST(text_ends_at_the_end_token) {
    dlm_model *model = with_tokenizer(true);
    REQUIRE(model != NULL);
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    static const char text[] = "Once upon a time<|endoftext|> there was[MASK] a dog.<|endoftext|>";
    int32_t *ids;
    size_t n;
    dlm_error err;
    REQUIRE_OK(dlm_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &n, &err), &err);
    check_text(model, ids, n, "Once upon a time");
    check_text(model, ids, 0, "");
    int32_t end = dlm_tokenizer_describe(tokenizer).end_id;
    check_text(model, &end, 1, "");
    dlm_model_free(model);
    model = with_tokenizer(false);
    REQUIRE(model != NULL);
    check_text(model, ids, n, "Once upon a time there was a dog.");
    dlm_free(ids);

    REQUIRE_OK(dlm_tokenizer_encode(dlm_model_tokenizer(model), "  two", 5, true, &ids, &n, &err), &err);
    check_text(model, ids, n, " two"); /* only one space goes */
    ids[0] = 5000;
    char *none;
    size_t bytes;
    CHECK_STATUS(dlm_sample_text(model, ids, n, &none, &bytes, &err), DLM_ARGUMENT, &err);
    CHECK(none == NULL);
    dlm_free(ids);
    dlm_model_free(model);
}

TEST(text_needs_a_tokenizer) {
    dlm_model *model = random_model(9, 6, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    const int32_t ids[1] = {4};
    char *text;
    size_t bytes;
    dlm_error err;
    CHECK_STATUS(dlm_sample_text(model, ids, 1, &text, &bytes, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "no tokenizer");
    dlm_model_free(model);
}
