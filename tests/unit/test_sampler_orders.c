/* Orders, truncation and whatever else shapes what is drawn, against exact laws: the tables of the enumerable
 * model are made here from its logits, and all runs of the sampler followed through them. */
#include "template_fixture.h"

#include "diffusion/process.h"

/* In each state and position: the probabilities that tokens are drawn with, and how sure the model is. */
typedef struct tables {
    double draw[TINY_STATES][TINY_L][TINY_TOKENS];
    double certainty[TINY_STATES][TINY_L];
} tables;

/* Allowed tokens of the tests: not the first at position 1; at position 2 not the one that stands at position
 * 0.
 */
static void allow_some(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    (void)user;
    (void)sequence;
    if (position == 1) allowed[TINY_FIRST] = 0;
    if (position == 2 && ids[0] != TINY_MASK) allowed[ids[0]] = 0;
}

static void ids_of(size_t state, int32_t ids[TINY_L]) {
    for (size_t i = TINY_L; i-- > 0; state /= 4)
        ids[i] = state % 4 == 0 ? TINY_MASK : (int32_t)(state % 4) - 1 + TINY_FIRST;
}

static void logits_of(const dlm_model *model, const int32_t ids[TINY_L], float logits[TINY_L * TINY_V]) {
    size_t masked = 0;
    for (size_t i = 0; i < TINY_L; i++) masked += ids[i] == TINY_MASK;
    const double sigma = fmax((double)masked / TINY_L, 1e-3);
    const float t = (float)(dlm_model_config(model)->schedule == DLM_SCHEDULE_LINEAR
                                ? sigma
                                : 2 / 3.14159265358979323846 * acos(1 - sigma));
    const size_t L = TINY_L;
    dlm_error err;
    CHECK_OK(dlm_model_logits(model, ids, &L, 1, &t, logits, &err), &err);
}

/* By sorting, as the definitions read. */
static void truncate(const dlm_sample_options *o, double p[TINY_TOKENS]) {
    size_t order[TINY_TOKENS] = {0, 1, 2}, kept = TINY_TOKENS;
    for (size_t i = 0; i < TINY_TOKENS; i++)
        for (size_t j = i + 1; j < TINY_TOKENS; j++)
            if (p[order[j]] > p[order[i]]) {
                const size_t other = order[i];
                order[i] = order[j];
                order[j] = other;
            }
    if (o->top_k > 0 && o->top_k < kept) kept = o->top_k;
    double sum = 0, cumulative = 0;
    for (size_t i = 0; i < kept; i++) sum += p[order[i]];
    for (size_t i = 0; i < kept && o->top_p < 1; i++)
        if ((cumulative += p[order[i]]) >= o->top_p * sum) kept = i + 1;
    while (kept > 1 && p[order[kept - 1]] < o->min_p * p[order[0]]) kept--;
    sum = 0;
    for (size_t i = 0; i < TINY_TOKENS; i++)
        if (i >= kept)
            p[order[i]] = 0;
        else
            sum += p[order[i]];
    for (size_t i = 0; i < TINY_TOKENS; i++) p[i] /= sum;
}

static double certainty_of(const dlm_sample_options *o, const double p[TINY_TOKENS]) {
    const double first = fmax(p[0], fmax(p[1], p[2])), last = fmin(p[0], fmin(p[1], p[2]));
    double entropy = 0;
    for (size_t v = 0; v < TINY_TOKENS; v++)
        if (p[v] > 0) entropy -= p[v] * log(p[v]);
    if (o->order == DLM_ORDER_ENTROPY || o->entropy_bound >= 0) return -entropy;
    return o->order == DLM_ORDER_MARGIN ? first - (1 - first - last) : first;
}

