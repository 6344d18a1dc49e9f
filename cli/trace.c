/* Traces. A line holds what changed since the line before, so a trace is as long as what happened; a token
 * that the sampler drew anew within a step stands there twice, masked and then as what it became. */
#include "trace.h"

#include "buffer.h"
#include "json.h"
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char beginning[] = "{\"format\":\"diffusionlm trace\"";
enum { TRACE_VERSION = 1, MASKED = -1 };

struct trace {
    FILE *file;
    const char *path; /* as it was given */
    char *target;     /* links resolved; NULL: written in place */
    char *temporary;
    int error; /* of the first write that failed; 0: none */
    int32_t *ids;
    float *confidence; /* (T) as of the step before */
    size_t ids_capacity, confidence_capacity;
};

/* ---- the file ----------------------------------------------------------------------------------------- */

static void note_error(trace *steps, bool failed) {
    if (failed && steps->error == 0) steps->error = errno != 0 ? errno : EIO;
}

static int fail_to_write(const trace *steps) {
    if (steps->error == EPIPE) return EXIT_FAILED; /* the reader has left, as in `| head` */
    return fail("%s: %s", strcmp(steps->path, "-") == 0 ? "standard output" : steps->path,
                strerror(steps->error));
}

/* A regular file that holds something else than a trace: it was named by mistake. */
static bool holds_something_else(const char *path) {
    char bytes[sizeof beginning - 1];
    FILE *file = fopen(path, "rb");
    if (file == NULL) return false; /* then it cannot be replaced either, or can be without being read */
    const size_t n = fread(bytes, 1, sizeof bytes, file);
    (void)fclose(file);
    return n > 0 && (n < sizeof bytes || memcmp(bytes, beginning, n) != 0);
}

