/* The option tables and their parser: every option of every command, in every form it can be typed; numbers
 * that are none; names that are nearly right. */
#include "check.h"

#include "cli/options.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTIONS = 80, VALUE = 200, WORDS = 40 };

static const option *option_at(const command *what, size_t i) {
    const option *row = what->options;
    for (; row->name != NULL; row++)
        if (i-- == 0) return row;
    for (row = common_options; row->name != NULL; row++)
        if (i-- == 0) return row;
    return NULL;
}

/* What is in the field, as text; of a flag too. */
static void read_value(const option *row, const void *settings, char *value) {
    if (row->kind == OPTION_FLAG) {
        bool set;
        memcpy(&set, (const char *)settings + row->offset, sizeof set);
        (void)snprintf(value, VALUE, "%s", set ? "set" : "not set");
    } else if (!option_value(row, settings, value, VALUE)) {
        (void)snprintf(value, VALUE, "none");
    }
}

/* The command's settings after these words; NULL, with the message in error, when they are refused. */
static void *parsed(const command *what, size_t n, const char *const *words, parse_error *error) {
    void *settings = calloc(1, what->settings_size);
    if (settings == NULL) return NULL;
    if (parse_arguments(what, n, (char *const *)words, settings, error)) return settings;
    parse_free(settings);
    free(settings);
    return NULL;
}

static void forget(void *settings) {
    if (settings == NULL) return;
    parse_free(settings);
    free(settings);
}

/* What a command cannot do without; returns how many words. */
static size_t required_words(const command *what, const char **words) {
    size_t n = 0;
    for (size_t i = 0; i < what->min_operands; i++) words[n++] = "operand";
    for (const option *row = what->options; row->name != NULL; row++) {
        static char names[OPTIONS][64];
        if (!row->required) continue;
        (void)snprintf(names[n], sizeof names[n], "--%s=needed", row->name);
        words[n] = names[n];
        n++;
    }
    return n;
}

/* Value number k to try; false when there are no more. */
static bool value_to_try(const option *row, size_t k, char *value) {
    double numbers[] = {row->min, row->max > row->min + 7 ? row->min + 7 : row->max, row->max};
    switch (row->kind) {
    case OPTION_FLAG: return false;
    case OPTION_TEXT:
    case OPTION_TEXTS: (void)snprintf(value, VALUE, "a text = with, all --sorts"); return k == 0;
    case OPTION_CHOICE:
        if (row->choices[k] != NULL) (void)snprintf(value, VALUE, "%s", row->choices[k]);
        return row->choices[k] != NULL;
    default:
        if (k == 3 && row->word != NULL) (void)snprintf(value, VALUE, "%s", row->word);
        if (k >= 3) return k == 3 && row->word != NULL;
        if (numbers[k] == floor(numbers[k]))
            (void)snprintf(value, VALUE, "%.0f", numbers[k]);
        else
            (void)snprintf(value, VALUE, "%g", numbers[k]);
        return true;
    }
}

/* Options that set the defaults of others. */
static bool sets_others(const option *row) {
    static const char *const names[] = {"recipe", "preset", "steps", "epochs", "minutes", "remask"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(row->name, names[i]) == 0) return true;
    return false;
}

/* Parses `extra` words more than are required; the option has the value and nothing else has changed. */
static void check_stored(const command *what, const option *row, const char *value, const char *const *extra,
                         size_t n_extra) {
    const char *words[WORDS];
    parse_error error = {""};
    size_t n = required_words(what, words);
    void *before = parsed(what, n, words, &error);
    for (size_t i = 0; i < n_extra; i++) words[n++] = extra[i];
    void *after = parsed(what, n, words, &error);
    check_context("%s %s %s: %s", what->name, extra[0], value, error.message);
    if (CHECK(before != NULL && after != NULL)) {
        char got[VALUE], was[VALUE];
        read_value(row, after, got);
        CHECK_STR_EQ(got, value);
        const option *other;
        for (size_t i = 0; (other = option_at(what, i)) != NULL; i++) {
            if (other == row || (what->adjust != NULL && sets_others(row))) continue;
            check_context("%s %s: changes --%s", what->name, extra[0], other->name);
            read_value(other, before, was);
            read_value(other, after, got);
            CHECK_STR_EQ(got, was);
        }
    }
    check_context("%s", "");
    forget(before);
    forget(after);
}

