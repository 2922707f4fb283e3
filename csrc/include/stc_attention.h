// Fused STC attention: both criss-cross halves and their depthwise convolutions in one pass.
//
// Every array is contiguous float32. D is the width of a head, and H the number of heads. H is the innermost axis,
// so that one vector register holds one channel of all heads.
//   qkv          [B, T, J, 2 halves, 3 (q, k, v), D, H]
//   convolution  [2, 9, D, H]     taps row by row over (frames, joints)
//   bias         [2, J, D, H]
//   out          [B, T, J, 2, D, H]
// With a band N > 0 the attention over time is causal: frame t attends to the frames t - N + 1 to t, and the three
// rows of taps are at t - 2, t - 1 and t instead of t - 1, t and t + 1.
//
// This file also has plain self-attention of N rows of L tokens, for the blocks of MixSTE:
//   qkv          [N, L, 3 (q, k, v), D, H]
//   out          [N, L, D, H]
#pragma once

#include <cstdint>

#include "isa.h"

namespace refiner {

struct StcShape {
    int64_t batch;
    int64_t frames;
    int64_t joints;
    int64_t width;  // D
    int64_t heads;  // H: 2, 4, 8 or 16
    int64_t band;   // N; 0 if all frames of a window attend to each other
    float scale;    // the factor of the scores
    int threads;    // 0: the default of parallel_for
};

struct RowsShape {
    int64_t rows;
    int64_t length;
    int64_t width;  // D
    int64_t heads;  // H
    float scale;
    int threads;
};

using StcForward = void (*)(const StcShape&, const float* qkv, const float* convolution, const float* bias,
                            float* out);
using StcBackward = void (*)(const StcShape&, const float* qkv, const float* convolution, const float* grad_out,
                             float* grad_qkv, float* grad_convolution, float* grad_bias);

using RowsForward = void (*)(const RowsShape&, const float* qkv, float* out);
using RowsBackward = void (*)(const RowsShape&, const float* qkv, const float* grad_out, float* grad_qkv);

struct StcKernels {
    StcForward forward;
    StcBackward backward;
    RowsForward rows_forward;
    RowsBackward rows_backward;
};

REFINER_DECLARE_VARIANTS(StcKernels, stc_kernels)

}  // namespace refiner
