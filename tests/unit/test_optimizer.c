/* Optimisation against PyTorch: ten whole training steps (fixtures train_*), with every instruction set. */
#include "check.h"

#include "format/safetensors.h"
#include "train/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the fixtures' batches ---------------------------------------------------------------------------- */

enum { BATCH = 4, STEPS = 10, LENGTH_MAX = 64 };

static const char *const models[] = {"tiny", "odd", "plain", "halfway"};
enum { MODELS = sizeof models / sizeof *models };

typedef struct fixture {
    dlm_safetensors *file;
    dlm_layout *layout;
    size_t L;
} fixture;

static const dlm_st_tensor *tensor(const fixture *f, const char *prefix, const char *name) {
    char full[2 * DLM_MAX_NAME];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    const dlm_st_tensor *found = dlm__safetensors_find(f->file, full);
    if (found == NULL) CHECK_STR_EQ("missing from the fixture", full);
    return found;
}

static bool read_floats(const fixture *f, const char *prefix, const char *name, float *values) {
    const dlm_st_tensor *found = tensor(f, prefix, name);
    return found != NULL && CHECK_OK(dlm__safetensors_floats(f->file, found, values, NULL), NULL);
}

static bool read_ints(const fixture *f, const char *prefix, const char *name, int32_t *values) {
    const dlm_st_tensor *found = tensor(f, prefix, name);
    return found != NULL && CHECK_INT_EQ(found->count, BATCH * f->L) &&
           CHECK_OK(dlm__safetensors_ints(f->file, found, values, NULL), NULL);
}

static double metadata(const fixture *f, const char *key) {
    const char *text = dlm__safetensors_metadata(f->file, key);
    return CHECK(text != NULL) ? strtod(text, NULL) : 0;
}

static bool open_fixture(const char *model, const char *name, fixture *f) {
    char path[100];
    *f = (fixture){0};
    dlm_error err;
    dlm_config config;
    (void)snprintf(path, sizeof path, "%s/config.json", model);
    const char *config_path = golden_path(path);
    (void)snprintf(path, sizeof path, "%s/train_%s.safetensors", model, name);
    const char *file_path = golden_path(path);
    size_t size;
    const char *json = config_path != NULL ? read_text(config_path, &size) : NULL;
    if (!CHECK(json != NULL && file_path != NULL)) return false;
    if (!CHECK_OK(dlm__config_parse(config_path, json, size, &config, NULL, &err), &err)) return false;
    if (!CHECK_OK(dlm__layout_create(&config, &f->layout, &err), &err)) return false;
    f->L = config.max_seq_len;
    return CHECK(f->L <= LENGTH_MAX) && CHECK_OK(dlm__safetensors_open(file_path, &f->file, &err), &err);
}

static void close_fixture(fixture *f) {
    if (f->file != NULL) dlm__safetensors_close(f->file);
    dlm__layout_free(f->layout);
}

/* ---- the run ------------------------------------------------------------------------------------------ */

typedef struct run {
    dlm_compute *compute;
    dlm_learner *learner;
    dlm_workspace *workspace;
    dlm_network network;
} run;

static bool open_run(const fixture *f, const char *isa, dlm_optimizer optimizer, dlm_dtype muon_type,
                     run *r) {
    dlm_error err;
    *r = (run){0};
    dlm_workspace_size size = {
        .tokens = BATCH * f->L, .sequences = BATCH, .rows = BATCH * f->L, .training = true};
    if (!CHECK_OK(dlm__compute_create(isa, &r->compute, &err), &err) ||
        !CHECK_OK(dlm__learner_create(f->layout, r->compute, optimizer, muon_type, &r->learner, &err),
                  &err) ||
        !CHECK_OK(dlm__workspace_create(f->layout, DLM_F32, r->compute, size, &r->workspace, &err), &err))
        return false;
    r->network = (dlm_network){.layout = f->layout, .params = r->learner->params, .type = DLM_F32};
    for (size_t i = 0; i < f->layout->n; i++) {
        const dlm_param *p = &f->layout->params[i];
        if (!read_floats(f, "start.", p->name, r->learner->params + p->offset)) return false;
    }
    memcpy(r->learner->average, r->learner->params, f->layout->total * sizeof(float));
    return true;
}