static void check_option(const command *what, const option *row) {
    char name[100], letter[4] = "", whole[VALUE + 100], glued[VALUE + 100], value[VALUE];
    (void)snprintf(name, sizeof name, "--%s", row->name);
    (void)snprintf(letter, sizeof letter, "-%c", row->letter);
    if (row->kind == OPTION_FLAG) {
        check_stored(what, row, "set", (const char *const[]){name}, 1);
        if (row->letter != 0) check_stored(what, row, "set", (const char *const[]){letter}, 1);
        return;
    }
    for (size_t k = 0; value_to_try(row, k, value); k++) {
        (void)snprintf(whole, sizeof whole, "--%s=%s", row->name, value);
        check_stored(what, row, value, (const char *const[]){name, value}, 2);
        check_stored(what, row, value, (const char *const[]){whole}, 1);
        if (row->letter == 0) continue;
        (void)snprintf(glued, sizeof glued, "-%c%s", row->letter, value);
        check_stored(what, row, value, (const char *const[]){letter, value}, 2);
        check_stored(what, row, value, (const char *const[]){glued}, 1);
    }
}

TEST(every_option_reads_back) {
    const option *row;
    for (size_t i = 0; commands[i] != NULL; i++)
        for (size_t j = 0; (row = option_at(commands[i], j)) != NULL; j++)
            if (strcmp(row->name, "help") != 0) check_option(commands[i], row);
}

/* Names and letters of a command are each for one option, and every option says something. */
TEST(tables_are_whole) {
    for (size_t i = 0; commands[i] != NULL; i++) {
        const command *what = commands[i];
        const option *row, *other;
        CHECK(what->summary != NULL && what->description != NULL && what->run != NULL);
        for (size_t j = 0; (row = option_at(what, j)) != NULL; j++) {
            check_context("%s --%s", what->name, row->name);
            CHECK(row->help != NULL && row->help[0] != 0 && row->help[strlen(row->help) - 1] != '.');
            CHECK((row->kind == OPTION_CHOICE) == (row->choices != NULL));
            CHECK((row->argument == NULL) == (row->kind == OPTION_FLAG || row->kind == OPTION_CHOICE));
            CHECK(!row->required || row->kind == OPTION_TEXT);
            for (size_t k = j + 1; (other = option_at(what, k)) != NULL; k++) {
                CHECK(strcmp(row->name, other->name) != 0);
                CHECK(row->letter == 0 || row->letter != other->letter);
            }
        }
    }
    check_context("%s", "");
}

/* ---- a table of its own ------------------------------------------------------------------------------- */

typedef struct sample_settings {
    common shared;
    size_t steps;
    uint64_t count;
    double share, threshold;
    int order;
    const char *output;
    bool all;
} sample_settings;

static void sample_defaults(void *settings) {
    *(sample_settings *)settings = (sample_settings){.steps = 80, .share = 0.5, .threshold = -1, .order = -1};
}

static int sample_run(const void *settings) {
    return settings == NULL;
}

static const char *const order_choices[] = {"confidence", "random", NULL};

