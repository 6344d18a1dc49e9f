/* One JSON value a line, in and out. Texts may hold U+0000; numbers keep all their digits. */
#ifndef DLM_CLI_JSON_H
#define DLM_CLI_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A line on standard output; takes the reference. EXIT_DONE, or EXIT_FAILED said. A NULL value: out of
 * memory. */
int print_json(json_t *value);

/* A string of n bytes of UTF-8, and an array of n ids; NULL without memory. */
json_t *json_text(const char *text, size_t n);
json_t *json_ids(const int32_t *ids, size_t n);
/* The name of a file, NULL for none. JSON has no place for one that is not UTF-8: U+FFFD stands for each of
 * its bytes beyond ASCII then. */
json_t *json_name(const char *name);
/* What could not be measured is not a number; JSON has null for it. */
json_t *json_number(double value);
/* A hash, as 16 hexadecimal digits: JSON numbers do not hold 64 bits. */
json_t *json_hash(uint64_t hash);

/* Calls handle(user, value, where) for every value of the files (one a line, blank lines are none; "-" is
 * standard input) until it gives another status than EXIT_DONE, and returns that. `where` names the value in
 * messages. */
typedef int (*json_handler)(void *user, const json_t *value, const char *where);
int read_json_lines(const char *const *paths, size_t n, json_handler handle, void *user);

#endif
