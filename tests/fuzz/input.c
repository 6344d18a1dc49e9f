/* Compressed input, whose checksums hide what stands behind them from changed bytes: the target compresses.
 * The first byte chooses gzip or Zstandard and how large the reads are, the second how the rest is cut into
 * members or frames, the third and fourth where the file ends too early. The text comes back, or a message
 * that it was cut off behind a beginning of it. */
#include "fuzz_file.h"

#include "text/input.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { HEAD = 4, PIECES = 8, TEXT_MAX = 1 << 16 };

/* One gzip member of n bytes of text, behind to[used]; where it ends. */
static size_t put_member(unsigned char *to, size_t used, size_t room, const uint8_t *text, size_t n) {
    z_stream stream = {0};
    if (deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) abort();
    stream.next_in = (unsigned char *)(uintptr_t)text; /* NOLINT(performance-no-int-to-ptr) */
    stream.avail_in = (uInt)n;
    stream.next_out = to + used;
    stream.avail_out = (uInt)(room - used);
    if (deflate(&stream, Z_FINISH) != Z_STREAM_END) abort();
    used = room - stream.avail_out;
    (void)deflateEnd(&stream);
    return used;
}

static size_t put_frame(unsigned char *to, size_t used, size_t room, const uint8_t *text, size_t n) {
    size_t more = ZSTD_compress(to + used, room - used, text, n, 1);
    if (ZSTD_isError(more)) abort();
    return used + more;
}

/* Reads all of the file in steps; the status, and how much of text that was. */
static dlm_status read_back(const char *path, size_t step, const uint8_t *text, size_t n, size_t *given,
                            dlm_error *err) {
    dlm_input *input;
    char *part = malloc(step);
    if (part == NULL || dlm__input_open(path, &input, err) != DLM_OK) abort();
    dlm_status status;
    size_t got;
    *given = 0;
    while ((status = dlm__input_read(input, part, step, &got, err)) == DLM_OK && got > 0) {
        if (got > step || got > n - *given || memcmp(part, text + *given, got) != 0) abort();
        *given += got;
    }
    dlm__input_close(input);
    free(part);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static unsigned char made[2 * TEXT_MAX];
    if (n < HEAD || n - HEAD > TEXT_MAX) return 0;
    const uint8_t *text = bytes + HEAD;
    size_t size = n - HEAD, step = 1 + (size_t)(bytes[0] >> 1) * 16, used = 0, at = 0;
    size_t ends[PIECES + 1] = {0}, pieces = 1 + bytes[1] % PIECES; /* ends: bytes of the file */
    for (size_t i = 0; i < pieces; i++) {
        size_t next = size * (i + 1) / pieces;
        used = (bytes[0] & 1 ? put_frame : put_member)(made, used, sizeof made, text + at, next - at);
        ends[i + 1] = used;
        at = next;
    }
    size_t cut = used - (bytes[2] + 256 * (size_t)bytes[3]) % (used + 1), whole = 0, given;
    while (whole < pieces && ends[whole + 1] <= cut) whole++;
    if (cut < 4) return 0; /* too short to be known for compressed */
    const char *path = fuzz_file(made, cut);
    dlm_error err;
    dlm_status status = read_back(path, step, text, size, &given, &err);
    if (given < size * whole / pieces) abort();
    if ((status == DLM_OK) != (ends[whole] == cut)) abort();
    if (status == DLM_OK ? given != size * whole / pieces : strncmp(err.message, path, strlen(path)) != 0)
        abort();
    return 0;
}
