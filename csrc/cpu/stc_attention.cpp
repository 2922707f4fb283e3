// Fused STC attention on the CPU (see stc_attention.h). This file is compiled once for every instruction set, each
// time into another namespace, REFINER_ISA_NAMESPACE.

#include "stc_attention.h"

#include <cstring>

#include "parallel.h"
#include "scratch.h"
#include "stc_attend.h"
#include "stc_convolve.h"
#include "stc_rows.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// The gradients of attend_row. Writes grad_q, and adds to grad_k and grad_v, which the caller has set to zero.
template <int H, int D>
void attend_row_backward(const Row& row, float scale, const float* qkv, const float* grad_out, float* grad_qkv,
                         float* scratch) {
    using V = Vector<H>;
    using Lane = typename V::Lane;
    constexpr int64_t kPart = int64_t{D} * H;
    float* weights = scratch;
    float* products = scratch + row.length * H;
    for (int64_t i = 0; i < row.length; ++i) {
        Lane query[D];
        Lane gradient[D];
        for (int d = 0; d < D; ++d) {
            query[d] = V::load(qkv + i * row.qkv_stride + d * H) * scale;
            gradient[d] = V::load(grad_out + i * row.out_stride + d * H);
        }
        Lane largest = V::splat(-3.0e38f);
        for (int64_t j = row.first(i); j < row.last(i); ++j) {
            const float* key = qkv + j * row.qkv_stride + kPart;
            const float* value = key + kPart;
            Lane score = query[0] * V::load(key);
            Lane product = gradient[0] * V::load(value);
            for (int d = 1; d < D; ++d) {
                score += query[d] * V::load(key + d * H);
                product += gradient[d] * V::load(value + d * H);
            }
            V::store(weights + j * H, score);
            V::store(products + j * H, product);
            largest = V::larger(score, largest);
        }
        Lane total{};
        Lane mean{};
        for (int64_t j = row.first(i); j < row.last(i); ++j) {
            const Lane weight = V::exp(V::load(weights + j * H) - largest);
            V::store(weights + j * H, weight);
            total += weight;
            mean += weight * V::load(products + j * H);
        }
        const Lane inverse = V::splat(1.0f) / total;
        mean *= inverse;
        Lane grad_query[D] = {};
        for (int64_t j = row.first(i); j < row.last(i); ++j) {
            const float* key = qkv + j * row.qkv_stride + kPart;
            float* grad_key = grad_qkv + j * row.qkv_stride + kPart;
            float* grad_value = grad_key + kPart;
            const Lane weight = V::load(weights + j * H) * inverse;
            const Lane grad_score = weight * (V::load(products + j * H) - mean);
            for (int d = 0; d < D; ++d) {
                V::store(grad_value + d * H, V::load(grad_value + d * H) + weight * gradient[d]);
                V::store(grad_key + d * H, V::load(grad_key + d * H) + grad_score * query[d]);
                grad_query[d] += grad_score * V::load(key + d * H);
            }
        }
        for (int d = 0; d < D; ++d) V::store(grad_qkv + i * row.qkv_stride + d * H, grad_query[d] * scale);
    }
}

// The number of frames by which the taps are shifted to the past: 1 for causal attention.
int64_t lag(const StcShape& s) { return s.band > 0 ? 1 : 0; }

// Adds the transposed 3x3 convolution of `source` over (frames, joints) at one token to `target` (`channels`
// floats): the gradient of the convolution with respect to its source.
void convolve_token_backward(const StcShape& s, int64_t t, int64_t j, int64_t channels, const float* source,
                             int64_t source_stride, const float* taps, float* target) {
    for (int dt = -1; dt <= 1; ++dt) {
        const int64_t tt = t + dt + lag(s);
        if (tt < 0 || tt >= s.frames) continue;
        for (int dj = -1; dj <= 1; ++dj) {
            const int64_t jj = j + dj;
            if (jj < 0 || jj >= s.joints) continue;
            const int tap = (1 - dt) * 3 + (1 - dj);
            const float* __restrict from = source + (tt * s.joints + jj) * source_stride;
            const float* __restrict weight = taps + tap * channels;
            float* __restrict to = target;
            for (int64_t c = 0; c < channels; ++c) to[c] += weight[c] * from[c];
        }
    }
}

