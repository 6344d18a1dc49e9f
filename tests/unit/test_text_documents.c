/* Reading documents: formats, compression, and files that are not what they should be. */
#include "check.h"

#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

static const char *write_file(const char *name, const void *bytes, size_t n) {
    const char *path = path_in(temporary_dir(), name);
    FILE *file = fopen(path, "w");
    if (file != NULL) {
        fwrite(bytes, 1, n, file);
        fclose(file);
    }
    return path;
}

/* All documents of a file, each followed by '|'; or the message of the error behind "!". Freed by the caller.
 */
static char *read_all(const char *path, dlm_text_options options, size_t *bytes) {
    dlm_error err;
    dlm_documents *documents;
    char *all = NULL;
    FILE *out = open_memstream(&all, bytes);
    dlm_status status = dlm_documents_open(&path, 1, &options, &documents, &err);
    while (status == DLM_OK) {
        const char *text;
        size_t n;
        status = dlm_documents_next(documents, &text, &n, &err);
        if (status != DLM_OK || text == NULL) break;
        fwrite(text, 1, n, out);
        fputc('|', out);
    }
    if (status != DLM_OK) fprintf(out, "!%s", err.message);
    dlm_documents_close(documents);
    fclose(out);
    return all;
}

static void check_bytes(const char *input, size_t n, dlm_text_options options, const char *want) {
    size_t bytes;
    check_context("%.40s", input);
    char *got = read_all(write_file("input", input, n), options, &bytes);
    CHECK_STR_EQ(got, want);
    free(got);
}

static void check(dlm_text_format format, const char *input, const char *want) {
    dlm_text_options options = dlm_text_defaults();
    options.format = format;
    check_bytes(input, strlen(input), options, want);
}

TEST(separated) {
    check(DLM_TEXT_SEPARATED, "", "");
    check(DLM_TEXT_SEPARATED, "\n \n", "");
    check(DLM_TEXT_SEPARATED, "a", "a|");
    check(DLM_TEXT_SEPARATED, "a\nb\n<|endoftext|>\nc\n<|endoftext|>\n", "a\nb|c|");
    check(DLM_TEXT_SEPARATED, "a\n<|endoftext|>\n\n<|endoftext|>\n<|endoftext|>\nb", "a|b|");
    check(DLM_TEXT_SEPARATED, "<|endoftext|>\na\n<|endoftext|>", "a|");
    check(DLM_TEXT_SEPARATED, "a<|endoftext|>\n<|endoftext|>b\n <|endoftext|>\n",
          "a<|endoftext|>\n<|endoftext|>b\n <|endoftext|>|");
    check(DLM_TEXT_SEPARATED, "a\r\nb\r\n<|endoftext|>\r\nc\r\n", "a\r\nb|c|");
    check(DLM_TEXT_SEPARATED, "\xe2\x80\x83\n a \xc2\xa0\xe3\x80\x80\n",
          "a|"); /* em space, no-break and ideographic space */
    check(DLM_TEXT_SEPARATED,
          "\xef\xbb\xbf"
          "a",
          "\xef\xbb\xbf"
          "a|"); /* a byte order mark is text */
}

TEST(lines) {
    check(DLM_TEXT_LINES, "", "");
    check(DLM_TEXT_LINES, "a\n\n b \r\n\r\nc", "a| b |c|");
    check(DLM_TEXT_LINES, "a\rb\n<|endoftext|>\n", "a\rb|<|endoftext|>|");
}

TEST(whole_files) {
    check(DLM_TEXT_WHOLE, "", "|");
    check(DLM_TEXT_WHOLE, " a\n<|endoftext|>\n", " a\n<|endoftext|>\n|");
}

