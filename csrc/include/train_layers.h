// The layers of a network of STC blocks with their gradients, for training on the CPU: a linear layer and an MLP,
// each with the layer norm before it and the residual around it.
//
// Every array is contiguous float32, weights are [outputs, inputs] as in PyTorch. Inputs, outputs and the hidden
// layer are multiples of 16.
#pragma once

#include <cstdint>

#include "isa.h"

namespace refiner {

// out = norm(x) weight^T + bias + residual. Without gain and shift there is no norm.
struct LinearShape {
    int64_t rows;
    int64_t inputs;
    int64_t outputs;
    float epsilon;
    int threads;  // 0: the default of parallel_for
};

struct LinearInput {
    const float* x;         // [rows, inputs]
    const float* gain;      // [inputs] or nullptr
    const float* shift;     // [inputs] or nullptr
    const float* weight;    // [outputs, inputs]
    const float* bias;      // [outputs] or nullptr
    const float* residual;  // [rows, outputs] or nullptr
};

// The gradient of the residual is grad_out itself. gain, shift and bias may be nullptr.
struct LinearGradient {
    float* x;
    float* gain;
    float* shift;
    float* weight;
    float* bias;
};

// out = x + second gelu(first norm(x)).
struct MlpShape {
    int64_t rows;
    int64_t dim;
    int64_t hidden;
    float epsilon;
    int threads;
};

struct MlpInput {
    const float* x;       // [rows, dim]
    const float* gain;    // [dim]
    const float* shift;   // [dim]
    const float* first;   // [hidden, dim]
    const float* second;  // [dim, hidden]
};

struct MlpGradient {
    float* x;
    float* gain;
    float* shift;
    float* first;
    float* second;
};

struct TrainLayers {
    void (*linear_forward)(const LinearShape&, const LinearInput&, float* out);
    void (*linear_backward)(const LinearShape&, const LinearInput&, const float* grad_out, const LinearGradient&);
    // `kept` is nullptr where no backward pass follows.
    void (*mlp_forward)(const MlpShape&, const MlpInput&, float* kept, float* out);
    void (*mlp_backward)(const MlpShape&, const MlpInput&, const float* kept, const float* grad_out,
                         const MlpGradient&);
};

REFINER_DECLARE_VARIANTS(TrainLayers, train_layers)

// The rows that go through a layer together, and the columns that the arrays of such rows are filled up to.
constexpr int64_t kTrainRows = 144;
constexpr int64_t kTrainColumns = 64;

// The number of floats that the forward pass of an MLP keeps for the backward pass: the hidden layer before the
// GELU, in a layout of its own.
constexpr int64_t mlp_kept(int64_t rows, int64_t hidden) {
    return (rows + kTrainRows - 1) / kTrainRows * kTrainRows * ((hidden + kTrainColumns - 1) / kTrainColumns) *
           kTrainColumns;
}

}  // namespace refiner
