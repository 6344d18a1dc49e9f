/* The documents of text files, one after the other, in the memory of the longest: a buffer slides over each
 * file's text, from the first byte not yet given to what was read last. Where a document ends is found first,
 * on raw bytes; only then is it checked for UTF-8 and trimmed or parsed. Lines and separators are ASCII, so
 * no invalid sequence reaches across them. */
#include "base/base.h"
#include "text/input.h"
#include "text/utf8.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define READ_BYTES         ((size_t)1 << 18)
#define DOCUMENT_BYTES_MAX ((size_t)1 << 30)
#define SEPARATOR          "<|endoftext|>"

struct dlm_documents {
    const char *const *paths;
    size_t path_count, next_path;
    dlm_text_options options;
    char *field;

    dlm_input *input; /* the open file, NULL between files */
    const char *name;
    bool ended;      /* all of the file is in the buffer */
    bool whole_done; /* DLM_TEXT_WHOLE: its one document was given */
    uint64_t offset; /* of buffer[start] in the file's text */
    uint64_t line;   /* lines before buffer[start]; counted for DLM_TEXT_LINES and DLM_TEXT_JSONL */
    char *buffer;    /* text [start, end) is not given yet */
    size_t start, end, capacity;

    char *replaced; /* the document with its invalid parts replaced */
    size_t replaced_capacity;
    json_t *object; /* of the document's line */

    uint64_t used;  /* bytes of the files closed so far */
    uint64_t total; /* of all files, 0 where unknown */
};

dlm_text_options dlm_text_defaults(void) {
    return (dlm_text_options){.format = DLM_TEXT_SEPARATED, .field = "text", .max_bytes = DOCUMENT_BYTES_MAX};
}

/* ---- opening ------------------------------------------------------------------------------------------ */

static dlm_status check_options(size_t n, const dlm_text_options *options, dlm_error *err) {
    if (n == 0) return dlm__fail(err, DLM_ARGUMENT, "no text file is named");
    if ((int)options->format < DLM_TEXT_SEPARATED || options->format > DLM_TEXT_WHOLE) {
        return dlm__fail(err, DLM_ARGUMENT, "%d is no text format", (int)options->format);
    }
    if (options->format == DLM_TEXT_JSONL && options->field == NULL) {
        return dlm__fail(err, DLM_ARGUMENT, "the field of the JSON objects is not named");
    }
    return DLM_OK;
}

/* Sums the sizes of the files into documents->total; 0 when one of them is no regular file. A missing one is
 * an error now, not hours later when its turn comes. */
static dlm_status measure(dlm_documents *documents, dlm_error *err) {
    bool known = true;
    for (size_t i = 0; i < documents->path_count; i++) {
        struct stat status;
        bool standard = strcmp(documents->paths[i], "-") == 0;
        if (!standard && stat(documents->paths[i], &status) != 0) {
            return dlm__fail_errno(err, errno, "%s", documents->paths[i]);
        }
        known = known && !standard && S_ISREG(status.st_mode);
        if (known) documents->total += (uint64_t)status.st_size;
    }
    if (!known) documents->total = 0;
    return DLM_OK;
}

dlm_status dlm_documents_open(const char *const *paths, size_t n, const dlm_text_options *options,
                              dlm_documents **documents, dlm_error *err) {
    *documents = NULL;
    DLM_TRY(check_options(n, options, err));
    dlm_documents *new = dlm__calloc(1, sizeof *new);
    if (new == NULL) return dlm__fail_memory(err, "the documents", sizeof *new);
    new->paths = paths;
    new->path_count = n;
    new->options = *options;
    if (options->max_bytes == 0) new->options.max_bytes = DOCUMENT_BYTES_MAX;
    if (options->field != NULL) {
        new->field = dlm__copy_bytes(options->field, strlen(options->field));
        new->options.field = new->field;
    }
    dlm_status status = options->field != NULL && new->field == NULL
                            ? dlm__fail_memory(err, "a name", strlen(options->field))
                            : measure(new, err);
    if (status != DLM_OK) {
        dlm_documents_close(new);
        return status;
    }
    *documents = new;
    return DLM_OK;
}

static void close_file(dlm_documents *d) {
    if (d->input != NULL) d->used += dlm__input_used(d->input);
    dlm__input_close(d->input);
    d->input = NULL;
}