static tables *make_tables(const dlm_model *model, const dlm_sample_options *o, const uint8_t fixed[TINY_L]) {
    static tables all;
    for (size_t s = 0; s < TINY_STATES; s++) {
        int32_t ids[TINY_L], without[TINY_L];
        float x[TINY_L * TINY_V], y[TINY_L * TINY_V];
        ids_of(s, ids);
        for (size_t i = 0; i < TINY_L; i++) without[i] = fixed[i] ? TINY_MASK : ids[i];
        logits_of(model, ids, x);
        logits_of(model, without, y);
        for (size_t i = 0; i < TINY_L; i++) {
            double p[TINY_TOKENS], sum = 0;
            uint8_t allowed[TINY_V] = {1, 1, 1, 1, 1, 1};
            if (o->allow != NULL) allow_some(NULL, 0, i, ids, allowed);
            for (size_t b = 0; b < o->banned_n; b++) allowed[o->banned[b]] = 0;
            for (size_t v = 0; v < TINY_TOKENS; v++) {
                const size_t at = i * TINY_V + TINY_FIRST + v;
                double logit = (double)x[at] + o->guidance * ((double)x[at] - (double)y[at]);
                bool present = false;
                for (size_t j = 0; j < TINY_L; j++) present = present || ids[j] == TINY_FIRST + (int32_t)v;
                if (present)
                    logit = logit > 0 ? logit / o->repetition_penalty : logit * o->repetition_penalty;
                p[v] = allowed[TINY_FIRST + v] ? exp(logit / o->temperature) : 0;
                sum += p[v];
            }
            for (size_t v = 0; v < TINY_TOKENS; v++) p[v] /= sum;
            all.certainty[s][i] = certainty_of(o, p);
            truncate(o, p);
            memcpy(all.draw[s][i], p, sizeof p);
        }
    }
    return &all;
}

/* The set that the options reveal in a state, of which `masked` are masked. */
static size_t chosen_set(const dlm_sample_options *o, const double certainty[TINY_L], size_t masked,
                         size_t step) {
    size_t left = 0, set = 0, k = 0;
    for (size_t i = 0; i < TINY_L; i++) left += masked >> i & 1;
    k = dlm__reveal_count(o->reveal, TINY_L, (double)(step + 1) / (double)o->steps, TINY_L - left);
    if (o->entropy_bound >= 0) k = left;
    double sum = 0;
    for (size_t n = 0; n < k; n++) {
        size_t best = TINY_L;
        for (size_t i = 0; i < TINY_L; i++) {
            if (!(masked >> i & 1) || set >> i & 1) continue;
            if (best == TINY_L || (o->order != DLM_ORDER_LEFT_TO_RIGHT && certainty[i] > certainty[best]))
                best = i;
        }
        sum -= certainty[best];
        if (o->entropy_bound >= 0 && n > 0 && sum > o->entropy_bound && step + 1 < o->steps) break;
        set |= (size_t)1 << best;
    }
    return set;
}

static void follow(const dlm_sample_options *o, const tables *table, size_t state, size_t step,
                   double probability, double law[TINY_TEXTS]) {
    int32_t ids[TINY_L];
    size_t masked = 0;
    ids_of(state, ids);
    for (size_t i = 0; i < TINY_L; i++) masked |= (size_t)(ids[i] == TINY_MASK) << i;
    if (masked == 0) {
        law[tiny_text(ids)] += probability;
        return;
    }
    const size_t set = chosen_set(o, table->certainty[state], masked, step);
    for (size_t c = 0; c < TINY_TEXTS; c++) {
        double p = probability;
        size_t rest = c;
        bool counted = true; /* each combination of the chosen positions once */
        int32_t next[TINY_L];
        memcpy(next, ids, sizeof next);
        for (size_t i = 0; i < TINY_L; i++, rest /= TINY_TOKENS) {
            if (set >> i & 1) {
                p *= table->draw[state][i][rest % TINY_TOKENS];
                next[i] = TINY_FIRST + (int32_t)(rest % TINY_TOKENS);
            } else if (rest % TINY_TOKENS != 0) {
                counted = false;
            }
        }
        if (counted && p > 0) follow(o, table, tiny_state(next), step + 1, p, law);
    }
}

