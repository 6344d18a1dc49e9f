/* --help: an overview of the commands, and the options of one. */
#include "help.h"

#include "diffusionlm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 80, OPTION_COLUMN = 34 };

void *default_settings(const command *what) {
    void *settings = calloc(1, what->settings_size);
    if (settings != NULL) what->defaults(settings);
    return settings;
}

void write_argument(const option *what, char *buffer, size_t size) {
    buffer[0] = 0;
    if (what->kind == OPTION_FLAG) return;
    if (what->kind != OPTION_CHOICE) {
        (void)snprintf(buffer, size, "%s%s%s", what->argument, what->word == NULL ? "" : "|",
                       what->word == NULL ? "" : what->word);
        return;
    }
    for (size_t i = 0; what->choices[i] != NULL; i++) {
        size_t used = strlen(buffer);
        (void)snprintf(buffer + used, size - used, "%s%s", i == 0 ? "" : "|", what->choices[i]);
    }
}

void write_synopsis(const command *what, char *buffer, size_t size) {
    (void)snprintf(buffer, size, "%s%s%s", what->name, what->operands == NULL ? "" : " ",
                   what->operands == NULL ? "" : what->operands);
    for (const option *own = what->options; own->name != NULL; own++) {
        if (!own->required) continue;
        char argument[100];
        write_argument(own, argument, sizeof argument);
        size_t used = strlen(buffer);
        if (own->letter != 0)
            (void)snprintf(buffer + used, size - used, " -%c %s", own->letter, argument);
        else
            (void)snprintf(buffer + used, size - used, " --%s %s", own->name, argument);
    }
    size_t used = strlen(buffer);
    (void)snprintf(buffer + used, size - used, " [options]");
}

/* Words of text from column `at` on, in lines of COLUMNS, further lines indented; ends the line. */
static void print_wrapped(const char *text, size_t at, size_t indent) {
    bool first = true;
    while (*text != 0) {
        size_t n = strcspn(text, " \n");
        if (!first && at + 1 + n > COLUMNS) {
            printf("\n%*s", (int)indent, "");
            at = indent;
            first = true;
        }
        printf("%s%.*s", first ? "" : " ", (int)n, text);
        at += n + !first;
        first = false;
        text += n;
        if (strncmp(text, "\n\n", 2) == 0) {
            printf("\n\n%*s", (int)indent, "");
            at = indent;
            first = true;
        }
        text += strspn(text, " \n");
    }
    printf("\n");
}

static void print_option(const option *what, const void *settings) {
    char left[160], argument[120], text[600], value[100];
    write_argument(what, argument, sizeof argument);
    char letter[8] = "    ";
    if (what->letter != 0) (void)snprintf(letter, sizeof letter, "-%c, ", what->letter);
    int n = snprintf(left, sizeof left, "  %s--%s %s", letter, what->name, argument);
    printf("%s", left);
    size_t at = (size_t)n;
    if (at > OPTION_COLUMN - 1) {
        printf("\n");
        at = 0;
    }
    printf("%*s", (int)(OPTION_COLUMN - at), "");
    bool shown = !what->required && option_value(what, settings, value, sizeof value);
    (void)snprintf(text, sizeof text, "%s%s%s%s%s", what->help, what->required ? " (required)" : "",
                   shown ? " (" : "", shown ? value : "", shown ? ")" : "");
    print_wrapped(text, OPTION_COLUMN, OPTION_COLUMN);
}

static void print_options(const option *rows, const void *settings) {
    for (; rows->name != NULL; rows++) print_option(rows, settings);
}

void print_command(const command *what) {
    char synopsis[200];
    write_synopsis(what, synopsis, sizeof synopsis);
    printf("Usage: diffusionlm %s\n\n", synopsis);
    print_wrapped(what->description, 0, 0);
    void *settings = default_settings(what);
    if (settings == NULL) return;
    if (what->options->name != NULL) {
        printf("\nOptions (defaults in parentheses):\n");
        print_options(what->options, settings);
    }
    printf("\nEverywhere:\n");
    print_options(common_options, settings);
    if (what->example != NULL) printf("\nExample:\n  %s\n", what->example);
    free(settings);
}

static void print_summary(const command *what) {
    printf("  %-18s %s\n", what->name, what->summary);
}

void print_overview(void) {
    printf("diffusionlm %s: masked diffusion language models, from a text file to a story\n\n"
           "Usage: diffusionlm COMMAND [options]\n\nCommands:\n",
           dlm_version());
    for (size_t i = 0; commands[i] != NULL; i++) print_summary(commands[i]);
    printf("\n'diffusionlm COMMAND --help' tells what a command does and lists its options.\n"
           "Exit status: 0 done, 1 failed, 2 not understood; 130 or 143 when a signal stopped it cleanly.\n");
}

bool print_group(const char *group) {
    size_t n = strlen(group);
    bool found = false;
    for (size_t i = 0; commands[i] != NULL; i++) {
        if (strncmp(commands[i]->name, group, n) != 0 || commands[i]->name[n] != ' ') continue;
        if (!found) printf("Usage: diffusionlm %s COMMAND [options]\n\nCommands:\n", group);
        found = true;
        print_summary(commands[i]);
    }
    return found;
}
