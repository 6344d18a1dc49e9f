/* Models on disk: every form that MODEL may have, what is refused and how it is said, and the public view. */
#include "network_fixture.h"

#define DIFFUSION "\"diffusion\": {\"schedule\": \"linear\", \"end_token\": true, \"padded\": false}"

/* ---- making folders ----------------------------------------------------------------------------------- */

static void put(const char *dir, const char *name, const char *text) {
    dlm_error err;
    CHECK_OK(dlm__write_file(path_in(dir, name), text, strlen(text), &err), &err);
}

static void copy(const char *fixture, const char *dir, const char *name) {
    size_t n;
    dlm_error err;
    const char *path = golden_path(fixture);
    char *bytes = path == NULL ? NULL : read_text(path, &n);
    if (CHECK(bytes != NULL)) CHECK_OK(dlm__write_file(path_in(dir, name), bytes, n, &err), &err);
}

/* A folder with the small plain model and its config. */
static const char *plain_folder(void) {
    const char *dir = temporary_dir();
    copy("plain/model.safetensors", dir, "model.safetensors");
    copy("plain/config.json", dir, "config.json");
    return dir;
}

/* A folder with a model whose vocabulary is that of a fixture's tokenizer, or another size. */
static const char *folder_with_vocabulary(size_t vocab_size, bool end_token) {
    const char *dir = temporary_dir();
    dlm_config config = {.vocab_size = vocab_size,
                         .max_seq_len = 8,
                         .hidden_size = 8,
                         .depth = 1,
                         .num_heads = 1,
                         .mlp_ratio = 1,
                         .time = DLM_TIME_NONE,
                         .position = DLM_POSITION_BOTH,
                         .end_token = end_token};
    dlm_layout *layout;
    dlm_error err;
    if (!CHECK_OK(dlm__layout_create(&config, &layout, &err), &err)) return dir;
    float *params = dlm__calloc(layout->total, sizeof *params);
    dlm__layout_init(layout, 1, params);
    CHECK_OK(dlm__weights_save(layout, path_in(dir, "model.safetensors"), params, &err), &err);
    CHECK_OK(dlm__config_save(&config, NULL, path_in(dir, "config.json"), &err), &err);
    free(params);
    dlm__layout_free(layout);
    return dir;
}

static dlm_model *load(const char *path, const dlm_model_options *options) {
    dlm_model *model = NULL;
    dlm_error err;
    CHECK_OK(dlm_model_load(path, options, &model, &err), &err);
    return model;
}

static void refused(const char *path, const dlm_model_options *options, dlm_status status, const char *says) {
    dlm_model *model = NULL;
    dlm_error err;
    CHECK_STATUS(dlm_model_load(path, options, &model, &err), status, &err);
    CHECK_SAYS(&err, says);
    CHECK(model == NULL);
    dlm_model_free(model);
}

/* ---- forms of MODEL ----------------------------------------------------------------------------------- */

TEST(folder) {
    const char *dir = plain_folder();
    dlm_model *model = load(dir, NULL);
    REQUIRE(model != NULL);
    const dlm_config *config = dlm_model_config(model);
    CHECK_INT_EQ(config->vocab_size, 83);
    CHECK_INT_EQ(config->time, DLM_TIME_NONE);
    CHECK_INT_EQ(config->position, DLM_POSITION_BOTH);
    CHECK_STR_EQ(dlm_model_source(model), path_in(dir, "model.safetensors"));
    CHECK(dlm_model_tokenizer(model) == NULL);
    size_t n;
    CHECK(dlm_model_lengths(model, &n) == NULL);
    CHECK_INT_EQ(n, 21);
    CHECK(model->mask_id == 2 && model->pad_id == 0 && model->unk_id == 1 && model->end_id == -1);
    CHECK_INT_EQ(dlm_model_precision(model), dlm__bf16_native() ? DLM_PRECISION_BF16 : DLM_PRECISION_F32);
    dlm_model_free(model);
    dlm_model_free(NULL);
}

