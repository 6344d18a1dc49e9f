/* Ranks that are threads of one process, on a wire of its memory: what a test needs no MPI for. */
#ifndef DLM_TESTS_RANKS_FIXTURE_H
#define DLM_TESTS_RANKS_FIXTURE_H

#include "check.h"

#include "ranks/ranks.h"
#include "ranks/wire.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS_MAX = 8, NOBODY = RANKS_MAX };

typedef struct transfer {
    bool under_way, done;
    const void *from;
    void *to;
    size_t n;
} transfer;

typedef struct transfers { /* from one rank to another, in their order */
    transfer *list[DLM_WIRE_SLOTS];
    size_t n;
} transfers;

typedef struct thread_wire {
    dlm_wire base;
    struct thread_meeting *meeting;
    transfer slots[DLM_WIRE_SLOTS];
} thread_wire;

typedef struct thread_meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t size, gone;
    thread_wire wires[RANKS_MAX];
    transfers sent[RANKS_MAX][RANKS_MAX], wanted[RANKS_MAX][RANKS_MAX];
} thread_meeting;

static inline transfer *take_first(transfers *queue) {
    transfer *first = queue->list[0];
    queue->n--;
    memmove(queue->list, queue->list + 1, queue->n * sizeof *queue->list);
    return first;
}

static inline dlm_status post(thread_wire *w, size_t slot, size_t from, size_t to, bool sends, transfer t) {
    thread_meeting *m = w->meeting;
    (void)pthread_mutex_lock(&m->lock);
    if (w->slots[slot].under_way || t.n == 0 || t.n > DLM_WIRE_MOST) abort(); /* not as wire.h has it */
    t.under_way = true;
    w->slots[slot] = t;
    transfers *sent = &m->sent[from][to], *wanted = &m->wanted[from][to];
    transfers *queue = sends ? sent : wanted;
    queue->list[queue->n++] = &w->slots[slot];
    /* Where a rank is gone the others may have given up what they were waiting for. */
    while (sent->n > 0 && wanted->n > 0 && m->gone == NOBODY) {
        transfer *a = take_first(sent), *b = take_first(wanted);
        if (a->n != b->n) abort(); /* the ranks do not do the same */
        memcpy(b->to, a->from, a->n);
        a->done = b->done = true;
    }
    (void)pthread_cond_broadcast(&m->changed);
    (void)pthread_mutex_unlock(&m->lock);
    return DLM_OK;
}

static inline dlm_status thread_send(dlm_wire *wire, size_t slot, size_t to, const void *bytes, size_t n,
                                     dlm_error *err) {
    (void)err;
    return post((thread_wire *)wire, slot, wire->rank, to, true, (transfer){.from = bytes, .n = n});
}

static inline dlm_status thread_receive(dlm_wire *wire, size_t slot, size_t from, void *bytes, size_t n,
                                        dlm_error *err) {
    (void)err;
    return post((thread_wire *)wire, slot, from, wire->rank, false, (transfer){.to = bytes, .n = n});
}

static inline dlm_status thread_wait(dlm_wire *wire, size_t slot, dlm_error *err) {
    thread_wire *w = (thread_wire *)wire;
    thread_meeting *m = w->meeting;
    transfer *t = &w->slots[slot];
    (void)pthread_mutex_lock(&m->lock);
    while (t->under_way && !t->done && m->gone == NOBODY) (void)pthread_cond_wait(&m->changed, &m->lock);
    const bool lost = t->under_way && !t->done;
    const size_t gone = m->gone;
    t->under_way = false;
    (void)pthread_mutex_unlock(&m->lock);
    return lost ? dlm__fail(err, DLM_NETWORK, "rank %zu of %zu is gone", gone, wire->size) : DLM_OK;
}

static inline void thread_close(dlm_wire *wire, bool lost) {
    (void)wire;
    (void)lost;
}

/* A rank that calls this, and then returns, has died. */
static inline void die(thread_meeting *m, size_t rank) {
    (void)pthread_mutex_lock(&m->lock);
    m->gone = rank;
    (void)pthread_cond_broadcast(&m->changed);
    (void)pthread_mutex_unlock(&m->lock);
}

typedef struct rank_of {
    thread_meeting *meeting;
    size_t rank;
    void (*body)(void *context, dlm_ranks *ranks, thread_meeting *meeting);
    void *context;
} rank_of;

static inline void *run_rank(void *given) {
    static const dlm_wire_calls calls = {thread_send, thread_receive, thread_wait, thread_close};
    const rank_of *r = given;
    dlm_error err;
    dlm_ranks *ranks;
    thread_wire *wire = &r->meeting->wires[r->rank];
    wire->base =
        (dlm_wire){.calls = &calls, .rank = r->rank, .size = r->meeting->size, .sharers = r->meeting->size};
    wire->meeting = r->meeting;
    dlm_set_threads(1);
    if (CHECK_OK(dlm__ranks_create(&wire->base, &ranks, &err), &err)) {
        r->body(r->context, ranks, r->meeting);
        dlm_ranks_close(ranks);
    }
    return NULL;
}

/* Calls body on `size` ranks at once. */
static inline void
on_ranks(size_t size, void (*body)(void *context, dlm_ranks *ranks, thread_meeting *meeting), void *context) {
    thread_meeting *m = calloc(1, sizeof *m);
    pthread_t threads[RANKS_MAX];
    rank_of all[RANKS_MAX];
    if (m == NULL || size > RANKS_MAX) abort();
    m->size = size;
    m->gone = NOBODY;
    (void)pthread_mutex_init(&m->lock, NULL);
    (void)pthread_cond_init(&m->changed, NULL);
    for (size_t i = 0; i < size; i++) {
        all[i] = (rank_of){.meeting = m, .rank = i, .body = body, .context = context};
        if (pthread_create(&threads[i], NULL, run_rank, &all[i]) != 0) abort();
    }
    for (size_t i = 0; i < size; i++) (void)pthread_join(threads[i], NULL);
    (void)pthread_mutex_destroy(&m->lock);
    (void)pthread_cond_destroy(&m->changed);
    free(m);
}

#endif
