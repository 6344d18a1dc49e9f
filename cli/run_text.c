#include "run_text.h"

#include "paths.h"
#include "terminal.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of a file that cannot be known again: standard input, a pipe, one that is gone. */
enum { UNKNOWN = -1 };

static json_int_t size_of(const char *path) {
    struct stat facts;
    bool known = strcmp(path, "-") != 0 && stat(path, &facts) == 0 && S_ISREG(facts.st_mode);
    return known ? (json_int_t)facts.st_size : UNKNOWN;
}

static json_t *describe(const run_text *text) {
    json_t *bytes = json_array();
    for (size_t i = 0; i < text->n; i++)
        (void)json_array_append_new(bytes, json_integer(size_of(text->files[i])));
    /* The name of a field may hold anything that a command line can. */
    json_t *field = json_string(text->choice->field);
    return json_pack("{s:o, s:s, s:o, s:s, s:I}", "bytes", bytes, "format",
                     format_choices[text->choice->format], "field", field != NULL ? field : json_null(),
                     "invalid", invalid_choices[text->choice->invalid], "vocab_size",
                     (json_int_t)text->vocab_size);
}

int run_text_write(const char *path, const run_text *text) {
    const size_t size = strlen(path) + sizeof ".partial";
    char *partial = malloc(size);
    json_t *all = describe(text);
    FILE *file = NULL;
    if (partial != NULL) {
        (void)snprintf(partial, size, "%s.partial", path);
        file = fopen(partial, "wb");
    }
    errno = file == NULL ? errno : 0;
    bool done = file != NULL && all != NULL && json_dumpf(all, file, JSON_INDENT(2)) == 0 &&
                fputc('\n', file) != EOF && fflush(file) == 0 && fsync(fileno(file)) == 0;
    done = file != NULL && fclose(file) == 0 && done;
    done = done && rename(partial, path) == 0;
    int status = done ? EXIT_DONE : fail("%s: %s", path, strerror(errno != 0 ? errno : ENOMEM));
    if (!done && file != NULL) (void)unlink(partial);
    json_decref(all);
    free(partial);
    return status;
}

/* ---- what differs ------------------------------------------------------------------------------------- */

static int differs(const char *run, const char *what, const char *was, const char *is) {
    return fail("%s goes on with other text than it began with: %s was %s, is %s", run, what, was, is);
}

static int same_word(const char *run, const json_t *all, const char *what, const char *is) {
    const char *was = json_string_value(json_object_get(all, what));
    return was == NULL || strcmp(was, is) == 0 ? EXIT_DONE : differs(run, what, was, is);
}

static int same_size(const char *run, const json_t *all, size_t is) {
    const json_int_t was = json_integer_value(json_object_get(all, "vocab_size"));
    char words[2][24];
    if (was <= 0 || (size_t)was == is) return EXIT_DONE;
    (void)snprintf(words[0], sizeof words[0], "%lld", (long long)was);
    (void)snprintf(words[1], sizeof words[1], "%zu", is);
    return differs(run, "vocab_size", words[0], words[1]);
}

static int same_files(const char *run, const json_t *bytes, const run_text *now) {
    if (json_array_size(bytes) != now->n)
        return fail("%s goes on with other text than it began with: %zu text files were read, %zu are named",
                    run, json_array_size(bytes), now->n);
    for (size_t i = 0; i < now->n; i++) {
        const json_int_t was = json_integer_value(json_array_get(bytes, i)), is = size_of(now->files[i]);
        if (was == UNKNOWN || is == UNKNOWN || was == is) continue;
        return fail("%s goes on with other text than it began with: %s has %lld bytes, had %lld", run,
                    now->files[i], (long long)is, (long long)was);
    }
    return EXIT_DONE;
}

int run_text_same(const char *run, const char *path, const run_text *now, run_text_asked asked) {
    json_error_t wrong;
    json_t *all = json_load_file(path, 0, &wrong);
    const json_t *bytes = json_object_get(all, "bytes");
    int status = EXIT_DONE;
    if (all == NULL)
        status = fail("%s: %s", path, wrong.text);
    else if (!json_is_array(bytes))
        status = fail("%s: \"bytes\" is no list of sizes", path);
    if (status == EXIT_DONE) status = same_files(run, bytes, now);
    if (status == EXIT_DONE && asked.format)
        status = same_word(run, all, "format", format_choices[now->choice->format]);
    if (status == EXIT_DONE && asked.field) status = same_word(run, all, "field", now->choice->field);
    if (status == EXIT_DONE && asked.invalid)
        status = same_word(run, all, "invalid", invalid_choices[now->choice->invalid]);
    if (status == EXIT_DONE && asked.vocab_size) status = same_size(run, all, now->vocab_size);
    json_decref(all);
    return status;
}
