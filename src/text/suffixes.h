/* A suffix automaton of several texts, to find what they share with any amount of other text.
 *
 * It reads another text token by token and knows after each how much of what was just read stands somewhere
 * in one of its own texts, and where: a state is a set of substrings that end at the same places of the
 * texts, the longest of which is `length` long and the shortest one longer than the longest of the state
 * `link` (Blumer et al., The smallest automaton recognizing the subwords of a text, 1985; for several texts,
 * Mohri, Moreno, Weinstein, 2009). At most two states and three edges a token.
 *
 * The corpus could have been indexed instead, as is done to search one corpus for many texts; but it is the
 * larger of the two by far, and reading it once costs less than sorting its suffixes. */
#ifndef DLM_TEXT_SUFFIXES_H
#define DLM_TEXT_SUFFIXES_H

#include "base/base.h"

#include <stdatomic.h>

/* State 0 is the root, the empty substring, which is in every text. */
typedef struct dlm_suffix_state {
    uint32_t link, length;
    /* While texts are added the first of its edges' slots, DLM_NO_SLOT where there is none. Then a bit for
     * each token that leads on, one for several tokens: most steps lead nowhere, and this tells without a
     * look. */
    uint32_t edges;
    /* Of the longest of its substrings that was found in other text; 0: none was. Several threads read at
     * once, and the maximum is the same in whatever order they come. */
    atomic_uint_least32_t found;
} dlm_suffix_state;

typedef struct dlm_suffix_edge {
    uint32_t from, to; /* to 0: an empty slot, since no edge leads to the root */
    int32_t token;
    uint32_t next; /* the slot of another edge of `from` */
} dlm_suffix_edge;

#define DLM_NO_SLOT UINT32_MAX

typedef struct dlm_suffixes {
    dlm_suffix_state *states;
    size_t n, capacity;
    dlm_suffix_edge *slots; /* a hash table of all edges, open addressing */
    size_t slot_count, edges;
    uint32_t *first; /* (first_count) by token: where the root's edge leads, which is asked for most often; 0:
                        nowhere */
    size_t first_count;
} dlm_suffixes;

/* Texts of at most this many tokens in all. */
#define DLM_SUFFIXES_TOKENS_MAX ((size_t)1 << 28)

/* Free suffixes in any case. */
dlm_status dlm__suffixes_create(dlm_suffixes *suffixes, dlm_error *err);
void dlm__suffixes_free(dlm_suffixes *suffixes);
/* Adds a text; what it shares with others never crosses its borders. Tokens are not negative. */
dlm_status dlm__suffixes_add(dlm_suffixes *suffixes, const int32_t *ids, size_t n, dlm_error *err);

/* To be called between the last text and the first that is read. */
void dlm__suffixes_prepare(dlm_suffixes *suffixes);
/* A document of other text. */
typedef struct dlm_suffix_document {
    const void *tokens; /* `width` bytes each, 2 or 4, none of them negative */
    size_t width, n;
} dlm_suffix_document;
/* Reads n documents and notes what is found in them. By any number of threads at once. */
void dlm__suffixes_read(dlm_suffixes *suffixes, const dlm_suffix_document *documents, size_t n);

/* Once all is read: each state's `found` becomes that of the longest suffix of its substrings that was found
 * at all. Call once. */
dlm_status dlm__suffixes_settle(dlm_suffixes *suffixes, dlm_error *err);
/* After that: spans (n) gets for each token of one of the texts how many tokens up to it were found. */
void dlm__suffixes_spans(const dlm_suffixes *suffixes, const int32_t *ids, size_t n, uint32_t *spans);

#endif
