/* Writing checkpoints of torch.save: the pickle, by protocol 2 as PyTorch does, then a storage for each
 * tensor. What is pickled are dicts, an OrderedDict for each state dict, and plain values. */
#include "format/torch_checkpoint.h"

#include "format/zip_write.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- the pickle --------------------------------------------------------------------------------------- */

typedef struct pickle_text {
    char *bytes;
    size_t n, capacity;
    bool failed; /* without memory */
} pickle_text;

static void put(pickle_text *to, const void *bytes, size_t n) {
    char *grown = to->failed ? NULL : dlm__grow(to->bytes, &to->capacity, to->n + n, 1);
    if (grown == NULL) {
        to->failed = true;
        return;
    }
    to->bytes = grown;
    memcpy(grown + to->n, bytes, n);
    to->n += n;
}

static void put_op(pickle_text *to, char op) {
    put(to, &op, 1);
}

/* An opcode and a number behind it, least byte first. */
static void put_number(pickle_text *to, char op, uint64_t number, size_t bytes) {
    unsigned char text[9] = {(unsigned char)op};
    for (size_t i = 0; i < bytes; i++) text[1 + i] = (unsigned char)(number >> 8 * i);
    put(to, text, 1 + bytes);
}

static void put_text(pickle_text *to, const char *text, size_t n) {
    put_number(to, 'X', n, 4);
    put(to, text, n);
}

static void put_word(pickle_text *to, const char *word) {
    put_text(to, word, strlen(word));
}

static void put_int(pickle_text *to, int64_t integer) {
    if (integer >= 0 && integer < 256) {
        put_number(to, 'K', (uint64_t)integer, 1);
    } else if (integer >= INT32_MIN && integer <= INT32_MAX) {
        put_number(to, 'J', (uint64_t)integer, 4);
    } else {
        put_number(to, (char)0x8a, 8, 1); /* LONG1 */
        put_number(to, (char)(integer & 0xff), (uint64_t)integer >> 8, 7);
    }
}

static void put_real(pickle_text *to, double real) {
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    put_number(to, 'G', __builtin_bswap64(bits), 8); /* big-endian */
}

static void put_global(pickle_text *to, const char *module, const char *name) {
    put_op(to, 'c');
    put(to, module, strlen(module));
    put_op(to, '\n');
    put(to, name, strlen(name));
    put_op(to, '\n');
}

static void put_ordered_dict(pickle_text *to) {
    put_global(to, "collections", "OrderedDict");
    put(to, ")R", 2);
}

/* The values that a config has: they nest no deeper than it does. */
static void put_json(pickle_text *to, const json_t *value) {
    const char *key;
    const json_t *item;
    size_t i;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        put(to, "}(", 2);
        json_object_foreach((json_t *)value, key, item) {
            put_word(to, key);
            put_json(to, item);
        }
        put_op(to, 'u');
        break;
    case JSON_ARRAY:
        put(to, "](", 2);
        json_array_foreach(value, i, item) put_json(to, item);
        put_op(to, 'e');
        break;
    case JSON_STRING: put_text(to, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER: put_int(to, (int64_t)json_integer_value(value)); break;
    case JSON_REAL: put_real(to, json_real_value(value)); break;
    case JSON_TRUE: put_op(to, (char)0x88); break;
    case JSON_FALSE: put_op(to, (char)0x89); break;
    case JSON_NULL: put_op(to, 'N'); break;
    }
}

static size_t count_of(const dlm_st_entry *entry) {
    size_t count = 1;
    for (size_t i = 0; i < entry->ndim; i++) count *= entry->shape[i];
    return count;
}

static void put_strides(pickle_text *to, const dlm_st_entry *entry) {
    size_t stride = count_of(entry);
    for (size_t i = 0; i < entry->ndim; i++) {
        stride /= entry->shape[i] > 0 ? entry->shape[i] : 1;
        put_int(to, (int64_t)stride);
    }
}

