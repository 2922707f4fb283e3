#include "reference.h"

#include <cmath>
#include <cstring>

namespace refiner::test {
namespace {

// One head of one row of tokens: the numbers of token i lie at `first + i * stride + d * between`.
struct HeadRow {
    int64_t length, stride, width, between, band;
    double scale;
    int64_t q, k, v;  // where the first token's queries, keys and values begin

    bool sees(int64_t i, int64_t j) const { return band == 0 || (j <= i && i - j < band); }
    int64_t at(int64_t part, int64_t i, int64_t d) const { return part + i * stride + d * between; }

    // The weights [length, length] of the softmax.
    Doubles weights(const Doubles& qkv) const {
        Doubles result(static_cast<size_t>(length * length));
        for (int64_t i = 0; i < length; ++i) {
            double* row = result.data() + i * length;
            double largest = -1e300, total = 0.0;
            for (int64_t j = 0; j < length; ++j) {
                row[j] = 0.0;
                for (int64_t d = 0; d < width; ++d) row[j] += qkv[at(q, i, d)] * qkv[at(k, j, d)];
                row[j] *= scale;
                if (sees(i, j) && row[j] > largest) largest = row[j];
            }
            for (int64_t j = 0; j < length; ++j) total += row[j] = sees(i, j) ? std::exp(row[j] - largest) : 0.0;
            for (int64_t j = 0; j < length; ++j) row[j] = sees(i, j) ? row[j] / total : 0.0;
        }
        return result;
    }

    void forward(const Doubles& qkv, int64_t out, int64_t out_stride, Doubles& to) const {
        const Doubles p = weights(qkv);
        for (int64_t i = 0; i < length; ++i) {
            for (int64_t d = 0; d < width; ++d) {
                double sum = 0.0;
                for (int64_t j = 0; j < length; ++j) {
                    if (sees(i, j)) sum += p[i * length + j] * qkv[at(v, j, d)];
                }
                to[out + i * out_stride + d * between] += sum;
            }
        }
    }

    void backward(const Doubles& qkv, const Doubles& grad_out, int64_t out, int64_t out_stride,
                  Doubles& grad) const {
        const Doubles p = weights(qkv);
        for (int64_t i = 0; i < length; ++i) {
            Doubles product(static_cast<size_t>(length));
            double mean = 0.0;
            for (int64_t j = 0; j < length; ++j) {
                for (int64_t d = 0; d < width; ++d) {
                    product[j] += grad_out[out + i * out_stride + d * between] * qkv[at(v, j, d)];
                }
                mean += p[i * length + j] * product[j];
            }
            for (int64_t j = 0; j < length; ++j) {
                const double weight = p[i * length + j], score = weight * (product[j] - mean) * scale;
                for (int64_t d = 0; d < width; ++d) {
                    grad[at(v, j, d)] += weight * grad_out[out + i * out_stride + d * between];
                    grad[at(q, i, d)] += score * qkv[at(k, j, d)];
                    grad[at(k, j, d)] += score * qkv[at(q, i, d)];
                }
            }
        }
    }
};

// Calls visit(row, out, out_stride) for every head of every row of both halves.
template <typename Visit>
void every_row(const StcShape& s, Visit&& visit) {
    const int64_t part = s.width * s.heads;
    const double scale = static_cast<double>(s.scale);
    for (int64_t b = 0; b < s.batch; ++b) {
        const int64_t window = b * s.frames * s.joints;
        for (int64_t h = 0; h < s.heads; ++h) {
            for (int64_t t = 0; t < s.frames; ++t) {
                const int64_t token = window + t * s.joints, from = token * 6 * part + h;
                visit(HeadRow{s.joints, 6 * part, s.width, s.heads, 0, scale, from, from + part, from + 2 * part},
                      token * 2 * part + h, 2 * part);
            }
            for (int64_t j = 0; j < s.joints; ++j) {
                const int64_t token = window + j, from = token * 6 * part + 3 * part + h;
                visit(HeadRow{s.frames, s.joints * 6 * part, s.width, s.heads, s.band, scale, from, from + part,
                              from + 2 * part},
                      token * 2 * part + part + h, s.joints * 2 * part);
            }
        }
    }
}

// Calls visit(out, value, tap) for every channel of every token and every tap that lies inside the window.
template <typename Visit>
void every_tap(const StcShape& s, Visit&& visit) {
    const int64_t part = s.width * s.heads;
    for (int64_t token = 0; token < s.batch * s.frames * s.joints; ++token) {
        const int64_t j = token % s.joints, t = token / s.joints % s.frames, b = token / s.joints / s.frames;
        for (int64_t row = 0; row < 3; ++row) {
            for (int64_t column = 0; column < 3; ++column) {
                const int64_t frame = t + row - (s.band > 0 ? 2 : 1), joint = j + column - 1;
                if (frame < 0 || frame >= s.frames || joint < 0 || joint >= s.joints) continue;
                const int64_t other = (b * s.frames + frame) * s.joints + joint;
                for (int64_t half = 0; half < 2; ++half) {
                    for (int64_t c = 0; c < part; ++c) {
                        visit((token * 2 + half) * part + c, (other * 6 + half * 3 + 2) * part + c,
                              (half * 9 + row * 3 + column) * part + c);
                    }
                }
            }
        }
    }
}

template <typename Visit>
void every_head(const RowsShape& s, Visit&& visit) {
    const int64_t part = s.width * s.heads;
    for (int64_t n = 0; n < s.rows; ++n) {
        for (int64_t h = 0; h < s.heads; ++h) {
            const int64_t from = n * s.length * 3 * part + h;
            visit(HeadRow{s.length, 3 * part, s.width, s.heads, 0, static_cast<double>(s.scale), from, from + part,
                          from + 2 * part},
                  n * s.length * part + h, part);
        }
    }
}

// out [rows, outputs] = a [rows, inputs] weight^T + bias
Doubles linear(Doubles a, const std::vector<float>& weight, const float* bias, int64_t outputs, bool bfloat16) {
    const auto rounded = [](double value) { return bfloat16_value(bfloat16_of(static_cast<float>(value))); };
    Doubles factor(weight.begin(), weight.end());
    if (bfloat16) {
        for (double& value : a) value = rounded(value);
        for (double& value : factor) value = rounded(value);
    }
    const auto inputs = static_cast<int64_t>(weight.size()) / outputs;
    const auto rows = static_cast<int64_t>(a.size()) / inputs;
    Doubles out(static_cast<size_t>(rows * outputs));
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < outputs; ++o) {
            double sum = bias != nullptr ? static_cast<double>(bias[o]) : 0.0;
            const double* row = a.data() + r * inputs;
            const double* factors = factor.data() + o * inputs;
            for (int64_t k = 0; k < inputs; ++k) sum += row[k] * factors[k];
            out[r * outputs + o] = sum;
        }
    }
    return out;
}

