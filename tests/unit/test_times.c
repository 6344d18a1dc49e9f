/* Passes that make less than all: modulations kept in a table, one for sequences of one time, and the last
 * block at the rows asked for alone. Each against a pass that makes everything, bit for bit on the plain
 * loops, in bfloat16 and in 8 bits also by own products, and within the rounding of a product elsewhere. */
#include "network_fixture.h"

#include "compute/compute.h"

enum { LONGEST = 12, SEQUENCES = 5, MOST = SEQUENCES * LONGEST };

static dlm_model *adaln_model(size_t hidden_size, dlm_precision precision) {
    const dlm_config config = {.vocab_size = 13,
                               .max_seq_len = LONGEST,
                               .hidden_size = hidden_size,
                               .depth = 3,
                               .num_heads = 2,
                               .mlp_ratio = 2,
                               .time = DLM_TIME_ADALN,
                               .position = DLM_POSITION_BOTH};
    return fixture_random(&config, precision, 0.3F);
}

/* A batch of 1 to SEQUENCES sequences of any lengths; times of a few values. */
typedef struct drawn {
    size_t offsets[SEQUENCES + 1];
    int32_t ids[MOST], all[MOST], some[MOST];
    float times[SEQUENCES];
    size_t R;
} drawn;

static dlm_batch draw_batch(drawn *d, dlm_rng *rng) {
    const size_t S = 1 + dlm__rng_below(rng, SEQUENCES);
    d->R = 0;
    for (size_t s = 0; s < S; s++) {
        d->offsets[s + 1] = d->offsets[s] + 1 + dlm__rng_below(rng, LONGEST);
        d->times[s] = (float)dlm__rng_below(rng, 40) / 40;
    }
    for (size_t t = 0; t < d->offsets[S]; t++) {
        d->ids[t] = (int32_t)dlm__rng_below(rng, 13);
        d->all[t] = (int32_t)t;
        if (dlm__rng_below(rng, 3) == 0) d->some[d->R++] = (int32_t)t;
    }
    return (dlm_batch){{S, d->offsets}, d->ids, d->times, d->R, d->some};
}

static dlm_workspace *make_workspace(const dlm_model *model, dlm_compute *compute, size_t times,
                                     bool training) {
    const dlm_workspace_size size = {
        .tokens = MOST, .sequences = SEQUENCES, .rows = MOST, .training = training, .times = times};
    dlm_workspace *workspace = NULL;
    dlm_error err;
    CHECK_OK(dlm__workspace_create(model->layout, model->network.type, compute, size, &workspace, &err),
             &err);
    return workspace;
}

/* Random batches in turn through workspaces without a table, with one that holds all times, and with one so
 * small that it forgets; against each batch's logits of all rows in a workspace for training, which shares
 * nothing. */
static void shared(dlm_compute *compute, const char *isa, dlm_precision precision, double tolerance) {
    enum { V = 13, PASSES = 60 };
    static float whole[MOST * V], got[MOST * V];
    static const size_t times[] = {0, 64, 16, 1};
    enum { KINDS = sizeof times / sizeof *times };
    dlm_model *model = adaln_model(precision == DLM_PRECISION_F32 ? 20 : 32, precision);
    REQUIRE(model != NULL);
    dlm_workspace *plain = make_workspace(model, compute, 0, true), *made[KINDS];
    for (size_t k = 0; k < KINDS; k++) made[k] = make_workspace(model, compute, times[k], false);
    dlm_rng rng = dlm__rng(2, DLM_RNG_TEST, 0, 0);
    for (int pass = 0; pass < PASSES; pass++) {
        drawn d = {0};
        dlm_error err;
        const dlm_batch some = draw_batch(&d, &rng);
        dlm_batch all = some;
        all.rows = d.all;
        all.R = d.offsets[some.seg.n];
        CHECK_OK(dlm__forward(plain, &model->network, &all, whole, &err), &err);
        const float expected[] = {d.times[0], (float)pass / 40, 0.5F, 0.025F, 0.975F};
        for (size_t k = 0; k < KINDS; k++) {
            check_context("%s, precision %d, pass %d, table of %zu times", isa, (int)precision, pass,
                          times[k]);
            dlm__workspace_expect(made[k], (size_t)pass % 5, expected);
            CHECK_OK(dlm__forward(made[k], &model->network, &some, got, &err), &err);
            for (size_t r = 0; r < d.R; r++)
                CHECK_ALL_CLOSE(got + r * V, whole + (size_t)d.some[r] * V, V, tolerance);
        }
    }
    for (size_t k = 0; k < KINDS; k++) dlm__workspace_free(made[k]);
    dlm__workspace_free(plain);
    dlm_model_free(model);
}

/* The plain loops and the library's own products add up each row in one order, however many there are. In
 * bfloat16 and in 8 bits the last bits by which oneDNN's may differ can grow to a step of these: there only
 * what is the same to the bit is held to it. */
static void shared_in_all(dlm_compute *compute, const char *isa) {
    const bool plain = strcmp(isa, "reference") == 0;
    shared(compute, isa, DLM_PRECISION_F32, plain ? 0 : 2e-5);
    if (!plain && (!dlm__bf16_panels() || strcmp(isa, dlm_instruction_set()) != 0)) return;
    shared(compute, isa, DLM_PRECISION_BF16, 0);
    shared(compute, isa, DLM_PRECISION_INT8, 0);
}

TEST(what_is_shared_changes_nothing) {
    const char *isa;
    for (size_t i = 0; (isa = dlm__isa_name(i)) != NULL; i++)
        if (dlm__isa_available(isa)) with_compute(shared_in_all, isa, isa, 1);
}
