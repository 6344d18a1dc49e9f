/* config.json: both models' layouts, defaults, every refusal, and what is written read back. */
#include "check.h"

#include "model/network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIX                                                                                         \
    "\"vocab_size\": 67, \"max_seq_len\": 4, \"hidden_size\": 32, \"depth\": 3, \"num_heads\": 4, " \
    "\"mlp_ratio\": "

static dlm_status parse(const char *json, dlm_config *config, uint64_t **lengths, dlm_error *err) {
    return dlm__config_parse("config.json", json, strlen(json), config, lengths, err);
}

TEST(original) {
    dlm_config config;
    uint64_t *lengths;
    dlm_error err;
    REQUIRE_OK(parse("{" SIX "2.65}", &config, &lengths, &err), &err);
    CHECK_INT_EQ(config.vocab_size, 67);
    CHECK_INT_EQ(config.max_seq_len, 4);
    CHECK_INT_EQ(config.hidden_size, 32);
    CHECK_INT_EQ(config.depth, 3);
    CHECK_INT_EQ(config.num_heads, 4);
    CHECK(config.mlp_ratio == 2.65);
    CHECK_INT_EQ(dlm__config_hidden(&config), 84);
    CHECK_INT_EQ(dlm__config_head(&config), 8);
    CHECK_INT_EQ(config.time, DLM_TIME_ADALN);
    CHECK_INT_EQ(config.position, DLM_POSITION_LEARNED);
    CHECK_INT_EQ(config.schedule, DLM_SCHEDULE_COSINE);
    CHECK_INT_EQ(config.recipe, DLM_RECIPE_ORIGINAL);
    CHECK(!config.end_token && config.padded && config.tail_share == 0 && lengths == NULL);
}

TEST(ours) {
    dlm_config config;
    uint64_t *lengths;
    dlm_error err;
    REQUIRE_OK(
        parse("{" SIX
              "4, \"time\": \"none\", \"position\": \"both\", \"diffusion\": {\"schedule\": \"linear\", "
              "\"end_token\": true, \"padded\": false, \"tail_share\": 0.1, \"lengths\": [0, 1, 2, 3, 4], "
              "\"recipe\": \"default\"}}",
              &config, &lengths, &err),
        &err);
    CHECK_INT_EQ(config.time, DLM_TIME_NONE);
    CHECK_INT_EQ(config.position, DLM_POSITION_BOTH);
    CHECK_INT_EQ(config.schedule, DLM_SCHEDULE_LINEAR);
    CHECK_INT_EQ(config.recipe, DLM_RECIPE_DEFAULT);
    CHECK(config.end_token && !config.padded && config.tail_share == 0.1);
    REQUIRE(lengths != NULL);
    for (size_t i = 0; i < 5; i++) CHECK_INT_EQ(lengths[i], i);

    const char *path = path_in(temporary_dir(), "config.json");
    REQUIRE_OK(dlm__config_save(&config, lengths, path, &err), &err);
    size_t n;
    char *text = read_text(path, &n);
    REQUIRE(text != NULL);
    dlm_config again;
    uint64_t *lengths_again;
    REQUIRE_OK(dlm__config_parse(path, text, n, &again, &lengths_again, &err), &err);
    CHECK(again.mlp_ratio == config.mlp_ratio && again.tail_share == config.tail_share &&
          again.schedule == config.schedule && again.end_token && !again.padded && again.depth == 3);
    CHECK_MEM_EQ(lengths_again, lengths, 5 * sizeof *lengths);
    CHECK(strstr(text, "\"tail_share\": 0.1,") != NULL);
    free(lengths);
    free(lengths_again);

    char *line = dlm__config_text(&config, NULL);
    REQUIRE(line != NULL && strchr(line, '\n') == NULL);
    REQUIRE_OK(parse(line, &again, NULL, &err), &err);
    CHECK(again.end_token && again.tail_share == 0.1);
    free(line);
}

/* A real that 15 digits do not give back. */
TEST(real_survives) {
    dlm_config config, again;
    dlm_error err;
    REQUIRE_OK(parse("{" SIX "3.3333333333333335}", &config, NULL, &err), &err);
    char *line = dlm__config_text(&config, NULL);
    REQUIRE(line != NULL);
    REQUIRE_OK(parse(line, &again, NULL, &err), &err);
    CHECK(again.mlp_ratio == config.mlp_ratio);
    free(line);
}

static void refused(const char *json, const char *says) {
    dlm_config config;
    uint64_t *lengths;
    dlm_error err = {0};
    check_context("%s", json);
    dlm_status status = parse(json, &config, &lengths, &err);
    CHECK(status == DLM_FORMAT || status == DLM_UNSUPPORTED);
    CHECK_INT_EQ(err.status, status);
    CHECK_SAYS(&err, says);
    CHECK(lengths == NULL);
    free(lengths);
}

