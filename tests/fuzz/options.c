/* Any bytes as a command line: words end at line ends, the first ones name the command. Refused with a
 * sentence, or every number lies in its range and every operand is one of the words. */
#include "cli/options.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { WORDS = 100 };

static void check_values(const command *what, const void *settings) {
    for (const option *row = what->options; row->name != NULL; row++) {
        double value;
        if (row->kind != OPTION_REAL) continue;
        memcpy(&value, (const char *)settings + row->offset, sizeof value);
        bool in_range = value >= row->min && value <= row->max;
        bool is_word = row->word != NULL && !(value < row->word_value) && !(value > row->word_value);
        if (!in_range && !is_word && value != 0) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    char *text = malloc(n + 1), *words[WORDS];
    if (text == NULL) return 0;
    if (n > 0) memcpy(text, bytes, n);
    text[n] = 0;
    size_t count = 0, used = 0;
    for (char *at = text; count < WORDS && at != NULL;) {
        char *end = strchr(at, '\n');
        if (end != NULL) *end = 0;
        words[count++] = at;
        at = end == NULL ? NULL : end + 1;
    }
    parse_error error = {""};
    const command *what = find_command(count, words, &used, &error);
    void *settings = what == NULL ? NULL : calloc(1, what->settings_size);
    if (settings == NULL) {
        if (what == NULL && error.message[0] == 0) abort();
    } else {
        if (parse_arguments(what, count - used, words + used, settings, &error))
            check_values(what, settings);
        else if (error.message[0] == 0)
            abort();
        parse_free(settings);
        free(settings);
    }
    free(text);
    return 0;
}
