// One decoding step on a CPU, at the speed of memory: every weight and every cached key and value is read once, in order.
//
// Plain loops over vectors of 16 floats, which the compiler maps to what the machine has. A row's numbers do not depend
// on the other rows: each output is summed by one thread over the inputs in their order. songkit.kernels.native compiles
// this file at first use; what it computes is written in torch as well (songkit.kernels.linear, .attention).
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>
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

struct Linear {
    const void* weights;   // [O / 16, K / STEP, 16, STEP]: tiles of 16 outputs
    const float* scales;   // [O / 16, 16] of int8 weights, or null
    const int32_t* sums;   // [O / 16, 16] of int8 weights, or null
    int64_t kind, inputs, outputs;
};

// Three kinds of weights. Each says what it makes of the inputs, `STEP` of them at a time, and how it adds their products
// for 16 outputs; `ROWS` is for how many rows at once the sums fit into registers.
struct Float32 {
    typedef float Step;
    typedef Floats Vector, Sum;
    static const int STEP = 1, ROWS = 8;
    static float prepare(const float* x, int64_t count, Step* steps) {
        memcpy(steps, x, count * sizeof(float));
        return 1;
    }
    static void add(Sum& sum, const Vector& w, Step x) { sum += w * x; }
    static Floats result(const Sum& sum, const Linear&, int64_t) { return sum; }
};

struct BFloat16 {
    typedef uint32_t Step;  // a pair, the first in the low half; so are weights
    typedef Words Vector;
    typedef Floats Sum;
    static const int STEP = 2, ROWS = 8;
    static float prepare(const float* x, int64_t count, Step* steps) {
        for (int64_t i = 0; i < count; i++) narrow(((uint16_t*)steps)[i], x[i]);
        return 1;
    }
    static void add(Sum& sum, const Vector& w, Step x) {
#ifdef __AVX512BF16__
        sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(int32_t(x)));
#else
        sum += (Floats)(w << 16) * wide(uint16_t(x)) + (Floats)(w & 0xffff0000u) * wide(uint16_t(x >> 16));
#endif
    }
    static Floats result(const Sum& sum, const Linear&, int64_t) { return sum; }
};

// Weights are whole numbers up to 127. Inputs are whole numbers of 16 bits, with a scale for each row, 32768 added to make
// them positive; their high and low bytes are summed apart. So the inputs lose next to nothing.
struct Int8 {
    struct Step {
        uint8_t high[4], low[4];
    };
    struct Sum {
        Integers high, low;
    };
    typedef Integers Vector;
    static const int STEP = 4, ROWS = 4;
    static float prepare(const float* x, int64_t count, Step* steps) {
        float most = 1e-30f;
        for (int64_t i = 0; i < count; i++) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
        for (int64_t i = 0; i < count; i++) {
            const int32_t whole = int32_t(std::floor(x[i] / most * 32767 + 0.5f)) + 32768;
            steps[i / 4].high[i % 4] = uint8_t(whole >> 8), steps[i / 4].low[i % 4] = uint8_t(whole);
        }
        return most / 32767;
    }
    static void add(Sum& sum, const Vector& w, const Step& x) { add(sum.high, w, x.high), add(sum.low, w, x.low); }
    static void add(Integers& sum, const Vector& w, const uint8_t* x) {
#ifdef __AVX512VNNI__
        int32_t bytes;
        memcpy(&bytes, x, 4);
        sum = (Integers)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(bytes), (__m512i)w);
#else
        for (int j = 0; j < 4; j++) sum += ((w << (24 - 8 * j)) >> 24) * int32_t(x[j]);
#endif
    }
    static Floats result(const Sum& sum, const Linear& l, int64_t first) {
        Floats scale;
        Integers weights;
        memcpy(&scale, l.scales + first, sizeof scale), memcpy(&weights, l.sums + first, sizeof weights);
        const Integers high = sum.high - 128 * weights;
        return (256 * __builtin_convertvector(high, Floats) + __builtin_convertvector(sum.low, Floats)) * scale;
    }
};