TEST(json_lines) {
    check(DLM_TEXT_JSONL,
          "{\"text\": \" a \\n\"}\n\n  \r\n{\"id\": 1, \"text\": \"\"}\r\n{\"text\":\"<|endoftext|>\"}",
          " a \n||<|endoftext|>|");
    dlm_text_options options = dlm_text_defaults();
    options.format = DLM_TEXT_JSONL;
    size_t bytes;
    const char *line = "{\"text\": \"a\\u0000b\"}";
    char *got = read_all(write_file("input", line, strlen(line)), options, &bytes);
    CHECK_INT_EQ(bytes, 4);
    CHECK_MEM_EQ(got, "a\0b|", 4);
    free(got);
    options.field = "story";
    check_bytes("{\"story\": \"x\", \"text\": \"y\"}", 27, options, "x|");
}

static void check_refused(const char *input, dlm_text_options options, const char *part) {
    size_t bytes;
    check_context("%.40s", input);
    char *got = read_all(write_file("input", input, strlen(input)), options, &bytes);
    const char *message = strchr(got, '!');
    if (CHECK(message != NULL) && !CHECK(strstr(message, part) != NULL))
        printf("  %s lacks %s\n", message, part);
    free(got);
}

static void check_error(dlm_text_format format, const char *input, const char *part) {
    dlm_text_options options = dlm_text_defaults();
    options.format = format;
    check_refused(input, options, part);
}

TEST(json_lines_that_are_none) {
    check_error(DLM_TEXT_JSONL, "{\"text\": \"a\"}\n\n{\"story\": \"a\"}\n",
                "input:3: the line is no JSON object with a string \"text\"");
    check_error(DLM_TEXT_JSONL, "{\"text\": 5}", "input:1:");
    check_error(DLM_TEXT_JSONL, "[\"text\"]", "input:1:");
    check_error(DLM_TEXT_JSONL, "{\"text\": \"a\"", "input:1: line 1, column");
    check_error(DLM_TEXT_JSONL, "{\"text\": \"\\ud800\"}", "input:1:");
}

/* The limit holds for each document, wherever its end is: seen, not read yet, or never to come. */
TEST(documents_that_are_too_long) {
    static const char long_one[] = "12345678\n<|endoftext|>\n123456789\n<|endoftext|>\nabc\n";
    dlm_text_options options = dlm_text_defaults();
    options.max_bytes = 9; /* with the line end before the separator */
    check_refused(long_one, options,
                  "document from byte 23 on is longer than 9 bytes; is its end marked as the format says?");
    options.max_bytes = 10;
    check_bytes(long_one, strlen(long_one), options, "12345678|123456789|abc|");
    options.format = DLM_TEXT_LINES;
    options.max_bytes = 12;
    check_refused(long_one, options, "from byte 9 on is longer than 12 bytes");
    options.format = DLM_TEXT_WHOLE;
    check_refused(long_one, options, "from byte 0 on is longer than 12 bytes");
    char *zeros = calloc(1, 3 << 20); /* more than is read at once, and no end anywhere */
    memset(zeros, 'x', (3 << 20) - 1);
    options.format = DLM_TEXT_SEPARATED;
    options.max_bytes = 1 << 20;
    check_refused(zeros, options, "from byte 0 on is longer than 1048576 bytes");
    free(zeros);
}

TEST(bytes_that_are_no_utf8) {
    check_error(DLM_TEXT_SEPARATED, "a\n<|endoftext|>\nb\xff", "input: not UTF-8 at byte 17");
    check_error(DLM_TEXT_LINES, "ab\nc\xed\xa0\x80", "input: not UTF-8 at byte 4"); /* a surrogate */
    check_error(DLM_TEXT_WHOLE, "\xc0\x80", "input: not UTF-8 at byte 0");          /* an overlong 0 */
    check_error(DLM_TEXT_WHOLE, "\xf0\x90\x80\x80\xf4\x90\x80\x80",
                "not UTF-8 at byte 4"); /* above U+10FFFF */
    check_error(DLM_TEXT_JSONL, "{}\n{\"text\": \"\xff\"}", "input:1:");
    check_error(DLM_TEXT_JSONL, "{\"text\": \"\xe2\x82\"}", "input: not UTF-8 at byte 10");
}

