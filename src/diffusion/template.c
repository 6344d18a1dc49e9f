/* Reading templates, and laying them out as positions. */
#include "diffusion/template.h"

#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* The most that a blank of the syntax may ask for; the model's length is a smaller limit, whose message says
 * so. */
#define BLANK_MOST ((size_t)1000000000)

/* ---- building ----------------------------------------------------------------------------------------- */

typedef struct builder {
    dlm_template *made;
    const char *name;   /* of what is read, for messages */
    const char *origin; /* its first byte, from which they count; fixed text may begin one space before */
    dlm_encoder *encoder;
    dlm_ids ids;
    size_t starts_capacity, blanks_capacity;
    bool marks; /* [MASK] in the text is plain text */
} builder;

/* Where part made->n of fixed tokens ends. */
static dlm_status close_part(builder *b, dlm_error *err) {
    dlm_template *made = b->made;
    size_t *starts = dlm__grow(made->starts, &b->starts_capacity, made->n + 2, sizeof *starts);
    if (starts == NULL) return dlm__fail_memory(err, "a template", (made->n + 2) * sizeof *starts);
    made->starts = starts;
    starts[0] = 0;
    starts[made->n + 1] = b->ids.n;
    return DLM_OK;
}

static dlm_status add_blank(builder *b, dlm_blank blank, dlm_error *err) {
    dlm_template *made = b->made;
    DLM_TRY(close_part(b, err));
    dlm_blank *blanks = dlm__grow(made->blanks, &b->blanks_capacity, made->n + 1, sizeof *blanks);
    if (blanks == NULL) return dlm__fail_memory(err, "a template", (made->n + 1) * sizeof *blanks);
    made->blanks = blanks;
    blanks[made->n++] = blank;
    return DLM_OK;
}

static size_t place_of(const builder *b, const char *at) {
    return at > b->origin ? (size_t)(at - b->origin) : 0;
}

/* Special tokens cannot be written as text: read back they would be something else, or nothing. */
static dlm_status check_special(const builder *b, const char *text, size_t n, dlm_error *err) {
    const dlm_tokenizer *tokenizer = b->made->model->tokenizer;
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const dlm_added_token *added = &tokenizer->added[i];
        if (!tokenizer->tokens[added->id].special || added->bytes == 0) continue;
        if (b->marks && added->id == b->made->model->mask_id) continue;
        for (size_t at = 0; at + added->bytes <= n; at++)
            if (memcmp(text + at, added->content, added->bytes) == 0)
                return dlm__fail(err, DLM_ARGUMENT,
                                 "the %s has %.*s at byte %zu, a special token, which is no text", b->name,
                                 added->bytes < 40 ? (int)added->bytes : 40, added->content,
                                 place_of(b, text + at));
    }
    return DLM_OK;
}

/* A vocabulary without some bytes cannot write every text: do the ids from `first` on stand for it? */
static dlm_status check_bytes(const builder *b, size_t first, const char *text, size_t n, dlm_error *err) {
    const dlm_tokenizer *tokenizer = b->made->model->tokenizer;
    size_t at = 0;
    for (size_t i = first; i < b->ids.n; i++) {
        const dlm_token *token = &tokenizer->tokens[b->ids.ids[i]];
        if (token->special || token->bytes_count > n - at ||
            memcmp(tokenizer->strings + token->bytes, text + at, token->bytes_count) != 0)
            break;
        at += token->bytes_count;
    }
    if (at == n) return DLM_OK;
    return dlm__fail(err, DLM_ARGUMENT,
                     "the %s has a character at byte %zu that the tokenizer has no tokens for", b->name,
                     place_of(b, text + at));
}

static dlm_status encode(builder *b, const char *text, size_t n, dlm_error *err) {
    const size_t first = b->ids.n;
    if (n == 0) return DLM_OK;
    DLM_TRY(dlm__encoder_encode(b->encoder, text, n, false, &b->ids, err));
    return check_bytes(b, first, text, n, err);
}

/* The bytes of the last character of text, if it and the one before are white space: before a word, as what
 * fills the blank will be, the tokenizer cuts between the two. */
static size_t cut_before_word(const char *text, size_t n) {
    const size_t space = dlm__utf8_trailing_space(text, n);
    if (space == 0) return 0;
    const uint32_t c = dlm__utf8_read_before(text, n);
    const size_t last = c < 0x80 ? 1 : c < 0x800 ? 2 : 3; /* no white space lies above U+FFFF */
    return last < space ? last : 0;
}

