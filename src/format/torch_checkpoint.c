/* Reading checkpoints of torch.save. */
#include "format/torch_checkpoint.h"

#include "format/pickle.h"
#include "format/zip.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of data.pkl: above those of the deepest model with the longest histogram of lengths. */
#define PICKLE_LIMIT ((uint64_t)32 << 20)
/* A state dict may hold so many values more than it could if each storage were the storage of one tensor, and
 * some for free: tensors may share storages, but no small file shall ask for memory without end. */
#define SHARED_TIMES 8
#define SHARED_FREE  ((uint64_t)1 << 20)
/* How deep a config may nest, and how many values it may have. */
enum { CONFIG_DEPTH = 4, CONFIG_VALUES = 1 << 21 };
enum { KEY_SIZE = 200 };

typedef struct torch_tensor {
    char *name;
    const dlm_pickle_value *value;
    const dlm_zip_entry *entry; /* of its storage */
    size_t order;               /* its place in the pickle */
} torch_tensor;

typedef struct state_dict {
    torch_tensor *tensors; /* (n) by name */
    size_t n;
} state_dict;

struct dlm_torch {
    char *path;
    dlm_zip *zip;
    char *bytes; /* of data.pkl */
    dlm_pickle *pickle;
    size_t prefix; /* bytes of the folder's name in the archive, with its slash */
    const char *folder;
    bool big_endian;
    state_dict dicts[2];
    bool has[2];
    const dlm_pickle_value *config, *ours;
    /* The last storage of which a tensor was only a part, in this machine's byte order. */
    const dlm_zip_entry *held;
    unsigned char *storage;
};

/* ---- the archive -------------------------------------------------------------------------------------- */

/* FOLDER/name in the archive; NULL: none. */
static const dlm_zip_entry *find(const dlm_torch *file, const char *name, size_t bytes) {
    char full[2 * KEY_SIZE];
    const int n = snprintf(full, sizeof full, "%.*s%.*s", (int)file->prefix, file->folder, (int)bytes, name);
    return n > 0 && (size_t)n < sizeof full ? dlm__zip_find(file->zip, full) : NULL;
}

/* The one data.pkl that lies in a folder. */
static const dlm_zip_entry *find_pickle(dlm_torch *file) {
    static const char name[] = "data.pkl";
    for (size_t i = 0; i < dlm__zip_count(file->zip); i++) {
        const dlm_zip_entry *entry = dlm__zip_at(file->zip, i);
        const char *slash = strchr(entry->name, '/');
        if (slash == NULL || strcmp(slash + 1, name) != 0 || slash - entry->name >= KEY_SIZE) continue;
        file->folder = entry->name;
        file->prefix = (size_t)(slash + 1 - entry->name);
        return entry;
    }
    return NULL;
}

static dlm_status read_byte_order(dlm_torch *file, dlm_error *err) {
    char order[8] = {0};
    const dlm_zip_entry *entry = find(file, "byteorder", strlen("byteorder"));
    if (entry == NULL) return DLM_OK; /* files before PyTorch 2.1 are little-endian */
    if (entry->size < sizeof order) DLM_TRY(dlm__zip_read(file->zip, entry, order, err));
    file->big_endian = strcmp(order, "big") == 0;
    if (file->big_endian || strcmp(order, "little") == 0) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "%s: its byteorder is neither little nor big", file->path);
}

static dlm_status read_pickle(dlm_torch *file, dlm_error *err) {
    const dlm_zip_entry *entry = find_pickle(file);
    if (entry == NULL)
        return dlm__fail(err, DLM_FORMAT, "%s: a zip archive, but none of torch.save: it has no data.pkl",
                         file->path);
    if (entry->size > PICKLE_LIMIT)
        return dlm__fail(err, DLM_FORMAT, "%s: its data.pkl has %llu bytes, more than %llu", file->path,
                         (unsigned long long)entry->size, (unsigned long long)PICKLE_LIMIT);
    file->bytes = dlm__calloc((size_t)entry->size + 1, 1);
    if (file->bytes == NULL) return dlm__fail_memory(err, file->path, (size_t)entry->size);
    DLM_TRY(dlm__zip_read(file->zip, entry, file->bytes, err));
    DLM_TRY(read_byte_order(file, err));
    return dlm__pickle_parse(file->path, file->bytes, (size_t)entry->size, &file->pickle, err);
}

/* ---- state dicts -------------------------------------------------------------------------------------- */

