/* Training steps, and what is due after each.
 *
 * A step draws its global batch, sums the gradients of its passes, and updates. All memory for it was taken
 * when the trainer was made. What it computes depends on the options, the data and the number of the step; a
 * checkpoint adds the learner's blocks to that, so a resumed run gives the same bytes. */
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>

/* ---- where the run is --------------------------------------------------------------------------------- */

double dlm__trainer_seconds(const dlm_trainer *trainer) {
    return trainer->before.seconds + (dlm__seconds() - trainer->started);
}

double dlm__trainer_share(const dlm_trainer *t) {
    double done =
        t->steps > 0 ? (double)t->progress.step / (double)t->steps : t->now / (60 * t->options.minutes);
    return fmin(1.0, done);
}

/* Where the clock ends the run, rank 0's does: all take the same steps at the same rates. */
static dlm_status look_at_clock(dlm_trainer *t, dlm_error *err) {
    if (t->steps > 0) return DLM_OK;
    t->now = dlm__trainer_seconds(t);
    return dlm__ranks_share(t->ranks, &t->now, sizeof t->now, err);
}

static bool is_finished(const dlm_trainer *t) {
    return dlm__trainer_share(t) >= 1 || t->progress.step >= UINT32_MAX;
}

static double epoch_of(const dlm_trainer *t) {
    return (double)t->progress.step * (double)t->options.batch / (double)t->windows.n;
}

static double learning_rate(const dlm_trainer *t) {
    const dlm_train_options *o = &t->options;
    uint64_t step = t->progress.step, warmup = o->warmup;
    if (t->steps > 0 && warmup > t->steps / 2) warmup = t->steps / 2;
    double progress = t->steps > 0 ? dlm__lr_progress(step, warmup, t->steps) : dlm__trainer_share(t);
    return o->lr * dlm__lr_multiplier(step, warmup, o->min_lr_ratio, progress);
}

static double seconds_left(const dlm_trainer *t) {
    if (t->steps == 0) return fmax(0, 60 * t->options.minutes - dlm__trainer_seconds(t));
    uint64_t done = t->progress.step - t->first_step;
    if (done == 0) return 0;
    return (double)(t->steps - t->progress.step) * (dlm__seconds() - t->started) / (double)done;
}

/* ---- a step ------------------------------------------------------------------------------------------- */

/* Loss and gradients of this rank's share of the drawn batch. */
static dlm_status differentiate(dlm_trainer *t, double *loss, dlm_error *err) {
    dlm__clear(t->layout->total, t->learner->gradients);
    return dlm__passes_loss(t->workspace, &t->network, t->batch->n_micro, t->batch->micro, t->ce, loss,
                            t->learner->gradients, err);
}

static dlm_status fail_not_finite(const dlm_trainer *t, double loss, double norm, dlm_error *err) {
    return dlm__fail(err, DLM_NOT_FINITE,
                     "step %" PRIu64
                     ": loss %g, gradient norm %g, with a batch of %zu windows from number %zu "
                     "of %zu in epoch %" PRIu64 " on; nothing was changed, the last good checkpoint is %s",
                     t->progress.step + 1, loss, norm, t->options.batch, t->batch->place, t->windows.n,
                     t->batch->epoch, t->checkpoint != NULL ? t->checkpoint : "none");
}

/* From here on no step is taken and nothing saved. */
static dlm_status stay_broken(dlm_trainer *t, const dlm_error *why, dlm_error *err) {
    t->broken = *why;
    if (err != NULL) *err = *why;
    return why->status;
}

/* The update; when it fails, the weights are half old, half new. */
static dlm_status update(dlm_trainer *t, double lr, double norm, dlm_error *err) {
    const dlm_train_options *o = &t->options;
    uint64_t step = t->progress.step;
    const dlm_update how = {.lr = lr,
                            .weight_decay = o->weight_decay,
                            .clip = o->clip,
                            .ema_decay = dlm__ema_decay(o->ema, o->recipe == DLM_RECIPE_DEFAULT, step),
                            .norm = norm,
                            .step = step + 1};
    dlm__learner_update(t->learner, t->compute, &how);
    const dlm_status status = dlm__compute_status(t->compute, err);
    DLM_TRY(dlm__learner_collect(t->learner, status, err));
    dlm__network_refresh(t->compute, &t->network);
    return dlm__compute_status(t->compute, err);
}

