/* What is done, seen from the calls that it takes: threads that work, rows that are multiplied, files that
 * are synced before they are renamed. The linker leads the calls named __wrap_* through this file (Makefile).
 */
#include "training.h"

#include "compute/compute.h"
#include "diffusion/sampler.h"
#include "model/model.h"
#include "model/network.h"
#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "train/batch.h"

#include <ftw.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STORIES "corpus/tinystories-valid.txt.zst"

/* ---- threads ------------------------------------------------------------------------------------------- */

enum { THREADS = 3, PATIENCE = 20 /* seconds */ };

/* Each thread waits in its first call until all have come. One that never comes shows: they gave up. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t all_came;
    pthread_t threads[THREADS];
    size_t n;
    bool on, gave_up;
} meeting = {.lock = PTHREAD_MUTEX_INITIALIZER, .all_came = PTHREAD_COND_INITIALIZER};

static void meet(void) {
    (void)pthread_mutex_lock(&meeting.lock);
    size_t i = 0;
    while (i < meeting.n && !pthread_equal(meeting.threads[i], pthread_self())) i++;
    if (meeting.on && i == meeting.n && i < THREADS) {
        meeting.threads[meeting.n++] = pthread_self();
        (void)pthread_cond_broadcast(&meeting.all_came);
        struct timespec end;
        (void)clock_gettime(CLOCK_REALTIME, &end);
        end.tv_sec += PATIENCE;
        while (meeting.n < THREADS && !meeting.gave_up)
            meeting.gave_up = pthread_cond_timedwait(&meeting.all_came, &meeting.lock, &end) != 0;
    }
    (void)pthread_mutex_unlock(&meeting.lock);
}

dlm_status __real_dlm__encoder_encode(dlm_encoder *encoder, const char *text, size_t bytes, bool added_tokens,
                                      dlm_ids *ids, dlm_error *err);
dlm_status __wrap_dlm__encoder_encode(dlm_encoder *encoder, const char *text, size_t bytes, bool added_tokens,
                                      dlm_ids *ids, dlm_error *err);
dlm_status __wrap_dlm__encoder_encode(dlm_encoder *encoder, const char *text, size_t bytes, bool added_tokens,
                                      dlm_ids *ids, dlm_error *err) {
    meet();
    return __real_dlm__encoder_encode(encoder, text, bytes, added_tokens, ids, err);
}

size_t __real_dlm__word_end(const char *text, size_t n, size_t at);
size_t __wrap_dlm__word_end(const char *text, size_t n, size_t at);
size_t __wrap_dlm__word_end(const char *text, size_t n, size_t at) {
    meet();
    return __real_dlm__word_end(text, n, at);
}

static void check_all_meet(dlm_status (*work)(dlm_documents *documents, dlm_error *err)) {
    const char *path = STORIES;
    dlm_text_options text = dlm_text_defaults();
    dlm_documents *documents;
    dlm_error err;
    REQUIRE_OK(dlm_documents_open(&path, 1, &text, &documents, &err), &err);
    dlm_set_threads(THREADS);
    meeting.n = 0;
    meeting.gave_up = false;
    meeting.on = true;
    CHECK_OK(work(documents, &err), &err);
    meeting.on = false;
    dlm_set_threads(0);
    CHECK_INT_EQ(meeting.n, THREADS);
    CHECK(!meeting.gave_up);
    dlm_documents_close(documents);
}

static dlm_status train_tokenizer(dlm_documents *documents, dlm_error *err) {
    dlm_bpe_options options = dlm_bpe_defaults();
    dlm_tokenizer *tokenizer;
    options.vocab_size = 300;
    DLM_TRY(dlm_tokenizer_train(documents, &options, &tokenizer, err));
    dlm_tokenizer_free(tokenizer);
    return DLM_OK;
}

/* Anew where there are data already. */
static dlm_status prepare_in(dlm_documents *documents, const char *data, dlm_error *err) {
    dlm_tokenizer *tokenizer;
    dlm_prepare_options options = dlm_prepare_defaults();
    options.overwrite = true;
    DLM_TRY(dlm_tokenizer_load(golden_path("tokenizer/exhausted"), &tokenizer, err));
    dlm_status status = dlm_prepare(documents, tokenizer, data, &options, NULL, err);
    dlm_tokenizer_free(tokenizer);
    return status;
}

