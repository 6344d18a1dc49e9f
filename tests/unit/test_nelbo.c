/* dlm_nelbo: against PyTorch's enumeration, its estimate and standard error against the exact value over many
 * seeds, and what it refuses. */
#include "sampling_fixture.h"

#include "diffusion/likelihood.h"
#include "diffusion/nelbo.h"

enum { SMALL_V = 11, SMALL_L = 12 };

static void check_fixture(const char *folder, const json_t *all, const char *schedule_name, int schedule) {
    dlm_model *model = scaled_model(folder, json_number_value(json_object_get(all, "head_scale")), schedule);
    REQUIRE(model != NULL);
    const json_t *sequences = json_object_get(all, "sequences");
    const json_t *wants =
        json_object_get(json_object_get(json_object_get(all, "schedule"), schedule_name), "nelbo_nats");
    int32_t ids[200];
    size_t lengths[20], T = 0;
    const size_t n = json_array_size(sequences);
    REQUIRE(n <= 20);
    for (size_t s = 0; s < n; s++) {
        const json_t *sequence = json_array_get(sequences, s);
        lengths[s] = json_array_size(sequence);
        for (size_t i = 0; i < lengths[s]; i++)
            ids[T++] = (int32_t)json_integer_value(json_array_get(sequence, i));
    }
    dlm_nelbo_options options = dlm_nelbo_defaults();
    double nats[20], errors[20], estimated[20];
    dlm_error err;
    options.draws = 256;
    REQUIRE_OK(dlm_nelbo(model, &options, n, lengths, ids, estimated, errors, &err), &err);
    options.exact = true;
    REQUIRE_OK(dlm_nelbo(model, &options, n, lengths, ids, nats, NULL, &err), &err);
    for (size_t s = 0; s < n; s++) {
        check_context("%s, %s, sequence %zu", folder, schedule_name, s);
        CHECK_CLOSE(nats[s], json_number_value(json_array_get(wants, s)), 1e-4);
        CHECK(errors[s] > 0 && errors[s] < 0.1 * nats[s]);
        CHECK_CLOSE(estimated[s], nats[s], 5 * errors[s]);
    }
    REQUIRE_OK(dlm_nelbo(model, &options, n, lengths, ids, nats, errors, &err), &err);
    for (size_t s = 0; s < n; s++) CHECK(errors[s] == 0);
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

static dlm_model *small_model(void) {
    return random_model(SMALL_V, SMALL_L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.5, NULL);
}

/* Over SEEDS seeds: what was made of errors, and what was claimed. */
enum { SEEDS = 400 };
typedef struct made {
    double bias, variance, claimed; /* claimed: mean square of the standard errors */
} made;

static made errors_of(const dlm_model *model, size_t draws, dlm_masks masks, const int32_t *ids, size_t n,
                      double exact) {
    made m = {0};
    for (size_t seed = 0; seed < SEEDS; seed++) {
        const dlm_nelbo_options options = {.seed = seed, .draws = draws, .masks = masks};
        double nats = 0, error = 0;
        dlm_error err;
        CHECK_OK(dlm_nelbo(model, &options, 1, &n, ids, &nats, &error, &err), &err);
        m.bias += (nats - exact) / SEEDS;
        m.variance += (nats - exact) * (nats - exact) / SEEDS;
        m.claimed += error * error / SEEDS;
    }
    m.variance -= m.bias * m.bias;
    return m;
}

/* The mean is the exact value, and the mean square of the standard errors the variance, or more where draws
 * are few. */
TEST(estimates_and_their_errors) {
    static const struct {
        size_t draws;
        dlm_masks masks;
        double low, high; /* claimed over variance */
    } cases[] = {{2, DLM_MASKS_INDEPENDENT, 0.9, 20},     {3, DLM_MASKS_INDEPENDENT, 0.9, 20},
                 {7, DLM_MASKS_INDEPENDENT, 0.85, 4},     {16, DLM_MASKS_INDEPENDENT, 0.85, 2},
                 {4, DLM_MASKS_COMPLEMENTARY, 0.85, 4},   {16, DLM_MASKS_AUTO, 0.85, 2.2},
                 {64, DLM_MASKS_COMPLEMENTARY, 0.85, 1.5}};
    const int32_t ids[] = {3, 4, 7, 4, 3, 4, 7, 4, 3};
    const size_t n = sizeof ids / sizeof ids[0];
    dlm_model *model = small_model();
    REQUIRE(model != NULL);
    double exact;
    dlm_error err;
    const dlm_nelbo_options exactly = {.exact = true};
    REQUIRE_OK(dlm_nelbo(model, &exactly, 1, &n, ids, &exact, NULL, &err), &err);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const made m = errors_of(model, cases[c].draws, cases[c].masks, ids, n, exact);
        check_context("%zu draws, masks %d: bias %g, variance %g, claimed %g", cases[c].draws,
                      (int)cases[c].masks, m.bias, m.variance, m.claimed);
        CHECK_CLOSE(m.bias, 0, 4.5 * sqrt(m.variance / SEEDS));
        CHECK(m.claimed > cases[c].low * m.variance && m.claimed < cases[c].high * m.variance);
    }
    dlm_model_free(model);
}

