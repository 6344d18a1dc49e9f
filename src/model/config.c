/* The configuration of a model: ranges, and its JSON as it stands in config.json and in the metadata of a
 * safetensors file. */
#include "model/network.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bounds far above any model that fits a machine. With them a model has less than 2^49 parameters, and no
 * product of its dimensions overflows: a layer has at most 11 C + 2 F + 32 < 2^22 rows of C. */
_Static_assert(sizeof(size_t) >= 8, "sizes of models need 64 bits");
#define VOCAB_MIN      ((size_t)4) /* three ids are never drawn */
#define VOCAB_LIMIT    ((size_t)1 << 24)
#define LENGTH_LIMIT   ((size_t)1 << 20)
#define CHANNELS_LIMIT ((size_t)1 << 16)
#define HIDDEN_LIMIT   ((size_t)1 << 20)
#define DEPTH_LIMIT    ((size_t)1 << 10)

/* ---- names -------------------------------------------------------------------------------------------- */

static const char *const time_names[] = {"none", "adaln", NULL};
static const char *const position_names[] = {"both", "learned", NULL};
static const char *const schedule_names[] = {"cosine", "linear", NULL};
static const char *const recipe_names[] = {"default", "original", NULL};

const char *dlm__time_name(dlm_time time) {
    return time_names[time];
}

const char *dlm__position_name(dlm_position position) {
    return position_names[position];
}

const char *dlm__schedule_name(dlm_schedule schedule) {
    return schedule_names[schedule];
}

const char *dlm__recipe_name(dlm_recipe recipe) {
    return recipe_names[recipe];
}

/* ---- ranges ------------------------------------------------------------------------------------------- */

size_t dlm__config_hidden(const dlm_config *config) {
    return (size_t)((double)config->hidden_size * config->mlp_ratio);
}

size_t dlm__config_head(const dlm_config *config) {
    return config->hidden_size / config->num_heads;
}

static dlm_status check_range(const char *name, const char *key, size_t value, size_t low, size_t high,
                              dlm_error *err) {
    if (value >= low && value <= high) return DLM_OK;
    return dlm__fail(err, DLM_ARGUMENT, "%s: %s is %zu, not %zu to %zu", name, key, value, low, high);
}

static dlm_status check_heads(const dlm_config *config, const char *name, dlm_error *err) {
    size_t C = config->hidden_size, H = config->num_heads;
    DLM_TRY(check_range(name, "num_heads", H, 1, C, err));
    if (C % H != 0) {
        return dlm__fail(err, DLM_ARGUMENT, "%s: hidden_size %zu is no multiple of num_heads %zu", name, C,
                         H);
    }
    if (config->position == DLM_POSITION_BOTH && C / H % 2 != 0) {
        return dlm__fail(err, DLM_ARGUMENT,
                         "%s: position both needs heads of an even number of channels, not %zu", name, C / H);
    }
    return DLM_OK;
}

static dlm_status check_enums(const dlm_config *config, const char *name, dlm_error *err) {
    if ((unsigned)config->time <= DLM_TIME_ADALN && (unsigned)config->position <= DLM_POSITION_LEARNED &&
        (unsigned)config->schedule <= DLM_SCHEDULE_LINEAR &&
        (unsigned)config->recipe <= DLM_RECIPE_ORIGINAL) {
        return DLM_OK;
    }
    return dlm__fail(err, DLM_ARGUMENT, "%s: time %d, position %d, schedule %d or recipe %d is no such value",
                     name, (int)config->time, (int)config->position, (int)config->schedule,
                     (int)config->recipe);
}