TEST(raw_weights) {
    const char *dir = plain_folder();
    dlm_model_options options = dlm_model_defaults();
    options.weights = DLM_WEIGHTS_RAW;
    refused(dir, &options, DLM_NOT_FOUND, "raw.safetensors");
    copy("plain/model.safetensors", dir, "raw.safetensors");
    dlm_model *model = load(dir, &options);
    REQUIRE(model != NULL);
    CHECK_STR_EQ(dlm_model_source(model), path_in(dir, "raw.safetensors"));
    dlm_model_free(model);
}

TEST(run_folder) {
    const char *run = temporary_dir(), *model_dir = path_in(run, "checkpoints/step-00000002");
    dlm_error err;
    refused(run, NULL, DLM_NOT_FOUND, "neither a model (config.json, final.pt) nor a run");
    REQUIRE_OK(dlm__make_dirs(model_dir, &err), &err);
    copy("plain/model.safetensors", model_dir, "model.safetensors");
    copy("plain/config.json", model_dir, "config.json");
    put(run, "latest", "step-00000002\n");
    dlm_model *model = load(run, NULL);
    REQUIRE(model != NULL);
    CHECK_STR_EQ(dlm_model_source(model), path_in(model_dir, "model.safetensors"));
    dlm_model_free(model);
    put(run, "latest", "step-00000003\n");
    refused(run, NULL, DLM_NOT_FOUND, "step-00000003: no such checkpoint");
    const char *const wrong[] = {"",
                                 "\n",
                                 "..",
                                 ".",
                                 "../checkpoints/step-00000002",
                                 "/etc",
                                 "step-00000002\nstep-00000003\n",
                                 "step-00000002\r\r\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put(run, "latest", wrong[i]);
        refused(run, NULL, DLM_FORMAT, "does not name a checkpoint");
    }
}

TEST(one_file) {
    const char *dir = temporary_dir(), *file = path_in(dir, "anything.safetensors");
    copy("plain/model.safetensors", dir, "anything.safetensors");
    dlm_model *model = load(file, NULL); /* its metadata has the config */
    REQUIRE(model != NULL);
    CHECK_INT_EQ(dlm_model_config(model)->schedule, DLM_SCHEDULE_COSINE);
    dlm_model_free(model);
    put(dir, "config.json",
        "{\"vocab_size\": 83, \"max_seq_len\": 20, \"hidden_size\": 48, \"depth\": 3, \"num_heads\": 4, "
        "\"mlp_ratio\": 4.0, \"time\": \"none\", \"position\": \"both\", " DIFFUSION "}");
    model = load(file, NULL);
    REQUIRE(model != NULL);
    CHECK_INT_EQ(dlm_model_config(model)->schedule, DLM_SCHEDULE_LINEAR);
    CHECK(dlm_model_config(model)->end_token && model->end_id == 3);
    dlm_model_free(model);
    dlm_model_options options = dlm_model_defaults();
    options.schedule = DLM_SCHEDULE_COSINE;
    model = load(file, &options);
    REQUIRE(model != NULL);
    CHECK_INT_EQ(dlm_model_config(model)->schedule, DLM_SCHEDULE_COSINE);
    dlm_model_free(model);
    put(dir, "config.json",
        "{\"vocab_size\": 83, \"max_seq_len\": 20, \"hidden_size\": 48, \"depth\": 3, \"num_heads\": 2, "
        "\"mlp_ratio\": 4.0, \"time\": \"none\", \"position\": \"both\"}");
    refused(file, NULL, DLM_MISMATCH, "describes another model than the metadata of");
}

