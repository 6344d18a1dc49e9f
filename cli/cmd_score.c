/* score: how likely single texts are. */
#include "commands.h"

#include "json.h"
#include "sampling.h"
#include "score_table.h"
#include "score_texts.h"
#include "terminal.h"
#include "texts.h"

#include "diffusionlm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXACT_MOST = 20 }; /* tokens whose masks are all enumerated */

#define LN_2 0.69314718055994530942

typedef struct score_settings {
    common shared;
    model_choice model;
    text_choice text;
    sampling_choice sampling;
    const char *orders;
    dlm_nelbo_options nelbo;
    size_t documents;
    bool table;
} score_settings;

static void defaults(void *settings) {
    score_settings *all = settings;
    *all = (score_settings){.model.options = dlm_model_defaults(),
                            .text = text_choice_defaults(),
                            .sampling.options = dlm_score_defaults().sampler,
                            .orders = "confidence,margin,entropy,left_to_right",
                            .nelbo = dlm_nelbo_defaults()};
    all->shared.seed = all->nelbo.seed;
}

static const option options[] = {
    MODEL_ROWS(score_settings, model),
    OPTION_ROW(score_settings, orders, .name = "orders", .kind = OPTION_TEXT, .argument = "LIST",
               .help = "the orders that texts are scored under, separated by commas; none: only the bound"),
    OPTION_ROW(score_settings, table, .name = "table", .kind = OPTION_FLAG,
               .help = "all texts together: likelihood against forward passes, for several reveals a step"),
    OPTION_ROW(score_settings, nelbo.draws, .name = "draws", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = 1e6, .help = "masks drawn for the bound of each text; more make its error smaller"),
    OPTION_ROW(score_settings, nelbo.exact, .name = "exact", .kind = OPTION_FLAG,
               .help = "instead take all masks there are, of texts of up to 20 tokens"),
    OPTION_ROW(score_settings, documents, .name = "documents", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = OPTION_COUNT_MAX, .word = "all", .word_value = 0,
               .help = "read only the first N texts"),
    REVEAL_ROWS(score_settings, sampling),
    DRAWING_ROWS(score_settings, sampling),
    TEXT_ROWS(score_settings, text),
    OPTION_ROW(score_settings, shared.json, .name = "json", .kind = OPTION_FLAG,
               .help = "print a line of JSON for each text, or for the table"),
    {0}};

/* ---- which samplers ----------------------------------------------------------------------------------- */

static scored_sampler *add_sampler(samplers *to, const char *name, const dlm_sample_options *like) {
    scored_sampler *sampler = &to->list[to->n++];
    *sampler = (scored_sampler){.options = *like};
    (void)snprintf(sampler->name, sizeof sampler->name, "%s", name);
    return sampler;
}

static void add_order(samplers *to, const dlm_sample_options *like, dlm_order order, size_t reveals) {
    scored_sampler *sampler = add_sampler(to, order_choices[order], like);
    dlm_sample_options *o = &sampler->options;
    o->order = order;
    o->confidence_threshold = o->entropy_bound = -1;
    if (reveals > 0) o->reveals_per_step = reveals;
    if (o->steps > 0)
        (void)snprintf(sampler->plan, sizeof sampler->plan, "%zu steps", o->steps);
    else
        (void)snprintf(sampler->plan, sizeof sampler->plan, "%zu a step",
                       o->reveals_per_step > 0 ? o->reveals_per_step : 1);
}

static void add_threshold(samplers *to, const dlm_sample_options *like, double threshold) {
    scored_sampler *sampler = add_sampler(to, "threshold", like);
    sampler->options.confidence_threshold = threshold;
    sampler->options.entropy_bound = -1;
    sampler->options.reveals_per_step = 0;
    (void)snprintf(sampler->plan, sizeof sampler->plan, "from %g", threshold);
}

static void add_bound(samplers *to, const dlm_sample_options *like, double bound) {
    scored_sampler *sampler = add_sampler(to, "entropy_bound", like);
    sampler->options.entropy_bound = bound;
    sampler->options.confidence_threshold = -1;
    sampler->options.reveals_per_step = 0;
    (void)snprintf(sampler->plan, sizeof sampler->plan, "up to %g nats", bound);
}

/* The orders of a list as bits, by their place in order_choices. EXIT_DONE, or said what is none. */
static int read_orders(const char *list, unsigned *orders) {
    *orders = 0;
    if (strcmp(list, "none") == 0) return EXIT_DONE;
    for (const char *item = list;; item++) {
        const size_t n = strcspn(item, ",");
        size_t i = 0;
        while (order_choices[i] != NULL &&
               (strlen(order_choices[i]) != n || strncmp(item, order_choices[i], n) != 0))
            i++;
        if (order_choices[i] == NULL) {
            (void)fail("--orders: '%.*s' is none of confidence, margin, entropy, left_to_right", (int)n,
                       item);
            return EXIT_USAGE;
        }
        *orders |= 1U << i;
        item += n;
        if (*item == 0) return EXIT_DONE;
    }
}

