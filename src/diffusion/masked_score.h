/* Cross-entropies of masked sequences: takes them one by one, runs the network on packed passes of many, and
 * hands back each one's sum in the order in which they came. */
#ifndef DLM_MASKED_SCORE_H
#define DLM_MASKED_SCORE_H

#include "diffusion/process.h"

/* What its maker wants to know of a sequence again, beside how it scored. */
typedef struct dlm_score_tag {
    size_t n, masked; /* positions that count, and how many of them are masked */
    size_t window;
    unsigned flags;
} dlm_score_tag;

/* ce: sum over the masked positions in nats. */
typedef void (*dlm_score_callback)(void *user, const dlm_score_tag *tag, double ce);

typedef struct dlm_masked_score dlm_masked_score;
/* For sequences of up to `longest` positions, about `all` positions together (which only keeps a pass from
 * being larger than needed; SIZE_MAX: many). network and compute are borrowed. */
dlm_status dlm__masked_score_create(const dlm_network *network, dlm_compute *compute, size_t longest,
                                    size_t all, int32_t mask_id, dlm_score_callback take, void *user,
                                    dlm_masked_score **score, dlm_error *err);
void dlm__masked_score_free(dlm_masked_score *score);

/* A sequence of `shown` ids at time t, of whose first tag->n those marked in masked (n) are masked; at least
 * one is. Runs a pass when there is no more room. */
dlm_status dlm__masked_score_add(dlm_masked_score *score, const int32_t *ids, size_t shown,
                                 const uint8_t *masked, double t, dlm_score_tag tag, dlm_error *err);
/* Runs what was added last. */
dlm_status dlm__masked_score_flush(dlm_masked_score *score, dlm_error *err);

#endif
