/* Matrix products by oneDNN's C API, of versions 2 and 3.
 *
 * Preparing a product (choosing and generating its code) costs about a millisecond, running it far less, so
 * each is prepared once and kept in a hash table with the memory objects it runs on, whose addresses are set
 * anew at every call. */
#include "compute/context.h"

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>

enum { SOURCE, WEIGHTS, BIAS, TARGET, OPERANDS };

/* What distinguishes one prepared product from another. */
typedef struct shape {
    dlm_product product;
    dlm_strides strides;
    bool bias;
    size_t threads; /* oneDNN divides the work when it prepares */
} shape;

typedef struct prepared {
    shape shape;
    dnnl_primitive_t primitive; /* NULL: the slot is free */
    dnnl_memory_t memory[OPERANDS];
} prepared;

struct dlm_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool has_bf16;
    prepared *table; /* open addressing, linear probing, at most half full */
    size_t capacity, used;
};

static dlm_status failed(dlm_error *err, dnnl_status_t status, const char *what, const dlm_product *p) {
    if (status == dnnl_out_of_memory)
        return dlm__fail(err, DLM_MEMORY, "out of memory while oneDNN %s the product (%zu, %zu) (%zu, %zu)",
                         what, p->M, p->K, p->K, p->N);
    return dlm__fail(err, DLM_COMPUTE, "oneDNN %s the product (%zu, %zu) (%zu, %zu), %s: status %d", what,
                     p->M, p->K, p->K, p->N,
                     p->type == DLM_I8     ? "int8"
                     : p->type == DLM_BF16 ? "bfloat16"
                                           : "float32",
                     (int)status);
}

/* ---- what differs between versions 2 and 3 ------------------------------------------------------------ */

#if DNNL_VERSION_MAJOR >= 3

typedef dnnl_memory_desc_t description;

static dnnl_status_t describe(description *d, const dnnl_dims_t dims, dnnl_data_type_t type,
                              const dnnl_dims_t strides) {
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}

static void forget(description *d) {
    if (*d != NULL) (void)dnnl_memory_desc_destroy(*d);
}

static dnnl_status_t make_memory(dnnl_memory_t *memory, const description *d, dnnl_engine_t engine) {
    return dnnl_memory_create(memory, *d, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t add_target(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0F, 0, dnnl_data_type_undef);
}

static dnnl_status_t make_plan(dnnl_primitive_desc_t *plan, dnnl_engine_t engine, const description *d,
                               bool bias, dnnl_primitive_attr_t attributes) {
    return dnnl_matmul_primitive_desc_create(plan, engine, d[SOURCE], d[WEIGHTS], bias ? d[BIAS] : NULL,
                                             d[TARGET], attributes);
}

#else

typedef dnnl_memory_desc_t description;

static dnnl_status_t describe(description *d, const dnnl_dims_t dims, dnnl_data_type_t type,
                              const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}

static void forget(description *d) {
    (void)d;
}

static dnnl_status_t make_memory(dnnl_memory_t *memory, const description *d, dnnl_engine_t engine) {
    return dnnl_memory_create(memory, d, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t add_target(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0F);
}

static dnnl_status_t make_plan(dnnl_primitive_desc_t *plan, dnnl_engine_t engine, const description *d,
                               bool bias, dnnl_primitive_attr_t attributes) {
    dnnl_matmul_desc_t matmul;
    dnnl_status_t status =
        dnnl_matmul_desc_init(&matmul, &d[SOURCE], &d[WEIGHTS], bias ? &d[BIAS] : NULL, &d[TARGET]);
    if (status != dnnl_success) return status;
    return dnnl_primitive_desc_create(plan, &matmul, attributes, engine, NULL);
}

#endif

/* ---- preparing ---------------------------------------------------------------------------------------- */

/* What an operand of a product of `type` holds; of integers A is without sign. */
static dnnl_data_type_t type_of(int operand, dlm_dtype type) {
    if (type == DLM_I8) return operand == SOURCE ? dnnl_u8 : operand == WEIGHTS ? dnnl_s8 : dnnl_s32;
    return type == DLM_BF16 && operand <= WEIGHTS ? dnnl_bf16 : dnnl_f32;
}

/* A (rows, columns) matrix whose rows are `stride` elements apart, or that is stored transposed. */
static dnnl_status_t describe_matrix(description *d, size_t rows, size_t columns, size_t stride,
                                     bool transposed, dnnl_data_type_t type) {
    const dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)columns};
    const dnnl_dims_t strides = {transposed ? 1 : (dnnl_dim_t)stride, transposed ? (dnnl_dim_t)stride : 1};
    return describe(d, dims, type, strides);
}

