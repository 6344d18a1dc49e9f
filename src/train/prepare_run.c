/* The tokenizer and the shards that a run makes of text files, and RUN/text.json, which tells what text that
 * was and how it is read. */
#include "train/trainer.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of a file that cannot be known again: standard input, a pipe, one that is gone. */
enum { UNKNOWN = -1 };

static const char *const format_names[] = {"separated", "lines", "jsonl", "whole"};
enum { FORMATS = sizeof format_names / sizeof *format_names };

/* A text and the folder that it is prepared in. */
typedef struct preparing {
    const char *run;
    char *folder, *tokenizer, *data,
        *description; /* RUN/tokenizer, /tokenizer.json in it, /data, /text.json */
    const dlm_train_text *text;
    size_t vocab_size; /* of the tokenizer to be made; 0: one is named */
    dlm_train_made made;
} preparing;

dlm_train_text dlm_train_text_defaults(void) {
    return (dlm_train_text){.text = dlm_text_defaults(),
                            .seq_len = dlm_prepare_defaults().seq_len,
                            .same_format = true,
                            .same_field = true,
                            .same_invalid = true,
                            .same_vocab_size = true};
}

static bool run_has(const char *run, const char *name) {
    char *path = dlm__join(run, name);
    const bool there = path != NULL && (dlm__is_file(path) || dlm__is_dir(path));
    free(path);
    return there;
}

bool dlm__run_only_prepared(const char *run) {
    return !run_has(run, "log.csv") && !run_has(run, "checkpoints") &&
           (run_has(run, "text.json") || run_has(run, "tokenizer") || run_has(run, "data"));
}

static bool is_standard_input(const char *path) {
    return strcmp(path, "-") == 0;
}

static json_int_t size_of(const char *path) {
    struct stat facts;
    const bool known = !is_standard_input(path) && stat(path, &facts) == 0 && S_ISREG(facts.st_mode);
    return known ? (json_int_t)facts.st_size : UNKNOWN;
}

/* More text fills more tokens with enough occurrences to learn from. Compressed text is about three times as
 * long as its file. */
static size_t choose_vocab_size(const char *const *paths, size_t n) {
    double bytes = 0;
    for (size_t i = 0; i < n; i++) {
        struct stat facts;
        const char *dot = strrchr(paths[i], '.');
        const bool compressed = dot != NULL && (strcmp(dot, ".zst") == 0 || strcmp(dot, ".gz") == 0);
        if (stat(paths[i], &facts) == 0) bytes += (double)facts.st_size * (compressed ? 3 : 1);
    }
    return bytes < 2e6 ? 1024 : bytes < 8e6 ? 2048 : bytes < 64e6 ? 4096 : 8192;
}

/* ---- text.json ----------------------------------------------------------------------------------------- */

static const char *format_name(const dlm_train_text *text) {
    return format_names[text->text.format];
}

static const char *field_name(const dlm_train_text *text) {
    return text->text.field != NULL ? text->text.field : "";
}

static const char *invalid_name(const dlm_train_text *text) {
    return text->text.replace_invalid ? "replace" : "error";
}

static json_t *describe(const preparing *p) {
    json_t *bytes = json_array();
    for (size_t i = 0; i < p->text->n; i++)
        (void)json_array_append_new(bytes, json_integer(size_of(p->text->files[i])));
    /* The name of a field may hold anything that a command line can. */
    json_t *field = json_string(field_name(p->text));
    return json_pack("{s:o, s:s, s:o, s:s, s:I}", "bytes", bytes, "format", format_name(p->text), "field",
                     field != NULL ? field : json_null(), "invalid", invalid_name(p->text), "vocab_size",
                     (json_int_t)p->vocab_size);
}

static dlm_status write_description(const preparing *p, dlm_error *err) {
    json_t *all = describe(p);
    char *text = all == NULL ? NULL : json_dumps(all, JSON_INDENT(2));
    json_decref(all);
    if (text == NULL) return dlm__fail_memory(err, p->description, 0);
    const size_t n = strlen(text);
    text[n] = '\n'; /* in place of the 0 */
    const dlm_status status = dlm__write_file(p->description, text, n + 1, err);
    free(text);
    return status;
}

static dlm_status differs(const preparing *p, const char *what, const char *was, const char *is,
                          dlm_error *err) {
    return dlm__fail(err, DLM_MISMATCH, "%s goes on with other text than it began with: %s was %s, is %s",
                     p->run, what, was, is);
}

static dlm_status same_word(const preparing *p, const json_t *all, const char *what, const char *is,
                            dlm_error *err) {
    const char *was = json_string_value(json_object_get(all, what));
    return was == NULL || strcmp(was, is) == 0 ? DLM_OK : differs(p, what, was, is, err);
}

