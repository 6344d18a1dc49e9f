/* A text in the making as the places that it takes on a screen. */
#ifndef DLM_CLI_CELLS_H
#define DLM_CLI_CELLS_H

#include "buffer.h"

#include "diffusionlm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What stands in one place: a character, or one that joins the one before (width 0). */
typedef struct cell {
    char bytes[5];
    unsigned char n, width, style;
    bool changed;
} cell;

typedef struct cells {
    cell *at; /* (n) */
    size_t n, capacity;
    buffer run, looks; /* of tokens that are decoded together: bytes, and the look of each */
    bool failed;       /* no memory */
} cells;

/* Added to the style of a position that this step changed. */
enum { LOOK_CHANGED = 0x80 };

/* The cells of n ids up to the first end_id (-1: none ends them): revealed tokens as text, masks as blocks;
 * no control characters. looks (n): the style of each position, perhaps with LOOK_CHANGED. */
void make_cells(cells *made, const dlm_tokenizer *tokenizer, const int32_t *ids, const unsigned char *looks,
                size_t n, int32_t end_id, int32_t mask_id);
void free_cells(cells *made);

#endif
