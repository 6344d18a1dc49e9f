/* Preparing text: ids as the Hugging Face library gives them, the same bytes for any number of threads, and
 * nothing under the final name unless it is whole, however a run ends. */
#include "check.h"

#include "train/data.h"
#include "train/shard.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- steps that the tests share ------------------------------------------------------------------------ */

static dlm_tokenizer *load(const char *name) {
    char path[100];
    dlm_error err;
    dlm_tokenizer *tokenizer = NULL;
    (void)snprintf(path, sizeof path, "tokenizer/%s/tokenizer.json", name);
    (void)CHECK_OK(dlm_tokenizer_load(golden_path(path), &tokenizer, &err), &err);
    return tokenizer;
}

static dlm_status prepare(const char *path, dlm_text_format format, const dlm_tokenizer *tokenizer,
                          const char *data, const dlm_prepare_options *options, dlm_data_info *info,
                          dlm_error *err) {
    dlm_text_options text = dlm_text_defaults();
    dlm_documents *documents;
    text.format = format;
    DLM_TRY(dlm_documents_open(&path, 1, &text, &documents, err));
    dlm_status status = dlm_prepare(documents, tokenizer, data, options, info, err);
    dlm_documents_close(documents);
    return status;
}

static bool exists(const char *path) {
    struct stat about;
    return lstat(path, &about) == 0;
}

static bool nothing_at(const char *data) {
    char partial[4200];
    (void)snprintf(partial, sizeof partial, "%s.partial", data);
    return !exists(data) && !exists(partial);
}

static void same_file(const char *a, const char *b, const char *name) {
    size_t n, m;
    char *x = read_text(path_in(a, name), &n), *y = read_text(path_in(b, name), &m);
    check_context("%s of %s and %s", name, a, b);
    if (CHECK(x != NULL && y != NULL) && CHECK_INT_EQ(n, m)) CHECK_MEM_EQ(x, y, n);
    check_context("%s", "");
}

/* Text of about so many bytes: documents of random words, with a few that are long, between separators. */
static const char *write_corpus(const char *dir, size_t bytes, uint32_t seed) {
    static const char *const words[] = {"once",
                                        "upon",
                                        " a",
                                        "time",
                                        "Lily",
                                        "saw",
                                        "the",
                                        "big",
                                        "dog,",
                                        "and",
                                        "it's",
                                        "42",
                                        "\xc3\xa9t\xc3\xa9",
                                        "happy.\n",
                                        "[MASK]"};
    const char *path = path_in(dir, "corpus.txt");
    dlm_rng rng = dlm__rng(seed, DLM_RNG_TEST, 0, 0);
    dlm_error err;
    dlm_output *out;
    if (!CHECK_OK(dlm__output_create(path, &out, &err), &err)) return path;
    while (dlm__output_tell(out) < bytes) {
        size_t n = dlm__rng_below(&rng, 50) == 0 ? 2000 : 1 + (size_t)dlm__rng_below(&rng, 300);
        for (size_t i = 0; i < n; i++)
            dlm__output_printf(out, "%s%s", i > 0 ? " " : "",
                               words[dlm__rng_below(&rng, sizeof words / sizeof *words)]);
        dlm__output_printf(out, "\n<|endoftext|>\n");
    }
    (void)CHECK_OK(dlm__output_commit(out, &err), &err);
    return path;
}

/* ---- what is written ----------------------------------------------------------------------------------- */

static bool has_added_token(const char *text, size_t bytes) {
    static const char *const added[] = {"[MASK]", "[PAD]", "[UNK]", "<|endoftext|>"};
    for (size_t i = 0; i + 5 <= bytes; i++)
        for (size_t j = 0; j < 4; j++)
            if (bytes - i >= strlen(added[j]) && memcmp(text + i, added[j], strlen(added[j])) == 0)
                return true;
    return false;
}

/* Document i is the text of that line of encode.jsonl; its ids are the line's, unless added tokens were cut
 * out there: then they are those of the text taken as plain text. */
