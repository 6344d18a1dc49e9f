/* Any bytes as a template: refused with one sentence; or, its blanks filled with words, it is the text in
 * which the same words stand for the masks. The same bytes as a prompt and a suffix come back as well. */
#include "fuzz_tokenizer.h"

#include "diffusion/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { LIMIT = 3000 };

static dlm_model *make(void) {
    dlm_tokenizer *tokenizer = fuzz_tokenizer();
    const dlm_config config = {.vocab_size = tokenizer->vocab_size,
                               .max_seq_len = LIMIT,
                               .hidden_size = 2,
                               .depth = 1,
                               .num_heads = 1,
                               .mlp_ratio = 1,
                               .time = DLM_TIME_NONE,
                               .position = DLM_POSITION_LEARNED,
                               .end_token = true};
    dlm_model *model;
    dlm_error err;
    if (dlm__model_create(&config, NULL, NULL, NULL, DLM_PRECISION_F32, &model, &err) != DLM_OK) abort();
    model->tokenizer = tokenizer;
    model->mask_id = dlm__tokenizer_find(tokenizer, "[MASK]", 6);
    model->end_id = dlm__tokenizer_find(tokenizer, "<x>", 3);
    model->pad_id = model->unk_id = -1;
    return model;
}

static void check_sentence(const dlm_error *err) {
    if (err->message[0] == 0 || strchr(err->message, '\n') != NULL) abort();
}

/* Fills all blanks with "ab" and compares with what is wanted. */
static void check_text(const dlm_model *model, const dlm_template *text, const size_t *lengths,
                       const char *want, size_t bytes) {
    const size_t n = dlm_template_layout(text, lengths, NULL, NULL);
    const int32_t word = dlm__tokenizer_find(model->tokenizer, "ab", 2);
    const int32_t spaced = dlm__tokenizer_find(model->tokenizer, "\u0120ab", 4);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    uint8_t *fixed = malloc(n + 1), allowed[300];
    char *got;
    size_t got_bytes;
    if (ids == NULL || fixed == NULL || word < 0 || spaced < 0) abort();
    if (dlm_template_layout(text, lengths, ids, fixed) != n) abort();
    dlm_template_choice choice = {text, lengths};
    for (size_t p = 0; p < n; p++) {
        if ((ids[p] == model->mask_id) == (fixed[p] != 0)) abort();
        if (fixed[p]) continue;
        memset(allowed, 1, sizeof allowed);
        dlm_template_allow(&choice, 0, p, ids, allowed);
        ids[p] = allowed[word] ? word : spaced;
        if (!allowed[ids[p]]) abort();
    }
    if (dlm_sample_text(model, ids, n, &got, &got_bytes, NULL) != DLM_OK) abort();
    if (got_bytes != bytes || memcmp(got, want, bytes) != 0) abort();
    dlm_free(got);
    free(ids);
    free(fixed);
}

/* text with "ab" for each token of its masks, which are well-formed, to `out` (room for n + 2 LIMIT). */
static size_t put_words(const char *text, size_t n, const size_t *lengths, char *out) {
    size_t used = 0, blank = 0;
    for (size_t at = 0; at < n;) {
        if (n - at < 6 || memcmp(text + at, "[MASK", 5) != 0 ||
            (text[at + 5] != ']' && text[at + 5] != ':')) {
            out[used++] = text[at++];
            continue;
        }
        while (text[at++] != ']') {
        }
        for (size_t i = 0; i < lengths[blank]; i++) {
            out[used++] = 'a';
            out[used++] = 'b';
        }
        blank++;
    }
    return used;
}

static void check_parsed(const dlm_model *model, const dlm_template *text, const char *bytes, size_t n) {
    const dlm_blank *blanks;
    const size_t count = dlm_template_blanks(text, &blanks);
    size_t *lengths = malloc(count * sizeof *lengths);
    char *want = malloc(n + 2 * (size_t)LIMIT);
    if (lengths == NULL || want == NULL || count == 0) abort();
    for (int longest = 0; longest < 2; longest++) {
        for (size_t i = 0; i < count; i++) lengths[i] = longest ? blanks[i].most : blanks[i].least;
        check_text(model, text, lengths, want, put_words(bytes, n, lengths, want));
    }
    free(lengths);
    free(want);
}

static void check_around(const dlm_model *model, const char *bytes, size_t n) {
    dlm_template *made;
    dlm_error err = {0};
    const size_t half = n / 2;
    if (dlm_template_around(model, half > 0 ? bytes : NULL, half, n > half ? bytes + half : NULL, n - half,
                            &made, &err) != DLM_OK) {
        check_sentence(&err);
        return;
    }
    const size_t length = 3;
    char *want = malloc(n + 6);
    if (want == NULL) abort();
    memcpy(want, bytes, half);
    memcpy(want + half, "ababab", 6);
    memcpy(want + half + 6, bytes + half, n - half);
    check_text(model, made, &length, want, n + 6);
    free(want);
    dlm_template_free(made);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static dlm_model *model;
    if (model == NULL) model = make();
    const char *text = (const char *)bytes;
    dlm_template *parsed;
    dlm_error err = {0};
    if (dlm_template_parse(model, text, n, &parsed, &err) == DLM_OK)
        check_parsed(model, parsed, text, n);
    else
        check_sentence(&err);
    dlm_template_free(parsed);
    if (n > 0) check_around(model, text, n);
    return 0;
}
