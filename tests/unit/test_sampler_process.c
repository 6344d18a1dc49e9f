/* The orders that are the masking process run backwards, ancestral and first_hitting, and remasking: exact
 * laws of the texts, the share of masked positions after each step, and the times that the model is told. The
 * process' formulas are written here anew. */
#include "sampling_fixture.h"

#define PI 3.14159265358979323846

static double sigma(dlm_schedule schedule, double t) {
    return schedule == DLM_SCHEDULE_LINEAR ? t : 1 - cos(PI * t / 2);
}

static double inverse(dlm_schedule schedule, double s) {
    return schedule == DLM_SCHEDULE_LINEAR ? s : 2 / PI * acos(1 - s);
}

/* Share of the free positions that is masked at the grid's time t, of which `share` was masked at the start.
 */
static double masked_share(const dlm_sample_options *o, dlm_schedule schedule, double share, double t) {
    if (o->remask != DLM_REMASK_LOOP) return sigma(schedule, t * inverse(schedule, share)) / share;
    if (t > 0.55) return 1 - 0.9 * (1 - t) / 0.45;
    return t > 0.05 ? 0.1 : 2 * t;
}

static double remasking(const dlm_sample_options *o, double t, double m, double after) {
    const double most = m < 1 ? fmin(1, after / (1 - m)) : 1;
    switch (o->remask) {
    case DLM_REMASK_NONE: return 0;
    case DLM_REMASK_CAP: return fmin(o->eta, most);
    case DLM_REMASK_RESCALE:
    case DLM_REMASK_CONF: return o->eta * most;
    case DLM_REMASK_LOOP: return t <= 0.55 && t > 0.05 ? fmin(o->eta, most) : 0;
    }
    return 0;
}

/* ---- exact laws --------------------------------------------------------------------------------------- */

typedef struct walk {
    const dlm_model *model;
    const dlm_sample_options *options;
    dlm_schedule schedule;
    double share;
    const uint8_t *fixed;
    /* of each step: what the model says when told its time, in each state */
    double p[8][TINY_STATES][TINY_L][TINY_TOKENS];
    double law[TINY_TEXTS];
} walk;

static void make_tables(walk *w, size_t step, double told) {
    const size_t L = TINY_L;
    const float t = (float)told;
    float logits[TINY_L * TINY_V];
    for (size_t s = 0; s < TINY_STATES; s++) {
        int32_t ids[TINY_L];
        size_t rest = s;
        for (size_t i = TINY_L; i-- > 0; rest /= 4)
            ids[i] = rest % 4 == 0 ? TINY_MASK : (int32_t)(rest % 4) - 1 + TINY_FIRST;
        dlm_error err;
        CHECK_OK(dlm_model_logits(w->model, ids, &L, 1, &t, logits, &err), &err);
        for (size_t i = 0; i < TINY_L; i++) {
            double *p = w->p[step][s][i], sum = 0;
            for (size_t v = 0; v < TINY_TOKENS; v++)
                sum += p[v] = exp((double)logits[i * TINY_V + TINY_FIRST + v] / w->options->temperature);
            for (size_t v = 0; v < TINY_TOKENS; v++) p[v] /= sum;
        }
    }
}

typedef struct path {
    int32_t ids[TINY_L];
    double confidence[TINY_L];
    double probability;
} path;

/* Everything that can become of positions `position` on, by a step from `from`. */
static void branch(walk *w, size_t step, const path *from, size_t position, double reveal,
                   const double remask[TINY_L], const path *so_far);

