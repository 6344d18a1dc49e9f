/* Counting words on all threads.
 *
 * Documents are read into a batch, and the batch is counted in two rounds. In the first each thread counts
 * its share of the documents in a table of its own, which refers to the batch's bytes; in the second each
 * thread takes over from all those tables the words whose hashes are its own. So no two threads write to one
 * table, nothing is locked, every distinct word is kept once, and the counts do not depend on who did what.
 */
#include "text/word_count.h"
#include "text/byte_level.h"

#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES ((size_t)1 << 20) /* for each thread */
#define FIRST_SLOTS ((size_t)1024)

typedef struct batch {
    char *text; /* documents one behind the other */
    size_t used, capacity;
    size_t *ends; /* (n) where each ends */
    size_t n, ends_capacity;
} batch;

typedef struct counter {
    batch batch;
    size_t workers;
    dlm_word_table *local; /* (workers) of the batch */
    dlm_word_table *total; /* (workers) of all so far */
    bool *failed;          /* (workers) for want of memory */
} counter;

/* ---- tables ------------------------------------------------------------------------------------------- */

static bool grow_slots(dlm_word_table *table) {
    size_t count = table->slot_count == 0 ? FIRST_SLOTS : table->slot_count * 2;
    size_t *slots = dlm__calloc(count, sizeof *slots);
    if (slots == NULL) return false;
    for (size_t i = 0; i < table->n; i++) {
        size_t at = (size_t)table->words[i].hash & (count - 1);
        while (slots[at] != 0) at = (at + 1) & (count - 1);
        slots[at] = i + 1;
    }
    free(table->slots);
    table->slots = slots;
    table->slot_count = count;
    return true;
}

/* The bytes of a new word go behind the text of the table. */
static bool keep_text(dlm_word_table *table, const char *word, size_t bytes) {
    size_t need;
    char *text = dlm__size_add(table->text_used, bytes, &need)
                     ? dlm__grow(table->text, &table->text_capacity, need, 1)
                     : NULL;
    if (text == NULL) return false;
    table->text = text;
    memcpy(text + table->text_used, word, bytes);
    table->text_used = need;
    return true;
}

/* Adds to the count of a word of base + at. keep: the table copies the bytes of new words; else they stay in
 * base. */
static bool add_word(dlm_word_table *table, const char *base, dlm_word word, bool keep) {
    if (table->n >= table->slot_count / 2 && !grow_slots(table)) return false;
    const char *stored = keep ? table->text : base;
    size_t mask = table->slot_count - 1, at = (size_t)word.hash & mask;
    for (; table->slots[at] != 0; at = (at + 1) & mask) {
        dlm_word *other = &table->words[table->slots[at] - 1];
        if (other->hash == word.hash && other->bytes == word.bytes &&
            memcmp(stored + other->at, base + word.at, word.bytes) == 0) {
            other->count += word.count;
            return true;
        }
    }
    dlm_word *words = dlm__grow(table->words, &table->capacity, table->n + 1, sizeof *words);
    if (words == NULL) return false;
    table->words = words;
    if (keep) {
        if (!keep_text(table, base + word.at, word.bytes)) return false;
        word.at = table->text_used - word.bytes;
    }
    words[table->n++] = word;
    table->slots[at] = table->n;
    return true;
}

static void empty_table(dlm_word_table *table) {
    table->n = 0;
    if (table->slot_count > 0) memset(table->slots, 0, table->slot_count * sizeof *table->slots);
}

static void free_tables(dlm_word_table *tables, size_t n) {
    for (size_t i = 0; i < n && tables != NULL; i++) {
        free(tables[i].words);
        free(tables[i].slots);
        free(tables[i].text);
    }
    free(tables);
}

void dlm__words_free(dlm_word_counts *counts) {
    free_tables(counts->tables, counts->n);
    *counts = (dlm_word_counts){0};
}

/* ---- the two rounds ----------------------------------------------------------------------------------- */

