/* Completions for bash, zsh and fish, written out from the option tables, so that a shell needs to run
 * nothing while it completes. */
#include "help.h"

#include <stdio.h>
#include <string.h>

const char *const shells[] = {"bash", "zsh", "fish", NULL};

/* What a value is completed with. */
typedef enum value_kind { VALUE_NONE, VALUE_WORDS, VALUE_FOLDER, VALUE_FILE } value_kind;

static value_kind kind_of_value(const option *what) {
    if (what->kind == OPTION_CHOICE) return VALUE_WORDS;
    if (what->kind != OPTION_TEXT) return VALUE_NONE;
    if (strcmp(what->argument, "DIR") == 0 || strcmp(what->argument, "DATA") == 0 ||
        strcmp(what->argument, "RUN") == 0)
        return VALUE_FOLDER;
    return strcmp(what->argument, "FILE") == 0 || strcmp(what->argument, "MODEL") == 0 ? VALUE_FILE
                                                                                       : VALUE_NONE;
}

static void print_choices(const option *what) {
    for (size_t i = 0; what->choices[i] != NULL; i++) printf("%s%s", i == 0 ? "" : " ", what->choices[i]);
}

/* Calls back for each option of a command, its own and the common ones. */
static void for_options(const command *what, void (*print)(const command *, const option *)) {
    for (const option *own = what->options; own->name != NULL; own++) print(what, own);
    for (const option *shared = common_options; shared->name != NULL; shared++) print(what, shared);
}

/* ---- the words of commands: "tokenizer train" is two -------------------------------------------------- */

/* Is command i the first with its first word? n gets that word's bytes. */
static bool first_of_group(size_t i, size_t *n) {
    *n = strcspn(commands[i]->name, " ");
    for (size_t j = 0; j < i; j++)
        if (strncmp(commands[j]->name, commands[i]->name, *n) == 0 && commands[j]->name[*n] == ' ')
            return false;
    return true;
}

/* Second words of the commands whose first word is the n bytes of group. */
static void print_second_words(const char *group, size_t n) {
    const char *space = "";
    for (size_t i = 0; commands[i] != NULL; i++) {
        if (strncmp(commands[i]->name, group, n) != 0 || commands[i]->name[n] != ' ') continue;
        printf("%s%s", space, commands[i]->name + n + 1);
        space = " ";
    }
}

static void print_first_words(void) {
    size_t n;
    const char *space = "";
    for (size_t i = 0; commands[i] != NULL; i++) {
        if (!first_of_group(i, &n)) continue;
        printf("%s%.*s", space, (int)n, commands[i]->name);
        space = " ";
    }
}

/* ---- bash --------------------------------------------------------------------------------------------- */

static void bash_option_name(const command *what, const option *row) {
    (void)what;
    printf(" --%s", row->name);
    if (row->letter != 0) printf(" -%c", row->letter);
}

static void bash_value(const command *what, const option *row) {
    if (row->kind == OPTION_FLAG) return;
    printf("        '%s --%s'", what->name, row->name);
    if (row->letter != 0) printf(" | '%s -%c'", what->name, row->letter);
    printf(") ");
    switch (kind_of_value(row)) {
    case VALUE_WORDS:
        printf("words='");
        print_choices(row);
        printf("' ;;\n");
        break;
    case VALUE_FOLDER:
        printf("compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n");
        break;
    case VALUE_FILE:
        printf("compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n");
        break;
    default: printf("return ;;\n"); break;
    }
}

static void print_bash(void) {
    printf("# bash completion of diffusionlm\n"
           "_diffusionlm() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words= name=\n"
           "    COMPREPLY=()\n"
           "    # bash makes a word of the = in --name=value\n"
           "    if [ \"$cur\" = = ]; then cur=; elif [ \"$prev\" = = ]; then "
           "prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
           "    name=${COMP_WORDS[1]}\n"
           "    case $name in\n");
    size_t n;
    for (size_t i = 0; commands[i] != NULL; i++) {
        const char *name = commands[i]->name;
        if (!first_of_group(i, &n) || name[n] == 0) continue;
        printf("        %.*s)\n            if [ \"$COMP_CWORD\" = 2 ]; then COMPREPLY=($(compgen -W '",
               (int)n, name);
        print_second_words(name, n);
        printf("' -- \"$cur\")); return; fi\n            name=\"$name ${COMP_WORDS[2]}\" ;;\n");
    }
    printf("    esac\n    if [ \"$COMP_CWORD\" = 1 ]; then COMPREPLY=($(compgen -W '");
    print_first_words();
    printf(" --help --version' -- \"$cur\")); return; fi\n    case \"$name $prev\" in\n");
    for (size_t i = 0; commands[i] != NULL; i++) for_options(commands[i], bash_value);
    printf("    esac\n    if [ -n \"$words\" ]; then COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")); "
           "return; fi\n"
           "    case $cur in\n        -*) case $name in\n");
    for (size_t i = 0; commands[i] != NULL; i++) {
        printf("            '%s') words='", commands[i]->name);
        for_options(commands[i], bash_option_name);
        printf("' ;;\n");
    }
    printf("            esac\n            COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n"
           "        *) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n"
           "    esac\n}\ncomplete -F _diffusionlm diffusionlm\n");
}

/* ---- zsh ---------------------------------------------------------------------------------------------- */