static void check_line(const dlm_data *data, uint64_t i, const char *line) {
    json_t *json = json_loads(line, JSON_ALLOW_NUL, NULL);
    const json_t *text = json_object_get(json, "text"), *ids = json_object_get(json, "ids");
    size_t bytes = json_string_length(text), n = json_array_size(ids);
    dlm_document document = dlm__data_document(data, i);
    dlm_window window = {.document = i, .n = document.n, .ends = true};
    int32_t *got = calloc(document.n + 1, sizeof *got), *plain = NULL;
    dlm_error err;
    if (got == NULL) abort();
    check_context("line %d", (int)i + 1);
    CHECK_INT_EQ(document.bytes, bytes);
    CHECK_INT_EQ(document.space, bytes > 0 && json_string_value(text)[0] != ' ');
    CHECK_INT_EQ(dlm__window_ids(data, &window, got), bytes);
    if (has_added_token(json_string_value(text), bytes)) {
        if (CHECK_OK(dlm_tokenizer_encode(dlm_data_tokenizer(data), json_string_value(text), bytes, false,
                                          &plain, &n, &err),
                     &err) &&
            CHECK_INT_EQ(document.n, n))
            CHECK_MEM_EQ(got, plain, n * sizeof *got);
        for (size_t j = 0; j < document.n; j++) CHECK(got[j] > 3);
    } else if (CHECK_INT_EQ(document.n, n)) {
        for (size_t j = 0; j < n; j++) CHECK_INT_EQ(got[j], json_integer_value(json_array_get(ids, j)));
    }
    dlm_free(plain);
    free(got);
    json_decref(json);
}

/* Every line of the fixtures as a document. */
TEST(golden_documents) {
    static const char *const names[] = {"stories_1024", "stories_min5", "stories_8192", "unicode_1500",
                                        "exhausted"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[100];
        (void)snprintf(name, sizeof name, "tokenizer/%s/encode.jsonl", names[i]);
        const char *path = golden_path(name), *dir = path_in(temporary_dir(), "data");
        if (path == NULL) continue; /* not every set of fixtures has stories_8192 */
        dlm_tokenizer *tokenizer = load(names[i]);
        dlm_prepare_options options = dlm_prepare_defaults();
        dlm_data_info info;
        dlm_data *data;
        dlm_error err;
        options.shard_tokens = 20000;
        REQUIRE_OK(prepare(path, DLM_TEXT_JSONL, tokenizer, dir, &options, &info, &err), &err);
        REQUIRE_OK(dlm_data_open(dir, &data, &err), &err);
        dlm_data_info opened = dlm_data_describe(data);
        CHECK_MEM_EQ(&info, &opened, sizeof info);
        CHECK(info.shards > 1);

        uint64_t lines = 0;
        char *text = read_text(path, NULL);
        for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
            if (lines < info.documents) check_line(data, lines, line);
            lines++;
        }
        check_context("%s", "");
        CHECK_INT_EQ(info.documents, lines);
        dlm_data_close(data);
        dlm_tokenizer_free(tokenizer);
    }
}

