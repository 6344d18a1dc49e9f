/* convert: a model from one format to another. */
#include "commands.h"

#include "models.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <string.h>

typedef struct convert_settings {
    common shared;
    model_choice model;
    dlm_convert_options convert;
    int numbers;
} convert_settings;

/* In the order of dlm_numbers. */
static const char *const numbers_choices[] = {"f32", "bf16", "f16", "int8", NULL};

static void defaults(void *settings) {
    *(convert_settings *)settings =
        (convert_settings){.model = {.options = dlm_model_defaults()}, .convert = dlm_convert_defaults()};
}

static const option options[] = {
    OPTION_ROW(
        convert_settings, numbers, .name = "precision", .kind = OPTION_CHOICE, .choices = numbers_choices,
        .help = "what values are stored as; f16 ends at 65504; int8, not for a .pt, rounds each row of the "
                "matrices of tokens to 255 steps"),
    OPTION_ROW(convert_settings, model.options.weights, .name = "weights", .kind = OPTION_CHOICE,
               .choices = weights_choices,
               .help =
                   "only the moving average of training, or only the last weights; without this option both, "
                   "where IN has both and OUT can hold them"),
    OPTION_ROW(convert_settings, model.options.tokenizer, .name = "tokenizer", .letter = 't',
               .kind = OPTION_TEXT, .argument = "DIR",
               .help =
                   "a tokenizer, or one of the Hub, instead of the one beside the model, for a model folder"),
    OPTION_ROW(convert_settings, model.options.schedule, .name = "schedule", .kind = OPTION_CHOICE,
               .choices = schedule_choices, .help = "a masking schedule instead of the model's own"),
    HEADS_ROW(convert_settings, model),
    OPTION_ROW(convert_settings, convert.save.overwrite, .name = "overwrite", .kind = OPTION_FLAG,
               .help =
                   "replace OUT when it is there: a file, or a model folder that is no checkpoint of a run"),
    {0}};

static bool ends_with(const char *path, const char *end) {
    const size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

/* What a .pt does not tell those who load it elsewhere. */
static void say_differences(const char *path, const dlm_model *model) {
    const dlm_config *config = dlm_model_config(model);
    const bool variant = config->time != DLM_TIME_ADALN || config->position != DLM_POSITION_LEARNED;
    if (!ends_with(path, ".pt") && !ends_with(path, ".pth")) return;
    if (variant)
        say("%s: the original program cannot run this model, of time %s and position %s: it knows adaln and "
            "learned alone",
            path, time_choices[config->time], position_choices[config->position]);
}

/* The result, as what it was written for will read it. */
static int describe(const char *path) {
    dlm_error err = {0};
    dlm_model *model;
    if (dlm_model_inspect(path, NULL, &model, &err) != DLM_OK) return fail_with(&err);
    say_differences(path, model);
    dlm_model_free(model);
    return EXIT_DONE;
}

static int run(const void *given) {
    const convert_settings *settings = given;
    const char *from = settings->shared.operands[0], *to = settings->shared.operands[1];
    dlm_convert_options convert = settings->convert;
    dlm_error err = {0};
    if (strcmp(to, "-") == 0) {
        (void)fail("convert writes a file or a folder, not standard output");
        return EXIT_USAGE;
    }
    convert.model = settings->model.options;
    convert.both = !was_given(&command_convert, settings, "weights");
    convert.save.numbers = (dlm_numbers)settings->numbers;
    if (dlm_model_convert(from, to, &convert, &err) == DLM_OK) return describe(to);
    const int status = fail_with(&err);
    if (err.status == DLM_EXISTS && !convert.save.overwrite) say("--overwrite replaces it");
    return status;
}

const command command_convert = {
    .name = "convert",
    .operands = "IN OUT",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "a model from one format to another",
    .description =
        "Reads a model (a model folder, a run folder, a .pt or .safetensors file) and writes it to OUT: a "
        "name "
        "that ends in .pt becomes a checkpoint of torch.save as the original's, one in .safetensors a "
        "safetensors "
        "file with the config in it, any other a model folder with the tokenizer. OUT gets its name when it "
        "is "
        "whole.\n\nNothing in a .pt is executed. What the original does not know of a model is in the key "
        "\"diffusionlm\" of a .pt, which it does not look at.",
    .example = "diffusionlm convert run final.pt",
    .options = options,
    .settings_size = sizeof(convert_settings),
    .defaults = defaults,
    .run = run,
};
