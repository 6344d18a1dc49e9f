/* The pickle machine: what a state dict needs, and everything else refused by its name. */
#include "check.h"
#include "pickle_fixture.h"

#include "format/pickle.h"

static dlm_pickle *parse(const pickle_bytes *p) {
    dlm_pickle *pickle = NULL;
    dlm_error err;
    CHECK_OK(dlm__pickle_parse("f", p->bytes, p->n, &pickle, &err), &err);
    return pickle;
}

static void refused(const pickle_bytes *p, dlm_status status, const char *says) {
    dlm_pickle *pickle = NULL;
    dlm_error err;
    CHECK_STATUS(dlm__pickle_parse("f", p->bytes, p->n, &pickle, &err), status, &err);
    CHECK_SAYS(&err, says);
    CHECK(pickle == NULL);
    dlm__pickle_free(pickle);
}

#define REFUSED(literal, says)                     \
    do {                                           \
        pickle_bytes refused_bytes = {.n = 0};     \
        P(&refused_bytes, literal);                \
        refused(&refused_bytes, DLM_FORMAT, says); \
    } while (0)

static const dlm_pickle_value *item(const dlm_pickle *pickle, size_t i) {
    const dlm_pickle_value *root = dlm__pickle_root(pickle);
    return dlm__pickle_at(pickle, root->items[i]);
}

TEST(plain_values) {
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x02](NK\xffM\xfe\xffJ\xfe\xff\xff\xff\x8a\x00\x8a\x01\x80\x8a\x05\x00\x00\x00\x00\x01"
          "G\x3f\xf8\x00\x00\x00\x00\x00\x00X\x02\x00\x00\x00\xc3\xa9\x8c\x01"
          "a\x88\x89K\x01\x85K\x02K\x03\x86"
          "K\x01K\x02K\x03\x87)(K\x07te.");
    dlm_pickle *pickle = parse(&p);
    REQUIRE(pickle != NULL);
    const int64_t integers[] = {255, 65534, -2, 0, -128, INT64_C(1) << 32};
    CHECK_INT_EQ(dlm__pickle_root(pickle)->kind, DLM_PICKLE_LIST);
    CHECK_INT_EQ(dlm__pickle_root(pickle)->n, 17);
    CHECK_INT_EQ(item(pickle, 0)->kind, DLM_PICKLE_NONE);
    for (size_t i = 0; i < 6; i++) CHECK_INT_EQ(item(pickle, 1 + i)->integer, integers[i]);
    CHECK_CLOSE(item(pickle, 7)->real, 1.5, 0);
    CHECK_MEM_EQ(item(pickle, 8)->text, "\xc3\xa9", 2);
    CHECK_INT_EQ(item(pickle, 9)->bytes, 1);
    CHECK_INT_EQ(item(pickle, 10)->integer, 1);
    CHECK_INT_EQ(item(pickle, 11)->integer, 0);
    const size_t sizes[] = {1, 2, 3, 0};
    for (size_t i = 0; i < 4; i++) CHECK_INT_EQ(item(pickle, 12 + i)->n, sizes[i]);
    dlm__pickle_free(pickle);
}

/* What is named twice is there once, and the last of several values of a key counts. */
TEST(memo_and_dicts) {
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01"
          "a\x94K\x01\x8c\x01"
          "bh\x01h\x01K\x02u\x8c\x01"
          "c]q\x05K\x09"
          "as.");
    dlm_pickle *pickle = parse(&p);
    REQUIRE(pickle != NULL);
    const dlm_pickle_value *root = dlm__pickle_root(pickle);
    CHECK_INT_EQ(dlm__pickle_get(pickle, root, "a")->integer, 2);
    CHECK_INT_EQ(dlm__pickle_get(pickle, root, "b")->kind, DLM_PICKLE_TEXT);
    CHECK_INT_EQ(dlm__pickle_get(pickle, root, "c")->n, 1);
    CHECK(dlm__pickle_get(pickle, root, "d") == NULL);
    CHECK(dlm__pickle_get(pickle, dlm__pickle_get(pickle, root, "c"), "a") == NULL);
    dlm__pickle_free(pickle);
}

