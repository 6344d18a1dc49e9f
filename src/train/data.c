/* Opening a DATA folder, and its documents as training and evaluation see them. */
#include "train/data.h"

#include "text/tokenizer.h"
#include "train/shard.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A larger data.json is of no data that this program wrote. */
#define LIST_LIMIT ((size_t)64 << 20)

struct dlm_data {
    char *path;
    dlm_tokenizer *tokenizer;
    dlm_shard_list list;
    dlm_map *maps;         /* (shards) */
    dlm_shard *shards;     /* (shards) */
    uint64_t *first;       /* (shards + 1) documents before each shard */
    uint32_t *token_bytes; /* (V) bytes that an id stands for */
    int32_t end_id;
};

/* ---- opening ------------------------------------------------------------------------------------------ */

/* One of the folder's files: "path/name". */
static dlm_status join(const dlm_data *data, const char *name, char **path, dlm_error *err) {
    *path = dlm__join(data->path, name);
    return *path != NULL ? DLM_OK : dlm__fail_memory(err, name, strlen(data->path) + strlen(name) + 2);
}

static dlm_status read_list(dlm_data *data, dlm_error *err) {
    char *path, *json = NULL;
    size_t n;
    if (!dlm__is_dir(data->path))
        return dlm__fail(err, DLM_NOT_FOUND, "%s: there is no such folder of prepared data", data->path);
    DLM_TRY(join(data, DLM_SHARD_LIST_FILE, &path, err));
    dlm_status status = dlm__read_file(path, LIST_LIMIT, &json, &n, err);
    if (status == DLM_NOT_FOUND)
        status = dlm__fail(err, status, "%s is no folder of prepared data: it has no %s", data->path,
                           DLM_SHARD_LIST_FILE);
    if (status == DLM_OK) status = dlm__shard_list_parse(path, json, n, &data->list, err);
    free(json);
    free(path);
    return status;
}

static dlm_status load_tokenizer(dlm_data *data, dlm_error *err) {
    const dlm_data_info *info = &data->list.info;
    DLM_TRY(dlm__tokenizer_read(data->path, &data->tokenizer, err));
    dlm_tokenizer_info tokenizer = dlm_tokenizer_describe(data->tokenizer);
    if (tokenizer.hash != info->vocabulary_hash || tokenizer.vocab_size != data->list.vocab_size)
        return dlm__fail(err, DLM_MISMATCH,
                         "%s was prepared with another tokenizer than is in it: vocabulary %016" PRIx64
                         " of %zu tokens, %s has %016" PRIx64 " of %zu",
                         data->path, info->vocabulary_hash, data->list.vocab_size, "tokenizer.json",
                         tokenizer.hash, tokenizer.vocab_size);
    data->end_id = tokenizer.end_id;
    data->token_bytes = dlm__calloc(tokenizer.vocab_size, sizeof *data->token_bytes);
    if (data->token_bytes == NULL)
        return dlm__fail_memory(err, data->path, tokenizer.vocab_size * sizeof *data->token_bytes);
    for (size_t id = 0; id < tokenizer.vocab_size; id++) {
        size_t bytes = 0;
        bool special = false;
        (void)dlm_tokenizer_token(data->tokenizer, (int32_t)id, &bytes, &special);
        /* The only special token that text becomes is [UNK], for bytes that nobody counted. */
        data->token_bytes[id] = special ? 0 : (uint32_t)bytes;
    }
    return DLM_OK;
}