// Multiplies tiles of 16 outputs with rows.
template <class W, int ROWS, int TILES>
void tile(const Linear& l, const typename W::Step* x, const float* factors, float* y, int64_t first) {
    const int64_t steps = l.inputs / W::STEP;
    const typename W::Vector* weights = (const typename W::Vector*)l.weights + first / 16 * steps;
    typename W::Sum sums[TILES][ROWS];
    for (int t = 0; t < TILES; t++)
        for (int r = 0; r < ROWS; r++) sums[t][r] = typename W::Sum{};
    for (int64_t k = 0; k < steps; k++) {
        typename W::Vector w[TILES];
        for (int t = 0; t < TILES; t++) {
            memcpy(&w[t], weights + t * steps + k, sizeof w[t]);
            // Many sums leave the machine no room to see the next tiles coming.
            if (ROWS > 2) __builtin_prefetch(weights + (t + TILES) * steps + k);
        }
        for (int r = 0; r < ROWS; r++)
            for (int t = 0; t < TILES; t++) W::add(sums[t][r], w[t], x[r * steps + k]);
    }
    for (int t = 0; t < TILES; t++) {
        const int64_t o = first + t * 16, count = l.outputs - o < 16 ? l.outputs - o : 16;
        for (int r = 0; r < ROWS; r++) {
            const Floats out = W::result(sums[t][r], l, o) * factors[r];
            memcpy(y + r * l.outputs + o, &out, count * sizeof(float));
        }
    }
}

template <class W, int TILES>
void tiles(const Linear& l, const typename W::Step* x, const float* factors, float* y, int64_t rows, int64_t first) {
    const int64_t steps = l.inputs / W::STEP;
    for (; rows >= W::ROWS; rows -= W::ROWS, x += W::ROWS * steps, factors += W::ROWS, y += W::ROWS * l.outputs)
        tile<W, W::ROWS, TILES>(l, x, factors, y, first);
    switch (rows) {
        case 1: return tile<W, 1, TILES>(l, x, factors, y, first);
        case 2: return tile<W, 2, TILES>(l, x, factors, y, first);
        case 3: return tile<W, 3, TILES>(l, x, factors, y, first);
        case 4: return tile<W, 4, TILES>(l, x, factors, y, first);
        case 5: return tile<W, 5, TILES>(l, x, factors, y, first);
        case 6: return tile<W, 6, TILES>(l, x, factors, y, first);
        case 7: return tile<W, 7, TILES>(l, x, factors, y, first);
    }
}

// Multiplies up to four tiles: together for the one or two rows of a lone song, else by twos, whose sums fit.
template <class W>
void chunk(const Linear& l, const typename W::Step* x, const float* factors, float* y, int64_t rows, int64_t first) {
    const int64_t end = first + 64 < l.outputs ? first + 64 : l.outputs;
    if (end - first > 48 && rows == 1) return tile<W, 1, 4>(l, x, factors, y, first);
    if (end - first > 48 && rows == 2) return tile<W, 2, 4>(l, x, factors, y, first);
    for (; first + 16 < end; first += 32) tiles<W, 2>(l, x, factors, y, rows, first);
    if (first < end) tiles<W, 1>(l, x, factors, y, rows, first);
}

// The threads of a region call this together, share the outputs, and go on when all are there.
template <class W>
void multiply(const Linear& l, const float* x, float* y, int64_t rows) {
    const int64_t steps = l.inputs / W::STEP;
    const std::unique_ptr<typename W::Step[]> inputs(new typename W::Step[rows * steps]);
    std::vector<float> factors(rows);
    for (int64_t r = 0; r < rows; r++) factors[r] = W::prepare(x + r * l.inputs, l.inputs, &inputs[r * steps]);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < l.outputs; first += 64) chunk<W>(l, inputs.get(), factors.data(), y, rows, first);
}

void linear(const Linear& l, const float* x, float* y, int64_t rows) {
    if (l.kind == 0) multiply<Float32>(l, x, y, rows);
    if (l.kind == 1) multiply<BFloat16>(l, x, y, rows);
    if (l.kind == 2) multiply<Int8>(l, x, y, rows);
}

