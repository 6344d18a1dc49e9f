/* Texts that a model wrote, read back as token ids: plain texts, or the lines of generate --json. */
#ifndef DLM_CLI_SAMPLE_TEXTS_H
#define DLM_CLI_SAMPLE_TEXTS_H

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* auto: jsonl where the file begins with {, else separated; the others in the order of dlm_text_format. */
extern const char *const samples_format_choices[];

typedef struct sample_texts {
    size_t n, tokens;
    size_t *lengths; /* (n) without an end token and what follows it */
    int32_t *ids;    /* (tokens) */
    size_t n_capacity, tokens_capacity;
    size_t window;   /* the most tokens of a text with its end, those behind the end counted where ids tell */
    size_t ended;    /* texts with an end token */
    bool ends_known; /* of every text; plain text does not tell */
} sample_texts;

/* Reads all texts of the file. ids of JSON are taken as they are, up to the first end_id (-1: there is none)
 * and checked against the tokenizer's vocabulary; where there are none the text is encoded. EXIT_DONE, or
 * said why not, a file without texts being an error. Free texts in any case. */
int read_samples(const char *path, int format, const dlm_tokenizer *tokenizer, int32_t end_id,
                 sample_texts *texts);
void free_samples(sample_texts *texts);

#endif
