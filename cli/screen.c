/* Frames in place. A frame goes back to the first row of the one before and overwrites it row by row, all in
 * one write; it never has more rows than the terminal, so that there is a way back. Rows are a column shorter
 * than the terminal: one that is full would leave the cursor at a place that terminals disagree about. */
#include "screen.h"

#include "terminal.h"

#include <stdlib.h>
#include <unistd.h>

/* ---- lines -------------------------------------------------------------------------------------------- */

static void add_line(screen *on, const cells *text, size_t start, size_t end) {
    void *array = on->lines;
    if (!grow(&array, &on->lines_capacity, on->n_lines + 1, sizeof *on->lines)) {
        on->failed = true;
        return;
    }
    on->lines = array;
    line *added = &on->lines[on->n_lines++];
    *added = (line){.start = start, .end = end};
    for (size_t i = start; i < end; i++) {
        added->width += text->at[i].width;
        added->changed |= text->at[i].changed;
    }
}

/* The line of cells from `start`, at most `columns` wide, broken at a space where there is one: *end gets
 * where it ends, the return value where the next begins. */
static size_t break_line(const cells *text, size_t start, size_t columns, size_t *end) {
    size_t width = 0, space = start;
    for (size_t i = start; i < text->n; i++) {
        const cell *at = &text->at[i];
        if (at->bytes[0] == '\n') {
            *end = i;
            return i + 1;
        }
        if (at->bytes[0] == ' ') space = i;
        width += at->width;
        if (width <= columns) continue;
        *end = space > start ? space : i > start ? i : start + 1;
        return space > start ? space + 1 : *end;
    }
    *end = text->n;
    return text->n;
}

/* The first of `room` lines to show. */
static size_t choose_top(const screen *on, size_t room) {
    if (on->n_lines <= room) return 0;
    const size_t last = on->n_lines - room, top = on->top < last ? on->top : last;
    size_t above = SIZE_MAX, below = SIZE_MAX; /* the nearest changed lines out of sight */
    for (size_t i = 0; i < on->n_lines; i++) {
        if (!on->lines[i].changed) continue;
        if (i >= top && i < top + room) return top;
        if (i < top) above = i;
        if (i >= top && below == SIZE_MAX) below = i;
    }
    if (room == 0 || (above == SIZE_MAX && below == SIZE_MAX)) return top;
    if (above == SIZE_MAX) return below - room + 1;
    return below == SIZE_MAX || top - above <= below - (top + room - 1) ? above : below - room + 1;
}

void screen_layout(screen *on, const cells *text, size_t below) {
    terminal_size(STDOUT_FILENO, &on->columns, &on->rows);
    if (on->columns < 2) on->columns = 2;
    on->n_lines = 0;
    for (size_t start = text->n > 0 && text->at[0].bytes[0] == ' ' ? 1 : 0; start < text->n;) {
        size_t end, next = break_line(text, start, on->columns - 1, &end);
        add_line(on, text, start, end);
        start = next;
    }
    const size_t room = on->rows > below ? on->rows - below : 0;
    on->top = choose_top(on, room);
    on->shown = on->n_lines < room ? on->n_lines : room;
    if (on->height > room) on->height = room;
    if (on->height < on->shown) on->height = on->shown;
}

/* ---- frames ------------------------------------------------------------------------------------------- */

static void note_row(screen *on, size_t width) {
    void *array = on->widths;
    if (!grow(&array, &on->widths_capacity, on->n_widths + 1, sizeof *on->widths)) {
        on->failed = true;
        return;
    }
    on->widths = array;
    on->widths[on->n_widths++] = width;
}

/* Back to where the frame before began. A terminal that was made narrower has broken its rows in several; it
 * then holds more than the new frame overwrites, so all is erased. */
static void go_back(screen *on, bool erase) {
    size_t rows = 0;
    for (size_t i = 0; i < on->n_widths; i++) {
        const size_t width = on->widths[i];
        erase |= width > on->columns;
        rows += width > on->columns ? (width + on->columns - 1) / on->columns : 1;
    }
    if (rows > 1) put_format(&on->out, "\033[%zuA", rows - 1);
    if (rows > 0) put_string(&on->out, erase ? "\r\033[J" : "\r");
    on->n_widths = 0;
}

static void send(screen *on) {
    on->failed |= on->out.failed;
    for (size_t at = 0; at < on->out.n && !on->failed;) {
        const ssize_t n = write(STDOUT_FILENO, on->out.bytes + at, on->out.n - at);
        if (n <= 0) break;
        at += (size_t)n;
    }
    on->out.n = 0;
}

static void put_line(screen *on, const cells *text, const line *what) {
    int style = -1;
    for (size_t i = what->start; i < what->end; i++) {
        const cell *at = &text->at[i];
        if (at->style != style) put_string(&on->out, on->look.sequences[at->style]);
        style = at->style;
        put(&on->out, at->bytes, at->n);
    }
    screen_next_row(on, what->width);
}

void screen_begin(screen *on, const cells *text) {
    go_back(on, false);
    for (size_t i = 0; i < on->shown; i++) put_line(on, text, &on->lines[on->top + i]);
    for (size_t i = on->shown; i < on->height; i++) screen_next_row(on, 0);
}

void screen_next_row(screen *on, size_t width) {
    put_string(&on->out, "\033[0m\033[K\n");
    note_row(on, width);
}

void screen_end(screen *on, size_t width) {
    put_string(&on->out, "\033[0m\033[J");
    note_row(on, width);
    send(on);
}

void screen_clear(screen *on) {
    size_t rows;
    terminal_size(STDOUT_FILENO, &on->columns, &rows);
    go_back(on, true);
    send(on);
    on->height = on->top = 0;
}

void screen_leave(screen *on) {
    on->n_widths = on->height = 0;
}

void screen_free(screen *on) {
    free(on->lines);
    free(on->widths);
    free(on->out.bytes);
}
