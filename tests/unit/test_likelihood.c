/* The NELBO and the original's cross-entropy against enumeration: PyTorch's (likelihood.json), and this
 * file's own over all masks and times by the public forward pass. */
#include "sampling_fixture.h"

#include "diffusion/likelihood.h"
#include "diffusion/nelbo.h"

enum { LIKELY_L = 9 };

static dlm_compute *new_compute(void) {
    dlm_compute *compute = NULL;
    dlm_error err;
    CHECK_OK(dlm__compute_create(NULL, &compute, &err), &err);
    return compute;
}

static dlm_likelihood_options options_for(const dlm_model *model, size_t draws, uint64_t seed) {
    const dlm_config *config = dlm_model_config(model);
    return (dlm_likelihood_options){.seed = seed,
                                    .draws = draws,
                                    .cross_entropy = true,
                                    .schedule = config->schedule,
                                    .mask_id = model->mask_id,
                                    .longest = config->max_seq_len};
}

/* Measures n windows, each a document. */
static bool measure(const dlm_model *model, const dlm_likelihood_options *options, const dlm_scored *windows,
                    size_t n, dlm_eval_result *result) {
    dlm_likelihood *likelihood;
    dlm_error err;
    dlm_compute *compute = new_compute();
    bool ok = CHECK_OK(dlm__likelihood_create(&model->network, compute, options, &likelihood, &err), &err);
    for (size_t w = 0; ok && w < n; w++)
        ok = CHECK_OK(dlm__likelihood_add(likelihood, &windows[w], &err), &err);
    ok = ok && CHECK_OK(dlm__likelihood_end(likelihood, result, &err), &err);
    dlm__likelihood_free(likelihood);
    dlm__compute_free(compute);
    return ok;
}

/* ---- PyTorch --------------------------------------------------------------------------------------------
 */

static void check_fixture(const char *folder, const json_t *all, const char *schedule_name, int schedule) {
    dlm_model *model = scaled_model(folder, json_number_value(json_object_get(all, "head_scale")), schedule);
    REQUIRE(model != NULL);
    const json_t *sequences = json_object_get(all, "sequences");
    const json_t *wants =
        json_object_get(json_object_get(json_object_get(all, "schedule"), schedule_name), "nelbo_nats");
    dlm_compute *compute = new_compute();
    for (size_t s = 0; s < json_array_size(sequences); s++) {
        const json_t *sequence = json_array_get(sequences, s);
        const size_t n = json_array_size(sequence);
        int32_t ids[LIKELY_L];
        REQUIRE(n <= LIKELY_L);
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(sequence, i));
        const double want = json_number_value(json_array_get(wants, s));
        double nats;
        dlm_error err;
        check_context("%s, %s, sequence %zu", folder, schedule_name, s);
        CHECK_OK(dlm__nelbo_exact(&model->network, compute, (dlm_schedule)schedule, model->mask_id, ids, n,
                                  &nats, &err),
                 &err);
        CHECK_CLOSE(nats, want, 1e-4);
        const dlm_likelihood_options options = options_for(model, 256, s);
        const dlm_scored window = {.ids = ids, .n = n, .shown = n};
        dlm_eval_result result;
        if (!measure(model, &options, &window, 1, &result)) continue;
        CHECK(result.standard_error > 0 && result.standard_error < 0.1 * result.nelbo);
        CHECK_CLOSE(result.nelbo * (double)n, want, 5 * result.standard_error * (double)n);
        CHECK_INT_EQ(result.tokens, n);
    }
    dlm__compute_free(compute);
    dlm_model_free(model);
}

TEST(nelbo_as_in_pytorch) {
    static const char *const folders[] = {"tiny", "odd", "plain", "halfway"};
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
        json_t *all = fixture_json(folders[f], "likelihood.json");
        REQUIRE(all != NULL);
        check_fixture(folders[f], all, "cosine", DLM_SCHEDULE_COSINE);
        check_fixture(folders[f], all, "linear", DLM_SCHEDULE_LINEAR);
        json_decref(all);
    }
}

/* ---- all masks of a window, by the public forward pass ---------------------------------------------------
 */

enum { SMALL_V = 11, SMALL_L = 8, WINDOWS = 40 };

static size_t bits_of(size_t set) {
    size_t n = 0;
    for (; set > 0; set &= set - 1) n++;
    return n;
}

/* A set of the first n positions that is masked, its time, and the sum of its cross-entropies. */
typedef struct masked_set {
    size_t set;
    double t, ce;
} masked_set;

