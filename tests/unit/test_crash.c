/* Interruption: a run that is killed at any moment, or whose disk is full, keeps its last good checkpoint,
 * and what comes of it in the end has the bytes of a run that was left alone. */
#include "check.h"

#include "training.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DOCUMENTS = 60, LONGEST = 30, SEQ_LEN = 16, KILLS = 30, STEPS = 400 };

static const char *data_folder(void) {
    return same_data(DOCUMENTS, LONGEST, SEQ_LEN);
}

/* Every step is saved, so that most of the time goes into that. */
static dlm_train_options options_of(const char *run) {
    dlm_train_options o = tiny_run(DLM_RECIPE_DEFAULT, data_folder(), run);
    o.steps = STEPS;
    o.save_every = 1;
    o.eval_every = 7;
    o.eval_documents = 3;
    o.precision = DLM_PRECISION_F32;
    return o;
}

/* Goes on with the run wherever it is, in this process, until its end. */
static dlm_status go_on(const dlm_train_options *options, dlm_error *err) {
    dlm_train_options o = *options;
    o.resume = dlm__run_log_exists(o.run);
    dlm_trainer *trainer;
    dlm_train_report report;
    DLM_TRY(dlm_trainer_create(&o, &trainer, err));
    dlm_status status = train_until(trainer, SIZE_MAX, &report, err);
    dlm_trainer_free(trainer);
    return status;
}

static void wait_milliseconds(double ms) {
    struct timespec time = {.tv_sec = (time_t)(ms / 1e3), .tv_nsec = (long)(1e6 * ms) % 1000000000L};
    (void)nanosleep(&time, NULL);
}

/* Runs go_on in a child for at most this long. Returns whether it was killed. The parent has started no
 * threads of its own yet, which a child could not use. */
static bool run_and_kill(const dlm_train_options *options, double ms) {
    pid_t child = fork();
    if (child == 0) {
        dlm_error err;
        dlm_set_threads(1); /* which a child forgets where OpenMP is LLVM's */
        dlm_status status = go_on(options, &err);
        if (status != DLM_OK) (void)fprintf(stderr, "%s\n", err.message);
        _exit(status == DLM_OK ? 0 : 1);
    }
    if (!CHECK(child > 0)) return false;
    wait_milliseconds(ms);
    (void)kill(child, SIGKILL);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) return CHECK_INT_EQ(WTERMSIG(status), SIGKILL);
    CHECK_INT_EQ(WEXITSTATUS(status), 0);
    return false;
}

/* The checkpoint that `latest` names is whole; its step, 0 where there is no `latest`. */
static uint64_t check_latest(const char *run) {
    if (!dlm__is_file(path_in(run, "latest"))) return 0;
    dlm_checkpoint checkpoint;
    dlm_model *model;
    dlm_error err;
    if (!CHECK_OK(dlm__checkpoint_read(run, &checkpoint, &err), &err)) return 0;
    uint64_t step = checkpoint.progress.step;
    dlm__checkpoint_release(&checkpoint);
    for (int weights = 0; weights < 2; weights++) {
        dlm_model_options options = dlm_model_defaults();
        options.weights = (dlm_weights)weights;
        options.precision = DLM_PRECISION_F32;
        if (CHECK_OK(dlm_model_load(run, &options, &model, &err), &err)) dlm_model_free(model);
    }
    return step;
}

static const char *in_last(const char *run, const char *file) {
    char name[80];
    (void)snprintf(name, sizeof name, "checkpoints/step-%08d/%s", (int)STEPS, file);
    return path_in(run, name);
}

