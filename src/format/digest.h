/* SHA-1 and SHA-256 (FIPS 180-4), by OpenSSL's libcrypto. */
#ifndef DLM_DIGEST_H
#define DLM_DIGEST_H

#include "base/base.h"

typedef enum dlm_digest_kind { DLM_SHA1, DLM_SHA256 } dlm_digest_kind;

typedef struct dlm_digest dlm_digest;
/* NULL without memory, or where the system has no such hash. */
dlm_digest *dlm__digest_create(dlm_digest_kind kind);
bool dlm__digest_add(dlm_digest *digest, const void *bytes, size_t n);
/* In lower-case hexadecimal digits: 40 or 64, and a 0. */
bool dlm__digest_finish(dlm_digest *digest, char hex[65]);
void dlm__digest_free(dlm_digest *digest); /* accepts NULL */

#endif
