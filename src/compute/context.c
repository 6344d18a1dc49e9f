/* The compute context: which instruction set, scratch memory, the first failure. */
#include "compute/context.h"

#include <stdlib.h>
#include <string.h>

#ifdef DLM_BACKEND_ONEDNN
#include <oneapi/dnnl/dnnl_version.h>
#endif

#if defined(__x86_64__)
#ifdef DLM_BACKEND_ONEDNN
#define ALLOWED(set) dlm__onednn_may_use(set)
#else
#define ALLOWED(set) true
#endif

static bool has_avx2(void) {
    return ALLOWED(DLM_LIMIT_AVX2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* The builtin also asks whether the operating system keeps the wide registers. */
static bool has_avx512(void) {
    return has_avx2() && ALLOWED(DLM_LIMIT_AVX512) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}

static bool has_avx512_bf16(void) {
    return has_avx512() && ALLOWED(DLM_LIMIT_BF16) && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bf16");
}
#endif

static bool always(void) {
    return true;
}

static const struct instruction_set {
    const dlm_kernels *kernels;
    bool (*available)(void);
} instruction_sets[] = {
#if defined(__x86_64__)
    {&dlm__kernels_avx512_bf16, has_avx512_bf16},
    {&dlm__kernels_avx512, has_avx512},
    {&dlm__kernels_avx2, has_avx2},
#endif
    {&dlm__kernels_baseline, always},
    {&dlm__kernels_reference, always},
};
static const size_t instruction_set_count = sizeof instruction_sets / sizeof *instruction_sets;

const char *dlm__isa_name(size_t i) {
    return i < instruction_set_count ? instruction_sets[i].kernels->name : NULL;
}

static const struct instruction_set *find(const char *isa) {
    for (size_t i = 0; i < instruction_set_count; i++)
        if (strcmp(instruction_sets[i].kernels->name, isa) == 0) return &instruction_sets[i];
    return NULL;
}

bool dlm__isa_available(const char *isa) {
    const struct instruction_set *set = find(isa);
    return set != NULL && set->available();
}

/* The build with plain loops alone runs on those unless it is asked for more. */
static const struct instruction_set *best(void) {
#ifdef DLM_BACKEND_ONEDNN
    const struct instruction_set *set = instruction_sets;
    while (!set->available()) set++;
    return set;
#else
    return &instruction_sets[instruction_set_count - 1];
#endif
}

const char *dlm_instruction_set(void) {
    return best()->kernels->name;
}

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

const char *dlm_backend(void) {
#ifdef DLM_BACKEND_ONEDNN
    return "oneDNN " TEXT(DNNL_VERSION_MAJOR) "." TEXT(DNNL_VERSION_MINOR) "." TEXT(DNNL_VERSION_PATCH);
#else
    return "reference";
#endif
}

dlm_status dlm__compute_create(const char *isa, dlm_compute **compute, dlm_error *err) {
    *compute = NULL;
    const struct instruction_set *set = isa == NULL ? best() : find(isa);
    if (set == NULL) return dlm__fail(err, DLM_UNSUPPORTED, "this build has no kernels for \"%s\"", isa);
    if (!set->available())
        return dlm__fail(err, DLM_UNSUPPORTED, "this machine lacks the instruction set \"%s\"",
                         set->kernels->name);
    dlm_compute *made = dlm__calloc(1, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "the compute context", sizeof *made);
    made->kernels = set->kernels;
#ifdef DLM_BACKEND_ONEDNN
    if (set->kernels != &dlm__kernels_reference) {
        dlm_status status = dlm__onednn_create(&made->onednn, err);
        if (status != DLM_OK) {
            dlm__compute_free(made);
            return status;
        }
        made->onednn_int8 =
            dlm__onednn_has_amx() || (set->kernels == &dlm__kernels_avx512 && dlm__onednn_int8_exact());
        made->pairs = set == best() && dlm__bf16_panels();
        made->widen_bf16 = !dlm__onednn_bf16_fast() || !dlm__onednn_has_bf16(made->onednn);
    }
#endif
    *compute = made;
    return DLM_OK;
}

dlm_status dlm__compute_another(const dlm_compute *compute, dlm_compute **another, dlm_error *err) {
    return dlm__compute_create(compute->kernels->name, another, err);
}

void dlm__compute_join(dlm_compute *compute, const dlm_compute *another) {
    if (compute->error.status == DLM_OK) compute->error = another->error;
}

void dlm__compute_free(dlm_compute *compute) {
    if (compute == NULL) return;
#ifdef DLM_BACKEND_ONEDNN
    dlm__onednn_free(compute->onednn);
#endif
    free(compute->scratch);
    free(compute);
}

/* Whether OpenMP may have ended threads of this one's team since dlm__team_settled, and begun others. */
static _Thread_local bool team_changed = true;

bool dlm__team_changed(void) {
    return team_changed;
}

void dlm__team_settled(void) {
    team_changed = false;
}

dlm_status dlm__compute_status(const dlm_compute *compute, dlm_error *err) {
    team_changed = true; /* a pass begins, or ends: what the caller runs in between is not known */
    if (compute->error.status != DLM_OK && err != NULL) *err = compute->error;
    return compute->error.status;
}

bool dlm__bf16_native(void) {
#ifdef DLM_BACKEND_ONEDNN
    return dlm__onednn_bf16_fast();
#else
    return false;
#endif
}

bool dlm__bf16_panels(void) {
#ifdef DLM_BACKEND_ONEDNN
    return best()->kernels == &dlm__kernels_avx512_bf16 && dlm__onednn_bf16_fast() && !dlm__onednn_has_amx();
#else
    return false;
#endif
}

size_t dlm__dtype_size(dlm_dtype type) {
    return type == DLM_F32 ? sizeof(float) : type == DLM_BF16 ? sizeof(dlm_bf16) : sizeof(int8_t);
}

/* Eight sizes for each doubling, all multiples of 16. */
size_t dlm__round_rows(const dlm_compute *compute, dlm_dtype type, size_t rows) {
    if (compute->onednn == NULL || (compute->pairs && type == DLM_BF16)) return rows;
    size_t unit = 16;
    while (rows / 16 >= unit) unit *= 2;
    return dlm__round_up(rows, unit);
}

int dlm__team(size_t n, size_t grain) {
    const size_t wanted = n / grain, threads = dlm__threads();
    if (wanted > 1 && wanted < threads) team_changed = true; /* the others of a larger team end */
    return (int)(wanted < 1 ? 1 : wanted < threads ? wanted : threads);
}

int dlm__cut(size_t row_units, size_t column_units, int team) {
    int best = 1;
    size_t least_work = SIZE_MAX;
    for (int parts = 1; parts <= team; parts++) {
        if (team % parts != 0) continue;
        const size_t across = (size_t)(team / parts), down = (size_t)parts;
        const size_t work = ((row_units + down - 1) / down) * ((column_units + across - 1) / across);
        if (work < least_work) {
            least_work = work;
            best = parts;
        }
    }
    return best;
}

float *dlm__scratch(dlm_compute *compute, size_t parts, size_t count, size_t *stride) {
    if (compute->error.status != DLM_OK) return NULL;
    const size_t floats = DLM_ALIGN / sizeof(float);
    size_t size = SIZE_MAX;
    *stride = count <= SIZE_MAX - floats ? dlm__round_up(count, floats) : SIZE_MAX;
    if (!dlm__size_mul(parts, *stride, &size) || !dlm__size_mul(size, sizeof(float), &size)) size = SIZE_MAX;
    if (size > compute->scratch_size) {
        free(compute->scratch);
        compute->scratch = size < SIZE_MAX / 2 ? aligned_alloc(DLM_ALIGN, size) : NULL;
        compute->scratch_size = compute->scratch == NULL ? 0 : size;
        if (compute->scratch == NULL) {
            (void)dlm__fail_memory(&compute->error, "the scratch of a primitive", size);
            return NULL;
        }
    }
    return (float *)(void *)compute->scratch;
}

size_t dlm__attention_scratch(size_t L, size_t D) {
    const size_t l = dlm__attention_stride(L), d = dlm__round_up(D, DLM_LANES);
    return 5 * l * d + DLM_QUERIES * 4 * (l + d);
}
