/* The layout of a shard, and the check of one. */
#include "train/shard.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

void dlm__shard_name(size_t index, char name[DLM_SHARD_NAME_SIZE]) {
    (void)snprintf(name, DLM_SHARD_NAME_SIZE, "shard-%05zu.dlm", index);
}

size_t dlm__shard_width(uint64_t vocab_size) {
    return vocab_size <= (uint64_t)UINT16_MAX + 1 ? 2 : 4;
}

uint64_t dlm__shard_windows(uint64_t n, uint64_t seq_len) {
    return n / seq_len + 1; /* ceil((n + 1) / seq_len) */
}

uint64_t dlm__shard_file_size(const dlm_shard_header *header) {
    return header->entries.offset + header->entries.size;
}

static dlm_status damaged(const char *name, const char *what, dlm_error *err) {
    return dlm__fail(err, DLM_FORMAT, "%s is damaged: the checksum of its %s is wrong", name, what);
}

/* Reads the header and checks what can be said without the rest of the file. */
static dlm_status parse_header(const char *name, const unsigned char *bytes, size_t size,
                               dlm_shard_header *header, dlm_error *err) {
    if (size < sizeof *header)
        return dlm__fail(err, DLM_FORMAT, "%s is cut off: it has %zu bytes, the header alone has %zu", name,
                         size, sizeof *header);
    memcpy(header, bytes, sizeof *header);
    if (memcmp(header->magic, DLM_SHARD_MAGIC, sizeof header->magic) != 0)
        return dlm__fail(err, DLM_FORMAT, "%s is not a token shard: it does not begin with \"%s\"", name,
                         DLM_SHARD_MAGIC);
    if (header->version != DLM_SHARD_VERSION)
        return dlm__fail(err, DLM_UNSUPPORTED, "%s is a token shard of version %" PRIu32 ", not %u", name,
                         header->version, DLM_SHARD_VERSION);
    if (dlm__hash(bytes, offsetof(dlm_shard_header, checksum), 0) != header->checksum)
        return damaged(name, "header", err);
    if (header->vocab_size == 0 || header->vocab_size > INT32_MAX)
        return dlm__fail(err, DLM_FORMAT, "%s: a vocabulary of %" PRIu64 " tokens", name, header->vocab_size);
    if (header->width != dlm__shard_width(header->vocab_size))
        return dlm__fail(err, DLM_FORMAT,
                         "%s: token ids of %" PRIu32 " bytes, a vocabulary of %" PRIu64 " wants %zu", name,
                         header->width, header->vocab_size, dlm__shard_width(header->vocab_size));
    if (header->seq_len == 0 || header->seq_len > DLM_DATA_SEQ_LEN_MAX)
        return dlm__fail(err, DLM_FORMAT, "%s: a sequence length of %" PRIu64 ", not 1 to %zu", name,
                         header->seq_len, DLM_DATA_SEQ_LEN_MAX);
    return DLM_OK;
}

/* count * width bytes, rounded up, from *at on: is that the section? Moves *at behind it. */
static bool section_fits(const dlm_shard_section *section, uint64_t count, size_t width, size_t *at) {
    size_t content, padded, end;
    if (count > SIZE_MAX || !dlm__size_mul((size_t)count, width, &content) ||
        !dlm__size_add(content, DLM_ALIGN - 1, &padded))
        return false;
    padded -= padded % DLM_ALIGN;
    if (!dlm__size_add(*at, padded, &end)) return false;
    bool fits = section->offset == *at && section->size == padded;
    *at = end;
    return fits;
}

/* The sections lie where the counts say, and end where the file does. */
static dlm_status check_layout(const char *name, const dlm_shard_header *header, size_t size,
                               dlm_error *err) {
    size_t at = sizeof *header;
    if (!section_fits(&header->token_ids, header->tokens, header->width, &at) ||
        !section_fits(&header->marks, header->windows, 1, &at) ||
        !section_fits(&header->entries, header->documents, sizeof(dlm_shard_entry), &at))
        return dlm__fail(err, DLM_FORMAT,
                         "%s: its header is inconsistent: %" PRIu64 " documents, %" PRIu64
                         " windows and %" PRIu64 " tokens do not fill its sections",
                         name, header->documents, header->windows, header->tokens);
    if (size < at)
        return dlm__fail(err, DLM_FORMAT, "%s is cut off: it has %zu bytes, its header says %zu", name, size,
                         at);
    if (size > at) return dlm__fail(err, DLM_FORMAT, "%s has %zu bytes, its header says %zu", name, size, at);
    return DLM_OK;
}

static dlm_status check_section(const char *name, const char *what, const unsigned char *bytes,
                                const dlm_shard_section *section, dlm_error *err) {
    if (dlm__hash(bytes + section->offset, (size_t)section->size, 0) == section->checksum) return DLM_OK;
    return damaged(name, what, err);
}

