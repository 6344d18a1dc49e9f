/* Cross-entropies of masked sequences: takes them one by one, runs the network on packed passes of many, and
 * hands back each one's sum in the order in which they came. */
#ifndef DLM_MASKED_SCORE_H
#define DLM_MASKED_SCORE_H

#include "diffusion/process.h"

/* What its maker wants to know of a sequence again, beside how it scored. */
typedef struct dlm_score_tag {
    size_t n, masked; /* positions that count, and how many of them are masked */
    bool ends;        /* the last of the n positions is an end token, whose part is wanted apart */
    size_t window;
    unsigned flags, place;
} dlm_score_tag;

/* ce: sum over the masked positions in nats; end: the end token's part of it, 0 where it is not masked, or no
 * end token. */
typedef void (*dlm_score_callback)(void *user, const dlm_score_tag *tag, double ce, double end);
/* Called after each pass; returning true stops: DLM_CANCELLED. */
typedef bool (*dlm_pass_callback)(void *user);

/* How sequences are scored. network and compute are borrowed. */
typedef struct dlm_masked_scoring {
    const dlm_network *network;
    dlm_compute *compute;
    int32_t mask_id;
    size_t longest; /* positions of the longest sequence */
    size_t all;     /* about so many positions together, which only keeps a pass from being larger than
                       needed; SIZE_MAX: many */
    dlm_score_callback take;
    void *user;
    dlm_pass_callback after_pass; /* or NULL */
    void *pass_user;
} dlm_masked_scoring;

typedef struct dlm_masked_score dlm_masked_score;
dlm_status dlm__masked_score_create(const dlm_masked_scoring *scoring, dlm_masked_score **score,
                                    dlm_error *err);
void dlm__masked_score_free(dlm_masked_score *score);

/* A sequence of `shown` ids at time t, of whose first tag->n those marked in masked (n) are masked; at least
 * one is. Runs a pass when there is no more room. */
dlm_status dlm__masked_score_add(dlm_masked_score *score, const int32_t *ids, size_t shown,
                                 const uint8_t *masked, double t, dlm_score_tag tag, dlm_error *err);
/* Runs what was added last. */
dlm_status dlm__masked_score_flush(dlm_masked_score *score, dlm_error *err);

#endif
