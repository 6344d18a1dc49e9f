#include "format/digest.h"

#include <openssl/evp.h>
#include <stdlib.h>

struct dlm_digest {
    EVP_MD_CTX *context;
};

dlm_digest *dlm__digest_create(dlm_digest_kind kind) {
    dlm_digest *digest = dlm__calloc(1, sizeof *digest);
    if (digest == NULL) return NULL;
    digest->context = EVP_MD_CTX_new();
    const EVP_MD *algorithm = kind == DLM_SHA1 ? EVP_sha1() : EVP_sha256();
    if (digest->context != NULL && EVP_DigestInit_ex(digest->context, algorithm, NULL) == 1) return digest;
    dlm__digest_free(digest);
    return NULL;
}

bool dlm__digest_add(dlm_digest *digest, const void *bytes, size_t n) {
    return EVP_DigestUpdate(digest->context, bytes, n) == 1;
}

bool dlm__digest_finish(dlm_digest *digest, char hex[65]) {
    static const char digits[] = "0123456789abcdef";
    unsigned char value[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    hex[0] = 0;
    if (EVP_DigestFinal_ex(digest->context, value, &n) != 1 || n > 32) return false;
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[value[i] >> 4];
        hex[2 * i + 1] = digits[value[i] & 15];
    }
    hex[2 * (size_t)n] = 0;
    return true;
}

void dlm__digest_free(dlm_digest *digest) {
    if (digest == NULL) return;
    EVP_MD_CTX_free(digest->context);
    free(digest);
}