// Values under the taps of frame t, for one half of a window.
Convolution convolution_of(const StcShape& s, int64_t t, int64_t half, const float* window, const float* taps,
                           const float* bias, float* out) {
    const int64_t part = s.width * s.heads;
    Convolution c{
        s.joints,          part,    {}, 6 * part, taps + half * kTaps * part, bias + half * s.joints * part,
        out + half * part, 2 * part};
    for (int64_t row = 0; row < 3; ++row) {
        const int64_t other = t + row - 1 - lag(s);
        if (other < 0 || other >= s.frames) continue;
        c.frames[row] = window + other * s.joints * 6 * part + (half * 3 + 2) * part;
    }
    return c;
}

// The convolution writes both halves of every frame, then attention adds to them.
void run_forward(const StcShape& s, const float* qkv, const float* convolution, const float* bias, float* out) {
    const int64_t part = s.width * s.heads;
    const int64_t tokens = s.frames * s.joints;
    const Tokens joints{s.joints, 6 * part, 2 * part, 0, s.width, true};
    const Tokens frames{s.frames, s.joints * 6 * part, s.joints * 2 * part, s.band, s.width, true};

    parallel_for(0, s.batch * s.frames, 4, s.threads, [&](int64_t begin, int64_t end) {
        float* scratch = scratch_of(attend_scratch(s.joints));
        for (int64_t n = begin; n < end; ++n) {
            const float* window = qkv + (n / s.frames) * tokens * 6 * part;
            float* target = out + n * s.joints * 2 * part;
            for (int64_t half = 0; half < 2; ++half) {
                convolve(convolution_of(s, n % s.frames, half, window, convolution, bias, target));
            }
            attend(joints, s.heads, s.scale, qkv + n * s.joints * 6 * part, target, scratch);
        }
    });
    parallel_for(0, s.batch * s.joints, 2, s.threads, [&](int64_t begin, int64_t end) {
        float* scratch = scratch_of(attend_scratch(s.frames));
        for (int64_t n = begin; n < end; ++n) {
            const int64_t token = (n / s.joints) * tokens + n % s.joints;
            attend(frames, s.heads, s.scale, qkv + token * 6 * part + 3 * part, out + token * 2 * part + part,
                   scratch);
        }
    });
}

void run_rows_forward(const RowsShape& s, const float* qkv, float* out) {
    const int64_t part = s.width * s.heads;
    const Tokens row{s.length, 3 * part, part, 0, s.width, false};
    parallel_for(0, s.rows, 8, s.threads, [&](int64_t begin, int64_t end) {
        float* scratch = scratch_of(attend_scratch(s.length));
        for (int64_t n = begin; n < end; ++n) {
            attend(row, s.heads, s.scale, qkv + n * s.length * 3 * part, out + n * s.length * part, scratch);
        }
    });
}

// The gradient of the taps and of the bias for one window.
template <int64_t kPart>
void weights_backward(const StcShape& s, const float* window, const float* grad_out, float* grad_convolution,
                      float* grad_bias) {
    constexpr int64_t kQkv = 6 * kPart;
    constexpr int64_t kOut = 2 * kPart;
    for (int64_t half = 0; half < 2; ++half) {
        const float* values = window + (half * 3 + 2) * kPart;
        for (int64_t t = 0; t < s.frames; ++t) {
            for (int64_t j = 0; j < s.joints; ++j) {
                const float* __restrict gradient = grad_out + (t * s.joints + j) * kOut + half * kPart;
                float* __restrict to_bias = grad_bias + (half * s.joints + j) * kPart;
                for (int64_t c = 0; c < kPart; ++c) to_bias[c] += gradient[c];
                for (int tap = 0; tap < kTaps; ++tap) {
                    const int64_t tt = t + tap / 3 - 1 - lag(s);
                    const int64_t jj = j + tap % 3 - 1;
                    if (tt < 0 || tt >= s.frames || jj < 0 || jj >= s.joints) continue;
                    const float* __restrict value = values + (tt * s.joints + jj) * kQkv;
                    float* __restrict to = grad_convolution + (half * kTaps + tap) * kPart;
                    for (int64_t c = 0; c < kPart; ++c) to[c] += gradient[c] * value[c];
                }
            }
        }
    }
}

