/* The NELBO and the original's cross-entropy against enumeration: PyTorch's (likelihood.json), and this
 * file's own over all masks and times by the public forward pass. */
#include "likelihood_fixture.h"

#include "diffusion/nelbo.h"

enum { LIKELY_L = 9 };

/* ---- PyTorch ------------------------------------------------------------------------------------------ */

static void check_fixture(const char *folder, const json_t *all, const char *schedule_name, int schedule) {
    dlm_model *model = scaled_model(folder, json_number_value(json_object_get(all, "head_scale")), schedule);
    REQUIRE(model != NULL);
    const json_t *sequences = json_object_get(all, "sequences");
    const json_t *wants =
        json_object_get(json_object_get(json_object_get(all, "schedule"), schedule_name), "nelbo_nats");
    for (size_t s = 0; s < json_array_size(sequences); s++) {
        const json_t *sequence = json_array_get(sequences, s);
        const size_t n = json_array_size(sequence);
        int32_t ids[LIKELY_L];
        REQUIRE(n <= LIKELY_L);
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(sequence, i));
        const double want = json_number_value(json_array_get(wants, s));
        check_context("%s, %s, sequence %zu", folder, schedule_name, s);
        const dlm_likelihood_options options = options_for(model, 256, s);
        const dlm_scored window = {.ids = ids, .n = n, .shown = n};
        dlm_eval_result result;
        if (!measure(model, &options, &window, 1, &result)) continue;
        CHECK(result.all.standard_error > 0 && result.all.standard_error < 0.1 * result.all.nelbo);
        CHECK_CLOSE(result.all.nelbo * (double)n, want, 5 * result.all.standard_error * (double)n);
        CHECK_INT_EQ(result.all.tokens, n);
        dlm_likelihood_options exactly = options_for(model, 0, s);
        exactly.exact = true;
        if (measure(model, &exactly, &window, 1, &result))
            CHECK_CLOSE(result.all.nelbo * (double)n, want, 1e-4);
    }
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

