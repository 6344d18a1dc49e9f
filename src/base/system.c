/* Clock and threads. */
#include "base/base.h"

#include <limits.h>
#include <omp.h>
#include <time.h>

double dlm__seconds(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void dlm_set_threads(size_t n) {
    int threads = n == 0 ? omp_get_num_procs() : n > INT_MAX ? INT_MAX : (int)n;
    omp_set_num_threads(threads);
}

size_t dlm__threads(void) {
    return (size_t)omp_get_max_threads();
}

void dlm__parallel_for(size_t n, void (*body)(void *context, size_t i), void *context) {
#pragma omp parallel for schedule(dynamic, 1) if (n > 1)
    for (size_t i = 0; i < n; i++) body(context, i);
}
