#include "score_table.h"

#include "json.h"
#include "terminal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define LN_2 0.69314718055994530942

static void add(ratio_sums *sums, double nats, const scored_text *text, size_t forwards) {
    const double tokens = (double)text->tokens;
    sums->n++;
    sums->forwards += (double)forwards;
    if (!isfinite(nats)) {
        sums->impossible++;
        return;
    }
    sums->nats += nats;
    sums->tokens += tokens;
    sums->nats_squared += nats * nats;
    sums->tokens_squared += tokens * tokens;
    sums->product += nats * tokens;
}

void add_to_table(score_table *table, const samplers *under, const text_batch *texts) {
    for (size_t t = 0; t < texts->n; t++) {
        const scored_text *text = &texts->texts[t];
        const double first = under->n > 0 ? -text->log_likelihood[0] : NAN;
        table->texts++;
        table->tokens += text->tokens;
        table->bytes += text->bytes;
        table->masks_variance += text->standard_error * text->standard_error;
        add(&table->nelbo, text->nelbo, text, text->tokens);
        add(&table->more_nelbo, text->nelbo - first, text, 0);
        for (size_t i = 0; i < under->n; i++) {
            add(&table->samplers[i], -text->log_likelihood[i], text, text->forwards[i]);
            add(&table->more[i], -text->log_likelihood[i] - first, text, 0);
        }
    }
}

/* What a row tells; not a number where it does not follow from the texts. */
typedef struct row {
    double forwards, nats, standard_error, bits_per_byte, perplexity;
    double more, more_error; /* nats than the first sampler */
} row;

/* The standard error of the ratio of sums R = sum x / sum m over n texts is that of sum (x - R m) / sum m
 * (Cochran, Sampling techniques, 1977, section 2.11). */
static double ratio_of(const ratio_sums *sums, double *standard_error) {
    const double n = (double)sums->n, ratio = sums->nats / sums->tokens;
    const double squares =
        sums->nats_squared - 2 * ratio * sums->product + ratio * ratio * sums->tokens_squared;
    *standard_error = n > 1 ? sqrt(fmax(squares, 0) * n / (n - 1)) / sums->tokens : NAN;
    return ratio;
}

static row row_of(const score_table *table, const ratio_sums *sums, const ratio_sums *more) {
    row r = {.forwards = sums->forwards / (double)sums->n,
             .nats = INFINITY,
             .standard_error = NAN,
             .bits_per_byte = INFINITY,
             .more = NAN,
             .more_error = NAN};
    if (sums->impossible == 0) {
        r.nats = ratio_of(sums, &r.standard_error);
        r.bits_per_byte = sums->nats / LN_2 / (double)table->bytes;
    }
    if (more->impossible == 0) r.more = ratio_of(more, &r.more_error);
    r.perplexity = exp(r.nats);
    return r;
}

/* ---- JSON --------------------------------------------------------------------------------------------- */

static json_t *json_setting(double value, bool set) {
    return set ? json_real(value) : json_null();
}

static json_t *json_count(size_t value) {
    return value > 0 ? json_integer((json_int_t)value) : json_null();
}

static json_t *describe_row(const row *r) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "forwards_per_text", json_number(r->forwards),
                     "nats_per_token", json_number(r->nats), "standard_error", json_number(r->standard_error),
                     "bits_per_byte", json_number(r->bits_per_byte), "perplexity", json_number(r->perplexity),
                     "more_nats_per_token", json_number(r->more), "standard_error_of_more",
                     json_number(r->more_error));
}

static json_t *describe_sampler(const score_table *table, const samplers *under, size_t i) {
    const dlm_sample_options *o = &under->list[i].options;
    const row r = row_of(table, &table->samplers[i], &table->more[i]);
    json_t *all =
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:I}", "order", under->list[i].name, "reveals_per_step",
                  json_count(o->reveals_per_step), "steps", json_count(o->steps), "confidence_threshold",
                  json_setting(o->confidence_threshold, o->confidence_threshold >= 0), "entropy_bound",
                  json_setting(o->entropy_bound, o->entropy_bound >= 0), "impossible",
                  (json_int_t)table->samplers[i].impossible);
    json_t *values = describe_row(&r);
    if (all != NULL && values != NULL) (void)json_object_update(all, values);
    json_decref(values);
    return all;
}

static int print_as_json(const score_table *table, const samplers *under) {
    const row nelbo = row_of(table, &table->nelbo, &table->more_nelbo);
    json_t *rows = json_array(), *bound = describe_row(&nelbo);
    for (size_t i = 0; i < under->n; i++)
        (void)json_array_append_new(rows, describe_sampler(table, under, i));
    if (bound != NULL)
        (void)json_object_set_new(bound, "standard_error_masks",
                                  json_number(sqrt(table->masks_variance) / (double)table->tokens));
    return print_json(json_pack("{s:I, s:I, s:I, s:o, s:o}", "texts", (json_int_t)table->texts, "tokens",
                                (json_int_t)table->tokens, "bytes", (json_int_t)table->bytes, "nelbo", bound,
                                "rows", rows));
}

/* ---- for people --------------------------------------------------------------------------------------- */

static void print_row(const char *name, const char *plan, const row *r) {
    char error[24] = "-", more[24] = "-", more_error[24] = "-";
    if (!isnan(r->standard_error)) (void)snprintf(error, sizeof error, "%.4f", r->standard_error);
    if (!isnan(r->more)) (void)snprintf(more, sizeof more, "%+.4f", r->more);
    if (!isnan(r->more_error)) (void)snprintf(more_error, sizeof more_error, "%.4f", r->more_error);
    printf("%-14s %-15s %7.1f %10.4f %7s %9.4f %10.3f %9s %7s\n", name, plan, r->forwards, r->nats, error,
           r->bits_per_byte, r->perplexity, more, more_error);
}

static void print_for_people(const score_table *table, const samplers *under) {
    char tokens[32], bytes[32];
    size_t impossible = 0;
    write_count(table->tokens, tokens, sizeof tokens);
    write_count(table->bytes, bytes, sizeof bytes);
    printf("%zu texts, %s tokens, %s bytes\n\n", table->texts, tokens, bytes);
    printf("%-14s %-15s %7s %10s %7s %9s %10s %9s %7s\n", "order", "reveals", "passes", "nats/token", "+-",
           "bits/byte", "perplexity", "more", "+-");
    const row nelbo = row_of(table, &table->nelbo, &table->more_nelbo);
    print_row("random (NELBO)", "1 a step", &nelbo);
    for (size_t i = 0; i < under->n; i++) {
        const row r = row_of(table, &table->samplers[i], &table->more[i]);
        if (i == 0 || strcmp(under->list[i].name, under->list[i - 1].name) != 0) printf("\n");
        print_row(under->list[i].name, under->list[i].plan, &r);
        impossible += table->samplers[i].impossible > 0;
    }
    printf(
        "\npasses: forward passes for a text, on average; more: nats per token than the first sampler, on\n"
        "the same texts; +-: standard error, were these texts a sample of many. Of that of the NELBO\n"
        "%.4f is from the masks drawn.\n",
        sqrt(table->masks_variance) / (double)table->tokens);
    if (impossible > 0) printf("inf: with these options the sampler cannot write some of the texts.\n");
}

int print_score_table(const score_table *table, const samplers *under, bool json) {
    if (table->texts == 0) return fail("there is no text to score");
    if (json) return print_as_json(table, under);
    print_for_people(table, under);
    return EXIT_DONE;
}