TEST(bytes_that_are_replaced) {
    dlm_text_options options = dlm_text_defaults();
    options.replace_invalid = true;
    options.format = DLM_TEXT_WHOLE;
    /* The example of Unicode 3.9, table 3-8, and each kind of ill-formed sequence. */
    const char *const table[] = {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64",
                                 "a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd|",
                                 "\xc0\x80",
                                 "\ufffd\ufffd|",
                                 "\xed\xa0\x80",
                                 "\ufffd\ufffd\ufffd|",
                                 "\xf4\x90\x80\x80",
                                 "\ufffd\ufffd\ufffd\ufffd|",
                                 "\xf0\x90\x80",
                                 "\ufffd|",
                                 "\xe0\x9f\x80",
                                 "\ufffd\ufffd\ufffd|",
                                 "\xf0\x8f\xbf\xbf",
                                 "\ufffd\ufffd\ufffd\ufffd|",
                                 "\xe2\x82\xac\xf0\x9f\x98\x80",
                                 "\u20ac\U0001f600|"};
    for (size_t i = 0; i < sizeof table / sizeof *table; i += 2)
        check_bytes(table[i], strlen(table[i]), options, table[i + 1]);
    options.format = DLM_TEXT_JSONL;
    check_bytes("{\"text\": \"\xff\"}", 13, options, "\ufffd|");
}

/* ---- compressed files --------------------------------------------------------------------------------- */

static size_t gzip(const char *text, size_t n, unsigned char *out, size_t room) {
    z_stream stream = {0};
    deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    stream.next_in = (unsigned char *)text;
    stream.avail_in = (unsigned)n;
    stream.next_out = out;
    stream.avail_out = (unsigned)room;
    deflate(&stream, Z_FINISH);
    deflateEnd(&stream);
    return stream.total_out;
}

/* Three documents of which the second is longer than any buffer, in two members or frames; the expected text
 * in want. */
#define LONG ((size_t)3 << 20)
static size_t make_compressed(bool zstd, unsigned char *out, size_t room, char *want) {
    char *text = malloc(LONG + 100);
    size_t n = (size_t)sprintf(text, "a\n<|endoftext|>\n"), half;
    for (size_t i = 0; i < LONG; i++) text[n + i] = "the quick brown fox "[i % 19 + (i / 1000 & 1)];
    n += LONG;
    n += (size_t)sprintf(text + n, ".\n<|endoftext|>\nc\n");
    half = n / 2;
    sprintf(want, "a|%.*s|c|", (int)LONG + 1, text + 16);
    size_t used;
    if (zstd) {
        ZSTD_CCtx *context = ZSTD_createCCtx();
        ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
        used = ZSTD_compress2(context, out, room, text, half);
        used += ZSTD_compress2(context, out + used, room - used, text + half, n - half);
        ZSTD_freeCCtx(context);
    } else {
        used = gzip(text, half, out, room);
        used += gzip(text + half, n - half, out + used, room - used);
    }
    free(text);
    return used;
}

static void check_compressed(bool zstd, const char *kind) {
    size_t room = LONG, bytes;
    unsigned char *data = malloc(room);
    char *want = malloc(LONG + 100);
    size_t n = make_compressed(zstd, data, room, want);
    check_context("%s", kind);
    char *got = read_all(write_file("text", data, n), dlm_text_defaults(), &bytes);
    CHECK(strcmp(got, want) == 0);
    free(got);
    for (size_t cut = 1; cut < n; cut = cut * 3 + 1) {
        got = read_all(write_file("text", data, n - cut), dlm_text_defaults(), &bytes);
        const char *message = strrchr(got, '!');
        if (CHECK(message != NULL))
            CHECK(strstr(message, "cut off behind") != NULL && strstr(message, kind) != NULL);
        free(got);
    }
    data[n] = 'x';
    got = read_all(write_file("text", data, n + 1), dlm_text_defaults(), &bytes);
    CHECK(strrchr(got, '!') != NULL && strstr(strrchr(got, '!'), kind) != NULL);
    free(got);
    data[n / 3] ^= 0x55;
    got = read_all(write_file("text", data, n), dlm_text_defaults(), &bytes);
    CHECK(strrchr(got, '!') != NULL && strstr(strrchr(got, '!'), kind) != NULL);
    free(got);
    free(want);
    free(data);
}