/* A tensor's storage: there, and as long as the pickle says. */
static dlm_status find_storage(const dlm_torch *file, torch_tensor *tensor, dlm_error *err) {
    char name[KEY_SIZE];
    const dlm_pickle_value *storage = dlm__pickle_at(file->pickle, tensor->value->view->storage);
    uint64_t bytes;
    const int n = snprintf(name, sizeof name, "data/%.*s",
                           storage->bytes < KEY_SIZE ? (int)storage->bytes : KEY_SIZE, storage->text);
    if (n > 0 && (size_t)n < sizeof name) tensor->entry = find(file, name, (size_t)n);
    if (tensor->entry == NULL)
        return dlm__fail(err, DLM_FORMAT, "%s: the storage of tensor %.80s is missing", file->path,
                         tensor->name);
    if (__builtin_mul_overflow(storage->count, dlm__storage_element(storage->type), &bytes) ||
        bytes != tensor->entry->size)
        return dlm__fail(
            err, DLM_FORMAT,
            "%s: the storage of tensor %.80s is to have %llu values of %zu bytes, and has %llu bytes",
            file->path, tensor->name, (unsigned long long)storage->count, dlm__storage_element(storage->type),
            (unsigned long long)tensor->entry->size);
    return DLM_OK;
}

static dlm_status read_tensor(const dlm_torch *file, const dlm_pickle_value *key,
                              const dlm_pickle_value *value, torch_tensor *tensor, dlm_error *err) {
    if (key->kind != DLM_PICKLE_TEXT || memchr(key->text, 0, key->bytes) != NULL)
        return dlm__fail(err, DLM_FORMAT, "%s: a key of its state dict is no name", file->path);
    tensor->name = dlm__copy_bytes(key->text, key->bytes);
    if (tensor->name == NULL) return dlm__fail_memory(err, file->path, key->bytes);
    if (value->kind != DLM_PICKLE_TENSOR)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s: %.80s in its state dict is no tensor", file->path,
                         tensor->name);
    tensor->value = value;
    return find_storage(file, tensor, err);
}

static int by_name(const void *left, const void *right) {
    const torch_tensor *a = left, *b = right;
    const int order = strcmp(a->name, b->name);
    return order != 0 ? order : (a->order > b->order) - (a->order < b->order);
}

/* Sorts them; of several of one name the last stays, as in Python. */
static void sort(state_dict *dict) {
    size_t kept = 0;
    if (dict->n > 0) qsort(dict->tensors, dict->n, sizeof *dict->tensors, by_name);
    for (size_t i = 0; i < dict->n; i++) {
        if (i + 1 < dict->n && strcmp(dict->tensors[i].name, dict->tensors[i + 1].name) == 0)
            free(dict->tensors[i].name);
        else
            dict->tensors[kept++] = dict->tensors[i];
    }
    dict->n = kept;
}

static dlm_status check_sharing(const dlm_torch *file, const state_dict *dict, dlm_error *err) {
    uint64_t values = 0, bytes = SHARED_FREE;
    for (size_t i = 0; i < dict->n; i++) {
        if (__builtin_add_overflow(values, dict->tensors[i].value->view->count, &values)) values = UINT64_MAX;
    }
    for (size_t i = 0; i < dlm__zip_count(file->zip); i++) bytes += dlm__zip_at(file->zip, i)->size;
    if (values / SHARED_TIMES <= bytes) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "%s: its tensors are to have %llu values, from storages of %llu bytes",
                     file->path, (unsigned long long)values, (unsigned long long)(bytes - SHARED_FREE));
}

static dlm_status read_dict(dlm_torch *file, const dlm_pickle_value *from, dlm_torch_dict which,
                            dlm_error *err) {
    state_dict *dict = &file->dicts[which];
    const size_t n = from->n / 2;
    dict->tensors = dlm__calloc(n + 1, sizeof *dict->tensors);
    if (dict->tensors == NULL) return dlm__fail_memory(err, file->path, n * sizeof *dict->tensors);
    dlm_status status = DLM_OK;
    for (size_t i = 0; status == DLM_OK && i < n; i++) {
        torch_tensor *tensor = &dict->tensors[dict->n++];
        tensor->order = i;
        status = read_tensor(file, dlm__pickle_at(file->pickle, from->items[2 * i]),
                             dlm__pickle_at(file->pickle, from->items[2 * i + 1]), tensor, err);
    }
    DLM_TRY(status);
    sort(dict);
    file->has[which] = true;
    return check_sharing(file, dict, err);
}

static bool is_dict(const dlm_pickle_value *value) {
    return value != NULL && value->kind == DLM_PICKLE_DICT;
}

