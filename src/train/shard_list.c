/* data.json: what a DATA folder holds, so that it can be looked at without opening shards, and so that a
 * shard that is missing, of another run or exchanged is noticed. */
#include "train/shard.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define KIND "diffusionlm data"

dlm_status dlm__shard_list_create(const dlm_shard_kind *kind, dlm_shard_list *list, dlm_error *err) {
    *list = (dlm_shard_list){.vocab_size = kind->vocab_size,
                             .info = {.seq_len = kind->seq_len, .vocabulary_hash = kind->vocabulary_hash}};
    list->lengths = dlm__calloc(kind->seq_len + 1, sizeof *list->lengths);
    if (list->lengths != NULL) return DLM_OK;
    return dlm__fail_memory(err, "histogram of document lengths", kind->seq_len + 1);
}

void dlm__shard_list_free(dlm_shard_list *list) {
    free(list->lengths);
    free(list->shards);
    *list = (dlm_shard_list){0};
}

void dlm__shard_list_count(dlm_shard_list *list, uint64_t n, uint64_t bytes) {
    dlm_data_info *info = &list->info;
    uint64_t windows = dlm__shard_windows(n, info->seq_len);
    info->documents++;
    info->tokens += n;
    info->bytes += bytes;
    info->windows += windows;
    if (windows > 1) info->split++;
    if (n > info->longest) info->longest = n;
    list->lengths[n < info->seq_len ? n + 1 : info->seq_len]++;
}

