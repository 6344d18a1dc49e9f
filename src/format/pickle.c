/* The pickle machine: a stack, marks on it, and a memo. */
#include "format/pickle.h"

#include <stdlib.h>
#include <string.h>

/* Opcodes, by their names in pickletools.py. */
enum {
    MARK = '(',
    STOP = '.',
    POP = '0',
    POP_MARK = '1',
    BINFLOAT = 'G',
    BININT = 'J',
    BININT1 = 'K',
    BININT2 = 'M',
    NONE = 'N',
    BINPERSID = 'Q',
    REDUCE = 'R',
    BINUNICODE = 'X',
    EMPTY_LIST = ']',
    APPEND = 'a',
    BUILD = 'b',
    GLOBAL = 'c',
    APPENDS = 'e',
    BINGET = 'h',
    LONG_BINGET = 'j',
    BINPUT = 'q',
    LONG_BINPUT = 'r',
    SETITEM = 's',
    TUPLE = 't',
    SETITEMS = 'u',
    EMPTY_DICT = '}',
    EMPTY_TUPLE = ')',
    PROTO = 0x80,
    TUPLE1 = 0x85,
    TUPLE2 = 0x86,
    TUPLE3 = 0x87,
    NEWTRUE = 0x88,
    NEWFALSE = 0x89,
    LONG1 = 0x8a,
    SHORT_BINUNICODE = 0x8c,
    BINUNICODE8 = 0x8d,
    STACK_GLOBAL = 0x93,
    MEMOIZE = 0x94,
    FRAME = 0x95
};

/* The globals of a state dict; storages in the order of dlm_storage_type. */
enum { ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, FIRST_STORAGE };
static const struct {
    const char *module, *name;
} known_globals[] = {{"collections", "OrderedDict"},
                     {"torch._utils", "_rebuild_tensor_v2"},
                     {"torch._utils", "_rebuild_parameter"},
                     {"torch", "FloatStorage"},
                     {"torch", "HalfStorage"},
                     {"torch", "BFloat16Storage"},
                     {"torch", "DoubleStorage"}};
enum { KNOWN_GLOBALS = sizeof known_globals / sizeof known_globals[0] };

size_t dlm__storage_element(dlm_storage_type type) {
    static const size_t sizes[] = {4, 2, 2, 8};
    return sizes[type];
}

/* Numbers of nodes, in memory that grows. */
typedef struct refs {
    dlm_pickle_ref *list;
    size_t n, capacity;
} refs;

struct dlm_pickle {
    const char *name;
    const unsigned char *bytes;
    size_t size, at; /* the next byte to read */
    dlm_pickle_value *values;
    size_t n, capacity;
    refs stack, memo;
    size_t *marks; /* heights of the stack */
    size_t marks_n, marks_capacity;
    dlm_pickle_ref root;
    size_t copied; /* items of dicts that were made of lists */
    dlm_error *err;
};

#define NO_REF UINT32_MAX
/* Objects, and marks, that a pickle may make: twice what the deepest model with the longest histogram of
 * lengths takes, and no more memory than such a model's own. A few bytes of an archive inflate to millions.
 */
#define OBJECTS_MOST ((size_t)1 << 22)

/* ---- errors and memory --------------------------------------------------------------------------------- */

static dlm_status malformed(dlm_pickle *p, const char *what) {
    return dlm__fail(p->err, DLM_FORMAT, "%s: byte %zu of its pickle: %s", p->name, p->at, what);
}

