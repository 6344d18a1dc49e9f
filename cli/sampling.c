#include "sampling.h"

#include "terminal.h"

#include <stdlib.h>
#include <string.h>

const char *const order_choices[] = {"confidence", "confidence_weighted", "random",    "margin",
                                     "entropy",    "left_to_right",       "ancestral", "first_hitting",
                                     NULL};
const char *const reveal_choices[] = {"cosine", "linear", NULL};
const char *const corrector_choices[] = {"random", "low_confidence", NULL};
const char *const remask_choices[] = {"none", "cap", "rescale", "conf", "loop", NULL};

void adjust_sampling(sampling_choice *choice) {
    if (choice->options.remask != DLM_REMASK_NONE) choice->options.order = DLM_ORDER_ANCESTRAL;
}

/* ---- banned tokens ------------------------------------------------------------------------------------ */

typedef struct ban_list {
    int32_t *ids;
    size_t n, vocabulary;
    const dlm_tokenizer *tokenizer; /* or NULL */
} ban_list;

static bool add_ban(ban_list *list, int32_t id) {
    int32_t *ids = realloc(list->ids, (list->n + 1) * sizeof *ids);
    if (ids == NULL) return false;
    list->ids = ids;
    ids[list->n++] = id;
    return true;
}

/* "#17": a number of the vocabulary. */
static int add_number(ban_list *list, const char *item, size_t n) {
    char *end;
    const unsigned long id = strtoul(item + 1, &end, 10);
    if (n < 2 || item[1] < '0' || item[1] > '9' || end != item + n || id >= list->vocabulary) {
        (void)fail("--ban: %.*s is no token: the vocabulary has #0 to #%zu", (int)n, item,
                   list->vocabulary - 1);
        return EXIT_USAGE;
    }
    return add_ban(list, (int32_t)id) ? EXIT_DONE : fail("out of memory");
}

/* A word: the tokens that are just it, with and without a space before it. */
static int add_word(ban_list *list, const char *word, size_t n) {
    const size_t before = list->n;
    for (size_t id = 0; list->tokenizer != NULL && id < list->vocabulary; id++) {
        size_t bytes;
        bool special;
        const char *token = dlm_tokenizer_token(list->tokenizer, (int32_t)id, &bytes, &special);
        if (token == NULL) continue;
        const size_t skip = bytes == n + 1 && token[0] == ' ' ? 1 : 0;
        if (bytes - skip != n || memcmp(token + skip, word, n) != 0) continue;
        if (!add_ban(list, (int32_t)id)) return fail("out of memory");
    }
    if (list->n > before) return EXIT_DONE;
    if (list->tokenizer == NULL)
        (void)fail("--ban: there is no tokenizer to look \"%.*s\" up in; #ID takes a token by its number",
                   (int)n, word);
    else
        (void)fail(
            "--ban: \"%.*s\" is no single token of this vocabulary, and only single tokens can be banned",
            (int)n, word);
    return EXIT_USAGE;
}

int read_bans(sampling_choice *choice, const dlm_model *model, int32_t **bans) {
    *bans = NULL;
    if (choice->ban == NULL) return EXIT_DONE;
    ban_list list = {.vocabulary = dlm_model_config(model)->vocab_size,
                     .tokenizer = dlm_model_tokenizer(model)};
    int status = EXIT_DONE;
    for (const char *item = choice->ban; status == EXIT_DONE; item++) {
        const size_t n = strcspn(item, ",");
        if (n == 0) {
            (void)fail("--ban \"%s\": there is an empty item; a comma itself is banned by its number, #ID",
                       choice->ban);
            status = EXIT_USAGE;
            break;
        }
        status = item[0] == '#' && n > 1 ? add_number(&list, item, n) : add_word(&list, item, n);
        item += n;
        if (*item == 0) break;
    }
    choice->options.banned = list.ids;
    choice->options.banned_n = list.n;
    *bans = list.ids;
    return status;
}