static dnnl_status_t describe_operands(description *d, const shape *s) {
    const dlm_product *p = &s->product;
    const dlm_dtype type = p->type;
    dnnl_status_t status =
        describe_matrix(&d[SOURCE], p->M, p->K, s->strides.A, p->transpose_a, type_of(SOURCE, type));
    if (status == dnnl_success)
        status =
            describe_matrix(&d[WEIGHTS], p->K, p->N, s->strides.B, p->transpose_b, type_of(WEIGHTS, type));
    if (status == dnnl_success) status = describe_matrix(&d[BIAS], 1, p->N, p->N, false, type_of(BIAS, type));
    if (status == dnnl_success)
        status = describe_matrix(&d[TARGET], p->M, p->N, s->strides.Y, false, type_of(TARGET, type));
    return status;
}

static dnnl_status_t plan_product(dnnl_primitive_desc_t *plan, const description *d, const shape *s,
                                  dnnl_engine_t engine) {
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(&attributes);
    if (status == dnnl_success && s->product.accumulate) {
        status = dnnl_post_ops_create(&ops);
        if (status == dnnl_success) status = add_target(ops);
        if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(attributes, ops);
    }
    if (status == dnnl_success) status = make_plan(plan, engine, d, s->bias, attributes);
    if (ops != NULL) (void)dnnl_post_ops_destroy(ops);
    if (attributes != NULL) (void)dnnl_primitive_attr_destroy(attributes);
    return status;
}

static void release(prepared *entry) {
    for (int i = 0; i < OPERANDS; i++)
        if (entry->memory[i] != NULL) (void)dnnl_memory_destroy(entry->memory[i]);
    if (entry->primitive != NULL) (void)dnnl_primitive_destroy(entry->primitive);
    *entry = (prepared){.primitive = NULL};
}

