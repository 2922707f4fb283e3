// Packs a network for the CUDA kernel: all of its arrays in one block of memory, which is copied to the device
// once. Weights come in the order of the CPU kernels (heads innermost) and are put into that of stc_layout.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "half.h"
#include "stc_layout.h"

namespace refiner {

struct NetworkSizes {
    int64_t features = 0;
    int64_t dim = 0;
    int64_t heads = 0;
    int64_t joints = 0;
    int64_t band = 0;
    int64_t steps = 0;
    bool gelu_after_embedding = false;
};

class NetworkPacker {
 public:
    explicit NetworkPacker(const NetworkSizes& sizes) : sizes_(sizes) {
        const int64_t width = sizes.heads > 0 ? sizes.dim / (2 * sizes.heads) : 0;
        require(sizes.features > 0 && sizes.joints > 0 && sizes.steps > 0 && sizes.band >= 0,
                "sizes must be positive");
        require(sizes.features <= 1024 && sizes.joints <= 1024 && sizes.steps <= 1 << 20 && sizes.band < 1 << 30,
                "sizes are too large");
        require(sizes.dim > 0 && sizes.dim % 32 == 0 && width * 2 * sizes.heads == sizes.dim,
                "C must be a multiple of 32 and of 2 x heads");
        require(width == 2 || width == 4 || width == 6 || width == 8 || width == 12 || width == 16,
                "the kernels have heads of 2, 4, 6, 8, 12 or 16 channels");
        require(sizes.dim <= 512, "the kernels have up to 512 channels");
    }

    // weight [C, features], joint_embedding [steps, J, C]
    void embedding(const float* weight, const float* joint_embedding) {
        const int64_t dim = sizes_.dim, features = sizes_.features;
        std::vector<float> turned(static_cast<size_t>(dim * features));
        for (int64_t c = 0; c < dim; ++c) {
            for (int64_t f = 0; f < features; ++f) turned[f * dim + c] = weight[c * features + f];
        }
        embedding_ = append(turned.data(), dim * features);
        joint_embedding_ = append(joint_embedding, sizes_.steps * sizes_.joints * dim);
    }

    // qkv [3 C, C], its bias [3 C], convolution [2, 9, D, H], its bias [2, J, D, H], proj [C, C], its bias [steps,
    // C]
    void attention(const float* qkv, const float* qkv_bias, const float* convolution, const float* mix_bias,
                   const float* proj, const float* bias) {
        const int64_t dim = sizes_.dim;
        std::vector<float> rows(static_cast<size_t>(3 * dim * dim)), columns(static_cast<size_t>(dim * dim));
        std::vector<float> shift(static_cast<size_t>(3 * dim));
        for (int64_t r = 0; r < 3 * dim; ++r) {
            std::memcpy(&rows[ours(r) * dim], qkv + r * dim, dim * sizeof(float));
            shift[ours(r)] = qkv_bias[r];
        }
        for (int64_t r = 0; r < dim; ++r) {
            for (int64_t c = 0; c < dim; ++c) columns[r * dim + ours(c)] = proj[r * dim + c];
        }
        Layer layer;
        layer.attention = true;
        layer.first = linear(rows.data(), 3 * dim, dim, "qkv");
        layer.first_bias = append(shift.data(), 3 * dim);
        layer.convolution = append_turned(convolution, 9 * dim);
        layer.mix_bias = append_turned(mix_bias, sizes_.joints * dim);
        layer.second = linear(columns.data(), dim, dim, "proj");
        layer.second_bias = append(bias, sizes_.steps * dim);
        layers_.push_back(layer);
    }

    // up [hidden, C], its bias [hidden], down [C, hidden], its bias [steps, C]
    void mlp(const float* up, const float* up_bias, const float* down, const float* bias, int64_t hidden) {
        require(hidden > 0 && hidden % 32 == 0 && hidden < 1 << 20,
                "a hidden layer has a multiple of 32 channels");
        Layer layer;
        layer.first = linear(up, hidden, sizes_.dim, "up");
        layer.first_bias = append(up_bias, hidden);
        layer.second = linear(down, sizes_.dim, hidden, "down");
        layer.second_bias = append(bias, sizes_.steps * sizes_.dim);
        layers_.push_back(layer);
        const int64_t part = hidden < kMostHidden ? hidden : kMostHidden;
        if (part > hidden_) hidden_ = part;
    }

    // weight [3, C]
    void head(const float* weight) { head_ = append(weight, 3 * sizes_.dim); }

    bool complete() const { return embedding_ >= 0 && head_ >= 0 && attentions() > 0; }
    int64_t attentions() const {
        int64_t count = 0;
        for (const Layer& layer : layers_) count += layer.attention ? 1 : 0;
        return count;
    }
    const NetworkSizes& sizes() const { return sizes_; }
    const std::vector<unsigned char>& bytes() const { return bytes_; }