static const option sample_options[] = {
    OPTION_ROW(sample_settings, steps, .name = "steps", .kind = OPTION_SIZE, .argument = "N", .min = 1,
               .max = 1000000, .help = "steps"),
    OPTION_ROW(sample_settings, count, .name = "count", .letter = 'n', .kind = OPTION_WHOLE, .argument = "N",
               .max = OPTION_SEED_MAX, .word = "auto", .word_value = 0, .help = "count"),
    OPTION_ROW(sample_settings, share, .name = "share", .kind = OPTION_REAL, .argument = "X", .max = 1,
               .help = "share"),
    OPTION_ROW(sample_settings, threshold, .name = "threshold", .kind = OPTION_REAL, .argument = "X",
               .max = 1, .word = "off", .word_value = -1, .help = "threshold"),
    OPTION_ROW(sample_settings, order, .name = "order", .kind = OPTION_CHOICE, .choices = order_choices,
               .help = "order"),
    OPTION_ROW(sample_settings, output, .name = "output", .letter = 'o', .kind = OPTION_TEXT,
               .argument = "FILE", .required = true, .help = "where to write"),
    OPTION_ROW(sample_settings, all, .name = "all", .letter = 'a', .kind = OPTION_FLAG, .help = "all"),
    {0}};

static const command sample_command = {.name = "sample",
                                       .operands = "FILE...",
                                       .min_operands = 1,
                                       .max_operands = 2,
                                       .options = sample_options,
                                       .settings_size = sizeof(sample_settings),
                                       .defaults = sample_defaults,
                                       .run = sample_run};

/* The words, up to NULL, after "-o out file". */
static sample_settings *sample(parse_error *error, const char *const *more) {
    const char *words[WORDS] = {"-o", "out", "file"};
    size_t n = 3;
    for (size_t i = 0; more[i] != NULL; i++) words[n++] = more[i];
    error->message[0] = 0;
    return parsed(&sample_command, n, words, error);
}
#define SAMPLE(...) sample(&error, (const char *const[]){__VA_ARGS__, NULL})

TEST(numbers_are_strict) {
    static const struct {
        const char *word, *says;
    } cases[] = {
        {"--steps=12x", "--steps: 12x is not a whole number from 1 to 1000000"},
        {"--steps=", "--steps: nothing is not a whole number from 1 to 1000000"},
        {"--steps=0", "--steps: 0 is not a whole number from 1 to 1000000"},
        {"--steps=1000001", "--steps: 1000001 is not a whole number from 1 to 1000000"},
        {"--steps=18446744073709551617", "--steps: 18446744073709551617 is not a whole number"},
        {"--steps=-1", "--steps: -1 is not a whole number"},
        {"--steps=+1", "--steps: +1 is not a whole number"},
        {"--steps= 1", "--steps:  1 is not a whole number"},
        {"--steps=1e3", "--steps: 1e3 is not a whole number"},
        {"--steps=0x10", "--steps: 0x10 is not a whole number"},
        {"--steps=auto", "--steps: auto is not a whole number from 1 to 1000000"},
        {"-n1.5", "-n: 1.5 is not a whole number from 0 to 9007199254740991, nor auto"},
        {"--count=9007199254740992", "--count: 9007199254740992 is not"},
        {"--share=1.01", "--share: 1.01 is not a number from 0 to 1"},
        {"--share=-0.1", "--share: -0.1 is not a number from 0 to 1"},
        {"--share=nan", "--share: nan is not a number from 0 to 1"},
        {"--share=inf", "--share: inf is not a number"},
        {"--share=0x1p-1", "--share: 0x1p-1 is not a number"},
        {"--share=.", "--share: . is not a number"},
        {"--share=0.5 ", "--share: 0.5  is not a number"},
        {"--share=1e-9999999x", "--share: 1e-9999999x is not a number"},
        {"--threshold=-1", "--threshold: -1 is not a number from 0 to 1, nor off"},
        {"--order=randon", "--order: randon is not confidence or random; did you mean random?"},
        {"--order=", "--order: nothing is not confidence or random"},
    };
    parse_error error;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sample_settings *settings = SAMPLE(cases[i].word);
        check_context("%s: %s", cases[i].word, error.message);
        CHECK(settings == NULL && strstr(error.message, cases[i].says) == error.message);
        forget(settings);
    }
    check_context("%s", "");
}