/* Fills the free slot `entry` for shape s; on failure it stays free. */
static dnnl_status_t prepare(prepared *entry, const shape *s, dnnl_engine_t engine) {
    description d[OPERANDS] = {0};
    dnnl_primitive_desc_t plan = NULL;
    dnnl_status_t status = describe_operands(d, s);
    if (status == dnnl_success) status = plan_product(&plan, d, s, engine);
    if (status == dnnl_success) status = dnnl_primitive_create(&entry->primitive, plan);
    for (int i = 0; i < OPERANDS && status == dnnl_success; i++)
        status = make_memory(&entry->memory[i], &d[i], engine);
    if (plan != NULL) (void)dnnl_primitive_desc_destroy(plan);
    for (int i = 0; i < OPERANDS; i++) forget(&d[i]);
    entry->shape = *s;
    if (status != dnnl_success) release(entry);
    return status;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

static bool same(const shape *a, const shape *b) {
    const dlm_product *p = &a->product, *q = &b->product;
    return p->M == q->M && p->N == q->N && p->K == q->K && p->transpose_a == q->transpose_a &&
           p->transpose_b == q->transpose_b && p->accumulate == q->accumulate && p->type == q->type &&
           a->strides.A == b->strides.A && a->strides.B == b->strides.B && a->strides.Y == b->strides.Y &&
           a->bias == b->bias && a->threads == b->threads;
}

static size_t place(const shape *s, size_t capacity) {
    const dlm_product *p = &s->product;
    const uint64_t fields[] = {
        p->M,
        p->N,
        p->K,
        s->strides.A,
        s->strides.B,
        s->strides.Y,
        s->threads,
        (uint64_t)p->transpose_a | (uint64_t)p->transpose_b << 1 | (uint64_t)p->accumulate << 2 |
            (uint64_t)s->bias << 3 | (uint64_t)p->type << 4,
    };
    return (size_t)dlm__hash(fields, sizeof fields, 0) & (capacity - 1);
}

/* The slot of shape s: the one that holds it, or a free one. The table has a free slot. */
static prepared *slot(prepared *table, size_t capacity, const shape *s) {
    size_t i = place(s, capacity);
    while (table[i].primitive != NULL && !same(&table[i].shape, s)) i = (i + 1) & (capacity - 1);
    return &table[i];
}

static bool make_room(dlm_onednn *onednn) {
    if (2 * (onednn->used + 1) <= onednn->capacity) return true;
    const size_t capacity = onednn->capacity == 0 ? 64 : 2 * onednn->capacity;
    prepared *table = dlm__calloc(capacity, sizeof *table);
    if (table == NULL) return false;
    for (size_t i = 0; i < onednn->capacity; i++)
        if (onednn->table[i].primitive != NULL)
            *slot(table, capacity, &onednn->table[i].shape) = onednn->table[i];
    free(onednn->table);
    onednn->table = table;
    onednn->capacity = capacity;
    return true;
}

/* ---- signals ------------------------------------------------------------------------------------------ */

/* Float32 kernels of oneDNN that multiply without copying point the stack pointer to the begin of a buffer on
 * the heap where K is above 128 (jit_avx_gemm_f32; seen in version 2.6 with AVX2). A signal handler that runs
 * on such a thread writes below the buffer, into memory that is someone else's. So whoever multiplies takes
 * no signals meanwhile: the caller until the product is done, the other threads of OpenMP, which have no use
 * for any, for good. */
static _Thread_local bool deaf;

/* All but those that a fault of the thread's own raises. */
static void block_signals(sigset_t *before) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t set;
    (void)sigfillset(&set);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) (void)sigdelset(&set, faults[i]);
    (void)pthread_sigmask(SIG_BLOCK, &set, before);
}

/* Threads come and go as teams of other sizes work; where none did, the region would cost more than a small
 * product. */
static void deafen_others(void) {
    const size_t threads = dlm__threads();
    if (threads == 1 || !dlm__team_changed()) return;
#pragma omp parallel num_threads((int)threads)
    if (!deaf && omp_get_thread_num() != 0) {
        block_signals(NULL);
        deaf = true;
    }
    dlm__team_settled();
}

/* ---- interface ---------------------------------------------------------------------------------------- */

