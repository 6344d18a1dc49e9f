/* info: what a model is, without reading its weights. */
#include "commands.h"

#include "models.h"
#include "json.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct info_settings {
    common shared;
    model_choice model;
} info_settings;

static void defaults(void *settings) {
    *(info_settings *)settings = (info_settings){.model = {.options = dlm_model_defaults()}};
}

static const option options[] = {
    OPTION_ROW(info_settings, model.options.tokenizer, .name = "tokenizer", .letter = 't',
               .kind = OPTION_TEXT, .argument = "DIR",
               .help = "a tokenizer, or one of the Hub, instead of the one beside the model"),
    OPTION_ROW(info_settings, model.options.weights, .name = "weights", .kind = OPTION_CHOICE,
               .choices = weights_choices, .help = "the moving average of training, or the last weights"),
    HEADS_ROW(info_settings, model),
    OPTION_ROW(info_settings, shared.json, .name = "json", .kind = OPTION_FLAG, .help = "print it as JSON"),
    {0}};

/* ---- groups of parameters ----------------------------------------------------------------------------- */

/* What a parameter belongs to: its name without the block's number and without what follows the module. */
static void group_name(const char *name, char *group, size_t size) {
    char without[128];
    const char *rest = name;
    if (strncmp(name, "blocks.", 7) == 0) {
        rest = name + 7 + strcspn(name + 7, ".");
        (void)snprintf(without, sizeof without, "blocks%s", rest);
    } else {
        (void)snprintf(without, sizeof without, "%s", name);
    }
    size_t parts = strncmp(name, "blocks.", 7) == 0 ? 2 : 1, n = 0;
    for (; parts > 0; parts--) n += strcspn(without + n, ".") + (parts > 1);
    (void)snprintf(group, size, "%.*s", (int)n, without);
}

typedef struct group {
    char name[64];
    size_t tensors, count;
} group;

enum { GROUPS_MAX = 32 };

/* The groups in the order of the table; returns how many. */
static size_t group_parameters(const dlm_model *model, group groups[GROUPS_MAX]) {
    size_t n = 0;
    for (size_t i = 0; i < dlm_model_parameters(model); i++) {
        dlm_parameter parameter = dlm_model_describe_parameter(model, i);
        char name[sizeof groups[0].name];
        group_name(parameter.name, name, sizeof name);
        size_t at = 0;
        while (at < n && strcmp(groups[at].name, name) != 0) at++;
        if (at == GROUPS_MAX) continue;
        if (at == n) {
            groups[n] = (group){0};
            memcpy(groups[n++].name, name, sizeof name);
        }
        groups[at].tensors++;
        groups[at].count += parameter.count;
    }
    return n;
}

static size_t total(const dlm_model *model) {
    size_t count = 0;
    for (size_t i = 0; i < dlm_model_parameters(model); i++)
        count += dlm_model_describe_parameter(model, i).count;
    return count;
}

static void write_shape(const dlm_parameter *parameter, char *buffer, size_t size) {
    size_t used = 0;
    buffer[0] = 0;
    for (size_t i = 0; i < parameter->ndim && used < size; i++)
        used +=
            (size_t)snprintf(buffer + used, size - used, "%s%zu", i == 0 ? "" : " x ", parameter->shape[i]);
}

/* ---- the two forms of output -------------------------------------------------------------------------- */

static void print_lengths(const dlm_model *model) {
    size_t n;
    const uint64_t *counts = dlm_model_lengths(model, &n);
    if (counts == NULL) return;
    uint64_t documents = 0, below = 0;
    for (size_t i = 0; i < n; i++) documents += counts[i];
    size_t median = 0;
    while (median + 1 < n && 2 * (below + counts[median]) < documents) below += counts[median++];
    char shown[32];
    write_count(documents, shown, sizeof shown);
    printf("lengths       of %s documents, half of them up to %zu tokens\n", shown, median);
}

static void print_table(const dlm_model *model) {
    const dlm_config *config = dlm_model_config(model);
    char count[32];
    printf("source        %s\n", dlm_model_source(model));
    char heads[40] = "not told (--heads)"; /* by a state dict alone */
    if (config->num_heads > 0) (void)snprintf(heads, sizeof heads, "%zu", config->num_heads);
    printf("stored as     %s\n", dlm_model_stored(model));
    printf("model         vocabulary %zu, length %zu, channels %zu, blocks %zu, heads %s, mlp ratio %g\n",
           config->vocab_size, config->max_seq_len, config->hidden_size, config->depth, heads,
           config->mlp_ratio);
    printf("kind          time %s, position %s, schedule %s\n", time_choices[config->time],
           position_choices[config->position], schedule_choices[config->schedule]);
    printf("trained       recipe %s, %s, %s\n", recipe_choices[config->recipe],
           config->end_token ? "with an end token" : "without an end token",
           config->padded ? "padded to one length" : "each text at its own length");
    print_lengths(model);
    printf("products in   %s on this machine\n", precision_name(dlm_model_precision(model)));
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    if (tokenizer == NULL)
        printf("tokenizer     none\n");
    else
        printf("tokenizer     %zu tokens, hash %016" PRIx64 "\n",
               dlm_tokenizer_describe(tokenizer).vocab_size, dlm_tokenizer_describe(tokenizer).hash);
    write_count(total(model), count, sizeof count);
    printf("parameters    %s\n", count);
    group groups[GROUPS_MAX];
    size_t n = group_parameters(model, groups);
    for (size_t i = 0; i < n; i++) {
        write_count(groups[i].count, count, sizeof count);
        printf("  %-28s %14s  %5.1f %%  in %zu\n", groups[i].name, count,
               100 * (double)groups[i].count / (double)total(model), groups[i].tensors);
    }
}