static void close_run(run *r) {
    dlm__workspace_free(r->workspace);
    dlm__learner_free(r->learner);
    dlm__compute_free(r->compute);
}

/* Loss and gradients of the fixture's batch of step s: all positions, padding too; the plain mean over the
 * batch of the mean cross-entropy over the masked positions. */
static bool differentiate(const fixture *f, run *r, int s, double *loss) {
    int32_t x[BATCH * LENGTH_MAX], x_t[BATCH * LENGTH_MAX], mask[BATCH * LENGTH_MAX];
    int32_t rows[BATCH * LENGTH_MAX], targets[BATCH * LENGTH_MAX];
    float t[BATCH], weight[BATCH * LENGTH_MAX], ce[BATCH * LENGTH_MAX];
    char prefix[20];
    (void)snprintf(prefix, sizeof prefix, "step%d.", s);
    if (!read_ints(f, prefix, "x", x) || !read_ints(f, prefix, "x_t", x_t) ||
        !read_ints(f, prefix, "mask", mask) || !read_floats(f, prefix, "t", t))
        return false;
    size_t offsets[BATCH + 1], R = 0;
    for (size_t b = 0; b <= BATCH; b++) offsets[b] = b * f->L;
    for (size_t b = 0; b < BATCH; b++) {
        size_t first = R;
        for (size_t i = offsets[b]; i < offsets[b + 1]; i++) {
            if (mask[i] == 0) continue;
            rows[R] = (int32_t)i;
            targets[R++] = x[i];
        }
        for (size_t i = first; i < R; i++) weight[i] = (float)(1.0 / (BATCH * (double)(R - first)));
    }
    dlm_batch batch = {.seg = {.n = BATCH, .offsets = offsets}, .ids = x_t, .times = t, .R = R, .rows = rows};
    memset(r->learner->gradients, 0, f->layout->total * sizeof(float));
    dlm_error err;
    return CHECK_OK(
        dlm__loss(r->workspace, &r->network, &batch, targets, weight, ce, loss, r->learner->gradients, &err),
        &err);
}

/* ---- comparison --------------------------------------------------------------------------------------- */

typedef struct tolerance {
    double block_matrices, others, loss;
} tolerance;

/* AdamW divides a gradient by its size. Where all gradients of an element so far are smaller than their
 * tolerance, 1e-4 of the tensor's largest, rounding moves its update more than elsewhere: tokens that
 * occurred once, with next to no gradient in a channel, and the bias of the keys, which softmax sees only by
 * the rotation. These elements are marked. They are compared all the same, within WIDER times the tolerance.
 *
 * What was seen: with Muon in bfloat16, PyTorch itself, run on two machines, gives values 1.2e-3 apart for
 * one of them (plain, tok_embed, element 2029; allowed 5e-4). With AdamW PyTorch repeats the fixture to the
 * bit, and we are 1.25e-5 off on one instruction set (odd, tok_embed, element 808; allowed 1e-5). */
enum { WIDER = 4 };

typedef struct determined {
    float *largest; /* (total) gradient so far */
    uint8_t *lost;  /* (total) 1: marked */
} determined;

static bool open_determined(const fixture *f, determined *d) {
    *d = (determined){.largest = dlm__calloc(f->layout->total, sizeof *d->largest),
                      .lost = dlm__calloc(f->layout->total, sizeof *d->lost)};
    return CHECK(d->largest != NULL && d->lost != NULL);
}

static void close_determined(determined *d) {
    free(d->largest);
    free(d->lost);
}

static void mark_undetermined(const fixture *f, const float *gradients, determined *d) {
    for (size_t i = 0; i < f->layout->n; i++) {
        const dlm_param *p = &f->layout->params[i];
        if (strcmp(p->name, "tok_embed.weight") != 0 && strstr(p->name, "attn.qkv.bias") == NULL) continue;
        float most = 0;
        for (size_t j = p->offset; j < p->offset + p->count; j++) {
            d->largest[j] = fmaxf(d->largest[j], fabsf(gradients[j]));
            most = fmaxf(most, d->largest[j]);
        }
        for (size_t j = p->offset; j < p->offset + p->count; j++)
            if (d->largest[j] > 0 && d->largest[j] <= 1e-4F * most) d->lost[j] = 1;
    }
}

