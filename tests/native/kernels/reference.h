// STC attention and networks of it in double precision, written with plain loops from their formulas. Shapes are
// those of stc_attention.h and stc_network.h.
#pragma once

#include <cstdint>
#include <vector>

#include "stc_attention.h"
#include "stc_network.h"

namespace refiner::test {

using Doubles = std::vector<double>;

void expected_attention(const StcShape& s, const Doubles& qkv, const Doubles& convolution, const Doubles& bias,
                        Doubles& out);

struct AttentionGradients {
    Doubles qkv, convolution, bias;
};

AttentionGradients expected_gradients(const StcShape& s, const Doubles& qkv, const Doubles& convolution,
                                      const Doubles& grad_out);

void expected_rows(const RowsShape& s, const Doubles& qkv, Doubles& out);
Doubles expected_rows_gradients(const RowsShape& s, const Doubles& qkv, const Doubles& grad_out);

struct ReferenceLayer {
    bool attention = false;
    Mix mix = Mix::kStc;
    int64_t hidden = 0;                                    // of an MLP
    std::vector<float> first, first_bias;                  // qkv [3 C, C], or up [hidden, C]
    std::vector<float> second, second_bias;                // proj [C, C], or down [C, hidden]; bias [steps, C]
    std::vector<float> convolution, mix_bias;              // STC attention
    std::vector<float> norm_scale, norm_shift, positions;  // of a norm behind an MLP; empty for none
};

struct ReferenceNetwork {
    int64_t features = 0, dim = 0, heads = 0, joints = 0, band = 0, steps = 1;
    bool gelu_after_embedding = false;
    float epsilon = 1e-5f, head_epsilon = 0.0f;
    std::vector<float> embedding, joint_embedding;  // [C, features], [steps, J, C]
    std::vector<float> head, head_bias;             // [3, C], [3] or empty
    std::vector<ReferenceLayer> layers;
};

// The output [B, T, J, 3] of one step for an input [B, T, J, features]. In bfloat16, the operands and the weights
// of the layers' products are rounded.
Doubles expected_output(const ReferenceNetwork& net, int64_t step, int64_t batch, int64_t frames,
                        const std::vector<float>& input, bool bfloat16 = false);

double expected_gelu(double x);
Doubles expected_norm(const Doubles& x, int64_t dim, double epsilon);

// The nearest number of bfloat16, ties to even, and the value of one.
uint16_t bfloat16_of(float value);
double bfloat16_value(uint16_t half);

}  // namespace refiner::test
