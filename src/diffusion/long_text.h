/* A text longer than the model takes, worked on window by window: what sampling and refinement share. The
 * caller's callbacks see the whole text, as one sequence, and steps that go on from window to window. */
#ifndef DLM_LONG_TEXT_H
#define DLM_LONG_TEXT_H

#include "model/model.h"

typedef struct dlm_long_text {
    size_t n;
    int32_t mask_id;
    int32_t *ids;              /* (n) borrowed: changed in place */
    dlm_step_callback on_step; /* the caller's, may be NULL */
    void *user;
    dlm_allow_callback allow; /* the caller's, may be NULL */
    void *allow_user;
    size_t sequence; /* what allow is told */
    /* the window */
    size_t start, length;
    uint8_t *window_fixed; /* (n) of the window, from 0 on */
    int32_t banned;        /* -1, or a token that the window may not have */
    /* what was before it */
    size_t done;     /* windows */
    size_t all;      /* windows there will be */
    size_t steps;    /* taken in them */
    size_t forwards; /* passes in them */
    bool stopped;
    size_t last_step, window_forwards; /* in this one so far */
    int32_t *before;                   /* (n) ids as the callback got them */
    float *confidence;                 /* (n) */
    uint8_t *fixed;                    /* (n) of the whole text */
    dlm_arena arena;
} dlm_long_text;

/* For n ids, fixed (n) or NULL copied; the callbacks are set by the caller. */
dlm_status dlm__long_create(dlm_long_text *text, const dlm_model *model, size_t n, int32_t *ids,
                            const uint8_t *fixed, dlm_error *err);
void dlm__long_free(dlm_long_text *text);
/* Goes on to the next window, of the text's `length` positions from start on: the ones from `first` to `last`
 * are worked on, the others fixed, unless they are masked. */
void dlm__long_next(dlm_long_text *text, size_t start, size_t length, size_t first, size_t last);
/* After it. */
void dlm__long_end(dlm_long_text *text);
/* The seed of the window: that of the first is the text's own. */
uint64_t dlm__long_seed(const dlm_long_text *text, uint64_t seed);

/* The callbacks for a window, whose user is the windows. */
bool dlm__long_step(void *user, const dlm_sample_step *step);
void dlm__long_allow(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed);

#endif
