/* Collectives, on ranks that are threads and, under mpirun (tests/mpi.sh), on processes; and how parameters
 * are divided among them. */
#include "check.h"

#include "ranks_fixture.h"

#include "train/pieces.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*rank_body)(void *context, dlm_ranks *ranks, thread_meeting *meeting);

/* The ranks of mpirun; opened once, since MPI can be. Alone in other runs. */
static dlm_ranks *processes;

static void close_processes(void) {
    dlm_ranks_close(processes);
}

static dlm_ranks *started_together(void) {
    dlm_error err;
    if (processes != NULL) return processes;
    if (!CHECK_OK(dlm_ranks_open(&processes, &err), &err)) exit(1);
    (void)atexit(close_processes);
    return processes;
}

/* On 1 to 6 threads, and on the processes that there are. */
static void on_all(rank_body body, void *context) {
    for (size_t n = 1; n <= 6; n++) {
        check_context("%zu ranks", n);
        on_ranks(n, body, context);
    }
    check_context("processes");
    body(context, started_together(), NULL);
    body(context, NULL, NULL);
}

/* ---- small things ------------------------------------------------------------------------------------- */

static void small_things(void *context, dlm_ranks *ranks, thread_meeting *meeting) {
    (void)context;
    (void)meeting;
    dlm_error err;
    const size_t N = dlm_ranks_size(ranks), r = dlm_ranks_rank(ranks);
    uint16_t mine = (uint16_t)(7 * r + 3), *all = calloc(N, sizeof *all);
    REQUIRE(all != NULL);
    CHECK_OK(dlm__ranks_exchange(ranks, &mine, sizeof mine, all, &err), &err);
    for (size_t i = 0; i < N; i++) CHECK_INT_EQ(all[i], 7 * i + 3);
    free(all);
    /* Added by rank: 0.1 i + 1e16 is not associative. */
    double sums[3] = {0.1 * (double)r, r % 2 == 0 ? 1e16 : -1e16, 1}, want[3] = {0};
    for (size_t i = 0; i < N; i++) {
        want[0] += 0.1 * (double)i;
        want[1] += i % 2 == 0 ? 1e16 : -1e16;
        want[2] += 1;
    }
    CHECK_OK(dlm__ranks_sum(ranks, sums, 3, &err), &err);
    CHECK_MEM_EQ(sums, want, sizeof sums);
    int value = r == N / 2 ? 12 : -(int)r;
    CHECK_OK(dlm_ranks_max(ranks, &value, &err), &err);
    CHECK_INT_EQ(value, 12);
    CHECK(dlm_ranks_threads(ranks) >= 1);
}

TEST(small_things_go_round) {
    on_all(small_things, NULL);
}

/* A long text, in several messages. */
static void shared(void *context, dlm_ranks *ranks, thread_meeting *meeting) {
    (void)context;
    (void)meeting;
    const size_t n = ((size_t)5 << 19) + 13;
    unsigned char *bytes = malloc(n);
    dlm_error err;
    REQUIRE(bytes != NULL);
    for (size_t i = 0; i < n; i++) bytes[i] = dlm_ranks_rank(ranks) == 0 ? (unsigned char)(i * 31 >> 3) : 0;
    CHECK_OK(dlm__ranks_share(ranks, bytes, n, &err), &err);
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) wrong += bytes[i] != (unsigned char)(i * 31 >> 3);
    CHECK_INT_EQ(wrong, 0);
    free(bytes);
}

TEST(what_rank_0_shares) {
    on_all(shared, NULL);
}