/* Adds fixed text behind which a blank stands; *space tells whether its last space goes to that. */
static dlm_status add_before_blank(builder *b, const char *text, size_t n, bool *space, dlm_error *err) {
    DLM_TRY(check_special(b, text, n, err));
    *space = n > 0 && text[n - 1] == ' ';
    if (*space) return encode(b, text, n - 1, err);
    const size_t last = cut_before_word(text, n);
    DLM_TRY(encode(b, text, n - last, err));
    return encode(b, text + n - last, last, err);
}

static dlm_status add_last(builder *b, const char *text, size_t n, dlm_error *err) {
    DLM_TRY(check_special(b, text, n, err));
    return encode(b, text, n, err);
}

/* The tokens that may come first in a blank behind a space. */
static dlm_status list_with_space(dlm_template *made, dlm_error *err) {
    const dlm_tokenizer *tokenizer = made->model->tokenizer;
    bool asked = false, any = false;
    for (size_t i = 0; i < made->n; i++) asked |= made->blanks[i].space;
    if (!asked) return DLM_OK;
    const size_t V = made->model->layout->config.vocab_size;
    made->with_space = dlm__calloc(V, 1);
    if (made->with_space == NULL) return dlm__fail_memory(err, "a template", V);
    for (size_t i = 0; i < V && i < tokenizer->vocab_size; i++) {
        const dlm_token *token = &tokenizer->tokens[i];
        made->with_space[i] =
            !token->special && token->bytes_count > 0 && tokenizer->strings[token->bytes] == ' ';
        any |= made->with_space[i] != 0;
    }
    return any ? DLM_OK : dlm__fail(err, DLM_ARGUMENT, "the tokenizer has no token that begins with a space");
}

/* Ends the last part, with the end token if the text is `whole` and the model knows one. */
static dlm_status finish(builder *b, bool whole, dlm_error *err) {
    dlm_template *made = b->made;
    const dlm_model *model = made->model;
    if (whole) made->end_id = model->end_id;
    if (whole && model->layout->config.end_token && model->end_id >= 0) {
        int32_t *ids = dlm__grow(b->ids.ids, &b->ids.capacity, b->ids.n + 1, sizeof *ids);
        if (ids == NULL) return dlm__fail_memory(err, "a template", b->ids.n * sizeof *ids);
        b->ids.ids = ids;
        ids[b->ids.n++] = model->end_id;
    }
    DLM_TRY(close_part(b, err));
    return list_with_space(made, err);
}

static dlm_status begin(builder *b, const dlm_model *model, size_t bytes, bool text, dlm_error *err) {
    if (text && model->tokenizer == NULL) return dlm__fail(err, DLM_ARGUMENT, "the model has no tokenizer");
    b->made = dlm__calloc(1, sizeof *b->made);
    if (b->made == NULL) return dlm__fail_memory(err, "a template", sizeof *b->made);
    b->made->model = model;
    b->made->end_id = -1;
    if (!text) return DLM_OK;
    b->encoder = dlm__encoder_create(model->tokenizer, bytes);
    if (b->encoder == NULL) return dlm__fail_memory(err, "a template", bytes);
    dlm__encoder_continue(b->encoder, true);
    return DLM_OK;
}

/* Hands out what was built, or frees it. */
static dlm_status end(builder *b, dlm_status status, dlm_template **text) {
    dlm__encoder_free(b->encoder);
    if (b->made != NULL) b->made->ids = b->ids.ids;
    if (status == DLM_OK)
        *text = b->made;
    else
        dlm_template_free(b->made);
    return status;
}

void dlm_template_free(dlm_template *text) {
    if (text == NULL) return;
    free(text->ids);
    free(text->starts);
    free(text->blanks);
    free(text->with_space);
    free(text);
}

/* text (bytes) with the space before it that encoding adds; free() it. */
static char *with_prefix(const dlm_model *model, const char *text, size_t bytes, size_t *n) {
    const bool prefix = model->tokenizer->pre.add_prefix_space;
    char *all = malloc(bytes + 2);
    if (all == NULL) return NULL;
    all[0] = ' ';
    if (bytes > 0) memcpy(all + prefix, text, bytes);
    *n = bytes + prefix;
    return all;
}

static dlm_status check_text(const char *name, const char *text, size_t bytes, dlm_error *err) {
    if (bytes == 0) return dlm__fail(err, DLM_ARGUMENT, "the %s is empty", name);
    const size_t valid = dlm__utf8_check(text, bytes);
    if (valid == bytes) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "the %s is not UTF-8 at byte %zu", name, valid);
}

/* ---- the syntax --------------------------------------------------------------------------------------- */

static const char mark[] = "[MASK";
enum { MARK = sizeof mark - 1 };

