/* The memory of what reads text of any size does not grow with it.
 *
 * Each measurement is a child process, whose peak the system tells. The text is the corpus, 20 MB of it, read
 * twice or five times. All threads share one arena of the allocator: else what it sets aside for each would
 * be measured, which depends on what thread happened to read. */
#include "check.h"

#include "base/base.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#define CORPUS "corpus/tinystories-train.txt.zst"
enum { FEW = 2, MOST = 5, SLACK = 4096 /* kilobytes */ };

typedef dlm_status reader(dlm_documents *documents, dlm_error *err);

static dlm_status train_tokenizer(dlm_documents *documents, dlm_error *err) {
    dlm_bpe_options options = dlm_bpe_defaults();
    options.vocab_size = 1000;
    dlm_tokenizer *tokenizer;
    DLM_TRY(dlm_tokenizer_train(documents, &options, &tokenizer, err));
    dlm_tokenizer_free(tokenizer);
    return DLM_OK;
}

static const char *data; /* where shards go */

static dlm_status prepare(dlm_documents *documents, dlm_error *err) {
    dlm_prepare_options options = dlm_prepare_defaults();
    options.shard_tokens = (size_t)1 << 20;
    options.overwrite = true;
    dlm_tokenizer *tokenizer;
    DLM_TRY(dlm_tokenizer_load(golden_path("tokenizer/stories_1024/tokenizer.json"), &tokenizer, err));
    dlm_status status = dlm_prepare(documents, tokenizer, data, &options, NULL, err);
    dlm_tokenizer_free(tokenizer);
    return status;
}

static dlm_status read_repeatedly(reader *read, size_t times, dlm_error *err) {
    const char *paths[MOST];
    for (size_t i = 0; i < times; i++) paths[i] = CORPUS;
    dlm_text_options text = dlm_text_defaults();
    dlm_documents *documents;
    DLM_TRY(dlm_documents_open(paths, times, &text, &documents, err));
    dlm_status status = read(documents, err);
    dlm_documents_close(documents);
    return status;
}

/* Kilobytes at the most, of a child that reads the corpus so many times. This process has started no threads
 * of its own, which a child could not use. */
static long peak(reader *read, size_t times) {
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dlm_error err;
        (void)mallopt(M_ARENA_MAX, 1);
        dlm_set_threads(2);
        dlm_status status = read_repeatedly(read, times, &err);
        if (status != DLM_OK) (void)fprintf(stderr, "%s\n", err.message);
        _exit(status == DLM_OK ? 0 : 1);
    }
    int status = 1;
    struct rusage used;
    CHECK(child > 0 && wait4(child, &status, 0, &used) == child);
    CHECK_INT_EQ(status, 0);
    return used.ru_maxrss;
}

static void check_bounded(reader *read) {
#ifdef SANITIZED
    (void)read, (void)peak;
    SKIP("the address sanitizer keeps what was freed");
#else
    long few = peak(read, FEW), most = peak(read, MOST);
    check_context("%ld KB for %d times the corpus, %ld for %d", few, (int)FEW, most, (int)MOST);
    CHECK(few > 0 && most <= few + few / 20 + SLACK);
#endif
}

TEST(training_a_tokenizer) {
    check_bounded(train_tokenizer);
}

TEST(preparing) {
    data = path_in(temporary_dir(), "data");
    check_bounded(prepare);
}
