/* One figure at a time for the comparison with other programs (bench/side_by_side), as a line of JSON: what
 * the command cannot be asked for alone. What it can be asked for is in usage(). */
#include "base/base.h"
#include "compute/compute.h"

#include "diffusionlm.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FEWEST = 3 };

static int fail(const dlm_error *err) {
    fprintf(stderr, "%s\n", err->message);
    return 1;
}

/* what: the argument or line that is none, or NULL. */
static int usage(const char *kind, const char *what) {
    if (what != NULL) (void)fprintf(stderr, "measure: '%s' is no %s\n", what, kind);
    (void)fputs(
        "usage: measure [--threads N] WHAT\n"
        "\n"
        "  forward MODEL TYPE SEQUENCES LENGTH  seconds of a pass with the logits of all positions\n"
        "  encode TOKENIZER FILE...             seconds for the documents, which are in memory\n"
        "  products TYPE SECONDS                GFLOP/s of each product on standard input\n"
        "  copy MEGABYTES                       GB/s, read and written\n"
        "\n"
        "TYPE is f32, bf16 or int8. A product is a line \"M N K TA TB ACCUMULATE RIGHT\": its size; 1\n"
        "where the left or the right factor is stored transposed; 1 where the result is added to; and\n"
        "how the right factor lies: rows, float (rounded on the way) or panels (packed before), which\n"
        "are rows where the machine or the type has no such thing. Products of int8 have TA 0, TB 1,\n"
        "ACCUMULATE 0: of weights that were rounded before, and activations rounded on the way.\n",
        stderr);
    return 2;
}

static float *floats(size_t n) {
    float *x = dlm__calloc(n, sizeof *x);
    if (x == NULL) abort();
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++) x[i] = (float)dlm__rng_uniform(&rng) - 0.5F;
    return x;
}

/* ---- a forward pass ----------------------------------------------------------------------------------- */

static int precision_of(const char *name, dlm_precision *precision) {
    static const char *const names[] = {"auto", "f32", "bf16", "int8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *precision = (dlm_precision)i;
            return 0;
        }
    return usage("type", name);
}

static int forward(char **arguments) {
    dlm_model_options options = dlm_model_defaults();
    if (precision_of(arguments[1], &options.precision) != 0) return 2;
    const dlm_speed_options work = {.work = DLM_WORK_FORWARD,
                                    .sequences = strtoul(arguments[2], NULL, 10),
                                    .length = strtoul(arguments[3], NULL, 10),
                                    .seconds = 0.5};
    dlm_model *model = NULL;
    dlm_speed speed;
    dlm_error err = {0};
    if (dlm_model_load(arguments[0], &options, &model, &err) != DLM_OK) return fail(&err);
    const dlm_status status = dlm_speed_measure(model, &work, &speed, &err);
    dlm_model_free(model);
    if (status != DLM_OK) return fail(&err);
    printf("{\"seconds\": %.6g, \"fastest\": %.6g}\n", speed.seconds, speed.fastest);
    return 0;
}

/* ---- encoding ----------------------------------------------------------------------------------------- */

typedef struct corpus {
    char **texts;
    size_t *sizes;
    size_t n, room, bytes;
} corpus;

static void add(corpus *all, const char *text, size_t bytes) {
    if (all->n == all->room) {
        all->room = all->room == 0 ? 1024 : 2 * all->room;
        all->texts = realloc(all->texts, all->room * sizeof *all->texts);
        all->sizes = realloc(all->sizes, all->room * sizeof *all->sizes);
        if (all->texts == NULL || all->sizes == NULL) abort();
    }
    char *copy = malloc(bytes + 1);
    if (copy == NULL) abort();
    memcpy(copy, text, bytes);
    all->texts[all->n] = copy;
    all->sizes[all->n++] = bytes;
    all->bytes += bytes;
}

static int read_corpus(size_t n, char **paths, corpus *all) {
    dlm_documents *documents = NULL;
    dlm_error err = {0};
    const dlm_text_options options = dlm_text_defaults();
    dlm_status status = dlm_documents_open((const char *const *)paths, n, &options, &documents, &err);
    while (status == DLM_OK) {
        const char *text;
        size_t bytes;
        status = dlm_documents_next(documents, &text, &bytes, &err);
        if (status == DLM_OK && text == NULL) break;
        if (status == DLM_OK) add(all, text, bytes);
    }
    dlm_documents_close(documents);
    return status == DLM_OK ? 0 : fail(&err);
}

