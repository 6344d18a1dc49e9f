/* The distinct words of all documents with their counts: the first half of training a tokenizer. */
#ifndef DLM_TEXT_WORD_COUNT_H
#define DLM_TEXT_WORD_COUNT_H

#include "base/base.h"
#include "text/progress.h"

typedef struct dlm_word {
    uint64_t hash;
    size_t at, bytes; /* in the text of its table */
    uint64_t count;
} dlm_word;

/* Distinct words by hash, open addressing. */
typedef struct dlm_word_table {
    dlm_word *words;
    size_t n, capacity;
    size_t *slots; /* index + 1 in words; 0: empty */
    size_t slot_count;
    char *text; /* the words' bytes */
    size_t text_used, text_capacity;
} dlm_word_table;

/* Which table a word is in depends on its hash, its place there on nothing that matters. */
typedef struct dlm_word_counts {
    dlm_word_table *tables; /* (n) */
    size_t n;
} dlm_word_counts;

/* Counts the words of all documents that are left, each document with a space before it unless it begins with
 * one. Memory grows with the distinct words. Free counts in any case. */
dlm_status dlm__words_count(dlm_documents *documents, dlm_meter *meter, dlm_word_counts *counts,
                            dlm_error *err);
void dlm__words_free(dlm_word_counts *counts);

#endif