/* Enough for several blocks, in bytes and in documents. */
TEST(same_for_any_threads) {
    enum { LINES = 150000 };
    const char *dir = temporary_dir(), *text = write_corpus(dir, (size_t)18 << 20, 1);
    const char *lines = path_in(dir, "lines.txt");
    dlm_tokenizer *tokenizer = load("stories_1024");
    dlm_prepare_options options = dlm_prepare_defaults();
    dlm_error err;
    dlm_output *out;
    static const size_t threads[] = {1, 2, 5};
    const char *made[2][3];
    size_t shards = 0;
    options.shard_tokens = 1500000;
    REQUIRE_OK(dlm__output_create(lines, &out, &err), &err);
    for (size_t i = 0; i < LINES; i++) dlm__output_printf(out, "line %zu\n", i);
    REQUIRE_OK(dlm__output_commit(out, &err), &err);
    for (size_t i = 0; i < 3; i++) {
        char name[20];
        dlm_data_info info;
        dlm_set_threads(threads[i]);
        (void)snprintf(name, sizeof name, "data%zu", i);
        made[0][i] = path_in(dir, name);
        REQUIRE_OK(prepare(text, DLM_TEXT_SEPARATED, tokenizer, made[0][i], &options, &info, &err), &err);
        shards = info.shards;
        (void)snprintf(name, sizeof name, "lines%zu", i);
        made[1][i] = path_in(dir, name);
        REQUIRE_OK(prepare(lines, DLM_TEXT_LINES, tokenizer, made[1][i], &options, &info, &err), &err);
        CHECK_INT_EQ(info.documents, LINES);
    }
    dlm_set_threads(0);
    CHECK(shards > 2);
    for (size_t i = 1; i < 3; i++) {
        same_file(made[0][0], made[0][i], "data.json");
        for (size_t shard = 0; shard < shards; shard++) {
            char name[DLM_SHARD_NAME_SIZE];
            dlm__shard_name(shard, name);
            same_file(made[0][0], made[0][i], name);
        }
        same_file(made[1][0], made[1][i], "data.json");
        same_file(made[1][0], made[1][i], "shard-00000.dlm");
    }

    /* Order is kept. */
    dlm_data *data;
    REQUIRE_OK(dlm_data_open(made[1][1], &data, &err), &err);
    for (uint64_t i = 0; i < LINES; i += 997) {
        char want[40];
        int32_t ids[40], *encoded;
        size_t n;
        (void)snprintf(want, sizeof want, "line %d", (int)i);
        dlm_window window = {.document = i, .n = dlm__data_document(data, i).n, .ends = true};
        REQUIRE(window.n < 40);
        CHECK_INT_EQ(dlm__window_ids(data, &window, ids), strlen(want));
        REQUIRE_OK(dlm_tokenizer_encode(tokenizer, want, strlen(want), false, &encoded, &n, &err), &err);
        if (CHECK_INT_EQ(window.n, n)) CHECK_MEM_EQ(ids, encoded, n * sizeof *ids);
        dlm_free(encoded);
    }
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
}

/* Shards hold the same documents however many there are. */
TEST(many_shards) {
    const char *dir = temporary_dir(), *text = write_corpus(dir, 200000, 2);
    const char *one = path_in(dir, "one"), *many = path_in(dir, "many");
    dlm_tokenizer *tokenizer = load("stories_1024");
    dlm_prepare_options options = dlm_prepare_defaults();
    dlm_data_info a, b;
    dlm_data *x, *y;
    dlm_error err;
    REQUIRE_OK(prepare(text, DLM_TEXT_SEPARATED, tokenizer, one, &options, &a, &err), &err);
    options.shard_tokens = 1;
    REQUIRE_OK(prepare(text, DLM_TEXT_SEPARATED, tokenizer, many, &options, &b, &err), &err);
    CHECK_INT_EQ(a.shards, 1);
    CHECK_INT_EQ(b.shards, a.documents);
    CHECK_INT_EQ(b.tokens, a.tokens);
    CHECK_INT_EQ(b.windows, a.windows);
    CHECK(a.split > 0);
    REQUIRE_OK(dlm_data_open(one, &x, &err), &err);
    REQUIRE_OK(dlm_data_open(many, &y, &err), &err);
    for (uint64_t i = 0; i < a.documents; i++) {
        dlm_document p = dlm__data_document(x, i), q = dlm__data_document(y, i);
        CHECK_INT_EQ(p.bytes, q.bytes);
        CHECK_INT_EQ(p.space, q.space);
        if (CHECK_INT_EQ(p.n, q.n)) CHECK_MEM_EQ(p.tokens, q.tokens, p.n * p.width);
    }
    dlm_data_close(x);
    dlm_data_close(y);
    dlm_tokenizer_free(tokenizer);
}

/* ---- options and bad input ----------------------------------------------------------------------------- */

static const char *write_text(const char *dir, const char *name, const char *text) {
    const char *path = path_in(dir, name);
    dlm_error err;
    (void)CHECK_OK(dlm__write_file(path, text, strlen(text), &err), &err);
    return path;
}

