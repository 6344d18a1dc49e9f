/* tokenizer train, encode, decode and info. */
#include "commands.h"

#include "ids.h"
#include "texts.h"
#include "json.h"
#include "paths.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- train -------------------------------------------------------------------------------------------- */

typedef struct train_settings {
    common shared;
    const char *output;
    dlm_bpe_options bpe;
    bool overwrite;
    text_choice text;
} train_settings;

static void train_defaults(void *settings) {
    *(train_settings *)settings = (train_settings){.bpe = dlm_bpe_defaults(), .text = text_choice_defaults()};
}

static const option train_options[] = {
    OPTION_ROW(train_settings, output, .name = "output", .letter = 'o', .kind = OPTION_TEXT,
               .argument = "DIR", .required = true,
               .help = "the folder for tokenizer.json and tokenizer_config.json"),
    OPTION_ROW(train_settings, bpe.vocab_size, .name = "vocab-size", .kind = OPTION_SIZE, .argument = "N",
               .min = 260, .max = 1e6,
               .help = "tokens at most: four special ones, 256 bytes, the rest merges"),
    OPTION_ROW(train_settings, bpe.min_frequency, .name = "min-frequency", .kind = OPTION_WHOLE,
               .argument = "N", .min = 0, .max = OPTION_COUNT_MAX,
               .help = "merge only pairs that occur at least this often"),
    OPTION_ROW(train_settings, overwrite, .name = "overwrite", .kind = OPTION_FLAG,
               .help = "replace the tokenizer.json that is there"),
    TEXT_ROWS(train_settings, text),
    OPTION_ROW(train_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print what was made as JSON"),
    {0}};

/* The facts of a tokenizer, as tokenizer info --json prints them. */
static json_t *describe(const dlm_tokenizer *tokenizer) {
    dlm_tokenizer_info info = dlm_tokenizer_describe(tokenizer);
    return json_pack("{s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:b, s:o}", "vocab_size",
                     (json_int_t)info.vocab_size, "merges", (json_int_t)info.merges, "added_tokens",
                     (json_int_t)info.added_tokens, "pad_id", info.pad_id, "unk_id", info.unk_id, "mask_id",
                     info.mask_id, "end_id", info.end_id, "add_prefix_space", (int)info.add_prefix_space,
                     "hash", json_hash(info.hash));
}

static int train(const void *given) {
    const train_settings *settings = given;
    char *file = join(settings->output, "tokenizer.json");
    const bool there = file != NULL && exists(file);
    free(file);
    if (there && !settings->overwrite)
        return fail("%s has a tokenizer.json, which data and models may rest on; --overwrite replaces it",
                    settings->output);
    catch_signals();
    dlm_documents *documents;
    int status =
        open_documents(settings->shared.operands, settings->shared.n_operands, &settings->text, &documents);
    if (status != EXIT_DONE) return status;
    dlm_error err = {0};
    dlm_bpe_options options = settings->bpe;
    options.progress = draw_progress;
    dlm_tokenizer *tokenizer = NULL;
    dlm_status made = dlm_tokenizer_train(documents, &options, &tokenizer, &err);
    dlm_documents_close(documents);
    if (made == DLM_OK) made = dlm_tokenizer_save(tokenizer, settings->output, &err);
    if (made != DLM_OK)
        status = fail_with(&err);
    else if (settings->shared.json)
        status = print_json(describe(tokenizer));
    else
        say("%s: %zu tokens, %zu of them merges", settings->output,
            dlm_tokenizer_describe(tokenizer).vocab_size, dlm_tokenizer_describe(tokenizer).merges);
    dlm_tokenizer_free(tokenizer);
    return status;
}

const command command_tokenizer_train = {
    .name = "tokenizer train",
    .operands = "FILE...",
    .min_operands = 1,
    .max_operands = SIZE_MAX,
    .summary = "learns a byte-level BPE vocabulary from text",
    .description =
        "Learns a byte-level BPE vocabulary from text files and writes it as tokenizer.json, which Hugging "
        "Face tokenizers and transformers load too. Files compressed with gzip or Zstandard are "
        "decompressed; - is standard input. The result does not depend on the number of threads.",
    .example = "diffusionlm tokenizer train stories.txt -o tokenizer --vocab-size 4096",
    .options = train_options,
    .settings_size = sizeof(train_settings),
    .defaults = train_defaults,
    .run = train,
};

/* ---- encode ------------------------------------------------------------------------------------------- */

typedef struct use_settings {
    common shared;
    const char *tokenizer;
    text_choice text;
    bool keep_special;
} use_settings;

static void use_defaults(void *settings) {
    *(use_settings *)settings = (use_settings){.text = text_choice_defaults()};
    ((use_settings *)settings)->text.format = DLM_TEXT_WHOLE;
}

#define TOKENIZER_ROW                                                                            \
    OPTION_ROW(use_settings, tokenizer, .name = "tokenizer", .letter = 't', .kind = OPTION_TEXT, \
               .argument = "DIR", .required = true,                                              \
               .help = "a tokenizer.json, the folder that holds one, or a repository of the Hub")

static const option encode_options[] = {
    TOKENIZER_ROW,
    TEXT_ROWS(use_settings, text),
    OPTION_ROW(use_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "read \"text\" or {\"text\": ...} and write {\"ids\": [...]}, one a line"),
    {0}};

static int load_tokenizer(const char *path, dlm_tokenizer **tokenizer) {
    dlm_error err = {0};
    return dlm_tokenizer_load(path, tokenizer, &err) == DLM_OK ? EXIT_DONE : fail_with(&err);
}

static int print_ids(const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) printf(i == 0 ? "%" PRId32 : " %" PRId32, ids[i]);
    (void)putchar('\n');
    return ferror(stdout) ? flush_output() : EXIT_DONE;
}

