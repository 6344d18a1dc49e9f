/* Global batches: every recipe's lengths, masks, weights and passes, checked against the windows that they
 * were drawn from. */
#include "check.h"

#include "train/batch.h"
#include "training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEQ_LEN = 24, DOCUMENTS = 53, LONGEST = 60, SEED = 7 };

typedef struct source {
    dlm_data *data;
    dlm_windows windows;
} source;

static bool open_source(bool original, source *s) {
    dlm_error err;
    *s = (source){0};
    const char *dir = make_data(3, DOCUMENTS, LONGEST, SEQ_LEN);
    return dir != NULL && CHECK_OK(dlm_data_open(dir, &s->data, &err), &err) &&
           CHECK_OK(dlm__windows_create(s->data, SEQ_LEN, !original, original, DLM_PART_ALL, 1, 0, 0,
                                        &s->windows, &err),
                    &err);
}

static void close_source(source *s) {
    dlm__windows_free(&s->windows);
    dlm_data_close(s->data);
}

static dlm_batch_options options_of(dlm_recipe recipe) {
    return (dlm_batch_options){.recipe = recipe,
                               .weight = recipe == DLM_RECIPE_DEFAULT ? DLM_WEIGHT_ELBO : DLM_WEIGHT_UNIFORM,
                               .schedule = DLM_SCHEDULE_COSINE,
                               .seq_len = SEQ_LEN,
                               .sequences = 10,
                               .micro_tokens = 100,
                               .tail_share = recipe == DLM_RECIPE_DEFAULT ? 0.1 : 0,
                               .seed = SEED,
                               .mask_id = 2,
                               .pad_id = 0,
                               .end_id = 3};
}

static dlm_global_batch *make(const dlm_batch_options *options, const source *s) {
    dlm_error err;
    dlm_global_batch *batch = NULL;
    (void)CHECK_OK(dlm__global_batch_create(options, s->data, &s->windows, &batch, &err), &err);
    return batch;
}

/* Checks passes against sequences: sizes, offsets, ids, masks, targets, weights, t. Returns the weights' sum.
 */
static double check_passes(const dlm_global_batch *batch) {
    const dlm_batch_options *o = &batch->options;
    dlm_workspace_size largest = dlm__global_batch_largest(o);
    double sum = 0;
    size_t b = 0, tokens = 0;
    for (size_t m = 0; m < batch->n_micro; m++) {
        const dlm_micro_batch *pass = &batch->micro[m];
        dlm_segments seg = pass->batch.seg;
        size_t T = seg.offsets[seg.n], row = 0;
        CHECK(T <= o->micro_tokens || seg.n == 1);
        CHECK(T <= largest.tokens && seg.n <= largest.sequences && pass->batch.R <= largest.rows);
        if (m + 1 < batch->n_micro) CHECK(T + batch->drawn[b + seg.n].n > o->micro_tokens);
        for (size_t s = 0; s < seg.n; s++, b++) {
            const dlm_drawn *d = &batch->drawn[b];
            const dlm_window *window = &batch->windows->list[d->window];
            int32_t ids[SEQ_LEN];
            (void)dlm__window_ids(batch->data, window, ids);
            for (size_t i = window->n; i < d->n; i++)
                ids[i] = o->recipe == DLM_RECIPE_ORIGINAL ? o->pad_id : o->end_id;
            CHECK_INT_EQ(seg.offsets[s + 1] - seg.offsets[s], d->n);
            CHECK_CLOSE(pass->batch.times[s], d->t, 1e-7);
            size_t masked = 0;
            for (size_t i = 0; i < d->n; i++) {
                size_t at = seg.offsets[s] + i;
                bool in_rows = row < pass->batch.R && (size_t)pass->batch.rows[row] == at;
                CHECK_INT_EQ(pass->batch.ids[at], in_rows ? o->mask_id : ids[i]);
                if (!in_rows) continue;
                CHECK(i < d->real);
                CHECK_INT_EQ(pass->targets[row], ids[i]);
                CHECK_CLOSE(pass->weights[row], d->scale, 1e-7 * d->scale);
                sum += d->scale;
                row++;
                masked++;
            }
            CHECK_INT_EQ(masked, d->masked);
            tokens += d->real;
        }
        CHECK_INT_EQ(row, pass->batch.R);
    }
    CHECK_INT_EQ(b, o->sequences);
    CHECK_INT_EQ(tokens, batch->tokens);
    return sum;
}