/* Opens steps->file. */
static int open_file(trace *steps) {
    struct stat about;
    const bool there = stat(steps->path, &about) == 0;
    if (there && S_ISDIR(about.st_mode)) return fail("--trace %s is a folder, not a file", steps->path);
    if (there && !S_ISREG(about.st_mode)) {
        steps->file = fopen(steps->path, "wb");
    } else {
        static const char ending[] = ".partial";
        if (there && holds_something_else(steps->path))
            return fail("--trace %s: there is a file that is no trace, and it is not overwritten",
                        steps->path);
        steps->target = realpath(steps->path, NULL);
        if (steps->target == NULL) steps->target = strdup(steps->path);
        if (steps->target == NULL) return fail("out of memory");
        const size_t size = strlen(steps->target) + sizeof ending;
        steps->temporary = malloc(size);
        if (steps->temporary == NULL) return fail("out of memory");
        (void)snprintf(steps->temporary, size, "%s%s", steps->target, ending);
        /* Removed and made anew, never opened: it may be a link that somebody else put there. */
        (void)unlink(steps->temporary);
        const int made = open(steps->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (made >= 0) steps->file = fdopen(made, "wb");
    }
    return steps->file != NULL ? EXIT_DONE : fail("--trace %s: %s", steps->path, strerror(errno));
}

int trace_open(const char *path, trace **steps) {
    trace *made = calloc(1, sizeof *made);
    *steps = made;
    if (made == NULL) return fail("out of memory");
    made->path = path;
    if (strcmp(path, "-") != 0) return open_file(made);
    made->file = stdout;
    return EXIT_DONE;
}

bool trace_failed(const trace *steps) {
    return steps->error != 0;
}

/* Is the temporary name still the file that was written? */
static bool still_ours(const trace *steps) {
    struct stat ours, there;
    return fstat(fileno(steps->file), &ours) == 0 && lstat(steps->temporary, &there) == 0 &&
           there.st_dev == ours.st_dev && there.st_ino == ours.st_ino;
}

/* Closes the file and gives it its name. */
static void finish(trace *steps, bool keep) {
    errno = 0;
    note_error(steps, fflush(steps->file) != 0);
    if (steps->file == stdout) return; /* belongs to all */
    const bool ours = steps->temporary != NULL && still_ours(steps);
    note_error(steps, fclose(steps->file) != 0);
    keep = keep && steps->error == 0;
    if (ours && keep) note_error(steps, rename(steps->temporary, steps->target) != 0);
    if (ours && (!keep || steps->error != 0)) (void)unlink(steps->temporary);
}

int trace_close(trace *steps, bool keep) {
    if (steps == NULL) return EXIT_DONE;
    const bool matters = keep || steps->error != 0; /* what now fails in a trace to be removed does not */
    if (steps->file != NULL) finish(steps, keep);
    const int status = matters && steps->error != 0 ? fail_to_write(steps) : EXIT_DONE;
    free(steps->target);
    free(steps->temporary);
    free(steps->ids);
    free(steps->confidence);
    free(steps);
    return status;
}

/* ---- lines -------------------------------------------------------------------------------------------- */

/* Sends out what was written, so that who reads along sees whole lines. */
static void end_lines(trace *steps) {
    note_error(steps, fflush(steps->file) != 0 || ferror(steps->file));
}

/* A line; takes the reference. */
static void put_json(trace *steps, json_t *value) {
    errno = value == NULL ? ENOMEM : 0;
    const bool failed =
        value == NULL || json_dumpf(value, steps->file, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0;
    json_decref(value);
    note_error(steps, failed || putc('\n', steps->file) == EOF);
}

static json_t *json_texts(const text_list *list) {
    json_t *all = json_array();
    for (size_t i = 0; i < list->n && all != NULL; i++) {
        if (json_array_append_new(all, json_name(list->items[i])) == 0) continue;
        json_decref(all);
        all = NULL;
    }
    return all;
}

/* The value of an option: a number, true or false, or as it is typed. */
static json_t *json_option(const option *row, const void *settings) {
    const char *field = (const char *)settings + row->offset;
    char typed[400];
    if (row->kind == OPTION_FLAG) return json_boolean(*(const bool *)(const void *)field);
    if (row->kind == OPTION_TEXT) return json_name(*(const char *const *)(const void *)field);
    if (row->kind == OPTION_TEXTS) return json_texts((const text_list *)(const void *)field);
    if (!option_value(row, settings, typed, sizeof typed)) return json_null();
    char *end;
    const double number = strtod(typed, &end);
    if (row->kind == OPTION_CHOICE || *end != 0) return json_string(typed);
    if (row->kind == OPTION_SIZE || row->kind == OPTION_WHOLE) return json_integer((json_int_t)number);
    return json_real(*(const double *)(const void *)field);
}

/* What was asked for, and not how it was shown or written. */
static json_t *json_options(const command *what, const common *settings) {
    static const char *const others[] = {"watch", "fps", "trace", "json", NULL};
    json_t *all = json_object();
    for (const option *row = what->options; row->name != NULL && all != NULL; row++) {
        bool other = false;
        for (size_t i = 0; others[i] != NULL; i++) other |= strcmp(row->name, others[i]) == 0;
        if (other || json_object_set_new(all, row->name, json_option(row, settings)) == 0) continue;
        json_decref(all);
        all = NULL;
    }
    return all;
}

void trace_begin(trace *steps, const dlm_model *model, const command *what, const common *settings) {
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    put_json(steps,
             json_pack("{s:s, s:i, s:s, s:o, s:o, s:I, s:s, s:o}", "format", "diffusionlm trace", "version",
                       TRACE_VERSION, "command", what->name, "model", json_name(dlm_model_source(model)),
                       "tokenizer_hash",
                       tokenizer == NULL ? json_null() : json_hash(dlm_tokenizer_describe(tokenizer).hash),
                       "seed", (json_int_t)settings->seed, "program", dlm_version(), "options",
                       json_options(what, settings)));
    end_lines(steps);
}

static void put_change(trace *steps, bool *any, size_t position, int32_t id, float confidence) {
    (void)fprintf(steps->file, "%s[%zu,%ld,%.9g]", *any ? "," : "", position, (long)id, (double)confidence);
    *any = true;
}

/* Where each sequence begins: all that is not masked, and which of it is given for good. */
static void put_start(trace *steps, const dlm_sample_step *step, size_t b) {
    const size_t start = step->offsets[b], end = step->offsets[b + 1];
    bool any = false;
    (void)fprintf(steps->file, ",\"length\":%zu,\"fixed\":[", end - start);
    for (size_t p = start; p < end; p++) {
        if (!step->fixed[p]) continue;
        (void)fprintf(steps->file, "%s%zu", any ? "," : "", p - start);
        any = true;
    }
    (void)fputs("],\"changes\":[", steps->file);
    any = false;
    for (size_t p = start; p < end; p++)
        if (step->ids[p] != step->mask_id)
            put_change(steps, &any, p - start, step->ids[p], step->confidence[p]);
}

static bool differs(const trace *steps, const dlm_sample_step *step, size_t p) {
    return step->ids[p] != steps->ids[p] || step->confidence[p] != steps->confidence[p];
}

/* First what lost its token, then what got one. */
static void put_changes(trace *steps, const dlm_sample_step *step, size_t b) {
    const size_t start = step->offsets[b], end = step->offsets[b + 1];
    bool any = false;
    (void)fputs(",\"changes\":[", steps->file);
    for (size_t p = start; p < end; p++)
        if (differs(steps, step, p) && steps->ids[p] != step->mask_id)
            put_change(steps, &any, p - start, MASKED, 0);
    for (size_t p = start; p < end; p++)
        if (differs(steps, step, p) && step->ids[p] != step->mask_id)
            put_change(steps, &any, p - start, step->ids[p], step->confidence[p]);
}

static void put_step(trace *steps, const dlm_sample_step *step, size_t b) {
    const size_t sample = step->first + b;
    const bool first = step->step == 0;
    size_t masked = 0;
    bool changed = first;
    for (size_t p = step->offsets[b]; p < step->offsets[b + 1]; p++) {
        masked += step->ids[p] == step->mask_id;
        changed = changed || differs(steps, step, p);
    }
    if (!changed) return;
    (void)fprintf(steps->file, "{\"index\":%zu", sample / step->tries);
    if (step->tries > 1) (void)fprintf(steps->file, ",\"try\":%zu", sample % step->tries);
    (void)fprintf(steps->file, ",\"step\":%zu,\"steps\":%zu,\"t\":%.17g,\"masked\":%zu,\"forwards\":%zu",
                  step->step, step->steps, step->times[b], masked, step->forwards);
    if (first)
        put_start(steps, step, b);
    else
        put_changes(steps, step, b);
    (void)fputs("]}\n", steps->file);
}

void trace_step(trace *steps, const dlm_sample_step *step) {
    const size_t T = step->offsets[step->n];
    void *ids = steps->ids, *confidence = steps->confidence;
    if (steps->error != 0) return;
    errno = ENOMEM;
    note_error(steps, !grow(&ids, &steps->ids_capacity, T, sizeof *steps->ids));
    steps->ids = ids;
    note_error(steps, !grow(&confidence, &steps->confidence_capacity, T, sizeof *steps->confidence));
    steps->confidence = confidence;
    if (steps->error != 0) return;
    errno = 0;
    for (size_t b = 0; b < step->n; b++) put_step(steps, step, b);
    end_lines(steps);
    memcpy(steps->ids, step->ids, T * sizeof *steps->ids);
    memcpy(steps->confidence, step->confidence, T * sizeof *steps->confidence);
}

void trace_sample(trace *steps, size_t index, int candidate, const int32_t *ids, size_t n, const char *text,
                  size_t bytes) {
    if (steps->error != 0) return;
    json_t *line = json_pack("{s:I, s:b, s:o, s:o}", "index", (json_int_t)index, "done", 1, "ids",
                             json_ids(ids, n), "text", text == NULL ? json_null() : json_text(text, bytes));
    if (line != NULL && candidate >= 0 && json_object_set_new(line, "try", json_integer(candidate)) != 0) {
        json_decref(line);
        line = NULL;
    }
    put_json(steps, line);
    end_lines(steps);
}
