// Products of some rows with a matrix: its weights are read once, in the order in which they lie.
//
// Outputs come in bands of 64. As many rows as there are registers for are summed at once; while more rows follow, which
// find the band in the cache, the next band is on its way there. A row's sums do not depend on the other rows: each
// output is summed by one thread over the inputs in their order.
#pragma once
#include <memory>
#include <vector>

#include "vectors.h"

namespace {

const int64_t BAND = 64;  // songkit.kernels.linear packs weights so
#ifdef __AVX512F__
const int TILES = 4;  // vectors of 16 outputs that are summed together
#else
const int TILES = 1;
#endif

struct Linear {
    const void* weights;   // [O / 64, K / STEP, 64, STEP]
    const float* scales;   // [O / 64, 64] of int8 weights, or null
    const int32_t* sums;   // [O / 64, 64] of int8 weights, or null
    const float* bias;     // [O / 64, 64], or null
    int64_t kind, inputs, outputs;
};

// Three kinds of weights. Each says what it makes of the inputs, `STEP` of them in 4 bytes, in `PLANES` that follow each
// other, and how it adds their products for 16 outputs; for `ROWS` at once the sums of a band fit into 32 registers.
struct Float32 {
    typedef float Step;
    typedef Floats Vector, Sum;
    static const int STEP = 1, PLANES = 1, ROWS = 6;
    static float prepare(const float* x, int64_t count, Step* steps) {
        memcpy(steps, x, count * sizeof(float));
        return 1;
    }
    static void add(Sum& sum, const Vector& w, const Step* x, int64_t) { sum += w * *x; }
    static Floats result(const Sum& sum, const Linear&, int64_t) { return sum; }
};

struct BFloat16 {
    typedef uint32_t Step;  // a pair, the first in the low half; so are weights
    typedef Words Vector;
    typedef Floats Sum;
    static const int STEP = 2, PLANES = 1, ROWS = 6;
    static float prepare(const float* x, int64_t count, Step* steps) {
        for (int64_t i = 0; i < count; i++) narrow(((uint16_t*)steps)[i], x[i]);
        return 1;
    }
    static void add(Sum& sum, const Vector& w, const Step* x, int64_t) {
#ifdef __AVX512BF16__
        sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(int32_t(*x)));
#else
        sum += (Floats)(w << 16) * wide(uint16_t(*x)) + (Floats)(w & 0xffff0000u) * wide(uint16_t(*x >> 16));
#endif
    }
    static Floats result(const Sum& sum, const Linear&, int64_t) { return sum; }
};

// Weights are whole numbers up to 127. Inputs are whole numbers of 16 bits, with a scale for each row, 32768 added to make
// them positive; their high and low bytes are summed apart. So the inputs lose next to nothing.
struct Int8 {
    typedef uint32_t Step;  // four bytes: high ones in the first plane, low ones in the second
    struct Sum {
        Integers high, low;
    };
    typedef Integers Vector;
    static const int STEP = 4, PLANES = 2, ROWS = 3;
    static float prepare(const float* x, int64_t count, Step* steps) {
        const float most = largest(x, count);
        uint8_t *high = (uint8_t*)steps, *low = high + count;
        for (int64_t i = 0; i < count; i++) {
            const int32_t whole = int32_t(std::floor(x[i] / most * 32767 + 0.5f)) + 32768;
            high[i] = uint8_t(whole >> 8), low[i] = uint8_t(whole);
        }
        return most / 32767;
    }
    static void add(Sum& sum, const Vector& w, const Step* x, int64_t plane) {
        add(sum.high, w, x[0]), add(sum.low, w, x[plane]);
    }
    static void add(Integers& sum, const Vector& w, Step x) {
#ifdef __AVX512VNNI__
        sum = (Integers)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(int32_t(x)), (__m512i)w);
#else
        for (int j = 0; j < 4; j++) sum += ((w << (24 - 8 * j)) >> 24) * int32_t(x >> 8 * j & 255);
#endif
    }
    static Floats result(const Sum& sum, const Linear& l, int64_t first) {
        const Floats scale = load<Floats>(l.scales + first);
        const Integers high = sum.high - 128 * load<Integers>(l.sums + first);
        return (256 * __builtin_convertvector(high, Floats) + __builtin_convertvector(sum.low, Floats)) * scale;
    }
};

