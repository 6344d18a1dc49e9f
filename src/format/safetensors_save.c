/* Writing safetensors: header, padded with spaces so that the data begins at a multiple of eight, then the
 * tensors in the order given. */
#include "format/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *type_name(dlm_st_type type, size_t *size) {
    switch (type) {
    case DLM_ST_F32: *size = 4; return "F32";
    case DLM_ST_F16: *size = 2; return "F16";
    case DLM_ST_BF16: *size = 2; return "BF16";
    case DLM_ST_F64: *size = 8; return "F64";
    case DLM_ST_I8: *size = 1; return "I8";
    case DLM_ST_U8: *size = 1; return "U8";
    case DLM_ST_I32: *size = 4; return "I32";
    case DLM_ST_I64: *size = 8; return "I64";
    case DLM_ST_OTHER: break;
    }
    return NULL;
}

/* Adds entry's description at offset *end, and its bytes to *end. False without memory, for a size that does
 * not fit, or for a name that is not UTF-8 or was there before. */
static bool describe(json_t *header, const dlm_st_entry *entry, size_t *end) {
    size_t bytes = 0, begin = *end;
    const char *type = type_name(entry->type, &bytes);
    json_t *shape = json_array();
    bool ok = type != NULL && shape != NULL && json_object_get(header, entry->name) == NULL;
    for (size_t i = 0; ok && i < entry->ndim; i++) {
        ok = dlm__size_mul(bytes, entry->shape[i], &bytes) &&
             json_array_append_new(shape, json_integer((json_int_t)entry->shape[i])) == 0;
    }
    ok = ok && dlm__size_add(begin, bytes, end) && *end <= INT64_MAX;
    if (!ok) {
        json_decref(shape);
        return false;
    }
    json_t *value = json_pack("{s:s, s:o, s:[I, I]}", "dtype", type, "shape", shape, "data_offsets",
                              (json_int_t)begin, (json_int_t)*end);
    return json_object_set_new(header, entry->name, value) == 0;
}

/* The header's JSON; free() it. NULL as describe. */
static char *make_header(const dlm_st_entry *entries, size_t n, const char *const *metadata) {
    json_t *header = json_object();
    bool ok = header != NULL;
    if (ok && metadata != NULL) {
        json_t *pairs = json_object();
        ok = json_object_set_new(header, "__metadata__", pairs) == 0;
        for (size_t i = 0; ok && metadata[i] != NULL; i += 2) {
            ok = json_object_set_new(pairs, metadata[i], json_string(metadata[i + 1])) == 0;
        }
    }
    size_t end = 0;
    for (size_t i = 0; ok && i < n; i++) ok = describe(header, &entries[i], &end);
    char *text = ok ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

size_t dlm__safetensors_bytes(const dlm_st_entry *entry) {
    size_t bytes = 0;
    (void)type_name(entry->type, &bytes);
    for (size_t i = 0; i < entry->ndim; i++) bytes *= entry->shape[i];
    return bytes;
}

static dlm_status write_tensors(dlm_output *output, const dlm_st_entry *entries, size_t n,
                                dlm_tensor_bytes bytes, dlm_error *err) {
    for (size_t i = 0; i < n; i++) {
        const void *data;
        DLM_TRY(bytes.get(bytes.user, i, &data, err));
        dlm__output_write(output, data, dlm__safetensors_bytes(&entries[i]));
    }
    return DLM_OK;
}

static void write_header(dlm_output *output, const char *header) {
    const size_t length = strlen(header), padded = dlm__round_up(length, 8);
    const uint64_t prefix = padded;
    dlm__output_write(output, &prefix, sizeof prefix);
    dlm__output_write(output, header, length);
    dlm__output_write(output, "        ", padded - length);
}

dlm_status dlm__safetensors_write(const char *path, const dlm_st_entry *entries, size_t n,
                                  const char *const *metadata, dlm_tensor_bytes bytes, dlm_error *err) {
    char *header = make_header(entries, n, metadata);
    if (header == NULL) {
        return dlm__fail(err, DLM_ARGUMENT, "%s: cannot make a header for these %zu tensors", path, n);
    }
    dlm_output *output;
    dlm_status status = dlm__output_create(path, &output, err);
    if (status == DLM_OK) {
        write_header(output, header);
        status = write_tensors(output, entries, n, bytes, err);
        if (status == DLM_OK)
            status = dlm__output_commit(output, err);
        else
            dlm__output_abort(output);
    }
    free(header);
    return status;
}

static dlm_status data_of(void *user, size_t i, const void **bytes, dlm_error *err) {
    (void)err;
    *bytes = ((const dlm_st_entry *)user)[i].data;
    return DLM_OK;
}

dlm_status dlm__safetensors_save(const char *path, const dlm_st_entry *entries, size_t n,
                                 const char *const *metadata, dlm_error *err) {
    const dlm_tensor_bytes bytes = {.get = data_of, .user = (void *)entries};
    return dlm__safetensors_write(path, entries, n, metadata, bytes, err);
}
