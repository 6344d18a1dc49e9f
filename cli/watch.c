/* The watch display. A frame is the revealed tokens as text and a dim block for each mask, wrapped to the
 * terminal; the next frame goes back to the first line of the one before and overwrites it, all in one write.
 * Nothing that the model writes reaches the terminal as a control character. */
#include "watch.h"

#include "terminal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

static const char mask_text[] = " \u2591\u2591\u2591", replacement[] = "\uFFFD";

typedef enum style { STYLE_PLAIN, STYLE_NEW, STYLE_MASK, STYLES } style;
static const char *const style_sequences[STYLES] = {"\033[0m", "\033[0;1;36m", "\033[0;2m"};

/* What stands in one place of the screen: a character, or one that joins the one before (width 0). */
typedef struct cell {
    char bytes[5];
    unsigned char n, width;
    unsigned char look; /* style */
} cell;

/* Bytes that grow. */
typedef struct text {
    char *bytes;
    size_t n, capacity;
} text;

struct watch {
    const dlm_tokenizer *tokenizer;
    int32_t end_id;  /* what ends a text, or -1 */
    int32_t *before; /* (n_before) the ids of the frame before */
    size_t n_before;
    cell *cells;
    size_t n_cells, cells_capacity;
    size_t *widths; /* (n_lines) of the lines on the screen */
    size_t n_lines, widths_capacity;
    text out;
    double frame_seconds; /* how long a frame is seen at least */
    double drawn_at;      /* when the frame before was drawn */
    bool failed;          /* no memory: nothing more is drawn */
};

/* Room for `need` elements; false, and the watch stops drawing, without memory. */
static bool grow(watch *shown, void **array, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return true;
    size_t more = need < 64 ? 64 : 2 * need;
    void *grown = realloc(*array, more * size);
    if (grown == NULL) {
        shown->failed = true;
        return false;
    }
    *array = grown;
    *capacity = more;
    return true;
}

static void put(watch *shown, const char *bytes, size_t n) {
    void *array = shown->out.bytes;
    if (!grow(shown, &array, &shown->out.capacity, shown->out.n + n, 1)) return;
    shown->out.bytes = array;
    memcpy(shown->out.bytes + shown->out.n, bytes, n);
    shown->out.n += n;
}

static void put_string(watch *shown, const char *string) {
    put(shown, string, strlen(string));
}

/* ---- cells ----------------------------------------------------------------------------------------------
 */

static void add_cell(watch *shown, const char *bytes, size_t n, int width, style look) {
    void *array = shown->cells;
    if (!grow(shown, &array, &shown->cells_capacity, shown->n_cells + 1, sizeof *shown->cells)) return;
    shown->cells = array;
    cell *added = &shown->cells[shown->n_cells++];
    *added = (cell){.n = (unsigned char)n, .width = (unsigned char)width, .look = (unsigned char)look};
    memcpy(added->bytes, bytes, n);
}

/* Bytes whose looks are given one by one; what is not a printable character becomes U+FFFD. */
static void add_text(watch *shown, const text *bytes, const text *looks) {
    mbstate_t state = {0};
    for (size_t i = 0; i < bytes->n;) {
        style look = (style)looks->bytes[i];
        wchar_t character = 0;
        size_t n = mbrtowc(&character, bytes->bytes + i, bytes->n - i, &state);
        int width = -1;
        if (n == (size_t)-1 || n == (size_t)-2 || n == 0 || n >= sizeof shown->cells->bytes) {
            state = (mbstate_t){0};
            n = 1;
        } else if (character == L'\n') {
            width = 0;
        } else if (character == L'\t') {
            add_cell(shown, " ", 1, 1, look);
            i++;
            continue;
        } else {
            width = wcwidth(character);
        }
        if (width < 0)
            add_cell(shown, replacement, sizeof replacement - 1, 1, look);
        else
            add_cell(shown, bytes->bytes + i, n, width, look);
        i += n;
    }
}

static void add_mask(watch *shown) {
    add_cell(shown, mask_text, 1, 1, STYLE_MASK);
    for (size_t i = 1; i + 3 < sizeof mask_text; i += 3) add_cell(shown, mask_text + i, 3, 1, STYLE_MASK);
}

/* The cells of n ids up to the first end token. Tokens between two masks are decoded together, since one
 * character may take several. */
static void make_cells(watch *shown, const int32_t *ids, size_t n, int32_t mask_id) {
    text run = {0}, looks = {0};
    shown->n_cells = 0;
    for (size_t i = 0; i < n && ids[i] != shown->end_id && !shown->failed; i++) {
        if (ids[i] == mask_id) {
            add_text(shown, &run, &looks);
            run.n = looks.n = 0;
            add_mask(shown);
            continue;
        }
        size_t bytes;
        bool special;
        const char *token = dlm_tokenizer_token(shown->tokenizer, ids[i], &bytes, &special);
        void *run_bytes = run.bytes, *look_bytes = looks.bytes;
        if (token == NULL || !grow(shown, &run_bytes, &run.capacity, run.n + bytes, 1)) continue;
        run.bytes = run_bytes;
        if (!grow(shown, &look_bytes, &looks.capacity, run.n + bytes, 1)) continue;
        looks.bytes = look_bytes;
        if (run.bytes == NULL || looks.bytes == NULL) continue;
        bool is_new = shown->n_before == n && shown->before[i] != ids[i];
        memcpy(run.bytes + run.n, token, bytes);
        memset(looks.bytes + run.n, is_new ? STYLE_NEW : STYLE_PLAIN, bytes);
        run.n += bytes;
        looks.n = run.n;
    }
    add_text(shown, &run, &looks);
    free(run.bytes);
    free(looks.bytes);
}