TEST(not_a_model) {
    const char *dir = temporary_dir();
    refused("/nowhere/model", NULL, DLM_NOT_FOUND, "/nowhere/model");
    put(dir, "final.pt", "PK");
    refused(path_in(dir, "final.pt"), NULL, DLM_FORMAT, "no zip archive");
    put(dir, "model.safetensors", "");
    refused(dir, NULL, DLM_FORMAT, "0 bytes");
    dlm_model_options options = dlm_model_defaults();
    options.schedule = 2;
    refused(dir, &options, DLM_ARGUMENT, "schedule 2");
    options = dlm_model_defaults();
    options.weights = (dlm_weights)5;
    refused(dir, &options, DLM_ARGUMENT, "weights 5");
    options = dlm_model_defaults();
    options.precision = (dlm_precision)9;
    refused(plain_folder(), &options, DLM_ARGUMENT, "precision 9");
}

/* ---- weights ------------------------------------------------------------------------------------------ */

enum { ENTRIES = 64 };

/* The plain model's tensors, for a test to change before they are written; they live as long as *file. */
static size_t plain_entries(dlm_safetensors **file, dlm_st_entry *entries) {
    *file = fixture_file("plain", "model");
    size_t n = dlm__safetensors_count(*file);
    for (size_t i = 0; i < n && i < ENTRIES; i++) {
        const dlm_st_tensor *tensor = dlm__safetensors_at(*file, i);
        entries[i] = (dlm_st_entry){
            .name = tensor->name, .type = tensor->type, .ndim = tensor->ndim, .data = tensor->data};
        memcpy(entries[i].shape, tensor->shape, sizeof tensor->shape);
    }
    return n;
}

static size_t entry_of(const dlm_st_entry *entries, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(entries[i].name, name) == 0) return i;
    }
    abort();
}

/* Writes the entries beside the plain config; loading must be refused. */
static void weights_refused(const dlm_st_entry *entries, size_t n, dlm_status status, const char *says) {
    const char *dir = temporary_dir();
    dlm_error err;
    copy("plain/config.json", dir, "config.json");
    REQUIRE_OK(dlm__safetensors_save(path_in(dir, "model.safetensors"), entries, n, NULL, &err), &err);
    refused(dir, NULL, status, says);
}

TEST(wrong_tensors) {
    dlm_safetensors *file;
    dlm_st_entry good[ENTRIES], entries[ENTRIES];
    size_t n = plain_entries(&file, good), bytes = n * sizeof *good;
    memcpy(entries, good, bytes);
    weights_refused(entries, n - 1, DLM_MISMATCH, "is missing");
    size_t at = entry_of(entries, n, "blocks.1.attn.qkv.bias");
    entries[at].name = "blocks.1.attn.qkv.bia";
    weights_refused(entries, n, DLM_MISMATCH,
                    "tensor blocks.1.attn.qkv.bias, which its config wants, is missing");
    memcpy(entries, good, bytes);
    entries[n] =
        (dlm_st_entry){.name = "more", .type = DLM_ST_F32, .ndim = 1, .shape = {1}, .data = good[0].data};
    weights_refused(entries, n + 1, DLM_MISMATCH, "tensor more is none of this config's");
    at = entry_of(entries, n, "blocks.0.mlp.fc1.weight");
    entries[at].shape[0] = 96;
    entries[at].shape[1] = 96;
    weights_refused(entries, n, DLM_MISMATCH, "blocks.0.mlp.fc1.weight is (96, 96), config wants (192, 48)");
    entries[at].ndim = 1;
    entries[at].shape[0] = 192 * 48;
    weights_refused(entries, n, DLM_MISMATCH, "is (9216), config wants (192, 48)");
    memcpy(entries, good, bytes);
    entries[at].type = DLM_ST_I32;
    weights_refused(entries, n, DLM_UNSUPPORTED, "holds I32, not float32, float16, bfloat16 or float64");
    dlm__safetensors_close(file);
}

