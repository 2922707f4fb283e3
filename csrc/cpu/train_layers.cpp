// Layers with their gradients, for training on the CPU (see train_layers.h). This file is compiled once for every
// instruction set, each time into another namespace, REFINER_ISA_NAMESPACE.
//
// kTrainRows rows at a time go through a layer, so that what lies between its products stays in the cache.

#include "train_layers.h"

#include <cstring>

#include "parallel.h"
#include "row_panels.h"
#include "stc_rows.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// The blocks of rows of a backward pass are dealt to at most this many groups. Every group has its own sums of the
// gradients of the weights, and these are added in order. The result does not depend on the number of threads.
constexpr int64_t kGroups = 8;

int64_t blocks_of(int64_t rows) { return (rows + kTrainRows - 1) / kTrainRows; }

// Runs body(block, first row, number of rows) for blocks of rows; `scratch` floats are the memory of a thread.
template <typename Body>
void for_blocks(int64_t first, int64_t last, int64_t rows, Body&& body) {
    for (int64_t b = first; b < last; ++b) {
        body(b, b * kTrainRows, least(kTrainRows, rows - b * kTrainRows));
    }
}

// Runs body(first block, last block, sums of the group) for every group, and then adds the groups: the sums of
// group 0 are the result, `size` floats.
template <typename Body>
void sum_groups(int64_t rows, int64_t size, int threads, float* sums, Body&& body) {
    const int64_t blocks = blocks_of(rows);
    const int64_t groups = least(kGroups, blocks);
    parallel_for(0, groups, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) {
            body(g * blocks / groups, (g + 1) * blocks / groups, sums + g * size);
        }
    });
    parallel_for(0, size / kLane, 1024, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * kLane; i < end * kLane; i += kLane) {
            Lane sum = load(sums + i);
            for (int64_t g = 1; g < groups; ++g) sum += load(sums + g * size + i);
            store(sums + i, sum);
        }
    });
}

// Copies the `columns` first columns of rows that are `stride` floats apart.
void take_columns(const float* source, int64_t rows, int64_t columns, int64_t stride, float* target) {
    for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(target + r * columns, source + r * stride, static_cast<size_t>(columns) * sizeof(float));
    }
}

void input_panels(const LinearShape& s, const LinearInput& in, int64_t first, int64_t rows, float* panels) {
    const float* x = in.x + first * s.inputs;
    if (in.gain == nullptr) return to_panels(x, rows, s.inputs, panels);
    norm_to_panels(x, rows, s.inputs, in.gain, in.shift, s.epsilon, panels);
}

void linear_forward(const LinearShape& s, const LinearInput& in, float* out) {
    const int64_t inputs = filled(s.inputs);
    const int64_t outputs = filled(s.outputs);
    const Buffer weight(inputs * outputs);
    pack(in.weight, s.outputs, s.inputs, s.inputs, 1, weight.data);
    parallel_for(0, blocks_of(s.rows), 1, s.threads, [&](int64_t begin, int64_t end) {
        const Buffer panels(kTrainRows * inputs);
        for_blocks(begin, end, s.rows, [&](int64_t, int64_t first, int64_t rows) {
            input_panels(s, in, first, rows, panels.data);
            for (int64_t c = 0; c < s.outputs; c += kPanel) {
                const int64_t columns = least(kPanel, s.outputs - c);
                multiply_rows(panels.data, rows, inputs, weight.data + c * inputs,
                              [&](auto count, int64_t row, auto& sum) {
#pragma GCC unroll 6
                                  for (int r = 0; r < decltype(count)::value; ++r) {
                                      const int64_t at = (first + row + r) * s.outputs + c;
                                      for (int v = 0; v * kLane < columns; ++v) {
                                          Lane value = sum[r][v];
                                          if (in.bias != nullptr) value += load(in.bias + c + v * kLane);
                                          if (in.residual != nullptr) value += load(in.residual + at + v * kLane);
                                          store(out + at + v * kLane, value);
                                      }
                                  }
                              });
            }
        });
    });
}

// Writes a panel of sums to panels of rows.
struct ToPanels {
    float* panel;
    template <typename Tile, typename Sums>
    void operator()(Tile count, int64_t row, Sums& sum) const {
#pragma GCC unroll 6
        for (int r = 0; r < decltype(count)::value; ++r) {
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) store(panel + (row + r) * kPanel + v * kLane, sum[r][v]);
        }
    }
};

struct AddToPanels {
    float* panel;
    template <typename Tile, typename Sums>
    void operator()(Tile count, int64_t row, Sums& sum) const {
#pragma GCC unroll 6
        for (int r = 0; r < decltype(count)::value; ++r) {
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                float* to = panel + (row + r) * kPanel + v * kLane;
                store(to, load(to) + sum[r][v]);
            }
        }
    }
};

