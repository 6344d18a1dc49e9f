/* Which masked positions a step reveals: the orders, the threshold and the entropy bound. The sampler and the
 * likelihood of a sampler (score) choose by the same code. */
#ifndef DLM_ORDER_H
#define DLM_ORDER_H

#include "diffusion/distribution.h"

/* A position that may be chosen. */
typedef struct dlm_candidate {
    float certainty;
    uint32_t position; /* in its sequence */
} dlm_candidate;

/* Candidates and the choice among them; arrays of the longest sequence's length, the owner's. */
typedef struct dlm_choice {
    dlm_candidate *candidates;
    uint8_t *chosen; /* by place among the candidates */
    uint32_t *scratch;
} dlm_choice;

/* Ranges of the options that say which positions are revealed, and whether they go together. */
dlm_status dlm__order_check(const dlm_sample_options *options, dlm_error *err);
/* As the command calls it. */
const char *dlm__order_name(dlm_order order);
/* Steps of a sequence of L >= 1 positions. */
size_t dlm__steps_of(const dlm_sample_options *options, size_t L);
/* Do the options choose without looking at the predictions, so that only what is chosen need be predicted? */
bool dlm__order_is_blind(const dlm_sample_options *options);
/* What they rank positions by, where they look. */
dlm_certainty dlm__order_certainty(const dlm_sample_options *options);

/* Of n >= 1 candidates, the masked positions in order of a sequence of L, chooses what is revealed by the
 * step that ends at `share` of the run (1: the last one): chosen[i] tells of candidates[i], which may come in
 * another order afterwards. For all orders but ANCESTRAL and FIRST_HITTING; certainties are not read if the
 * order is blind. */
void dlm__choose(const dlm_sample_options *options, dlm_rng *rng, size_t L, double share, size_t n,
                 dlm_choice *choice);
/* The k of n candidates with the lowest certainty; of equal ones those that come first. */
void dlm__choose_least_certain(size_t n, size_t k, dlm_choice *choice);

#endif
