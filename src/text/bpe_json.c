#include "text/bpe_json.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Where the reader is, and the parts that it has found. Nothing but what is told apart here is looked at: the
 * parser of the rest sees all other bytes, and refuses what is no JSON. */
typedef struct scan {
    const char *at, *end;
    dlm_bpe_json *bpe;
    size_t used;                      /* of bpe->contents, which has room for all strings of the text */
    const char *vocab[2], *merges[2]; /* where the parts begin and end; NULL: not found yet */
    bool strings;                     /* merges are strings, not pairs */
} scan;

/* ---- tokens of JSON ----------------------------------------------------------------------------------- */

static void skip_space(scan *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) s->at++;
}

/* The next byte but for white space is c; goes behind it. */
static bool take(scan *s, char c) {
    skip_space(s);
    if (s->at == s->end || *s->at != c) return false;
    s->at++;
    return true;
}

/* Behind an opening quotation mark: to behind the closing one. */
static bool skip_string(scan *s) {
    while (s->at < s->end && *s->at != '"')
        if (*s->at++ == '\\' && s->at < s->end) s->at++;
    if (s->at == s->end) return false;
    s->at++;
    return true;
}

/* To the comma or bracket behind a value, whatever it is. */
static bool skip_value(scan *s) {
    size_t depth = 0;
    while (s->at < s->end) {
        const char c = *s->at;
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) return true;
        s->at++;
        if (c == '"' && !skip_string(s)) return false;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
    }
    return false;
}

/* A string into contents; its escapes are those of one letter and no surrogates. */
static bool read_string(scan *s, const char **content, size_t *bytes) {
    static const char letters[] = "\"\\/bfnrt", stand_for[] = "\"\\/\b\f\n\r\t";
    if (!take(s, '"')) return false;
    char *to = s->bpe->contents + s->used, *start = to;
    while (s->at < s->end && *s->at != '"') {
        const unsigned char c = (unsigned char)*s->at++;
        if (c < 0x20) return false;
        if (c != '\\') {
            *to++ = (char)c;
            continue;
        }
        const char *letter = s->at < s->end && *s->at != 0 ? strchr(letters, *s->at++) : NULL;
        if (letter == NULL) return false;
        *to++ = stand_for[letter - letters];
    }
    if (s->at == s->end) return false;
    s->at++;
    *content = start;
    *bytes = (size_t)(to - start);
    s->used += *bytes;
    return true;
}

/* A number of at most nine digits. */
static bool read_id(scan *s, size_t *id) {
    skip_space(s);
    const char *start = s->at;
    size_t value = 0;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9' && s->at - start < 10)
        value = value * 10 + (size_t)(*s->at++ - '0');
    const size_t digits = (size_t)(s->at - start);
    *id = value;
    skip_space(s);
    return digits > 0 && digits < 10 && (digits == 1 || *start != '0') && s->at < s->end &&
           (*s->at == ',' || *s->at == '}');
}

/* ---- the two parts ------------------------------------------------------------------------------------ */

/* "content": id, in the order of the ids */
static bool read_token(scan *s) {
    dlm_bpe_json *bpe = s->bpe;
    dlm_bpe_token *tokens = dlm__grow(bpe->tokens, &bpe->tokens_capacity, bpe->n + 1, sizeof *tokens);
    if (tokens == NULL) return false;
    bpe->tokens = tokens;
    dlm_bpe_token *token = &tokens[bpe->n];
    size_t id;
    return read_string(s, &token->content, &token->bytes) && take(s, ':') && read_id(s, &id) &&
           id == bpe->n++;
}

/* ["a", "b"] or "a b" */
static bool read_merge(scan *s) {
    dlm_bpe_json *bpe = s->bpe;
    dlm_bpe_merge *merges =
        dlm__grow(bpe->merges, &bpe->merges_capacity, bpe->merge_count + 1, sizeof *merges);
    if (merges == NULL) return false;
    bpe->merges = merges;
    skip_space(s);
    const bool string = s->at < s->end && *s->at == '"';
    if (bpe->merge_count > 0 && string != s->strings) return false;
    s->strings = string;
    dlm_bpe_merge *merge = &merges[bpe->merge_count++];
    const char *second;
    if (!string)
        return take(s, '[') && read_string(s, &merge->joined, &merge->bytes[0]) && take(s, ',') &&
               read_string(s, &second, &merge->bytes[1]) && take(s, ']');
    size_t bytes;
    if (!read_string(s, &second, &bytes) || (bytes >= 8 && memcmp(second, "#version", 8) == 0)) return false;
    char *joined = s->bpe->contents + (second - s->bpe->contents), *space = memchr(joined, ' ', bytes);
    if (space == NULL) return false;
    merge->joined = joined;
    merge->bytes[0] = (size_t)(space - joined);
    merge->bytes[1] = bytes - merge->bytes[0] - 1;
    memmove(space, space + 1, merge->bytes[1]);
    return memchr(space, ' ', merge->bytes[1]) == NULL;
}

