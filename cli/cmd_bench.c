/* bench: this machine's speed with a model. */
#include "commands.h"

#include "models.h"
#include "json.h"
#include "terminal.h"

#include "diffusionlm.h"

#include <stdio.h>

enum { PRESET_VOCABULARY = 8192 };

typedef struct bench_settings {
    common shared;
    model_choice model; /* path NULL: random weights of the preset */
    int preset;
    size_t length; /* 0: min(80, what the model takes) */
    double seconds;
} bench_settings;

static void defaults(void *settings) {
    bench_settings *all = settings;
    *all = (bench_settings){.model.options = dlm_model_defaults(), .preset = 1, .seconds = 2};
}

static const option options[] = {
    OPTION_INNER_ROW(bench_settings, model, model_choice, path, .name = "model", .letter = 'm',
                     .kind = OPTION_TEXT, .argument = "MODEL",
                     .help = "a model folder, a run folder, a .pt or .safetensors file or a model of the "
                             "Hub, in place of a preset"),
    OPTION_ROW(bench_settings, preset, .name = "preset", .kind = OPTION_CHOICE, .choices = preset_choices,
               .help = "without MODEL: the size of a model with random weights"),
    OPTION_ROW(bench_settings, length, .name = "length", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = 65536, .word = "auto", .word_value = 0,
               .help = "tokens of a text; auto: 80, or as many as the model takes"),
    OPTION_ROW(bench_settings, seconds, .name = "seconds", .kind = OPTION_REAL, .argument = "X", .min = 0,
               .max = 3600, .help = "how long to repeat each of the measurements"),
    PRECISION_ROW(bench_settings, model),
    OPTION_ROW(bench_settings, shared.json, .name = "json", .kind = OPTION_FLAG, .help = "print it as JSON"),
    {0}};

/* What is measured: in this order, which print() and describe() rely on. */
static const struct measurement {
    dlm_work work;
    size_t sequences; /* 0: a batch of training, of the longest sequences */
    const char *name;
} measurements[] = {{DLM_WORK_FORWARD, 1, "forward, 1 text"},    {DLM_WORK_FORWARD, 4, "forward, 4 texts"},
                    {DLM_WORK_FORWARD, 16, "forward, 16 texts"}, {DLM_WORK_SAMPLE, 1, "generate, 1 text"},
                    {DLM_WORK_SAMPLE, 4, "generate, 4 texts"},   {DLM_WORK_TRAIN, 0, "train, a step"}};
enum { MEASUREMENTS = sizeof measurements / sizeof *measurements };

static int open_model(const bench_settings *settings, dlm_model **model) {
    if (settings->model.path != NULL) return load_model(&settings->model, model);
    dlm_train_options train = dlm_train_defaults(DLM_RECIPE_DEFAULT);
    (void)dlm_train_preset((dlm_preset)settings->preset, &train, NULL);
    const dlm_config config = {.vocab_size = PRESET_VOCABULARY,
                               .max_seq_len = train.seq_len,
                               .hidden_size = train.hidden_size,
                               .depth = train.depth,
                               .num_heads = train.num_heads,
                               .mlp_ratio = train.mlp_ratio,
                               .time = train.time,
                               .position = train.position,
                               .schedule = train.schedule,
                               .end_token = true,
                               .tail_share = train.tail_share,
                               .recipe = train.recipe};
    dlm_error err = {0};
    if (dlm_model_random(&config, settings->model.options.precision, settings->shared.seed, model, &err) !=
        DLM_OK)
        return fail_with(&err);
    return EXIT_DONE;
}

static int check_length(const bench_settings *settings, const dlm_model *model, size_t *length) {
    const size_t most = dlm_model_config(model)->max_seq_len, usual = dlm_speed_defaults().length;
    *length = settings->length > 0 ? settings->length : usual < most ? usual : most;
    if (*length <= most) return EXIT_DONE;
    return fail("--length %zu: the model takes at most %zu tokens", *length, most);
}

static size_t parameters_of(const dlm_model *model) {
    size_t count = 0;
    for (size_t i = 0; i < dlm_model_parameters(model); i++)
        count += dlm_model_describe_parameter(model, i).count;
    return count;
}

static int measure(const bench_settings *settings, const dlm_model *model, size_t length, dlm_speed *speeds) {
    dlm_error err = {0};
    for (size_t i = 0; i < MEASUREMENTS; i++) {
        const struct measurement *m = &measurements[i];
        const dlm_config *config = dlm_model_config(model);
        dlm_speed_options o = dlm_speed_defaults();
        o.work = m->work;
        o.sequences = m->sequences > 0 ? m->sequences : dlm_train_defaults(config->recipe).batch;
        o.length = m->sequences > 0 ? length : config->max_seq_len;
        o.seconds = settings->seconds;
        o.seed = settings->shared.seed;
        draw_status("%s", m->name);
        if (dlm_speed_measure(model, &o, &speeds[i], &err) != DLM_OK) return fail_with(&err);
    }
    clear_status();
    return EXIT_DONE;
}