TEST(values_not_finite) {
    dlm_safetensors *file;
    dlm_st_entry entries[ENTRIES];
    size_t n = plain_entries(&file, entries), at = entry_of(entries, n, "final_layer.linear.bias");
    float bias[83] = {0};
    double wide[83] = {0};
    entries[at].data = bias;
    bias[82] = NAN;
    weights_refused(entries, n, DLM_NOT_FINITE, "value 82 of tensor final_layer.linear.bias is nan");
    bias[82] = -INFINITY;
    weights_refused(entries, n, DLM_NOT_FINITE, "is -inf");
    entries[at].data = wide;
    entries[at].type = DLM_ST_F64;
    wide[7] = 1e39;
    weights_refused(entries, n, DLM_NOT_FINITE,
                    "value 7 of tensor final_layer.linear.bias is inf as float32");
    dlm__safetensors_close(file);
}

TEST(saved_and_loaded) {
    dlm_model *model = fixture_model("halfway", DLM_PRECISION_F32), *again;
    dlm_error err;
    REQUIRE(model != NULL);
    const char *path = path_in(temporary_dir(), "again.safetensors");
    REQUIRE_OK(dlm__weights_save(model->layout, path, model->network.params, &err), &err);
    dlm_model_options options = dlm_model_defaults();
    options.precision = DLM_PRECISION_F32;
    again = load(path, &options);
    REQUIRE(again != NULL);
    CHECK_MEM_EQ(again->network.params, model->network.params, model->layout->total * sizeof(float));
    CHECK(again->network.params_bf16 == NULL);
    CHECK_INT_EQ(dlm_model_config(again)->position, DLM_POSITION_BOTH);
    dlm_model_free(again);
    dlm_model_free(model);
}

/* ---- large ones, which several threads read by pieces -------------------------------------------------- */

/* Floats as in `whole`, and the bfloat16 copy as one pass over them makes it. */
static void check_same_network(const dlm_model *model, const dlm_model *whole) {
    const dlm_layout *layout = model->layout;
    fixture_fill(model);
    CHECK_MEM_EQ(model->network.params, whole->network.params, layout->total * sizeof(float));
    if (model->network.params_bf16 == NULL) return;
    CHECK(model->network.panels == whole->network.panels);
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        if (!dlm__is_multiplied(layout, param)) continue;
        CHECK_MEM_EQ(model->network.params_bf16 + param->offset, whole->network.params_bf16 + param->offset,
                     param->count * sizeof(dlm_bf16));
    }
}

/* Reads a file of the values of `whole` with several numbers of threads, in both precisions. */
static void check_large(const char *path, const dlm_model *whole) {
    for (size_t i = 0; i < 6; i++) {
        dlm_model_options options = dlm_model_defaults();
        options.precision = i < 3 ? DLM_PRECISION_F32 : DLM_PRECISION_BF16;
        dlm_set_threads(1 + 2 * (i % 3));
        check_context("%s, case %zu", path, i);
        dlm_model *model = load(path, &options);
        REQUIRE(model != NULL);
        check_same_network(model, whole);
        dlm_model_free(model);
    }
    dlm_set_threads(0);
}

TEST(large_models) {
    static const char *const names[] = {"f32.safetensors", "bf16.safetensors", "f32.pt"};
    dlm_model *whole;
    dlm_error err;
    const char *dir = temporary_dir();
    REQUIRE_OK(dlm_model_random(&large_config, DLM_PRECISION_BF16, 5, &whole, &err), &err);
    REQUIRE_OK(
        dlm__weights_save(whole->layout, path_in(dir, "first.safetensors"), whole->network.params, &err),
        &err);
    REQUIRE_OK(dlm__config_save(&large_config, NULL, path_in(dir, "config.json"), &err), &err);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        dlm_convert_options options = dlm_convert_defaults();
        if (i == 1) options.save.numbers = DLM_NUMBERS_BF16;
        REQUIRE_OK(
            dlm_model_convert(path_in(dir, "first.safetensors"), path_in(dir, names[i]), &options, &err),
            &err);
    }
    check_large(path_in(dir, "first.safetensors"), whole);
    check_large(path_in(dir, names[0]), whole);
    check_large(path_in(dir, names[2]), whole);
    dlm_model *rounded;
    dlm_compute *compute;
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    REQUIRE_OK(dlm_model_random(&large_config, DLM_PRECISION_BF16, 5, &rounded, &err), &err);
    for (size_t i = 0; i < rounded->layout->total; i++) {
        uint16_t half;
        dlm__bf16_of_floats(&whole->network.params[i], 1, &half);
        dlm__floats_of_bf16(&half, 1, &rounded->network.params[i]);
    }
    dlm__network_refresh(compute, &rounded->network);
    check_large(path_in(dir, names[1]), rounded);
    dlm__compute_free(compute);
    dlm_model_free(rounded);
    dlm_model_free(whole);
}

