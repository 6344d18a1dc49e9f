/* Checkpoints of torch.save: files that PyTorch wrote against the same weights in safetensors, odd ones built
 * here, and every way in which one can be wrong. */
#include "network_fixture.h"
#include "pickle_fixture.h"
#include "zip_fixture.h"

#include "format/torch_checkpoint.h"

/* ---- files of PyTorch --------------------------------------------------------------------------------- */

static const char *const fixtures[] = {"tiny", "plain", "halfway"};

static dlm_model *load(const char *path, const dlm_model_options *options) {
    dlm_model *model = NULL;
    dlm_error err;
    CHECK_OK(dlm_model_load(path, options, &model, &err), &err);
    return model;
}

/* All parameters of two models; where `rounded` the second ones only to bfloat16. */
static void same_weights(const dlm_model *a, const dlm_model *b, bool rounded) {
    if (!CHECK(a != NULL && b != NULL) || !CHECK_INT_EQ(dlm_model_parameters(a), dlm_model_parameters(b)))
        return;
    for (size_t i = 0; i < dlm_model_parameters(a); i++) {
        const dlm_parameter x = dlm_model_parameter(a, i), y = dlm_model_parameter(b, i);
        check_context("%s", x.name);
        CHECK_STR_EQ(x.name, y.name);
        if (!CHECK_INT_EQ(x.count, y.count)) continue;
        if (!rounded) CHECK_MEM_EQ(x.values, y.values, x.count * sizeof *x.values);
        for (size_t j = 0; rounded && j < x.count; j++) {
            if (fabsf(x.values[j] - y.values[j]) <= fabsf(x.values[j]) / 256) continue;
            CHECK_CLOSE(x.values[j], y.values[j], 0);
        }
    }
    check_context("%s", "");
}

static void check_fixture(const char *folder, const char *file, bool rounded) {
    char name[100];
    (void)snprintf(name, sizeof name, "%s/%s.pt", folder, file);
    const char *path = golden_path(name);
    dlm_model *expected = fixture_model(folder, DLM_PRECISION_F32), *model = load(path, NULL);
    same_weights(expected, model, rounded);
    if (expected != NULL && model != NULL) {
        const dlm_config *a = dlm_model_config(expected), *b = dlm_model_config(model);
        CHECK_INT_EQ(a->num_heads, b->num_heads);
        CHECK_CLOSE(a->mlp_ratio, b->mlp_ratio, 0);
        CHECK_INT_EQ(a->time, b->time);
        CHECK_INT_EQ(a->position, b->position);
        CHECK_STR_EQ(dlm_model_source(model), path);
        CHECK(b->padded && !b->end_token);
    }
    dlm_model_free(expected);
    dlm_model_free(model);
}

TEST(golden_files) {
    for (size_t i = 0; i < sizeof fixtures / sizeof fixtures[0]; i++)
        check_fixture(fixtures[i], "final", false);
    check_fixture("tiny", "model_only", false);
    check_fixture("tiny", "bf16", true);
    check_fixture("halfway", "bf16", true);
}

/* "raw" gives other logits, which are in the fixture. */
TEST(raw_weights) {
    dlm_safetensors *forward = fixture_file("tiny", "forward");
    dlm_model_options options = dlm_model_defaults();
    options.weights = DLM_WEIGHTS_RAW;
    options.precision = DLM_PRECISION_F32;
    dlm_model *model = load(golden_path("tiny/final.pt"), &options);
    REQUIRE(forward != NULL && model != NULL);
    size_t n, B, lengths[64];
    int32_t *ids = fixture_ints(forward, "x_t", &n);
    float *times = fixture_floats(forward, "t", &B), *expected = fixture_floats(forward, "raw.logits", NULL);
    for (size_t i = 0; i < B; i++) lengths[i] = n / B;
    float *logits = dlm__calloc(n * dlm_model_config(model)->vocab_size, sizeof *logits);
    dlm_error err;
    CHECK_OK(dlm_model_logits(model, ids, lengths, B, times, logits, &err), &err);
    CHECK_ALL_CLOSE(logits, expected, n * dlm_model_config(model)->vocab_size, 1e-4);
    free(logits);
    free(expected);
    free(times);
    free(ids);
    dlm__safetensors_close(forward);
    dlm_model_free(model);
    model = NULL;
    CHECK_STATUS(dlm_model_load(golden_path("tiny/model_only.pt"), &options, &model, &err), DLM_NOT_FOUND,
                 &err);
    CHECK_SAYS(&err, "it holds no raw weights");
}