dlm_status dlm__config_check(const dlm_config *config, const char *name, dlm_error *err) {
    DLM_TRY(check_range(name, "vocab_size", config->vocab_size, VOCAB_MIN, VOCAB_LIMIT, err));
    DLM_TRY(check_range(name, "max_seq_len", config->max_seq_len, 1, LENGTH_LIMIT, err));
    DLM_TRY(check_range(name, "hidden_size", config->hidden_size, 1, CHANNELS_LIMIT, err));
    DLM_TRY(check_range(name, "depth", config->depth, 1, DEPTH_LIMIT, err));
    DLM_TRY(check_enums(config, name, err));
    DLM_TRY(check_heads(config, name, err));
    double hidden = (double)config->hidden_size * config->mlp_ratio;
    if (!(hidden >= 1 && hidden <= (double)HIDDEN_LIMIT)) {
        return dlm__fail(err, DLM_ARGUMENT, "%s: mlp_ratio %g gives %g hidden channels, not 1 to %zu", name,
                         config->mlp_ratio, hidden, HIDDEN_LIMIT);
    }
    if (!(config->tail_share >= 0 && config->tail_share <= 1)) {
        return dlm__fail(err, DLM_ARGUMENT, "%s: tail_share is %g, not 0 to 1", name, config->tail_share);
    }
    return DLM_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* Refuses keys of object that are not in known (ended by NULL): they could change what the model computes. */
static dlm_status check_keys(const char *name, json_t *object, const char *const *known, dlm_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        size_t i = 0;
        while (known[i] != NULL && strcmp(known[i], key) != 0) i++;
        if (known[i] == NULL) return dlm__fail(err, DLM_UNSUPPORTED, "%s: unknown key %.80s", name, key);
    }
    return DLM_OK;
}

static dlm_status read_size(const char *name, const json_t *object, const char *key, size_t *value,
                            dlm_error *err) {
    const json_t *found = json_object_get(object, key);
    if (found == NULL) return dlm__fail(err, DLM_FORMAT, "%s: %s is missing", name, key);
    if (!json_is_integer(found) || json_integer_value(found) < 0) {
        return dlm__fail(err, DLM_FORMAT, "%s: %s is not a count", name, key);
    }
    *value = (size_t)json_integer_value(found);
    return DLM_OK;
}

/* The value of an optional key as an index into names; *value stays when the key is absent. */
static dlm_status read_name(const char *name, const json_t *object, const char *key, const char *const *names,
                            int *value, dlm_error *err) {
    const json_t *found = json_object_get(object, key);
    if (found == NULL) return DLM_OK;
    const char *text = json_string_value(found);
    if (text == NULL) return dlm__fail(err, DLM_FORMAT, "%s: %s is not a string", name, key);
    for (int i = 0; names[i] != NULL; i++) {
        if (strcmp(text, names[i]) == 0) {
            *value = i;
            return DLM_OK;
        }
    }
    return dlm__fail(err, DLM_UNSUPPORTED, "%s: %s is %.40s, not %s or %s", name, key, text, names[0],
                     names[1]);
}

static dlm_status read_real(const char *name, const json_t *object, const char *key, double *value,
                            dlm_error *err) {
    const json_t *found = json_object_get(object, key);
    if (found == NULL) return DLM_OK;
    if (!json_is_number(found)) return dlm__fail(err, DLM_FORMAT, "%s: %s is not a number", name, key);
    *value = json_number_value(found);
    return DLM_OK;
}

static dlm_status read_bool(const char *name, const json_t *object, const char *key, bool *value,
                            dlm_error *err) {
    const json_t *found = json_object_get(object, key);
    if (found == NULL) return DLM_OK;
    if (!json_is_boolean(found)) return dlm__fail(err, DLM_FORMAT, "%s: %s is not true or false", name, key);
    *value = json_is_true(found);
    return DLM_OK;
}

/* The histogram of lengths: max_seq_len + 1 counts, the first (documents of no token) not drawn from, the
 * others not all 0. Their sum fits 63 bits, since each is at most 2^63 / 2^21. */
static dlm_status read_lengths(const char *name, const json_t *array, size_t max_seq_len, uint64_t **lengths,
                               dlm_error *err) {
    if (array == NULL) return DLM_OK;
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n != max_seq_len + 1) {
        return dlm__fail(err, DLM_FORMAT, "%s: lengths has %zu counts, not %zu", name, n, max_seq_len + 1);
    }
    uint64_t *counts = dlm__calloc(n, sizeof *counts), total = 0;
    if (counts == NULL) return dlm__fail_memory(err, name, n * sizeof *counts);
    for (size_t i = 0; i < n; i++) {
        const json_t *count = json_array_get(array, i);
        if (!json_is_integer(count) || json_integer_value(count) < 0 ||
            json_integer_value(count) > (json_int_t)1 << 42) {
            free(counts);
            return dlm__fail(err, DLM_FORMAT, "%s: entry %zu of lengths is not a count below 2^42", name, i);
        }
        counts[i] = (uint64_t)json_integer_value(count);
        total += i > 0 ? counts[i] : 0;
    }
    if (total == 0) {
        free(counts);
        return dlm__fail(err, DLM_FORMAT, "%s: lengths counts no document", name);
    }
    *lengths = counts;
    return DLM_OK;
}

