/* trainer.json and clock.json of a checkpoint, written and read; docs/formats.md describes them. */
#include "train/trainer.h"

#include "text/utf8.h"

#include <float.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT_VERSION = 1 };

/* The largest count that is read: beyond it programs that read JSON lose digits, and no run gets that far. */
#define COUNT_MAX ((uint64_t)1 << 53)

/* ---- writing ------------------------------------------------------------------------------------------ */

/* The path for those who read the file, nobody opens it: what is not UTF-8 in it is replaced. */
static json_t *path_json(const char *path) {
    char *text = NULL;
    size_t used = 0, capacity = 0;
    bool fits = dlm__utf8_append_replaced(path, strlen(path), &text, &used, &capacity);
    json_t *value = fits ? json_stringn(text, used) : NULL;
    free(text);
    return value;
}

static json_t *source_json(const dlm_train_source *source) {
    if (source->path == NULL) return json_null();
    return json_pack("{s:o, s:o}", "path", path_json(source->path), "hash",
                     json_sprintf("%016" PRIx64, source->hash));
}

static json_t *best_json(const dlm_train_progress *p) {
    if (!p->evaluated) return json_null();
    return json_pack("{s:I, s:f}", "step", (json_int_t)p->best_step, "nelbo", p->best_nelbo);
}

/* A value as text with a line end; releases it. NULL for want of memory, which a NULL value stands for. */
static char *text_of(json_t *value) {
    char *text = value == NULL ? NULL : json_dumps(value, JSON_INDENT(2));
    json_decref(value);
    if (text == NULL) return NULL;
    size_t n = strlen(text);
    char *line = realloc(text, n + 2);
    if (line == NULL) {
        free(text);
        return NULL;
    }
    memcpy(line + n, "\n", 2);
    return line;
}

char *dlm__checkpoint_state_text(const dlm_checkpoint *checkpoint, size_t windows) {
    const dlm_train_progress *p = &checkpoint->progress;
    uint64_t sequences = p->step * checkpoint->options.batch;
    json_t *next = json_pack("{s:I, s:I}", "epoch", (json_int_t)(sequences / windows), "place",
                             (json_int_t)(sequences % windows));
    json_t *row = json_pack("{s:I, s:I, s:f, s:f}", "steps", (json_int_t)p->row_steps, "tokens",
                            (json_int_t)p->row_tokens, "loss", p->row_loss, "grad_norm", p->row_norm);
    return text_of(json_pack("{s:i, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "format", (int)FORMAT_VERSION,
                             "step", (json_int_t)p->step, "tokens", (json_int_t)p->tokens, "next", next,
                             "since_row", row, "best", best_json(p), "data", source_json(&checkpoint->source),
                             "eval_data", source_json(&checkpoint->eval_source), "options",
                             dlm__train_options_json(&checkpoint->options)));
}

char *dlm__checkpoint_clock_text(const dlm_train_clock *clock) {
    return text_of(json_pack("{s:f, s:f, s:I, s:I}", "seconds", clock->seconds, "row_seconds",
                             clock->row_seconds, "log_bytes", (json_int_t)clock->sizes.log, "samples_bytes",
                             (json_int_t)clock->sizes.samples));
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* Reads members of an object: the first that is missing or has a value that it cannot have is remembered. */
typedef struct reader {
    const char *missing;
} reader;

static dlm_status check(const reader *r, const char *name, dlm_error *err) {
    if (r->missing == NULL) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "%s: %s is missing or has a value that it cannot have", name,
                     r->missing);
}

/* An integer from 0 to `most`. */
static uint64_t read_count(reader *r, const json_t *object, const char *key, uint64_t most) {
    const json_t *value = json_object_get(object, key);
    json_int_t count = json_is_integer(value) ? json_integer_value(value) : -1;
    if (count >= 0 && (uint64_t)count <= most) return (uint64_t)count;
    if (r->missing == NULL) r->missing = key;
    return 0;
}

/* A finite number from `least` on. */
static double read_real(reader *r, const json_t *object, const char *key, double least) {
    const json_t *value = json_object_get(object, key);
    double real = json_is_number(value) ? json_number_value(value) : NAN;
    if (real >= least && isfinite(real)) return real;
    if (r->missing == NULL) r->missing = key;
    return 0;
}

static void read_source(reader *r, const json_t *object, const char *key, dlm_train_source *source) {
    const json_t *value = json_object_get(object, key);
    if (json_is_null(value)) return;
    const char *path = json_string_value(json_object_get(value, "path"));
    const char *hash = json_string_value(json_object_get(value, "hash"));
    char rest;
    if (path != NULL) source->path = dlm__copy_bytes(path, strlen(path));
    if (source->path == NULL || hash == NULL || sscanf(hash, "%16" SCNx64 "%c", &source->hash, &rest) != 1) {
        if (r->missing == NULL) r->missing = key;
    }
}

static dlm_status read_state(const char *name, const json_t *json, dlm_checkpoint *checkpoint,
                             dlm_error *err) {
    reader r = {0};
    dlm_train_progress *p = &checkpoint->progress;
    uint64_t format = read_count(&r, json, "format", COUNT_MAX);
    if (r.missing == NULL && format != FORMAT_VERSION)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: format %" PRIu64 ", this program reads %d", name, format,
                         (int)FORMAT_VERSION);
    p->step = read_count(&r, json, "step", UINT32_MAX); /* the generator's coordinates have 32 bits */
    p->tokens = read_count(&r, json, "tokens", COUNT_MAX);
    const json_t *row = json_object_get(json, "since_row"), *best = json_object_get(json, "best");
    p->row_steps = read_count(&r, row, "steps", p->step);
    p->row_tokens = read_count(&r, row, "tokens", p->tokens);
    p->row_loss = read_real(&r, row, "loss", -DBL_MAX);
    p->row_norm = read_real(&r, row, "grad_norm", 0);
    p->evaluated = !json_is_null(best);
    if (p->evaluated) {
        p->best_step = read_count(&r, best, "step", p->step);
        p->best_nelbo = read_real(&r, best, "nelbo", -DBL_MAX);
    }
    read_source(&r, json, "data", &checkpoint->source);
    read_source(&r, json, "eval_data", &checkpoint->eval_source);
    if (r.missing == NULL && checkpoint->source.path == NULL) r.missing = "data";
    DLM_TRY(check(&r, name, err));
    return dlm__train_options_parse(name, json_object_get(json, "options"), &checkpoint->options, err);
}

dlm_status dlm__checkpoint_state_parse(const char *name, const char *bytes, size_t n,
                                       dlm_checkpoint *checkpoint, dlm_error *err) {
    json_t *json;
    DLM_TRY(dlm__json_parse(name, bytes, n, &json, err));
    dlm_status status = read_state(name, json, checkpoint, err);
    json_decref(json);
    return status;
}

dlm_status dlm__checkpoint_clock_parse(const char *name, const char *bytes, size_t n, dlm_train_clock *clock,
                                       dlm_error *err) {
    reader r = {0};
    json_t *json;
    DLM_TRY(dlm__json_parse(name, bytes, n, &json, err));
    *clock = (dlm_train_clock){.seconds = read_real(&r, json, "seconds", 0),
                               .row_seconds = read_real(&r, json, "row_seconds", 0),
                               .sizes = {.log = read_count(&r, json, "log_bytes", COUNT_MAX),
                                         .samples = read_count(&r, json, "samples_bytes", COUNT_MAX)}};
    json_decref(json);
    return check(&r, name, err);
}