static void check_options_law(const dlm_model *model, const dlm_sample_options *o,
                              const int32_t start[TINY_L], const uint8_t fixed[TINY_L]) {
    enum { SAMPLES = 8000 };
    static int32_t ids[SAMPLES * TINY_L];
    static uint8_t given[SAMPLES * TINY_L];
    static size_t lengths[SAMPLES];
    size_t seen[TINY_TEXTS] = {0};
    double law[TINY_TEXTS] = {0};
    follow(o, make_tables(model, o, fixed), tiny_state(start), 0, 1, law);
    for (size_t s = 0; s < SAMPLES; s++) {
        lengths[s] = TINY_L;
        memcpy(ids + s * TINY_L, start, TINY_L * sizeof *ids);
        memcpy(given + s * TINY_L, fixed, TINY_L);
    }
    dlm_error err;
    REQUIRE_OK(dlm_sample(model, o, 0, SAMPLES, lengths, ids, given, NULL, NULL, &err), &err);
    for (size_t s = 0; s < SAMPLES; s++) {
        for (size_t i = 0; i < TINY_L; i++)
            REQUIRE(ids[s * TINY_L + i] >= TINY_FIRST && ids[s * TINY_L + i] < TINY_V);
        const size_t text = tiny_text(ids + s * TINY_L);
        if (!CHECK(law[text] > 0)) return;
        seen[text]++;
    }
    check_law(law, seen, SAMPLES);
}

static const int32_t all_masked[TINY_L] = {TINY_MASK, TINY_MASK, TINY_MASK};
static const uint8_t none_fixed[TINY_L] = {0, 0, 0};

static dlm_model *tiny_model(double deviation) {
    return random_model(TINY_V, TINY_L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, deviation, NULL);
}

TEST(law_of_margin_entropy_and_left_to_right) {
    static const dlm_order orders[] = {DLM_ORDER_MARGIN, DLM_ORDER_ENTROPY, DLM_ORDER_LEFT_TO_RIGHT};
    dlm_model *model = tiny_model(0.3);
    REQUIRE(model != NULL);
    for (size_t order = 0; order < 3; order++)
        for (size_t steps = 1; steps <= 3; steps++) {
            dlm_sample_options options = dlm_sample_defaults();
            options.order = orders[order];
            options.steps = steps;
            options.seed = steps;
            check_context("order %zu, %zu steps", order, steps);
            check_options_law(model, &options, all_masked, none_fixed);
        }
    dlm_model_free(model);
}

TEST(law_of_the_entropy_bound) {
    static const double bounds[] = {0, 0.9, 1.6, 2.1, 10};
    dlm_model *model = tiny_model(0.3);
    REQUIRE(model != NULL);
    for (size_t b = 0; b < sizeof bounds / sizeof bounds[0]; b++)
        for (size_t steps = 2; steps <= 3; steps++) {
            dlm_sample_options options = dlm_sample_defaults();
            options.entropy_bound = bounds[b];
            options.steps = steps;
            options.seed = b;
            check_context("bound %g, %zu steps", bounds[b], steps);
            check_options_law(model, &options, all_masked, none_fixed);
        }
    dlm_model_free(model);
}

TEST(law_of_truncated_distributions) {
    static const struct {
        size_t top_k;
        double top_p, min_p;
    } cuts[] = {{2, 1, 0}, {1, 1, 0}, {0, 0.6, 0}, {0, 0.8, 0}, {0, 1, 0.7}, {2, 0.8, 0.3}, {3, 0.95, 0}};
    dlm_model *model = tiny_model(0.3);
    REQUIRE(model != NULL);
    for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
        dlm_sample_options options = dlm_sample_defaults();
        options.temperature = 4; /* flat enough for several tokens to stay */
        options.top_k = cuts[c].top_k;
        options.top_p = cuts[c].top_p;
        options.min_p = cuts[c].min_p;
        options.steps = 3;
        options.seed = c;
        options.order = c % 2 ? DLM_ORDER_ENTROPY : DLM_ORDER_CONFIDENCE;
        check_context("cut %zu", c);
        /* A truncation to one token leaves one text: no law to compare by chi-squared. */
        if (cuts[c].top_k != 1) {
            check_options_law(model, &options, all_masked, none_fixed);
            continue;
        }
        int32_t once[TINY_L], greedy[TINY_L];
        const size_t L = TINY_L;
        dlm_error err;
        memcpy(once, all_masked, sizeof once);
        memcpy(greedy, all_masked, sizeof greedy);
        options.temperature = 1;
        CHECK_OK(dlm_sample(model, &options, 0, 1, &L, once, NULL, NULL, NULL, &err), &err);
        options.top_k = 0;
        options.temperature = 0;
        CHECK_OK(dlm_sample(model, &options, 0, 1, &L, greedy, NULL, NULL, NULL, &err), &err);
        CHECK_MEM_EQ(once, greedy, sizeof once);
    }
    dlm_model_free(model);
}

