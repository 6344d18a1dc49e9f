#include "models.h"

#include "terminal.h"

const char *const preset_choices[] = {"tiny", "small", "base", NULL};
const char *const weights_choices[] = {"ema", "raw", NULL};
const char *const precision_choices[] = {"auto", "f32", "bf16", "int8", NULL};
const char *const training_precision_choices[] = {"auto", "f32", "bf16", NULL};
const char *const schedule_choices[] = {"cosine", "linear", NULL};
const char *const time_choices[] = {"none", "adaln", NULL};
const char *const position_choices[] = {"both", "learned", NULL};
const char *const recipe_choices[] = {"default", "original", NULL};

int load_model(const model_choice *choice, dlm_model **model) {
    dlm_error err = {0};
    dlm_model_options options = choice->options;
    options.progress = draw_progress;
    const dlm_status status = dlm_model_load(choice->path, &options, model, &err);
    clear_status();
    return status == DLM_OK ? EXIT_DONE : fail_with(&err);
}

const char *precision_name(dlm_precision precision) {
    return precision_choices[precision];
}
