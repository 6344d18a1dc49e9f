/* Filling in: which candidates there are, and which is kept. */
#include "template_fixture.h"

static uint64_t histogram[65];

static dlm_model *make(double deviation) {
    for (size_t i = 0; i <= 64; i++) histogram[i] = i >= 10 ? 1 + i : 0;
    return model_with_tokenizer("exhausted", 64, true, deviation, histogram);
}

static dlm_template *parse(const dlm_model *model, const char *text) {
    dlm_template *parsed = NULL;
    dlm_error err;
    CHECK_OK(dlm_template_parse(model, text, strlen(text), &parsed, &err), &err);
    return parsed;
}

TEST(nothing_given_is_a_plain_sample) {
    enum { N = 4, FIRST = 3 };
    dlm_model *model = make(0.3);
    REQUIRE(model != NULL);
    dlm_fill_options options = dlm_fill_defaults();
    options.sample.seed = 9;
    dlm_filled filled[N];
    size_t start = 0, forwards, wanted;
    int32_t *ids, want[64];
    dlm_error err;
    REQUIRE_OK(dlm_fill(model, NULL, &options, FIRST, N, filled, &ids, &forwards, &err), &err);
    for (size_t b = 0; b < N; start += filled[b++].length) {
        check_context("text %zu", b);
        REQUIRE(filled[b].length == dlm_sample_length(model, 9, FIRST + b));
        CHECK(isnan(filled[b].nats_per_token));
        for (size_t i = 0; i < filled[b].length; i++) want[i] = 2;
        CHECK_OK(dlm_sample(model, &options.sample, FIRST + b, 1, &filled[b].length, want, NULL, NULL,
                            &wanted, &err),
                 &err);
        CHECK_MEM_EQ(ids + start, want, filled[b].length * sizeof *want);
    }
    CHECK(forwards >= wanted);
    dlm_free(ids);
    dlm_model_free(model);
}

/* NELBO per token of the ids up to the first end token, 3. */
static double score(const dlm_model *model, const int32_t *ids, size_t n, size_t draws) {
    dlm_nelbo_options options = dlm_nelbo_defaults();
    size_t end = 0;
    double nats = 0;
    dlm_error err;
    options.draws = draws;
    while (end < n && ids[end] != 3) end++;
    end += end < n;
    CHECK_OK(dlm_nelbo(model, &options, 1, &end, ids, &nats, NULL, &err), &err);
    return nats / (double)end;
}

/* Candidate k of text b is the sample of index b * tries + k, and the best one is kept. */
TEST(the_best_candidate_is_kept) {
    enum { N = 3, TRIES = 5 };
    dlm_model *model = make(0.3);
    REQUIRE(model != NULL);
    static const char prompt[] = "a cat ";
    dlm_template *text;
    dlm_error err;
    REQUIRE_OK(dlm_template_around(model, prompt, sizeof prompt - 1, NULL, 0, &text, &err), &err);
    dlm_fill_options options = dlm_fill_defaults();
    options.sample.seed = 4;
    options.tries = TRIES;
    options.draws = 7;
    dlm_filled filled[N];
    size_t start = 0, others = 0;
    int32_t *ids;
    REQUIRE_OK(dlm_fill(model, text, &options, 2, N, filled, &ids, NULL, &err), &err);
    for (size_t b = 0; b < N; start += filled[b++].length) {
        int32_t best[64] = {0};
        size_t best_n = 0, best_k = 0;
        double least = (double)INFINITY;
        for (size_t k = 0; k < TRIES; k++) {
            const size_t index = (2 + b) * TRIES + k, n = dlm_sample_length(model, 4, index), blank = n - 6;
            const dlm_template_choice choice = {text, &blank};
            dlm_sample_options how = options.sample;
            int32_t candidate[64];
            uint8_t fixed[64];
            how.allow = dlm_template_allow;
            how.allow_user = (void *)&choice;
            CHECK_INT_EQ(dlm_template_layout(text, &blank, candidate, fixed), n);
            CHECK_OK(dlm_sample(model, &how, index, 1, &n, candidate, fixed, NULL, NULL, &err), &err);
            const double own = score(model, candidate, n, 7);
            if (own >= least) continue;
            least = own;
            best_n = n;
            best_k = k;
            memcpy(best, candidate, n * sizeof *best);
            others += k > 0;
        }
        check_context("text %zu", b);
        CHECK_CLOSE(filled[b].nats_per_token, least, 1e-6);
        CHECK_INT_EQ(filled[b].candidate, best_k);
        if (CHECK(filled[b].length == best_n)) CHECK_MEM_EQ(ids + start, best, best_n * sizeof *best);
    }
    CHECK(others > 0); /* else the first one would do */
    dlm_free(ids);
    dlm_template_free(text);
    dlm_model_free(model);
}

