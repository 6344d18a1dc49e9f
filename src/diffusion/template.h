/* Templates: a text of fixed parts with blanks between them, as tokens. A prompt, a suffix and both together
 * are templates with one blank of any number of tokens.
 *
 * Tokens come out as in running text. There a space belongs to the word behind it, so the last space before a
 * blank is left out of the fixed tokens, and the blank's first token must begin with one; other white space
 * before a blank is cut as the tokenizer cuts it before a word. The space that encoding puts before a text is
 * part of it here: so a text that begins with a blank gives that space to the blank, and one that begins with
 * a space keeps it (dlm_sample_text drops just one). Fixed text behind a blank is encoded as it stands. */
#ifndef DLM_TEMPLATE_H
#define DLM_TEMPLATE_H

#include "model/model.h"

struct dlm_template {
    const dlm_model *model;
    int32_t *ids;        /* the fixed tokens, those of part i from starts[i] to starts[i + 1] */
    size_t *starts;      /* (n + 2) */
    dlm_blank *blanks;   /* (n): blank i stands behind part i */
    uint8_t *with_space; /* (V) 1: what the token stands for begins with a space; NULL where no blank asks */
    size_t n;
    int32_t end_id; /* what no blank may have, since fixed text would be cut off behind it; -1: nothing */
};

/* Are there tokens that may not stand in some place of its blanks? */
bool dlm__template_restricts(const dlm_template *text);
/* Which blank position `position` lies in, and its place there; false in a fixed part. */
bool dlm__template_find(const dlm_template *text, const size_t *lengths, size_t position, size_t *blank,
                        size_t *place);

#endif