static void print_parameters(const dlm_model *model) {
    printf("\n");
    for (size_t i = 0; i < dlm_model_parameters(model); i++) {
        dlm_parameter parameter = dlm_model_describe_parameter(model, i);
        char shape[80];
        write_shape(&parameter, shape, sizeof shape);
        printf("  %-36s %-16s %s\n", parameter.name, shape, parameter.stored);
    }
}

static json_t *describe_parameters(const dlm_model *model) {
    json_t *all = json_array();
    for (size_t i = 0; i < dlm_model_parameters(model); i++) {
        dlm_parameter parameter = dlm_model_describe_parameter(model, i);
        json_t *shape = json_array();
        for (size_t j = 0; j < parameter.ndim; j++)
            (void)json_array_append_new(shape, json_integer((json_int_t)parameter.shape[j]));
        (void)json_array_append_new(all, json_pack("{s:s, s:o, s:I, s:s}", "name", parameter.name, "shape",
                                                   shape, "count", (json_int_t)parameter.count, "stored",
                                                   parameter.stored));
    }
    return all;
}

static json_t *describe_groups(const dlm_model *model) {
    group groups[GROUPS_MAX];
    size_t n = group_parameters(model, groups);
    json_t *all = json_object();
    for (size_t i = 0; i < n; i++)
        (void)json_object_set_new(all, groups[i].name, json_integer((json_int_t)groups[i].count));
    return all;
}

static json_t *describe(const dlm_model *model) {
    const dlm_config *config = dlm_model_config(model);
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    json_t *all = json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:o, s:f, s:s, s:s}", "source",
                            json_name(dlm_model_source(model)), "stored", dlm_model_stored(model),
                            "vocab_size", (json_int_t)config->vocab_size, "max_seq_len",
                            (json_int_t)config->max_seq_len, "hidden_size", (json_int_t)config->hidden_size,
                            "depth", (json_int_t)config->depth, "num_heads",
                            config->num_heads > 0 ? json_integer((json_int_t)config->num_heads) : json_null(),
                            "mlp_ratio", config->mlp_ratio, "time", time_choices[config->time], "position",
                            position_choices[config->position]);
    json_t *more = json_pack(
        "{s:{s:s, s:b, s:b, s:f, s:s}, s:s, s:I, s:o, s:o, s:o}", "diffusion", "schedule",
        schedule_choices[config->schedule], "end_token", (int)config->end_token, "padded",
        (int)config->padded, "tail_share", config->tail_share, "recipe", recipe_choices[config->recipe],
        "precision", precision_name(dlm_model_precision(model)), "parameters", (json_int_t)total(model),
        "groups", describe_groups(model), "tensors", describe_parameters(model), "tokenizer_hash",
        tokenizer == NULL ? json_null() : json_hash(dlm_tokenizer_describe(tokenizer).hash));
    if (all == NULL || more == NULL || json_object_update(all, more) != 0) {
        json_decref(all);
        all = NULL;
    }
    json_decref(more);
    return all;
}

static int run(const void *given) {
    const info_settings *settings = given;
    dlm_error err = {0};
    dlm_model *model;
    dlm_model_options how = settings->model.options;
    how.progress = draw_progress;
    if (dlm_model_inspect(settings->shared.operands[0], &how, &model, &err) != DLM_OK) return fail_with(&err);
    clear_status();
    int status = EXIT_DONE;
    if (settings->shared.json) {
        status = print_json(describe(model));
    } else {
        print_table(model);
        if (settings->shared.verbose) print_parameters(model);
    }
    dlm_model_free(model);
    return status;
}

const command command_info = {
    .name = "info",
    .operands = "MODEL",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "what a model is: config, parameters, tokenizer, source",
    .description =
        "Tells about a model (a model folder, a run folder, a .pt or .safetensors file or a model of the "
        "Hub) without "
        "reading its weights: its config, its parameters by group (with --verbose one by one), "
        "how they are stored and where they came from.",
    .example = "diffusionlm info run",
    .options = options,
    .settings_size = sizeof(info_settings),
    .defaults = defaults,
    .run = run,
};
