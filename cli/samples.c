#include "samples.h"

#include "diff.h"
#include "json.h"
#include "terminal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Without a tokenizer the ids of special tokens are those of this family: [PAD] 0, [UNK] 1, [MASK] 2, end 3.
 */
enum { MASK_ID = 2, END_ID = 3 };

int32_t mask_id(const dlm_model *model) {
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    return tokenizer == NULL ? MASK_ID : dlm_tokenizer_describe(tokenizer).mask_id;
}

int32_t end_id(const dlm_model *model) {
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    if (!dlm_model_config(model)->end_token) return -1;
    return tokenizer == NULL ? END_ID : dlm_tokenizer_describe(tokenizer).end_id;
}

/* ---- batches ------------------------------------------------------------------------------------------ */

size_t add_sequence(batch *sequences, size_t length) {
    size_t start = sequences->tokens, tokens = start + length;
    size_t *lengths = realloc(sequences->lengths, (sequences->n + 1) * sizeof *lengths);
    if (lengths != NULL) sequences->lengths = lengths;
    int32_t *ids = realloc(sequences->ids, (tokens + 1) * sizeof *ids);
    if (ids != NULL) sequences->ids = ids;
    uint8_t *fixed = realloc(sequences->fixed, tokens + 1);
    if (fixed != NULL) sequences->fixed = fixed;
    if (lengths == NULL || ids == NULL || fixed == NULL) {
        (void)fail("out of memory");
        return SIZE_MAX;
    }
    lengths[sequences->n++] = length;
    memset(fixed + start, 0, length);
    sequences->tokens = tokens;
    return start;
}

void clear_batch(batch *sequences) {
    sequences->n = sequences->tokens = 0;
}

void free_batch(batch *sequences) {
    free(sequences->lengths);
    free(sequences->ids);
    free(sequences->fixed);
    free(sequences->before);
}

/* Logits are the largest thing that grows with a batch: at most 2^25 of them, 128 MiB; and beyond some
 * thousand rows a matrix product is no faster for each. */
size_t sequences_at_once(const dlm_model *model, size_t length) {
    size_t rows = ((size_t)1 << 25) / dlm_model_config(model)->vocab_size;
    if (rows > 4096) rows = 4096;
    return rows > length ? rows / length : 1;
}

/* ---- output ------------------------------------------------------------------------------------------- */

/* What goes to standard output, and only one thing does? */
static int check_outputs(const writer *to, const watch_choice *seen) {
    if (seen->watched && to->json) {
        (void)fail("--watch and --json exclude each other");
        return EXIT_USAGE;
    }
    if (seen->trace != NULL && seen->trace[0] == 0) {
        (void)fail("--trace is empty");
        return EXIT_USAGE;
    }
    if (to->steps_only && (seen->watched || to->json)) {
        (void)fail("--trace - and %s both write to standard output; --trace FILE goes with it",
                   to->json ? "--json" : "--watch");
        return EXIT_USAGE;
    }
    return EXIT_DONE;
}

int open_writer(writer *to, const command *what, const common *shared, const model_choice *choice,
                const watch_choice *seen) {
    *to = (writer){.seed = shared->seed, .json = shared->json, .terminal = isatty(STDOUT_FILENO)};
    to->steps_only = seen->trace != NULL && strcmp(seen->trace, "-") == 0;
    int status = check_outputs(to, seen);
    if (status != EXIT_DONE) return status;
    catch_signals();
    if (seen->trace != NULL) status = trace_open(seen->trace, &to->steps);
    if (status == EXIT_DONE) status = load_model(choice, &to->model);
    if (status != EXIT_DONE) return status;
    if (to->steps != NULL) trace_begin(to->steps, to->model, what, shared);
    if (dlm_model_tokenizer(to->model) == NULL && !to->json && !to->steps_only)
        return fail("%s: there is no tokenizer beside this model; -t names one, --json writes ids",
                    dlm_model_source(to->model));
    if (!seen->watched || !can_redraw(STDOUT_FILENO)) return EXIT_DONE;
    to->shown = watch_open(to->model, seen);
    return to->shown == NULL ? fail("out of memory") : EXIT_DONE;
}

int close_writer(writer *to, int status) {
    watch_close(to->shown);
    const int written = trace_close(to->steps, status == EXIT_DONE || stop_signal() != 0);
    dlm_model_free(to->model);
    return status == EXIT_DONE ? written : status;
}

void begin_batch(writer *to) {
    to->started = seconds_now();
    to->forwards = 0;
}

