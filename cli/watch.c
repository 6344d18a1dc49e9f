/* The watch display: the text with each revealed token in the shade of its confidence, new ones bold, those
 * that are masked again or drawn anew flashing, a block for each mask; below it how far the sampler is. */
#include "watch.h"

#include "cells.h"
#include "screen.h"
#include "terminal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double flash_seconds = 0.25;

/* What was seen of a position. */
typedef struct seen {
    int32_t id;
    float confidence;
    double flashed_at; /* when it was last masked again; before all time: never */
} seen;

struct watch {
    const dlm_tokenizer *tokenizer;
    int32_t end_id; /* what ends a text, or -1 */
    seen *before;   /* (n) as of the frame before */
    size_t n, before_capacity;
    unsigned char *looks; /* (n) */
    size_t looks_capacity;
    cells text;
    screen on;
    double frame_seconds; /* how long a frame is seen at least */
    double drawn_at;      /* when the frame before was drawn */
    double started;       /* the text */
    bool failed;          /* no memory: nothing more is drawn */
};

watch_choice watch_choice_defaults(void) {
    return (watch_choice){.fps = 30};
}

/* ---- looks -------------------------------------------------------------------------------------------- */

static bool begin_text(watch *shown, size_t n) {
    void *before = shown->before, *looks = shown->looks;
    shown->failed |= !grow(&before, &shown->before_capacity, n, sizeof *shown->before);
    shown->before = before;
    shown->failed |= !grow(&looks, &shown->looks_capacity, n, 1);
    shown->looks = looks;
    shown->started = seconds_now();
    shown->n = n;
    return !shown->failed;
}

/* How position i looks, whose token and confidence may have changed since the frame before. A token that is
 * another one, or has another confidence, was masked in between. */
static unsigned char look_of(watch *shown, const dlm_sample_step *step, size_t i, bool first, double now) {
    seen *was = &shown->before[i];
    const seen is = {step->ids[i], step->confidence[i], first ? -HUGE_VAL : was->flashed_at};
    const bool masked = is.id == step->mask_id;
    const bool changed = !first && (is.id != was->id || is.confidence != was->confidence);
    const bool again = changed && was->id != step->mask_id;
    *was = is;
    if (again) was->flashed_at = now;
    unsigned look = STYLE_PLAIN; /* a token that was given */
    if (now - was->flashed_at < flash_seconds)
        look = STYLE_FLASH;
    else if (masked)
        look = STYLE_DIM;
    else if (!step->fixed[i] && is.confidence > 0)
        look = (changed ? STYLE_NEW : STYLE_SHADE) + shade_of(is.confidence);
    return (unsigned char)(look | (changed ? LOOK_CHANGED : 0));
}

/* ---- below the text ----------------------------------------------------------------------------------- */

/* Adds a part to the status line if it fits. */
static void add_part(char *status, size_t columns, const char *part) {
    const size_t used = strlen(status), gap = used > 0 ? 2 : 0, n = strlen(part);
    if (used > 0 && used + gap + n >= columns) return;
    (void)snprintf(status + used, columns - used, "%s%s", gap > 0 ? "  " : "", part);
}

/* The status line, shorter than the screen is wide; returns its length. */
static size_t put_status(watch *shown, const dlm_sample_step *step) {
    char status[160] = "", part[64], bar[11];
    const screen *on = &shown->on;
    const size_t n = shown->n, columns = on->columns < sizeof status ? on->columns : sizeof status;
    size_t masked = 0;
    for (size_t i = 0; i < n; i++) masked += step->ids[i] == step->mask_id;
    const double share = (double)masked / (double)n;
    (void)snprintf(part, sizeof part, "step %zu of %zu", step->step, step->steps);
    add_part(status, columns, part);
    if (step->tries > 1) {
        (void)snprintf(part, sizeof part, "try %zu of %zu", step->first % step->tries + 1, step->tries);
        add_part(status, columns, part);
    }
    write_bar(share, sizeof bar - 1, bar, sizeof bar);
    (void)snprintf(part, sizeof part, "masked %3.0f%% %s", 100 * share, bar);
    add_part(status, columns, part);
    if (on->shown < on->n_lines) {
        (void)snprintf(part, sizeof part, "lines %zu-%zu of %zu", on->top + 1, on->top + on->shown,
                       on->n_lines);
        add_part(status, columns, part);
    }
    (void)snprintf(part, sizeof part, "t %.3f", step->times[0]);
    add_part(status, columns, part);
    (void)snprintf(part, sizeof part, "passes %zu", step->forwards);
    add_part(status, columns, part);
    (void)snprintf(part, sizeof part, "%.1f s", seconds_now() - shown->started);
    add_part(status, columns, part);
    put_string(&shown->on.out, status);
    return strlen(status);
}