/* How often a sequence of n has k masked positions, from the formula. */
static double chance_of(dlm_schedule schedule, size_t n, size_t k) {
    const double above = (double)k / (double)n, below = (double)(k - 1) / (double)n;
    return schedule == DLM_SCHEDULE_LINEAR ? above - below : (acos(1 - above) - acos(1 - below)) / acos(0);
}

static void check_default_recipe(dlm_schedule schedule) {
    source s;
    dlm_batch_options options = options_of(DLM_RECIPE_DEFAULT);
    options.schedule = schedule;
    dlm_global_batch *batch = open_source(false, &s) ? make(&options, &s) : NULL;
    REQUIRE(batch != NULL);
    size_t moved = 0;
    double weights = 0, tokens = 0;
    for (uint64_t step = 0; step < 400; step++) {
        check_context("schedule %d, step %d", (int)schedule, (int)step);
        dlm__global_batch_draw(batch, step);
        double sum = check_passes(batch);
        /* Each sequence's mean counts n / sum n on the linear schedule; on the other it does on average. */
        if (schedule == DLM_SCHEDULE_LINEAR) CHECK_CLOSE(sum, 1, 1e-12);
        weights += sum * (double)batch->tokens;
        tokens += (double)batch->tokens;
        bool dealt[10] = {false};
        for (size_t b = 0; b < options.sequences; b++) {
            const dlm_drawn *d = &batch->drawn[b];
            CHECK(d->masked >= 1 && d->masked <= d->n && d->real == d->n);
            CHECK_CLOSE(d->t, dlm__sigma_inverse(options.schedule, (double)d->masked / (double)d->n), 0);
            CHECK_CLOSE(d->scale * (double)d->masked * (double)batch->tokens *
                            chance_of(schedule, d->n, d->masked),
                        1, 1e-9);
            /* k = 1 + floor(n sigma(t)), t in the sequence's stratum, which no other sequence has. */
            uint32_t stratum = batch->strata[b];
            CHECK(stratum < 10 && !dealt[stratum]);
            dealt[stratum] = true;
            double from = stratum / 10.0, to = (stratum + 1) / 10.0;
            if (schedule == DLM_SCHEDULE_COSINE) {
                from = 1 - cos(acos(0) * from);
                to = 1 - cos(acos(0) * to);
            }
            CHECK((double)d->masked > (double)d->n * from - 1e-9);
            CHECK((double)(d->masked - 1) < (double)d->n * to + 1e-9);
            moved += stratum != b;
        }
    }
    CHECK_CLOSE(weights / tokens, 1, 0.02);
    CHECK_CLOSE(moved, 3600, 5 * sqrt(360)); /* one of ten stays where it is, by chance */
    dlm__global_batch_free(batch);
    close_source(&s);
}

TEST(default_recipe) {
    check_default_recipe(DLM_SCHEDULE_LINEAR);
    check_default_recipe(DLM_SCHEDULE_COSINE);
}

static void check_counts(dlm_schedule schedule) {
    source s;
    dlm_batch_options options = options_of(DLM_RECIPE_DEFAULT);
    options.sequences = 7;
    options.schedule = schedule;
    dlm_global_batch *batch = open_source(false, &s) ? make(&options, &s) : NULL;
    REQUIRE(batch != NULL);
    double chi = 0;
    size_t counts[SEQ_LEN] = {0}, n = 0;
    for (uint64_t step = 0; step < 4000; step++) {
        dlm__global_batch_draw(batch, step);
        for (size_t b = 0; b < 7; b++) {
            if (batch->drawn[b].n != SEQ_LEN) continue;
            counts[batch->drawn[b].masked - 1]++;
            n++;
        }
    }
    for (size_t k = 0; k < SEQ_LEN; k++) {
        double expected = (double)n * chance_of(schedule, SEQ_LEN, k + 1);
        chi += ((double)counts[k] - expected) * ((double)counts[k] - expected) / expected;
    }
    CHECK(n > 5000 && chi < 50); /* 23 degrees of freedom: above 49.7 once in a thousand */
    dlm__global_batch_free(batch);
    close_source(&s);
}

