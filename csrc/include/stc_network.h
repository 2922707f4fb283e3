// A network of attention and MLPs on the CPU: lifters and denoisers, over windows or frame by frame.
//
// A network is: embedding, layers, head. Every layer is pre-norm with a residual:
//   attention   x += proj(mix(qkv(norm(x))))     mix: see `Mix`
//   mlp         x += down(gelu(up(norm(x))))     in MixSTE then x = norm(x) and, once, the positions of the frames
// The scale and shift of a norm are folded into the product that follows it, and the time embedding of a denoising
// step into the bias of the layer before it. So every layer has one output bias for each step.
//
// Activations are [tokens, C] float32, tokens ordered (window or stream, frame, joint). Between two attentions
// every token is on its own, so that a block of rows goes through all products of such a segment while it is in
// the cache. All sums have a fixed order: the result of a token does not depend on the threads or on the other
// windows.
#pragma once

#include <cstdint>

#include "isa.h"
#include "products.h"

namespace refiner {

// What an attention layer does between its two products.
enum class Mix {
    kStc,     // both halves of STC attention with their convolutions
    kJoints,  // full attention over the joints of a frame, MixSTE's spatial blocks
    kFrames,  // full attention over the frames of a joint, MixSTE's temporal blocks
};

struct StcLayer {
    bool attention = false;
    Mix mix = Mix::kStc;
    PackedLinear first;                  // qkv, or up
    PackedLinear second;                 // proj, or down
    const float* first_bias = nullptr;   // [outputs of first]
    const float* second_bias = nullptr;  // [steps, C]
    const float* convolution = nullptr;  // STC attention: [2, 9, D, H]
    const float* mix_bias = nullptr;     // STC attention: [2, J, D, H]
    const float* norm_scale = nullptr;   // [C], only for an MLP that a norm follows
    const float* norm_shift = nullptr;   // [C]
    const float* positions = nullptr;    // [frames, C], added behind that norm
};

struct StcNetwork {
    const Products* products = nullptr;  // of the layers
    const Products* float32 = nullptr;   // of the embedding
    int64_t features = 0;                // numbers of a token that the embedding sees
    int64_t dim = 0;                     // C
    int64_t heads = 0;                   // of the network
    // STC attention: the kernels' heads H, some of them zeros, their width D, and the channels 2 D H of the
    // queries. Networks of full attention have as many channels as tokens have.
    int64_t kernel_heads = 0;
    int64_t width = 0;
    int64_t inner = 0;
    int64_t joints = 0;  // J
    int64_t band = 0;    // see stc_attention.h
    int64_t steps = 1;
    bool gelu_after_embedding = false;
    float epsilon = 1e-5f;      // of the norms of the layers
    float head_epsilon = 0.0f;  // of the norm before the head; 0 for a head without one
    int64_t frames = 0;         // the only length of a window; 0 for any
    PackedLinear embedding;
    const float* joint_embedding = nullptr;  // [steps, J, C]
    const float* head = nullptr;             // [3, C]
    const float* head_bias = nullptr;        // [3]; null for none
    const StcLayer* layers = nullptr;
    int64_t layer_count = 0;

    // The factor of attention scores.
    REFINER_ALWAYS_INLINE float scale() const { return 1.0f / __builtin_sqrtf(static_cast<float>(dim / 2)); }
};

// The memory of a call, all float32: input [N, features], x [N, C], qkv
// [N, 3, inner], mixed [N, inner], output [N, 3].
struct StcBuffers {
    const float* input;
    float* x;
    float* qkv;
    float* mixed;
    float* output;
};

// The denoising step of the frames of a pass: `step` for all of them, or that of each frame where of_frame is
// given.
struct StcSteps {
    int64_t step;
    const int64_t* of_frame;

    REFINER_ALWAYS_INLINE int64_t of(int64_t frame) const { return of_frame == nullptr ? step : of_frame[frame]; }
};

// The places of a ring for `slots` frames: registers hold up to 16 of them.
REFINER_ALWAYS_INLINE int64_t ring_room(int64_t slots) { return (slots + 15) / 16 * 16; }

// The frames of the streams of a pass: for each attention, rings of temporal keys and values
// [streams, J, D, ring_room(slots), H] with frame n in slot n % slots, where slots is the number of frames that a
// frame sees; and the values of the last frames [streams, 3, J, 2 D H], frame n in row n % 3.
struct StcMemory {
    int64_t slots;
    int64_t streams;  // in the memory
    float* keys;
    float* values;
    float* recent;
    const int64_t* counts;  // for each frame of the pass: frames that its stream has had
    const int64_t* of;      // for each frame of the pass: its stream; no stream twice
};

struct NetworkKernels {
    // Runs one step of a network over windows [batch, frames, J].
    void (*windows)(const StcNetwork&, int64_t step, int64_t batch, int64_t frames, const StcBuffers&,
                    int threads);
    // Runs a causal network over `frames` frames of different streams, and adds each to the memory of its stream.
    void (*frame)(const StcNetwork&, const StcSteps& steps, int64_t frames, const StcBuffers&, const StcMemory&,
                  int threads);
};

REFINER_DECLARE_VARIANTS(NetworkKernels, network_kernels)

}  // namespace refiner
