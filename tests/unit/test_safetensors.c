/* safetensors: values against files that the library itself wrote, every refusal, and what is written read
 * back. */
#include "check.h"

#include "format/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file in memory: its header as text, then n bytes of data; *size gets its length; free() it. */
static unsigned char *make(const char *header, size_t n, size_t *size) {
    uint64_t length = strlen(header);
    *size = 8 + (size_t)length + n;
    unsigned char *bytes = calloc(*size, 1);
    if (bytes == NULL) abort();
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, (size_t)length);
    for (size_t i = 0; i < n; i++) bytes[8 + length + i] = (unsigned char)(i + 1);
    return bytes;
}

static void refused(const char *header, size_t n, dlm_status status, const char *says) {
    size_t size;
    unsigned char *bytes = make(header, n, &size);
    dlm_safetensors *file = NULL;
    dlm_error err;
    check_context("%s", header);
    CHECK_STATUS(dlm__safetensors_parse("f", bytes, size, &file, &err), status, &err);
    CHECK_SAYS(&err, says);
    CHECK(file == NULL);
    dlm__safetensors_close(file);
    free(bytes);
}

TEST(refusals) {
    refused("{\"a\":1}", 0, DLM_FORMAT, "tensor a is not an object");
    refused("[]", 0, DLM_FORMAT, "not a JSON object");
    refused("{", 0, DLM_FORMAT, "line 1");
    refused("{} x", 0, DLM_FORMAT, "line 1");
    refused("{}", 1, DLM_FORMAT, "fill 0 bytes of the 1");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3, DLM_FORMAT, "fill 2 bytes");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, DLM_FORMAT,
            "the file holds 1");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, DLM_FORMAT,
            "begins at byte 1");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,1]}}", 3, DLM_FORMAT, "data_offsets");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0]}}", 3, DLM_FORMAT, "data_offsets");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2]}}", 2, DLM_FORMAT, "data_offsets");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
            3, DLM_FORMAT, "tensor b begins at byte 1");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, DLM_FORMAT,
            "2 values of F32 has 4 bytes");
    refused("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, DLM_FORMAT,
            "3 values of F4");
    refused("{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, DLM_UNSUPPORTED,
            "type F33");
    refused("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, DLM_FORMAT, "no dtype");
    refused("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4, DLM_FORMAT, "no shape");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,0]}}", 0, DLM_FORMAT, "not a count");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, DLM_FORMAT,
            "not a count");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
            DLM_FORMAT, "overflows");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0,
            DLM_FORMAT, "has 0 bytes");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0,
            DLM_FORMAT, "integer");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
            DLM_UNSUPPORTED, "9 dimensions");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
            1, DLM_FORMAT, "duplicate");
    refused("{\"__metadata__\":{\"a\":1}}", 0, DLM_FORMAT, "__metadata__ a is not a string");
    refused("{\"__metadata__\":[]}", 0, DLM_FORMAT, "__metadata__ is not an object");
    refused("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, DLM_FORMAT, "NUL");
}

