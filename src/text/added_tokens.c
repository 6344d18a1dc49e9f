/* Finding added tokens in text: leftmost, longest. The tokens are sorted by content, those that are not
 * normalized first, so that at each position of the text the candidates are a range that narrows byte by
 * byte; no automaton is built. */
#include "text/tokenizer.h"
#include "text/unicode_table.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *left, const void *right) {
    const dlm_added_token *a = left, *b = right;
    if (a->normalized != b->normalized) return a->normalized ? 1 : -1;
    int order = memcmp(a->content, b->content, a->bytes < b->bytes ? a->bytes : b->bytes);
    if (order != 0) return order;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

void dlm__added_prepare(dlm_tokenizer *tokenizer) {
    dlm_added_token *added = tokenizer->added;
    size_t n = tokenizer->added_count;
    for (size_t i = 0; i < n; i++)
        added[i].content = dlm__tokenizer_content(tokenizer, added[i].id, &added[i].bytes);
    if (n > 0) qsort(added, n, sizeof *added, compare);
    tokenizer->exact_count = 0;
    for (size_t i = 0; i < n; i++) {
        tokenizer->exact_count += !added[i].normalized;
        tokenizer->added_starts[added[i].normalized][(unsigned char)added[i].content[0]] = true;
    }
}

/* The byte at `depth` of a content, or -1 where it has ended; so shorter contents come first. */
static int byte_at(const dlm_added_token *added, size_t depth) {
    return depth < added->bytes ? (unsigned char)added->content[depth] : -1;
}

/* The first of added[low, high) whose byte at `depth` is at least `byte`. */
static size_t lower_bound(const dlm_added_token *added, size_t low, size_t high, size_t depth, int byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (byte_at(&added[middle], depth) < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest of added[low, high) that text (n) begins with; NULL when none does. */
static const dlm_added_token *longest_at(const dlm_added_token *added, size_t low, size_t high,
                                         const char *text, size_t n) {
    const dlm_added_token *found = NULL;
    for (size_t depth = 0; low < high; depth++) {
        if (byte_at(&added[low], depth) < 0) found = &added[low];
        if (depth == n) break;
        int byte = (unsigned char)text[depth];
        low = lower_bound(added, low, high, depth, byte);
        high = lower_bound(added, low, high, depth, byte + 1);
    }
    return found;
}

bool dlm__added_next(const dlm_tokenizer *tokenizer, bool normalized, const char *text, size_t n,
                     size_t taken, size_t resume, dlm_added_match *match) {
    size_t low = normalized ? tokenizer->exact_count : 0;
    size_t high = normalized ? tokenizer->added_count : tokenizer->exact_count;
    const bool *starts = tokenizer->added_starts[normalized];
    while (low < high) {
        while (resume < n && !starts[(unsigned char)text[resume]]) resume++;
        if (resume >= n) break;
        const dlm_added_token *added = longest_at(tokenizer->added, low, high, text + resume, n - resume);
        if (added == NULL) {
            resume++;
            continue;
        }
        size_t start = resume, stop = resume + added->bytes, ignored;
        resume = stop;
        if (added->single_word &&
            ((start > 0 && dlm__is_word_character(dlm__utf8_read_before(text, start))) ||
             (stop < n && dlm__is_word_character(dlm__utf8_read(text + stop, &ignored))))) {
            continue;
        }
        *match = (dlm_added_match){added->id, start, stop, stop};
        if (added->left_strip) {
            match->start -= dlm__utf8_trailing_space(text, start);
            if (match->start < taken) match->start = taken;
        }
        if (added->right_strip) match->stop += dlm__utf8_leading_space(text + stop, n - stop);
        return true;
    }
    return false;
}
