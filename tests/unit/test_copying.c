/* Texts found in shards, against plain search in the documents; documents matched to texts. */
#include "data_fixture.h"

#include <stdlib.h>
#include <string.h>

enum { DOCUMENTS = 300, LONGEST = 60, TEXTS = 20 };

/* Made-up documents over a few ids, and texts, some of which are copied from them. */
typedef struct scene {
    int32_t documents[DOCUMENTS][LONGEST], ids[TEXTS * LONGEST];
    text list[DOCUMENTS];
    size_t lengths[TEXTS], tokens;
} scene;

static void draw(uint64_t seed, uint64_t letters, int32_t above, scene *s) {
    dlm_rng rng = dlm__rng(seed, DLM_RNG_TEST, 0, 0);
    s->tokens = 0;
    for (size_t i = 0; i < DOCUMENTS; i++) {
        s->list[i] = (text){.ids = s->documents[i], .n = (size_t)dlm__rng_below(&rng, LONGEST + 1)};
        for (size_t t = 0; t < LONGEST; t++)
            s->documents[i][t] = above - (int32_t)dlm__rng_below(&rng, letters);
    }
    /* Some are of the first and last documents of all, and of those that threads take together. */
    static const size_t borders[] = {0, 255, 256, DOCUMENTS - 1};
    for (size_t i = 0; i < 4; i++) s->list[borders[i]].n = LONGEST;
    for (size_t i = 0; i < TEXTS; i++) {
        const bool border = i % 2 == 0 && i < 8;
        const text *from = &s->list[border ? borders[i / 2] : dlm__rng_below(&rng, DOCUMENTS)];
        s->lengths[i] = border ? LONGEST : (size_t)dlm__rng_below(&rng, LONGEST + 1);
        for (size_t t = 0; t < s->lengths[i]; t++) {
            const bool copied = i % 2 == 0 && t < from->n && t != 20;
            s->ids[s->tokens++] = copied ? from->ids[t] : above - (int32_t)dlm__rng_below(&rng, letters);
        }
    }
}

static bool holds(const scene *s, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < DOCUMENTS; i++)
        for (size_t t = 0; t + n <= s->list[i].n; t++)
            if (memcmp(s->documents[i] + t, ids, n * sizeof *ids) == 0) return true;
    return false;
}

/* spans (tokens) as the plain search finds them; a span of a text grows by one token at most. */
static void search(const scene *s, uint32_t *spans) {
    for (size_t i = 0, start = 0; i < TEXTS; start += s->lengths[i++]) {
        uint32_t before = 0;
        for (size_t t = start; t < start + s->lengths[i]; t++) {
            uint32_t n = before + 1;
            while (n > 0 && !holds(s, s->ids + t + 1 - n, n)) n--;
            spans[t] = before = n;
        }
    }
}

static dlm_data *open_scene(const scene *s, const dlm_tokenizer *tokenizer, size_t per_shard) {
    dlm_error err;
    dlm_data *data = NULL;
    const char *dir = temporary_dir();
    if (write_data(dir, tokenizer, 16, s->list, DOCUMENTS, per_shard))
        (void)CHECK_OK(dlm_data_open(dir, &data, &err), &err);
    return data;
}

static void check_spans(size_t vocab_size, uint64_t letters) {
    static scene s;
    static uint32_t want[TEXTS * LONGEST], got[TEXTS * LONGEST];
    dlm_error err;
    dlm_tokenizer *tokenizer = large_tokenizer(vocab_size);
    REQUIRE(tokenizer != NULL);
    draw(vocab_size, letters, (int32_t)vocab_size - 1, &s);
    search(&s, want);
    const dlm_texts texts = {.n = TEXTS, .lengths = s.lengths, .ids = s.ids};
    static const size_t per_shard[] = {DOCUMENTS, 7};
    for (size_t i = 0; i < 4; i++) {
        check_context("vocabulary %zu, %zu documents a shard", vocab_size, per_shard[i % 2]);
        dlm_set_threads(i < 2 ? 1 : 4);
        dlm_data *data = open_scene(&s, tokenizer, per_shard[i % 2]);
        REQUIRE(data != NULL);
        REQUIRE_OK(dlm_texts_find(&texts, data, NULL, NULL, got, &err), &err);
        CHECK_MEM_EQ(got, want, s.tokens * sizeof *got);
        dlm_data_close(data);
    }
    dlm_tokenizer_free(tokenizer);
}

