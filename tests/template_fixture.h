/* Small models with the fixtures' tokenizers, and random texts for them. */
#ifndef DLM_TESTS_TEMPLATE_FIXTURE_H
#define DLM_TESTS_TEMPLATE_FIXTURE_H

#include "sampling_fixture.h"

static const char *const fixture_tokenizers[] = {"stories_1024", "unicode_1500", "exhausted", "stories_min5"};
enum { FIXTURE_TOKENIZERS = sizeof fixture_tokenizers / sizeof *fixture_tokenizers };

/* A model with random weights (0: each token is as probable as any other) and a tokenizer; free it. */
static inline dlm_model *model_with_tokenizer(const char *name, size_t L, bool end_token, double deviation,
                                              const uint64_t *lengths) {
    char folder[64];
    (void)snprintf(folder, sizeof folder, "tokenizer/%s", name);
    const char *path = golden_path(folder);
    dlm_tokenizer *tokenizer = NULL;
    dlm_layout *layout = NULL;
    dlm_model *model = NULL;
    dlm_error err;
    dlm_set_threads(1);
    if (path == NULL || !CHECK_OK(dlm_tokenizer_load(path, &tokenizer, &err), &err)) return NULL;
    const dlm_config config = {.vocab_size = dlm_tokenizer_describe(tokenizer).vocab_size,
                               .max_seq_len = L,
                               .hidden_size = 8,
                               .depth = 1,
                               .num_heads = 2,
                               .mlp_ratio = 2,
                               .time = DLM_TIME_NONE,
                               .position = DLM_POSITION_BOTH,
                               .end_token = end_token};
    dlm_tokenizer_free(tokenizer);
    if (!CHECK_OK(dlm__layout_create(&config, &layout, &err), &err)) return NULL;
    float *params = dlm__calloc(layout->total, sizeof *params);
    dlm_rng rng = dlm__rng(5, DLM_RNG_TEST, 0, 0);
    for (size_t i = 0; i < layout->total; i++) params[i] = (float)(deviation * dlm__rng_normal(&rng));
    CHECK_OK(dlm__model_create(&config, params, path, lengths, DLM_PRECISION_F32, &model, &err), &err);
    free(params);
    dlm__layout_free(layout);
    return model;
}

/* Appends up to `most` pieces: words, white space of every kind, digits, punctuation, other scripts, emoji.
 */
static inline size_t add_random_text(dlm_rng *rng, size_t most, char *text) {
    static const char *const pieces[] = {"a",
                                         " the",
                                         " cat",
                                         "ing",
                                         "'s",
                                         " ",
                                         "  ",
                                         "\n",
                                         "\n\n",
                                         " \n",
                                         "\t",
                                         "42",
                                         " 7",
                                         ".",
                                         "!?",
                                         ", ",
                                         "\"",
                                         "\u00e9t\u00e9",
                                         "\u00a0",
                                         "\u3000",
                                         "\u4f60\u597d",
                                         "\U0001F600",
                                         " \U0001F468\u200d\U0001F469",
                                         "[",
                                         "]",
                                         "mask",
                                         "[MASKED]",
                                         "[mask]",
                                         "<|",
                                         "\r\n",
                                         " I'll",
                                         "\u0301",
                                         "\u05e9\u05dc\u05d5\u05dd",
                                         "-"};
    size_t n = 0;
    for (size_t i = dlm__rng_below(rng, most + 1); i > 0; i--) {
        const char *piece = pieces[dlm__rng_below(rng, sizeof pieces / sizeof *pieces)];
        memcpy(text + n, piece, strlen(piece));
        n += strlen(piece);
    }
    return n;
}

#endif
