/* diffusionlm: masked (absorbing-state) diffusion language models.
 *
 * This header is the manual of the library. It trains byte-level BPE tokenizers, turns text into token shards, trains
 * denoisers on them, measures likelihoods and samples texts.
 *
 * Words used throughout: B sequences, T tokens packed one sequence after the other, L sequence length, C channels
 * (hidden_size), H heads, V vocabulary. Token ids are int32_t, text is UTF-8 in (pointer, bytes) and may hold NUL bytes.
 *
 * Errors. Every call that can fail returns a dlm_status and, in its last argument (which may be NULL), a sentence that
 * names the thing and the numbers. The library never prints, never exits and keeps no global state; progress is a
 * callback that can cancel.
 *
 * Ownership. What a `load`, `create`, `open` or `train` call gives belongs to the caller and is freed by the `free` or
 * `close` of the same noun, which accepts NULL. A `const` pointer that a call returns belongs to the object asked.
 *
 * Threads. A dlm_model and a dlm_tokenizer are constant after they are made and can be used by many threads at once;
 * every other object by one at a time.
 *
 * Options are structs filled by a `dlm_*_defaults()` call and changed field by field; every call that takes one checks
 * it and says what is wrong. */
#ifndef DIFFUSIONLM_H
#define DIFFUSIONLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DLM_API __attribute__((visibility("default")))
#else
#define DLM_API
#endif

/* ---- version, errors, machine ------------------------------------------------------------------------------------ */

#define DLM_VERSION "0.1.0"
/* DLM_VERSION of the library in use. */
DLM_API const char *dlm_version(void);

/* X(name, text): the statuses and their texts. */
#define DLM_STATUSES(X)                                                                                                \
    X(DLM_OK, "ok")                                                                                                    \
    X(DLM_ARGUMENT, "an argument or option is out of range")                                                           \
    X(DLM_MEMORY, "out of memory")                                                                                     \
    X(DLM_IO, "reading or writing failed")                                                                             \
    X(DLM_NOT_FOUND, "no such file or folder")                                                                         \
    X(DLM_EXISTS, "already there, and not overwritten")                                                                \
    X(DLM_FORMAT, "a file is malformed, cut off or inconsistent")                                                      \
    X(DLM_MISMATCH, "files that do not belong together")                                                               \
    X(DLM_UNSUPPORTED, "not supported")                                                                                \
    X(DLM_CANCELLED, "stopped by the caller")                                                                          \
    X(DLM_NOT_FINITE, "a value became infinite or not a number")                                                       \
    X(DLM_COMPUTE, "a compute primitive failed")

typedef enum dlm_status {
#define X(name, text) name,
    DLM_STATUSES(X)
#undef X
} dlm_status;

typedef struct dlm_error {
    dlm_status status;
    char message[500]; /* one sentence, no full stop, no line break */
} dlm_error;

/* The text of a status; of an unknown one "unknown status". */
DLM_API const char *dlm_status_text(dlm_status status);

/* The threads that calls from this thread use: n, or all processors for 0. Initially all. */
DLM_API void dlm_set_threads(size_t n);