/* The table varies what the options leave open: how many positions a step reveals, and the bounds, those only
 * where no orders were asked for. */
static int choose_samplers(const score_settings *settings, bool chosen, samplers *to) {
    static const size_t reveals[] = {1, 2, 4, 8, 16};
    static const double thresholds[] = {0.9, 0.7, 0.5, 0.3}, bounds[] = {0.5, 2, 8, 32};
    const dlm_sample_options *like = &settings->sampling.options;
    const bool varied = settings->table && like->steps == 0 && like->reveals_per_step == 0;
    const bool bounded = like->confidence_threshold >= 0 || like->entropy_bound >= 0;
    unsigned orders;
    to->n = 0;
    int status = read_orders(settings->orders, &orders);
    for (unsigned order = 0; order <= DLM_ORDER_FIRST_HITTING; order++)
        for (size_t i = 0; orders >> order & 1 && i < (varied ? 5 : 1); i++)
            add_order(to, like, (dlm_order)order, varied ? reveals[i] : 0);
    if (like->confidence_threshold >= 0) add_threshold(to, like, like->confidence_threshold);
    for (size_t i = 0; varied && !bounded && !chosen && i < 4; i++) add_threshold(to, like, thresholds[i]);
    if (like->entropy_bound >= 0) add_bound(to, like, like->entropy_bound);
    for (size_t i = 0; varied && !bounded && !chosen && i < 4; i++) add_bound(to, like, bounds[i]);
    return status;
}

/* Before any text is read: can texts be scored under them? */
static int check_samplers(const dlm_model *model, const samplers *under) {
    for (size_t i = 0; i < under->n; i++) {
        const dlm_score_options how = {.sampler = under->list[i].options};
        dlm_error err = {0};
        if (dlm_score(model, &how, 0, NULL, NULL, NULL, NULL, NULL, &err) != DLM_OK)
            return fail_in_options(&err);
    }
    return EXIT_DONE;
}

/* ---- a line for each text ----------------------------------------------------------------------------- */

enum { COLUMN = 10, TEXT_WIDTH = 40 };

static int width_of(const scored_sampler *sampler) {
    const int n = (int)strlen(sampler->name);
    return n > COLUMN ? n : COLUMN;
}

static void print_header(const samplers *under) {
    printf("%7s %*s %8s", "tokens", COLUMN, "NELBO", "+-");
    for (size_t i = 0; i < under->n; i++) printf(" %*s", width_of(&under->list[i]), under->list[i].name);
    printf(" %9s  text\n", "bits/byte");
}

/* How the text begins, on one line. */
static void print_beginning(const scored_text *text, bool terminal) {
    char shown[TEXT_WIDTH];
    size_t n = text->bytes < TEXT_WIDTH ? text->bytes : TEXT_WIDTH;
    /* Not within a character: the bytes that go on with one are 10xxxxxx. */
    while (n < text->bytes && n > 0 && ((unsigned char)text->text[n] & 0xC0) == 0x80) n--;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text->text[i];
        shown[i] = c < ' ' ? ' ' : text->text[i];
    }
    (void)write_text(stdout, terminal, shown, n);
    printf("%s\n", n < text->bytes ? "..." : "");
}

static void print_text(const scored_text *text, const samplers *under, bool terminal) {
    const double tokens = (double)text->tokens;
    char error[16] = "-";
    if (isfinite(text->standard_error))
        (void)snprintf(error, sizeof error, "%.4f", text->standard_error / tokens);
    printf("%7zu %*.4f %8s", text->tokens, COLUMN, text->nelbo / tokens, error);
    for (size_t i = 0; i < under->n; i++)
        printf(" %*.4f", width_of(&under->list[i]), -text->log_likelihood[i] / tokens);
    printf(" %9.4f  ", text->nelbo / LN_2 / (double)text->bytes);
    print_beginning(text, terminal);
}

static int print_text_json(const scored_text *text, const samplers *under) {
    json_t *orders = json_object();
    for (size_t i = 0; i < under->n; i++)
        (void)json_object_set_new(orders, under->list[i].name, json_number(text->log_likelihood[i]));
    return print_json(json_pack("{s:o, s:I, s:I, s:o, s:o, s:o}", "text", json_text(text->text, text->bytes),
                                "tokens", (json_int_t)text->tokens, "bytes", (json_int_t)text->bytes,
                                "nelbo_nats", json_number(text->nelbo), "standard_error",
                                json_number(text->standard_error), "orders", orders));
}