TEST(ordered_dicts) {
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x02"
          "ccollections\nOrderedDict\n](\x8c\x01"
          "aK\x01\x86]\x8c\x01"
          "baK\x02"
          "ae\x85R}\x8c\x09_metadataNsb.");
    dlm_pickle *pickle = parse(&p);
    REQUIRE(pickle != NULL);
    const dlm_pickle_value *root = dlm__pickle_root(pickle);
    CHECK_INT_EQ(root->kind, DLM_PICKLE_DICT);
    CHECK_INT_EQ(root->n, 4);
    CHECK_INT_EQ(dlm__pickle_get(pickle, root, "b")->integer, 2);
    dlm__pickle_free(pickle);
}

TEST(tensors) {
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x02"
          "ctorch._utils\n_rebuild_parameter\n(");
    p_tensor(&p, (pickle_view){.key = "7",
                               .type = "HalfStorage",
                               .count = 20,
                               .offset = 2,
                               .ndim = 2,
                               .shape = {3, 4},
                               .stride = {1, 4}});
    P(&p, "\x88"
          "ccollections\nOrderedDict\n)RtR.");
    dlm_pickle *pickle = parse(&p);
    REQUIRE(pickle != NULL);
    const dlm_pickle_value *tensor = dlm__pickle_root(pickle);
    REQUIRE(tensor->kind == DLM_PICKLE_TENSOR);
    const dlm_pickle_value *storage = dlm__pickle_at(pickle, tensor->view->storage);
    CHECK_INT_EQ(tensor->type, DLM_STORAGE_F16);
    CHECK_INT_EQ(tensor->view->offset, 2);
    CHECK_INT_EQ(tensor->view->count, 12);
    CHECK_INT_EQ(tensor->view->stride[1], 4);
    CHECK_INT_EQ(storage->count, 20);
    CHECK_MEM_EQ(storage->text, "7", 1);
    dlm__pickle_free(pickle);
}

static void tensor_refused(pickle_view view, const char *says) {
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x02");
    p_tensor(&p, view);
    P(&p, ".");
    refused(&p, DLM_FORMAT, says);
}

TEST(views_beyond_their_storage) {
    const pickle_view right = {
        .key = "0", .type = "FloatStorage", .count = 6, .ndim = 2, .shape = {2, 3}, .stride = {3, 1}};
    pickle_view view = right;
    view.offset = 1;
    tensor_refused(view, "beyond its storage");
    view = right;
    view.stride[0] = 4;
    tensor_refused(view, "beyond its storage");
    view = right;
    view.shape[0] = view.shape[1] = INT64_MAX;
    tensor_refused(view, "beyond its storage");
    view = right;
    view.stride[0] = INT64_MAX;
    view.shape[0] = 4;
    tensor_refused(view, "beyond its storage");
    view = right;
    view.shape[0] = -1;
    tensor_refused(view, "no view of a storage");
    view = right;
    view.offset = -1;
    tensor_refused(view, "no view of a storage");
    view = right;
    view.ndim = 9;
    tensor_refused(view, "no view of a storage");
    view = right;
    view.count = -1;
    tensor_refused(view, "no storage");
    view = right;
    view.type = "LongStorage";
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x02");
    p_tensor(&p, view);
    refused(&p, DLM_UNSUPPORTED, "asks for torch.LongStorage");
}

TEST(other_globals) {
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x02"
          "cposix\nsystem\nX\x07\x00\x00\x00touch x\x85R.");
    refused(&p, DLM_UNSUPPORTED, "asks for posix.system, which no state dict needs");
    p.n = 0;
    P(&p, "\x80\x04\x8c\x08"
          "builtins\x8c\x04"
          "eval\x93.");
    refused(&p, DLM_UNSUPPORTED, "asks for builtins.eval");
    p.n = 0;
    P(&p, "\x80\x02"
          "ca\x1b[31mb\n\xff\n.");
    refused(&p, DLM_UNSUPPORTED, "asks for a?[31mb.?");
    REFUSED("\x80\x02"
            "ios\nsystem\n.",
            "opcode 0x69");
    REFUSED("\x80\x02"
            "Pid\n.",
            "opcode 0x50");
    REFUSED("\x80\x02)\x81.", "opcode 0x81");
    REFUSED("\x80\x02\x82\x01.", "opcode 0x82");
}

