/* What is measured of the samples and of held-out documents, and how it is shown.
 *
 * The held-out side is as many documents as there are samples, each cut to the length of one, so that every
 * figure but those of the lengths themselves is one of as many texts of the same lengths (dlm_data_match). */
#include "eval_samples.h"

#include "json.h"
#include "terminal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One column: the samples, or the documents beside them. */
typedef struct side {
    const char *name;
    dlm_texts texts;
    const uint32_t *spans;     /* NULL: not looked for */
    const uint64_t *documents; /* which each text is; NULL: the samples, in their order */
    const size_t *lengths;     /* of the texts, or of all documents */
    size_t length_count;
    double ended; /* the share that ends; not a number where that is not known */
    dlm_text_statistics figures;
    dlm_length_statistics spread;
    dlm_copying copying;
} side;

typedef struct comparison {
    const dlm_tokenizer *tokenizer;
    side sides[2];
    size_t window;
    dlm_data_info training; /* of no documents where none was given */
    double seconds;         /* that looking them up took */
} comparison;

/* ---- options ------------------------------------------------------------------------------------------ */

int check_samples_options(const command *what, const void *settings, const samples_choice *samples) {
    static const char *const fitting[] = {"samples", "format", "train-data", "model", "data", "json", NULL};
    if (samples->path == NULL) {
        const char *alone = samples->train != NULL                ? "train-data"
                            : was_given(what, settings, "format") ? "format"
                                                                  : NULL;
        if (alone == NULL) return EXIT_DONE;
        (void)fail("--%s needs --samples", alone);
        return EXIT_USAGE;
    }
    for (const option *own = what->options; own->name != NULL; own++) {
        size_t i = 0;
        while (fitting[i] != NULL && strcmp(fitting[i], own->name) != 0) i++;
        if (fitting[i] != NULL || !was_given(what, settings, own->name)) continue;
        (void)fail("--%s says how a model is measured, and with --samples none is", own->name);
        return EXIT_USAGE;
    }
    return EXIT_DONE;
}

/* ---- table -------------------------------------------------------------------------------------------- */

enum { LABEL = 18, COLUMN = 11, BARS_MAX = 32 };

static void print_row(const char *label, const char *const cells[2], const char *meaning) {
    printf("%-*s%*s%*s  %s\n", LABEL, label, COLUMN, cells[0], COLUMN, cells[1], meaning);
}

static void print_counts(const char *label, uint64_t first, uint64_t second, const char *meaning) {
    char cells[2][32];
    write_count(first, cells[0], sizeof cells[0]);
    write_count(second, cells[1], sizeof cells[1]);
    print_row(label, (const char *const[]){cells[0], cells[1]}, meaning);
}

/* percent: shares, as such. What is not a number is not known. */
static void print_numbers(const char *label, double first, double second, bool percent, const char *meaning) {
    const double values[2] = {first, second};
    char cells[2][32];
    for (size_t i = 0; i < 2; i++) {
        if (isnan(values[i]))
            (void)snprintf(cells[i], sizeof cells[i], "-");
        else if (percent)
            (void)snprintf(cells[i], sizeof cells[i], "%.1f %%", 100 * values[i]);
        else
            (void)snprintf(cells[i], sizeof cells[i], "%.4g", values[i]);
    }
    print_row(label, (const char *const[]){cells[0], cells[1]}, meaning);
}

static void print_variety(const side *a, const side *b) {
    static const char *const distinct[] = {"different tokens / tokens, of all texts", "the same of pairs",
                                           "of triples"};
    static const char *const repeated[] = {"pairs that stood earlier in their text", "triples", "fours"};
    char label[32];
    print_counts("texts", a->figures.texts, b->figures.texts, "each document cut to a sample's length");
    print_counts("tokens", a->figures.tokens, b->figures.tokens, "");
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(label, sizeof label, "distinct-%zu", i + 1);
        print_numbers(label, a->figures.distinct[i], b->figures.distinct[i], false, distinct[i]);
    }
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(label, sizeof label, "repeated %zu-grams", i + 2);
        print_numbers(label, a->figures.repeated[i], b->figures.repeated[i], true, repeated[i]);
    }
    print_numbers("entropy", a->figures.entropy, b->figures.entropy, false,
                  "nats, of how often each token occurs");
}

