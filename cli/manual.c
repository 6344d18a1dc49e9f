/* The manual page, in the macros of man(7). */
#include "help.h"

#include "diffusionlm.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text with what roff would read as commands escaped; an empty line in it begins a paragraph. */
static void print_roff(const char *text) {
    bool line_start = true;
    for (; *text != 0; text++) {
        if (strncmp(text, "\n\n", 2) == 0) {
            printf("\n.PP\n");
            text++;
            line_start = true;
            continue;
        }
        if (line_start && (*text == '.' || *text == '\'')) printf("\\&");
        if (*text == '-' || *text == '\\')
            printf(*text == '-' ? "\\-" : "\\e");
        else
            putchar(*text);
        line_start = *text == '\n';
    }
    putchar('\n');
}

static void print_manual_option(const option *what, const void *settings) {
    char argument[120], value[100];
    write_argument(what, argument, sizeof argument);
    printf(".TP\n");
    if (what->letter != 0) printf("\\fB\\-%c\\fR, ", what->letter);
    printf("\\fB\\-\\-");
    for (const char *at = what->name; *at != 0; at++) printf(*at == '-' ? "\\-" : "%c", *at);
    printf("\\fR%s\\fI%s\\fR\n", argument[0] == 0 ? "" : " ", argument);
    print_roff(what->help);
    if (what->required)
        printf("Required.\n");
    else if (settings != NULL && option_value(what, settings, value, sizeof value)) {
        printf("Default: ");
        print_roff(value);
    }
}

static void print_manual_command(const command *what) {
    char synopsis[200];
    write_synopsis(what, synopsis, sizeof synopsis);
    printf(".SS %s\n.B diffusionlm\n", what->name);
    print_roff(synopsis);
    printf(".PP\n");
    print_roff(what->description);
    void *settings = default_settings(what);
    for (const option *own = what->options; own->name != NULL; own++) print_manual_option(own, settings);
    free(settings);
    if (what->example == NULL) return;
    printf(".PP\nExample:\n.PP\n.nf\n    ");
    print_roff(what->example);
    printf(".fi\n");
}

void print_manual(void) {
    printf(".TH DIFFUSIONLM 1 \"\" \"diffusionlm %s\" \"User commands\"\n"
           ".SH NAME\ndiffusionlm \\- masked diffusion language models, from a text file to a story\n"
           ".SH SYNOPSIS\n.B diffusionlm\n\\fICOMMAND\\fR [\\fIoptions\\fR]\n"
           ".SH DESCRIPTION\n",
           dlm_version());
    print_roff("diffusionlm trains byte-level BPE tokenizers, turns text into token shards, trains masked "
               "diffusion language models on them, measures their likelihood and samples texts.\n\n"
               "Options may stand before and after operands, as --name value or --name=value; after -- "
               "everything is an operand. As a file, - is standard input or output. Input files that are "
               "compressed with gzip or Zstandard are decompressed. Results go to standard output, "
               "everything else to standard error.");
    printf(".SH COMMANDS\n");
    for (size_t i = 0; commands[i] != NULL; i++) print_manual_command(commands[i]);
    printf(".SH OPTIONS OF EVERY COMMAND\n");
    for (const option *row = common_options; row->name != NULL; row++) print_manual_option(row, NULL);
    printf(".SH EXIT STATUS\n"
           ".TP\n0\nDone.\n.TP\n1\nFailed; one sentence on standard error says why.\n"
           ".TP\n2\nThe command line was not understood.\n"
           ".TP\n130, 143, 129\nStopped by SIGINT, SIGTERM or SIGHUP, with nothing left half-written; a "
           "training run has saved its state.\n");
}
