/* eval: how well a model predicts texts. */
#include "commands.h"

#include "eval_curve.h"
#include "eval_report.h"
#include "eval_samples.h"
#include "models.h"
#include "json.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <stdio.h>

typedef struct eval_settings {
    common shared;
    model_choice model;
    const char *second; /* a model to compare with, or NULL */
    const char *data;
    dlm_eval_options eval;
    bool curve;
    const char *svg;
    samples_choice samples;
} eval_settings;

static void defaults(void *settings) {
    eval_settings *all = settings;
    *all = (eval_settings){.model.options = dlm_model_defaults(), .eval = dlm_eval_defaults()};
    all->shared.seed = all->eval.seed;
}

static const char *const masks_choices[] = {"auto", "independent", "complementary", NULL};

static const option options[] = {
    OPTION_INNER_ROW(
        eval_settings, model, model_choice, path, .name = "model", .letter = 'm', .kind = OPTION_TEXT,
        .argument = "MODEL", .again = offsetof(eval_settings, second),
        .help = "a model folder, a run folder, a .pt or .safetensors file or a model of the Hub; given "
                "twice, the two are "
                "compared"),
    MODEL_READING_ROWS(eval_settings, model),
    OPTION_ROW(eval_settings, data, .name = "data", .letter = 'd', .kind = OPTION_TEXT, .argument = "DATA",
               .required = true, .help = "token shards made by prepare with the same tokenizer"),
    OPTION_ROW(eval_settings, eval.draws, .name = "draws", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = 1e6, .help = "masks drawn for each text; more make the standard error smaller"),
    OPTION_ROW(eval_settings, eval.masks, .name = "masks", .kind = OPTION_CHOICE, .choices = masks_choices,
               .help =
                   "drawn one by one, or in pairs that together hide every token; auto: pairs where draws "
                   "are even and at least 4"),
    OPTION_ROW(eval_settings, eval.exact, .name = "exact", .kind = OPTION_FLAG,
               .help = "try all masks of each text, which may have at most 20 tokens"),
    OPTION_ROW(eval_settings, curve, .name = "curve", .kind = OPTION_FLAG,
               .help = "also the cross-entropy where 5, 10 ... 100 % of the tokens are hidden"),
    OPTION_ROW(eval_settings, svg, .name = "svg", .kind = OPTION_TEXT, .argument = "FILE",
               .help = "draw that curve into FILE; implies --curve"),
    OPTION_ROW(eval_settings, eval.seq_len, .name = "seq-len", .kind = OPTION_SIZE, .argument = "N", .min = 2,
               .max = 65536, .word = "model", .word_value = 0,
               .help = "the longest window of a text; model: as long as the model takes"),
    OPTION_ROW(eval_settings, eval.max_documents, .name = "documents", .kind = OPTION_SIZE, .argument = "N",
               .min = 1, .max = OPTION_COUNT_MAX, .word = "all", .word_value = 0,
               .help = "read only the first N documents"),
    SAMPLES_ROWS(eval_settings, samples),
    OPTION_ROW(eval_settings, shared.json, .name = "json", .kind = OPTION_FLAG, .help = "print it as JSON"),
    {0}};

/* ---- results ------------------------------------------------------------------------------------------ */

/* Of the models, how many, and what was measured of each. curves: or NULL. */
typedef struct findings {
    dlm_model *const *models;
    size_t n;
    dlm_eval_result results[2], difference;
    curve curves[2];
    bool curve;
} findings;

static json_t *describe_model(const findings *all, size_t i) {
    json_t *object = describe_eval(&all->results[i]);
    if (all->curve) (void)json_object_set_new(object, "curve", describe_curve(&all->curves[i]));
    return object;
}

static json_t *describe(const findings *all) {
    if (all->n == 1) return describe_model(all, 0);
    return json_pack("{s:[o, o], s:o}", "models", describe_model(all, 0), describe_model(all, 1),
                     "difference", describe_difference(&all->difference));
}