static bool take_long(void *user, const dlm_sample_step *step) {
    (void)user;
    (void)step;
    for (const double start = dlm__seconds(); dlm__seconds() - start < 0.02;) continue;
    return false;
}

/* Sampling and scoring share the time allowed: all steps would take seven seconds, all masks more. */
TEST(the_time_is_enough_for_the_choice_too) {
    enum { N = 2, DRAWS = 200000 };
    dlm_model *model = make(0.3);
    REQUIRE(model != NULL);
    dlm_fill_options options = dlm_fill_defaults();
    options.length = 60;
    options.tries = 3;
    options.draws = DRAWS;
    options.at_once = 1;
    options.sample.max_seconds = 0.2;
    options.sample.on_step = take_long;
    dlm_filled filled[N];
    int32_t *ids;
    dlm_error err;
    const double started = dlm__seconds();
    REQUIRE_OK(dlm_fill(model, NULL, &options, 0, N, filled, &ids, NULL, &err), &err);
    CHECK(dlm__seconds() - started < 4); /* of a loaded machine */
    for (size_t b = 0; b < N; b++) CHECK(isfinite(filled[b].nats_per_token));
    for (size_t i = 0; i < (size_t)(N * 60); i++) CHECK(ids[i] != 2);
    dlm_free(ids);
    dlm_model_free(model);
}

static void few_tokens(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    (void)user;
    (void)sequence;
    (void)position;
    (void)ids;
    for (int32_t i = 0; i < 268; i++) allowed[i] = i >= 3 && i < 15;
}

/* Texts of twelve tokens, the end token among them: what stands behind the first one does not count. */
TEST(a_text_counts_up_to_its_end) {
    enum { N = 8 };
    dlm_model *model = make(0.3);
    REQUIRE(model != NULL);
    dlm_fill_options options = dlm_fill_defaults();
    options.length = 20;
    options.tries = 2;
    options.draws = 5;
    options.sample.allow = few_tokens;
    dlm_filled filled[N];
    int32_t *ids;
    size_t early = 0;
    dlm_error err;
    REQUIRE_OK(dlm_fill(model, NULL, &options, 0, N, filled, &ids, NULL, &err), &err);
    for (size_t b = 0; b < N; b++) {
        check_context("text %zu", b);
        CHECK_CLOSE(filled[b].nats_per_token, score(model, ids + 20 * b, 20, 5), 1e-6);
        for (size_t i = 0; i < 15; i++) early += ids[20 * b + i] == 3;
    }
    CHECK(early > 0);
    dlm_free(ids);
    dlm_model_free(model);
}

TEST(a_text_does_not_depend_on_the_others) {
    enum { N = 6 };
    dlm_model *model = make(0.3);
    REQUIRE(model != NULL);
    dlm_template *text = parse(model, "a [MASK:2-30] b [MASK:1-9].");
    REQUIRE(text != NULL);
    dlm_fill_options options = dlm_fill_defaults();
    options.tries = 3;
    options.draws = 4;
    dlm_filled filled[N];
    size_t start = 0;
    int32_t *ids;
    dlm_error err;
    REQUIRE_OK(dlm_fill(model, text, &options, 10, N, filled, &ids, NULL, &err), &err);
    for (size_t b = 0; b < N; start += filled[b++].length) {
        dlm_filled one;
        int32_t *alone;
        options.at_once = b % 3;
        REQUIRE_OK(dlm_fill(model, text, &options, 10 + b, 1, &one, &alone, NULL, &err), &err);
        check_context("text %zu", b);
        if (CHECK(one.length == filled[b].length))
            CHECK_MEM_EQ(ids + start, alone, one.length * sizeof *alone);
        dlm_free(alone);
    }
    dlm_free(ids);
    dlm_template_free(text);
    dlm_model_free(model);
}

/* What candidates there are, seen by the step callback. */
typedef struct seen {
    size_t n, calls, tries, lengths[1000];
    bool stops;
} seen;

static bool look(void *user, const dlm_sample_step *step) {
    seen *s = user;
    if (step->step == 0) {
        CHECK_INT_EQ(step->first, s->n);
        s->tries = step->tries;
        for (size_t b = 0; b < step->n && s->n < 1000; b++)
            s->lengths[s->n++] = step->offsets[b + 1] - step->offsets[b];
    }
    s->calls++;
    return s->stops;
}

