/* Text files, plain or compressed: see input.h. A gzip file may have several members, a Zstandard file
 * several frames, one behind the other; the end of the file is good only behind a whole one. */
#include "text/input.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK       ((size_t)1 << 17)
#define MAGIC_BYTES 4
#define GZIP_WINDOW (15 + 16) /* the largest window; 16 asks zlib for gzip headers */

typedef enum input_kind { PLAIN, GZIP, ZSTD } input_kind;

struct dlm_input {
    const char *name;
    int file;
    input_kind kind;
    unsigned char chunk[CHUNK]; /* bytes of the file: chunk[at, end) are not used yet */
    size_t at, end;
    bool at_end;          /* nothing follows in the file */
    bool open;            /* inside a gzip member or Zstandard frame */
    uint64_t read, given; /* bytes of the file, of the text */
    z_stream gzip;
    ZSTD_DStream *zstd;
};

/* Reads more of the file when the chunk is used up. */
static dlm_status refill(dlm_input *input, dlm_error *err) {
    while (input->at == input->end && !input->at_end) {
        ssize_t got = read(input->file, input->chunk, CHUNK);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return dlm__fail_errno(err, errno, "%s", input->name);
        input->at = 0;
        input->end = (size_t)got;
        input->read += (uint64_t)got;
        input->at_end = got == 0;
    }
    return DLM_OK;
}

/* Reads the first bytes, by which the kind is told; a pipe may give them one at a time. */
static dlm_status read_magic(dlm_input *input, dlm_error *err) {
    while (input->end < MAGIC_BYTES && !input->at_end) {
        ssize_t got = read(input->file, input->chunk + input->end, CHUNK - input->end);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return dlm__fail_errno(err, errno, "%s", input->name);
        input->end += (size_t)got;
        input->read += (uint64_t)got;
        input->at_end = got == 0;
    }
    return DLM_OK;
}

static input_kind kind_of(const unsigned char *bytes, size_t n) {
    static const unsigned char frame[4] = {0x28, 0xb5, 0x2f, 0xfd}, skipped[3] = {0x2a, 0x4d, 0x18};
    if (n >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b) return GZIP;
    if (n >= 4 && memcmp(bytes, frame, 4) == 0) return ZSTD;
    if (n >= 4 && (bytes[0] & 0xf0) == 0x50 && memcmp(bytes + 1, skipped, 3) == 0) return ZSTD;
    return PLAIN;
}

static dlm_status start(dlm_input *input, dlm_error *err) {
    DLM_TRY(read_magic(input, err));
    input->kind = kind_of(input->chunk, input->end);
    if (input->kind == GZIP && inflateInit2(&input->gzip, GZIP_WINDOW) != Z_OK) {
        input->kind = PLAIN;
        return dlm__fail_memory(err, "zlib", sizeof input->gzip);
    }
    if (input->kind == ZSTD && (input->zstd = ZSTD_createDStream()) == NULL) {
        return dlm__fail_memory(err, "zstd", sizeof *input);
    }
    return DLM_OK;
}

dlm_status dlm__input_open(const char *path, dlm_input **input, dlm_error *err) {
    *input = NULL;
    bool standard = strcmp(path, "-") == 0;
    int file = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return dlm__fail_errno(err, errno, "%s", path);
    dlm_input *new = dlm__calloc(1, sizeof *new);
    if (new == NULL) {
        if (!standard) close(file);
        return dlm__fail_memory(err, "a file buffer", sizeof *new);
    }
    new->name = standard ? "standard input" : path;
    new->file = file;
    dlm_status status = start(new, err);
    if (status != DLM_OK) {
        dlm__input_close(new);
        return status;
    }
    *input = new;
    return DLM_OK;
}

void dlm__input_close(dlm_input *input) {
    if (input == NULL) return;
    if (input->kind == GZIP) inflateEnd(&input->gzip);
    ZSTD_freeDStream(input->zstd);
    if (input->file != STDIN_FILENO) close(input->file);
    free(input);
}

