// Both halves of STC attention and their depthwise convolutions, for the CUDA kernel: a thread computes one head
// of one half of one token.
#pragma once

#include "stc_layout.h"

namespace refiner {

// kWidth half-precision numbers, in the widest accesses that their alignment allows.
template <int kWidth>
REFINER_DEVICE void load_halves(const uint16_t* source, float (&values)[kWidth]) {
    if constexpr (kWidth % 8 == 0) {
        REFINER_UNROLL(kWidth / 8)
        for (int i = 0; i < kWidth / 8; ++i) {
            const Quad quad = reinterpret_cast<const Quad*>(source)[i];
            REFINER_UNROLL(4)
            for (int k = 0; k < 4; ++k) {
                simt::from_halves(quad.word[k], values[8 * i + 2 * k], values[8 * i + 2 * k + 1]);
            }
        }
    } else if constexpr (kWidth % 4 == 0) {
        REFINER_UNROLL(kWidth / 4)
        for (int i = 0; i < kWidth / 4; ++i) {
            const Pair pair = reinterpret_cast<const Pair*>(source)[i];
            REFINER_UNROLL(2)
            for (int k = 0; k < 2; ++k) {
                simt::from_halves(pair.word[k], values[4 * i + 2 * k], values[4 * i + 2 * k + 1]);
            }
        }
    } else {
        REFINER_UNROLL(kWidth / 2)
        for (int i = 0; i < kWidth / 2; ++i) {
            simt::from_halves(reinterpret_cast<const uint32_t*>(source)[i], values[2 * i], values[2 * i + 1]);
        }
    }
}

// Where the queries, keys and values of one head of one half lie: `own` is the token itself, `row` the first token
// that it may attend to, `step` the numbers between two tokens of the row.
struct MixRow {
    const uint16_t* own;
    const uint16_t* row;
    int64_t step;
    int first;
    int last;
};

// Attention of one token, by a softmax in one pass.
template <int kWidth>
REFINER_DEVICE void attend_token(const MixRow& r, int part, float scale, float (&out)[kWidth]) {
    float query[kWidth], largest = -3.0e38f, total = 0.0f;
    load_halves<kWidth>(r.own, query);
    REFINER_UNROLL(kWidth)
    for (int d = 0; d < kWidth; ++d) {
        query[d] *= scale * 1.4426950408889634f;  // weights are powers of 2
        out[d] = 0.0f;
    }
    constexpr int kAhead = kWidth <= 8 ? 4 : 2;  // keys and values that are read before they are needed
    REFINER_UNROLL(kAhead)
    for (int i = r.first; i < r.last; ++i) {
        float key[kWidth], value[kWidth];
        const uint16_t* token = r.row + i * r.step;
        load_halves<kWidth>(token + part, key);
        load_halves<kWidth>(token + 2 * part, value);
        float score = 0.0f;
        REFINER_UNROLL(kWidth)
        for (int d = 0; d < kWidth; ++d) score += query[d] * key[d];
        const float next = score > largest ? score : largest;
        const float keep = simt::fast_exp2(largest - next), weight = simt::fast_exp2(score - next);
        largest = next;
        total = total * keep + weight;
        REFINER_UNROLL(kWidth)
        for (int d = 0; d < kWidth; ++d) out[d] = out[d] * keep + weight * value[d];
    }
    const float inverse = simt::fast_divide(1.0f, total);
    REFINER_UNROLL(kWidth)
    for (int d = 0; d < kWidth; ++d) out[d] *= inverse;
}

// Adds the bias and the 3 x 3 convolution of the values over frames and joints. `window` is the first token of the
// window, at the values of this head and half; `channel` is their first channel within the half.
template <int kWidth>
REFINER_DEVICE void convolve_token(const DeviceNetwork& net, const DeviceLayer& layer, int frames, int half,
                                   int frame, int joint, int channel, const uint16_t* window,
                                   float (&out)[kWidth]) {
    const int part = net.dim / 2, lag = net.band > 0 ? 1 : 0;
    const float* offset = layer.mix_bias + (half * net.joints + joint) * part + channel;
    REFINER_UNROLL(kWidth)
    for (int d = 0; d < kWidth; ++d) out[d] += simt::read_constant(offset + d);
    for (int tap = 0; tap < 9; ++tap) {
        const int from_frame = frame + tap / 3 - 1 - lag, from_joint = joint + tap % 3 - 1;
        if (from_frame < 0 || from_frame >= frames || from_joint < 0 || from_joint >= net.joints) continue;
        float value[kWidth];
        load_halves<kWidth>(window + (int64_t{from_frame} * net.joints + from_joint) * 3 * net.dim, value);
        const float* weight = layer.convolution + (half * 9 + tap) * part + channel;
        REFINER_UNROLL(kWidth)
        for (int d = 0; d < kWidth; ++d) out[d] += simt::read_constant(weight + d) * value[d];
    }
}

// Item `item` of all items of a half: heads are innermost, so that neighbouring threads read neighbouring numbers;
// then come the tokens that share their keys.
template <int kWidth>
REFINER_DEVICE void mix_item(const DeviceNetwork& net, const DeviceLayer& layer, const DeviceCall& call,
                             float scale, int half, uint32_t item) {
    const uint32_t heads = net.heads, joints = net.joints, frames = call.frames;
    const int part = net.dim / 2, channel = static_cast<int>(item % heads) * kWidth;
    const uint32_t place = item / heads, window = place / (joints * frames), within = place % (joints * frames);
    const int frame = static_cast<int>(half == 0 ? within / joints : within % frames);
    const int joint = static_cast<int>(half == 0 ? within % joints : within / frames);
    const int64_t begin = int64_t{window} * joints * frames, token = begin + int64_t{frame} * net.joints + joint;
    const uint16_t* base = call.qkv + 3 * half * part + channel;
    const int64_t size = 3 * int64_t{net.dim};
    MixRow row{base + token * size, nullptr, 0, 0, 0};
    if (half == 0) {
        row.row = base + (begin + int64_t{frame} * net.joints) * size;
        row.step = size;
        row.last = net.joints;
    } else {
        row.row = base + (begin + joint) * size;
        row.step = size * net.joints;
        row.first = net.band > 0 && frame >= net.band ? frame - net.band + 1 : 0;
        row.last = net.band > 0 ? frame + 1 : call.frames;
    }
    float out[kWidth];
    attend_token<kWidth>(row, part, scale, out);
    convolve_token<kWidth>(net, layer, call.frames, half, frame, joint, channel, base + begin * size + 2 * part,
                           out);
    uint32_t* target = reinterpret_cast<uint32_t*>(call.mixed + token * net.dim + half * part + channel);
    REFINER_UNROLL(kWidth / 2)
    for (int d = 0; d < kWidth / 2; ++d) target[d] = simt::to_halves(out[2 * d], out[2 * d + 1]);
}

template <int kWidth>
REFINER_DEVICE void mix_items(const DeviceNetwork& net, const DeviceLayer& layer, const DeviceCall& call,
                              float scale) {
    const auto items = static_cast<uint32_t>(call.batch * call.frames * net.joints * net.heads);
    const auto stride = static_cast<uint32_t>(simt::blocks() * simt::threads());
    for (auto item = static_cast<uint32_t>(simt::block() * simt::threads() + simt::thread()); item < 2 * items;
         item += stride) {
        const bool temporal = item < items;  // its rows are longer, so that it comes first
        mix_item<kWidth>(net, layer, call, scale, temporal ? 1 : 0, temporal ? item : item - items);
    }
}

REFINER_DEVICE void mix(const DeviceNetwork& net, const DeviceLayer& layer, const DeviceCall& call) {
    const float scale = 1.0f / sqrtf(static_cast<float>(net.dim / 2));
    switch (net.dim / (2 * net.heads)) {
        case 2:
            return mix_items<2>(net, layer, call, scale);
        case 4:
            return mix_items<4>(net, layer, call, scale);
        case 6:
            return mix_items<6>(net, layer, call, scale);
        case 8:
            return mix_items<8>(net, layer, call, scale);
        case 12:
            return mix_items<12>(net, layer, call, scale);
        case 16:
            return mix_items<16>(net, layer, call, scale);
        default:
            return;
    }
}

}  // namespace refiner
