/* Errors, checked sizes, memory, arena, hashes, JSON, threads. */
#include "check.h"

#include "base/base.h"

#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

TEST(version_and_status_texts) {
    CHECK_STR_EQ(dlm_version(), DLM_VERSION);
    CHECK_STR_EQ(dlm_status_text(DLM_OK), "ok");
    CHECK_STR_EQ(dlm_status_text(DLM_FORMAT), "a file is malformed, cut off or inconsistent");
    CHECK_STR_EQ(dlm_status_text((dlm_status)1000), "unknown status");
}

TEST(failing_fills_the_error) {
    dlm_error err;
    CHECK_STATUS(dlm__fail(&err, DLM_MISMATCH, "%s has %d", "a.bin", 3), DLM_MISMATCH, &err);
    CHECK_STR_EQ(err.message, "a.bin has 3");
    CHECK_INT_EQ(dlm__fail(NULL, DLM_IO, "nobody listens"), DLM_IO);
    CHECK_STATUS(dlm__fail_errno(&err, ENOENT, "%s", "a.bin"), DLM_NOT_FOUND, &err);
    CHECK_STR_EQ(err.message, "a.bin: No such file or directory");
    CHECK_STATUS(dlm__fail_errno(&err, EACCES, "%s", "a.bin"), DLM_IO, &err);
    CHECK_STATUS(dlm__fail_memory(&err, "weights", 12345), DLM_MEMORY, &err);
    CHECK_SAYS(&err, "weights: cannot allocate 12345 bytes");
}

TEST(messages_are_one_printable_line) {
    dlm_error err;
    dlm__fail(&err, DLM_FORMAT, "%s", "a\nb\033[31mc\x7f\r");
    CHECK_STR_EQ(err.message, "a b [31mc  ");
}

/* Whatever the length, the cut leaves whole UTF-8 characters, and the reason survives a long name. */
TEST(long_messages_are_cut_between_characters) {
    char name[2000];
    for (size_t offset = 0; offset < 4; offset++) {
        check_context("offset %zu", offset);
        memset(name, 'x', sizeof name);
        for (size_t i = offset; i + 4 < sizeof name; i += 4) memcpy(name + i, "\xf0\x9f\x98\x80", 4);
        name[sizeof name - 1] = 0;
        dlm_error err;
        dlm__fail(&err, DLM_FORMAT, "%s", name);
        size_t n = strlen(err.message);
        CHECK(n < sizeof err.message && n + 4 >= sizeof err.message);
        CHECK_INT_EQ((n - offset) % 4, 0);
        dlm__fail_errno(&err, EACCES, "%s", name);
        CHECK_SAYS(&err, ": Permission denied");
        const char *colon = strstr(err.message, ": Permission");
        CHECK_INT_EQ(((size_t)(colon - err.message) - offset) % 4, 0);
    }
}