/* Whether a mask begins at text[at]: [MASK] or [MASK:. What is cut short at the end of the text is meant as
 * one too. */
static bool mask_at(const char *text, size_t n, size_t at) {
    if (n - at < MARK || memcmp(text + at, mark, MARK) != 0) return false;
    return at + MARK == n || text[at + MARK] == ']' || text[at + MARK] == ':';
}

/* Digits at text[*at], at most BLANK_MOST; false: none, or more. */
static bool read_count(const char *text, size_t end, size_t *at, size_t *count) {
    const size_t first = *at;
    for (*count = 0; *at < end && text[*at] >= '0' && text[*at] <= '9'; ++*at)
        if ((*count = 10 * *count + (size_t)(text[*at] - '0')) > BLANK_MOST) return false;
    return *at > first;
}

/* The mask at text[*at]; *at gets where it has been passed. */
static dlm_status read_mask(const builder *b, const char *text, size_t n, size_t *at, dlm_blank *blank,
                            dlm_error *err) {
    const size_t place = place_of(b, text + *at);
    size_t end = *at + MARK, after = end + 1, shown;
    while (end < n && text[end] != ']') end++;
    if (end == n)
        return dlm__fail(err, DLM_ARGUMENT, "the %s has a [MASK at byte %zu without its ]", b->name, place);
    const char *written = text + *at;
    for (shown = 0;
         shown < 40 && written[shown] > ' ' && written[shown] <= '~' && written + shown <= text + end;)
        shown++;
    *at = end + 1;
    *blank = (dlm_blank){.least = 1, .most = 1};
    if (after > end) return DLM_OK;
    bool read = read_count(text, end, &after, &blank->least);
    blank->most = blank->least;
    if (read && after < end && text[after] == '-') {
        after++;
        read = read_count(text, end, &after, &blank->most);
    }
    if (!read || after < end)
        return dlm__fail(err, DLM_ARGUMENT,
                         "the %s has %.*s at byte %zu: a mask is [MASK], [MASK:8] or [MASK:20-60]", b->name,
                         (int)shown, written, place);
    if (blank->least == 0)
        return dlm__fail(err, DLM_ARGUMENT, "the %s has %.*s at byte %zu: a mask has at least 1 token",
                         b->name, (int)shown, written, place);
    if (blank->least > blank->most)
        return dlm__fail(err, DLM_ARGUMENT, "the %s has %.*s at byte %zu: %zu is more than %zu", b->name,
                         (int)shown, written, place, blank->least, blank->most);
    return DLM_OK;
}

/* All of a template, which lies in text (n) from b->origin on. */
static dlm_status read_all(builder *b, const char *text, size_t n, dlm_error *err) {
    size_t first = 0, at = (size_t)(b->origin - text);
    while (at < n) {
        if (!mask_at(text, n, at)) {
            at++;
            continue;
        }
        const size_t stop = at;
        dlm_blank blank;
        DLM_TRY(read_mask(b, text, n, &at, &blank, err));
        DLM_TRY(add_before_blank(b, text + first, stop - first, &blank.space, err));
        DLM_TRY(add_blank(b, blank, err));
        first = at;
    }
    if (b->made->n == 0)
        return dlm__fail(err, DLM_ARGUMENT, "the %s has no [MASK], so there is nothing to fill in", b->name);
    DLM_TRY(add_last(b, text + first, n - first, err));
    return finish(b, true, err);
}

/* Do all its lengths fit the model? */
static dlm_status check_longest(const dlm_template *text, dlm_error *err) {
    const size_t limit = text->model->layout->config.max_seq_len;
    size_t least = text->starts[text->n + 1], most = least;
    for (size_t i = 0; i < text->n; i++) {
        least += text->blanks[i].least;
        most += text->blanks[i].most;
    }
    if (most <= limit) return DLM_OK;
    const bool ends = text->end_id >= 0 && text->model->layout->config.end_token;
    return dlm__fail(err, DLM_ARGUMENT, "the template has %s%zu tokens%s, and the model takes at most %zu",
                     least < most ? "up to " : "", most, ends ? " with its end" : "", limit);
}

dlm_status dlm_template_parse(const dlm_model *model, const char *text, size_t bytes, dlm_template **parsed,
                              dlm_error *err) {
    *parsed = NULL;
    builder b = {.name = "template"};
    DLM_TRY(check_text(b.name, text, bytes, err));
    dlm_status status = begin(&b, model, bytes, true, err);
    size_t n = 0;
    char *all = status == DLM_OK ? with_prefix(model, text, bytes, &n) : NULL;
    if (all != NULL) b.origin = all + (n - bytes);
    if (status == DLM_OK)
        status = all != NULL ? read_all(&b, all, n, err) : dlm__fail_memory(err, "a template", bytes);
    if (status == DLM_OK) status = check_longest(b.made, err);
    free(all);
    return end(&b, status, parsed);
}

