/* The suffix automaton of several texts: see suffixes.h. */
#include "text/suffixes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define ROOT     ((uint32_t)0)
#define NO_STATE UINT32_MAX

enum { FIRST_SLOTS = 1 << 10 };

/* ---- edges -------------------------------------------------------------------------------------------- */

static inline size_t slot_of(uint32_t from, int32_t token, size_t slot_count) {
    uint64_t key = ((uint64_t)from << 32 | (uint32_t)token) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(key ^ key >> 32) & (slot_count - 1);
}

/* The edge, or the empty slot where it belongs. */
static inline dlm_suffix_edge *find(const dlm_suffixes *s, uint32_t from, int32_t token) {
    size_t at = slot_of(from, token, s->slot_count);
    while (s->slots[at].to != 0 && (s->slots[at].from != from || s->slots[at].token != token))
        at = (at + 1) & (s->slot_count - 1);
    return &s->slots[at];
}

/* The state behind the edge; 0 when there is none. */
static inline uint32_t follow(const dlm_suffixes *s, uint32_t from, int32_t token) {
    if (from != ROOT) return find(s, from, token)->to;
    return (size_t)token < s->first_count ? s->first[token] : 0;
}

/* Puts an edge that is not there yet into the table. */
static void place(dlm_suffixes *s, uint32_t from, int32_t token, uint32_t to) {
    dlm_suffix_edge *edge = find(s, from, token);
    *edge = (dlm_suffix_edge){.from = from, .to = to, .token = token, .next = s->states[from].edges};
    s->states[from].edges = (uint32_t)(edge - s->slots);
}

/* Twice as many slots; the lists of the states' edges are made anew, since they run through the table. Three
 * edges a token, the table two thirds full: the slots stay below 2^32. */
static dlm_status grow_slots(dlm_suffixes *s, dlm_error *err) {
    dlm_suffix_edge *old = s->slots;
    const size_t count = s->slot_count;
    dlm_suffix_edge *made = dlm__calloc(2 * count, sizeof *made);
    if (made == NULL) return dlm__fail_memory(err, "the suffixes of the texts", 2 * count * sizeof *made);
    s->slots = made;
    s->slot_count = 2 * count;
    for (size_t i = 0; i < s->n; i++) s->states[i].edges = DLM_NO_SLOT;
    for (size_t i = 0; i < count; i++)
        if (old[i].to != 0) place(s, old[i].from, old[i].token, old[i].to);
    free(old);
    return DLM_OK;
}

/* Room for n more edges. */
static dlm_status reserve(dlm_suffixes *s, size_t n, dlm_error *err) {
    while (3 * (s->edges + n) > 2 * s->slot_count) DLM_TRY(grow_slots(s, err));
    return DLM_OK;
}

