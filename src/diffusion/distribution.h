/* From a row of logits to a token: bans, repetition penalty, temperature, truncation, draw, and what an order
 * wants to know of the distribution.
 *
 * Confidence, margin and entropy are those of the softmax at the temperature, before truncation: it limits
 * which tokens are drawn, and would make every position of a peaked distribution equally sure (with top_k 1
 * all of them). So top_k 1 at temperature 1 is temperature 0. */
#ifndef DLM_DISTRIBUTION_H
#define DLM_DISTRIBUTION_H

#include "diffusion/process.h"

/* How tokens are drawn; the fields are those of dlm_sample_options. */
typedef struct dlm_drawing {
    double temperature, top_p, min_p, repetition_penalty, guidance;
    size_t top_k;
    const int32_t *banned; /* (banned_n) borrowed */
    size_t banned_n;
    dlm_allow_callback allow;
    void *allow_user;
} dlm_drawing;

/* Only a temperature: nothing else is on. */
dlm_drawing dlm__drawing(double temperature);
/* Are all fields in their ranges, and banned ids below V? */
dlm_status dlm__drawing_check(const dlm_drawing *drawing, size_t V, dlm_error *err);

/* What is the softmax's scale: 1 over the temperature, or 1 for temperature 0. */
double dlm__drawing_scale(const dlm_drawing *drawing);

/* How sure the model is of a position: the larger, the surer. */
typedef enum dlm_certainty {
    DLM_CERTAINTY_CONFIDENCE, /* the largest probability */
    DLM_CERTAINTY_MARGIN,     /* it minus the second largest */
    DLM_CERTAINTY_ENTROPY     /* minus the entropy in nats */
} dlm_certainty;

/* Divides the positive of logits (V) at ids (n, distinct) by penalty and multiplies the others. */
void dlm__penalise(float *logits, const int32_t *ids, size_t n, double penalty);

/* Entropy in nats of p (V), which is the softmax of scale * logits (V). */
double dlm__entropy(size_t V, const float *p, const float *logits, double scale);
/* The largest of p (V) minus the second largest. */
float dlm__margin(size_t V, const float *p);
/* The first of the largest of p (V); 0 where nothing is a number. */
size_t dlm__most_probable(size_t V, const float *p);
/* The sum of p (V) in double, by blocks, as dlm__draw adds it. */
double dlm__total(size_t V, const float *p);

/* Sets to 0 what top_k, top_p and min_p leave out of p (V), in this order, each acting on what the one before
 * left. Of equal probabilities at the edge those of the lowest ids stay. */
void dlm__truncate(const dlm_drawing *drawing, size_t V, float *p);
/* The token at which the cumulative sum of p (V) passes u * total, u in [0, 1); `best` should rounding leave
 * none. */
size_t dlm__draw(size_t V, const float *p, double total, double u, size_t best);

#endif
