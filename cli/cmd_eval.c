/* eval: how well a model predicts texts. */
#include "commands.h"

#include "eval_samples.h"
#include "models.h"
#include "json.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <math.h>
#include <stdio.h>

typedef struct eval_settings {
    common shared;
    model_choice model;
    const char *second; /* a model to compare with, or NULL */
    const char *data;
    dlm_eval_options eval;
    samples_choice samples;
} eval_settings;

static void defaults(void *settings) {
    eval_settings *all = settings;
    *all = (eval_settings){.model.options = dlm_model_defaults(), .eval = dlm_eval_defaults()};
    all->shared.seed = all->eval.seed;
}

static const option options[] = {
    OPTION_INNER_ROW(eval_settings, model, model_choice, path, .name = "model", .letter = 'm',
                     .kind = OPTION_TEXT, .argument = "MODEL", .again = offsetof(eval_settings, second),
                     .help = "a model folder, a run folder or a .safetensors file; given twice, the two are "
                             "compared"),
    MODEL_READING_ROWS(eval_settings, model),
    OPTION_ROW(eval_settings, data, .name = "data", .letter = 'd', .kind = OPTION_TEXT, .argument = "DATA",
               .required = true, .help = "token shards made by prepare with the same tokenizer"),
    OPTION_ROW(eval_settings, eval.draws, .name = "draws", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = 1e6, .help = "masks drawn for each text; more make the standard error smaller"),
    OPTION_ROW(eval_settings, eval.seq_len, .name = "seq-len", .kind = OPTION_SIZE, .argument = "N", .min = 2,
               .max = 65536, .word = "model", .word_value = 0,
               .help = "the longest window of a text; model: as long as the model takes"),
    OPTION_ROW(eval_settings, eval.max_documents, .name = "documents", .kind = OPTION_SIZE, .argument = "N",
               .min = 1, .max = OPTION_COUNT_MAX, .word = "all", .word_value = 0,
               .help = "read only the first N documents"),
    SAMPLES_ROWS(eval_settings, samples),
    OPTION_ROW(eval_settings, shared.json, .name = "json", .kind = OPTION_FLAG, .help = "print it as JSON"),
    {0}};

static json_t *describe(const dlm_eval_result *result) {
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:f}", "eval_ce", json_number(result->eval_ce),
        "perplexity", json_number(result->perplexity), "nelbo_nats_per_token", json_number(result->nelbo),
        "standard_error", json_number(result->standard_error), "standard_error_documents",
        json_number(result->standard_error_documents), "bits_per_byte", json_number(result->bits_per_byte),
        "tokens", (json_int_t)result->tokens, "bytes", (json_int_t)result->bytes, "seconds", result->seconds);
}

static void print_table(const dlm_eval_result *result) {
    char documents[32], tokens[32], bytes[32];
    write_count(result->documents, documents, sizeof documents);
    write_count(result->tokens, tokens, sizeof tokens);
    write_count(result->bytes, bytes, sizeof bytes);
    printf("NELBO           %8.4f  nats per token: at most this much is needed to write the texts down\n",
           result->nelbo);
    printf("  masks         %8.4f  its standard error, from the masks drawn\n", result->standard_error);
    printf("  documents     %8.4f  its standard error, were these documents a sample of many\n",
           result->standard_error_documents);
    printf("bits per byte   %8.4f  the same bound for each byte of text, whatever the tokenizer\n",
           result->bits_per_byte);
    printf("cross-entropy   %8.4f  mean over hidden tokens, at noise as the original draws it: no bound\n",
           result->eval_ce);
    printf("perplexity      %8.3f  its exponential: among how many tokens it hesitates\n",
           result->perplexity);
    printf("read            %s documents, %s tokens, %s bytes in %.1f s\n", documents, tokens, bytes,
           result->seconds);
}

/* ---- two models -------------------------------------------------------------------------------------------
 */

static json_t *describe_pair(const dlm_eval_result results[2], const dlm_eval_result *difference) {
    json_t *parts = json_pack("{s:o, s:o, s:o, s:o, s:o}", "eval_ce", json_number(difference->eval_ce),
                              "nelbo_nats_per_token", json_number(difference->nelbo), "standard_error",
                              json_number(difference->standard_error), "standard_error_documents",
                              json_number(difference->standard_error_documents), "bits_per_byte",
                              json_number(difference->bits_per_byte));
    return json_pack("{s:[o, o], s:o}", "models", describe(&results[0]), describe(&results[1]), "difference",
                     parts);
}