dlm_status dlm__onednn_create(dlm_onednn **onednn, dlm_error *err) {
    dlm_onednn *made = dlm__calloc(1, sizeof *made);
    *onednn = made;
    if (made == NULL) return dlm__fail_memory(err, "oneDNN", sizeof *made);
    dnnl_status_t status = dnnl_engine_create(&made->engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = dnnl_stream_create(&made->stream, made->engine, dnnl_stream_default_flags);
    if (status != dnnl_success)
        return dlm__fail(err, DLM_COMPUTE, "oneDNN has no processor to run on: status %d", (int)status);
    const shape probe = {.product = {.M = 16, .N = 16, .K = 16, .type = DLM_BF16},
                         .strides = {16, 16, 16},
                         .threads = dlm__threads()};
    prepared entry = {.primitive = NULL};
    made->has_bf16 = prepare(&entry, &probe, made->engine) == dnnl_success;
    release(&entry);
    return DLM_OK;
}

void dlm__onednn_free(dlm_onednn *onednn) {
    if (onednn == NULL) return;
    for (size_t i = 0; i < onednn->capacity; i++) release(&onednn->table[i]);
    free(onednn->table);
    if (onednn->stream != NULL) (void)dnnl_stream_destroy(onednn->stream);
    if (onednn->engine != NULL) (void)dnnl_engine_destroy(onednn->engine);
    free(onednn);
}

bool dlm__onednn_has_bf16(const dlm_onednn *onednn) {
    return onednn->has_bf16;
}

bool dlm__onednn_may_use(dlm_isa_limit set) {
    static const unsigned sets[] = {[DLM_LIMIT_AVX2] = dnnl_cpu_isa_avx2,
                                    [DLM_LIMIT_AVX512] = dnnl_cpu_isa_avx512_core,
                                    [DLM_LIMIT_VNNI] = dnnl_cpu_isa_avx512_core_vnni,
                                    [DLM_LIMIT_BF16] = dnnl_cpu_isa_avx512_core_bf16,
                                    [DLM_LIMIT_AMX] = dnnl_cpu_isa_avx512_core_amx};
    return ((unsigned)dnnl_get_effective_cpu_isa() & sets[set]) == sets[set];
}

/* Without VNNI its products of bytes saturate. */
bool dlm__onednn_int8_exact(void) {
    return dlm__onednn_may_use(DLM_LIMIT_VNNI);
}

bool dlm__onednn_has_amx(void) {
    return dlm__onednn_may_use(DLM_LIMIT_AMX);
}

/* With AMX it is many times faster; with the vector instruction alone twice on AMD's processors, and half as
 * fast on Intel's (measured; oneDNN 2.6 and Zen 4, Sapphire Rapids with its AMX hidden). */
bool dlm__onednn_bf16_fast(void) {
    if (dlm__onednn_has_amx()) return true;
#if defined(__x86_64__)
    return dlm__onednn_may_use(DLM_LIMIT_BF16) && __builtin_cpu_is("amd");
#else
    return false;
#endif
}

static dlm_status run(dlm_onednn *onednn, const shape *s, const void *A, const void *B, const float *bias,
                      void *Y, dlm_error *err) {
    const dlm_product *product = &s->product;
    if (!make_room(onednn)) return dlm__fail_memory(err, "prepared products", onednn->capacity);
    prepared *entry = slot(onednn->table, onednn->capacity, s);
    if (entry->primitive == NULL) {
        const dnnl_status_t status = prepare(entry, s, onednn->engine);
        if (status != dnnl_success) return failed(err, status, "could not prepare", product);
        onednn->used++;
    }
    /* The library takes every address as writable, but writes the target alone. */
    void *const address[OPERANDS] = {(void *)A, (void *)B, (void *)bias, Y};
    static const int role[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST};
    dnnl_exec_arg_t arguments[OPERANDS];
    int count = 0;
    for (int i = 0; i < OPERANDS; i++) {
        if (address[i] == NULL) continue;
        (void)dnnl_memory_set_data_handle(entry->memory[i], address[i]);
        arguments[count++] = (dnnl_exec_arg_t){role[i], entry->memory[i]};
    }
    sigset_t before;
    block_signals(&before);
    deafen_others();
    dnnl_status_t status = dnnl_primitive_execute(entry->primitive, onednn->stream, count, arguments);
    if (status == dnnl_success) status = dnnl_stream_wait(onednn->stream);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status == dnnl_success ? DLM_OK : failed(err, status, "could not run", product);
}

/* What is divided among so many threads is left undone in part where OpenMP then gives fewer. */
dlm_status dlm__onednn_product(dlm_onednn *onednn, const dlm_product *product, dlm_strides strides,
                               const void *A, const void *B, const float *bias, void *Y, dlm_error *err) {
    const int most = omp_get_max_threads(), dynamic = omp_get_dynamic();
    const shape s = {
        .product = *product, .strides = strides, .bias = bias != NULL, .threads = dlm__threads()};
    omp_set_num_threads((int)s.threads);
    omp_set_dynamic(0);
    const dlm_status status = run(onednn, &s, A, B, bias, Y, err);
    omp_set_num_threads(most);
    omp_set_dynamic(dynamic);
    return status;
}
