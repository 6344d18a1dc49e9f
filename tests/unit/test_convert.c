/* Models written in every format and read back; what is not overwritten, not written, and not converted. */
#include "network_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static dlm_model *load_as(const char *path, dlm_weights weights) {
    dlm_model_options options = dlm_model_defaults();
    options.weights = weights;
    options.precision = DLM_PRECISION_F32;
    dlm_model *model = NULL;
    dlm_error err;
    CHECK_OK(dlm_model_load(path, &options, &model, &err), &err);
    return model;
}

/* The same parameters, config and lengths. */
static void same_models(const dlm_model *a, const dlm_model *b) {
    if (!CHECK(a != NULL && b != NULL)) return;
    for (size_t i = 0; i < dlm_model_parameters(a); i++) {
        const dlm_parameter x = dlm_model_parameter(a, i), y = dlm_model_parameter(b, i);
        if (!CHECK_STR_EQ(x.name, y.name) || !CHECK_INT_EQ(x.count, y.count)) return;
        CHECK_MEM_EQ(x.values, y.values, x.count * sizeof *x.values);
    }
    char *left = dlm__config_text(dlm_model_config(a), dlm_model_lengths(a, NULL)),
         *right = dlm__config_text(dlm_model_config(b), dlm_model_lengths(b, NULL));
    CHECK_STR_EQ(left, right);
    free(left);
    free(right);
}

static void same_files(const char *a, const char *b, dlm_weights weights) {
    dlm_model *left = load_as(a, weights), *right = load_as(b, weights);
    same_models(left, right);
    dlm_model_free(left);
    dlm_model_free(right);
}

static void convert(const char *from, const char *to) {
    dlm_error err;
    CHECK_OK(dlm_model_convert(from, to, NULL, &err), &err);
}

static void refused(const char *from, const char *to, const dlm_convert_options *options, dlm_status status,
                    const char *says) {
    dlm_error err;
    CHECK_STATUS(dlm_model_convert(from, to, options, &err), status, &err);
    CHECK_SAYS(&err, says);
}

/* With lengths and everything else that the original does not know. */
static dlm_model *our_model(void) {
    static const uint64_t lengths[] = {0, 3, 0, 5, 1, 2};
    const dlm_config config = {.vocab_size = 260,
                               .max_seq_len = 5,
                               .hidden_size = 8,
                               .depth = 2,
                               .num_heads = 2,
                               .mlp_ratio = 2.65,
                               .time = DLM_TIME_NONE,
                               .position = DLM_POSITION_BOTH,
                               .schedule = DLM_SCHEDULE_LINEAR,
                               .end_token = true,
                               .tail_share = 0.125};
    dlm_layout *layout;
    dlm_model *model = NULL;
    dlm_error err;
    if (!CHECK_OK(dlm__layout_create(&config, &layout, &err), &err)) return NULL;
    float *params = dlm__calloc(layout->total, sizeof *params);
    dlm__layout_init(layout, 3, params);
    CHECK_OK(dlm__model_create(&config, params, NULL, lengths, DLM_PRECISION_F32, &model, &err), &err);
    free(params);
    dlm__layout_free(layout);
    return model;
}

TEST(every_format_and_back) {
    const char *dir = temporary_dir(), *pt = path_in(dir, "model.pt"), *st = path_in(dir, "one.safetensors"),
               *folder = path_in(dir, "folder"), *again = path_in(dir, "again.pt");
    dlm_model *model = our_model();
    dlm_error err;
    REQUIRE(model != NULL);
    REQUIRE_OK(dlm_model_save(model, pt, NULL, &err), &err);
    convert(pt, folder);
    convert(folder, st);
    convert(st, again);
    const char *const files[] = {pt, folder, st, again};
    for (size_t i = 0; i < 4; i++) {
        dlm_model *read = load_as(files[i], DLM_WEIGHTS_EMA);
        same_models(model, read);
        dlm_model_free(read);
    }
    CHECK_OK(dlm_model_save(model, path_in(dir, "saved"), NULL, &err), &err);
    same_files(path_in(dir, "saved"), pt, DLM_WEIGHTS_EMA);
    CHECK_OK(dlm_model_save(model, path_in(dir, "saved.safetensors"), NULL, &err), &err);
    same_files(path_in(dir, "saved.safetensors"), pt, DLM_WEIGHTS_EMA);
    dlm_model_free(model);
}

