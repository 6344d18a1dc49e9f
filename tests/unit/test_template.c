/* Templates: their syntax, their tokens, and their fixed text, which comes back byte for byte. */
#include "template_fixture.h"

#include "diffusion/template.h"
#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

/* ---- syntax and tokens --------------------------------------------------------------------------------- */

/* A template as a string: fixed tokens by their text with | between them, blanks as _least-most, with a space
 * before the _ where the first token has to begin with one. */
static const char *describe(const dlm_template *text) {
    static char shown[1000];
    const dlm_blank *blanks;
    const size_t n = dlm_template_blanks(text, &blanks);
    size_t used = 0;
    shown[0] = 0;
    for (size_t i = 0; i <= n; i++) {
        for (size_t t = text->starts[i]; t < text->starts[i + 1]; t++) {
            size_t bytes;
            bool special;
            const char *token =
                dlm_tokenizer_token(dlm_model_tokenizer(text->model), text->ids[t], &bytes, &special);
            used += (size_t)snprintf(shown + used, sizeof shown - used, "%.*s|", (int)bytes, token);
        }
        if (i < n)
            used += (size_t)snprintf(shown + used, sizeof shown - used, "%s_%zu-%zu|",
                                     blanks[i].space ? "~" : "", blanks[i].least, blanks[i].most);
    }
    return shown;
}

static void check_parse(const dlm_model *model, const char *text, const char *want) {
    dlm_template *parsed;
    dlm_error err;
    check_context("%s", text);
    if (CHECK_OK(dlm_template_parse(model, text, strlen(text), &parsed, &err), &err))
        CHECK_STR_EQ(describe(parsed), want);
    dlm_template_free(parsed);
}

static void check_around(const dlm_model *model, const char *prompt, const char *suffix, const char *want) {
    dlm_template *made;
    dlm_error err;
    check_context("%s and %s", prompt == NULL ? "nothing" : prompt, suffix == NULL ? "nothing" : suffix);
    if (CHECK_OK(dlm_template_around(model, prompt, prompt == NULL ? 0 : strlen(prompt), suffix,
                                     suffix == NULL ? 0 : strlen(suffix), &made, &err),
                 &err))
        CHECK_STR_EQ(describe(made), want);
    dlm_template_free(made);
}

TEST(tokens_as_in_running_text) {
    dlm_model *model = model_with_tokenizer("stories_1024", 64, true, 0, NULL);
    REQUIRE(model != NULL);
    check_parse(model, "a [MASK] b", " a|~_1-1| b|<|endoftext|>|");
    check_parse(model, "a[MASK:3]ing", " a|_3-3|ing|<|endoftext|>|");
    check_parse(model, "[MASK:2-5] the", "~_2-5| the|<|endoftext|>|");
    check_parse(model, " [MASK] the", " |~_1-1| the|<|endoftext|>|");
    check_parse(model, "the [MASK]", " the|~_1-1|<|endoftext|>|");
    check_parse(model, "the[MASK] [MASK][MASK:7].", " the|_1-1|~_1-1|_7-7|.|<|endoftext|>|");
    check_parse(model, "the  [MASK]", " the| |~_1-1|<|endoftext|>|");
    check_parse(model, "the\n\n[MASK]", " the|\n|\n|_1-1|<|endoftext|>|");
    check_parse(model, "the\n [MASK]", " the|\n|~_1-1|<|endoftext|>|");
    check_parse(model, "the [MASK]\n\nthe", " the|~_1-1|\n|\n|t|he|<|endoftext|>|");
    check_parse(model, " the [MASK]", " | the|~_1-1|<|endoftext|>|");
    check_parse(model, "[MASK]", "~_1-1|<|endoftext|>|");
    check_parse(model, "[[MASK]]", " |[|_1-1|]|<|endoftext|>|");
    check_parse(model, "[MASK:007]", "~_7-7|<|endoftext|>|");
    check_around(model, "the", NULL, " the|_1-0|");
    check_around(model, "the ", NULL, " the|~_1-0|");
    check_around(model, "the", " the", " the|_1-0| the|<|endoftext|>|");
    check_around(model, NULL, " the", "~_1-0| the|<|endoftext|>|");
    check_around(model, NULL, NULL, "_1-0|");
    dlm_template *made;
    dlm_error err;
    REQUIRE_OK(dlm_template_around(model, "a [MASK]", 8, NULL, 0, &made, &err), &err);
    CHECK(strchr(describe(made), 'M') != NULL); /* plain text */
    dlm_template_free(made);
    dlm_model_free(model);
}

