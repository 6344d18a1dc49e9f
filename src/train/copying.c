/* Looks texts up in a corpus: reads all its documents through a suffix automaton of the texts. */
#include "text/progress.h"
#include "text/statistics.h"
#include "text/suffixes.h"
#include "train/data.h"

/* Documents that a thread reads before it takes others; and how many such pieces are read between two reports
 * of progress. */
enum { PIECE = 256, PIECES = 128 };

typedef struct reading {
    dlm_suffixes *suffixes;
    const dlm_data *data;
    uint64_t first, end; /* documents of this round */
} reading;

static void read_piece(void *context, size_t piece) {
    const reading *r = context;
    const uint64_t first = r->first + (uint64_t)piece * PIECE;
    dlm_suffix_document documents[PIECE];
    size_t n = 0;
    for (; n < PIECE && first + n < r->end; n++) {
        const dlm_document document = dlm__data_document(r->data, first + n);
        documents[n] = (dlm_suffix_document){document.tokens, document.width, document.n};
    }
    dlm__suffixes_read(r->suffixes, documents, n);
}

static dlm_status read_all(dlm_suffixes *suffixes, const dlm_data *data, dlm_meter *meter, dlm_error *err) {
    const uint64_t documents = dlm_data_describe(data).documents, round = (uint64_t)PIECE * PIECES;
    reading r = {.suffixes = suffixes, .data = data};
    for (; r.first < documents; r.first = r.end) {
        r.end = documents - r.first > round ? r.first + round : documents;
        dlm__parallel_for((size_t)((r.end - r.first + PIECE - 1) / PIECE), read_piece, &r);
        DLM_TRY(dlm__meter_report(meter, "training texts", r.end, documents, err));
    }
    return DLM_OK;
}

static dlm_status add_all(dlm_suffixes *suffixes, const dlm_texts *texts, dlm_error *err) {
    const int32_t *ids = texts->ids;
    for (size_t i = 0; i < texts->n; i++) {
        DLM_TRY(dlm__suffixes_add(suffixes, ids, texts->lengths[i], err));
        if (texts->lengths[i] > 0) ids += texts->lengths[i];
    }
    return DLM_OK;
}

dlm_status dlm_texts_find(const dlm_texts *texts, const dlm_data *data, dlm_progress progress, void *user,
                          uint32_t *spans, dlm_error *err) {
    size_t tokens;
    dlm_suffixes suffixes;
    dlm_meter meter = dlm__meter(progress, user);
    DLM_TRY(dlm__texts_check(texts, &tokens, err));
    dlm_status status = dlm__suffixes_create(&suffixes, err);
    if (status == DLM_OK) status = add_all(&suffixes, texts, err);
    if (status == DLM_OK) {
        dlm__suffixes_prepare(&suffixes);
        status = read_all(&suffixes, data, &meter, err);
    }
    if (status == DLM_OK) status = dlm__suffixes_settle(&suffixes, err);
    for (size_t i = 0, start = 0; i < texts->n && status == DLM_OK; start += texts->lengths[i++])
        if (texts->lengths[i] > 0)
            dlm__suffixes_spans(&suffixes, texts->ids + start, texts->lengths[i], spans + start);
    dlm__suffixes_free(&suffixes);
    return status;
}
