// The products of a network in registers: rows of operands times a packed weight matrix, with what follows the
// product fused into its end. Included by files that are compiled once for every instruction set; everything is in
// their namespace.
//
// An operand is a row of units. A unit is a float, or a pair (on ARM four) of neighbouring inputs in bfloat16; the
// code of both is the same but for multiply_tile, which is all that another instruction set has to write.
#pragma once

#include <cstdint>
#include <cstring>

#include "products.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#include "tile_neon.h"
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "tile_bfmmla.h"
#endif

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// One register of floats, and the tile of a product: kRows x (kVectors registers) sums stay in registers.
#if defined(__AVX512F__) || defined(REFINER_AMX_EMULATED)
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
typedef uint32_t Bits __attribute__((vector_size(kLane * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLane * sizeof(uint16_t))));

// Two neighbouring inputs in bfloat16, the first in the low half.
struct Pair {
    uint32_t bits;
};
template <typename Unit>
constexpr int64_t kInputs = 1;
template <>
constexpr int64_t kInputs<Pair> = 2;

// The unit of products in bfloat16: as many inputs as an instruction adds up.
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct Quad {
    uint16_t numbers[4];
};
template <>
constexpr int64_t kInputs<Quad> = 4;
using Narrow = Quad;
#else
using Narrow = Pair;
#endif

inline Lane load(const float* source) {
    Lane lane;
    std::memcpy(&lane, source, sizeof(lane));
    return lane;
}
inline void store(float* target, Lane lane) { std::memcpy(target, &lane, sizeof(lane)); }
// Subtracts zero, which changes no number and costs no instruction; adding zero costs one, because it makes +0 of
// -0.
inline Lane splat(float value) { return value - Lane{}; }

inline Bits bits_of(Lane lane) {
    Bits bits;
    std::memcpy(&bits, &lane, sizeof(bits));
    return bits;
}
inline Lane lane_of(Bits bits) {
    Lane lane;
    std::memcpy(&lane, &bits, sizeof(lane));
    return lane;
}

// The sum of the numbers of a register: halves are added until one number is left.
template <int N>
inline float total(const float* numbers) {
    if constexpr (N == 1) {
        return numbers[0];
    } else {
        typedef float Half __attribute__((vector_size(N / 2 * sizeof(float))));
        Half low, high;
        std::memcpy(&low, numbers, sizeof(low));
        std::memcpy(&high, numbers + N / 2, sizeof(high));
        low += high;
        float sums[N / 2];
        std::memcpy(sums, &low, sizeof(low));
        return total<N / 2>(sums);
    }
}
inline float total(Lane lane) {
    float numbers[kLane];
    store(numbers, lane);
    return total<kLane>(numbers);
}

// The numbers of a register in bfloat16, rounded to the nearest, ties to even. NaN stays NaN.
inline Halves rounded(Lane lane) {
#if defined(__AVX512BF16__)
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)lane);
    Halves halves;
    std::memcpy(&halves, &narrow, sizeof(halves));
    return halves;
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    const bfloat16x4_t narrow = vcvt_bf16_f32((float32x4_t)lane);
    Halves halves;
    std::memcpy(&halves, &narrow, sizeof(halves));
    return halves;
#else
    const Bits bits = bits_of(lane);
    const Bits nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits chosen = lane == lane ? nearest : Bits{} + 0x7fc0u;
    return __builtin_convertvector(chosen, Halves);
#endif
}
inline uint16_t rounded(float value) { return rounded(splat(value))[0]; }

// Writes the numbers of a register as a part of an operand.
inline void store_operand(float* target, Lane lane) { store(target, lane); }
inline void store_operand(Narrow* target, Lane lane) {
    const Halves halves = rounded(lane);
    std::memcpy(target, &halves, sizeof(halves));
}

