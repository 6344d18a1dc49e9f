/* Reading safetensors. The header is parsed and checked whole before a tensor is handed out; the data stays
 * in the map and is converted on request. Writing is in safetensors_save.c. */
#include "format/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "safetensors data is little-endian and used in place");

#define HEADER_LIMIT ((size_t)100000000)
#define PREFIX       ((size_t)8)

typedef struct index_entry {
    const char *name;
    const dlm_st_tensor *tensor;
} index_entry;

struct dlm_safetensors {
    char *path;
    dlm_map map;    /* bytes NULL when parsed from the caller's memory */
    int descriptor; /* of what is mapped; -1 then */
    struct timespec written;
    json_t *header;
    dlm_st_tensor *tensors; /* (n), by offset */
    index_entry *by_name;   /* (n) */
    size_t n;
};

/* Every type of the format, with its bits; those that are not used here are OTHER. */
static const struct {
    const char *name;
    dlm_st_type type;
    size_t bits;
} types[] = {
    {"F32", DLM_ST_F32, 32},
    {"F16", DLM_ST_F16, 16},
    {"BF16", DLM_ST_BF16, 16},
    {"F64", DLM_ST_F64, 64},
    {"I8", DLM_ST_I8, 8},
    {"U8", DLM_ST_U8, 8},
    {"I32", DLM_ST_I32, 32},
    {"I64", DLM_ST_I64, 64},
    {"BOOL", DLM_ST_OTHER, 8},
    {"F4", DLM_ST_OTHER, 4},
    {"F6_E2M3", DLM_ST_OTHER, 6},
    {"F6_E3M2", DLM_ST_OTHER, 6},
    {"F8_E5M2", DLM_ST_OTHER, 8},
    {"F8_E4M3", DLM_ST_OTHER, 8},
    {"F8_E8M0", DLM_ST_OTHER, 8},
    {"I16", DLM_ST_OTHER, 16},
    {"F8_E4M3FNUZ", DLM_ST_OTHER, 8},
    {"F8_E5M2FNUZ", DLM_ST_OTHER, 8},
    {"U16", DLM_ST_OTHER, 16},
    {"U32", DLM_ST_OTHER, 32},
    {"U64", DLM_ST_OTHER, 64},
    {"C64", DLM_ST_OTHER, 64},
};

/* ---- header ------------------------------------------------------------------------------------------- */

/* A JSON number that counts something. */
static bool count_of(const json_t *value, size_t *count) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *count = (size_t)json_integer_value(value);
    return true;
}

static dlm_status read_shape(const char *path, const json_t *shape, dlm_st_tensor *tensor, dlm_error *err) {
    if (!json_is_array(shape)) {
        return dlm__fail(err, DLM_FORMAT, "%s: tensor %s has no shape", path, tensor->name);
    }
    tensor->ndim = json_array_size(shape);
    if (tensor->ndim > DLM_TENSOR_DIMS) {
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: tensor %s has %zu dimensions, more than %d", path,
                         tensor->name, tensor->ndim, DLM_TENSOR_DIMS);
    }
    tensor->count = 1;
    for (size_t i = 0; i < tensor->ndim; i++) {
        if (!count_of(json_array_get(shape, i), &tensor->shape[i])) {
            return dlm__fail(err, DLM_FORMAT, "%s: dimension %zu of tensor %s is not a count", path, i,
                             tensor->name);
        }
        if (!dlm__size_mul(tensor->count, tensor->shape[i], &tensor->count)) {
            return dlm__fail(err, DLM_FORMAT, "%s: the shape of tensor %s overflows", path, tensor->name);
        }
    }
    return DLM_OK;
}

static dlm_status read_type(const char *path, const json_t *value, dlm_st_tensor *tensor, size_t *bits,
                            dlm_error *err) {
    const char *name = json_string_value(value);
    if (name == NULL) return dlm__fail(err, DLM_FORMAT, "%s: tensor %s has no dtype", path, tensor->name);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(name, types[i].name) != 0) continue;
        tensor->type = types[i].type;
        tensor->type_name = types[i].name;
        *bits = types[i].bits;
        return DLM_OK;
    }
    return dlm__fail(err, DLM_UNSUPPORTED, "%s: tensor %s has the unknown type %.40s", path, tensor->name,
                     name);
}

