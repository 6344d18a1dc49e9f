/* Finding a tensor by its name; floating-point types of files. */
#include "format/tensors.h"

#include <math.h>
#include <string.h>

bool dlm__tensors_find(const dlm_tensors *tensors, const char *name, size_t *i) {
    size_t low = 0, high = tensors->n;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, tensors->at(tensors->file, middle).name);
        if (order == 0) {
            *i = middle;
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* IEEE half precision, exactly: subnormals are multiples of 2^-24. */
static float float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 0) return copysignf((float)fraction * 0x1p-24F, float_of_bits(sign | 0x3f800000));
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

void dlm__floats_of_f16(const void *from, size_t n, float *values) {
    const unsigned char *bytes = from;
    uint16_t half;
    for (size_t i = 0; i < n; i++) {
        memcpy(&half, bytes + i * sizeof half, sizeof half);
        values[i] = float_of_half(half);
    }
}

void dlm__floats_of_bf16(const void *from, size_t n, float *values) {
    const unsigned char *bytes = from;
    uint16_t half;
    for (size_t i = 0; i < n; i++) {
        memcpy(&half, bytes + i * sizeof half, sizeof half);
        values[i] = float_of_bits((uint32_t)half << 16);
    }
}

void dlm__floats_of_f64(const void *from, size_t n, float *values) {
    const unsigned char *bytes = from;
    double wide;
    for (size_t i = 0; i < n; i++) {
        memcpy(&wide, bytes + i * sizeof wide, sizeof wide);
        values[i] = (float)wide;
    }
}

/* `bits` without its last n, to the nearest, ties to even. */
static uint32_t round_off(uint32_t bits, unsigned n) {
    return (bits + (((uint32_t)1 << (n - 1)) - 1) + (bits >> n & 1)) >> n;
}

void dlm__bf16_of_floats(const float *values, size_t n, uint16_t *to) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of_float(values[i]);
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        to[i] = (uint16_t)(nan ? bits >> 16 | 64 : round_off(bits, 16));
    }
}

/* Below 2^-14 halves are multiples of 2^-24: adding 0.5, whose last bit is worth 2^-24, rounds to one. */
static uint16_t half_of_float(float value) {
    const uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    uint32_t half;
    if (size > 0x7f800000)
        half = 0x7e00; /* not a number */
    else if (size >= 0x477ff000)
        half = 0x7c00; /* 65520 and more */
    else if (size < 0x38800000)
        half = bits_of_float(float_of_bits(size) + 0.5F) - 0x3f000000;
    else
        half = round_off(size - 0x38000000, 13);
    return (uint16_t)(sign | half);
}

void dlm__f16_of_floats(const float *values, size_t n, uint16_t *to) {
    for (size_t i = 0; i < n; i++) to[i] = half_of_float(values[i]);
}