static double rate(size_t n, const dlm_speed *speed) {
    return (double)n / (speed->seconds > 0 ? speed->seconds : 1e-9);
}

static json_t *describe_one(const struct measurement *m, const dlm_speed *speed) {
    json_t *one = json_pack("{s:I, s:f, s:f, s:f, s:I}", "tokens", (json_int_t)speed->tokens, "seconds",
                            speed->seconds, "fastest", speed->fastest, "tokens_per_s",
                            rate(speed->tokens, speed), "repetitions", (json_int_t)speed->repetitions);
    if (one != NULL && m->sequences > 0)
        (void)json_object_set_new(one, "n", json_integer((json_int_t)m->sequences));
    if (one != NULL && m->work == DLM_WORK_SAMPLE)
        (void)json_object_set_new(one, "steps_per_s", json_real(rate(speed->forwards, speed)));
    return one;
}

static json_t *describe(const bench_settings *settings, const dlm_model *model, size_t length,
                        const dlm_speed *speeds) {
    json_t *forward = json_array(), *generate = json_array(), *train = NULL;
    for (size_t i = 0; i < MEASUREMENTS; i++) {
        json_t *one = describe_one(&measurements[i], &speeds[i]);
        if (measurements[i].work == DLM_WORK_TRAIN)
            train = one;
        else
            (void)json_array_append_new(measurements[i].work == DLM_WORK_FORWARD ? forward : generate, one);
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:s?, s:I, s:I, s:o, s:o, s:o}", "instruction_set",
                     dlm_instruction_set(), "backend", dlm_backend(), "threads",
                     (json_int_t)speeds[0].threads, "precision", precision_name(dlm_model_precision(model)),
                     "model", json_name(settings->model.path), "preset",
                     settings->model.path == NULL ? preset_choices[settings->preset] : NULL, "parameters",
                     (json_int_t)parameters_of(model), "length", (json_int_t)length, "forward", forward,
                     "generate", generate, "train", train);
}

static void print_table(const bench_settings *settings, const dlm_model *model, size_t length,
                        const dlm_speed *speeds) {
    char count[32];
    write_count(parameters_of(model), count, sizeof count);
    printf("%s, %s, %zu threads, products in %s\n", dlm_instruction_set(), dlm_backend(), speeds[0].threads,
           precision_name(dlm_model_precision(model)));
    printf("%s: %s parameters; texts of %zu tokens; medians\n\n",
           settings->model.path == NULL ? preset_choices[settings->preset] : settings->model.path, count,
           length);
    for (size_t i = 0; i < MEASUREMENTS; i++) {
        const dlm_speed *speed = &speeds[i];
        write_count((uint64_t)rate(speed->tokens, speed), count, sizeof count);
        printf("%-18s %9.2f ms %11s tokens/s", measurements[i].name, speed->seconds * 1e3, count);
        if (measurements[i].work == DLM_WORK_SAMPLE) printf(" %7.1f steps/s", rate(speed->forwards, speed));
        if (measurements[i].work == DLM_WORK_TRAIN) printf("  of %zu tokens", speed->tokens);
        printf("\n");
    }
}

static int run(const void *given) {
    const bench_settings *settings = given;
    dlm_model *model;
    int status = open_model(settings, &model);
    if (status != EXIT_DONE) return status;
    dlm_speed speeds[MEASUREMENTS];
    size_t length;
    status = check_length(settings, model, &length);
    if (status == EXIT_DONE) status = measure(settings, model, length, speeds);
    if (status == EXIT_DONE && settings->shared.json)
        status = print_json(describe(settings, model, length, speeds));
    else if (status == EXIT_DONE)
        print_table(settings, model, length, speeds);
    dlm_model_free(model);
    return status;
}

const command command_bench = {
    .name = "bench",
    .summary = "this machine's speed",
    .description = "Measures how fast this machine computes with a model, or with random weights of a preset "
                   "and 8192 tokens in its vocabulary: forward passes with the logits of every position, "
                   "texts by generate's defaults, and a training step of as many of the longest sequences as "
                   "train takes, with as many tokens masked as the model's schedule has it. Each is repeated "
                   "and the median shown; what else the machine does slows it down.",
    .example = "diffusionlm bench --preset tiny",
    .options = options,
    .settings_size = sizeof(bench_settings),
    .defaults = defaults,
    .run = run,
};