/* Does it hold a tensor at its top, as a state dict alone does? */
static bool holds_tensors(const dlm_torch *file, const dlm_pickle_value *dict) {
    for (size_t i = 1; i < dict->n; i += 2)
        if (dlm__pickle_at(file->pickle, dict->items[i])->kind == DLM_PICKLE_TENSOR) return true;
    return false;
}

static dlm_status read_content(dlm_torch *file, dlm_error *err) {
    const dlm_pickle_value *root = dlm__pickle_root(file->pickle);
    const dlm_pickle_value *model = dlm__pickle_get(file->pickle, root, "model"),
                           *raw = dlm__pickle_get(file->pickle, root, "raw");
    if (is_dict(root) && !is_dict(model) && !is_dict(raw) && holds_tensors(file, root))
        return read_dict(file, root, DLM_TORCH_MODEL, err);
    if (!is_dict(model) && !is_dict(raw))
        return dlm__fail(err, DLM_UNSUPPORTED,
                         "%s: neither a state dict nor a dict with one as \"model\" or \"raw\"", file->path);
    if (is_dict(model)) DLM_TRY(read_dict(file, model, DLM_TORCH_MODEL, err));
    if (is_dict(raw)) DLM_TRY(read_dict(file, raw, DLM_TORCH_RAW, err));
    file->config = dlm__pickle_get(file->pickle, root, "config");
    file->ours = dlm__pickle_get(file->pickle, root, "diffusionlm");
    return DLM_OK;
}

/* ---- files -------------------------------------------------------------------------------------------- */

static dlm_status create(const char *name, dlm_zip *zip, dlm_torch **file, dlm_error *err) {
    dlm_torch *made = dlm__calloc(1, sizeof *made);
    if (made != NULL) made->path = dlm__copy_bytes(name, strlen(name));
    if (made == NULL || made->path == NULL) {
        free(made);
        dlm__zip_close(zip);
        return dlm__fail_memory(err, name, sizeof *made);
    }
    made->zip = zip;
    dlm_status status = read_pickle(made, err);
    if (status == DLM_OK) status = read_content(made, err);
    if (status != DLM_OK) {
        dlm__torch_close(made);
        return status;
    }
    *file = made;
    return DLM_OK;
}

/* Before version 1.6, PyTorch wrote pickles one after the other; they begin with a number of ten bytes. */
static dlm_status check_old(const char *path, dlm_error *err) {
    static const char magic[] = {(char)0x80, 2, (char)0x8a, 10};
    char bytes[sizeof magic];
    FILE *file = fopen(path, "rbe");
    if (file == NULL) return DLM_OK;
    const bool old =
        fread(bytes, 1, sizeof bytes, file) == sizeof bytes && memcmp(bytes, magic, sizeof magic) == 0;
    (void)fclose(file);
    if (!old) return DLM_OK;
    return dlm__fail(
        err, DLM_UNSUPPORTED,
        "%s is in the format of PyTorch before 1.6, which is not read: load and save it in a newer one",
        path);
}

dlm_status dlm__torch_open(const char *path, dlm_torch **file, dlm_error *err) {
    dlm_zip *zip;
    *file = NULL;
    DLM_TRY(check_old(path, err));
    DLM_TRY(dlm__zip_open(path, &zip, err));
    return create(path, zip, file, err);
}

dlm_status dlm__torch_parse(const char *name, const void *bytes, size_t n, dlm_torch **file, dlm_error *err) {
    dlm_zip *zip;
    *file = NULL;
    DLM_TRY(dlm__zip_parse(name, bytes, n, &zip, err));
    return create(name, zip, file, err);
}

void dlm__torch_close(dlm_torch *file) {
    if (file == NULL) return;
    for (int which = 0; which < 2; which++) {
        const state_dict *dict = &file->dicts[which];
        for (size_t i = 0; i < dict->n; i++) free(dict->tensors[i].name);
        free(dict->tensors);
    }
    dlm__pickle_free(file->pickle);
    dlm__zip_close(file->zip);
    free(file->storage);
    free(file->bytes);
    free(file->path);
    free(file);
}

bool dlm__torch_has(const dlm_torch *file, dlm_torch_dict which) {
    return file->has[which];
}

/* ---- values ------------------------------------------------------------------------------------------- */

static void reverse(unsigned char *bytes, size_t n, size_t size) {
    for (size_t i = 0; i < n; i++) {
        unsigned char *element = bytes + i * size;
        for (size_t j = 0; j < size / 2; j++) {
            const unsigned char first = element[j];
            element[j] = element[size - 1 - j];
            element[size - 1 - j] = first;
        }
    }
}