void add(Doubles& x, const Doubles& more) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += more[i];
}

// Full attention over the joints of a frame or the frames of a joint: qkv [B, T, J, 3, H, D] to [B, T, J, H, D].
// The factor of the scores is in the weights.
Doubles full_attention(const ReferenceNetwork& net, bool over_frames, int64_t batch, int64_t frames,
                       const Doubles& qkv) {
    const int64_t dim = net.dim, width = dim / net.heads, joints = net.joints;
    Doubles out(static_cast<size_t>(batch * frames * joints * dim));
    for (int64_t b = 0; b < batch; ++b) {
        for (int64_t h = 0; h < net.heads; ++h) {
            for (int64_t n = 0; n < (over_frames ? joints : frames); ++n) {
                const int64_t token = b * frames * joints + (over_frames ? n : n * joints);
                const int64_t from = token * 3 * dim + h * width, step = over_frames ? joints : 1;
                const HeadRow row{over_frames ? frames : joints,
                                  step * 3 * dim,
                                  width,
                                  1,
                                  0,
                                  1.0,
                                  from,
                                  from + dim,
                                  from + 2 * dim};
                row.forward(qkv, token * dim + h * width, step * dim, out);
            }
        }
    }
    return out;
}

// A norm with its scale and shift, and the positions of the frames.
void norm_after(const ReferenceNetwork& net, const ReferenceLayer& layer, int64_t frames, Doubles& x) {
    const auto dim = static_cast<size_t>(net.dim);
    x = expected_norm(x, net.dim, static_cast<double>(net.epsilon));
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] =
            x[i] * static_cast<double>(layer.norm_scale[i % dim]) + static_cast<double>(layer.norm_shift[i % dim]);
        const size_t frame = i / dim / static_cast<size_t>(net.joints) % static_cast<size_t>(frames);
        if (!layer.positions.empty()) x[i] += static_cast<double>(layer.positions[frame * dim + i % dim]);
    }
}

}  // namespace

Doubles expected_norm(const Doubles& x, int64_t dim, double epsilon) {
    Doubles out(x.size());
    for (size_t first = 0; first < x.size(); first += static_cast<size_t>(dim)) {
        double mean = 0.0, variance = 0.0;
        for (int64_t c = 0; c < dim; ++c) mean += x[first + c] / static_cast<double>(dim);
        for (int64_t c = 0; c < dim; ++c) variance += (x[first + c] - mean) * (x[first + c] - mean);
        variance /= static_cast<double>(dim);
        for (int64_t c = 0; c < dim; ++c) out[first + c] = (x[first + c] - mean) / std::sqrt(variance + epsilon);
    }
    return out;
}

