// Networks of STC modules and MLPs on the CPU (see stc_network.h). This file is compiled once for every
// instruction set, each time into another namespace, REFINER_ISA_NAMESPACE.

#include "stc_network.h"

#include "full_attention.h"
#include "gemm.h"
#include "parallel.h"
#include "scratch.h"
#include "stc_attention.h"
#include "stc_frame.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Rows that go through a segment together: at most kMostRows, so that they stay in the second-level cache, and at
// least kLeastRows where threads share them, since every block reads all weights. An MLP's hidden layer exists for
// kHidden columns at a time.
constexpr int64_t kMostRows = 96, kLeastRows = 48;
constexpr int64_t kHidden = 256;
constexpr int64_t kFloat = sizeof(float);

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t up_to_multiple(int64_t number, int64_t of) { return (number + of - 1) / of * of; }

void embed(const StcNetwork& net, const StcSteps& steps, const float* input, int64_t first_row, int64_t rows,
           float* x) {
    const int64_t inputs = net.features;
    net.float32->multiply(net.gelu_after_embedding ? End::kGelu : End::kStore,
                          {input, rows, inputs, net.embedding, 0, inputs, 0, net.dim, nullptr, x, net.dim});
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t joint = steps.of((first_row + r) / net.joints) * net.joints + (first_row + r) % net.joints;
        const float* __restrict offset = net.joint_embedding + joint * net.dim;
        float* __restrict row = x + r * net.dim;
        for (int64_t c = 0; c < net.dim; ++c) row[c] += offset[c];
    }
}

// The output bias of a layer for a block of rows. Where frames of several steps go through the network together,
// every row gets its own here, and the result is null.
const float* output_bias(const StcNetwork& net, const StcLayer& layer, const StcSteps& steps, int64_t row,
                         int64_t rows, float* x) {
    if (steps.of_frame == nullptr) return layer.second_bias + steps.step * net.dim;
    for (int64_t r = 0; r < rows; ++r) {
        const float* __restrict bias = layer.second_bias + steps.of((row + r) / net.joints) * net.dim;
        float* __restrict target = x + r * net.dim;
        for (int64_t c = 0; c < net.dim; ++c) target[c] += bias[c];
    }
    return nullptr;
}

void mlp(const StcNetwork& net, const StcLayer& layer, const StcSteps& steps, int64_t row, int64_t rows, float* x,
         char* normal, char* hidden) {
    const Products& products = *net.products;
    const int64_t dim = net.dim, stride = products.filled(dim);
    products.normalise(x, rows, dim, net.epsilon, normal);
    const float* output = output_bias(net, layer, steps, row, rows, x);
    const int64_t width = layer.first.outputs;
    for (int64_t first = 0; first < width; first += kHidden) {
        const int64_t count = smaller(kHidden, width - first);
        products.multiply(End::kGelu, {normal, rows, stride, layer.first, 0, dim, first, count,
                                       layer.first_bias + first, hidden, kHidden});
        const float* bias = first == 0 ? output : nullptr;
        products.multiply(End::kAdd, {hidden, rows, kHidden, layer.second, first, count, 0, dim, bias, x, dim});
    }
}

// The norm that MixSTE has behind a block, with its scale and shift, and the positions of the frames.
void norm_after(const StcNetwork& net, const StcLayer& layer, int64_t first_row, int64_t rows, float* x) {
    const int64_t dim = net.dim;
    net.float32->normalise(x, rows, dim, net.epsilon, x);
    for (int64_t r = 0; r < rows; ++r) {
        float* __restrict row = x + r * dim;
        for (int64_t c = 0; c < dim; ++c) row[c] = row[c] * layer.norm_scale[c] + layer.norm_shift[c];
        if (layer.positions == nullptr) continue;
        const float* __restrict position = layer.positions + (first_row + r) / net.joints % net.frames * dim;
        for (int64_t c = 0; c < dim; ++c) row[c] += position[c];
    }
}

void head(const StcNetwork& net, float* x, int64_t rows, float* output) {
    if (net.head_epsilon > 0.0f) net.float32->normalise(x, rows, net.dim, net.head_epsilon, x);
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < 3; ++o) {
            const float* row = x + r * net.dim;
            const float* weight = net.head + o * net.dim;
            const int64_t whole = net.dim / kLane * kLane;
            Lane sums{};
            for (int64_t c = 0; c < whole; c += kLane) sums += load(row + c) * load(weight + c);
            float sum = total(sums);
            for (int64_t c = whole; c < net.dim; ++c) sum += row[c] * weight[c];
            output[r * 3 + o] = net.head_bias == nullptr ? sum : sum + net.head_bias[o];
        }
    }
}

