/* The options of training: defaults of the recipes, their check, and how a checkpoint keeps them.
 *
 * One table names every option but the paths. It writes trainer.json, reads it, and says which options a run
 * that is resumed may not change. */
#include "train/trainer.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

dlm_train_options dlm_train_defaults(dlm_recipe recipe) {
    bool original = recipe == DLM_RECIPE_ORIGINAL;
    return (dlm_train_options){
        .hidden_size = 256,
        .depth = 8,
        .num_heads = 8,
        .mlp_ratio = 4.0,
        .time = original ? DLM_TIME_ADALN : DLM_TIME_NONE,
        .position = original ? DLM_POSITION_LEARNED : DLM_POSITION_BOTH,
        .schedule = DLM_SCHEDULE_COSINE,
        .seq_len = 256,
        .epochs = 6,
        .recipe = recipe,
        .weight = original ? DLM_WEIGHT_UNIFORM : DLM_WEIGHT_ELBO,
        .optimizer = original ? DLM_ADAMW : DLM_MUON,
        .batch = original ? 64 : 32,
        .lr = original ? 3e-4 : 5e-3,
        .min_lr_ratio = 0.1,
        .weight_decay = 0.01,
        .clip = 1.0,
        .warmup = original ? 500 : 100,
        .ema = 0.999,
        .tail_share = original ? 0 : 0.1,
        .precision = DLM_PRECISION_AUTO,
        .micro_tokens = 2048,
        .log_every = 50,
        .eval_every = 1000,
        .sample_every = 1000,
        .save_every = original ? 2000 : 1000,
        .eval_documents = 200,
        .keep = 2,
    };
}