// Where a row of a step stands in its song's cache [layers, 2, G, H, capacity, size]. Keys and values of 8 bits have
// scales float32 [layers, 2, G, H, capacity]; those of others are null.
struct Row {
    int64_t cache, scales, group, capacity, first, used, position;
};

Floats sixteen(const float* x) {
    Floats out;
    memcpy(&out, x, sizeof out);
    return out;
}
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

// Writes a key or value into the cache; returns its scale.
template <class T>
float keep(T* to, const float* x, int64_t size) {
    for (int64_t i = 0; i < size; i++) narrow(to[i], x[i]);
    return 1;
}
float keep(int8_t* to, const float* x, int64_t size) {
    float most = 1e-30f;
    for (int64_t i = 0; i < size; i++) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
    for (int64_t i = 0; i < size; i++) to[i] = int8_t(std::floor(x[i] / most * 127 + 0.5f));
    return most / 127;
}

// The products of a query with `KEYS` keys that follow each other; `size` is a multiple of 16.
template <int KEYS, class T>
void products(const Floats* query, const T* keys, int64_t size, float* scores) {
    Floats sums[KEYS] = {};
    for (int64_t i = 0; i < size; i += 16)
        for (int k = 0; k < KEYS; k++) sums[k] += query[i / 16] * sixteen(keys + k * size + i);
    for (int k = 0; k < KEYS; k++) scores[k] = sum_of(sums[k]);
}

// Adds `VALUES` values that follow each other, each times its weight, to a sum.
template <int VALUES, class T>
void add_values(Floats* sum, const T* values, int64_t size, const float* weights) {
    for (int64_t i = 0; i < size; i += 16) {
        Floats all = sum[i / 16];
        for (int v = 0; v < VALUES; v++) all += weights[v] * sixteen(values + v * size + i);
        sum[i / 16] = all;
    }
}

// Writes keys and values of the step and attends with its query, for one head of one row.
template <class T>
void attend(const float* q, int64_t heads, int64_t size, int64_t head, const Row& row, int64_t layer, const float* turn,
            float* out) {
    const int64_t half = size / 2, plane = row.group * heads * row.capacity, first = layer * 2 * plane + head * row.capacity;
    const float *k = q + heads * size, *v = k + heads * size, *cosines = turn + row.position * size, *sines = cosines + half;
    T *keys = (T*)row.cache + first * size, *values = keys + plane * size;
    std::vector<Floats> query(size / 16), turned(size / 16), sum(size / 16);
    float *own = (float*)query.data(), *key = (float*)turned.data(), scale = 1 / std::sqrt(float(size));
    for (int64_t i = 0; i < half; i++) {
        own[i] = (q[i] * cosines[i] - q[i + half] * sines[i]) * scale;
        own[i + half] = (q[i + half] * cosines[i] + q[i] * sines[i]) * scale;
        key[i] = k[i] * cosines[i] - k[i + half] * sines[i];
        key[i + half] = k[i + half] * cosines[i] + k[i] * sines[i];
    }
    const float key_scale = keep(keys + row.used * size, key, size), value_scale = keep(values + row.used * size, v, size);
    float *key_scales = (float*)row.scales + first, *value_scales = key_scales + plane;
    if (row.scales) key_scales[row.used] = key_scale, value_scales[row.used] = value_scale;

    const int64_t end = row.used + 1;
    std::vector<float> scores(end);
    int64_t t = row.first;
    for (; t + 4 <= end; t += 4) products<4>(query.data(), keys + t * size, size, &scores[t]);
    for (; t < end; t++) products<1>(query.data(), keys + t * size, size, &scores[t]);
    float most = -INFINITY, total = 0;
    for (t = row.first; t < end; t++) {
        if (row.scales) scores[t] *= key_scales[t];
        most = scores[t] > most ? scores[t] : most;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t t = row.first; t < end; t++) total += scores[t] = exponential(scores[t] - most);
    for (t = row.first; row.scales && t < end; t++) scores[t] *= value_scales[t];
    for (t = row.first; t + 4 <= end; t += 4) add_values<4>(sum.data(), values + t * size, size, &scores[t]);
    for (; t < end; t++) add_values<1>(sum.data(), values + t * size, size, &scores[t]);
    for (Floats& part : sum) part /= total;
    memcpy(out, sum.data(), size * sizeof(float));
}