TEST(malformed) {
    REFUSED("", "cut off");
    REFUSED("\x80", "cut off");
    REFUSED("\x80\x02", "cut off");
    REFUSED("\x80\x01.", "a protocol that is none of 2 to 5");
    REFUSED("\x80\x06.", "a protocol that is none of 2 to 5");
    REFUSED("\x80\x02.", "other than one object");
    REFUSED("\x80\x02NN.", "other than one object");
    REFUSED("\x80\x02N(.", "other than one object");
    REFUSED("\x80\x02X\xff\xff\xff\xffx.", "cut off");
    REFUSED("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.", "cut off");
    REFUSED("\x80\x02"
            "ccollections",
            "cut off");
    REFUSED("\x80\x02\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01.", "more than 64 bits");
    REFUSED("\x80\x02"
            "0.",
            "stack is empty");
    REFUSED("\x80\x02N(0.", "stack is empty");
    REFUSED("\x80\x02t.", "no mark");
    REFUSED("\x80\x02N\x86.", "stack is empty");
    REFUSED("\x80\x02(N\x86.", "stack is empty");
    REFUSED("\x80\x02N(Ne.", "no list");
    REFUSED("\x80\x02](NNu.", "no dict");
    REFUSED("\x80\x02}(Nu.", "a key without a value");
    REFUSED("\x80\x02h\x00.", "where there is nothing");
    REFUSED("\x80\x02Nr\xff\xff\xff\x7f.", "that it cannot have");
    REFUSED("\x80\x02Nq\x03h\x02.", "where there is nothing");
    REFUSED("\x80\x02NQ.", "no storage");
    REFUSED("\x80\x02N)R.", "no function");
    REFUSED("\x80\x02"
            "ccollections\nOrderedDict\nK\x01R.",
            "no function");
    REFUSED("\x80\x02"
            "ctorch\nFloatStorage\n)R.",
            "a storage type");
    REFUSED("\x80\x02"
            "ccollections\nOrderedDict\n]K\x01"
            "a\x85R.",
            "no list of pairs");
    REFUSED("\x80\x02"
            "ccollections\nOrderedDict\nK\x01\x85R.",
            "no list of pairs");
    REFUSED("\x80\x02"
            "ctorch._utils\n_rebuild_tensor_v2\n)R.",
            "no view of a storage");
    REFUSED("\x80\x02"
            "ctorch._utils\n_rebuild_parameter\n)R.",
            "no tensor");
    REFUSED("\x80\x02NNb.", "has none");
}

/* A few kilobytes of an archive inflate to megabytes of opcodes, and each would be an object. */
static void many_refused(char opcode, const char *says) {
    const size_t n = (size_t)5 << 20;
    dlm_pickle *pickle = NULL;
    dlm_error err;
    char *bytes = malloc(n);
    REQUIRE(bytes != NULL);
    memset(bytes, opcode, n);
    memcpy(bytes, "\x80\x02N", 3);
    CHECK_STATUS(dlm__pickle_parse("f", bytes, n, &pickle, &err), DLM_FORMAT, &err);
    CHECK_SAYS(&err, says);
    free(bytes);
}

TEST(more_than_a_state_dict) {
    many_refused(']', "byte 4194307 of its pickle: more objects than any state dict has");
    many_refused('(', "byte 4194308 of its pickle: more marks than any state dict has");
}

/* A list that holds itself is a value; a list of pairs that is asked for again and again is not copied
 * without end. */
TEST(references_to_itself) {
    pickle_bytes p = {.n = 0};
    P(&p, "\x80\x02]q\x00h\x00"
          "a.");
    dlm_pickle *pickle = parse(&p);
    REQUIRE(pickle != NULL);
    CHECK(item(pickle, 0) == dlm__pickle_root(pickle));
    dlm__pickle_free(pickle);
    p.n = 0;
    P(&p, "\x80\x02"
          "ccollections\nOrderedDict\nq\x00](");
    for (int i = 0; i < 500; i++) P(&p, "NN\x86");
    P(&p, "eq\x01");
    for (int i = 0; i < 500; i++) P(&p, "h\x00h\x01\x85R0");
    P(&p, ".");
    refused(&p, DLM_FORMAT, "more pairs in dicts than it has bytes");
}