/* A folder as the original's repository on the Hub. */
TEST(a_folder_with_final_pt) {
    const char *dir = temporary_dir();
    size_t n;
    dlm_error err;
    const char *bytes = read_text(golden_path("tiny/final.pt"), &n);
    REQUIRE(bytes != NULL);
    CHECK_OK(dlm__write_file(path_in(dir, "final.pt"), bytes, n, &err), &err);
    dlm_model *model = load(dir, NULL);
    if (CHECK(model != NULL)) CHECK_STR_EQ(dlm_model_source(model), path_in(dir, "final.pt"));
    dlm_model_free(model);
    /* Whatever its name. */
    CHECK_OK(dlm__write_file(path_in(dir, "weights"), bytes, n, &err), &err);
    dlm_model_free(load(path_in(dir, "weights"), NULL));
    /* Cut off anywhere, or with a byte of its weights changed, it is refused. */
    for (size_t cut = 1; cut < n; cut += n / 40) {
        CHECK_OK(dlm__write_file(path_in(dir, "final.pt"), bytes, n - cut, &err), &err);
        CHECK_STATUS(dlm_model_load(dir, NULL, &model, &err), DLM_FORMAT, &err);
    }
    char *changed = dlm__copy_bytes(bytes, n);
    changed[n / 4] ^= 1;
    CHECK_OK(dlm__write_file(path_in(dir, "final.pt"), changed, n, &err), &err);
    CHECK_STATUS(dlm_model_load(dir, NULL, &model, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "is damaged: its checksum");
    CHECK(model == NULL);
    free(changed);
}

/* ---- files that are built here ------------------------------------------------------------------------ */

typedef struct built {
    pickle_bytes pickle;
    const char *order;
    zip_part storages[4];
    size_t n;
} built;

/* Parses it; *image is to be freed after the file. */
static dlm_status parse(const built *b, zip_image *image, dlm_torch **file, dlm_error *err) {
    zip_part parts[6] = {{"x/data.pkl", b->pickle.bytes, b->pickle.n}};
    size_t n = 1;
    if (b->order != NULL) parts[n++] = (zip_part){"x/byteorder", b->order, strlen(b->order)};
    for (size_t i = 0; i < b->n; i++) parts[n++] = b->storages[i];
    *image = zip_make(parts, n);
    return dlm__torch_parse("f", image->bytes, image->n, file, err);
}

static void refused(const built *b, dlm_status status, const char *says) {
    zip_image image;
    dlm_torch *file = NULL;
    dlm_error err;
    CHECK_STATUS(parse(b, &image, &file, &err), status, &err);
    CHECK_SAYS(&err, says);
    CHECK(file == NULL);
    dlm__torch_close(file);
    free(image.bytes);
}

static const float six[] = {0, 1, 2, 3, 4, 5};

/* A state dict of one tensor, alone. */
static built one_tensor(pickle_view view, const void *storage, size_t bytes) {
    built b = {.storages = {{"x/data/0", storage, bytes}}, .n = 1};
    P(&b.pickle, "\x80\x02}");
    p_text(&b.pickle, "w");
    p_tensor(&b.pickle, view);
    P(&b.pickle, "s.");
    return b;
}

static void check_values(const built *b, const float *expected, size_t n) {
    zip_image image;
    dlm_torch *file = NULL;
    dlm_error err;
    float values[16];
    if (CHECK_OK(parse(b, &image, &file, &err), &err)) {
        const dlm_tensors tensors = dlm__torch_tensors(file, DLM_TORCH_MODEL);
        CHECK_INT_EQ(tensors.n, 1);
        CHECK_INT_EQ(tensors.at(tensors.file, 0).count, n);
        CHECK_OK(tensors.floats(tensors.file, 0, values, &err), &err);
        CHECK_MEM_EQ(values, expected, n * sizeof *values);
    }
    dlm__torch_close(file);
    free(image.bytes);
}

TEST(types_and_byte_orders) {
    static const unsigned char half[] = {0, 0, 0, 0x3c, 0, 0xc0, 1, 0},
                               bf16[] = {0, 0, 0x80, 0x3f, 0, 0xc0, 0, 0x34},
                               f64[] = {0, 0, 0, 0, 0, 0, 0xf8, 0x3f};
    const float halves[] = {0, 1, -2, 0x1p-24F}, bf16s[] = {0, 1, -2, 0x1p-23F}, f64s[] = {1.5F};
    const pickle_view view = {
        .key = "0", .type = "FloatStorage", .count = 4, .ndim = 1, .shape = {4}, .stride = {1}};
    pickle_view other = view;
    built b = one_tensor(view, six, 16);
    check_values(&b, six, 4);
    b.order = "little";
    check_values(&b, six, 4);
    other.type = "HalfStorage";
    b = one_tensor(other, half, sizeof half);
    check_values(&b, halves, 4);
    other.type = "BFloat16Storage";
    b = one_tensor(other, bf16, sizeof bf16);
    check_values(&b, bf16s, 4);
    other = (pickle_view){.key = "0", .type = "DoubleStorage", .count = 1, .ndim = 0};
    b = one_tensor(other, f64, sizeof f64);
    check_values(&b, f64s, 1);
    unsigned char swapped[sizeof six];
    for (size_t i = 0; i < sizeof six; i++) swapped[i] = ((const unsigned char *)six)[i ^ 3];
    b = one_tensor(view, swapped, 16);
    b.order = "big";
    check_values(&b, six, 4);
    b.order = "middle";
    refused(&b, DLM_FORMAT, "byteorder is neither little nor big");
}

TEST(views) {
    const float transposed[] = {0, 3, 1, 4, 2, 5}, part[] = {2, 3}, repeated[] = {5, 5, 5};
    built b = one_tensor(
        (pickle_view){
            .key = "0", .type = "FloatStorage", .count = 6, .ndim = 2, .shape = {3, 2}, .stride = {1, 3}},
        six, sizeof six);
    check_values(&b, transposed, 6);
    b = one_tensor((pickle_view){.key = "0",
                                 .type = "FloatStorage",
                                 .count = 6,
                                 .offset = 2,
                                 .ndim = 1,
                                 .shape = {2},
                                 .stride = {1}},
                   six, sizeof six);
    check_values(&b, part, 2);
    b = one_tensor((pickle_view){.key = "0",
                                 .type = "FloatStorage",
                                 .count = 6,
                                 .offset = 5,
                                 .ndim = 2,
                                 .shape = {3, 1},
                                 .stride = {0, 7}},
                   six, sizeof six);
    check_values(&b, repeated, 3);
}

TEST(wrong_storages) {
    const pickle_view view = {
        .key = "0", .type = "FloatStorage", .count = 6, .ndim = 1, .shape = {6}, .stride = {1}};
    built b = one_tensor(view, six, 20);
    refused(&b, DLM_FORMAT, "storage of tensor w is to have 6 values of 4 bytes, and has 20 bytes");
    pickle_view other = view;
    other.key = "../../1";
    b = one_tensor(other, six, sizeof six);
    refused(&b, DLM_FORMAT, "storage of tensor w is missing");
    other = view;
    other.stride[0] = 0;
    other.shape[0] = INT64_C(1) << 40;
    b = one_tensor(other, six, sizeof six);
    refused(&b, DLM_FORMAT, "to have 1099511627776 values, from storages of");
}

#define REFUSED(literal, status, says)        \
    do {                                      \
        built refused_file = {.n = 0};        \
        P(&refused_file.pickle, literal);     \
        refused(&refused_file, status, says); \
    } while (0)

TEST(other_contents) {
    REFUSED("\x80\x02]q\x00h\x00"
            "a.",
            DLM_UNSUPPORTED, "neither a state dict nor a dict with one");
    REFUSED("\x80\x02}.", DLM_UNSUPPORTED, "neither a state dict nor a dict with one");
    REFUSED("\x80\x02}\x8c\x05modelK\x01s.", DLM_UNSUPPORTED, "neither a state dict");
    REFUSED("\x80\x02}q\x00\x8c\x05modelh\x00s.", DLM_UNSUPPORTED, "model in its state dict is no tensor");
    REFUSED("\x80\x02}\x8c\x05model}K\x01Nss.", DLM_FORMAT, "a key of its state dict is no name");
    REFUSED("\x80\x02}\x8c\x05model}\x8c\x03"
            "a\0bNss.",
            DLM_FORMAT, "a key of its state dict is no name");
    REFUSED("\x80\x02"
            "cos\nsystem\n.",
            DLM_UNSUPPORTED, "asks for os.system");
    const zip_part none = {"data.pkl", "N.", 2};
    zip_image image = zip_make(&none, 1);
    dlm_torch *file;
    dlm_error err;
    CHECK_STATUS(dlm__torch_parse("f", image.bytes, image.n, &file, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "it has no data.pkl");
    free(image.bytes);
    const char *path = path_in(temporary_dir(), "old.pt");
    CHECK_OK(dlm__write_file(path, "\x80\x02\x8a\x0al\xfc\x9c", 7, &err), &err);
    CHECK_STATUS(dlm__torch_open(path, &file, &err), DLM_UNSUPPORTED, &err);
    CHECK_SAYS(&err, "PyTorch before 1.6");
}

static void config_is(const char *pickle, size_t n, const char *expected, const char *says) {
    built b = {.n = 0};
    zip_image image;
    dlm_torch *file = NULL;
    dlm_error err = {0};
    char *json = NULL;
    P(&b.pickle, "\x80\x02}(\x8c\x05model}");
    p_bytes(&b.pickle, pickle, n);
    P(&b.pickle, "u.");
    if (CHECK_OK(parse(&b, &image, &file, &err), &err)) {
        const dlm_status status = dlm__torch_config(file, &json, &err);
        CHECK_INT_EQ(status, says == NULL ? DLM_OK : DLM_FORMAT);
        if (says != NULL) CHECK_SAYS(&err, says);
        if (expected != NULL && CHECK(json != NULL)) CHECK_STR_EQ(json, expected);
        if (expected == NULL) CHECK(json == NULL);
    }
    free(json);
    dlm__torch_close(file);
    free(image.bytes);
}

#define CONFIG(literal, expected, says) config_is(literal, sizeof(literal) - 1, expected, says)

TEST(configs) {
    CONFIG("", NULL, NULL);
    CONFIG("\x8c\x06"
           "config}\x8c\x01"
           "aK\x05s",
           "{\"a\": 5}", NULL);
    CONFIG("\x8c\x06"
           "config}\x8c\x01"
           "aK\x05s\x8c\x0b"
           "diffusionlm}(\x8c\x04time\x8c\x04none\x8c\x06padded\x88"
           "\x8c\x07lengths](K\x00K\x01"
           "eu",
           "{\"a\": 5, \"time\": \"none\", \"diffusion\": {\"padded\": true, \"lengths\": [0, 1]}}", NULL);
    CONFIG("\x8c\x06"
           "configK\x01",
           NULL, "\"config\" is no dict of plain values");
    CONFIG("\x8c\x06"
           "config}q\x00\x8c\x01"
           "ah\x00s",
           NULL, "\"config\" is no dict of plain values");
    CONFIG("\x8c\x06"
           "config}\x8c\x01"
           "aG\x7f\xf8\x00\x00\x00\x00\x00\x00s",
           NULL, "no dict of plain values");
    CONFIG("\x8c\x06"
           "config}\x8c\x01"
           "aX\x01\x00\x00\x00\xffs",
           NULL, "no dict of plain values");
    CONFIG("\x8c\x06"
           "config}\x8c\x0b"
           "diffusionlmN",
           NULL, "\"diffusionlm\" is no dict of plain values");
}

/* ---- a state dict without a config -------------------------------------------------------------------- */

/* Its tensors, alone, in a file. */
static const char *bare_file(const dlm_model *model) {
    built b = {.n = 0};
    zip_part parts[40] = {{"x/data.pkl", NULL, 0}};
    static char names[40][12], keys[40][4];
    const size_t n = dlm_model_parameters(model);
    if (n >= 40) abort();
    P(&b.pickle, "\x80\x02}(");
    for (size_t i = 0; i < n; i++) {
        const dlm_parameter parameter = dlm_model_parameter(model, i);
        pickle_view view = {.key = keys[i],
                            .type = "FloatStorage",
                            .count = (int64_t)parameter.count,
                            .ndim = parameter.ndim};
        int64_t stride = 1;
        for (size_t axis = parameter.ndim; axis-- > 0; stride *= view.shape[axis]) {
            view.shape[axis] = (int64_t)parameter.shape[axis];
            view.stride[axis] = stride;
        }
        (void)snprintf(keys[i], sizeof keys[i], "%zu", i);
        (void)snprintf(names[i], sizeof names[i], "x/data/%zu", i);
        p_text(&b.pickle, parameter.name);
        p_tensor(&b.pickle, view);
        parts[1 + i] = (zip_part){names[i], parameter.values, parameter.count * sizeof(float)};
    }
    P(&b.pickle, "u.");
    parts[0].bytes = b.pickle.bytes;
    parts[0].n = b.pickle.n;
    zip_image image = zip_make(parts, 1 + n);
    const char *path = path_in(temporary_dir(), "bare.pt");
    dlm_error err;
    CHECK_OK(dlm__write_file(path, image.bytes, image.n, &err), &err);
    free(image.bytes);
    return path;
}

static dlm_model *random_model(dlm_time time, double mlp_ratio) {
    const dlm_config config = {.vocab_size = 11,
                               .max_seq_len = 5,
                               .hidden_size = 21,
                               .depth = 2,
                               .num_heads = 3,
                               .mlp_ratio = mlp_ratio,
                               .time = time,
                               .position = DLM_POSITION_LEARNED,
                               .padded = true,
                               .recipe = DLM_RECIPE_ORIGINAL};
    dlm_model *model = NULL;
    dlm_error err;
    CHECK_OK(dlm_model_random(&config, DLM_PRECISION_F32, 1, &model, &err), &err);
    return model;
}

TEST(sizes_from_tensors) {
    dlm_model *model = random_model(DLM_TIME_ADALN, 51.5 / 21), *again = NULL;
    REQUIRE(model != NULL);
    const char *path = bare_file(model);
    dlm_model_options options = dlm_model_defaults();
    dlm_error err;
    CHECK_STATUS(dlm_model_load(path, &options, &again, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "the number of heads, which has to be given (option heads)");
    /* All else can be told; a file that is written has to have them. */
    REQUIRE_OK(dlm_model_inspect(path, &options, &again, &err), &err);
    CHECK_INT_EQ(dlm_model_config(again)->num_heads, 0);
    CHECK_INT_EQ(dlm_model_config(again)->hidden_size, 21);
    CHECK_STR_EQ(dlm_model_stored(again), "float32");
    dlm_model_free(again);
    CHECK_STATUS(dlm_model_convert(path, path_in(temporary_dir(), "out"), NULL, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "the number of heads, which has to be given (option heads)");
    options.heads = 4;
    CHECK_STATUS(dlm_model_load(path, &options, &again, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "no multiple of num_heads 4");
    options.heads = 3;
    again = load(path, &options);
    same_weights(model, again, false);
    if (again != NULL) {
        const dlm_config *config = dlm_model_config(again);
        CHECK_INT_EQ(config->vocab_size, 11);
        CHECK_INT_EQ(config->max_seq_len, 5);
        CHECK_INT_EQ(config->depth, 2);
        CHECK_INT_EQ(config->num_heads, 3);
        CHECK_INT_EQ(dlm__config_hidden(config), 51);
        CHECK(config->padded && config->recipe == DLM_RECIPE_ORIGINAL);
    }
    dlm_model_free(again);
    /* With a config.json beside it nothing need be given, and what is given has to agree. */
    char beside[300];
    (void)snprintf(beside, sizeof beside, "%.*s/config.json", (int)(strrchr(path, '/') - path), path);
    CHECK_OK(dlm__config_save(dlm_model_config(model), NULL, beside, &err), &err);
    dlm_model_free(load(path, NULL));
    options.heads = 2;
    CHECK_STATUS(dlm_model_load(path, &options, &again, &err), DLM_MISMATCH, &err);
    CHECK_SAYS(&err, "its config has 3 heads, not 2");
    dlm_model_free(model);
    model = random_model(DLM_TIME_NONE, 2);
    CHECK_STATUS(dlm_model_load(bare_file(model), &options, &again, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "a model without t_embedder needs that");
    dlm_model_free(model);
}