// y = norm(x + added) * weight, where x keeps the sum: the residual stream.
void normalise(float* x, const float* added, const float* weight, float* y, int64_t rows, int64_t width, float eps) {
    for (int64_t r = 0; r < rows; r++, x += width, y += width) {
        float sum = 0;
        for (int64_t i = 0; added && i < width; i++) x[i] += added[r * width + i];
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
        const float scale = 1 / std::sqrt(sum / float(width) + eps);
        for (int64_t i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
    }
}

const int64_t PARTS = 8;  // of a row's gates, shared out over threads

struct Layer {
    const float *norm1, *norm2;
    Linear qkv, proj, gate_up, down;
};

}  // namespace

extern "C" {

void songkit_linear(const Linear* l, const float* x, float* y, int64_t rows, int threads) {
#pragma omp parallel num_threads(threads)
    linear(*l, x, y, rows);
}

// Moves rows x [R, D] of songs on by a step through all layers; y [R, D] are the final states. Heads have a multiple of 16
// numbers; `cache` is the kind of the keys and values: 0, 1 or 2, as of weights.
void songkit_step(const Layer* layers, int64_t count, const float* norm, float eps, int64_t heads, const float* turn,
                  const Row* rows, int64_t cache, const float* x, float* y, int64_t number, int threads) {
    const int64_t width = layers[0].proj.outputs, inner = layers[0].down.inputs, size = width / heads;
    std::vector<float> qkv(number * 3 * width), attended(number * width), added(number * width);
    std::vector<float> gates(number * 2 * inner), fed(number * inner);
#pragma omp parallel num_threads(threads)
    {
        // Each thread keeps the residual stream for itself: that is less work than to wait for one that keeps it for all.
        std::vector<float> stream(x, x + number * width), normal(number * width);
        for (int64_t n = 0; n < count; n++) {
            const Layer& layer = layers[n];
            normalise(stream.data(), n ? added.data() : nullptr, layer.norm1, normal.data(), number, width, eps);
            linear(layer.qkv, normal.data(), qkv.data(), number);
#pragma omp for schedule(static)
            for (int64_t item = 0; item < number * heads; item++) {
                const int64_t h = item / number, r = item % number;
                const float* q = &qkv[r * 3 * width + h * size];
                float* out = &attended[r * width + h * size];
                if (cache == 0) attend<float>(q, heads, size, h, rows[r], n, turn, out);
                if (cache == 1) attend<uint16_t>(q, heads, size, h, rows[r], n, turn, out);
                if (cache == 2) attend<int8_t>(q, heads, size, h, rows[r], n, turn, out);
            }
            linear(layer.proj, attended.data(), added.data(), number);
            normalise(stream.data(), added.data(), layer.norm2, normal.data(), number, width, eps);
            linear(layer.gate_up, normal.data(), gates.data(), number);
#pragma omp for schedule(static)
            for (int64_t part = 0; part < number * PARTS; part++) {
                const int64_t r = part / PARTS, first = part % PARTS * inner / PARTS, end = (part % PARTS + 1) * inner / PARTS;
                const float *gate = &gates[r * 2 * inner], *up = gate + inner;
                for (int64_t i = first; i < end; i++) fed[r * inner + i] = gate[i] / (1 + exponential(-gate[i])) * up[i];
            }
            linear(layer.down, fed.data(), added.data(), number);
        }
        normalise(stream.data(), added.data(), norm, normal.data(), number, width, eps);
#pragma omp single
        memcpy(y, normal.data(), number * width * sizeof(float));
    }
}
}
