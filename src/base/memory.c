/* Checked sizes, allocation, and the arena. */
#include "base/base.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Pages of this size, where the system has them, and where so much is asked for that they pay. */
#define LARGE_PAGE ((size_t)2 << 20)
#define LARGE      ((size_t)4 << 20)

bool dlm__size_mul(size_t a, size_t b, size_t *out) {
    *out = a * b;
    return a == 0 || b <= SIZE_MAX / a;
}

bool dlm__size_add(size_t a, size_t b, size_t *out) {
    *out = a + b;
    return b <= SIZE_MAX - a;
}

size_t dlm__round_up(size_t n, size_t multiple) {
    size_t rest = n % multiple;
    return rest == 0 ? n : n + (multiple - rest);
}

void *dlm__calloc(size_t count, size_t size) {
    size_t bytes;
    if (!dlm__size_mul(count, size, &bytes)) return NULL;
    return calloc(bytes > 0 ? bytes : 1, 1);
}

void *dlm__grow(void *array, size_t *capacity, size_t need, size_t size) {
    if (array != NULL && need <= *capacity) return array;
    size_t next = *capacity > 16 ? *capacity : 16;
    while (next < need) {
        if (!dlm__size_mul(next, 2, &next)) return NULL;
    }
    size_t bytes;
    if (!dlm__size_mul(next, size, &bytes)) return NULL;
    void *grown = realloc(array, bytes);
    if (grown != NULL) *capacity = next;
    return grown;
}

void *dlm__aligned(size_t count, size_t size) {
    size_t bytes;
    if (!dlm__size_mul(count, size, &bytes) || bytes > SIZE_MAX - LARGE_PAGE) return NULL;
    if (bytes < LARGE) return aligned_alloc(DLM_ALIGN, dlm__round_up(bytes, DLM_ALIGN));
    bytes = dlm__round_up(bytes, LARGE_PAGE);
    void *memory = aligned_alloc(LARGE_PAGE, bytes);
#ifdef MADV_HUGEPAGE
    if (memory != NULL) (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

/* Advice on the whole pages of some memory. */
static void advise(void *memory, size_t bytes, int advice) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), begin = dlm__round_up((uintptr_t)memory, page),
                 end = ((uintptr_t)memory + bytes) / page * page;
    if (end > begin) (void)madvise((char *)memory + (begin - (uintptr_t)memory), end - begin, advice);
}

void dlm__forget_values(void *memory, size_t bytes) {
#ifdef MADV_DONTNEED
    advise(memory, bytes, MADV_DONTNEED);
#endif
}

void dlm__expect_gaps(void *memory, size_t bytes) {
#ifdef MADV_NOHUGEPAGE
    advise(memory, bytes, MADV_NOHUGEPAGE);
#endif
}

char *dlm__copy_bytes(const void *bytes, size_t n) {
    size_t size;
    char *copy = dlm__size_add(n, 1, &size) ? malloc(size) : NULL;
    if (copy == NULL) return NULL;
    if (n > 0) memcpy(copy, bytes, n);
    copy[n] = 0;
    return copy;
}

void *dlm__arena_take(dlm_arena *arena, size_t count, size_t size) {
    size_t bytes, used;
    if (!dlm__size_mul(count, size, &bytes) || !dlm__size_add(bytes, DLM_ALIGN - 1, &bytes) ||
        !dlm__size_add(arena->used, bytes / DLM_ALIGN * DLM_ALIGN, &used)) {
        arena->overflow = true;
        return NULL;
    }
    unsigned char *taken = NULL;
    if (arena->base != NULL) {
        assert(used <= arena->size);
        taken = arena->base + arena->used;
    }
    arena->used = used;
    return taken;
}

dlm_status dlm__arena_allocate(dlm_arena *arena, const char *what, dlm_error *err) {
    size_t bytes = arena->used > 0 ? arena->used : DLM_ALIGN;
    if (arena->overflow) return dlm__fail_memory(err, what, SIZE_MAX);
    const size_t align = bytes < LARGE ? DLM_ALIGN : LARGE_PAGE;
    /* What comes fresh from the system is zero already, and not touched before it is used. */
    arena->block = bytes <= SIZE_MAX - align ? calloc(bytes + align, 1) : NULL;
    if (arena->block == NULL) return dlm__fail_memory(err, what, bytes);
    arena->base = arena->block + (align - (uintptr_t)arena->block % align);
#ifdef MADV_HUGEPAGE
    if (bytes >= LARGE) (void)madvise(arena->base, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
    arena->size = bytes;
    arena->used = 0;
    return DLM_OK;
}

void dlm__arena_free(dlm_arena *arena) {
    free(arena->block);
    *arena = (dlm_arena){0};
}

void dlm_free(void *memory) {
    free(memory);
}