static void failing(void *context, dlm_ranks *ranks, thread_meeting *meeting) {
    (void)context;
    (void)meeting;
    const size_t N = dlm_ranks_size(ranks), r = dlm_ranks_rank(ranks);
    dlm_error err = {0};
    CHECK_OK(dlm__ranks_agree(ranks, DLM_OK, &err), &err);
    for (size_t first = 0; first < N; first++) {
        dlm_status mine = DLM_OK;
        char want[100];
        if (r >= first) mine = dlm__fail(&err, r == first ? DLM_FORMAT : DLM_IO, "disk %zu is full", r);
        CHECK_STATUS(dlm__ranks_agree(ranks, mine, &err), DLM_FORMAT, &err);
        if (first == 0)
            (void)snprintf(want, sizeof want, "disk 0 is full");
        else
            (void)snprintf(want, sizeof want, "on rank %zu of %zu: disk %zu is full", first, N, first);
        CHECK_STR_EQ(err.message, want);
        CHECK_STATUS(dlm__ranks_agree(ranks, mine, NULL), DLM_FORMAT, NULL);
    }
}

TEST(the_first_failure_is_that_of_all) {
    on_all(failing, NULL);
}

/* ---- blocks ------------------------------------------------------------------------------------------- */

enum { PIECES = 23 };

/* Pieces of some floats, of none at all, and of several messages, dealt out by chance; rank 1 has none. */
static size_t make_pieces(size_t ranks, uint32_t seed, dlm_piece pieces[PIECES]) {
    dlm_rng rng = dlm__rng(seed, DLM_RNG_TEST, (uint32_t)ranks, 0);
    size_t total = 0;
    for (size_t i = 0; i < PIECES; i++) {
        const size_t n = i == 5 ? 0 : i == 3 ? 600001 : 1 + (size_t)dlm__rng_below(&rng, 900);
        size_t owner = (size_t)dlm__rng_below(&rng, ranks);
        if (ranks > 2 && owner == 1) owner = 2;
        pieces[i] = (dlm_piece){.first = total, .n = n, .rank = owner};
        total += n;
    }
    return total;
}

/* What rank r has at i. */
static float value_of(size_t r, size_t i) {
    return (float)((i * 2654435761U + r * 40503U) % 10007) / 997.0F - 5 + (float)r;
}

/* What the owner has to come to: its own, and those of the ranks behind it in their order. */
static float sum_of(size_t owner, size_t ranks, size_t i) {
    float sum = value_of(owner, i);
    for (size_t k = 1; k < ranks; k++) sum += value_of((owner + k) % ranks, i);
    return sum;
}

static void blocks(void *context, dlm_ranks *ranks, thread_meeting *meeting) {
    (void)meeting;
    const size_t N = dlm_ranks_size(ranks), r = dlm_ranks_rank(ranks);
    dlm_piece pieces[PIECES];
    dlm_error err;
    const size_t total = make_pieces(N, *(const uint32_t *)context, pieces);
    float *block = malloc(total * sizeof *block);
    REQUIRE(block != NULL);
    for (size_t i = 0; i < total; i++) block[i] = value_of(r, i);
    CHECK_OK(dlm__ranks_reduce(ranks, block, pieces, PIECES, &err), &err);
    size_t wrong = 0;
    for (size_t p = 0; p < PIECES; p++) {
        for (size_t i = pieces[p].first; i < pieces[p].first + pieces[p].n; i++) {
            const float want = pieces[p].rank == r ? sum_of(r, N, i) : value_of(r, i);
            wrong += memcmp(&block[i], &want, sizeof want) != 0;
        }
    }
    CHECK_INT_EQ(wrong, 0);
    CHECK_OK(dlm__ranks_collect(ranks, block, pieces, PIECES, &err), &err);
    for (size_t p = 0; p < PIECES; p++) {
        for (size_t i = pieces[p].first; i < pieces[p].first + pieces[p].n; i++) {
            const float want = sum_of(pieces[p].rank, N, i);
            wrong += memcmp(&block[i], &want, sizeof want) != 0;
        }
    }
    CHECK_INT_EQ(wrong, 0);
    free(block);
}

TEST(blocks_are_summed_in_one_order) {
    for (uint32_t seed = 0; seed < 2; seed++) on_all(blocks, &seed);
}