TEST(refused) {
    const char *dir = temporary_dir(), *data = path_in(dir, "data");
    const char *empty = write_text(dir, "empty.txt", "\n<|endoftext|>\n \n<|endoftext|>\n");
    const char *bad = write_text(dir, "bad.txt", "fine\n<|endoftext|>\nnot \xff UTF-8\n");
    const char *good = write_text(dir, "good.txt", "fine");
    dlm_tokenizer *tokenizer = load("stories_1024");
    dlm_prepare_options options = dlm_prepare_defaults();
    dlm_error err;
    CHECK_STATUS(prepare(empty, DLM_TEXT_SEPARATED, tokenizer, data, &options, NULL, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "there is no document");
    CHECK(nothing_at(data));
    CHECK_STATUS(prepare(bad, DLM_TEXT_SEPARATED, tokenizer, data, &options, NULL, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "bad.txt");
    CHECK(nothing_at(data));
    options.seq_len = 0;
    CHECK_STATUS(prepare(good, DLM_TEXT_SEPARATED, tokenizer, data, &options, NULL, &err), DLM_ARGUMENT,
                 &err);
    CHECK_SAYS(&err, "a sequence length of 0");
    options = dlm_prepare_defaults();
    options.shard_tokens = 0;
    CHECK_STATUS(prepare(good, DLM_TEXT_SEPARATED, tokenizer, data, &options, NULL, &err), DLM_ARGUMENT,
                 &err);
    options = dlm_prepare_defaults();
    CHECK_STATUS(prepare(good, DLM_TEXT_SEPARATED, tokenizer, path_in(good, "data"), &options, NULL, &err),
                 DLM_IO, &err);
    CHECK_SAYS(&err, "good.txt");
    dlm_tokenizer_free(tokenizer);
}

TEST(overwriting) {
    const char *dir = temporary_dir(), *data = path_in(dir, "data"), *folder = path_in(dir, "folder");
    const char *one = write_text(dir, "one.txt", "one document");
    const char *two = write_text(dir, "two.txt", "one\n<|endoftext|>\nor two\n");
    const char *none = write_text(dir, "none.txt", "");
    dlm_tokenizer *tokenizer = load("stories_1024");
    dlm_prepare_options options = dlm_prepare_defaults();
    dlm_data_info info;
    dlm_data *opened;
    dlm_error err;
    options.overwrite = true; /* of nothing */
    REQUIRE_OK(prepare(one, DLM_TEXT_SEPARATED, tokenizer, data, &options, &info, &err), &err);
    options.overwrite = false;
    CHECK_STATUS(prepare(two, DLM_TEXT_SEPARATED, tokenizer, data, &options, NULL, &err), DLM_EXISTS, &err);
    CHECK_SAYS(&err, "exists, and is not overwritten");
    options.overwrite = true;
    CHECK_STATUS(prepare(none, DLM_TEXT_SEPARATED, tokenizer, data, &options, NULL, &err), DLM_FORMAT, &err);
    REQUIRE_OK(dlm_data_open(data, &opened, &err), &err);
    CHECK_INT_EQ(dlm_data_describe(opened).documents, 1);
    /* What is open stays readable while its folder is replaced. */
    REQUIRE_OK(prepare(two, DLM_TEXT_SEPARATED, tokenizer, data, &options, &info, &err), &err);
    CHECK_INT_EQ(info.documents, 2);
    CHECK_INT_EQ(dlm__data_document(opened, 0).bytes, 12);
    dlm_data_close(opened);
    REQUIRE_OK(dlm_data_open(data, &opened, &err), &err);
    CHECK_INT_EQ(dlm_data_describe(opened).documents, 2);
    dlm_data_close(opened);
    CHECK(!exists(path_in(dir, "data.partial")));

    REQUIRE_OK(dlm__make_dirs(folder, &err), &err);
    (void)write_text(folder, "precious.txt", "precious");
    CHECK_STATUS(prepare(two, DLM_TEXT_SEPARATED, tokenizer, folder, &options, NULL, &err), DLM_EXISTS, &err);
    CHECK_SAYS(&err, "is no folder of prepared data");
    CHECK(exists(path_in(folder, "precious.txt")));
    dlm_tokenizer_free(tokenizer);
}

/* ---- runs that do not end well ------------------------------------------------------------------------- */

typedef struct watch {
    size_t calls, stop_at;
    uint64_t done, total;
    bool went_back;
} watch;

static bool on_progress(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    watch *w = user;
    CHECK_STR_EQ(stage, "encoding");
    CHECK(seconds >= 0);
    w->went_back |= done < w->done;
    w->done = done;
    w->total = total;
    return ++w->calls == w->stop_at;
}

TEST(cancelled) {
    const char *dir = temporary_dir(), *text = write_corpus(dir, (size_t)9 << 20, 3);
    const char *data = path_in(dir, "data");
    dlm_tokenizer *tokenizer = load("stories_1024");
    dlm_prepare_options options = dlm_prepare_defaults();
    dlm_error err;
    options.progress = on_progress;
    for (size_t stop_at = 1;; stop_at++) {
        watch w = {.stop_at = stop_at};
        options.user = &w;
        dlm_status status = prepare(text, DLM_TEXT_SEPARATED, tokenizer, data, &options, NULL, &err);
        CHECK(!w.went_back);
        if (w.calls < stop_at) {
            CHECK_INT_EQ(status, DLM_OK);
            CHECK_INT_EQ(w.done, w.total);
            CHECK(w.total > (uint64_t)9 << 20);
            CHECK(stop_at > 2);
            break;
        }
        CHECK_INT_EQ(status, DLM_CANCELLED);
        CHECK_SAYS(&err, "stopped while at");
        CHECK(nothing_at(data));
    }
    dlm_tokenizer_free(tokenizer);
}

/* Runs body in a child of one thread (the threads of this process are not copied) and gives its wait status;
 * after `microseconds`, when they are not 0, the child is killed. */
static int in_child(int (*body)(void *), void *context, long microseconds) {
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dlm_set_threads(1);
        _exit(body(context));
    }
    if (microseconds > 0) {
        struct timespec pause = {.tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000};
        (void)nanosleep(&pause, NULL);
        (void)kill(child, SIGKILL);
    }
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    return status;
}

typedef struct job {
    const char *text, *data;
    const dlm_tokenizer *tokenizer;
    bool overwrite;
    size_t file_limit;
} job;

static int run_job(void *context) {
    const job *j = context;
    dlm_prepare_options options = dlm_prepare_defaults();
    options.overwrite = j->overwrite;
    options.shard_tokens = 50000;
    return prepare(j->text, DLM_TEXT_SEPARATED, j->tokenizer, j->data, &options, NULL, NULL) == DLM_OK ? 0
                                                                                                       : 1;
}

/* The documents in data, or 0 when there is nothing; anything but whole data is a failure. */
static uint64_t documents_in(const char *data) {
    dlm_data *opened;
    dlm_error err;
    if (!exists(data) || !CHECK_OK(dlm_data_open(data, &opened, &err), &err)) return 0;
    uint64_t documents = dlm_data_describe(opened).documents;
    dlm_data_close(opened);
    return documents;
}

/* Killed at random moments, ten times while it makes a folder and thirty while it replaces one. */
TEST(killed) {
    enum { TIMES = 40 };
    const char *dir = temporary_dir(), *data = path_in(dir, "data");
    const char *small = write_text(dir, "small.txt", "a small corpus");
    job j = {.text = write_corpus(dir, 1000000, 4), .data = data, .tokenizer = load("stories_1024")};
    job before = {.text = small, .data = data, .tokenizer = j.tokenizer, .overwrite = true};
    dlm_error err;
    double start = dlm__seconds();
    CHECK_INT_EQ(in_child(run_job, &j, 0), 0);
    long whole = (long)(1e6 * (dlm__seconds() - start));
    uint64_t documents = documents_in(data);
    CHECK(documents > 100);
    dlm_rng rng = dlm__rng(6, DLM_RNG_TEST, 0, 0);
    size_t killed = 0, old = 0;
    for (size_t i = 0; i < TIMES; i++) {
        check_context("kill %zu", i);
        j.overwrite = i >= TIMES / 4;
        if (j.overwrite)
            CHECK_INT_EQ(in_child(run_job, &before, 0), 0);
        else
            REQUIRE_OK(dlm__remove_tree(data, &err), &err);
        /* Mostly near the end, where it counts. */
        long moment = (long)dlm__rng_below(&rng, (uint64_t)whole);
        if (i % 4 != 0) moment = whole - moment / 6;
        int status = in_child(run_job, &j, moment + 1);
        uint64_t there = documents_in(data);
        killed += WIFSIGNALED(status) != 0;
        old += there != documents;
        CHECK(there == documents || there == (j.overwrite ? 1U : 0U));
        if (!WIFSIGNALED(status)) CHECK_INT_EQ(there, documents);
    }
    check_context("%s", "");
    CHECK(killed > 0);
    printf("killed %zu of %d runs, %zu before they were done\n", killed, TIMES, old);
    /* What a killed run left goes with the next one. */
    j.overwrite = true;
    CHECK_INT_EQ(in_child(run_job, &j, 0), 0);
    CHECK_INT_EQ(documents_in(data), documents);
    CHECK(!exists(path_in(dir, "data.partial")));
    dlm_tokenizer_free((dlm_tokenizer *)j.tokenizer);
}

static int run_often(void *context) {
    for (size_t i = 0; i < 100; i++)
        if (run_job(context) != 0) return 1;
    return 0;
}

/* While data is replaced, there is always a folder of that name. */
TEST(never_absent) {
    const char *dir = temporary_dir(), *data = path_in(dir, "data");
    job j = {.text = write_text(dir, "small.txt", "a small corpus"),
             .data = data,
             .tokenizer = load("stories_1024"),
             .overwrite = true};
    REQUIRE(run_job(&j) == 0);
    size_t absent = 0;
    pid_t child = fork();
    if (child == 0) {
        dlm_set_threads(1);
        _exit(run_often(&j));
    }
    int status = -1;
    while (waitpid(child, &status, WNOHANG) == 0) absent += !exists(data);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_INT_EQ(absent, 0);
    CHECK_INT_EQ(documents_in(data), 1);
    dlm_tokenizer_free((dlm_tokenizer *)j.tokenizer);
}

/* Prepares where no file may grow beyond a limit: a sentence that names the file, and nothing left. */
static int run_limited(void *context) {
    const job *j = context;
    struct rlimit limit = {.rlim_cur = j->file_limit, .rlim_max = j->file_limit};
    dlm_prepare_options options = dlm_prepare_defaults();
    dlm_error err = {0};
    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    options.overwrite = j->overwrite;
    if (prepare(j->text, DLM_TEXT_SEPARATED, j->tokenizer, j->data, &options, NULL, &err) != DLM_IO) return 3;
    if (strstr(err.message, "writing ") == NULL || strstr(err.message, "/data.partial/") == NULL) return 4;
    return strstr(err.message, "File too large") == NULL ? 5 : 0;
}

TEST(full_disk) {
    const char *dir = temporary_dir(), *data = path_in(dir, "data");
    job j = {.text = write_corpus(dir, 60000, 5), .data = data, .tokenizer = load("stories_1024")};
    /* In the header, the tokens, a table behind them, tokenizer.json. */
    static const size_t limits[] = {0, 100, 4096, 20000, 50000};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        check_context("files of %zu bytes", limits[i]);
        j.file_limit = limits[i];
        int status = in_child(run_limited, &j, 0);
        if (CHECK(WIFEXITED(status))) CHECK_INT_EQ(WEXITSTATUS(status), 0);
        CHECK(nothing_at(data));
    }
    /* What was there stays. */
    CHECK_INT_EQ(in_child(run_job, &j, 0), 0);
    uint64_t documents = documents_in(data);
    j.overwrite = true;
    int status = in_child(run_limited, &j, 0);
    if (CHECK(WIFEXITED(status))) CHECK_INT_EQ(WEXITSTATUS(status), 0);
    CHECK_INT_EQ(documents_in(data), documents);
    CHECK(!exists(path_in(dir, "data.partial")));
    dlm_tokenizer_free((dlm_tokenizer *)j.tokenizer);
}