static void fill_and_look(const dlm_model *model, const char *template_text, size_t tries, size_t n,
                          seen *s) {
    dlm_template *text = parse(model, template_text);
    dlm_fill_options options = dlm_fill_defaults();
    options.tries = tries;
    options.draws = 1;
    options.sample.steps = 1;
    options.sample.on_step = look;
    options.sample.user = s;
    *s = (seen){0};
    dlm_filled *filled = dlm__calloc(n, sizeof *filled);
    int32_t *ids = NULL;
    dlm_error err;
    if (text != NULL) CHECK_OK(dlm_fill(model, text, &options, 0, n, filled, &ids, NULL, &err), &err);
    dlm_free(ids);
    free(filled);
    dlm_template_free(text);
}

TEST(lengths_of_ranges) {
    dlm_model *model = make(0);
    seen s;
    REQUIRE(model != NULL);
    /* " " "a" and the end are three tokens. All lengths where they are few: */
    fill_and_look(model, "a[MASK:4-6]", 0, 1, &s);
    REQUIRE(s.n == 3 && s.tries == 3);
    for (size_t k = 0; k < 3; k++) CHECK_INT_EQ(s.lengths[k], 3 + 4 + k);
    fill_and_look(model, "a[MASK:4-6][MASK:1-2]", 0, 1, &s);
    REQUIRE(s.n == 6);
    size_t seen_lengths[3 + 6 + 2 + 1] = {0};
    for (size_t k = 0; k < 6; k++) seen_lengths[s.lengths[k]]++;
    CHECK(seen_lengths[8] == 1 && seen_lengths[9] == 2 && seen_lengths[10] == 2 && seen_lengths[11] == 1);
    /* Else one in each eighth of the range, not the same for every text. */
    fill_and_look(model, "a[MASK:11-50]", 0, 40, &s);
    REQUIRE(s.n == 40 * 8);
    size_t counts[40] = {0}, tried = 0;
    for (size_t i = 0; i < s.n; i++) {
        const size_t length = s.lengths[i] - 3 - 11;
        REQUIRE(length < 40 && length / 5 == i % 8);
        counts[length]++;
    }
    for (size_t i = 0; i < 40; i++) tried += counts[i] > 0;
    CHECK_INT_EQ(tried, 40);
    /* The second of two ranges is spread as evenly, in another order. */
    fill_and_look(model, "a[MASK:11-12][MASK:1-40]", 4, 30, &s);
    REQUIRE(s.n == 120);
    size_t falling = 0;
    for (size_t b = 0; b < 30; b++) {
        size_t quarters = 0;
        for (size_t k = 0; k < 4; k++) {
            const size_t first = k / 2, length = s.lengths[4 * b + k] - 3 - 11 - first - 1;
            REQUIRE(length < 40);
            quarters |= (size_t)1 << length / 10;
            falling += k > 0 && s.lengths[4 * b + k] < s.lengths[4 * b + k - 1];
        }
        CHECK_INT_EQ(quarters, 15);
    }
    CHECK(falling > 15);
    /* One length is tried once. */
    fill_and_look(model, "a[MASK:4]", 0, 5, &s);
    CHECK_INT_EQ(s.n, 5);
    CHECK_INT_EQ(s.tries, 1);
    fill_and_look(model, "a[MASK:4]", 3, 5, &s);
    CHECK_INT_EQ(s.n, 15);
    CHECK_INT_EQ(s.tries, 3);
    dlm_model_free(model);
}

TEST(the_callback_stops) {
    dlm_model *model = make(0);
    REQUIRE(model != NULL);
    dlm_fill_options options = dlm_fill_defaults();
    for (size_t at_once = 0; at_once < 2; at_once++) {
        seen s = {.stops = true};
        options.length = at_once == 0 ? 20 : 200;
        options.tries = 2;
        options.at_once = at_once;
        options.sample.on_step = look;
        options.sample.user = &s;
        dlm_filled filled;
        int32_t *ids;
        dlm_error err;
        CHECK_STATUS(dlm_fill(model, NULL, &options, 0, 1, &filled, &ids, NULL, &err), DLM_CANCELLED, &err);
        CHECK(ids == NULL);
        CHECK_INT_EQ(s.calls, 1);
    }
    dlm_model_free(model);
}