template <int H, int D>
void backward(const StcShape& s, const float* qkv, const float* convolution, const float* grad_out,
              float* grad_qkv, float* grad_convolution, float* grad_bias) {
    constexpr int64_t kPart = int64_t{D} * H;
    constexpr int64_t kQkv = 6 * kPart;
    constexpr int64_t kOut = 2 * kPart;
    const int64_t tokens = s.frames * s.joints;
    const Row joints{s.joints, kQkv, kOut, 0};
    const Row frames{s.frames, s.joints * kQkv, s.joints * kOut, s.band};
    const int64_t scratch_size = 2 * longer(s.frames, s.joints) * H;
    const int64_t convolution_size = 2 * kTaps * kPart;
    const int64_t bias_size = 2 * s.joints * kPart;
    // Every window has its own partial sum, and these are added in order. The result therefore does not depend on
    // the number of threads.
    const Buffer partial(s.batch * (convolution_size + bias_size));

    parallel_for(0, s.batch, 1, s.threads, [&](int64_t begin, int64_t end) {
        const Buffer scratch(scratch_size);
        for (int64_t b = begin; b < end; ++b) {
            const float* window = qkv + b * tokens * kQkv;
            const float* gradient = grad_out + b * tokens * kOut;
            float* target = grad_qkv + b * tokens * kQkv;
            std::memset(target, 0, tokens * kQkv * sizeof(float));
            for (int64_t t = 0; t < s.frames; ++t) {
                const int64_t token = t * s.joints;
                attend_row_backward<H, D>(joints, s.scale, window + token * kQkv, gradient + token * kOut,
                                          target + token * kQkv, scratch.data);
            }
            for (int64_t j = 0; j < s.joints; ++j) {
                attend_row_backward<H, D>(frames, s.scale, window + j * kQkv + 3 * kPart,
                                          gradient + j * kOut + kPart, target + j * kQkv + 3 * kPart,
                                          scratch.data);
            }
            for (int64_t token = 0; token < tokens; ++token) {
                for (int64_t half = 0; half < 2; ++half) {
                    convolve_token_backward(s, token / s.joints, token % s.joints, kPart, gradient + half * kPart,
                                            kOut, convolution + half * kTaps * kPart,
                                            target + token * kQkv + (half * 3 + 2) * kPart);
                }
            }
            float* sums = partial.data + b * (convolution_size + bias_size);
            weights_backward<kPart>(s, window, gradient, sums, sums + convolution_size);
        }
    });
    std::memset(grad_convolution, 0, convolution_size * sizeof(float));
    std::memset(grad_bias, 0, bias_size * sizeof(float));
    for (int64_t b = 0; b < s.batch; ++b) {
        const float* sums = partial.data + b * (convolution_size + bias_size);
        for (int64_t c = 0; c < convolution_size; ++c) grad_convolution[c] += sums[c];
        for (int64_t c = 0; c < bias_size; ++c) grad_bias[c] += sums[convolution_size + c];
    }
}

template <int H, int D>
void rows_backward(const RowsShape& s, const float* qkv, const float* grad_out, float* grad_qkv) {
    constexpr int64_t kPart = int64_t{D} * H;
    const Row row{s.length, 3 * kPart, kPart, 0};
    const int64_t size = s.length * 3 * kPart;
    parallel_for(0, s.rows, 8, s.threads, [&](int64_t begin, int64_t end) {
        const Buffer scratch(2 * s.length * H);
        for (int64_t n = begin; n < end; ++n) {
            std::memset(grad_qkv + n * size, 0, size * sizeof(float));
            attend_row_backward<H, D>(row, s.scale, qkv + n * size, grad_out + n * s.length * kPart,
                                      grad_qkv + n * size, scratch.data);
        }
    });
}

struct BackwardCall {
    const StcShape& s;
    const float* qkv;
    const float* convolution;
    const float* grad_out;
    float* grad_qkv;
    float* grad_convolution;
    float* grad_bias;
    template <int H, int D>
    void operator()() {
        backward<H, D>(s, qkv, convolution, grad_out, grad_qkv, grad_convolution, grad_bias);
    }
};

struct RowsBackwardCall {
    const RowsShape& s;
    const float* qkv;
    const float* grad_out;
    float* grad_qkv;
    template <int H, int D>
    void operator()() {
        rows_backward<H, D>(s, qkv, grad_out, grad_qkv);
    }
};

void run_backward(const StcShape& s, const float* qkv, const float* convolution, const float* grad_out,
                  float* grad_qkv, float* grad_convolution, float* grad_bias) {
    with_shape(s, BackwardCall{s, qkv, convolution, grad_out, grad_qkv, grad_convolution, grad_bias});
}

void run_rows_backward(const RowsShape& s, const float* qkv, const float* grad_out, float* grad_qkv) {
    with_shape(s, RowsBackwardCall{s, qkv, grad_out, grad_qkv});
}

}  // namespace

StcKernels stc_kernels() { return {run_forward, run_backward, run_rows_forward, run_rows_backward}; }

}  // namespace refiner::REFINER_ISA_NAMESPACE
