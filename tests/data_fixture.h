/* Data written shard by shard, without dlm_prepare, for the tests of reading it. */
#ifndef DATA_FIXTURE_H
#define DATA_FIXTURE_H

#include "check.h"

#include "train/data.h"
#include "train/shard.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct text {
    const int32_t *ids;
    size_t n;
    uint64_t bytes;
    bool space;
} text;

static inline dlm_shard_kind kind_of(const dlm_tokenizer *tokenizer, size_t seq_len) {
    dlm_tokenizer_info info = dlm_tokenizer_describe(tokenizer);
    return (dlm_shard_kind){.vocabulary_hash = info.hash, .vocab_size = info.vocab_size, .seq_len = seq_len};
}

/* Writes n texts into a new folder, `per_shard` in each shard. */
static inline bool write_data(const char *dir, const dlm_tokenizer *tokenizer, size_t seq_len,
                              const text *texts, size_t n, size_t per_shard) {
    dlm_error err;
    dlm_shard_kind kind = kind_of(tokenizer, seq_len);
    dlm_shard_list list;
    dlm_shard_writer *writer = NULL;
    bool ok = CHECK_OK(dlm_tokenizer_save(tokenizer, dir, &err), &err) &&
              CHECK_OK(dlm__shard_list_create(&kind, &list, &err), &err);
    for (size_t i = 0; ok && i < n; i++) {
        char name[DLM_SHARD_NAME_SIZE];
        dlm__shard_name(list.info.shards, name);
        if (writer == NULL)
            ok =
                CHECK_OK(dlm__shard_create(path_in(dir, name), &kind, list.info.shards, &writer, &err), &err);
        ok = ok &&
             CHECK_OK(dlm__shard_add(writer, texts[i].ids, texts[i].n, texts[i].bytes, texts[i].space, &err),
                      &err);
        dlm__shard_list_count(&list, texts[i].n, texts[i].bytes);
        if (ok && ((i + 1) % per_shard == 0 || i + 1 == n)) {
            dlm_shard_header header;
            ok = CHECK_OK(dlm__shard_commit(writer, &header, &err), &err) &&
                 CHECK_OK(dlm__shard_list_add(&list, &header, &err), &err);
            writer = NULL;
        }
    }
    ok = ok && CHECK_OK(dlm__shard_list_write(&list, path_in(dir, "data.json"), &err), &err);
    dlm__shard_list_free(&list);
    return ok;
}

static inline dlm_tokenizer *load(const char *name) {
    dlm_error err;
    dlm_tokenizer *tokenizer = NULL;
    const char *path = golden_path(name);
    if (CHECK(path != NULL)) (void)CHECK_OK(dlm_tokenizer_load(path, &tokenizer, &err), &err);
    return tokenizer;
}

/* The shortest tokenizer.json with `vocab_size` tokens: 256 bytes are not needed where no text is encoded. */
static inline dlm_tokenizer *large_tokenizer(size_t vocab_size) {
    static const char head[] =
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"normalizer\": null, "
        "\"added_tokens\": [],"
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
        "\"use_regex\": true}, \"post_processor\": null,"
        "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
        "\"use_regex\": true},"
        "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
        "\"continuing_subword_prefix\": null,"
        "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": "
        "false,"
        "\"merges\": [], \"vocab\": {";
    size_t size = sizeof head + vocab_size * 32, at;
    char *json = malloc(size);
    dlm_tokenizer *tokenizer = NULL;
    dlm_error err;
    if (json == NULL) abort();
    at = (size_t)snprintf(json, size, "%s", head);
    for (size_t i = 0; i < vocab_size; i++)
        at += (size_t)snprintf(json + at, size - at, "%s\"t%zu\": %zu", i > 0 ? ", " : "", i, i);
    at += (size_t)snprintf(json + at, size - at, "}}}");
    (void)CHECK_OK(dlm_tokenizer_parse("large", json, at, &tokenizer, &err), &err);
    free(json);
    return tokenizer;
}

#endif
