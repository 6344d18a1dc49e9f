/* The Hub without a server: names, what the environment says, headers, lists, the cache on disk, hashes. What
 * a server does is in tests/oracle/test_hub*.py. */
#include "check.h"

#include "format/digest.h"
#include "format/hub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char commit_a[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
static const char commit_b[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/* ---- names -------------------------------------------------------------------------------------------- */

TEST(ids) {
    static const char *const good[] = {"tchauffi/diffusionlm-from-scratch",
                                       "gpt2",
                                       "a/b",
                                       "1/2",
                                       "_a/b_",
                                       "Foo-BAR_foo.bar123",
                                       "a/b@main",
                                       "a/b@refs/pr/1",
                                       "a.b/c.d@v1.0"};
    static const char *const bad[] = {"",         "/",      "a/",       "/a",    "a/b/c", "./a",
                                      "../a",     "a/..",   ".a",       "a.",    "-a",    "a-",
                                      "a--b",     "a..b",   "a/b.git",  "a b",   "a\n",   "a/b@",
                                      "a/b@../c", "a/b@/c", "a/b@c//d", "@main", "~/a",   "a\\b"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        check_context("'%s'", good[i]);
        CHECK(dlm__hub_is_id(good[i]));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_context("'%s'", bad[i]);
        CHECK(!dlm__hub_is_id(bad[i]));
    }
}

TEST(repositories) {
    dlm_hub_repo repo;
    dlm_error err;
    REQUIRE_OK(dlm__hub_repo_parse("a/b", NULL, DLM_REPO_MODEL, &repo, &err), &err);
    CHECK_STR_EQ(repo.id, "a/b");
    CHECK_STR_EQ(repo.revision, "main");
    char *url = dlm__hub_file_url("https://h", &repo, repo.revision, "x/y 1+%.txt");
    CHECK_STR_EQ(url, "https://h/a/b/resolve/main/x/y%201%2B%25.txt");
    free(url);
    dlm__hub_repo_free(&repo);
    REQUIRE_OK(dlm__hub_repo_parse("a/b", "refs/pr/1", DLM_REPO_DATASET, &repo, &err), &err);
    url = dlm__hub_file_url("https://h", &repo, repo.revision, "f");
    CHECK_STR_EQ(url, "https://h/datasets/a/b/resolve/refs%2Fpr%2F1/f");
    free(url);
    url = dlm__hub_list_url("https://h", &repo);
    CHECK_STR_EQ(url, "https://h/api/datasets/a/b/revision/refs%2Fpr%2F1");
    free(url);
    char *storage = dlm__hub_storage("/c", &repo);
    CHECK_STR_EQ(storage, "/c/datasets--a--b");
    free(storage);
    dlm__hub_repo_free(&repo);
    CHECK_OK(dlm__hub_repo_parse("a/b@v", "v", DLM_REPO_MODEL, &repo, &err), &err);
    dlm__hub_repo_free(&repo);
    CHECK_STATUS(dlm__hub_repo_parse("a/b@v", "w", DLM_REPO_MODEL, &repo, &err), DLM_ARGUMENT, &err);
    dlm__hub_repo_free(&repo);
    CHECK_STATUS(dlm__hub_repo_parse("a/b", "../x", DLM_REPO_MODEL, &repo, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "'../x' is no revision");
    dlm__hub_repo_free(&repo);
}

TEST(paths_stay_inside) {
    static const char *const good[] = {"a",   "a/b",      ".gitattributes", "...",
                                       "a b", "\xc3\xa9", "a..b",           "..a/b"};
    static const char *const bad[] = {"",     "/",    "/a",    "a/",   "a//b", ".",    "..",
                                      "a/..", "../a", "a/./b", "a\\b", "a\n",  "\x7f", "\xc2\x9b"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        check_context("'%s'", good[i]);
        CHECK(dlm__hub_safe_path(good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_context("'%s'", bad[i]);
        CHECK(!dlm__hub_safe_path(bad[i], strlen(bad[i])));
    }
    check_context("%s", "");
    char longest[2001];
    memset(longest, 'a', 2000);
    CHECK(dlm__hub_safe_path(longest, 255) && !dlm__hub_safe_path(longest, 256));
    for (size_t i = 100; i < 2000; i += 100) longest[i] = '/';
    CHECK(dlm__hub_safe_path(longest, 1024) && !dlm__hub_safe_path(longest, 1025));
    CHECK(!dlm__hub_safe_path("a\0b", 3));
}

TEST(a_model_of_the_hub_is_no_path) {
    const char *dir = temporary_dir();
    CHECK(dlm__hub_is_model("org/no-such-folder-here"));
    CHECK(!dlm__hub_is_model("tests/unit"));
    CHECK(!dlm__hub_is_model("tests"));
    CHECK(!dlm__hub_is_model(dir));
    CHECK(!dlm__hub_is_model("org/final.pt") && !dlm__hub_is_model("model.safetensors"));
    CHECK(!dlm__hub_is_model("/no/such"));
}

/* ---- the environment ---------------------------------------------------------------------------------- */

static void clear_environment(const char *home) {
    static const char *const names[] = {"HF_HOME",
                                        "HF_HUB_CACHE",
                                        "HUGGINGFACE_HUB_CACHE",
                                        "XDG_CACHE_HOME",
                                        "HF_ENDPOINT",
                                        "HF_TOKEN",
                                        "HUGGING_FACE_HUB_TOKEN",
                                        "HF_TOKEN_PATH",
                                        "HF_HUB_OFFLINE",
                                        "TRANSFORMERS_OFFLINE",
                                        "SSL_CERT_FILE",
                                        "HF_HUB_DISABLE_IMPLICIT_TOKEN"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) (void)unsetenv(names[i]);
    (void)setenv("HOME", home, 1);
}

static void check_cache(const char *want) {
    dlm_hub_settings settings;
    dlm_error err;
    if (CHECK_OK(dlm__hub_settings_read(&settings, &err), &err)) CHECK_STR_EQ(settings.cache, want);
    dlm__hub_settings_free(&settings);
}

TEST(where_the_cache_is) {
    clear_environment("/h");
    check_cache("/h/.cache/huggingface/hub");
    (void)setenv("XDG_CACHE_HOME", "/x", 1);
    check_cache("/x/huggingface/hub");
    (void)setenv("HF_HOME", "~/${SUB}/$SUB$NONE/$", 1);
    (void)unsetenv("NONE");
    (void)setenv("SUB", "s", 1);
    check_cache("/h/s/s$NONE/$/hub");
    (void)setenv("HUGGINGFACE_HUB_CACHE", "~", 1);
    check_cache("/h");
    (void)setenv("HF_HUB_CACHE", "/c", 1);
    check_cache("/c");
    (void)setenv("HF_HUB_CACHE", "", 1);
    check_cache("/h");
}

TEST(endpoints) {
    dlm_hub_settings settings;
    dlm_error err;
    clear_environment(temporary_dir());
    REQUIRE_OK(dlm__hub_settings_read(&settings, &err), &err);
    CHECK_STR_EQ(settings.endpoint, "https://huggingface.co");
    CHECK_STR_EQ(settings.host, "huggingface.co");
    CHECK(!settings.plain && !settings.offline && settings.token == NULL);
    dlm__hub_settings_free(&settings);
    (void)setenv("HF_ENDPOINT", "http://mirror:8080/hf/", 1);
    (void)setenv("HF_HUB_OFFLINE", "True", 1);
    REQUIRE_OK(dlm__hub_settings_read(&settings, &err), &err);
    CHECK_STR_EQ(settings.endpoint, "http://mirror:8080/hf");
    CHECK_STR_EQ(settings.host, "mirror");
    CHECK(settings.plain && settings.offline);
    dlm__hub_settings_free(&settings);
    (void)setenv("HF_ENDPOINT", "HTTPS://[::1]:8080/hf", 1);
    REQUIRE_OK(dlm__hub_settings_read(&settings, &err), &err);
    CHECK_STR_EQ(settings.host, "[::1]");
    CHECK(!settings.plain);
    dlm__hub_settings_free(&settings);
    static const char *const bad[] = {"huggingface.co", "ftp://x",     "https://",     "https://u:p@x",
                                      "https://x?y",    "file:///x",   "https://:80",  "https://x:8o",
                                      "https://x:80:1", "https://x y", "https://[::1", "https://[]",
                                      "https://[::1]x", "http:///x",   "https://x#y",  "https://x\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_context("%s", bad[i]);
        (void)setenv("HF_ENDPOINT", bad[i], 1);
        CHECK_STATUS(dlm__hub_settings_read(&settings, &err), DLM_ARGUMENT, &err);
        CHECK_SAYS(&err, "HF_ENDPOINT is '");
        dlm__hub_settings_free(&settings);
    }
}

/* ---- what a server says ------------------------------------------------------------------------------- */

static void read_headers(dlm_hub_headers *headers, const char *text) {
    *headers = (dlm_hub_headers){0};
    for (const char *line = text; *line != 0;) {
        const size_t n = strcspn(line, "\n") + 1;
        dlm__hub_header(headers, line, n);
        line += n;
    }
}

TEST(headers) {
    static dlm_hub_headers headers;
    read_headers(&headers,
                 "HTTP/1.1 100 Continue\r\nETag: \"old\"\r\n\r\nHTTP/2 302 \r\nx-linked-etag: "
                 "\"new\"\r\nETag: W/\"other\"\r\n"
                 "X-Repo-Commit:  abc \r\nX-Linked-Size:12\r\nContent-Length: 5\r\nLocation: /x\r\n");
    CHECK_INT_EQ(headers.status, 302);
    CHECK_STR_EQ(headers.etag, "new");
    CHECK_STR_EQ(headers.commit, "abc");
    CHECK_STR_EQ(headers.location, "/x");
    CHECK_INT_EQ(headers.linked_length, 12);
    CHECK_INT_EQ(headers.length, 5);
    read_headers(&headers,
                 "HTTP/1.1 206 OK\nETag: W/\"weak\"\nContent-Range: bytes 5-9/10\nContent-Length: -1\n");
    CHECK_STR_EQ(headers.etag, "weak");
    CHECK_INT_EQ(headers.range_from, 5);
    CHECK_INT_EQ(headers.range_of, 10);
    CHECK_INT_EQ(headers.length, -1);
    read_headers(&headers, "HTTP/1.1 200\nContent-Range: bytes */10\nContent-Length: "
                           "99999999999999999999\nX-Repo-Commit: \xff\n");
    CHECK_INT_EQ(headers.range_from, -1);
    CHECK_INT_EQ(headers.length, -1);
    CHECK_STR_EQ(headers.commit, "");
}

TEST(lists) {
    dlm_hub_listing listing;
    dlm_error err;
    char text[300];
    (void)snprintf(text, sizeof text,
                   "{\"sha\": \"%s\", \"siblings\": [{\"rfilename\": \"a\"}, {\"rfilename\": \"b/c\"}]}",
                   commit_a);
    REQUIRE_OK(dlm__hub_listing_parse("list", text, strlen(text), &listing, &err), &err);
    CHECK_STR_EQ(listing.commit, commit_a);
    CHECK(listing.n == 2 && dlm__hub_listed(&listing, "b/c") && !dlm__hub_listed(&listing, "c"));
    dlm__hub_listing_free(&listing);
    static const char *const bad[][2] = {
        {"[]", "\"sha\" is no commit"},
        {"{\"sha\": \"../../x\", \"siblings\": []}", "\"sha\" is no commit"},
        {"{\"sha\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", "\"siblings\" is no list"},
        {"{\"sha\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\", \"siblings\": [1]}", "what is no file"},
        {"{\"sha\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\", \"siblings\": [{\"rfilename\": \"../x\"}]}",
         "'../x' is refused"},
        {"<html>", "list: line 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(dlm__hub_listing_parse("list", bad[i][0], strlen(bad[i][0]), &listing, &err), DLM_FORMAT,
                     &err);
        CHECK_SAYS(&err, bad[i][1]);
    }
}

/* ---- the cache ---------------------------------------------------------------------------------------- */

static void check_link(const char *path, const char *want) {
    char way[200];
    const ssize_t n = readlink(path, way, sizeof way - 1);
    if (!CHECK(n > 0)) return;
    way[n] = 0;
    CHECK_STR_EQ(way, want);
}

TEST(refs_and_links) {
    dlm_error err;
    char commit[DLM_HUB_COMMIT + 1];
    const char *storage = path_in(temporary_dir(), "models--a--b");
    CHECK(!dlm__hub_commit(storage, "main", commit));
    REQUIRE_OK(dlm__hub_set_commit(storage, "refs/pr/1", commit_a, &err), &err);
    CHECK(dlm__hub_commit(storage, "refs/pr/1", commit) && strcmp(commit, commit_a) == 0);
    REQUIRE_OK(dlm__hub_set_commit(storage, "refs/pr/1", commit_b, &err), &err);
    CHECK(dlm__hub_commit(storage, "refs/pr/1", commit) && strcmp(commit, commit_b) == 0);
    CHECK(dlm__hub_commit(storage, commit_a, commit) && strcmp(commit, commit_a) == 0);
    CHECK_OK(dlm__hub_set_commit(storage, commit_a, commit_a, &err), &err);
    CHECK_STR_EQ(read_text(path_in(storage, "refs/refs/pr/1"), NULL), commit_b);
    /* A ref that somebody else wrote and that would lead out of the cache is none. */
    REQUIRE_OK(dlm__write_file(path_in(storage, "refs/main"), "../../../../../../../../../../../../../../etc",
                               45, &err),
               &err);
    CHECK(!dlm__hub_commit(storage, "main", commit));

    REQUIRE_OK(dlm__make_dirs(path_in(storage, "blobs"), &err), &err);
    REQUIRE_OK(dlm__write_file(path_in(storage, "blobs/1234"), "x", 1, &err), &err);
    REQUIRE_OK(dlm__hub_link(storage, commit_a, "f", "1234", &err), &err);
    REQUIRE_OK(dlm__hub_link(storage, commit_a, "d/e/f", "1234", &err), &err);
    REQUIRE_OK(dlm__hub_link(storage, commit_a, "f", "1234", &err), &err); /* there already */
    char *folder = dlm__hub_snapshot(storage, commit_a, NULL);
    REQUIRE(folder != NULL);
    check_link(path_in(folder, "f"), "../../blobs/1234");
    check_link(path_in(folder, "d/e/f"), "../../../../blobs/1234");
    CHECK_STR_EQ(read_text(path_in(folder, "d/e/f"), NULL), "x");
    /* A link that leads nowhere is replaced; it is no file. */
    REQUIRE(symlink("../../blobs/none", path_in(folder, "g")) == 0);
    CHECK(!dlm__hub_has(path_in(folder, "g")));
    REQUIRE_OK(dlm__hub_link(storage, commit_a, "g", "1234", &err), &err);
    CHECK(dlm__hub_has(path_in(folder, "g")));
    dlm_hub_listing listing = {0};
    REQUIRE_OK(dlm__hub_list_snapshot(folder, &listing, &err), &err);
    CHECK(listing.n == 3);
    for (size_t i = 0; i < listing.n; i++)
        CHECK_STR_EQ(listing.names[i], ((const char *const[]){"d/e/f", "f", "g"})[i]);
    dlm__hub_listing_free(&listing);
    free(folder);
}

/* The linker leads these calls through here (Makefile): what a file system says without links and locks. */
static int lack;
int __real_symlink(const char *to, const char *path);
int __wrap_symlink(const char *to, const char *path);
int __wrap_symlink(const char *to, const char *path) {
    if (lack == 0) return __real_symlink(to, path);
    errno = lack;
    return -1;
}
int __real_flock(int file, int operation);
int __wrap_flock(int file, int operation);
int __wrap_flock(int file, int operation) {
    if (lack == 0) return __real_flock(file, operation);
    errno = lack;
    return -1;
}

static bool stop_now(void *user) {
    (void)user;
    return true;
}

TEST(file_systems_without_links_and_locks) {
    static const int codes[] = {EPERM, ENOSYS, EOPNOTSUPP};
    dlm_error err;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        const char *cache = temporary_dir(), *storage = path_in(cache, "models--a--b"),
                   *blob = path_in(storage, "blobs/1234");
        dlm_hub_repo repo = {.kind = DLM_REPO_MODEL};
        int first, second;
        check_context("%s", strerror(codes[i]));
        REQUIRE_OK(dlm__hub_repo_parse("a/b", NULL, DLM_REPO_MODEL, &repo, &err), &err);
        REQUIRE_OK(dlm__make_dirs(path_in(storage, "blobs"), &err), &err);
        REQUIRE_OK(dlm__write_file(blob, "x", 1, &err), &err);
        lack = codes[i];
        CHECK_OK(dlm__hub_lock(cache, &repo, "1234", stop_now, NULL, &first, &err), &err);
        CHECK_OK(dlm__hub_lock(cache, &repo, "1234", stop_now, NULL, &second, &err), &err);
        CHECK_OK(dlm__hub_link(storage, commit_a, "d/f", "1234", &err), &err);
        CHECK_OK(dlm__hub_link(storage, commit_a, "d/f", "1234", &err), &err); /* it is there */
        CHECK_STATUS(dlm__hub_link(storage, commit_a, "g", "none", &err), DLM_IO, &err);
        lack = 0;
        char *file = dlm__hub_snapshot(storage, commit_a, "d/f");
        CHECK_STR_EQ(read_text(file, NULL), "x");
        CHECK(!dlm__is_file(blob));
        free(file);
        dlm__hub_unlock(first);
        dlm__hub_unlock(second);
        dlm__hub_repo_free(&repo);
    }
}

static bool stop_at_third(void *user) {
    return ++*(int *)user == 3;
}

TEST(locks) {
    dlm_error err;
    int first, second, asked = 0;
    dlm_hub_repo repo = {.kind = DLM_REPO_MODEL};
    const char *cache = temporary_dir();
    REQUIRE_OK(dlm__hub_repo_parse("a/b", NULL, DLM_REPO_MODEL, &repo, &err), &err);
    REQUIRE_OK(dlm__hub_lock(cache, &repo, "1234", stop_at_third, &asked, &first, &err), &err);
    CHECK_INT_EQ(asked, 0);
    CHECK(dlm__is_file(path_in(cache, ".locks/models--a--b/1234.lock")));
    CHECK_STATUS(dlm__hub_lock(cache, &repo, "1234", stop_at_third, &asked, &second, &err), DLM_CANCELLED,
                 &err);
    CHECK_INT_EQ(asked, 3);
    CHECK_OK(dlm__hub_lock(cache, &repo, "5678", stop_at_third, &asked, &second, &err), &err);
    dlm__hub_unlock(second);
    dlm__hub_unlock(first);
    CHECK_OK(dlm__hub_lock(cache, &repo, "1234", stop_at_third, &asked, &second, &err), &err);
    dlm__hub_unlock(second);
    dlm__hub_repo_free(&repo);
}

/* ---- hashes ------------------------------------------------------------------------------------------- */

/* FIPS 180-4's own examples. */
TEST(hashes) {
    static const struct {
        dlm_digest_kind kind;
        const char *text, *hex;
    } cases[] = {
        {DLM_SHA1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
        {DLM_SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {DLM_SHA256, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char hex[65];
        dlm_digest *digest = dlm__digest_create(cases[i].kind);
        REQUIRE(digest != NULL);
        for (const char *c = cases[i].text; *c != 0; c++) CHECK(dlm__digest_add(digest, c, 1));
        CHECK(dlm__digest_finish(digest, hex));
        CHECK_STR_EQ(hex, cases[i].hex);
        dlm__digest_free(digest);
    }
}

/* ---- the public call ---------------------------------------------------------------------------------- */

/* A cache made by hand, without a network. */
static const char *make_cache(const char *home) {
    dlm_error err;
    clear_environment(home);
    (void)setenv("HF_HUB_OFFLINE", "1", 1);
    (void)setenv("HF_HUB_CACHE", home, 1);
    const char *storage = path_in(home, "datasets--a--b");
    (void)dlm__make_dirs(path_in(storage, "blobs"), &err);
    (void)dlm__write_file(path_in(storage, "blobs/1234"), "x", 1, &err);
    (void)dlm__hub_set_commit(storage, "main", commit_a, &err);
    (void)dlm__hub_link(storage, commit_a, "f", "1234", &err);
    (void)dlm__hub_link(storage, commit_a, "d/g", "1234", &err);
    return storage;
}

TEST(offline) {
    dlm_error err;
    dlm_hub_files files;
    const char *storage = make_cache(temporary_dir());
    dlm_hub_options options = dlm_hub_defaults();
    options.kind = DLM_REPO_DATASET;
    const char *one[] = {"f"}, *none[] = {"h"}, *outside[] = {"../../blobs/1234"};
    REQUIRE_OK(dlm_hub_download("a/b", &options, one, 1, &files, &err), &err);
    CHECK(files.n == 1);
    CHECK_STR_EQ(files.names[0], "f");
    CHECK_STR_EQ(files.commit, commit_a);
    CHECK_STR_EQ(read_text(files.paths[0], NULL), "x");
    CHECK(strncmp(files.folder, storage, strlen(storage)) == 0);
    dlm_hub_files_free(&files);
    REQUIRE_OK(dlm_hub_download("a/b", &options, NULL, 0, &files, &err), &err);
    CHECK(files.n == 2);
    dlm_hub_files_free(&files);
    options.revision = commit_a;
    CHECK_OK(dlm_hub_download("a/b", &options, one, 1, &files, &err), &err);
    dlm_hub_files_free(&files);
    CHECK_STATUS(dlm_hub_download("a/b", &options, none, 1, &files, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "HF_HUB_OFFLINE is set");
    CHECK_STATUS(dlm_hub_download("a/b", &options, outside, 1, &files, &err), DLM_ARGUMENT, &err);
    CHECK_STATUS(dlm_hub_download("a/b", NULL, one, 1, &files, &err), DLM_NOT_FOUND, &err);
    options.kind = (dlm_repo_kind)7;
    CHECK_STATUS(dlm_hub_download("a/b", &options, one, 1, &files, &err), DLM_ARGUMENT, &err);
}

TEST(models_offline) {
    dlm_error err;
    dlm_model *model;
    (void)make_cache(temporary_dir());
    CHECK_STATUS(dlm_model_load("org/none", NULL, &model, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(
        &err,
        "org/none: no such file or folder, and as a model of the Hub: org/none@main is not in the cache");
}

/* A tokenizer's name is a path, or else a repository of which nothing but the tokenizer is wanted. */
TEST(tokenizers_offline) {
    dlm_error err;
    dlm_tokenizer *tokenizer;
    size_t n;
    const char *home = temporary_dir(), *storage = path_in(home, "models--a--tokens");
    const char *json = read_text(golden_path("tokenizer/stories_1024/tokenizer.json"), &n);
    REQUIRE(json != NULL);
    (void)make_cache(home);
    (void)dlm__make_dirs(path_in(storage, "blobs"), &err);
    REQUIRE_OK(dlm__write_file(path_in(storage, "blobs/1234"), json, n, &err), &err);
    REQUIRE_OK(dlm__hub_set_commit(storage, "main", commit_a, &err), &err);
    REQUIRE_OK(dlm__hub_link(storage, commit_a, "tokenizer.json", "1234", &err), &err);
    REQUIRE_OK(dlm_tokenizer_load("a/tokens", &tokenizer, &err), &err);
    CHECK_INT_EQ(dlm_tokenizer_describe(tokenizer).vocab_size, 1024);
    dlm_tokenizer_free(tokenizer);
    CHECK_STATUS(dlm_tokenizer_load("a/none", &tokenizer, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "a/none: no such file or folder, and as a tokenizer of the Hub: a/none@main is not in");
    CHECK(tokenizer == NULL);
    CHECK_STATUS(dlm_tokenizer_load("a/tokens@v2", &tokenizer, &err), DLM_NOT_FOUND, &err);
    /* A repository without one; what can be no id. */
    (void)dlm__make_dirs(path_in(home, "models--a--b"), &err);
    REQUIRE_OK(dlm__hub_set_commit(path_in(home, "models--a--b"), "main", commit_a, &err), &err);
    REQUIRE_OK(dlm__hub_link(path_in(home, "models--a--b"), commit_a, "README.md", "1234", &err), &err);
    CHECK_STATUS(dlm_tokenizer_load("a/b", &tokenizer, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "a/b@main in the cache holds no tokenizer: no tokenizer.json");
    CHECK_STATUS(dlm_tokenizer_load("a/b/c", &tokenizer, &err), DLM_NOT_FOUND, &err);
    CHECK_STATUS(dlm_tokenizer_load("none.json", &tokenizer, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "none.json: No such file");
}

static bool stop_at_once(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    (void)user, (void)stage, (void)done, (void)total, (void)seconds;
    return true;
}

/* A port that nobody listens on. */
TEST(no_server) {
    dlm_error err;
    dlm_hub_files files;
    const char *one[] = {"f"};
    (void)make_cache(temporary_dir());
    (void)unsetenv("HF_HUB_OFFLINE");
    (void)setenv("HF_ENDPOINT", "http://127.0.0.1:9", 1);
    (void)setenv("no_proxy", "*", 1);
    CHECK_STATUS(dlm_hub_download("a/c", NULL, one, 1, &files, &err), DLM_NETWORK, &err);
    CHECK_SAYS(&err, "127.0.0.1:9 cannot be reached");
    dlm_hub_options options = dlm_hub_defaults();
    options.kind = DLM_REPO_DATASET;
    CHECK_OK(dlm_hub_download("a/b", &options, one, 1, &files, &err), &err);
    dlm_hub_files_free(&files);
    options.progress = stop_at_once;
    const dlm_status status = dlm_hub_download("a/c", &options, one, 1, &files, &err);
    CHECK(status == DLM_CANCELLED || status == DLM_NETWORK); /* whichever comes first */
}