/* One tensor's entry; data (n bytes) is what stands behind the header. */
static dlm_status read_tensor(const char *path, const json_t *entry, const unsigned char *data, size_t n,
                              dlm_st_tensor *tensor, dlm_error *err) {
    size_t bits = 0, total, begin, end;
    if (!json_is_object(entry)) {
        return dlm__fail(err, DLM_FORMAT, "%s: the entry of tensor %s is not an object", path, tensor->name);
    }
    DLM_TRY(read_type(path, json_object_get(entry, "dtype"), tensor, &bits, err));
    DLM_TRY(read_shape(path, json_object_get(entry, "shape"), tensor, err));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (json_array_size(offsets) != 2 || !count_of(json_array_get(offsets, 0), &begin) ||
        !count_of(json_array_get(offsets, 1), &end) || begin > end) {
        return dlm__fail(err, DLM_FORMAT, "%s: tensor %s has no valid data_offsets", path, tensor->name);
    }
    if (end > n) {
        return dlm__fail(err, DLM_FORMAT,
                         "%s: tensor %s ends at byte %zu of the data, of which the file holds %zu", path,
                         tensor->name, end, n);
    }
    if (!dlm__size_mul(tensor->count, bits, &total) || total % 8 != 0 || total / 8 != end - begin) {
        return dlm__fail(err, DLM_FORMAT, "%s: tensor %s of %zu values of %s has %zu bytes", path,
                         tensor->name, tensor->count, tensor->type_name, end - begin);
    }
    tensor->bytes = end - begin;
    tensor->data = data + begin;
    return DLM_OK;
}

/* Empty tensors before the one that begins at the same byte. */
static int compare_offsets(const void *a, const void *b) {
    const dlm_st_tensor *x = a, *y = b;
    const unsigned char *p = x->data, *q = y->data;
    if (p != q) return p < q ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int compare_names(const void *a, const void *b) {
    const index_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static dlm_status check_metadata(const char *path, json_t *metadata, dlm_error *err) {
    if (metadata == NULL || json_is_null(metadata)) return DLM_OK;
    if (!json_is_object(metadata)) {
        return dlm__fail(err, DLM_FORMAT, "%s: __metadata__ is not an object", path);
    }
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value)) {
            return dlm__fail(err, DLM_FORMAT, "%s: __metadata__ %s is not a string", path, key);
        }
    }
    return DLM_OK;
}

/* Fills file's tensors from its header; data (n bytes) must be covered by them without gap or overlap. */
static dlm_status read_tensors(dlm_safetensors *file, const unsigned char *data, size_t n, dlm_error *err) {
    size_t size = json_object_size(file->header);
    file->tensors = dlm__calloc(size, sizeof *file->tensors);
    file->by_name = dlm__calloc(size, sizeof *file->by_name);
    if (file->tensors == NULL || file->by_name == NULL) return dlm__fail_memory(err, file->path, size);
    const char *key;
    json_t *entry;
    json_object_foreach(file->header, key, entry) {
        if (strcmp(key, "__metadata__") == 0) {
            DLM_TRY(check_metadata(file->path, entry, err));
            continue;
        }
        dlm_st_tensor *tensor = &file->tensors[file->n];
        tensor->name = key;
        DLM_TRY(read_tensor(file->path, entry, data, n, tensor, err));
        file->n++;
    }
    qsort(file->tensors, file->n, sizeof *file->tensors, compare_offsets);
    const unsigned char *next = data;
    for (size_t i = 0; i < file->n; i++) {
        const dlm_st_tensor *tensor = &file->tensors[i];
        if ((const unsigned char *)tensor->data != next) {
            return dlm__fail(err, DLM_FORMAT, "%s: tensor %s begins at byte %td of the data, not at %td",
                             file->path, tensor->name, (const unsigned char *)tensor->data - data,
                             next - data);
        }
        next += tensor->bytes;
        file->by_name[i] = (index_entry){tensor->name, tensor};
    }
    if (next != data + n) {
        return dlm__fail(err, DLM_FORMAT, "%s: the tensors fill %td bytes of the %zu behind the header",
                         file->path, next - data, n);
    }
    qsort(file->by_name, file->n, sizeof *file->by_name, compare_names);
    return DLM_OK;
}

static dlm_status read_header(dlm_safetensors *file, const unsigned char *bytes, size_t n, dlm_error *err) {
    uint64_t length;
    if (n < PREFIX) {
        return dlm__fail(err, DLM_FORMAT, "%s: no safetensors file, it has %zu bytes", file->path, n);
    }
    memcpy(&length, bytes, PREFIX);
    if (length > HEADER_LIMIT) {
        return dlm__fail(err, DLM_FORMAT,
                         "%s: no safetensors file, its header would have %llu bytes (at most %zu)",
                         file->path, (unsigned long long)length, HEADER_LIMIT);
    }
    if (length > n - PREFIX) {
        return dlm__fail(err, DLM_FORMAT, "%s: cut off, its header has %llu bytes and the file %zu",
                         file->path, (unsigned long long)length, n);
    }
    const char *text = (const char *)bytes + PREFIX;
    DLM_TRY(dlm__json_parse(file->path, text, (size_t)length, &file->header, err));
    if (!json_is_object(file->header)) {
        return dlm__fail(err, DLM_FORMAT, "%s: its header is not a JSON object", file->path);
    }
    return read_tensors(file, bytes + PREFIX + length, n - PREFIX - (size_t)length, err);
}

