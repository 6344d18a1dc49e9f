/* Optimisation against PyTorch: ten whole training steps (fixtures train_*), with every instruction set. */
#include "check.h"

#include "format/safetensors.h"
#include "train/optimizer.h"

#include <float.h>
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
        !CHECK_OK(dlm__learner_create(f->layout, r->compute, optimizer, muon_type, NULL, &r->learner, &err),
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
    double gradient; /* share of a tensor's largest gradient by which one of its gradients may be off */
    double loose;    /* share of the elements that may have more than twice the tolerance for it */
} tolerance;

/* AdamW divides a gradient by its size, so where a gradient is next to nothing, its rounding becomes a
 * visible part of the update: of tokens that occurred once, in a channel that hardly matters, and of the
 * biases of the keys, which softmax sees only by the rotation, or not at all. Such an element is allowed,
 * beside the tolerance, what an error of `gradient` in each of its gradients can have moved it by (`doubt`).
 *
 * In float32 that error is one step of a float of the size of the tensor's largest gradient. PyTorch itself
 * needs it: held to AVX2, it is 2.2e-4 off its own fixture at one element (odd, tok_embed, 808, whose one
 * gradient is 5e-7 of the largest; allowed 1e-5). Where Muon rounds to bfloat16, the block matrices and all
 * gradients after them differ: 1e-4, as golden/README.md allows gradients. PyTorch without AMX is 5.3e-3 off
 * its own fixture there (seed 2, odd, tok_embed, 446), and with exact gradients 5.6e-3 (seed 3, halfway,
 * tok_embed, 1006); allowed 5e-4. */
typedef struct doubt {
    double *first, *second; /* (total) of the first moment, and of the second under the root, squared */
    double *drift;          /* (total) of the element */
    double *average;        /* (total) of its running average */
} doubt;

static bool open_doubt(const fixture *f, doubt *d) {
    double *all = dlm__calloc(4 * f->layout->total, sizeof *all);
    const size_t total = f->layout->total;
    *d = (doubt){.first = all};
    if (!CHECK(all != NULL)) return false;
    *d = (doubt){.first = all, .second = all + total, .drift = all + 2 * total, .average = all + 3 * total};
    return true;
}

/* The second moments of parameter i, which one rank has whole; NULL where it has none. */
static const float *squares_of(const dlm_learner *learner, size_t i) {
    const size_t first = learner->layout->params[i].offset;
    for (size_t j = 0; j < learner->pieces.n; j++) {
        const dlm_piece *piece = &learner->pieces.list[j];
        if (first < piece->first || first >= piece->first + piece->n) continue;
        return learner->pieces.matrices[j] != NULL
                   ? NULL
                   : learner->squares + learner->v_at[j] + (first - piece->first);
    }
    return NULL;
}

/* After the update. With gradients off by e_t, the first moment is off by at most their decaying mean, and
 * the root of the second, a norm, by at most the same norm of the e_t; m / (r + eps) then moves by at most
 * (dm + |m / (r + eps)| dr) / (r - dr + eps). Nor can it move by more than twice the largest that it can be:
 * 1.05 over ten steps, by Cauchy and Schwarz. */
static void widen(const fixture *f, const dlm_learner *learner, const dlm_update *update, double gradient,
                  doubt *d) {
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, largest_update = 1.05;
    const double t = (double)update->step, bias1 = 1 - pow(beta1, t), bias2 = 1 - pow(beta2, t);
    const double scale = fmin(1, update->clip / update->norm);
    for (size_t i = 0; i < f->layout->n; i++) {
        const dlm_param *p = &f->layout->params[i];
        if (dlm__muon_takes(&learner->layout->params[i], learner->optimizer)) continue;
        const float *squares = squares_of(learner, i);
        double most = 0;
        for (size_t j = p->offset; j < p->offset + p->count; j++)
            most = fmax(most, fabs((double)learner->gradients[j]));
        for (size_t k = 0; k < p->count; k++) {
            const size_t j = p->offset + k;
            /* The gradient of a token that does not occur is exactly 0. */
            const double error = learner->gradients[j] != 0 ? gradient * most * scale : 0;
            d->first[j] = beta1 * d->first[j] + (1 - beta1) * error;
            d->second[j] = beta2 * d->second[j] + (1 - beta2) * error * error;
            const double root = sqrt((double)squares[k] / bias2), root_off = sqrt(d->second[j] / bias2);
            const double moved = fabs((double)learner->momentum[j]) / bias1 / (root + eps);
            const double off = (d->first[j] / bias1 + moved * root_off) / (fmax(root - root_off, 0) + eps);
            d->drift[j] += update->lr * fmin(off, 2 * largest_update);
            d->average[j] = update->ema_decay * d->average[j] + (1 - update->ema_decay) * d->drift[j];
        }
    }
}

/* Without rotation softmax does not see the bias of the keys at all: its gradient is noise, for PyTorch too.
 */
static bool is_noise(const dlm_config *config, const dlm_param *p, size_t j) {
    return config->position == DLM_POSITION_LEARNED && strstr(p->name, "attn.qkv.bias") != NULL &&
           j >= p->count / 3 && j < 2 * (p->count / 3);
}

