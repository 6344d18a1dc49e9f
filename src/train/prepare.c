/* From text to token shards.
 *
 * Two blocks of text take turns, so that memory is bounded and no processor waits for a file: while all
 * workers encode the chunks of one, worker 0 first writes the other, which was encoded in the round before,
 * and reads the next documents into it. What is written depends on the documents alone, not on how many
 * workers there were or which of them was faster. */
#include "text/progress.h"
#include "text/tokenizer.h"
#include "train/shard.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)8 << 20)  /* a block is full after the document that reaches this */
#define CHUNK_BYTES ((size_t)64 << 10) /* likewise a chunk, the work of one worker at a time */
enum {
    BLOCK_DOCUMENTS = 1 << 16,
    /* Each chunk but the last two ends below BLOCK_BYTES and has CHUNK_BYTES or more. */
    CHUNKS = BLOCK_BYTES / CHUNK_BYTES + 2
};

typedef struct chunk {
    size_t first, end; /* documents of the block */
    dlm_ids ids;
} chunk;

typedef struct block {
    char *text;
    size_t bytes, capacity;
    size_t ends[BLOCK_DOCUMENTS]; /* where each document's text ends */
    size_t n[BLOCK_DOCUMENTS];    /* ids of each */
    size_t documents;
    chunk chunks[CHUNKS];
    size_t chunk_count;
} block;

typedef struct worker {
    dlm_encoder *encoder;
    dlm_error error;
} worker;

typedef struct preparation {
    dlm_documents *documents;
    bool ended; /* no document is left */
    bool prefix_space;
    const char *working; /* the folder that is written into */
    dlm_shard_kind kind;
    size_t shard_tokens;
    dlm_shard_list list;
    dlm_shard_writer *shard; /* the open one, or NULL */
    block *fresh;            /* text to be encoded in the next round */
    block *encoded;          /* then to be written */
    worker *workers;
    size_t worker_count;
    atomic_size_t next; /* chunk of `fresh` that nobody has taken */
    dlm_error error;    /* of reading and writing */
} preparation;

