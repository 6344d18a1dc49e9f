/* Steps of the reverse process. */
#include "diffusion/reverse.h"

#include <math.h>

/* ReMDM's loop: half of the time goes to revealing 90 % of the positions, then time stands still for the
 * other half while positions are masked again and revealed anew, and the last twentieth reveals the rest
 * (the values of the paper's experiments). */
#define LOOP_ON      0.55
#define LOOP_OFF     0.05
#define LOOP_MASKED  0.1
#define ETA_DEFAULT  0.02
#define ETA_OF_SHARE 1.0 /* of CONF, whose eta scales the largest share */

dlm_status dlm__remask_check(const dlm_sample_options *o, dlm_error *err) {
    if ((unsigned)o->remask > DLM_REMASK_LOOP)
        return dlm__fail(err, DLM_ARGUMENT, "remasking %d is none of 0 to %d", (int)o->remask,
                         DLM_REMASK_LOOP);
    if (o->eta != -1 && !(o->eta >= 0 && o->eta <= 1))
        return dlm__fail(err, DLM_ARGUMENT, "eta %g is neither -1 (its default) nor from 0 to 1", o->eta);
    if (o->remask == DLM_REMASK_NONE && o->eta != -1)
        return dlm__fail(err, DLM_ARGUMENT, "eta %g is a probability of remasking, and nothing is remasked",
                         o->eta);
    if (o->remask == DLM_REMASK_NONE) return DLM_OK;
    if (o->order != DLM_ORDER_ANCESTRAL)
        return dlm__fail(err, DLM_ARGUMENT,
                         "remasking belongs to the order ancestral, whose steps it makes probabilities for");
    if (o->corrector_frac > 0)
        return dlm__fail(err, DLM_ARGUMENT,
                         "remasking and the corrector both mask what was revealed: take one");
    return DLM_OK;
}

static double masked_at(const dlm_sample_options *o, dlm_schedule schedule, double share, double t) {
    if (o->remask == DLM_REMASK_LOOP) {
        if (t > LOOP_ON) return 1 - (1 - t) * (1 - LOOP_MASKED) / (1 - LOOP_ON);
        return t > LOOP_OFF ? LOOP_MASKED : t * LOOP_MASKED / LOOP_OFF;
    }
    return dlm__sigma_exact(schedule, t * dlm__sigma_exact_inverse(schedule, share)) / share;
}

static double remask_at(const dlm_sample_options *o, double t, double before, double after) {
    const double most = before < 1 ? fmin(1, after / (1 - before)) : 1;
    const double eta = o->eta != -1 ? o->eta : o->remask == DLM_REMASK_CONF ? ETA_OF_SHARE : ETA_DEFAULT;
    switch (o->remask) {
    case DLM_REMASK_NONE: return 0;
    case DLM_REMASK_CAP: return fmin(eta, most);
    case DLM_REMASK_RESCALE:
    case DLM_REMASK_CONF: return eta * most;
    case DLM_REMASK_LOOP: return t <= LOOP_ON && t > LOOP_OFF ? fmin(eta, most) : 0;
    }
    return 0;
}

dlm_reverse_step dlm__reverse_step(const dlm_sample_options *o, dlm_schedule schedule, double share,
                                   size_t steps, size_t step) {
    const double t = (double)(steps - step) / (double)steps, s = (double)(steps - step - 1) / (double)steps;
    const double before = masked_at(o, schedule, share, t), after = masked_at(o, schedule, share, s);
    dlm_reverse_step result = {.fed = dlm__sigma_inverse(schedule, before * share),
                               .masked = after,
                               .remask = remask_at(o, t, before, after)};
    /* CONF masks by confidence, which a masked position has none of: nothing makes up for it (as published).
     */
    const double returned = o->remask == DLM_REMASK_CONF ? 0 : result.remask * (1 - before);
    result.reveal = fmin((before - after + returned) / before, 1);
    return result;
}

double dlm__next_hit(dlm_rng *rng, double m, size_t n) {
    return m * pow(dlm__rng_uniform(rng), 1 / (double)n);
}