static dlm_status read_storage(dlm_torch *file, const torch_tensor *tensor, void *bytes, dlm_error *err) {
    const size_t element = dlm__storage_element(tensor->value->type);
    DLM_TRY(dlm__zip_read(file->zip, tensor->entry, bytes, err));
    if (file->big_endian) reverse(bytes, (size_t)tensor->entry->size / element, element);
    return DLM_OK;
}

/* Are these the elements of a storage in order, from `offset` on? */
static bool in_order(const dlm_pickle_view *view) {
    uint64_t step = 1;
    for (size_t i = view->ndim; i-- > 0; step *= view->shape[i])
        if (view->shape[i] != 1 && view->stride[i] != step) return false;
    return true;
}

static void convert(dlm_storage_type type, const unsigned char *from, size_t n, float *values) {
    switch (type) {
    case DLM_STORAGE_F32: memcpy(values, from, n * sizeof *values); break;
    case DLM_STORAGE_F16: dlm__floats_of_f16(from, n, values); break;
    case DLM_STORAGE_BF16: dlm__floats_of_bf16(from, n, values); break;
    case DLM_STORAGE_F64: dlm__floats_of_f64(from, n, values); break;
    case DLM_STORAGE_TYPES: break;
    }
}

/* One element after the other, the last axis fastest. */
static void gather(const dlm_pickle_value *tensor, const unsigned char *storage, float *values) {
    const dlm_pickle_view *view = tensor->view;
    const size_t element = dlm__storage_element(tensor->type);
    uint64_t at[DLM_TENSOR_DIMS] = {0}, place = view->offset;
    for (uint64_t done = 0; done < view->count; done++) {
        convert(tensor->type, storage + place * element, 1, values + done);
        for (size_t axis = view->ndim; axis-- > 0;) {
            place += view->stride[axis];
            if (++at[axis] < view->shape[axis]) break;
            place -= at[axis] * view->stride[axis];
            at[axis] = 0;
        }
    }
}

/* The tensor's storage into file->storage, if it is not there from the tensor before. */
static dlm_status hold_storage(dlm_torch *file, const torch_tensor *tensor, dlm_error *err) {
    if (file->held == tensor->entry) return DLM_OK;
    const size_t bytes = (size_t)tensor->entry->size;
    free(file->storage);
    file->held = NULL;
    file->storage = malloc(bytes + 1);
    if (file->storage == NULL) return dlm__fail_memory(err, file->path, bytes);
    DLM_TRY(read_storage(file, tensor, file->storage, err));
    file->held = tensor->entry;
    return DLM_OK;
}

/* A storage is held for the next tensor only where this one is not all of it, so that files as PyTorch
 * usually writes them need no memory but for what is converted. */
static dlm_status read_floats(dlm_torch *file, const torch_tensor *tensor, float *values, dlm_error *err) {
    const dlm_pickle_value *value = tensor->value;
    const dlm_pickle_view *view = value->view;
    const size_t element = dlm__storage_element(value->type);
    const bool ordered = in_order(view), whole = ordered && view->count * element == tensor->entry->size;
    if (view->count == 0) return DLM_OK;
    if (whole && value->type == DLM_STORAGE_F32) return read_storage(file, tensor, values, err);
    DLM_TRY(hold_storage(file, tensor, err));
    if (ordered)
        convert(value->type, file->storage + view->offset * element, (size_t)view->count, values);
    else
        gather(value, file->storage, values);
    if (whole) {
        free(file->storage);
        file->storage = NULL;
        file->held = NULL;
    }
    return DLM_OK;
}

static dlm_tensor tensor_at(const state_dict *dict, size_t i) {
    static const char *const names[] = {"float32", "float16", "bfloat16", "float64"};
    const torch_tensor *from = &dict->tensors[i];
    const dlm_pickle_view *view = from->value->view;
    dlm_tensor tensor = {.name = from->name,
                         .type_name = names[from->value->type],
                         .number = names[from->value->type],
                         .ndim = view->ndim,
                         .count = (size_t)view->count};
    for (size_t axis = 0; axis < view->ndim; axis++) tensor.shape[axis] = (size_t)view->shape[axis];
    return tensor;
}

static dlm_tensor model_at(const void *file, size_t i) {
    return tensor_at(&((const dlm_torch *)file)->dicts[DLM_TORCH_MODEL], i);
}

static dlm_tensor raw_at(const void *file, size_t i) {
    return tensor_at(&((const dlm_torch *)file)->dicts[DLM_TORCH_RAW], i);
}

static dlm_status model_floats(void *given, size_t i, float *values, dlm_error *err) {
    dlm_torch *file = given;
    return read_floats(file, &file->dicts[DLM_TORCH_MODEL].tensors[i], values, err);
}