/* Maps and checks shard i. */
static dlm_status open_shard(dlm_data *data, size_t i, dlm_error *err) {
    const dlm_shard_list *list = &data->list;
    const dlm_shard_listed *listed = &list->shards[i];
    dlm_shard_kind kind = {.vocabulary_hash = list->info.vocabulary_hash,
                           .vocab_size = list->vocab_size,
                           .seq_len = list->info.seq_len};
    dlm_shard *shard = &data->shards[i];
    char name[DLM_SHARD_NAME_SIZE], *path;
    dlm__shard_name(i, name);
    DLM_TRY(join(data, name, &path, err));
    dlm_status status = dlm__map(path, &data->maps[i], err);
    if (status == DLM_OK)
        status = dlm__shard_parse(path, data->maps[i].bytes, data->maps[i].size, shard, err);
    if (status == DLM_OK) status = dlm__shard_check(path, shard, &kind, i, err);
    if (status == DLM_OK &&
        (shard->header.checksum != listed->checksum || data->maps[i].size != listed->size ||
         shard->header.documents != listed->documents || shard->header.tokens != listed->tokens))
        status = dlm__fail(err, DLM_MISMATCH, "%s is not the shard that %s lists there", path,
                           DLM_SHARD_LIST_FILE);
    free(path);
    return status;
}

typedef struct opening {
    dlm_data *data;
    dlm_error *errors; /* (shards) */
} opening;

static void open_one(void *context, size_t i) {
    opening *o = context;
    o->errors[i].status = open_shard(o->data, i, &o->errors[i]);
}

/* All shards on all threads; the error of the first that has one. */
static dlm_status open_shards(dlm_data *data, dlm_error *err) {
    size_t n = data->list.info.shards;
    opening o = {.data = data, .errors = dlm__calloc(n, sizeof *o.errors)};
    data->maps = dlm__calloc(n, sizeof *data->maps);
    data->shards = dlm__calloc(n, sizeof *data->shards);
    data->first = dlm__calloc(n + 1, sizeof *data->first);
    dlm_status status = DLM_OK;
    if (o.errors == NULL || data->maps == NULL || data->shards == NULL || data->first == NULL) {
        status = dlm__fail_memory(err, data->path, n * (sizeof *o.errors + sizeof *data->shards));
    } else {
        dlm__parallel_for(n, open_one, &o);
        for (size_t i = 0; i < n && status == DLM_OK; i++) {
            status = o.errors[i].status;
            if (status != DLM_OK && err != NULL) *err = o.errors[i];
            data->first[i + 1] = data->first[i] + data->shards[i].header.documents;
        }
    }
    free(o.errors);
    return status;
}

/* What data.json says of the documents is what the shards hold. */
static dlm_status check_totals(const dlm_data *data, dlm_error *err) {
    const dlm_data_info *want = &data->list.info;
    dlm_shard_kind kind = {.seq_len = want->seq_len};
    dlm_shard_list got;
    DLM_TRY(dlm__shard_list_create(&kind, &got, err));
    for (uint64_t i = 0; i < want->documents; i++) {
        dlm_document document = dlm__data_document(data, i);
        dlm__shard_list_count(&got, document.n, document.bytes);
    }
    const dlm_data_info *have = &got.info;
    bool same = have->tokens == want->tokens && have->bytes == want->bytes &&
                have->longest == want->longest && have->split == want->split &&
                have->windows == want->windows &&
                memcmp(got.lengths, data->list.lengths, (want->seq_len + 1) * sizeof *got.lengths) == 0;
    dlm__shard_list_free(&got);
    return same ? DLM_OK
                : dlm__fail(err, DLM_FORMAT,
                            "%s/%s does not describe its shards: totals or lengths differ from the documents",
                            data->path, DLM_SHARD_LIST_FILE);
}

dlm_status dlm_data_open(const char *path, dlm_data **data, dlm_error *err) {
    *data = NULL;
    dlm_data *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, path, sizeof *made);
    made->path = dlm__copy_bytes(path, strlen(path));
    dlm_status status = made->path != NULL ? DLM_OK : dlm__fail_memory(err, path, strlen(path));
    if (status == DLM_OK) status = read_list(made, err);
    if (status == DLM_OK) status = load_tokenizer(made, err);
    if (status == DLM_OK) status = open_shards(made, err);
    if (status == DLM_OK) status = check_totals(made, err);
    if (status == DLM_OK)
        *data = made;
    else
        dlm_data_close(made);
    return status;
}

