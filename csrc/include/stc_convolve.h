// The depthwise 3x3 convolution over (frames, joints) of STC attention, for one frame. Included by files that are
// compiled once for every instruction set; everything is in their namespace.
#pragma once

#include <cstdint>

#include "stc_attend.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Channels `part` of one half, for all joints of a frame.
struct Convolution {
    int64_t joints;
    int64_t part;
    const float* frames[3];  // the values [J, .. part ..] under each row of taps; nullptr: outside of the sequence
    int64_t stride;          // floats between two joints of them
    const float* taps;       // [9, part]
    const float* bias;       // [J, part]
    float* out;              // [J, .. part ..]
    int64_t out_stride;
};

// kCount registers of kWidth channels at a time, from channel `first` on as often as they fit. The taps stay in
// registers for all joints. Returns the first channel that is left.
template <int kWidth, int kCount>
int64_t convolve_channels(const Convolution& c, int64_t first) {
    using V = Vector<kWidth>;
    using Lane = typename V::Lane;
    for (; first + kWidth * kCount <= c.part; first += kWidth * kCount) {
        Lane taps[kTaps][kCount];
        for (int tap = 0; tap < kTaps; ++tap) {
            for (int v = 0; v < kCount; ++v) taps[tap][v] = V::load(c.taps + tap * c.part + first + v * kWidth);
        }
        for (int64_t j = 0; j < c.joints; ++j) {
            Lane sum[kCount];
            for (int v = 0; v < kCount; ++v) sum[v] = V::load(c.bias + j * c.part + first + v * kWidth);
#pragma GCC unroll 3
            for (int row = 0; row < 3; ++row) {
                if (c.frames[row] == nullptr) continue;
                const float* source = c.frames[row] + first;
#pragma GCC unroll 3
                for (int column = 0; column < 3; ++column) {
                    const int64_t other = j + column - 1;
                    if (other < 0 || other >= c.joints) continue;
                    for (int v = 0; v < kCount; ++v) {
                        sum[v] += taps[row * 3 + column][v] * V::load(source + other * c.stride + v * kWidth);
                    }
                }
            }
            for (int v = 0; v < kCount; ++v) V::store(c.out + j * c.out_stride + first + v * kWidth, sum[v]);
        }
    }
    return first;
}

inline void convolve(const Convolution& c) {
    int64_t first = kRegisters == 32 ? convolve_channels<kRegister, 2>(c, 0) : 0;
    first = convolve_channels<kRegister, 1>(c, first);
    if (kRegister > 4) first = convolve_channels<4, 1>(c, first);
    convolve_channels<1, 1>(c, first);
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
