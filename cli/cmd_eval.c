/* eval: how well a model predicts texts. */
#include "commands.h"

#include "models.h"
#include "json.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <math.h>
#include <stdio.h>

typedef struct eval_settings {
    common shared;
    model_choice model;
    const char *data;
    dlm_eval_options eval;
} eval_settings;

static void defaults(void *settings) {
    eval_settings *all = settings;
    *all = (eval_settings){.model.options = dlm_model_defaults(), .eval = dlm_eval_defaults()};
    all->shared.seed = all->eval.seed;
}

static const option options[] = {
    MODEL_ROWS(eval_settings, model),
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
    OPTION_ROW(eval_settings, shared.json, .name = "json", .kind = OPTION_FLAG, .help = "print it as JSON"),
    {0}};

/* What cannot be measured, such as an error from one draw, is not a number; JSON has null for it. */
static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *describe(const dlm_eval_result *result) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:f}", "eval_ce", number(result->eval_ce),
                     "perplexity", number(result->perplexity), "nelbo_nats_per_token", number(result->nelbo),
                     "standard_error", number(result->standard_error), "standard_error_documents",
                     number(result->standard_error_documents), "bits_per_byte", number(result->bits_per_byte),
                     "tokens", (json_int_t)result->tokens, "bytes", (json_int_t)result->bytes, "seconds",
                     result->seconds);
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

static int run(const void *given) {
    const eval_settings *settings = given;
    catch_signals();
    dlm_model *model;
    int status = load_model(&settings->model, &model);
    if (status != EXIT_DONE) return status;
    dlm_error err = {0};
    dlm_data *data = NULL;
    dlm_eval_result result;
    dlm_eval_options eval = settings->eval;
    eval.seed = settings->shared.seed;
    eval.progress = draw_progress;
    if (dlm_data_open(settings->data, &data, &err) != DLM_OK ||
        dlm_eval(model, data, &eval, &result, &err) != DLM_OK) {
        status = fail_with(&err);
    } else {
        clear_status();
        if (settings->shared.json)
            status = print_json(describe(&result));
        else
            print_table(&result);
    }
    dlm_data_close(data);
    dlm_model_free(model);
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
        "and perplexity are the original program's, for comparison with its figures; they bound nothing.",
    .example = "diffusionlm eval -m run -d valid",
    .options = options,
    .settings_size = sizeof(eval_settings),
    .defaults = defaults,
    .run = run,
};