TEST(no_end_token_for_models_without) {
    dlm_model *model = model_with_tokenizer("stories_1024", 64, false, 0, NULL);
    REQUIRE(model != NULL);
    check_parse(model, "a [MASK] b", " a|~_1-1| b|");
    dlm_model_free(model);
}

/* Cut out the words between two places of a text: the tokens around the blank are those of the whole text. */
static void check_cut(const dlm_model *model, dlm_rng *rng, const char *text, size_t n) {
    char all[8000] = " ", cut[8000];
    size_t ends[4000], words = 0;
    if (n == 0 || n > 3000 || text[0] == ' ') return;
    memcpy(all + 1, text, n++);
    for (size_t at = 0; at < n; at = ends[words++]) ends[words] = dlm__word_end(all, n, at);
    const size_t from = dlm__rng_below(rng, words), to = from + 1 + dlm__rng_below(rng, words - from);
    const size_t start = from == 0 ? 0 : ends[from - 1], stop = ends[to - 1];
    /* Where a blank begins within white space, the tokens before it are those that a word would follow. */
    if (all[start] != ' ' && dlm__utf8_trailing_space(all, start) > 0 &&
        dlm__utf8_leading_space(all + start, n - start) > 0)
        return;
    int32_t *ids, *before, *inside;
    size_t total, n_before, n_inside;
    const dlm_tokenizer *tokenizer = dlm_model_tokenizer(model);
    dlm_error err;
    CHECK_OK(dlm_tokenizer_encode(tokenizer, all, n, false, &ids, &total, &err), &err);
    CHECK_OK(dlm_tokenizer_encode(tokenizer, all, start, false, &before, &n_before, &err), &err);
    CHECK_OK(dlm_tokenizer_encode(tokenizer, all, stop, false, &inside, &n_inside, &err), &err);
    /* That of a text that ends in white space is cut otherwise; its length is what counts here. */
    dlm_encoder *encoder = dlm__encoder_create(tokenizer, n);
    dlm__encoder_continue(encoder, true);
    dlm_ids behind = {0};
    CHECK_OK(dlm__encoder_encode(encoder, all + stop, n - stop, false, &behind, &err), &err);
    const size_t n_behind = behind.n;
    behind.n = 0;
    CHECK_OK(dlm__encoder_encode(encoder, all + start, n - start, false, &behind, &err), &err);
    const size_t blank = behind.n - n_behind;
    const int length =
        snprintf(cut, sizeof cut, "%.*s%s[MASK:%zu]%.*s", start > 0 ? (int)start - 1 : 0, all + 1,
                 start > 0 && all[start] == ' ' ? " " : "", blank, (int)(n - stop), all + stop);
    check_context("%s", cut);
    dlm_template *parsed;
    if (CHECK_OK(dlm_template_parse(model, cut, (size_t)length, &parsed, &err), &err)) {
        const size_t first = parsed->starts[1];
        CHECK_INT_EQ(first + blank + n_behind, total);
        CHECK_MEM_EQ(parsed->ids, ids, first * sizeof *ids);
        CHECK_MEM_EQ(parsed->ids + first, ids + first + blank, n_behind * sizeof *ids);
    }
    dlm_template_free(parsed);
    dlm__encoder_free(encoder);
    free(behind.ids);
    dlm_free(ids);
    dlm_free(before);
    dlm_free(inside);
}

TEST(cut_out_words) {
    dlm_rng rng = dlm__rng(7, DLM_RNG_TEST, 0, 0);
    for (size_t t = 0; t < FIXTURE_TOKENIZERS; t++) {
        dlm_model *model = model_with_tokenizer(fixture_tokenizers[t], 8000, false, 0, NULL);
        REQUIRE(model != NULL);
        for (size_t i = 0; i < 250; i++) {
            char text[2000];
            check_cut(model, &rng, text, add_random_text(&rng, 30, text));
        }
        dlm_model_free(model);
    }
}