static int encode_text(const dlm_tokenizer *tokenizer, const char *text, size_t bytes, bool json) {
    dlm_error err = {0};
    int32_t *ids;
    size_t n;
    if (dlm_tokenizer_encode(tokenizer, text, bytes, true, &ids, &n, &err) != DLM_OK) return fail_with(&err);
    int status = json ? print_json(json_pack("{s:o}", "ids", json_ids(ids, n))) : print_ids(ids, n);
    dlm_free(ids);
    return status;
}

static int encode_value(void *user, const json_t *value, const char *where) {
    const json_t *text = json_is_object(value) ? json_object_get(value, "text") : value;
    if (!json_is_string(text)) return fail("%s: neither \"text\" nor {\"text\": ...}", where);
    return encode_text(user, json_string_value(text), json_string_length(text), true);
}

static int encode_documents(const dlm_tokenizer *tokenizer, const use_settings *settings) {
    size_t n;
    const char *const *paths = paths_or_stdin(&settings->shared, &n);
    dlm_documents *documents;
    int status = open_documents(paths, n, &settings->text, &documents);
    if (status != EXIT_DONE) return status;
    while (status == EXIT_DONE) {
        dlm_error err = {0};
        const char *text;
        size_t bytes;
        if (dlm_documents_next(documents, &text, &bytes, &err) != DLM_OK)
            status = fail_with(&err);
        else if (text == NULL)
            break;
        else
            status = encode_text(tokenizer, text, bytes, false);
    }
    dlm_documents_close(documents);
    return status;
}

static int encode(const void *given) {
    const use_settings *settings = given;
    dlm_tokenizer *tokenizer;
    int status = load_tokenizer(settings->tokenizer, &tokenizer);
    if (status != EXIT_DONE) return status;
    size_t n;
    const char *const *paths = paths_or_stdin(&settings->shared, &n);
    status = settings->shared.json ? read_json_lines(paths, n, encode_value, tokenizer)
                                   : encode_documents(tokenizer, settings);
    dlm_tokenizer_free(tokenizer);
    return status;
}

const command command_tokenizer_encode = {
    .name = "tokenizer encode",
    .operands = "[FILE...]",
    .max_operands = SIZE_MAX,
    .summary = "text to ids",
    .description = "Turns text (standard input without FILE) into token ids: a line of numbers for each "
                   "document, which unless --format says otherwise is a whole file. [MASK] and the other "
                   "added tokens are read as such, as the Hugging Face library does.\n\nWith --json each "
                   "line of input is one JSON value and --format, --field and --invalid do not apply.",
    .example = "echo 'Once upon a time' | diffusionlm tokenizer encode -t tokenizer",
    .options = encode_options,
    .settings_size = sizeof(use_settings),
    .defaults = use_defaults,
    .run = encode,
};

/* ---- decode ------------------------------------------------------------------------------------------- */

static const option decode_options[] = {
    TOKENIZER_ROW,
    OPTION_ROW(use_settings, keep_special, .name = "keep-special", .kind = OPTION_FLAG,
               .help = "keep special tokens such as [MASK] in the text"),
    OPTION_ROW(use_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "read {\"ids\": [...]} and write {\"text\": ...}, one a line"),
    {0}};

typedef struct decoder {
    const dlm_tokenizer *tokenizer;
    bool skip_special, json;
} decoder;