static dlm_status read_diffusion(const char *name, json_t *object, dlm_config *config, uint64_t **lengths,
                                 dlm_error *err) {
    static const char *const known[] = {"schedule", "end_token", "padded", "tail_share",
                                        "lengths",  "recipe",    NULL};
    int schedule = DLM_SCHEDULE_COSINE, recipe = DLM_RECIPE_ORIGINAL;
    config->padded = true;
    if (object != NULL) {
        if (!json_is_object(object)) {
            return dlm__fail(err, DLM_FORMAT, "%s: diffusion is not an object", name);
        }
        DLM_TRY(check_keys(name, object, known, err));
        DLM_TRY(read_name(name, object, "schedule", schedule_names, &schedule, err));
        DLM_TRY(read_name(name, object, "recipe", recipe_names, &recipe, err));
        DLM_TRY(read_bool(name, object, "end_token", &config->end_token, err));
        DLM_TRY(read_bool(name, object, "padded", &config->padded, err));
        DLM_TRY(read_real(name, object, "tail_share", &config->tail_share, err));
        DLM_TRY(read_lengths(name, json_object_get(object, "lengths"), config->max_seq_len, lengths, err));
    }
    config->schedule = (dlm_schedule)schedule;
    config->recipe = (dlm_recipe)recipe;
    return DLM_OK;
}

static dlm_status read_config(const char *name, json_t *object, dlm_config *config, uint64_t **lengths,
                              dlm_error *err) {
    static const char *const known[] = {"vocab_size", "max_seq_len", "hidden_size", "depth",     "num_heads",
                                        "mlp_ratio",  "time",        "position",    "diffusion", NULL};
    if (!json_is_object(object)) return dlm__fail(err, DLM_FORMAT, "%s: not a JSON object", name);
    DLM_TRY(check_keys(name, object, known, err));
    DLM_TRY(read_size(name, object, "vocab_size", &config->vocab_size, err));
    DLM_TRY(read_size(name, object, "max_seq_len", &config->max_seq_len, err));
    DLM_TRY(read_size(name, object, "hidden_size", &config->hidden_size, err));
    DLM_TRY(read_size(name, object, "depth", &config->depth, err));
    DLM_TRY(read_size(name, object, "num_heads", &config->num_heads, err));
    if (json_object_get(object, "mlp_ratio") == NULL) {
        return dlm__fail(err, DLM_FORMAT, "%s: mlp_ratio is missing", name);
    }
    DLM_TRY(read_real(name, object, "mlp_ratio", &config->mlp_ratio, err));
    int time = DLM_TIME_ADALN, position = DLM_POSITION_LEARNED;
    DLM_TRY(read_name(name, object, "time", time_names, &time, err));
    DLM_TRY(read_name(name, object, "position", position_names, &position, err));
    config->time = (dlm_time)time;
    config->position = (dlm_position)position;
    DLM_TRY(dlm__config_check(config, name, err));
    DLM_TRY(read_diffusion(name, json_object_get(object, "diffusion"), config, lengths, err));
    return dlm__config_check(config, name, err);
}

