#include "texts.h"

#include "terminal.h"

const char *const format_choices[] = {"separated", "lines", "jsonl", "whole", NULL};
const char *const invalid_choices[] = {"error", "replace", NULL};

text_choice text_choice_defaults(void) {
    dlm_text_options options = dlm_text_defaults();
    return (text_choice){
        .format = (int)options.format, .field = options.field, .invalid = options.replace_invalid};
}

const char *const *paths_or_stdin(const common *settings, size_t *n) {
    static const char *const standard_input[] = {"-"};
    *n = settings->n_operands > 0 ? settings->n_operands : 1;
    return settings->n_operands > 0 ? settings->operands : standard_input;
}

dlm_text_options text_options(const text_choice *choice) {
    dlm_text_options options = dlm_text_defaults();
    options.format = (dlm_text_format)choice->format;
    options.field = choice->field;
    options.replace_invalid = choice->invalid != 0;
    return options;
}

int open_documents(const char *const *paths, size_t n, const text_choice *choice, dlm_documents **documents) {
    dlm_error err = {0};
    const dlm_text_options options = text_options(choice);
    if (dlm_documents_open(paths, n, &options, documents, &err) != DLM_OK) return fail_with(&err);
    return EXIT_DONE;
}
