// Networks of STC blocks: windows of denoisers and lifters, and causal networks frame by frame.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "check.h"
#include "reference.h"
#include "stc_network.h"

namespace refiner::test {
namespace {

struct Size {
    int64_t dim, heads, joints, hidden, band, steps, features;
    int mlps;  // 0: a lifter
};

std::vector<float> weights(Random& random, int64_t outputs, int64_t inputs) {
    return random.floats(outputs * inputs, 1.0 / std::sqrt(static_cast<double>(inputs)));
}

// The two products of a layer and their biases.
ReferenceLayer layer_of(Random& random, const Size& size, int64_t outputs, int64_t inputs) {
    ReferenceLayer layer;
    layer.hidden = inputs;
    layer.first = weights(random, outputs, size.dim), layer.first_bias = random.floats(outputs);
    layer.second = weights(random, size.dim, inputs), layer.second_bias = random.floats(size.steps * size.dim);
    return layer;
}

ReferenceNetwork draw(Random& random, const Size& size) {
    ReferenceNetwork net;
    net.features = size.features, net.dim = size.dim, net.heads = size.heads, net.joints = size.joints;
    net.band = size.band, net.steps = size.steps, net.gelu_after_embedding = size.mlps == 0;
    const int64_t dim = size.dim, half = dim / 2;
    net.embedding = weights(random, dim, size.features);
    net.joint_embedding = random.floats(size.steps * size.joints * dim);
    net.head = weights(random, 3, dim);
    const auto attention = [&] {
        ReferenceLayer layer = layer_of(random, size, 3 * dim, dim);
        layer.attention = true;
        layer.convolution = random.floats(2 * 9 * half, 0.3);
        layer.mix_bias = random.floats(2 * size.joints * half);
        net.layers.push_back(layer);
    };
    const auto mlp = [&] { net.layers.push_back(layer_of(random, size, size.hidden, size.hidden)); };
    attention();
    if (size.mlps != 1) mlp();
    attention();
    mlp();
    return net;
}

// Blocks of MixSTE, one over the joints and one over the frames, twice, with their norms and positions.
ReferenceNetwork draw_mixste(Random& random, const Size& size, int64_t frames) {
    ReferenceNetwork net;
    net.features = size.features, net.dim = size.dim, net.heads = size.heads, net.joints = size.joints;
    net.steps = size.steps, net.epsilon = 1e-6f, net.head_epsilon = 1e-5f;
    const int64_t dim = size.dim;
    net.embedding = weights(random, dim, size.features);
    net.joint_embedding = random.floats(size.steps * size.joints * dim);
    net.head = weights(random, 3, dim), net.head_bias = random.floats(3);
    for (int block = 0; block < 3; ++block) {
        ReferenceLayer layer = layer_of(random, size, 3 * dim, dim);
        layer.attention = true;
        layer.mix = block % 2 == 0 ? Mix::kJoints : Mix::kFrames;
        net.layers.push_back(layer);
        layer = layer_of(random, size, size.hidden, size.hidden);
        layer.norm_scale = random.floats(dim), layer.norm_shift = random.floats(dim);
        if (block == 0) layer.positions = random.floats(frames * dim);
        net.layers.push_back(layer);
    }
    return net;
}

// The same network, packed for the kernels.
class Packed {
 public:
    explicit Packed(const ReferenceNetwork& from, int64_t frames = 0, Precision precision = Precision::kFloat32)
        : kernels_(select_network_kernels()) {
        net.products = select_products(precision);
        net.float32 = select_products(Precision::kFloat32);
        net.features = from.features, net.dim = from.dim, net.heads = from.heads, net.joints = from.joints;
        net.kernel_heads = from.heads, net.width = from.dim / (2 * from.heads), net.inner = from.dim;
        net.band = from.band, net.steps = from.steps, net.gelu_after_embedding = from.gelu_after_embedding;
        net.embedding = pack(*net.float32, from.embedding, from.dim);
        net.joint_embedding = from.joint_embedding.data();
        net.head = from.head.data();
        net.epsilon = from.epsilon, net.head_epsilon = from.head_epsilon, net.frames = frames;
        net.head_bias = from.head_bias.empty() ? nullptr : from.head_bias.data();
        for (const ReferenceLayer& layer : from.layers) {
            StcLayer packed;
            packed.attention = layer.attention;
            packed.mix = layer.mix;
            packed.norm_scale = layer.norm_scale.empty() ? nullptr : layer.norm_scale.data();
            packed.norm_shift = layer.norm_shift.data();
            packed.positions = layer.positions.empty() ? nullptr : layer.positions.data();
            packed.first = pack(*net.products, layer.first, layer.attention ? 3 * from.dim : layer.hidden);
            packed.second = pack(*net.products, layer.second, from.dim);
            packed.first_bias = layer.first_bias.data();
            packed.second_bias = layer.second_bias.data();
            packed.convolution = layer.convolution.data();
            packed.mix_bias = layer.mix_bias.data();
            layers_.push_back(packed);
        }
        net.layers = layers_.data();
        net.layer_count = static_cast<int64_t>(layers_.size());
    }