TEST(checked_sizes) {
    size_t out;
    CHECK(dlm__size_mul(0, SIZE_MAX, &out) && out == 0);
    CHECK(dlm__size_mul(SIZE_MAX, 1, &out) && out == SIZE_MAX);
    CHECK(dlm__size_mul(SIZE_MAX / 3, 3, &out) && out == SIZE_MAX / 3 * 3);
    CHECK(!dlm__size_mul(SIZE_MAX / 2 + 1, 2, &out));
    CHECK(!dlm__size_mul((size_t)1 << 32, (size_t)1 << 32, &out));
    CHECK(dlm__size_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    CHECK(!dlm__size_add(SIZE_MAX, 1, &out));
    CHECK_INT_EQ(dlm__round_up(0, 16), 0);
    CHECK_INT_EQ(dlm__round_up(1, 16), 16);
    CHECK_INT_EQ(dlm__round_up(16, 16), 16);
    CHECK_INT_EQ(dlm__round_up(17, 5), 20);
}

TEST(allocation) {
    CHECK(dlm__calloc(SIZE_MAX / 2, 3) == NULL);
    unsigned char *none = dlm__calloc(0, 8), *some = dlm__calloc(3, 5);
    REQUIRE(none != NULL && some != NULL);
    for (size_t i = 0; i < 15; i++) CHECK_INT_EQ(some[i], 0);
    free(none);
    free(some);
    char *copy = dlm__copy_bytes("a\0b", 3);
    REQUIRE(copy != NULL);
    CHECK_MEM_EQ(copy, "a\0b", 4);
    free(copy);
}

TEST(growing) {
    int *array = NULL;
    size_t capacity = 0, grown_times = 0;
    for (size_t i = 0; i < 10000; i++) {
        size_t before = capacity;
        int *grown = dlm__grow(array, &capacity, i + 1, sizeof *array);
        REQUIRE(grown != NULL);
        array = grown;
        array[i] = (int)i;
        if (capacity != before) grown_times++;
    }
    CHECK(grown_times < 12);
    CHECK_INT_EQ(array[9999], 9999);
    size_t before = capacity;
    CHECK(dlm__grow(array, &capacity, SIZE_MAX, sizeof *array) == NULL);
    CHECK(dlm__grow(array, &capacity, SIZE_MAX / 8, 16) == NULL);
    CHECK_INT_EQ(capacity, before);
    free(array);
}

typedef struct layout {
    float *a;   /* (3) */
    double *b;  /* (0) */
    int32_t *c; /* (100) */
} layout;

static void lay_out(layout *l, dlm_arena *arena) {
    l->a = dlm__arena_take(arena, 3, sizeof *l->a);
    l->b = dlm__arena_take(arena, 0, sizeof *l->b);
    l->c = dlm__arena_take(arena, 100, sizeof *l->c);
}

TEST(arena_measures_then_binds) {
    dlm_arena arena = {0};
    layout l;
    dlm_error err;
    lay_out(&l, &arena);
    CHECK(l.a == NULL && l.c == NULL);
    CHECK_INT_EQ(arena.used, 64 + 0 + 448);
    REQUIRE_OK(dlm__arena_allocate(&arena, "layout", &err), &err);
    lay_out(&l, &arena);
    CHECK_INT_EQ(arena.used, arena.size);
    CHECK_INT_EQ((uintptr_t)l.a % DLM_ALIGN, 0);
    CHECK_INT_EQ((const char *)l.c - (const char *)l.a, 64);
    for (size_t i = 0; i < 100; i++) CHECK_INT_EQ(l.c[i], 0);
    dlm__arena_free(&arena);
    CHECK(arena.base == NULL && arena.size == 0);
}

TEST(arena_overflow_is_an_error) {
    dlm_error err;
    dlm_arena arena = {0};
    (void)dlm__arena_take(&arena, SIZE_MAX / 2, 4);
    CHECK_STATUS(dlm__arena_allocate(&arena, "logits", &err), DLM_MEMORY, &err);
    CHECK_SAYS(&err, "logits");
    arena = (dlm_arena){0};
    (void)dlm__arena_take(&arena, SIZE_MAX - 10, 1);
    CHECK_STATUS(dlm__arena_allocate(&arena, "logits", &err), DLM_MEMORY, &err);
    arena = (dlm_arena){0};
    (void)dlm__arena_take(&arena, SIZE_MAX / 2, 1);
    (void)dlm__arena_take(&arena, SIZE_MAX / 2, 1);
    (void)dlm__arena_take(&arena, SIZE_MAX / 2, 1);
    CHECK_STATUS(dlm__arena_allocate(&arena, "logits", &err), DLM_MEMORY, &err);
}

/* XXH3 and CRC-32C by their published values: data that others wrote must check. */
TEST(hashes) {
    CHECK(dlm__hash("", 0, 0) == 0x2d06800538d394c2U);
    CHECK(dlm__hash("a", 1, 0) != dlm__hash("a", 1, 1));
    CHECK_INT_EQ(dlm__crc32c("", 0), 0);
    CHECK_INT_EQ(dlm__crc32c("123456789", 9), 0xe3069283);
    CHECK_INT_EQ(dlm__crc32c((const unsigned char[32]){0}, 32), 0x8a9136aa);
}

TEST(json_accepts) {
    dlm_error err;
    json_t *json;
    const char *text = "{\"a\": [1, 2.5, \"x\\u0000y\"]}";
    REQUIRE_OK(dlm__json_parse("t", text, strlen(text), &json, &err), &err);
    CHECK_INT_EQ(json_string_length(json_array_get(json_object_get(json, "a"), 2)), 3);
    json_decref(json);
    REQUIRE_OK(dlm__json_parse("t", "\"text\"", 6, &json, &err), &err);
    CHECK(json_is_string(json));
    json_decref(json);
}

TEST(json_refuses) {
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "t.json: line 1"},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{\"a\":\n 1,}", "line 2"},
        {"\"\xff\"", "unable to decode byte 0xff"},
        {"[1e999]", "real number overflow"},
        {"[99999999999999999999]", "too big"},
        {"\"\\ud800\"", "invalid Unicode"},
        {"[1", "t.json"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        dlm_error err;
        json_t *json;
        check_context("%s", bad[i].text);
        CHECK_STATUS(dlm__json_parse("t.json", bad[i].text, strlen(bad[i].text), &json, &err), DLM_FORMAT,
                     &err);
        CHECK(json == NULL);
        CHECK_SAYS(&err, bad[i].says);
    }
}

/* A million opening brackets must not overflow the stack. */
TEST(json_deep_nesting) {
    size_t n = 1000000;
    char *deep = malloc(n);
    REQUIRE(deep != NULL);
    memset(deep, '[', n);
    dlm_error err;
    json_t *json;
    CHECK_STATUS(dlm__json_parse("deep.json", deep, n, &json, &err), DLM_FORMAT, &err);
    free(deep);
}

TEST(json_file) {
    dlm_error err;
    json_t *json;
    const char *dir = temporary_dir(), *path = path_in(dir, "a.json");
    CHECK_STATUS(dlm__json_load(path, &json, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, path);
    REQUIRE_OK(dlm__write_file(path, "[1]", 3, &err), &err);
    REQUIRE_OK(dlm__json_load(path, &json, &err), &err);
    json_decref(json);
    REQUIRE_OK(dlm__write_file(path, "[1", 2, &err), &err);
    CHECK_STATUS(dlm__json_load(path, &json, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, path);
}

static void count_one(void *context, size_t i) {
    atomic_fetch_add(&((atomic_int *)context)[i], 1);
}

TEST(parallel_for_calls_each_once) {
    static atomic_int counts[5000];
    size_t before = dlm__threads();
    for (size_t threads = 1; threads <= 5; threads += 2) {
        dlm_set_threads(threads);
        CHECK_INT_EQ(dlm__threads(), threads);
        for (size_t n = 0; n <= 5000; n = n * 3 + 1) {
            check_context("%zu threads, n %zu", threads, n);
            for (size_t i = 0; i < 5000; i++) atomic_store(&counts[i], 0);
            dlm__parallel_for(n, count_one, counts);
            for (size_t i = 0; i < 5000; i++) CHECK_INT_EQ(atomic_load(&counts[i]), i < n);
        }
    }
    dlm_set_threads(SIZE_MAX);
    CHECK(dlm__threads() >= 256 && dlm__threads() < 100000);
    dlm_set_threads(0);
    CHECK(dlm__threads() >= 1);
    dlm_set_threads(before);
}

TEST(clock_goes_on) {
    double before = dlm__seconds(), after = dlm__seconds();
    CHECK(after >= before && after < before + 60);
}