// The share of the normal distribution beyond a distance of at least 0: p ** -16 of a polynomial p of our own. Far
// out p ** 16 is infinite and the share is 0. NaN stays.
inline Lane upper_tail(Lane distance) {
    Lane p = splat(6.98803597e-6f);
    p = p * distance + 3.96490532e-5f;
    p = p * distance + 7.53226284e-5f;
    p = p * distance + 3.3705103e-3f;
    p = p * distance + 2.21137168e-2f;
    p = p * distance + 5.2063978e-2f;
    p = p * distance + 1.04427484f;
    p *= p;
    p *= p;
    p *= p;
    p *= p;
    return 1.0f / p;
}

inline Lane size_of(Lane x) { return lane_of(bits_of(x) & 0x7fffffffu); }

// GELU, x / 2 (1 + erf(x / sqrt 2)) = max(x, 0) - |x| upper_tail(|x|): the error is below 3e-7 in exact arithmetic
// and below 6e-7 in float32. NaN stays.
inline Lane gelu(Lane x) {
    const Lane distance = size_of(x);
    const Lane zero{};
    return (x < zero ? zero : x) - distance * upper_tail(distance);
}

// All loops over a tile are unrolled, so that its sums are indexed by constants alone: only then does GCC keep
// them in registers.
template <int R, int V>
inline void zero(Lane (&sum)[R][V]) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = Lane{};
    }
}

// Sums of R rows times one panel of V registers. `count` and the strides are in units.
template <int R, int V = kVectors>
inline void multiply_tile(const float* a, int64_t stride, int64_t count, const float* panel, Lane (&sum)[R][V]) {
#if defined(__aarch64__)
    multiply_tile_neon(a, stride, count, panel, sum);
#else
    zero(sum);
    for (int64_t k = 0; k < count; ++k) {
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
#endif
}

// Adds the products of a pair of inputs, which is the same in all lanes, and of pairs of weights.
inline void add_pairs(Lane& sum, Pair a, Bits b) {
#if defined(__AVX512BF16__)
    const Bits factor = Bits{} + a.bits;
    sum = (Lane)_mm512_dpbf16_ps((__m512)sum, (__m512bh)factor, (__m512bh)b);
#else
    const Bits first = Bits{} + (a.bits << 16);
    const Bits second = Bits{} + (a.bits & 0xffff0000u);
    sum += lane_of(first) * lane_of(b << 16);
    sum += lane_of(second) * lane_of(b & 0xffff0000u);
#endif
}

template <int R>
inline void multiply_tile(const Pair* a, int64_t stride, int64_t count, const Pair* panel,
                          Lane (&sum)[R][kVectors]) {
    zero(sum);
    for (int64_t k = 0; k < count; ++k) {
        Bits b[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) std::memcpy(&b[v], panel + k * kPanel + v * kLane, sizeof(b[v]));
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const Pair factor = a[r * stride + k];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) add_pairs(sum[r][v], factor, b[v]);
        }
    }
}

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
template <int R>
inline void multiply_tile(const Quad* a, int64_t stride, int64_t count, const Quad* panel,
                          Lane (&sum)[R][kVectors]) {
    multiply_tile_bfmmla(a->numbers, 4 * stride, count, panel->numbers, sum);
}
#endif

// The end of some sums: bias, GELU or the residual, and the numbers to their place.
template <End end>
inline void finish(Lane sum, Lane shift, float* target) {
    Lane value = sum + shift;
    if (end == End::kGelu) value = gelu(value);
    if (end == End::kAdd) value += load(target);
    store(target, value);
}
template <End end>
inline void finish(Lane sum, Lane shift, Narrow* target) {
    static_assert(end == End::kGelu, "only the operand of the next product is rounded");
    store_operand(target, gelu(sum + shift));
}

// What the end of a product writes.
template <End end, typename Unit>
struct Written {
    typedef float Type;
};
template <typename Unit>
struct Written<End::kGelu, Unit> {
    typedef Unit Type;
};

// The end of a row of a panel that is not full. `fill` columns are written, of which those from `columns` on are
// zeros.
template <End end, typename Unit>
inline void finish_some(const Lane* sum, const Lane* shift, char* out, int64_t columns, int64_t fill) {
    using Type = typename Written<end, Unit>::Type;
    Type padded[kPanel / kInputs<Type>];
    if (end == End::kAdd) std::memcpy(padded, out, static_cast<size_t>(columns) * sizeof(float));
    for (int v = 0; v < kVectors; ++v) finish<end>(sum[v], shift[v], padded + v * kLane / kInputs<Type>);
    const int64_t written = end == End::kGelu ? fill : columns;
    std::memcpy(out, padded, static_cast<size_t>(written / kInputs<Type>) * sizeof(Type));
}

