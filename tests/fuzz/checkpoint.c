/* Any bytes as trainer.json and as clock.json: refused by name, or values that are in range and come back
 * when they are written. */
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check_refusal(const dlm_error *err) {
    if (strncmp(err->message, "input: ", 7) != 0) abort();
}

static void check_progress(const dlm_train_progress *p) {
    if (p->step > UINT32_MAX || p->row_steps > p->step || p->row_tokens > p->tokens) abort();
    if (p->best_step > p->step || !isfinite(p->best_nelbo)) abort();
    if (!isfinite(p->row_loss) || !(p->row_norm >= 0)) abort();
}

/* Written, read and written again it is the same text. */
static void write_state(const dlm_checkpoint *checkpoint) {
    dlm_checkpoint again = {0};
    dlm_error err;
    char *text = dlm__checkpoint_state_text(checkpoint, 7);
    if (text == NULL || dlm__checkpoint_state_parse("again", text, strlen(text), &again, &err) != DLM_OK)
        abort();
    char *same = dlm__checkpoint_state_text(&again, 7);
    if (same == NULL || strcmp(text, same) != 0) abort();
    free(same);
    free(text);
    dlm__checkpoint_release(&again);
}

static void parse_state(const char *text, size_t n) {
    dlm_checkpoint checkpoint = {0};
    dlm_error err;
    if (dlm__checkpoint_state_parse("input", text, n, &checkpoint, &err) == DLM_OK) {
        check_progress(&checkpoint.progress);
        if (checkpoint.source.path == NULL) abort();
        if (dlm_train_check(&checkpoint.options, &err) != DLM_OK) abort();
        if (dlm__train_options_same("it", &checkpoint.options, &checkpoint.options, &err) != DLM_OK) abort();
        write_state(&checkpoint);
    } else {
        check_refusal(&err);
    }
    dlm__checkpoint_release(&checkpoint);
}

static void parse_clock(const char *text, size_t n) {
    dlm_train_clock clock, again;
    dlm_error err;
    if (dlm__checkpoint_clock_parse("input", text, n, &clock, &err) != DLM_OK) {
        check_refusal(&err);
        return;
    }
    if (!(clock.seconds >= 0 && clock.row_seconds >= 0 && isfinite(clock.seconds))) abort();
    char *written = dlm__checkpoint_clock_text(&clock);
    if (written == NULL ||
        dlm__checkpoint_clock_parse("again", written, strlen(written), &again, &err) != DLM_OK)
        abort();
    if (memcmp(&clock.sizes, &again.sizes, sizeof clock.sizes) != 0) abort();
    if (clock.seconds < again.seconds || clock.seconds > again.seconds) abort();
    free(written);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    parse_state((const char *)bytes, n);
    parse_clock((const char *)bytes, n);
    return 0;
}
