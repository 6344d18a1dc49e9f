/* What every part of the library stands on: errors, checked sizes, memory, random numbers, files, clock,
 * threads.
 *
 * Nothing in src/base knows what a model is. One header serves the whole folder, since all of it is small and
 * nearly every file above needs most of it; each section names the .c file that holds it. */
#ifndef DLM_BASE_H
#define DLM_BASE_H

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__GNUC__)
#define DLM_PRINTF(at, first) __attribute__((format(printf, at, first)))
#else
#define DLM_PRINTF(at, first)
#endif

/* ---- errors (status.c) -------------------------------------------------------------------------------- */

/* Fills err (may be NULL) with status and the formatted message, and returns status: `return dlm__fail(...)`.
 * The message names the thing and the numbers, has no full stop, and fits in sizeof err->message (it is cut
 * if not). */
dlm_status dlm__fail(dlm_error *err, dlm_status status, const char *format, ...) DLM_PRINTF(3, 4);

/* The same with ": " and the text of errno value `code` appended; status is DLM_IO, or DLM_NOT_FOUND for
 * ENOENT. */
dlm_status dlm__fail_errno(dlm_error *err, int code, const char *format, ...) DLM_PRINTF(3, 4);

/* Out of memory while allocating `bytes` for `what`. */
dlm_status dlm__fail_memory(dlm_error *err, const char *what, size_t bytes);

#ifdef __clang_analyzer__ /* which cannot look into status.c, is told that failing never gives DLM_OK */
static inline dlm_status dlm__failed(dlm_status status) {
    if (status == DLM_OK) __builtin_unreachable();
    return status;
}
#define dlm__fail(...)        dlm__failed(dlm__fail(__VA_ARGS__))
#define dlm__fail_errno(...)  dlm__failed(dlm__fail_errno(__VA_ARGS__))
#define dlm__fail_memory(...) dlm__failed(dlm__fail_memory(__VA_ARGS__))
#endif

/* Returns from the calling function when `call` did not give DLM_OK. */
#define DLM_TRY(call)                                        \
    do {                                                     \
        dlm_status dlm_try_status = (call);                  \
        if (dlm_try_status != DLM_OK) return dlm_try_status; \
    } while (0)

/* ---- memory (memory.c) -------------------------------------------------------------------------------- */

#define DLM_ALIGN ((size_t)64) /* bytes: a cache line, and the widest vector */

/* a * b and a + b in *out; false when they do not fit size_t. */
bool dlm__size_mul(size_t a, size_t b, size_t *out);
bool dlm__size_add(size_t a, size_t b, size_t *out);
size_t dlm__round_up(size_t n, size_t multiple);

/* Memory for count * size bytes, zeroed; free() it. NULL when the product overflows or there is none. */
void *dlm__calloc(size_t count, size_t size);
/* array (from malloc, or NULL; *capacity elements of `size` bytes) grown, by doubling, to at least `need`
 * elements; returns where it now is. NULL, with array and *capacity as they were, when that does not fit. New
 * elements are not zeroed. */
void *dlm__grow(void *array, size_t *capacity, size_t need, size_t size);
/* Memory for count elements on cache lines, not set; free() it. NULL as dlm__calloc. What is large lies on
 * large pages where the system has them: half of the time in which weights are read would else go to the
 * faults of small ones. */
void *dlm__aligned(size_t count, size_t size);
/* A copy of n bytes with a 0 behind it; free() it. */
char *dlm__copy_bytes(const void *bytes, size_t n);

/* One block of memory, handed out in order. The layout function of a structure runs twice: once over an arena
 * with base NULL, where take() returns NULL and only counts; once over the block that was then allocated. */
typedef struct dlm_arena {
    unsigned char *block, *base; /* what was allocated, and its first aligned byte */
    size_t used, size;
    bool overflow; /* a size did not fit size_t while measuring */
} dlm_arena;

/* Tells the system that what lies there is not needed any more: whole pages of it take no memory until they
 * are written again. What is read there is undefined until then. */
