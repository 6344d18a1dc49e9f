/* Any bytes as a text file, plain or compressed, in the format that the first byte chooses: an error that
 * names the file, or documents that are UTF-8 and what their format promises. */
#include "fuzz_file.h"

#include "base/base.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void check(dlm_text_format format, const char *text, size_t n) {
    if (dlm__utf8_check(text, n) != n) abort();
    if (format == DLM_TEXT_LINES && (n == 0 || memchr(text, '\n', n) != NULL)) abort();
    if (format != DLM_TEXT_SEPARATED) return;
    if (n == 0 || dlm__utf8_leading_space(text, n) != 0 || dlm__utf8_trailing_space(text, n) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n == 0) return 0;
    dlm_text_options options = dlm_text_defaults();
    options.format = (dlm_text_format)(bytes[0] & 3);
    options.replace_invalid = (bytes[0] & 4) != 0;
    const char *path = fuzz_file(bytes + 1, n - 1);
    const char *paths[2] = {path, path};
    dlm_documents *documents;
    dlm_error err;
    if (dlm_documents_open(paths, 2, &options, &documents, &err) != DLM_OK) abort();
    for (;;) {
        const char *text;
        size_t length;
        uint64_t done, total;
        dlm_status status = dlm_documents_next(documents, &text, &length, &err);
        if (status != DLM_OK && strncmp(err.message, path, strlen(path)) != 0) abort();
        if (status != DLM_OK || text == NULL) break;
        check(options.format, text, length);
        dlm_documents_position(documents, &done, &total);
        if (done > total || total != 2 * (n - 1)) abort();
    }
    dlm_documents_close(documents);
    return 0;
}
