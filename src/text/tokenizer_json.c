/* tokenizer.json, read and written, and tokenizer_config.json, written.
 *
 * What is read: the files of byte-level BPE tokenizers as the Hugging Face `tokenizers` library writes them.
 * Parts that would change the ids and are not supported are refused by name, so that a file which loads gives
 * the library's ids. What is written has the library's own form, byte for byte where the tokenizer was
 * trained by it or here. */
#include "text/bpe_json.h"
#include "text/byte_level.h"
#include "text/utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const char *name; /* of the file, for messages */
    dlm_tokenizer *tokenizer;
    const dlm_bpe_json *bpe; /* the vocabulary and the merges, which then are not in the tree; or NULL */
    dlm_error *err;
} reader;

/* ---- values ------------------------------------------------------------------------------------------- */

static dlm_status unsupported(const reader *r, const char *part) {
    return dlm__fail(r->err, DLM_UNSUPPORTED, "%s: %s is not supported", r->name, part);
}

static dlm_status read_bool(const reader *r, const json_t *object, const char *part, const char *key,
                            bool *value) {
    const json_t *found = json_object_get(object, key);
    if (!json_is_boolean(found)) {
        return dlm__fail(r->err, DLM_FORMAT, "%s: %s has no \"%s\" that is true or false", r->name, part,
                         key);
    }
    *value = json_is_true(found);
    return DLM_OK;
}

/* A bool that may be absent. */
static dlm_status read_optional_bool(const reader *r, const json_t *object, const char *part, const char *key,
                                     bool *value) {
    return json_object_get(object, key) == NULL ? DLM_OK : read_bool(r, object, part, key, value);
}

static bool is_absent(const json_t *object, const char *key) {
    const json_t *found = json_object_get(object, key);
    return found == NULL || json_is_null(found);
}

/* ---- the parts around the model ----------------------------------------------------------------------- */

/* The ByteLevel object under key, the only type that is supported. */
static dlm_status read_byte_level(const reader *r, const json_t *root, const char *key,
                                  dlm_byte_level *value) {
    const json_t *part = json_object_get(root, key);
    const char *type = json_string_value(json_object_get(part, "type"));
    if (type == NULL)
        return dlm__fail(r->err, DLM_UNSUPPORTED, "%s: there is no %s; it has to be ByteLevel", r->name, key);
    if (strcmp(type, "ByteLevel") != 0) {
        return dlm__fail(r->err, DLM_UNSUPPORTED, "%s: %s \"%.60s\" is not supported, only ByteLevel is",
                         r->name, key, type);
    }
    value->use_regex = true;
    DLM_TRY(read_bool(r, part, key, "add_prefix_space", &value->add_prefix_space));
    DLM_TRY(read_bool(r, part, key, "trim_offsets", &value->trim_offsets));
    return read_optional_bool(r, part, key, "use_regex", &value->use_regex);
}

/* A template that is the text alone, without special tokens: `transformers` writes one where there was none.
 */
static bool adds_nothing(const json_t *post) {
    const char *type = json_string_value(json_object_get(post, "type"));
    const json_t *single = json_object_get(post, "single"), *only = json_array_get(single, 0);
    return type != NULL && strcmp(type, "TemplateProcessing") == 0 && json_array_size(single) == 1 &&
           json_is_object(json_object_get(only, "Sequence"));
}