TEST(counts_have_their_chances) {
    check_counts(DLM_SCHEDULE_LINEAR);
    check_counts(DLM_SCHEDULE_COSINE);
}

TEST(tails) {
    source s;
    dlm_batch_options options = options_of(DLM_RECIPE_DEFAULT);
    dlm_global_batch *batch = open_source(false, &s) ? make(&options, &s) : NULL;
    REQUIRE(batch != NULL);
    size_t could = 0, did = 0, full = 0, ends = 0;
    double place = 0;
    for (uint64_t step = 0; step < 2000; step++) {
        dlm__global_batch_draw(batch, step);
        for (size_t b = 0; b < options.sequences; b++) {
            const dlm_drawn *d = &batch->drawn[b];
            const dlm_window *w = &s.windows.list[d->window];
            bool room = w->ends && w->n < SEQ_LEN;
            could += room;
            if (d->n == w->n) continue;
            CHECK(room && d->n > w->n && d->n <= SEQ_LEN);
            did++;
            full += d->n == SEQ_LEN;
            /* Uniform on n + 1 .. L: its place, in steps of 1/m, has mean 1/2. */
            double m = (double)(SEQ_LEN - w->n);
            place += ((double)(d->n - w->n) - 0.5) / m;
        }
        for (size_t m = 0; m < batch->n_micro; m++) {
            const dlm_micro_batch *pass = &batch->micro[m];
            for (size_t r = 0; r < pass->batch.R; r++) ends += pass->targets[r] == options.end_id;
        }
    }
    double share = (double)did / (double)could;
    CHECK_CLOSE(share, 0.1, 5 * sqrt(0.09 / (double)could));
    CHECK_CLOSE(place / (double)did, 0.5, 5 * sqrt(1.0 / 12 / (double)did));
    CHECK(full > 0 && ends > did);
    dlm__global_batch_free(batch);
    close_source(&s);
}

/* Other weights: w(t) / sigma'(t) times that of `elbo`. */
TEST(weights_of_the_default_recipe) {
    static const dlm_loss_weight weights[] = {DLM_WEIGHT_FLAT, DLM_WEIGHT_UNIFORM, DLM_WEIGHT_INV_SIGMA,
                                              DLM_WEIGHT_SIGMA};
    source s;
    bool open = open_source(false, &s);
    for (size_t i = 0; open && i < 8; i++) {
        dlm_batch_options options = options_of(DLM_RECIPE_DEFAULT);
        options.weight = weights[i / 2];
        options.schedule = i % 2 == 0 ? DLM_SCHEDULE_COSINE : DLM_SCHEDULE_LINEAR;
        dlm_global_batch *batch = make(&options, &s);
        REQUIRE(batch != NULL);
        dlm__global_batch_draw(batch, 1);
        (void)check_passes(batch);
        for (size_t b = 0; b < options.sequences; b++) {
            const dlm_drawn *d = &batch->drawn[b];
            double w = dlm__loss_weight(options.weight, options.schedule, d->t);
            double chance = chance_of(options.schedule, d->n, d->masked);
            double want = w / dlm__sigma_slope(options.schedule, d->t) /
                          ((double)batch->tokens * (double)d->masked * chance);
            CHECK_CLOSE(d->scale, want, 1e-9 * want);
        }
        dlm__global_batch_free(batch);
    }
    close_source(&s);
}

TEST(original_recipe) {
    source s;
    dlm_batch_options options = options_of(DLM_RECIPE_ORIGINAL);
    options.weight = DLM_WEIGHT_INV_SIGMA;
    dlm_global_batch *batch = open_source(true, &s) ? make(&options, &s) : NULL;
    REQUIRE(batch != NULL);
    CHECK_INT_EQ(s.windows.n, DOCUMENTS);
    double t_sum = 0, expected = 0, variance = 0, masked = 0;
    for (uint64_t step = 0; step < 400; step++) {
        dlm__global_batch_draw(batch, step);
        (void)check_passes(batch);
        CHECK_INT_EQ(batch->n_micro, 3); /* four of 24 in 100 */
        for (size_t b = 0; b < options.sequences; b++) {
            const dlm_drawn *d = &batch->drawn[b];
            CHECK(d->n == SEQ_LEN && d->real == s.windows.list[d->window].n && d->t >= 1e-3 && d->t < 1);
            double sigma = dlm__sigma(options.schedule, d->t);
            t_sum += d->t;
            expected += sigma * (double)d->real;
            variance += sigma * (1 - sigma) * (double)d->real;
            masked += (double)d->masked;
            double weight = fmin(1 / sigma, 10) / (double)options.sequences;
            CHECK_CLOSE(d->scale * (double)d->masked, d->masked > 0 ? weight : 0, 1e-12);
        }
    }
    CHECK_CLOSE(t_sum / 4000, 0.5, 5 * sqrt(1.0 / 12 / 4000));
    CHECK_CLOSE(masked, expected, 5 * sqrt(variance));
    dlm__global_batch_free(batch);
    close_source(&s);
}

