#include "drafts.h"

#include "terminal.h"

#include <string.h>

static int refuse_empty(const char *name) {
    (void)fail("--%s is empty", name);
    return EXIT_USAGE;
}

static void note_masks(const char *name, const char *text) {
    if (text != NULL && (strstr(text, "[MASK]") != NULL || strstr(text, "[MASK:") != NULL))
        say("note: [MASK] in --%s is plain text; --template reads it as a mask", name);
}

static int check(const draft_choice *choice, const dlm_model *model) {
    if (choice->prompt == NULL && choice->suffix == NULL && choice->pattern == NULL) return EXIT_DONE;
    if (choice->prompt != NULL && choice->prompt[0] == 0) return refuse_empty("prompt");
    if (choice->suffix != NULL && choice->suffix[0] == 0) return refuse_empty("suffix");
    if (choice->pattern != NULL && choice->pattern[0] == 0) return refuse_empty("template");
    if (choice->pattern != NULL && (choice->prompt != NULL || choice->suffix != NULL)) {
        (void)fail("--template is all of a text: what --%s says belongs in it",
                   choice->prompt != NULL ? "prompt" : "suffix");
        return EXIT_USAGE;
    }
    if (dlm_model_tokenizer(model) != NULL) return EXIT_DONE;
    return fail("--%s needs a tokenizer, and there is none beside %s; -t names one",
                choice->prompt != NULL   ? "prompt"
                : choice->suffix != NULL ? "suffix"
                                         : "template",
                dlm_model_source(model));
}

static size_t bytes_of(const char *text) {
    return text == NULL ? 0 : strlen(text);
}

int read_draft(const draft_choice *choice, const dlm_model *model, dlm_template **draft) {
    *draft = NULL;
    const int status = check(choice, model);
    if (status != EXIT_DONE) return status;
    note_masks("prompt", choice->prompt);
    note_masks("suffix", choice->suffix);
    dlm_error err = {0};
    dlm_status read = DLM_OK;
    if (choice->pattern != NULL)
        read = dlm_template_parse(model, choice->pattern, strlen(choice->pattern), draft, &err);
    else if (choice->prompt != NULL || choice->suffix != NULL)
        read = dlm_template_around(model, choice->prompt, bytes_of(choice->prompt), choice->suffix,
                                   bytes_of(choice->suffix), draft, &err);
    if (read == DLM_OK) return EXIT_DONE;
    const int refused = fail_in_options(&err);
    return read == DLM_FORMAT ? EXIT_USAGE : refused; /* the text of an option is not UTF-8 */
}
