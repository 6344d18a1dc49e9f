/* Training takes only the rows whose logits are wanted through the last block: loss and gradients against a
 * workspace that takes all positions through it. Logits by chunks, against passes of one chunk. And
 * workspaces that lend their memory between passes. */
#include "network_fixture.h"

#include "model/pass.h"

enum { V = 13, LONGEST = 40, SEQUENCES = 6, MOST = SEQUENCES * LONGEST };

static dlm_model *make_model(dlm_time time, dlm_position position, dlm_precision precision) {
    const dlm_config config = {.vocab_size = V,
                               .max_seq_len = LONGEST,
                               .hidden_size = 24,
                               .depth = 2,
                               .num_heads = 2,
                               .mlp_ratio = 3,
                               .time = time,
                               .position = position};
    /* Larger weights would magnify the rounding of sums, whose order depends on the number of rows in some
     * products, beyond what is allowed below. */
    return fixture_random(&config, precision, 0.15F);
}

/* How many of n positions are rows, in sequence s. */
typedef enum row_choice { SOME, ALL, ONE, LAST_SEQUENCE, CHOICES } row_choice;

static bool is_row(row_choice choice, size_t s, size_t i, size_t n, size_t t) {
    switch (choice) {
    case ALL: return true;
    case ONE: return t == 7;
    case LAST_SEQUENCE: return s == SEQUENCES - 1;
    default: break;
    }
    /* One sequence without rows, one all rows, one with its last position alone. */
    return s == 1 ? false : s == 2 ? true : s == 3 ? i + 1 == n : t * 7 % 5 < 2;
}

typedef struct batch {
    size_t offsets[SEQUENCES + 1];
    int32_t ids[MOST], rows[MOST], targets[MOST];
    float times[SEQUENCES], weight[MOST];
    dlm_batch batch;
} batch;

static void make_batch(batch *b, row_choice choice) {
    static const size_t lengths[SEQUENCES] = {17, 9, 33, 40, 1, 22};
    size_t R = 0;
    b->offsets[0] = 0;
    for (size_t s = 0; s < SEQUENCES; s++) {
        b->offsets[s + 1] = b->offsets[s] + lengths[s];
        b->times[s] = (float)(s + 1) / 8;
        for (size_t i = 0; i < lengths[s]; i++) {
            const size_t t = b->offsets[s] + i;
            b->ids[t] = (int32_t)(t * 5 % V);
            if (!is_row(choice, s, i, lengths[s], t)) continue;
            b->targets[R] = (int32_t)(t * 3 % V);
            b->weight[R] = 0.01F * (float)(1 + t % 4);
            b->rows[R++] = (int32_t)t;
        }
    }
    b->batch = (dlm_batch){{SEQUENCES, b->offsets}, b->ids, b->times, R, b->rows};
}

/* Loss, cross-entropies (R) and gradients (total) of two passes, the second over what the first left. */
static double lose(dlm_compute *compute, const dlm_model *model, const batch *b, bool whole, float *ce,
                   float *gradients) {
    const dlm_workspace_size size = {
        .tokens = MOST, .sequences = SEQUENCES, .rows = MOST, .training = true, .whole = whole};
    dlm_workspace *workspace = NULL;
    dlm_error err;
    double loss = 0;
    CHECK_OK(dlm__workspace_create(model->layout, model->network.type, compute, size, &workspace, &err),
             &err);
    for (int pass = 0; pass < 2; pass++) {
        memset(gradients, 0, model->layout->total * sizeof *gradients);
        CHECK_OK(dlm__loss(workspace, &model->network, &b->batch, b->targets, b->weight, ce, &loss, gradients,
                           &err),
                 &err);
    }
    dlm__workspace_free(workspace);
    return loss;
}

/* The largest difference of a tensor, of its largest value. */
static double apart(const float *a, const float *b, size_t n) {
    double most = 0, largest = 1e-12;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)b[i]));
    }
    return most / largest;
}