/* The first by the order of parameters is named, whichever thread meets one first. */
TEST(several_that_are_not_finite) {
    dlm_model *model;
    dlm_error err;
    const char *path = path_in(temporary_dir(), "large.safetensors");
    REQUIRE_OK(dlm_model_random(&large_config, DLM_PRECISION_F32, 5, &model, &err), &err);
    const dlm_param *first = dlm__layout_find(model->layout, "tok_embed.weight"),
                    *last = dlm__layout_find(model->layout, "final_layer.linear.weight");
    REQUIRE(first != NULL && last != NULL && first->offset < last->offset && first->count > 300000);
    model->network.params[last->offset + 7] = INFINITY;
    model->network.params[first->offset + 299999] = NAN;
    model->network.params[first->offset + 300000] = INFINITY;
    REQUIRE_OK(dlm__weights_save(model->layout, path, model->network.params, &err), &err);
    for (size_t threads = 1; threads <= 5; threads += 2) {
        dlm_set_threads(threads);
        refused(path, NULL, DLM_NOT_FINITE, "value 299999 of tensor tok_embed.weight is nan");
        /* Whatever became of a tokenizer that was read meanwhile. */
        dlm_model_options options = dlm_model_defaults();
        options.tokenizer = golden_path("tokenizer/exhausted/tokenizer.json");
        refused(path, &options, DLM_NOT_FINITE, "value 299999 of tensor tok_embed.weight is nan");
        options.tokenizer = "/nowhere/tokenizer.json";
        refused(path, &options, DLM_NOT_FINITE, "value 299999 of tensor tok_embed.weight is nan");
    }
    dlm_set_threads(0);
    dlm_model_free(model);
}

/* ---- tokenizers --------------------------------------------------------------------------------------- */

TEST(tokenizers) {
    const char *given = golden_path("tokenizer/exhausted/tokenizer.json");
    REQUIRE(given != NULL);
    dlm_tokenizer *tokenizer;
    dlm_error err;
    REQUIRE_OK(dlm_tokenizer_load(given, &tokenizer, &err), &err);
    size_t V = dlm_tokenizer_describe(tokenizer).vocab_size;
    dlm_tokenizer_free(tokenizer);
    dlm_model_options options = dlm_model_defaults();
    const char *dir = folder_with_vocabulary(V, true);
    dlm_model *model = load(dir, &options);
    REQUIRE(model != NULL);
    CHECK(dlm_model_tokenizer(model) == NULL && model->end_id == 3);
    dlm_model_free(model);
    options.tokenizer = given;
    model = load(dir, &options);
    REQUIRE(model != NULL);
    CHECK_INT_EQ(dlm_tokenizer_describe(dlm_model_tokenizer(model)).vocab_size, V);
    CHECK(model->mask_id == 2 && model->pad_id == 0 && model->unk_id == 1 && model->end_id == 3);
    dlm_model_free(model);
    copy("tokenizer/exhausted/tokenizer.json", dir, "tokenizer.json");
    model = load(dir, NULL);
    REQUIRE(model != NULL);
    CHECK(dlm_model_tokenizer(model) != NULL);
    dlm_model_free(model);
    put(dir, "tokenizer.json", "{");
    refused(dir, NULL, DLM_FORMAT, "tokenizer.json");
    put(dir, "model.safetensors", "");
    refused(dir, NULL, DLM_FORMAT, "0 bytes"); /* what is wrong with the weights comes first */
    dir = folder_with_vocabulary(V, true);
    options.tokenizer = "/nowhere/tokenizer.json";
    refused(dir, &options, DLM_NOT_FOUND, "/nowhere/tokenizer.json");
    options.tokenizer = given;
    char says[80];
    (void)snprintf(says, sizeof says, "the tokenizer has %zu tokens, the model %zu", V, V - 1);
    refused(folder_with_vocabulary(V - 1, true), &options, DLM_MISMATCH, says);
}

