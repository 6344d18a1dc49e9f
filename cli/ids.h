/* Token ids as people and programs write them. */
#ifndef DLM_CLI_IDS_H
#define DLM_CLI_IDS_H

#include "options.h"

#include <jansson.h>
#include <stdint.h>

/* The numbers of a text, separated by white space, and the "ids" of a JSON object: *n of them, to be freed.
 * NULL: error says which is none. */
int32_t *ids_of_text(const char *text, size_t bytes, size_t *n, parse_error *error);
int32_t *ids_of_json(const json_t *value, size_t *n, parse_error *error);

#endif