void dlm_data_close(dlm_data *data) {
    if (data == NULL) return;
    for (size_t i = 0; data->maps != NULL && i < data->list.info.shards; i++) dlm__unmap(&data->maps[i]);
    dlm__shard_list_free(&data->list);
    dlm_tokenizer_free(data->tokenizer);
    free(data->path);
    free(data->maps);
    free(data->shards);
    free(data->first);
    free(data->token_bytes);
    free(data);
}

dlm_data_info dlm_data_describe(const dlm_data *data) {
    return data->list.info;
}

uint64_t dlm__data_hash(const dlm_data *data) {
    uint64_t hash = data->list.info.vocabulary_hash;
    for (size_t i = 0; i < data->list.info.shards; i++)
        hash = dlm__hash(&data->list.shards[i].checksum, sizeof data->list.shards[i].checksum, hash);
    return hash;
}

const dlm_tokenizer *dlm_data_tokenizer(const dlm_data *data) {
    return data->tokenizer;
}

/* ---- documents ---------------------------------------------------------------------------------------- */

dlm_document dlm__data_document(const dlm_data *data, uint64_t i) {
    assert(i < data->list.info.documents);
    /* The last shard that begins at or before document i; first[low] <= i < first[high]. */
    size_t low = 0, high = data->list.info.shards;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (data->first[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    const dlm_shard *shard = &data->shards[low];
    size_t at = (size_t)(i - data->first[low]), width = shard->header.width;
    uint64_t begin = at > 0 ? shard->entries[at - 1].end : 0;
    const dlm_shard_entry *entry = &shard->entries[at];
    return (dlm_document){.tokens = (const unsigned char *)shard->token_ids + begin * width,
                          .width = width,
                          .n = (size_t)(entry->end - begin),
                          .bytes = entry->text / 2,
                          .space = entry->text % 2 != 0};
}

void dlm__data_lengths(const dlm_data *data, size_t seq_len, bool end_token, uint64_t *counts) {
    memset(counts, 0, (seq_len + 1) * sizeof *counts);
    for (uint64_t i = 0; i < data->list.info.documents; i++) {
        const size_t n = dlm__data_document(data, i).n + end_token;
        counts[n < seq_len ? n : seq_len]++;
    }
}

static int32_t token(const dlm_document *document, size_t i) {
    return document->width == 2 ? (int32_t)((const uint16_t *)document->tokens)[i]
                                : (int32_t)((const uint32_t *)document->tokens)[i];
}

/* Bytes that tokens first .. first + n - 1 stand for, without the space that encoding added. */
static uint64_t text_bytes(const dlm_data *data, const dlm_document *document, size_t first, size_t n) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += data->token_bytes[token(document, first + i)];
    return first == 0 && bytes > 0 && document->space ? bytes - 1 : bytes;
}

uint64_t dlm__window_ids(const dlm_data *data, const dlm_window *window, int32_t *ids) {
    dlm_document document = dlm__data_document(data, window->document);
    size_t rest = document.n - window->first, n = window->n < rest ? window->n : rest;
    for (size_t i = 0; i < n; i++) ids[i] = token(&document, window->first + i);
    if (window->n > n) ids[n] = data->end_id;
    if (n < rest) return text_bytes(data, &document, window->first, n);
    /* The document's last window gets what is left, which differs only where [UNK] stands for something. */
    uint64_t before = text_bytes(data, &document, 0, window->first);
    return document.bytes > before ? document.bytes - before : 0;
}

/* ---- windows ------------------------------------------------------------------------------------------ */

typedef struct choice {
    const dlm_data *data;
    size_t seq_len;
    size_t end; /* tokens behind each document: 1 or 0 */
    bool cut;
    dlm_part part;
    size_t one_in;
    uint64_t seed;
    uint64_t changed; /* the document that changes sides; UINT64_MAX: none */
} choice;

static bool drawn(const choice *c, uint64_t document) {
    dlm_rng rng = dlm__rng(c->seed, DLM_RNG_HELD_OUT, (uint32_t)document, (uint32_t)(document >> 32));
    return dlm__rng_below(&rng, c->one_in) == 0;
}

/* Sequence length of a document whole: 0 when it has no window. */
static size_t length(const choice *c, uint64_t document) {
    return dlm__data_document(c->data, document).n + c->end;
}

/* Sees to it that both parts have a document. */
static void balance(choice *c) {
    uint64_t documents = c->data->list.info.documents, there = 0, held_out = 0;
    for (uint64_t i = 0; i < documents; i++) {
        if (length(c, i) == 0) continue;
        there++;
        held_out += drawn(c, i);
    }
    if (there < 2 || (held_out > 0 && held_out < there)) return;
    /* A stream of its own: no document has this number. */
    dlm_rng rng = dlm__rng(c->seed, DLM_RNG_HELD_OUT, UINT32_MAX, UINT32_MAX);
    uint64_t skip = dlm__rng_below(&rng, there);
    for (uint64_t i = 0; i < documents; i++) {
        if (length(c, i) == 0 || skip-- > 0) continue;
        c->changed = i;
        return;
    }
}

static bool chosen(const choice *c, uint64_t document) {
    if (c->part == DLM_PART_ALL) return true;
    bool held_out = drawn(c, document) != (document == c->changed);
    return held_out == (c->part == DLM_PART_HELD_OUT);
}

/* Counts the windows of the first `limit` documents chosen, or writes them to list unless it is NULL. false:
 * more than size_t holds. */
static bool cut_windows(const choice *c, uint64_t limit, dlm_window *list, size_t *n) {
    *n = 0;
    for (uint64_t i = 0; i < c->data->list.info.documents && limit > 0; i++) {
        if (!chosen(c, i)) continue;
        size_t whole = length(c, i);
        if (whole == 0) continue;
        limit--;
        size_t windows = c->cut ? 1 : (whole - 1) / c->seq_len + 1, at = *n;
        if (!dlm__size_add(at, windows, n)) return false;
        for (size_t w = 0; list != NULL && w < windows; w++) {
            size_t first = w * c->seq_len, rest = whole - first;
            list[at + w] = (dlm_window){.document = i,
                                        .first = first,
                                        .n = rest < c->seq_len ? rest : c->seq_len,
                                        .continues = w > 0,
                                        .ends = rest <= c->seq_len};
        }
    }
    return true;
}

dlm_status dlm__windows_create(const dlm_data *data, size_t seq_len, bool end_token, bool cut, dlm_part part,
                               size_t one_in, uint64_t seed, uint64_t max_documents, dlm_windows *windows,
                               dlm_error *err) {
    *windows = (dlm_windows){.seq_len = seq_len};
    if (seq_len == 0 || seq_len > DLM_DATA_SEQ_LEN_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "a sequence length of %zu, not 1 to %zu", seq_len,
                         DLM_DATA_SEQ_LEN_MAX);
    if (part != DLM_PART_ALL && one_in == 0)
        return dlm__fail(err, DLM_ARGUMENT, "one document in 0 cannot be held out");
    if (end_token && data->end_id < 0)
        return dlm__fail(err, DLM_ARGUMENT, "the tokenizer of %s has no token <|endoftext|>", data->path);
    choice c = {.data = data,
                .seq_len = seq_len,
                .end = end_token ? 1 : 0,
                .cut = cut,
                .part = part,
                .one_in = one_in,
                .seed = seed,
                .changed = UINT64_MAX};
    if (part != DLM_PART_ALL) balance(&c);
    uint64_t limit = max_documents > 0 ? max_documents : UINT64_MAX;
    size_t n;
    if (!cut_windows(&c, limit, NULL, &n)) return dlm__fail_memory(err, "windows", SIZE_MAX);
    windows->list = dlm__calloc(n, sizeof *windows->list);
    if (windows->list == NULL) return dlm__fail_memory(err, "windows", n);
    (void)cut_windows(&c, limit, windows->list, &windows->n);
    return DLM_OK;
}

void dlm__windows_free(dlm_windows *windows) {
    free(windows->list);
    *windows = (dlm_windows){0};
}