static dlm_status read_frame(const reader *r, const json_t *root) {
    static const char *const refused[] = {"truncation", "padding", "normalizer"};
    dlm_tokenizer *t = r->tokenizer;
    if (!is_absent(root, "version")) {
        const char *version = json_string_value(json_object_get(root, "version"));
        if (version == NULL || strcmp(version, "1.0") != 0)
            return unsupported(r, "its version, which is not \"1.0\",");
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (!is_absent(root, refused[i])) {
            const char *type = json_string_value(json_object_get(json_object_get(root, refused[i]), "type"));
            return dlm__fail(r->err, DLM_UNSUPPORTED, "%s: %s%s%.60s is not supported", r->name, refused[i],
                             type == NULL ? "" : " ", type == NULL ? "" : type);
        }
    }
    DLM_TRY(read_byte_level(r, root, "pre_tokenizer", &t->pre));
    DLM_TRY(read_byte_level(r, root, "decoder", &t->decoder));
    t->has_post =
        !is_absent(root, "post_processor") && !adds_nothing(json_object_get(root, "post_processor"));
    return t->has_post ? read_byte_level(r, root, "post_processor", &t->post) : DLM_OK;
}

/* ---- the model ---------------------------------------------------------------------------------------- */

/* Adds the tokens of the vocabulary in the order of their ids, which must be 0, 1, ... without gaps. */
static dlm_status read_vocab(const reader *r, json_t *vocab) {
    size_t n = json_object_size(vocab);
    const char **contents = dlm__calloc(n, sizeof *contents);
    if (contents == NULL) return dlm__fail_memory(r->err, "the vocabulary", n * sizeof *contents);
    dlm_status status = DLM_OK;
    const char *content;
    json_t *id;
    json_object_foreach(vocab, content, id) {
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || (uint64_t)value >= n || contents[value] != NULL) {
            status = dlm__fail(
                r->err, DLM_FORMAT,
                "%s: token \"%.60s\" has id %lld, but %zu tokens must have the ids 0 to %zu, one each",
                r->name, content, (long long)value, n, n - 1);
            break;
        }
        contents[value] = content;
    }
    for (size_t i = 0; i < n && status == DLM_OK; i++) {
        status = dlm__tokenizer_add(r->tokenizer, contents[i], strlen(contents[i]), r->err);
    }
    free(contents);
    return status;
}

/* The two contents of a merge, written as a pair or as one string with a space between them. */
static bool split_merge(const json_t *merge, const char *parts[2], size_t bytes[2]) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            parts[i] = json_string_value(json_array_get(merge, i));
            bytes[i] = json_string_length(json_array_get(merge, i));
        }
        return parts[0] != NULL && parts[1] != NULL;
    }
    if (!json_is_string(merge)) return false;
    parts[0] = json_string_value(merge);
    size_t n = json_string_length(merge);
    const char *space = memchr(parts[0], ' ', n);
    if (space == NULL) return false;
    bytes[0] = (size_t)(space - parts[0]);
    parts[1] = space + 1;
    bytes[1] = n - bytes[0] - 1;
    return memchr(parts[1], ' ', bytes[1]) == NULL;
}

static dlm_status unknown_token(const reader *r, size_t i, const char *content, size_t bytes) {
    return dlm__fail(r->err, DLM_FORMAT, "%s: merge %zu needs token \"%.*s\", which is not in the vocabulary",
                     r->name, i, bytes < 60 ? (int)bytes : 60, content);
}

static dlm_status read_merge(const reader *r, const json_t *merge, size_t i, char **joined,
                             size_t *capacity) {
    const char *parts[2];
    size_t bytes[2], total;
    int32_t ids[3];
    if (!split_merge(merge, parts, bytes)) {
        return dlm__fail(r->err, DLM_FORMAT, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", r->name,
                         i);
    }
    for (size_t k = 0; k < 2; k++) {
        ids[k] = dlm__tokenizer_find(r->tokenizer, parts[k], bytes[k]);
        if (ids[k] < 0) return unknown_token(r, i, parts[k], bytes[k]);
    }
    char *both = dlm__size_add(bytes[0], bytes[1], &total) ? dlm__grow(*joined, capacity, total, 1) : NULL;
    if (both == NULL) return dlm__fail_memory(r->err, "a merge", bytes[0]);
    *joined = both;
    memcpy(both, parts[0], bytes[0]);
    memcpy(both + bytes[0], parts[1], bytes[1]);
    ids[2] = dlm__tokenizer_find(r->tokenizer, both, total);
    if (ids[2] < 0) return unknown_token(r, i, both, total);
    return dlm__tokenizer_merge(r->tokenizer, (dlm_merge){ids[0], ids[1], ids[2]}, r->err);
}

