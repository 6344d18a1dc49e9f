/* What eval found, as a table and as JSON. */
#ifndef DLM_CLI_EVAL_REPORT_H
#define DLM_CLI_EVAL_REPORT_H

#include "json.h"

#include "diffusionlm.h"

json_t *describe_eval(const dlm_eval_result *result);
void print_eval(const dlm_eval_result *result);

/* Of two models: how much more the second has than the first. */
json_t *describe_difference(const dlm_eval_result *difference);
void print_difference(const dlm_eval_result *difference);

#endif
