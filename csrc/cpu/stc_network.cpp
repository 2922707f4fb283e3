// Networks of STC modules and MLPs on the CPU (see stc_network.h). This file is compiled once for every
// instruction set, each time into another namespace, REFINER_ISA_NAMESPACE.

#include "stc_network.h"

#include <cstdlib>
#include <cstring>

#include "full_attention.h"
#include "gemm.h"
#include "parallel.h"
#include "stc_attention.h"
#include "stc_frame.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Rows that go through a segment together, and columns of an MLP's hidden layer that exist at a time: 48 x 128
// hidden numbers are 24 kB, so that they and one panel of weights stay in the first-level cache.
constexpr int64_t kBlock = 48;
constexpr int64_t kHidden = 128;

// Memory that a thread keeps between calls: after the first call of a size nothing is allocated.
struct Kept {
    float* data = nullptr;
    int64_t size = 0;
    ~Kept() { std::free(data); }
    float* at_least(int64_t wanted) {
        if (wanted > size) {
            std::free(data);
            size = 0;
            data = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((wanted * 4 + 63) / 64 * 64)));
            if (data == nullptr) out_of_memory();
            size = wanted;
        }
        return data;
    }
};

float* scratch_of(int64_t size) {
    thread_local Kept kept;
    return kept.at_least(size);
}

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void pack(const float* weight, int64_t outputs, int64_t inputs, float* target) {
    for (int64_t first = 0; first < outputs; first += kPanel) {
        for (int64_t k = 0; k < inputs; ++k) {
            for (int64_t c = 0; c < kPanel; ++c) {
                *target++ = first + c < outputs ? weight[(first + c) * inputs + k] : 0.0f;
            }
        }
    }
}

void embed(const StcNetwork& net, int64_t step, const float* input, int64_t first_row, int64_t rows, float* x) {
    const PackedLinear& e = net.embedding;
    if (net.gelu_after_embedding) {
        multiply<End::kGelu>(input, rows, e.inputs, e.inputs, e.weight, e.inputs, nullptr, x, net.dim, net.dim);
    } else {
        multiply<End::kStore>(input, rows, e.inputs, e.inputs, e.weight, e.inputs, nullptr, x, net.dim, net.dim);
    }
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t joint = step * net.joints + (first_row + r) % net.joints;
        const float* __restrict offset = net.joint_embedding + joint * net.dim;
        float* __restrict row = x + r * net.dim;
        for (int64_t c = 0; c < net.dim; ++c) row[c] += offset[c];
    }
}

void mlp(const StcNetwork& net, const StcLayer& layer, int64_t step, int64_t rows, float* x, float* normal,
         float* hidden) {
    const int64_t dim = net.dim;
    normalise(x, rows, dim, net.epsilon, normal);
    const int64_t width = layer.first.outputs;
    for (int64_t first = 0; first < width; first += kHidden) {
        const int64_t count = smaller(kHidden, width - first);
        multiply<End::kGelu>(normal, rows, dim, dim, layer.first.weight + first * dim, dim,
                             layer.first_bias + first, hidden, kHidden, count);
        // Rows `first` to `first + count` of every panel.
        const float* bias = first == 0 ? layer.second_bias + step * dim : nullptr;
        multiply<End::kAdd>(hidden, rows, kHidden, count, layer.second.weight + first * kPanel, width, bias, x,
                            dim, dim);
    }
}

// The norm that MixSTE has behind a block, with its scale and shift, and the positions of the frames.
void norm_after(const StcNetwork& net, const StcLayer& layer, int64_t first_row, int64_t rows, float* x) {
    const int64_t dim = net.dim;
    normalise(x, rows, dim, net.epsilon, x);
    for (int64_t r = 0; r < rows; ++r) {
        float* __restrict row = x + r * dim;
        for (int64_t c = 0; c < dim; ++c) row[c] = row[c] * layer.norm_scale[c] + layer.norm_shift[c];
        if (layer.positions == nullptr) continue;
        const float* __restrict position = layer.positions + (first_row + r) / net.joints % net.frames * dim;
        for (int64_t c = 0; c < dim; ++c) row[c] += position[c];
    }
}