static int print_texts(const score_settings *settings, const samplers *under, const text_batch *texts,
                       size_t *impossible) {
    const bool terminal = isatty(STDOUT_FILENO) != 0;
    int status = EXIT_DONE;
    for (size_t t = 0; t < texts->n && status == EXIT_DONE; t++) {
        const scored_text *text = &texts->texts[t];
        bool possible = true;
        for (size_t i = 0; i < under->n; i++) possible = possible && isfinite(text->log_likelihood[i]);
        *impossible += !possible;
        if (settings->shared.json)
            status = print_text_json(text, under);
        else
            print_text(text, under, terminal);
    }
    return status == EXIT_DONE ? flush_output() : status;
}

/* ---- the command -------------------------------------------------------------------------------------- */

static int score(const score_settings *settings, const samplers *under, text_source *source) {
    score_table table = {0};
    text_batch texts = {0};
    dlm_nelbo_options nelbo = settings->nelbo;
    nelbo.seed = settings->shared.seed;
    size_t impossible = 0;
    const bool lines = !settings->table && !settings->shared.json;
    int status;
    while ((status = read_texts(source, &texts)) == EXIT_DONE && texts.n > 0) {
        if ((status = score_texts(source, &nelbo, under, &texts)) != EXIT_DONE) break;
        if (lines && source->texts == 0) print_header(under);
        if (settings->table)
            add_to_table(&table, under, &texts);
        else
            status = print_texts(settings, under, &texts, &impossible);
        if (status != EXIT_DONE) break;
        clear_texts(source, &texts);
    }
    free_texts(&texts);
    if (status == EXIT_DONE && settings->table)
        status = print_score_table(&table, under, settings->shared.json);
    if (status == EXIT_DONE && impossible > 0)
        say("%zu texts have no likelihood under some samplers, which cannot write them (%s)", impossible,
            settings->shared.json ? "null" : "inf");
    return status;
}

static int open_source(const score_settings *settings, const dlm_model *model, text_source *source) {
    size_t n;
    const char *const *paths = paths_or_stdin(&settings->shared, &n);
    *source = (text_source){
        .model = model, .most = settings->documents, .longest = dlm_model_config(model)->max_seq_len};
    if (settings->nelbo.exact && source->longest > EXACT_MOST) source->longest = EXACT_MOST;
    if (dlm_model_tokenizer(model) == NULL)
        return fail("%s: there is no tokenizer beside this model; -t names one", dlm_model_source(model));
    return open_documents(paths, n, &settings->text, &source->documents);
}

static int run(const void *given) {
    score_settings settings = *(const score_settings *)given;
    catch_signals();
    dlm_model *model = NULL;
    int32_t *bans = NULL;
    text_source source = {0};
    samplers under;
    int status = load_model(&settings.model, &model);
    if (status == EXIT_DONE) status = read_bans(&settings.sampling, model, &bans);
    if (status == EXIT_DONE)
        status = choose_samplers(&settings, was_given(&command_score, given, "orders"), &under);
    if (status == EXIT_DONE) status = check_samplers(model, &under);
    if (status == EXIT_DONE) status = open_source(&settings, model, &source);
    if (status == EXIT_DONE) status = score(&settings, &under, &source);
    dlm_documents_close(source.documents);
    free(bans);
    dlm_model_free(model);
    return status;
}

const command command_score = {
    .name = "score",
    .operands = "[FILE...]",
    .max_operands = SIZE_MAX,
    .summary = "how likely single texts are: bound, and exactly under each order",
    .description =
        "Reads texts (standard input without FILE) and prints for each, per token, how many nats a model "
        "takes to write it: the NELBO, a bound of what the order random takes, with its standard error; and "
        "under each sampler of generate whose order does not depend on what it draws, exactly. With one "
        "reveal a step this is the likelihood of an autoregressive model in that order; with more, of a "
        "sampler that draws the tokens of a step independently. A text longer than the model is the sum of "
        "consecutive windows. --confidence-threshold and --entropy-bound are samplers beside the "
        "orders.\n\nWith --table all texts are taken together, and the samplers compared at 1, 2, 4, 8 and "
        "16 reveals a step (or as the options say): fewer passes, and what they cost in "
        "likelihood.\n\nWith --json a line for each text: {\"text\", \"tokens\", \"bytes\", "
        "\"nelbo_nats\", \"standard_error\", \"orders\": {NAME: log-likelihood in nats}}; null where a "
        "sampler cannot write the text. The table is one object.",
    .example = "diffusionlm score -m run --table --documents 20 stories.txt",
    .options = options,
    .settings_size = sizeof(score_settings),
    .defaults = defaults,
    .run = run,
};