    // The network if `bytes` lie at `base`. The table of layers is filled, and belongs at `table`.
    DeviceNetwork at(const unsigned char* base, std::vector<DeviceLayer>& layers, const DeviceLayer* table) const {
        layers.clear();
        for (const Layer& layer : layers_) {
            DeviceLayer there;
            there.attention = layer.attention;
            there.first = linear_at(base, layer.first);
            there.second = linear_at(base, layer.second);
            there.first_bias = floats_at(base, layer.first_bias);
            there.second_bias = floats_at(base, layer.second_bias);
            there.convolution = floats_at(base, layer.convolution);
            there.mix_bias = floats_at(base, layer.mix_bias);
            layers.push_back(there);
        }
        DeviceNetwork net;
        net.features = static_cast<int>(sizes_.features);
        net.dim = static_cast<int>(sizes_.dim);
        net.heads = static_cast<int>(sizes_.heads);
        net.joints = static_cast<int>(sizes_.joints);
        net.band = static_cast<int>(sizes_.band);
        net.hidden = hidden();
        net.gelu = sizes_.gelu_after_embedding;
        net.embedding = floats_at(base, embedding_);
        net.joint_embedding = floats_at(base, joint_embedding_);
        net.head = floats_at(base, head_);
        net.layers = table;
        net.layer_count = static_cast<int>(layers_.size());
        return net;
    }

    int hidden() const { return static_cast<int>(hidden_); }

 private:
    // Offsets into the bytes, or -1.
    struct Linear {
        int64_t offset = -1;
        int64_t outputs = 0;
        int64_t inputs = 0;
    };
    struct Layer {
        bool attention = false;
        Linear first, second;
        int64_t first_bias = -1, second_bias = -1, convolution = -1, mix_bias = -1;
    };

    static void require(bool condition, const char* what) {
        if (!condition) throw std::invalid_argument(what);
    }

    // The place in our order of channel `c` in the CPU's: (.., D, H) becomes (.., H, D).
    int64_t ours(int64_t c) const {
        const int64_t half = sizes_.dim / 2, heads = sizes_.heads, width = half / heads;
        const int64_t within = c % half;
        return c - within + within % heads * width + within / heads;
    }

    int64_t room(int64_t size) {
        const size_t offset = (bytes_.size() + 255) / 256 * 256;
        bytes_.resize(offset + static_cast<size_t>(size));
        return static_cast<int64_t>(offset);
    }

    int64_t append(const float* values, int64_t count) {
        const int64_t offset = room(count * 4);
        std::memcpy(&bytes_[offset], values, static_cast<size_t>(count) * 4);
        return offset;
    }

    int64_t append_turned(const float* values, int64_t count) {
        std::vector<float> turned(static_cast<size_t>(count));
        for (int64_t c = 0; c < count; ++c) turned[ours(c)] = values[c];
        return append(turned.data(), count);
    }

    Linear linear(const float* weight, int64_t outputs, int64_t inputs, const char* name) {
        const Linear result{room(outputs * inputs * 2), outputs, inputs};
        auto* target = reinterpret_cast<uint16_t*>(&bytes_[result.offset]);
        for (int64_t n = 0; n < outputs; n += 8) {
            for (int64_t k = 0; k < inputs; k += 32) {
                for (int64_t lane = 0; lane < 32; ++lane) {
                    const float* from = weight + (n + lane / 4) * inputs + k + lane % 4 * 2;
                    for (int64_t i = 0; i < 8; ++i) {
                        const uint16_t bits = half_bits(from[i / 2 * 8 + i % 2]);
                        // A runtime_error, since the network is in order: it needs another engine.
                        if ((bits & 0x7c00u) == 0x7c00u) {
                            throw std::runtime_error(std::string("a weight of ") + name +
                                                     " is no finite number of half precision");
                        }
                        *target++ = bits;
                    }
                }
            }
        }
        return result;
    }

    static const float* floats_at(const unsigned char* base, int64_t offset) {
        return offset < 0 ? nullptr : reinterpret_cast<const float*>(base + offset);
    }
    static HalfLinear linear_at(const unsigned char* base, const Linear& linear) {
        return {static_cast<int>(linear.inputs), static_cast<int>(linear.outputs),
                reinterpret_cast<const Quad*>(base + linear.offset)};
    }

    NetworkSizes sizes_;
    std::vector<Layer> layers_;
    std::vector<unsigned char> bytes_;
    int64_t embedding_ = -1, joint_embedding_ = -1, head_ = -1;
    int64_t hidden_ = 32;
};

}  // namespace refiner
