/* Cross-entropy by share of masked tokens. */
#include "eval_curve.h"

#include "paths.h"
#include "plot.h"
#include "terminal.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int measure_curve(const dlm_model *model, const dlm_data *data, const dlm_eval_options *options,
                  curve *result) {
    double ratios[CURVE_POINTS];
    for (size_t i = 0; i < CURVE_POINTS; i++) ratios[i] = (double)(i + 1) / CURVE_POINTS;
    dlm_error err = {0};
    result->name = dlm_model_source(model);
    if (dlm_eval_curve(model, data, options, CURVE_POINTS, ratios, result->points, &err) != DLM_OK)
        return fail_with(&err);
    return EXIT_DONE;
}

json_t *describe_curve(const curve *what) {
    json_t *all = json_array();
    for (size_t i = 0; i < CURVE_POINTS; i++) {
        const dlm_curve_point *p = &what->points[i];
        (void)json_array_append_new(
            all,
            json_pack("{s:f, s:o, s:o, s:o, s:[o, o], s:[o, o]}", "ratio", p->ratio, "cross_entropy",
                      json_number(p->cross_entropy), "standard_error", json_number(p->standard_error),
                      "standard_error_documents", json_number(p->standard_error_documents), "interval_95",
                      json_number(p->interval[0]), json_number(p->interval[1]), "interval_95_documents",
                      json_number(p->interval_documents[0]), json_number(p->interval_documents[1])));
    }
    return all;
}

static void print_error(double error) {
    if (isnan(error))
        printf("       -");
    else
        printf("  %6.4f", error);
}

void print_curves(const curve *curves, size_t n) {
    printf("\nhidden     cross-entropy per hidden token, with its standard errors: masks, documents%s\n",
           n > 1 ? "; first and second model" : "");
    for (size_t i = 0; i < CURVE_POINTS; i++) {
        printf("%4.0f %%    ", 100 * curves[0].points[i].ratio);
        for (size_t m = 0; m < n; m++) {
            const dlm_curve_point *p = &curves[m].points[i];
            printf("  %8.4f", p->cross_entropy);
            print_error(p->standard_error);
            print_error(p->standard_error_documents);
        }
        printf("\n");
    }
}

/* x, y, low and high of all points. */
typedef struct columns {
    double at[4][CURVE_POINTS];
} columns;

static plot_series series_of(const curve *what, columns *c) {
    for (size_t i = 0; i < CURVE_POINTS; i++) {
        const dlm_curve_point *p = &what->points[i];
        c->at[0][i] = p->ratio;
        c->at[1][i] = p->cross_entropy;
        c->at[2][i] = p->interval_documents[0];
        c->at[3][i] = p->interval_documents[1];
    }
    return (plot_series){what->name, CURVE_POINTS, c->at[0], c->at[1], c->at[2], c->at[3]};
}

int plot_curves(const curve *curves, size_t n, const char *path) {
    columns numbers[2];
    plot_series series[2];
    assert(n <= 2);
    for (size_t m = 0; m < n; m++) series[m] = series_of(&curves[m], &numbers[m]);
    const plot what = {.title = "Cross-entropy by share of masked tokens",
                       .subtitle = "bands: 95 % intervals with the documents as a sample",
                       .x_label = "share of the tokens that are masked",
                       .y_label = "nats per masked token",
                       .x_max = 1,
                       .n = n,
                       .series = series};
    size_t size;
    char *text = draw_plot(&what, &size);
    if (text == NULL) return EXIT_FAILED;
    const int status = write_whole_file(path, text, size);
    free(text);
    return status;
}
