// A network of STC modules as the CUDA kernel sees it, and the packing of its weights on the host.
#pragma once

#include <cstdint>

#include "simt.h"

namespace refiner {

// A weight matrix [outputs, inputs] in half precision, in pieces of 8 outputs and 32 inputs. A piece holds 16
// bytes for each lane of a warp: what the lane gives to two products of 16 inputs (see simt.h). The pieces of the
// same outputs follow each other.
struct HalfLinear {
    int inputs = 0;  // multiples of 32
    int outputs = 0;
    const Quad* weight = nullptr;
};

// Channels of queries, keys, values and of the mixed halves are ordered (half, q|k|v, head, channel of the head).
// The CPU kernels have the heads innermost instead.
struct DeviceLayer {
    bool attention = false;
    HalfLinear first;                    // qkv, or up
    HalfLinear second;                   // proj, or down
    const float* first_bias = nullptr;   // [outputs of first]
    const float* second_bias = nullptr;  // [steps, C]
    const float* convolution = nullptr;  // attention: [2, 9, C / 2]
    const float* mix_bias = nullptr;     // attention: [2, J, C / 2]
};

struct DeviceNetwork {
    int features = 0;
    int dim = 0;
    int heads = 0;
    int joints = 0;
    int band = 0;                            // see stc_attention.h
    int hidden = 0;                          // columns of a hidden layer that exist at a time, a multiple of 32
    bool gelu = false;                       // after the embedding
    const float* embedding = nullptr;        // [features, C]
    const float* joint_embedding = nullptr;  // [steps, J, C]
    const float* head = nullptr;             // [3, C]
    const DeviceLayer* layers = nullptr;
    int layer_count = 0;
};

// One step over windows. `x`, `qkv` and `mixed` are memory between the phases: float32 [N, C], half [N, 3 C] and
// half [N, C].
struct DeviceCall {
    int64_t batch;
    int frames;
    int step;
    const float* input;  // [N, features]
    float* x;
    uint16_t* qkv;
    uint16_t* mixed;
    float* output;  // [N, 3]
};

// The shared memory of a block that works on tiles of `rows` tokens. Rows are a little longer than their numbers,
// so that the lanes of a warp read different banks.
struct TileLayout {
    int x_stride;       // floats
    int normal_stride;  // halves
    int hidden_stride;  // halves
    int64_t normal;     // bytes from the beginning
    int64_t hidden;
    int64_t bytes;
};

constexpr int kMostHidden = 256;

#if defined(__CUDACC__)
__host__ __device__
#endif
    inline TileLayout tile_layout(int rows, int dim, int hidden) {
    TileLayout layout{dim + 4, dim + 8, hidden + 8, 0, 0, 0};
    layout.normal = int64_t{rows} * layout.x_stride * 4;
    layout.hidden = layout.normal + int64_t{rows} * layout.normal_stride * 2;
    layout.bytes = layout.hidden + int64_t{rows} * layout.hidden_stride * 2;
    return layout;
}

}  // namespace refiner
