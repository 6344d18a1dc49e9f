/* Models in 8 bits: what they compute beside float32, their files, and that a trained one loses next to
 * nothing of its likelihood. */
#include "training.h"

#include "network_fixture.h"

#include <sys/mman.h>
#include <unistd.h>

/* Logits of the fixture's packed batch, at every other position if `some`; free() them. */
static float *logits_of(dlm_compute *compute, const dlm_model *model, const char *folder, bool some,
                        size_t *n) {
    dlm_safetensors *file = fixture_file(folder, "packed");
    size_t S, R = 0, V = model->layout->config.vocab_size;
    int32_t *lengths = fixture_ints(file, "lengths", &S);
    fixture_batch f = fixture_read_batch(file, S, lengths);
    int32_t *rows = fixture_all_rows(f.offsets[S]);
    for (size_t t = 0; t < f.offsets[S]; t += some ? 2 : 1) rows[R++] = (int32_t)t;
    f.batch.R = R;
    f.batch.rows = rows;
    float *logits = dlm__calloc(R * V, sizeof *logits);
    dlm_workspace *workspace = fixture_workspace(&model->network, compute, &f.batch, false);
    dlm_error err;
    CHECK_OK(dlm__forward(workspace, &model->network, &f.batch, logits, &err), &err);
    dlm__workspace_free(workspace);
    fixture_free_batch(&f);
    free(lengths), free(rows);
    dlm__safetensors_close(file);
    *n = R * V;
    return logits;
}

static double distance(const float *a, const float *b, size_t n) {
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / size);
}

/* Near float32 on every instruction set, and these near each other: they differ where a rounding of floats
 * moves an activation over the edge of a step, which roundings to bfloat16 in attention do more often. Some
 * rows are those of all rows. */
static void near_float_in(dlm_compute *compute, dlm_compute *plain, const char *folder, const dlm_model *full,
                          const dlm_model *small) {
    size_t n, V = full->layout->config.vocab_size;
    float *want = logits_of(compute, full, folder, false, &n),
          *got = logits_of(compute, small, folder, false, &n),
          *same = logits_of(plain, small, folder, false, &n);
    check_context("%s, type %d: %g from float32, %g from the plain loops", folder, (int)small->network.type,
                  distance(got, want, n), distance(got, same, n));
    CHECK(distance(got, want, n) < 0.03 && distance(got, want, n) > 1e-4);
    CHECK(distance(got, same, n) < (small->network.type == DLM_F32 ? 0.01 : 0.02));
    float *some = logits_of(compute, small, folder, true, &n);
    for (size_t r = 0; r < n / V; r++) CHECK(distance(some + r * V, got + 2 * r * V, V) < 0.03);
    free(want), free(got), free(same), free(some);
}

/* With what the machine multiplies best beside the integers, and with float32. */
static void near_float(dlm_compute *compute, const char *folder) {
    char name[128];
    (void)snprintf(name, sizeof name, "%s/model.safetensors", folder);
    dlm_model *full = fixture_load(golden_path(name), DLM_PRECISION_F32),
              *small = fixture_load(golden_path(name), DLM_PRECISION_INT8);
    dlm_compute *plain = NULL;
    dlm_error err;
    REQUIRE(full != NULL && small != NULL);
    REQUIRE_OK(dlm__compute_create("reference", &plain, &err), &err);
    CHECK_INT_EQ(dlm_model_precision(small), DLM_PRECISION_INT8);
    CHECK_INT_EQ(small->network.type, dlm__bf16_native() ? DLM_BF16 : DLM_F32);
    if (small->network.type == DLM_BF16) {
        fixture_lay_rows(small);
        near_float_in(compute, plain, folder, full, small);
    }
    small->network.type = DLM_F32;
    free(small->network.params_bf16);
    small->network.params_bf16 = NULL;
    near_float_in(compute, plain, folder, full, small);
    dlm__compute_free(plain);
    dlm_model_free(full), dlm_model_free(small);
}

