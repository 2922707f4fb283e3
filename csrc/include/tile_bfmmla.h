// The inner loop of the products in bfloat16 for ARM processors with BFMMLA (ARMv8.6). Included by files that are
// compiled for them.
//
// The instruction multiplies 2 rows x 4 inputs with 4 inputs x 2 outputs. A row is read in quads of neighbouring
// inputs; the weights lie in panels [inputs / 4, outputs, 4], so that a register holds a quad for each of two
// outputs. 6 rows and 16 outputs have 24 registers of sums, each 2 x 2.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "isa.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Adds one quad of R rows, two rows in a register, times one row of a panel of 4 V outputs.
template <int kPairs, int kColumns>
REFINER_ALWAYS_INLINE void add_quad(const bfloat16x8_t (&rows)[kPairs], const bfloat16_t* panel,
                                    float32x4_t (&sum)[kPairs][kColumns]) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
        const bfloat16x8_t weight = vld1q_bf16(panel + c * 8);
#pragma GCC unroll 4
        for (int p = 0; p < kPairs; ++p) sum[p][c] = vbfmmlaq_f32(sum[p][c], rows[p], weight);
    }
}

REFINER_ALWAYS_INLINE bfloat16x8_t low_quads(bfloat16x8_t a, bfloat16x8_t b) {
    return vreinterpretq_bf16_u64(vzip1q_u64(vreinterpretq_u64_bf16(a), vreinterpretq_u64_bf16(b)));
}
REFINER_ALWAYS_INLINE bfloat16x8_t high_quads(bfloat16x8_t a, bfloat16x8_t b) {
    return vreinterpretq_bf16_u64(vzip2q_u64(vreinterpretq_u64_bf16(a), vreinterpretq_u64_bf16(b)));
}

// Sums of R rows of `quads` quads times one panel of V registers of outputs. `stride` counts numbers.
template <typename Lane, int R, int V>
REFINER_ALWAYS_INLINE void multiply_tile_bfmmla(const uint16_t* a, int64_t stride, int64_t quads,
                                                const uint16_t* weights, Lane (&out)[R][V]) {
    constexpr int kPairs = (R + 1) / 2, kColumns = 2 * V;
    const auto* panel = reinterpret_cast<const bfloat16_t*>(weights);
    const auto* row = reinterpret_cast<const bfloat16_t*>(a);
    float32x4_t sum[kPairs][kColumns];
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) sum[p][c] = vdupq_n_f32(0.0f);
    }
    // The second row of the last pair does not exist if R is odd. The first takes its place, and its sums are not
    // used.
    const bfloat16_t* const twos = row + (quads & ~int64_t{1}) * 4;
    for (; row < twos; row += 8, panel += 2 * V * 16) {
        bfloat16x8_t first[kPairs], second[kPairs];
#pragma GCC unroll 4
        for (int p = 0; p < kPairs; ++p) {
            const bfloat16x8_t even = vld1q_bf16(row + 2 * p * stride);
            const bfloat16x8_t odd = 2 * p + 1 < R ? vld1q_bf16(row + (2 * p + 1) * stride) : even;
            first[p] = low_quads(even, odd);
            second[p] = high_quads(even, odd);
        }
        add_quad(first, panel, sum);
        add_quad(second, panel + V * 16, sum);
    }
    if ((quads & 1) != 0) {
        bfloat16x8_t last[kPairs];
#pragma GCC unroll 4
        for (int p = 0; p < kPairs; ++p) {
            const bfloat16x4_t even = vld1_bf16(row + 2 * p * stride);
            last[p] = vcombine_bf16(even, 2 * p + 1 < R ? vld1_bf16(row + (2 * p + 1) * stride) : even);
        }
        add_quad(last, panel, sum);
    }
    // A register of sums has two outputs of the even row, then the same of the odd row.
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            const float64x2_t left = vreinterpretq_f64_f32(sum[p][2 * v]);
            const float64x2_t right = vreinterpretq_f64_f32(sum[p][2 * v + 1]);
            out[2 * p][v] = (Lane)vzip1q_f64(left, right);
            if (2 * p + 1 < R) out[2 * p + 1][v] = (Lane)vzip2q_f64(left, right);
        }
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
