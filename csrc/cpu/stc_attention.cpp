// Fused STC attention on the CPU (see stc_attention.h). This file is compiled once for every instruction set, each
// time into another namespace, REFINER_ISA_NAMESPACE.

#include "stc_attention.h"

#include <cstring>

#include "parallel.h"
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

// Adds the 3x3 convolution of `source` over (frames, joints) at one token to `target` (`channels` floats).
// flipped = true gives the transposed convolution, which is the gradient with respect to the source.
template <bool flipped>
void convolve_token(const StcShape& s, int64_t t, int64_t j, int64_t channels, const float* source,
                    int64_t source_stride, const float* taps, float* target) {
    for (int dt = -1; dt <= 1; ++dt) {
        const int64_t tt = flipped ? t + dt + lag(s) : t + dt - lag(s);
        if (tt < 0 || tt >= s.frames) continue;
        for (int dj = -1; dj <= 1; ++dj) {
            const int64_t jj = j + dj;
            if (jj < 0 || jj >= s.joints) continue;
            const int tap = flipped ? (1 - dt) * 3 + (1 - dj) : (dt + 1) * 3 + (dj + 1);
            const float* __restrict from = source + (tt * s.joints + jj) * source_stride;
            const float* __restrict weight = taps + tap * channels;
            float* __restrict to = target;
            for (int64_t c = 0; c < channels; ++c) to[c] += weight[c] * from[c];
        }
    }
}

template <int H, int D>
void forward(const StcShape& s, const float* qkv, const float* convolution, const float* bias, float* out) {
    constexpr int64_t kPart = int64_t{D} * H;
    constexpr int64_t kQkv = 6 * kPart;
    constexpr int64_t kOut = 2 * kPart;
    const int64_t tokens = s.frames * s.joints;
    const Row joints{s.joints, kQkv, kOut, 0};
    const Row frames{s.frames, s.joints * kQkv, s.joints * kOut, s.band};
    const int64_t scratch_size = longer(s.frames, s.joints) * H;

    parallel_for(0, s.batch * s.frames, 8, s.threads, [&](int64_t begin, int64_t end) {
        const Buffer scratch(scratch_size);
        for (int64_t n = begin; n < end; ++n) {
            attend_row<H, D>(joints, s.scale, qkv + n * s.joints * kQkv, out + n * s.joints * kOut, scratch.data);
        }
    });
    parallel_for(0, s.batch * s.joints, 8, s.threads, [&](int64_t begin, int64_t end) {
        const Buffer scratch(scratch_size);
        for (int64_t n = begin; n < end; ++n) {
            const int64_t token = (n / s.joints) * tokens + n % s.joints;
            attend_row<H, D>(frames, s.scale, qkv + token * kQkv + 3 * kPart, out + token * kOut + kPart,
                             scratch.data);
        }
    });
    parallel_for(0, s.batch * s.frames, 8, s.threads, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            const float* window = qkv + (n / s.frames) * tokens * kQkv;
            for (int64_t j = 0; j < s.joints; ++j) {
                for (int64_t half = 0; half < 2; ++half) {
                    float* target = out + (n * s.joints + j) * kOut + half * kPart;
                    const float* offset = bias + (half * s.joints + j) * kPart;
                    for (int64_t c = 0; c < kPart; ++c) target[c] += offset[c];
                    convolve_token<false>(s, n % s.frames, j, kPart, window + (half * 3 + 2) * kPart, kQkv,
                                          convolution + half * kTaps * kPart, target);
                }
            }
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
                    convolve_token<true>(s, token / s.joints, token % s.joints, kPart, gradient + half * kPart,
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
void rows_forward(const RowsShape& s, const float* qkv, float* out) {
    constexpr int64_t kPart = int64_t{D} * H;
    const Row row{s.length, 3 * kPart, kPart, 0};
    parallel_for(0, s.rows, 8, s.threads, [&](int64_t begin, int64_t end) {
        const Buffer scratch(s.length * H);
        for (int64_t n = begin; n < end; ++n) {
            attend_row<H, D>(row, s.scale, qkv + n * s.length * 3 * kPart, out + n * s.length * kPart,
                             scratch.data);
        }
    });
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

struct ForwardCall {
    const StcShape& s;
    const float* qkv;
    const float* convolution;
    const float* bias;
    float* out;
    template <int H, int D>
    void operator()() {
        forward<H, D>(s, qkv, convolution, bias, out);
    }
};

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

struct RowsForwardCall {
    const RowsShape& s;
    const float* qkv;
    float* out;
    template <int H, int D>
    void operator()() {
        rows_forward<H, D>(s, qkv, out);
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

void run_forward(const StcShape& s, const float* qkv, const float* convolution, const float* bias, float* out) {
    with_shape(s, ForwardCall{s, qkv, convolution, bias, out});
}

void run_backward(const StcShape& s, const float* qkv, const float* convolution, const float* grad_out,
                  float* grad_qkv, float* grad_convolution, float* grad_bias) {
    with_shape(s, BackwardCall{s, qkv, convolution, grad_out, grad_qkv, grad_convolution, grad_bias});
}

void run_rows_forward(const RowsShape& s, const float* qkv, float* out) {
    with_shape(s, RowsForwardCall{s, qkv, out});
}

void run_rows_backward(const RowsShape& s, const float* qkv, const float* grad_out, float* grad_qkv) {
    with_shape(s, RowsBackwardCall{s, qkv, grad_out, grad_qkv});
}

}  // namespace

StcKernels stc_kernels() { return {run_forward, run_backward, run_rows_forward, run_rows_backward}; }

}  // namespace refiner::REFINER_ISA_NAMESPACE
