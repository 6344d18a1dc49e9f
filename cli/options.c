/* The parser of command lines: strict numbers, one sentence for each mistake, a suggestion for a mistyped
 * name. */
#include "options.h"

#include "diffusionlm.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 64 };

_Static_assert(sizeof(option_kind) == sizeof(int), "an enum field is written as an int");

__attribute__((format(printf, 2, 3))) static bool refuse(parse_error *error, const char *format, ...) {
    va_list values;
    va_start(values, format);
    (void)vsnprintf(error->message, sizeof error->message, format, values);
    va_end(values);
    return false;
}

/* ---- nearest name ------------------------------------------------------------------------------------- */

/* Edits (insert, delete, replace, swap neighbours) from a to b: the optimal string alignment distance. */
static size_t edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    if (n > NAME_MAX_BYTES || m > NAME_MAX_BYTES) return SIZE_MAX;
    size_t row[3][NAME_MAX_BYTES + 1]; /* of a's prefixes of i - 2, i - 1 and i bytes, in turn */
    for (size_t j = 0; j <= m; j++) row[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = row[i % 3], *before = row[(i + 2) % 3];
        const size_t *before_that = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = before[j - 1] + (a[i - 1] != b[j - 1]);
            if (before[j] + 1 < best) best = before[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before_that[j - 2] + 1 < best)
                best = before_that[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

const char *nearest_name(const char *word, name_at next, const void *state) {
    const char *best = NULL, *name;
    size_t length = strlen(word), best_distance = length < 6 ? 3 : length / 2; /* one more than allowed */
    for (size_t i = 0; (name = next(state, i)) != NULL; i++) {
        size_t distance = edit_distance(word, name);
        if (distance >= best_distance) continue;
        best = name;
        best_distance = distance;
    }
    return best;
}

/* ---- finding ------------------------------------------------------------------------------------------ */

/* Option i of a command: its own first, then the common ones. */
static const option *option_at(const command *what, size_t i) {
    const option *own = what->options;
    for (; own->name != NULL; own++)
        if (i-- == 0) return own;
    for (const option *shared = common_options; shared->name != NULL; shared++)
        if (i-- == 0) return shared;
    return NULL;
}

static const char *option_name_at(const void *state, size_t i) {
    const option *found = option_at(state, i);
    return found == NULL ? NULL : found->name;
}

/* By its letter, or when that is 0 by the first n bytes of name. */
static const option *find_option(const command *what, char letter, const char *name, size_t n) {
    const option *found;
    for (size_t i = 0; (found = option_at(what, i)) != NULL; i++) {
        if (letter != 0 ? found->letter == letter
                        : strlen(found->name) == n && memcmp(found->name, name, n) == 0)
            break;
    }
    return found;
}

/* The first word of command i, or its whole name. */
static const char *command_name_at(const void *state, size_t i) {
    (void)state;
    return commands[i] == NULL ? NULL : commands[i]->name;
}

const command *find_command(size_t n, char *const *arguments, size_t *used, parse_error *error) {
    if (n == 0) {
        (void)refuse(error, "a command is missing");
        return NULL;
    }
    char typed[2 * NAME_MAX_BYTES] = "";
    bool group = false;
    for (size_t i = 0; commands[i] != NULL; i++) {
        const char *name = commands[i]->name, *space = strchr(name, ' ');
        size_t first = space == NULL ? strlen(name) : (size_t)(space - name);
        if (strlen(arguments[0]) != first || memcmp(arguments[0], name, first) != 0) continue;
        *used = space == NULL ? 1 : 2;
        if (space == NULL || (n > 1 && strcmp(arguments[1], space + 1) == 0)) return commands[i];
        group = true;
    }
    if (group && (n == 1 || arguments[1][0] == '-')) {
        (void)refuse(error, "%s: one of its commands is missing", arguments[0]);
        return NULL;
    }
    (void)snprintf(typed, sizeof typed, group ? "%.60s %.60s" : "%.60s", arguments[0],
                   group ? arguments[1] : "");
    const char *near = nearest_name(typed, command_name_at, NULL);
    if (near != NULL)
        (void)refuse(error, "there is no command %s; did you mean %s?", typed, near);
    else
        (void)refuse(error, "there is no command %s", typed);
    return NULL;
}

/* ---- values ------------------------------------------------------------------------------------------- */

/* How the user wrote the option: "--steps" or "-n". */
static const char *written(const option *what, bool as_letter, char *buffer, size_t size) {
    (void)(as_letter ? snprintf(buffer, size, "-%c", what->letter)
                     : snprintf(buffer, size, "--%s", what->name));
    return buffer;
}

/* A number as people write it: 1000000, 0.9, 1e-09. */
static void write_number(double value, char *buffer, size_t size) {
    if (fabs(value) < 1e16 && value == floor(value))
        (void)snprintf(buffer, size, "%.0f", value);
    else
        (void)snprintf(buffer, size, "%g", value);
}

static bool refuse_number(const option *what, const char *shown, const char *value, parse_error *error) {
    char least[32], most[32];
    write_number(what->min, least, sizeof least);
    write_number(what->max, most, sizeof most);
    return refuse(error, "%s: %.100s is not a %snumber from %s to %s%s%s", shown,
                  value[0] == 0 ? "nothing" : value, what->kind == OPTION_REAL ? "" : "whole ", least, most,
                  what->word == NULL ? "" : ", nor ", what->word == NULL ? "" : what->word);
}

/* Digits alone, no more than 2^64 - 1. */
static bool read_whole(const char *text, uint64_t *value) {
    size_t n = strspn(text, "0123456789");
    if (n == 0 || text[n] != 0) return false;
    errno = 0;
    *value = strtoull(text, NULL, 10);
    return errno == 0;
}

/* Decimal, with an optional sign, point and exponent; finite. */
static bool read_real(const char *text, double *value) {
    if (text[0] == 0 || text[strspn(text, "+-.0123456789eE")] != 0) return false;
    char *end;
    *value = strtod(text, &end);
    return *end == 0 && end != text && isfinite(*value);
}

static bool store_number(const option *what, const char *shown, const char *value, void *field,
                         parse_error *error) {
    if (what->kind == OPTION_REAL) {
        double number;
        if (what->word != NULL && strcmp(value, what->word) == 0)
            number = what->word_value;
        else if (!read_real(value, &number) || number < what->min || number > what->max)
            return refuse_number(what, shown, value, error);
        memcpy(field, &number, sizeof number);
        return true;
    }
    uint64_t number;
    if (what->word != NULL && strcmp(value, what->word) == 0)
        number = (uint64_t)what->word_value;
    else if (!read_whole(value, &number) || (double)number < what->min || (double)number > what->max)
        return refuse_number(what, shown, value, error);
    if (what->kind == OPTION_WHOLE) {
        memcpy(field, &number, sizeof number);
        return true;
    }
    size_t size = (size_t)number;
    if (size != number) return refuse_number(what, shown, value, error);
    memcpy(field, &size, sizeof size);
    return true;
}

static const char *choice_name_at(const void *state, size_t i) {
    return ((const char *const *)state)[i];
}

static bool store_choice(const option *what, const char *shown, const char *value, void *field,
                         parse_error *error) {
    char all[200] = "";
    for (int i = 0; what->choices[i] != NULL; i++) {
        if (strcmp(what->choices[i], value) == 0) {
            memcpy(field, &i, sizeof i);
            return true;
        }
        size_t used = strlen(all);
        (void)snprintf(all + used, sizeof all - used, "%s%s",
                       i == 0                         ? ""
                       : what->choices[i + 1] == NULL ? " or "
                                                      : ", ",
                       what->choices[i]);
    }
    const char *near = nearest_name(value, choice_name_at, what->choices);
    return refuse(error, "%s: %.100s is not %s%s%s%s", shown, value[0] == 0 ? "nothing" : value, all,
                  near == NULL ? "" : "; did you mean ", near == NULL ? "" : near, near == NULL ? "" : "?");
}

static bool store_text(const option *what, const char *shown, const char *value, void *settings,
                       parse_error *error) {
    char *field = (char *)settings + what->offset;
    const char *before[2] = {NULL, NULL};
    if (what->again > 0) {
        memcpy(&before[0], field, sizeof *before);
        memcpy(&before[1], (char *)settings + what->again, sizeof *before);
    }
    if (before[1] != NULL) return refuse(error, "%s: %.100s is one too many, two are compared", shown, value);
    if (before[0] != NULL) field = (char *)settings + what->again;
    memcpy(field, &value, sizeof value);
    return true;
}

static bool store_texts(const char *shown, const char *value, void *field, parse_error *error) {
    text_list *list = field;
    if (list->n == TEXT_LIST_MAX)
        return refuse(error, "%s: %.100s is one too many, there can be %d", shown, value, TEXT_LIST_MAX);
    list->items[list->n++] = value;
    return true;
}

static bool store(const option *what, const char *shown, const char *value, void *settings,
                  parse_error *error) {
    char *field = (char *)settings + what->offset;
    switch (what->kind) {
    case OPTION_FLAG: *(bool *)(void *)field = true; return true;
    case OPTION_TEXT: return store_text(what, shown, value, settings, error);
    case OPTION_TEXTS: return store_texts(shown, value, field, error);
    case OPTION_CHOICE: return store_choice(what, shown, value, field, error);
    default: return store_number(what, shown, value, field, error);
    }
}

/* A double may hold 0.9 or 1e-08, but is typed as shown. */
static bool real_value(const option *what, double value, char *buffer, size_t size) {
    if (what->word != NULL && value == what->word_value) {
        (void)snprintf(buffer, size, "%s", what->word);
        return true;
    }
    if (!(value >= what->min && value <= what->max)) return false;
    write_number(value, buffer, size);
    return true;
}

bool option_value(const option *what, const void *settings, char *buffer, size_t size) {
    const char *field = (const char *)settings + what->offset;
    switch (what->kind) {
    case OPTION_FLAG: return false;
    case OPTION_TEXT: {
        const char *text;
        memcpy(&text, field, sizeof text);
        if (text == NULL) return false;
        (void)snprintf(buffer, size, "%s", text);
        return true;
    }
    case OPTION_TEXTS: { /* the last one */
        const text_list *list = (const text_list *)(const void *)field;
        if (list->n == 0) return false;
        (void)snprintf(buffer, size, "%s", list->items[list->n - 1]);
        return true;
    }
    case OPTION_CHOICE: {
        int place;
        memcpy(&place, field, sizeof place);
        for (int i = 0; what->choices[i] != NULL; i++) {
            if (i != place) continue;
            (void)snprintf(buffer, size, "%s", what->choices[i]);
            return true;
        }
        return false;
    }
    case OPTION_SIZE: {
        size_t value;
        memcpy(&value, field, sizeof value);
        return real_value(what, (double)value, buffer, size);
    }
    case OPTION_WHOLE: {
        uint64_t value;
        memcpy(&value, field, sizeof value);
        return real_value(what, (double)value, buffer, size);
    }
    default: {
        double value;
        memcpy(&value, field, sizeof value);
        return real_value(what, value, buffer, size);
    }
    }
}

/* ---- parsing ------------------------------------------------------------------------------------------ */

/* Where the parser stands. */
typedef struct parser {
    const command *what;
    size_t n, at;
    char *const *arguments;
    common *settings;
    parse_error *error;
} parser;

static bool refuse_unknown(parser *p, const char *name, size_t n) {
    char word[NAME_MAX_BYTES + 1];
    (void)snprintf(word, sizeof word, "%.*s", (int)(n < NAME_MAX_BYTES ? n : NAME_MAX_BYTES), name);
    const char *near = nearest_name(word, option_name_at, p->what);
    if (near == NULL) return refuse(p->error, "there is no option --%s", word);
    return refuse(p->error, "there is no option --%s; did you mean --%s?", word, near);
}

static bool take(parser *p, const option *found, const char *name, const char *value) {
    for (size_t i = 0; i < 64 && p->what->options[i].name != NULL; i++)
        if (&p->what->options[i] == found) p->settings->given |= UINT64_C(1) << i;
    return store(found, name, value, p->settings, p->error);
}

bool was_given(const command *what, const void *settings, const char *name) {
    const common *shared = settings;
    for (size_t i = 0; i < 64 && what->options[i].name != NULL; i++)
        if (strcmp(what->options[i].name, name) == 0) return (shared->given >> i & 1) != 0;
    return false;
}

/* --name, --name=value, --name value */
static bool parse_long(parser *p, const char *argument) {
    const char *name = argument + 2, *equals = strchr(name, '=');
    size_t n = equals == NULL ? strlen(name) : (size_t)(equals - name);
    const option *found = find_option(p->what, 0, name, n);
    if (found == NULL) return refuse_unknown(p, name, n);
    if (found->kind == OPTION_FLAG) {
        if (equals != NULL) return refuse(p->error, "--%s takes no value", found->name);
        return take(p, found, NULL, NULL);
    }
    const char *value = equals == NULL ? NULL : equals + 1;
    if (value == NULL) {
        if (p->at == p->n) return refuse(p->error, "--%s needs a value", found->name);
        value = p->arguments[p->at++];
    }
    char shown[NAME_MAX_BYTES + 3];
    return take(p, found, written(found, false, shown, sizeof shown), value);
}

/* -n value, -nvalue */
static bool parse_letter(parser *p, const char *argument) {
    const option *found = find_option(p->what, argument[1], NULL, 0);
    if (found == NULL) return refuse(p->error, "there is no option -%c", argument[1]);
    if (found->kind == OPTION_FLAG) {
        if (argument[2] != 0) return refuse(p->error, "-%c takes no value", argument[1]);
        return take(p, found, NULL, NULL);
    }
    const char *value = argument + 2;
    if (*value == 0) {
        if (p->at == p->n) return refuse(p->error, "-%c needs a value", argument[1]);
        value = p->arguments[p->at++];
    }
    char shown[NAME_MAX_BYTES + 3];
    return take(p, found, written(found, true, shown, sizeof shown), value);
}

static bool parse_all(parser *p) {
    bool options = true;
    p->at = 0;
    p->settings->n_operands = 0;
    while (p->at < p->n && !p->settings->help) {
        const char *argument = p->arguments[p->at++];
        bool dashes = options && argument[0] == '-' && argument[1] != 0;
        if (!dashes)
            p->settings->operands[p->settings->n_operands++] = argument;
        else if (strcmp(argument, "--") == 0)
            options = false;
        else if (!(argument[1] == '-' ? parse_long(p, argument) : parse_letter(p, argument)))
            return false;
    }
    return true;
}

/* Required options have no default, so one that was given shows as a value that is not NULL. */
static bool check_required(const parser *p) {
    for (const option *own = p->what->options; own->name != NULL; own++) {
        const char *value;
        if (!own->required) continue;
        memcpy(&value, (const char *)p->settings + own->offset, sizeof value);
        if (value != NULL && value[0] != 0) continue;
        char letter[8] = "";
        if (own->letter != 0) (void)snprintf(letter, sizeof letter, "-%c, ", own->letter);
        return refuse(p->error, "%s--%s %s is missing: %s", letter, own->name, own->argument, own->help);
    }
    const common *settings = p->settings;
    if (settings->n_operands < p->what->min_operands)
        return refuse(p->error, "%s is missing", p->what->operands);
    if (settings->n_operands > p->what->max_operands)
        return refuse(p->error, "%.200s is one argument too many", settings->operands[p->what->max_operands]);
    return true;
}

bool parse_arguments(const command *what, size_t n, char *const *arguments, void *settings,
                     parse_error *error) {
    common *shared = settings;
    parser p = {.what = what, .n = n, .arguments = arguments, .settings = shared, .error = error};
    what->defaults(settings);
    shared->operands = calloc(n + 1, sizeof *shared->operands);
    if (shared->operands == NULL) return refuse(error, "out of memory");
    shared->arguments = arguments;
    shared->n_arguments = n;
    if (!parse_all(&p)) return false;
    if (shared->help) return true;
    if (what->adjust != NULL) {
        what->adjust(settings);
        if (!parse_all(&p)) return false;
    }
    return check_required(&p);
}

void parse_free(void *settings) {
    common *shared = settings;
    free(shared->operands);
    shared->operands = NULL;
    dlm_free(shared->kept);
    shared->kept = NULL;
}
