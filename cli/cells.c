/* From ids to the places of a screen. Nothing that the model writes reaches the terminal as a control
 * character. */
#include "cells.h"

#include <stdlib.h>
#include <string.h>
#include <wchar.h>

static const char mask_text[] = " \u2591\u2591\u2591", replacement[] = "\uFFFD";

static void add_cell(cells *made, const char *bytes, size_t n, int width, unsigned char look) {
    void *array = made->at;
    if (!grow(&array, &made->capacity, made->n + 1, sizeof *made->at)) {
        made->failed = true;
        return;
    }
    made->at = array;
    cell *added = &made->at[made->n++];
    *added = (cell){.n = (unsigned char)n,
                    .width = (unsigned char)width,
                    .style = look & (LOOK_CHANGED - 1),
                    .changed = (look & LOOK_CHANGED) != 0};
    memcpy(added->bytes, bytes, n);
}

/* The run of bytes, which is then empty; what is not a printable character becomes U+FFFD. */
static void add_run(cells *made) {
    const buffer *bytes = &made->run;
    mbstate_t state = {0};
    for (size_t i = 0; i < bytes->n;) {
        const unsigned char look = (unsigned char)made->looks.bytes[i];
        wchar_t character = 0;
        size_t n = mbrtowc(&character, bytes->bytes + i, bytes->n - i, &state);
        int width = -1;
        if (n == (size_t)-1 || n == (size_t)-2 || n == 0 || n >= sizeof made->at->bytes) {
            state = (mbstate_t){0};
            n = 1;
        } else if (character == L'\n') {
            width = 0;
        } else if (character == L'\t') {
            add_cell(made, " ", 1, 1, look);
            i++;
            continue;
        } else {
            width = wcwidth(character);
        }
        if (width < 0)
            add_cell(made, replacement, sizeof replacement - 1, 1, look);
        else
            add_cell(made, bytes->bytes + i, n, width, look);
        i += n;
    }
    made->run.n = made->looks.n = 0;
}

static void add_mask(cells *made, unsigned char look) {
    add_cell(made, mask_text, 1, 1, look);
    for (size_t i = 1; i + 3 < sizeof mask_text; i += 3) add_cell(made, mask_text + i, 3, 1, look);
}

/* Tokens between two masks are decoded together, since one character may take several. */
void make_cells(cells *made, const dlm_tokenizer *tokenizer, const int32_t *ids, const unsigned char *looks,
                size_t n, int32_t end_id, int32_t mask_id) {
    made->n = made->run.n = made->looks.n = 0;
    for (size_t i = 0; i < n && ids[i] != end_id; i++) {
        if (ids[i] == mask_id) {
            add_run(made);
            add_mask(made, looks[i]);
            continue;
        }
        size_t bytes;
        bool special;
        const char *token = dlm_tokenizer_token(tokenizer, ids[i], &bytes, &special);
        if (token == NULL || special) continue; /* as in the text that is written in the end */
        put(&made->run, token, bytes);
        for (size_t k = 0; k < bytes; k++) put(&made->looks, &looks[i], 1);
    }
    made->failed |= made->run.failed || made->looks.failed;
    if (!made->failed) add_run(made);
}

void free_cells(cells *made) {
    free(made->at);
    free(made->run.bytes);
    free(made->looks.bytes);
}