/* Marks of a document's windows: all but the first continue it, the last ends it. */
static bool marks_are(const uint8_t *marks, size_t windows) {
    for (size_t i = 0; i < windows; i++) {
        unsigned want = (i > 0 ? DLM_MARK_CONTINUES : 0U) | (i + 1 == windows ? DLM_MARK_ENDS : 0U);
        if (marks[i] != want) return false;
    }
    return true;
}

static dlm_status check_entries(const char *name, const dlm_shard *shard, dlm_error *err) {
    const dlm_shard_header *header = &shard->header;
    uint64_t begin = 0, bytes = 0, windows = 0;
    for (size_t i = 0; i < header->documents; i++) {
        const dlm_shard_entry *entry = &shard->entries[i];
        if (entry->end < begin || entry->end > header->tokens)
            return dlm__fail(err, DLM_FORMAT,
                             "%s: document %zu is tokens %" PRIu64 " to %" PRIu64 " of %" PRIu64, name, i,
                             begin, entry->end, header->tokens);
        uint64_t more = dlm__shard_windows(entry->end - begin, header->seq_len);
        if (more > header->windows - windows || !marks_are(shard->marks + windows, (size_t)more))
            return dlm__fail(err, DLM_FORMAT, "%s: the windows of document %zu are not marked as such", name,
                             i);
        windows += more;
        begin = entry->end;
        if (entry->text / 2 > UINT64_MAX - bytes)
            bytes = UINT64_MAX;
        else
            bytes += entry->text / 2;
    }
    if (begin != header->tokens || windows != header->windows || bytes != header->bytes)
        return dlm__fail(err, DLM_FORMAT,
                         "%s: its documents have %" PRIu64 " tokens, %" PRIu64 " windows and %" PRIu64
                         " bytes, its header says %" PRIu64 ", %" PRIu64 " and %" PRIu64,
                         name, begin, windows, bytes, header->tokens, header->windows, header->bytes);
    return DLM_OK;
}

static uint32_t largest16(const uint16_t *ids, size_t n) {
    uint16_t largest = 0;
    for (size_t i = 0; i < n; i++) largest = ids[i] > largest ? ids[i] : largest;
    return largest;
}

static uint32_t largest32(const uint32_t *ids, size_t n) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) largest = ids[i] > largest ? ids[i] : largest;
    return largest;
}

static dlm_status check_ids(const char *name, const dlm_shard *shard, dlm_error *err) {
    size_t n = (size_t)shard->header.tokens;
    uint32_t largest =
        shard->header.width == 2 ? largest16(shard->token_ids, n) : largest32(shard->token_ids, n);
    if (n == 0 || largest < shard->header.vocab_size) return DLM_OK;
    return dlm__fail(err, DLM_FORMAT, "%s: token id %" PRIu32 " is outside the vocabulary of %" PRIu64, name,
                     largest, shard->header.vocab_size);
}

dlm_status dlm__shard_parse(const char *name, const unsigned char *bytes, size_t size, dlm_shard *shard,
                            dlm_error *err) {
    *shard = (dlm_shard){0};
    dlm_shard_header *header = &shard->header;
    DLM_TRY(parse_header(name, bytes, size, header, err));
    DLM_TRY(check_layout(name, header, size, err));
    DLM_TRY(check_section(name, "tokens", bytes, &header->token_ids, err));
    DLM_TRY(check_section(name, "window marks", bytes, &header->marks, err));
    DLM_TRY(check_section(name, "document table", bytes, &header->entries, err));
    shard->token_ids = bytes + header->token_ids.offset;
    shard->marks = bytes + header->marks.offset;
    shard->entries = (const void *)(bytes + header->entries.offset);
    DLM_TRY(check_entries(name, shard, err));
    return check_ids(name, shard, err);
}

dlm_status dlm__shard_check(const char *name, const dlm_shard *shard, const dlm_shard_kind *kind,
                            size_t index, dlm_error *err) {
    const dlm_shard_header *header = &shard->header;
    if (header->vocabulary_hash != kind->vocabulary_hash || header->vocab_size != kind->vocab_size)
        return dlm__fail(err, DLM_MISMATCH,
                         "%s was made with another tokenizer: vocabulary %016" PRIx64 " of %" PRIu64
                         " tokens, not %016" PRIx64 " of %zu",
                         name, header->vocabulary_hash, header->vocab_size, kind->vocabulary_hash,
                         kind->vocab_size);
    if (header->seq_len != kind->seq_len)
        return dlm__fail(err, DLM_MISMATCH, "%s was made for a sequence length of %" PRIu64 ", not %zu", name,
                         header->seq_len, kind->seq_len);
    if (header->index != index)
        return dlm__fail(err, DLM_MISMATCH, "%s is shard %" PRIu64 " of its data, not %zu", name,
                         header->index, index);
    return DLM_OK;
}