TEST(refusals) {
    refused("", "config.json");
    refused("[]", "not a JSON object");
    refused("{}", "vocab_size is missing");
    refused("{" SIX "\"4\"}", "mlp_ratio is not a number");
    refused("{" SIX "4, \"heads\": 3}", "unknown key heads");
    refused("{" SIX "0.01}", "mlp_ratio");
    refused("{" SIX "-1}", "mlp_ratio");
    refused("{" SIX "1e30}", "mlp_ratio");
    refused("{" SIX "1e999}", "config.json");
    refused("{" SIX "4, \"time\": \"later\"}", "time is later, not none or adaln");
    refused("{" SIX "4, \"time\": 1}", "time is not a string");
    refused("{" SIX "4, \"position\": \"neither\"}", "position is neither");
    refused("{" SIX "4, \"diffusion\": []}", "diffusion is not an object");
    refused("{" SIX "4, \"diffusion\": {\"x\": 1}}", "unknown key x");
    refused("{" SIX "4, \"diffusion\": {\"schedule\": \"square\"}}", "schedule is square");
    refused("{" SIX "4, \"diffusion\": {\"recipe\": \"cake\"}}", "recipe is cake");
    refused("{" SIX "4, \"diffusion\": {\"end_token\": 1}}", "end_token is not true or false");
    refused("{" SIX "4, \"diffusion\": {\"padded\": null}}", "padded is not true or false");
    refused("{" SIX "4, \"diffusion\": {\"tail_share\": 1.5}}", "tail_share is 1.5");
    refused("{" SIX "4, \"diffusion\": {\"tail_share\": \"x\"}}", "tail_share is not a number");
    refused("{" SIX "4, \"diffusion\": {\"lengths\": [1, 2]}}", "lengths has 2 counts, not 5");
    refused("{" SIX "4, \"diffusion\": {\"lengths\": 1}}", "lengths");
    refused("{" SIX "4, \"diffusion\": {\"lengths\": [1, 0, 0, 0, 0]}}", "counts no document");
    refused("{" SIX "4, \"diffusion\": {\"lengths\": [0, 1, 1.5, 1, 1]}}", "entry 2 of lengths");
    refused("{" SIX "4, \"diffusion\": {\"lengths\": [0, 1, -1, 1, 1]}}", "entry 2 of lengths");
    refused("{" SIX "4, \"diffusion\": {\"lengths\": [0, 1, 9223372036854775807, 1, 1]}}",
            "entry 2 of lengths");
}

static const dlm_config good = {.vocab_size = 10,
                                .max_seq_len = 8,
                                .hidden_size = 12,
                                .depth = 1,
                                .num_heads = 2,
                                .mlp_ratio = 4,
                                .time = DLM_TIME_NONE,
                                .position = DLM_POSITION_BOTH};

static void out_of_range(dlm_config config, const char *says) {
    dlm_error err;
    CHECK_STATUS(dlm__config_check(&config, "config", &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, says);
}

TEST(ranges) {
    dlm_error err;
    dlm_config config = good;
    CHECK_OK(dlm__config_check(&config, "config", &err), &err);
    config.vocab_size = 3, out_of_range(config, "vocab_size is 3");
    config.vocab_size = SIZE_MAX, out_of_range(config, "vocab_size");
    config = good, config.max_seq_len = 0, out_of_range(config, "max_seq_len is 0");
    config.max_seq_len = (size_t)1 << 40, out_of_range(config, "max_seq_len");
    config = good, config.hidden_size = 0, out_of_range(config, "hidden_size is 0");
    config.hidden_size = 65537, out_of_range(config, "hidden_size is 65537");
    config = good, config.depth = 0, out_of_range(config, "depth is 0");
    config.depth = 1025, out_of_range(config, "depth is 1025");
    config = good, config.num_heads = 0, out_of_range(config, "num_heads is 0");
    config.num_heads = 5, out_of_range(config, "hidden_size 12 is no multiple of num_heads 5");
    config.num_heads = 4, out_of_range(config, "even number of channels, not 3");
    config.position = DLM_POSITION_LEARNED;
    CHECK_OK(dlm__config_check(&config, "config", &err), &err);
    config = good, config.mlp_ratio = (double)NAN, out_of_range(config, "mlp_ratio");
    config = good, config.tail_share = (double)NAN, out_of_range(config, "tail_share");
    config = good, config.time = (dlm_time)7, out_of_range(config, "time 7");
}

TEST(names) {
    CHECK_STR_EQ(dlm__time_name(DLM_TIME_NONE), "none");
    CHECK_STR_EQ(dlm__time_name(DLM_TIME_ADALN), "adaln");
    CHECK_STR_EQ(dlm__position_name(DLM_POSITION_BOTH), "both");
    CHECK_STR_EQ(dlm__position_name(DLM_POSITION_LEARNED), "learned");
    CHECK_STR_EQ(dlm__schedule_name(DLM_SCHEDULE_COSINE), "cosine");
    CHECK_STR_EQ(dlm__schedule_name(DLM_SCHEDULE_LINEAR), "linear");
    CHECK_STR_EQ(dlm__recipe_name(DLM_RECIPE_DEFAULT), "default");
    CHECK_STR_EQ(dlm__recipe_name(DLM_RECIPE_ORIGINAL), "original");
}