void dlm__forget_values(void *memory, size_t bytes);
/* Tells the system that only some of what lies there will be written: it then comes by small pages. */
void dlm__expect_gaps(void *memory, size_t bytes);
/* count elements of `size` bytes, aligned to DLM_ALIGN. */
void *dlm__arena_take(dlm_arena *arena, size_t count, size_t size);
/* Allocates the measured `used` bytes, zeroed, and rewinds the arena to bind. */
dlm_status dlm__arena_allocate(dlm_arena *arena, const char *what, dlm_error *err);
void dlm__arena_free(dlm_arena *arena);

/* ---- random numbers (rng.c) --------------------------------------------------------------------------- */

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC 2011): the
 * numbers are a function of a key and a counter, so every use gets a stream of its own by its coordinates and
 * no state need be carried from one to the next. A stream has 2^33 64-bit numbers. */
typedef enum dlm_rng_purpose { /* keeps streams with equal coordinates apart; append only: saved runs depend
                                  on it */
                               DLM_RNG_INIT,     /* initial weights: a = parameter index */
                               DLM_RNG_SHUFFLE,  /* order of the corpus: a = epoch */
                               DLM_RNG_HELD_OUT, /* which documents are held out */
                               DLM_RNG_CORRUPT,  /* training corruption: a = step, b = index in the global
                                                    batch */
                               DLM_RNG_STRATA,   /* which stratum each sequence gets: a = step */
                               DLM_RNG_EVALUATE, /* masks of an evaluation: a = window, b = draw */
                               DLM_RNG_SAMPLE,   /* sampler: a = index of the sample, b = step */
                               DLM_RNG_LENGTH,   /* lengths of samples: a = index of the sample */
                               DLM_RNG_TEST,     /* tests */
                               DLM_RNG_REFINE,   /* refinement: a = index of the sample, b = pass */
                               DLM_RNG_BLOCK,    /* seeds of a long text's blocks: a = block */
                               DLM_RNG_FILL,     /* lengths of blanks: a = index of the text, b = blank */
                               DLM_RNG_MATCH,    /* documents to hold beside texts */
} dlm_rng_purpose;

typedef struct dlm_rng {
    uint32_t key[2];
    uint32_t counter[4]; /* block number, purpose, a, b */
    uint32_t block[4];   /* the current block of four numbers */
    uint32_t used;       /* how many of them were used */
} dlm_rng;

dlm_rng dlm__rng(uint64_t seed, dlm_rng_purpose purpose, uint32_t a, uint32_t b);
uint32_t dlm__rng_u32(dlm_rng *rng);
uint64_t dlm__rng_u64(dlm_rng *rng);
/* Uniform on [0, 1), a multiple of 2^-53. */
double dlm__rng_uniform(dlm_rng *rng);
/* Uniform on 0 .. n-1 without bias (n > 0). */
uint64_t dlm__rng_below(dlm_rng *rng, uint64_t n);
/* Standard normal (Box-Muller). */
double dlm__rng_normal(dlm_rng *rng);
/* Fills order (n) with a uniform permutation of 0 .. n-1 (n < 2^32). */
void dlm__rng_permutation(dlm_rng *rng, uint32_t *order, size_t n);

/* ---- files (file.c, output.c) ------------------------------------------------------------------------- */

/* A file mapped for reading. Free with dlm__unmap. An empty file gives bytes != NULL, size 0. */
typedef struct dlm_map {
    const unsigned char *bytes;
    size_t size;
} dlm_map;
dlm_status dlm__map(const char *path, dlm_map *map, dlm_error *err);
/* The same, with the file left open in *file, to close(). */
dlm_status dlm__map_open(const char *path, dlm_map *map, int *file, dlm_error *err);
void dlm__unmap(dlm_map *map);

/* A whole (small) file; *bytes gets size bytes and a 0 behind them; free() it. Refused above `limit` bytes.
 */
dlm_status dlm__read_file(const char *path, size_t limit, char **bytes, size_t *size, dlm_error *err);

