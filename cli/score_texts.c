#include "score_texts.h"

#include "terminal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Positions that are worked on at once: a forward pass is no faster for each with more. */
enum { POSITIONS_AT_ONCE = 4096 };

/* ---- reading ------------------------------------------------------------------------------------------ */

static int add_text_room(text_batch *to) {
    scored_text *texts = realloc(to->texts, (to->n + 1) * sizeof *texts);
    if (texts == NULL) return fail("out of memory");
    to->texts = texts;
    to->texts[to->n] = (scored_text){0};
    return EXIT_DONE;
}

/* Consecutive windows of n ids, each as long as the model takes, but the last. */
static int add_windows(const text_source *source, text_batch *to, const int32_t *ids, size_t n) {
    const size_t most = dlm_model_config(source->model)->max_seq_len;
    scored_text *text = &to->texts[to->n];
    for (size_t i = 0; i < n; i += most) {
        const size_t length = n - i < most ? n - i : most;
        const size_t at = add_sequence(&to->windows, length);
        if (at == SIZE_MAX) return EXIT_FAILED;
        memcpy(to->windows.ids + at, ids + i, length * sizeof *ids);
        text->windows++;
    }
    text->tokens = n;
    return EXIT_DONE;
}

/* The ids of a text with its end token, to be freed; NULL said. number counts the texts from 1. */
static int32_t *encode(const text_source *source, const char *text, size_t bytes, size_t number, size_t *n) {
    const int32_t end = end_id(source->model);
    const size_t most = dlm_model_config(source->model)->max_seq_len;
    dlm_error err = {0};
    int32_t *ids, *all = NULL;
    if (dlm_tokenizer_encode(dlm_model_tokenizer(source->model), text, bytes, false, &ids, n, &err) !=
        DLM_OK) {
        (void)fail("text %zu: %s", number, err.message);
        return NULL;
    }
    const size_t length = *n + (end >= 0);
    if (*n == 0) {
        (void)fail("text %zu is empty", number);
    } else if (length > source->longest && source->longest < most) {
        (void)fail("text %zu has %zu tokens%s, and --exact takes at most %zu", number, length,
                   end >= 0 ? " with its end" : "", source->longest);
    } else if ((all = malloc(length * sizeof *all)) == NULL) {
        (void)fail("out of memory");
    } else {
        memcpy(all, ids, *n * sizeof *all);
        if (end >= 0) all[*n] = end;
        *n = length;
    }
    dlm_free(ids);
    return all;
}

static int add_text(const text_source *source, text_batch *to, const char *text, size_t bytes) {
    size_t n;
    if (add_text_room(to) != EXIT_DONE) return EXIT_FAILED;
    int32_t *ids = encode(source, text, bytes, source->texts + to->n + 1, &n);
    if (ids == NULL) return EXIT_FAILED;
    scored_text *added = &to->texts[to->n];
    int status = add_windows(source, to, ids, n);
    free(ids);
    if (status != EXIT_DONE) return status;
    added->bytes = bytes;
    added->text = malloc(bytes);
    if (added->text == NULL) return fail("out of memory");
    memcpy(added->text, text, bytes);
    to->n++;
    return EXIT_DONE;
}

int read_texts(text_source *source, text_batch *to) {
    int status = EXIT_DONE;
    while (status == EXIT_DONE && to->windows.tokens < POSITIONS_AT_ONCE) {
        if (source->most > 0 && source->texts + to->n >= source->most) break;
        dlm_error err = {0};
        const char *text;
        size_t bytes;
        if (dlm_documents_next(source->documents, &text, &bytes, &err) != DLM_OK) return fail_with(&err);
        if (text == NULL) break;
        status = add_text(source, to, text, bytes);
    }
    return status;
}

void clear_texts(text_source *source, text_batch *texts) {
    for (size_t i = 0; i < texts->n; i++) free(texts->texts[i].text);
    source->texts += texts->n;
    source->windows += texts->windows.n;
    texts->n = 0;
    clear_batch(&texts->windows);
}

