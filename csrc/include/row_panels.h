// Products of rows for training. Included by files that are compiled once for every instruction set; everything is
// in their namespace.
//
// Rows lie in panels: [columns / kPanel, kTrainRows, kPanel], columns filled up with zeros to a multiple of
// kTrainColumns. In this layout the same array is the left side of a product over its columns, and either side of
// a product over its rows; nothing is transposed. Weights lie in panels as in gemm.h.
#pragma once

#include <cstdint>

#include "gemm.h"
#include "train_layers.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

constexpr int64_t kPanelSize = kTrainRows * kPanel;
static_assert(kTrainColumns % kPanel == 0, "a panel must not reach over the end of the columns");

inline int64_t filled(int64_t columns) { return (columns + kTrainColumns - 1) / kTrainColumns * kTrainColumns; }

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// sum += a b for `count` terms: a[r * kRowStep + k * kStep] times row k of a panel.
template <int R, int64_t kRowStep, int64_t kStep>
inline void add_products(const float* a, const float* b, int64_t count, Lane (&sum)[R][kVectors]) {
    for (int64_t k = 0; k < count; ++k) {
        Lane right[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * kPanel + v * kLane);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const float factor = a[r * kRowStep + k * kStep];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sum[r][v] += factor * right[v];
        }
    }
}

template <int R>
struct Count {
    static constexpr int value = R;
};

// visit(Count<R>, first) for tiles of kRows rows, and of fewer at the end.
template <typename Visit>
inline void for_tiles(int64_t rows, Visit&& visit) {
    int64_t first = 0;
    for (; first + kRows <= rows; first += kRows) visit(Count<kRows>{}, first);
    switch (rows - first) {
        case 5:
            return visit(Count<5>{}, first);
        case 4:
            return visit(Count<4>{}, first);
        case 3:
            return visit(Count<3>{}, first);
        case 2:
            return visit(Count<2>{}, first);
        case 1:
            return visit(Count<1>{}, first);
        default:
            return;
    }
}

// One panel of the product of rows and a matrix. `weight` is a panel of `columns` rows; visit(Count<R>, first,
// sum) takes the sums of a tile.
template <typename Visit>
inline void multiply_rows(const float* rows_in, int64_t rows, int64_t columns, const float* weight,
                          Visit&& visit) {
    for_tiles(rows, [&](auto count, int64_t first) {
        constexpr int R = decltype(count)::value;
        Lane sum[R][kVectors] = {};
        for (int64_t c = 0; c < columns; c += kPanel) {
            add_products<R, kPanel, 1>(rows_in + c * kTrainRows + first * kPanel, weight + c * kPanel, kPanel,
                                       sum);
        }
        visit(count, first, sum);
    });
}

// target [columns of a, columns of b] += a^T b, the sum over the rows.
inline void add_over_rows(const float* a, int64_t a_columns, const float* b, int64_t b_columns, int64_t rows,
                          float* target, int64_t stride) {
    for (int64_t right = 0; right < b_columns; right += kPanel) {
        for (int64_t left = 0; left < a_columns; left += kPanel) {
            for_tiles(kPanel, [&](auto count, int64_t first) {
                constexpr int R = decltype(count)::value;
                Lane sum[R][kVectors] = {};
                add_products<R, 1, kPanel>(a + left * kTrainRows + first, b + right * kTrainRows, rows, sum);
#pragma GCC unroll 6
                for (int r = 0; r < R; ++r) {
                    float* to = target + (left + first + r) * stride + right;
#pragma GCC unroll 4
                    for (int v = 0; v < kVectors; ++v) store(to + v * kLane, load(to + v * kLane) + sum[r][v]);
                }
            });
        }
    }
}

// The place of a row and column in panels.
inline int64_t place(int64_t row, int64_t column) {
    return column / kPanel * kPanelSize + row * kPanel + column % kPanel;
}