static dlm_status take_step(dlm_trainer *t, dlm_train_report *report, dlm_error *err) {
    double begin = dlm__seconds(), loss, norm, lr = learning_rate(t);
    dlm_error why;
    dlm__global_batch_draw(t->batch, t->progress.step);
    dlm_status status = differentiate(t, &loss, err);
    DLM_TRY(dlm__learner_reduce(t->learner, t->compute, status, &loss, &norm, err));
    if (!isfinite(loss) || !isfinite(norm)) {
        (void)fail_not_finite(t, loss, norm, &why);
        return stay_broken(t, &why, err);
    }
    if (update(t, lr, norm, &why) != DLM_OK) return stay_broken(t, &why, err);
    double seconds = dlm__seconds() - begin;
    dlm_train_progress *p = &t->progress;
    p->step++;
    p->tokens += t->batch->tokens;
    p->row_steps++;
    p->row_tokens += t->batch->tokens;
    p->row_loss += loss;
    p->row_norm += norm;
    t->before.row_seconds += seconds;
    double now = (double)t->batch->tokens / fmax(seconds, 1e-9);
    t->rate = t->rate > 0 ? 0.9 * t->rate + 0.1 * now : now;
    report->stepped = true;
    report->loss = loss;
    report->lr = lr;
    report->grad_norm = norm;
    return DLM_OK;
}

/* ---- what is due after it ----------------------------------------------------------------------------- */

static bool due(size_t every, uint64_t step, bool last) {
    return every > 0 && (last || step % every == 0);
}

static dlm_status evaluate(dlm_trainer *t, dlm_train_report *report, dlm_error *err) {
    dlm_error why;
    dlm_status status = dlm__trainer_evaluate(t, &report->eval_ce, &report->eval_nelbo, &why);
    if (status == DLM_NOT_FINITE) {
        (void)dlm__fail(&t->broken, status,
                        "evaluation after step %" PRIu64 ": %.200s; the last good checkpoint is %s",
                        t->progress.step, why.message, t->checkpoint != NULL ? t->checkpoint : "none");
        why = t->broken;
    }
    if (status != DLM_OK) {
        if (err != NULL) *err = why;
        return status;
    }
    report->evaluated = true;
    report->eval_ppl = exp(report->eval_ce);
    dlm_train_progress *p = &t->progress;
    if (!isfinite(report->eval_nelbo) || (p->evaluated && !(report->eval_nelbo < p->best_nelbo)))
        return DLM_OK;
    p->evaluated = true;
    p->best_step = p->step;
    p->best_nelbo = report->eval_nelbo;
    return DLM_OK;
}

static dlm_status write_row(dlm_trainer *t, const dlm_train_report *report, dlm_error *err) {
    dlm_train_progress *p = &t->progress;
    double n = (double)p->row_steps;
    dlm_log_row row = {.step = p->step,
                       .epoch = epoch_of(t),
                       .tokens = p->tokens,
                       .seconds = dlm__trainer_seconds(t),
                       .loss = p->row_loss / n,
                       .lr = report->lr,
                       .grad_norm = p->row_norm / n,
                       .tokens_per_second = (double)p->row_tokens / fmax(t->before.row_seconds, 1e-9),
                       .evaluated = report->evaluated,
                       .eval_ce = report->eval_ce,
                       .eval_ppl = report->eval_ppl,
                       .eval_nelbo = report->eval_nelbo};
    p->row_steps = p->row_tokens = 0;
    p->row_loss = p->row_norm = t->before.row_seconds = 0;
    if (dlm_ranks_rank(t->ranks) > 0) return DLM_OK;
    return dlm__run_log_row(t->log, &row, err);
}

