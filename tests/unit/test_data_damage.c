/* Shards and their list, damaged in every way, are refused by name. */
#include "data_fixture.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- damage ------------------------------------------------------------------------------------------- */

/* Puts the checksums right: what is then refused is refused for what it says. */
static void seal(char *bytes, size_t size) {
    dlm_shard_header header;
    memcpy(&header, bytes, sizeof header);
    dlm_shard_section *sections[] = {&header.token_ids, &header.marks, &header.entries};
    for (size_t i = 0; i < 3; i++) {
        dlm_shard_section *s = sections[i];
        if (s->offset <= size && s->size <= size - s->offset)
            s->checksum = dlm__hash(bytes + s->offset, (size_t)s->size, 0);
    }
    header.checksum = dlm__hash(&header, offsetof(dlm_shard_header, checksum), 0);
    memcpy(bytes, &header, sizeof header);
}

/* A folder of three shards of two documents each; the bytes of the second one. */
typedef struct victim {
    dlm_tokenizer *tokenizer;
    const char *dir, *path;
    char *bytes;
    size_t size;
    dlm_shard_header header;
} victim;

static const size_t victim_lengths[] = {10, 20, 33, 4, 5, 6};

static bool make_victim(victim *v, const char *tokenizer) {
    text texts[6];
    int32_t ids[40];
    for (size_t i = 0; i < 40; i++) ids[i] = (int32_t)(10 + i * i % 200);
    for (size_t i = 0; i < 6; i++)
        texts[i] = (text){.ids = ids + i, .n = victim_lengths[i], .bytes = victim_lengths[i]};
    v->tokenizer = load(tokenizer);
    v->dir = temporary_dir();
    if (v->tokenizer == NULL || !write_data(v->dir, v->tokenizer, 16, texts, 6, 2)) return false;
    v->path = path_in(v->dir, "shard-00001.dlm");
    v->bytes = read_text(v->path, &v->size);
    if (!CHECK(v->bytes != NULL)) return false;
    memcpy(&v->header, v->bytes, sizeof v->header);
    return true;
}

static void put_file(const char *path, const void *bytes, size_t n) {
    dlm_error err;
    (void)CHECK_OK(dlm__write_file(path, bytes, n, &err), &err);
}

/* Opening says that it is the second shard, and why. */
static void refused(const victim *v, dlm_status status, const char *why) {
    dlm_data *data;
    dlm_error err = {0};
    CHECK_STATUS(dlm_data_open(v->dir, &data, &err), status, &err);
    CHECK(data == NULL);
    CHECK_SAYS(&err, "shard-00001.dlm");
    CHECK_SAYS(&err, why);
}

TEST(cut_off) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    const dlm_shard_header *h = &v.header;
    const uint64_t edges[] = {0,
                              sizeof h->magic,
                              sizeof *h,
                              h->token_ids.offset + h->tokens * h->width,
                              h->marks.offset,
                              h->marks.offset + h->windows,
                              h->entries.offset,
                              h->entries.offset + h->documents * sizeof(dlm_shard_entry),
                              v.size};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        for (uint64_t size = edges[i] > 0 ? edges[i] - 1 : 0; size <= edges[i] + 1 && size < v.size; size++) {
            check_context("cut off at byte %d of %zu", (int)size, v.size);
            put_file(v.path, v.bytes, (size_t)size);
            refused(&v, DLM_FORMAT, "is cut off");
        }
    }
    char *longer = calloc(v.size + 64, 1);
    if (longer == NULL) abort();
    memcpy(longer, v.bytes, v.size);
    check_context("%s", "64 bytes more");
    put_file(v.path, longer, v.size + 64);
    refused(&v, DLM_FORMAT, "its header says");
    free(longer);
    dlm_tokenizer_free(v.tokenizer);
}

/* Every byte of the file, each with one bit changed. */
TEST(flipped_bits) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    dlm_rng rng = dlm__rng(5, DLM_RNG_TEST, 0, 0);
    for (size_t at = 0; at < v.size; at++) {
        char before = v.bytes[at];
        dlm_shard shard;
        dlm_error err = {0};
        v.bytes[at] = (char)(v.bytes[at] ^ (1 << dlm__rng_below(&rng, 8)));
        check_context("byte %zu", at);
        CHECK(dlm__shard_parse(v.path, (const unsigned char *)v.bytes, v.size, &shard, &err) != DLM_OK);
        CHECK_SAYS(&err, "shard-00001.dlm");
        if (at % 16 == 0) {
            dlm_data *data;
            put_file(v.path, v.bytes, v.size);
            CHECK(dlm_data_open(v.dir, &data, &err) != DLM_OK);
            CHECK_SAYS(&err, "shard-00001.dlm");
        }
        v.bytes[at] = before;
    }
    dlm_tokenizer_free(v.tokenizer);
}

