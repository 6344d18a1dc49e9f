/* What generate and refine share: packed sequences, and texts on standard output. */
#ifndef DLM_CLI_SAMPLES_H
#define DLM_CLI_SAMPLES_H

#include "models.h"
#include "trace.h"
#include "watch.h"

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* n sequences packed one after the other, as dlm_sample takes them. */
typedef struct batch {
    size_t n, tokens;
    size_t *lengths;          /* (n) */
    int32_t *ids;             /* (tokens) */
    uint8_t *fixed;           /* (tokens) */
    int32_t *before;          /* NULL, or (tokens) the ids that ids were before, for what changed */
    const dlm_filled *filled; /* NULL, or (n) what is known of them */
} batch;

/* Makes room for one more sequence of `length` positions and returns where they begin in ids and fixed (0
 * there); SIZE_MAX without memory, said. */
size_t add_sequence(batch *sequences, size_t length);
void clear_batch(batch *sequences);
void free_batch(batch *sequences);

/* Sequences of `length` positions that are worked on at once: enough to keep the processor busy, few enough
 * for memory. */
size_t sequences_at_once(const dlm_model *model, size_t length);

typedef struct writer {
    dlm_model *model;
    uint64_t seed;
    bool json;
    bool terminal;   /* the texts go to one */
    bool diff;       /* texts show what changed in them */
    watch *shown;    /* NULL, or texts are drawn while they come, one at a time */
    trace *steps;    /* NULL, or the steps are written */
    bool steps_only; /* and no texts */
    size_t done;     /* texts written before this batch */
    size_t all;      /* of how many, for progress */
    size_t forwards; /* of this batch, by on_step */
    double started;  /* this batch */
} writer;

/* What both commands begin with: catches signals, loads the model, checks that its texts can be written as
 * asked, begins a trace if asked, and opens a watch if asked and the output is a terminal. shared: the
 * settings of command `what`. EXIT_DONE, or said why not; to be closed either way. */
int open_writer(writer *to, const command *what, const common *shared, const model_choice *choice,
                const watch_choice *seen);
/* Takes the status that the command ends with, and returns it, or that of what failed now. The trace of a
 * command that failed is removed; of one that was stopped it is kept. */
int close_writer(writer *to, int status);
/* Before each batch. */
void begin_batch(writer *to);
/* A dlm_step_callback, with the writer as user: trace, progress or the watch, and a signal's wish to stop. */
bool on_step(void *user, const dlm_sample_step *step);
/* Writes the texts of the batch, whose first has index to->done. Each is followed by a line <|endoftext|>, or
 * is a line of JSON. */
int write_batch(writer *to, const batch *sequences);

/* The id of [MASK], and of the end token of a model trained with one (else -1). */
int32_t mask_id(const dlm_model *model);
int32_t end_id(const dlm_model *model);

#endif
