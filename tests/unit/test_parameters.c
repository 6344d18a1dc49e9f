/* The parameter table against the names and shapes in files that PyTorch wrote, and the initial values
 * against their distributions. */
#include "check.h"

#include "format/safetensors.h"
#include "model/network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static dlm_layout *layout_of(const char *folder) {
    char name[64];
    (void)snprintf(name, sizeof name, "%s/config.json", folder);
    const char *path = golden_path(name);
    dlm_config config;
    dlm_layout *layout = NULL;
    dlm_error err;
    size_t n;
    char *text = path == NULL ? NULL : read_text(path, &n);
    if (text != NULL && CHECK_OK(dlm__config_parse(path, text, n, &config, NULL, &err), &err)) {
        CHECK_OK(dlm__layout_create(&config, &layout, &err), &err);
    }
    return layout;
}

static void compare_table(const char *folder) {
    char name[64];
    (void)snprintf(name, sizeof name, "%s/model.safetensors", folder);
    const char *path = golden_path(name);
    dlm_layout *layout = layout_of(folder);
    dlm_safetensors *file;
    dlm_error err;
    REQUIRE(layout != NULL);
    REQUIRE_OK(dlm__safetensors_open(path, &file, &err), &err);
    CHECK_INT_EQ(layout->n, dlm__safetensors_count(file));
    size_t next = 0, count = 0;
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        const dlm_st_tensor *tensor = dlm__safetensors_find(file, param->name);
        check_context("%s %s", folder, param->name);
        if (!CHECK(tensor != NULL)) continue;
        CHECK_INT_EQ(param->ndim, tensor->ndim);
        for (size_t d = 0; d < param->ndim && d < 3; d++) CHECK_INT_EQ(param->shape[d], tensor->shape[d]);
        CHECK_INT_EQ(param->count, tensor->count);
        CHECK_INT_EQ(param->offset % 16, 0);
        CHECK(param->offset >= next && param->offset < next + 16);
        CHECK_INT_EQ(param->block_matrix, strncmp(param->name, "blocks.", 7) == 0 && tensor->ndim == 2);
        CHECK(dlm__layout_find(layout, param->name) == param);
        next = param->offset + param->count;
        count += param->count;
    }
    CHECK_INT_EQ(layout->count, count);
    CHECK(layout->total >= next && layout->total < next + 16);
    CHECK(dlm__layout_find(layout, "tok_embed") == NULL);
    dlm__safetensors_close(file);
    dlm__layout_free(layout);
}

TEST(table_tiny) {
    compare_table("tiny");
}
TEST(table_odd) {
    compare_table("odd");
}
TEST(table_plain) {
    compare_table("plain");
}
TEST(table_halfway) {
    compare_table("halfway");
}

/* The published model's size, from the text that describes it. */
TEST(published_size) {
    dlm_config config = {.vocab_size = 8192,
                         .max_seq_len = 256,
                         .hidden_size = 768,
                         .depth = 12,
                         .num_heads = 12,
                         .mlp_ratio = 4,
                         .time = DLM_TIME_ADALN,
                         .position = DLM_POSITION_LEARNED};
    dlm_layout *layout;
    dlm_error err;
    REQUIRE_OK(dlm__layout_create(&config, &layout, &err), &err);
    CHECK_CLOSE((double)layout->count / 1e6, 142.3, 0.05);
    size_t adaln = 0;
    for (size_t i = 0; i < layout->n; i++) {
        const char *name = layout->params[i].name;
        if (strncmp(name, "blocks.", 7) == 0 && strstr(name, "adaLN") != NULL)
            adaln += layout->params[i].count;
    }
    CHECK_CLOSE((double)adaln / 1e6, 42.5, 0.05);
    dlm__layout_free(layout);
}

/* Mean and mean square of n values lie within five standard errors of 0 and `square`; kurtosis is the fourth
 * moment over the square of the second. */
static void check_moments(const float *values, size_t n, double square, double kurtosis) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    CHECK_CLOSE(sum / (double)n, 0, 5 * sqrt(square / (double)n));
    CHECK_CLOSE(squares / (double)n, square, 5 * square * sqrt((kurtosis - 1) / (double)n));
}

static void check_initial(const dlm_layout *layout, const dlm_param *param, const float *values) {
    const char *name = param->name;
    size_t C = layout->config.hidden_size, n = param->count;
    bool plain = layout->config.time == DLM_TIME_NONE;
    bool bias = strstr(name, ".bias") != NULL,
         zero = bias || strstr(name, "adaLN") != NULL || strncmp(name, "final_layer.", 12) == 0;
    if (plain && (strstr(name, "attn.proj") != NULL || strstr(name, "mlp.fc2") != NULL)) zero = true;
    check_context("%s", name);
    if (strstr(name, ".modulation") != NULL && !zero) {
        for (size_t i = 0; i < n; i++) CHECK(values[i] == (i / C == 2 || i / C == 5 ? 1.0F : 0.0F));
    } else if (zero) {
        for (size_t i = 0; i < n; i++) CHECK(values[i] == 0);
    } else if (strstr(name, "embed") != NULL) {
        check_moments(values, n, 0.02 * 0.02, 3);
    } else {
        double bound = sqrt(6.0 / (double)(param->shape[0] + param->shape[1])), largest = 0;
        for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)values[i]));
        CHECK(largest <= bound && largest > 0.95 * bound);
        check_moments(values, n, bound * bound / 3, 1.8);
    }
    for (size_t i = n; i % 16 != 0; i++) CHECK(values[i] == 0);
}

static void check_init(const char *folder) {
    dlm_layout *layout = layout_of(folder);
    REQUIRE(layout != NULL);
    size_t bytes = layout->total * sizeof(float);
    float *a = malloc(bytes), *b = malloc(bytes);
    REQUIRE(a != NULL && b != NULL);
    memset(a, 0xff, bytes);
    dlm__layout_init(layout, 1, a);
    for (size_t i = 0; i < layout->n; i++)
        check_initial(layout, &layout->params[i], a + layout->params[i].offset);
    dlm_set_threads(1);
    dlm__layout_init(layout, 1, b);
    dlm_set_threads(0);
    check_context("%s", "");
    CHECK_MEM_EQ(a, b, bytes);
    dlm__layout_init(layout, 2, b);
    CHECK(memcmp(a, b, bytes) != 0);
    free(a);
    free(b);
    dlm__layout_free(layout);
}

TEST(initial_values_adaln) {
    check_init("odd");
}
TEST(initial_values_plain) {
    check_init("plain");
}