static void compare(dlm_compute *compute, const dlm_model *model, row_choice choice) {
    static batch b;
    static float ce[2][MOST];
    const dlm_layout *layout = model->layout;
    float *gradients[2];
    double loss[2];
    make_batch(&b, choice);
    for (int whole = 0; whole < 2; whole++) {
        gradients[whole] = dlm__calloc(layout->total, sizeof **gradients);
        loss[whole] = lose(compute, model, &b, whole == 1, ce[whole], gradients[whole]);
    }
    /* What is rounded to bfloat16 is the same but for the order of the sums before it, which moves few values
     * to the neighbour, 2^-8 away. */
    const double tolerance = model->network.type == DLM_BF16 ? 1e-4 : 1e-6;
    CHECK_CLOSE(loss[0], loss[1], tolerance * loss[1]);
    CHECK_ALL_CLOSE(ce[0], ce[1], b.batch.R, 10 * tolerance);
    for (size_t i = 0; i < layout->n; i++) {
        const dlm_param *param = &layout->params[i];
        const double moved = apart(gradients[0] + param->offset, gradients[1] + param->offset, param->count);
        if (!CHECK(moved <= 2 * tolerance)) printf("gradient of %s: %g\n", param->name, moved);
    }
    free(gradients[0]), free(gradients[1]);
}

static void rows_alone(dlm_compute *compute, const char *isa) {
    static const dlm_time times[] = {DLM_TIME_NONE, DLM_TIME_ADALN};
    static const dlm_position positions[] = {DLM_POSITION_LEARNED, DLM_POSITION_BOTH};
    static const dlm_precision precisions[] = {DLM_PRECISION_F32, DLM_PRECISION_BF16};
    for (int kind = 0; kind < 8; kind++) {
        dlm_model *model = make_model(times[kind & 1], positions[kind >> 1 & 1], precisions[kind >> 2]);
        REQUIRE(model != NULL);
        for (row_choice choice = SOME; choice < CHOICES; choice++) {
            check_context("%s, model %d, rows %d", isa, kind, (int)choice);
            compare(compute, model, choice);
        }
        dlm_model_free(model);
    }
}

TEST(rows_alone_are_differentiated_as_all) {
    const char *isa;
    for (size_t i = 0; (isa = dlm__isa_name(i)) != NULL; i++)
        if (dlm__isa_available(isa))
            for (size_t threads = 1; threads < 3; threads++) with_compute(rows_alone, isa, isa, threads);
}

/* ---- chunks of logits --------------------------------------------------------------------------------- */

enum {
    MANY_SEQUENCES = 18,
    MANY = MANY_SEQUENCES * LONGEST
}; /* more rows than have their logits at a time */

/* Adds the loss and gradients of the rows first .. last - 1 of a batch of all of MANY positions. */
static double add_rows(dlm_compute *compute, const dlm_model *model, size_t first, size_t last, float *ce,
                       float *gradients) {
    static size_t offsets[MANY_SEQUENCES + 1];
    static int32_t ids[MANY], rows[MANY], targets[MANY];
    static float times[MANY_SEQUENCES], weight[MANY];
    const dlm_workspace_size size = {
        .tokens = MANY, .sequences = MANY_SEQUENCES, .rows = last - first, .training = true};
    for (size_t s = 0; s < MANY_SEQUENCES; s++) {
        offsets[s + 1] = (s + 1) * LONGEST;
        times[s] = (float)(s + 1) / 32;
    }
    for (size_t t = 0; t < MANY; t++) {
        ids[t] = (int32_t)(t * 5 % V);
        rows[t] = (int32_t)t;
        targets[t] = (int32_t)(t * 3 % V);
        weight[t] = 0.001F * (float)(1 + t % 4);
    }
    const dlm_batch some = {{MANY_SEQUENCES, offsets}, ids, times, last - first, rows + first};
    dlm_workspace *workspace = NULL;
    dlm_error err;
    double loss = 0;
    CHECK_OK(dlm__workspace_create(model->layout, model->network.type, compute, size, &workspace, &err),
             &err);
    CHECK((workspace->chunk < last - first) == (last - first > 512));
    CHECK_OK(dlm__loss(workspace, &model->network, &some, targets + first, weight + first, ce + first, &loss,
                       gradients, &err),
             &err);
    dlm__workspace_free(workspace);
    return loss;
}