static void follow(walk *w, size_t step, const path *at) {
    const dlm_sample_options *o = w->options;
    size_t masked = 0;
    double total = 0, remask[TINY_L];
    for (size_t i = 0; i < TINY_L; i++) {
        masked += at->ids[i] == TINY_MASK;
        if (at->ids[i] != TINY_MASK && !w->fixed[i]) total += exp(-at->confidence[i]);
    }
    if (step == o->steps) {
        CHECK_INT_EQ(masked, 0);
        w->law[tiny_text(at->ids)] += at->probability;
        return;
    }
    const double t = 1 - (double)step / (double)o->steps, s = 1 - (double)(step + 1) / (double)o->steps;
    const double m = masked_share(o, w->schedule, w->share, t);
    const double after = step + 1 == o->steps ? 0 : masked_share(o, w->schedule, w->share, s);
    const double r = remasking(o, t, m, after);
    const double returned = o->remask == DLM_REMASK_CONF ? 0 : r * (1 - m);
    for (size_t i = 0; i < TINY_L; i++)
        remask[i] = w->fixed[i] ? 0 : o->remask == DLM_REMASK_CONF ? r * exp(-at->confidence[i]) / total : r;
    branch(w, step, at, 0, (m - after + returned) / m, remask, at);
}

static void branch(walk *w, size_t step, const path *from, size_t position, double reveal,
                   const double remask[TINY_L], const path *so_far) {
    if (so_far->probability < 1e-15) return;
    if (position == TINY_L) {
        follow(w, step + 1, so_far);
        return;
    }
    path next = *so_far;
    const bool masked = from->ids[position] == TINY_MASK;
    next.probability *= masked ? 1 - reveal : 1 - remask[position]; /* stays as it is */
    branch(w, step, from, position + 1, reveal, remask, &next);
    if (!masked) {
        next = *so_far;
        next.probability *= remask[position];
        next.ids[position] = TINY_MASK;
        branch(w, step, from, position + 1, reveal, remask, &next);
        return;
    }
    const double *p = w->p[step][tiny_state(from->ids)][position];
    for (size_t v = 0; v < TINY_TOKENS; v++) {
        next = *so_far;
        next.probability *= reveal * p[v];
        next.ids[position] = TINY_FIRST + (int32_t)v;
        next.confidence[position] = fmax(p[0], fmax(p[1], p[2]));
        branch(w, step, from, position + 1, reveal, remask, &next);
    }
}

static const int32_t all_masked[TINY_L] = {TINY_MASK, TINY_MASK, TINY_MASK};
static const uint8_t none_fixed[TINY_L] = {0, 0, 0};

static void count_texts(const dlm_model *model, const dlm_sample_options *options,
                        const int32_t start[TINY_L], const uint8_t fixed[TINY_L], size_t n,
                        size_t seen[TINY_TEXTS], size_t *forwards) {
    enum { MOST = 20000 };
    static int32_t ids[MOST * TINY_L];
    static uint8_t given[MOST * TINY_L];
    static size_t lengths[MOST];
    REQUIRE(n <= MOST);
    for (size_t s = 0; s < n; s++) {
        lengths[s] = TINY_L;
        memcpy(ids + s * TINY_L, start, TINY_L * sizeof *ids);
        memcpy(given + s * TINY_L, fixed, TINY_L);
    }
    dlm_error err;
    memset(seen, 0, TINY_TEXTS * sizeof *seen);
    REQUIRE_OK(dlm_sample(model, options, 0, n, lengths, ids, given, NULL, forwards, &err), &err);
    for (size_t s = 0; s < n; s++) {
        for (size_t i = 0; i < TINY_L; i++)
            REQUIRE(ids[s * TINY_L + i] >= TINY_FIRST && ids[s * TINY_L + i] < TINY_V);
        seen[tiny_text(ids + s * TINY_L)]++;
    }
}

static void check_process(const dlm_model *model, dlm_schedule schedule, const dlm_sample_options *options,
                          const int32_t start[TINY_L], const uint8_t fixed[TINY_L]) {
    enum { SAMPLES = 12000 };
    static walk w;
    size_t seen[TINY_TEXTS], masked = 0;
    path at = {.probability = 1};
    memset(&w, 0, sizeof w);
    for (size_t i = 0; i < TINY_L; i++) masked += start[i] == TINY_MASK;
    memcpy(at.ids, start, sizeof at.ids);
    w.model = model;
    w.options = options;
    w.schedule = schedule;
    w.share = (double)masked / TINY_L;
    w.fixed = fixed;
    for (size_t step = 0; step < options->steps; step++) {
        const double t = 1 - (double)step / (double)options->steps;
        make_tables(&w, step,
                    inverse(schedule, fmax(masked_share(options, schedule, w.share, t) * w.share, 1e-3)));
    }
    follow(&w, 0, &at);
    count_texts(model, options, start, fixed, SAMPLES, seen, NULL);
    check_law(w.law, seen, SAMPLES);
}