static dlm_status write_sample(dlm_trainer *t, dlm_train_report *report, dlm_error *err) {
    size_t bytes;
    DLM_TRY(dlm__trainer_sample(t, &bytes, err));
    if (dlm_ranks_rank(t->ranks) > 0) return DLM_OK;
    report->sample = t->sample;
    return dlm__run_log_sample(t->log, t->progress.step, t->sample, bytes, err);
}

static dlm_status after_step(dlm_trainer *t, dlm_train_report *report, bool last, dlm_error *err) {
    const dlm_train_options *o = &t->options;
    const dlm_train_progress *p = &t->progress;
    dlm_status status = DLM_OK;
    if (due(o->eval_every, p->step, last) && t->eval_windows.n > 0) DLM_TRY(evaluate(t, report, err));
    if (due(o->sample_every, p->step, last)) {
        status = write_sample(t, report, err);
        DLM_TRY(dlm__ranks_agree(t->ranks, status, err));
    }
    if (due(o->log_every, p->step, last) || report->evaluated) {
        status = write_row(t, report, err);
        DLM_TRY(dlm__ranks_agree(t->ranks, status, err));
    }
    bool best = report->evaluated && p->best_step == p->step && o->save_every > 0;
    if (!last && !best && !due(o->save_every, p->step, last)) return DLM_OK;
    report->saved = true;
    return dlm_trainer_save(t, err);
}

static void describe(const dlm_trainer *t, dlm_train_report *report) {
    report->step = (size_t)t->progress.step;
    report->steps = t->steps;
    report->share = dlm__trainer_share(t);
    report->epoch = epoch_of(t);
    report->tokens = t->progress.tokens;
    report->seconds = dlm__trainer_seconds(t);
    report->seconds_left = seconds_left(t);
    report->tokens_per_second = t->rate;
    report->checkpoint = t->checkpoint;
}

/* A step, unless the run is complete. Only behind a step is looked whether it was the last: the time may run
 * out while an evaluation or a checkpoint is made, and the last step has these too. */
static dlm_status go_on(dlm_trainer *t, dlm_train_report *report, bool *finished, dlm_error *err) {
    DLM_TRY(look_at_clock(t, err));
    if (t->progress.step == t->first_step) t->finished = is_finished(t);
    *finished = t->finished;
    if (t->finished) return DLM_OK;
    DLM_TRY(take_step(t, report, err));
    DLM_TRY(look_at_clock(t, err));
    *finished = t->finished = is_finished(t);
    return after_step(t, report, t->finished, err);
}

dlm_status dlm_trainer_step(dlm_trainer *trainer, dlm_train_report *report, bool *finished, dlm_error *err) {
    *report = (dlm_train_report){0};
    *finished = false;
    dlm_error why;
    dlm_status status = trainer->broken.status;
    if (status != DLM_OK) {
        if (err != NULL) *err = trainer->broken;
    } else {
        status = go_on(trainer, report, finished, &why);
        if (status != DLM_OK && dlm__ranks_lost(trainer->ranks)) {
            (void)dlm__fail(&trainer->broken, status,
                            "%.300s; nothing is saved any more, the last good checkpoint is %s", why.message,
                            trainer->checkpoint != NULL ? trainer->checkpoint : "none");
            why = trainer->broken;
        }
        if (status != DLM_OK && err != NULL) *err = why;
    }
    describe(trainer, report);
    return status;
}

dlm_status dlm_trainer_save(dlm_trainer *trainer, dlm_error *err) {
    if (trainer->broken.status != DLM_OK) {
        if (err != NULL) *err = trainer->broken;
        return trainer->broken.status;
    }
    if (trainer->checkpoint != NULL && trainer->checkpoint_step == trainer->progress.step) return DLM_OK;
    return dlm__checkpoint_save(trainer, err);
}

const dlm_config *dlm_trainer_config(const dlm_trainer *trainer) {
    return &trainer->layout->config;
}

dlm_data_info dlm_trainer_data(const dlm_trainer *trainer) {
    return dlm_data_describe(trainer->data);
}
