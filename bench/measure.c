/* One figure at a time for the comparison with other programs (bench/side_by_side), as a line of JSON: what
 * the command cannot be asked for alone.
 *
 *     measure [--threads N] forward MODEL f32|bf16|int8 SEQUENCES LENGTH
 *                                                         seconds of a forward pass with the logits of every
 * position measure [--threads N] encode TOKENIZER FILE...      seconds to encode the documents, held in
 * memory measure [--threads N] products f32|bf16 SECONDS     GFLOP/s of products; standard input has "M N K
 * ta tb" a line measure [--threads N] copy MEGABYTES                GB/s, read and written
 *
 * Products are those of src/compute as training calls them; ta and tb are 1 where A and B are stored
 * transposed. */
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

static int usage(void) {
    fprintf(stderr, "usage: the head of bench/measure.c\n");
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
    return usage();
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

typedef struct timing {
    double seconds;     /* the median of those that fit into the time */
    double cpu_seconds; /* of all threads, the mean: what to look at where others use the machine too */
} timing;

static timing time_product(dlm_compute *compute, const dlm_product *p, double seconds) {
    enum { MOST = 1000 };
    double times[MOST];
    size_t n = 0;
    float *A = floats(p->M * p->K), *B = floats(p->K * p->N), *Y = floats(p->M * p->N);
    dlm__to_type(compute, p->M * p->K, A, A, p->type);
    if (p->right == DLM_RIGHT_ROWS) dlm__to_type(compute, p->K * p->N, B, B, p->type);
    dlm__matmul(compute, p, A, B, NULL, Y);
    const clock_t cpu = clock();
    for (const double begin = dlm__seconds(); n < FEWEST || (n < MOST && dlm__seconds() < begin + seconds);
         n++) {
        const double start = dlm__seconds();
        dlm__matmul(compute, p, A, B, NULL, Y);
        times[n] = dlm__seconds() - start;
        for (size_t i = n; i > 0 && times[i] < times[i - 1]; i--) {
            const double larger = times[i - 1];
            times[i - 1] = times[i];
            times[i] = larger;
        }
    }
    const double used = (double)(clock() - cpu) / CLOCKS_PER_SEC;
    free(A), free(B), free(Y);
    return (timing){.seconds = times[n / 2], .cpu_seconds = used / (double)n};
}

static int products(dlm_compute *compute, char **arguments) {
    const dlm_dtype type = strcmp(arguments[0], "bf16") == 0 ? DLM_BF16 : DLM_F32;
    const double seconds = strtod(arguments[1], NULL);
    size_t shape[3];
    int ta, tb;
    /* Training rounds its weights on the way where products can do that; a gradient's product has none. */
    const bool round = type == DLM_BF16 && dlm__bf16_panels();
    while (scanf("%zu %zu %zu %d %d", &shape[0], &shape[1], &shape[2], &ta, &tb) == 5) {
        const dlm_product p = {.M = shape[0],
                               .N = shape[1],
                               .K = shape[2],
                               .transpose_a = ta != 0,
                               .transpose_b = tb != 0,
                               .type = type,
                               .right = round && ta == 0 ? DLM_RIGHT_FLOAT : DLM_RIGHT_ROWS};
        const timing t = time_product(compute, &p, seconds);
        const double gflop = 2e-9 * (double)p.M * (double)p.N * (double)p.K;
        printf("{\"seconds\": %.6g, \"gflops\": %.6g, \"gflops_per_cpu_second\": %.6g}\n", t.seconds,
               gflop / t.seconds, gflop / t.cpu_seconds);
    }
    return 0;
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
    return usage();
}