TEST(law_of_bans_penalty_and_allowed_tokens) {
    static const int32_t banned[] = {4};
    dlm_model *model = tiny_model(0.4);
    REQUIRE(model != NULL);
    for (size_t plan = 0; plan < 4; plan++) {
        dlm_sample_options options = dlm_sample_defaults();
        options.steps = 3;
        options.seed = plan;
        options.order = (dlm_order)(plan == 3 ? DLM_ORDER_LEFT_TO_RIGHT : DLM_ORDER_CONFIDENCE);
        if (plan == 0) {
            options.banned = banned;
            options.banned_n = 1;
        }
        if (plan == 1 || plan == 3) options.allow = allow_some;
        if (plan >= 2) options.repetition_penalty = plan == 2 ? 1.8 : 0.6;
        check_context("plan %zu", plan);
        check_options_law(model, &options, all_masked, none_fixed);
    }
    dlm_model_free(model);
}

/* Of two tokens. */
static void allow_two(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    const int32_t *two = user;
    (void)sequence;
    (void)position;
    (void)ids;
    memset(allowed, 0, 268);
    allowed[two[0]] = allowed[two[1]] = 1;
}

/* A text may end in many end tokens: the penalty leaves them alone, and takes every other token that is
 * there.
 */
TEST(the_penalty_exempts_the_end_token) {
    enum { V = 268, END = 3, WORD = 50 };
    dlm_model *model = model_with_tokenizer("exhausted", 8, true, 0.3, NULL);
    REQUIRE(model != NULL);
    REQUIRE(dlm_model_config(model)->vocab_size == V);
    for (int32_t present = END; present <= WORD; present += WORD - END) {
        static float logits[2 * V];
        const size_t L = 2;
        const float t = 0;
        int32_t two[2] = {present, -1}, ids[2] = {present, 2};
        const uint8_t fixed[2] = {1, 0};
        dlm_error err;
        REQUIRE_OK(dlm_model_logits(model, ids, &L, 1, &t, logits, &err), &err);
        const float *x = logits + V;
        /* A token that comes after it, but before it where that is penalised. */
        const float penalised = x[present] > 0 ? x[present] / 1000 : x[present] * 1000;
        for (int32_t i = 4; i < V; i++)
            if (i != present && x[i] < x[present] && x[i] > penalised) two[1] = i;
        REQUIRE(two[1] >= 0);
        dlm_sample_options options = dlm_sample_defaults();
        options.temperature = 0;
        options.repetition_penalty = 1000;
        options.allow = allow_two;
        options.allow_user = two;
        REQUIRE_OK(dlm_sample(model, &options, 0, 1, &L, ids, fixed, NULL, NULL, &err), &err);
        CHECK_INT_EQ(ids[1], present == END ? END : two[1]);
    }
    dlm_model_free(model);
}

TEST(law_with_guidance) {
    static const int32_t start[TINY_L] = {TINY_MASK, 5, TINY_MASK};
    static const uint8_t fixed[TINY_L] = {0, 1, 0};
    static const double weights[] = {0.5, 3};
    dlm_model *model = tiny_model(0.4);
    REQUIRE(model != NULL);
    for (size_t w = 0; w < 2; w++) {
        dlm_sample_options options = dlm_sample_defaults();
        options.guidance = weights[w];
        options.steps = 2;
        options.seed = w;
        check_context("guidance %g", weights[w]);
        check_options_law(model, &options, start, fixed);
        int32_t ids[TINY_L];
        const size_t L = TINY_L;
        size_t forwards;
        dlm_error err;
        memcpy(ids, start, sizeof ids);
        CHECK_OK(dlm_sample(model, &options, 0, 1, &L, ids, fixed, NULL, &forwards, &err), &err);
        CHECK_INT_EQ(forwards, 4);
        memcpy(ids, start, sizeof ids);
        CHECK_STATUS(dlm_sample(model, &options, 0, 1, &L, ids, NULL, NULL, NULL, &err), DLM_ARGUMENT, &err);
        CHECK_SAYS(&err, "nothing is given that could guide");
    }
    dlm_model_free(model);
}

