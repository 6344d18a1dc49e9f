/* What eval found. */
#include "eval_report.h"

#include "terminal.h"

#include <math.h>
#include <stdio.h>

/* ---- JSON --------------------------------------------------------------------------------------------- */

static json_t *interval(const double bounds[2]) {
    return json_pack("[o, o]", json_number(bounds[0]), json_number(bounds[1]));
}

/* Adds a bound's numbers to an object; its reference stays the caller's. */
static void add_bound(json_t *object, const dlm_bound *bound) {
    (void)json_object_set_new(object, "nelbo_nats_per_token", json_number(bound->nelbo));
    (void)json_object_set_new(object, "standard_error", json_number(bound->standard_error));
    (void)json_object_set_new(object, "standard_error_documents",
                              json_number(bound->standard_error_documents));
    (void)json_object_set_new(object, "interval_95", interval(bound->interval));
    (void)json_object_set_new(object, "interval_95_documents", interval(bound->interval_documents));
    (void)json_object_set_new(object, "bits_per_byte", json_number(bound->bits_per_byte));
}

/* null where the model has no end token. */
static json_t *without_end_token(const dlm_eval_result *result, bool counts) {
    if (!result->end_token) return json_null();
    json_t *object = json_object();
    add_bound(object, &result->text);
    if (counts) (void)json_object_set_new(object, "tokens", json_integer((json_int_t)result->text.tokens));
    return object;
}

json_t *describe_eval(const dlm_eval_result *result) {
    json_t *object = json_object();
    (void)json_object_set_new(object, "eval_ce", json_number(result->eval_ce));
    (void)json_object_set_new(object, "perplexity", json_number(result->perplexity));
    add_bound(object, &result->all);
    (void)json_object_set_new(object, "tokens", json_integer((json_int_t)result->all.tokens));
    (void)json_object_set_new(object, "bytes", json_integer((json_int_t)result->bytes));
    (void)json_object_set_new(object, "without_end_token", without_end_token(result, true));
    (void)json_object_set_new(object, "exact", json_boolean(result->exact));
    (void)json_object_set_new(object, "seconds", json_number(result->seconds));
    return object;
}

json_t *describe_difference(const dlm_eval_result *difference) {
    json_t *object = json_object();
    (void)json_object_set_new(object, "eval_ce", json_number(difference->eval_ce));
    add_bound(object, &difference->all);
    (void)json_object_set_new(object, "without_end_token", without_end_token(difference, false));
    return object;
}

/* ---- table -------------------------------------------------------------------------------------------- */

/* A standard error with its interval; sign: the interval is of a difference. */
static void print_error(const char *label, const char *what, double error, const double bounds[2],
                        bool sign) {
    if (isnan(error)) {
        printf("  %-14s       -  %s: these data do not tell\n", label, what);
        return;
    }
    printf("  %-14s%8.4f  %s; 95 %%: ", label, error, what);
    printf(sign ? "%+.4f to %+.4f\n" : "%.4f to %.4f\n", bounds[0], bounds[1]);
}

static void print_errors(const dlm_eval_result *result, bool sign) {
    const dlm_bound *all = &result->all;
    if (result->exact)
        printf("  masks         %8.4f  its standard error: every mask was tried\n", 0.0);
    else
        print_error("masks", "its standard error, from the masks drawn", all->standard_error, all->interval,
                    sign);
    print_error("documents", "the same, were these documents a sample of many", all->standard_error_documents,
                all->interval_documents, sign);
}

void print_eval(const dlm_eval_result *result) {
    char documents[32], tokens[32], bytes[32];
    write_count(result->documents, documents, sizeof documents);
    write_count(result->all.tokens, tokens, sizeof tokens);
    write_count(result->bytes, bytes, sizeof bytes);
    printf("NELBO           %8.4f  nats per token: at most this much is needed to write the texts down\n",
           result->all.nelbo);
    print_errors(result, false);
    printf("bits per byte   %8.4f  the same bound for each byte of text, whatever the tokenizer\n",
           result->all.bits_per_byte);
    if (result->end_token)
        printf("without end     %8.4f  nats per token, %.4f bits per byte: less what the end tokens take\n",
               result->text.nelbo, result->text.bits_per_byte);
    printf("cross-entropy   %8.4f  mean over hidden tokens, at noise as the original draws it: no bound\n",
           result->eval_ce);
    printf("perplexity      %8.3f  its exponential: among how many tokens it hesitates\n",
           result->perplexity);
    printf("read            %s documents, %s tokens, %s bytes in %.1f s\n", documents, tokens, bytes,
           result->seconds);
}

void print_difference(const dlm_eval_result *difference) {
    printf("the second has  %+8.4f  nats per token, on the same masks\n", difference->all.nelbo);
    print_errors(difference, true);
    printf("                %+8.4f  bits per byte\n", difference->all.bits_per_byte);
    if (difference->end_token)
        printf("without end     %+8.4f  nats per token, %+.4f bits per byte\n", difference->text.nelbo,
               difference->text.bits_per_byte);
}