/* ---- prompt and suffix -------------------------------------------------------------------------------- */

static dlm_status add_prompt(builder *b, const char *prompt, size_t bytes, bool *space, dlm_error *err) {
    size_t n = 0;
    b->name = "prompt";
    char *all = with_prefix(b->made->model, prompt, bytes, &n);
    if (all == NULL) return dlm__fail_memory(err, "a template", bytes);
    b->origin = all + (n - bytes);
    const dlm_status status = add_before_blank(b, all, n, space, err);
    free(all);
    return status;
}

static dlm_status build_around(builder *b, const char *prompt, size_t prompt_bytes, const char *suffix,
                               size_t suffix_bytes, dlm_error *err) {
    dlm_blank blank = {.least = 1};
    if (prompt != NULL || suffix != NULL) DLM_TRY(add_prompt(b, prompt, prompt_bytes, &blank.space, err));
    DLM_TRY(add_blank(b, blank, err));
    b->name = "suffix";
    b->origin = suffix;
    if (suffix != NULL) DLM_TRY(add_last(b, suffix, suffix_bytes, err));
    return finish(b, suffix != NULL, err);
}

dlm_status dlm_template_around(const dlm_model *model, const char *prompt, size_t prompt_bytes,
                               const char *suffix, size_t suffix_bytes, dlm_template **made, dlm_error *err) {
    *made = NULL;
    builder b = {.marks = true};
    if (prompt != NULL) DLM_TRY(check_text("prompt", prompt, prompt_bytes, err));
    if (suffix != NULL) DLM_TRY(check_text("suffix", suffix, suffix_bytes, err));
    if (prompt == NULL) prompt_bytes = 0;
    if (suffix == NULL) suffix_bytes = 0;
    dlm_status status = begin(&b, model, prompt_bytes + suffix_bytes, prompt != NULL || suffix != NULL, err);
    if (status == DLM_OK) status = build_around(&b, prompt, prompt_bytes, suffix, suffix_bytes, err);
    return end(&b, status, made);
}

/* ---- positions ---------------------------------------------------------------------------------------- */

size_t dlm_template_blanks(const dlm_template *text, const dlm_blank **blanks) {
    if (blanks != NULL) *blanks = text->blanks;
    return text->n;
}

size_t dlm_template_layout(const dlm_template *text, const size_t *lengths, int32_t *ids, uint8_t *fixed) {
    size_t at = 0;
    for (size_t i = 0; i <= text->n; i++) {
        const size_t part = text->starts[i + 1] - text->starts[i], blank = i < text->n ? lengths[i] : 0;
        if (ids != NULL && part > 0) memcpy(ids + at, text->ids + text->starts[i], part * sizeof *ids);
        if (fixed != NULL) memset(fixed + at, 1, part);
        at += part;
        for (size_t j = 0; ids != NULL && j < blank; j++) ids[at + j] = text->model->mask_id;
        if (fixed != NULL) memset(fixed + at, 0, blank);
        at += blank;
    }
    return at;
}

bool dlm__template_find(const dlm_template *text, const size_t *lengths, size_t position, size_t *blank,
                        size_t *place) {
    size_t at = 0;
    for (size_t i = 0; i < text->n; i++) {
        at += text->starts[i + 1] - text->starts[i];
        if (position < at) return false;
        if (position - at < lengths[i]) {
            *blank = i;
            *place = position - at;
            return true;
        }
        at += lengths[i];
    }
    return false;
}

bool dlm__template_restricts(const dlm_template *text) {
    return text->with_space != NULL || text->end_id >= 0;
}

void dlm_template_allow(void *choice, size_t sequence, size_t position, const int32_t *ids,
                        uint8_t *allowed) {
    const dlm_template_choice *chosen = choice;
    const dlm_template *text = chosen->text;
    const size_t V = text->model->layout->config.vocab_size;
    size_t blank, place;
    (void)sequence;
    (void)ids;
    if (!dlm__template_find(text, chosen->lengths, position, &blank, &place)) return;
    if (text->end_id >= 0 && (size_t)text->end_id < V) allowed[text->end_id] = 0;
    if (place > 0 || !text->blanks[blank].space) return;
    for (size_t i = 0; i < V; i++) allowed[i] &= text->with_space[i];
}
