/* Event files: the framing of records, and messages byte by byte. tests/oracle/test_tensorboard.py has
 * TensorBoard read them. */
#include "check.h"

#include "train/tensorboard.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t little_endian(const char *bytes, size_t n) {
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value |= (uint64_t)(unsigned char)bytes[i] << (8 * i);
    return value;
}

/* The stored checksum, unmasked: rotated and offset by a constant. */
static uint32_t stored_crc(const char *bytes) {
    uint32_t rotated = (uint32_t)little_endian(bytes, 4) - 0xa282ead8U;
    return rotated >> 17 | rotated << 15;
}

/* The data of the record at *at, which moves on; NULL at the end. */
static const char *next_record(const char *file, size_t size, size_t *at, size_t *bytes) {
    if (*at == size || !CHECK(size - *at >= 16)) return NULL;
    *bytes = (size_t)little_endian(file + *at, 8);
    if (!CHECK(*bytes <= size - *at - 16)) return NULL;
    const char *data = file + *at + 12;
    CHECK_INT_EQ(stored_crc(file + *at + 8), dlm__crc32c(file + *at, 8));
    CHECK_INT_EQ(stored_crc(data + *bytes), dlm__crc32c(data, *bytes));
    *at += 16 + *bytes;
    return data;
}

/* Behind the time of an event: key 1 of kind 1, and eight bytes. */
enum { TIME = 9 };

static void check_event(const char *file, size_t size, size_t *at, const void *want, size_t n) {
    size_t bytes = 0;
    const char *event = next_record(file, size, at, &bytes);
    REQUIRE(event != NULL);
    CHECK_INT_EQ(event[0], 0x09);
    REQUIRE(CHECK_INT_EQ(bytes, n + TIME));
    CHECK_MEM_EQ(event + TIME, want, n);
}

/* Of the files in a folder the one that is read last; *n: how many there are. */
static const char *last_file(const char *dir, size_t *n) {
    struct dirent **list;
    const int found = scandir(dir, &list, NULL, alphasort);
    const char *last = NULL;
    *n = 0;
    for (int i = 0; i < found; i++) {
        if (list[i]->d_name[0] != '.') {
            last = path_in(dir, list[i]->d_name);
            ++*n;
        }
        free(list[i]);
    }
    if (found >= 0) free(list);
    return last;
}

TEST(events_byte_by_byte) {
    const char *dir = temporary_dir();
    dlm_error err;
    dlm_events *events;
    REQUIRE_OK(dlm__events_create(dir, 300, &events, &err), &err);
    CHECK_OK(dlm__events_scalars(events, 300, (dlm_scalar[]){{"a", 0.5}, {"bc", -2}}, 2, &err), &err);
    CHECK_OK(dlm__events_text(events, 1, "t", "x\0y", 3, &err), &err);
    size_t files, size, at = 0;
    const char *path = last_file(dir, &files), *file = path != NULL ? read_text(path, &size) : NULL;
    REQUIRE(file != NULL);
    check_event(file, size, &at,
                "\x1a\x0d"
                "brain.Event:2",
                15);
    /* step 300, session_log { status: START } */
    check_event(file, size, &at, "\x10\xac\x02\x3a\x02\x08\x01", 7);
    check_event(file, size, &at,
                "\x10\xac\x02\x2a\x15"
                "\x0a\x08\x0a\x01"
                "a\x15\x00\x00\x00\x3f"
                "\x0a\x09\x0a\x02"
                "bc\x15\x00\x00\x00\xc0",
                26);
    /* step 1, summary { value { tag, tensor { dtype, shape { dim { size: 1 } }, string_val }, metadata } } */
    check_event(file, size, &at,
                "\x10\x01\x2a\x1e\x0a\x1c"
                "\x0a\x01t\x42\x0d\x08\x07\x12\x04\x12\x02\x08\x01\x42\x03x\0y"
                "\x4a\x08\x0a\x06\x0a\x04text",
                34);
    CHECK_INT_EQ(at, size);
    dlm__events_close(events);
}

TEST(later_files_sort_behind_earlier_ones) {
    const char *dir = temporary_dir(), *before = NULL;
    for (size_t i = 0; i < 3; i++) {
        dlm_error err;
        dlm_events *events;
        size_t files;
        REQUIRE_OK(dlm__events_create(dir, 1, &events, &err), &err);
        dlm__events_close(events);
        const char *last = last_file(dir, &files);
        REQUIRE(last != NULL);
        CHECK_INT_EQ(files, i + 1);
        CHECK(before == NULL || strcmp(last, before) != 0);
        before = last;
    }
}

TEST(no_folder) {
    dlm_error err;
    dlm_events *events;
    CHECK_STATUS(dlm__events_create(path_in(temporary_dir(), "none"), 1, &events, &err), DLM_NOT_FOUND, &err);
    CHECK_SAYS(&err, "none/events.out.tfevents.");
}