// The bias of a panel in registers.
inline void load_bias(const float* bias, int64_t columns, Lane (&shift)[kVectors]) {
    float padded[kPanel] = {};
    if (bias != nullptr && columns != kPanel) {
        std::memcpy(padded, bias, static_cast<size_t>(columns) * sizeof(float));
        bias = padded;
    }
    if (bias == nullptr) bias = padded;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) shift[v] = load(bias + v * kLane);
}

// The bytes of a number of the result.
template <End end, typename Unit>
constexpr int64_t kResult =
    static_cast<int64_t>(sizeof(typename Written<end, Unit>::Type)) / kInputs<typename Written<end, Unit>::Type>;

template <int R, End end, typename Unit>
inline void tile(const Unit* a, int64_t stride, int64_t count, const Unit* panel, const float* bias, char* out,
                 int64_t out_stride, int64_t columns, int64_t fill) {
    using Type = typename Written<end, Unit>::Type;
    Lane sum[R][kVectors];
    multiply_tile<R>(a, stride, count, panel, sum);
    Lane shift[kVectors];
    load_bias(bias, columns, shift);
    if (columns == kPanel) {
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            auto* row = reinterpret_cast<Type*>(out + r * out_stride * kResult<end, Unit>);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) finish<end>(sum[r][v], shift[v], row + v * kLane / kInputs<Type>);
        }
        return;
    }
    Lane copy[R][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) copy[r][v] = sum[r][v];
    }
    for (int r = 0; r < R; ++r) {
        finish_some<end, Unit>(copy[r], shift, out + r * out_stride * kResult<end, Unit>, columns, fill);
    }
}

// All rows times the panels of a product.
template <End end, typename Unit>
void multiply(const Product& p) {
    const int64_t stride = p.stride / kInputs<Unit>;
    const int64_t all = (p.linear.inputs + kInputs<Unit> - 1) / kInputs<Unit>;
    const int64_t count = (p.inputs + kInputs<Unit> - 1) / kInputs<Unit>;
    const auto* weight = static_cast<const Unit*>(p.linear.weight) + p.first_input / kInputs<Unit> * kPanel;
    const auto* operand = static_cast<const Unit*>(p.operand);
    for (int64_t first = 0; first < p.outputs; first += kPanel) {
        const Unit* panel = weight + (p.first_output + first) * all;
        const int64_t columns = p.outputs - first < kPanel ? p.outputs - first : kPanel;
        const int64_t fill = (columns + kInputs<Unit> - 1) / kInputs<Unit> * kInputs<Unit>;
        const float* bias = p.bias == nullptr ? nullptr : p.bias + first;
        char* out = static_cast<char*>(p.out) + first * kResult<end, Unit>;
        int64_t r = 0;
        for (; r + kRows <= p.rows; r += kRows) {
            tile<kRows, end>(operand + r * stride, stride, count, panel, bias,
                             out + r * p.out_stride * kResult<end, Unit>, p.out_stride, columns, fill);
        }
        const Unit* rest = operand + r * stride;
        char* target = out + r * p.out_stride * kResult<end, Unit>;
        switch (p.rows - r) {
            case 5:
                tile<5, end>(rest, stride, count, panel, bias, target, p.out_stride, columns, fill);
                break;
            case 4:
                tile<4, end>(rest, stride, count, panel, bias, target, p.out_stride, columns, fill);
                break;
            case 3:
                tile<3, end>(rest, stride, count, panel, bias, target, p.out_stride, columns, fill);
                break;
            case 2:
                tile<2, end>(rest, stride, count, panel, bias, target, p.out_stride, columns, fill);
                break;
            case 1:
                tile<1, end>(rest, stride, count, panel, bias, target, p.out_stride, columns, fill);
                break;
            default:
                break;
        }
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