// All that happens to rows between the attention layer at `from` (-1: the beginning) and the next one, which gets
// its queries, keys and values. Returns the index of the next attention layer, or the number of layers.
int64_t segment(const StcNetwork& net, const StcSteps& steps, int64_t from, int64_t row, int64_t rows,
                const StcBuffers& b) {
    const int64_t dim = net.dim, inner = net.inner;
    const Products& products = *net.products;
    float* x = b.x + row * dim;
    const int64_t room = up_to_multiple(rows, products.rows) * products.bytes;
    const int64_t operand = up_to_multiple(room * products.filled(inner > dim ? inner : dim), 64);
    auto* normal = reinterpret_cast<char*>(scratch_of((operand + room * kHidden) / kFloat));
    products.enter();
    if (from < 0) {
        embed(net, steps, b.input + row * net.features, row, rows, x);
    } else {
        const StcLayer& layer = net.layers[from];
        const void* mixed = products.operand(b.mixed + row * inner, rows, inner, normal);
        products.multiply(End::kAdd, {mixed, rows, products.filled(inner), layer.second, 0, inner, 0, dim,
                                      output_bias(net, layer, steps, row, rows, x), x, dim});
    }
    int64_t next = from + 1;
    for (; next < net.layer_count && !net.layers[next].attention; ++next) {
        const StcLayer& layer = net.layers[next];
        mlp(net, layer, steps, row, rows, x, normal, normal + operand);
        if (layer.norm_scale != nullptr) norm_after(net, layer, row, rows, x);
    }
    if (next == net.layer_count) {
        head(net, x, rows, b.output + row * 3);
    } else {
        const StcLayer& layer = net.layers[next];
        products.normalise(x, rows, dim, net.epsilon, normal);
        products.multiply(End::kStore, {normal, rows, products.filled(dim), layer.first, 0, dim, 0, 3 * inner,
                                        layer.first_bias, b.qkv + row * 3 * inner, 3 * inner});
    }
    products.leave();
    return next;
}

// The rows of a block: all threads get the same number of blocks, and all blocks the same rows but for the last
// ones.
int64_t block_rows(int64_t tokens, int64_t multiple, int threads) {
    if (tokens == 0) return multiple;
    const int64_t shared = smaller(threads, (tokens + kLeastRows - 1) / kLeastRows);
    const int64_t blocks = up_to_multiple((tokens + kMostRows - 1) / kMostRows, shared);
    return up_to_multiple((tokens + blocks - 1) / blocks, multiple);
}

// Runs a network over `tokens` rows; mix(layer) attends between two segments.
template <typename Mix>
void run(const StcNetwork& net, const StcSteps& steps, int64_t tokens, const StcBuffers& b, int threads,
         Mix&& mix) {
    const int64_t most = block_rows(tokens, net.products->rows, threads);
    const int64_t blocks = (tokens + most - 1) / most;
    int64_t from = -1;
    while (from < net.layer_count) {
        const int64_t here = from;
        parallel_for(0, blocks, 1, threads, [&](int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; ++block) {
                const int64_t row = block * most;
                segment(net, steps, here, row, smaller(most, tokens - row), b);
            }
        });
        do ++from;
        while (from < net.layer_count && !net.layers[from].attention);
        if (from < net.layer_count) mix(net.layers[from]);
    }
}

void windows(const StcNetwork& net, int64_t step, int64_t batch, int64_t frames, const StcBuffers& b,
             int threads) {
    const StcShape shape{batch, frames, net.joints, net.width, net.kernel_heads, net.band, net.scale(), threads};
    const StcKernels kernels = stc_kernels();
    run(net, {step, nullptr}, batch * frames * net.joints, b, threads, [&](const StcLayer& layer) {
        if (layer.mix == Mix::kStc) {
            kernels.forward(shape, b.qkv, layer.convolution, layer.mix_bias, b.mixed);
        } else {
            full_attention(net, layer.mix == Mix::kFrames, batch, frames, b, threads, scratch_of);
        }
    });
}

void frame(const StcNetwork& net, const StcSteps& steps, int64_t frames, const StcBuffers& b,
           const StcMemory& memory, int threads) {
    const int64_t ring = memory.streams * net.joints * ring_room(memory.slots) * net.inner / 2;
    const int64_t recent = memory.streams * 3 * net.joints * net.inner;
    int64_t attention = 0;
    run(net, steps, frames * net.joints, b, threads, [&](const StcLayer& layer) {
        const FrameMix m{frames,
                         net.joints,
                         net.kernel_heads,
                         net.width,
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
                         memory.of,
                         scratch_of(frame_scratch(net.joints, memory.slots))};
        with_heads(m.heads, m.width, FrameCall{m});
        ++attention;
    });
}

}  // namespace

NetworkKernels network_kernels() { return {windows, frame}; }

}  // namespace refiner::REFINER_ISA_NAMESPACE