/* ---- files -------------------------------------------------------------------------------------------- */

/* Over n bytes that are map's, which on success belongs to file with its descriptor, or the caller's, when
 * map holds nothing. */
static dlm_status create(const char *name, const void *bytes, size_t n, dlm_map map, int descriptor,
                         dlm_safetensors **file, dlm_error *err) {
    dlm_safetensors *made = dlm__calloc(1, sizeof *made);
    char *path = dlm__copy_bytes(name, strlen(name));
    *file = NULL;
    if (made == NULL || path == NULL) {
        free(made);
        free(path);
        return dlm__fail_memory(err, name, sizeof *made);
    }
    made->path = path;
    dlm_status status = read_header(made, bytes, n, err);
    if (status != DLM_OK) {
        dlm__safetensors_close(made);
        return status;
    }
    made->map = map;
    made->descriptor = descriptor;
    *file = made;
    return DLM_OK;
}

dlm_status dlm__safetensors_parse(const char *name, const void *bytes, size_t n, dlm_safetensors **file,
                                  dlm_error *err) {
    return create(name, bytes, n, (dlm_map){0}, -1, file, err);
}

dlm_status dlm__safetensors_open(const char *path, dlm_safetensors **file, dlm_error *err) {
    dlm_map map;
    int descriptor;
    *file = NULL;
    DLM_TRY(dlm__map_open(path, &map, &descriptor, err));
    struct stat about;
    dlm_status status = fstat(descriptor, &about) == 0 ? DLM_OK : dlm__fail_errno(err, errno, "%s", path);
    if (status == DLM_OK) status = create(path, map.bytes, map.size, map, descriptor, file, err);
    if (status != DLM_OK) {
        dlm__unmap(&map);
        (void)close(descriptor);
        return status;
    }
    (*file)->written = about.st_mtim;
    return DLM_OK;
}

dlm_status dlm__safetensors_unchanged(const dlm_safetensors *file, dlm_error *err) {
    struct stat about;
    if (file->map.bytes == NULL) return DLM_OK;
    if (fstat(file->descriptor, &about) != 0) return dlm__fail_errno(err, errno, "%s", file->path);
    if ((uintmax_t)about.st_size == file->map.size && about.st_mtim.tv_sec == file->written.tv_sec &&
        about.st_mtim.tv_nsec == file->written.tv_nsec)
        return DLM_OK;
    return dlm__fail(err, DLM_IO, "%s has been written to since it was opened", file->path);
}

void dlm__safetensors_close(dlm_safetensors *file) {
    if (file == NULL) return;
    if (file->map.bytes != NULL) {
        dlm__unmap(&file->map);
        (void)close(file->descriptor);
    }
    json_decref(file->header);
    free(file->tensors);
    free(file->by_name);
    free(file->path);
    free(file);
}

const char *dlm__safetensors_path(const dlm_safetensors *file) {
    return file->path;
}

size_t dlm__safetensors_count(const dlm_safetensors *file) {
    return file->n;
}

const dlm_st_tensor *dlm__safetensors_at(const dlm_safetensors *file, size_t i) {
    return &file->tensors[i];
}

const dlm_st_tensor *dlm__safetensors_find(const dlm_safetensors *file, const char *name) {
    size_t low = 0, high = file->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, file->by_name[middle].name);
        if (order == 0) return file->by_name[middle].tensor;
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