void free_texts(text_batch *texts) {
    for (size_t i = 0; i < texts->n; i++) free(texts->texts[i].text);
    free(texts->texts);
    free_batch(&texts->windows);
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

/* What a batch shows of its progress. */
typedef struct stage {
    size_t first, last; /* texts, counted from 1 */
    const char *name, *plan;
} stage;

static bool show_stage(void *user, const char *what, uint64_t done, uint64_t total, double seconds) {
    (void)what;
    const stage *at = user;
    char text[120];
    (void)snprintf(text, sizeof text, "texts %zu to %zu, %s, %s, steps", at->first, at->last, at->name,
                   at->plan);
    return draw_progress(NULL, text, done, total, seconds);
}

/* Scratch of the windows of a batch. */
typedef struct window_scores {
    double *nats, *errors;
    size_t *forwards;
} window_scores;

static int score_nelbo(const text_source *source, dlm_nelbo_options options, text_batch *texts,
                       const window_scores *scores) {
    const batch *windows = &texts->windows;
    dlm_error err = {0};
    draw_status("texts %zu to %zu, NELBO", source->texts + 1, source->texts + texts->n);
    options.seed += source->windows;
    if (dlm_nelbo(source->model, &options, windows->n, windows->lengths, windows->ids, scores->nats,
                  scores->errors, &err) != DLM_OK)
        return fail_with(&err);
    for (size_t t = 0, w = 0; t < texts->n; t++) {
        double variance = 0;
        scored_text *text = &texts->texts[t];
        for (size_t i = 0; i < text->windows; i++, w++) {
            text->nelbo += scores->nats[w];
            variance += scores->errors[w] * scores->errors[w];
        }
        text->standard_error = sqrt(variance);
    }
    return EXIT_DONE;
}

static int score_under(const text_source *source, const samplers *under, size_t which, text_batch *texts,
                       const window_scores *scores) {
    const batch *windows = &texts->windows;
    const scored_sampler *sampler = &under->list[which];
    stage at = {source->texts + 1, source->texts + texts->n, sampler->name, sampler->plan};
    const dlm_score_options options = {.sampler = sampler->options, .progress = show_stage, .user = &at};
    dlm_error err = {0};
    if (dlm_score(source->model, &options, windows->n, windows->lengths, windows->ids, NULL, scores->nats,
                  scores->forwards, &err) != DLM_OK)
        return fail_with(&err);
    for (size_t t = 0, w = 0; t < texts->n; t++) {
        scored_text *text = &texts->texts[t];
        for (size_t i = 0; i < text->windows; i++, w++) {
            text->log_likelihood[which] += scores->nats[w];
            text->forwards[which] += scores->forwards[w];
        }
    }
    return EXIT_DONE;
}

static int score_all(const text_source *source, const dlm_nelbo_options *nelbo, const samplers *under,
                     text_batch *texts, const window_scores *scores) {
    int status = score_nelbo(source, *nelbo, texts, scores);
    for (size_t i = 0; i < under->n && status == EXIT_DONE; i++)
        status = score_under(source, under, i, texts, scores);
    clear_status();
    if (status == EXIT_DONE && stop_signal() != 0) {
        (void)fail("stopped");
        status = stop_status();
    }
    return status;
}

int score_texts(const text_source *source, const dlm_nelbo_options *nelbo, const samplers *under,
                text_batch *texts) {
    const size_t n = texts->windows.n;
    const window_scores scores = {calloc(n, sizeof(double)), calloc(n, sizeof(double)),
                                  calloc(n, sizeof(size_t))};
    int status;
    if (scores.nats == NULL || scores.errors == NULL || scores.forwards == NULL)
        status = fail("out of memory");
    else
        status = score_all(source, nelbo, under, texts, &scores);
    free(scores.nats);
    free(scores.errors);
    free(scores.forwards);
    return status;
}