static void print_spread(const comparison *c) {
    static const char *const labels[DLM_QUANTILES] = {"  shortest", "  5 %",  "  25 %",   "  median",
                                                      "  75 %",     "  95 %", "  longest"};
    const side *a = &c->sides[0], *b = &c->sides[1];
    char meaning[100];
    (void)snprintf(meaning, sizeof meaning, "%s %zu tokens",
                   isnan(a->ended) ? "only generate --json tells; documents: in" : "within", c->window);
    print_numbers("end", a->ended, b->ended, true, meaning);
    print_numbers("length", a->spread.mean, b->spread.mean, false,
                  "mean tokens; documents uncut, all of them");
    print_numbers("  deviation", a->spread.standard_deviation, b->spread.standard_deviation, false, "");
    for (size_t q = 0; q < DLM_QUANTILES; q++)
        print_counts(labels[q], a->spread.quantiles[q], b->spread.quantiles[q], "");
}

static void print_copying(const side *a, const side *b) {
    print_counts("copied span", a->copying.longest.quantiles[3], b->copying.longest.quantiles[3],
                 "tokens in a row, found in training:");
    print_numbers("  mean", a->copying.longest.mean, b->copying.longest.mean, false,
                  "the longest of a text, its median, mean");
    print_counts("  largest", a->copying.n, b->copying.n, "and largest over the texts");
    print_numbers("8-grams seen", a->copying.seen, b->copying.seen, true, "of them in training");
}

/* ---- histogram of lengths ----------------------------------------------------------------------------- */

typedef struct histogram {
    size_t width, n; /* bar i counts lengths from i * width on */
    size_t counts[2][BARS_MAX];
} histogram;

/* Both sides with the same bars, whose width is 1, 2 or 5 times a power of ten. */
static void count_lengths(const comparison *c, histogram *h) {
    const side *a = &c->sides[0], *b = &c->sides[1];
    const uint64_t longest_a = a->spread.quantiles[DLM_QUANTILES - 1],
                   longest_b = b->spread.quantiles[DLM_QUANTILES - 1];
    const size_t longest = (size_t)(longest_a > longest_b ? longest_a : longest_b);
    size_t power = 1, width = 1;
    for (size_t step = 0; longest / width >= BARS_MAX; step++) {
        if (step % 3 == 2) power *= 10;
        width = power * (step % 3 == 0 ? 2 : step % 3 == 1 ? 5 : 1);
    }
    *h = (histogram){.width = width, .n = longest / width + 1};
    for (size_t s = 0; s < 2; s++)
        for (size_t i = 0; i < c->sides[s].length_count; i++) h->counts[s][c->sides[s].lengths[i] / width]++;
}

static void print_histogram(const comparison *c) {
    static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    enum { TALLEST = 8 };
    histogram h;
    count_lengths(c, &h);
    printf("\nlengths from 0 to %zu, in steps of %zu\n", h.n * h.width - 1, h.width);
    for (size_t s = 0; s < 2; s++) {
        size_t most = 1;
        for (size_t i = 0; i < h.n; i++)
            if (h.counts[s][i] > most) most = h.counts[s][i];
        printf("%-10s|", c->sides[s].name);
        for (size_t i = 0; i < h.n; i++) /* a bar for whatever is not nothing */
            (void)fputs(blocks[(h.counts[s][i] * TALLEST + most - 1) / most], stdout);
        printf("|\n");
    }
}

/* ---- the longest copied span -------------------------------------------------------------------------- */

/* Its text, freed with dlm_free; the text's number in *index. */
static int span_text(const comparison *c, const side *s, char **text, size_t *bytes, uint64_t *index) {
    dlm_error err = {0};
    size_t start = 0;
    for (size_t i = 0; i < s->copying.text; i++) start += s->texts.lengths[i];
    *index = s->documents != NULL && s->copying.n > 0 ? s->documents[s->copying.text] : s->copying.text;
    const int32_t *ids = s->copying.n > 0 ? s->texts.ids + start + s->copying.first : NULL;
    if (dlm_tokenizer_decode(c->tokenizer, ids, s->copying.n, false, text, bytes, &err) != DLM_OK)
        return fail_with(&err);
    return EXIT_DONE;
}

