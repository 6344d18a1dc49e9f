/* What the tests of src/compute share: contexts of every instruction set, random inputs, guarded buffers. */
#ifndef DLM_TESTS_COMPUTE_CASES_H
#define DLM_TESTS_COMPUTE_CASES_H

#include "check.h"
#include "compute/compute.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED __attribute__((unused))

/* Calls body with the plain loops (one thread) and each instruction set of this machine, on 1 and 3 threads.
 */
UNUSED static void for_each_isa(void (*body)(dlm_compute *plain, dlm_compute *compute)) {
    dlm_compute *plain = NULL;
    dlm_error err;
    REQUIRE_OK(dlm__compute_create("reference", &plain, &err), &err);
    for (size_t i = 0; dlm__isa_name(i) != NULL; i++) {
        if (!dlm__isa_available(dlm__isa_name(i))) continue;
        for (size_t threads = 1; threads <= 3; threads += 2) {
            dlm_compute *compute = NULL;
            dlm_set_threads(threads);
            if (CHECK_OK(dlm__compute_create(dlm__isa_name(i), &compute, &err), &err)) {
                check_context("%s, %zu threads", dlm__isa_name(i), threads);
                body(plain, compute);
                CHECK_OK(dlm__compute_status(compute, &err), &err);
            }
            dlm__compute_free(compute);
        }
    }
    check_context("%s", "");
    dlm_set_threads(0);
    dlm__compute_free(plain);
}

/* Memory of n elements of `size` bytes with a guard of 64 bytes behind it; freed by buffer_free, which checks
 * the guard. */
typedef struct buffer {
    void *x;
    size_t bytes;
} buffer;

enum { GUARD = 64, GUARD_BYTE = 0xA5 };

UNUSED static buffer buffer_make(size_t n, size_t size) {
    buffer b = {malloc(n * size + GUARD), n * size};
    if (b.x == NULL) abort();
    memset(b.x, GUARD_BYTE, n * size + GUARD);
    return b;
}

UNUSED static void buffer_free(buffer b) {
    const unsigned char *guard = (const unsigned char *)b.x + b.bytes;
    bool intact = true;
    for (size_t i = 0; i < GUARD; i++) intact = intact && guard[i] == GUARD_BYTE;
    CHECK(intact);
    free(b.x);
}

/* n floats: normal with the given scale. */
UNUSED static float *random_floats(size_t n, double scale, uint32_t stream) {
    dlm_rng rng = dlm__rng(7, DLM_RNG_TEST, stream, (uint32_t)n);
    float *x = malloc((n + 1) * sizeof *x);
    if (x == NULL) abort();
    for (size_t i = 0; i < n; i++) x[i] = (float)(scale * dlm__rng_normal(&rng));
    return x;
}

UNUSED static float *copy_floats(const float *x, size_t n) {
    float *y = malloc((n + 1) * sizeof *y);
    if (y == NULL) abort();
    memcpy(y, x, n * sizeof *y);
    return y;
}

UNUSED static int32_t *random_ids(size_t n, size_t below, uint32_t stream) {
    dlm_rng rng = dlm__rng(7, DLM_RNG_TEST, stream, (uint32_t)n);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (ids == NULL) abort();
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)dlm__rng_below(&rng, below);
    return ids;
}

UNUSED static float bf16_value(dlm_bf16 x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* x (n) of `type` as floats; free() it. */
UNUSED static float *as_floats(const void *x, dlm_dtype type, size_t n) {
    float *y = malloc((n + 1) * sizeof *y);
    if (y == NULL) abort();
    for (size_t i = 0; i < n; i++)
        y[i] = type == DLM_BF16 ? bf16_value(((const dlm_bf16 *)x)[i]) : ((const float *)x)[i];
    return y;
}

/* The worst |got - want| / (1 + |want|) is within tolerance; bfloat16 may be one unit (2^-7) off. Equal
 * infinities and two NaN agree. */
UNUSED static void check_agree(const void *got, const void *want, dlm_dtype type, size_t n, double tolerance,
                               const char *what) {
    float *a = as_floats(got, type, n), *b = as_floats(want, type, n);
    double worst = 0;
    size_t where = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i])) continue;
        if (isinf(b[i]) && a[i] == b[i]) continue;
        double off = fabs((double)a[i] - (double)b[i]) / (1 + fabs((double)b[i]));
        if (isnan(off)) off = INFINITY;
        if (off > worst) {
            worst = off;
            where = i;
        }
    }
    if (type == DLM_BF16) tolerance += 1.0 / 128;
    if (!CHECK(worst <= tolerance))
        printf("  %s: element %zu of %zu is %.9g, not %.9g\n", what, where, n, (double)a[where],
               (double)b[where]);
    free(a);
    free(b);
}

/* Segments of assorted lengths, 0 and 1 among them. */
static const size_t mixed_offsets[] = {0, 1, 1, 38, 45, 45, 145, 301, 302};
UNUSED static const dlm_segments mixed = {8, mixed_offsets};
enum { MIXED_ROWS = 302 };

#endif