    std::vector<float> windows(int64_t step, int64_t batch, int64_t frames, const std::vector<float>& input,
                               int threads) const {
        std::vector<float> output(static_cast<size_t>(batch * frames * net.joints * 3));
        kernels_.windows(net, step, batch, frames, buffers(input, output), threads);
        return output;
    }

    std::vector<float> frame(int64_t step, int64_t streams, const std::vector<float>& input,
                             const StcMemory& memory, int threads) const {
        // The frames of the streams that memory.of names, behind each other.
        const int64_t size = net.joints * net.features;
        std::vector<float> some, found(static_cast<size_t>(streams * net.joints * 3));
        for (int64_t f = 0; f < streams; ++f) {
            some.insert(some.end(), input.begin() + memory.of[f] * size,
                        input.begin() + (memory.of[f] + 1) * size);
        }
        kernels_.frame(net, {step, nullptr}, streams, buffers(some, found), memory, threads);
        std::vector<float> output(static_cast<size_t>(memory.streams * net.joints * 3));
        for (int64_t f = 0; f < streams; ++f) {
            std::copy_n(found.begin() + f * net.joints * 3, net.joints * 3,
                        output.begin() + memory.of[f] * net.joints * 3);
        }
        return output;
    }

    StcNetwork net;

 private:
    PackedLinear pack(const Products& products, const std::vector<float>& weight, int64_t outputs) {
        const int64_t inputs = static_cast<int64_t>(weight.size()) / outputs;
        memory_.emplace_back(static_cast<size_t>(products.packed_bytes(outputs, inputs)));
        products.pack(weight.data(), outputs, inputs, memory_.back().data());
        return {inputs, outputs, memory_.back().data()};
    }

    StcBuffers buffers(const std::vector<float>& input, std::vector<float>& output) const {
        const auto tokens = static_cast<int64_t>(output.size()) / 3;
        workspace_.resize(static_cast<size_t>(tokens * 5 * net.dim));
        float* memory = workspace_.data();
        return {input.data(), memory, memory + tokens * net.dim, memory + tokens * 4 * net.dim, output.data()};
    }