void dlm_documents_close(dlm_documents *documents) {
    if (documents == NULL) return;
    close_file(documents);
    json_decref(documents->object);
    free(documents->field);
    free(documents->buffer);
    free(documents->replaced);
    free(documents);
}

void dlm_documents_position(const dlm_documents *documents, uint64_t *done, uint64_t *total) {
    *done = documents->used + (documents->input == NULL ? 0 : dlm__input_used(documents->input));
    *total = documents->total;
}

static dlm_status open_next(dlm_documents *d, dlm_error *err) {
    const char *path = d->paths[d->next_path++];
    d->name = strcmp(path, "-") == 0 ? "standard input" : path;
    d->start = d->end = 0;
    d->offset = d->line = 0;
    d->ended = d->whole_done = false;
    return dlm__input_open(path, &d->input, err);
}

/* ---- where documents end ------------------------------------------------------------------------------ */

static dlm_status check_length(const dlm_documents *d, size_t bytes, dlm_error *err) {
    if (bytes <= d->options.max_bytes) return DLM_OK;
    return dlm__fail(
        err, DLM_FORMAT,
        "%s: the document from %sbyte %llu on is longer than %zu bytes; is its end marked as the "
        "format says?",
        d->name, dlm__input_kind(d->input), (unsigned long long)d->offset, d->options.max_bytes);
}

/* Reads more of the file behind buffer[end), which may move; sets ended when there is no more. */
static dlm_status read_more(dlm_documents *d, dlm_error *err) {
    size_t need, got;
    /* What is in the buffer may hold what ends the document, or a part of it: exact is next_raw. */
    if (d->end - d->start > READ_BYTES) DLM_TRY(check_length(d, d->end - d->start - READ_BYTES, err));
    if (d->start > 0 && d->capacity - d->end < READ_BYTES) {
        memmove(d->buffer, d->buffer + d->start, d->end - d->start);
        d->end -= d->start;
        d->start = 0;
    }
    char *buffer =
        dlm__size_add(d->end, READ_BYTES, &need) ? dlm__grow(d->buffer, &d->capacity, need, 1) : NULL;
    if (buffer == NULL) return dlm__fail_memory(err, d->name, d->end - d->start);
    d->buffer = buffer;
    DLM_TRY(dlm__input_read(d->input, buffer + d->end, READ_BYTES, &got, err));
    d->end += got;
    d->ended = got == 0;
    return DLM_OK;
}

/* The line that begins `from` bytes behind start: its length without a line end, and with it. Reads as much
 * as that takes. */
static dlm_status find_line(dlm_documents *d, size_t from, size_t *length, size_t *with_end, dlm_error *err) {
    size_t searched = from;
    const char *end = NULL;
    while (end == NULL) {
        const char *text = d->buffer + d->start;
        size_t n = d->end - d->start;
        end = searched < n ? memchr(text + searched, '\n', n - searched) : NULL;
        if (end != NULL) {
            *length = (size_t)(end - text) - from;
            *with_end = *length + 1;
        } else if (d->ended) {
            *length = *with_end = n - from;
            break;
        } else {
            searched = n;
            DLM_TRY(read_more(d, err));
        }
    }
    if (*length > 0 && d->buffer[d->start + from + *length - 1] == '\r' && end != NULL) --*length;
    return DLM_OK;
}

/* What belongs to the document at start: *bytes of it, and *used with what stands behind it. */
static dlm_status find_separated(dlm_documents *d, size_t *bytes, size_t *used, dlm_error *err) {
    const size_t separator = sizeof SEPARATOR - 1;
    *bytes = *used = 0;
    for (;;) {
        size_t length, with_end;
        DLM_TRY(find_line(d, *used, &length, &with_end, err));
        bool found = length == separator && memcmp(d->buffer + d->start + *used, SEPARATOR, separator) == 0;
        *used += with_end;
        if (found) return DLM_OK;
        *bytes = *used;
        if (d->ended && *used == d->end - d->start) return DLM_OK;
    }
}

static dlm_status find_whole(dlm_documents *d, size_t *bytes, size_t *used, dlm_error *err) {
    while (!d->ended) DLM_TRY(read_more(d, err));
    *bytes = *used = d->end - d->start;
    d->whole_done = true;
    return DLM_OK;
}