/* The fixture's tokenizer with every `from` in its text made `to`, which is as long. */
static const char *changed_tokenizer(const char *from, const char *to) {
    const char *dir = temporary_dir(), *path = golden_path("tokenizer/exhausted/tokenizer.json");
    char *text = path == NULL ? NULL : read_text(path, NULL);
    if (!CHECK(text != NULL)) return dir;
    for (char *at = text; (at = strstr(at, from)) != NULL;) memcpy(at, to, strlen(to));
    put(dir, "tokenizer.json", text);
    return dir;
}

TEST(tokenizer_without_special_tokens) {
    dlm_model_options options = dlm_model_defaults();
    options.tokenizer = changed_tokenizer("[MASK]", "[mask]");
    refused(folder_with_vocabulary(1024, false), &options, DLM_MISMATCH, "no token [MASK]");
    options.tokenizer = changed_tokenizer("<|endoftext|>", "<|endOFtext|>");
    refused(folder_with_vocabulary(1024, true), &options, DLM_MISMATCH, "no <|endoftext|>");
    dlm_model *model = load(folder_with_vocabulary(1024, false), &options);
    REQUIRE(model != NULL);
    CHECK_INT_EQ(model->end_id, -1);
    dlm_model_free(model);
}

/* ---- the public view ---------------------------------------------------------------------------------- */

TEST(parameters_and_inspection) {
    const char *dir = plain_folder();
    dlm_model *model = load(dir, NULL), *empty;
    dlm_error err;
    REQUIRE(model != NULL);
    REQUIRE_OK(dlm_model_inspect(dir, NULL, &empty, &err), &err);
    dlm_safetensors *file = fixture_file("plain", "model");
    CHECK_INT_EQ(dlm_model_parameters(model), dlm__safetensors_count(file));
    CHECK_INT_EQ(dlm_model_parameters(empty), dlm__safetensors_count(file));
    for (size_t i = 0; i < dlm_model_parameters(model); i++) {
        dlm_parameter parameter = dlm_model_parameter(model, i), outline = dlm_model_parameter(empty, i);
        const dlm_st_tensor *tensor = dlm__safetensors_find(file, parameter.name);
        if (!CHECK(tensor != NULL)) continue;
        CHECK_MEM_EQ(parameter.values, tensor->data, tensor->bytes);
        CHECK_STR_EQ(outline.name, parameter.name);
        CHECK(outline.values == NULL && outline.count == tensor->count && outline.ndim == tensor->ndim);
    }
    CHECK(dlm_model_parameter(model, dlm_model_parameters(model)).name == NULL);
    float logits[83];
    CHECK_STATUS(dlm_model_logits(empty, (const int32_t[]){2}, (const size_t[]){1}, 1, NULL, logits, &err),
                 DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "weights were not loaded");
    dlm__safetensors_close(file);
    dlm_model_free(model);
    dlm_model_free(empty);
    put(dir, "config.json",
        "{\"vocab_size\": 84, \"max_seq_len\": 20, \"hidden_size\": 48, \"depth\": 3, \"num_heads\": 4, "
        "\"mlp_ratio\": 4.0, \"time\": \"none\", \"position\": \"both\"}");
    CHECK_STATUS(dlm_model_inspect(dir, NULL, &empty, &err), DLM_MISMATCH, &err);
}