/* At most one element in a hundred has the wider tolerance. */
static void check_blocks(const fixture *f, const float *values, const determined *d, const char *prefix,
                         tolerance allowed) {
    static float want[1 << 16], got[1 << 16];
    for (size_t i = 0; i < f->layout->n; i++) {
        const dlm_param *p = &f->layout->params[i];
        REQUIRE(p->count <= sizeof want / sizeof *want && read_floats(f, prefix, p->name, want));
        check_context("%s%s", prefix, p->name);
        memcpy(got, values + p->offset, p->count * sizeof *got);
        bool bias = strstr(p->name, "attn.qkv.bias") != NULL;
        bool unrotated = f->layout->config.position == DLM_POSITION_LEARNED;
        size_t wider = 0;
        double most = p->block_matrix ? allowed.block_matrices : allowed.others;
        for (size_t j = 0; j < p->count; j++) {
            bool key = bias && j >= p->count / 3 && j < 2 * (p->count / 3);
            bool marked = d->lost[p->offset + j] != 0;
            if (marked && !(key && unrotated)) {
                CHECK_CLOSE(got[j], want[j], WIDER * most);
                wider += !key;
            }
            /* Without rotation softmax does not see the bias of the keys at all: its gradient is noise. */
            if (marked || (key && unrotated)) got[j] = want[j];
        }
        CHECK(wider <= p->count / 100);
        CHECK_ALL_CLOSE(got, want, p->count, most);
    }
}

static void train_as_torch(const char *model, const char *name, const char *isa, dlm_optimizer optimizer,
                           dlm_dtype muon_type, tolerance allowed) {
    fixture f;
    run r = {0};
    float losses[STEPS], norms[STEPS], lrs[STEPS];
    determined d = {0};
    bool ready = open_fixture(model, name, &f) && open_run(&f, isa, optimizer, muon_type, &r) &&
                 read_floats(&f, "", "loss", losses) && read_floats(&f, "", "grad_norm", norms) &&
                 read_floats(&f, "", "lr", lrs);
    double peak = ready ? metadata(&f, "lr") : 0, decay = ready ? metadata(&f, "weight_decay") : 0;
    uint64_t warmup = ready ? (uint64_t)metadata(&f, "warmup") : 0;
    uint64_t total = ready ? (uint64_t)metadata(&f, "total") : 0;
    if (ready) ready = open_determined(&f, &d);
    for (int s = 0; ready && s < STEPS; s++) {
        double loss;
        check_context("%s %s %s step %d", model, name, isa, s);
        if (!differentiate(&f, &r, s, &loss)) break;
        uint64_t step = (uint64_t)s;
        dlm_update update = {
            .lr = peak * dlm__lr_multiplier(step, warmup, 0.1, dlm__lr_progress(step, warmup, total)),
            .weight_decay = decay,
            .clip = 1.0,
            .ema_decay = dlm__ema_decay(0.999, false, step),
            .norm = dlm__learner_norm(r.learner, r.compute),
            .step = step + 1};
        CHECK_CLOSE(loss, losses[s], allowed.loss * fabs((double)losses[s]));
        CHECK_CLOSE(update.norm, norms[s], 20 * allowed.loss * fabs((double)norms[s]));
        CHECK_CLOSE(update.lr, lrs[s], 1e-9);
        mark_undetermined(&f, r.learner->gradients, &d);
        dlm__learner_update(r.learner, r.compute, &update);
        dlm__network_refresh(r.compute, &r.network);
        char prefix[20];
        (void)snprintf(prefix, sizeof prefix, "after%d.", s);
        if (s == 1 || s == 4 || s == 9) check_blocks(&f, r.learner->params, &d, prefix, allowed);
    }
    if (ready) check_blocks(&f, r.learner->average, &d, "ema.", allowed);
    close_determined(&d);
    close_run(&r);
    close_fixture(&f);
}

static void train_all(const char *name, dlm_optimizer optimizer, dlm_dtype muon_type, tolerance allowed) {
    const char *isa;
    for (size_t i = 0; (isa = dlm__isa_name(i)) != NULL; i++) {
        if (!dlm__isa_available(isa)) {
            printf("isa: %s missing here, train_%s not run\n", isa, name);
            continue;
        }
        printf("isa: %s, train_%s\n", isa, name);
        for (size_t m = 0; m < MODELS; m++)
            train_as_torch(models[m], name, isa, optimizer, muon_type, allowed);
    }
}