static void free_corpus(corpus *all) {
    for (size_t i = 0; i < all->n; i++) free(all->texts[i]);
    free(all->texts);
    free(all->sizes);
}

static int encode(int n, char **arguments) {
    dlm_tokenizer *tokenizer = NULL;
    dlm_error err = {0};
    corpus all = {0};
    if (dlm_tokenizer_load(arguments[0], &tokenizer, &err) != DLM_OK) return fail(&err);
    if (read_corpus((size_t)n - 1, arguments + 1, &all) != 0) return 1;
    const double start = dlm__seconds();
    size_t tokens = 0, failed = 0;
#pragma omp parallel for schedule(dynamic, 16) reduction(+ : tokens, failed) num_threads((int)dlm__threads())
    for (size_t i = 0; i < all.n; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        failed +=
            dlm_tokenizer_encode(tokenizer, all.texts[i], all.sizes[i], true, &ids, &count, NULL) != DLM_OK;
        tokens += count;
        dlm_free(ids);
    }
    printf("{\"seconds\": %.6g, \"bytes\": %zu, \"tokens\": %zu}\n", dlm__seconds() - start, all.bytes,
           tokens);
    free_corpus(&all);
    dlm_tokenizer_free(tokenizer);
    if (failed > 0) fprintf(stderr, "%zu documents could not be encoded\n", failed);
    return failed > 0;
}

/* ---- the machine -------------------------------------------------------------------------------------- */

/* A product with its factors in memory, of one of the kinds that the model's passes call. */
typedef struct work {
    dlm_compute *compute;
    dlm_product product;
    float *A, *B, *Y;
    void *a, *b;      /* as operands of their types; b NULL where B is taken as it is, or from: */
    dlm_bf16 *panels; /* of B, or NULL */
    dlm_int8 *bytes;  /* of B, or NULL */
    dlm_dtype left;   /* the type of A */
} work;

static dlm_status prepare(work *w, dlm_error *err) {
    const dlm_product *p = &w->product;
    const size_t weights = p->K * p->N;
    w->A = floats(p->M * p->K), w->B = floats(weights), w->Y = floats(p->M * p->N);
    w->left = p->type;
    if (p->type == DLM_I8) {
        w->left = dlm__bf16_native() ? DLM_BF16 : DLM_F32; /* as a model of int8 has its activations */
        DLM_TRY(dlm__int8_create(w->compute, p->N, p->K, w->B, &w->bytes, err));
    } else if (p->right == DLM_RIGHT_PANELS) {
        w->panels = dlm__calloc(weights, sizeof *w->panels);
        if (w->panels == NULL) abort();
        dlm__pack_panels(w->compute, p->N, p->K, w->B, w->panels);
    } else if (p->right == DLM_RIGHT_ROWS) {
        w->b = floats(weights);
        dlm__to_type(w->compute, weights, w->B, w->b, p->type);
    }
    w->a = floats(p->M * p->K);
    dlm__to_type(w->compute, p->M * p->K, w->A, w->a, w->left);
    return DLM_OK;
}

static void multiply(const work *w) {
    const dlm_product *p = &w->product;
    if (w->bytes != NULL)
        dlm__int8_matmul(w->compute, p->M, w->a, w->left, w->bytes, 0, p->N, NULL, w->Y);
    else
        dlm__matmul(w->compute, p, w->a,
                    w->panels != NULL ? (const void *)w->panels
                    : w->b != NULL    ? w->b
                                      : w->B,
                    NULL, w->Y);
}

static void free_work(work *w) {
    free(w->A), free(w->B), free(w->Y), free(w->a), free(w->b), free(w->panels);
    dlm__int8_free(w->bytes);
}

typedef struct timing {
    double seconds;     /* the median of those that fit into the time */
    double cpu_seconds; /* of all threads, the mean: what to look at where others use the machine too */
} timing;

static timing time_product(const work *w, double seconds) {
    enum { MOST = 1000 };
    double times[MOST];
    size_t n = 0;
    multiply(w); /* what is prepared once */
    const clock_t cpu = clock();
    for (const double begin = dlm__seconds(); n < FEWEST || (n < MOST && dlm__seconds() < begin + seconds);
         n++) {
        const double start = dlm__seconds();
        multiply(w);
        times[n] = dlm__seconds() - start;
        for (size_t i = n; i > 0 && times[i] < times[i - 1]; i--) {
            const double larger = times[i - 1];
            times[i - 1] = times[i];
            times[i] = larger;
        }
    }
    const double used = (double)(clock() - cpu) / CLOCKS_PER_SEC;
    return (timing){.seconds = times[n / 2], .cpu_seconds = used / (double)n};
}