    const NetworkKernels kernels_;
    std::vector<StcLayer> layers_;
    std::vector<std::vector<char>> memory_;
    mutable std::vector<float> workspace_;
};

std::string named(const Size& s, int64_t batch, int64_t frames) {
    return "C " + std::to_string(s.dim) + ", H " + std::to_string(s.heads) + ", J " + std::to_string(s.joints) +
           ", MLP " + std::to_string(s.hidden) + ", " + std::to_string(batch) + " x " + std::to_string(frames) +
           " frames";
}

// The bound of the project for float32 is 1e-5 of the size of the results. In bfloat16, a number that lies between
// two may be rounded to the other one.
double bound_of(Precision precision) { return precision == Precision::kFloat32 ? 1e-5 : 2e-2; }

void check_windows(Random& random, const Size& size, const ReferenceNetwork& net, int64_t batch, int64_t frames,
                   Precision precision = Precision::kFloat32) {
    const Packed packed(net, frames, precision);
    const bool bfloat16 = precision == Precision::kBfloat16;
    const double bound = bound_of(precision);
    std::vector<float> input = random.floats(batch * frames * size.joints * size.features);
    // A missing number in the second window stays there.
    if (batch > 1) input[input.size() / static_cast<size_t>(batch) + 1] = std::nanf("");
    for (int64_t step = 0; step < size.steps; ++step) {
        const std::string what = named(size, batch, frames) + ", step " + std::to_string(step);
        const Doubles expected = expected_output(net, step, batch, frames, input, bfloat16);
        const std::vector<float> found = packed.windows(step, batch, frames, input, 1);
        close(what, found, expected, bound, bound);
        same("3 threads, " + what, packed.windows(step, batch, frames, input, 3), found);
        if (batch > 1) {
            const auto count = static_cast<int64_t>(input.size()) / batch;
            const std::vector<float> last(input.end() - count, input.end());
            const std::vector<float> alone = packed.windows(step, 1, frames, last, 1);
            same("alone, " + what, alone,
                 std::vector<float>(found.end() - static_cast<int64_t>(alone.size()), found.end()));
        }
    }
}

// Streams that begin one after the other, against whole windows of what each has had.
void check_frames(Random& random, const Size& size, int64_t streams, int64_t frames, int threads,
                  Precision precision = Precision::kFloat32) {
    const ReferenceNetwork net = draw(random, size);
    const Packed packed(net, 0, precision);
    const double bound = bound_of(precision);
    const int64_t joints = size.joints, dim = size.dim, slots = size.band, tokens = streams * joints;
    const int64_t one = joints * size.features;
    int64_t attentions = 0;
    for (const ReferenceLayer& layer : net.layers) attentions += layer.attention ? 1 : 0;
    std::vector<std::vector<float>> seen(static_cast<size_t>(streams)), given(seen.size());
    // The memory is full of NaN: nothing that a stream has not written may be read.
    const float nan = std::nanf("");
    std::vector<float> keys(static_cast<size_t>(attentions * tokens * ring_room(slots) * dim / 2), nan),
        values = keys;
    std::vector<float> recent(static_cast<size_t>(attentions * tokens * 3 * dim), nan);
    std::vector<int64_t> counts(static_cast<size_t>(streams));
    const auto active = std::make_unique<bool[]>(static_cast<size_t>(streams));
    for (int64_t t = 0; t < frames + streams - 1; ++t) {
        const std::vector<float> input = random.floats(streams * one);
        for (int64_t s = 0; s < streams; ++s) active[static_cast<size_t>(s)] = t >= s && t < s + frames;
        std::vector<int64_t> of, count;
        for (int64_t s = 0; s < streams; ++s) {
            if (active[static_cast<size_t>(s)]) of.push_back(s), count.push_back(counts[static_cast<size_t>(s)]);
        }
        const StcMemory memory{slots, streams, keys.data(), values.data(), recent.data(), count.data(), of.data()};
        const auto here = static_cast<int64_t>(of.size());
        const std::vector<float> found = packed.frame(0, here, input, memory, threads);
        for (int64_t s = 0; s < streams; ++s) {
            const auto at = static_cast<size_t>(s);
            if (!active[at]) continue;
            ++counts[at];
            seen[at].insert(seen[at].end(), input.begin() + s * one, input.begin() + (s + 1) * one);
            given[at].insert(given[at].end(), found.begin() + s * joints * 3,
                             found.begin() + (s + 1) * joints * 3);
        }
    }
    for (int64_t s = 0; s < streams; ++s) {
        const auto at = static_cast<size_t>(s);
        close(named(size, streams, frames) + ", stream " + std::to_string(s), given[at],
              expected_output(net, 0, 1, frames, seen[at], precision == Precision::kBfloat16), bound, bound);
    }
}

}  // namespace

void test_windows() {
    Random random(20265);
    // C, H, J, hidden, band, steps, features, mlps
    const auto check = [&](const Size& size, int64_t batch, int64_t frames) {
        check_windows(random, size, draw(random, size), batch, frames);
    };
    check({64, 2, 17, 128, 0, 2, 5, 1}, 1, 9);
    check({64, 4, 5, 64, 0, 1, 9, 2}, 3, 5);
    check({64, 8, 17, 192, 0, 1, 6, 0}, 1, 3);
    check({64, 16, 17, 512, 0, 1, 9, 1}, 2, 2);
    check({96, 4, 17, 96, 0, 1, 9, 1}, 1, 5);
    check({96, 8, 5, 288, 0, 2, 2, 0}, 3, 7);
    check({128, 4, 17, 256, 0, 1, 9, 1}, 1, 3);
    check({128, 8, 3, 384, 0, 1, 5, 2}, 2, 4);
    check({128, 16, 17, 128, 0, 1, 9, 0}, 1, 1);
    check({16, 2, 17, 48, 0, 1, 9, 2}, 3, 8);
    check({8, 2, 7, 24, 0, 1, 3, 1}, 2, 6);
    check({64, 4, 17, 128, 3, 1, 9, 1}, 1, 6);
}

void test_mixste() {
    Random random(20268);
    const auto check = [&](const Size& size, int64_t batch, int64_t frames) {
        check_windows(random, size, draw_mixste(random, size, frames), batch, frames);
    };
    check({64, 8, 17, 128, 0, 2, 2, 1}, 1, 9);
    check({96, 3, 5, 192, 0, 1, 5, 1}, 3, 7);
    check({128, 1, 17, 128, 0, 1, 6, 1}, 1, 3);
    check({20, 5, 3, 40, 0, 1, 2, 1}, 2, 70);  // more frames than a panel has columns
    check({64, 16, 17, 64, 0, 1, 2, 1}, 2, 1);
}

void test_frames() {
    Random random(20266);
    check_frames(random, {64, 4, 17, 128, 4, 1, 9, 1}, 1, 9, 1);
    check_frames(random, {64, 2, 5, 128, 3, 1, 9, 2}, 3, 7, 2);
    check_frames(random, {96, 8, 5, 192, 5, 1, 9, 1}, 2, 8, 1);
    check_frames(random, {128, 8, 17, 128, 9, 1, 9, 1}, 1, 4, 3);
    check_frames(random, {64, 16, 5, 64, 3, 1, 9, 0}, 3, 5, 1);
    check_frames(random, {16, 2, 17, 48, 6, 1, 9, 1}, 2, 13, 1);
}

void test_bfloat16_networks() {
    constexpr Precision kBfloat16 = Precision::kBfloat16;
    if (select_products(kBfloat16) == nullptr) return;  // a group without a comparison does not pass
    Random random(20270);
    for (const Size& size : {Size{64, 2, 17, 128, 0, 2, 5, 1}, Size{96, 4, 5, 96, 0, 1, 9, 2},
                             Size{128, 8, 17, 256, 0, 1, 9, 0}, Size{20, 5, 3, 44, 0, 1, 3, 1}}) {
        const bool mixste = size.heads == 5;
        const ReferenceNetwork net = mixste ? draw_mixste(random, size, 4) : draw(random, size);
        check_windows(random, size, net, size.dim == 96 ? 3 : 1, 4, kBfloat16);
    }
    check_frames(random, {64, 4, 17, 128, 3, 1, 9, 1}, 2, 5, 2, kBfloat16);
}

}  // namespace refiner::test