/* The next raw document of the open file, *raw NULL when there is none; *offset of it in the file's text. */
static dlm_status next_raw(dlm_documents *d, const char **raw, size_t *bytes, uint64_t *offset,
                           dlm_error *err) {
    size_t used;
    *raw = NULL;
    if (d->options.format == DLM_TEXT_WHOLE) {
        if (d->whole_done) return DLM_OK;
        DLM_TRY(find_whole(d, bytes, &used, err));
    } else {
        while (d->start == d->end && !d->ended) DLM_TRY(read_more(d, err));
        if (d->start == d->end) return DLM_OK;
        DLM_TRY(d->options.format == DLM_TEXT_SEPARATED ? find_separated(d, bytes, &used, err)
                                                        : find_line(d, 0, bytes, &used, err));
        d->line++;
    }
    DLM_TRY(check_length(d, *bytes, err));
    *raw = d->buffer + d->start;
    *offset = d->offset;
    d->start += used;
    d->offset += used;
    return DLM_OK;
}

/* ---- what a document is ------------------------------------------------------------------------------- */

/* Replaces what is not UTF-8, or says where it stands. */
static dlm_status make_valid(dlm_documents *d, const char **text, size_t *bytes, uint64_t offset,
                             dlm_error *err) {
    size_t valid = dlm__utf8_check(*text, *bytes);
    if (valid == *bytes) return DLM_OK;
    if (!d->options.replace_invalid) {
        return dlm__fail(err, DLM_FORMAT, "%s: not UTF-8 at %sbyte %llu", d->name, dlm__input_kind(d->input),
                         (unsigned long long)(offset + valid));
    }
    size_t used = 0;
    if (!dlm__utf8_append_replaced(*text, *bytes, &d->replaced, &used, &d->replaced_capacity)) {
        return dlm__fail_memory(err, d->name, *bytes);
    }
    *text = d->replaced;
    *bytes = used;
    return DLM_OK;
}

/* The string in the JSON object that the line is. */
static dlm_status parse_line(dlm_documents *d, const char **text, size_t *bytes, dlm_error *err) {
    char name[300];
    snprintf(name, sizeof name, "%.270s:%llu", d->name, (unsigned long long)d->line);
    json_decref(d->object);
    d->object = NULL;
    DLM_TRY(dlm__json_parse(name, *text, *bytes, &d->object, err));
    const json_t *value = json_object_get(d->object, d->field);
    if (!json_is_string(value)) {
        return dlm__fail(err, DLM_FORMAT, "%s: the line is no JSON object with a string \"%.60s\"", name,
                         d->field);
    }
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return DLM_OK;
}

/* Turns a raw document into a document; *text NULL when it is none. */
static dlm_status finish(dlm_documents *d, const char **text, size_t *bytes, uint64_t offset,
                         dlm_error *err) {
    DLM_TRY(make_valid(d, text, bytes, offset, err));
    dlm_text_format format = d->options.format;
    if (format == DLM_TEXT_WHOLE) return DLM_OK;
    size_t leading = format == DLM_TEXT_LINES ? 0 : dlm__utf8_leading_space(*text, *bytes);
    if (leading == *bytes) {
        *text = NULL;
    } else if (format == DLM_TEXT_JSONL) {
        DLM_TRY(parse_line(d, text, bytes, err));
    } else if (format == DLM_TEXT_SEPARATED) {
        *bytes -= dlm__utf8_trailing_space(*text, *bytes) + leading;
        *text += leading;
    }
    return DLM_OK;
}

dlm_status dlm_documents_next(dlm_documents *documents, const char **text, size_t *bytes, dlm_error *err) {
    dlm_documents *d = documents;
    *text = NULL;
    *bytes = 0;
    for (;;) {
        if (d->input == NULL) {
            if (d->next_path == d->path_count) return DLM_OK;
            DLM_TRY(open_next(d, err));
        }
        const char *raw;
        size_t n = 0;
        uint64_t offset = 0;
        DLM_TRY(next_raw(d, &raw, &n, &offset, err));
        if (raw == NULL) {
            close_file(d);
            continue;
        }
        DLM_TRY(finish(d, &raw, &n, offset, err));
        if (raw != NULL) {
            *text = raw;
            *bytes = n;
            return DLM_OK;
        }
    }
}
