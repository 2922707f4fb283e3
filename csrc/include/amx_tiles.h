// The bfloat16 products in the tile registers of AMX. Included by products.cpp where it is compiled for AMX.
//
// A tile register holds 16 rows of 64 bytes. Four of them are sums, 32 rows x 32 outputs of float32; two are 32
// rows of the operand, 32 inputs of each; two are weights, 16 pairs of inputs x 16 outputs each. A row of the
// packed panel is 64 pairs, so that a tile of weights is 16 of its rows, 256 bytes apart. Rows beyond the last one
// are memory of the operand that holds any numbers; their sums go nowhere.
#pragma once

#include "gemm.h"
#if defined(REFINER_AMX_EMULATED)
#include "amx_emulated.h"
#else
#include <immintrin.h>
#endif

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

constexpr int64_t kTileRows = 16, kTileInputs = 32, kTileOutputs = 16;
static_assert(kPanel == 4 * kTileOutputs, "the panels of AMX are those of AVX-512");

// The layout of all eight tile registers, for the instruction LDTILECFG (Intel's manual, volume 1, section 18.3).
struct alignas(64) TileConfiguration {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows};
};

void configure_tiles() {
    const TileConfiguration configuration;
    _tile_loadconfig(&configuration);
}

// Without it every change of threads would save 8 kB of tile registers.
void release_tiles() { _tile_release(); }

// Sums of 32 rows (or of the first 16) times 32 outputs of a panel: to `sums`, whose rows have kPanel numbers.
inline void multiply_quarter(const uint16_t* a, int64_t stride, int64_t inputs, const uint16_t* panel, bool both,
                             float* sums) {
    const size_t row_bytes = static_cast<size_t>(stride) * sizeof(uint16_t);
    constexpr size_t kWeightBytes = kPanel * 2 * sizeof(uint16_t), kSumBytes = kPanel * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < inputs; k += kTileInputs) {
        const uint16_t* weights = panel + k * kPanel;
        _tile_loadd(6, weights, kWeightBytes);
        _tile_loadd(7, weights + 2 * kTileOutputs, kWeightBytes);
        _tile_loadd(4, a + k, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (!both) continue;
        _tile_loadd(5, a + kTileRows * stride + k, row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, kSumBytes);
    _tile_stored(1, sums + kTileOutputs, kSumBytes);
    if (!both) return;
    _tile_stored(2, sums + kTileRows * kPanel, kSumBytes);
    _tile_stored(3, sums + kTileRows * kPanel + kTileOutputs, kSumBytes);
}

template <End end>
void multiply_tiles(const Product& p) {
    const auto fill_up = [](int64_t inputs) { return (inputs + kTileInputs - 1) / kTileInputs * kTileInputs; };
    using Type = typename Written<end, Pair>::Type;
    constexpr int64_t kOutBytes = kResult<end, Pair>;
    const auto* weight = static_cast<const uint16_t*>(p.linear.weight) + p.first_input * kPanel;
    const auto* operand = static_cast<const uint16_t*>(p.operand);
    const int64_t all = fill_up(p.linear.inputs), inputs = fill_up(p.inputs);
    alignas(64) float sums[2 * kTileRows * kPanel];
    for (int64_t first = 0; first < p.outputs; first += kPanel) {
        const uint16_t* panel = weight + (p.first_output + first) * all;
        const int64_t columns = p.outputs - first < kPanel ? p.outputs - first : kPanel;
        Lane shift[kVectors];
        load_bias(p.bias == nullptr ? nullptr : p.bias + first, columns, shift);
        for (int64_t r = 0; r < p.rows; r += 2 * kTileRows) {
            const int64_t rows = p.rows - r < 2 * kTileRows ? p.rows - r : 2 * kTileRows;
            for (int64_t half = 0; half < 2; ++half) {
                multiply_quarter(operand + r * p.stride, p.stride, inputs, panel + half * 4 * kTileOutputs,
                                 rows > kTileRows, sums + half * 2 * kTileOutputs);
            }
            char* out = static_cast<char*>(p.out) + (r * p.out_stride + first) * kOutBytes;
            for (int64_t row = 0; row < rows; ++row) {
                Lane sum[kVectors];
                for (int v = 0; v < kVectors; ++v) sum[v] = load(sums + row * kPanel + v * kLane);
                char* target = out + row * p.out_stride * kOutBytes;
                if (columns != kPanel) {
                    finish_some<end, Pair>(sum, shift, target, columns, fill_up(columns));
                    continue;
                }
                auto* numbers = reinterpret_cast<Type*>(target);
                for (int v = 0; v < kVectors; ++v) {
                    finish<end>(sum[v], shift[v], numbers + v * kLane / kInputs<Type>);
                }
            }
        }
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
