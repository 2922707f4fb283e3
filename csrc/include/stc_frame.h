// STC attention of one frame of every stream, with the earlier frames in memory (see stc_network.h). Included by
// files that are compiled once for every instruction set.
#pragma once

#include "stc_network.h"
#include "stc_rows.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// What one attention layer needs of a frame: qkv [S, J, 2, 3, D, H] and the layer's own part of the memory.
struct FrameMix {
    int64_t streams;
    int64_t joints;
    int64_t heads;
    int64_t width;
    int64_t slots;
    float scale;
    const float* qkv;
    const float* convolution;
    const float* bias;
    float* out;     // [S, J, 2, D, H]
    float* keys;    // [S, J, slots, D H]
    float* values;  // likewise
    float* recent;  // [S, 3, J, 2 D H]
    const int64_t* counts;
    const bool* active;
    float* scratch;  // as many floats as slots x H and J x H
};

// Attention of a joint to the `frames` entries of its ring, of which one is its own.
template <int H, int D>
void attend_ring(float scale, const float* qkv, const float* keys, const float* values, int64_t frames, float* out,
                 float* scratch) {
    using V = Vector<H>;
    using Lane = typename V::Lane;
    constexpr int64_t kPart = int64_t{D} * H;
    Lane query[D];
    for (int d = 0; d < D; ++d) query[d] = V::load(qkv + d * H) * scale;
    Lane largest = V::splat(-3.0e38f);
    for (int64_t i = 0; i < frames; ++i) {
        const float* key = keys + i * kPart;
        Lane score = query[0] * V::load(key);
        for (int d = 1; d < D; ++d) score += query[d] * V::load(key + d * H);
        V::store(scratch + i * H, score);
        largest = V::larger(score, largest);
    }
    Lane total{};
    Lane sum[D] = {};
    for (int64_t i = 0; i < frames; ++i) {
        const Lane weight = V::exp(V::load(scratch + i * H) - largest);
        total += weight;
        for (int d = 0; d < D; ++d) sum[d] += weight * V::load(values + i * kPart + d * H);
    }
    const Lane inverse = V::splat(1.0f) / total;
    for (int d = 0; d < D; ++d) V::store(out + d * H, sum[d] * inverse);
}

// Adds the bias and the convolution over this frame and the two before it to the tokens of one stream.
template <int64_t kPart>
void convolve_frame(const FrameMix& m, const float* recent, int64_t count, float* out) {
    for (int64_t j = 0; j < m.joints; ++j) {
        for (int64_t half = 0; half < 2; ++half) {
            float* __restrict target = out + (j * 2 + half) * kPart;
            const float* __restrict offset = m.bias + (half * m.joints + j) * kPart;
            for (int64_t c = 0; c < kPart; ++c) target[c] += offset[c];
            for (int64_t row = count >= 2 ? 0 : 2 - count; row < 3; ++row) {
                for (int64_t column = 0; column < 3; ++column) {
                    const int64_t other = j + column - 1;
                    if (other < 0 || other >= m.joints) continue;
                    // Frame n lies in row n % 3; this frame is frame `count`.
                    const int64_t place = (count + row + 1) % 3;
                    const float* __restrict from = recent + ((place * m.joints + other) * 2 + half) * kPart;
                    const float* __restrict weight = m.convolution + (half * kTaps + row * 3 + column) * kPart;
                    for (int64_t c = 0; c < kPart; ++c) target[c] += weight[c] * from[c];
                }
            }
        }
    }
}

template <int H, int D>
void mix_frame(const FrameMix& m) {
    constexpr int64_t kPart = int64_t{D} * H;
    constexpr int64_t kQkv = 6 * kPart;
    constexpr int64_t kOut = 2 * kPart;
    const Row joints{m.joints, kQkv, kOut, 0};
    for (int64_t s = 0; s < m.streams; ++s) {
        const float* frame = m.qkv + s * m.joints * kQkv;
        float* out = m.out + s * m.joints * kOut;
        if (!m.active[s]) {
            std::memset(out, 0, static_cast<size_t>(m.joints * kOut) * sizeof(float));
            continue;
        }
        // All that is written belongs to this frame alone: a frame that breaks off and comes again writes the same
        // places again. Only the caller's count says that it is done.
        const int64_t count = m.counts[s];
        const int64_t filled = count + 1 < m.slots ? count + 1 : m.slots;
        const int64_t slot = count % m.slots;
        float* recent = m.recent + s * 3 * m.joints * kOut;
        attend_row<H, D>(joints, m.scale, frame, out, m.scratch);
        for (int64_t j = 0; j < m.joints; ++j) {
            const float* temporal = frame + j * kQkv + 3 * kPart;
            float* keys = m.keys + (s * m.joints + j) * m.slots * kPart;
            float* values = m.values + (s * m.joints + j) * m.slots * kPart;
            float* now = recent + (count % 3 * m.joints + j) * kOut;
            std::memcpy(keys + slot * kPart, temporal + kPart, kPart * sizeof(float));
            std::memcpy(values + slot * kPart, temporal + 2 * kPart, kPart * sizeof(float));
            std::memcpy(now, frame + j * kQkv + 2 * kPart, kPart * sizeof(float));
            std::memcpy(now + kPart, temporal + 2 * kPart, kPart * sizeof(float));
            attend_ring<H, D>(m.scale, temporal, keys, values, filled, out + j * kOut + kPart, m.scratch);
        }
        convolve_frame<kPart>(m, recent, count, out);
    }
}

struct FrameCall {
    const FrameMix& m;
    template <int H, int D>
    void operator()() {
        mix_frame<H, D>(m);
    }
};

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