dlm_status dlm__shard_list_add(dlm_shard_list *list, const dlm_shard_header *header, dlm_error *err) {
    size_t n = list->info.shards + 1;
    dlm_shard_listed *grown = dlm__grow(list->shards, &list->capacity, n, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(err, "list of shards", n * sizeof *grown);
    list->shards = grown;
    list->shards[n - 1] = (dlm_shard_listed){.size = dlm__shard_file_size(header),
                                             .documents = header->documents,
                                             .tokens = header->tokens,
                                             .checksum = header->checksum};
    list->info.shards = n;
    return DLM_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

dlm_status dlm__shard_list_write(const dlm_shard_list *list, const char *path, dlm_error *err) {
    const dlm_data_info *info = &list->info;
    dlm_output *out;
    DLM_TRY(dlm__output_create(path, &out, err));
    dlm__output_printf(out, "{\n  \"kind\": \"%s\",\n  \"version\": %u,\n", KIND, DLM_SHARD_VERSION);
    dlm__output_printf(out, "  \"vocabulary_hash\": \"%016" PRIx64 "\",\n  \"vocab_size\": %zu,\n",
                       info->vocabulary_hash, list->vocab_size);
    dlm__output_printf(out,
                       "  \"seq_len\": %zu,\n  \"documents\": %" PRIu64 ",\n  \"tokens\": %" PRIu64 ",\n",
                       info->seq_len, info->documents, info->tokens);
    dlm__output_printf(out, "  \"bytes\": %" PRIu64 ",\n  \"longest\": %" PRIu64 ",\n", info->bytes,
                       info->longest);
    dlm__output_printf(out, "  \"split\": %" PRIu64 ",\n  \"windows\": %" PRIu64 ",\n  \"lengths\": [",
                       info->split, info->windows);
    for (size_t i = 0; i <= info->seq_len; i++)
        dlm__output_printf(out, "%s%" PRIu64, i > 0 ? ", " : "", list->lengths[i]);
    dlm__output_printf(out, "],\n  \"shards\": [");
    for (size_t i = 0; i < info->shards; i++) {
        const dlm_shard_listed *shard = &list->shards[i];
        char name[DLM_SHARD_NAME_SIZE];
        dlm__shard_name(i, name);
        dlm__output_printf(out,
                           "%s\n    {\"file\": \"%s\", \"size\": %" PRIu64 ", \"documents\": %" PRIu64
                           ", \"tokens\": %" PRIu64 ", \"checksum\": \"%016" PRIx64 "\"}",
                           i > 0 ? "," : "", name, shard->size, shard->documents, shard->tokens,
                           shard->checksum);
    }
    dlm__output_printf(out, "\n  ]\n}\n");
    return dlm__output_commit(out, err);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static dlm_status wrong(const char *name, const char *key, const char *want, dlm_error *err) {
    return dlm__fail(err, DLM_FORMAT, "%s: \"%s\" is not %s", name, key, want);
}

static dlm_status get_count(const char *name, const json_t *object, const char *key, uint64_t *value,
                            dlm_error *err) {
    const json_t *found = json_object_get(object, key);
    if (!json_is_integer(found) || json_integer_value(found) < 0)
        return wrong(name, key, "a whole number", err);
    *value = (uint64_t)json_integer_value(found);
    return DLM_OK;
}

static dlm_status get_string(const char *name, const json_t *object, const char *key, const char *want,
                             dlm_error *err) {
    const json_t *found = json_object_get(object, key);
    if (json_is_string(found) && strcmp(json_string_value(found), want) == 0) return DLM_OK;
    char text[64];
    (void)snprintf(text, sizeof text, "\"%s\"", want);
    return wrong(name, key, text, err);
}

/* Exactly 16 hexadecimal digits. */
static dlm_status get_hash(const char *name, const json_t *object, const char *key, uint64_t *value,
                           dlm_error *err) {
    const json_t *found = json_object_get(object, key);
    const char *text = json_is_string(found) ? json_string_value(found) : "";
    if (json_string_length(found) != 16 || strspn(text, "0123456789abcdef") != 16)
        return wrong(name, key, "a hash of 16 hexadecimal digits", err);
    *value = strtoull(text, NULL, 16);
    return DLM_OK;
}

static dlm_status read_kind(const char *name, const json_t *root, dlm_shard_kind *kind, dlm_error *err) {
    uint64_t version = 0, vocab_size = 0, seq_len = 0;
    DLM_TRY(get_string(name, root, "kind", KIND, err));
    DLM_TRY(get_count(name, root, "version", &version, err));
    if (version != DLM_SHARD_VERSION)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: version %" PRIu64 ", not %u", name, version,
                         DLM_SHARD_VERSION);
    DLM_TRY(get_hash(name, root, "vocabulary_hash", &kind->vocabulary_hash, err));
    DLM_TRY(get_count(name, root, "vocab_size", &vocab_size, err));
    DLM_TRY(get_count(name, root, "seq_len", &seq_len, err));
    if (vocab_size == 0 || vocab_size > INT32_MAX)
        return dlm__fail(err, DLM_FORMAT, "%s: a vocabulary of %" PRIu64 " tokens", name, vocab_size);
    if (seq_len == 0 || seq_len > DLM_DATA_SEQ_LEN_MAX)
        return dlm__fail(err, DLM_FORMAT, "%s: a sequence length of %" PRIu64 ", not 1 to %zu", name, seq_len,
                         DLM_DATA_SEQ_LEN_MAX);
    kind->vocab_size = (size_t)vocab_size;
    kind->seq_len = (size_t)seq_len;
    return DLM_OK;
}

static dlm_status read_lengths(const char *name, const json_t *root, dlm_shard_list *list, dlm_error *err) {
    const json_t *lengths = json_object_get(root, "lengths");
    uint64_t sum = 0;
    if (json_array_size(lengths) != list->info.seq_len + 1)
        return wrong(name, "lengths", "an array of \"seq_len\" + 1 numbers", err);
    for (size_t i = 0; i <= list->info.seq_len; i++) {
        const json_t *count = json_array_get(lengths, i);
        if (!json_is_integer(count) || json_integer_value(count) < 0)
            return wrong(name, "lengths", "an array of whole numbers", err);
        list->lengths[i] = (uint64_t)json_integer_value(count);
        if (list->lengths[i] > list->info.documents - sum)
            return wrong(name, "lengths", "a histogram of \"documents\" documents", err);
        sum += list->lengths[i];
    }
    return sum == list->info.documents
               ? DLM_OK
               : wrong(name, "lengths", "a histogram of \"documents\" documents", err);
}

static dlm_status read_shards(const char *name, const json_t *root, dlm_shard_list *list, dlm_error *err) {
    const json_t *shards = json_object_get(root, "shards");
    size_t n = json_array_size(shards);
    if (n == 0) return wrong(name, "shards", "an array of shards", err);
    list->shards = dlm__calloc(n, sizeof *list->shards);
    if (list->shards == NULL) return dlm__fail_memory(err, name, n * sizeof *list->shards);
    list->capacity = list->info.shards = n;
    uint64_t documents = list->info.documents, tokens = list->info.tokens;
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_array_get(shards, i);
        dlm_shard_listed *shard = &list->shards[i];
        char file[DLM_SHARD_NAME_SIZE];
        dlm__shard_name(i, file);
        DLM_TRY(get_string(name, entry, "file", file, err));
        DLM_TRY(get_count(name, entry, "size", &shard->size, err));
        DLM_TRY(get_count(name, entry, "documents", &shard->documents, err));
        DLM_TRY(get_count(name, entry, "tokens", &shard->tokens, err));
        DLM_TRY(get_hash(name, entry, "checksum", &shard->checksum, err));
        if (shard->documents > documents || shard->tokens > tokens) break;
        documents -= shard->documents;
        tokens -= shard->tokens;
        if (i + 1 == n && documents == 0 && tokens == 0) return DLM_OK;
    }
    return dlm__fail(err, DLM_FORMAT,
                     "%s: its shards do not sum up to %" PRIu64 " documents and %" PRIu64 " tokens", name,
                     list->info.documents, list->info.tokens);
}

static dlm_status read_list(const char *name, const json_t *root, dlm_shard_list *list, dlm_error *err) {
    dlm_shard_kind kind = {0};
    DLM_TRY(read_kind(name, root, &kind, err));
    DLM_TRY(dlm__shard_list_create(&kind, list, err));
    dlm_data_info *info = &list->info;
    DLM_TRY(get_count(name, root, "documents", &info->documents, err));
    DLM_TRY(get_count(name, root, "tokens", &info->tokens, err));
    DLM_TRY(get_count(name, root, "bytes", &info->bytes, err));
    DLM_TRY(get_count(name, root, "longest", &info->longest, err));
    DLM_TRY(get_count(name, root, "split", &info->split, err));
    DLM_TRY(get_count(name, root, "windows", &info->windows, err));
    DLM_TRY(read_lengths(name, root, list, err));
    return read_shards(name, root, list, err);
}

dlm_status dlm__shard_list_parse(const char *name, const char *json, size_t n, dlm_shard_list *list,
                                 dlm_error *err) {
    *list = (dlm_shard_list){0};
    json_t *root;
    DLM_TRY(dlm__json_parse(name, json, n, &root, err));
    dlm_status status = read_list(name, root, list, err);
    json_decref(root);
    if (status != DLM_OK) dlm__shard_list_free(list);
    return status;
}