TEST(estimate_and_its_error) {
    enum { REPEATS = 100 };
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    double nats = 0, tokens = 0, z = 0, zz = 0;
    for (size_t w = 0; w < WINDOWS; w++) {
        nats += enumerate(model, ids[w], windows[w].n, windows[w].n, windows[w].shown);
        tokens += (double)windows[w].n;
    }
    for (size_t repeat = 0; repeat < REPEATS; repeat++) {
        const dlm_likelihood_options options = options_for(model, 2, repeat);
        dlm_eval_result result;
        REQUIRE(measure(model, &options, windows, WINDOWS, &result));
        const double score = (result.all.nelbo - nats / tokens) / result.all.standard_error;
        z += score;
        zz += score * score;
        CHECK_INT_EQ(result.windows, WINDOWS);
        CHECK_INT_EQ(result.documents, WINDOWS);
        CHECK(result.all.standard_error_documents > 0);
        CHECK_CLOSE(result.all.bits_per_byte, result.all.nelbo / log(2) / 3, 1e-12);
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
    const double padded = enumerate(model, ids, n, n, SMALL_L), alone = enumerate(model, ids, n, n, n);
    CHECK(fabs(padded - alone) > 0.05);
    /* beside a window without padding, whose masks must not be taken for its own */
    const int32_t whole[SMALL_L] = {8, 3, 6, 6, 10, 4, 5, 7};
    const double nats = padded + enumerate(model, whole, SMALL_L, SMALL_L, SMALL_L);
    const dlm_scored windows[] = {{.ids = whole, .n = SMALL_L, .shown = SMALL_L},
                                  {.ids = ids, .n = n, .shown = SMALL_L}};
    const dlm_likelihood_options options = options_for(model, 40000, 1);
    dlm_eval_result result;
    REQUIRE(measure(model, &options, windows, 2, &result));
    const double tokens = (double)(n + SMALL_L);
    CHECK_INT_EQ(result.all.tokens, n + SMALL_L);
    CHECK_CLOSE(result.all.nelbo * tokens, nats, 5 * result.all.standard_error * tokens);
    CHECK(fabs(result.all.nelbo * tokens - nats - alone + padded) > 5 * result.all.standard_error * tokens);
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
        fill_in(model, ids, N, N, N, sets, TIMES * SETS);
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
    CHECK_CLOSE(result.all.nelbo, log(SMALL_V), 1e-5);
    CHECK_CLOSE(result.eval_ce, log(SMALL_V), 1e-5);
    CHECK_CLOSE(result.all.standard_error, 0, 1e-4);
    CHECK_CLOSE(result.all.standard_error_documents, 0, 1e-4);
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
    CHECK(apart.all.nelbo == again.all.nelbo && apart.eval_ce == again.eval_ce);
    for (size_t w = 1; w < WINDOWS; w++) windows[w].continues = w % 4 != 0;
    REQUIRE(measure(model, &options, windows, WINDOWS, &together));
    CHECK_INT_EQ(together.documents, WINDOWS / 4);
    CHECK_INT_EQ(together.windows, WINDOWS);
    CHECK(together.all.nelbo == apart.all.nelbo);
    CHECK_CLOSE(together.all.standard_error, apart.all.standard_error, 1e-12);
    CHECK(together.all.standard_error_documents != apart.all.standard_error_documents);

    dlm_eval_result repacked; /* room for other passes */
    options.longest = 5000;
    REQUIRE(measure(model, &options, windows, WINDOWS, &repacked));
    CHECK_CLOSE(repacked.all.nelbo, together.all.nelbo, 1e-5);
    CHECK_CLOSE(repacked.eval_ce, together.eval_ce, 1e-5);
    dlm_model_free(model);
}

/* The end token's part is that of its position in the sum over positions; in an exact evaluation as it is, in
 * a drawn one within its error. Documents are of several windows, of which the last ends, one of them with
 * nothing else. */
TEST(without_the_end_token) {
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    windows[3].n = windows[3].shown = 1;
    double nats = 0, text = 0, tokens = 0, ends = 0;
    for (size_t w = 0; w < WINDOWS; w++) {
        windows[w].continues = w % 3 != 0;
        windows[w].ends = w % 3 == 2 || w == 3 || w + 1 == WINDOWS;
        if (w == 3) windows[4].continues = false;
        const size_t n = windows[w].n, counted = n - windows[w].ends;
        nats += enumerate(model, ids[w], n, n, n);
        text += enumerate(model, ids[w], n, counted, n);
        tokens += (double)n;
        ends += windows[w].ends;
    }
    dlm_likelihood_options options = options_for(model, 0, 1);
    options.exact = true;
    dlm_eval_result exact, drawn;
    REQUIRE(measure(model, &options, windows, WINDOWS, &exact));
    CHECK(exact.exact && exact.end_token);
    CHECK_CLOSE(exact.all.nelbo, nats / tokens, 1e-5);
    CHECK_CLOSE(exact.text.nelbo, text / (tokens - ends), 1e-5);
    CHECK_INT_EQ(exact.all.tokens, (uint64_t)tokens);
    CHECK_INT_EQ(exact.text.tokens, (uint64_t)(tokens - ends));
    CHECK_CLOSE(exact.text.bits_per_byte, text / log(2) / (double)exact.bytes, 1e-5);
    CHECK(exact.all.standard_error == 0 && exact.text.standard_error == 0);
    CHECK(exact.text.interval[0] == exact.text.nelbo && exact.text.interval[1] == exact.text.nelbo);
    CHECK(exact.text.standard_error_documents > 0);

    options = options_for(model, 400, 1);
    REQUIRE(measure(model, &options, windows, WINDOWS, &drawn));
    CHECK(!drawn.exact && drawn.end_token);
    CHECK_CLOSE(drawn.text.nelbo, exact.text.nelbo, 4.5 * drawn.text.standard_error);
    CHECK_CLOSE(drawn.all.nelbo, exact.all.nelbo, 4.5 * drawn.all.standard_error);
    CHECK(drawn.text.standard_error > 0 && drawn.text.standard_error < 0.02);
    CHECK_CLOSE(drawn.text.standard_error_documents, exact.text.standard_error_documents,
                0.1 * exact.text.standard_error_documents);
    for (size_t w = 0; w < WINDOWS; w++) windows[w].ends = false;
    REQUIRE(measure(model, &options, windows, WINDOWS, &exact));
    CHECK(!exact.end_token && exact.text.nelbo == exact.all.nelbo);
    CHECK_CLOSE(exact.all.nelbo, drawn.all.nelbo, 1e-12);
    dlm_model_free(model);
}

/* By hand: with every mask tried the documents alone are a sample, and their error is the ratio estimator's.
 */
TEST(documents_of_an_exact_evaluation) {
    enum { DOCUMENTS = 6 };
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_LINEAR);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    double nats[DOCUMENTS], sum = 0, tokens = 0, squares = 0;
    for (size_t w = 0; w < DOCUMENTS; w++) {
        windows[w].ends = true;
        nats[w] = enumerate(model, ids[w], windows[w].n, windows[w].n - 1, windows[w].n);
        sum += nats[w];
        tokens += (double)windows[w].n - 1;
    }
    for (size_t w = 0; w < DOCUMENTS; w++) {
        const double rest = nats[w] - sum / tokens * ((double)windows[w].n - 1);
        squares += rest * rest;
    }
    const double error = sqrt(squares * DOCUMENTS / (DOCUMENTS - 1)) / tokens;
    dlm_likelihood_options options = options_for(model, 0, 1);
    options.exact = true;
    dlm_eval_result result;
    REQUIRE(measure(model, &options, windows, DOCUMENTS, &result));
    CHECK_CLOSE(result.text.nelbo, sum / tokens, 1e-5);
    CHECK_CLOSE(result.text.standard_error_documents, error, 1e-5);
    CHECK_CLOSE(result.text.interval_documents[1] - result.text.nelbo, 2.570582 * error, 3e-4 * error);
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
    CHECK(isnan(result.all.nelbo) && isnan(result.eval_ce) && isnan(result.all.bits_per_byte));
    REQUIRE(measure(model, &options, &window, 1, &result));
    CHECK(isfinite(result.all.nelbo) && isnan(result.all.standard_error) &&
          isnan(result.all.standard_error_documents));

    const int32_t many[21] = {5};
    const dlm_scored longer = {.ids = many, .n = 21, .shown = 21};
    options.exact = true;
    options.longest = 21;
    REQUIRE_OK(dlm__likelihood_create(&model->network, compute, &options, &likelihood, &err), &err);
    CHECK_STATUS(dlm__likelihood_add(likelihood, &longer, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "window 0 has 21 tokens, all masks are tried of at most 20");
    dlm__likelihood_free(likelihood);
    options.exact = false;

    model->network.params[dlm__layout_find(model->layout, "final_layer.linear.bias")->offset] = NAN;
    REQUIRE_OK(dlm__likelihood_create(&model->network, compute, &options, &likelihood, &err), &err);
    CHECK_OK(dlm__likelihood_add(likelihood, &window, &err), &err);
    CHECK_STATUS(dlm__likelihood_end(likelihood, &result, &err), DLM_NOT_FINITE, &err);
    CHECK_SAYS(&err, "window 0");
    dlm__likelihood_free(likelihood);
    dlm__compute_free(compute);
    dlm_model_free(model);
}
