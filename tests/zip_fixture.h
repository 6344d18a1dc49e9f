/* Zip archives in memory, of stored entries and as plain as can be: for what reads archives, to be spoilt
 * byte by byte. */
#ifndef DLM_TESTS_ZIP_FIXTURE_H
#define DLM_TESTS_ZIP_FIXTURE_H

#include <libdeflate.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct zip_part {
    const char *name;
    const void *bytes;
    size_t n;
} zip_part;

/* Where the fields of entry i are: its local header and its entry in the directory. */
enum { ZIP_LOCAL_CRC = 14, ZIP_LOCAL_SIZE = 18, ZIP_LOCAL = 30, ZIP_CENTRAL = 46, ZIP_END = 22 };

typedef struct zip_image {
    unsigned char *bytes; /* free() it */
    size_t n;
    size_t directory; /* where it begins */
} zip_image;

static inline void zip_put(zip_image *to, uint64_t number, size_t bytes) {
    for (; bytes > 0; bytes--, number >>= 8) to->bytes[to->n++] = (unsigned char)number;
}

static inline void zip_append(zip_image *to, const void *bytes, size_t n) {
    if (n > 0) memcpy(to->bytes + to->n, bytes, n);
    to->n += n;
}

/* From the version needed to the lengths of name and extra field. */
static inline void zip_describe(zip_image *to, const zip_part *part) {
    zip_put(to, 20, 2);
    zip_put(to, 0, 8);
    zip_put(to, libdeflate_crc32(0, part->n > 0 ? part->bytes : "", part->n), 4);
    zip_put(to, part->n, 4);
    zip_put(to, part->n, 4);
    zip_put(to, strlen(part->name), 2);
    zip_put(to, 0, 2);
}

static inline zip_image zip_make(const zip_part *parts, size_t n) {
    size_t size = ZIP_END;
    for (size_t i = 0; i < n; i++) size += ZIP_LOCAL + ZIP_CENTRAL + 2 * strlen(parts[i].name) + parts[i].n;
    zip_image image = {.bytes = malloc(size)};
    uint64_t *offsets = calloc(n + 1, sizeof *offsets);
    if (image.bytes == NULL || offsets == NULL) abort();
    for (size_t i = 0; i < n; i++) {
        offsets[i] = image.n;
        zip_put(&image, 0x04034b50, 4);
        zip_describe(&image, &parts[i]);
        zip_append(&image, parts[i].name, strlen(parts[i].name));
        zip_append(&image, parts[i].bytes, parts[i].n);
    }
    image.directory = image.n;
    for (size_t i = 0; i < n; i++) {
        zip_put(&image, 0x02014b50, 4);
        zip_put(&image, 20, 2);
        zip_describe(&image, &parts[i]);
        zip_put(&image, 0, 10);
        zip_put(&image, offsets[i], 4);
        zip_append(&image, parts[i].name, strlen(parts[i].name));
    }
    const size_t directory = image.n - image.directory;
    zip_put(&image, 0x06054b50, 4);
    zip_put(&image, 0, 4);
    zip_put(&image, n, 2);
    zip_put(&image, n, 2);
    zip_put(&image, directory, 4);
    zip_put(&image, image.directory, 4);
    zip_put(&image, 0, 2);
    free(offsets);
    return image;
}

#endif
