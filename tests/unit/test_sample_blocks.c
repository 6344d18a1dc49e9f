/* Sampling past the model's length. */
#include "template_fixture.h"

#include "diffusion/sampler.h"

enum { LIMIT = 16 };

static dlm_model *make(double deviation) {
    return model_with_tokenizer("exhausted", LIMIT, true, deviation, NULL);
}

/* n ids: a prompt of `given` fixed ones, then masks. */
static void begin(int32_t *ids, uint8_t *fixed, size_t n, size_t given) {
    for (size_t i = 0; i < n; i++) {
        ids[i] = i < given ? 10 + (int32_t)(i * 7 % 200) : 2;
        fixed[i] = i < given;
    }
}

TEST(what_fits_is_a_plain_sample) {
    dlm_model *model = make(0.4);
    REQUIRE(model != NULL);
    const size_t n = LIMIT;
    int32_t ids[LIMIT], want[LIMIT];
    uint8_t fixed[LIMIT];
    dlm_sample_options options = dlm_sample_defaults();
    dlm_error err;
    begin(ids, fixed, n, 3);
    begin(want, fixed, n, 3);
    size_t forwards, wanted;
    REQUIRE_OK(dlm_sample_blocks(model, &options, 0, 5, n, ids, fixed, &forwards, &err), &err);
    REQUIRE_OK(dlm_sample(model, &options, 5, 1, &n, want, fixed, NULL, &wanted, &err), &err);
    CHECK_MEM_EQ(ids, want, sizeof ids);
    CHECK_INT_EQ(forwards, wanted);
    CHECK_OK(dlm_sample_blocks(model, &options, 0, 5, 0, ids, fixed, &forwards, &err), &err);
    dlm_model_free(model);
}

static void no_end(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    (void)user;
    (void)sequence;
    (void)position;
    (void)ids;
    allowed[3] = 0;
}

/* Window by window by hand, at temperature 0, where no random number is drawn. */
static void check_windows(const dlm_model *model, size_t n, size_t given, size_t context) {
    int32_t ids[100], want[100], window[LIMIT];
    uint8_t fixed[100], window_fixed[LIMIT];
    dlm_sample_options options = dlm_sample_defaults();
    dlm_error err;
    const size_t limit = LIMIT, own = context > 0 ? context : LIMIT / 2;
    size_t forwards, total = 0, passes, done = given;
    options.temperature = 0;
    begin(ids, fixed, n, given);
    begin(want, fixed, n, given);
    check_context("%zu tokens, %zu given, context %zu", n, given, context);
    REQUIRE_OK(dlm_sample_blocks(model, &options, context, 0, n, ids, fixed, &forwards, &err), &err);
    while (done < n) {
        size_t start = done > own ? done - own : 0;
        if (start > n - LIMIT) start = n - LIMIT;
        memcpy(window, want + start, sizeof window);
        for (size_t i = 0; i < LIMIT; i++) window_fixed[i] = start + i < done;
        options.allow = start + LIMIT < n ? no_end : NULL;
        REQUIRE_OK(dlm_sample(model, &options, 0, 1, &limit, window, window_fixed, NULL, &passes, &err),
                   &err);
        memcpy(want + start, window, sizeof window);
        total += passes;
        done = start + LIMIT;
    }
    CHECK_MEM_EQ(ids, want, n * sizeof *ids);
    CHECK_INT_EQ(forwards, total);
}

TEST(window_by_window) {
    dlm_model *model = make(0.6);
    REQUIRE(model != NULL);
    check_windows(model, 17, 0, 0);
    check_windows(model, 40, 0, 0);
    check_windows(model, 100, 5, 0);
    check_windows(model, 60, 33, 0);
    check_windows(model, 60, 5, 1);
    check_windows(model, 33, 5, 15);
    check_windows(model, 50, 49, 0);
    dlm_model_free(model);
}

