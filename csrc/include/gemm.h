// The products of a network: rows of activations times a packed weight matrix, with what follows the product fused
// into its end. Included by files that are compiled once for every instruction set; everything is in their
// namespace.
#pragma once

#include <cstdint>
#include <cstring>

#include "stc_network.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// One register of floats, and the tile of a product: kRows x (kVectors registers) sums stay in registers.
#if defined(__AVX512F__)
constexpr int kLane = 16, kVectors = 4, kRows = 6;
#elif defined(__AVX2__)
constexpr int kLane = 8, kVectors = 2, kRows = 6;
#elif defined(__aarch64__)
constexpr int kLane = 4, kVectors = 4, kRows = 6;
#else
constexpr int kLane = 4, kVectors = 2, kRows = 4;
#endif
constexpr int64_t kPanel = int64_t{kLane} * kVectors;

typedef float Lane __attribute__((vector_size(kLane * sizeof(float))));

inline Lane load(const float* source) {
    Lane lane;
    std::memcpy(&lane, source, sizeof(lane));
    return lane;
}
inline void store(float* target, Lane lane) { std::memcpy(target, &lane, sizeof(lane)); }
// Subtracts zero, which changes no number and costs no instruction; adding zero costs one, because it makes +0 of -0.
inline Lane splat(float value) { return value - Lane{}; }

// GELU, x / 2 (1 + erf(x / sqrt 2)). erf is a rational approximation of our own (least largest error on
// [-3.95, 3.95], below 2e-8 in exact arithmetic, below 4e-7 in float32); beyond, erf is taken at the end of the
// interval. NaN stays.
inline Lane gelu(Lane x) {
    Lane z = x * 0.70710678118654752f;
    const Lane limit = splat(3.95f);
    z = z > limit ? limit : z;
    z = z < -limit ? -limit : z;
    const Lane u = z * z;
    Lane p = splat(2.01174041e-6f);
    p = p * u + 2.87601188e-4f;
    p = p * u + 3.91733671e-3f;
    p = p * u + 5.32071172e-2f;
    p = p * u + 1.9403611e-1f;
    p = p * u + 1.12837901f;
    Lane q = splat(3.7839719e-5f);
    q = q * u + 1.19820573e-3f;
    q = q * u + 1.52707391e-2f;
    q = q * u + 1.15590928e-1f;
    q = q * u + 5.05291513e-1f;
    q = q * u + 1.0f;
    return x * (0.5f + 0.5f * (z * p / q));
}

enum class End { kStore, kGelu, kAdd };

// Sums of kRows or fewer rows times one panel of V registers.
template <int R, int V = kVectors>
inline void multiply_tile(const float* a, int64_t stride, int64_t inputs, const float* panel, Lane (&sum)[R][V]) {
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) sum[r][v] = Lane{};
    }
    for (int64_t k = 0; k < inputs; ++k) {
        Lane b[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) b[v] = load(panel + (k * V + v) * kLane);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const Lane factor = splat(a[r * stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[r][v] += factor * b[v];
        }
    }
}

template <int R, End end>
inline void tile(const float* a, int64_t stride, int64_t inputs, const float* panel, const float* bias, float* out,
                 int64_t out_stride, int64_t columns) {
    Lane sum[R][kVectors];
    multiply_tile<R>(a, stride, inputs, panel, sum);
    float padded[kPanel] = {};  // the bias of the panel, and a row of a panel that is not full
    if (bias != nullptr) std::memcpy(padded, bias, static_cast<size_t>(columns) * sizeof(float));
    Lane shift[kVectors];
    for (int v = 0; v < kVectors; ++v) shift[v] = load(padded + v * kLane);
    for (int r = 0; r < R; ++r) {
        float* row = out + r * out_stride;
        const bool whole = columns == kPanel;
        if (!whole) std::memcpy(padded, row, static_cast<size_t>(columns) * sizeof(float));
        float* target = whole ? row : padded;
        for (int v = 0; v < kVectors; ++v) {
            Lane value = sum[r][v] + shift[v];
            if (end == End::kGelu) value = gelu(value);
            if (end == End::kAdd) value += load(target + v * kLane);
            store(target + v * kLane, value);
        }
        if (!whole) std::memcpy(row, padded, static_cast<size_t>(columns) * sizeof(float));
    }
}

// out [rows, columns] = end(a [rows, inputs] times the panels + bias). `weight` points at the first panel; a row
// of it has `panel_inputs` inputs, of which `inputs` from its beginning are used.
template <End end>
void multiply(const float* a, int64_t rows, int64_t stride, int64_t inputs, const float* weight,
              int64_t panel_inputs, const float* bias, float* out, int64_t out_stride, int64_t columns) {
    for (int64_t first = 0; first < columns; first += kPanel) {
        const float* panel = weight + first * panel_inputs;
        const int64_t count = columns - first < kPanel ? columns - first : kPanel;
        const float* shift = bias == nullptr ? nullptr : bias + first;
        int64_t r = 0;
        for (; r + kRows <= rows; r += kRows) {
            tile<kRows, end>(a + r * stride, stride, inputs, panel, shift, out + r * out_stride + first,
                             out_stride, count);
        }
        const float* rest = a + r * stride;
        float* target = out + r * out_stride + first;
        switch (rows - r) {
            case 5:
                tile<5, end>(rest, stride, inputs, panel, shift, target, out_stride, count);
                break;
            case 4:
                tile<4, end>(rest, stride, inputs, panel, shift, target, out_stride, count);
                break;
            case 3:
                tile<3, end>(rest, stride, inputs, panel, shift, target, out_stride, count);
                break;
            case 2:
                tile<2, end>(rest, stride, inputs, panel, shift, target, out_stride, count);
                break;
            case 1:
                tile<1, end>(rest, stride, inputs, panel, shift, target, out_stride, count);
                break;
            default:
                break;
        }
    }
}

// Layer norm without scale and shift, which are folded into the next product: rows [rows, dim] to `out`.
inline void normalise(const float* x, int64_t rows, int64_t dim, float epsilon, float* out) {
    const int64_t whole = dim / kLane * kLane;
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * dim;
        float* target = out + r * dim;
        Lane sums{};
        for (int64_t c = 0; c < whole; c += kLane) sums += load(row + c);
        float sum = 0.0f;
        for (int i = 0; i < kLane; ++i) sum += sums[i];
        for (int64_t c = whole; c < dim; ++c) sum += row[c];
        const float mean = sum / static_cast<float>(dim);
        Lane squares{};
        for (int64_t c = 0; c < whole; c += kLane) {
            const Lane distance = load(row + c) - mean;
            squares += distance * distance;
        }
        float square = 0.0f;
        for (int i = 0; i < kLane; ++i) square += squares[i];
        for (int64_t c = whole; c < dim; ++c) square += (row[c] - mean) * (row[c] - mean);
        const float scale = 1.0f / __builtin_sqrtf(square / static_cast<float>(dim) + epsilon);
        for (int64_t c = 0; c < whole; c += kLane) store(target + c, (load(row + c) - mean) * scale);
        for (int64_t c = whole; c < dim; ++c) target[c] = (row[c] - mean) * scale;
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
