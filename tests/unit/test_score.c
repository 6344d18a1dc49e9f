/* dlm_score: against PyTorch's values, against a walk of its own over the public forward pass, by the sum
 * over all texts, by how often the sampler writes a text; and what it refuses. */
#include "sampling_fixture.h"

#include "diffusion/score.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- PyTorch's values --------------------------------------------------------------------------------- */

static void check_fixture(const char *isa, const dlm_model *model, const json_t *sequences,
                          const json_t *wants, size_t reveals) {
    int32_t ids[200];
    size_t lengths[20], forwards[20], T = 0;
    const size_t n = json_array_size(sequences);
    REQUIRE(n > 0 && n <= 20);
    for (size_t s = 0; s < n; s++) {
        const json_t *sequence = json_array_get(sequences, s);
        lengths[s] = json_array_size(sequence);
        for (size_t i = 0; i < lengths[s]; i++)
            ids[T++] = (int32_t)json_integer_value(json_array_get(sequence, i));
    }
    dlm_score_options options = dlm_score_defaults();
    options.sampler.reveals_per_step = reveals;
    double nats[20];
    dlm_error err;
    REQUIRE_OK(dlm__score(isa, model, &options, n, lengths, ids, NULL, nats, forwards, &err), &err);
    for (size_t s = 0; s < n; s++) {
        CHECK_CLOSE(nats[s], json_number_value(json_array_get(wants, s)), 3e-4);
        CHECK_INT_EQ(forwards[s], (lengths[s] + reveals - 1) / reveals);
    }
}

TEST(order_likelihoods_as_in_pytorch) {
    static const char *const folders[] = {"tiny", "odd", "plain", "halfway"};
    static const char *const schedules[] = {"cosine", "linear"}; /* in the order of dlm_schedule */
    for (size_t f = 0; f < COUNT(folders); f++) {
        json_t *all = fixture_json(folders[f], "likelihood.json");
        REQUIRE(all != NULL);
        const double head_scale = json_number_value(json_object_get(all, "head_scale"));
        for (int schedule = 0; schedule < 2; schedule++) {
            dlm_model *model = scaled_model(folders[f], head_scale, schedule);
            REQUIRE(model != NULL);
            const json_t *wants =
                json_object_get(json_object_get(json_object_get(all, "schedule"), schedules[schedule]),
                                "order_confidence_loglik_nats");
            CHECK_INT_EQ(json_object_size(wants), 3);
            for (size_t reveals = 1; reveals <= 4; reveals *= 2)
                for (size_t i = 0; dlm__isa_name(i) != NULL; i++) {
                    char key[2] = {(char)('0' + reveals), 0};
                    if (!dlm__isa_available(dlm__isa_name(i))) continue;
                    check_context("%s, %s, %zu a step, %s", folders[f], schedules[schedule], reveals,
                                  dlm__isa_name(i));
                    check_fixture(dlm__isa_name(i), model, json_object_get(all, "sequences"),
                                  json_object_get(wants, key), reveals);
                }
            dlm_model_free(model);
        }
        json_decref(all);
    }
}

/* ---- a walk of its own -------------------------------------------------------------------------------- */

enum { V = 13, MOST = 12 };

/* How a sampler reveals, of those that can be scored. */
typedef struct plan {
    dlm_order order;
    size_t steps, reveals;
    dlm_reveal reveal;
    double threshold, bound; /* 0: off */
} plan;