/* The first document that ends behind the worker's share of the batch's bytes. */
static size_t share_end(const counter *c, size_t worker) {
    if (worker + 1 == c->workers) return c->batch.n;
    size_t limit = c->batch.used / c->workers * (worker + 1), low = 0, high = c->batch.n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->batch.ends[middle] <= limit) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void count_share(void *context, size_t worker) {
    counter *c = context;
    const batch *b = &c->batch;
    empty_table(&c->local[worker]);
    size_t first = worker == 0 ? 0 : share_end(c, worker - 1), last = share_end(c, worker);
    for (size_t document = first; document < last && !c->failed[worker]; document++) {
        size_t start = document == 0 ? 0 : b->ends[document - 1], n = b->ends[document] - start;
        for (size_t at = 0, end; at < n && !c->failed[worker]; at = end) {
            end = dlm__word_end(b->text + start, n, at);
            dlm_word word = {dlm__hash(b->text + start + at, end - at, 0), start + at, end - at, 1};
            c->failed[worker] = !add_word(&c->local[worker], b->text, word, false);
        }
    }
}

static void take_over(void *context, size_t worker) {
    counter *c = context;
    for (size_t i = 0; i < c->workers; i++) {
        const dlm_word_table *local = &c->local[i];
        for (size_t k = 0; k < local->n && !c->failed[worker]; k++) {
            /* the upper half of the hash chooses the table, since the lower bits choose the slot */
            if ((local->words[k].hash >> 32) % c->workers != worker) continue;
            c->failed[worker] = !add_word(&c->total[worker], c->batch.text, local->words[k], true);
        }
    }
}

static dlm_status count_batch(counter *c, dlm_error *err) {
    dlm__parallel_for(c->workers, count_share, c);
    dlm__parallel_for(c->workers, take_over, c);
    c->batch.used = c->batch.n = 0;
    for (size_t i = 0; i < c->workers; i++) {
        if (c->failed[i]) return dlm__fail_memory(err, "the words", c->total[i].text_used);
    }
    return DLM_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static dlm_status append_document(batch *b, const char *text, size_t bytes, dlm_error *err) {
    size_t prefix = text[0] != ' ', need;
    bool fits = dlm__size_add(b->used, bytes, &need) && dlm__size_add(need, prefix, &need);
    char *grown = fits ? dlm__grow(b->text, &b->capacity, need, 1) : NULL;
    if (grown == NULL) return dlm__fail_memory(err, "the documents", bytes);
    b->text = grown;
    size_t *ends = dlm__grow(b->ends, &b->ends_capacity, b->n + 1, sizeof *ends);
    if (ends == NULL) return dlm__fail_memory(err, "the documents", bytes);
    b->ends = ends;
    if (prefix > 0) b->text[b->used] = ' ';
    memcpy(b->text + b->used + prefix, text, bytes);
    b->used = need;
    b->ends[b->n++] = need;
    return DLM_OK;
}

static dlm_status count_all(counter *c, dlm_documents *documents, dlm_meter *meter, dlm_error *err) {
    for (;;) {
        const char *text;
        size_t bytes;
        DLM_TRY(dlm_documents_next(documents, &text, &bytes, err));
        if (text != NULL && bytes > 0) DLM_TRY(append_document(&c->batch, text, bytes, err));
        if (text != NULL && c->batch.used < BATCH_BYTES * c->workers) continue;
        DLM_TRY(count_batch(c, err));
        uint64_t done, total;
        dlm_documents_position(documents, &done, &total);
        DLM_TRY(dlm__meter_report(meter, "counting words", done, total, err));
        if (text == NULL) return DLM_OK;
    }
}

dlm_status dlm__words_count(dlm_documents *documents, dlm_meter *meter, dlm_word_counts *counts,
                            dlm_error *err) {
    counter c = {.workers = dlm__threads()};
    c.local = dlm__calloc(c.workers, sizeof *c.local);
    c.total = dlm__calloc(c.workers, sizeof *c.total);
    c.failed = dlm__calloc(c.workers, sizeof *c.failed);
    *counts = (dlm_word_counts){c.total, c.total == NULL ? 0 : c.workers};
    dlm_status status = c.local == NULL || c.total == NULL || c.failed == NULL
                            ? dlm__fail_memory(err, "the words", c.workers * sizeof *c.local)
                            : count_all(&c, documents, meter, err);
    free_tables(c.local, c.workers);
    free(c.failed);
    free(c.batch.text);
    free(c.batch.ends);
    return status;
}
