#include "sample_texts.h"

#include "ids.h"
#include "json.h"
#include "terminal.h"
#include "texts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { AUTO = 0 };

const char *const samples_format_choices[] = {"auto", "separated", "lines", "jsonl", "whole", NULL};

typedef struct reader {
    const dlm_tokenizer *tokenizer;
    size_t vocab_size;
    int32_t end_id;
    sample_texts *texts;
} reader;

void free_samples(sample_texts *texts) {
    free(texts->lengths);
    free(texts->ids);
    *texts = (sample_texts){0};
}

/* ---- one text ----------------------------------------------------------------------------------------- */

/* array (*capacity elements) with room for `need`, or NULL; then array stays as it is. */
static void *grow(void *array, size_t *capacity, size_t need, size_t size) {
    if (array != NULL && need <= *capacity) return array;
    const size_t more = 2 * need + 64;
    void *grown = realloc(array, more * size);
    if (grown != NULL) *capacity = more;
    return grown;
}

/* with_end: its tokens, the end and what is behind it counted. */
static int add_text(sample_texts *texts, const int32_t *ids, size_t n, size_t with_end) {
    size_t *lengths = grow(texts->lengths, &texts->n_capacity, texts->n + 1, sizeof *lengths);
    if (lengths != NULL) texts->lengths = lengths;
    int32_t *all = grow(texts->ids, &texts->tokens_capacity, texts->tokens + n + 1, sizeof *all);
    if (all != NULL) texts->ids = all;
    if (lengths == NULL || all == NULL) return fail("out of memory");
    if (n > 0) memcpy(all + texts->tokens, ids, n * sizeof *ids);
    lengths[texts->n++] = n;
    texts->tokens += n;
    if (with_end > texts->window) texts->window = with_end;
    return EXIT_DONE;
}

static int add_encoded(const reader *to, const char *text, size_t bytes, const char *where) {
    dlm_error err = {0};
    int32_t *ids;
    size_t n;
    if (dlm_tokenizer_encode(to->tokenizer, text, bytes, false, &ids, &n, &err) != DLM_OK)
        return fail("%s: %s", where, err.message);
    to->texts->ends_known = false;
    const int status = add_text(to->texts, ids, n, n + 1);
    dlm_free(ids);
    return status;
}

static int add_ids(const reader *to, const int32_t *ids, size_t n, const char *where) {
    size_t length = n;
    for (size_t i = n; i-- > 0;) {
        if ((size_t)ids[i] >= to->vocab_size)
            return fail("%s: ids[%zu] is %d, and the vocabulary has %zu tokens", where, i, ids[i],
                        to->vocab_size);
        if (ids[i] == to->end_id) length = i;
    }
    to->texts->ended += length < n;
    return add_text(to->texts, ids, length, n);
}

/* ---- files -------------------------------------------------------------------------------------------- */

static int add_value(void *user, const json_t *value, const char *where) {
    const reader *to = user;
    const json_t *text = json_object_get(value, "text");
    if (json_object_get(value, "ids") == NULL) {
        if (!json_is_string(text)) return fail("%s has neither \"ids\" nor a \"text\"", where);
        return add_encoded(to, json_string_value(text), json_string_length(text), where);
    }
    parse_error error;
    size_t n;
    int32_t *ids = ids_of_json(value, &n, &error);
    if (ids == NULL) return fail("%s: %s", where, error.message);
    const int status = add_ids(to, ids, n, where);
    free(ids);
    return status;
}

static int read_plain(const char *path, int format, const reader *to) {
    dlm_error err = {0};
    dlm_documents *documents;
    text_choice choice = text_choice_defaults();
    if (format != AUTO) choice.format = format - 1;
    int status = open_documents(&path, 1, &choice, &documents);
    if (status != EXIT_DONE) return status;
    while (status == EXIT_DONE) {
        const char *text;
        size_t bytes;
        char where[300];
        if (dlm_documents_next(documents, &text, &bytes, &err) != DLM_OK) {
            status = fail_with(&err);
            break;
        }
        if (text == NULL) break;
        (void)snprintf(where, sizeof where, "%.200s, text %zu", path, to->texts->n + 1);
        if (format == AUTO && to->texts->n == 0 && text[0] == '{')
            status = fail("%s begins as JSON does; --format tells whether it is jsonl or separated", path);
        else
            status = add_encoded(to, text, bytes, where);
    }
    dlm_documents_close(documents);
    return status;
}

/* The first line begins with {. False as well where the file cannot be read twice, or not at all. */
static bool begins_as_json(const char *path) {
    struct stat facts;
    if (stat(path, &facts) != 0 || !S_ISREG(facts.st_mode)) return false;
    dlm_text_options options = dlm_text_defaults();
    options.format = DLM_TEXT_LINES;
    options.replace_invalid = true; /* what is wrong is said by who reads it all */
    dlm_documents *lines;
    if (dlm_documents_open(&path, 1, &options, &lines, NULL) != DLM_OK) return false;
    const char *text = NULL;
    size_t bytes = 0;
    const bool json = dlm_documents_next(lines, &text, &bytes, NULL) == DLM_OK && text != NULL && bytes > 0 &&
                      text[0] == '{';
    dlm_documents_close(lines);
    return json;
}

int read_samples(const char *path, int format, const dlm_tokenizer *tokenizer, int32_t end_id,
                 sample_texts *texts) {
    *texts = (sample_texts){.ends_known = end_id >= 0};
    reader to = {.tokenizer = tokenizer,
                 .vocab_size = dlm_tokenizer_describe(tokenizer).vocab_size,
                 .end_id = end_id,
                 .texts = texts};
    const bool json = format == AUTO ? begins_as_json(path) : format - 1 == DLM_TEXT_JSONL;
    const int status = json ? read_json_lines(&path, 1, add_value, &to) : read_plain(path, format, &to);
    if (status != EXIT_DONE) return status;
    return texts->n > 0 ? EXIT_DONE : fail("%s holds no text", path);
}