void linear_backward(const LinearShape& s, const LinearInput& in, const float* grad_out,
                     const LinearGradient& grad) {
    const int64_t inputs = filled(s.inputs);
    const int64_t outputs = filled(s.outputs);
    const Buffer weight(inputs * outputs);
    pack(in.weight, s.inputs, s.outputs, 1, s.inputs, weight.data);
    const int64_t size = outputs * inputs + outputs + 2 * inputs;  // weight, bias, gain, shift
    const Buffer sums(least(kGroups, blocks_of(s.rows)) * size);
    sum_groups(s.rows, size, s.threads, sums.data, [&](int64_t begin, int64_t end, float* own) {
        const Buffer scratch(kTrainRows * (2 * inputs + outputs));
        float* panels = scratch.data;
        float* grad_panels = panels + kTrainRows * inputs;
        float* out_panels = grad_panels + kTrainRows * inputs;
        float* own_bias = own + outputs * inputs;
        float* own_gain = own_bias + outputs;
        for_blocks(begin, end, s.rows, [&](int64_t, int64_t first, int64_t rows) {
            input_panels(s, in, first, rows, panels);
            to_panels(grad_out + first * s.outputs, rows, s.outputs, out_panels);
            for (int64_t r = 0; grad.bias != nullptr && r < rows; ++r) {
                for (int64_t c = 0; c < outputs; c += kLane) {
                    store(own_bias + c, load(own_bias + c) + load(out_panels + place(r, c)));
                }
            }
            for (int64_t c = 0; c < inputs; c += kPanel) {
                multiply_rows(out_panels, rows, outputs, weight.data + c * outputs,
                              ToPanels{grad_panels + c * kTrainRows});
            }
            add_over_rows(out_panels, outputs, panels, inputs, rows, own, inputs);
            float* grad_x = grad.x + first * s.inputs;
            if (in.gain != nullptr) {
                norm_backward(in.x + first * s.inputs, rows, s.inputs, in.gain, s.epsilon, grad_panels, nullptr,
                              grad_x, own_gain, own_gain + inputs);
                return;
            }
            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t c = 0; c < s.inputs; c += kLane) {
                    store(grad_x + r * s.inputs + c, load(grad_panels + place(r, c)));
                }
            }
        });
    });
    take_columns(sums.data, s.outputs, s.inputs, inputs, grad.weight);
    const float* rest = sums.data + outputs * inputs;
    if (grad.bias != nullptr) take_columns(rest, 1, s.outputs, outputs, grad.bias);
    if (grad.gain != nullptr) {
        take_columns(rest + outputs, 1, s.inputs, inputs, grad.gain);
        take_columns(rest + outputs + inputs, 1, s.inputs, inputs, grad.shift);
    }
}

void mlp_forward(const MlpShape& s, const MlpInput& in, float* kept, float* out) {
    const int64_t dim = filled(s.dim);
    const int64_t hidden = filled(s.hidden);
    const Buffer weights(2 * dim * hidden);
    float* first_packed = weights.data;
    float* second_packed = first_packed + dim * hidden;
    pack(in.first, s.hidden, s.dim, s.dim, 1, first_packed);
    pack(in.second, s.dim, s.hidden, s.hidden, 1, second_packed);
    parallel_for(0, blocks_of(s.rows), 1, s.threads, [&](int64_t begin, int64_t end) {
        const Buffer scratch(kTrainRows * (2 * dim + kTrainColumns));
        float* normal = scratch.data;
        float* result = normal + kTrainRows * dim;
        float* active = result + kTrainRows * dim;
        for_blocks(begin, end, s.rows, [&](int64_t block, int64_t first, int64_t rows) {
            const float* x = in.x + first * s.dim;
            norm_to_panels(x, rows, s.dim, in.gain, in.shift, s.epsilon, normal);
            to_panels(x, rows, s.dim, result);
            for (int64_t chunk = 0; chunk < hidden; chunk += kTrainColumns) {
                for (int64_t c = 0; c < kTrainColumns; c += kPanel) {
                    float* to = active + c * kTrainRows;
                    float* keep = kept == nullptr ? nullptr : kept + (block * hidden + chunk + c) * kTrainRows;
                    multiply_rows(normal, rows, dim, first_packed + (chunk + c) * dim,
                                  [&](auto count, int64_t row, auto& sum) {
#pragma GCC unroll 6
                                      for (int r = 0; r < decltype(count)::value; ++r) {
#pragma GCC unroll 4
                                          for (int v = 0; v < kVectors; ++v) {
                                              const int64_t at = (row + r) * kPanel + v * kLane;
                                              if (keep != nullptr) store(keep + at, sum[r][v]);
                                              store(to + at, gelu(sum[r][v]));
                                          }
                                      }
                                  });
                }
                for (int64_t c = 0; c < dim; c += kPanel) {
                    multiply_rows(active, rows, kTrainColumns, second_packed + c * hidden + chunk * kPanel,
                                  AddToPanels{result + c * kTrainRows});
                }
            }
            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t c = 0; c < s.dim; c += kLane) {
                    store(out + (first + r) * s.dim + c, load(result + place(r, c)));
                }
            }
        });
    });
}