TEST(logits_are_near_those_of_float32) {
    static const char *const folders[] = {"tiny", "odd", "plain", "halfway"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) for_each_compute(near_float, folders[i]);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

#ifdef __linux__
/* Of the pages of the float32 block, the share that is in memory. */
static double share_in_memory(const dlm_model *model) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = model->layout->total * sizeof(float);
    const uintptr_t begin = (uintptr_t)model->network.params / page * page;
    const size_t pages = ((uintptr_t)model->network.params + bytes - begin + page - 1) / page;
    unsigned char *there = dlm__calloc(pages, 1);
    size_t n = 0;
    if (!CHECK(there != NULL)) return 0;
    CHECK(mincore((char *)model->network.params - ((uintptr_t)model->network.params - begin), pages * page,
                  there) == 0);
    for (size_t i = 0; i < pages; i++) n += there[i] & 1;
    free(there);
    return (double)n / (double)pages;
}

/* Matrices of tokens take a byte a weight and no more, until somebody asks for their values. */
TEST(memory) {
    const dlm_config config = {.vocab_size = 1024,
                               .max_seq_len = 64,
                               .hidden_size = 256,
                               .depth = 4,
                               .num_heads = 4,
                               .mlp_ratio = 4,
                               .time = DLM_TIME_NONE};
    dlm_model *model = NULL;
    dlm_error err;
    REQUIRE_OK(dlm_model_random(&config, DLM_PRECISION_INT8, 1, &model, &err), &err);
    size_t matrices = 0;
    for (size_t i = 0; i < model->layout->n; i++)
        matrices += model->layout->params[i].token_matrix ? model->layout->params[i].count : 0;
    const double others = 1 - (double)matrices / (double)model->layout->total;
    check_context("%g of the block are not matrices of tokens", others);
    CHECK(others < 0.5);
    CHECK_CLOSE(share_in_memory(model), others, 0.05);
    for (size_t i = 0; i < model->layout->n; i++) (void)dlm_model_parameter(model, i);
    CHECK(share_in_memory(model) > 0.99);
    dlm_model_free(model);
}
#endif

/* ---- files --------------------------------------------------------------------------------------------- */

static void convert_to(const char *path) {
    dlm_convert_options options = dlm_convert_defaults();
    dlm_error err;
    options.both = false;
    options.save.numbers = DLM_NUMBERS_INT8;
    CHECK_OK(dlm_model_convert(golden_path("tiny/final.pt"), path, &options, &err), &err);
}

/* A file in 8 bits is the model in 8 bits, and is loaded as such unless it is asked for otherwise; then it
 * gives the values that these stand for. */
TEST(files) {
    const char *dir = temporary_dir(), *file = path_in(dir, "small.safetensors"),
               *again = path_in(dir, "again");
    convert_to(file);
    dlm_model *made = fixture_load(golden_path("tiny/final.pt"), DLM_PRECISION_INT8),
              *stored = fixture_load(file, DLM_PRECISION_AUTO), *wide = fixture_load(file, DLM_PRECISION_F32);
    REQUIRE(made != NULL && stored != NULL && wide != NULL);
    const size_t bytes = made->layout->total * sizeof(float);
    CHECK_INT_EQ(dlm_model_precision(stored), DLM_PRECISION_INT8);
    CHECK_INT_EQ(dlm_model_precision(wide), DLM_PRECISION_F32);
    float *of_made = dlm__calloc(made->layout->total, sizeof(float)),
          *of_stored = dlm__calloc(made->layout->total, sizeof(float));
    REQUIRE(of_made != NULL && of_stored != NULL);
    dlm_error err;
    REQUIRE_OK(dlm__network_copy_values(&made->network, of_made, &err), &err);
    REQUIRE_OK(dlm__network_copy_values(&stored->network, of_stored, &err), &err);
    CHECK_MEM_EQ(wide->network.params, of_made, bytes);
    CHECK_ALL_CLOSE(of_stored, of_made, made->layout->total, 1e-7);
    for (size_t i = 0; i < made->layout->n; i++) {
        const dlm_parameter parameter = dlm_model_parameter(made, i);
        CHECK_MEM_EQ(parameter.values, of_made + made->layout->params[i].offset,
                     parameter.count * sizeof(float));
        CHECK(dlm_model_parameter(made, i).values == parameter.values);
    }
    REQUIRE_OK(dlm__network_copy_values(&made->network, of_stored, &err), &err);
    CHECK_MEM_EQ(of_stored, of_made, bytes);
    free(of_made), free(of_stored);
    /* Once more, from the values: nothing moves but by the last bit of a scale. */
    dlm_save_options options = dlm_save_defaults();
    options.numbers = DLM_NUMBERS_INT8;
    REQUIRE_OK(dlm_model_save(stored, again, &options, &err), &err);
    dlm_model *twice = fixture_load(again, DLM_PRECISION_AUTO);
    REQUIRE(twice != NULL);
    for (size_t i = 0; i < made->layout->n; i++) {
        const dlm_int8 *a = made->network.int8[i], *b = twice->network.int8[i];
        CHECK((a == NULL) == (b == NULL) && (a != NULL) == made->layout->params[i].token_matrix);
        if (a == NULL || b == NULL) continue;
        int8_t *q = dlm__calloc(2 * a->N * a->K, 1);
        dlm__int8_integers(a, q), dlm__int8_integers(b, q + a->N * a->K);
        CHECK_MEM_EQ(q, q + a->N * a->K, a->N * a->K);
        free(q);
    }
    dlm_model_free(made), dlm_model_free(stored), dlm_model_free(wide), dlm_model_free(twice);
}