void head(const StcNetwork& net, const float* x, int64_t rows, float* normal, float* output) {
    if (net.head_epsilon > 0.0f) {
        normalise(x, rows, net.dim, net.head_epsilon, normal);
        x = normal;
    }
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < 3; ++o) {
            const float* row = x + r * net.dim;
            const float* weight = net.head + o * net.dim;
            const int64_t whole = net.dim / kLane * kLane;
            Lane sums{};
            for (int64_t c = 0; c < whole; c += kLane) sums += load(row + c) * load(weight + c);
            float sum = 0.0f;
            for (int i = 0; i < kLane; ++i) sum += sums[i];
            for (int64_t c = whole; c < net.dim; ++c) sum += row[c] * weight[c];
            output[r * 3 + o] = net.head_bias == nullptr ? sum : sum + net.head_bias[o];
        }
    }
}

// All that happens to rows between the attention layer at `from` (-1: the beginning) and the next one, which gets
// its queries, keys and values. Returns the index of the next attention layer, or the number of layers.
int64_t segment(const StcNetwork& net, int64_t step, int64_t from, int64_t row, int64_t rows,
                const StcBuffers& b) {
    const int64_t dim = net.dim;
    float* x = b.x + row * dim;
    float* normal = scratch_of(kBlock * (dim + kHidden));
    if (from < 0) {
        embed(net, step, b.input + row * net.features, row, rows, x);
    } else {
        const StcLayer& layer = net.layers[from];
        multiply<End::kAdd>(b.mixed + row * dim, rows, dim, dim, layer.second.weight, dim,
                            layer.second_bias + step * dim, x, dim, dim);
    }
    int64_t next = from + 1;
    for (; next < net.layer_count && !net.layers[next].attention; ++next) {
        const StcLayer& layer = net.layers[next];
        mlp(net, layer, step, rows, x, normal, normal + kBlock * dim);
        if (layer.norm_scale != nullptr) norm_after(net, layer, row, rows, x);
    }
    if (next == net.layer_count) {
        head(net, x, rows, normal, b.output + row * 3);
    } else {
        const StcLayer& layer = net.layers[next];
        normalise(x, rows, dim, net.epsilon, normal);
        multiply<End::kStore>(normal, rows, dim, dim, layer.first.weight, dim, layer.first_bias,
                              b.qkv + row * 3 * dim, 3 * dim, 3 * dim);
    }
    return next;
}

// Runs a network over `tokens` rows; mix(layer) attends between two segments.
template <typename Mix>
void run(const StcNetwork& net, int64_t step, int64_t tokens, const StcBuffers& b, int threads, Mix&& mix) {
    const int64_t blocks = (tokens + kBlock - 1) / kBlock;
    int64_t from = -1;
    while (from < net.layer_count) {
        const int64_t here = from;
        parallel_for(0, blocks, 1, threads, [&](int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; ++block) {
                const int64_t row = block * kBlock;
                segment(net, step, here, row, smaller(kBlock, tokens - row), b);
            }
        });
        do ++from;
        while (from < net.layer_count && !net.layers[from].attention);
        if (from < net.layer_count) mix(net.layers[from]);
    }
}

void windows(const StcNetwork& net, int64_t step, int64_t batch, int64_t frames, const StcBuffers& b,
             int threads) {
    const StcShape shape{batch, frames, net.joints, net.width(), net.heads, net.band, net.scale(), threads};
    const StcKernels kernels = stc_kernels();
    run(net, step, batch * frames * net.joints, b, threads, [&](const StcLayer& layer) {
        if (layer.mix == Mix::kStc) {
            kernels.forward(shape, b.qkv, layer.convolution, layer.mix_bias, b.mixed);
        } else {
            full_attention(net, layer.mix == Mix::kFrames, batch, frames, b, threads, scratch_of);
        }
    });
}

void frame(const StcNetwork& net, int64_t step, int64_t streams, const StcBuffers& b, const StcMemory& memory,
           int threads) {
    const int64_t ring = streams * net.joints * memory.slots * net.dim / 2;
    const int64_t recent = streams * 3 * net.joints * net.dim;
    const int64_t longest = memory.slots > net.joints ? memory.slots : net.joints;
    int64_t attention = 0;
    run(net, step, streams * net.joints, b, threads, [&](const StcLayer& layer) {
        const FrameMix m{streams,
                         net.joints,
                         net.heads,
                         net.width(),
                         memory.slots,
                         net.scale(),
                         b.qkv,
                         layer.convolution,
                         layer.mix_bias,
                         b.mixed,
                         memory.keys + attention * ring,
                         memory.values + attention * ring,
                         memory.recent + attention * recent,
                         memory.counts,
                         memory.active,
                         scratch_of(longest * net.heads)};
        with_shape(m, FrameCall{m});
        ++attention;
    });
}

}  // namespace

NetworkKernels network_kernels() { return {kPanel, pack, windows, frame}; }

}  // namespace refiner::REFINER_ISA_NAMESPACE
