/* Signals while products are made: no handler may run where the stack pointer is not on the thread's stack,
 * as oneDNN has it within some of its kernels (product_onednn.c). */
#include "check.h"

#include "base/base.h"
#include "compute/compute.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

enum { STACK = 16 << 20, MICROSECONDS = 200 };

static const size_t shapes[][3] = {
    {64, 64, 256}, {64, 256, 256}, {256, 64, 64}, {384, 384, 384}}; /* M, N, K */

static _Thread_local const char *base; /* somewhere near the begin of the thread's stack */
static volatile sig_atomic_t signals, astray;

static void look(int signal) {
    (void)signal;
    const char here = 0;
    const intptr_t used = (intptr_t)base - (intptr_t)&here;
    signals++;
    if (base != NULL && (used < 0 || used > STACK)) astray++;
}

/* A signal every so many microseconds, to a thread that the system chooses; 0: none any more. */
static bool send_signals(suseconds_t every) {
    const struct itimerval timer = {{0, every}, {0, every}};
    return setitimer(ITIMER_REAL, &timer, NULL) == 0;
}

static void one_product(dlm_compute *compute, const size_t *shape, bool transpose_a, bool transpose_b) {
    const size_t M = shape[0], N = shape[1], K = shape[2];
    float *A = dlm__calloc(M * K, sizeof *A), *B = dlm__calloc(K * N, sizeof *B),
          *Y = dlm__calloc(M * N, sizeof *Y);
    REQUIRE(A != NULL && B != NULL && Y != NULL);
    const dlm_product product = {
        .M = M, .N = N, .K = K, .transpose_a = transpose_a, .transpose_b = transpose_b, .type = DLM_F32};
    const double end = dlm__seconds() + 0.15;
    while (dlm__seconds() < end) dlm__matmul(compute, &product, A, B, NULL, Y);
    free(A), free(B), free(Y);
}

TEST(handlers_run_on_the_stack) {
    const struct sigaction act = {.sa_handler = look};
    dlm_compute *compute = NULL;
    dlm_error err;
    REQUIRE(sigaction(SIGALRM, &act, NULL) == 0);
    REQUIRE_OK(dlm__compute_create(NULL, &compute, &err), &err);
#pragma omp parallel
    {
        const char there = 0;
        base = (const char *)((uintptr_t)&there + 4096);
    }
    CHECK(base != NULL);
    REQUIRE(send_signals(MICROSECONDS));
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (unsigned variant = 0; variant < 4; variant++)
            one_product(compute, shapes[k], (variant & 1) != 0, (variant & 2) != 0);
    CHECK(send_signals(0));
    CHECK(signals > 100); /* the caller takes them between products */
    CHECK_INT_EQ(astray, 0);
    CHECK_OK(dlm__compute_status(compute, &err), &err);
    dlm__compute_free(compute);
}