static void check_refused(const dlm_model *model, const char *text, size_t n, dlm_status status,
                          const char *says) {
    dlm_template *parsed;
    dlm_error err;
    check_context("%s", text);
    CHECK_STATUS(dlm_template_parse(model, text, n, &parsed, &err), status, &err);
    CHECK_SAYS(&err, says);
    CHECK(parsed == NULL);
    CHECK(strchr(err.message, '\n') == NULL);
}

TEST(mistakes_are_named) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "the template is empty"},
        {"a b", "has no [MASK], so there is nothing to fill in"},
        {"a [MASKED] b", "has no [MASK]"},
        {"ab [MASK:] c", "has [MASK:] at byte 3: a mask is [MASK], [MASK:8] or [MASK:20-60]"},
        {"[MASK:0]", "has [MASK:0] at byte 0: a mask has at least 1 token"},
        {"[MASK:0-4]", "has [MASK:0-4] at byte 0: a mask has at least 1 token"},
        {"\u00e9 [MASK:9-3]", "has [MASK:9-3] at byte 3: 9 is more than 3"},
        {"a [MASK:-1]", "has [MASK:-1] at byte 2: a mask is"},
        {"a [MASK:1e9]", "has [MASK:1e9] at byte 2: a mask is"},
        {"a [MASK: 3]", "has [MASK: at byte 2: a mask is"},
        {"a [MASK:3-]", "has [MASK:3-] at byte 2: a mask is"},
        {"a [MASK:3-4-5]", "has [MASK:3-4-5] at byte 2: a mask is"},
        {"a [MASK:\n3]", "has [MASK: at byte 2: a mask is"},
        {"a [MASK:99999999999999999999999]", "at byte 2: a mask is"},
        {"[MASK] a [MASK:5", "has a [MASK at byte 9 without its ]"},
        {"a [MASK", "has a [MASK at byte 2 without its ]"},
        {"a [MASK] <|endoftext|>", "has <|endoftext|> at byte 9, a special token, which is no text"},
        {"[PAD][MASK]", "has [PAD] at byte 0, a special token"},
        {"a [MASK:3] [UNK]", "has [UNK] at byte 11, a special token"},
        {"a [MASK:62] b", "has 65 tokens with its end, and the model takes at most 64"},
        {"a [MASK:5-70] b", "has up to 73 tokens with its end, and the model takes at most 64"},
        {"a [MASK:1000000000]", "has 1000000002 tokens with its end"},
    };
    dlm_model *model = model_with_tokenizer("stories_1024", 64, true, 0, NULL);
    REQUIRE(model != NULL);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        check_refused(model, cases[c].text, strlen(cases[c].text), DLM_ARGUMENT, cases[c].says);
    check_refused(model, "a [MASK] \xff", 10, DLM_FORMAT, "the template is not UTF-8 at byte 9");
    check_refused(model, "a [MASK]\0[UNK]", 14, DLM_ARGUMENT, "has [UNK] at byte 9");
    dlm_model_free(model);
    model = random_model(9, 6, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    REQUIRE(model != NULL);
    check_refused(model, "a [MASK]", 8, DLM_ARGUMENT, "the model has no tokenizer");
    dlm_model_free(model);
}

TEST(mistakes_around_are_named) {
    static const struct {
        const char *prompt, *suffix, *says;
    } cases[] = {{"", NULL, "the prompt is empty"},
                 {"a", "", "the suffix is empty"},
                 {"a [UNK]", NULL, "the prompt has [UNK] at byte 2"},
                 {"a", "<|endoftext|>", "the suffix has <|endoftext|> at byte 0"},
                 {"\xc3", NULL, "the prompt is not UTF-8 at byte 0"},
                 {NULL, "ab\xc3", "the suffix is not UTF-8 at byte 2"}};
    dlm_model *model = model_with_tokenizer("stories_1024", 64, true, 0, NULL);
    REQUIRE(model != NULL);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const char *prompt = cases[c].prompt, *suffix = cases[c].suffix;
        dlm_template *made;
        dlm_error err;
        CHECK(dlm_template_around(model, prompt, prompt == NULL ? 0 : strlen(prompt), suffix,
                                  suffix == NULL ? 0 : strlen(suffix), &made, &err) != DLM_OK);
        CHECK_SAYS(&err, cases[c].says);
        CHECK(made == NULL);
    }
    dlm_model_free(model);
}