static bool find_word(const char *word, size_t n, const char *const *words, size_t *at) {
    for (*at = 0; *at < n; (*at)++)
        if (strcmp(word, words[*at]) == 0) return true;
    return false;
}

/* 1: a product; 0: there is none left; -1: this is none. */
static int read_product(dlm_dtype type, dlm_product *p) {
    static const char *const rights[] = {"rows", "float", "panels"};
    char word[8];
    size_t M, N, K, right;
    int ta, tb, accumulate;
    const int found = scanf("%zu %zu %zu %d %d %d %7s", &M, &N, &K, &ta, &tb, &accumulate, word);
    if (found == EOF) return 0;
    if (found != 7 || M == 0 || N == 0 || K == 0 || !find_word(word, 3, rights, &right)) return -1;
    if (type == DLM_I8 && (ta != 0 || tb != 1 || accumulate != 0)) return -1;
    const bool panels = tb == 1 && N % DLM_PANEL_ROWS == 0 && K % 2 == 0;
    if (type != DLM_BF16 || !dlm__bf16_panels() || (right == DLM_RIGHT_PANELS && !panels))
        right = DLM_RIGHT_ROWS;
    *p = (dlm_product){.M = M,
                       .N = N,
                       .K = K,
                       .transpose_a = ta != 0,
                       .transpose_b = tb != 0,
                       .accumulate = accumulate != 0,
                       .type = type,
                       .right = (dlm_right)right};
    return 1;
}

static int products(dlm_compute *compute, char **arguments) {
    static const char *const types[] = {"f32", "bf16", "int8"};
    const double seconds = strtod(arguments[1], NULL);
    work w = {.compute = compute};
    dlm_error err = {0};
    size_t type;
    int more;
    if (!find_word(arguments[0], 3, types, &type)) return usage("type", arguments[0]);
    while ((more = read_product((dlm_dtype)type, &w.product)) == 1) {
        dlm_status status = prepare(&w, &err);
        if (status == DLM_OK) {
            const timing t = time_product(&w, seconds);
            const double gflop = 2e-9 * (double)w.product.M * (double)w.product.N * (double)w.product.K;
            printf("{\"seconds\": %.6g, \"gflops\": %.6g, \"gflops_per_cpu_second\": %.6g}\n", t.seconds,
                   gflop / t.seconds, gflop / t.cpu_seconds);
        }
        free_work(&w);
        w = (work){.compute = compute};
        if (status != DLM_OK) return fail(&err);
    }
    return more == 0 ? 0 : usage("product of this type", "a line of standard input");
}

static int copy(dlm_compute *compute, char **arguments) {
    const size_t n = ((size_t)strtoul(arguments[0], NULL, 10) << 20) / sizeof(float);
    float *x = floats(n), *y = floats(n);
    double best = 1e9;
    for (int i = 0; i < 10; i++) {
        const double start = dlm__seconds();
        dlm__to_type(compute, n, x, y, DLM_F32);
        const double took = dlm__seconds() - start;
        if (took < best) best = took;
    }
    printf("{\"gbytes_per_s\": %.6g}\n", 8e-9 * (double)n / best);
    free(x), free(y);
    return 0;
}

static int machine(const char *what, char **arguments) {
    dlm_compute *compute = NULL;
    dlm_error err = {0};
    if (dlm__compute_create(NULL, &compute, &err) != DLM_OK) return fail(&err);
    int status = strcmp(what, "products") == 0 ? products(compute, arguments) : copy(compute, arguments);
    if (status == 0 && dlm__compute_status(compute, &err) != DLM_OK) status = fail(&err);
    dlm__compute_free(compute);
    return status;
}

int main(int argc, char **argv) {
    int at = 1;
    if (argc > 3 && strcmp(argv[1], "--threads") == 0) {
        dlm_set_threads(strtoul(argv[2], NULL, 10));
        at = 3;
    }
    const int left = argc - at - 1;
    const char *what = at < argc ? argv[at] : "";
    char **arguments = argv + at + 1;
    if (strcmp(what, "forward") == 0 && left == 4) return forward(arguments);
    if (strcmp(what, "encode") == 0 && left >= 2) return encode(left, arguments);
    if (strcmp(what, "products") == 0 && left == 2) return machine(what, arguments);
    if (strcmp(what, "copy") == 0 && left == 1) return machine(what, arguments);
    return usage("work with so many arguments", at < argc ? what : NULL);
}
