/* How what is watched looks on this terminal: a style for each thing that is told apart. */
#ifndef DLM_CLI_PALETTE_H
#define DLM_CLI_PALETTE_H

#include <stdbool.h>

enum {
    SHADES = 8,
    STYLE_PLAIN = 0, /* given text, the status line */
    STYLE_DIM,       /* masks */
    STYLE_FLASH,     /* masked again, or drawn anew */
    STYLE_SHADE,     /* SHADES of them, from unsure to sure */
    STYLE_NEW = STYLE_SHADE + SHADES,
    STYLES = STYLE_NEW + SHADES
};

typedef struct palette {
    char sequences[STYLES][48]; /* what is sent to change to that style from any other */
    bool colours;
} palette;

/* As the environment says: NO_COLOR, COLORTERM, TERM. */
palette terminal_palette(void);

/* The shade of a confidence of 0 to 1: 0 .. SHADES - 1. */
unsigned shade_of(float confidence);

#endif
