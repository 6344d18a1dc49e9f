/* A line plot as one SVG file that needs nothing else: axes with labelled ticks, a line for each series with
 * its points and a band for their error, a legend. */
#ifndef DLM_CLI_PLOT_H
#define DLM_CLI_PLOT_H

#include <stddef.h>

typedef struct plot_series {
    const char *name; /* any bytes */
    size_t n;
    const double *x, *y, *low, *high; /* (n); low and high: the band, not numbers where there is none */
} plot_series;

typedef struct plot {
    const char *title, *subtitle, *x_label, *y_label;
    double x_min, x_max;
    size_t n;
    const plot_series *series; /* (n) */
} plot;

/* The SVG, *size bytes and a 0 behind them; free() it. NULL, said, without memory. The y axis spans all lines
 * and bands. */
char *draw_plot(const plot *what, size_t *size);

#endif