dlm_status dlm_train_preset(dlm_preset preset, dlm_train_options *options, dlm_error *err) {
    static const size_t sizes[][3] = {{128, 4, 4}, {256, 8, 8}, {768, 12, 12}};
    if ((unsigned)preset > DLM_PRESET_BASE)
        return dlm__fail(err, DLM_ARGUMENT, "preset %d is none of 0 to %d", (int)preset, DLM_PRESET_BASE);
    options->hidden_size = sizes[preset][0];
    options->depth = sizes[preset][1];
    options->num_heads = sizes[preset][2];
    return DLM_OK;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

typedef enum option_kind {
    SIZE,
    SEED,
    REAL,
    TIME,
    POSITION,
    SCHEDULE,
    RECIPE,
    WEIGHT,
    OPTIMIZER,
    PRECISION
} option_kind;

typedef struct option_row {
    const char *name;
    option_kind kind;
    bool fixed; /* a run that is resumed may not change it */
    size_t offset;
    double min, max; /* of SIZE and REAL, both allowed */
} option_row;

/* The generator's coordinates are 32 bits, of steps and of places in a batch. */
#define STEPS_MAX 4294967295.0
#define SIZE_OF(field, fixed, min, max) \
    { #field, SIZE, fixed, offsetof(dlm_train_options, field), min, max }
#define REAL_OF(field, fixed, min, max) \
    { #field, REAL, fixed, offsetof(dlm_train_options, field), min, max }
#define ENUM_OF(field, kind) \
    { #field, kind, true, offsetof(dlm_train_options, field), 0, 0 }

static const option_row rows[] = {
    ENUM_OF(recipe, RECIPE),
    SIZE_OF(hidden_size, true, 1, 1 << 16),
    SIZE_OF(depth, true, 1, 1 << 10),
    SIZE_OF(num_heads, true, 1, 1 << 16),
    REAL_OF(mlp_ratio, true, 0, 1e3),
    ENUM_OF(time, TIME),
    ENUM_OF(position, POSITION),
    ENUM_OF(schedule, SCHEDULE),
    SIZE_OF(seq_len, true, 1, 1 << 20),
    REAL_OF(minutes, false, 0, 1e9),
    SIZE_OF(steps, false, 0, STEPS_MAX),
    REAL_OF(epochs, false, 0, 1e9),
    ENUM_OF(weight, WEIGHT),
    ENUM_OF(optimizer, OPTIMIZER),
    SIZE_OF(batch, true, 1, 1 << 20),
    REAL_OF(lr, true, 0, 1e6),
    REAL_OF(min_lr_ratio, true, 0, 1),
    REAL_OF(weight_decay, true, 0, 1e6),
    REAL_OF(clip, true, 0, 1e30),
    SIZE_OF(warmup, true, 0, STEPS_MAX),
    REAL_OF(ema, true, 0, 1),
    REAL_OF(tail_share, true, 0, 1),
    ENUM_OF(precision, PRECISION),
    {"seed", SEED, true, offsetof(dlm_train_options, seed), 0, 0},
    SIZE_OF(micro_tokens, true, 1, 1 << 30),
    SIZE_OF(log_every, false, 0, STEPS_MAX),
    SIZE_OF(eval_every, false, 0, STEPS_MAX),
    SIZE_OF(sample_every, false, 0, STEPS_MAX),
    SIZE_OF(save_every, false, 0, STEPS_MAX),
    SIZE_OF(eval_documents, true, 0, 1e15),
    SIZE_OF(keep, false, 0, 1e9),
};
enum { ROWS = sizeof rows / sizeof *rows };
enum { ANY_VOCABULARY = 1024 }; /* the data's own is checked with the data */

/* The name of an enum's value, NULL behind the last. */
static const char *enum_name(option_kind kind, int value) {
    static const char *const weights[] = {"elbo", "flat", "uniform", "inv_sigma", "sigma", NULL};
    static const char *const optimizers[] = {"adamw", "muon", NULL};
    static const char *const precisions[] = {"auto", "f32", "bf16", NULL};
    enum { OF_TWO = 2 }; /* the names that the model has too */
    const char *const *own = kind == WEIGHT      ? weights
                             : kind == OPTIMIZER ? optimizers
                             : kind == PRECISION ? precisions
                                                 : NULL;
    if (value < 0) return NULL;
    if (own != NULL) {
        while (value > 0 && *own != NULL) own++, value--;
        return *own;
    }
    if (value >= OF_TWO) return NULL;
    switch (kind) {
    case TIME: return dlm__time_name((dlm_time)value);
    case POSITION: return dlm__position_name((dlm_position)value);
    case SCHEDULE: return dlm__schedule_name((dlm_schedule)value);
    case RECIPE: return dlm__recipe_name((dlm_recipe)value);
    default: return NULL;
    }
}

static const void *field_of(const dlm_train_options *options, const option_row *row) {
    return (const char *)options + row->offset;
}

static int enum_of(const dlm_train_options *options, const option_row *row) {
    int value;
    _Static_assert(sizeof(dlm_precision) == sizeof value && sizeof(dlm_time) == sizeof value,
                   "enums are as large as int");
    memcpy(&value, field_of(options, row), sizeof value);
    return value;
}

/* ---- check -------------------------------------------------------------------------------------------- */

static dlm_status check_row(const dlm_train_options *options, const option_row *row, dlm_error *err) {
    const void *field = field_of(options, row);
    switch (row->kind) {
    case SIZE: {
        size_t value = *(const size_t *)field;
        if ((double)value >= row->min && (double)value <= row->max) return DLM_OK;
        return dlm__fail(err, DLM_ARGUMENT, "training option %s is %zu, allowed are %.0f to %.0f", row->name,
                         value, row->min, row->max);
    }
    case REAL: {
        double value = *(const double *)field;
        if (value >= row->min && value <= row->max) return DLM_OK;
        return dlm__fail(err, DLM_ARGUMENT, "training option %s is %g, allowed are %g to %g", row->name,
                         value, row->min, row->max);
    }
    case SEED: return DLM_OK;
    default:
        if (enum_name(row->kind, enum_of(options, row)) != NULL) return DLM_OK;
        return dlm__fail(err, DLM_ARGUMENT, "training option %s is %d, which is none of its values",
                         row->name, enum_of(options, row));
    }
}

dlm_config dlm__train_config(const dlm_train_options *options, size_t vocab_size) {
    return (dlm_config){.vocab_size = vocab_size,
                        .max_seq_len = options->seq_len,
                        .hidden_size = options->hidden_size,
                        .depth = options->depth,
                        .num_heads = options->num_heads,
                        .mlp_ratio = options->mlp_ratio,
                        .time = options->time,
                        .position = options->position,
                        .schedule = options->schedule,
                        .end_token = options->recipe == DLM_RECIPE_DEFAULT,
                        .padded = options->recipe == DLM_RECIPE_ORIGINAL,
                        .tail_share = options->tail_share,
                        .recipe = options->recipe};
}

dlm_status dlm_train_check(const dlm_train_options *options, dlm_error *err) {
    for (size_t i = 0; i < ROWS; i++) DLM_TRY(check_row(options, &rows[i], err));
    if (options->recipe == DLM_RECIPE_ORIGINAL && options->tail_share > 0)
        return dlm__fail(err, DLM_ARGUMENT,
                         "tail_share is %g, but the original recipe has no end token to make tails of",
                         options->tail_share);
    if (options->minutes <= 0 && options->steps == 0 && options->epochs <= 0)
        return dlm__fail(err, DLM_ARGUMENT, "minutes, steps and epochs are all 0: one must say how long");
    dlm_config config = dlm__train_config(options, ANY_VOCABULARY);
    return dlm__config_check(&config, "training options", err);
}

/* ---- trainer.json ------------------------------------------------------------------------------------- */

static json_t *value_json(const dlm_train_options *options, const option_row *row) {
    const void *field = field_of(options, row);
    switch (row->kind) {
    case SIZE: return json_integer((json_int_t) * (const size_t *)field);
    case REAL: return json_real(*(const double *)field);
    case SEED: return json_sprintf("%" PRIu64, *(const uint64_t *)field); /* JSON has no such integers */
    default: return json_string(enum_name(row->kind, enum_of(options, row)));
    }
}

json_t *dlm__train_options_json(const dlm_train_options *options) {
    json_t *object = json_object();
    for (size_t i = 0; object != NULL && i < ROWS; i++) {
        if (json_object_set_new(object, rows[i].name, value_json(options, &rows[i])) == 0) continue;
        json_decref(object);
        object = NULL;
    }
    return object;
}

/* False when the value has another type or cannot be one. */
static bool parse_value(const json_t *value, const option_row *row, void *field) {
    if (row->kind == SIZE) {
        if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
        *(size_t *)field = (size_t)json_integer_value(value);
        return true;
    }
    if (row->kind == REAL) {
        if (!json_is_number(value)) return false;
        *(double *)field = json_number_value(value);
        return true;
    }
    const char *text = json_string_value(value);
    if (text == NULL) return false;
    if (row->kind == SEED) {
        char rest;
        return sscanf(text, "%" SCNu64 "%c", (uint64_t *)field, &rest) == 1;
    }
    for (int i = 0;; i++) {
        const char *name = enum_name(row->kind, i);
        if (name == NULL) return false;
        if (strcmp(name, text) != 0) continue;
        memcpy(field, &i, sizeof i);
        return true;
    }
}

dlm_status dlm__train_options_parse(const char *name, const json_t *json, dlm_train_options *options,
                                    dlm_error *err) {
    *options = dlm_train_defaults(DLM_RECIPE_DEFAULT);
    if (!json_is_object(json)) return dlm__fail(err, DLM_FORMAT, "%s: options is missing or no object", name);
    for (size_t i = 0; i < ROWS; i++) {
        const json_t *value = json_object_get(json, rows[i].name);
        if (value == NULL) return dlm__fail(err, DLM_FORMAT, "%s: option %s is missing", name, rows[i].name);
        if (!parse_value(value, &rows[i], (char *)options + rows[i].offset))
            return dlm__fail(err, DLM_FORMAT, "%s: option %s has a value that it cannot have", name,
                             rows[i].name);
    }
    dlm_error why;
    if (dlm_train_check(options, &why) != DLM_OK)
        return dlm__fail(err, DLM_FORMAT, "%s: %s", name, why.message);
    return DLM_OK;
}

/* ---- comparison --------------------------------------------------------------------------------------- */

static bool same_value(const dlm_train_options *a, const dlm_train_options *b, const option_row *row) {
    size_t size = row->kind == SIZE   ? sizeof(size_t)
                  : row->kind == REAL ? sizeof(double)
                  : row->kind == SEED ? sizeof(uint64_t)
                                      : sizeof(int);
    return memcmp(field_of(a, row), field_of(b, row), size) == 0;
}

static void print_value(const dlm_train_options *options, const option_row *row, char *text, size_t size) {
    const void *field = field_of(options, row);
    if (row->kind == SIZE)
        (void)snprintf(text, size, "%zu", *(const size_t *)field);
    else if (row->kind == REAL)
        (void)snprintf(text, size, "%.10g", *(const double *)field);
    else if (row->kind == SEED)
        (void)snprintf(text, size, "%" PRIu64, *(const uint64_t *)field);
    else
        (void)snprintf(text, size, "%s", enum_name(row->kind, enum_of(options, row)));
}

enum { CHANGES = 400 };

/* Lists the options that differ, "lr was 0.1, is 0.2" with the words "was " and ", is "; all of them, or the
 * fixed ones. False when there is none. */
static bool list_changes(const dlm_train_options *before, const dlm_train_options *now, bool all,
                         const char *was, const char *is, char changed[CHANGES]) {
    size_t used = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if ((!rows[i].fixed && !all) || same_value(before, now, &rows[i])) continue;
        char old[40], new[40];
        print_value(before, &rows[i], old, sizeof old);
        print_value(now, &rows[i], new, sizeof new);
        int n = snprintf(changed + used, CHANGES - used, "%s%s %s%s%s%s", used > 0 ? "; " : "", rows[i].name,
                         was, old, is, new);
        if (n < 0 || (size_t)n >= CHANGES - used) break;
        used += (size_t)n;
    }
    return used > 0;
}

dlm_status dlm__train_options_same(const char *name, const dlm_train_options *before,
                                   const dlm_train_options *now, dlm_error *err) {
    char changed[CHANGES];
    if (!list_changes(before, now, false, "was ", ", is ", changed)) return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH, "%s goes on with other options than it began with: %s", name,
                     changed);
}

dlm_status dlm__train_options_equal(const dlm_train_options *first, const dlm_train_options *mine,
                                    dlm_error *err) {
    char changed[CHANGES];
    if (!list_changes(first, mine, true, "is ", " there and here ", changed)) return DLM_OK;
    return dlm__fail(err, DLM_MISMATCH, "the options are not those of rank 0: %s", changed);
}