/* Few elements may have more than twice the tolerance. */
static void check_blocks(const fixture *f, const float *values, const double *wider, const char *prefix,
                         tolerance allowed) {
    static float want[1 << 16];
    size_t loose = 0;
    for (size_t i = 0; i < f->layout->n; i++) {
        const dlm_param *p = &f->layout->params[i];
        REQUIRE(p->count <= sizeof want / sizeof *want && read_floats(f, prefix, p->name, want));
        const double most = p->block_matrix ? allowed.block_matrices : allowed.others;
        size_t worst = 0;
        double share = -1; /* of what is allowed; NaN stays */
        for (size_t j = 0; j < p->count && share == share; j++) {
            if (is_noise(&f->layout->config, p, j)) continue;
            const double room = most + wider[p->offset + j];
            const double used = fabs((double)values[p->offset + j] - (double)want[j]) / room;
            if (!(used <= share)) {
                worst = j;
                share = used;
            }
            loose += room > 2 * most;
        }
        check_context("%s%s, element %zu", prefix, p->name, worst);
        CHECK_CLOSE(values[p->offset + worst], want[worst], most + wider[p->offset + worst]);
    }
    check_context("%sall", prefix);
    CHECK((double)loose <= allowed.loose * (double)f->layout->total);
}

static void train_as_torch(const char *model, const char *name, const char *isa, dlm_optimizer optimizer,
                           dlm_dtype muon_type, tolerance allowed) {
    fixture f;
    run r = {0};
    float losses[STEPS], norms[STEPS], lrs[STEPS];
    doubt d = {0};
    bool ready = open_fixture(model, name, &f) && open_run(&f, isa, optimizer, muon_type, &r) &&
                 read_floats(&f, "", "loss", losses) && read_floats(&f, "", "grad_norm", norms) &&
                 read_floats(&f, "", "lr", lrs);
    double peak = ready ? metadata(&f, "lr") : 0, decay = ready ? metadata(&f, "weight_decay") : 0;
    uint64_t warmup = ready ? (uint64_t)metadata(&f, "warmup") : 0;
    uint64_t total = ready ? (uint64_t)metadata(&f, "total") : 0;
    if (ready) ready = open_doubt(&f, &d);
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
        dlm__learner_update(r.learner, r.compute, &update);
        widen(&f, r.learner, &update, allowed.gradient, &d);
        dlm__network_refresh(r.compute, &r.network);
        char prefix[20];
        (void)snprintf(prefix, sizeof prefix, "after%d.", s);
        if (s == 1 || s == 4 || s == 9) check_blocks(&f, r.learner->params, d.drift, prefix, allowed);
    }
    if (ready) check_blocks(&f, r.learner->average, d.average, "ema.", allowed);
    free(d.first);
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
    train_all("adamw", DLM_ADAMW, DLM_F32, (tolerance){1e-5, 1e-5, 5e-6, FLT_EPSILON, 5e-3});
}

TEST(muon_as_torch_in_float32) {
    train_all("muon_f32", DLM_MUON, DLM_F32, (tolerance){2e-5, 2e-5, 5e-6, FLT_EPSILON, 5e-3});
}

TEST(muon_as_torch_in_bfloat16) {
    train_all("muon", DLM_MUON, DLM_BF16, (tolerance){3e-3, 5e-4, 2e-4, 1e-4, 1e-2});
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
            CHECK_INT_EQ(dlm__muon_takes(&r.learner->layout->params[i], r.learner->optimizer), muon);
            CHECK((squares_of(r.learner, i) == NULL) == muon);
            if (!muon) parameters += dlm__round_up(p->count, 16);
        }
        CHECK_INT_EQ(r.learner->v_total, parameters);
    }
    close_run(&r);
    close_fixture(&f);
}

/* One update of the fixture "plain" by Muon with so many threads, from gradients that are not 0; the weights,
 * or NULL. Free them. */
static float *updated_by(size_t threads, size_t *n) {
    fixture f;
    run r = {0};
    double loss;
    float *params = NULL;
    dlm_set_threads(threads);
    if (open_fixture("plain", "muon", &f) && open_run(&f, NULL, DLM_MUON, DLM_F32, &r) &&
        differentiate(&f, &r, 0, &loss)) {
        const dlm_update update = {.lr = 0.01, .ema_decay = 0.999, .step = 1};
        CHECK_INT_EQ(r.learner->teams, threads == 1 ? 0 : threads);
        for (size_t i = 0; i < r.learner->pieces.n; i++) {
            const bool shared = threads == 1 || r.learner->pieces.matrices[i] == NULL;
            CHECK((r.learner->team[i] == SIZE_MAX) == shared);
        }
        dlm__learner_update(r.learner, r.compute, &update);
        CHECK_OK(dlm__compute_status(r.compute, NULL), NULL);
        *n = f.layout->total;
        params = (float *)(void *)dlm__copy_bytes(r.learner->params, *n * sizeof *params);
    }
    close_run(&r);
    close_fixture(&f);
    dlm_set_threads(0);
    return params;
}

/* Matrices that threads take one each become what they become when all threads share them, but for the order
 * of the sum of a norm. */
TEST(a_small_matrix_for_each_thread) {
    size_t n = 0, m = 0;
    float *one = updated_by(1, &n), *three = updated_by(3, &m);
    REQUIRE(one != NULL && three != NULL && n == m);
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)one[i] - (double)three[i]));
    CHECK_CLOSE(worst, 0, 1e-6);
    free(one);
    free(three);
}