/* How each file has its values, known without reading them. */
TEST(stored_numbers) {
    static const struct {
        dlm_numbers numbers;
        const char *name;
    } cases[] = {{DLM_NUMBERS_F32, "float32"}, {DLM_NUMBERS_BF16, "bfloat16"}, {DLM_NUMBERS_F16, "float16"}};
    static const char *const forms[] = {"a.pt", "a.safetensors", "a"};
    dlm_model *model = our_model(), *read = NULL;
    dlm_error err;
    REQUIRE(model != NULL);
    CHECK(dlm_model_stored(model) == NULL && dlm_model_parameter(model, 0).stored == NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *dir = temporary_dir();
        dlm_save_options options = dlm_save_defaults();
        options.numbers = cases[i].numbers;
        for (size_t j = 0; j < sizeof forms / sizeof forms[0]; j++) {
            const char *path = path_in(dir, forms[j]);
            check_context("%s of %s", forms[j], cases[i].name);
            REQUIRE_OK(dlm_model_save(model, path, &options, &err), &err);
            REQUIRE_OK(dlm_model_inspect(path, NULL, &read, &err), &err);
            CHECK_STR_EQ(dlm_model_stored(read), cases[i].name);
            CHECK_STR_EQ(dlm_model_parameter(read, 5).stored, cases[i].name);
            dlm_model_free(read);
        }
    }
    dlm_model_free(model);
}

/* What a clone without Git LFS has in the place of the file. */
TEST(pointers_of_git_lfs) {
    static const char text[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n";
    static const char *const names[] = {"final.pt", "model.safetensors", "weights"};
    const char *dir = temporary_dir();
    dlm_error err;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *path = path_in(dir, names[i]);
        CHECK_OK(dlm__write_file(path, text, sizeof text - 1, &err), &err);
        refused(path, path_in(dir, "out.pt"), NULL, DLM_FORMAT,
                "is a pointer of Git LFS in the place of the file");
    }
}

TEST(both_kinds_of_weights) {
    const char *final = golden_path("halfway/final.pt"), *dir = temporary_dir(),
               *folder = path_in(dir, "folder"), *again = path_in(dir, "again.pt"),
               *raw = path_in(dir, "raw.pt");
    convert(final, folder);
    convert(folder, again);
    same_files(final, folder, DLM_WEIGHTS_EMA);
    same_files(final, folder, DLM_WEIGHTS_RAW);
    same_files(final, again, DLM_WEIGHTS_EMA);
    same_files(final, again, DLM_WEIGHTS_RAW);
    dlm_convert_options options = dlm_convert_defaults();
    options.both = false;
    options.model.weights = DLM_WEIGHTS_RAW;
    dlm_error err;
    CHECK_OK(dlm_model_convert(final, raw, &options, &err), &err);
    dlm_model *a = load_as(final, DLM_WEIGHTS_RAW), *b = load_as(raw, DLM_WEIGHTS_EMA);
    same_models(a, b);
    dlm_model_free(a);
    dlm_model_free(b);
    options.model.weights = DLM_WEIGHTS_EMA;
    CHECK_OK(dlm_model_convert(final, path_in(dir, "average"), &options, &err), &err);
    CHECK(!dlm__is_file(path_in(path_in(dir, "average"), "raw.safetensors")));
    options.both = true;
    options.model.weights = DLM_WEIGHTS_RAW;
    refused(final, path_in(dir, "x"), &options, DLM_ARGUMENT, "both kinds at once");
}

/* Halves, in both formats, are PyTorch's. */
TEST(precisions) {
    const char *dir = temporary_dir(), *final = golden_path("tiny/final.pt");
    dlm_convert_options options = dlm_convert_defaults();
    dlm_error err;
    options.both = false;
    options.save.numbers = DLM_NUMBERS_BF16;
    CHECK_OK(dlm_model_convert(final, path_in(dir, "bf16.pt"), &options, &err), &err);
    CHECK_OK(dlm_model_convert(final, path_in(dir, "bf16.safetensors"), &options, &err), &err);
    same_files(path_in(dir, "bf16.pt"), golden_path("tiny/bf16.pt"), DLM_WEIGHTS_EMA);
    same_files(path_in(dir, "bf16.safetensors"), golden_path("tiny/bf16.pt"), DLM_WEIGHTS_EMA);
    options.save.numbers = DLM_NUMBERS_F16;
    CHECK_OK(dlm_model_convert(final, path_in(dir, "f16.pt"), &options, &err), &err);
    CHECK_OK(dlm_model_convert(final, path_in(dir, "f16"), &options, &err), &err);
    same_files(path_in(dir, "f16.pt"), path_in(dir, "f16"), DLM_WEIGHTS_EMA);
    struct stat all, half;
    REQUIRE(stat(final, &all) == 0 && stat(path_in(dir, "f16.pt"), &half) == 0);
    CHECK(half.st_size < all.st_size / 3);
    options.save.numbers = (dlm_numbers)4;
    refused(final, path_in(dir, "x.pt"), &options, DLM_ARGUMENT, "numbers 4");
}

