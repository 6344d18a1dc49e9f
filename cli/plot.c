/* Line plots in SVG 1.1. */
#include "plot.h"

#include "terminal.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 760,
    HEIGHT = 460,
    LEFT = 66,
    RIGHT = 24,
    TOP = 76,
    BOTTOM = 58,
    TICKS = 6,
    NAME_MAX_BYTES = 72
};

/* Told apart by most eyes that see fewer colours (Okabe and Ito). */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7"};
enum { COLOURS = sizeof colours / sizeof colours[0] };

/* ---- text --------------------------------------------------------------------------------------------- */

/* Bytes of the well-formed UTF-8 character at text, 0 where there is none. */
static size_t character(const unsigned char *text, size_t n) {
    const unsigned char first = text[0];
    const size_t size = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
    if (size > n) return 0;
    for (size_t i = 1; i < size; i++)
        if ((text[i] & 0xC0) != 0x80) return 0;
    if ((first == 0xE0 && text[1] < 0xA0) || (first == 0xF0 && text[1] < 0x90) ||
        (first == 0xED && text[1] > 0x9F) || (first == 0xF4 && text[1] > 0x8F))
        return 0;
    return size;
}

/* Text as XML has it: escaped, and what XML cannot hold as U+FFFD. */
static void write_escaped(FILE *to, const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    for (size_t n = strlen(text), size; n > 0; at += size, n -= size) {
        size = character(at, n);
        const bool none = size == 0 || at[0] < 0x20 || at[0] == 0x7F ||
                          (size == 3 && at[0] == 0xEF && at[1] == 0xBF && at[2] >= 0xBE);
        if (none)
            (void)fputs("\xEF\xBF\xBD", to);
        else if (strchr("<>&\"'", at[0]) != NULL)
            (void)fprintf(to, "&#%d;", at[0]);
        else
            (void)fwrite(at, 1, size, to);
        if (size == 0) size = 1;
    }
}

/* The end of a long name, which is what tells runs and checkpoints apart. */
static void write_name(FILE *to, const char *name) {
    const size_t n = strlen(name);
    if (n > NAME_MAX_BYTES) {
        name += n - NAME_MAX_BYTES;
        while ((*(const unsigned char *)name & 0xC0) == 0x80) name++;
        (void)fputs("\xE2\x80\xA6", to);
    }
    write_escaped(to, name);
}

/* ---- axes --------------------------------------------------------------------------------------------- */

typedef struct axis {
    double min, max, step; /* ticks at multiples of step */
    double from, to;       /* where min and max lie */
} axis;

static double place(const axis *a, double value) {
    return a->from + (value - a->min) / (a->max - a->min) * (a->to - a->from);
}

/* 1, 2 or 5 times a power of ten, with which there are about `TICKS` ticks. */
static double nice_step(double span) {
    const double rough = span / TICKS, power = pow(10, floor(log10(rough)));
    const double times = rough / power;
    return power * (times >= 7 ? 10 : times >= 3.5 ? 5 : times >= 1.5 ? 2 : 1);
}

static void widen(double value, double *min, double *max) {
    if (!isfinite(value)) return;
    *min = fmin(*min, value);
    *max = fmax(*max, value);
}

static axis y_axis(const plot *what) {
    double min = INFINITY, max = -INFINITY;
    for (size_t s = 0; s < what->n; s++) {
        const plot_series *series = &what->series[s];
        for (size_t i = 0; i < series->n; i++) {
            widen(series->y[i], &min, &max);
            widen(series->low[i], &min, &max);
            widen(series->high[i], &min, &max);
        }
    }
    if (!(min <= max)) min = max = 0;
    if (max - min < 1e-6 * fmax(1, fabs(max))) {
        min -= 0.5;
        max += 0.5;
    }
    axis a = {.step = nice_step(max - min), .from = HEIGHT - BOTTOM, .to = TOP};
    a.min = floor(min / a.step) * a.step;
    a.max = ceil(max / a.step) * a.step;
    return a;
}

static axis x_axis(const plot *what) {
    return (axis){.min = what->x_min,
                  .max = what->x_max,
                  .step = nice_step(what->x_max - what->x_min),
                  .from = LEFT,
                  .to = WIDTH - RIGHT};
}

static size_t ticks(const axis *a) {
    return (size_t)floor((a->max - a->min) / a->step + 1e-6) + 1;
}

static double tick(const axis *a, size_t i) {
    const double value = a->min + (double)i * a->step;
    return fabs(value) < 1e-9 * a->step ? 0 : value;
}

static int decimals(const axis *a) {
    const double digits = -floor(log10(a->step) + 1e-9);
    return digits > 0 ? (int)digits : 0;
}