/* Inside single quotes, and with what ends a field of _arguments escaped. */
static void print_zsh_text(const char *text) {
    for (; *text != 0; text++) {
        if (*text == '\'')
            printf("'\\''");
        else if (strchr("[]:\\", *text) != NULL)
            printf("\\%c", *text);
        else
            putchar(*text);
    }
}

static void zsh_row(const option *row, const char *dashes, const char *name) {
    printf("            '%s%s%s[", dashes, name, row->kind == OPTION_FLAG ? "" : dashes[1] == 0 ? "+" : "=");
    print_zsh_text(row->help);
    printf("]");
    if (row->kind != OPTION_FLAG) {
        printf(":%s:", row->kind == OPTION_CHOICE ? row->name : row->argument);
        switch (kind_of_value(row)) {
        case VALUE_WORDS:
            printf("(");
            print_choices(row);
            printf(")");
            break;
        case VALUE_FOLDER: printf("_files -/"); break;
        case VALUE_FILE: printf("_files"); break;
        default: printf(" "); break;
        }
    }
    printf("' \\\n");
}

static void zsh_option(const command *what, const option *row) {
    (void)what;
    char letter[2] = {row->letter, 0};
    zsh_row(row, "--", row->name);
    if (row->letter != 0) zsh_row(row, "-", letter);
}

static void print_zsh(void) {
    printf("#compdef diffusionlm\n_diffusionlm() {\n    local name=$words[2]\n"
           "    if (( CURRENT == 2 )); then compadd -- ");
    print_first_words();
    printf(" --help --version; return; fi\n    case $name in\n");
    size_t n;
    for (size_t i = 0; commands[i] != NULL; i++) {
        const char *name = commands[i]->name;
        if (!first_of_group(i, &n) || name[n] == 0) continue;
        printf("        %.*s)\n            if (( CURRENT == 3 )); then compadd -- ", (int)n, name);
        print_second_words(name, n);
        printf("; return; fi\n            name=\"$name $words[3]\"; shift words; (( CURRENT-- )) ;;\n");
    }
    printf("    esac\n    shift words; (( CURRENT-- ))\n    case $name in\n");
    for (size_t i = 0; commands[i] != NULL; i++) {
        printf("        '%s') _arguments \\\n", commands[i]->name);
        for_options(commands[i], zsh_option);
        printf("            '*:file:_files' ;;\n");
    }
    printf("    esac\n}\n_diffusionlm \"$@\"\n");
}

/* ---- fish --------------------------------------------------------------------------------------------- */

static void print_fish_text(const char *text) {
    for (; *text != 0; text++) {
        if (*text == '\'' || *text == '\\') putchar('\\');
        putchar(*text);
    }
}

/* The condition under which a line holds: all words of the command were typed. The words of "train" stand in
 * "tokenizer train" too, so a command of one word excludes the groups. */
static void print_fish_command(const char *name) {
    size_t n = strcspn(name, " ");
    printf("complete -c diffusionlm -n '__fish_seen_subcommand_from %.*s", (int)n, name);
    if (name[n] != 0) printf("; and __fish_seen_subcommand_from %s", name + n + 1);
    size_t m;
    for (size_t i = 0; commands[i] != NULL && name[n] == 0; i++)
        if (first_of_group(i, &m) && commands[i]->name[m] != 0)
            printf("; and not __fish_seen_subcommand_from %.*s", (int)m, commands[i]->name);
    printf("'");
}

static void fish_option(const command *what, const option *row) {
    print_fish_command(what->name);
    printf(" -l %s", row->name);
    if (row->letter != 0) printf(" -s %c", row->letter);
    switch (kind_of_value(row)) {
    case VALUE_WORDS:
        printf(" -x -a '");
        print_choices(row);
        printf("'");
        break;
    case VALUE_FOLDER: printf(" -x -a '(__fish_complete_directories)'"); break;
    case VALUE_FILE: printf(" -r"); break;
    default:
        if (row->kind != OPTION_FLAG) printf(" -x");
        break;
    }
    printf(" -d '");
    print_fish_text(row->help);
    printf("'\n");
}

static void print_fish(void) {
    size_t n;
    printf("# fish completion of diffusionlm\n");
    for (size_t i = 0; commands[i] != NULL; i++) {
        const char *name = commands[i]->name;
        if (!first_of_group(i, &n)) continue;
        printf("complete -c diffusionlm -f -n __fish_use_subcommand -a %.*s", (int)n, name);
        if (name[n] == 0) {
            printf(" -d '");
            print_fish_text(commands[i]->summary);
            printf("'");
        }
        printf("\n");
        if (name[n] == 0) continue;
        printf("complete -c diffusionlm -f -n '__fish_seen_subcommand_from %.*s; and not "
               "__fish_seen_subcommand_from ",
               (int)n, name);
        print_second_words(name, n);
        printf("' -a '");
        print_second_words(name, n);
        printf("'\n");
    }
    printf("complete -c diffusionlm -n __fish_use_subcommand -l help -d 'lists the commands'\n"
           "complete -c diffusionlm -n __fish_use_subcommand -l version -d 'shows the version'\n");
    for (size_t i = 0; commands[i] != NULL; i++) for_options(commands[i], fish_option);
}

void print_completion(int shell) {
    if (shell == 0)
        print_bash();
    else if (shell == 1)
        print_zsh();
    else
        print_fish();
}