/* Three positions to a window, of five, the last two of context: each token's law is known from the table of
 * all states. The law of the last three. */
TEST(law) {
    enum { N = 5, SAMPLES = 6000 };
    dlm_model *model = random_model(TINY_V, TINY_L, DLM_TIME_ADALN, DLM_SCHEDULE_COSINE, 0.4, NULL);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    options.order = DLM_ORDER_LEFT_TO_RIGHT;
    const tiny_table *table = tiny_enumerate(model, options.temperature);
    double law[TINY_TEXTS] = {0};
    size_t seen[TINY_TEXTS] = {0};
    for (size_t code = 0; code < 243; code++) {
        int32_t x[N];
        size_t rest = code;
        for (size_t i = 0; i < N; i++, rest /= 3) x[i] = TINY_FIRST + (int32_t)(rest % 3);
        double p = 1;
        for (size_t i = 0; i < N; i++) {
            const size_t start = i < TINY_L ? 0 : i - 2;
            int32_t window[TINY_L];
            for (size_t j = 0; j < TINY_L; j++) window[j] = start + j < i ? x[start + j] : TINY_MASK;
            p *= table->p[tiny_state(window)][i - start][x[i] - TINY_FIRST];
        }
        law[tiny_text(x + 2)] += p;
    }
    for (size_t s = 0; s < SAMPLES; s++) {
        int32_t ids[N] = {TINY_MASK, TINY_MASK, TINY_MASK, TINY_MASK, TINY_MASK};
        dlm_error err;
        REQUIRE_OK(dlm_sample_blocks(model, &options, 2, s, N, ids, NULL, NULL, &err), &err);
        seen[tiny_text(ids + 2)]++;
    }
    check_law(law, seen, SAMPLES);
    dlm_model_free(model);
}

/* Without weights every token is as likely as any other, the end token too. */
TEST(only_the_last_window_ends) {
    enum { N = 45, SAMPLES = 300 };
    dlm_model *model = make(0);
    REQUIRE(model != NULL);
    const dlm_sample_options options = dlm_sample_defaults();
    size_t ends[N] = {0}, early = 0, late = 0, alike = 0;
    for (size_t s = 0; s < SAMPLES; s++) {
        int32_t ids[N];
        uint8_t fixed[N];
        dlm_error err;
        begin(ids, fixed, N, 0);
        REQUIRE_OK(dlm_sample_blocks(model, &options, 0, s, N, ids, fixed, NULL, &err), &err);
        for (size_t i = 0; i < N; i++) ends[i] += ids[i] == 3;
        for (size_t i = 0; i < LIMIT / 2; i++) alike += ids[LIMIT + i] == ids[LIMIT / 2 + LIMIT + i];
    }
    /* Windows begin at 0, 8, 16, 24 and 29; the last one writes from 40 on. */
    for (size_t i = 0; i < 40; i++) early += ends[i];
    for (size_t i = 40; i < N; i++) late += ends[i];
    CHECK_INT_EQ(early, 0);
    CHECK(late > 0);
    CHECK(alike < SAMPLES); /* each block draws from streams of its own: about 300 * 8 / 265 */
    dlm_model_free(model);
}

/* What stands before the context makes no difference, what stands in it does. */
TEST(context_is_what_is_seen) {
    enum { N = 48, GIVEN = 40 };
    dlm_model *model = make(0.6);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    int32_t ids[3][N];
    uint8_t fixed[N];
    dlm_error err;
    for (size_t c = 0; c < 3; c++) {
        begin(ids[c], fixed, N, GIVEN);
        if (c == 1) ids[c][N - LIMIT - 1] = 99;
        if (c == 2) ids[c][N - LIMIT] = 99;
        REQUIRE_OK(dlm_sample_blocks(model, &options, 4, 0, N, ids[c], fixed, NULL, &err), &err);
    }
    CHECK_MEM_EQ(ids[1] + GIVEN, ids[0] + GIVEN, (N - GIVEN) * sizeof **ids);
    CHECK(memcmp(ids[2] + GIVEN, ids[0] + GIVEN, (N - GIVEN) * sizeof **ids) != 0);
    dlm_model_free(model);
}