TEST(numbers_are_read) {
    parse_error error;
    sample_settings *settings = SAMPLE("--steps", "0012", "-n", "9007199254740991", "--share=.25e0",
                                       "--threshold", "off", "--order", "random", "--all");
    REQUIRE(settings != NULL);
    CHECK_INT_EQ(settings->steps, 12);
    CHECK(settings->count == 9007199254740991u);
    CHECK_CLOSE(settings->share, 0.25, 0);
    CHECK_CLOSE(settings->threshold, -1, 0);
    CHECK_INT_EQ(settings->order, 1);
    CHECK(settings->all);
    forget(settings);
}

TEST(operands_and_dashes) {
    parse_error error;
    sample_settings *settings = SAMPLE("-");
    REQUIRE(settings != NULL);
    CHECK_INT_EQ(settings->shared.n_operands, 2);
    CHECK_STR_EQ(settings->shared.operands[1], "-");
    forget(settings);
    settings = SAMPLE("--", "--all");
    REQUIRE(settings != NULL);
    CHECK_STR_EQ(settings->shared.operands[1], "--all");
    CHECK(!settings->all);
    forget(settings);
    settings = SAMPLE("-o", "-x", "--output=--"); /* a value may begin with a dash; the last one counts */
    REQUIRE(settings != NULL);
    CHECK_STR_EQ(settings->output, "--");
    forget(settings);
    CHECK(SAMPLE("two", "three") == NULL);
    CHECK_STR_EQ(error.message, "three is one argument too many");
}

TEST(mistakes_are_named) {
    parse_error error;
    CHECK(SAMPLE("--stepps", "3") == NULL);
    CHECK_STR_EQ(error.message, "there is no option --stepps; did you mean --steps?");
    CHECK(SAMPLE("--sepst=3") == NULL);
    CHECK_STR_EQ(error.message, "there is no option --sepst; did you mean --steps?");
    CHECK(SAMPLE("--xylophone") == NULL);
    CHECK_STR_EQ(error.message, "there is no option --xylophone");
    CHECK(SAMPLE("-z") == NULL);
    CHECK_STR_EQ(error.message, "there is no option -z");
    CHECK(SAMPLE("--steps") == NULL);
    CHECK_STR_EQ(error.message, "--steps needs a value");
    CHECK(SAMPLE("-n") == NULL);
    CHECK_STR_EQ(error.message, "-n needs a value");
    CHECK(SAMPLE("--all=yes") == NULL);
    CHECK_STR_EQ(error.message, "--all takes no value");
    CHECK(SAMPLE("-ab") == NULL);
    CHECK_STR_EQ(error.message, "-a takes no value");
    CHECK(SAMPLE("--output=") == NULL);
    CHECK_STR_EQ(error.message, "-o, --output FILE is missing: where to write");
    CHECK(parsed(&sample_command, 2, (const char *const[]){"-o", "x"}, &error) == NULL);
    CHECK_STR_EQ(error.message, "FILE... is missing");
}

TEST(commands_are_found) {
    parse_error error;
    size_t used;
    const command *found = find_command(3, (char *[]){"tokenizer", "encode", "x"}, &used, &error);
    CHECK(found != NULL && strcmp(found->name, "tokenizer encode") == 0 && used == 2);
    CHECK(find_command(2, (char *[]){"tokenizer", "encoed"}, &used, &error) == NULL);
    CHECK_STR_EQ(error.message, "there is no command tokenizer encoed; did you mean tokenizer encode?");
    CHECK(find_command(1, (char *[]){"tokenizer"}, &used, &error) == NULL);
    CHECK_STR_EQ(error.message, "tokenizer: one of its commands is missing");
    CHECK(find_command(1, (char *[]){"hepl"}, &used, &error) == NULL);
    CHECK_STR_EQ(error.message, "there is no command hepl; did you mean help?");
    CHECK(find_command(1, (char *[]){"xylophone"}, &used, &error) == NULL);
    CHECK_STR_EQ(error.message, "there is no command xylophone");
    CHECK(find_command(0, NULL, &used, &error) == NULL);
}