static const plan plans[] = {
    {.order = DLM_ORDER_CONFIDENCE},
    {.order = DLM_ORDER_MARGIN},
    {.order = DLM_ORDER_ENTROPY},
    {.order = DLM_ORDER_LEFT_TO_RIGHT},
    {.order = DLM_ORDER_CONFIDENCE, .reveals = 2},
    {.order = DLM_ORDER_MARGIN, .reveals = 3},
    {.order = DLM_ORDER_ENTROPY, .reveals = 100},
    {.order = DLM_ORDER_LEFT_TO_RIGHT, .reveals = 2},
    {.order = DLM_ORDER_CONFIDENCE, .steps = 2, .reveal = DLM_REVEAL_COSINE},
    {.order = DLM_ORDER_MARGIN, .steps = 2, .reveal = DLM_REVEAL_LINEAR},
    {.order = DLM_ORDER_ENTROPY, .steps = 3, .reveal = DLM_REVEAL_COSINE},
    {.order = DLM_ORDER_LEFT_TO_RIGHT, .steps = 2, .reveal = DLM_REVEAL_COSINE},
    {.order = DLM_ORDER_CONFIDENCE, .steps = 40, .reveal = DLM_REVEAL_COSINE},
    {.threshold = 0.42},
    {.threshold = 0.5},
    {.threshold = 0.55},
    {.threshold = 0.5, .steps = 3},
    {.threshold = 1, .order = DLM_ORDER_RANDOM, .steps = 1},
    {.bound = 0.8},
    {.bound = 2},
    {.bound = 3.5, .order = DLM_ORDER_ENTROPY},
    {.bound = 2, .steps = 3},
};

static dlm_sample_options options_of(const plan *p) {
    dlm_sample_options o = dlm_score_defaults().sampler;
    o.order = p->order;
    o.steps = p->steps;
    o.reveals_per_step = p->reveals;
    o.reveal = p->reveal;
    if (p->threshold > 0) o.confidence_threshold = p->threshold;
    if (p->bound > 0) o.entropy_bound = p->bound;
    return o;
}

/* Log-probabilities (L, V) at the temperature in the state `ids`, ids 0, 1, 2 banned. */
static void look(const dlm_model *model, const int32_t *ids, size_t L, double temperature,
                 double logp[MOST][V]) {
    float logits[MOST * V], time;
    double masked = 0;
    for (size_t i = 0; i < L; i++) masked += ids[i] == 2;
    const double sigma = masked / (double)L;
    time = (float)(dlm_model_config(model)->schedule == DLM_SCHEDULE_LINEAR
                       ? sigma
                       : 2 / 3.14159265358979323846 * acos(1 - sigma));
    dlm_error err;
    CHECK_OK(dlm_model_logits(model, ids, &L, 1, &time, logits, &err), &err);
    for (size_t i = 0; i < L; i++) {
        double sum = 0;
        for (size_t v = 3; v < V; v++) sum += exp((double)logits[i * V + v] / temperature);
        for (size_t v = 3; v < V; v++) logp[i][v] = (double)logits[i * V + v] / temperature - log(sum);
    }
}

static double certainty(const plan *p, const double logp[V]) {
    double first = 0, second = 0, entropy = 0;
    for (size_t v = 3; v < V; v++) {
        const double x = exp(logp[v]);
        entropy -= x * logp[v];
        if (x > first) {
            second = first;
            first = x;
        } else if (x > second) {
            second = x;
        }
    }
    if (p->threshold > 0) return first;
    if (p->bound > 0 || p->order == DLM_ORDER_ENTROPY) return -entropy;
    return p->order == DLM_ORDER_MARGIN ? first - second : first;
}

/* How many of `left` masked positions of L, whose certainties fall in the order `sorted`, step `step`
 * reveals.
 */
static size_t reveals(const plan *p, size_t L, size_t step, size_t left, const double *sorted) {
    const size_t steps = p->reveals > 0 ? (L + p->reveals - 1) / p->reveals : p->steps > 0 ? p->steps : L;
    if (step + 1 == steps) return left;
    size_t k = 0;
    if (p->threshold > 0) {
        while (k < left && sorted[k] >= p->threshold) k++;
    } else if (p->bound > 0) {
        double sum = 0;
        while (k < left && (sum -= sorted[k]) <= p->bound) k++;
    } else if (p->reveals > 0) {
        k = p->reveals;
    } else {
        const double r = (double)(step + 1) / (double)steps;
        const double share = p->reveal == DLM_REVEAL_LINEAR ? r : 1 - cos(3.14159265358979323846 / 2 * r);
        const double more = nearbyint((double)L * share - (double)(L - left));
        k = more > 0 ? (size_t)more : 0;
    }
    return k < 1 ? 1 : k > left ? left : k;
}