/* ---- callbacks ---------------------------------------------------------------------------------------- */

typedef struct watcher {
    size_t calls, step, forwards, masked, stop_at;
    bool meddles;
} watcher;

static bool look(void *user, const dlm_sample_step *step) {
    watcher *w = user;
    size_t masked = 0;
    CHECK_INT_EQ(step->n, 1);
    CHECK_INT_EQ(step->tries, 1);
    CHECK_INT_EQ(step->offsets[0], 0);
    CHECK_INT_EQ(step->offsets[1], 40);
    CHECK_INT_EQ(step->step, w->calls == 0 ? 0 : w->step + 1);
    CHECK(step->steps >= step->step);
    CHECK(step->forwards >= w->forwards);
    for (size_t i = 0; i < 40; i++) {
        masked += step->ids[i] == step->mask_id;
        CHECK_INT_EQ(step->fixed[i], i < 5);
        if (step->ids[i] == step->mask_id) CHECK_CLOSE(step->confidence[i], 0, 0);
        if (i < 5) CHECK_CLOSE(step->confidence[i], 1, 0);
        if (i >= 5 && step->ids[i] != step->mask_id) CHECK(step->confidence[i] > 0);
    }
    CHECK(w->calls == 0 || masked <= w->masked);
    w->step = step->step;
    w->forwards = step->forwards;
    w->masked = masked;
    w->calls++;
    if (w->meddles) {
        step->ids[2] = 200;                                     /* fixed */
        if (step->ids[20] != step->mask_id) step->ids[6] = 201; /* written long ago */
        step->ids[35] =
            step->ids[20] != step->mask_id && step->ids[35] != step->mask_id ? 202 : step->ids[35];
    }
    return w->stop_at > 0 && w->calls == w->stop_at;
}

TEST(the_callback_sees_the_whole_text) {
    enum { N = 40 };
    dlm_model *model = make(0.4);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    int32_t ids[N], again[N];
    uint8_t fixed[N];
    dlm_error err;
    watcher w = {0};
    options.on_step = look;
    options.user = &w;
    size_t forwards;
    begin(ids, fixed, N, 5);
    REQUIRE_OK(dlm_sample_blocks(model, &options, 0, 0, N, ids, fixed, &forwards, &err), &err);
    CHECK_INT_EQ(w.masked, 0);
    CHECK_INT_EQ(w.forwards, forwards);
    const size_t calls = w.calls;

    w = (watcher){.meddles = true};
    begin(again, fixed, N, 5);
    REQUIRE_OK(dlm_sample_blocks(model, &options, 0, 0, N, again, fixed, &forwards, &err), &err);
    CHECK_MEM_EQ(again, ids, 35 * sizeof *ids); /* what lies outside the window is put back */
    CHECK_INT_EQ(again[35], 202);

    w = (watcher){.stop_at = calls - 2};
    begin(again, fixed, N, 5);
    REQUIRE_OK(dlm_sample_blocks(model, &options, 0, 0, N, again, fixed, &forwards, &err), &err);
    CHECK_INT_EQ(w.calls, calls - 2);
    CHECK(w.masked > 0);
    dlm_model_free(model);
}

typedef struct counter {
    size_t step, masked, most;
} counter;

static bool count_reveals(void *user, const dlm_sample_step *step) {
    counter *c = user;
    size_t masked = 0;
    for (size_t i = 0; i < 100; i++) masked += step->ids[i] == step->mask_id;
    if (step->step > 4 && c->masked - masked > c->most) c->most = c->masked - masked;
    c->step = step->step;
    c->masked = masked;
    return false;
}