TEST(adamw_as_torch) {
    train_all("adamw", DLM_ADAMW, DLM_F32, (tolerance){1e-5, 1e-5, 5e-6});
}

TEST(muon_as_torch_in_float32) {
    train_all("muon_f32", DLM_MUON, DLM_F32, (tolerance){2e-5, 2e-5, 5e-6});
}

TEST(muon_as_torch_in_bfloat16) {
    train_all("muon", DLM_MUON, DLM_BF16, (tolerance){3e-3, 5e-4, 2e-4});
}

/* ---- the pieces --------------------------------------------------------------------------------------- */

TEST(learning_rate) {
    CHECK_CLOSE(dlm__lr_multiplier(0, 4, 0.1, 0), 0, 0);
    CHECK_CLOSE(dlm__lr_multiplier(3, 4, 0.1, 0), 0.75, 0);
    CHECK_CLOSE(dlm__lr_multiplier(4, 4, 0.1, dlm__lr_progress(4, 4, 10)), 1, 0);
    CHECK_CLOSE(dlm__lr_multiplier(7, 4, 0.1, dlm__lr_progress(7, 4, 10)), 0.55, 1e-15);
    CHECK_CLOSE(dlm__lr_multiplier(10, 4, 0.1, dlm__lr_progress(10, 4, 10)), 0.1, 1e-15);
    CHECK_CLOSE(dlm__lr_multiplier(99, 4, 0.1, dlm__lr_progress(99, 4, 10)), 0.1, 1e-15);
    /* No warm-up; and one that is as long as the run. */
    CHECK_CLOSE(dlm__lr_multiplier(0, 0, 0.1, dlm__lr_progress(0, 0, 10)), 1, 0);
    CHECK_CLOSE(dlm__lr_progress(11, 10, 10), 1, 0);
    CHECK_CLOSE(dlm__lr_progress(10, 10, 10), 0, 0);
}

TEST(average_warms_up) {
    CHECK_CLOSE(dlm__ema_decay(0.999, true, 0), 0.1, 1e-15);
    CHECK_CLOSE(dlm__ema_decay(0.999, true, 90), 0.91, 1e-15);
    CHECK_CLOSE(dlm__ema_decay(0.999, true, 100000), 0.999, 0);
    CHECK_CLOSE(dlm__ema_decay(0.999, false, 0), 0.999, 0);
}

TEST(norm_of_what_is_not_finite) {
    fixture f;
    run r = {0};
    if (open_fixture("plain", "adamw", &f) && open_run(&f, NULL, DLM_MUON, DLM_F32, &r)) {
        r.learner->gradients[f.layout->params[0].offset] = 3;
        r.learner->gradients[f.layout->params[f.layout->n - 1].offset] = 4;
        CHECK_CLOSE(dlm__learner_norm(r.learner, r.compute), 5, 1e-12);
        r.learner->gradients[f.layout->params[1].offset] = NAN;
        CHECK(!isfinite(dlm__learner_norm(r.learner, r.compute)));
        r.learner->gradients[f.layout->params[1].offset] = INFINITY;
        CHECK(!isfinite(dlm__learner_norm(r.learner, r.compute)));
    }
    close_run(&r);
    close_fixture(&f);
}

TEST(second_moments_of_adamw_alone) {
    fixture f;
    run r = {0};
    if (open_fixture("plain", "adamw", &f) && open_run(&f, NULL, DLM_MUON, DLM_F32, &r)) {
        size_t parameters = 0;
        for (size_t i = 0; i < f.layout->n; i++) {
            const dlm_param *p = &f.layout->params[i];
            bool muon = strncmp(p->name, "blocks.", 7) == 0 && p->ndim == 2;
            CHECK_INT_EQ(dlm__learner_muon(r.learner, i), muon);
            CHECK((dlm__learner_squares(r.learner, i) == NULL) == muon);
            if (!muon) parameters += dlm__round_up(p->count, 16);
        }
        CHECK_INT_EQ(r.learner->v_total, parameters);
    }
    close_run(&r);
    close_fixture(&f);
}