TEST(an_epoch_reads_each_window_once) {
    source s;
    dlm_batch_options options = options_of(DLM_RECIPE_DEFAULT);
    options.sequences = 9;
    dlm_global_batch *batch = open_source(false, &s) ? make(&options, &s) : NULL;
    REQUIRE(batch != NULL);
    enum { EPOCHS = 3 };
    size_t n = s.windows.n, at = 0, same_place = 0;
    uint32_t *seen = calloc(n, sizeof *seen), *first = calloc(n, sizeof *first);
    if (seen == NULL || first == NULL) abort();
    CHECK(n % options.sequences != 0); /* batches go over the border of epochs */
    for (uint64_t step = 0; at < EPOCHS * n; step++) {
        dlm__global_batch_draw(batch, step);
        CHECK_INT_EQ(batch->epoch, at / n);
        CHECK_INT_EQ(batch->place, at % n);
        for (size_t b = 0; b < options.sequences && at < EPOCHS * n; b++, at++) {
            uint32_t window = batch->drawn[b].window;
            CHECK_INT_EQ(seen[window], at / n);
            seen[window]++;
            if (at < n)
                first[at] = window;
            else
                same_place += first[at % n] == window;
        }
    }
    CHECK(same_place < 20); /* 2 by chance */
    free(seen);
    free(first);
    dlm__global_batch_free(batch);
    close_source(&s);
}

/* Two batches hold the same sequences, however they are split into passes. */
static void check_same(const dlm_global_batch *a, const dlm_global_batch *b) {
    size_t n = a->options.sequences;
    for (size_t i = 0; i < n; i++) {
        CHECK_INT_EQ(a->drawn[i].window, b->drawn[i].window);
        CHECK_INT_EQ(a->drawn[i].n, b->drawn[i].n);
        CHECK_INT_EQ(a->drawn[i].masked, b->drawn[i].masked);
    }
    CHECK_INT_EQ(a->tokens, b->tokens);
    CHECK_MEM_EQ(a->ids, b->ids, a->tokens * sizeof *a->ids);
    CHECK_MEM_EQ(a->times, b->times, n * sizeof *a->times);
    size_t rows = 0;
    for (size_t i = 0; i < n; i++) rows += a->drawn[i].masked;
    CHECK_MEM_EQ(a->targets, b->targets, rows * sizeof *a->targets);
    CHECK_MEM_EQ(a->weights, b->weights, rows * sizeof *a->weights);
}

TEST(draws_depend_on_the_step_alone) {
    source s;
    dlm_batch_options options = options_of(DLM_RECIPE_DEFAULT), small = options, other = options;
    small.micro_tokens = 1;
    other.seed++;
    bool open = open_source(false, &s);
    dlm_global_batch *in_order = open ? make(&options, &s) : NULL;
    dlm_global_batch *alone = open ? make(&small, &s) : NULL;
    dlm_global_batch *reseeded = open ? make(&other, &s) : NULL;
    REQUIRE(in_order != NULL && alone != NULL && reseeded != NULL);
    for (uint64_t step = 0; step <= 40; step++) dlm__global_batch_draw(in_order, step);
    dlm__global_batch_draw(alone, 40);
    CHECK_INT_EQ(alone->n_micro, options.sequences);
    (void)check_passes(alone);
    check_same(in_order, alone);
    dlm__global_batch_draw(reseeded, 40);
    CHECK(memcmp(reseeded->ids, alone->ids, alone->tokens * sizeof *alone->ids) != 0);
    dlm__global_batch_draw(alone, 39);
    CHECK(memcmp(in_order->times, alone->times, options.sequences * sizeof *alone->times) != 0);
    dlm__global_batch_free(in_order);
    dlm__global_batch_free(alone);
    dlm__global_batch_free(reseeded);
    close_source(&s);
}