static void brought(void *context, dlm_ranks *ranks, thread_meeting *meeting) {
    (void)context;
    (void)meeting;
    const size_t N = dlm_ranks_size(ranks), r = dlm_ranks_rank(ranks), n = 300007;
    float *own = malloc(n * sizeof *own), *got = calloc(n, sizeof *got);
    dlm_error err;
    REQUIRE(own != NULL && got != NULL);
    for (size_t i = 0; i < n; i++) own[i] = value_of(r, i);
    for (size_t from = 0; from < N; from++) {
        CHECK_OK(dlm__ranks_bring(ranks, from, own, got, n, &err), &err);
        size_t wrong = 0;
        for (size_t i = 0; i < n; i++) wrong += r == 0 && got[i] != value_of(from, i);
        CHECK_INT_EQ(wrong, 0);
    }
    free(own);
    free(got);
}

TEST(rank_0_gets_what_is_brought) {
    on_all(brought, NULL);
}

/* ---- a rank that is gone ------------------------------------------------------------------------------ */

static void losing(void *context, dlm_ranks *ranks, thread_meeting *meeting) {
    (void)context;
    dlm_error err;
    double value = 1;
    CHECK(!dlm__ranks_lost(ranks));
    if (dlm_ranks_rank(ranks) == 2) {
        die(meeting, 2);
        return;
    }
    dlm_piece pieces[PIECES];
    const size_t total = make_pieces(4, 0, pieces);
    float *block = calloc(total, sizeof *block);
    REQUIRE(block != NULL);
    for (int again = 0; again < 2; again++) {
        CHECK_STATUS(dlm__ranks_reduce(ranks, block, pieces, PIECES, &err), DLM_NETWORK, &err);
        CHECK_STR_EQ(err.message, "rank 2 of 4 is gone");
        CHECK_STATUS(dlm__ranks_collect(ranks, block, pieces, PIECES, &err), DLM_NETWORK, &err);
        CHECK_STATUS(dlm__ranks_agree(ranks, DLM_OK, &err), DLM_NETWORK, &err);
        CHECK_STATUS(dlm__ranks_share(ranks, &value, sizeof value, &err), DLM_NETWORK, &err);
        CHECK_STATUS(dlm__ranks_sum(ranks, &value, 1, &err), DLM_NETWORK, &err);
        CHECK_STR_EQ(err.message, "rank 2 of 4 is gone");
    }
    CHECK(dlm__ranks_lost(ranks));
    free(block);
}

TEST(a_rank_that_is_gone) {
    on_ranks(4, losing, NULL);
}

/* ---- pieces ------------------------------------------------------------------------------------------- */

static dlm_layout *layout_of(dlm_time time, size_t C, size_t depth, size_t V) {
    const dlm_config config = {.vocab_size = V,
                               .max_seq_len = 50,
                               .hidden_size = C,
                               .depth = depth,
                               .num_heads = 2,
                               .mlp_ratio = 4,
                               .time = time};
    dlm_layout *layout = NULL;
    dlm_error err;
    (void)CHECK_OK(dlm__layout_create(&config, &layout, &err), &err);
    return layout;
}

/* Five steps of Newton-Schulz: X X^T, A A, B X. */
static double operations(const dlm_param *matrix) {
    const double a = (double)matrix->shape[0], b = (double)matrix->shape[1], k = fmin(a, b), K = fmax(a, b);
    return 5 * (2 * k * K * k + 2 * k * k * k + 2 * k * k * K);
}

/* No rank has more than an even share and one piece (Graham's bound). */
static void check_balance(const dlm_pieces *pieces, size_t ranks) {
    double loads[64] = {0}, all = 0, largest = 0, most = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        const double cost = dlm__piece_cost(pieces, i);
        if (pieces->matrices[i] != NULL) CHECK_CLOSE(cost, operations(pieces->matrices[i]), 1e-9 * cost);
        CHECK(cost > 0);
        loads[pieces->list[i].rank] += cost;
        all += cost;
        largest = fmax(largest, cost);
    }
    for (size_t r = 0; r < ranks; r++) most = fmax(most, loads[r]);
    CHECK(most <= all / (double)ranks + largest);
}