/* One step: positions of `state` in order of their certainty, the first of which are revealed; adds their
 * log-probabilities. */
static double step_through(const dlm_model *model, const plan *p, double temperature, const int32_t *ids,
                           size_t L, size_t step, int32_t *state) {
    double logp[MOST][V], sorted[MOST], sum = 0;
    size_t at[MOST], left = 0;
    look(model, state, L, temperature, logp);
    for (size_t i = 0; i < L; i++) {
        if (state[i] != 2) continue;
        const bool in_order = p->order == DLM_ORDER_LEFT_TO_RIGHT && p->threshold <= 0 && p->bound <= 0;
        const double c = in_order ? -(double)i : certainty(p, logp[i]);
        size_t j = left++;
        for (; j > 0 && sorted[j - 1] < c; j--) {
            sorted[j] = sorted[j - 1];
            at[j] = at[j - 1];
        }
        sorted[j] = c;
        at[j] = i;
    }
    const size_t k = reveals(p, L, step, left, sorted);
    for (size_t j = 0; j < k; j++) {
        sum += logp[at[j]][ids[at[j]]];
        state[at[j]] = ids[at[j]];
    }
    return sum;
}

static double walk(const dlm_model *model, const plan *p, double temperature, const int32_t *ids,
                   const uint8_t *fixed, size_t L, size_t *passes) {
    int32_t state[MOST];
    double sum = 0;
    for (size_t i = 0; i < L; i++) state[i] = fixed[i] ? ids[i] : 2;
    for (*passes = 0;; (*passes)++) {
        size_t left = 0;
        for (size_t i = 0; i < L; i++) left += state[i] == 2;
        if (left == 0) return sum;
        sum += step_through(model, p, temperature, ids, L, *passes, state);
    }
}

/* Packed sequences of several lengths, one with a prompt, one with given tokens here and there, one given
 * altogether. */
TEST(a_walk_of_its_own) {
    static const size_t lengths[] = {5, 1, 12, 9, 3, 12};
    enum { N = COUNT(lengths), T = 42 };
    static const double temperatures[] = {1, 0.6, 2};
    int32_t ids[T];
    uint8_t fixed[T] = {0};
    dlm_rng rng = dlm__rng(8, DLM_RNG_TEST, 0, 0);
    for (size_t p = 0; p < T; p++) ids[p] = 3 + (int32_t)dlm__rng_below(&rng, V - 3);
    for (size_t p = 18; p < 21; p++) fixed[p] = 1;                  /* sequence 3, its prompt */
    for (size_t p = 27; p < 30; p++) fixed[p] = 1;                  /* sequence 4 */
    for (size_t p = 31; p < T; p += 3) fixed[p] = (uint8_t)(p % 9); /* sequence 5; not 0 means fixed */
    for (size_t m = 0; m < 4; m++) {
        dlm_model *model = random_model(V, MOST, m < 2 ? DLM_TIME_ADALN : DLM_TIME_NONE,
                                        m % 2 == 0 ? DLM_SCHEDULE_COSINE : DLM_SCHEDULE_LINEAR, 0.45, NULL);
        REQUIRE(model != NULL);
        for (size_t c = 0; c < COUNT(plans); c++) {
            dlm_score_options options = {.sampler = options_of(&plans[c])};
            options.sampler.temperature = temperatures[c % 3];
            double nats[N];
            size_t forwards[N], first = 0;
            dlm_error err;
            REQUIRE_OK(dlm_score(model, &options, N, lengths, ids, fixed, nats, forwards, &err), &err);
            for (size_t b = 0; b < N; first += lengths[b++]) {
                size_t passes;
                const double want = walk(model, &plans[c], temperatures[c % 3], ids + first, fixed + first,
                                         lengths[b], &passes);
                check_context("model %zu, plan %zu, sequence %zu", m, c, b);
                CHECK_CLOSE(nats[b], want, 1e-4);
                CHECK_INT_EQ(forwards[b], passes);
            }
        }
        dlm_model_free(model);
    }
}