TEST(spans_of_narrow_ids) {
    check_spans(300, 6);
}

TEST(spans_of_wide_ids) {
    check_spans(70000, 20);
}

/* More documents than are read between two reports of progress, each of two tokens that no other has so. */
TEST(every_document_is_read) {
    enum { MANY = 70000, LETTERS = 290 };
    dlm_tokenizer *tokenizer = large_tokenizer(300);
    dlm_error err;
    dlm_data *data = NULL;
    int32_t *ids = dlm__calloc(MANY, 2 * sizeof *ids);
    text *list = dlm__calloc(MANY, sizeof *list);
    size_t *lengths = dlm__calloc(MANY, sizeof *lengths);
    uint32_t *spans = dlm__calloc(MANY, 2 * sizeof *spans);
    for (size_t i = 0; i < MANY; i++) {
        ids[2 * i] = (int32_t)(i / LETTERS);
        ids[2 * i + 1] = (int32_t)(i % LETTERS);
        lengths[i] = 2;
        list[i] = (text){.ids = &ids[2 * i], .n = 2};
    }
    const char *dir = temporary_dir();
    REQUIRE(write_data(dir, tokenizer, 16, list, MANY, 20000));
    REQUIRE_OK(dlm_data_open(dir, &data, &err), &err);
    const dlm_texts texts = {.n = MANY, .lengths = lengths, .ids = ids};
    REQUIRE_OK(dlm_texts_find(&texts, data, NULL, NULL, spans, &err), &err);
    for (size_t i = 0; i < MANY; i++)
        if (!CHECK_INT_EQ(spans[2 * i + 1], 2)) break;
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
    free(ids);
    free(list);
    free(lengths);
    free(spans);
}

/* ---- progress ----------------------------------------------------------------------------------------- */

typedef struct reports {
    size_t n;
    uint64_t done, total;
    bool cancel;
} reports;

static bool note(void *user, const char *stage, uint64_t done, uint64_t total, double seconds) {
    reports *all = user;
    all->n++;
    all->done = done;
    all->total = total;
    CHECK_STR_EQ(stage, "training texts");
    CHECK(seconds >= 0);
    return all->cancel;
}

TEST(progress_and_cancelling) {
    static scene s;
    static uint32_t spans[TEXTS * LONGEST];
    dlm_tokenizer *tokenizer = large_tokenizer(300);
    dlm_error err;
    draw(3, 5, 299, &s);
    dlm_data *data = open_scene(&s, tokenizer, 100);
    REQUIRE(data != NULL);
    const dlm_texts texts = {.n = TEXTS, .lengths = s.lengths, .ids = s.ids}, none = {0};
    reports all = {0};
    REQUIRE_OK(dlm_texts_find(&texts, data, note, &all, spans, &err), &err);
    CHECK_INT_EQ(all.n, 1);
    CHECK_INT_EQ(all.done, DOCUMENTS);
    CHECK_INT_EQ(all.total, DOCUMENTS);
    all.cancel = true;
    CHECK_STATUS(dlm_texts_find(&texts, data, note, &all, spans, &err), DLM_CANCELLED, &err);
    CHECK_OK(dlm_texts_find(&none, data, NULL, NULL, NULL, &err), &err);
    s.ids[2] = -5;
    CHECK_STATUS(dlm_texts_find(&texts, data, NULL, NULL, spans, &err), DLM_ARGUMENT, &err);
    CHECK_SAYS(&err, "token 2 of the texts is -5");
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
}

/* ---- matching ----------------------------------------------------------------------------------------- */

/* No document twice; the ids are those of its beginning. */
static void check_matched(const scene *s, const dlm_matched *matched) {
    bool used[DOCUMENTS] = {false};
    const int32_t *ids = matched->ids;
    for (size_t i = 0; i < matched->n; i++) {
        const uint64_t document = matched->documents[i];
        REQUIRE(document < DOCUMENTS && !used[document]);
        used[document] = true;
        REQUIRE(matched->lengths[i] <= s->list[document].n);
        CHECK_MEM_EQ(ids, s->documents[document], matched->lengths[i] * sizeof *ids);
        ids += matched->lengths[i];
    }
}

static int descending(const void *a, const void *b) {
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x < y) - (x > y);
}