static void print(const findings *all) {
    for (size_t i = 0; i < all->n; i++) {
        if (all->n > 1) printf("%s\n", dlm_model_source(all->models[i]));
        print_eval(&all->results[i]);
        if (all->n > 1) printf("\n");
    }
    if (all->n > 1) print_difference(&all->difference);
    if (all->curve) print_curves(all->curves, all->n);
}

/* ---- the command -------------------------------------------------------------------------------------- */

/* Windows that both models take, for their curves. */
static size_t common_length(const findings *all, size_t given) {
    size_t length = given;
    for (size_t i = 0; i < all->n && given == 0; i++) {
        const size_t own = dlm_model_config(all->models[i])->max_seq_len;
        if (length == 0 || own < length) length = own;
    }
    return length;
}

static int measure(const eval_settings *settings, findings *all, const dlm_data *data) {
    dlm_error err = {0};
    dlm_eval_options eval = settings->eval;
    eval.seed = settings->shared.seed;
    eval.progress = draw_progress;
    dlm_status status = all->n > 1 ? dlm_eval_pair(all->models[0], all->models[1], data, &eval, all->results,
                                                   &all->difference, &err)
                                   : dlm_eval(all->models[0], data, &eval, all->results, &err);
    if (status != DLM_OK) return fail_with(&err);
    eval.seq_len = common_length(all, eval.seq_len);
    int done = EXIT_DONE;
    for (size_t i = 0; i < all->n && all->curve && done == EXIT_DONE; i++)
        done = measure_curve(all->models[i], data, &eval, &all->curves[i]);
    clear_status();
    return done;
}

static int report(const eval_settings *settings, const findings *all) {
    if (settings->svg != NULL) {
        const int status = plot_curves(all->curves, all->n, settings->svg);
        if (status != EXIT_DONE) return status;
    }
    if (settings->shared.json) return print_json(describe(all));
    print(all);
    return flush_output();
}

static int measure_models(const eval_settings *settings, dlm_model *const models[2]) {
    findings all = {
        .models = models, .n = models[1] != NULL ? 2 : 1, .curve = settings->curve || settings->svg != NULL};
    dlm_error err = {0};
    dlm_data *data = NULL;
    if (dlm_data_open(settings->data, &data, &err) != DLM_OK) return fail_with(&err);
    int status = measure(settings, &all, data);
    if (status == EXIT_DONE) status = report(settings, &all);
    dlm_data_close(data);
    return status;
}

/* EXIT_DONE, or said which options do not go together. */
static int check_masks(const eval_settings *settings) {
    const char *idle = NULL;
    if (was_given(&command_eval, settings, "masks")) idle = "masks";
    if (was_given(&command_eval, settings, "draws") && !settings->curve && settings->svg == NULL)
        idle = "draws";
    if (!settings->eval.exact || idle == NULL) return EXIT_DONE;
    (void)fail("--exact tries all masks, so --%s has nothing to say", idle);
    return EXIT_USAGE;
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
    int status = check_masks(settings);
    if (status == EXIT_DONE) status = load_model(&settings->model, &models[0]);
    if (status == EXIT_DONE && second.path != NULL) status = load_model(&second, &models[1]);
    if (status == EXIT_DONE) status = measure_models(settings, models);
    for (size_t i = 0; i < 2; i++) dlm_model_free(models[i]);
    return status;
}

const command command_eval = {
    .name = "eval",
    .summary = "how well a model predicts texts: likelihood bound and cross-entropy",
    .description =
        "Measures a model on token shards. NELBO is an upper bound of the negative log-likelihood, estimated "
        "by hiding a number of tokens drawn uniformly from 1 to all, the same masks for every model; or by "
        "all "
        "masks, with --exact. It stands with two standard errors and 95 % intervals: of the masks alone, and "
        "with the documents as a sample; and without the part of the end tokens, where the model has them. "
        "Cross-entropy and perplexity are the original program's, for comparison with its figures; they "
        "bound "
        "nothing. --curve adds the cross-entropy at 20 shares of hidden tokens, for each of which --draws "
        "masks are drawn.\n\nWith -m twice both models are measured, and their difference with its standard "
        "error, which is much smaller than that of either. --json then prints "
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