static dlm_status prepare(dlm_documents *documents, dlm_error *err) {
    return prepare_in(documents, path_in(temporary_dir(), "data"), err);
}

TEST(all_threads_count_words) {
    check_all_meet(train_tokenizer);
}

TEST(all_threads_encode) {
    check_all_meet(prepare);
}

/* ---- rows of the last layers --------------------------------------------------------------------------- */

/* Rows that products with V columns, or the gradients of such, were given, and products of the MLP's hidden
 * channels; masks that were in the batches. */
static struct {
    bool on;
    size_t vocabulary, forward, states, weights;
    size_t hidden, mlp, mlps;
    size_t masks, positions, chunks;
} rows;

/* Products of so many columns: how many, and of how many rows together. */
static struct {
    bool on;
    size_t modulation, hidden; /* columns: of adaLN's linear, of the first of the MLP */
    size_t modulations, modulation_rows, hidden_rows;
} products;

void __real_dlm__matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                        const float *bias, float *Y);
void __wrap_dlm__matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                        const float *bias, float *Y);
void __wrap_dlm__matmul(dlm_compute *compute, const dlm_product *product, const void *A, const void *B,
                        const float *bias, float *Y) {
    const size_t V = rows.vocabulary;
    if (rows.on && product->N == V) {
        rows.forward += product->M;
        rows.chunks++;
    }
    if (products.on && product->N == products.modulation) {
        products.modulations++;
        products.modulation_rows += product->M;
    }
    if (products.on && product->N == products.hidden) products.hidden_rows += product->M;
    if (rows.on && product->K == rows.hidden && !product->transpose_a) {
        rows.mlp += product->M;
        rows.mlps++;
    }
    if (rows.on && product->K == V) rows.states += product->M;
    if (rows.on && product->M == V) rows.weights += product->K;
    __real_dlm__matmul(compute, product, A, B, bias, Y);
}

dlm_status __real_dlm__loss(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                            const int32_t *targets, const float *weight, float *ce, double *loss,
                            float *gradients, dlm_error *err);
dlm_status __wrap_dlm__loss(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                            const int32_t *targets, const float *weight, float *ce, double *loss,
                            float *gradients, dlm_error *err);
dlm_status __wrap_dlm__loss(dlm_workspace *workspace, const dlm_network *network, const dlm_batch *batch,
                            const int32_t *targets, const float *weight, float *ce, double *loss,
                            float *gradients, dlm_error *err) {
    const int32_t mask = 2;
    size_t T = batch->seg.offsets[batch->seg.n];
    rows.vocabulary = network->layout->config.vocab_size;
    rows.hidden = dlm__config_hidden(&network->layout->config);
    rows.positions += T;
    for (size_t t = 0; t < T; t++) rows.masks += batch->ids[t] == mask;
    return __real_dlm__loss(workspace, network, batch, targets, weight, ce, loss, gradients, err);
}

/* Only what is masked is multiplied, and what rounding up to a few sizes adds (an eighth and 16 of each
 * product at the most; nothing in the plain loops). */
TEST(only_masked_rows_reach_the_last_layers) {
    for (int recipe = 0; recipe < 2; recipe++) {
        dlm_train_options o =
            tiny_run((dlm_recipe)recipe, make_data(1, 60, 30, 16), path_in(temporary_dir(), "run"));
        dlm_train_report report;
        o.steps = 20;
        o.optimizer = DLM_ADAMW; /* Newton-Schulz multiplies too */
        memset(&rows, 0, sizeof rows);
        rows.on = true;
        bool trained = train(&o, SIZE_MAX, &report);
        rows.on = false;
        REQUIRE(trained);
        bool exact = strcmp(dlm_backend(), "reference") == 0;
        size_t most = exact ? rows.masks : rows.masks + rows.masks / 8 + 16 * rows.chunks;
        /* Once forward and once backward: in the first block all, in the last the masked ones. */
        size_t mlp = 2 * (rows.positions + rows.masks);
        size_t most_mlp = exact ? mlp : mlp + mlp / 8 + 16 * rows.mlps;
        check_context("%zu masks among %zu positions, %zu products", rows.masks, rows.positions, rows.chunks);
        CHECK(rows.masks > 0 && rows.masks < rows.positions);
        CHECK(rows.forward >= rows.masks && rows.forward <= most);
        CHECK_INT_EQ(rows.states, rows.forward);
        CHECK_INT_EQ(rows.weights, rows.forward);
        CHECK(rows.mlp >= mlp && rows.mlp <= most_mlp);
    }
}