bool dlm__is_file(const char *path);
bool dlm__is_dir(const char *path);
/* "dir/name"; free() it; NULL without memory. */
char *dlm__join(const char *dir, const char *name);
/* Makes path and its parents; not an error when they exist. */
dlm_status dlm__make_dirs(const char *path, dlm_error *err);
/* Removes a folder and all in it (links are removed, not followed); not an error when it does not exist. */
dlm_status dlm__remove_tree(const char *path, dlm_error *err);

/* fsync of the folder that path is in, which makes a rename in it last. */
dlm_status dlm__sync_parent(const char *path, dlm_error *err);

/* What a file or folder is called until it is whole: path.partial; free() it; NULL without memory. */
char *dlm__partial_name(const char *path);

/* A file written beside its final name and renamed when whole: create, write any number of times, then commit
 * (flush, fsync, rename, fsync the folder) or abort. The first error stays: later writes do nothing and
 * commit reports it. Path "-" writes standard output as it comes. */
typedef struct dlm_output dlm_output;
dlm_status dlm__output_create(const char *path, dlm_output **output, dlm_error *err);
void dlm__output_write(dlm_output *output, const void *bytes, size_t n);
void dlm__output_printf(dlm_output *output, const char *format, ...) DLM_PRINTF(2, 3);
uint64_t dlm__output_tell(const dlm_output *output);
/* Overwrites n bytes at `offset`, which were written before (a header whose counts are known last). An
 * error for what is written in place. */
void dlm__output_patch(dlm_output *output, uint64_t offset, const void *bytes, size_t n);
/* Frees output in either case. */
dlm_status dlm__output_commit(dlm_output *output, dlm_error *err);
void dlm__output_abort(dlm_output *output); /* accepts NULL */

/* Writes a whole small file the same way. */
dlm_status dlm__write_file(const char *path, const void *bytes, size_t n, dlm_error *err);

/* A folder made whole or not at all: begin gives the name of an empty folder beside `path` (free() it) into
 * which its files are written; end syncs it and renames it to path, which must not exist. What a killed run
 * left is cleared by the next begin. On failure the caller removes it with dlm__remove_tree. */
dlm_status dlm__folder_begin(const char *path, char **working, dlm_error *err);
dlm_status dlm__folder_end(const char *working, const char *path, dlm_error *err);
/* The same where there may be a folder `path`, which stays as it is until replace puts the new one in its
 * place, in one step where the file system can, and removes it. (Where it cannot and the program is killed
 * between two steps, the old one is left as path.partial.old.) */
dlm_status dlm__folder_begin_again(const char *path, char **working, dlm_error *err);
dlm_status dlm__folder_replace(const char *working, const char *path, dlm_error *err);

/* ---- hashes (hash.c) ---------------------------------------------------------------------------------- */

uint64_t dlm__hash(const void *bytes, size_t n,
                   uint64_t seed); /* XXH3, 64 bits: against accidents, not attackers */

/* CRC-32C (Castagnoli; RFC 3720, appendix B.4), as in the record files of TensorBoard. */
uint32_t dlm__crc32c(const void *bytes, size_t n);

/* ---- JSON (json.c: jansson) --------------------------------------------------------------------------- */

struct json_t;
/* Parses n bytes of JSON ("\u0000" allowed in strings); *json is a new reference. `name` is for messages.
 * Duplicate keys, bad UTF-8, anything behind the value: DLM_FORMAT with line and column. */
dlm_status dlm__json_parse(const char *name, const char *bytes, size_t n, struct json_t **json,
                           dlm_error *err);
/* The same from a file of at most DLM_JSON_LIMIT bytes. */
#define DLM_JSON_LIMIT ((size_t)256 << 20)
dlm_status dlm__json_load(const char *path, struct json_t **json, dlm_error *err);

/* ---- clock and threads (system.c) --------------------------------------------------------------------- */

/* Seconds on a clock that never goes back. */
double dlm__seconds(void);
/* Processors that this process may run on. */
size_t dlm__processors(void);
/* The threads that parallel work of the calling thread uses; set with dlm_set_threads. */
size_t dlm__threads(void);
/* Calls body(context, i) for i = 0 .. n-1, each once, on all threads, in any order. */
void dlm__parallel_for(size_t n, void (*body)(void *context, size_t i), void *context);

#endif
