/* Small data and small runs for tests of training. */
#ifndef DLM_TESTS_TRAINING_H
#define DLM_TESTS_TRAINING_H

#include "check.h"

#include "train/shard.h"
#include "train/trainer.h"

/* Ids of single bytes in the tokenizers of the fixtures: 4 .. 259. */
enum { FIRST_BYTE = 4, BYTES = 256, DOCUMENT_MAX = 64 };

/* Document i: a run of letters that begins somewhere and goes on by the alphabet, so there is something to
 * learn; its length is between 1 and `longest`. Returns it. */
static inline size_t make_document(uint64_t seed, size_t i, size_t longest, int32_t *ids) {
    dlm_rng rng = dlm__rng(seed, DLM_RNG_TEST, (uint32_t)i, 0);
    size_t n = 1 + (size_t)dlm__rng_below(&rng, longest);
    int32_t letter = (int32_t)dlm__rng_below(&rng, 26);
    for (size_t j = 0; j < n; j++) ids[j] = FIRST_BYTE + 64 + (letter + (int32_t)j) % 26;
    return n;
}

/* Writes a DATA folder of `documents` of them with the small tokenizer of the fixtures; NULL when that
 * failed.
 */
static inline const char *make_data(uint64_t seed, size_t documents, size_t longest, size_t seq_len) {
    const char *source = golden_path("tokenizer/exhausted"), *dir = temporary_dir();
    dlm_error err;
    dlm_tokenizer *tokenizer = NULL;
    if (!CHECK(source != NULL && longest <= DOCUMENT_MAX) ||
        !CHECK_OK(dlm_tokenizer_load(source, &tokenizer, &err), &err))
        return NULL;
    dlm_tokenizer_info info = dlm_tokenizer_describe(tokenizer);
    dlm_shard_kind kind = {.vocabulary_hash = info.hash, .vocab_size = info.vocab_size, .seq_len = seq_len};
    dlm_shard_list list;
    dlm_shard_writer *writer;
    dlm_shard_header header;
    char name[DLM_SHARD_NAME_SIZE];
    dlm__shard_name(0, name);
    bool ok = CHECK_OK(dlm_tokenizer_save(tokenizer, dir, &err), &err) &&
              CHECK_OK(dlm__shard_list_create(&kind, &list, &err), &err) &&
              CHECK_OK(dlm__shard_create(path_in(dir, name), &kind, 0, &writer, &err), &err);
    for (size_t i = 0; ok && i < documents; i++) {
        int32_t ids[DOCUMENT_MAX];
        size_t n = make_document(seed, i, longest, ids);
        ok = CHECK_OK(dlm__shard_add(writer, ids, n, n, false, &err), &err);
        dlm__shard_list_count(&list, n, n);
    }
    ok = ok && CHECK_OK(dlm__shard_commit(writer, &header, &err), &err) &&
         CHECK_OK(dlm__shard_list_add(&list, &header, &err), &err) &&
         CHECK_OK(dlm__shard_list_write(&list, path_in(dir, DLM_SHARD_LIST_FILE), &err), &err);
    dlm__shard_list_free(&list);
    dlm_tokenizer_free(tokenizer);
    return ok ? dir : NULL;
}

/* The same such folder for all tests of a program. */
static inline const char *same_data(size_t documents, size_t longest, size_t seq_len) {
    static const char *folder;
    if (folder == NULL) folder = make_data(1, documents, longest, seq_len);
    return folder;
}

static inline const char *new_run(void) {
    return path_in(temporary_dir(), "run");
}

/* Options of a run of some milliseconds a step on such data. */
static inline dlm_train_options tiny_run(dlm_recipe recipe, const char *data, const char *run) {
    dlm_train_options o = dlm_train_defaults(recipe);
    o.data = data;
    o.run = run;
    o.hidden_size = 16;
    o.depth = 2;
    o.num_heads = 2;
    o.seq_len = 16;
    o.batch = 6;
    o.micro_tokens = 40;
    o.steps = 12;
    o.warmup = 3;
    o.lr = 1e-2;
    o.log_every = 1;
    o.eval_every = o.sample_every = o.save_every = 0;
    o.eval_documents = 0;
    o.seed = 5;
    return o;
}

/* Takes steps until the run is complete or `until` steps are done; the last report. */
static inline dlm_status train_until(dlm_trainer *trainer, size_t until, dlm_train_report *report,
                                     dlm_error *err) {
    bool finished = false;
    dlm_status status;
    do status = dlm_trainer_step(trainer, report, &finished, err);
    while (status == DLM_OK && !finished && report->step < until);
    return status;
}

/* Makes or resumes a run, takes steps as above, and saves. */
static inline bool train(const dlm_train_options *options, size_t until, dlm_train_report *report) {
    dlm_error err;
    dlm_trainer *trainer;
    if (!CHECK_OK(dlm_trainer_create(options, &trainer, &err), &err)) return false;
    bool ok = CHECK_OK(train_until(trainer, until, report, &err), &err) &&
              CHECK_OK(dlm_trainer_save(trainer, &err), &err);
    report->sample = report->checkpoint = NULL; /* they were the trainer's */
    dlm_trainer_free(trainer);
    return ok;
}

#endif