/* ---- what sampling leaves out -------------------------------------------------------------------------- */

enum { TEXTS = 6, LENGTH = 24, DEPTH = 3, CHANNELS = 16, HIDDEN = 80 };

/* Six texts of these lengths, one token revealed a step, one behind the other; the number of products in
 * `products`. */
static void sample_texts(const char *isa, dlm_time time, const size_t lengths[TEXTS],
                         int32_t ids[TEXTS * LENGTH]) {
    const dlm_config config = {.vocab_size = 37,
                               .max_seq_len = LENGTH,
                               .hidden_size = CHANNELS,
                               .depth = DEPTH,
                               .num_heads = 2,
                               .mlp_ratio = (double)HIDDEN / CHANNELS,
                               .time = time,
                               .position = DLM_POSITION_BOTH};
    dlm_sample_options options = dlm_sample_defaults();
    size_t forwards;
    dlm_model *model;
    dlm_error err;
    options.reveals_per_step = 1;
    for (size_t i = 0; i < (size_t)TEXTS * LENGTH; i++) ids[i] = 2;
    REQUIRE_OK(dlm_model_random(&config, DLM_PRECISION_F32, 1, &model, &err), &err);
    memset(&products, 0, sizeof products);
    products.on = true;
    products.modulation = 6 * (size_t)CHANNELS;
    products.hidden = HIDDEN;
    CHECK_OK(dlm__sample(isa, model, &options, 0, TEXTS, lengths, ids, NULL, NULL, &forwards, &err), &err);
    products.on = false;
    CHECK_INT_EQ(forwards, LENGTH);
    dlm_model_free(model);
}

static const size_t equal[TEXTS] = {LENGTH, LENGTH, LENGTH, LENGTH, LENGTH, LENGTH};

/* The modulations of a time are made once for all texts, and where products have rows to spare (none in the
 * plain loops) with those of later times. */
TEST(modulations_are_made_once) {
    int32_t ids[TEXTS * LENGTH];
    sample_texts("reference", DLM_TIME_ADALN, equal, ids);
    CHECK_INT_EQ(products.modulation_rows, DEPTH * LENGTH);
    if (strcmp(dlm_backend(), "reference") == 0) return;
    sample_texts("baseline", DLM_TIME_ADALN, equal, ids);
    CHECK_INT_EQ(products.modulations, DEPTH * 2); /* 16 times each */
}

/* The texts, all masks, go through the first step as one; and the last block's MLP sees masked rows alone. */
TEST(rows_are_left_out) {
    int32_t ids[TEXTS * LENGTH];
    size_t want = DEPTH * LENGTH;
    sample_texts("reference", DLM_TIME_NONE, equal, ids);
    for (size_t i = 0; i < TEXTS; i++)
        for (size_t j = 0; j < i; j++)
            CHECK(memcmp(ids + i * LENGTH, ids + j * LENGTH, LENGTH * sizeof *ids) != 0);
    for (size_t left = LENGTH - 1; left > 0; left--) want += TEXTS * ((DEPTH - 1) * LENGTH + left);
    CHECK_INT_EQ(products.hidden_rows, want);
}

/* A text of L tokens takes L steps and has no row in those after them, however long the others go on. */
TEST(finished_texts_leave_the_batch) {
    static const size_t lengths[TEXTS] = {1, LENGTH, 5, 9, 2, 16};
    int32_t ids[TEXTS * LENGTH];
    size_t want = 0;
    sample_texts("reference", DLM_TIME_NONE, lengths, ids);
    for (size_t i = 0; i < TEXTS; i++)
        for (size_t left = lengths[i]; left > 0; left--) want += (DEPTH - 1) * lengths[i] + left;
    CHECK_INT_EQ(products.hidden_rows, want);
}

/* ---- files --------------------------------------------------------------------------------------------- */

enum { SYNCED = 4096 };

typedef struct state {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec changed;
} state;

/* What was synced, as it then was; and the folder that the last rename has changed and that was not synced
 * since. */
static struct {
    bool on, unsynced_folder;
    state synced[SYNCED];
    size_t n, renames;
    state folder;
} disk;