/* ---- all texts ---------------------------------------------------------------------------------------- */

static void never_a_five_first(void *user, size_t sequence, size_t position, const int32_t *ids,
                               uint8_t *allowed) {
    (void)user;
    (void)sequence;
    if (position == 0 || ids[0] == 4) allowed[5] = 0;
}

enum { DRAWINGS = 11 };

/* Ways to draw tokens; *guided: something is to be given. */
static void set_drawing(dlm_sample_options *o, size_t which, bool *guided) {
    static const int32_t banned[] = {4};
    *guided = false;
    switch (which) {
    case 0: break;
    case 1: o->temperature = 0.4; break;
    case 2: o->temperature = 2.5; break;
    case 3: o->top_k = 2; break;
    case 4: o->top_p = 0.8; break;
    case 5: o->min_p = 0.2; break;
    case 6:
        o->banned = banned;
        o->banned_n = 1;
        break;
    case 7: o->repetition_penalty = 1.7; break;
    case 8:
        o->guidance = 1.5;
        *guided = true;
        break;
    case 9: o->allow = never_a_five_first; break;
    default:
        o->temperature = 0.7;
        o->top_p = 0.9;
        o->repetition_penalty = 0.8;
        o->guidance = 0.5;
        *guided = true;
    }
}

typedef struct texts {
    int32_t ids[TINY_TEXTS * TINY_L];
    uint8_t fixed[TINY_TEXTS * TINY_L];
    size_t lengths[TINY_TEXTS];
    size_t n;
} texts;

/* All texts of the enumerable case; `given`: all whose middle token is 5, which is fixed. */
static void list_texts(texts *all, bool given) {
    *all = (texts){0};
    for (size_t text = 0; text < TINY_TEXTS; text++) {
        int32_t ids[TINY_L];
        size_t rest = text;
        for (size_t i = TINY_L; i-- > 0; rest /= TINY_TOKENS)
            ids[i] = TINY_FIRST + (int32_t)(rest % TINY_TOKENS);
        if (given && ids[1] != 5) continue;
        memcpy(all->ids + all->n * TINY_L, ids, sizeof ids);
        all->fixed[all->n * TINY_L + 1] = given;
        all->lengths[all->n++] = TINY_L;
    }
}

TEST(sums_to_one) {
    static texts all;
    dlm_model *model = random_model(TINY_V, TINY_L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.25, NULL);
    REQUIRE(model != NULL);
    for (size_t c = 0; c < COUNT(plans); c++)
        for (size_t d = 0; d < DRAWINGS; d++) {
            bool guided;
            dlm_score_options options = {.sampler = options_of(&plans[c])};
            set_drawing(&options.sampler, d, &guided);
            list_texts(&all, guided);
            double nats[TINY_TEXTS], sum = 0;
            dlm_error err;
            check_context("plan %zu, drawing %zu", c, d);
            REQUIRE_OK(dlm_score(model, &options, all.n, all.lengths, all.ids, all.fixed, nats, NULL, &err),
                       &err);
            for (size_t i = 0; i < all.n; i++) sum += exp(nats[i]);
            CHECK_CLOSE(sum, 1, 2e-6);
        }
    dlm_model_free(model);
}