TEST(matched_documents) {
    static scene s;
    dlm_tokenizer *tokenizer = large_tokenizer(300);
    dlm_error err;
    draw(4, 5, 299, &s);
    dlm_data *data = open_scene(&s, tokenizer, 100);
    REQUIRE(data != NULL);
    CHECK_INT_EQ(dlm_data_length(data, 150), s.list[150].n);
    dlm_matched matched, again, other;
    REQUIRE_OK(dlm_data_match(data, s.lengths, TEXTS, 1, &matched, &err), &err);
    CHECK_INT_EQ(matched.n, TEXTS);
    check_matched(&s, &matched);
    /* Many documents, few texts: every text has one of its length. */
    size_t sorted[DOCUMENTS];
    memcpy(sorted, s.lengths, sizeof s.lengths);
    qsort(sorted, TEXTS, sizeof *sorted, descending);
    CHECK_MEM_EQ(matched.lengths, sorted, sizeof s.lengths);
    REQUIRE_OK(dlm_data_match(data, s.lengths, TEXTS, 1, &again, &err), &err);
    CHECK_MEM_EQ(again.documents, matched.documents, TEXTS * sizeof *again.documents);
    REQUIRE_OK(dlm_data_match(data, s.lengths, TEXTS, 2, &other, &err), &err);
    CHECK(memcmp(other.documents, matched.documents, TEXTS * sizeof *again.documents) != 0);
    dlm_matched_free(&matched);
    dlm_matched_free(&again);
    dlm_matched_free(&other);

    /* The lengths of all documents: only each other's are left, so every one is taken whole. */
    size_t lengths[DOCUMENTS + 5];
    for (size_t i = 0; i < DOCUMENTS; i++) lengths[i] = sorted[i] = s.list[i].n;
    qsort(sorted, DOCUMENTS, sizeof *sorted, descending);
    REQUIRE_OK(dlm_data_match(data, lengths, DOCUMENTS, 3, &matched, &err), &err);
    check_matched(&s, &matched);
    CHECK_INT_EQ(matched.n, DOCUMENTS);
    CHECK_MEM_EQ(matched.lengths, sorted, sizeof sorted);
    dlm_matched_free(&matched);

    /* Texts longer than any document, and more than there are: all documents, the longest first. */
    for (size_t i = 0; i < DOCUMENTS + 5; i++) lengths[i] = 1000;
    REQUIRE_OK(dlm_data_match(data, lengths, DOCUMENTS + 5, 3, &matched, &err), &err);
    check_matched(&s, &matched);
    CHECK_INT_EQ(matched.n, DOCUMENTS);
    CHECK_MEM_EQ(matched.lengths, sorted, sizeof sorted);
    dlm_matched_free(&matched);
    REQUIRE_OK(dlm_data_match(data, lengths, 0, 3, &matched, &err), &err);
    CHECK_INT_EQ(matched.n, 0);
    dlm_matched_free(&matched);
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
}

/* Among documents that are long enough each is as likely, whatever its length. */
TEST(every_document_is_as_likely) {
    enum { DRAWS = 6000, ENOUGH = 30 };
    static const size_t length = 5;
    static int32_t ids[ENOUGH + 10];
    text list[ENOUGH + 10];
    size_t counts[ENOUGH + 10] = {0};
    dlm_tokenizer *tokenizer = large_tokenizer(300);
    dlm_error err;
    dlm_data *data = NULL;
    for (size_t i = 0; i < ENOUGH + 10; i++)
        list[i] = (text){.ids = ids, .n = i < ENOUGH ? length + i : length - 1};
    const char *dir = temporary_dir();
    REQUIRE(write_data(dir, tokenizer, 16, list, ENOUGH + 10, 100));
    REQUIRE_OK(dlm_data_open(dir, &data, &err), &err);
    for (uint64_t seed = 0; seed < DRAWS; seed++) {
        dlm_matched matched;
        REQUIRE_OK(dlm_data_match(data, &length, 1, seed, &matched, &err), &err);
        counts[matched.documents[0]]++;
        dlm_matched_free(&matched);
    }
    double chi_square = 0;
    for (size_t i = 0; i < ENOUGH; i++) {
        const double expected = (double)DRAWS / ENOUGH, off = (double)counts[i] - expected;
        chi_square += off * off / expected;
    }
    CHECK(chi_square < 60); /* 29 degrees of freedom: more than that in one case of 1,700 */
    for (size_t i = ENOUGH; i < ENOUGH + 10; i++) CHECK_INT_EQ(counts[i], 0);
    dlm_data_close(data);
    dlm_tokenizer_free(tokenizer);
}
