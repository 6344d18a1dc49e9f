/* prepare: text files to token shards. */
#include "commands.h"

#include "texts.h"
#include "json.h"
#include "prepare.h"
#include "terminal.h"

#include "diffusionlm.h"

typedef struct prepare_settings {
    common shared;
    const char *tokenizer, *output;
    dlm_prepare_options prepare;
    text_choice text;
} prepare_settings;

static void defaults(void *settings) {
    *(prepare_settings *)settings =
        (prepare_settings){.prepare = dlm_prepare_defaults(), .text = text_choice_defaults()};
}

static const option options[] = {
    OPTION_ROW(prepare_settings, tokenizer, .name = "tokenizer", .letter = 't', .kind = OPTION_TEXT,
               .argument = "DIR", .required = true,
               .help = "a tokenizer.json, the folder that holds one, or a repository of the Hub"),
    OPTION_ROW(prepare_settings, output, .name = "output", .letter = 'o', .kind = OPTION_TEXT,
               .argument = "DATA", .required = true, .help = "the folder to make"),
    OPTION_ROW(prepare_settings, prepare.seq_len, .name = "seq-len", .kind = OPTION_SIZE, .argument = "N",
               .min = 2, .max = 65536,
               .help = "longer documents (in tokens) are marked as consecutive windows of this length"),
    OPTION_ROW(prepare_settings, prepare.shard_tokens, .name = "shard-tokens", .kind = OPTION_SIZE,
               .argument = "N", .min = 1, .max = 1073741824.0,
               .help = "a shard is closed after the document that reaches this many tokens"),
    OPTION_ROW(prepare_settings, prepare.overwrite, .name = "overwrite", .kind = OPTION_FLAG,
               .help = "replace DATA when it is there"),
    TEXT_ROWS(prepare_settings, text),
    OPTION_ROW(prepare_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print the summary as JSON"),
    {0}};

void say_data(const char *path, const dlm_data_info *info) {
    char documents[32], tokens[32], longest[32], split[32];
    write_count(info->documents, documents, sizeof documents);
    write_count(info->tokens, tokens, sizeof tokens);
    write_count(info->longest, longest, sizeof longest);
    write_count(info->split, split, sizeof split);
    say("%s: %s documents, %s tokens, %.2f bytes per token; the longest has %s tokens, %s of more than %zu "
        "were split",
        path, documents, tokens, info->tokens > 0 ? (double)info->bytes / (double)info->tokens : 0.0, longest,
        split, info->seq_len);
}

static json_t *describe(const dlm_data_info *info) {
    return json_pack("{s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:o}", "documents",
                     (json_int_t)info->documents, "tokens", (json_int_t)info->tokens, "bytes",
                     (json_int_t)info->bytes, "bytes_per_token",
                     info->tokens > 0 ? (double)info->bytes / (double)info->tokens : 0.0, "longest",
                     (json_int_t)info->longest, "split", (json_int_t)info->split, "windows",
                     (json_int_t)info->windows, "seq_len", (json_int_t)info->seq_len, "shards",
                     (json_int_t)info->shards, "vocabulary_hash", json_hash(info->vocabulary_hash));
}

int prepare_data(const char *const *paths, size_t n, const text_choice *text, const dlm_tokenizer *tokenizer,
                 const char *data, dlm_prepare_options prepare, dlm_data_info *info) {
    dlm_documents *documents;
    int status = open_documents(paths, n, text, &documents);
    if (status != EXIT_DONE) return status;
    dlm_error err = {0};
    prepare.progress = draw_progress;
    if (dlm_prepare(documents, tokenizer, data, &prepare, info, &err) != DLM_OK) status = fail_with(&err);
    dlm_documents_close(documents);
    clear_status();
    return status;
}

static int run(const void *given) {
    const prepare_settings *settings = given;
    catch_signals();
    dlm_error err = {0};
    dlm_tokenizer *tokenizer;
    if (dlm_tokenizer_load(settings->tokenizer, &tokenizer, &err) != DLM_OK) return fail_with(&err);
    dlm_data_info info;
    int status = prepare_data(settings->shared.operands, settings->shared.n_operands, &settings->text,
                              tokenizer, settings->output, settings->prepare, &info);
    dlm_tokenizer_free(tokenizer);
    if (status != EXIT_DONE) return status;
    if (settings->shared.json) return print_json(describe(&info));
    say_data(settings->output, &info);
    return EXIT_DONE;
}

const command command_prepare = {
    .name = "prepare",
    .operands = "FILE...",
    .min_operands = 1,
    .max_operands = SIZE_MAX,
    .summary = "text to token shards, which training and evaluation read",
    .description = "Encodes the documents of text files, in their order and on all processors, into a new "
                   "folder of token shards with the tokenizer beside them. Special tokens such as [MASK] in "
                   "the text are plain text. An interrupted run leaves nothing under the name of "
                   "DATA.\n\nDocuments stand between lines <|endoftext|>, or as --format says. Files "
                   "compressed with gzip or Zstandard are decompressed; - is standard input.",
    .example = "diffusionlm prepare stories.txt -t tokenizer -o data",
    .options = options,
    .settings_size = sizeof(prepare_settings),
    .defaults = defaults,
    .run = run,
};