static dlm_model *tiny_model(dlm_time time, dlm_schedule schedule) {
    return random_model(TINY_V, TINY_L, time, schedule, 0.3, NULL);
}

TEST(law_of_ancestral) {
    static const int32_t start[TINY_L] = {TINY_MASK, 5, TINY_MASK};
    static const uint8_t fixed[TINY_L] = {0, 1, 0};
    for (int schedule = 0; schedule < 2; schedule++) {
        dlm_model *model = tiny_model(DLM_TIME_ADALN, (dlm_schedule)schedule);
        REQUIRE(model != NULL);
        for (size_t steps = 1; steps <= 4; steps++) {
            dlm_sample_options options = dlm_sample_defaults();
            options.order = DLM_ORDER_ANCESTRAL;
            options.steps = steps;
            options.seed = steps;
            check_context("schedule %d, %zu steps", schedule, steps);
            check_process(model, (dlm_schedule)schedule, &options, all_masked, none_fixed);
            check_process(model, (dlm_schedule)schedule, &options, start, fixed);
        }
        dlm_model_free(model);
    }
}

TEST(law_of_remasking) {
    static const int32_t start[TINY_L] = {TINY_MASK, TINY_MASK, 4};
    static const uint8_t fixed[TINY_L] = {0, 0, 1};
    static const struct {
        dlm_remask remask;
        double eta;
    } plans[] = {{DLM_REMASK_CAP, 0.3},  {DLM_REMASK_RESCALE, 0.7}, {DLM_REMASK_CONF, 1},
                 {DLM_REMASK_CONF, 0.6}, {DLM_REMASK_LOOP, 0.1},    {DLM_REMASK_LOOP, 1}};
    dlm_model *model = tiny_model(DLM_TIME_ADALN, DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    for (size_t plan = 0; plan < sizeof plans / sizeof plans[0]; plan++) {
        dlm_sample_options options = dlm_sample_defaults();
        options.order = DLM_ORDER_ANCESTRAL;
        options.remask = plans[plan].remask;
        options.eta = plans[plan].eta;
        options.steps = 4;
        options.seed = plan;
        options.temperature = 0.5; /* confidences that differ */
        check_context("plan %zu", plan);
        check_process(model, DLM_SCHEDULE_COSINE, &options, all_masked, none_fixed);
        check_process(model, DLM_SCHEDULE_COSINE, &options, start, fixed);
    }
    dlm_model_free(model);
}

/* ---- marginals ---------------------------------------------------------------------------------------- */

enum { MANY = 600, LONG = 40, STEPS = 20 };

typedef struct tally {
    const dlm_sample_options *options;
    int32_t before[MANY * LONG];
    double masked[STEPS + 1], revealed_again[STEPS + 1], revealed_before[STEPS + 1]; /* counts */
    double told[STEPS + 1]; /* of sequence 0; 0 where nothing of it was revealed */
} tally;

static bool count_step(void *user, const dlm_sample_step *step) {
    tally *t = user;
    const size_t T = step->offsets[step->n];
    for (size_t p = 0; p < LONG && step->step > 0; p++)
        if (t->before[p] == step->mask_id && step->ids[p] != step->mask_id)
            t->told[step->step] = step->times[0];
    for (size_t p = 0; p < T; p++) {
        t->masked[step->step] += step->ids[p] == step->mask_id;
        if (step->step > 0 && t->before[p] != step->mask_id) {
            t->revealed_before[step->step]++;
            t->revealed_again[step->step] += step->ids[p] == step->mask_id;
        }
        t->before[p] = step->ids[p];
    }
    return false;
}

/* Is a count of n events of probability p within 4.5 standard deviations? */
static void check_count(double count, double n, double p) {
    CHECK_CLOSE(count, n * p, 4.5 * sqrt(n * p * (1 - p)) + 0.01);
}

/* After each step a position is masked with the process' probability, whatever is remasked on the way. */
TEST(marginals_of_remasking) {
    static const struct {
        dlm_remask remask;
        double eta;
    } plans[] = {{DLM_REMASK_NONE, -1},     {DLM_REMASK_CAP, 0.05},  {DLM_REMASK_CAP, -1},
                 {DLM_REMASK_RESCALE, 0.4}, {DLM_REMASK_RESCALE, 1}, {DLM_REMASK_LOOP, -1},
                 {DLM_REMASK_LOOP, 0.08}};
    static tally t;
    static int32_t ids[MANY * LONG];
    static size_t lengths[MANY];
    for (int schedule = 0; schedule < 2; schedule++) {
        dlm_model *model = random_model(7, LONG, DLM_TIME_ADALN, (dlm_schedule)schedule, 0.3, NULL);
        REQUIRE(model != NULL);
        for (size_t plan = 0; plan < sizeof plans / sizeof plans[0]; plan++) {
            dlm_sample_options options = dlm_sample_defaults();
            options.order = DLM_ORDER_ANCESTRAL;
            options.remask = plans[plan].remask;
            options.eta = plans[plan].eta;
            options.steps = STEPS;
            options.seed = plan;
            options.on_step = count_step;
            options.user = &t;
            memset(&t, 0, sizeof t);
            for (size_t b = 0; b < MANY; b++) lengths[b] = LONG;
            for (size_t p = 0; p < MANY * LONG; p++) ids[p] = model->mask_id;
            dlm_error err;
            REQUIRE_OK(dlm_sample(model, &options, 0, MANY, lengths, ids, NULL, NULL, NULL, &err), &err);
            if (options.eta < 0) options.eta = 0.02;
            double remasked = 0;
            for (size_t step = 1; step <= STEPS; step++) {
                const double time = 1 - (double)(step - 1) / STEPS, s = 1 - (double)step / STEPS;
                const double m = masked_share(&options, (dlm_schedule)schedule, 1, time);
                const double after = step == STEPS ? 0 : masked_share(&options, (dlm_schedule)schedule, 1, s);
                check_context("schedule %d, plan %zu, step %zu", schedule, plan, step);
                check_count(t.masked[step], MANY * LONG, after);
                check_count(t.revealed_again[step], t.revealed_before[step],
                            remasking(&options, time, m, after));
                if (t.told[step] > 0)
                    CHECK_CLOSE(t.told[step], inverse((dlm_schedule)schedule, fmax(m, 1e-3)), 1e-6);
                remasked += t.revealed_again[step];
            }
            CHECK((remasked > 100) == (options.remask != DLM_REMASK_NONE));
        }
        dlm_model_free(model);
    }
}

/* ---- first hitting ------------------------------------------------------------------------------------ */

/* Uniform orders, one position at a time, through the table of a model that is not told the time. */
static void any_order(const tiny_table *table, const int32_t ids[TINY_L], double probability,
                      double law[TINY_TEXTS]) {
    size_t masked = 0;
    for (size_t i = 0; i < TINY_L; i++) masked += ids[i] == TINY_MASK;
    if (masked == 0) law[tiny_text(ids)] += probability;
    for (size_t i = 0; i < TINY_L; i++)
        for (size_t v = 0; v < TINY_TOKENS && ids[i] == TINY_MASK; v++) {
            int32_t next[TINY_L];
            memcpy(next, ids, sizeof next);
            next[i] = TINY_FIRST + (int32_t)v;
            any_order(table, next, probability / (double)masked * table->p[tiny_state(ids)][i][v], law);
        }
}

TEST(law_of_first_hitting) {
    dlm_model *model = tiny_model(DLM_TIME_NONE, DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    options.order = DLM_ORDER_FIRST_HITTING;
    double law[TINY_TEXTS] = {0};
    size_t seen[TINY_TEXTS], forwards;
    any_order(tiny_enumerate(model, options.temperature), all_masked, 1, law);
    count_texts(model, &options, all_masked, none_fixed, 12000, seen, &forwards);
    check_law(law, seen, 12000);
    CHECK_INT_EQ(forwards, TINY_L);
    dlm_model_free(model);
}

/* Of a model that is told the time, many steps of ancestral give the same law: the texts of both, counted,
 * differ by no more than two samples of one law (chi-squared of two samples). */
TEST(first_hitting_is_the_limit_of_ancestral) {
    enum { N = 4000 };
    for (int schedule = 0; schedule < 2; schedule++) {
        dlm_model *model = random_model(TINY_V, TINY_L, DLM_TIME_ADALN, (dlm_schedule)schedule, 0.35, NULL);
        REQUIRE(model != NULL);
        dlm_sample_options options = dlm_sample_defaults();
        size_t hits[TINY_TEXTS], steps[TINY_TEXTS];
        options.temperature = 3;
        options.order = DLM_ORDER_FIRST_HITTING;
        count_texts(model, &options, all_masked, none_fixed, N, hits, NULL);
        options.order = DLM_ORDER_ANCESTRAL;
        options.steps = 1500; /* a step turns the time's fastest angle by 2/3 */
        options.seed = 5;
        count_texts(model, &options, all_masked, none_fixed, N, steps, NULL);
        double chi = 0, df = -1;
        for (size_t i = 0; i < TINY_TEXTS; i++) {
            const double sum = (double)(hits[i] + steps[i]), difference = (double)hits[i] - (double)steps[i];
            if (sum < 10) continue;
            chi += difference * difference / sum;
            df++;
        }
        CHECK(df > 10);
        if (!CHECK(chi < df + 4.3 * sqrt(2 * df))) printf("chi-squared %g of %g degrees\n", chi, df);
        dlm_model_free(model);
    }
}

typedef struct hits {
    const dlm_model *model;
    double shares[MANY][TINY_L]; /* sigma of the time told, by sequence and step */
    float confidence[TINY_L];    /* of sequence 0 */
    int32_t before[TINY_L];
    size_t wrong;
} hits;

static bool record_hits(void *user, const dlm_sample_step *step) {
    hits *h = user;
    if (step->step > 0)
        for (size_t b = 0; b < step->n; b++) h->shares[b][step->step - 1] = 1 - cos(PI * step->times[b] / 2);
    /* What sequence 0 was told is what its confidence comes from. */
    for (size_t i = 0; i < TINY_L && step->step > 0; i++) {
        if (step->ids[i] == h->before[i]) continue;
        const size_t L = TINY_L;
        const float t = (float)step->times[0];
        float logits[TINY_L * TINY_V];
        double sum = 0, largest = 0;
        dlm_error err;
        CHECK_OK(dlm_model_logits(h->model, h->before, &L, 1, &t, logits, &err), &err);
        for (size_t v = TINY_FIRST; v < TINY_V; v++) sum += exp((double)logits[i * TINY_V + v]);
        for (size_t v = TINY_FIRST; v < TINY_V; v++)
            largest = fmax(largest, exp((double)logits[i * TINY_V + v]) / sum);
        CHECK_CLOSE(step->confidence[i], largest, 1e-5);
    }
    memcpy(h->before, step->ids, sizeof h->before);
    return false;
}

/* The first `given` positions are fixed. */
static void check_hits(const dlm_model *model, size_t given) {
    static hits h;
    static uint8_t fixed[MANY * TINY_L];
    static int32_t ids[MANY * TINY_L];
    const size_t n = TINY_L - given;
    const double start = (double)n / TINY_L;
    size_t lengths[MANY];
    dlm_sample_options options = dlm_sample_defaults();
    options.order = DLM_ORDER_FIRST_HITTING;
    options.temperature = 1;
    options.on_step = record_hits;
    options.user = &h;
    h.model = model;
    for (size_t b = 0; b < MANY; b++) lengths[b] = TINY_L;
    for (size_t p = 0; p < MANY * TINY_L; p++) {
        fixed[p] = p % TINY_L < given;
        ids[p] = fixed[p] ? TINY_FIRST : model->mask_id;
    }
    dlm_error err;
    CHECK_OK(dlm_sample(model, &options, 0, MANY, lengths, ids, fixed, NULL, NULL, &err), &err);
    /* u = (ratio)^n is uniform: Kolmogorov's distance of the 600 values, 1.95/sqrt(600) at 0.1 %. */
    for (size_t step = 0; step < n; step++) {
        double distance = 0, u[MANY];
        check_context("%zu given, hit %zu", given, step);
        for (size_t b = 0; b < MANY; b++) {
            u[b] = pow(h.shares[b][step] / (step == 0 ? start : h.shares[b][step - 1]), (double)(n - step));
            CHECK(u[b] <= 1 + 1e-9);
        }
        for (size_t b = 0; b < MANY; b++) {
            size_t below = 0;
            for (size_t c = 0; c < MANY; c++) below += u[c] <= u[b];
            distance = fmax(distance, fabs((double)below / MANY - u[b]));
        }
        CHECK(distance < 1.95 / sqrt(MANY) + 2.0 / MANY);
    }
}

/* Hitting times of three positions: the largest of three uniform shares, then of the two below it, then of
 * one. With one of them given it is two shares of two thirds. */
TEST(hitting_times_have_their_law) {
    dlm_model *model = tiny_model(DLM_TIME_ADALN, DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    check_hits(model, 0);
    check_hits(model, 1);
    dlm_model_free(model);
}

/* ---- a limit of time ---------------------------------------------------------------------------------- */

typedef struct pace {
    size_t calls, masked_last;
    double until; /* each step waits until so many seconds have passed since the one before */
} pace;

static double seconds_now(void) {
    return dlm__seconds();
}

static bool slow_down(void *user, const dlm_sample_step *step) {
    pace *p = user;
    p->calls++;
    p->masked_last = 0;
    for (size_t i = 0; i < step->offsets[step->n]; i++) p->masked_last += step->ids[i] == step->mask_id;
    for (const double start = seconds_now(); seconds_now() - start < p->until;) continue;
    return false;
}

/* Every order ends when the time is up, with nothing masked; without a limit it takes its steps. */
TEST(time_that_is_limited) {
    dlm_model *model = random_model(9, LONG, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    for (int order = 0; order <= DLM_ORDER_FIRST_HITTING; order++) {
        dlm_sample_options options = dlm_sample_defaults();
        const size_t L = LONG;
        int32_t ids[LONG];
        pace p = {.until = 0.01};
        size_t forwards;
        dlm_error err;
        options.order = (dlm_order)order;
        options.on_step = slow_down;
        options.user = &p;
        options.max_seconds = 0.1;
        for (size_t i = 0; i < LONG; i++) ids[i] = 2;
        check_context("order %d", order);
        const double start = seconds_now();
        CHECK_OK(dlm_sample(model, &options, 0, 1, &L, ids, NULL, NULL, &forwards, &err), &err);
        const double seconds = seconds_now() - start;
        CHECK_INT_EQ(p.masked_last, 0);
        for (size_t i = 0; i < LONG; i++) CHECK(ids[i] >= 3);
        CHECK(forwards >= 1 && forwards < 14);
        CHECK(seconds < 0.5); /* of a loaded machine; without the limit at least 0.4 and 40 passes */
        p = (pace){.until = 0};
        options.max_seconds = 1000;
        for (size_t i = 0; i < LONG; i++) ids[i] = 2;
        CHECK_OK(dlm_sample(model, &options, 0, 1, &L, ids, NULL, NULL, &forwards, &err), &err);
        CHECK(forwards > 14);
    }
    dlm_model_free(model);
}
