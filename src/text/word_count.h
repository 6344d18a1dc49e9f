/* Training a tokenizer in two halves: the distinct words of all documents with their counts, and the
 * vocabulary that is made of them. */
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

/* Makes a tokenizer of counted words (bpe_train.c); counts is emptied as soon as it is read. The counts of
 * one text's pairs must add up to less than 2^63. */
dlm_status dlm__bpe_train(dlm_word_counts *counts, const dlm_bpe_options *options, dlm_meter *meter,
                          dlm_tokenizer **tokenizer, dlm_error *err);

#endif