/* What the looks mean; returns how wide that is. */
static size_t put_legend(watch *shown) {
    buffer *out = &shown->on.out;
    const palette *look = &shown->on.look;
    if (!look->colours) {
        static const char words[] = "dim: less probable than not";
        put_format(out, "%s%s", look->sequences[STYLE_DIM], words);
        return sizeof words - 1;
    }
    put_format(out, "%sunsure ", look->sequences[STYLE_DIM]);
    for (size_t i = 0; i < SHADES; i++) put_format(out, "%s\u2588", look->sequences[STYLE_SHADE + i]);
    put_format(out, "%s sure  %snew%s  %smasked again", look->sequences[STYLE_DIM],
               look->sequences[STYLE_NEW + SHADES - 1], look->sequences[STYLE_PLAIN],
               look->sequences[STYLE_FLASH]);
    return sizeof "unsure " - 1 + SHADES + sizeof " sure  new  masked again" - 1;
}

/* ---- frames ------------------------------------------------------------------------------------------- */

/* Sleeps until the frame before has been seen long enough. */
static void wait_for_frame(watch *shown) {
    double rest = shown->drawn_at + shown->frame_seconds - seconds_now();
    if (rest > 1e6) rest = 1e6;
    if (rest > 0) {
        struct timespec pause = {.tv_sec = (time_t)rest, .tv_nsec = (long)((rest - floor(rest)) * 1e9)};
        (void)nanosleep(&pause, NULL); /* a signal ends it */
    }
    shown->drawn_at = seconds_now();
}

/* The text, an empty row, the status line and the legend, as far as there is room for them. */
static void draw(watch *shown, const dlm_sample_step *step) {
    enum { LEGEND_ROWS = 10, LEGEND_COLUMNS = 42 };
    screen *on = &shown->on;
    size_t columns, rows;
    terminal_size(STDOUT_FILENO, &columns, &rows);
    const bool gap = rows >= 4, legend = rows >= LEGEND_ROWS && columns >= LEGEND_COLUMNS;
    screen_layout(on, &shown->text, 1 + (size_t)gap + legend);
    screen_begin(on, &shown->text);
    if (gap) screen_next_row(on, 0);
    size_t width = put_status(shown, step);
    if (legend) {
        screen_next_row(on, width);
        width = put_legend(shown);
    }
    screen_end(on, width);
}

bool watch_step(void *user, const dlm_sample_step *step) {
    watch *shown = user;
    if (shown->failed || stop_signal() != 0) return stop_signal() != 0;
    const size_t n = step->offsets[1] - step->offsets[0];
    const bool first = step->step == 0 || n != shown->n;
    wait_for_frame(shown);
    if (stop_signal() != 0 || (first && !begin_text(shown, n))) return stop_signal() != 0;
    for (size_t i = 0; i < n; i++) shown->looks[i] = look_of(shown, step, i, first, shown->drawn_at);
    make_cells(&shown->text, shown->tokenizer, step->ids, shown->looks, n, shown->end_id, step->mask_id);
    if (shown->on.n_widths == 0) {
        (void)fflush(stdout);
        hide_cursor();
    }
    if (was_resumed()) screen_leave(&shown->on);
    if (!shown->text.failed) draw(shown, step);
    shown->failed = shown->text.failed || shown->on.failed;
    return stop_signal() != 0;
}

/* ---- the display -------------------------------------------------------------------------------------- */

static void clear(void *user) {
    watch *shown = user;
    screen_clear(&shown->on);
    show_cursor();
}

watch *watch_open(const dlm_model *model, const watch_choice *choice) {
    watch *shown = calloc(1, sizeof *shown);
    if (shown == NULL) return NULL;
    shown->frame_seconds = choice->fps > 0 ? 1 / choice->fps : 0;
    shown->tokenizer = dlm_model_tokenizer(model);
    shown->end_id = dlm_model_config(model)->end_token ? dlm_tokenizer_describe(shown->tokenizer).end_id : -1;
    shown->on.look = terminal_palette();
    before_messages(clear, shown);
    return shown;
}

void watch_end(watch *shown) {
    if (shown == NULL) return;
    if (shown->on.n_widths > 0 && stop_signal() == 0) wait_for_frame(shown);
    clear(shown);
    shown->n = 0;
}

void watch_close(watch *shown) {
    if (shown == NULL) return;
    clear(shown);
    before_messages(NULL, NULL);
    free(shown->before);
    free(shown->looks);
    free_cells(&shown->text);
    screen_free(&shown->on);
    free(shown);
}