static dlm_status read_merges(const reader *r, const json_t *merges) {
    char *joined = NULL;
    size_t capacity = 0;
    dlm_status status = DLM_OK;
    bool strings = json_is_string(json_array_get(merges, 0));
    for (size_t i = 0; i < json_array_size(merges) && status == DLM_OK; i++) {
        const json_t *merge = json_array_get(merges, i);
        if (json_is_string(merge) != strings) {
            status = dlm__fail(r->err, DLM_FORMAT, "%s: merge %zu is not written as merge 0 is", r->name, i);
        } else if (!strings || strncmp(json_string_value(merge), "#version", 8) != 0) {
            status = read_merge(r, merge, i, &joined, &capacity);
        }
    }
    free(joined);
    return status;
}

/* What else a BPE model can be told, and what of it is supported. */
static dlm_status read_model_options(const reader *r, const json_t *model) {
    dlm_tokenizer *t = r->tokenizer;
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_absent(model, "dropout") && !(json_is_number(dropout) && json_number_value(dropout) == 0.0)) {
        return unsupported(r, "model.dropout");
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (!is_absent(model, affixes[i]) && (affix == NULL || affix[0] != '\0')) {
            return dlm__fail(r->err, DLM_UNSUPPORTED, "%s: model.%s is not supported", r->name, affixes[i]);
        }
    }
    bool byte_fallback = false;
    DLM_TRY(read_optional_bool(r, model, "model", "byte_fallback", &byte_fallback));
    if (byte_fallback) return unsupported(r, "model.byte_fallback");
    DLM_TRY(read_optional_bool(r, model, "model", "fuse_unk", &t->fuse_unk));
    return read_optional_bool(r, model, "model", "ignore_merges", &t->ignore_merges);
}

/* unk_token has to be in the vocabulary only where a byte has no symbol there: the library too asks for it no
 * sooner. */
static dlm_status read_unknown(const reader *r, const json_t *model) {
    dlm_tokenizer *t = r->tokenizer;
    const json_t *unk = json_object_get(model, "unk_token");
    if (unk == NULL || json_is_null(unk)) return DLM_OK;
    if (!json_is_string(unk) || strlen(json_string_value(unk)) != json_string_length(unk)) {
        return dlm__fail(r->err, DLM_FORMAT, "%s: model.unk_token is not a string", r->name);
    }
    t->unk_token = dlm__copy_bytes(json_string_value(unk), json_string_length(unk));
    if (t->unk_token == NULL) return dlm__fail_memory(r->err, "unk_token", json_string_length(unk));
    t->unk_id = dlm__tokenizer_find(t, t->unk_token, strlen(t->unk_token));
    for (int byte = 0; byte < 256 && t->unk_id < 0; byte++) {
        char symbol[4];
        if (dlm__tokenizer_find(t, symbol,
                                dlm__utf8_write(dlm__byte_character((unsigned char)byte), symbol)) < 0) {
            return dlm__fail(r->err, DLM_UNSUPPORTED,
                             "%s: the vocabulary has neither a symbol of byte %d nor unk_token \"%.60s\"",
                             r->name, byte, t->unk_token);
        }
    }
    return DLM_OK;
}

static dlm_status read_model(const reader *r, const json_t *model, json_t *vocab, const json_t *merges) {
    DLM_TRY(read_model_options(r, model));
    DLM_TRY(r->bpe != NULL ? dlm__bpe_json_tokens(r->bpe, r->tokenizer, r->err) : read_vocab(r, vocab));
    r->tokenizer->model_size = r->tokenizer->vocab_size;
    DLM_TRY(read_unknown(r, model));
    return r->bpe != NULL ? dlm__bpe_json_merges(r->bpe, r->tokenizer, r->err) : read_merges(r, merges);
}

