// Attention of one new position over the keys and values of its song.
#pragma once
#include <vector>

#include "vectors.h"

namespace {

// Where a row of a step stands in its song's cache, which has keys and values [2, G, H, room, size] for each layer, by their
// addresses. Those of 8 bits have scales float32 [2, G, H, room] beside them; `scales` of others is null.
struct Row {
    const int64_t *cache, *scales;
    int64_t row, group, room, first, used, position;
};

// Writes a key or value into the cache; returns its scale.
template <class T>
float keep(T* to, const float* x, int64_t size) {
    for (int64_t i = 0; i < size; i++) narrow(to[i], x[i]);
    return 1;
}
float keep(int8_t* to, const float* x, int64_t size) {
    const float most = largest(x, size);
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
    const int64_t half = size / 2, plane = row.group * heads * row.room, first = (row.row * heads + head) * row.room;
    const float *k = q + heads * size, *v = k + heads * size, *cosines = turn + row.position * size, *sines = cosines + half;
    T *keys = (T*)row.cache[layer] + first * size, *values = keys + plane * size;
    std::vector<Floats> query(size / 16), turned(size / 16), sum(size / 16);
    float *own = (float*)query.data(), *key = (float*)turned.data(), scale = 1 / std::sqrt(float(size));
    for (int64_t i = 0; i < half; i++) {
        own[i] = (q[i] * cosines[i] - q[i + half] * sines[i]) * scale;
        own[i + half] = (q[i + half] * cosines[i] + q[i] * sines[i]) * scale;
        key[i] = k[i] * cosines[i] - k[i + half] * sines[i];
        key[i + half] = k[i + half] * cosines[i] + k[i] * sines[i];
    }
    const float key_scale = keep(keys + row.used * size, key, size), value_scale = keep(values + row.used * size, v, size);
    float *key_scales = row.scales ? (float*)row.scales[layer] + first : nullptr, *value_scales = key_scales + plane;
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

}  // namespace