/* A vocabulary without most bytes. */
TEST(text_that_a_tokenizer_cannot_write) {
    static const char json[] =
        "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"[MASK]\",\"special\":true,"
        "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false}],\"normalizer\":null,"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
        "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"[MASK]\":0,\"\u0120\":1,\"a\":2,\"c\":3},\"merges\":[]}}";
    dlm_model *model = random_model(4, 6, DLM_TIME_NONE, DLM_SCHEDULE_COSINE, 0.5, NULL);
    dlm_error err;
    REQUIRE(model != NULL);
    REQUIRE_OK(dlm_tokenizer_parse("here", json, sizeof json - 1, &model->tokenizer, &err), &err);
    check_refused(model, "aba[MASK]", 9, DLM_ARGUMENT, "has a character at byte 1 that the tokenizer has no");
    check_parse(model, "aa [MASK]", " |a|a|~_1-1|");
    dlm_model_free(model);
}

/* ---- positions ---------------------------------------------------------------------------------------- */

TEST(layout_and_allowed_tokens) {
    dlm_model *model = model_with_tokenizer("stories_1024", 64, true, 0, NULL);
    REQUIRE(model != NULL);
    enum { V = 1024 };
    static const char text[] = "the [MASK:2-9][MASK] cat";
    dlm_template *parsed;
    dlm_error err;
    REQUIRE_OK(dlm_template_parse(model, text, sizeof text - 1, &parsed, &err), &err);
    const size_t lengths[2] = {3, 1};
    const size_t the = parsed->starts[1], cat = parsed->starts[3] - the;
    int32_t ids[64];
    uint8_t fixed[64], allowed[V];
    const size_t n = dlm_template_layout(parsed, lengths, ids, fixed);
    CHECK_INT_EQ(n, the + 4 + cat);
    CHECK_INT_EQ(dlm_template_layout(parsed, lengths, NULL, NULL), n);
    const dlm_tokenizer_info info = dlm_tokenizer_describe(dlm_model_tokenizer(model));
    dlm_template_choice choice = {parsed, lengths};
    for (size_t p = 0; p < n; p++) {
        const bool blank = p >= the && p < the + 4;
        check_context("position %zu", p);
        CHECK_INT_EQ(fixed[p], !blank);
        CHECK_INT_EQ(ids[p] == info.mask_id, blank);
        memset(allowed, 1, V);
        allowed[77] = 0;
        dlm_template_allow(&choice, 0, p, ids, allowed);
        for (int32_t i = 0; i < V; i++) {
            size_t bytes;
            bool special;
            const char *token = dlm_tokenizer_token(dlm_model_tokenizer(model), i, &bytes, &special);
            const bool want = i != 77 && !(blank && i == info.end_id) &&
                              (p != the || (!special && bytes > 0 && token[0] == ' '));
            REQUIRE(allowed[i] == want);
        }
    }
    dlm_template_free(parsed);
    dlm_model_free(model);
}

/* ---- fixed text comes back ---------------------------------------------------------------------------- */

typedef struct parts {
    char bytes[12][400];
    size_t n[12];
    size_t count;
} parts;

/* Does text consist of the parts in their order with anything between them? */
static bool matches(const parts *fixed, const char *text, size_t n) {
    size_t at = 0;
    const size_t last = fixed->count - 1;
    if (fixed->n[0] > n || memcmp(text, fixed->bytes[0], fixed->n[0]) != 0) return false;
    at = fixed->n[0];
    for (size_t i = 1; i < last; i++) {
        while (at + fixed->n[i] <= n && memcmp(text + at, fixed->bytes[i], fixed->n[i]) != 0) at++;
        if (at + fixed->n[i] > n) return false;
        at += fixed->n[i];
    }
    return at + fixed->n[last] <= n &&
           memcmp(text + n - fixed->n[last], fixed->bytes[last], fixed->n[last]) == 0;
}