TEST(logits) {
    dlm_model *model = fixture_model("tiny", DLM_PRECISION_F32);
    dlm_safetensors *file = fixture_file("tiny", "packed");
    REQUIRE(model != NULL && file != NULL);
    size_t B, n, lengths[4];
    int32_t *counts = fixture_ints(file, "lengths", &B), *ids = fixture_ints(file, "x_t", NULL);
    float *times = fixture_floats(file, "t", NULL), *want = fixture_floats(file, "logits", &n);
    float *got = dlm__calloc(n, sizeof *got);
    dlm_error err;
    for (size_t b = 0; b < 4; b++) lengths[b] = (size_t)counts[b];
    CHECK_OK(dlm_model_logits(model, ids, lengths, B, times, got, &err), &err);
    CHECK_ALL_CLOSE(got, want, n, 2e-5);
    CHECK_OK(dlm_model_logits(model, ids, lengths, 0, times, got, &err), &err);
    CHECK_STATUS(dlm_model_logits(model, ids, lengths, B, NULL, got, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "needs the times");
    lengths[2] = 25;
    CHECK_STATUS(dlm_model_logits(model, ids, lengths, B, times, got, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence 2 has 25 positions, not 1 to 24");
    lengths[2] = 0;
    CHECK_STATUS(dlm_model_logits(model, ids, lengths, B, times, got, &err), DLM_ARGUMENT, &err);
    free(counts);
    free(ids);
    free(times);
    free(want);
    free(got);
    dlm__safetensors_close(file);
    dlm_model_free(model);
}

/* Every value of the copy is the float32 one's, rounded; where a matrix lies in panels, at its place there.
 */
static void check_bf16_copy(dlm_compute *compute, const dlm_network *network) {
    const dlm_layout *layout = network->layout;
    float *params = dlm__calloc(layout->total, sizeof *params);
    REQUIRE(params != NULL && network->params_bf16 != NULL);
    dlm__from_bf16(compute, layout->total, network->params_bf16, params);
    size_t far = 0;
    for (size_t p = 0; p < layout->n; p++) {
        const dlm_param *param = &layout->params[p];
        const bool panels = network->panels && param->panels;
        if (!dlm__is_multiplied(layout, param)) continue;
        const size_t K = param->shape[1];
        for (size_t i = 0; i < param->count; i++) {
            const size_t row = panels ? i / K : 0, k = panels ? i % K : 0;
            const size_t at = panels ? row / 16 * 16 * K + k / 2 * 32 + row % 16 * 2 + k % 2 : i;
            const float want = network->params[param->offset + i];
            far += !(fabsf(params[param->offset + at] - want) <= fabsf(want) / 256);
        }
    }
    CHECK_INT_EQ(far, 0);
    free(params);
}

/* Made from memory; the histogram and the weights are copies. */
TEST(from_memory) {
    dlm_model *source = fixture_model("plain", DLM_PRECISION_F32), *model;
    dlm_compute *compute;
    dlm_error err;
    REQUIRE(source != NULL);
    uint64_t lengths[21] = {0, 5, 6};
    const size_t bytes = source->layout->total * sizeof(float);
    float *params = dlm__calloc(1, bytes);
    memcpy(params, source->network.params, bytes);
    REQUIRE_OK(
        dlm__model_create(dlm_model_config(source), params, NULL, lengths, DLM_PRECISION_BF16, &model, &err),
        &err);
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    lengths[1] = 0;
    memset(params, 0, bytes);
    size_t n;
    CHECK_INT_EQ(dlm_model_lengths(model, &n)[1], 5);
    CHECK_INT_EQ(dlm_model_precision(model), DLM_PRECISION_BF16);
    CHECK_MEM_EQ(model->network.params, source->network.params, bytes);
    check_bf16_copy(compute, &model->network);
    dlm__compute_free(compute);
    dlm_model_free(model);
    dlm_model_free(source);
    free(params);
}