TEST(gzip_files) {
    check_compressed(false, "gzip");
}

TEST(zstandard_files) {
    check_compressed(true, "Zstandard");
}

TEST(invalid_bytes_in_compressed_files) {
    unsigned char data[200];
    size_t n = gzip("ab\xff", 3, data, sizeof data), bytes;
    char *got = read_all(write_file("text", data, n), dlm_text_defaults(), &bytes);
    CHECK(strstr(got, "not UTF-8 at decompressed byte 2") != NULL);
    free(got);
}

/* ---- several files ------------------------------------------------------------------------------------ */

TEST(several_files_and_their_position) {
    dlm_error err;
    unsigned char data[200];
    size_t n = gzip("b\n<|endoftext|>\nc", 17, data, sizeof data), bytes;
    const char *paths[] = {write_file("one", "a", 1), write_file("two", data, n), write_file("three", "", 0)};
    dlm_text_options options = dlm_text_defaults();
    dlm_documents *documents;
    const char *text;
    uint64_t done, total, before = 0;
    REQUIRE_OK(dlm_documents_open(paths, 3, &options, &documents, &err), &err);
    for (const char *want = "abc"; *want != '\0'; want++) {
        if (!CHECK_OK(dlm_documents_next(documents, &text, &bytes, &err), &err) ||
            !CHECK(text != NULL && bytes == 1))
            break;
        CHECK_INT_EQ(text[0], want[0]);
        dlm_documents_position(documents, &done, &total);
        CHECK(done >= before);
        CHECK_INT_EQ(total, 1 + n);
        before = done;
    }
    CHECK_OK(dlm_documents_next(documents, &text, &bytes, &err), &err);
    CHECK(text == NULL);
    CHECK_OK(dlm_documents_next(documents, &text, &bytes, &err), &err);
    CHECK(text == NULL);
    dlm_documents_position(documents, &done, &total);
    CHECK_INT_EQ(done, 1 + n);
    dlm_documents_close(documents);
}

TEST(standard_input) {
    dlm_error err;
    const char *path = "-";
    int ends[2], saved = dup(STDIN_FILENO);
    REQUIRE(pipe(ends) == 0 && write(ends[1], "a\n<|endoftext|>\nb", 17) == 17);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    size_t bytes;
    char *got = read_all(path, dlm_text_defaults(), &bytes);
    CHECK_STR_EQ(got, "a|b|");
    free(got);
    dlm_text_options options = dlm_text_defaults();
    dlm_documents *documents;
    uint64_t done, total;
    REQUIRE_OK(dlm_documents_open(&path, 1, &options, &documents, &err), &err);
    dlm_documents_position(documents, &done, &total);
    CHECK_INT_EQ(total, 0);
    dlm_documents_close(documents);
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(ends[0]);
}

TEST(what_cannot_be_opened) {
    dlm_error err;
    dlm_documents *documents;
    dlm_text_options options = dlm_text_defaults();
    const char *paths[] = {write_file("there", "a", 1), path_in(temporary_dir(), "absent")};
    CHECK_STATUS(dlm_documents_open(paths, 2, &options, &documents, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "absent");
    CHECK(documents == NULL);
    CHECK_STATUS(dlm_documents_open(paths, 0, &options, &documents, &err), DLM_ARGUMENT, &err);
    size_t bytes;
    char *got = read_all(temporary_dir(), options, &bytes);
    CHECK(strncmp(got, "!", 1) == 0);
    free(got);
}
