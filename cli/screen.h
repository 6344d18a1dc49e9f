/* A part of the terminal that is drawn again and again in place: lines of cells, as many as fit, and lines
 * below them. */
#ifndef DLM_CLI_SCREEN_H
#define DLM_CLI_SCREEN_H

#include "buffer.h"
#include "cells.h"
#include "palette.h"

#include <stdbool.h>
#include <stddef.h>

/* Cells start .. end - 1. */
typedef struct line {
    size_t start, end, width;
    bool changed;
} line;

typedef struct screen {
    palette look;
    size_t columns, rows;
    line *lines; /* (n_lines) of the whole text */
    size_t n_lines, lines_capacity;
    size_t top, shown; /* lines top .. top + shown - 1 are to be seen */
    size_t height;     /* lines that the text has taken so far: it does not give them back */
    size_t *widths;    /* (n_widths) of the rows that are drawn */
    size_t n_widths, widths_capacity;
    buffer out;
    bool failed; /* no memory: nothing more is drawn */
} screen;

/* Asks the terminal for its size, breaks the cells into lines and chooses which are shown above `below`
 * others: where not all fit, those shown before, moved as little as it takes to see a change. */
void screen_layout(screen *on, const cells *text, size_t below);
/* Begins a frame in place of the one before, with the lines chosen. */
void screen_begin(screen *on, const cells *text);
/* Ends the row that was put to `out`, `width` columns of it, and begins another. */
void screen_next_row(screen *on, size_t width);
/* Ends the last row, and sends the frame. */
void screen_end(screen *on, size_t width);
/* Removes what is drawn. */
void screen_clear(screen *on);
/* Leaves what is drawn where it is: the next frame is drawn below it. */
void screen_leave(screen *on);
void screen_free(screen *on);

#endif