/* ---- added tokens ------------------------------------------------------------------------------------- */

/* The library ignores the id that is written: an added token has the model's id of that content, or the next
 * one. Where the two differ, the file is refused. */
static dlm_status read_added(const reader *r, const json_t *entry, size_t i) {
    dlm_tokenizer *t = r->tokenizer;
    const json_t *content = json_object_get(entry, "content"), *id = json_object_get(entry, "id");
    if (!json_is_string(content) || json_string_length(content) == 0 || !json_is_integer(id)) {
        return dlm__fail(r->err, DLM_FORMAT, "%s: added token %zu lacks \"content\" or \"id\"", r->name, i);
    }
    if (strlen(json_string_value(content)) != json_string_length(content)) {
        return dlm__fail(r->err, DLM_UNSUPPORTED,
                         "%s: added token %zu contains U+0000, which is not supported", r->name, i);
    }
    dlm_added_token added = {0};
    bool special = false;
    DLM_TRY(read_bool(r, entry, "an added token", "single_word", &added.single_word));
    DLM_TRY(read_bool(r, entry, "an added token", "lstrip", &added.left_strip));
    DLM_TRY(read_bool(r, entry, "an added token", "rstrip", &added.right_strip));
    DLM_TRY(read_bool(r, entry, "an added token", "normalized", &added.normalized));
    DLM_TRY(read_bool(r, entry, "an added token", "special", &special));
    added.id = dlm__tokenizer_find(t, json_string_value(content), json_string_length(content));
    if (added.id < 0) {
        added.id = (int32_t)t->vocab_size;
        DLM_TRY(dlm__tokenizer_add(t, json_string_value(content), json_string_length(content), r->err));
    }
    if (added.id != json_integer_value(id)) {
        return dlm__fail(r->err, DLM_FORMAT,
                         "%s: added token \"%.60s\" has id %lld, but its place in the vocabulary is %d",
                         r->name, json_string_value(content), (long long)json_integer_value(id),
                         (int)added.id);
    }
    if (t->tokens[added.id].added) {
        return dlm__fail(r->err, DLM_FORMAT, "%s: added token \"%.60s\" appears twice", r->name,
                         json_string_value(content));
    }
    return dlm__tokenizer_mark_added(t, &added, special, r->err);
}

static dlm_status read_all_added(const reader *r, const json_t *root) {
    if (is_absent(root, "added_tokens")) return DLM_OK;
    const json_t *added = json_object_get(root, "added_tokens");
    if (!json_is_array(added))
        return dlm__fail(r->err, DLM_FORMAT, "%s: added_tokens is not a list", r->name);
    for (size_t i = 0; i < json_array_size(added); i++) DLM_TRY(read_added(r, json_array_get(added, i), i));
    return DLM_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static dlm_status read_root(const char *name, const json_t *root, const dlm_bpe_json *bpe,
                            dlm_tokenizer **tokenizer, dlm_error *err) {
    const json_t *model = json_object_get(root, "model");
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type != NULL && strcmp(type, "BPE") != 0) {
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: model \"%.60s\" is not supported, only BPE is", name,
                         type);
    }
    if (!json_is_object(vocab) || (bpe == NULL && json_object_size(vocab) == 0) || !json_is_array(merges)) {
        return dlm__fail(err, DLM_FORMAT, "%s: there is no BPE model with \"vocab\" and \"merges\"", name);
    }
    DLM_TRY(dlm__tokenizer_create(tokenizer, err));
    const reader r = {name, *tokenizer, bpe, err};
    DLM_TRY(read_frame(&r, root));
    DLM_TRY(read_model(&r, model, vocab, merges));
    DLM_TRY(read_all_added(&r, root));
    return dlm__tokenizer_finish(*tokenizer, err);
}