static void print_pair(dlm_model *const models[2], const dlm_eval_result results[2],
                       const dlm_eval_result *difference) {
    for (size_t i = 0; i < 2; i++) {
        printf("%s\n", dlm_model_source(models[i]));
        print_table(&results[i]);
        printf("\n");
    }
    printf("the second has  %+8.4f  nats per token, on the same masks\n", difference->nelbo);
    printf("  masks         %8.4f  its standard error\n", difference->standard_error);
    printf("  documents     %8.4f  its standard error, were these documents a sample of many\n",
           difference->standard_error_documents);
    printf("                %+8.4f  bits per byte\n", difference->bits_per_byte);
}

/* ---- the command ------------------------------------------------------------------------------------------
 */

/* models (2): the second is NULL where one is measured alone. */
static int measure(const eval_settings *settings, dlm_model *const models[2], const dlm_data *data) {
    dlm_error err = {0};
    dlm_eval_result results[2], difference;
    dlm_eval_options eval = settings->eval;
    eval.seed = settings->shared.seed;
    eval.progress = draw_progress;
    bool pair = models[1] != NULL, json = settings->shared.json;
    dlm_status status = pair ? dlm_eval_pair(models[0], models[1], data, &eval, results, &difference, &err)
                             : dlm_eval(models[0], data, &eval, results, &err);
    if (status != DLM_OK) return fail_with(&err);
    clear_status();
    if (json) return print_json(pair ? describe_pair(results, &difference) : describe(results));
    if (pair)
        print_pair(models, results, &difference);
    else
        print_table(results);
    return EXIT_DONE;
}

static int run(const void *given) {
    const eval_settings *settings = given;
    catch_signals();
    int fitting = check_samples_options(&command_eval, settings, &settings->samples);
    if (fitting != EXIT_DONE) return fitting;
    if (settings->samples.path != NULL && settings->second != NULL) {
        (void)fail("-m: --samples takes one model at most");
        return EXIT_USAGE;
    }
    if (settings->samples.path != NULL)
        return eval_samples(&settings->shared, &settings->samples, settings->model.path, settings->data);
    if (settings->model.path == NULL) {
        (void)fail("-m, --model MODEL is missing");
        return EXIT_USAGE;
    }
    dlm_model *models[2] = {NULL, NULL};
    model_choice second = settings->model;
    second.path = settings->second;
    int status = load_model(&settings->model, &models[0]);
    if (status == EXIT_DONE && second.path != NULL) status = load_model(&second, &models[1]);
    dlm_error err = {0};
    dlm_data *data = NULL;
    if (status == EXIT_DONE && dlm_data_open(settings->data, &data, &err) != DLM_OK) status = fail_with(&err);
    if (status == EXIT_DONE) status = measure(settings, models, data);
    dlm_data_close(data);
    for (size_t i = 0; i < 2; i++) dlm_model_free(models[i]);
    return status;
}

const command command_eval = {
    .name = "eval",
    .summary = "how well a model predicts texts: likelihood bound and cross-entropy",
    .description =
        "Measures a model on token shards. NELBO is an upper bound of the negative log-likelihood, estimated "
        "by "
        "hiding a number of tokens drawn uniformly from 1 to all, the same masks for every model. "
        "Cross-entropy "
        "and perplexity are the original program's, for comparison with its figures; they bound "
        "nothing.\n\nWith -m twice both models are measured, and "
        "their difference with its standard error, which is much smaller than that of either. --json then "
        "prints "
        "{\"models\": [{...}, {...}], \"difference\": {...}}.\n\nWith --samples the texts of a file are "
        "measured "
        "beside the held-out documents of DATA: how many n-grams are different or repeat, the entropy of "
        "tokens, lengths, the share that ends, and with --train-data how much is copied from there. Since "
        "these figures depend on how long and how many texts are, each text is held beside a document, drawn "
        "by --seed, that is cut to its length; only the lengths are those of all documents, uncut. A MODEL "
        "given besides tells whether its texts end. --json then prints {\"samples\": {...}, "
        "\"held_out\": {...}, ...}.",
    .example = "diffusionlm eval -m run -d valid",
    .options = options,
    .settings_size = sizeof(eval_settings),
    .defaults = defaults,
    .run = run,
};
