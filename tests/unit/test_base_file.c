/* Files: reading, and writing that leaves either the earlier file or the whole new one. */
#include "check.h"

#include "base/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static size_t entries(const char *dir) {
    size_t n = 0;
    DIR *folder = opendir(dir);
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
        n += entry->d_name[0] != '.';
    if (folder != NULL) (void)closedir(folder);
    return n;
}

static void check_content(const char *path, const char *want) {
    const char *got = read_text(path, NULL);
    CHECK_STR_EQ(got, want);
}

TEST(map) {
    dlm_error err;
    dlm_map map;
    const char *dir = temporary_dir(), *path = path_in(dir, "a"), *pipe_path = path_in(dir, "pipe");
    CHECK_STATUS(dlm__map(path, &map, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, path);
    REQUIRE_OK(dlm__write_file(path, "content", 7, &err), &err);
    REQUIRE_OK(dlm__map(path, &map, &err), &err);
    CHECK_INT_EQ(map.size, 7);
    CHECK_MEM_EQ(map.bytes, "content", 7);
    dlm__unmap(&map);
    CHECK(map.bytes == NULL);
    REQUIRE_OK(dlm__write_file(path, "", 0, &err), &err);
    REQUIRE_OK(dlm__map(path, &map, &err), &err);
    CHECK(map.bytes != NULL && map.size == 0);
    dlm__unmap(&map);
    CHECK_STATUS(dlm__map(dir, &map, &err), DLM_IO, &err);
    CHECK_SAYS(&err, "is a folder");
    REQUIRE(mkfifo(pipe_path, 0600) == 0);
    CHECK_STATUS(dlm__map(pipe_path, &map, &err), DLM_IO, &err);
    CHECK_STATUS(dlm__map("/dev/zero", &map, &err), DLM_IO, &err);
}

TEST(read_file_has_a_limit) {
    dlm_error err;
    char *bytes;
    size_t size;
    const char *dir = temporary_dir(), *path = path_in(dir, "a");
    REQUIRE_OK(dlm__write_file(path, "12345", 5, &err), &err);
    REQUIRE_OK(dlm__read_file(path, 5, &bytes, &size, &err), &err);
    CHECK_INT_EQ(size, 5);
    CHECK_STR_EQ(bytes, "12345");
    free(bytes);
    CHECK_STATUS(dlm__read_file(path, 4, &bytes, &size, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "larger than 4 bytes");
    CHECK(bytes == NULL && size == 0);
    CHECK_STATUS(dlm__read_file("/dev/zero", 100000, &bytes, &size, &err), DLM_FORMAT, &err);
    CHECK_STATUS(dlm__read_file(dir, 100, &bytes, &size, &err), DLM_IO, &err);
}

TEST(names) {
    const char *dir = temporary_dir(), *file = path_in(dir, "f");
    CHECK(dlm__is_dir(dir) && !dlm__is_file(dir));
    CHECK(!dlm__is_dir(file) && !dlm__is_file(file));
    REQUIRE_OK(dlm__write_file(file, "", 0, NULL), NULL);
    CHECK(dlm__is_file(file) && !dlm__is_dir(file));
    CHECK_STR_EQ(path_in("a", "b"), "a/b");
    CHECK_STR_EQ(path_in("a/", "b"), "a/b");
    CHECK_STR_EQ(path_in("/", "b"), "/b");
}

TEST(make_and_remove_folders) {
    dlm_error err;
    const char *dir = temporary_dir(), *deep = path_in(dir, "a//b/c/"), *top = path_in(dir, "a");
    CHECK_OK(dlm__make_dirs(deep, &err), &err);
    CHECK(dlm__is_dir(path_in(dir, "a/b/c")));
    CHECK_OK(dlm__make_dirs(deep, &err), &err);
    CHECK_OK(dlm__make_dirs("/", &err), &err);
    const char *file = path_in(dir, "a/b/file"), *outside = path_in(dir, "outside");
    REQUIRE_OK(dlm__write_file(file, "x", 1, &err), &err);
    CHECK_STATUS(dlm__make_dirs(path_in(file, "sub"), &err), DLM_IO, &err);
    CHECK_SAYS(&err, file);
    REQUIRE_OK(dlm__write_file(outside, "kept", 4, &err), &err);
    REQUIRE(symlink(dir, path_in(dir, "a/link")) == 0);
    CHECK_OK(dlm__remove_tree(top, &err), &err);
    CHECK(!dlm__is_dir(top));
    check_content(outside, "kept");
    CHECK_OK(dlm__remove_tree(top, &err), &err);
}

TEST(output_is_whole_or_not_there) {
    dlm_error err;
    dlm_output *output;
    const char *dir = temporary_dir(), *path = path_in(dir, "a");
    REQUIRE_OK(dlm__output_create(path, &output, &err), &err);
    dlm__output_write(output, "head", 4);
    dlm__output_printf(output, "%d-%s", 12, "x");
    CHECK_INT_EQ(dlm__output_tell(output), 8);
    dlm__output_patch(output, 1, "EA", 2);
    CHECK(!dlm__is_file(path));
    CHECK_OK(dlm__output_commit(output, &err), &err);
    check_content(path, "hEAd12-x");
    CHECK_INT_EQ(entries(dir), 1);

    REQUIRE_OK(dlm__output_create(path, &output, &err), &err);
    dlm__output_write(output, "new", 3);
    dlm__output_abort(output);
    dlm__output_abort(NULL);
    check_content(path, "hEAd12-x");
    CHECK_INT_EQ(entries(dir), 1);
}

TEST(output_replaces_what_a_killed_run_left) {
    dlm_error err;
    const char *dir = temporary_dir(), *path = path_in(dir, "a");
    const char *partial = path_in(dir, "a.partial"), *victim = path_in(dir, "victim");
    REQUIRE_OK(dlm__write_file(victim, "untouched", 9, &err), &err);
    REQUIRE(symlink(victim, partial) == 0);
    CHECK_OK(dlm__write_file(path, "new", 3, &err), &err);
    check_content(path, "new");
    check_content(victim, "untouched");
    CHECK_INT_EQ(entries(dir), 2);
}

TEST(output_follows_a_link) {
    dlm_error err;
    const char *dir = temporary_dir(), *path = path_in(dir, "a"), *link_path = path_in(dir, "link");
    REQUIRE_OK(dlm__write_file(path, "old", 3, &err), &err);
    REQUIRE(symlink("a", link_path) == 0);
    CHECK_OK(dlm__write_file(link_path, "new", 3, &err), &err);
    check_content(path, "new");
    struct stat about;
    CHECK(lstat(link_path, &about) == 0 && S_ISLNK(about.st_mode));
}

TEST(two_writers_of_one_file) {
    dlm_error err;
    dlm_output *first, *second;
    const char *dir = temporary_dir(), *path = path_in(dir, "a");
    REQUIRE_OK(dlm__output_create(path, &first, &err), &err);
    REQUIRE_OK(dlm__output_create(path, &second, &err), &err);
    dlm__output_write(second, "sec", 3);
    CHECK_STATUS(dlm__output_commit(first, &err), DLM_IO, &err);
    CHECK_SAYS(&err, "somebody else");
    dlm__output_write(second, "ond", 3);
    CHECK_OK(dlm__output_commit(second, &err), &err);
    check_content(path, "second");
    CHECK_INT_EQ(entries(dir), 1);
}

TEST(output_to_bad_places) {
    dlm_error err;
    dlm_output *output;
    const char *dir = temporary_dir();
    CHECK_STATUS(dlm__output_create(path_in(dir, "no/such/folder"), &output, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "no/such/folder");
    CHECK(output == NULL);
    CHECK_STATUS(dlm__output_create(dir, &output, &err), DLM_IO, &err);
    CHECK_SAYS(&err, "is a folder");
}

TEST(a_full_device_is_noticed) {
    dlm_error err;
    dlm_output *output;
    if (access("/dev/full", W_OK) != 0) SKIP("no /dev/full");
    CHECK_STATUS(dlm__write_file("/dev/full", "x", 1, &err), DLM_IO, &err);
    CHECK_STR_EQ(err.message, "writing /dev/full: No space left on device");
    REQUIRE_OK(dlm__output_create("/dev/full", &output, &err), &err);
    for (int i = 0; i < 10000; i++) dlm__output_printf(output, "%d: many bytes\n", i);
    CHECK_STATUS(dlm__output_commit(output, &err), DLM_IO, &err);
    CHECK_SAYS(&err, "No space left");
    CHECK_OK(dlm__write_file("/dev/null", "x", 1, &err), &err);
    REQUIRE_OK(dlm__output_create("/dev/null", &output, &err), &err);
    dlm__output_write(output, "head", 4);
    dlm__output_patch(output, 0, "HEAD", 4);
    CHECK_STATUS(dlm__output_commit(output, &err), DLM_IO, &err);
}

/* In a child process whose files may not grow beyond `limit` bytes; returns what it exits with. */
static int with_file_limit(size_t limit, int (*body)(const char *path), const char *path) {
    pid_t child = fork();
    if (child == 0) {
        (void)signal(SIGXFSZ, SIG_IGN);
        (void)setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = limit, .rlim_max = limit});
        _exit(body(path));
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}

/* 0: refused as it should be, with the name in the message. */
static int write_too_much(const char *path) {
    static char bytes[200000];
    dlm_error err;
    dlm_status status = dlm__write_file(path, bytes, sizeof bytes, &err);
    return status == DLM_IO && strstr(err.message, path) != NULL ? 0 : 1;
}

static int patch_too_far(const char *path) {
    static char bytes[50000];
    dlm_error err;
    dlm_output *output;
    if (dlm__output_create(path, &output, &err) != DLM_OK) return 2;
    dlm__output_write(output, bytes, sizeof bytes);
    dlm__output_patch(output, 0, bytes, sizeof bytes);
    dlm__output_patch(output, 200000, bytes, 10);
    dlm__output_write(output, bytes, 1);
    dlm_status status = dlm__output_commit(output, &err);
    return status == DLM_IO && strstr(err.message, path) != NULL ? 0 : 1;
}

TEST(a_failed_write_leaves_the_earlier_file) {
    dlm_error err;
    const char *dir = temporary_dir(), *path = path_in(dir, "a");
    CHECK_INT_EQ(with_file_limit(100000, write_too_much, path), 0);
    CHECK_INT_EQ(entries(dir), 0);
    CHECK_INT_EQ(with_file_limit(100000, patch_too_far, path), 0);
    CHECK_INT_EQ(entries(dir), 0);
    REQUIRE_OK(dlm__write_file(path, "earlier", 7, &err), &err);
    CHECK_INT_EQ(with_file_limit(100000, write_too_much, path), 0);
    check_content(path, "earlier");
    CHECK_INT_EQ(entries(dir), 1);
}

/* Writes one of two contents over and over until it is killed. */
static _Noreturn void write_forever(const char *path, size_t n) {
    char *bytes = malloc(n);
    for (unsigned i = 0; bytes != NULL; i++) {
        memset(bytes, 'a' + (int)(i % 2), n);
        if (dlm__write_file(path, bytes, n, NULL) != DLM_OK) break;
    }
    _exit(1);
}

TEST(kills_at_random_moments_leave_whole_files) {
    enum { N = 300000, KILLS = 25 };
    dlm_error err;
    const char *dir = temporary_dir(), *path = path_in(dir, "a");
    REQUIRE_OK(dlm__write_file(path, "x", 1, &err), &err);
    dlm_rng rng = dlm__rng(7, DLM_RNG_TEST, 0, 0);
    for (int i = 0; i < KILLS; i++) {
        pid_t child = fork();
        if (child == 0) write_forever(path, N);
        REQUIRE(child > 0);
        long wait = (long)dlm__rng_below(&rng, 20000000);
        (void)nanosleep(&(struct timespec){.tv_nsec = wait}, NULL);
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
        size_t size;
        char *bytes;
        REQUIRE_OK(dlm__read_file(path, N, &bytes, &size, &err), &err);
        if (size != 1) CHECK_INT_EQ(size, N);
        for (size_t k = 1; k < size; k++) {
            if (bytes[k] != bytes[0] && !CHECK_INT_EQ(bytes[k], bytes[0])) break;
        }
        free(bytes);
    }
    CHECK_OK(dlm__write_file(path, "end", 3, &err), &err);
    CHECK_INT_EQ(entries(dir), 1);
}

TEST(standard_output_is_written_as_it_comes) {
    dlm_error err;
    const char *dir = temporary_dir(), *path = path_in(dir, "out");
    pid_t child = fork();
    if (child == 0) {
        int file = open(path, O_WRONLY | O_CREAT, 0600);
        dlm_output *output;
        if (file < 0 || dup2(file, STDOUT_FILENO) < 0) _exit(2);
        if (dlm__output_create("-", &output, &err) != DLM_OK) _exit(3);
        dlm__output_printf(output, "%s\n", "line");
        _exit(dlm__output_commit(output, &err) == DLM_OK ? 0 : 4);
    }
    int status = -1;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_INT_EQ(status, 0);
    check_content(path, "line\n");
}

TEST(folders_are_whole_or_not_there) {
    dlm_error err;
    char *working;
    const char *dir = temporary_dir(), *path = path_in(dir, "runs/step-1");
    REQUIRE_OK(dlm__folder_begin(path, &working, &err), &err);
    REQUIRE_OK(dlm__write_file(path_in(working, "weights"), "w", 1, &err), &err);
    CHECK(!dlm__is_dir(path));
    free(working);
    /* The first was killed; the second finds an empty folder. */
    REQUIRE_OK(dlm__folder_begin(path, &working, &err), &err);
    CHECK_INT_EQ(entries(working), 0);
    REQUIRE_OK(dlm__make_dirs(path_in(working, "sub"), &err), &err);
    REQUIRE_OK(dlm__write_file(path_in(working, "sub/weights"), "w2", 2, &err), &err);
    CHECK_OK(dlm__folder_end(working, path, &err), &err);
    free(working);
    check_content(path_in(path, "sub/weights"), "w2");
    CHECK_INT_EQ(entries(path_in(dir, "runs")), 1);
    CHECK_STATUS(dlm__folder_begin(path, &working, &err), DLM_EXISTS, &err);
    CHECK_SAYS(&err, path);
    CHECK(working == NULL);
}

TEST(folder_end_overwrites_nothing) {
    dlm_error err;
    char *working;
    const char *dir = temporary_dir(), *path = path_in(dir, "a");
    REQUIRE_OK(dlm__folder_begin(path, &working, &err), &err);
    REQUIRE_OK(dlm__make_dirs(path, &err), &err);
    CHECK_STATUS(dlm__folder_end(working, path, &err), DLM_EXISTS, &err);
    CHECK(dlm__is_dir(working));
    CHECK_OK(dlm__remove_tree(working, &err), &err);
    free(working);
}
