// STC attention of one frame of every stream, with the earlier frames in memory (see stc_network.h). Included by
// files that are compiled once for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "stc_attend.h"
#include "stc_convolve.h"
#include "stc_network.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// What one attention layer needs of F frames: qkv [F, J, 2, 3, D, H] and the layer's own part of the memory of S
// streams.
struct FrameMix {
    int64_t frames;
    int64_t joints;
    int64_t heads;
    int64_t width;
    int64_t slots;
    float scale;
    const float* qkv;
    const float* convolution;
    const float* bias;
    float* out;     // [F, J, 2, D, H]
    float* keys;    // [S, J, D, room, H], see ring_room
    float* values;  // likewise
    float* recent;  // [S, 3, J, 2 D H]
    const int64_t* counts;
    const int64_t* of;
    float* scratch;  // frame_scratch floats
};

inline int64_t frame_scratch(int64_t joints, int64_t slots) {
    return attend_scratch(joints > ring_room(slots) ? joints : ring_room(slots));
}

// Adds to `out` [D, H] the attention of one joint to the `frames` entries of its ring, of which one is its own. A
// register holds one channel of every head, of as many frames as fit.
template <int H, int kHeads, int kChannels, bool kWhole>
void attend_ring_heads(int64_t width, int64_t room, float factor, const float* query, const float* keys,
                       const float* values, int64_t frames, float* out, float* scratch) {
    using T = Heads<H>;
    using V = typename T::V;
    using Lane = typename T::Lane;
    using Bits = typename T::Bits;
    constexpr int64_t kFrames = T::kQueries;
    constexpr int64_t kStep = kFrames * kHeads;  // floats of a ring from a register to the next
    static_assert(H == kHeads || kFrames == 1, "heads of several frames lie side by side");
    const int64_t groups = (frames + kFrames - 1) / kFrames;
    const int64_t channels = kWhole ? kChannels : width;
    // The frames of the last register that are there. What lies in the other places counts for nothing.
    const Bits there = T::numbers() < Bits{} + static_cast<int32_t>(frames - (groups - 1) * kFrames);
    const Lane least = V::splat(-3.0e38f);
    Lane largest = least;
    for (int64_t first = 0; first < channels; first += kChannels) {
        const bool done = kWhole || first + kChannels == channels;
        Lane channel[kChannels];
        for (int d = 0; d < kChannels; ++d) channel[d] = T::repeat(query + (first + d) * kHeads) * factor;
        const float* key = keys + first * room * kHeads;
        for (int64_t g = 0; g < groups; ++g) {
            Lane sum = channel[0] * V::load(key + g * kStep);
            for (int d = 1; d < kChannels; ++d) sum += channel[d] * V::load(key + d * room * kHeads + g * kStep);
            if (!kWhole && first > 0) sum += V::load(scratch + g * T::kWidth);
            if (done) {
                if (g + 1 == groups) sum = there ? sum : least;
                largest = sum > largest ? sum : largest;
            }
            V::store(scratch + g * T::kWidth, sum);
        }
    }
    // The largest of each head, for all its lanes.
    float all[T::kWidth];
    V::store(all, largest);
    for (int i = H; i < T::kWidth; ++i) all[i % H] = all[i] > all[i % H] ? all[i] : all[i % H];
    largest = T::repeat(all);
    Lane total{};
    for (int64_t g = 0; g < groups; ++g) {
        Lane weight = T::exp2(V::load(scratch + g * T::kWidth) - largest);
        if (g + 1 == groups) weight = there ? weight : Lane{};
        total += weight;
        V::store(scratch + g * T::kWidth, weight);
    }
    V::store(all, total);
    for (int i = H; i < T::kWidth; ++i) all[i % H] += all[i];
    for (int64_t first = 0; first < channels; first += kChannels) {
        Lane sum[kChannels] = {};
        const float* value = values + first * room * kHeads;
        for (int64_t g = 0; g + 1 < groups; ++g) {
            const Lane weight = V::load(scratch + g * T::kWidth);
            for (int d = 0; d < kChannels; ++d) sum[d] += weight * V::load(value + d * room * kHeads + g * kStep);
        }
        const int64_t g = groups - 1;
        const Lane weight = V::load(scratch + g * T::kWidth);
        for (int d = 0; d < kChannels; ++d) {
            const Lane last = V::load(value + d * room * kHeads + g * kStep);
            sum[d] += weight * (there ? last : Lane{});
            float sums[T::kWidth];
            V::store(sums, sum[d]);
            for (int i = H; i < T::kWidth; ++i) sums[i % H] += sums[i];
            for (int h = 0; h < H; ++h) out[(first + d) * kHeads + h] += sums[h] / all[h];
        }
    }
}