TEST(refused_lengths) {
    dlm_safetensors *file;
    dlm_error err;
    unsigned char bytes[16] = {0};
    CHECK_STATUS(dlm__safetensors_parse("f", bytes, 7, &file, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "it has 7 bytes");
    CHECK_STATUS(dlm__safetensors_parse("f", bytes, 0, &file, &err), DLM_FORMAT, &err);
    memset(bytes, 0xff, 8);
    CHECK_STATUS(dlm__safetensors_parse("f", bytes, 16, &file, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "18446744073709551615");
    memcpy(bytes, &(uint64_t){9}, 8);
    CHECK_STATUS(dlm__safetensors_parse("f", bytes, 16, &file, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "header has 9 bytes and the file 16");
    CHECK_STATUS(dlm__safetensors_open("/nowhere/x.safetensors", &file, &err), DLM_NOT_FOUND, &err);
}

TEST(accepted) {
    size_t size;
    unsigned char *bytes = make("{\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
                                "\"zero\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]},"
                                "\"c\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[1,9]},"
                                "\"__metadata__\":{\"k\":\"v\"}}   ",
                                9, &size);
    dlm_safetensors *file;
    dlm_error err;
    REQUIRE_OK(dlm__safetensors_parse("f", bytes, size, &file, &err), &err);
    CHECK_INT_EQ(dlm__safetensors_count(file), 3);
    CHECK_STR_EQ(dlm__safetensors_at(file, 0)->name, "zero");
    CHECK_STR_EQ(dlm__safetensors_at(file, 2)->type_name, "C64");
    const dlm_st_tensor *b = dlm__safetensors_find(file, "b");
    REQUIRE(b != NULL);
    CHECK_INT_EQ(b->count, 1);
    CHECK_INT_EQ(*(const unsigned char *)b->data, 1);
    CHECK(dlm__safetensors_find(file, "bb") == NULL && dlm__safetensors_find(file, "") == NULL);
    CHECK_STR_EQ(dlm__safetensors_metadata(file, "k"), "v");
    CHECK(dlm__safetensors_metadata(file, "l") == NULL);
    float value;
    int32_t whole;
    CHECK_STATUS(dlm__safetensors_floats(file, b, &value, &err), DLM_UNSUPPORTED, &err);
    CHECK_SAYS(&err, "tensor b holds U8");
    CHECK_STATUS(dlm__safetensors_ints(file, b, &whole, &err), DLM_UNSUPPORTED, &err);
    dlm__safetensors_close(file);
    free(bytes);
}

TEST(fixture) {
    const char *path = golden_path("tiny/packed.safetensors");
    if (path == NULL) SKIP("no fixtures");
    dlm_safetensors *file;
    dlm_error err;
    REQUIRE_OK(dlm__safetensors_open(path, &file, &err), &err);
    CHECK_STR_EQ(dlm__safetensors_path(file), path);
    const dlm_st_tensor *lengths = dlm__safetensors_find(file, "lengths");
    int32_t n[4], sum = 0;
    REQUIRE(lengths != NULL && lengths->count == 4);
    REQUIRE_OK(dlm__safetensors_ints(file, lengths, n, &err), &err);
    for (size_t i = 0; i < 4; i++) sum += n[i];
    CHECK_INT_EQ(sum, dlm__safetensors_find(file, "x")->count);
    dlm__safetensors_close(file);
}

/* Writes one tensor of n values and opens the file. */
static dlm_safetensors *stored(dlm_st_type type, size_t n, const void *data) {
    const char *path = path_in(temporary_dir(), "one.safetensors");
    dlm_st_entry entry = {.name = "x", .type = type, .ndim = 1, .shape = {n}, .data = data};
    dlm_safetensors *file = NULL;
    dlm_error err;
    if (CHECK_OK(dlm__safetensors_save(path, &entry, 1, NULL, &err), &err)) {
        CHECK_OK(dlm__safetensors_open(path, &file, &err), &err);
    }
    return file;
}

/* All 65,536 half precision values, by the definition sign * fraction * 2^exponent. */
TEST(half_precision) {
    static uint16_t bits[65536];
    static float values[65536];
    for (size_t i = 0; i < 65536; i++) bits[i] = (uint16_t)i;
    dlm_safetensors *file = stored(DLM_ST_F16, 65536, bits);
    REQUIRE(file != NULL);
    REQUIRE(dlm__safetensors_floats(file, dlm__safetensors_at(file, 0), values, NULL) == DLM_OK);
    size_t wrong = 0;
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double want = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
        if (exponent == 31) want = fraction == 0 ? INFINITY : NAN;
        if (i >> 15) want = -want;
        bool same =
            isnan(want) ? isnan(values[i]) : (double)values[i] == want && !signbit(values[i]) == !(i >> 15);
        wrong += !same;
    }
    CHECK_INT_EQ(wrong, 0);
    dlm__safetensors_close(file);
}

TEST(other_types) {
    double wide[3] = {0.1, -1e300, 3};
    uint16_t brain[2] = {0x3f80, 0xc049};
    int64_t whole[2] = {INT32_MIN, INT32_MAX}, large[1] = {(int64_t)INT32_MAX + 1};
    float values[3];
    int32_t ids[2];
    dlm_error err;
    dlm_safetensors *file = stored(DLM_ST_F64, 3, wide);
    CHECK_OK(dlm__safetensors_floats(file, dlm__safetensors_at(file, 0), values, &err), &err);
    CHECK(values[0] == 0.1F && values[1] == -INFINITY && values[2] == 3);
    dlm__safetensors_close(file);
    file = stored(DLM_ST_BF16, 2, brain);
    CHECK_OK(dlm__safetensors_floats(file, dlm__safetensors_at(file, 0), values, &err), &err);
    CHECK(values[0] == 1 && values[1] == -3.140625F);
    dlm__safetensors_close(file);
    file = stored(DLM_ST_I64, 2, whole);
    CHECK_OK(dlm__safetensors_ints(file, dlm__safetensors_at(file, 0), ids, &err), &err);
    CHECK(ids[0] == INT32_MIN && ids[1] == INT32_MAX);
    CHECK_STATUS(dlm__safetensors_floats(file, dlm__safetensors_at(file, 0), values, &err), DLM_UNSUPPORTED,
                 &err);
    dlm__safetensors_close(file);
    file = stored(DLM_ST_I64, 1, large);
    CHECK_STATUS(dlm__safetensors_ints(file, dlm__safetensors_at(file, 0), ids, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, "2147483648");
    dlm__safetensors_close(file);
}

TEST(written_and_read) {
    float a[6] = {1, 2, 3, 4, 5, -0.0F};
    int32_t b[1] = {7};
    const char *path = path_in(temporary_dir(), "two.safetensors");
    dlm_st_entry entries[] = {{.name = "a", .type = DLM_ST_F32, .ndim = 2, .shape = {2, 3}, .data = a},
                              {.name = "b", .type = DLM_ST_I32, .ndim = 0, .data = b}};
    const char *const metadata[] = {"config", "{\"x\": \"\\u00e9\"}", "more", "", NULL};
    dlm_safetensors *file;
    dlm_error err;
    REQUIRE_OK(dlm__safetensors_save(path, entries, 2, metadata, &err), &err);
    size_t size;
    char *bytes = read_text(path, &size);
    REQUIRE(bytes != NULL);
    CHECK_INT_EQ((uint8_t)bytes[0] % 8, 0);
    REQUIRE_OK(dlm__safetensors_open(path, &file, &err), &err);
    CHECK_STR_EQ(dlm__safetensors_metadata(file, "config"), metadata[1]);
    CHECK_STR_EQ(dlm__safetensors_metadata(file, "more"), "");
    const dlm_st_tensor *tensor = dlm__safetensors_find(file, "a");
    CHECK(tensor->ndim == 2 && tensor->shape[0] == 2 && tensor->shape[1] == 3 && tensor->type == DLM_ST_F32);
    CHECK_MEM_EQ(tensor->data, a, sizeof a);
    CHECK_MEM_EQ(dlm__safetensors_find(file, "b")->data, b, sizeof b);
    dlm__safetensors_close(file);
    entries[1].name = "a";
    CHECK_STATUS(dlm__safetensors_save(path, entries, 2, NULL, &err), DLM_ARGUMENT, &err);
    entries[1].name = "not \xff text";
    CHECK_STATUS(dlm__safetensors_save(path, entries, 2, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_STATUS(dlm__safetensors_save("/nowhere/x", entries, 1, NULL, &err), DLM_NOT_FOUND, &err);
}

/* Every part of every type, from a file and from memory. */
TEST(parts) {
    enum { N = 7 };
    float singles[N] = {1, -2, 3.5F, -0.0F, 1e-30F, 6, 7};
    double doubles[N] = {0.1, 2, 3, 4, 5, 6, 7};
    uint16_t halves[N] = {0x3c00, 0xc000, 1, 0x7bff, 0, 0x8000, 0x3555},
             brains[N] = {0x3f80, 0xc049, 1, 2, 3, 4, 5};
    int8_t bytes[N] = {1, -128, 127, 0, 5, 6, -7};
    const dlm_st_entry entries[] = {
        {.name = "e", .type = DLM_ST_F32, .ndim = 1, .shape = {N}, .data = singles},
        {.name = "d", .type = DLM_ST_F64, .ndim = 1, .shape = {N}, .data = doubles},
        {.name = "c", .type = DLM_ST_F16, .ndim = 1, .shape = {N}, .data = halves},
        {.name = "b", .type = DLM_ST_BF16, .ndim = 1, .shape = {N}, .data = brains},
        {.name = "a", .type = DLM_ST_I8, .ndim = 1, .shape = {N}, .data = bytes}};
    const char *path = path_in(temporary_dir(), "parts.safetensors");
    dlm_safetensors *files[2];
    dlm_error err;
    size_t size;
    REQUIRE_OK(dlm__safetensors_save(path, entries, 5, NULL, &err), &err);
    char *text = read_text(path, &size);
    REQUIRE(text != NULL);
    REQUIRE_OK(dlm__safetensors_open(path, &files[0], &err), &err);
    REQUIRE_OK(dlm__safetensors_parse("f", text, size, &files[1], &err), &err);
    for (size_t i = 0; i < 2; i++) {
        const dlm_tensors tensors = dlm__safetensors_tensors(files[i]);
        for (size_t at = 0; at < tensors.n; at++) {
            float whole[N], part[N];
            REQUIRE_OK(tensors.floats(tensors.file, at, whole, &err), &err);
            for (size_t first = 0; first <= N; first++) {
                for (size_t n = 0; n <= N - first; n++) {
                    REQUIRE_OK(tensors.part(tensors.file, at, first, n, part, &err), &err);
                    CHECK_MEM_EQ(part, whole + first, n * sizeof *part);
                }
            }
            if (tensors.at(tensors.file, at).name[0] == 'e') CHECK_MEM_EQ(whole, singles, sizeof whole);
        }
        dlm__safetensors_close(files[i]);
    }
}

/* Of a file that has been cut since it was opened. */
/* A page of a map whose file has ended would end the process. */
static void check_cut(dlm_st_type type, size_t size) {
    const size_t n = 100000;
    void *values = calloc(n, 8);
    float *floats = calloc(n, sizeof *floats);
    const char *path = path_in(temporary_dir(), "cut.safetensors");
    const dlm_st_entry entry = {.name = "a", .type = type, .ndim = 1, .shape = {n}, .data = values};
    dlm_safetensors *file;
    dlm_error err;
    REQUIRE(values != NULL && floats != NULL);
    REQUIRE_OK(dlm__safetensors_save(path, &entry, 1, NULL, &err), &err);
    REQUIRE_OK(dlm__safetensors_open(path, &file, &err), &err);
    REQUIRE(truncate(path, (off_t)(n * size / 2)) == 0);
    CHECK_STATUS(dlm__safetensors_floats(file, dlm__safetensors_at(file, 0), floats, &err), DLM_IO, &err);
    CHECK_SAYS(&err, "cut.safetensors has become shorter");
    dlm__safetensors_close(file);
    free(values), free(floats);
}

TEST(cut_off_while_open) {
    check_cut(DLM_ST_F32, 4);
    check_cut(DLM_ST_BF16, 2);
    check_cut(DLM_ST_F16, 2);
    check_cut(DLM_ST_I8, 1);
}