const char *dlm__safetensors_metadata(const dlm_safetensors *file, const char *key) {
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

/* ---- values ------------------------------------------------------------------------------------------- */

/* n bytes of the file that stand at `data` in its map, to `to`: the kernel copies them as they are to where
 * they belong, without pages of the map being touched. */
static dlm_status read_bytes(const dlm_safetensors *file, const unsigned char *data, size_t n, void *to,
                             dlm_error *err) {
    const size_t at = (size_t)(data - file->map.bytes);
    for (size_t done = 0; done < n;) {
        const ssize_t got = pread(file->descriptor, (char *)to + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return dlm__fail_errno(err, errno, "%s", file->path);
        if (got == 0) return dlm__fail(err, DLM_IO, "%s has become shorter", file->path);
        done += (size_t)got;
    }
    return DLM_OK;
}

/* n values of a type, at `data`, which need not be aligned, as floats. */
static void to_floats(dlm_st_type type, const unsigned char *data, size_t n, float *values) {
    switch (type) {
    case DLM_ST_BF16: dlm__floats_of_bf16(data, n, values); break;
    case DLM_ST_F16: dlm__floats_of_f16(data, n, values); break;
    case DLM_ST_F64: dlm__floats_of_f64(data, n, values); break;
    case DLM_ST_I8:
        for (size_t i = 0; i < n; i++) values[i] = (float)((const int8_t *)data)[i];
        break;
    default:
        if (n > 0) memcpy(values, data, n * sizeof *values);
    }
}

/* Bytes of a value that converts to a float; 0: of a type that does not. */
static size_t float_size(dlm_st_type type) {
    switch (type) {
    case DLM_ST_I8: return 1;
    case DLM_ST_BF16:
    case DLM_ST_F16: return 2;
    case DLM_ST_F32: return 4;
    case DLM_ST_F64: return 8;
    default: return 0;
    }
}

dlm_status dlm__safetensors_part(const dlm_safetensors *file, const dlm_st_tensor *tensor, size_t first,
                                 size_t n, float *values, dlm_error *err) {
    unsigned char some[8192];
    const size_t size = float_size(tensor->type);
    if (size == 0)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: tensor %s holds %s, not floating-point values",
                         file->path, tensor->name, tensor->type_name);
    const unsigned char *data = (const unsigned char *)tensor->data + first * size;
    if (file->map.bytes == NULL) {
        to_floats(tensor->type, data, n, values);
        return DLM_OK;
    }
    if (tensor->type == DLM_ST_F32) return read_bytes(file, data, n * size, values, err);
    for (size_t done = 0; done < n;) {
        const size_t part = n - done < sizeof some / size ? n - done : sizeof some / size;
        DLM_TRY(read_bytes(file, data + done * size, part * size, some, err));
        to_floats(tensor->type, some, part, values + done);
        done += part;
    }
    return DLM_OK;
}

dlm_status dlm__safetensors_floats(const dlm_safetensors *file, const dlm_st_tensor *tensor, float *values,
                                   dlm_error *err) {
    return dlm__safetensors_part(file, tensor, 0, tensor->count, values, err);
}

dlm_status dlm__safetensors_ints(const dlm_safetensors *file, const dlm_st_tensor *tensor, int32_t *values,
                                 dlm_error *err) {
    const unsigned char *data = tensor->data;
    if (tensor->type == DLM_ST_I32) {
        if (tensor->bytes > 0) memcpy(values, data, tensor->bytes);
        return DLM_OK;
    }
    if (tensor->type != DLM_ST_I64) {
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: tensor %s holds %s, not I32 or I64", file->path,
                         tensor->name, tensor->type_name);
    }
    for (size_t i = 0; i < tensor->count; i++) {
        int64_t wide;
        memcpy(&wide, data + i * sizeof wide, sizeof wide);
        if (wide < INT32_MIN || wide > INT32_MAX) {
            return dlm__fail(err, DLM_FORMAT, "%s: value %zu of tensor %s is %lld", file->path, i,
                             tensor->name, (long long)wide);
        }
        values[i] = (int32_t)wide;
    }
    return DLM_OK;
}

/* ---- as tensors of any file --------------------------------------------------------------------------- */

static dlm_tensor tensor_at(const void *given, size_t i) {
    static const char *const numbers[DLM_ST_OTHER + 1] = {[DLM_ST_F32] = "float32",
                                                          [DLM_ST_F16] = "float16",
                                                          [DLM_ST_I8] = "int8",
                                                          [DLM_ST_BF16] = "bfloat16",
                                                          [DLM_ST_F64] = "float64"};
    const dlm_safetensors *file = given;
    const dlm_st_tensor *from = file->by_name[i].tensor;
    dlm_tensor tensor = {.name = from->name,
                         .type_name = from->type_name,
                         .number = numbers[from->type],
                         .int8 = from->type == DLM_ST_I8,
                         .ndim = from->ndim,
                         .count = from->count};
    memcpy(tensor.shape, from->shape, sizeof tensor.shape);
    return tensor;
}

static dlm_status tensor_floats(void *given, size_t i, float *values, dlm_error *err) {
    const dlm_safetensors *file = given;
    return dlm__safetensors_floats(file, file->by_name[i].tensor, values, err);
}

static dlm_status tensor_part(const void *given, size_t i, size_t first, size_t n, float *values,
                              dlm_error *err) {
    const dlm_safetensors *file = given;
    return dlm__safetensors_part(file, file->by_name[i].tensor, first, n, values, err);
}

static dlm_status unchanged(const void *given, dlm_error *err) {
    return dlm__safetensors_unchanged(given, err);
}

dlm_tensors dlm__safetensors_tensors(dlm_safetensors *file) {
    return (dlm_tensors){.path = file->path,
                         .n = file->n,
                         .file = file,
                         .at = tensor_at,
                         .floats = tensor_floats,
                         .part = tensor_part,
                         .unchanged = unchanged};
}