static void refused(const char *path, dlm_status status, const char *says) {
    dlm_model *model = NULL;
    dlm_error err = {0};
    CHECK_STATUS(dlm_model_load(path, NULL, &model, &err), status, &err);
    CHECK_SAYS(&err, says);
    CHECK(model == NULL);
}

/* Writes the file's tensors again without the one of number `without` (SIZE_MAX: with all), after `change`.
 */
static void rewrite(const char *from, const char *to, const char *name, void (*change)(dlm_st_entry *entry)) {
    dlm_safetensors *file;
    dlm_error err;
    dlm_st_entry entries[256];
    size_t n = 0;
    REQUIRE_OK(dlm__safetensors_open(from, &file, &err), &err);
    for (size_t i = 0; i < dlm__safetensors_count(file); i++) {
        const dlm_st_tensor *tensor = dlm__safetensors_at(file, i);
        dlm_st_entry *entry = &entries[n++];
        *entry = (dlm_st_entry){
            .name = tensor->name, .type = tensor->type, .ndim = tensor->ndim, .data = tensor->data};
        memcpy(entry->shape, tensor->shape, sizeof entry->shape);
        if (strcmp(tensor->name, name) == 0) change(entry);
        if (entry->data == NULL) n--;
    }
    const char *const metadata[] = {"config", dlm__safetensors_metadata(file, "config"), NULL};
    CHECK_OK(dlm__safetensors_save(to, entries, n, metadata, &err), &err);
    dlm__safetensors_close(file);
}

static void leave_out(dlm_st_entry *entry) {
    entry->data = NULL;
}

static void shorten(dlm_st_entry *entry) {
    entry->shape[0]--;
}

static void spoil(dlm_st_entry *entry) {
    static float values[4096];
    memcpy(values, entry->data, entry->shape[0] * sizeof *values);
    values[3] = NAN;
    entry->data = values;
}

static void rename_entry(dlm_st_entry *entry) {
    entry->name = "tok_embed.weight.scale";
}

static void as_integers(dlm_st_entry *entry) {
    static int8_t values[1 << 20];
    entry->type = DLM_ST_I8;
    entry->data = values;
}