/* ---- the screen -----------------------------------------------------------------------------------------
 */

/* Back to where the frame before began. A terminal that was made narrower has broken its lines in several. */
static void put_back(watch *shown, size_t columns) {
    size_t lines = 0;
    for (size_t i = 0; i < shown->n_lines; i++) {
        size_t width = shown->widths[i];
        lines += width > columns ? (width + columns - 1) / columns : 1;
    }
    char up[24];
    if (lines > 1) {
        (void)snprintf(up, sizeof up, "\033[%zuA", lines - 1);
        put_string(shown, up);
    }
    if (lines > 0) put_string(shown, "\r\033[J");
    shown->n_lines = 0;
}

static void count_line(watch *shown, size_t width) {
    void *array = shown->widths;
    if (!grow(shown, &array, &shown->widths_capacity, shown->n_lines + 1, sizeof *shown->widths)) return;
    shown->widths = array;
    shown->widths[shown->n_lines++] = width;
}

/* The line of cells from `start`, at most `columns` wide, broken at a space where there is one: *end gets
 * where it ends, the return value where the next begins. */
static size_t break_line(const watch *shown, size_t start, size_t columns, size_t *end) {
    size_t width = 0, space = start;
    for (size_t i = start; i < shown->n_cells; i++) {
        const cell *at = &shown->cells[i];
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
    *end = shown->n_cells;
    return shown->n_cells;
}

static void put_line(watch *shown, size_t start, size_t end) {
    size_t width = 0;
    int look = -1;
    for (size_t i = start; i < end; i++) {
        const cell *at = &shown->cells[i];
        if (at->look != look) put_string(shown, style_sequences[at->look]);
        look = at->look;
        put(shown, at->bytes, at->n);
        width += at->width;
    }
    put_string(shown, "\033[0m\n");
    count_line(shown, width);
}

static void write_out(watch *shown) {
    for (size_t at = 0; at < shown->out.n;) {
        ssize_t n = write(STDOUT_FILENO, shown->out.bytes + at, shown->out.n - at);
        if (n <= 0) break;
        at += (size_t)n;
    }
    shown->out.n = 0;
}

/* All lines that fit above the status line. */
static void draw(watch *shown, const char *status) {
    size_t columns, rows;
    terminal_size(STDOUT_FILENO, &columns, &rows);
    if (columns < 2) columns = 2;
    put_back(shown, columns);
    size_t start = shown->n_cells > 0 && shown->cells[0].bytes[0] == ' ' ? 1 : 0;
    while (start < shown->n_cells && shown->n_lines + 3 < rows) {
        size_t end, next = break_line(shown, start, columns - 1, &end);
        put_line(shown, start, end);
        start = next;
    }
    put_string(shown, "\n");
    count_line(shown, 0);
    int width = (int)(columns - 1), length = (int)strlen(status);
    put_string(shown, style_sequences[STYLE_MASK]);
    put(shown, status, (size_t)(length < width ? length : width));
    put_string(shown, style_sequences[STYLE_PLAIN]);
    count_line(shown, (size_t)(length < width ? length : width));
    write_out(shown);
}

/* Sleeps until the frame before has been seen for frame_seconds. */
static void wait_for_frame(watch *shown) {
    double rest = shown->drawn_at + shown->frame_seconds - seconds_now();
    if (rest > 1e6) rest = 1e6;
    if (rest > 0) {
        struct timespec pause = {.tv_sec = (time_t)rest, .tv_nsec = (long)((rest - floor(rest)) * 1e9)};
        (void)nanosleep(&pause, NULL); /* a signal ends it */
    }
    shown->drawn_at = seconds_now();
}

bool watch_step(void *user, const dlm_sample_step *step) {
    watch *shown = user;
    if (shown->failed || stop_signal() != 0) return stop_signal() != 0;
    size_t n = step->offsets[1] - step->offsets[0], masked = 0;
    for (size_t i = 0; i < n; i++) masked += step->ids[i] == step->mask_id;
    wait_for_frame(shown);
    make_cells(shown, step->ids, n, step->mask_id);
    char status[120];
    (void)snprintf(status, sizeof status, "step %zu of %zu, %zu of %zu tokens hidden", step->step,
                   step->steps, masked, n);
    if (shown->n_lines == 0) {
        (void)fflush(stdout);
        hide_cursor();
    }
    draw(shown, status);
    int32_t *kept = realloc(shown->before, (n + 1) * sizeof *kept);
    if (kept == NULL) {
        shown->failed = true;
        return false;
    }
    memcpy(kept, step->ids, n * sizeof *kept);
    shown->before = kept;
    shown->n_before = n;
    return stop_signal() != 0;
}

watch_choice watch_choice_defaults(void) {
    return (watch_choice){.fps = 30};
}

watch *watch_open(const dlm_model *model, const watch_choice *choice) {
    watch *shown = calloc(1, sizeof *shown);
    if (shown == NULL) return NULL;
    shown->frame_seconds = choice->fps > 0 ? 1 / choice->fps : 0;
    shown->tokenizer = dlm_model_tokenizer(model);
    shown->end_id = dlm_model_config(model)->end_token ? dlm_tokenizer_describe(shown->tokenizer).end_id : -1;
    return shown;
}

void watch_clear(watch *shown) {
    if (shown == NULL) return;
    size_t columns, rows;
    terminal_size(STDOUT_FILENO, &columns, &rows);
    put_back(shown, columns);
    write_out(shown);
    shown->n_before = 0;
    show_cursor();
}

void watch_close(watch *shown) {
    if (shown == NULL) return;
    watch_clear(shown);
    free(shown->before);
    free(shown->cells);
    free(shown->widths);
    free(shown->out.bytes);
    free(shown);
}