static int print_spans(const comparison *c) {
    for (size_t i = 0; i < 2; i++) {
        const side *s = &c->sides[i];
        char *text;
        size_t bytes;
        uint64_t index;
        if (s->copying.n == 0) continue;
        const int status = span_text(c, s, &text, &bytes, &index);
        if (status != EXIT_DONE) return status;
        printf("\n%s, the longest copied span: %zu tokens of %s %llu, counted from 0\n", s->name,
               s->copying.n, s->documents != NULL ? "document" : "text", (unsigned long long)index);
        const size_t space = bytes > 0 && text[0] == ' ';
        (void)write_text(stdout, isatty(STDOUT_FILENO), text + space, bytes - space);
        (void)putchar('\n');
        dlm_free(text);
    }
    return EXIT_DONE;
}

static int print_table(const comparison *c) {
    const side *a = &c->sides[0], *b = &c->sides[1];
    print_row("", (const char *const[]){a->name, b->name}, "");
    print_variety(a, b);
    print_spread(c);
    if (a->spans != NULL) print_copying(a, b);
    print_histogram(c);
    int status = EXIT_DONE;
    if (a->spans != NULL) {
        status = print_spans(c);
        char documents[32], tokens[32];
        write_count(c->training.documents, documents, sizeof documents);
        write_count(c->training.tokens, tokens, sizeof tokens);
        printf("\nlooked up in %s documents, %s tokens, in %.1f s\n", documents, tokens, c->seconds);
    }
    return status == EXIT_DONE ? flush_output() : status;
}

/* ---- JSON --------------------------------------------------------------------------------------------- */

static json_t *describe_spread(const dlm_length_statistics *spread) {
    static const char *const names[DLM_QUANTILES] = {"min", "p5", "p25", "median", "p75", "p95", "max"};
    json_t *all = json_pack("{s:o, s:o}", "mean", json_number(spread->mean), "standard_deviation",
                            json_number(spread->standard_deviation));
    for (size_t q = 0; q < DLM_QUANTILES && all != NULL; q++)
        (void)json_object_set_new(all, names[q], json_integer((json_int_t)spread->quantiles[q]));
    return all;
}

static json_t *describe_lengths(const side *s, const histogram *h, size_t which) {
    json_t *all = describe_spread(&s->spread), *counts = json_array();
    for (size_t i = 0; i < h->n; i++)
        (void)json_array_append_new(counts, json_integer((json_int_t)h->counts[which][i]));
    json_t *bars = json_pack("{s:I, s:o}", "width", (json_int_t)h->width, "counts", counts);
    if (all != NULL) (void)json_object_set_new(all, "texts", json_integer((json_int_t)s->length_count));
    if (all != NULL) (void)json_object_set_new(all, "histogram", bars);
    return all;
}

static json_t *describe_copying(const comparison *c, const side *s) {
    if (s->spans == NULL) return json_null();
    char *text = NULL;
    size_t bytes = 0;
    uint64_t index;
    if (span_text(c, s, &text, &bytes, &index) != EXIT_DONE) return NULL;
    json_t *all =
        json_pack("{s:o, s:{s:I, s:I, s:I, s:o}, s:o}", "longest_span", describe_spread(&s->copying.longest),
                  "span", s->documents != NULL ? "document" : "index", (json_int_t)index, "first",
                  (json_int_t)s->copying.first, "tokens", (json_int_t)s->copying.n, "text",
                  json_text(text, bytes), "seen_8grams", json_number(s->copying.seen));
    dlm_free(text);
    return all;
}