/* Changes n bytes at offset, seals, and expects the parser to say why. */
static void forged(const victim *v, uint64_t offset, const void *bytes, size_t n, const char *why) {
    char *copy = dlm__copy_bytes(v->bytes, v->size);
    dlm_shard shard;
    dlm_error err = {0};
    if (copy == NULL) abort();
    memcpy(copy + offset, bytes, n);
    seal(copy, v->size);
    check_context("%s", why);
    CHECK(dlm__shard_parse("forged", (const unsigned char *)copy, v->size, &shard, &err) != DLM_OK);
    CHECK_SAYS(&err, "forged");
    CHECK_SAYS(&err, why);
    free(copy);
}

#define FORGE(v, field, type, value, why) \
    forged(v, offsetof(dlm_shard_header, field), &(type){value}, sizeof(type), why)

TEST(forged_headers) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    forged(&v, 0, "SOMETHNG", 8, "is not a token shard");
    FORGE(&v, version, uint32_t, 2, "version 2, not 1");
    FORGE(&v, width, uint32_t, 4, "token ids of 4 bytes");
    FORGE(&v, vocab_size, uint64_t, 0, "a vocabulary of 0 tokens");
    FORGE(&v, vocab_size, uint64_t, UINT64_MAX, "a vocabulary of 18446744073709551615 tokens");
    FORGE(&v, vocab_size, uint64_t, 100, "is outside the vocabulary of 100");
    FORGE(&v, seq_len, uint64_t, 0, "a sequence length of 0");
    FORGE(&v, seq_len, uint64_t, UINT64_MAX, "a sequence length of 18446744073709551615");
    FORGE(&v, seq_len, uint64_t, 17, "windows");
    FORGE(&v, tokens, uint64_t, UINT64_MAX, "its header is inconsistent");
    FORGE(&v, tokens, uint64_t, UINT64_MAX / 2 + 1, "its header is inconsistent");
    FORGE(&v, tokens, uint64_t, 36, "document 1 is tokens 33 to 37 of 36");
    FORGE(&v, tokens, uint64_t, 38, "its documents have 37 tokens");
    FORGE(&v, documents, uint64_t, UINT64_MAX, "its header is inconsistent");
    FORGE(&v, documents, uint64_t, UINT64_MAX / 16 + 1, "its header is inconsistent");
    FORGE(&v, documents, uint64_t, 3, "document 2 is tokens 37 to 0 of 37");
    FORGE(&v, windows, uint64_t, UINT64_MAX, "its header is inconsistent");
    FORGE(&v, windows, uint64_t, 3, "the windows of document 1 are not marked");
    FORGE(&v, windows, uint64_t, 5, "4 windows");
    FORGE(&v, bytes, uint64_t, 1, "37 bytes, its header says 37, 4 and 1");
    FORGE(&v, token_ids.offset, uint64_t, 128, "its header is inconsistent");
    FORGE(&v, marks.offset, uint64_t, UINT64_MAX - 63, "its header is inconsistent");
    FORGE(&v, entries.size, uint64_t, 0, "its header is inconsistent");
    dlm_tokenizer_free(v.tokenizer);
}

TEST(forged_tables) {
    victim v;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    const dlm_shard_header *h = &v.header;
    static const dlm_shard_entry back = {.end = 30, .text = 8}, far = {.end = 38, .text = 66},
                                 short_of = {.end = 36, .text = 8}, many = {.end = 37, .text = UINT64_MAX};
    forged(&v, h->entries.offset + sizeof back, &back, sizeof back, "document 1 is tokens 33 to 30 of 37");
    forged(&v, h->entries.offset, &far, sizeof far, "document 0 is tokens 0 to 38 of 37");
    forged(&v, h->entries.offset + sizeof back, &short_of, sizeof short_of, "its documents have 36 tokens");
    forged(&v, h->entries.offset + sizeof back, &many, sizeof many, "bytes, its header says");
    forged(&v, h->marks.offset, "\1", 1, "the windows of document 0 are not marked");
    forged(&v, h->marks.offset + 2, "\1", 1, "the windows of document 0 are not marked");
    forged(&v, h->marks.offset + 3, "\3", 1, "the windows of document 1 are not marked");
    uint16_t outside = (uint16_t)h->vocab_size;
    forged(&v, h->token_ids.offset + 36 * 2, &outside, 2, "is outside the vocabulary");
    dlm_tokenizer_free(v.tokenizer);
}