// rows [rows, columns] -> panels. `columns` is a multiple of kLane.
inline void to_panels(const float* source, int64_t rows, int64_t columns, float* panels) {
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; c += kLane) store(panels + place(r, c), load(source + r * columns + c));
        for (int64_t c = columns; c < filled(columns); c += kLane) store(panels + place(r, c), Lane{});
    }
}

// A matrix as the panels of multiply_rows: [filled(outputs) / kPanel, filled(inputs), kPanel], filled up with
// zeros, from element (output, input) at source[output * output_step + input * input_step].
inline void pack(const float* source, int64_t outputs, int64_t inputs, int64_t output_step, int64_t input_step,
                 float* packed) {
    for (int64_t first = 0; first < filled(outputs); first += kPanel) {
        for (int64_t i = 0; i < filled(inputs); ++i) {
            float* row = packed + first * filled(inputs) + i * kPanel;
            for (int64_t o = 0; o < kPanel; ++o) {
                const bool inside = first + o < outputs && i < inputs;
                row[o] = inside ? source[(first + o) * output_step + i * input_step] : 0.0f;
            }
        }
    }
}

// The mean of a row and one over its standard deviation. `size` is a multiple of kLane.
struct Moments {
    float mean;
    float inverse;
};

inline Moments moments(const float* row, int64_t size, float epsilon) {
    Lane sums{};
    for (int64_t c = 0; c < size; c += kLane) sums += load(row + c);
    const float mean = total(sums) / static_cast<float>(size);
    Lane squares{};
    for (int64_t c = 0; c < size; c += kLane) {
        const Lane distance = load(row + c) - mean;
        squares += distance * distance;
    }
    return {mean, 1.0f / __builtin_sqrtf(total(squares) / static_cast<float>(size) + epsilon)};
}

// The layer norm of rows [rows, columns] -> panels.
inline void norm_to_panels(const float* source, int64_t rows, int64_t columns, const float* gain,
                           const float* shift, float epsilon, float* panels) {
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = source + r * columns;
        const Moments m = moments(row, columns, epsilon);
        for (int64_t c = 0; c < columns; c += kLane) {
            const Lane normal = (load(row + c) - m.mean) * m.inverse;
            store(panels + place(r, c), normal * load(gain + c) + load(shift + c));
        }
        for (int64_t c = columns; c < filled(columns); c += kLane) store(panels + place(r, c), Lane{});
    }
}

// The gradients of a layer norm, from those of its result in panels. Adds to grad_gain and grad_shift. Writes
// grad_x [rows, columns], plus `residual` of the same shape if it is not nullptr.
inline void norm_backward(const float* source, int64_t rows, int64_t columns, const float* gain, float epsilon,
                          const float* gradient, const float* residual, float* grad_x, float* grad_gain,
                          float* grad_shift) {
    const float share = 1.0f / static_cast<float>(columns);
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = source + r * columns;
        const Moments m = moments(row, columns, epsilon);
        Lane sums{};
        Lane products{};
        for (int64_t c = 0; c < columns; c += kLane) {
            const Lane normal = (load(row + c) - m.mean) * m.inverse;
            const Lane incoming = load(gradient + place(r, c));
            store(grad_gain + c, load(grad_gain + c) + incoming * normal);
            store(grad_shift + c, load(grad_shift + c) + incoming);
            const Lane scaled = incoming * load(gain + c);
            sums += scaled;
            products += scaled * normal;
        }
        const float mean = total(sums) * share;
        const float slope = total(products) * share;
        for (int64_t c = 0; c < columns; c += kLane) {
            const Lane normal = (load(row + c) - m.mean) * m.inverse;
            const Lane scaled = load(gradient + place(r, c)) * load(gain + c);
            Lane result = (scaled - mean - normal * slope) * m.inverse;
            if (residual != nullptr) result += load(residual + r * columns + c);
            store(grad_x + r * columns + c, result);
        }
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
