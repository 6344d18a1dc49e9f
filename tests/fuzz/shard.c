/* Token shards: any bytes give a checked shard or a message. Also with their checksums put right, so that
 * what stands behind them is reached. A shard that passes is read in full. */
#include "train/shard.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Puts the checksums right. */
static void seal(uint8_t *bytes, size_t n) {
    dlm_shard_header header;
    if (n < sizeof header) return;
    memcpy(&header, bytes, sizeof header);
    dlm_shard_section *sections[] = {&header.token_ids, &header.marks, &header.entries};
    for (size_t i = 0; i < 3; i++) {
        dlm_shard_section *s = sections[i];
        if (s->offset <= n && s->size <= n - s->offset)
            s->checksum = dlm__hash(bytes + s->offset, (size_t)s->size, 0);
    }
    header.checksum = dlm__hash(&header, offsetof(dlm_shard_header, checksum), 0);
    memcpy(bytes, &header, sizeof header);
}

static void read_all(const dlm_shard *shard) {
    const dlm_shard_header *header = &shard->header;
    uint64_t begin = 0, windows = 0, bytes = 0;
    for (size_t i = 0; i < header->documents; i++) {
        for (uint64_t t = begin; t < shard->entries[i].end; t++) {
            uint32_t id = header->width == 2 ? ((const uint16_t *)shard->token_ids)[t]
                                             : ((const uint32_t *)shard->token_ids)[t];
            if (id >= header->vocab_size) abort();
        }
        begin = shard->entries[i].end;
        bytes += shard->entries[i].text / 2;
    }
    for (size_t i = 0; i < header->windows; i++) windows += (shard->marks[i] & DLM_MARK_ENDS) != 0;
    if (begin != header->tokens || windows != header->documents || bytes != header->bytes) abort();
}

static void parse(const uint8_t *bytes, size_t n) {
    dlm_shard shard;
    dlm_error err;
    if (dlm__shard_parse("input", bytes, n, &shard, &err) == DLM_OK)
        read_all(&shard);
    else if (strncmp(err.message, "input", 5) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    uint8_t *copy = malloc(n + 1); /* aligned, as a map is */
    if (copy == NULL) abort();
    memcpy(copy, bytes, n);
    parse(copy, n);
    seal(copy, n);
    parse(copy, n);
    free(copy);
    return 0;
}