/* _rebuild_tensor_v2(("storage", type, key, "cpu", count), 0, shape, stride, False, OrderedDict()) */
static void put_tensor(pickle_text *to, const dlm_st_entry *entry, size_t key) {
    char digits[24];
    const char *type = entry->type == DLM_ST_F32    ? "FloatStorage"
                       : entry->type == DLM_ST_BF16 ? "BFloat16Storage"
                                                    : "HalfStorage";
    (void)snprintf(digits, sizeof digits, "%zu", key);
    put_global(to, "torch._utils", "_rebuild_tensor_v2");
    put(to, "((", 2);
    put_word(to, "storage");
    put_global(to, "torch", type);
    put_word(to, digits);
    put_word(to, "cpu");
    put_int(to, (int64_t)count_of(entry));
    put(to, "tQ", 2);
    put_int(to, 0);
    put_op(to, '(');
    for (size_t i = 0; i < entry->ndim; i++) put_int(to, (int64_t)entry->shape[i]);
    put(to, "t(", 2);
    put_strides(to, entry);
    put_op(to, 't');
    put_op(to, (char)0x89);
    put_ordered_dict(to);
    put(to, "tR", 2);
}

static void put_state_dict(pickle_text *to, const dlm_torch_content *content, const char *name,
                           size_t first) {
    put_word(to, name);
    put_ordered_dict(to);
    put_op(to, '(');
    for (size_t i = 0; i < content->n; i++) {
        put_word(to, content->entries[i].name);
        put_tensor(to, &content->entries[i], first + i);
    }
    put_op(to, 'u');
}

static void put_content(pickle_text *to, const dlm_torch_content *content) {
    put_number(to, (char)0x80, 2, 1); /* protocol 2 */
    put(to, "}(", 2);
    put_state_dict(to, content, "model", 0);
    if (content->raw) put_state_dict(to, content, "raw", content->n);
    put_word(to, "config");
    put_json(to, content->config);
    put_word(to, "diffusionlm");
    put_json(to, content->diffusionlm);
    put(to, "u.", 2);
}

/* ---- the archive -------------------------------------------------------------------------------------- */

/* The folder in the archive: the file's name without its end, as torch.save has it. */
static void folder_of(const char *path, char folder[DLM_ZIP_NAME / 2]) {
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1,
               *dot = strrchr(name, '.');
    const size_t n = dot == NULL ? strlen(name) : (size_t)(dot - name);
    bool plain = n > 0 && n < DLM_ZIP_NAME / 2;
    for (size_t i = 0; plain && i < n; i++) plain = name[i] > ' ' && name[i] < 127;
    (void)snprintf(folder, DLM_ZIP_NAME / 2, "%.*s", plain ? (int)n : 7, plain ? name : "archive");
}

static dlm_status add(dlm_zip_writer *zip, const char *folder, const char *name, const void *bytes, size_t n,
                      dlm_error *err) {
    char full[DLM_ZIP_NAME + 1];
    (void)snprintf(full, sizeof full, "%s/%s", folder, name);
    return dlm__zip_add(zip, full, bytes, n, err);
}

static dlm_status add_storages(dlm_zip_writer *zip, const char *folder, const dlm_torch_content *content,
                               dlm_error *err) {
    const size_t n = content->raw ? 2 * content->n : content->n;
    for (size_t i = 0; i < n; i++) {
        char name[40];
        const void *bytes;
        (void)snprintf(name, sizeof name, "data/%zu", i);
        DLM_TRY(content->bytes.get(content->bytes.user, i, &bytes, err));
        DLM_TRY(
            add(zip, folder, name, bytes, dlm__safetensors_bytes(&content->entries[i % content->n]), err));
    }
    return DLM_OK;
}

static dlm_status add_all(dlm_zip_writer *zip, const char *path, const dlm_torch_content *content,
                          dlm_error *err) {
    char folder[DLM_ZIP_NAME / 2];
    pickle_text pickle = {0};
    folder_of(path, folder);
    put_content(&pickle, content);
    dlm_status status = pickle.failed ? dlm__fail_memory(err, path, pickle.n)
                                      : add(zip, folder, "data.pkl", pickle.bytes, pickle.n, err);
    free(pickle.bytes);
    DLM_TRY(status);
    DLM_TRY(add(zip, folder, "byteorder", "little", 6, err));
    DLM_TRY(add_storages(zip, folder, content, err));
    return add(zip, folder, "version", "3\n", 2, err);
}

dlm_status dlm__torch_save(const char *path, const dlm_torch_content *content, dlm_error *err) {
    dlm_zip_writer *zip;
    DLM_TRY(dlm__zip_create(path, &zip, err));
    const dlm_status status = add_all(zip, path, content, err);
    if (status == DLM_OK) return dlm__zip_commit(zip, err);
    dlm__zip_abort(zip);
    return status;
}