/* Guided sequences of a batch that takes several groups have the texts of sequences sampled alone. */
TEST(guidance_in_a_batch) {
    enum { N = 700, L = 8 };
    static int32_t together[N * L], alone[L];
    static uint8_t fixed[N * L];
    static size_t lengths[N];
    dlm_model *model = random_model(9, L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    options.guidance = 1.5;
    options.repetition_penalty = 1.3;
    options.steps = 3;
    for (size_t b = 0; b < N; b++) {
        lengths[b] = L;
        for (size_t i = 0; i < L; i++) {
            fixed[b * L + i] = i < b % 4;
            together[b * L + i] = i < b % 4 ? 3 + (int32_t)((b + i) % 6) : 2;
        }
    }
    fixed[0] = 1;
    together[0] = 5;
    dlm_error err;
    REQUIRE_OK(dlm_sample(model, &options, 0, N, lengths, together, fixed, NULL, NULL, &err), &err);
    for (size_t b = 1; b < N; b += 101) {
        if (b % 4 == 0) continue; /* alone it has nothing that guides */
        for (size_t i = 0; i < L; i++) alone[i] = fixed[b * L + i] ? 3 + (int32_t)((b + i) % 6) : 2;
        CHECK_OK(dlm_sample(model, &options, b, 1, lengths, alone, fixed + b * L, NULL, NULL, &err), &err);
        CHECK_MEM_EQ(alone, together + b * L, sizeof alone);
    }
    dlm_model_free(model);
}

static void allow_nothing(void *user, size_t sequence, size_t position, const int32_t *ids,
                          uint8_t *allowed) {
    (void)user;
    (void)ids;
    if (sequence == 1 && position == 2) memset(allowed, 0, TINY_V);
}

TEST(combinations_that_are_refused) {
    dlm_model *model = tiny_model(0.3);
    REQUIRE(model != NULL);
    const dlm_sample_options ok = dlm_sample_defaults();
    static const int32_t outside[] = {TINY_V};
    dlm_sample_options o;
    int32_t ids[2 * TINY_L];
    const size_t lengths[2] = {TINY_L, TINY_L};
    dlm_error err;
#define REFUSED(says, ...)                                                                                   \
    do {                                                                                                     \
        o = ok;                                                                                              \
        __VA_ARGS__;                                                                                         \
        for (size_t i = 0; i < 2 * TINY_L; i++) ids[i] = TINY_MASK;                                          \
        check_context("%s", says);                                                                           \
        CHECK_STATUS(dlm_sample(model, &o, 0, 2, lengths, ids, NULL, NULL, NULL, &err), DLM_ARGUMENT, &err); \
        CHECK_SAYS(&err, says);                                                                              \
    } while (0)
    REFUSED("top-p 0 ", o.top_p = 0);
    REFUSED("top-p 1.5 ", o.top_p = 1.5);
    REFUSED("min-p -0.1 ", o.min_p = -0.1);
    REFUSED("repetition penalty 0 ", o.repetition_penalty = 0);
    REFUSED("guidance -1 ", o.guidance = -1);
    REFUSED("banned token 6: the vocabulary has 6", o.banned = outside; o.banned_n = 1);
    REFUSED("entropy bound -2 ", o.entropy_bound = -2);
    REFUSED("both say how many", o.entropy_bound = 1; o.confidence_threshold = 0.5);
    REFUSED("there is no other order", o.confidence_threshold = 0.5; o.order = DLM_ORDER_MARGIN);
    REFUSED("there is no other order", o.entropy_bound = 1; o.order = DLM_ORDER_RANDOM);
    REFUSED("first_hitting takes a step for each masked position, not 2", o.order = DLM_ORDER_FIRST_HITTING;
            o.steps = 2);
    REFUSED("remasking 9 ", o.remask = (dlm_remask)9);
    REFUSED("remasking belongs to the order ancestral", o.remask = DLM_REMASK_CAP);
    REFUSED("eta 0.1 is a probability of remasking", o.eta = 0.1);
    REFUSED("eta 1.1 ", o.eta = 1.1; o.remask = DLM_REMASK_CAP; o.order = DLM_ORDER_ANCESTRAL);
    REFUSED("take one", o.remask = DLM_REMASK_CAP; o.order = DLM_ORDER_ANCESTRAL; o.corrector_frac = 0.1);
    REFUSED("-1 seconds", o.max_seconds = -1);
    REFUSED("no token is allowed at position 2 of sequence 1", o.allow = allow_nothing);
#undef REFUSED
    dlm_model_free(model);
}
