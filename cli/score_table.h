/* score --table: the likelihood of all texts together under many samplers, against their forward passes. */
#ifndef DLM_CLI_SCORE_TABLE_H
#define DLM_CLI_SCORE_TABLE_H

#include "score_texts.h"

/* Sums over texts, for the ratio of nats to tokens and its standard error. */
typedef struct ratio_sums {
    size_t n, impossible; /* texts; those without a likelihood, which are in no other sum */
    double nats, tokens, nats_squared, tokens_squared, product, forwards;
} ratio_sums;

typedef struct score_table {
    size_t texts, tokens, bytes;
    ratio_sums nelbo, samplers[SAMPLERS_MAX];
    ratio_sums more_nelbo, more[SAMPLERS_MAX]; /* what each takes more than the first sampler, text by text */
    double masks_variance;                     /* of the sum of NELBOs */
} score_table;

void add_to_table(score_table *table, const samplers *under, const text_batch *texts);
int print_score_table(const score_table *table, const samplers *under, bool json);

#endif
