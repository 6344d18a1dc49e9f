/* help: what --help shows, the manual page, completions. */
#include "commands.h"

#include "help.h"
#include "terminal.h"

typedef struct help_settings {
    common shared;
    bool man;
    int completion; /* in shells, -1: none */
} help_settings;

static void defaults(void *settings) {
    *(help_settings *)settings = (help_settings){.completion = -1};
}

static const option options[] = {OPTION_ROW(help_settings, man, .name = "man", .kind = OPTION_FLAG,
                                            .help = "print the manual page, for man -l -"),
                                 OPTION_ROW(help_settings, completion, .name = "completion",
                                            .kind = OPTION_CHOICE, .choices = shells,
                                            .help = "print the completions of a shell, to be sourced"),
                                 {0}};

static int run(const void *given) {
    const help_settings *settings = given;
    if (settings->man) {
        print_manual();
    } else if (settings->completion >= 0) {
        print_completion(settings->completion);
    } else if (settings->shared.n_operands == 0) {
        print_overview();
    } else {
        if (settings->shared.n_operands == 1 && print_group(settings->shared.operands[0])) return EXIT_DONE;
        parse_error error;
        size_t used;
        const command *found = find_command(settings->shared.n_operands,
                                            (char *const *)settings->shared.operands, &used, &error);
        if (found == NULL) {
            (void)fail("%s", error.message);
            return EXIT_USAGE;
        }
        print_command(found);
    }
    return EXIT_DONE;
}

const command command_help = {
    .name = "help",
    .operands = "[COMMAND]",
    .max_operands = 2,
    .summary = "what a command does; the manual page; shell completions",
    .description = "Lists the commands, tells what one of them does, or prints the manual page or the "
                   "completions of a shell.",
    .example = "source <(diffusionlm help --completion bash)",
    .options = options,
    .settings_size = sizeof(help_settings),
    .defaults = defaults,
    .run = run,
};