static void draw_axes(FILE *to, const plot *what, const axis *x, const axis *y) {
    (void)fputs("<g stroke=\"#e3e6ea\" stroke-width=\"1\">\n", to);
    for (size_t i = 0; i < ticks(y); i++)
        (void)fprintf(to, "<line x1=\"%d\" y1=\"%.2f\" x2=\"%d\" y2=\"%.2f\"/>\n", LEFT, place(y, tick(y, i)),
                      WIDTH - RIGHT, place(y, tick(y, i)));
    for (size_t i = 0; i < ticks(x); i++)
        (void)fprintf(to, "<line x1=\"%.2f\" y1=\"%d\" x2=\"%.2f\" y2=\"%d\"/>\n", place(x, tick(x, i)), TOP,
                      place(x, tick(x, i)), HEIGHT - BOTTOM);
    (void)fprintf(to, "</g>\n<path d=\"M%d %d V%d H%d\" fill=\"none\" stroke=\"#5b6470\"/>\n", LEFT, TOP,
                  HEIGHT - BOTTOM, WIDTH - RIGHT);
    (void)fputs("<g class=\"x-ticks\" text-anchor=\"middle\">\n", to);
    for (size_t i = 0; i < ticks(x); i++)
        (void)fprintf(to, "<text x=\"%.2f\" y=\"%d\">%.*f</text>\n", place(x, tick(x, i)),
                      HEIGHT - BOTTOM + 18, decimals(x), tick(x, i));
    (void)fputs("</g>\n<g class=\"y-ticks\" text-anchor=\"end\" dominant-baseline=\"middle\">\n", to);
    for (size_t i = 0; i < ticks(y); i++)
        (void)fprintf(to, "<text x=\"%d\" y=\"%.2f\">%.*f</text>\n", LEFT - 8, place(y, tick(y, i)),
                      decimals(y), tick(y, i));
    (void)fprintf(to, "</g>\n<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2,
                  HEIGHT - BOTTOM + 42);
    write_escaped(to, what->x_label);
    const int middle = (TOP + HEIGHT - BOTTOM) / 2;
    (void)fprintf(to,
                  "</text>\n<text x=\"18\" y=\"%d\" text-anchor=\"middle\" transform=\"rotate(-90 18 %d)\">",
                  middle, middle);
    write_escaped(to, what->y_label);
    (void)fputs("</text>\n", to);
}

/* ---- series ------------------------------------------------------------------------------------------- */

static void draw_band(FILE *to, const plot_series *series, const char *colour, const axis *x, const axis *y) {
    for (size_t i = 0; i < series->n; i++)
        if (!isfinite(series->low[i]) || !isfinite(series->high[i])) return;
    (void)fprintf(to, "<polygon class=\"band\" fill=\"%s\" fill-opacity=\"0.18\" points=\"", colour);
    for (size_t i = 0; i < series->n; i++)
        (void)fprintf(to, "%.2f,%.2f ", place(x, series->x[i]), place(y, series->high[i]));
    for (size_t i = series->n; i-- > 0;)
        (void)fprintf(to, "%.2f,%.2f%s", place(x, series->x[i]), place(y, series->low[i]),
                      i > 0 ? " " : "\"/>\n");
}

static void draw_series(FILE *to, const plot_series *series, const char *colour, const axis *x,
                        const axis *y) {
    (void)fputs("<g class=\"series\">\n", to);
    draw_band(to, series, colour, x, y);
    (void)fprintf(
        to, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"",
        colour);
    for (size_t i = 0; i < series->n; i++)
        (void)fprintf(to, "%s%.2f,%.2f", i > 0 ? " " : "", place(x, series->x[i]), place(y, series->y[i]));
    (void)fprintf(to, "\"/>\n<g fill=\"%s\">\n", colour);
    for (size_t i = 0; i < series->n; i++)
        (void)fprintf(to, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"2.6\"><title>%g: %.4f</title></circle>\n",
                      place(x, series->x[i]), place(y, series->y[i]), series->x[i], series->y[i]);
    (void)fputs("</g>\n</g>\n", to);
}

static void draw_legend(FILE *to, const plot *what) {
    for (size_t s = 0; s < what->n; s++) {
        const int y = TOP + 16 + 18 * (int)s;
        (void)fprintf(to,
                      "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"3\"/>\n"
                      "<text class=\"name\" x=\"%d\" y=\"%d\" dominant-baseline=\"middle\">",
                      LEFT + 14, y, LEFT + 38, y, colours[s % COLOURS], LEFT + 46, y);
        write_name(to, what->series[s].name);
        (void)fputs("</text>\n", to);
    }
}

static void draw(FILE *to, const plot *what) {
    const axis x = x_axis(what), y = y_axis(what);
    (void)fprintf(
        to,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
        "font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\" font-size=\"13\" "
        "fill=\"#2b3138\">\n<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n"
        "<text x=\"%d\" y=\"32\" font-size=\"18\" font-weight=\"600\">",
        WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    write_escaped(to, what->title);
    (void)fprintf(to, "</text>\n<text x=\"%d\" y=\"54\" fill=\"#5b6470\">", LEFT);
    write_escaped(to, what->subtitle);
    (void)fputs("</text>\n", to);
    draw_axes(to, what, &x, &y);
    for (size_t s = 0; s < what->n; s++) draw_series(to, &what->series[s], colours[s % COLOURS], &x, &y);
    draw_legend(to, what);
    (void)fputs("</svg>\n", to);
}

char *draw_plot(const plot *what, size_t *size) {
    char *text = NULL;
    FILE *to = open_memstream(&text, size);
    if (to != NULL) {
        draw(to, what);
        const bool wrong = ferror(to) != 0;
        if (fclose(to) == 0 && !wrong) return text;
    }
    free(text);
    (void)fail("out of memory");
    return NULL;
}