static dlm_status read_text(const char *name, const char *json, size_t n, const dlm_bpe_json *bpe,
                            dlm_tokenizer **tokenizer, dlm_error *err) {
    json_t *root;
    *tokenizer = NULL;
    DLM_TRY(dlm__json_parse(name, json, n, &root, err));
    dlm_status status = read_root(name, root, bpe, tokenizer, err);
    json_decref(root);
    if (status != DLM_OK) {
        dlm_tokenizer_free(*tokenizer);
        *tokenizer = NULL;
    }
    return status;
}

dlm_status dlm__tokenizer_parse(const char *name, const char *json, size_t n, bool whole,
                                dlm_tokenizer **tokenizer, dlm_error *err) {
    dlm_bpe_json bpe;
    *tokenizer = NULL;
    if (!whole && dlm__bpe_json_read(json, n, &bpe))
        (void)read_text(name, bpe.rest, bpe.rest_bytes, &bpe, tokenizer, NULL);
    if (!whole) dlm__bpe_json_free(&bpe);
    /* What has failed fails again, and says why. */
    return *tokenizer != NULL ? DLM_OK : read_text(name, json, n, NULL, tokenizer, err);
}

dlm_status dlm_tokenizer_parse(const char *name, const char *json, size_t n, dlm_tokenizer **tokenizer,
                               dlm_error *err) {
    return dlm__tokenizer_parse(name, json, n, false, tokenizer, err);
}

dlm_status dlm__tokenizer_read(const char *path, dlm_tokenizer **tokenizer, dlm_error *err) {
    *tokenizer = NULL;
    char *inside =
        dlm__is_dir(path) ? dlm__join(path, "tokenizer.json") : dlm__copy_bytes(path, strlen(path));
    if (inside == NULL) return dlm__fail_memory(err, "a path", strlen(path));
    char *text;
    size_t n;
    dlm_status status = dlm__read_file(inside, DLM_JSON_LIMIT, &text, &n, err);
    if (status == DLM_OK) {
        status = dlm_tokenizer_parse(inside, text, n, tokenizer, err);
        free(text);
    }
    free(inside);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static json_t *content_json(const dlm_tokenizer *t, int32_t id) {
    size_t bytes;
    const char *content = dlm__tokenizer_content(t, id, &bytes);
    return json_stringn(content, bytes);
}

static json_t *byte_level_json(const dlm_byte_level *part) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", part->add_prefix_space,
                     "trim_offsets", part->trim_offsets, "use_regex", part->use_regex);
}

static int compare_ids(const void *left, const void *right) {
    int32_t a = (*(const dlm_added_token *const *)left)->id, b = (*(const dlm_added_token *const *)right)->id;
    return (a > b) - (a < b);
}

/* In the order of their ids, as the library does. */
static json_t *added_json(const dlm_tokenizer *t) {
    const dlm_added_token **sorted = dlm__calloc(t->added_count, sizeof *sorted);
    if (sorted == NULL) return NULL;
    for (size_t i = 0; i < t->added_count; i++) sorted[i] = &t->added[i];
    qsort(sorted, t->added_count, sizeof *sorted, compare_ids);
    json_t *all = json_array();
    for (size_t i = 0; i < t->added_count && all != NULL; i++) {
        const dlm_added_token *added = sorted[i];
        json_t *entry = json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (int)added->id, "content",
                                  content_json(t, added->id), "single_word", added->single_word, "lstrip",
                                  added->left_strip, "rstrip", added->right_strip, "normalized",
                                  added->normalized, "special", t->tokens[added->id].special);
        if (json_array_append_new(all, entry) != 0) {
            json_decref(all);
            all = NULL;
        }
    }
    free(sorted);
    return all;
}