static float rounded(float value, bool bf16) {
    uint16_t half;
    float back;
    if (bf16) {
        dlm__bf16_of_floats(&value, 1, &half);
        dlm__floats_of_bf16(&half, 1, &back);
    } else {
        dlm__f16_of_floats(&value, 1, &half);
        dlm__floats_of_f16(&half, 1, &back);
    }
    return back;
}

/* To the nearest of the values that a type has, ties to the even one. */
TEST(rounding) {
    static const float f16[][2] = {{1 + 0x1p-11F, 1},
                                   {1 + 3 * 0x1p-11F, 1 + 0x1p-9F},
                                   {1 + 0x1.02p-11F, 1 + 0x1p-10F},
                                   {65519, 65504},
                                   {65520, INFINITY},
                                   {-65520, -INFINITY},
                                   {0x1p-24F, 0x1p-24F},
                                   {0x1p-25F, 0},
                                   {0x1.02p-25F, 0x1p-24F},
                                   {3 * 0x1p-25F, 0x1p-23F},
                                   {0x1.ff8p-15F, 0x1.ff8p-15F},
                                   {0x1.fffp-15F, 0x1p-14F},
                                   {0x1p-140F, 0}};
    static const float bf16[][2] = {{1 + 0x1p-8F, 1},
                                    {1 + 3 * 0x1p-8F, 1 + 0x1p-6F},
                                    {0x1.fffffep127F, INFINITY},
                                    {0x1.fep127F, 0x1.fep127F},
                                    {0x1p-149F, 0},
                                    {-3.140625F, -3.140625F}};
    for (size_t i = 0; i < sizeof f16 / sizeof f16[0]; i++) {
        CHECK(rounded(f16[i][0], false) == f16[i][1]);
        CHECK(rounded(-f16[i][0], false) == -f16[i][1]);
    }
    for (size_t i = 0; i < sizeof bf16 / sizeof bf16[0]; i++) CHECK(rounded(bf16[i][0], true) == bf16[i][1]);
    CHECK(isnan(rounded(NAN, false)) && isnan(rounded(NAN, true)));
    CHECK(signbit(rounded(-0.0F, false)) && signbit(rounded(-0.0F, true)));
    /* Every half comes back as it was. */
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        const uint16_t half = (uint16_t)bits;
        uint16_t again;
        float value;
        dlm__floats_of_f16(&half, 1, &value);
        dlm__f16_of_floats(&value, 1, &again);
        if (!isnan(value) && again != half) CHECK_INT_EQ(again, half);
        dlm__floats_of_bf16(&half, 1, &value);
        dlm__bf16_of_floats(&value, 1, &again);
        if (!isnan(value) && again != half) CHECK_INT_EQ(again, half);
    }
}

