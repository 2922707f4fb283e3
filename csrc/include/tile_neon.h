// The inner loop of the products for 64-bit ARM (see gemm.h, which includes this file into its namespace).
//
// It takes four inputs at a time: one register per row holds four of its numbers, and each `fmla` multiplies by
// one of them, so that no number is copied into all lanes. 24 sums, 6 rows' factors and a register of weights fit
// into the 32 registers. For 96 products of registers the loop has about 25 other instructions, 6 of which load
// rows.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "isa.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Adds input `i` of the four in `factors` times its row of the panel.
template <int i, int R, int kVectors>
REFINER_ALWAYS_INLINE void add_input(const float32x4_t (&factors)[R], const float* panel,
                                     float32x4_t (&sum)[R][kVectors]) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
        const float32x4_t weight = vld1q_f32(panel + (i * kVectors + v) * 4);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][v] = vfmaq_laneq_f32(sum[r][v], weight, factors[r], i);
    }
}

template <typename Lane, int R, int kVectors>
REFINER_ALWAYS_INLINE void multiply_tile_neon(const float* a, int64_t stride, int64_t inputs, const float* panel,
                                              Lane (&out)[R][kVectors]) {
    // The caller's array is in memory. This one is only indexed by constants, and so it stays in registers.
    float32x4_t sum[R][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[r][v] = vdupq_n_f32(0.0f);
    }
    const float* const fours = a + (inputs & ~int64_t{3});
    const float* const end = a + inputs;
    for (; a < fours; a += 4, panel += 4 * kVectors * 4) {
        float32x4_t factors[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) factors[r] = vld1q_f32(a + r * stride);
        add_input<0>(factors, panel, sum);
        add_input<1>(factors, panel, sum);
        add_input<2>(factors, panel, sum);
        add_input<3>(factors, panel, sum);
    }
#pragma GCC unroll 1
    for (; a < end; ++a, panel += kVectors * 4) {
        float32x4_t factors[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) factors[r] = vld1q_dup_f32(a + r * stride);
        add_input<0>(factors, panel, sum);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) out[r][v] = (Lane)sum[r][v];
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