/* Fills in ce of `count` sets of the first n of `shown` ids, in one call of the public forward pass. */
static void fill_in(const dlm_model *model, const int32_t *ids, size_t n, size_t shown, masked_set *sets,
                    size_t count) {
    int32_t *masked = dlm__calloc(count * shown, sizeof *masked);
    size_t *lengths = dlm__calloc(count, sizeof *lengths);
    float *times = dlm__calloc(count, sizeof *times);
    float *logits = dlm__calloc(count * shown * SMALL_V, sizeof *logits);
    for (size_t s = 0; s < count; s++) {
        for (size_t i = 0; i < shown; i++)
            masked[s * shown + i] = i < n && (sets[s].set >> i & 1) ? model->mask_id : ids[i];
        lengths[s] = shown;
        times[s] = (float)sets[s].t;
    }
    dlm_error err;
    CHECK_OK(dlm_model_logits(model, masked, lengths, count, times, logits, &err), &err);
    for (size_t s = 0; s < count; s++) {
        sets[s].ce = 0;
        for (size_t i = 0; i < n; i++) {
            if (!(sets[s].set >> i & 1)) continue;
            const float *x = logits + (s * shown + i) * SMALL_V;
            double largest = -INFINITY, total = 0;
            for (size_t v = 0; v < SMALL_V; v++) largest = fmax(largest, (double)x[v]);
            for (size_t v = 0; v < SMALL_V; v++) total += exp((double)x[v] - largest);
            sets[s].ce += log(total) + largest - (double)x[ids[i]];
        }
    }
    free(masked);
    free(lengths);
    free(times);
    free(logits);
}

/* n times the mean over k of the mean over sets of k of their mean cross-entropy. */
static double enumerate(const dlm_model *model, const int32_t *ids, size_t n, size_t shown) {
    static masked_set sets[1 << SMALL_L];
    double by_count[SMALL_L + 1] = {0}, of_count[SMALL_L + 1] = {0}, sum = 0;
    const size_t count = ((size_t)1 << n) - 1;
    for (size_t s = 0; s < count; s++) {
        sets[s].set = s + 1;
        sets[s].t = dlm__sigma_inverse(dlm_model_config(model)->schedule, (double)bits_of(s + 1) / (double)n);
    }
    fill_in(model, ids, n, shown, sets, count);
    for (size_t s = 0; s < count; s++) {
        by_count[bits_of(s + 1)] += sets[s].ce / (double)bits_of(s + 1);
        of_count[bits_of(s + 1)]++;
    }
    for (size_t k = 1; k <= n; k++) sum += by_count[k] / of_count[k];
    return sum;
}

static dlm_model *small_model(dlm_schedule schedule) {
    return random_model(SMALL_V, SMALL_L, DLM_TIME_ADALN, schedule, 0.5, NULL);
}

/* Windows of 1 to SMALL_L random ids. */
static void make_windows(int32_t ids[WINDOWS][SMALL_L], dlm_scored windows[WINDOWS]) {
    dlm_rng rng = dlm__rng(8, DLM_RNG_TEST, 0, 0);
    for (size_t w = 0; w < WINDOWS; w++) {
        const size_t n = 1 + (size_t)dlm__rng_below(&rng, SMALL_L);
        for (size_t i = 0; i < n; i++) ids[w][i] = 3 + (int32_t)dlm__rng_below(&rng, SMALL_V - 3);
        windows[w] = (dlm_scored){.ids = ids[w], .n = n, .shown = n, .bytes = 3 * n};
    }
}

TEST(estimate_and_its_error) {
    enum { REPEATS = 100 };
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    double nats = 0, tokens = 0, z = 0, zz = 0;
    for (size_t w = 0; w < WINDOWS; w++) {
        nats += enumerate(model, ids[w], windows[w].n, windows[w].shown);
        tokens += (double)windows[w].n;
    }
    for (size_t repeat = 0; repeat < REPEATS; repeat++) {
        const dlm_likelihood_options options = options_for(model, 2, repeat);
        dlm_eval_result result;
        REQUIRE(measure(model, &options, windows, WINDOWS, &result));
        const double score = (result.nelbo - nats / tokens) / result.standard_error;
        z += score;
        zz += score * score;
        CHECK_INT_EQ(result.windows, WINDOWS);
        CHECK_INT_EQ(result.documents, WINDOWS);
        CHECK(result.standard_error_documents > 0);
        CHECK_CLOSE(result.bits_per_byte, result.nelbo / log(2) / 3, 1e-12);
        CHECK_CLOSE(result.perplexity, exp(result.eval_ce), 1e-9);
    }
    const double deviation = sqrt(zz / REPEATS);
    CHECK_CLOSE(z / REPEATS, 0, 4.5 * deviation / sqrt(REPEATS));
    if (!CHECK(deviation > 0.7 && deviation < 1.25)) printf("deviation %g\n", deviation);
    dlm_model_free(model);
}

