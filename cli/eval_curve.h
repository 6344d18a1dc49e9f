/* eval --curve: the cross-entropy where a share of the tokens is masked, as a table, as JSON and as a plot.
 */
#ifndef DLM_CLI_EVAL_CURVE_H
#define DLM_CLI_EVAL_CURVE_H

#include "json.h"

#include "diffusionlm.h"

enum { CURVE_POINTS = 20 }; /* 0.05, 0.10 .. 1.0 */

typedef struct curve {
    const char *name; /* of the model; belongs to it */
    dlm_curve_point points[CURVE_POINTS];
} curve;

/* EXIT_DONE, or said why not. */
int measure_curve(const dlm_model *model, const dlm_data *data, const dlm_eval_options *options,
                  curve *result);

json_t *describe_curve(const curve *what);
/* n: 1 or 2 models. */
void print_curves(const curve *curves, size_t n);
/* Writes the plot, under another name until it is whole. */
int plot_curves(const curve *curves, size_t n, const char *path);

#endif