/* How often the sampler writes each text. */
TEST(samples_come_as_often) {
    enum { SAMPLES = 5000 };
    static texts all;
    static int32_t ids[SAMPLES * TINY_L];
    static uint8_t fixed[SAMPLES * TINY_L];
    static size_t lengths[SAMPLES];
    dlm_model *model = random_model(TINY_V, TINY_L, DLM_TIME_ADALN, DLM_SCHEDULE_LINEAR, 0.2, NULL);
    REQUIRE(model != NULL);
    for (size_t c = 0; c < COUNT(plans); c++)
        for (size_t d = c % 3; d < DRAWINGS; d += 3) {
            bool guided;
            dlm_score_options options = {.sampler = options_of(&plans[c])};
            set_drawing(&options.sampler, d, &guided);
            options.sampler.seed = 100 * c + d;
            list_texts(&all, guided);
            double nats[TINY_TEXTS], law[TINY_TEXTS] = {0};
            size_t seen[TINY_TEXTS] = {0};
            dlm_error err;
            check_context("plan %zu, drawing %zu", c, d);
            REQUIRE_OK(dlm_score(model, &options, all.n, all.lengths, all.ids, all.fixed, nats, NULL, &err),
                       &err);
            for (size_t i = 0; i < all.n; i++) law[tiny_text(all.ids + i * TINY_L)] = exp(nats[i]);
            for (size_t s = 0; s < SAMPLES; s++) {
                lengths[s] = TINY_L;
                for (size_t i = 0; i < TINY_L; i++) {
                    fixed[s * TINY_L + i] = guided && i == 1;
                    ids[s * TINY_L + i] = guided && i == 1 ? 5 : TINY_MASK;
                }
            }
            REQUIRE_OK(dlm_sample(model, &options.sampler, 0, SAMPLES, lengths, ids, fixed, NULL, NULL, &err),
                       &err);
            for (size_t s = 0; s < SAMPLES; s++) seen[tiny_text(ids + s * TINY_L)]++;
            for (size_t i = 0; i < TINY_TEXTS; i++) CHECK(law[i] > 0 || seen[i] == 0);
            check_law(law, seen, SAMPLES);
        }
    dlm_model_free(model);
}

/* ---- edges -------------------------------------------------------------------------------------------- */