static dlm_status raw_floats(void *given, size_t i, float *values, dlm_error *err) {
    dlm_torch *file = given;
    return read_floats(file, &file->dicts[DLM_TORCH_RAW].tensors[i], values, err);
}

dlm_tensors dlm__torch_tensors(dlm_torch *file, dlm_torch_dict which) {
    const bool raw = which == DLM_TORCH_RAW;
    return (dlm_tensors){.path = file->path,
                         .n = file->dicts[which].n,
                         .file = file,
                         .at = raw ? raw_at : model_at,
                         .floats = raw ? raw_floats : model_floats};
}

/* ---- config ------------------------------------------------------------------------------------------- */

/* The value as JSON; NULL for what JSON has not, or what nests or grows too far. *left: values it may have.
 */
static json_t *json_of(const dlm_torch *file, const dlm_pickle_value *value, int depth, int *left);

static json_t *array_of(const dlm_torch *file, const dlm_pickle_value *list, int depth, int *left) {
    json_t *array = json_array();
    for (size_t i = 0; array != NULL && i < list->n; i++) {
        json_t *item = json_of(file, dlm__pickle_at(file->pickle, list->items[i]), depth + 1, left);
        if (item != NULL && json_array_append_new(array, item) == 0) continue;
        json_decref(array);
        return NULL;
    }
    return array;
}

static json_t *object_of(const dlm_torch *file, const dlm_pickle_value *dict, int depth, int *left) {
    json_t *object = json_object();
    for (size_t i = 0; object != NULL && i + 1 < dict->n; i += 2) {
        const dlm_pickle_value *key = dlm__pickle_at(file->pickle, dict->items[i]);
        char *name = key->kind == DLM_PICKLE_TEXT && memchr(key->text, 0, key->bytes) == NULL
                         ? dlm__copy_bytes(key->text, key->bytes)
                         : NULL;
        json_t *item = name == NULL
                           ? NULL
                           : json_of(file, dlm__pickle_at(file->pickle, dict->items[i + 1]), depth + 1, left);
        const bool added = item != NULL && json_object_set_new(object, name, item) == 0;
        free(name);
        if (added) continue;
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *json_of(const dlm_torch *file, const dlm_pickle_value *value, int depth, int *left) {
    if (depth > CONFIG_DEPTH || --*left < 0) return NULL;
    switch (value->kind) {
    case DLM_PICKLE_NONE: return json_null();
    case DLM_PICKLE_BOOL: return json_boolean(value->integer != 0);
    case DLM_PICKLE_INT: return json_integer((json_int_t)value->integer);
    case DLM_PICKLE_FLOAT: return json_real(value->real);
    case DLM_PICKLE_TEXT: return json_stringn(value->text, value->bytes);
    case DLM_PICKLE_LIST:
    case DLM_PICKLE_TUPLE: return array_of(file, value, depth, left);
    case DLM_PICKLE_DICT: return object_of(file, value, depth, left);
    default: return NULL;
    }
}

static dlm_status plain(const dlm_torch *file, const dlm_pickle_value *value, const char *key, json_t **json,
                        dlm_error *err) {
    int left = CONFIG_VALUES;
    *json = is_dict(value) ? json_of(file, value, 0, &left) : NULL;
    if (*json != NULL) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "%s: its \"%s\" is no dict of plain values", file->path, key);
}

/* Puts ours where a config.json has it: time and position beside the six keys, all else in "diffusion". */
static bool merge(json_t *config, json_t *ours) {
    static const char *const beside[] = {"time", "position"};
    for (size_t i = 0; i < sizeof beside / sizeof beside[0]; i++) {
        json_t *value = json_object_get(ours, beside[i]);
        if (value == NULL) continue;
        if (json_object_set(config, beside[i], value) != 0 || json_object_del(ours, beside[i]) != 0)
            return false;
    }
    return json_object_set(config, "diffusion", ours) == 0;
}

dlm_status dlm__torch_config(const dlm_torch *file, char **json, dlm_error *err) {
    json_t *config = NULL, *ours = NULL;
    *json = NULL;
    if (file->config == NULL) return DLM_OK;
    dlm_status status = plain(file, file->config, "config", &config, err);
    if (status == DLM_OK && file->ours != NULL) status = plain(file, file->ours, "diffusionlm", &ours, err);
    if (status == DLM_OK) {
        const bool merged = ours == NULL || merge(config, ours);
        if (merged) *json = json_dumps(config, JSON_REAL_PRECISION(17));
        if (*json == NULL) status = dlm__fail_memory(err, file->path, 0);
    }
    json_decref(ours);
    json_decref(config);
    return status;
}