TEST(wrong_shard) {
    victim v, other;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    REQUIRE(make_victim(&other, "tokenizer/stories_1024/tokenizer.json"));
    put_file(v.path, other.bytes, other.size);
    refused(&v, DLM_MISMATCH, "was made with another tokenizer");

    size_t size;
    char *first = read_text(path_in(v.dir, "shard-00000.dlm"), &size);
    put_file(v.path, first, size);
    refused(&v, DLM_MISMATCH, "is shard 0 of its data, not 1");

    /* Whole, in place, but not the one that data.json lists. */
    char *changed = dlm__copy_bytes(v.bytes, v.size);
    if (changed == NULL) abort();
    changed[v.header.token_ids.offset] ^= 1;
    seal(changed, v.size);
    put_file(v.path, changed, v.size);
    refused(&v, DLM_MISMATCH, "is not the shard that data.json lists");
    free(changed);

    CHECK_INT_EQ(unlink(v.path), 0);
    refused(&v, DLM_NOT_FOUND, "No such file");
    put_file(v.path, v.bytes, v.size);
    dlm_data *data;
    dlm_error err;
    REQUIRE_OK(dlm_data_open(v.dir, &data, &err), &err);
    dlm_data_close(data);

    char *json = read_text(path_in(other.dir, "tokenizer.json"), &size);
    put_file(path_in(v.dir, "tokenizer.json"), json, size);
    CHECK_STATUS(dlm_data_open(v.dir, &data, &err), DLM_MISMATCH, &err);
    CHECK_SAYS(&err, "another tokenizer");
    dlm_tokenizer_free(v.tokenizer);
    dlm_tokenizer_free(other.tokenizer);
}

/* ---- data.json ---------------------------------------------------------------------------------------- */

/* data.json with the first `from` made `to`. */
static void listed(const victim *v, const char *from, const char *to, const char *why) {
    const char *path = path_in(v->dir, "data.json");
    size_t size;
    char *json = read_text(path, &size), *at = json == NULL ? NULL : strstr(json, from);
    dlm_data *data;
    dlm_error err = {0};
    check_context("%s made %s", from, to);
    REQUIRE(at != NULL);
    size_t n = size + strlen(to) + 1;
    char *changed = malloc(n);
    if (changed == NULL) abort();
    (void)snprintf(changed, n, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    put_file(path, changed, strlen(changed));
    CHECK(dlm_data_open(v->dir, &data, &err) != DLM_OK);
    CHECK_SAYS(&err, "data.json");
    CHECK_SAYS(&err, why);
    put_file(path, json, size);
    free(changed);
}

TEST(wrong_list) {
    victim v;
    dlm_data *data;
    dlm_error err;
    REQUIRE(make_victim(&v, "tokenizer/exhausted/tokenizer.json"));
    listed(&v, "diffusionlm data", "something else", "\"kind\"");
    listed(&v, "\"version\": 1", "\"version\": 7", "version 7, not 1");
    listed(&v, "\"vocab_size\"", "\"vocab_sizes\"", "\"vocab_size\" is not a whole number");
    listed(&v, "\"seq_len\": 16", "\"seq_len\": 0", "a sequence length of 0");
    listed(&v, "\"seq_len\": 16", "\"seq_len\": 17", "\"lengths\"");
    listed(&v, "\"seq_len\": 16", "\"seq_len\": 1000000000000", "a sequence length of 1000000000000");
    listed(&v, "\"documents\": 6", "\"documents\": -6", "\"documents\" is not a whole number");
    listed(&v, "\"documents\": 6", "\"documents\": 7", "\"lengths\"");
    listed(&v, "\"tokens\": 78", "\"tokens\": 79", "79 tokens");
    listed(&v, "\"bytes\": 78", "\"bytes\": 79", "does not describe its shards");
    listed(&v, "\"longest\": 33", "\"longest\": 32", "does not describe its shards");
    listed(&v, "\"split\": 2", "\"split\": 1", "does not describe its shards");
    listed(&v, "[0, 0, 0", "[0, 0, 1", "\"lengths\"");
    listed(&v, "[0, 0, 0", "[0, 0, \"0\"", "\"lengths\"");
    listed(&v, "shard-00002.dlm", "../../secret", "\"file\" is not \"shard-00002.dlm\"");
    listed(&v, "\"checksum\": \"", "\"checksum\": \"0", "\"checksum\" is not a hash");
    listed(&v, "\"checksum\": \"", "\"checksum\": \"G", "\"checksum\" is not a hash");
    listed(&v, "}\n  ]", "}", "line");
    listed(&v, "{", "[", "line");

    CHECK_INT_EQ(unlink(path_in(v.dir, "data.json")), 0);
    CHECK_STATUS(dlm_data_open(v.dir, &data, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "is no folder of prepared data");
    CHECK_STATUS(dlm_data_open(path_in(v.dir, "nothing"), &data, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "no such folder");
    dlm_tokenizer_free(v.tokenizer);
}
