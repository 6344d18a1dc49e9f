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

int open_documents(const char *const *paths, size_t n, const text_choice *choice, dlm_documents **documents) {
    dlm_error err = {0};
    dlm_text_options options = {.format = (dlm_text_format)choice->format,
                                .field = choice->field,
                                .replace_invalid = choice->invalid != 0};
    if (dlm_documents_open(paths, n, &options, documents, &err) != DLM_OK) return fail_with(&err);
    return EXIT_DONE;
}
