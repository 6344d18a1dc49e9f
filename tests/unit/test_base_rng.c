/* The generator: known answers of Philox4x32-10, and the shape of what is drawn. */
#include "check.h"

#include "base/base.h"

#include <math.h>

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
static void known(uint32_t counter_fill, const uint32_t counter[4], const uint32_t key[2],
                  const uint32_t want[4]) {
    dlm_rng rng = {
        .key = {key[0], key[1]}, .counter = {counter[0], counter[1], counter[2], counter[3]}, .used = 4};
    check_context("counter %08x...", (unsigned)counter_fill);
    for (size_t i = 0; i < 4; i++) CHECK_INT_EQ(dlm__rng_u32(&rng), want[i]);
}

TEST(known_answers) {
    known(0, (uint32_t[]){0, 0, 0, 0}, (uint32_t[]){0, 0},
          (uint32_t[]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    known(UINT32_MAX, (uint32_t[]){UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX},
          (uint32_t[]){UINT32_MAX, UINT32_MAX}, (uint32_t[]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    known(0x243f6a88, (uint32_t[]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
          (uint32_t[]){0xa4093822, 0x299f31d0}, (uint32_t[]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(uniform_mean) {
    dlm_rng rng = dlm__rng(1, DLM_RNG_TEST, 0, 0);
    double sum = 0;
    for (int i = 0; i < 100000; i++) sum += dlm__rng_uniform(&rng);
    CHECK_CLOSE(sum / 1e5, 0.5, 5 * sqrt(1.0 / 12 / 1e5));
}