// Some rows and what becomes of them.
template <class W>
struct Rows {
    const typename W::Step* x;  // [R, PLANES, K / STEP]
    const float* factors;       // [R]
    float* y;                   // [R, O]

    Rows from(int64_t r, const Linear& l) const {
        return {x + r * W::PLANES * (l.inputs / W::STEP), factors + r, y + r * l.outputs};
    }
};

// Multiplies `TILES` vectors of outputs, from `first` on, with ROWS rows; LINES cache lines are fetched at every step.
template <class W, int ROWS, int LINES>
void tiles(const Linear& l, Rows<W> rows, int64_t first, const char* ahead) {
    const int64_t steps = l.inputs / W::STEP;
    const typename W::Vector* weights = (const typename W::Vector*)l.weights + (first / BAND * steps * BAND + first % BAND) / 16;
    typename W::Sum sums[ROWS][TILES] = {};
    for (int64_t k = 0; k < steps; k++, weights += BAND / 16) {
        for (int i = 0; i < LINES; i++, ahead += 64) __builtin_prefetch(ahead, 0, 2);  // not to the nearest cache
        typename W::Vector w[TILES];
        for (int t = 0; t < TILES; t++) w[t] = load<typename W::Vector>(weights + t);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int t = 0; t < TILES; t++) W::add(sums[r][t], w[t], rows.x + r * W::PLANES * steps + k, steps);
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int t = 0; t < TILES; t++) {
            const int64_t o = first + t * 16;
            Floats out = W::result(sums[r][t], l, o) * rows.factors[r];
            if (l.bias) out += load<Floats>(l.bias + o);
            float* to = rows.y + r * l.outputs + o;
            if (o + 16 <= l.outputs) memcpy(to, &out, sizeof out);
            else if (o < l.outputs) memcpy(to, &out, (l.outputs - o) * sizeof(float));
        }
}

template <class W, int ROWS, int LINES>
void band(const Linear& l, Rows<W> rows, int64_t count, int64_t first, const char* ahead) {
    if constexpr (ROWS > 1)
        if (count < ROWS) return band<W, ROWS - 1, LINES>(l, rows, count, first, ahead);
    for (int64_t tile = first; tile < first + BAND; tile += 16 * TILES) tiles<W, ROWS, LINES>(l, rows, tile, ahead);
}

// Moves the outputs of each even row away from those of the row behind it, its null branch: null + guidance * (y - null).
void guide(const Linear& l, float* y, int64_t count, int64_t first, float guidance) {
    const int64_t end = first + BAND < l.outputs ? first + BAND : l.outputs;
    for (int64_t r = 0; r < count; r += 2, y += 2 * l.outputs)
        for (int64_t o = first; o < end; o++) y[o] = y[o + l.outputs] + guidance * (y[o] - y[o + l.outputs]);
}

// The threads of a region call this together, share the outputs, and go on when all are there. Guidance 1 is none.
template <class W>
void multiply(const Linear& l, const float* x, float* y, int64_t count, float guidance) {
    const int64_t steps = l.inputs / W::STEP, bytes = BAND * steps * 4, parts = (count + W::ROWS - 1) / W::ROWS;
    const std::unique_ptr<typename W::Step[]> inputs(new typename W::Step[count * W::PLANES * steps]);
    std::vector<float> factors(count);
    const Rows<W> rows = {inputs.get(), factors.data(), y};
    for (int64_t r = 0; r < count; r++) factors[r] = W::prepare(x + r * l.inputs, l.inputs, &inputs[r * W::PLANES * steps]);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < l.outputs; first += BAND) {
        const char* next = (const char*)l.weights + (first / BAND + 1) * bytes;
        if (parts == 1) band<W, W::ROWS, 0>(l, rows, count, first, next);
        for (int64_t p = 0; parts > 1 && p < parts; p++) {
            const int64_t begin = p * count / parts, end = (p + 1) * count / parts;
            band<W, W::ROWS, 2>(l, rows.from(begin, l), end - begin, first, next + p * bytes / parts);
        }
        if (guidance != 1) guide(l, y, count, first, guidance);
    }
}

void linear(const Linear& l, const float* x, float* y, int64_t rows, float guidance = 1) {
    if (l.kind == 0) multiply<Float32>(l, x, y, rows, guidance);
    if (l.kind == 1) multiply<BFloat16>(l, x, y, rows, guidance);
    if (l.kind == 2) multiply<Int8>(l, x, y, rows, guidance);
}

}  // namespace