static json_t *vocab_json(const dlm_tokenizer *t) {
    json_t *vocab = json_object();
    for (size_t i = 0; i < t->model_size; i++) {
        char *content = dlm__copy_bytes(t->strings + t->tokens[i].content, t->tokens[i].content_bytes);
        int failed = content == NULL || json_object_set_new(vocab, content, json_integer((json_int_t)i)) != 0;
        free(content);
        if (failed) {
            json_decref(vocab);
            return NULL;
        }
    }
    return vocab;
}

static json_t *merges_json(const dlm_tokenizer *t) {
    json_t *merges = json_array();
    for (size_t i = 0; i < t->merge_count; i++) {
        const dlm_merge *merge = &t->merges[i];
        json_t *pair = json_pack("[o, o]", content_json(t, merge->left), content_json(t, merge->right));
        if (json_array_append_new(merges, pair) != 0) {
            json_decref(merges);
            return NULL;
        }
    }
    return merges;
}

static json_t *model_json(const dlm_tokenizer *t) {
    return json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                     "unk_token", t->unk_token, "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                     t->fuse_unk, "byte_fallback", 0, "ignore_merges", t->ignore_merges, "vocab",
                     vocab_json(t), "merges", merges_json(t));
}

static json_t *tokenizer_json(const dlm_tokenizer *t) {
    return json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation",
                     "padding", "added_tokens", added_json(t), "normalizer", "pre_tokenizer",
                     byte_level_json(&t->pre), "post_processor",
                     t->has_post ? byte_level_json(&t->post) : json_null(), "decoder",
                     byte_level_json(&t->decoder), "model", model_json(t));
}

/* For PreTrainedTokenizerFast of `transformers`, which takes the special tokens and the prefix space from
 * here. */
static json_t *config_json(const dlm_tokenizer *t) {
    static const char *const names[][2] = {{"pad_token", "[PAD]"},
                                           {"unk_token", "[UNK]"},
                                           {"mask_token", "[MASK]"},
                                           {"eos_token", "<|endoftext|>"}};
    json_t *config =
        json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "add_prefix_space",
                  t->pre.add_prefix_space, "clean_up_tokenization_spaces", 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (dlm__tokenizer_find(t, names[i][1], strlen(names[i][1])) < 0) continue;
        if (json_object_set_new(config, names[i][0], json_string(names[i][1])) != 0) {
            json_decref(config);
            return NULL;
        }
    }
    return config;
}

/* Writes dir/name and takes the reference to json, which may be NULL for want of memory. */
static dlm_status write_json(const char *dir, const char *name, json_t *json, size_t limit, dlm_error *err) {
    char *path = dlm__join(dir, name), *text = json == NULL ? NULL : json_dumps(json, JSON_INDENT(2));
    size_t bytes = text == NULL ? 0 : strlen(text);
    dlm_status status;
    if (path == NULL || text == NULL)
        status = dlm__fail_memory(err, name, 0);
    else if (bytes > limit)
        status =
            dlm__fail(err, DLM_UNSUPPORTED,
                      "%s would have %zu bytes, more than the %zu that are read: a smaller vocabulary or "
                      "a higher least frequency leaves out the longest tokens",
                      path, bytes, limit);
    else
        status = dlm__write_file(path, text, bytes, err);
    free(path);
    free(text);
    json_decref(json);
    return status;
}

dlm_status dlm__tokenizer_save_within(const dlm_tokenizer *tokenizer, const char *dir, size_t limit,
                                      dlm_error *err) {
    DLM_TRY(dlm__make_dirs(dir, err));
    DLM_TRY(write_json(dir, "tokenizer.json", tokenizer_json(tokenizer), limit, err));
    return write_json(dir, "tokenizer_config.json", config_json(tokenizer), limit, err);
}

dlm_status dlm_tokenizer_save(const dlm_tokenizer *tokenizer, const char *dir, dlm_error *err) {
    return dlm__tokenizer_save_within(tokenizer, dir, DLM_JSON_LIMIT, err);
}