static dlm_status same_size(const preparing *p, const json_t *all, dlm_error *err) {
    const json_int_t was = json_integer_value(json_object_get(all, "vocab_size"));
    char words[2][24];
    if (was <= 0 || p->vocab_size == 0 || (size_t)was == p->vocab_size) return DLM_OK;
    (void)snprintf(words[0], sizeof words[0], "%lld", (long long)was);
    (void)snprintf(words[1], sizeof words[1], "%zu", p->vocab_size);
    return differs(p, "vocab_size", words[0], words[1], err);
}

static dlm_status same_files(const preparing *p, const json_t *bytes, dlm_error *err) {
    if (json_array_size(bytes) != p->text->n)
        return dlm__fail(
            err, DLM_MISMATCH,
            "%s goes on with other text than it began with: %zu text files were read, %zu are named", p->run,
            json_array_size(bytes), p->text->n);
    for (size_t i = 0; i < p->text->n; i++) {
        const json_int_t was = json_integer_value(json_array_get(bytes, i)), is = size_of(p->text->files[i]);
        if (was == UNKNOWN || is == UNKNOWN || was == is) continue;
        return dlm__fail(err, DLM_MISMATCH,
                         "%s goes on with other text than it began with: %s has %lld bytes, had %lld", p->run,
                         p->text->files[i], (long long)is, (long long)was);
    }
    return DLM_OK;
}

/* all: whether or not they were asked for. */
static dlm_status same_text(const preparing *p, const json_t *json, bool all, dlm_error *err) {
    const dlm_train_text *text = p->text;
    const json_t *bytes = json_object_get(json, "bytes");
    if (!json_is_array(bytes))
        return dlm__fail(err, DLM_FORMAT, "%s: \"bytes\" is no list of sizes", p->description);
    DLM_TRY(same_files(p, bytes, err));
    if (all || text->same_format) DLM_TRY(same_word(p, json, "format", format_name(text), err));
    if (all || text->same_field) DLM_TRY(same_word(p, json, "field", field_name(text), err));
    if (all || text->same_invalid) DLM_TRY(same_word(p, json, "invalid", invalid_name(text), err));
    return all || text->same_vocab_size ? same_size(p, json, err) : DLM_OK;
}

/* The text that the run was begun with is this one, or it is refused; where nothing was begun, it is written
 * down. Where there are shards, only what was asked for is looked at: the rest is as it was. */
static dlm_status check_description(const preparing *p, bool prepared, dlm_error *err) {
    if (!dlm__is_file(p->description)) return prepared ? DLM_OK : write_description(p, err);
    json_t *json;
    DLM_TRY(dlm__json_load(p->description, &json, err));
    const dlm_status status = same_text(p, json, !prepared, err);
    json_decref(json);
    return status;
}

/* ---- tokenizer and shards ------------------------------------------------------------------------------ */

static dlm_status train_tokenizer(const preparing *p, dlm_tokenizer **tokenizer, dlm_error *err) {
    const dlm_train_text *text = p->text;
    dlm_documents *documents;
    DLM_TRY(dlm_documents_open(text->files, text->n, &text->text, &documents, err));
    dlm_bpe_options bpe = dlm_bpe_defaults();
    bpe.vocab_size = p->vocab_size;
    bpe.progress = text->progress;
    bpe.user = text->user;
    dlm_status status = dlm_tokenizer_train(documents, &bpe, tokenizer, err);
    dlm_documents_close(documents);
    return status == DLM_OK ? dlm_tokenizer_save(*tokenizer, p->folder, err) : status;
}

/* The tokenizer named, the one in RUN from an earlier call, or a new one. */
static dlm_status get_tokenizer(preparing *p, dlm_tokenizer **tokenizer, dlm_error *err) {
    const char *there = p->text->tokenizer != NULL ? p->text->tokenizer : p->tokenizer;
    if (p->text->tokenizer != NULL || dlm__is_file(p->tokenizer))
        return dlm_tokenizer_load(there, tokenizer, err);
    p->made.tokenizer = true;
    return train_tokenizer(p, tokenizer, err);
}

static dlm_status make_shards(preparing *p, const dlm_tokenizer *tokenizer, dlm_error *err) {
    const dlm_train_text *text = p->text;
    dlm_documents *documents;
    DLM_TRY(dlm_documents_open(text->files, text->n, &text->text, &documents, err));
    dlm_prepare_options prepare = dlm_prepare_defaults();
    prepare.seq_len = text->seq_len;
    prepare.progress = text->progress;
    prepare.user = text->user;
    const dlm_status status = dlm_prepare(documents, tokenizer, p->data, &prepare, &p->made.info, err);
    dlm_documents_close(documents);
    p->made.data = status == DLM_OK;
    return status;
}