static json_t *describe_side(const comparison *c, size_t which, const histogram *h) {
    const side *s = &c->sides[which];
    const dlm_text_statistics *f = &s->figures;
    return json_pack(
        "{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "texts", (json_int_t)f->texts,
        "tokens", (json_int_t)f->tokens, "distinct_1", json_number(f->distinct[0]), "distinct_2",
        json_number(f->distinct[1]), "distinct_3", json_number(f->distinct[2]), "repeated_2grams",
        json_number(f->repeated[0]), "repeated_3grams", json_number(f->repeated[1]), "repeated_4grams",
        json_number(f->repeated[2]), "unigram_entropy_nats", json_number(f->entropy), "ended",
        json_number(s->ended), "lengths", describe_lengths(s, h, which), "copied", describe_copying(c, s));
}

static int print_comparison_json(const comparison *c) {
    histogram h;
    count_lengths(c, &h);
    json_t *training = c->sides[0].spans == NULL
                           ? json_null()
                           : json_pack("{s:I, s:I, s:f}", "documents", (json_int_t)c->training.documents,
                                       "tokens", (json_int_t)c->training.tokens, "seconds", c->seconds);
    return print_json(json_pack("{s:o, s:o, s:I, s:o}", "samples", describe_side(c, 0, &h), "held_out",
                                describe_side(c, 1, &h), "window", (json_int_t)c->window, "training",
                                training));
}

/* ---- measuring ---------------------------------------------------------------------------------------- */

static int measure_side(side *s) {
    dlm_error err = {0};
    if (dlm_texts_measure(&s->texts, &s->figures, &err) != DLM_OK ||
        dlm_lengths_measure(s->lengths, s->length_count, &s->spread, &err) != DLM_OK ||
        (s->spans != NULL && dlm_copying_measure(&s->texts, s->spans, &s->copying, &err) != DLM_OK))
        return fail_with(&err);
    return EXIT_DONE;
}

static size_t tokens_of(const dlm_texts *texts) {
    size_t tokens = 0;
    for (size_t i = 0; i < texts->n; i++) tokens += texts->lengths[i];
    return tokens;
}

/* Texts of both sides, one behind the other, so that the corpus is read once. *spans is freed by the caller.
 */
static int look_up(comparison *c, const dlm_data *train, uint32_t **spans) {
    const dlm_texts *a = &c->sides[0].texts, *b = &c->sides[1].texts;
    const size_t first = tokens_of(a), second = tokens_of(b);
    size_t *lengths = calloc(a->n + b->n + 1, sizeof *lengths);
    int32_t *ids = calloc(first + second + 1, sizeof *ids);
    *spans = calloc(first + second + 1, sizeof **spans);
    int status = EXIT_DONE;
    if (lengths == NULL || ids == NULL || *spans == NULL) {
        status = fail("out of memory");
    } else {
        dlm_error err = {0};
        if (a->n > 0) memcpy(lengths, a->lengths, a->n * sizeof *lengths);
        if (b->n > 0) memcpy(lengths + a->n, b->lengths, b->n * sizeof *lengths);
        if (first > 0) memcpy(ids, a->ids, first * sizeof *ids);
        if (second > 0) memcpy(ids + first, b->ids, second * sizeof *ids);
        const dlm_texts both = {.n = a->n + b->n, .lengths = lengths, .ids = ids};
        const double start = seconds_now();
        if (dlm_texts_find(&both, train, draw_progress, NULL, *spans, &err) != DLM_OK)
            status = fail_with(&err);
        clear_status();
        c->seconds = seconds_now() - start;
        c->training = dlm_data_describe(train);
        c->sides[0].spans = *spans;
        c->sides[1].spans = *spans + first;
    }
    free(lengths);
    free(ids);
    return status;
}

/* Opens the training data, if there are any, and looks both sides up in them. */
static int find_copies(comparison *c, const samples_choice *samples, const char *held_out, uint32_t **spans) {
    if (samples->train == NULL) return EXIT_DONE;
    dlm_error err = {0};
    dlm_data *train;
    if (dlm_data_open(samples->train, &train, &err) != DLM_OK) return fail_with(&err);
    const bool same =
        dlm_tokenizer_describe(dlm_data_tokenizer(train)).hash == dlm_tokenizer_describe(c->tokenizer).hash;
    const int status =
        same ? look_up(c, train, spans)
             : fail("%s and %s were prepared with different tokenizers", samples->train, held_out);
    dlm_data_close(train);
    return status;
}