bool on_step(void *user, const dlm_sample_step *step) {
    writer *to = user;
    to->forwards = step->forwards;
    if (to->steps != NULL) {
        if (to->steps_only) clear_status();
        trace_step(to->steps, step);
        if (trace_failed(to->steps)) return true;
    }
    if (to->shown != NULL) return watch_step(to->shown, step);
    char stage[48];
    (void)snprintf(stage, sizeof stage, "text %zu of %zu, steps", to->done + 1, to->all);
    return draw_progress(NULL, stage, step->step, step->steps, seconds_now() - to->started);
}

/* One sequence of a batch. */
typedef struct sample {
    size_t index, n;
    const int32_t *ids, *before; /* (n); before may be NULL */
    int candidate;               /* -1, or which of several it is */
    double nelbo;                /* per token, or not a number */
} sample;

/* [[position, old id, new id], ...] */
static json_t *json_changes(const sample *one) {
    json_t *all = json_array();
    for (size_t i = 0; i < one->n && all != NULL; i++) {
        if (one->before[i] == one->ids[i]) continue;
        if (json_array_append_new(
                all, json_pack("[I, i, i]", (json_int_t)i, (int)one->before[i], (int)one->ids[i])) == 0)
            continue;
        json_decref(all);
        all = NULL;
    }
    return all;
}

/* Its text is NULL where there is no tokenizer. */
static int write_json(const writer *to, const sample *one, const char *text, size_t bytes) {
    json_t *line = json_pack(
        "{s:o, s:o, s:I, s:I, s:I, s:f}", "text", text == NULL ? json_null() : json_text(text, bytes), "ids",
        json_ids(one->ids, one->n), "seed", (json_int_t)to->seed, "index", (json_int_t)one->index, "forwards",
        (json_int_t)to->forwards, "seconds", seconds_now() - to->started);
    bool whole = line != NULL;
    if (whole && isfinite(one->nelbo))
        whole = json_object_set_new(line, "nelbo_per_token", json_real(one->nelbo)) == 0;
    if (whole && one->before != NULL) whole = json_object_set_new(line, "changed", json_changes(one)) == 0;
    if (whole) return print_json(line);
    json_decref(line);
    return print_json(NULL);
}

static int write_words(const writer *to, const sample *one, const char *text, size_t bytes) {
    int status = EXIT_DONE;
    if (to->diff) {
        const int32_t end = end_id(to->model);
        size_t n = 0;
        while (n < one->n && (end < 0 || one->ids[n] != end)) n++;
        status = write_diff(to->model, one->before, one->ids, n, to->terminal);
    } else {
        (void)write_text(stdout, to->terminal, text, bytes);
    }
    (void)fputs(to->shown == NULL ? "\n<|endoftext|>\n" : "\n\n", stdout);
    const int written = flush_output();
    return status == EXIT_DONE ? written : status;
}

static int write_one(const writer *to, const sample *one) {
    dlm_error err = {0};
    char *text = NULL;
    size_t bytes = 0;
    if (dlm_model_tokenizer(to->model) != NULL &&
        dlm_sample_text(to->model, one->ids, one->n, &text, &bytes, &err) != DLM_OK)
        return fail_with(&err);
    int status = EXIT_DONE;
    if (to->steps != NULL) trace_sample(to->steps, one->index, one->candidate, one->ids, one->n, text, bytes);
    if (to->json)
        status = write_json(to, one, text, bytes);
    else if (!to->steps_only)
        status = write_words(to, one, text, bytes);
    dlm_free(text);
    return status;
}

int write_batch(writer *to, const batch *sequences) {
    clear_status();
    watch_end(to->shown);
    if (to->steps != NULL && trace_failed(to->steps)) return EXIT_FAILED;
    if (stop_signal() != 0) {
        (void)fail("stopped");
        return stop_status();
    }
    int status = EXIT_DONE;
    size_t start = 0;
    for (size_t i = 0; i < sequences->n && status == EXIT_DONE; i++) {
        sample one = {.index = to->done++,
                      .n = sequences->lengths[i],
                      .ids = sequences->ids + start,
                      .before = sequences->before != NULL ? sequences->before + start : NULL,
                      .candidate = -1,
                      .nelbo = (double)NAN};
        if (sequences->filled != NULL) {
            one.nelbo = sequences->filled[i].nats_per_token;
            if (isfinite(one.nelbo)) one.candidate = (int)sequences->filled[i].candidate;
        }
        status = write_one(to, &one);
        start += sequences->lengths[i];
    }
    return status;
}