/* First: children are forked while this process has only one thread. */
TEST(killed_at_any_moment) {
    const char *run = path_in(temporary_dir(), "run"), *whole = path_in(temporary_dir(), "run");
    REQUIRE(data_folder() != NULL);
    dlm_train_options o = options_of(run);
    dlm_rng rng = dlm__rng((uint64_t)time(NULL), DLM_RNG_TEST, 0, 0);
    dlm_set_threads(1);
    uint64_t step = 0;
    size_t killed = 0;
    double patience = 1; /* a busy machine is given longer, until it comes to a checkpoint */
    for (size_t i = 0; i < KILLS; i++) {
        killed += run_and_kill(&o, patience * (20 + 130 * dlm__rng_uniform(&rng)));
        uint64_t now = check_latest(run);
        CHECK(now >= step); /* what was saved is never lost */
        if (now == step && patience < 50) patience *= 1.2;
        step = now;
    }
    CHECK(killed > KILLS / 3 && step > 0);
    printf("note: %zu of %d runs killed, the last at step %d\n", killed, (int)KILLS, (int)step);
    dlm_error err;
    REQUIRE_OK(go_on(&o, &err), &err);
    o.run = whole;
    REQUIRE_OK(go_on(&o, &err), &err);
    static const char *const files[] = {"model.safetensors", "raw.safetensors", "optimizer.safetensors",
                                        "trainer.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t n = 0, m = 0;
        const char *a = read_text(in_last(run, files[i]), &n), *b = read_text(in_last(whole, files[i]), &m);
        REQUIRE(a != NULL && b != NULL);
        if (CHECK_INT_EQ(n, m)) CHECK_MEM_EQ(a, b, n);
    }
}

/* Trains some steps, then lets writing fail by `limit`, takes one more, which must fail with a sentence, and
 * goes on when there is room again. */
static void check_no_room(const char *run, bool (*limit)(const char *run, bool on)) {
    dlm_train_options o = options_of(run);
    o.steps = 12;
    dlm_trainer *trainer;
    dlm_train_report report;
    dlm_error err;
    REQUIRE_OK(dlm_trainer_create(&o, &trainer, &err), &err);
    REQUIRE_OK(train_until(trainer, 3, &report, &err), &err);
    REQUIRE(limit(run, true));
    dlm_status status = train_until(trainer, 5, &report, &err);
    CHECK(limit(run, false));
    CHECK_INT_EQ(status, DLM_IO);
    CHECK_SAYS(&err, run);
    CHECK(strstr(err.message, "File too large") != NULL || strstr(err.message, "No space left") != NULL);
    dlm_trainer_free(trainer);
    CHECK_INT_EQ(check_latest(run), 3);
    o.resume = true;
    REQUIRE(train(&o, SIZE_MAX, &report));
    CHECK_INT_EQ(check_latest(run), 12);
}

/* Smaller than the weights, larger than the logs. */
static bool limit_file_size(const char *run, bool on) {
    static struct rlimit before;
    (void)run;
    if (!on) return setrlimit(RLIMIT_FSIZE, &before) == 0;
    if (getrlimit(RLIMIT_FSIZE, &before) != 0) return false;
    struct rlimit small = {.rlim_cur = 16384, .rlim_max = before.rlim_max};
    return setrlimit(RLIMIT_FSIZE, &small) == 0;
}

TEST(files_that_cannot_grow) {
    REQUIRE(data_folder() != NULL && signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    check_no_room(path_in(temporary_dir(), "run"), limit_file_size);
}

/* Fills the file system that the run is on, or makes room again. */
static bool fill_disk(const char *run, bool on) {
    char name[400];
    (void)snprintf(name, sizeof name, "%s.filler", run);
    if (!on) return unlink(name) == 0;
    FILE *file = fopen(name, "wb");
    if (file == NULL) return false;
    static char block[4096];
    (void)setvbuf(file, NULL, _IONBF, 0);
    while (fwrite(block, 1, sizeof block, file) == sizeof block) {
    }
    return fclose(file) == 0 && errno == ENOSPC;
}

TEST(a_full_disk) {
    const char *disk = temporary_dir();
    REQUIRE(data_folder() != NULL);
    if (mount("none", disk, "tmpfs", 0, "size=4m") != 0)
        SKIP("no file system can be mounted here: %s", strerror(errno));
    check_no_room(path_in(disk, "run"), fill_disk);
    CHECK(umount(disk) == 0);
}
