// One decoding step on a CPU, at the speed of memory: every weight and every cached key and value is read once, in order.
//
// songkit.kernels.native compiles this file at first use; what it computes is written in torch as well, in
// songkit.kernels.linear and songkit.components.transformer.
#include "attention.h"
#include "linear.h"

namespace {

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

// Whether the functions below use the threads that they are given.
int songkit_parallel() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

void songkit_linear(const Linear* l, const float* x, float* y, int64_t rows, float guidance, int threads) {
#pragma omp parallel num_threads(threads)
    linear(*l, x, y, rows, guidance);
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