/* Padding is shown and neither masked nor scored; k counts real positions. */
TEST(padded_windows) {
    const int32_t ids[SMALL_L] = {5, 9, 4, 4, 7, 0, 0, 0};
    const size_t n = 5;
    dlm_model *model = small_model(DLM_SCHEDULE_LINEAR);
    REQUIRE(model != NULL);
    const double padded = enumerate(model, ids, n, SMALL_L), alone = enumerate(model, ids, n, n);
    CHECK(fabs(padded - alone) > 0.05);
    /* beside a window without padding, whose masks must not be taken for its own */
    const int32_t whole[SMALL_L] = {8, 3, 6, 6, 10, 4, 5, 7};
    const double nats = padded + enumerate(model, whole, SMALL_L, SMALL_L);
    const dlm_scored windows[] = {{.ids = whole, .n = SMALL_L, .shown = SMALL_L},
                                  {.ids = ids, .n = n, .shown = SMALL_L}};
    const dlm_likelihood_options options = options_for(model, 40000, 1);
    dlm_eval_result result;
    REQUIRE(measure(model, &options, windows, 2, &result));
    const double tokens = (double)(n + SMALL_L);
    CHECK_INT_EQ(result.tokens, n + SMALL_L);
    CHECK_CLOSE(result.nelbo * tokens, nats, 5 * result.standard_error * tokens);
    CHECK(fabs(result.nelbo * tokens - nats - alone + padded) > 5 * result.standard_error * tokens);
    dlm_model_free(model);
}

/* The ratio E[sum of cross-entropies] / E[masked] over t = max(u, 1e-3) and independent masks. The times are
 * so many because a model may turn fast with t: its time features do so with 1000 radians. */
TEST(eval_cross_entropy) {
    enum { REPEATED = 40000, TIMES = 3000, N = 4, SETS = (1 << N) - 1 };
    static dlm_scored windows[REPEATED];
    static masked_set sets[TIMES * SETS];
    const int32_t ids[N] = {5, 9, 4, 7};
    for (int schedule = 0; schedule < 2; schedule++) {
        dlm_model *model = small_model((dlm_schedule)schedule);
        REQUIRE(model != NULL);
        for (size_t i = 0; i < TIMES * SETS; i++)
            sets[i] = (masked_set){.set = 1 + i % SETS, .t = fmax(((double)(i / SETS) + 0.5) / TIMES, 1e-3)};
        fill_in(model, ids, N, N, sets, TIMES * SETS);
        double ce = 0, masked = 0, ss = 0, sk = 0, kk = 0; /* means, and of products of (ce, k) */
        for (size_t i = 0; i < TIMES * SETS; i++) {
            const double k = (double)bits_of(sets[i].set),
                         sigma = dlm__sigma((dlm_schedule)schedule, sets[i].t);
            const double p = pow(sigma, k) * pow(1 - sigma, N - k) / TIMES;
            ce += p * sets[i].ce;
            masked += p * k;
            ss += p * sets[i].ce * sets[i].ce;
            sk += p * sets[i].ce * k;
            kk += p * k * k;
        }
        const double ratio = ce / masked;
        const double error = sqrt((ss - 2 * ratio * sk + ratio * ratio * kk) / REPEATED) / masked;
        for (size_t w = 0; w < REPEATED; w++) windows[w] = (dlm_scored){.ids = ids, .n = N, .shown = N};
        const dlm_likelihood_options options = options_for(model, 1, 1);
        dlm_eval_result result;
        REQUIRE(measure(model, &options, windows, REPEATED, &result));
        check_context("schedule %d", schedule);
        CHECK_CLOSE(result.eval_ce, ratio, 4.5 * error);
        dlm_model_free(model);
    }
}