// In several turns if there are more heads than a register holds, see attend_tokens.
template <int H, int kChannels, bool kWhole>
void attend_ring(int64_t width, int64_t room, float factor, const float* query, const float* keys,
                 const float* values, int64_t frames, float* out, float* scratch) {
    constexpr int kTurn = H < kRegister ? H : kRegister;
    for (int head = 0; head < H; head += kTurn) {
        attend_ring_heads<kTurn, H, kChannels, kWhole>(width, room, factor, query + head, keys + head,
                                                       values + head, frames, out + head, scratch);
    }
}

// Writes a token's channels [D, H] into a slot of a ring [D, room, H].
inline void put(float* ring, int64_t slot, int64_t room, int64_t width, int64_t heads, const float* token) {
    for (int64_t d = 0; d < width; ++d) {
        float* __restrict to = ring + (d * room + slot) * heads;
        const float* __restrict from = token + d * heads;
        for (int64_t h = 0; h < heads; ++h) to[h] = from[h];
    }
}

template <int H, int kChannels, bool kWhole>
void mix_frame(const FrameMix& m) {
    const int64_t part = m.width * H;
    const int64_t room = ring_room(m.slots);
    const float factor = query_factor(m.scale);
    const Tokens joints{m.joints, 6 * part, 2 * part, 0, m.width, true};
    for (int64_t f = 0; f < m.frames; ++f) {
        const float* frame = m.qkv + f * m.joints * 6 * part;
        float* out = m.out + f * m.joints * 2 * part;
        const int64_t s = m.of[f];
        // All that is written belongs to this frame alone: a frame that breaks off and comes again writes the same
        // places again. Only the caller's count says that it is done.
        const int64_t count = m.counts[f];
        const int64_t filled = count + 1 < m.slots ? count + 1 : m.slots;
        const int64_t slot = count % m.slots;
        float* recent = m.recent + s * 3 * m.joints * 2 * part;
        float* now = recent + count % 3 * m.joints * 2 * part;
        for (int64_t j = 0; j < m.joints; ++j) {
            const float* token = frame + j * 6 * part;
            std::memcpy(now + j * 2 * part, token + 2 * part, static_cast<size_t>(part) * sizeof(float));
            std::memcpy(now + j * 2 * part + part, token + 5 * part, static_cast<size_t>(part) * sizeof(float));
        }
        for (int64_t half = 0; half < 2; ++half) {
            Convolution c{m.joints,
                          part,
                          {},
                          2 * part,
                          m.convolution + half * kTaps * part,
                          m.bias + half * m.joints * part,
                          out + half * part,
                          2 * part};
            for (int64_t row = count >= 2 ? 0 : 2 - count; row < 3; ++row) {
                // Frame n lies in row n % 3; this frame is frame `count`.
                c.frames[row] = recent + (count + row + 1) % 3 * m.joints * 2 * part + half * part;
            }
            convolve(c);
        }
        attend_tokens<H, kChannels, kWhole>(joints, m.scale, frame, out, m.scratch);
        for (int64_t j = 0; j < m.joints; ++j) {
            const float* temporal = frame + j * 6 * part + 3 * part;
            float* keys = m.keys + (s * m.joints + j) * m.width * room * H;
            float* values = m.values + (s * m.joints + j) * m.width * room * H;
            put(keys, slot, room, m.width, H, temporal + part);
            put(values, slot, room, m.width, H, temporal + 2 * part);
            attend_ring<H, kChannels, kWhole>(m.width, room, factor, temporal, keys, values, filled,
                                              out + j * 2 * part + part, m.scratch);
        }
    }
}

struct FrameCall {
    const FrameMix& m;
    template <int H, int kChannels, bool kWhole>
    void operator()() {
        mix_frame<H, kChannels, kWhole>(m);
    }
};

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