/* Elements between two brackets, of which `place` gets where they stand. */
static bool read_part(scan *s, const char brackets[2], bool (*read)(scan *s), const char *place[2]) {
    skip_space(s);
    place[0] = s->at;
    if (!take(s, brackets[0])) return false;
    if (!take(s, brackets[1])) {
        do
            if (!read(s)) return false;
        while (take(s, ','));
        if (!take(s, brackets[1])) return false;
    }
    place[1] = s->at;
    return true;
}

/* ---- the way to them ---------------------------------------------------------------------------------- */

static bool is(const char *key, const char *end, const char *word) {
    return (size_t)(end - key) == strlen(word) && memcmp(key, word, strlen(word)) == 0;
}

/* Goes through an object, and into what it is looked into for. */
static bool read_object(scan *s, bool whole) {
    if (!take(s, '{')) return false;
    do {
        if (!take(s, '"')) return false;
        const char *key = s->at;
        if (!skip_string(s)) return false;
        const char *end = s->at - 1;
        if (!take(s, ':')) return false;
        bool right;
        if (whole && is(key, end, "model"))
            right = s->vocab[0] == NULL && s->merges[0] == NULL && read_object(s, false);
        else if (!whole && is(key, end, "vocab"))
            right = s->vocab[0] == NULL && read_part(s, "{}", read_token, s->vocab);
        else if (!whole && is(key, end, "merges"))
            right = s->merges[0] == NULL && read_part(s, "[]", read_merge, s->merges);
        else
            right = skip_value(s);
        if (!right) return false;
    } while (take(s, ','));
    return take(s, '}');
}

/* The text without what stands in the brackets of the two parts. */
static bool copy_rest(scan *s, const char *json, size_t n) {
    const bool vocab_first = s->vocab[0] < s->merges[0];
    const char *const *first = vocab_first ? s->vocab : s->merges;
    const char *const *second = vocab_first ? s->merges : s->vocab;
    const size_t before = (size_t)(first[0] + 1 - json), between = (size_t)(second[0] + 2 - first[1]),
                 behind = (size_t)(json + n - (second[1] - 1));
    char *rest = malloc(before + between + behind);
    if (rest == NULL) return false;
    memcpy(rest, json, before);
    memcpy(rest + before, first[1] - 1, between);
    memcpy(rest + before + between, second[1] - 1, behind);
    s->bpe->rest = rest;
    s->bpe->rest_bytes = before + between + behind;
    return true;
}

bool dlm__bpe_json_read(const char *json, size_t n, dlm_bpe_json *bpe) {
    *bpe = (dlm_bpe_json){0};
    scan s = {.at = json, .end = json + n, .bpe = bpe};
    if (dlm__utf8_check(json, n) != n) return false;
    bpe->contents = malloc(n + 1);
    if (bpe->contents == NULL || !read_object(&s, true)) return false;
    return s.vocab[1] != NULL && s.merges[1] != NULL && bpe->n > 0 && copy_rest(&s, json, n);
}

/* ---- into a tokenizer ---------------------------------------------------------------------------------- */

dlm_status dlm__bpe_json_tokens(const dlm_bpe_json *bpe, dlm_tokenizer *tokenizer, dlm_error *err) {
    DLM_TRY(dlm__tokenizer_reserve(tokenizer, bpe->n, err));
    for (size_t id = 0; id < bpe->n; id++)
        DLM_TRY(dlm__tokenizer_add(tokenizer, bpe->tokens[id].content, bpe->tokens[id].bytes, err));
    return DLM_OK;
}

/* The id of a content, which is nearly always the one expected. */
static int32_t find(const dlm_tokenizer *tokenizer, const char *content, size_t bytes, int32_t expected) {
    if ((size_t)expected < tokenizer->vocab_size) {
        const dlm_token *token = &tokenizer->tokens[expected];
        if (token->content_bytes == bytes && memcmp(tokenizer->strings + token->content, content, bytes) == 0)
            return expected;
    }
    return dlm__tokenizer_find(tokenizer, content, bytes);
}

/* Whoever trains a vocabulary gives the results of merges ids in a row. */
dlm_status dlm__bpe_json_merges(const dlm_bpe_json *bpe, dlm_tokenizer *tokenizer, dlm_error *err) {
    int32_t next = 0;
    for (size_t i = 0; i < bpe->merge_count; i++) {
        const dlm_bpe_merge *merge = &bpe->merges[i];
        const dlm_merge ids = {
            .left = dlm__tokenizer_find(tokenizer, merge->joined, merge->bytes[0]),
            .right = dlm__tokenizer_find(tokenizer, merge->joined + merge->bytes[0], merge->bytes[1]),
            .result = find(tokenizer, merge->joined, merge->bytes[0] + merge->bytes[1], next)};
        if (ids.left < 0 || ids.right < 0 || ids.result < 0)
            return dlm__fail(err, DLM_FORMAT, "merge %zu needs a token that is not in the vocabulary", i);
        DLM_TRY(dlm__tokenizer_merge(tokenizer, ids, err));
        next = ids.result + 1;
    }
    return DLM_OK;
}

void dlm__bpe_json_free(dlm_bpe_json *bpe) {
    free(bpe->contents);
    free(bpe->tokens);
    free(bpe->merges);
    free(bpe->rest);
    *bpe = (dlm_bpe_json){0};
}