TEST(texts_that_cannot_be_written) {
    static const int32_t banned[] = {7};
    dlm_model *model = random_model(V, MOST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    dlm_score_options options = dlm_score_defaults();
    options.sampler.banned = banned;
    options.sampler.banned_n = 1;
    const int32_t ids[] = {3, 4, 5, 0, 4, 5, 3, 1, 5, 3, 4, 7, 3, 7, 6};
    const uint8_t fixed[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0};
    const size_t lengths[] = {3, 3, 3, 3, 3};
    double nats[5];
    size_t forwards[5];
    dlm_error err;
    REQUIRE_OK(dlm_score(model, &options, 5, lengths, ids, fixed, nats, forwards, &err), &err);
    CHECK(isfinite(nats[0]) && nats[0] < 0);
    for (size_t b = 1; b < 4; b++) CHECK(isinf(nats[b]) && nats[b] < 0);
    CHECK(isfinite(nats[4]) && nats[4] < 0); /* a banned token that is given */
    for (size_t b = 0; b < 4; b++) CHECK_INT_EQ(forwards[b], 3);
    CHECK_INT_EQ(forwards[4], 2);
    options.sampler.top_k = 1;
    REQUIRE_OK(dlm_score(model, &options, 1, lengths, ids, NULL, nats, NULL, &err), &err);
    CHECK(nats[0] == 0 || nats[0] == -(double)INFINITY);
    CHECK_OK(dlm_score(model, &options, 0, NULL, NULL, NULL, NULL, NULL, &err), &err);
    dlm_model_free(model);
}

/* Each pass of guidance is two. */
TEST(passes_with_guidance) {
    dlm_model *model = random_model(V, MOST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    dlm_score_options options = dlm_score_defaults();
    options.sampler.guidance = 1;
    const int32_t ids[] = {3, 4, 5, 6, 3};
    const uint8_t fixed[] = {1, 0, 0, 0, 0};
    const size_t length = 5;
    double nats;
    size_t forwards;
    dlm_error err;
    CHECK_OK(dlm_score(model, &options, 1, &length, ids, fixed, &nats, &forwards, &err), &err);
    CHECK_INT_EQ(forwards, 8);
    CHECK_STATUS(dlm_score(model, &options, 1, &length, ids, NULL, &nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "guidance 1, but nothing is given");
    dlm_model_free(model);
}

typedef struct seen {
    size_t calls, cancel_at;
    uint64_t done, total;
} seen;

static bool watch(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    seen *s = user;
    CHECK_STR_EQ(stage, "score");
    CHECK(seconds >= 0);
    s->done = done;
    s->total = total;
    return ++s->calls == s->cancel_at;
}

TEST(progress_can_cancel) {
    dlm_model *model = random_model(V, MOST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    seen s = {.cancel_at = 1};
    dlm_score_options options = dlm_score_defaults();
    options.progress = watch;
    options.user = &s;
    const int32_t ids[] = {3, 4, 5, 6};
    const size_t length = 4;
    double nats;
    dlm_error err;
    CHECK_STATUS(dlm_score(model, &options, 1, &length, ids, NULL, &nats, NULL, &err), DLM_CANCELLED, &err);
    CHECK_INT_EQ(s.done, 0);
    CHECK_INT_EQ(s.total, 4);
    s.cancel_at = 0;
    CHECK_OK(dlm_score(model, &options, 1, &length, ids, NULL, &nats, NULL, &err), &err);
    dlm_model_free(model);
}

/* ---- what it refuses ---------------------------------------------------------------------------------- */

static bool never_stop(void *user, const dlm_sample_step *step) {
    (void)user;
    (void)step;
    return false;
}

static void check_refused(const dlm_model *model, dlm_score_options options, const char *says) {
    const int32_t ids[] = {3, 4, 5, 6};
    const size_t length = 4;
    double nats;
    dlm_error err = {0};
    check_context("%s", says);
    CHECK_STATUS(dlm_score(model, &options, 1, &length, ids, NULL, &nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, says);
}

TEST(samplers_it_refuses) {
    dlm_model *model = random_model(V, MOST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    const dlm_score_options ok = dlm_score_defaults();
    dlm_score_options o;
#define REFUSED(field, value, says) (o = ok, o.sampler.field = (value), check_refused(model, o, says))
    REFUSED(temperature, 0, "at temperature 0 a sampler writes a single text");
    REFUSED(temperature, -1, "temperature -1 ");
    REFUSED(order, DLM_ORDER_CONFIDENCE_WEIGHTED, "the order confidence_weighted is one of chance");
    REFUSED(order, DLM_ORDER_RANDOM, "the order random is one of chance");
    REFUSED(order, DLM_ORDER_ANCESTRAL, "the order ancestral is one of chance");
    REFUSED(order, DLM_ORDER_FIRST_HITTING, "the order first_hitting is one of chance");
    REFUSED(order, (dlm_order)8, "order 8 ");
    REFUSED(corrector_frac, 0.1, "with a corrector a text can come about in many ways");
    REFUSED(max_seconds, 2, "a sampler of at most 2 seconds depends on the clock");
    REFUSED(on_step, never_stop, "a step callback may change a text");
#undef REFUSED
    o = ok, o.sampler.order = DLM_ORDER_ANCESTRAL, o.sampler.remask = DLM_REMASK_CAP;
    check_refused(model, o, "with remasking a text can come about in many ways");
    dlm_model_free(model);
}

TEST(sequences_it_refuses) {
    dlm_model *model = random_model(V, MOST, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    const dlm_score_options options = dlm_score_defaults();
    int32_t ids[16] = {3, 4, 5, 6, 3, 4, 5};
    size_t lengths[] = {3, 4};
    double nats[2];
    dlm_error err;
    ids[4] = 2;
    CHECK_STATUS(dlm_score(model, &options, 2, lengths, ids, NULL, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "position 1 of sequence 1 is masked: no text");
    ids[4] = V;
    CHECK_STATUS(dlm_score(model, &options, 2, lengths, ids, NULL, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "position 1 of sequence 1 is token 13, the vocabulary has 13");
    ids[4] = -1;
    CHECK_STATUS(dlm_score(model, &options, 2, lengths, ids, NULL, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "token -1");
    lengths[1] = 0;
    CHECK_STATUS(dlm_score(model, &options, 2, lengths, ids, NULL, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence 1 has 0 positions");
    lengths[1] = MOST + 1;
    CHECK_STATUS(dlm_score(model, &options, 2, lengths, ids, NULL, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence 1 has 13 positions, the model takes 1 to 12");
    dlm_model_free(model);
}
