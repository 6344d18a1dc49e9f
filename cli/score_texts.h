/* Texts and how likely they are: read in batches, cut into windows, scored under several samplers. */
#ifndef DLM_CLI_SCORE_TEXTS_H
#define DLM_CLI_SCORE_TEXTS_H

#include "samples.h"

#include "diffusionlm.h"

#include <stddef.h>
#include <stdint.h>

enum { SAMPLERS_MAX = 64 };

typedef struct scored_sampler {
    char name[32]; /* the order, or "threshold", "entropy_bound" */
    char plan[32]; /* what a step reveals, for people: "4 a step", "20 steps", "at least 0.9" */
    dlm_sample_options options;
} scored_sampler;

typedef struct samplers {
    size_t n;
    scored_sampler list[SAMPLERS_MAX];
} samplers;

/* A text is the sum of its windows. */
typedef struct scored_text {
    char *text;
    size_t bytes, tokens, windows; /* tokens with its end token, where the model has one */
    double nelbo, standard_error;
    double log_likelihood[SAMPLERS_MAX]; /* by sampler */
    size_t forwards[SAMPLERS_MAX];
} scored_text;

typedef struct text_batch {
    size_t n;
    scored_text *texts;
    batch windows; /* of all texts */
} text_batch;

/* Where texts come from, and how many there were. */
typedef struct text_source {
    dlm_documents *documents;
    const dlm_model *model;
    size_t most;           /* texts to read; 0: all */
    size_t longest;        /* a longer window is refused */
    size_t texts, windows; /* read so far, without those of the batch */
} text_source;

/* Reads the next texts; the batch stays empty at the end of them. EXIT_DONE, or said why not. */
int read_texts(text_source *source, text_batch *to);
/* Fills in the likelihoods of the batch; nelbo->seed is that of the first window of all. EXIT_DONE, or said
 * why not. */
int score_texts(const text_source *source, const dlm_nelbo_options *nelbo, const samplers *under,
                text_batch *texts);
/* Empties the batch, counting its texts as read; frees it. */
void clear_texts(text_source *source, text_batch *texts);
void free_texts(text_batch *texts);

#endif