/* Files that cannot be read are refused before anything is made. */
static dlm_status check_files(const dlm_train_text *text, dlm_error *err) {
    if (text->n == 0) return dlm__fail(err, DLM_ARGUMENT, "there is no text to train on");
    for (size_t i = 0; i < text->n; i++)
        if (!is_standard_input(text->files[i]) && access(text->files[i], R_OK) != 0)
            return dlm__fail_errno(err, errno, "%s", text->files[i]);
    for (size_t i = 0; i < text->n && text->tokenizer == NULL; i++)
        if (is_standard_input(text->files[i]))
            return dlm__fail(err, DLM_ARGUMENT,
                             "standard input can be read only once, and the tokenizer and the shards both "
                             "need it: a tokenizer that is there has to be named");
    return DLM_OK;
}

static dlm_status make(preparing *p, dlm_error *err) {
    DLM_TRY(check_files(p->text, err));
    DLM_TRY(dlm__make_dirs(p->run, err));
    DLM_TRY(check_description(p, false, err));
    dlm_tokenizer *tokenizer = NULL;
    dlm_status status = get_tokenizer(p, &tokenizer, err);
    if (status == DLM_OK) {
        p->made.vocab_size = dlm_tokenizer_describe(tokenizer).vocab_size;
        status = make_shards(p, tokenizer, err);
    }
    dlm_tokenizer_free(tokenizer);
    if (status != DLM_OK && status != DLM_CANCELLED && !dlm__is_dir(p->folder)) {
        (void)unlink(p->description);
        (void)rmdir(p->run);
    }
    return status;
}

/* The shards are there already, with their tokenizer: another one is refused. Where no one wrote down what
 * was asked for, a smaller vocabulary may be all that the text gave. */
static dlm_status keep(preparing *p, dlm_error *err) {
    const dlm_train_text *text = p->text;
    dlm_tokenizer *there = NULL, *named = NULL;
    DLM_TRY(check_description(p, true, err));
    DLM_TRY(dlm_tokenizer_load(p->data, &there, err));
    const dlm_tokenizer_info info = dlm_tokenizer_describe(there);
    dlm_status status = text->tokenizer != NULL ? dlm_tokenizer_load(text->tokenizer, &named, err) : DLM_OK;
    if (status == DLM_OK && named != NULL && dlm_tokenizer_describe(named).hash != info.hash)
        status = dlm__fail(err, DLM_MISMATCH, "%s was made with another tokenizer than %s", p->data,
                           text->tokenizer);
    if (status == DLM_OK && text->vocab_size > 0 && text->vocab_size < info.vocab_size)
        status = dlm__fail(err, DLM_MISMATCH, "%s was made with a vocabulary of %zu tokens, not %zu", p->data,
                           info.vocab_size, text->vocab_size);
    p->made.vocab_size = info.vocab_size;
    dlm_tokenizer_free(named);
    dlm_tokenizer_free(there);
    return status;
}

static dlm_status check_options(const dlm_train_text *text, dlm_error *err) {
    if ((unsigned)text->text.format >= FORMATS)
        return dlm__fail(err, DLM_ARGUMENT, "text format %d is none of 0 to %d", (int)text->text.format,
                         FORMATS - 1);
    if (text->tokenizer != NULL && text->vocab_size != 0)
        return dlm__fail(err, DLM_ARGUMENT,
                         "a tokenizer and a vocabulary of %zu tokens are asked for: one names a tokenizer, "
                         "the other is for a new one",
                         text->vocab_size);
    return DLM_OK;
}

dlm_status dlm_train_prepare(const char *run, const dlm_train_text *text, dlm_train_made *made,
                             dlm_error *err) {
    preparing p = {.run = run, .text = text};
    DLM_TRY(check_options(text, err));
    if (text->tokenizer == NULL)
        p.vocab_size = text->vocab_size > 0 ? text->vocab_size : choose_vocab_size(text->files, text->n);
    p.folder = dlm__join(run, "tokenizer");
    p.tokenizer = dlm__join(run, "tokenizer/tokenizer.json");
    p.data = dlm__join(run, "data");
    p.description = dlm__join(run, "text.json");
    dlm_status status;
    if (p.folder == NULL || p.tokenizer == NULL || p.data == NULL || p.description == NULL)
        status = dlm__fail_memory(err, "names of files", strlen(run));
    else
        status = dlm__is_dir(p.data) ? keep(&p, err) : make(&p, err);
    free(p.folder);
    free(p.tokenizer);
    free(p.data);
    free(p.description);
    if (made != NULL) *made = p.made;
    return status;
}