/* where: what the ids came from, for messages. */
static int decode_ids(const decoder *how, const char *where, const int32_t *ids, size_t n) {
    dlm_error err = {0};
    char *text;
    size_t bytes;
    if (dlm_tokenizer_decode(how->tokenizer, ids, n, how->skip_special, &text, &bytes, &err) != DLM_OK)
        return fail("%s: %s", where, err.message);
    int status = EXIT_DONE;
    if (how->json)
        status = print_json(json_pack("{s:o}", "text", json_text(text, bytes)));
    else if (fwrite(text, 1, bytes, stdout) != bytes)
        status = flush_output();
    dlm_free(text);
    return status;
}

static int decode_value(void *user, const json_t *value, const char *where) {
    parse_error error;
    size_t n;
    int32_t *ids = ids_of_json(value, &n, &error);
    int status = ids == NULL ? fail("%s: %s", where, error.message) : decode_ids(user, where, ids, n);
    free(ids);
    return status;
}

static int decode_file(const decoder *how, const char *path) {
    text_choice whole = text_choice_defaults();
    whole.format = DLM_TEXT_WHOLE;
    dlm_documents *documents;
    int status = open_documents(&path, 1, &whole, &documents);
    if (status != EXIT_DONE) return status;
    dlm_error err = {0};
    const char *text;
    size_t bytes, n;
    if (dlm_documents_next(documents, &text, &bytes, &err) != DLM_OK) {
        status = fail_with(&err);
    } else if (text != NULL) {
        parse_error error;
        int32_t *ids = ids_of_text(text, bytes, &n, &error);
        status = ids == NULL ? fail("%s: %s", path, error.message) : decode_ids(how, path, ids, n);
        free(ids);
    }
    dlm_documents_close(documents);
    return status;
}

static int decode(const void *given) {
    const use_settings *settings = given;
    dlm_tokenizer *tokenizer;
    int status = load_tokenizer(settings->tokenizer, &tokenizer);
    if (status != EXIT_DONE) return status;
    decoder how = {
        .tokenizer = tokenizer, .skip_special = !settings->keep_special, .json = settings->shared.json};
    size_t n;
    const char *const *paths = paths_or_stdin(&settings->shared, &n);
    if (how.json)
        status = read_json_lines(paths, n, decode_value, &how);
    else
        for (size_t i = 0; i < n && status == EXIT_DONE; i++) status = decode_file(&how, paths[i]);
    dlm_tokenizer_free(tokenizer);
    return status;
}

const command command_tokenizer_decode = {
    .name = "tokenizer decode",
    .operands = "[FILE...]",
    .max_operands = SIZE_MAX,
    .summary = "ids to text",
    .description = "Turns token ids (of standard input without FILE), separated by white space, into text: "
                   "exactly the bytes they stand for, with one U+FFFD for each part that is not UTF-8. The "
                   "space that encoding puts before a text stays.",
    .example = "echo 372 391 290 | diffusionlm tokenizer decode -t tokenizer",
    .options = decode_options,
    .settings_size = sizeof(use_settings),
    .defaults = use_defaults,
    .run = decode,
};

/* ---- info --------------------------------------------------------------------------------------------- */

static const option info_options[] = {
    TOKENIZER_ROW,
    OPTION_ROW(use_settings, shared.json, .name = "json", .kind = OPTION_FLAG, .help = "print it as JSON"),
    {0}};

static int info(const void *given) {
    const use_settings *settings = given;
    dlm_tokenizer *tokenizer;
    int status = load_tokenizer(settings->tokenizer, &tokenizer);
    if (status != EXIT_DONE) return status;
    if (settings->shared.json) {
        status = print_json(describe(tokenizer));
    } else {
        dlm_tokenizer_info facts = dlm_tokenizer_describe(tokenizer);
        printf("vocabulary    %zu tokens\n", facts.vocab_size);
        printf("merges        %zu\n", facts.merges);
        printf("added tokens  %zu\n", facts.added_tokens);
        printf("ids           [PAD] %" PRId32 ", [UNK] %" PRId32 ", [MASK] %" PRId32
               ", <|endoftext|> %" PRId32 " (-1: none)\n",
               facts.pad_id, facts.unk_id, facts.mask_id, facts.end_id);
        printf("prefix space  %s\n", facts.add_prefix_space ? "yes" : "no");
        printf("hash          %016" PRIx64 "\n", facts.hash);
    }
    dlm_tokenizer_free(tokenizer);
    return status;
}

const command command_tokenizer_info = {
    .name = "tokenizer info",
    .summary = "what a tokenizer holds",
    .description = "Tells the size of a tokenizer's vocabulary, its special tokens, and the hash by which "
                   "token shards and models recognise it.",
    .example = "diffusionlm tokenizer info -t tokenizer",
    .options = info_options,
    .settings_size = sizeof(use_settings),
    .defaults = use_defaults,
    .run = info,
};
