/* Hashes, by xxHash; and the checksum of TensorBoard's record files, for which Debian 12 has no C library. */
#include "base/base.h"

#include <xxhash.h>

uint64_t dlm__hash(const void *bytes, size_t n, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, n, seed);
}

uint32_t dlm__crc32c(const void *bytes, size_t n) {
    const unsigned char *at = bytes;
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= at[i];
        /* One bit at a time, of the reflected polynomial: a few hundred bytes per record need no table. */
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82f63b78U & (0 - (crc & 1)));
    }
    return ~crc;
}