/* Sampling options of any kind. */
static dlm_sample_options random_options(dlm_rng *rng) {
    dlm_sample_options options = dlm_sample_defaults();
    options.seed = dlm__rng_u64(rng);
    options.order = (dlm_order)dlm__rng_below(rng, DLM_ORDER_FIRST_HITTING + 1);
    options.temperature = (double)dlm__rng_below(rng, 3) * 0.7;
    options.reveal = (dlm_reveal)dlm__rng_below(rng, 2);
    if (options.order != DLM_ORDER_FIRST_HITTING) options.steps = dlm__rng_below(rng, 6);
    if (dlm__rng_below(rng, 3) == 0) {
        options.corrector_frac = 0.4;
        options.corrector_mode = (dlm_corrector)dlm__rng_below(rng, 2);
    }
    if (options.order == DLM_ORDER_ANCESTRAL && dlm__rng_below(rng, 2) == 0) {
        options.remask = (dlm_remask)(1 + dlm__rng_below(rng, 4));
        options.corrector_frac = 0;
    }
    if (dlm__rng_below(rng, 4) == 0) options.top_k = 5;
    return options;
}

/* A template of random parts, or (open) a prompt and a suffix. */
static void check_comes_back(const dlm_model *model, dlm_rng *rng, bool open) {
    parts fixed = {.count = 2};
    char text[4000];
    size_t n = 0;
    dlm_template *made = NULL;
    dlm_error err = {0};
    dlm_fill_options options = dlm_fill_defaults();
    options.sample = random_options(rng);
    options.draws = 2;
    options.tries = dlm__rng_below(rng, 4);
    if (open) {
        for (size_t i = 0; i < 2; i++) fixed.n[i] = add_random_text(rng, 6, fixed.bytes[i]);
        if (dlm__rng_below(rng, 2) == 0) options.length = 120 + dlm__rng_below(rng, 200);
        if (!CHECK_OK(dlm_template_around(model, fixed.n[0] > 0 ? fixed.bytes[0] : NULL, fixed.n[0],
                                          fixed.n[1] > 0 ? fixed.bytes[1] : NULL, fixed.n[1], &made, &err),
                      &err))
            return;
        (void)snprintf(text, sizeof text, "%.*s ... %.*s, length %zu", (int)fixed.n[0], fixed.bytes[0],
                       (int)fixed.n[1], fixed.bytes[1], options.length);
    } else {
        fixed.count = 2 + dlm__rng_below(rng, 5);
        for (size_t i = 0; i < fixed.count; i++) {
            static const char *const masks[] = {"[MASK]", "[MASK:2]", "[MASK:1-4]", "[MASK:5]"};
            fixed.n[i] = add_random_text(rng, 3, fixed.bytes[i]);
            memcpy(text + n, fixed.bytes[i], fixed.n[i]);
            n += fixed.n[i];
            if (i + 1 == fixed.count) break;
            const char *mask = masks[dlm__rng_below(rng, 4)];
            memcpy(text + n, mask, strlen(mask));
            n += strlen(mask);
        }
        text[n] = 0;
        if (!CHECK_OK(dlm_template_parse(model, text, n, &made, &err), &err)) return;
    }
    check_context("%s, order %d", text, (int)options.sample.order);
    dlm_filled filled[2];
    size_t start = 0;
    int32_t *ids = NULL;
    if (CHECK_OK(dlm_fill(model, made, &options, 3, 2, filled, &ids, NULL, &err), &err))
        for (size_t b = 0; b < 2; start += filled[b++].length) {
            char *got = NULL;
            size_t bytes = 0;
            CHECK_OK(dlm_sample_text(model, ids + start, filled[b].length, &got, &bytes, &err), &err);
            if (!CHECK(matches(&fixed, got, bytes))) printf("got %s\n", got);
            dlm_free(got);
        }
    dlm_free(ids);
    dlm_template_free(made);
}

TEST(fixed_text_comes_back_byte_for_byte) {
    dlm_rng rng = dlm__rng(11, DLM_RNG_TEST, 0, 0);
    static uint64_t histogram[201];
    for (size_t i = 0; i <= 200; i++) histogram[i] = i;
    for (size_t t = 0; t < 2 * (size_t)FIXTURE_TOKENIZERS; t++) {
        dlm_model *model =
            model_with_tokenizer(fixture_tokenizers[t / 2], 200, t % 2 == 0, t % 3 == 0 ? 0 : 0.5, histogram);
        REQUIRE(model != NULL);
        for (size_t i = 0; i < 40; i++) check_comes_back(model, &rng, i % 6 == 0);
        dlm_model_free(model);
    }
}
