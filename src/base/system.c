/* Clock and threads. */
#include "base/base.h"

#include <omp.h>
#include <time.h>

/* An OpenMP runtime ends the process when it cannot start as many threads as it was told. */
enum { MOST_THREADS = 256 };

double dlm__seconds(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

size_t dlm__processors(void) {
    return (size_t)omp_get_num_procs();
}

void dlm_set_threads(size_t n) {
    size_t processors = dlm__processors();
    size_t most = processors > MOST_THREADS ? processors : MOST_THREADS;
    if (n == 0) n = processors;
    omp_set_num_threads((int)(n < most ? n : most));
}

/* As many as a team is given: what divides its work beforehand, as oneDNN does, relies on it. */
size_t dlm__threads(void) {
    const int most = omp_get_max_threads(), limit = omp_get_thread_limit();
    return omp_in_parallel() ? 1 : (size_t)(most < limit ? most : limit);
}

void dlm__parallel_for(size_t n, void (*body)(void *context, size_t i), void *context) {
#pragma omp parallel for schedule(dynamic, 1) if (n > 1)
    for (size_t i = 0; i < n; i++) body(context, i);
}