/* The variance by complementary masks over that by independent ones: of 4 draws of a fixture's first
 * sequence. */
static double gain(const char *folder) {
    json_t *all = fixture_json(folder, "likelihood.json");
    if (all == NULL) return NAN;
    dlm_model *model =
        scaled_model(folder, json_number_value(json_object_get(all, "head_scale")), DLM_SCHEDULE_COSINE);
    const json_t *sequence = json_array_get(json_object_get(all, "sequences"), 0);
    const size_t n = json_array_size(sequence);
    int32_t ids[SMALL_L];
    double ratio = NAN, exact;
    if (CHECK(model != NULL && n <= SMALL_L)) {
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(sequence, i));
        const dlm_nelbo_options exactly = {.exact = true};
        dlm_error err;
        CHECK_OK(dlm_nelbo(model, &exactly, 1, &n, ids, &exact, NULL, &err), &err);
        ratio = errors_of(model, 4, DLM_MASKS_COMPLEMENTARY, ids, n, exact).variance /
                errors_of(model, 4, DLM_MASKS_INDEPENDENT, ids, n, exact).variance;
    }
    dlm_model_free(model);
    json_decref(all);
    return ratio;
}

/* They make it smaller where sequences are short; docs/likelihood.md tells by how much, and of longer ones.
 */
TEST(complementary_masks) {
    static const char *const folders[] = {"tiny", "odd", "plain", "halfway"};
    dlm_set_threads(1);
    double mean = 0;
    for (size_t f = 0; f < 4; f++) mean += gain(folders[f]) / 4;
    printf("note: variance by complementary masks over that by independent ones, 9 tokens: %.2f\n", mean);
    CHECK(mean < 0.97);
}

/* As in an evaluation, where a sequence is a window; the neighbours do not matter. */
TEST(masks_of_an_evaluation) {
    const int32_t ids[] = {5, 9, 4, 4, 7, 3, 8, 3, 6, 6, 10, 4};
    const size_t lengths[] = {5, 1, 6};
    dlm_model *model = small_model();
    REQUIRE(model != NULL);
    const dlm_nelbo_options options = {.seed = 3, .draws = 5};
    double nats[3], changed[3];
    dlm_error err;
    REQUIRE_OK(dlm_nelbo(model, &options, 3, lengths, ids, nats, NULL, &err), &err);
    const int32_t other[] = {5, 9, 4, 4, 8, 9, 8, 3, 6, 6, 10, 4};
    REQUIRE_OK(dlm_nelbo(model, &options, 3, lengths, other, changed, NULL, &err), &err);
    CHECK(nats[0] != changed[0] && nats[1] != changed[1]);
    CHECK_CLOSE(nats[2], changed[2], 1e-5);

    dlm_compute *compute;
    dlm_likelihood *likelihood;
    const dlm_likelihood_options core = {.seed = 3, .draws = 5, .mask_id = 2, .longest = SMALL_L};
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    REQUIRE_OK(dlm__likelihood_create(&model->network, compute, &core, &likelihood, &err), &err);
    const int32_t *at = ids;
    for (size_t w = 0; w < 3; at += lengths[w++]) {
        const dlm_scored window = {.ids = at, .n = lengths[w], .shown = lengths[w]};
        CHECK_OK(dlm__likelihood_add(likelihood, &window, &err), &err);
    }
    dlm_eval_result result;
    CHECK_OK(dlm__likelihood_end(likelihood, &result, &err), &err);
    CHECK_CLOSE(12 * result.all.nelbo, nats[0] + nats[1] + nats[2], 1e-5);
    dlm__likelihood_free(likelihood);
    dlm__compute_free(compute);
    dlm_model_free(model);
}