/* A head of zeros says that every token is equally likely, whatever the mask. */
TEST(uniform_model) {
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    static const char *const heads[] = {"final_layer.linear.weight", "final_layer.linear.bias"};
    for (size_t h = 0; h < 2; h++) {
        const dlm_param *head = dlm__layout_find(model->layout, heads[h]);
        memset(model->network.params + head->offset, 0, head->count * sizeof(float));
    }
    const dlm_likelihood_options options = options_for(model, 2, 1);
    dlm_eval_result result;
    REQUIRE(measure(model, &options, windows, WINDOWS, &result));
    CHECK_CLOSE(result.nelbo, log(SMALL_V), 1e-5);
    CHECK_CLOSE(result.eval_ce, log(SMALL_V), 1e-5);
    CHECK_CLOSE(result.standard_error, 0, 1e-4);
    CHECK_CLOSE(result.standard_error_documents, 0, 1e-4);
    dlm_model_free(model);
}

/* The masks depend neither on which windows make a document nor on how they are packed. */
TEST(windows_of_a_document) {
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    dlm_likelihood_options options = options_for(model, 3, 5);
    dlm_eval_result apart, together, again;
    REQUIRE(measure(model, &options, windows, WINDOWS, &apart));
    REQUIRE(measure(model, &options, windows, WINDOWS, &again));
    CHECK(apart.nelbo == again.nelbo && apart.eval_ce == again.eval_ce);
    for (size_t w = 1; w < WINDOWS; w++) windows[w].continues = w % 4 != 0;
    REQUIRE(measure(model, &options, windows, WINDOWS, &together));
    CHECK_INT_EQ(together.documents, WINDOWS / 4);
    CHECK_INT_EQ(together.windows, WINDOWS);
    CHECK(together.nelbo == apart.nelbo);
    CHECK_CLOSE(together.standard_error, apart.standard_error, 1e-12);
    CHECK(together.standard_error_documents != apart.standard_error_documents);

    dlm_eval_result repacked; /* room for other passes */
    options.longest = 5000;
    REQUIRE(measure(model, &options, windows, WINDOWS, &repacked));
    CHECK_CLOSE(repacked.nelbo, together.nelbo, 1e-5);
    CHECK_CLOSE(repacked.eval_ce, together.eval_ce, 1e-5);
    dlm_model_free(model);
}

TEST(what_it_refuses) {
    const int32_t ids[SMALL_L] = {5, 9, 4, 7};
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    dlm_compute *compute = new_compute();
    dlm_likelihood *likelihood;
    dlm_error err;
    dlm_likelihood_options options = options_for(model, 0, 1);
    /* No draws are for those who want the cross-entropy alone. */
    options.cross_entropy = false;
    CHECK_STATUS(dlm__likelihood_create(&model->network, compute, &options, &likelihood, &err), DLM_ARGUMENT,
                 &err);
    CHECK_SAYS(&err, "0 draws");
    options.cross_entropy = true;
    options.draws = DLM_DRAWS_MAX + 1;
    CHECK_STATUS(dlm__likelihood_create(&model->network, compute, &options, &likelihood, &err), DLM_ARGUMENT,
                 &err);
    CHECK(likelihood == NULL);
    options.draws = 1;
    options.longest = 3;
    REQUIRE_OK(dlm__likelihood_create(&model->network, compute, &options, &likelihood, &err), &err);
    dlm_scored window = {.ids = ids, .n = 4, .shown = 4};
    CHECK_STATUS(dlm__likelihood_add(likelihood, &window, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "window 0 has 4 positions");
    dlm__likelihood_free(likelihood);

    dlm_eval_result result;
    options.longest = 4;
    REQUIRE(measure(model, &options, &window, 0, &result));
    CHECK(isnan(result.nelbo) && isnan(result.eval_ce) && isnan(result.bits_per_byte));
    REQUIRE(measure(model, &options, &window, 1, &result));
    CHECK(isfinite(result.nelbo) && isnan(result.standard_error) && isnan(result.standard_error_documents));

    double nats;
    CHECK_STATUS(
        dlm__nelbo_exact(&model->network, compute, DLM_SCHEDULE_COSINE, model->mask_id, ids, 0, &nats, &err),
        DLM_ARGUMENT, &err);
    CHECK_STATUS(
        dlm__nelbo_exact(&model->network, compute, DLM_SCHEDULE_COSINE, model->mask_id, ids, 21, &nats, &err),
        DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "21 positions");

    model->network.params[dlm__layout_find(model->layout, "final_layer.linear.bias")->offset] = NAN;
    REQUIRE_OK(dlm__likelihood_create(&model->network, compute, &options, &likelihood, &err), &err);
    CHECK_OK(dlm__likelihood_add(likelihood, &window, &err), &err);
    CHECK_STATUS(dlm__likelihood_end(likelihood, &result, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "window 0");
    dlm__likelihood_free(likelihood);
    dlm__compute_free(compute);
    dlm_model_free(model);
}