/* ---- shares of ranks ---------------------------------------------------------------------------------- */

/* The masked rows of a sequence in its order: weights and targets, wherever in the passes it is. */
static size_t rows_of(const dlm_global_batch *batch, size_t which, float *weights, int32_t *targets) {
    size_t b = 0;
    for (size_t m = 0; m < batch->n_micro; m++) {
        const dlm_micro_batch *pass = &batch->micro[m];
        size_t row = 0;
        for (size_t s = 0; s < pass->batch.seg.n; s++, b++) {
            while (batch->drawn[b].rank != batch->options.rank) b++;
            const size_t n = batch->drawn[b].masked;
            if (b == which) {
                memcpy(weights, pass->weights + row, n * sizeof *weights);
                memcpy(targets, pass->targets + row, n * sizeof *targets);
                return n;
            }
            row += n;
        }
    }
    return SIZE_MAX;
}

/* Every sequence is one rank's, who does with it what a single rank would; no rank has more positions than
 * another and one sequence. */
static void check_shares(const source *s, dlm_recipe recipe, size_t ranks) {
    dlm_batch_options options = options_of(recipe);
    dlm_global_batch *whole = make(&options, s), *shares[10];
    options.ranks = ranks;
    for (size_t r = 0; r < ranks; r++) {
        options.rank = r;
        shares[r] = make(&options, s);
        REQUIRE(shares[r] != NULL);
    }
    for (uint64_t step = 0; step < 40; step++) {
        size_t loads[10] = {0}, most = 0, least = SIZE_MAX, longest = 0;
        dlm__global_batch_draw(whole, step);
        for (size_t r = 0; r < ranks; r++) dlm__global_batch_draw(shares[r], step);
        for (size_t b = 0; b < options.sequences; b++) {
            const dlm_drawn *want = &whole->drawn[b];
            const size_t owner = shares[0]->drawn[b].rank;
            REQUIRE(owner < ranks);
            for (size_t r = 0; r < ranks; r++) {
                const dlm_drawn *d = &shares[r]->drawn[b];
                CHECK(d->rank == owner && d->n == want->n && d->real == want->real &&
                      d->window == want->window);
            }
            CHECK(memcmp(&shares[owner]->drawn[b].t, &want->t, sizeof want->t) == 0);
            CHECK(shares[owner]->drawn[b].scale == want->scale);
            float weights[2][SEQ_LEN];
            int32_t targets[2][SEQ_LEN];
            const size_t n = rows_of(whole, b, weights[0], targets[0]);
            REQUIRE(n <= SEQ_LEN);
            CHECK_INT_EQ(rows_of(shares[owner], b, weights[1], targets[1]), n);
            CHECK_MEM_EQ(weights[1], weights[0], n * sizeof(float));
            CHECK_MEM_EQ(targets[1], targets[0], n * sizeof(int32_t));
            loads[owner] += want->n;
            if (want->n > longest) longest = want->n;
        }
        for (size_t r = 0; r < ranks; r++) {
            CHECK_INT_EQ(shares[r]->tokens, whole->tokens);
            if (loads[r] > most) most = loads[r];
            if (loads[r] < least) least = loads[r];
        }
        CHECK(least > 0 && most - least <= longest);
    }
    for (size_t r = 0; r < ranks; r++) dlm__global_batch_free(shares[r]);
    dlm__global_batch_free(whole);
}

TEST(ranks_share_the_batch) {
    for (int original = 0; original < 2; original++) {
        source s;
        REQUIRE(open_source(original != 0, &s));
        for (size_t ranks = 1; ranks <= 10; ranks += ranks < 4 ? 1 : 3) {
            check_context("recipe %d, %zu ranks", original, ranks);
            check_shares(&s, original ? DLM_RECIPE_ORIGINAL : DLM_RECIPE_DEFAULT, ranks);
        }
        close_source(&s);
    }
}