uint64_t dlm__input_used(const dlm_input *input) {
    return input->read - (input->end - input->at);
}

const char *dlm__input_kind(const dlm_input *input) {
    return input->kind == PLAIN ? "" : "decompressed ";
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static dlm_status read_plain(dlm_input *input, char *text, size_t n, size_t *got, dlm_error *err) {
    DLM_TRY(refill(input, err));
    *got = input->end - input->at < n ? input->end - input->at : n;
    memcpy(text, input->chunk + input->at, *got);
    input->at += *got;
    return DLM_OK;
}

static dlm_status corrupt(const dlm_input *input, const char *format, const char *why, dlm_error *err) {
    return dlm__fail(err, DLM_FORMAT, "%s: the %s data is corrupt behind %llu bytes of text: %s", input->name,
                     format, (unsigned long long)input->given, why);
}

static dlm_status cut_off(const dlm_input *input, const char *format, dlm_error *err) {
    return dlm__fail(err, DLM_FORMAT, "%s: the %s data is cut off behind %llu bytes of text", input->name,
                     format, (unsigned long long)input->given);
}

/* One call of zlib on what is in the chunk; *got bytes of text. */
static dlm_status inflate_chunk(dlm_input *input, char *text, size_t n, size_t *got, dlm_error *err) {
    if (!input->open && inflateReset(&input->gzip) != Z_OK)
        return corrupt(input, "gzip", "zlib has lost its state", err);
    input->open = true;
    uInt room = n < UINT_MAX ? (uInt)n : UINT_MAX;
    input->gzip.next_in = input->chunk + input->at;
    input->gzip.avail_in = (uInt)(input->end - input->at);
    input->gzip.next_out = (unsigned char *)text;
    input->gzip.avail_out = room;
    int result = inflate(&input->gzip, Z_NO_FLUSH);
    input->at = input->end - input->gzip.avail_in;
    *got = room - input->gzip.avail_out;
    if (result == Z_STREAM_END) {
        input->open = false;
    } else if (result == Z_MEM_ERROR) {
        return dlm__fail_memory(err, "zlib", n);
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return corrupt(input, "gzip", input->gzip.msg == NULL ? "zlib refuses it" : input->gzip.msg, err);
    }
    return DLM_OK;
}

static dlm_status decompress_chunk(dlm_input *input, char *text, size_t n, size_t *got, dlm_error *err) {
    ZSTD_inBuffer in = {input->chunk, input->end, input->at};
    ZSTD_outBuffer out = {text, n, 0};
    size_t result = ZSTD_decompressStream(input->zstd, &out, &in);
    if (ZSTD_isError(result)) return corrupt(input, "Zstandard", ZSTD_getErrorName(result), err);
    input->at = in.pos;
    input->open = result != 0;
    *got = out.pos;
    return DLM_OK;
}

/* Goes on until there is text or the file has ended. A decoder may hold back text when it has taken all of
 * the file, so it is asked once more before an open member or frame counts as cut off. */
static dlm_status read_compressed(dlm_input *input, char *text, size_t n, size_t *got, dlm_error *err) {
    bool gzip = input->kind == GZIP;
    *got = 0;
    while (*got == 0) {
        DLM_TRY(refill(input, err));
        bool last = input->at_end && input->at == input->end;
        if (last && !input->open) break;
        DLM_TRY((gzip ? inflate_chunk : decompress_chunk)(input, text, n, got, err));
        if (last && input->open && *got == 0) return cut_off(input, gzip ? "gzip" : "Zstandard", err);
    }
    return DLM_OK;
}

dlm_status dlm__input_read(dlm_input *input, char *text, size_t n, size_t *got, dlm_error *err) {
    DLM_TRY((input->kind == PLAIN ? read_plain : read_compressed)(input, text, n, got, err));
    input->given += *got;
    return DLM_OK;
}
