/* The cross-entropy by mask ratio against enumeration of all masks of each count, and its two standard errors
 * against the errors really made. */
#include "likelihood_fixture.h"

#include "diffusion/curve.h"

static dlm_curve_options curve_options(const dlm_model *model, const double *ratios, size_t n, size_t draws,
                                       uint64_t seed) {
    return (dlm_curve_options){.seed = seed,
                               .draws = draws,
                               .n = n,
                               .ratios = ratios,
                               .schedule = dlm_model_config(model)->schedule,
                               .mask_id = model->mask_id,
                               .longest = SMALL_L};
}

static bool measure_curve(const dlm_model *model, const dlm_curve_options *options, const dlm_scored *windows,
                          size_t n, dlm_curve_point *points) {
    dlm_curve *curve;
    dlm_error err;
    dlm_compute *compute = new_compute();
    bool ok = CHECK_OK(dlm__curve_create(&model->network, compute, options, &curve, &err), &err);
    for (size_t w = 0; ok && w < n; w++) ok = CHECK_OK(dlm__curve_add(curve, &windows[w], &err), &err);
    ok = ok && CHECK_OK(dlm__curve_end(curve, points, &err), &err);
    if (curve != NULL) dlm__curve_free(curve);
    dlm__compute_free(compute);
    return ok;
}

/* Mean over the sets of k of the first n positions of the sum of cross-entropies. */
static double mean_sum(const dlm_model *model, const int32_t *ids, size_t n, size_t k, size_t shown) {
    static masked_set sets[1 << SMALL_L];
    size_t count = 0;
    for (size_t set = 1; set < (size_t)1 << n; set++)
        if (bits_of(set) == k)
            sets[count++] = (masked_set){
                .set = set,
                .t = dlm__sigma_inverse(dlm_model_config(model)->schedule, (double)k / (double)n)};
    fill_in(model, ids, n, n, shown, sets, count);
    double sum = 0;
    for (size_t s = 0; s < count; s++) sum += sets[s].ce / (double)count;
    return sum;
}

static size_t masked_of(double ratio, size_t n) {
    const size_t k = (size_t)floor(ratio * (double)n + 0.5);
    return k > 0 ? k : 1;
}

/* Sums of cross-entropy and of masked positions of window w. */
static void exact_sums(const dlm_model *model, const dlm_scored *window, double ratio, double *ce,
                       double *k) {
    const size_t masked = masked_of(ratio, window->n);
    *k = (double)masked;
    *ce = mean_sum(model, window->ids, window->n, masked, window->shown);
}

static const double ratios[] = {0.05, 0.3, 0.5, 1};
enum { RATIOS = sizeof ratios / sizeof ratios[0] };

TEST(cross_entropy_by_enumeration) {
    int32_t ids[WINDOWS][SMALL_L] = {{0}};
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    windows[0].n = 3; /* padded */
    windows[0].shown = SMALL_L;
    dlm_curve_point points[RATIOS];
    const dlm_curve_options options = curve_options(model, ratios, RATIOS, 300, 1);
    REQUIRE(measure_curve(model, &options, windows, WINDOWS, points));
    for (size_t i = 0; i < RATIOS; i++) {
        double ce = 0, masked = 0;
        for (size_t w = 0; w < WINDOWS; w++) {
            double own_ce, own_k;
            exact_sums(model, &windows[w], ratios[i], &own_ce, &own_k);
            ce += own_ce;
            masked += own_k;
        }
        check_context("ratio %g", ratios[i]);
        CHECK(points[i].ratio == ratios[i]);
        CHECK_CLOSE(points[i].cross_entropy, ce / masked, 4.5 * points[i].standard_error + 1e-5);
        CHECK(points[i].standard_error < 0.02 && points[i].standard_error_documents > 0);
    }
    CHECK_CLOSE(points[RATIOS - 1].standard_error, 0, 1e-7); /* one mask is all there are */
    dlm_model_free(model);
}