/* Of twelve blocks each takes its four steps; those after the first reveal two tokens in each. */
TEST(steps_of_each_block) {
    enum { N = 100 };
    dlm_model *model = make(0.4);
    REQUIRE(model != NULL);
    static const dlm_order orders[] = {DLM_ORDER_CONFIDENCE, DLM_ORDER_RANDOM, DLM_ORDER_LEFT_TO_RIGHT};
    for (size_t o = 0; o < 3; o++) {
        dlm_sample_options options = dlm_sample_defaults();
        int32_t ids[N];
        uint8_t fixed[N];
        dlm_error err;
        counter c = {0};
        size_t forwards;
        options.order = orders[o];
        options.steps = 4;
        options.on_step = count_reveals;
        options.user = &c;
        begin(ids, fixed, N, 0);
        REQUIRE_OK(dlm_sample_blocks(model, &options, 0, 0, N, ids, fixed, &forwards, &err), &err);
        CHECK_INT_EQ(forwards, 48);
        CHECK_INT_EQ(c.step, 48);
        CHECK_INT_EQ(c.most, 2);
        CHECK_INT_EQ(c.masked, 0);
        options.steps = 7;
        options.reveals_per_step = 3;
        CHECK_STATUS(dlm_sample_blocks(model, &options, 0, 0, N, ids, fixed, NULL, &err), DLM_ARGUMENT, &err);
    }
    dlm_model_free(model);
}

/* Even positions: only token 50; and the ids are those of the whole text. */
static void even(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed) {
    const int32_t *whole = user;
    CHECK_INT_EQ(sequence, 0);
    CHECK(ids == whole);
    if (position % 2 == 0)
        for (int32_t i = 0; i < 268; i++) allowed[i] = i == 50;
}

TEST(the_allow_callback_is_told_places_in_the_whole_text) {
    enum { N = 43 };
    dlm_model *model = make(0.4);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    int32_t ids[N];
    uint8_t fixed[N];
    dlm_error err;
    options.allow = even;
    options.allow_user = ids;
    begin(ids, fixed, N, 0);
    REQUIRE_OK(dlm_sample_blocks(model, &options, 7, 0, N, ids, fixed, NULL, &err), &err);
    for (size_t i = 0; i < N; i += 2) CHECK_INT_EQ(ids[i], 50);
    dlm_model_free(model);
}

TEST(the_time_is_shared_by_the_blocks) {
    enum { N = 43 };
    dlm_model *model = make(0.4);
    REQUIRE(model != NULL);
    dlm_sample_options options = dlm_sample_defaults();
    int32_t ids[N];
    uint8_t fixed[N];
    dlm_error err;
    size_t forwards;
    options.max_seconds = 1e-6;
    begin(ids, fixed, N, 0);
    REQUIRE_OK(dlm_sample_blocks(model, &options, 0, 0, N, ids, fixed, &forwards, &err), &err);
    for (size_t i = 0; i < N; i++) CHECK(ids[i] != 2);
    CHECK(forwards <= 10); /* two a block, if that */
    dlm_model_free(model);
}

TEST(arguments_out_of_range) {
    dlm_model *model = make(0);
    REQUIRE(model != NULL);
    const dlm_sample_options options = dlm_sample_defaults();
    int32_t ids[40];
    uint8_t fixed[40];
    dlm_error err;
    begin(ids, fixed, 40, 20);
    CHECK_STATUS(dlm_sample_blocks(model, &options, LIMIT, 0, 40, ids, fixed, NULL, &err), DLM_ARGUMENT,
                 &err);
    CHECK_SAYS(&err, "a context of 16 tokens leaves no room to write in the 16");
    ids[0] = 268;
    CHECK_STATUS(dlm_sample_blocks(model, &options, 0, 0, 40, ids, fixed, NULL, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "position 0 is token 268, the vocabulary has 268");
    dlm_model_free(model);
}