/* Fills in both sides from the texts read. lengths: of all documents. */
static int compare(comparison *c, const common *shared, const samples_choice *samples, const char *held_out,
                   const sample_texts *texts, const dlm_matched *matched, const size_t *lengths,
                   size_t documents) {
    c->window = texts->window;
    size_t ending = 0;
    for (size_t i = 0; i < documents; i++) ending += lengths[i] < c->window; /* with its end token */
    c->sides[0] = (side){.name = "samples",
                         .texts = {texts->n, texts->lengths, texts->ids},
                         .lengths = texts->lengths,
                         .length_count = texts->n,
                         .ended = texts->ends_known ? (double)texts->ended / (double)texts->n : NAN};
    c->sides[1] = (side){.name = "held-out",
                         .texts = {matched->n, matched->lengths, matched->ids},
                         .documents = matched->documents,
                         .lengths = lengths,
                         .length_count = documents,
                         .ended = (double)ending / (double)documents};
    if (matched->n < texts->n)
        say("%s has %zu documents to hold beside %zu samples: figures of different numbers of texts",
            held_out, matched->n, texts->n);
    uint32_t *spans = NULL;
    int status = find_copies(c, samples, held_out, &spans);
    for (size_t i = 0; i < 2 && status == EXIT_DONE; i++) status = measure_side(&c->sides[i]);
    if (status == EXIT_DONE) status = shared->json ? print_comparison_json(c) : print_table(c);
    free(spans);
    return status;
}

static int beside_documents(const common *shared, const samples_choice *samples, const char *held_out,
                            const dlm_data *data, const sample_texts *texts) {
    dlm_error err = {0};
    dlm_matched matched;
    comparison c = {.tokenizer = dlm_data_tokenizer(data)};
    const size_t documents = (size_t)dlm_data_describe(data).documents;
    if (documents == 0) return fail("%s holds no document", held_out);
    size_t *lengths = calloc(documents, sizeof *lengths);
    if (lengths == NULL) return fail("out of memory");
    for (size_t i = 0; i < documents; i++) lengths[i] = dlm_data_length(data, i);
    int status;
    if (dlm_data_match(data, texts->lengths, texts->n, shared->seed, &matched, &err) != DLM_OK) {
        status = fail_with(&err);
    } else {
        status = compare(&c, shared, samples, held_out, texts, &matched, lengths, documents);
        dlm_matched_free(&matched);
    }
    free(lengths);
    return status;
}

/* The token that ends a text: the model, where it is known, may have been trained without. */
static int find_end(const char *path, const char *held_out, const dlm_tokenizer *tokenizer, int32_t *end_id) {
    const dlm_tokenizer_info info = dlm_tokenizer_describe(tokenizer);
    *end_id = info.end_id;
    if (path == NULL) return EXIT_DONE;
    dlm_error err = {0};
    dlm_model *model;
    const dlm_model_options options = dlm_model_defaults();
    if (dlm_model_inspect(path, &options, &model, &err) != DLM_OK) return fail_with(&err);
    const dlm_tokenizer *own = dlm_model_tokenizer(model);
    if (!dlm_model_config(model)->end_token) *end_id = -1;
    const bool same = own == NULL || dlm_tokenizer_describe(own).hash == info.hash;
    dlm_model_free(model);
    return same ? EXIT_DONE : fail("%s was prepared with another tokenizer than that of %s", held_out, path);
}

int eval_samples(const common *shared, const samples_choice *samples, const char *model,
                 const char *held_out) {
    dlm_error err = {0};
    dlm_data *data;
    if (dlm_data_open(held_out, &data, &err) != DLM_OK) return fail_with(&err);
    sample_texts texts = {0};
    const dlm_tokenizer *tokenizer = dlm_data_tokenizer(data);
    int32_t end_id;
    int status = find_end(model, held_out, tokenizer, &end_id);
    if (status == EXIT_DONE) status = read_samples(samples->path, samples->format, tokenizer, end_id, &texts);
    if (status == EXIT_DONE) status = beside_documents(shared, samples, held_out, data, &texts);
    free_samples(&texts);
    dlm_data_close(data);
    return status;
}