/* Rows that have their logits in two chunks, against passes of one chunk each. */
static void chunks(dlm_compute *compute, const char *isa) {
    static const dlm_precision precisions[] = {DLM_PRECISION_F32, DLM_PRECISION_BF16};
    static float ce[2][MANY];
    for (size_t kind = 0; kind < 2; kind++) {
        dlm_model *model = make_model(DLM_TIME_ADALN, DLM_POSITION_LEARNED, precisions[kind]);
        REQUIRE(model != NULL);
        const dlm_layout *layout = model->layout;
        float *at_once = dlm__calloc(layout->total, sizeof(float)),
              *by_parts = dlm__calloc(layout->total, sizeof(float));
        REQUIRE(at_once != NULL && by_parts != NULL);
        check_context("%s, type %zu", isa, kind);
        const double loss = add_rows(compute, model, 0, MANY, ce[0], at_once);
        double parts = 0;
        for (size_t first = 0; first < MANY; first += MANY / 3)
            parts += add_rows(compute, model, first, first + MANY / 3, ce[1], by_parts);
        const double tolerance = model->network.type == DLM_BF16 ? 1e-3 : 1e-6;
        CHECK_CLOSE(loss, parts, tolerance * loss);
        CHECK_ALL_CLOSE(ce[0], ce[1], MANY, 10 * tolerance);
        for (size_t i = 0; i < layout->n; i++) {
            const dlm_param *param = &layout->params[i];
            const double moved = apart(at_once + param->offset, by_parts + param->offset, param->count);
            if (!CHECK(moved <= 20 * tolerance)) printf("gradient of %s: %g\n", param->name, moved);
        }
        free(at_once), free(by_parts);
        dlm_model_free(model);
    }
}

TEST(losses_by_chunks_are_those_of_all_rows) {
    const char *isa;
    for (size_t i = 0; (isa = dlm__isa_name(i)) != NULL; i++)
        if (dlm__isa_available(isa)) with_compute(chunks, isa, isa, 2);
}

/* ---- memory that is lent ------------------------------------------------------------------------------ */

static dlm_workspace *make_workspace(dlm_compute *compute, const dlm_model *model, bool training,
                                     dlm_workspace *lender) {
    const dlm_workspace_size size = {.tokens = MOST,
                                     .sequences = SEQUENCES,
                                     .rows = MOST,
                                     .training = training,
                                     .times = training ? 0 : 16,
                                     .lender = lender};
    dlm_workspace *workspace = NULL;
    dlm_error err;
    CHECK_OK(dlm__workspace_create(model->layout, model->network.type, compute, size, &workspace, &err),
             &err);
    return workspace;
}

static void check_forward(dlm_workspace *workspace, const dlm_model *model, const batch *b,
                          const float *want) {
    static float logits[MOST * V];
    dlm_error err;
    CHECK_OK(dlm__forward(workspace, &model->network, &b->batch, logits, &err), &err);
    CHECK_MEM_EQ(logits, want, b->batch.R * V * sizeof *logits);
}

/* Passes in lent memory, and the lender's between them, are those of workspaces with their own; who comes
 * second has his own. */
TEST(lent_memory_changes_nothing) {
    static batch b, other;
    static float want[MOST * V], others[MOST * V], ce[MOST];
    dlm_compute *compute;
    dlm_error err;
    make_batch(&b, SOME);
    make_batch(&other, LAST_SEQUENCE);
    for (size_t s = 0; s < SEQUENCES; s++) other.times[s] = 1 - b.times[s] / 2;
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
    for (int kind = 0; kind < 4; kind++) {
        check_context("model %d", kind);
        dlm_model *model = make_model(DLM_TIME_ADALN, kind & 1 ? DLM_POSITION_BOTH : DLM_POSITION_LEARNED,
                                      kind & 2 ? DLM_PRECISION_BF16 : DLM_PRECISION_F32);
        REQUIRE(model != NULL);
        const size_t bytes = model->layout->total * sizeof(float);
        float *before = dlm__calloc(bytes, 1), *after = dlm__calloc(bytes, 1);
        dlm_workspace *lender = make_workspace(compute, model, true, NULL);
        dlm_workspace *own = make_workspace(compute, model, false, NULL);
        double loss;
        CHECK_OK(dlm__forward(own, &model->network, &b.batch, want, &err), &err);
        CHECK_OK(dlm__forward(own, &model->network, &other.batch, others, &err), &err);
        dlm__workspace_free(own);
        CHECK_OK(dlm__loss(lender, &model->network, &b.batch, b.targets, b.weight, ce, &loss, before, &err),
                 &err);
        for (int time = 0; time < 2; time++) {
            dlm_workspace *first = make_workspace(compute, model, false, lender);
            dlm_workspace *second = make_workspace(compute, model, false, lender);
            CHECK(first->borrows && !second->borrows);
            check_forward(first, model, &b, want);
            check_forward(second, model, &other, others);
            check_forward(first, model, &b, want);
            dlm__workspace_free(second);
            dlm__workspace_free(first);
        }
        CHECK_OK(dlm__loss(lender, &model->network, &b.batch, b.targets, b.weight, ce, &loss, after, &err),
                 &err);
        CHECK_MEM_EQ(after, before, bytes);
        dlm__workspace_free(lender);
        dlm_model_free(model);
        free(before), free(after);
    }
    dlm__compute_free(compute);
}