dlm_prepare_options dlm_prepare_defaults(void) {
    return (dlm_prepare_options){.seq_len = 256, .shard_tokens = (size_t)1 << 26};
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static size_t text_begin(const block *b, size_t document) {
    return document > 0 ? b->ends[document - 1] : 0;
}

/* Appends a document and gives it to the last chunk, or to a new one when that is full. */
static dlm_status take(block *b, const char *text, size_t bytes, dlm_error *err) {
    size_t end;
    void *grown =
        dlm__size_add(b->bytes, bytes, &end) ? dlm__grow(b->text, &b->capacity, end + (end == 0), 1) : NULL;
    if (grown == NULL) return dlm__fail_memory(err, "a document", bytes);
    b->text = grown;
    if (bytes > 0) memcpy(b->text + b->bytes, text, bytes);
    chunk *last = b->chunk_count > 0 ? &b->chunks[b->chunk_count - 1] : NULL;
    if (last == NULL || b->bytes - text_begin(b, last->first) >= CHUNK_BYTES) {
        last = &b->chunks[b->chunk_count++];
        last->first = b->documents;
    }
    b->bytes = end;
    b->ends[b->documents++] = end;
    last->end = b->documents;
    return DLM_OK;
}

static dlm_status read_block(preparation *p, block *b, dlm_error *err) {
    b->bytes = b->documents = b->chunk_count = 0;
    while (!p->ended && b->bytes < BLOCK_BYTES && b->documents < BLOCK_DOCUMENTS) {
        const char *text;
        size_t bytes;
        DLM_TRY(dlm_documents_next(p->documents, &text, &bytes, err));
        p->ended = text == NULL;
        if (!p->ended) DLM_TRY(take(b, text, bytes, err));
    }
    return DLM_OK;
}

/* ---- encoding ----------------------------------------------------------------------------------------- */

static dlm_status encode_chunk(block *b, chunk *c, dlm_encoder *encoder, dlm_error *err) {
    c->ids.n = 0;
    for (size_t i = c->first; i < c->end; i++) {
        size_t begin = text_begin(b, i), before = c->ids.n;
        DLM_TRY(dlm__encoder_encode(encoder, b->text + begin, b->ends[i] - begin, false, &c->ids, err));
        b->n[i] = c->ids.n - before;
    }
    return DLM_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static dlm_status open_shard(preparation *p, dlm_error *err) {
    char name[DLM_SHARD_NAME_SIZE];
    dlm__shard_name(p->list.info.shards, name);
    char *path = dlm__join(p->working, name);
    if (path == NULL) return dlm__fail_memory(err, name, strlen(p->working) + sizeof name);
    dlm_status status = dlm__shard_create(path, &p->kind, p->list.info.shards, &p->shard, err);
    free(path);
    return status;
}

static dlm_status close_shard(preparation *p, dlm_error *err) {
    dlm_shard_header header;
    dlm_shard_writer *shard = p->shard;
    p->shard = NULL;
    DLM_TRY(dlm__shard_commit(shard, &header, err));
    return dlm__shard_list_add(&p->list, &header, err);
}

static dlm_status write_chunk(preparation *p, const block *b, const chunk *c, dlm_error *err) {
    const int32_t *ids = c->ids.ids;
    for (size_t i = c->first; i < c->end; i++) {
        size_t begin = text_begin(b, i), bytes = b->ends[i] - begin;
        bool space = p->prefix_space && bytes > 0 && b->text[begin] != ' ';
        if (p->shard == NULL) DLM_TRY(open_shard(p, err));
        DLM_TRY(dlm__shard_add(p->shard, ids, b->n[i], bytes, space, err));
        dlm__shard_list_count(&p->list, b->n[i], bytes);
        if (dlm__shard_tokens(p->shard) >= p->shard_tokens) DLM_TRY(close_shard(p, err));
        if (b->n[i] > 0) ids += b->n[i];
    }
    return DLM_OK;
}

static dlm_status write_block(preparation *p, const block *b, dlm_error *err) {
    for (size_t i = 0; i < b->chunk_count; i++) DLM_TRY(write_chunk(p, b, &b->chunks[i], err));
    return DLM_OK;
}

/* ---- rounds ------------------------------------------------------------------------------------------- */

static void work(void *context, size_t index) {
    preparation *p = context;
    worker *w = &p->workers[index];
    if (index == 0) {
        dlm_status status = write_block(p, p->encoded, &p->error);
        if (status == DLM_OK) status = read_block(p, p->encoded, &p->error);
        p->error.status = status;
    }
    for (;;) {
        size_t i = atomic_fetch_add(&p->next, 1);
        if (i >= p->fresh->chunk_count || w->error.status != DLM_OK) return;
        w->error.status = encode_chunk(p->fresh, &p->fresh->chunks[i], w->encoder, &w->error);
    }
}

static dlm_status round_errors(const preparation *p, dlm_error *err) {
    const dlm_error *first = &p->error;
    for (size_t i = 0; i < p->worker_count && first->status == DLM_OK; i++) first = &p->workers[i].error;
    if (first->status != DLM_OK && err != NULL) *err = *first;
    return first->status;
}

/* Reads, encodes and writes all documents. */
static dlm_status run(preparation *p, const dlm_prepare_options *options, dlm_error *err) {
    dlm_meter meter = dlm__meter(options->progress, options->user);
    do {
        uint64_t done, total;
        dlm_documents_position(p->documents, &done, &total);
        if (p->ended) meter.stage = NULL; /* the last report is never left out */
        DLM_TRY(dlm__meter_report(&meter, "encoding", done, total, err));
        atomic_store(&p->next, 0);
        dlm__parallel_for(p->worker_count, work, p);
        DLM_TRY(round_errors(p, err));
        block *read = p->encoded;
        p->encoded = p->fresh;
        p->fresh = read;
    } while (p->fresh->documents > 0 || p->encoded->documents > 0);
    if (p->shard != NULL) DLM_TRY(close_shard(p, err));
    if (p->list.info.documents == 0)
        return dlm__fail(err, DLM_FORMAT, "there is no document in the text, so nothing was prepared");
    return DLM_OK;
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

static dlm_status create(preparation *p, const dlm_tokenizer *tokenizer, dlm_error *err) {
    DLM_TRY(dlm__shard_list_create(&p->kind, &p->list, err));
    p->worker_count = dlm__threads();
    p->fresh = dlm__calloc(1, sizeof *p->fresh);
    p->encoded = dlm__calloc(1, sizeof *p->encoded);
    p->workers = dlm__calloc(p->worker_count, sizeof *p->workers);
    if (p->fresh == NULL || p->encoded == NULL || p->workers == NULL)
        return dlm__fail_memory(err, "blocks of text", 2 * sizeof *p->fresh);
    for (size_t i = 0; i < p->worker_count; i++) {
        p->workers[i].encoder = dlm__encoder_create(tokenizer, SIZE_MAX);
        if (p->workers[i].encoder == NULL) return dlm__fail_memory(err, "an encoder", sizeof(worker));
    }
    return DLM_OK;
}

static void free_block(block *b) {
    if (b == NULL) return;
    for (size_t i = 0; i < CHUNKS; i++) free(b->chunks[i].ids.ids);
    free(b->text);
    free(b);
}

static void destroy(preparation *p) {
    dlm__shard_abort(p->shard);
    dlm__shard_list_free(&p->list);
    for (size_t i = 0; p->workers != NULL && i < p->worker_count; i++)
        dlm__encoder_free(p->workers[i].encoder);
    free(p->workers);
    free_block(p->fresh);
    free_block(p->encoded);
}

/* Fills the working folder. */
static dlm_status fill(dlm_documents *documents, const dlm_tokenizer *tokenizer, const char *working,
                       const dlm_prepare_options *options, dlm_data_info *info, dlm_error *err) {
    dlm_tokenizer_info about = dlm_tokenizer_describe(tokenizer);
    preparation p = {
        .documents = documents,
        .prefix_space = about.add_prefix_space,
        .working = working,
        .kind = {.vocabulary_hash = about.hash, .vocab_size = about.vocab_size, .seq_len = options->seq_len},
        .shard_tokens = options->shard_tokens};
    char *list = dlm__join(working, DLM_SHARD_LIST_FILE);
    dlm_status status = list != NULL ? DLM_OK : dlm__fail_memory(err, working, strlen(working));
    if (status == DLM_OK) status = create(&p, tokenizer, err);
    if (status == DLM_OK) status = run(&p, options, err);
    if (status == DLM_OK) status = dlm_tokenizer_save(tokenizer, working, err);
    if (status == DLM_OK) status = dlm__shard_list_write(&p.list, list, err);
    if (status == DLM_OK && info != NULL) *info = p.list.info;
    free(list);
    destroy(&p);
    return status;
}

static dlm_status check_options(const dlm_prepare_options *options, dlm_error *err) {
    if (options->seq_len == 0 || options->seq_len > DLM_DATA_SEQ_LEN_MAX)
        return dlm__fail(err, DLM_ARGUMENT, "a sequence length of %zu, not 1 to %zu", options->seq_len,
                         DLM_DATA_SEQ_LEN_MAX);
    if (options->shard_tokens == 0)
        return dlm__fail(err, DLM_ARGUMENT, "shards of 0 tokens cannot be written");
    return DLM_OK;
}

/* Only a folder that this function made is overwritten: its name may have been given by mistake. */
static dlm_status begin(const char *data, bool overwrite, char **working, dlm_error *err) {
    if (!overwrite) return dlm__folder_begin(data, working, err);
    char *list = dlm__join(data, DLM_SHARD_LIST_FILE);
    if (list == NULL) return dlm__fail_memory(err, data, strlen(data));
    bool ours = dlm__is_file(list);
    free(list);
    if (ours) return dlm__folder_begin_again(data, working, err);
    dlm_status status = dlm__folder_begin(data, working, err);
    if (status != DLM_EXISTS) return status;
    return dlm__fail(err, status, "%s exists and is no folder of prepared data: it has no %s", data,
                     DLM_SHARD_LIST_FILE);
}

dlm_status dlm_prepare(dlm_documents *documents, const dlm_tokenizer *tokenizer, const char *data,
                       const dlm_prepare_options *options, dlm_data_info *info, dlm_error *err) {
    char *working;
    DLM_TRY(check_options(options, err));
    DLM_TRY(begin(data, options->overwrite, &working, err));
    dlm_status status = fill(documents, tokenizer, working, options, info, err);
    if (status == DLM_OK && options->overwrite) status = dlm__folder_replace(working, data, err);
    if (status == DLM_OK && !options->overwrite) status = dlm__folder_end(working, data, err);
    if (status != DLM_OK) (void)dlm__remove_tree(working, NULL);
    free(working);
    return status;
}
