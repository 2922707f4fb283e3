// STC attention and plain self-attention, forward and backward.
#include <cmath>
#include <limits>

#include "check.h"
#include "reference.h"

namespace refiner::test {
namespace {

struct Case {
    int64_t batch, frames, joints, width, heads, band;
    double size;  // deviation of the queries and keys: large ones make weights of nearly 0 and 1
};

// Every number of heads and every width, odd numbers of frames, windows and joints.
const Case kCases[] = {
    {1, 1, 17, 16, 2, 0, 1.0}, {2, 2, 5, 12, 4, 0, 1.0},   {3, 3, 17, 2, 2, 0, 1.0},  {1, 9, 17, 8, 4, 0, 3.0},
    {2, 5, 3, 6, 8, 0, 1.0},   {3, 7, 1, 4, 16, 0, 1.0},   {1, 4, 17, 16, 4, 0, 1.0}, {1, 6, 2, 16, 8, 0, 6.0},
    {2, 3, 4, 12, 16, 0, 1.0}, {1, 3, 17, 16, 16, 0, 1.0}, {1, 8, 6, 8, 2, 3, 1.0},   {2, 9, 5, 4, 8, 4, 2.0},
    {3, 1, 7, 2, 16, 3, 1.0},  {1, 5, 17, 6, 2, 9, 1.0},
};

std::string named(const Case& c) {
    return std::to_string(c.batch) + " windows of " + std::to_string(c.frames) + " x " + std::to_string(c.joints) +
           ", D " + std::to_string(c.width) + ", H " + std::to_string(c.heads) + ", band " +
           std::to_string(c.band);
}

struct Inputs {
    StcShape shape;
    std::vector<float> qkv, convolution, bias;
};

Inputs draw(Random& random, const Case& c, int threads) {
    const int64_t part = c.width * c.heads, tokens = c.batch * c.frames * c.joints;
    const float scale = 1.0f / std::sqrt(static_cast<float>(part));
    Inputs inputs{{c.batch, c.frames, c.joints, c.width, c.heads, c.band, scale, threads},
                  random.floats(tokens * 6 * part, c.size),
                  random.floats(2 * 9 * part, 0.3),
                  random.floats(2 * c.joints * part)};
    return inputs;
}

void check_rows(Random& random, int64_t rows, int64_t length, int64_t width, int64_t heads) {
    const int64_t part = width * heads;
    const RowsShape shape{rows, length, width, heads, 1.0f / std::sqrt(static_cast<float>(width)), 2};
    const std::vector<float> qkv = random.floats(rows * length * 3 * part);
    const std::vector<float> grad_out = random.floats(rows * length * part);
    std::vector<float> out(grad_out.size()), gradients(qkv.size());
    Doubles expected(out.size());
    expected_rows(shape, wide(qkv), expected);
    const StcKernels kernels = select_stc_kernels();
    kernels.rows_forward(shape, qkv.data(), out.data());
    kernels.rows_backward(shape, qkv.data(), grad_out.data(), gradients.data());
    const std::string what = std::to_string(rows) + " rows of " + std::to_string(length) + ", D " +
                             std::to_string(width) + ", H " + std::to_string(heads);
    close("self-attention, " + what, out, expected, 3e-6, 3e-6);
    close("its gradients, " + what, gradients, expected_rows_gradients(shape, wide(qkv), wide(grad_out)), 1e-5,
          1e-5);
}

}  // namespace

void test_attention() {
    Random random(20263);
    const StcKernels kernels = select_stc_kernels();
    for (const Case& c : kCases) {
        Inputs in = draw(random, c, 1);
        if (c.batch > 1) in.qkv[in.qkv.size() / static_cast<size_t>(c.batch) + 5] = std::nanf("");
        std::vector<float> out(in.qkv.size() / 3), again(out.size());
        Doubles expected(out.size());
        expected_attention(in.shape, wide(in.qkv), wide(in.convolution), wide(in.bias), expected);
        kernels.forward(in.shape, in.qkv.data(), in.convolution.data(), in.bias.data(), out.data());
        close(named(c), out, expected, 5e-6 * c.size * c.size, 5e-6);
        in.shape.threads = 3;
        kernels.forward(in.shape, in.qkv.data(), in.convolution.data(), in.bias.data(), again.data());
        same("3 threads, " + named(c), again, out);
    }
    check_rows(random, 5, 17, 8, 8);
    check_rows(random, 3, 9, 16, 2);
    check_rows(random, 1, 1, 4, 16);
}

void test_attention_gradients() {
    Random random(20264);
    const StcKernels kernels = select_stc_kernels();
    for (const Case& c : kCases) {
        Inputs in = draw(random, c, 1);
        std::vector<float> grad_out = random.floats(static_cast<int64_t>(in.qkv.size()) / 3);
        const AttentionGradients expected =
            expected_gradients(in.shape, wide(in.qkv), wide(in.convolution), wide(grad_out));
        std::vector<float> qkv(in.qkv.size()), convolution(in.convolution.size()), bias(in.bias.size());
        kernels.backward(in.shape, in.qkv.data(), in.convolution.data(), grad_out.data(), qkv.data(),
                         convolution.data(), bias.data());
        close("qkv, " + named(c), qkv, expected.qkv, 1e-5 * c.size * c.size, 1e-5);
        close("convolution, " + named(c), convolution, expected.convolution, 5e-5, 1e-5);
        close("bias, " + named(c), bias, expected.bias, 5e-5, 1e-5);
        in.shape.threads = 3;
        std::vector<float> again(qkv.size());
        kernels.backward(in.shape, in.qkv.data(), in.convolution.data(), grad_out.data(), again.data(),
                         convolution.data(), bias.data());
        same("3 threads, " + named(c), again, qkv);
    }
    // The reference's own gradient is the slope of the reference.
    const Case c{2, 4, 5, 4, 2, 3, 1.0};
    const Inputs in = draw(random, c, 1);
    const Doubles at = wide(in.qkv), taps = wide(in.convolution), bias = wide(in.bias);
    const Doubles direction = random.normals(static_cast<int64_t>(at.size()));
    const Doubles weight = random.normals(static_cast<int64_t>(at.size()) / 3);
    const auto value = [&](double along) {
        Doubles moved = at, out(weight.size());
        for (size_t i = 0; i < moved.size(); ++i) moved[i] += along * direction[i];
        expected_attention(in.shape, moved, taps, bias, out);
        double sum = 0.0;
        for (size_t i = 0; i < out.size(); ++i) sum += out[i] * weight[i];
        return sum;
    };
    const AttentionGradients gradients = expected_gradients(in.shape, at, taps, weight);
    double slope = 0.0;
    for (size_t i = 0; i < direction.size(); ++i) slope += direction[i] * gradients.qkv[i];
    constexpr double kStep = 1e-5;
    close("slope of the reference", Doubles{(value(kStep) - value(-kStep)) / (2.0 * kStep)}, Doubles{slope}, 1e-6,
          1e-7);
}

}  // namespace refiner::test