/* Squares of errors in units of their standard errors, and how often the intervals held the exact value. */
TEST(errors_and_intervals) {
    enum { SEEDS = 400, SAMPLE = 30, POINTS = RATIOS - 1 };
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS], chosen[SAMPLE];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    static double ce[POINTS][WINDOWS], k[POINTS][WINDOWS];
    for (size_t i = 0; i < POINTS; i++)
        for (size_t w = 0; w < WINDOWS; w++) exact_sums(model, &windows[w], ratios[i], &ce[i][w], &k[i][w]);
    double zz[POINTS] = {0};
    size_t held[POINTS] = {0}, held_documents[POINTS] = {0};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        dlm_rng rng = dlm__rng(seed, DLM_RNG_TEST, 2, 0);
        double of_chosen[POINTS][2] = {{0}}, of_all[POINTS][2] = {{0}};
        for (size_t j = 0; j < SAMPLE; j++) {
            const size_t w = (size_t)dlm__rng_below(&rng, WINDOWS);
            chosen[j] = windows[w];
            for (size_t i = 0; i < POINTS; i++) {
                of_chosen[i][0] += ce[i][w];
                of_chosen[i][1] += k[i][w];
            }
        }
        for (size_t i = 0; i < POINTS; i++)
            for (size_t w = 0; w < WINDOWS; w++) {
                of_all[i][0] += ce[i][w];
                of_all[i][1] += k[i][w];
            }
        dlm_curve_point points[POINTS];
        const dlm_curve_options options = curve_options(model, ratios, POINTS, 2, seed);
        REQUIRE(measure_curve(model, &options, chosen, SAMPLE, points));
        for (size_t i = 0; i < POINTS; i++) {
            const dlm_curve_point *p = &points[i];
            const double masks = of_chosen[i][0] / of_chosen[i][1], documents = of_all[i][0] / of_all[i][1];
            const double z = (p->cross_entropy - masks) / p->standard_error;
            zz[i] += z * z / SEEDS;
            held[i] += p->interval[0] <= masks && masks <= p->interval[1];
            held_documents[i] +=
                p->interval_documents[0] <= documents && documents <= p->interval_documents[1];
        }
    }
    for (size_t i = 0; i < POINTS; i++) {
        const double coverage = (double)held[i] / SEEDS, of_documents = (double)held_documents[i] / SEEDS;
        printf("note: coverage of 95 %% intervals of the curve at %g: masks %.3f, documents %.3f\n",
               ratios[i], coverage, of_documents);
        check_context("ratio %g: %g, coverage %g and %g", ratios[i], zz[i], coverage, of_documents);
        CHECK(zz[i] > 0.75 && zz[i] < 1.35);
        CHECK(coverage > 0.9 && coverage < 0.985);
        CHECK(of_documents > 0.88 && of_documents < 0.985);
    }
    dlm_model_free(model);
}

TEST(what_the_data_do_not_tell_and_what_it_refuses) {
    int32_t ids[WINDOWS][SMALL_L];
    dlm_scored windows[WINDOWS];
    dlm_model *model = small_model(DLM_SCHEDULE_COSINE);
    REQUIRE(model != NULL);
    make_windows(ids, windows);
    dlm_curve_point points[RATIOS];
    dlm_curve_options options = curve_options(model, ratios, RATIOS, 1, 1);
    windows[1].continues = true; /* two windows, one document, one draw */
    REQUIRE(measure_curve(model, &options, windows, 2, points));
    CHECK(isfinite(points[0].cross_entropy) && isnan(points[0].standard_error));
    CHECK(isnan(points[0].standard_error_documents) && isnan(points[0].interval_documents[0]));
    options.draws = 2;
    REQUIRE(measure_curve(model, &options, windows, 2, points));
    CHECK(points[1].standard_error > 0 && isnan(points[1].standard_error_documents));

    dlm_compute *compute = new_compute();
    dlm_curve *curve;
    dlm_error err;
    const double wrong[] = {0.5, 0};
    options.ratios = wrong;
    options.n = 2;
    CHECK_STATUS(dlm__curve_create(&model->network, compute, &options, &curve, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "mask ratio 0 is not above 0 and at most 1");
    options.n = 0;
    CHECK_STATUS(dlm__curve_create(&model->network, compute, &options, &curve, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "0 mask ratios");
    options.n = 1;
    options.draws = 0;
    CHECK_STATUS(dlm__curve_create(&model->network, compute, &options, &curve, &err), DLM_ARGUMENT, &err);
    CHECK(curve == NULL);
    dlm__compute_free(compute);
    dlm_model_free(model);
}