TEST(files_that_are_wrong) {
    const char *dir = temporary_dir(), *file = path_in(dir, "small.safetensors"),
               *bad = path_in(dir, "bad.safetensors");
    const char *scale = "blocks.0.attn.qkv.weight.scale";
    convert_to(file);
    rewrite(file, bad, scale, leave_out);
    refused(bad, DLM_MISMATCH,
            "blocks.0.attn.qkv.weight holds I8, but there is no blocks.0.attn.qkv.weight.scale");
    rewrite(file, bad, scale, shorten);
    refused(bad, DLM_MISMATCH, "one for each row");
    rewrite(file, bad, scale, spoil);
    refused(bad, DLM_NOT_FINITE, "blocks.0.attn.qkv.weight");
    rewrite(file, bad, scale, rename_entry);
    refused(bad, DLM_MISMATCH, "there is no blocks.0.attn.qkv.weight.scale");
    rewrite(file, bad, "tok_embed.weight", as_integers);
    refused(bad, DLM_UNSUPPORTED, "tok_embed.weight holds I8");
    dlm_convert_options options = dlm_convert_defaults();
    dlm_error err;
    options.save.numbers = DLM_NUMBERS_INT8;
    CHECK_STATUS(dlm_model_convert(file, path_in(dir, "x.pt"), &options, &err), DLM_UNSUPPORTED, &err);
    CHECK_SAYS(&err, "a .pt cannot hold int8 weights");
}

/* ---- likelihood ---------------------------------------------------------------------------------------- */

enum { DOCUMENTS = 200, LONGEST = 30, DATA_SEED = 1 };

/* Nats a letter that are left to who knows of the data no more than how often each letter comes. */
static double unigram_entropy(void) {
    size_t counts[FIRST_BYTE + BYTES] = {0}, all = 0;
    double entropy = 0;
    for (size_t i = 0; i < DOCUMENTS; i++) {
        int32_t ids[DOCUMENT_MAX];
        const size_t n = make_document(DATA_SEED, i, LONGEST, ids);
        for (size_t j = 0; j < n; j++) counts[ids[j]]++;
        all += n;
    }
    for (size_t id = 0; id < FIRST_BYTE + BYTES; id++) {
        const double p = (double)counts[id] / (double)all;
        if (counts[id] > 0) entropy -= p * log(p);
    }
    return entropy;
}

/* Both recipes by Muon: AdamW needs thousands of steps to see that letters follow from their places. */
static dlm_train_options learning_run(dlm_recipe recipe, const char *data) {
    dlm_train_options o = tiny_run(recipe, data, new_run());
    o.optimizer = DLM_MUON;
    o.ema = 0.95;
    o.hidden_size = 48;
    o.seq_len = 32;
    o.batch = 12;
    o.micro_tokens = 4096;
    o.steps = 400;
    o.warmup = 20;
    return o;
}

/* A model that has learned its data, less than half of what letters alone leave: with the same masks, its
 * NELBO moves by less than half a percent. */
TEST(a_trained_model_keeps_its_likelihood) {
    const char *data = make_data(DATA_SEED, DOCUMENTS, LONGEST, 32);
    REQUIRE(data != NULL);
    for (int recipe = 0; recipe < 2; recipe++) {
        const dlm_train_options o = learning_run((dlm_recipe)recipe, data);
        dlm_train_report report;
        REQUIRE(train(&o, SIZE_MAX, &report));
        dlm_model *full = fixture_load(o.run, DLM_PRECISION_F32),
                  *small = fixture_load(o.run, DLM_PRECISION_INT8);
        dlm_data *texts = NULL;
        dlm_error err;
        dlm_eval_options options = dlm_eval_defaults();
        dlm_eval_result results[2], more;
        REQUIRE(full != NULL && small != NULL);
        REQUIRE_OK(dlm_data_open(data, &texts, &err), &err);
        options.draws = 8;
        REQUIRE_OK(dlm_eval_pair(full, small, texts, &options, results, &more, &err), &err);
        check_context("recipe %d: %g nats a token in float32, %g more in int8", recipe, results[0].all.nelbo,
                      more.all.nelbo);
        CHECK(results[0].all.nelbo < 0.5 * unigram_entropy());
        CHECK(fabs(more.all.nelbo) < 0.005 * results[0].all.nelbo);
        CHECK(more.all.nelbo < 0 || more.all.nelbo > 0);
        dlm_data_close(texts);
        dlm_model_free(full), dlm_model_free(small);
    }
}
