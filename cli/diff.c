#include "diff.h"

#include "palette.h"
#include "terminal.h"

#include <stdio.h>
#include <string.h>

/* How the two sides of a change begin and end. */
typedef struct marks {
    const char *old, *old_end, *new, *new_end;
} marks;

static const marks plain = {"[-", "-]", "{+", "+}"},
                   coloured = {"\033[31;9m", "\033[0m", "\033[32m", "\033[0m"};

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Does a word begin at token i of ids: has it white space before it, its own or that of the token before? */
static bool begins_word(const dlm_tokenizer *tokenizer, const int32_t *ids, size_t i) {
    size_t bytes = 0;
    bool special;
    const char *token = dlm_tokenizer_token(tokenizer, ids[i], &bytes, &special);
    if (token != NULL && bytes > 0 && is_space(token[0])) return true;
    token = dlm_tokenizer_token(tokenizer, ids[i - 1], &bytes, &special);
    return token != NULL && bytes > 0 && is_space(token[bytes - 1]);
}

/* The end of the words that begin at token `first` and reach up to where one begins in both texts. */
static size_t words_end(const dlm_tokenizer *tokenizer, const int32_t *before, const int32_t *after,
                        size_t first, size_t n) {
    size_t end = first + 1;
    while (end < n && !(begins_word(tokenizer, before, end) && begins_word(tokenizer, after, end))) end++;
    return end;
}

static bool differ(const int32_t *before, const int32_t *after, size_t first, size_t end) {
    return memcmp(before + first, after + first, (end - first) * sizeof *before) != 0;
}

static void write_side(bool terminal, const char *mark, const char *text, size_t n, const char *end) {
    if (n == 0) return;
    (void)fputs(mark, stdout);
    (void)write_text(stdout, terminal, text, n);
    (void)fputs(end, stdout);
}

/* Tokens that are the other ones in the other text; white space that begins or ends both is not part of the
 * change. */
static void write_change(const marks *by, bool terminal, const char *old, size_t n_old, const char *new,
                         size_t n_new) {
    size_t begin = 0, end = 0;
    while (begin < n_old && begin < n_new && old[begin] == new[begin] && is_space(old[begin])) begin++;
    if (n_old == n_new && memcmp(old, new, n_old) == 0) begin = n_old; /* the same by other tokens */
    while (begin + end < n_old && begin + end < n_new && old[n_old - 1 - end] == new[n_new - 1 - end] &&
           is_space(old[n_old - 1 - end]))
        end++;
    (void)write_text(stdout, terminal, old, begin);
    write_side(terminal, by->old, old + begin, n_old - end - begin, by->old_end);
    write_side(terminal, by->new, new + begin, n_new - end - begin, by->new_end);
    (void)write_text(stdout, terminal, new + n_new - end, end);
}

/* The text of tokens first .. end - 1, without the space that encoding put before the whole. */
static int decode(const dlm_model *model, const int32_t *ids, size_t first, size_t end, char **text,
                  const char **begin, size_t *bytes) {
    dlm_error err = {0};
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    if (dlm_tokenizer_decode(tokenizer, ids + first, end - first, true, text, bytes, &err) != DLM_OK)
        return fail_with(&err);
    const bool added =
        first == 0 && *bytes > 0 && (*text)[0] == ' ' && dlm_tokenizer_describe(tokenizer).add_prefix_space;
    *begin = *text + added;
    *bytes -= added;
    return EXIT_DONE;
}

static int write_part(const dlm_model *model, const marks *by, bool terminal, const int32_t *before,
                      const int32_t *after, size_t first, size_t end) {
    char *old = NULL, *new = NULL;
    const char *old_text = NULL, *new_text = NULL;
    size_t n_old = 0, n_new = 0;
    int status = decode(model, before, first, end, &old, &old_text, &n_old);
    if (status == EXIT_DONE) status = decode(model, after, first, end, &new, &new_text, &n_new);
    if (old_text != NULL && new_text != NULL) write_change(by, terminal, old_text, n_old, new_text, n_new);
    dlm_free(old);
    dlm_free(new);
    return status;
}

int write_diff(const dlm_model *model, const int32_t *before, const int32_t *after, size_t n, bool terminal) {
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    const marks *by = terminal && can_redraw(1) && terminal_palette().colours ? &coloured : &plain;
    int status = EXIT_DONE;
    for (size_t first = 0; first < n && status == EXIT_DONE;) {
        size_t end = words_end(tokenizer, before, after, first, n);
        const bool changed = differ(before, after, first, end);
        while (end < n) { /* neighbours of a kind are shown as one */
            const size_t next = words_end(tokenizer, before, after, end, n);
            if (differ(before, after, end, next) != changed) break;
            end = next;
        }
        status = write_part(model, by, terminal, before, after, first, end);
        first = end;
    }
    return status;
}