/* Of strata whose means lie on a line and whose variances differ the expectation is the variance, exactly. */
TEST(strata_error) {
    enum { REPEATS = 20000, N = 8 };
    dlm_rng rng = dlm__rng(5, DLM_RNG_TEST, 0, 0);
    double claimed = 0, variance = 0;
    for (size_t d = 0; d < N; d++) variance += 1.0 / (double)((1 + d) * (1 + d)) / (N * N);
    for (size_t r = 0; r < REPEATS; r++) {
        double x[N];
        for (size_t d = 0; d < N; d++) x[d] = 3 * (double)d + dlm__rng_normal(&rng) / (double)(1 + d);
        const double error = dlm__strata_error(x, N);
        claimed += error * error / REPEATS;
    }
    CHECK_CLOSE(claimed, variance, 0.05 * variance);
    const double two[] = {1, 4}, three[] = {1, 4, 5};
    CHECK(isnan(dlm__strata_error(two, 1)));
    CHECK_CLOSE(dlm__strata_error(two, 2), 1.5, 1e-12);
    CHECK_CLOSE(dlm__strata_error(three, 3), sqrt(2 * (9 + 1 - 16 / 2.0)) / 3, 1e-12);
}

TEST(what_it_refuses) {
    int32_t ids[21] = {5, 9, 4};
    size_t lengths[] = {1, 2};
    double nats[2];
    dlm_error err;
    dlm_model *model = random_model(SMALL_V, 21, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    dlm_nelbo_options options = dlm_nelbo_defaults();
    CHECK_INT_EQ(options.draws, 16);
    CHECK_INT_EQ(options.seed, 1);
    CHECK_OK(dlm_nelbo(model, &options, 0, NULL, NULL, NULL, NULL, &err), &err);
    options.draws = 0;
    CHECK_STATUS(dlm_nelbo(model, &options, 2, lengths, ids, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "0 draws");
    options.exact = true;
    CHECK_OK(dlm_nelbo(model, &options, 2, lengths, ids, nats, NULL, &err), &err);
    lengths[1] = 0;
    CHECK_STATUS(dlm_nelbo(model, &options, 2, lengths, ids, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence 1 has 0 tokens, the model takes 1 to 21");
    lengths[0] = 21;
    CHECK_STATUS(dlm_nelbo(model, &options, 1, lengths, ids, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "sequence 0 has 21 tokens, the exact NELBO takes at most 20");
    lengths[0] = 3;
    ids[1] = SMALL_V;
    CHECK_STATUS(dlm_nelbo(model, &options, 1, lengths, ids, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "position 1 of sequence 0 is token 11, the vocabulary has 11");
    ids[1] = model->mask_id;
    CHECK_STATUS(dlm_nelbo(model, &options, 1, lengths, ids, nats, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "position 1 of sequence 0 is masked");
    dlm_model_free(model);
}

/* What the reports of a call said, and which of them stops it (0: none). */
typedef struct reports {
    size_t n, stop_at;
    uint64_t done, total;
} reports;

static bool report(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    reports *r = user;
    CHECK_STR_EQ(stage, "nelbo");
    CHECK(done > r->done && done <= total && seconds >= 0);
    r->done = done;
    r->total = total;
    return ++r->n == r->stop_at;
}

TEST(progress) {
    const size_t lengths[] = {3, 12};
    int32_t ids[15];
    double nats[2], unwatched[2];
    dlm_error err;
    dlm_model *model = small_model();
    REQUIRE(model != NULL);
    for (size_t i = 0; i < 15; i++) ids[i] = 3 + (int32_t)(i % 8);
    dlm_nelbo_options options = {.seed = 3, .draws = 400000};
    reports r = {.stop_at = 3};
    options.progress = report;
    options.user = &r;
    CHECK_STATUS(dlm_nelbo(model, &options, 2, lengths, ids, nats, NULL, &err), DLM_CANCELLED, &err);
    CHECK_INT_EQ(r.n, 3);
    CHECK_INT_EQ(r.total, 800000);
    r = (reports){0};
    options.draws = 40;
    CHECK_OK(dlm_nelbo(model, &options, 2, lengths, ids, nats, NULL, &err), &err);
    CHECK(r.n >= 1);
    options.progress = NULL;
    CHECK_OK(dlm_nelbo(model, &options, 2, lengths, ids, unwatched, NULL, &err), &err);
    CHECK_MEM_EQ(nats, unwatched, sizeof nats);
    r = (reports){0};
    options.progress = report;
    options.exact = true;
    CHECK_OK(dlm_nelbo(model, &options, 2, lengths, ids, nats, NULL, &err), &err);
    CHECK_INT_EQ(r.total, 7 + 4095);
    dlm_model_free(model);
}