static void check_pieces(const dlm_layout *layout, dlm_optimizer optimizer, size_t ranks) {
    dlm_pieces pieces;
    dlm_error err;
    REQUIRE_OK(dlm__pieces_create(layout, optimizer, ranks, &pieces, &err), &err);
    size_t at = 0, matrices = 0, floats[64] = {0};
    for (size_t i = 0; i < pieces.n; i++) {
        const dlm_piece *piece = &pieces.list[i];
        CHECK(piece->first == at && piece->n > 0 && piece->n % 16 == 0 && piece->rank < ranks);
        at += piece->n;
        floats[piece->rank] += piece->n;
        if (pieces.matrices[i] == NULL) continue;
        CHECK(piece->first == pieces.matrices[i]->offset && piece->n >= pieces.matrices[i]->count);
        matrices++;
    }
    CHECK_INT_EQ(at, layout->total);
    size_t want = 0;
    for (size_t i = 0; i < layout->n; i++) want += dlm__muon_takes(&layout->params[i], optimizer);
    CHECK_INT_EQ(matrices, want);
    check_balance(&pieces, ranks);
    /* What AdamW takes alone can be shared evenly: within a sixteenth. */
    for (size_t r = 0; optimizer == DLM_ADAMW && r < ranks; r++)
        CHECK((double)floats[r] * (double)ranks > (double)layout->total * 0.7);
    dlm__pieces_free(&pieces);
}

TEST(parameters_are_divided) {
    dlm_layout *layouts[] = {layout_of(DLM_TIME_NONE, 64, 3, 300), layout_of(DLM_TIME_ADALN, 32, 2, 1000)};
    for (size_t l = 0; l < 2; l++) {
        REQUIRE(layouts[l] != NULL);
        for (size_t ranks = 1; ranks <= 64; ranks += ranks < 9 ? 1 : 11) {
            check_context("layout %zu, %zu ranks", l, ranks);
            check_pieces(layouts[l], DLM_MUON, ranks);
            check_pieces(layouts[l], DLM_ADAMW, ranks);
        }
        dlm__layout_free(layouts[l]);
    }
}

/* Alone, there is nothing to divide: what AdamW takes between two matrices is one piece. */
TEST(nothing_is_cut_for_one_rank) {
    dlm_layout *layout = layout_of(DLM_TIME_NONE, 64, 3, 300);
    dlm_pieces pieces;
    dlm_error err;
    REQUIRE(layout != NULL);
    REQUIRE_OK(dlm__pieces_create(layout, DLM_ADAMW, 1, &pieces, &err), &err);
    CHECK(pieces.n == 1 && pieces.list[0].n == layout->total);
    dlm__pieces_free(&pieces);
    REQUIRE_OK(dlm__pieces_create(layout, DLM_MUON, 1, &pieces, &err), &err);
    CHECK_INT_EQ(pieces.n, 2 * 3 * 4 + 1);
    dlm__pieces_free(&pieces);
    dlm__layout_free(layout);
}

/* ---- one of several that cannot join ------------------------------------------------------------------ */

TEST(how_many_were_started) {
    if (getenv("OMPI_COMM_WORLD_SIZE") != NULL) SKIP("this is started by mpirun");
    CHECK_INT_EQ(dlm__wire_started(), 1);
    CHECK(setenv("PMI_SIZE", "4", 1) == 0);
    CHECK_INT_EQ(dlm__wire_started(), 4);
    CHECK(setenv("PMI_SIZE", "x", 1) == 0);
    CHECK_INT_EQ(dlm__wire_started(), 1);
    CHECK(unsetenv("PMI_SIZE") == 0);
}
