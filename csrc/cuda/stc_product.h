// Products of a tile of tokens with a packed weight matrix on tensor cores, with what follows fused into their
// end.
#pragma once

#include "stc_layout.h"

namespace refiner {

// What happens to the sums of a product, bias added: GELU into half precision in shared memory; added to float32
// in shared memory; or half precision in global memory.
enum class ProductEnd { kGelu, kAdd, kStore };

struct ProductTarget {
    const float* bias;  // [columns]; nullptr for none
    float* sums;        // kAdd
    uint16_t* halves;   // kGelu, kStore
    int64_t stride;     // numbers of a row of the target
    int rows;           // kStore: rows that exist
};

// GELU with erf by formula 7.1.26 of Abramowitz and Stegun, whose error is below 1.5e-7. NaN stays.
REFINER_DEVICE float device_gelu(float x) {
    const float z = x * 0.70710678118654752f;
    const float size = z < 0.0f ? -z : z;
    const float t = simt::fast_divide(1.0f, 1.0f + 0.3275911f * size);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float rest = p * t * simt::fast_exp2(-1.4426950408889634f * z * z);  // 1 - erf(size)
    return 0.5f * x * (z < 0.0f ? rest : 2.0f - rest);
}

REFINER_DEVICE uint32_t word_at(const uint16_t* halves) { return *reinterpret_cast<const uint32_t*>(halves); }

template <ProductEnd kEnd>
REFINER_DEVICE void finish_pair(const ProductTarget& target, int row, int column, float first, float second) {
    if (target.bias != nullptr) {
        first += simt::read_constant(target.bias + column);
        second += simt::read_constant(target.bias + column + 1);
    }
    const int64_t at = row * target.stride + column;
    if (kEnd == ProductEnd::kAdd) {
        target.sums[at] += first;
        target.sums[at + 1] += second;
        return;
    }
    if (kEnd == ProductEnd::kGelu) {
        first = device_gelu(first);
        second = device_gelu(second);
    }
    if (kEnd == ProductEnd::kGelu || row < target.rows) {
        *reinterpret_cast<uint32_t*>(target.halves + at) = simt::to_halves(first, second);
    }
}

// One warp: kM x 16 rows from `row` times kN pieces of 8 outputs. `weight` is the first piece of the first
// outputs, `across` the number of pieces of the same outputs, of which `pieces` are used.
template <int kM, int kN, ProductEnd kEnd>
REFINER_DEVICE void multiply_unit(const uint16_t* a, int stride, const Quad* weight, int across, int pieces,
                                  const ProductTarget& target, int row, int column) {
    const int lane = simt::thread() % 32, group = lane / 4, quarter = lane % 4;
    float sum[kM][kN][4];
    REFINER_UNROLL(kM)
    for (int m = 0; m < kM; ++m) {
        REFINER_UNROLL(kN)
        for (int n = 0; n < kN; ++n) {
            REFINER_UNROLL(4)
            for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.0f;
        }
    }
    const uint16_t* from = a + (row + group) * stride + 2 * quarter;
    simt::warp_barrier();  // its lanes take part in the products together
    constexpr int kAhead = kN >= 4 ? 2 : 4;
    REFINER_UNROLL(kAhead)
    for (int piece = 0; piece < pieces; ++piece) {
        Quad b[kN];
        REFINER_UNROLL(kN)
        for (int n = 0; n < kN; ++n) b[n] = simt::read_constant(weight + (n * across + piece) * 32 + lane);
        REFINER_UNROLL(2)
        for (int part = 0; part < 2; ++part) {
            REFINER_UNROLL(kM)
            for (int m = 0; m < kM; ++m) {
                const uint16_t* here = from + m * 16 * stride + piece * 32 + part * 16;
                const uint32_t left[4] = {word_at(here), word_at(here + 8 * stride), word_at(here + 8),
                                          word_at(here + 8 * stride + 8)};
                REFINER_UNROLL(kN)
                for (int n = 0; n < kN; ++n) {
                    simt::multiply_add(sum[m][n], left, b[n].word[2 * part], b[n].word[2 * part + 1]);
                }
            }
        }
    }
    REFINER_UNROLL(kM)
    for (int m = 0; m < kM; ++m) {
        REFINER_UNROLL(kN)
        for (int n = 0; n < kN; ++n) {
            const int at = row + 16 * m + group, to = column + 8 * n + 2 * quarter;
            finish_pair<kEnd>(target, at, to, sum[m][n][0], sum[m][n][1]);
            finish_pair<kEnd>(target, at + 8, to, sum[m][n][2], sum[m][n][3]);
        }
    }
}

// The part of a weight matrix that a product uses: outputs from `first`, inputs from `input`.
struct ProductPart {
    int first;
    int outputs;
    int input;
    int inputs;
};

template <int kRows, int kM, int kN, ProductEnd kEnd>
REFINER_DEVICE void multiply_units(const uint16_t* a, int stride, const HalfLinear& linear,
                                   const ProductPart& part, const ProductTarget& target) {
    constexpr int kTall = kRows / (16 * kM);
    const int across = linear.inputs / 32, wide = part.outputs / (8 * kN);
    for (int unit = simt::thread() / 32; unit < kTall * wide; unit += simt::threads() / 32) {
        const int row = unit % kTall * 16 * kM, column = unit / kTall * 8 * kN;
        const Quad* weight = linear.weight + (int64_t{(part.first + column) / 8} * across + part.input / 32) * 32;
        multiply_unit<kM, kN, kEnd>(a, stride, weight, across, part.inputs / 32, target, row, column);
    }
}

// All warps of a block: a [kRows, inputs] times a part of the weights. Units are as large as leave none of the
// warps without one.
template <int kRows, ProductEnd kEnd>
REFINER_DEVICE void multiply_tile(const uint16_t* a, int stride, const HalfLinear& linear, const ProductPart& part,
                                  const ProductTarget& target) {
    constexpr int kM = kRows >= 32 ? 2 : 1;
    constexpr int kTall = kRows / (16 * kM);
    const int warps = simt::threads() / 32;
    if (kM == 2 && kTall * part.outputs / 32 >= warps) {
        multiply_units<kRows, kM, kM == 2 ? 4 : 2, kEnd>(a, stride, linear, part, target);
    } else if (kTall * part.outputs / 16 >= warps) {
        multiply_units<kRows, kM, 2, kEnd>(a, stride, linear, part, target);
    } else {
        multiply_units<kRows, kM, 1, kEnd>(a, stride, linear, part, target);
    }
}

}  // namespace refiner
