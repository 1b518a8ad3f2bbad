// Vectors of 16 numbers, which the compiler maps to what the machine has, and what all kernels do with them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));  // 16 pairs of bfloat16, the first of each in the low half
typedef int32_t Integers __attribute__((vector_size(64)));

float wide(float x) { return x; }
float wide(uint16_t x) {
    const uint32_t bits = uint32_t(x) << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
void narrow(float& to, float x) { to = x; }
void narrow(uint16_t& to, float x) {  // to the nearest bfloat16, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    to = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float largest(const float* x, int64_t count) {
    float most = 1e-30f;
    for (int64_t i = 0; i < count; i++) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
    return most;
}

// exp(x) to 2e-7 of it, for x of at most 0 or so: written out, since not every library has it for vectors.
float exponential(float x) {
    x = x < -87 ? -87 : x > 87 ? 87 : x;
    const float n = std::floor(x * 1.44269504f + 0.5f);
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;  // Cephes' expf
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return (p * r * r + r + 1) * power;
}

template <class V>
V load(const void* from) {
    V out;
    memcpy(&out, from, sizeof out);
    return out;
}

Floats sixteen(const float* x) { return load<Floats>(x); }
#ifdef __AVX512F__
Floats sixteen(const uint16_t* x) {
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)), 16);
}
Floats sixteen(const int8_t* x) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)x)));
}
float sum_of(const Floats& x) { return _mm512_reduce_add_ps((__m512)x); }
#else
Floats sixteen(const uint16_t* x) {
    Floats out;
    for (int i = 0; i < 16; i++) out[i] = wide(x[i]);
    return out;
}
Floats sixteen(const int8_t* x) {
    Floats out;
    for (int i = 0; i < 16; i++) out[i] = float(x[i]);
    return out;
}
float sum_of(const Floats& x) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += x[i];
    return sum;
}
#endif

}  // namespace
