// Conditional sampling on a CUDA device. A block draws the errors of a few frames; a thread computes one
// coordinate of each of them, so that a number of the matrices is read once for all of these frames.
#pragma once

#include "kernels.h"
#include "philox.h"
#include "simt.h"

namespace refiner {

// Frames of a block, and columns of a matrix that lie in shared memory at a time: neighbouring threads read
// neighbouring columns of a row from global memory, and then each thread its own row. One more float for each row
// makes these rows start in different banks.
constexpr int kSampleFrames = 4;
constexpr int kSampleColumns = 32;
constexpr int kSampleStride = kSampleColumns + 1;

// One thread for each coordinate, up to 256; whole warps.
inline int sample_threads(int64_t error_size) {
    return error_size > 224 ? 256 : static_cast<int>((error_size + 31) / 32 * 32);
}

// Shared memory of a block: the normal numbers and the centred conditions of its frames, and a part of a matrix.
inline int64_t sample_bytes(int64_t error_size, int64_t condition_size) {
    return (kSampleFrames * (error_size + condition_size) + int64_t{sample_threads(error_size)} * kSampleStride) *
           4;
}

// sums[f] += rows first, first + 1, .. of a matrix [rows, columns] times the vectors of the frames [frames,
// columns]: one row for each thread. The columns are added in order. What lies above the diagonal of a lower
// triangular matrix is not used.
REFINER_DEVICE void add_product(const float* matrix, int64_t rows, int64_t columns, bool lower, int64_t first,
                                const float* vectors, float* part, float (&sums)[kSampleFrames]) {
    const int64_t here = rows - first < simt::threads() ? rows - first : simt::threads();
    for (int64_t column = 0; column < columns; column += kSampleColumns) {
        const int count = static_cast<int>(columns - column < kSampleColumns ? columns - column : kSampleColumns);
        for (int64_t at = simt::thread(); at < here * kSampleColumns; at += simt::threads()) {
            const int64_t row = at / kSampleColumns, c = at % kSampleColumns;
            if (c >= count) continue;
            const bool used = !lower || column + c <= first + row;
            part[row * kSampleStride + c] = used ? matrix[(first + row) * columns + column + c] : 0.0f;
        }
        simt::block_barrier();
        if (simt::thread() < here) {
            for (int c = 0; c < count; ++c) {
                const float factor = part[simt::thread() * kSampleStride + c];
                REFINER_UNROLL(kSampleFrames)
                for (int f = 0; f < kSampleFrames; ++f) sums[f] += factor * vectors[f * columns + column + c];
            }
        }
        simt::block_barrier();
    }
}

// The body of the kernel; a block takes frames block() * kSampleFrames and the following ones.
REFINER_DEVICE void sample_frames(const Gaussian& g, const float* condition, float* error, int64_t frames,
                                  const Draw& draw, const Forward& forward, float* memory) {
    float* normal = memory;
    float* centred = normal + kSampleFrames * g.error_size;
    float* part = centred + kSampleFrames * g.condition_size;
    const int64_t begin = simt::block() * kSampleFrames;
    const int here = static_cast<int>(frames - begin < kSampleFrames ? frames - begin : kSampleFrames);
    const int64_t fours = (g.error_size + 3) / 4;
    for (int64_t at = simt::thread(); at < kSampleFrames * fours; at += simt::threads()) {
        const int64_t f = at / fours, four = at % fours;
        double drawn[4] = {};
        if (f < here) philox_normal4(draw.seed, draw.frame(begin + f), static_cast<uint32_t>(four), drawn);
        for (int64_t k = 0; k < 4 && 4 * four + k < g.error_size; ++k) {
            normal[f * g.error_size + 4 * four + k] = static_cast<float>(drawn[k]);
        }
    }
    for (int64_t at = simt::thread(); at < kSampleFrames * g.condition_size; at += simt::threads()) {
        const int64_t f = at / g.condition_size, c = at % g.condition_size;
        centred[at] = f < here ? condition[begin * g.condition_size + at] - g.mean_condition[c] : 0.0f;
    }
    simt::block_barrier();
    for (int64_t first = 0; first < g.error_size; first += simt::threads()) {
        const int64_t d = first + simt::thread();
        float sums[kSampleFrames];
        REFINER_UNROLL(kSampleFrames)
        for (int f = 0; f < kSampleFrames; ++f) sums[f] = d < g.error_size ? g.mean_error[d] : 0.0f;
        add_product(g.gain, g.error_size, g.condition_size, false, first, centred, part, sums);
        add_product(g.cholesky, g.error_size, g.error_size, true, first, normal, part, sums);
        if (d >= g.error_size) continue;
        REFINER_UNROLL(kSampleFrames)
        for (int f = 0; f < kSampleFrames; ++f) {
            if (f >= here) continue;
            const int64_t at = (begin + f) * g.error_size + d;
            error[at] = sums[f];
            if (forward.clean != nullptr) {
                forward.noisy[at] = forward.clean_factor[begin + f] * forward.clean[at] +
                                    forward.noise_factor[begin + f] * sums[f];
            }
        }
    }
}

}  // namespace refiner