TEST(what_cannot_be_stored) {
    const char *dir = temporary_dir();
    dlm_model *model = our_model();
    dlm_error err;
    REQUIRE(model != NULL);
    float *values = model->network.params + model->layout->params[0].offset;
    dlm_save_options options = dlm_save_defaults();
    values[2] = 70000;
    options.numbers = DLM_NUMBERS_F16;
    CHECK_STATUS(dlm_model_save(model, path_in(dir, "a.pt"), &options, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "value 2 of tensor pos_embed is 70000, too large for f16");
    CHECK_STATUS(dlm_model_save(model, path_in(dir, "a"), &options, &err), DLM_NOT_FINITE, &err);
    CHECK_STATUS(dlm_model_save(model, path_in(dir, "a.safetensors"), &options, &err), DLM_NOT_FINITE, &err);
    values[2] = NAN;
    CHECK_STATUS(dlm_model_save(model, path_in(dir, "a.pt"), NULL, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "value 2 of tensor pos_embed is nan");
    /* Nothing is left, under no name. */
    CHECK(rmdir(dir) == 0);
    dlm_model_free(model);
}

/* A file is replaced when the new one is whole; a folder only if it is a model and no more. */
TEST(overwriting) {
    const char *dir = temporary_dir(), *pt = path_in(dir, "a.pt"), *folder = path_in(dir, "a"),
               *final = golden_path("tiny/final.pt"), *other = golden_path("halfway/final.pt");
    dlm_convert_options options = dlm_convert_defaults();
    dlm_error err;
    convert(final, pt);
    convert(final, folder);
    refused(other, pt, NULL, DLM_EXISTS, "a.pt exists, and is not overwritten");
    refused(other, folder, NULL, DLM_EXISTS, "a exists, and is not overwritten");
    same_files(pt, final, DLM_WEIGHTS_EMA);
    options.save.overwrite = true;
    CHECK_OK(dlm_model_convert(other, pt, &options, &err), &err);
    CHECK_OK(dlm_model_convert(other, folder, &options, &err), &err);
    same_files(pt, other, DLM_WEIGHTS_EMA);
    same_files(folder, other, DLM_WEIGHTS_RAW);
    /* Onto itself. */
    CHECK_OK(dlm_model_convert(pt, pt, &options, &err), &err);
    CHECK_OK(dlm_model_convert(folder, folder, &options, &err), &err);
    same_files(pt, folder, DLM_WEIGHTS_EMA);
    refused(final, dir, &options, DLM_EXISTS, "is no model folder alone");
    CHECK_OK(dlm__write_file(path_in(folder, "trainer.json"), "{}", 2, &err), &err);
    refused(final, folder, &options, DLM_EXISTS, "is no model folder alone");
    CHECK_OK(dlm__make_dirs(path_in(dir, "b.pt"), &err), &err);
    refused(final, path_in(dir, "b.pt"), &options, DLM_EXISTS, "b.pt is a folder, not a file");
    CHECK_OK(dlm__write_file(path_in(dir, "file"), "", 0, &err), &err);
    refused(final, path_in(dir, "file"), &options, DLM_EXISTS, "is no model folder alone");
    refused(final, path_in(path_in(dir, "file"), "x.pt"), NULL, DLM_IO, "x.pt");
    refused("/nowhere/x.pt", path_in(dir, "x"), NULL, DLM_NOT_FOUND, "/nowhere/x.pt");
}

/* What fails half-way leaves what was there. */
TEST(a_damaged_input) {
    const char *dir = temporary_dir(), *in = path_in(dir, "in.pt"), *out = path_in(dir, "out.pt");
    size_t n;
    const char *bytes = read_text(golden_path("tiny/final.pt"), &n);
    REQUIRE(bytes != NULL);
    char *changed = dlm__copy_bytes(bytes, n);
    changed[n - 20000] ^= 1; /* one of the last tensors of "raw" */
    dlm_error err;
    CHECK_OK(dlm__write_file(in, changed, n, &err), &err);
    convert(golden_path("tiny/final.pt"), out);
    dlm_convert_options options = dlm_convert_defaults();
    options.save.overwrite = true;
    refused(in, out, &options, DLM_FORMAT, "is damaged");
    same_files(out, golden_path("tiny/final.pt"), DLM_WEIGHTS_RAW);
    CHECK(!dlm__is_file(path_in(dir, "out.pt.partial")));
    refused(in, path_in(dir, "folder"), NULL, DLM_FORMAT, "is damaged");
    CHECK(!dlm__is_dir(path_in(dir, "folder")) && !dlm__is_dir(path_in(dir, "folder.partial")));
    free(changed);
}

TEST(without_weights) {
    dlm_model *model;
    dlm_error err;
    REQUIRE_OK(dlm_model_inspect(golden_path("tiny/final.pt"), NULL, &model, &err), &err);
    CHECK(dlm_model_parameter(model, 0).values == NULL);
    CHECK_STATUS(dlm_model_save(model, path_in(temporary_dir(), "a.pt"), NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "read without its weights");
    dlm_model_free(model);
}

/* A model folder has the tokenizer that the file had beside it. */
TEST(the_tokenizer) {
    const char *dir = temporary_dir(), *tokenizer = golden_path("tokenizer/stories_min5/tokenizer.json");
    dlm_model *model = our_model(), *read = NULL;
    dlm_error err;
    REQUIRE(model != NULL && tokenizer != NULL);
    CHECK_OK(dlm_model_save(model, path_in(dir, "a.pt"), NULL, &err), &err);
    dlm_convert_options options = dlm_convert_defaults();
    options.model.tokenizer = tokenizer;
    refused(path_in(dir, "a.pt"), path_in(dir, "a"), &options, DLM_MISMATCH, "the tokenizer has");
    CHECK(!dlm__is_dir(path_in(dir, "a")));
    dlm_model_free(model);
    dlm_config config = {
        .vocab_size = 8192, .max_seq_len = 4, .hidden_size = 4, .depth = 1, .num_heads = 1, .mlp_ratio = 1};
    REQUIRE_OK(dlm_model_random(&config, DLM_PRECISION_F32, 1, &model, &err), &err);
    CHECK_OK(dlm_model_save(model, path_in(dir, "b.pt"), NULL, &err), &err);
    CHECK_OK(dlm_model_convert(path_in(dir, "b.pt"), path_in(dir, "b"), &options, &err), &err);
    CHECK_OK(dlm_model_load(path_in(dir, "b"), NULL, &read, &err), &err);
    if (read != NULL) CHECK(dlm_model_tokenizer(read) != NULL);
    dlm_model_free(read);
    dlm_model_free(model);
}