static dlm_status push_ref(dlm_pickle *p, refs *to, dlm_pickle_ref ref) {
    dlm_pickle_ref *grown = dlm__grow(to->list, &to->capacity, to->n + 1, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(p->err, p->name, to->n * sizeof *grown);
    to->list = grown;
    to->list[to->n++] = ref;
    return DLM_OK;
}

/* A new node on the stack. */
static dlm_status push_value(dlm_pickle *p, dlm_pickle_value value) {
    if (p->n == OBJECTS_MOST) return malformed(p, "more objects than any state dict has");
    dlm_pickle_value *grown = dlm__grow(p->values, &p->capacity, p->n + 1, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(p->err, p->name, p->n * sizeof *grown);
    p->values = grown;
    p->values[p->n] = value;
    return push_ref(p, &p->stack, (dlm_pickle_ref)p->n++);
}

static dlm_status add_item(dlm_pickle *p, dlm_pickle_ref to, dlm_pickle_ref item) {
    dlm_pickle_value *value = &p->values[to];
    dlm_pickle_ref *grown = dlm__grow(value->items, &value->capacity, value->n + 1, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(p->err, p->name, value->n * sizeof *grown);
    value->items = grown;
    value->items[value->n++] = item;
    return DLM_OK;
}

/* ---- input --------------------------------------------------------------------------------------------- */

static dlm_status take(dlm_pickle *p, size_t n, const unsigned char **bytes) {
    *bytes = p->bytes + p->at;
    if (n > p->size - p->at) return malformed(p, "it is cut off");
    p->at += n;
    return DLM_OK;
}

/* n <= 8 bytes, little-endian. */
static dlm_status take_number(dlm_pickle *p, size_t n, uint64_t *number) {
    const unsigned char *bytes;
    DLM_TRY(take(p, n, &bytes));
    *number = 0;
    for (size_t i = n; i-- > 0;) *number = *number << 8 | bytes[i];
    return DLM_OK;
}

static dlm_status push_text(dlm_pickle *p, size_t length_bytes) {
    uint64_t n;
    const unsigned char *bytes;
    DLM_TRY(take_number(p, length_bytes, &n));
    if (n > SIZE_MAX) return malformed(p, "it is cut off");
    DLM_TRY(take(p, (size_t)n, &bytes));
    return push_value(
        p, (dlm_pickle_value){.kind = DLM_PICKLE_TEXT, .text = (const char *)bytes, .bytes = (size_t)n});
}

static dlm_status push_int(dlm_pickle *p, int64_t integer) {
    return push_value(p, (dlm_pickle_value){.kind = DLM_PICKLE_INT, .integer = integer});
}

/* Two's complement of any number of bytes; more than 8 count nothing that a state dict could hold. */
static dlm_status push_long(dlm_pickle *p) {
    uint64_t n, bits = 0;
    DLM_TRY(take_number(p, 1, &n));
    if (n > 8) return malformed(p, "an integer of more than 64 bits");
    DLM_TRY(take_number(p, (size_t)n, &bits));
    if (n > 0 && n < 8 && bits >> (8 * n - 1)) bits |= UINT64_MAX << (8 * n);
    int64_t integer;
    memcpy(&integer, &bits, sizeof integer);
    return push_int(p, integer);
}

static dlm_status push_float(dlm_pickle *p) {
    const unsigned char *bytes;
    DLM_TRY(take(p, 8, &bytes));
    uint64_t bits = 0;
    double real;
    for (size_t i = 0; i < 8; i++) bits = bits << 8 | bytes[i]; /* big-endian */
    memcpy(&real, &bits, sizeof real);
    return push_value(p, (dlm_pickle_value){.kind = DLM_PICKLE_FLOAT, .real = real});
}

/* ---- the stack ----------------------------------------------------------------------------------------- */

/* How far down the current opcode may reach: to the last mark. */
static size_t floor_of(const dlm_pickle *p) {
    return p->marks_n > 0 ? p->marks[p->marks_n - 1] : 0;
}

static dlm_status pop(dlm_pickle *p, dlm_pickle_ref *ref) {
    *ref = NO_REF;
    if (p->stack.n <= floor_of(p)) return malformed(p, "its stack is empty");
    *ref = p->stack.list[--p->stack.n];
    return DLM_OK;
}

static dlm_status pop_mark(dlm_pickle *p, size_t *first) {
    *first = 0;
    if (p->marks_n == 0) return malformed(p, "there is no mark on its stack");
    *first = p->marks[--p->marks_n];
    return DLM_OK;
}

static dlm_status push_mark(dlm_pickle *p) {
    if (p->marks_n == OBJECTS_MOST) return malformed(p, "more marks than any state dict has");
    size_t *grown = dlm__grow(p->marks, &p->marks_capacity, p->marks_n + 1, sizeof *grown);
    if (grown == NULL) return dlm__fail_memory(p->err, p->name, p->marks_n * sizeof *grown);
    p->marks = grown;
    p->marks[p->marks_n++] = p->stack.n;
    return DLM_OK;
}

/* A tuple of what lies on the stack from `first` on. */
static dlm_status make_tuple(dlm_pickle *p, size_t first) {
    const size_t n = p->stack.n - first;
    dlm_pickle_value tuple = {.kind = DLM_PICKLE_TUPLE, .n = n, .capacity = n};
    if (n > 0) {
        tuple.items = dlm__calloc(n, sizeof *tuple.items);
        if (tuple.items == NULL) return dlm__fail_memory(p->err, p->name, n * sizeof *tuple.items);
        memcpy(tuple.items, p->stack.list + first, n * sizeof *tuple.items);
    }
    p->stack.n = first;
    const dlm_status status = push_value(p, tuple);
    if (status != DLM_OK) free(tuple.items);
    return status;
}

static dlm_status make_tuple_of(dlm_pickle *p, size_t n) {
    if (p->stack.n - floor_of(p) < n) return malformed(p, "its stack is empty");
    return make_tuple(p, p->stack.n - n);
}

/* The container below, of this kind, takes what lies on the stack from `first` on. */
static dlm_status add_items(dlm_pickle *p, size_t first, dlm_pickle_kind kind) {
    if (first == floor_of(p)) return malformed(p, "its stack is empty");
    const dlm_pickle_ref to = p->stack.list[first - 1];
    if (p->values[to].kind != kind)
        return malformed(p,
                         kind == DLM_PICKLE_DICT ? "items for what is no dict" : "items for what is no list");
    if (kind == DLM_PICKLE_DICT && (p->stack.n - first) % 2 != 0)
        return malformed(p, "a key without a value");
    for (size_t i = first; i < p->stack.n; i++) DLM_TRY(add_item(p, to, p->stack.list[i]));
    p->stack.n = first;
    return DLM_OK;
}

static dlm_status add_last(dlm_pickle *p, size_t n, dlm_pickle_kind kind) {
    if (p->stack.n - floor_of(p) < n + 1) return malformed(p, "its stack is empty");
    return add_items(p, p->stack.n - n, kind);
}

static dlm_status add_marked(dlm_pickle *p, dlm_pickle_kind kind) {
    size_t first;
    DLM_TRY(pop_mark(p, &first));
    return add_items(p, first, kind);
}

/* ---- memo ---------------------------------------------------------------------------------------------- */

static dlm_status memoize(dlm_pickle *p, uint64_t place) {
    if (p->stack.n <= floor_of(p)) return malformed(p, "its stack is empty");
    /* Places come one after the other in what Python writes; a far one would only cost memory. */
    if (place > p->size || place >= OBJECTS_MOST)
        return malformed(p, "a place in its memo that it cannot have");
    while (p->memo.n <= place) DLM_TRY(push_ref(p, &p->memo, NO_REF));
    p->memo.list[place] = p->stack.list[p->stack.n - 1];
    return DLM_OK;
}

static dlm_status recall(dlm_pickle *p, uint64_t place) {
    if (place >= p->memo.n || p->memo.list[place] == NO_REF)
        return malformed(p, "a place in its memo where there is nothing");
    return push_ref(p, &p->stack, p->memo.list[place]);
}

/* ---- globals and what is made of them ------------------------------------------------------------------ */

static bool is_text(const char *text, size_t bytes, const char *word) {
    return bytes == strlen(word) && memcmp(text, word, bytes) == 0;
}

/* Refused by its name, of which at most so many bytes are shown, and only those that can be. */
enum { NAME_SHOWN = 60 };

static void show(char shown[NAME_SHOWN + 1], const char *text, size_t bytes) {
    size_t n = bytes < NAME_SHOWN ? bytes : NAME_SHOWN;
    for (size_t i = 0; i < n; i++) shown[i] = text[i] > ' ' && text[i] < 127 ? text[i] : '?';
    shown[n] = 0;
}

static dlm_status push_global(dlm_pickle *p, const char *module, size_t module_bytes, const char *name,
                              size_t name_bytes) {
    char shown_module[NAME_SHOWN + 1], shown_name[NAME_SHOWN + 1];
    for (int i = 0; i < KNOWN_GLOBALS; i++)
        if (is_text(module, module_bytes, known_globals[i].module) &&
            is_text(name, name_bytes, known_globals[i].name))
            return push_value(p, (dlm_pickle_value){.kind = DLM_PICKLE_GLOBAL, .global = i});
    show(shown_module, module, module_bytes);
    show(shown_name, name, name_bytes);
    return dlm__fail(p->err, DLM_UNSUPPORTED,
                     "%s: its pickle asks for %s.%s, which no state dict needs; nothing was executed",
                     p->name, shown_module, shown_name);
}

static dlm_status take_line(dlm_pickle *p, const char **line, size_t *n) {
    const unsigned char *start = p->bytes + p->at, *end = memchr(start, '\n', p->size - p->at);
    *line = (const char *)start;
    *n = 0;
    if (end == NULL) return malformed(p, "it is cut off");
    *n = (size_t)(end - start);
    p->at += *n + 1;
    return DLM_OK;
}

static dlm_status read_global(dlm_pickle *p) {
    const char *module, *name;
    size_t module_bytes, name_bytes;
    DLM_TRY(take_line(p, &module, &module_bytes));
    DLM_TRY(take_line(p, &name, &name_bytes));
    return push_global(p, module, module_bytes, name, name_bytes);
}

static dlm_status stack_global(dlm_pickle *p) {
    dlm_pickle_ref module, name;
    DLM_TRY(pop(p, &name));
    DLM_TRY(pop(p, &module));
    const dlm_pickle_value *m = &p->values[module], *n = &p->values[name];
    if (m->kind != DLM_PICKLE_TEXT || n->kind != DLM_PICKLE_TEXT)
        return malformed(p, "a global without a name");
    return push_global(p, m->text, m->bytes, n->text, n->bytes);
}

/* Item i of a tuple, where it is of this kind; else NULL. */
static const dlm_pickle_value *item_of(const dlm_pickle *p, const dlm_pickle_value *tuple, size_t i,
                                       dlm_pickle_kind kind) {
    if (tuple->kind != DLM_PICKLE_TUPLE || i >= tuple->n) return NULL;
    const dlm_pickle_value *item = &p->values[tuple->items[i]];
    return item->kind == kind ? item : NULL;
}

/* ("storage", type, key, device, number of elements) */
static dlm_status make_storage(dlm_pickle *p) {
    dlm_pickle_ref ref;
    DLM_TRY(pop(p, &ref));
    const dlm_pickle_value *id = &p->values[ref];
    const dlm_pickle_value *word = item_of(p, id, 0, DLM_PICKLE_TEXT),
                           *type = item_of(p, id, 1, DLM_PICKLE_GLOBAL),
                           *key = item_of(p, id, 2, DLM_PICKLE_TEXT),
                           *count = item_of(p, id, 4, DLM_PICKLE_INT);
    if (word == NULL || !is_text(word->text, word->bytes, "storage") || type == NULL ||
        type->global < FIRST_STORAGE || key == NULL || count == NULL || count->integer < 0)
        return malformed(p, "a reference to something that is no storage of floating-point numbers");
    return push_value(p, (dlm_pickle_value){.kind = DLM_PICKLE_STORAGE,
                                            .type = (dlm_storage_type)(type->global - FIRST_STORAGE),
                                            .text = key->text,
                                            .bytes = key->bytes,
                                            .count = (uint64_t)count->integer});
}

/* A tuple of at most DLM_TENSOR_DIMS numbers, none negative. */
static bool read_numbers(const dlm_pickle *p, const dlm_pickle_value *tuple, uint64_t *numbers, size_t *n) {
    if (tuple == NULL || tuple->n > DLM_TENSOR_DIMS) return false;
    for (size_t i = 0; i < tuple->n; i++) {
        const dlm_pickle_value *item = item_of(p, tuple, i, DLM_PICKLE_INT);
        if (item == NULL || item->integer < 0) return false;
        numbers[i] = (uint64_t)item->integer;
    }
    *n = tuple->n;
    return true;
}

/* Does the view stay within the `available` elements of its storage, and do its numbers fit 64 bits? Fills in
 * its count. */
static bool view_fits(dlm_pickle_view *view, uint64_t available) {
    uint64_t last = view->offset;
    view->count = 1;
    for (size_t i = 0; i < view->ndim; i++) {
        if (__builtin_mul_overflow(view->count, view->shape[i], &view->count)) return false;
    }
    if (view->count == 0) return view->offset <= available;
    for (size_t i = 0; i < view->ndim; i++) {
        uint64_t reach;
        if (__builtin_mul_overflow(view->shape[i] - 1, view->stride[i], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return false;
    }
    return last < available;
}

/* (storage, offset, shape, stride, requires_grad, hooks, ...) */
static dlm_status make_tensor(dlm_pickle *p, const dlm_pickle_value *arguments) {
    const dlm_pickle_value *storage = item_of(p, arguments, 0, DLM_PICKLE_STORAGE),
                           *offset = item_of(p, arguments, 1, DLM_PICKLE_INT);
    dlm_pickle_view view = {0};
    size_t strides;
    if (storage == NULL || offset == NULL || offset->integer < 0 ||
        !read_numbers(p, item_of(p, arguments, 2, DLM_PICKLE_TUPLE), view.shape, &view.ndim) ||
        !read_numbers(p, item_of(p, arguments, 3, DLM_PICKLE_TUPLE), view.stride, &strides) ||
        strides != view.ndim)
        return malformed(p, "a tensor that is no view of a storage in at most 8 dimensions");
    view.storage = arguments->items[0];
    view.offset = (uint64_t)offset->integer;
    if (!view_fits(&view, storage->count)) return malformed(p, "a tensor that reaches beyond its storage");
    dlm_pickle_value tensor = {.kind = DLM_PICKLE_TENSOR, .type = storage->type};
    tensor.view = dlm__calloc(1, sizeof *tensor.view);
    if (tensor.view == NULL) return dlm__fail_memory(p->err, p->name, sizeof *tensor.view);
    *tensor.view = view;
    const dlm_status status = push_value(p, tensor);
    if (status != DLM_OK) free(tensor.view);
    return status;
}

/* OrderedDict(), or of a list of pairs. */
static dlm_status make_dict(dlm_pickle *p, const dlm_pickle_value *arguments) {
    dlm_pickle_ref pairs = NO_REF;
    if (arguments->n > 0) pairs = arguments->items[0];
    if (arguments->n > 1 || (pairs != NO_REF && p->values[pairs].kind != DLM_PICKLE_LIST))
        return malformed(p, "an OrderedDict of what is no list of pairs");
    /* The same list may be asked for again and again: all of them together hold no more than could be written
     * out. */
    if (pairs != NO_REF) p->copied += p->values[pairs].n;
    if (p->copied > p->size) return malformed(p, "more pairs in dicts than it has bytes");
    DLM_TRY(push_value(p, (dlm_pickle_value){.kind = DLM_PICKLE_DICT}));
    const dlm_pickle_ref dict = (dlm_pickle_ref)(p->n - 1);
    for (size_t i = 0; pairs != NO_REF && i < p->values[pairs].n; i++) {
        const dlm_pickle_value *pair = &p->values[p->values[pairs].items[i]];
        if ((pair->kind != DLM_PICKLE_TUPLE && pair->kind != DLM_PICKLE_LIST) || pair->n != 2)
            return malformed(p, "an OrderedDict of what is no list of pairs");
        const dlm_pickle_ref key = pair->items[0], value = pair->items[1];
        DLM_TRY(add_item(p, dict, key));
        DLM_TRY(add_item(p, dict, value));
    }
    return DLM_OK;
}

static dlm_status reduce(dlm_pickle *p) {
    dlm_pickle_ref arguments_ref, callee_ref;
    DLM_TRY(pop(p, &arguments_ref));
    DLM_TRY(pop(p, &callee_ref));
    const dlm_pickle_value *arguments = &p->values[arguments_ref], *callee = &p->values[callee_ref];
    if (callee->kind != DLM_PICKLE_GLOBAL || arguments->kind != DLM_PICKLE_TUPLE)
        return malformed(p, "a call of something that is no function");
    switch (callee->global) {
    case ORDERED_DICT: return make_dict(p, arguments);
    case REBUILD_TENSOR: return make_tensor(p, arguments);
    case REBUILD_PARAMETER:
        if (item_of(p, arguments, 0, DLM_PICKLE_TENSOR) == NULL)
            return malformed(p, "a parameter of no tensor");
        return push_ref(p, &p->stack, arguments->items[0]);
    default: return malformed(p, "a call of a storage type");
    }
}

/* The attributes of an OrderedDict (a state dict has `_metadata`), which nobody needs. */
static dlm_status build(dlm_pickle *p) {
    dlm_pickle_ref state;
    DLM_TRY(pop(p, &state));
    if (p->stack.n <= floor_of(p)) return malformed(p, "its stack is empty");
    const dlm_pickle_value *object = &p->values[p->stack.list[p->stack.n - 1]];
    if (object->kind != DLM_PICKLE_DICT && object->kind != DLM_PICKLE_TENSOR)
        return malformed(p, "a state for something that has none");
    return DLM_OK;
}

/* ---- the opcodes --------------------------------------------------------------------------------------- */

static dlm_status unknown_opcode(dlm_pickle *p, unsigned char opcode) {
    char what[80];
    (void)snprintf(what, sizeof what, "opcode 0x%02x is none that a state dict needs", opcode);
    p->at--;
    return malformed(p, what);
}

static dlm_status with_number(dlm_pickle *p, size_t bytes, dlm_status (*use)(dlm_pickle *, uint64_t)) {
    uint64_t number;
    DLM_TRY(take_number(p, bytes, &number));
    return use(p, number);
}

static dlm_status push_unsigned(dlm_pickle *p, uint64_t number) {
    return push_int(p, (int64_t)number);
}

static dlm_status push_int32(dlm_pickle *p, uint64_t bits) {
    return push_int(p, (int64_t)(bits ^ 0x80000000U) - 0x80000000LL);
}

static dlm_status skip_frame(dlm_pickle *p, uint64_t bytes) {
    return bytes <= p->size - p->at ? DLM_OK : malformed(p, "it is cut off");
}

static dlm_status check_protocol(dlm_pickle *p, uint64_t protocol) {
    return protocol >= 2 && protocol <= 5 ? DLM_OK : malformed(p, "a protocol that is none of 2 to 5");
}

static dlm_status drop_marked(dlm_pickle *p) {
    size_t first;
    DLM_TRY(pop_mark(p, &first));
    p->stack.n = first;
    return DLM_OK;
}

static dlm_status marked_tuple(dlm_pickle *p) {
    size_t first;
    DLM_TRY(pop_mark(p, &first));
    return make_tuple(p, first);
}

static dlm_status push_bool(dlm_pickle *p, bool is_true) {
    return push_value(p, (dlm_pickle_value){.kind = DLM_PICKLE_BOOL, .integer = is_true});
}

/* None, or an empty container. */
static dlm_status push_empty(dlm_pickle *p, dlm_pickle_kind kind) {
    return push_value(p, (dlm_pickle_value){.kind = kind});
}

static dlm_status execute(dlm_pickle *p, unsigned char opcode) {
    dlm_pickle_ref dropped;
    switch (opcode) {
    case PROTO: return with_number(p, 1, check_protocol);
    case FRAME: return with_number(p, 8, skip_frame);
    case MARK: return push_mark(p);
    case POP: return pop(p, &dropped);
    case POP_MARK: return drop_marked(p);
    case NONE: return push_empty(p, DLM_PICKLE_NONE);
    case NEWTRUE: return push_bool(p, true);
    case NEWFALSE: return push_bool(p, false);
    case BININT: return with_number(p, 4, push_int32);
    case BININT1: return with_number(p, 1, push_unsigned);
    case BININT2: return with_number(p, 2, push_unsigned);
    case LONG1: return push_long(p);
    case BINFLOAT: return push_float(p);
    case SHORT_BINUNICODE: return push_text(p, 1);
    case BINUNICODE: return push_text(p, 4);
    case BINUNICODE8: return push_text(p, 8);
    case EMPTY_TUPLE: return make_tuple(p, p->stack.n);
    case TUPLE: return marked_tuple(p);
    case TUPLE1: return make_tuple_of(p, 1);
    case TUPLE2: return make_tuple_of(p, 2);
    case TUPLE3: return make_tuple_of(p, 3);
    case EMPTY_LIST: return push_empty(p, DLM_PICKLE_LIST);
    case APPEND: return add_last(p, 1, DLM_PICKLE_LIST);
    case APPENDS: return add_marked(p, DLM_PICKLE_LIST);
    case EMPTY_DICT: return push_empty(p, DLM_PICKLE_DICT);
    case SETITEM: return add_last(p, 2, DLM_PICKLE_DICT);
    case SETITEMS: return add_marked(p, DLM_PICKLE_DICT);
    case BINPUT: return with_number(p, 1, memoize);
    case LONG_BINPUT: return with_number(p, 4, memoize);
    case MEMOIZE: return memoize(p, p->memo.n);
    case BINGET: return with_number(p, 1, recall);
    case LONG_BINGET: return with_number(p, 4, recall);
    case GLOBAL: return read_global(p);
    case STACK_GLOBAL: return stack_global(p);
    case BINPERSID: return make_storage(p);
    case REDUCE: return reduce(p);
    case BUILD: return build(p);
    default: return unknown_opcode(p, opcode);
    }
}

static dlm_status run(dlm_pickle *p) {
    for (;;) {
        const unsigned char *opcode;
        DLM_TRY(take(p, 1, &opcode));
        if (*opcode == STOP) break;
        DLM_TRY(execute(p, *opcode));
    }
    if (p->marks_n > 0 || p->stack.n != 1) return malformed(p, "it ends with other than one object");
    p->root = p->stack.list[0];
    return DLM_OK;
}

dlm_status dlm__pickle_parse(const char *name, const void *bytes, size_t n, dlm_pickle **pickle,
                             dlm_error *err) {
    *pickle = NULL;
    dlm_pickle *p = dlm__calloc(1, sizeof *p);
    if (p == NULL) return dlm__fail_memory(err, name, sizeof *p);
    p->name = name;
    p->bytes = bytes;
    p->size = n;
    p->err = err;
    const dlm_status status = run(p);
    if (status != DLM_OK) {
        dlm__pickle_free(p);
        return status;
    }
    *pickle = p;
    return DLM_OK;
}

void dlm__pickle_free(dlm_pickle *p) {
    if (p == NULL) return;
    for (size_t i = 0; i < p->n; i++) {
        const dlm_pickle_value *value = &p->values[i];
        if (value->kind == DLM_PICKLE_TUPLE || value->kind == DLM_PICKLE_LIST ||
            value->kind == DLM_PICKLE_DICT)
            free(value->items);
        if (value->kind == DLM_PICKLE_TENSOR) free(value->view);
    }
    free(p->values);
    free(p->stack.list);
    free(p->memo.list);
    free(p->marks);
    free(p);
}

const dlm_pickle_value *dlm__pickle_root(const dlm_pickle *p) {
    return &p->values[p->root];
}

const dlm_pickle_value *dlm__pickle_at(const dlm_pickle *p, dlm_pickle_ref ref) {
    return &p->values[ref];
}

const dlm_pickle_value *dlm__pickle_get(const dlm_pickle *p, const dlm_pickle_value *value, const char *key) {
    if (value == NULL || value->kind != DLM_PICKLE_DICT) return NULL;
    for (size_t i = value->n; i >= 2; i -= 2) {
        const dlm_pickle_value *name = &p->values[value->items[i - 2]];
        if (name->kind == DLM_PICKLE_TEXT && is_text(name->text, name->bytes, key))
            return &p->values[value->items[i - 1]];
    }
    return NULL;
}