static dlm_status grow_first(dlm_suffixes *s, int32_t token, dlm_error *err) {
    size_t capacity = s->first_count;
    uint32_t *grown = dlm__grow(s->first, &capacity, (size_t)token + 1, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(err, "the tokens of the texts", (size_t)token * sizeof *grown);
    memset(grown + s->first_count, 0, (capacity - s->first_count) * sizeof *grown);
    s->first = grown;
    s->first_count = capacity;
    return DLM_OK;
}

/* Lets an edge lead to `to`, whether it is there or not. */
static dlm_status set_edge(dlm_suffixes *s, uint32_t from, int32_t token, uint32_t to, dlm_error *err) {
    if (from == ROOT) {
        if ((size_t)token >= s->first_count) DLM_TRY(grow_first(s, token, err));
        s->first[token] = to;
        return DLM_OK;
    }
    dlm_suffix_edge *edge = find(s, from, token);
    if (edge->to != 0) {
        edge->to = to;
        return DLM_OK;
    }
    DLM_TRY(reserve(s, 1, err));
    place(s, from, token, to);
    s->edges++;
    return DLM_OK;
}

/* ---- states ------------------------------------------------------------------------------------------- */

static dlm_status add_state(dlm_suffixes *s, uint32_t link, uint32_t length, uint32_t *state,
                            dlm_error *err) {
    dlm_suffix_state *grown = dlm__grow(s->states, &s->capacity, s->n + 1, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(err, "the suffixes of the texts", (s->n + 1) * sizeof *grown);
    s->states = grown;
    *state = (uint32_t)s->n++;
    s->states[*state] = (dlm_suffix_state){.link = link, .length = length, .edges = DLM_NO_SLOT};
    return DLM_OK;
}

dlm_status dlm__suffixes_create(dlm_suffixes *s, dlm_error *err) {
    *s = (dlm_suffixes){.slot_count = FIRST_SLOTS};
    s->slots = dlm__calloc(s->slot_count, sizeof *s->slots);
    if (s->slots == NULL)
        return dlm__fail_memory(err, "the suffixes of the texts", FIRST_SLOTS * sizeof *s->slots);
    uint32_t root = ROOT;
    return add_state(s, NO_STATE, 0, &root, err);
}

void dlm__suffixes_free(dlm_suffixes *s) {
    free(s->states);
    free(s->slots);
    free(s->first);
    *s = (dlm_suffixes){0};
}

/* The substrings of q that are one longer than those of p, which comes to it by `token`, and shorter ones
 * now end at more places than the rest of q: they get a state of their own, *half. */
static dlm_status split(dlm_suffixes *s, uint32_t p, int32_t token, uint32_t q, uint32_t *half,
                        dlm_error *err) {
    DLM_TRY(add_state(s, s->states[q].link, s->states[p].length + 1, half, err));
    size_t edges = 0;
    for (uint32_t at = s->states[q].edges; at != DLM_NO_SLOT; at = s->slots[at].next) edges++;
    DLM_TRY(reserve(s, edges, err)); /* now, since the lists change when the table grows */
    for (uint32_t at = s->states[q].edges; at != DLM_NO_SLOT; at = s->slots[at].next)
        place(s, *half, s->slots[at].token, s->slots[at].to);
    s->edges += edges;
    s->states[q].link = *half;
    for (; p != NO_STATE && follow(s, p, token) == q; p = s->states[p].link)
        DLM_TRY(set_edge(s, p, token, *half, err));
    return DLM_OK;
}

/* The state of the substrings that end at places which `token` reaches from p: as they are, or split off. */
static dlm_status target(dlm_suffixes *s, uint32_t p, int32_t token, uint32_t *state, dlm_error *err) {
    const uint32_t q = follow(s, p, token);
    *state = q;
    return s->states[q].length == s->states[p].length + 1 ? DLM_OK : split(s, p, token, q, state, err);
}

/* The state of a text one token longer than that of *last. */
static dlm_status extend(dlm_suffixes *s, int32_t token, uint32_t *last, dlm_error *err) {
    uint32_t p = *last, state = ROOT, link = ROOT;
    if (follow(s, p, token) != 0) return target(s, p, token, last, err); /* another text went here before */
    DLM_TRY(add_state(s, ROOT, s->states[p].length + 1, &state, err));
    for (; p != NO_STATE && follow(s, p, token) == 0; p = s->states[p].link)
        DLM_TRY(set_edge(s, p, token, state, err));
    if (p != NO_STATE) DLM_TRY(target(s, p, token, &link, err));
    s->states[state].link = link;
    *last = state;
    return DLM_OK;
}

dlm_status dlm__suffixes_add(dlm_suffixes *s, const int32_t *ids, size_t n, dlm_error *err) {
    uint32_t last = ROOT;
    for (size_t i = 0; i < n; i++) DLM_TRY(extend(s, ids[i], &last, err));
    return DLM_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* Each token has one of 32 bits. */
static inline uint32_t bit_of(int32_t token) {
    return (uint32_t)1 << ((uint32_t)token * UINT32_C(0x9e3779b9) >> 27);
}

void dlm__suffixes_prepare(dlm_suffixes *s) {
    for (size_t i = 0; i < s->n; i++) s->states[i].edges = 0;
    for (size_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].to != 0) s->states[s->slots[i].from].edges |= bit_of(s->slots[i].token);
}

/* A place in the automaton, and the document that led there. Nearly every step goes to memory that no cache
 * holds, so some documents are read in turns: a step asks for what the next one of its lane will look at, and
 * by its turn that is there. */
typedef struct lane {
    const dlm_suffix_document *document;
    size_t at;              /* the token to be read next */
    uint32_t state, length; /* the longest suffix of what was read that is in the texts; in `state` */
    bool fell;              /* to a shorter suffix, the longest of that state: its length is read there */
} lane;

enum { LANES = 8 };

static inline int32_t token_at(const dlm_suffix_document *document, size_t i) {
    return document->width == 2 ? (int32_t)((const uint16_t *)document->tokens)[i]
                                : (int32_t)((const uint32_t *)document->tokens)[i];
}

/* found = max(found, length) */
static inline void note(atomic_uint_least32_t *found, uint32_t length) {
    uint_least32_t before = atomic_load_explicit(found, memory_order_relaxed);
    while (before < length && !atomic_compare_exchange_weak_explicit(
                                  found, &before, length, memory_order_relaxed, memory_order_relaxed))
        continue;
}

static inline void fetch(const dlm_suffixes *s, const lane *l) {
    __builtin_prefetch(&s->states[l->state]);
    if (l->at < l->document->n)
        __builtin_prefetch(&s->slots[slot_of(l->state, token_at(l->document, l->at), s->slot_count)]);
}

/* Looks at the state where the lane is, and goes on from there: by the next token, or to a shorter suffix.
 * False at the end of the document. */
static inline bool step(dlm_suffixes *s, lane *l) {
    dlm_suffix_state *here = &s->states[l->state];
    if (l->fell)
        l->length = here->length;
    else
        note(&here->found, l->length);
    if (l->at == l->document->n) return false;
    const int32_t token = token_at(l->document, l->at);
    uint32_t to = (here->edges & bit_of(token)) != 0 ? find(s, l->state, token)->to : 0;
    l->fell = to == 0 && l->state != ROOT && here->link != ROOT;
    if (l->fell) {
        l->state = here->link;
    } else {
        if (to == 0) { /* the root's edges are at hand */
            l->length = 0;
            to = follow(s, ROOT, token);
        }
        l->state = to;
        l->length += to != ROOT;
        l->at++;
    }
    fetch(s, l);
    return true;
}

void dlm__suffixes_read(dlm_suffixes *s, const dlm_suffix_document *documents, size_t n) {
    lane lanes[LANES];
    size_t next = n < LANES ? n : LANES, active = next;
    for (size_t i = 0; i < active; i++) lanes[i] = (lane){.document = &documents[i]};
    while (active > 0) {
        for (size_t i = 0; i < active;) {
            if (step(s, &lanes[i])) {
                i++;
            } else if (next < n) {
                lanes[i] = (lane){.document = &documents[next++]};
            } else {
                lanes[i] = lanes[--active];
            }
        }
    }
}

/* The states in the order of their lengths. */
static dlm_status order_states(const dlm_suffixes *s, uint32_t **order, dlm_error *err) {
    size_t longest = 0;
    for (size_t i = 0; i < s->n; i++)
        if (s->states[i].length > longest) longest = s->states[i].length;
    size_t *begin = dlm__calloc(longest + 2, sizeof *begin);
    *order = dlm__calloc(s->n, sizeof **order);
    if (begin == NULL || *order == NULL) {
        free(begin);
        free(*order);
        *order = NULL;
        return dlm__fail_memory(err, "the suffixes of the texts", s->n * sizeof **order);
    }
    for (size_t i = 0; i < s->n; i++) begin[s->states[i].length + 1]++;
    for (size_t i = 1; i <= longest; i++) begin[i] += begin[i - 1];
    for (size_t i = 0; i < s->n; i++) (*order)[begin[s->states[i].length]++] = (uint32_t)i;
    free(begin);
    return DLM_OK;
}

dlm_status dlm__suffixes_settle(dlm_suffixes *s, dlm_error *err) {
    uint32_t *order;
    DLM_TRY(order_states(s, &order, err));
    /* Where a substring was found, so were its suffixes: all of those of the states that it links to. */
    for (size_t i = s->n; i-- > 1;) {
        const dlm_suffix_state *state = &s->states[order[i]];
        if (state->found > 0 && state->link != ROOT)
            s->states[state->link].found = s->states[state->link].length;
    }
    for (size_t i = 1; i < s->n; i++) {
        dlm_suffix_state *state = &s->states[order[i]];
        if (state->found == 0) state->found = s->states[state->link].found;
    }
    free(order);
    return DLM_OK;
}

void dlm__suffixes_spans(const dlm_suffixes *s, const int32_t *ids, size_t n, uint32_t *spans) {
    uint32_t state = ROOT;
    for (size_t i = 0; i < n; i++) {
        state = follow(s, state, ids[i]);
        /* A text's beginning stands behind nothing, so it is the longest of its state. */
        assert(s->states[state].length == i + 1);
        spans[i] = (uint32_t)s->states[state].found;
    }
}
