/* Styles as escape sequences.
 *
 * What the background is cannot be known, so every shade is one that is read on black and on white: they
 * differ in hue, from red (unsure) over green to blue (sure), and have about the same luminance, 0.18, which
 * contrasts with both as 4.5 to 1. Of the 256 colours those nearest to that are taken (3.8 to 1 at least).
 * The 16 colours are what the user's theme makes of them; three hues are told apart. */
#include "palette.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum depth { DEPTH_NONE, DEPTH_16, DEPTH_256, DEPTH_TRUE } depth;

static bool is_set(const char *name) {
    const char *value = getenv(name);
    return value != NULL && value[0] != 0;
}

static depth terminal_depth(void) {
    const char *kind = getenv("TERM"), *more = getenv("COLORTERM");
    if (is_set("NO_COLOR")) return DEPTH_NONE; /* https://no-color.org */
    if (kind != NULL && (strncmp(kind, "vt", 2) == 0 || strstr(kind, "-m") != NULL)) return DEPTH_NONE;
    if (more != NULL && (strcmp(more, "truecolor") == 0 || strcmp(more, "24bit") == 0)) return DEPTH_TRUE;
    if (kind != NULL && strstr(kind, "-direct") != NULL) return DEPTH_TRUE;
    return kind != NULL && strstr(kind, "256color") != NULL ? DEPTH_256 : DEPTH_16;
}

/* The colour of a shade, as parameters of the sequence. */
static void shade_colour(depth colours, unsigned shade, char *buffer, size_t size) {
    static const unsigned char rgb[SHADES][3] = {{218, 58, 18},  {183, 93, 15}, {146, 113, 12},
                                                 {98, 128, 10},  {11, 136, 52}, {11, 132, 121},
                                                 {15, 125, 179}, {24, 113, 236}};
    static const unsigned char of_256[SHADES] = {196, 130, 100, 64, 28, 30, 31, 27};
    static const unsigned char of_16[SHADES] = {31, 31, 31, 32, 32, 32, 36, 36};
    if (colours == DEPTH_TRUE)
        (void)snprintf(buffer, size, ";38;2;%d;%d;%d", rgb[shade][0], rgb[shade][1], rgb[shade][2]);
    else if (colours == DEPTH_256)
        (void)snprintf(buffer, size, ";38;5;%d", of_256[shade]);
    else if (colours == DEPTH_16)
        (void)snprintf(buffer, size, ";%d", of_16[shade]);
    else /* dim where it hesitates between several */
        (void)snprintf(buffer, size, "%s", shade < SHADES / 2 ? ";2" : "");
}

palette terminal_palette(void) {
    static const char *const flashes[] = {"\033[0;2m", "\033[0;97;45m", "\033[0;38;5;16;48;5;205m",
                                          "\033[0;38;2;0;0;0;48;2;255;95;175m"};
    const depth colours = terminal_depth();
    palette made = {.colours = colours != DEPTH_NONE};
    (void)snprintf(made.sequences[STYLE_PLAIN], sizeof *made.sequences, "\033[0m");
    (void)snprintf(made.sequences[STYLE_DIM], sizeof *made.sequences, "\033[0;2m");
    (void)snprintf(made.sequences[STYLE_FLASH], sizeof *made.sequences, "%s", flashes[colours]);
    for (unsigned i = 0; i < SHADES; i++) {
        char colour[32];
        shade_colour(colours, i, colour, sizeof colour);
        (void)snprintf(made.sequences[STYLE_SHADE + i], sizeof *made.sequences, "\033[0%sm", colour);
        (void)snprintf(made.sequences[STYLE_NEW + i], sizeof *made.sequences, "\033[0%s%sm",
                       made.colours ? ";1" : "", colour);
    }
    return made;
}

unsigned shade_of(float confidence) {
    if (!(confidence > 0)) return 0;
    return confidence >= 1 ? SHADES - 1 : (unsigned)(confidence * SHADES);
}