dlm_status dlm__config_parse(const char *name, const char *json, size_t n, dlm_config *config,
                             uint64_t **lengths, dlm_error *err) {
    json_t *object;
    uint64_t *counts = NULL;
    *config = (dlm_config){0};
    if (lengths != NULL) *lengths = NULL;
    DLM_TRY(dlm__json_parse(name, json, n, &object, err));
    dlm_status status = read_config(name, object, config, &counts, err);
    json_decref(object);
    if (status == DLM_OK && lengths != NULL) {
        *lengths = counts;
    } else {
        free(counts);
    }
    /* What a file says is wrong with the file, not with an argument. */
    if (status == DLM_ARGUMENT && err != NULL) err->status = DLM_FORMAT;
    return status == DLM_ARGUMENT ? DLM_FORMAT : status;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static json_t *lengths_json(const uint64_t *lengths, size_t n) {
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) {
        if (json_array_append_new(array, json_integer((json_int_t)lengths[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* What the original's config does not know, but for time and position; NULL without memory. */
static json_t *diffusion_json(const dlm_config *config, const uint64_t *lengths) {
    json_t *diffusion = json_pack("{s:s, s:b, s:b, s:f, s:s}", "schedule", schedule_names[config->schedule],
                                  "end_token", (int)config->end_token, "padded", (int)config->padded,
                                  "tail_share", config->tail_share, "recipe", recipe_names[config->recipe]);
    if (lengths != NULL &&
        json_object_set_new(diffusion, "lengths", lengths_json(lengths, config->max_seq_len + 1)) != 0) {
        json_decref(diffusion);
        return NULL;
    }
    return diffusion;
}

json_t *dlm__config_original(const dlm_config *config) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f}", "vocab_size", (json_int_t)config->vocab_size,
                     "max_seq_len", (json_int_t)config->max_seq_len, "hidden_size",
                     (json_int_t)config->hidden_size, "depth", (json_int_t)config->depth, "num_heads",
                     (json_int_t)config->num_heads, "mlp_ratio", config->mlp_ratio);
}

static bool set_kind(json_t *object, const dlm_config *config) {
    return json_object_set_new(object, "time", json_string(time_names[config->time])) == 0 &&
           json_object_set_new(object, "position", json_string(position_names[config->position])) == 0;
}

json_t *dlm__config_ours(const dlm_config *config, const uint64_t *lengths) {
    json_t *object = json_object(), *diffusion = diffusion_json(config, lengths);
    const bool made =
        diffusion != NULL && set_kind(object, config) && json_object_update(object, diffusion) == 0;
    json_decref(diffusion);
    if (made) return object;
    json_decref(object);
    return NULL;
}

/* The config as a JSON object, its keys in the order of the original; NULL without memory. */
static json_t *config_json(const dlm_config *config, const uint64_t *lengths) {
    json_t *object = dlm__config_original(config);
    if (set_kind(object, config) &&
        json_object_set_new(object, "diffusion", diffusion_json(config, lengths)) == 0)
        return object;
    json_decref(object);
    return NULL;
}

/* Digits that give x back when read: 15 where they suffice, so that 2.65 stays 2.65. */
static bool short_real(double x) {
    char text[40];
    (void)snprintf(text, sizeof text, "%.15g", x);
    return strtod(text, NULL) == x;
}

static size_t text_flags(const dlm_config *config) {
    if (short_real(config->mlp_ratio) && short_real(config->tail_share)) {
        return JSON_ENCODE_ANY | JSON_REAL_PRECISION(15);
    }
    return JSON_ENCODE_ANY | JSON_REAL_PRECISION(17);
}

char *dlm__config_text(const dlm_config *config, const uint64_t *lengths) {
    json_t *object = config_json(config, lengths);
    char *text = json_dumps(object, text_flags(config));
    json_decref(object);
    return text;
}

dlm_status dlm__config_save(const dlm_config *config, const uint64_t *lengths, const char *path,
                            dlm_error *err) {
    json_t *object = config_json(config, lengths);
    if (object == NULL) return dlm__fail_memory(err, path, sizeof *config);
    dlm_output *output;
    dlm_status status = dlm__output_create(path, &output, err);
    if (status != DLM_OK) {
        json_decref(object);
        return status;
    }
    /* A key a line, so that the histogram takes one line and not a thousand. */
    const char *key, *separator = "{\n";
    json_t *value;
    json_object_foreach(object, key, value) {
        char *text = json_dumps(value, text_flags(config));
        if (text == NULL) status = dlm__fail_memory(err, path, sizeof *config);
        dlm__output_printf(output, "%s  \"%s\": %s", separator, key, text == NULL ? "" : text);
        separator = ",\n";
        free(text);
    }
    dlm__output_printf(output, "\n}\n");
    json_decref(object);
    if (status == DLM_OK) return dlm__output_commit(output, err);
    dlm__output_abort(output);
    return status;
}