static state state_of(const struct stat *about) {
    return (state){about->st_dev, about->st_ino, about->st_size, about->st_mtim};
}

static bool same_file(const state *a, const state *b) {
    return a->device == b->device && a->inode == b->inode;
}

static bool is_synced(const state *now) {
    for (size_t i = disk.n; i-- > 0;) {
        const state *was = &disk.synced[i];
        if (same_file(was, now))
            return was->size == now->size && was->changed.tv_sec == now->changed.tv_sec &&
                   was->changed.tv_nsec == now->changed.tv_nsec;
    }
    return false;
}

int __real_fsync(int file);
int __wrap_fsync(int file);
int __wrap_fsync(int file) {
    struct stat about;
    if (disk.on && fstat(file, &about) == 0 && disk.n < SYNCED) {
        disk.synced[disk.n++] = state_of(&about);
        if (same_file(&disk.folder, &disk.synced[disk.n - 1])) disk.unsynced_folder = false;
    }
    return __real_fsync(file);
}

static int check_synced(const char *path, const struct stat *about, int kind, struct FTW *place) {
    (void)kind, (void)place;
    state now = state_of(about);
    check_context("%s", path);
    CHECK(is_synced(&now));
    return 0;
}

static bool ends_with(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

/* Before a rename all that gets a new name is synced, and so are the folders of earlier ones. What loses its
 * name to be removed need not last. */
static void before_rename(const char *from, const char *to) {
    if (!disk.on || ends_with(to, ".partial")) return;
    CHECK(nftw(from, check_synced, 8, FTW_PHYS) == 0);
    check_context("before %s is renamed", from);
    CHECK(!disk.unsynced_folder);
    check_context("%s", "");
}

static void after_rename(const char *to) {
    char folder[4096];
    struct stat about;
    if (!disk.on || ends_with(to, ".partial")) return;
    (void)snprintf(folder, sizeof folder, "%s", to);
    char *slash = strrchr(folder, '/');
    if (CHECK(slash != NULL)) *slash = 0;
    CHECK(stat(folder, &about) == 0);
    disk.folder = state_of(&about);
    disk.unsynced_folder = true;
    disk.renames++;
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to) {
    before_rename(from, to);
    int result = __real_rename(from, to);
    after_rename(to);
    return result;
}

/* Of the library's calls only the exchange of two names comes here. */
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    int from_folder = va_arg(rest, int);
    const char *from = va_arg(rest, const char *);
    int to_folder = va_arg(rest, int);
    const char *to = va_arg(rest, const char *);
    unsigned flags = va_arg(rest, unsigned);
    va_end(rest);
    if (number == SYS_renameat2) before_rename(from, to);
    long result = __real_syscall(number, from_folder, from, to_folder, to, flags);
    if (number == SYS_renameat2) after_rename(to);
    return result;
}

static void begin_watching(void) {
    memset(&disk, 0, sizeof disk);
    disk.on = true;
}

static void end_watching(size_t least) {
    disk.on = false;
    CHECK(!disk.unsynced_folder);
    CHECK(disk.n < SYNCED);
    check_context("%zu renames", disk.renames);
    CHECK(disk.renames >= least);
}

/* The shards, the two files of the tokenizer, data.json, the folder; all of it again in place of the first.
 */
TEST(data_are_synced_before_they_are_renamed) {
    const char *dir = path_in(temporary_dir(), "data"), *path = STORIES;
    begin_watching();
    for (int time = 0; time < 2; time++) {
        dlm_text_options text = dlm_text_defaults();
        dlm_documents *documents;
        dlm_error err;
        REQUIRE_OK(dlm_documents_open(&path, 1, &text, &documents, &err), &err);
        CHECK_OK(prepare_in(documents, dir, &err), &err);
        dlm_documents_close(documents);
    }
    end_watching(10);
}

/* Of a checkpoint its folder; then the two files that name one. */
TEST(checkpoints_are_synced_before_they_are_renamed) {
    const char *data = make_data(1, 60, 30, 16);
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data, path_in(temporary_dir(), "run"));
    dlm_train_report report;
    o.save_every = o.eval_every = 4;
    o.eval_documents = 3;
    begin_watching();
    CHECK(train(&o, SIZE_MAX, &report));
    end_watching(9);
}