static void forbid(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    const int32_t *only = user;
    (void)sequence;
    (void)ids;
    if (position < 3) return;
    for (int32_t i = 4; i < 268; i++) allowed[i] &= i == *only;
}

TEST(the_callers_own_callback_is_asked_too) {
    dlm_model *model = make(0);
    REQUIRE(model != NULL);
    dlm_template *text = parse(model, "a [MASK:5]");
    REQUIRE(text != NULL);
    dlm_fill_options options = dlm_fill_defaults();
    int32_t only = 99;
    options.sample.allow = forbid;
    options.sample.allow_user = &only;
    dlm_filled filled;
    int32_t *ids;
    dlm_error err;
    REQUIRE_OK(dlm_fill(model, text, &options, 0, 1, &filled, &ids, NULL, &err), &err);
    for (size_t i = 3; i + 1 < filled.length; i++) CHECK_INT_EQ(ids[i], only);
    CHECK_INT_EQ(filled.length, 8);
    dlm_free(ids);
    dlm_template_free(text);
    dlm_model_free(model);
}

/* Stops at the third report. */
static bool stop_soon(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    size_t *reports = user;
    CHECK_STR_EQ(stage, "choose");
    CHECK(done > *reports && done <= total && seconds >= 0);
    return ++*reports == 3;
}

TEST(the_choice_can_be_stopped) {
    dlm_model *model = make(0.3);
    REQUIRE(model != NULL);
    dlm_fill_options options = dlm_fill_defaults();
    dlm_filled filled[1];
    int32_t *ids = NULL;
    size_t reports = 0;
    dlm_error err;
    options.length = 60;
    options.tries = 2;
    options.draws = 200000;
    options.progress = stop_soon;
    options.progress_user = &reports;
    CHECK_INT_EQ(dlm_fill(model, NULL, &options, 0, 1, filled, &ids, NULL, &err), DLM_CANCELLED);
    CHECK_INT_EQ(reports, 3);
    CHECK(ids == NULL);
    dlm_model_free(model);
}

TEST(options_out_of_range) {
    dlm_model *model = make(0), *other = make(0);
    REQUIRE(model != NULL && other != NULL);
    dlm_template *text = parse(model, "a [MASK:5]"), *prompt = NULL;
    dlm_error err;
    static const char long_prompt[] =
        "qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-qx7-q";
    REQUIRE(text != NULL);
    REQUIRE_OK(dlm_template_around(model, long_prompt, sizeof long_prompt - 1, NULL, 0, &prompt, &err), &err);
    const struct {
        const dlm_model *model;
        const dlm_template *text;
        size_t length, tries, draws, context, first;
        const char *says;
    } cases[] = {
        {model, text, 10, 1, 16, 0, 0, "the length is asked to be 10 tokens, but the template's masks"},
        {model, prompt, 20, 1, 16, 0, 0,
         "78 tokens are given, which leaves nothing to write: the length is 20"},
        {model, prompt, 0, 1, 16, 0, 0, "nothing to write: the model takes at most 64, unless"},
        {model, prompt, 100, 1, 16, 64, 0, "a context of 64 tokens leaves no room to write in the 64"},
        {model, text, 0, 1001, 16, 0, 0, "1001 tries are more than 1000"},
        {model, text, 0, 2, 0, 0, 0, "0 draws"},
        {model, NULL, 20, 2, 16, 0, (size_t)1 << 31, "pass the last index"},
        {other, text, 0, 1, 16, 0, 0, "made for another model"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        dlm_fill_options options = dlm_fill_defaults();
        options.length = cases[c].length;
        options.tries = cases[c].tries;
        options.draws = cases[c].draws;
        options.context = cases[c].context;
        dlm_filled filled;
        int32_t *ids;
        CHECK_STATUS(
            dlm_fill(cases[c].model, cases[c].text, &options, cases[c].first, 1, &filled, &ids, NULL, &err),
            DLM_ARGUMENT, &err);
        CHECK_SAYS(&err, cases[c].says);
        CHECK(ids == NULL);
    }
    dlm_template_free(text);
    dlm_template_free(prompt);
    dlm_model_free(model);
    dlm_model_free(other);
}

TEST(no_texts) {
    dlm_model *model = make(0);
    REQUIRE(model != NULL);
    const dlm_fill_options options = dlm_fill_defaults();
    int32_t *ids;
    dlm_error err;
    CHECK_OK(dlm_fill(model, NULL, &options, 0, 0, NULL, &ids, NULL, &err), &err);
    dlm_free(ids);
    dlm_model_free(model);
}