uint16_t bfloat16_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return static_cast<uint16_t>(value != value ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

double bfloat16_value(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return static_cast<double>(value);
}

double expected_gelu(double x) { return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0))); }

void expected_attention(const StcShape& s, const Doubles& qkv, const Doubles& convolution, const Doubles& bias,
                        Doubles& out) {
    const int64_t part = s.width * s.heads;
    for (int64_t token = 0; token < s.batch * s.frames * s.joints; ++token) {
        for (int64_t half = 0; half < 2; ++half) {
            for (int64_t c = 0; c < part; ++c) {
                out[(token * 2 + half) * part + c] = bias[(half * s.joints + token % s.joints) * part + c];
            }
        }
    }
    every_row(s, [&](const HeadRow& row, int64_t at, int64_t stride) { row.forward(qkv, at, stride, out); });
    every_tap(s, [&](int64_t to, int64_t value, int64_t tap) { out[to] += convolution[tap] * qkv[value]; });
}

AttentionGradients expected_gradients(const StcShape& s, const Doubles& qkv, const Doubles& convolution,
                                      const Doubles& grad_out) {
    const int64_t part = s.width * s.heads;
    AttentionGradients g{Doubles(qkv.size()), Doubles(convolution.size()),
                         Doubles(static_cast<size_t>(2 * s.joints * part))};
    every_row(s, [&](const HeadRow& row, int64_t at, int64_t stride) {
        row.backward(qkv, grad_out, at, stride, g.qkv);
    });
    every_tap(s, [&](int64_t to, int64_t value, int64_t tap) {
        g.qkv[value] += convolution[tap] * grad_out[to];
        g.convolution[tap] += qkv[value] * grad_out[to];
    });
    for (int64_t at = 0; at < static_cast<int64_t>(grad_out.size()); ++at) {
        const int64_t c = at % part, half = at / part % 2, joint = at / part / 2 % s.joints;
        g.bias[(half * s.joints + joint) * part + c] += grad_out[at];
    }
    return g;
}

void expected_rows(const RowsShape& s, const Doubles& qkv, Doubles& out) {
    every_head(s, [&](const HeadRow& row, int64_t at, int64_t stride) { row.forward(qkv, at, stride, out); });
}

Doubles expected_rows_gradients(const RowsShape& s, const Doubles& qkv, const Doubles& grad_out) {
    Doubles gradients(qkv.size());
    every_head(s, [&](const HeadRow& row, int64_t at, int64_t stride) {
        row.backward(qkv, grad_out, at, stride, gradients);
    });
    return gradients;
}

Doubles expected_output(const ReferenceNetwork& net, int64_t step, int64_t batch, int64_t frames,
                        const std::vector<float>& input, bool bfloat16) {
    const int64_t dim = net.dim;
    Doubles x = linear(Doubles(input.begin(), input.end()), net.embedding, nullptr, dim, false);
    for (size_t i = 0; i < x.size(); ++i) {
        if (net.gelu_after_embedding) x[i] = expected_gelu(x[i]);
        const size_t size = static_cast<size_t>(net.joints * dim), first = static_cast<size_t>(step) * size;
        x[i] += static_cast<double>(net.joint_embedding[first + i % size]);
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim / 2));
    const StcShape shape{batch, frames, net.joints, dim / (2 * net.heads), net.heads, net.band, scale, 1};
    for (const ReferenceLayer& layer : net.layers) {
        const float* bias = layer.second_bias.data() + step * dim;
        const int64_t width = layer.attention ? 3 * dim : layer.hidden;
        Doubles hidden = linear(expected_norm(x, dim, static_cast<double>(net.epsilon)), layer.first,
                                layer.first_bias.data(), width, bfloat16);
        if (!layer.attention) {
            for (double& value : hidden) value = expected_gelu(value);
        } else if (layer.mix != Mix::kStc) {
            hidden = full_attention(net, layer.mix == Mix::kFrames, batch, frames, hidden);
        } else {
            Doubles mixed(x.size());
            expected_attention(shape, hidden, Doubles(layer.convolution.begin(), layer.convolution.end()),
                               Doubles(layer.mix_bias.begin(), layer.mix_bias.end()), mixed);
            hidden = mixed;
        }
        add(x, linear(hidden, layer.second, bias, dim, bfloat16));
        if (!layer.norm_scale.empty()) norm_after(net, layer, frames, x);
    }
    if (net.head_epsilon > 0.0f) x = expected_norm(x, dim, static_cast<double>(net.head_epsilon));
    return linear(x, net.head, net.head_bias.empty() ? nullptr : net.head_bias.data(), 3, false);
}

}  // namespace refiner::test
