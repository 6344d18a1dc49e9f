/* data.json: any bytes give a list that holds together or a message. */
#include "train/shard.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    dlm_shard_list list;
    dlm_error err;
    if (dlm__shard_list_parse("input", (const char *)bytes, n, &list, &err) != DLM_OK) {
        if (strncmp(err.message, "input", 5) != 0) abort();
        return 0;
    }
    uint64_t documents = 0, tokens = 0, lengths = 0;
    for (size_t i = 0; i < list.info.shards; i++) {
        documents += list.shards[i].documents;
        tokens += list.shards[i].tokens;
    }
    for (size_t i = 0; i <= list.info.seq_len; i++) lengths += list.lengths[i];
    if (documents != list.info.documents || tokens != list.info.tokens || lengths != documents) abort();
    dlm__shard_list_free(&list);
    return 0;
}