void mlp_backward(const MlpShape& s, const MlpInput& in, const float* kept, const float* grad_out,
                  const MlpGradient& grad) {
    const int64_t dim = filled(s.dim);
    const int64_t hidden = filled(s.hidden);
    const Buffer weights(2 * dim * hidden);
    float* second_packed = weights.data;
    float* first_packed = second_packed + dim * hidden;
    pack(in.second, s.hidden, s.dim, 1, s.hidden, second_packed);
    pack(in.first, s.dim, s.hidden, 1, s.dim, first_packed);
    // first [hidden, dim], second [hidden / kTrainColumns, dim, kTrainColumns], gain, shift
    const int64_t size = 2 * dim * hidden + 2 * dim;
    const Buffer sums(least(kGroups, blocks_of(s.rows)) * size);
    sum_groups(s.rows, size, s.threads, sums.data, [&](int64_t begin, int64_t end, float* own) {
        const Buffer scratch(kTrainRows * (3 * dim + 2 * kTrainColumns));
        float* normal = scratch.data;
        float* grad_normal = normal + kTrainRows * dim;
        float* out_panels = grad_normal + kTrainRows * dim;
        float* active = out_panels + kTrainRows * dim;
        float* grad_hidden = active + kTrainRows * kTrainColumns;
        float* own_second = own + dim * hidden;
        float* own_gain = own_second + dim * hidden;
        for_blocks(begin, end, s.rows, [&](int64_t block, int64_t first, int64_t rows) {
            const float* x = in.x + first * s.dim;
            norm_to_panels(x, rows, s.dim, in.gain, in.shift, s.epsilon, normal);
            to_panels(grad_out + first * s.dim, rows, s.dim, out_panels);
            std::memset(grad_normal, 0, static_cast<size_t>(kTrainRows * dim) * sizeof(float));
            for (int64_t chunk = 0; chunk < hidden; chunk += kTrainColumns) {
                for (int64_t c = 0; c < kTrainColumns; c += kPanel) {
                    const float* before = kept + (block * hidden + chunk + c) * kTrainRows;
                    float* to_active = active + c * kTrainRows;
                    float* to_hidden = grad_hidden + c * kTrainRows;
                    multiply_rows(out_panels, rows, dim, second_packed + (chunk + c) * dim,
                                  [&](auto count, int64_t row, auto& sum) {
#pragma GCC unroll 6
                                      for (int r = 0; r < decltype(count)::value; ++r) {
#pragma GCC unroll 4
                                          for (int v = 0; v < kVectors; ++v) {
                                              const int64_t at = (row + r) * kPanel + v * kLane;
                                              const Lane value = load(before + at);
                                              const Lane tail = upper_tail(size_of(value));
                                              const Lane share = value < Lane{} ? tail : 1.0f - tail;
                                              const Lane density =
                                                  Vector<kLane>::exp(value * value * -0.5f) * 0.39894228040143268f;
                                              store(to_active + at, value * share);
                                              store(to_hidden + at, sum[r][v] * (share + value * density));
                                          }
                                      }
                                  });
                }
                for (int64_t c = 0; c < dim; c += kPanel) {
                    multiply_rows(grad_hidden, rows, kTrainColumns, first_packed + c * hidden + chunk * kPanel,
                                  AddToPanels{grad_normal + c * kTrainRows});
                }
                add_over_rows(grad_hidden, kTrainColumns, normal, dim, rows, own + chunk * dim, dim);
                add_over_rows(out_panels, dim, active, kTrainColumns, rows, own_second + chunk * dim,
                              kTrainColumns);
            }
            norm_backward(x, rows, s.dim, in.gain, s.epsilon, grad_normal, grad_out + first * s.dim,
                          grad.x + first * s.dim, own_gain, own_gain + dim);
        });
    });
    take_columns(sums.data, s.hidden, s.dim, dim, grad.first);
    const float* second = sums.data + dim * hidden;
    for (int64_t chunk = 0; chunk < s.hidden; chunk += kTrainColumns) {
        const int64_t columns = least(kTrainColumns, s.hidden - chunk);
        for (int64_t r = 0; r < s.dim; ++r) {
            std::memcpy(grad.second + r * s.hidden + chunk, second + chunk * dim + r * kTrainColumns,
                        static_cast<size_t>(columns) * sizeof(float));
        }
    }
    take_columns(second + dim * hidden, 1, s.dim, dim, grad.gain);
    take_columns(second + dim * hidden + dim, 1, s.dim, dim, grad.shift);
}

}  // namespace

TrainLayers train_layers() { return {linear_forward, linear_backward, mlp_forward, mlp_backward}; }

}  // namespace refiner::REFINER_ISA_NAMESPACE
