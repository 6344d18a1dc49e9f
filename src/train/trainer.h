/* The trainer's parts: options, checkpoints, and the object itself. Only src/train and tests include this. */
#ifndef DLM_TRAINER_H
#define DLM_TRAINER_H

#include "train/batch.h"
#include "train/optimizer.h"
#include "train/run_log.h"

/* ---- options (trainer_options.c) ---------------------------------------------------------------------- */

struct json_t;

/* The configuration of the model that options train on a vocabulary of that size. */
dlm_config dlm__train_config(const dlm_train_options *options, size_t vocab_size);
/* All options but the paths as a JSON object, in a fixed order; NULL without memory. */
struct json_t *dlm__train_options_json(const dlm_train_options *options);
/* The reverse: fills all of them, each of which must be there; name is for messages. */
dlm_status dlm__train_options_parse(const char *name, const struct json_t *json, dlm_train_options *options,
                                    dlm_error *err);
/* Whether this rank was given the options of the first; DLM_MISMATCH names every one that differs. */
dlm_status dlm__train_options_equal(const dlm_train_options *first, const dlm_train_options *mine,
                                    dlm_error *err);
/* Whether a run made with `before` can go on with `now`: only its length and what it reports and keeps may
 * differ. DLM_MISMATCH names every option that may not, with both values. */
dlm_status dlm__train_options_same(const char *name, const dlm_train_options *before,
                                   const dlm_train_options *now, dlm_error *err);

/* ---- text files (prepare_run.c) ------------------------------------------------------------------------ */

/* Is the run nothing but text that was prepared for it, as far as that had come? */
bool dlm__run_only_prepared(const char *run);

/* ---- progress ----------------------------------------------------------------------------------------- */

/* What changes from step to step beside the blocks of the learner: a checkpoint holds it. */
typedef struct dlm_train_progress {
    uint64_t step;   /* steps done */
    uint64_t tokens; /* trained on */
    /* Sums over the steps since the last row of log.csv. */
    uint64_t row_steps, row_tokens;
    double row_loss, row_norm;
    /* The best evaluation. */
    bool evaluated;
    uint64_t best_step;
    double best_nelbo;
} dlm_train_progress;

/* What depends on the clock, and so is kept in a file of its own: all others of a checkpoint are the same for
 * a run that was interrupted and one that was not. */
typedef struct dlm_train_clock {
    double seconds;     /* of training, all parts of the run */
    double row_seconds; /* of the steps since the last row of log.csv */
    dlm_log_sizes sizes;
} dlm_train_clock;

/* Which data a run is about. */
typedef struct dlm_train_source {
    char *path;    /* absolute; NULL: there is none */
    uint64_t hash; /* of its content */
} dlm_train_source;

/* ---- trainer (trainer.c) ------------------------------------------------------------------------------ */

struct dlm_trainer {
    dlm_train_options options; /* its strings are those below; precision is resolved */
    size_t steps;              /* of the whole run; 0: the clock ends it */
    char *run;
    dlm_train_source source, eval_source;
    dlm_data *data, *eval_data; /* eval_data: NULL when documents of data are held out */
    dlm_windows windows, eval_windows;
    uint64_t *lengths; /* (seq_len + 1) */

    dlm_layout *layout;
    dlm_compute *compute;
    dlm_ranks *ranks; /* the caller's */
    dlm_learner *learner;
    dlm_network network; /* of the learner's weights */
    dlm_workspace *workspace;
    dlm_global_batch *batch;
    float *ce; /* (rows of the largest pass) */

    /* For evaluation and samples: the average, while these are made, in the memory of the gradients, which
     * are of no use between steps; the bfloat16 copy is of the average then. Passes of it take the
     * workspace's memory. */
    dlm_model *model;
    dlm_run_log *log;
    char *sample; /* the last one */

    dlm_train_progress progress;
    dlm_train_clock before; /* of earlier parts of the run, but that row_seconds counts on */
    double started;         /* when this part began, by dlm__seconds */
    double now; /* dlm__trainer_seconds of rank 0 when last looked at, where the clock ends the run */
    uint64_t first_step; /* of this part */
    bool finished;       /* the last step is done */
    double rate;         /* recent tokens a second; 0: not known yet */

    char *checkpoint; /* newest checkpoint's folder, or NULL */
    uint64_t checkpoint_step;
    dlm_error broken; /* status is not DLM_OK once a step went wrong: nothing is done or saved any more */
};

/* The share of the run that is done, 0 .. 1, and the seconds of all its parts. */
double dlm__trainer_share(const dlm_trainer *trainer);
double dlm__trainer_seconds(const dlm_trainer *trainer);

/* ---- evaluation and samples (trainer_eval.c) ---------------------------------------------------------- */

/* Of the raw weights the cross-entropy as the original measures it, of the averaged ones the NELBO per token,
 * on eval_windows, always with the same masks. */
dlm_status dlm__trainer_evaluate(dlm_trainer *trainer, double *ce, double *nelbo, dlm_error *err);
/* A text by the averaged weights, into trainer->sample of rank 0; the length is drawn, and all draws are
 * functions of (seed, step). */
dlm_status dlm__trainer_sample(dlm_trainer *trainer, size_t *bytes, dlm_error *err);

/* ---- checkpoints (checkpoint.c, checkpoint_state.c) --------------------------------------------------- */

/* Writes RUN/checkpoints/step-N, then `latest`, `best` when the last evaluation was the best, and removes
 * what need not be kept. When it fails, what was there before is as it was. Rank 0 writes, the others bring
 * what they have. */
dlm_status dlm__checkpoint_save(dlm_trainer *trainer, dlm_error *err);

/* What a checkpoint says about its run. */
typedef struct dlm_checkpoint {
    char *folder;
    dlm_train_options options; /* without paths */
    dlm_train_progress progress;
    dlm_train_clock clock;
    dlm_train_source source, eval_source;
} dlm_checkpoint;
/* What it says as the text of trainer.json, with the place of the next batch among `windows` (> 0), and of
 * clock.json; free() them. NULL for want of memory. */
char *dlm__checkpoint_state_text(const dlm_checkpoint *checkpoint, size_t windows);
char *dlm__checkpoint_clock_text(const dlm_train_clock *clock);
/* The reverse, from n bytes; name is for messages. What was filled in before an error is for
 * dlm__checkpoint_release too. */
dlm_status dlm__checkpoint_state_parse(const char *name, const char *bytes, size_t n,
                                       dlm_checkpoint *checkpoint, dlm_error *err);
dlm_status dlm__checkpoint_clock_parse(const char *name, const char *bytes, size_t n, dlm_train_clock *clock,
                                       dlm_error *err);
/* Reads the description of the newest checkpoint: the one that `latest` names, or without that file the one
 * of the most steps. folder is NULL when there is none. */
dlm_status dlm__checkpoint_read(const char *run, dlm_checkpoint *checkpoint, dlm_error *err);
void dlm__checkpoint_release(dlm_checkpoint *checkpoint);
/* Its blocks into the learner. */
dlm_status dlm__checkpoint_load(const dlm_checkpoint *checkpoint, dlm_learner *learner, dlm_error *err);

#endif
