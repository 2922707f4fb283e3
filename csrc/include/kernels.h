// The CPU kernels. Arrays are contiguous. `threads` 0 stands for the default of parallel_for.
#pragma once

#include <cstdint>

#include "device.h"
#include "procrustes_simd.h"

namespace refiner {

// The error after alignment, and the aligned poses; see AlignBlock in procrustes_simd.h.
void p_mpjpe(const AlignBlock<float>& block, int64_t poses, int threads);
void p_mpjpe(const AlignBlock<double>& block, int64_t poses, int threads);
void procrustes_align(const AlignBlock<float>& block, int64_t poses, int threads);
void procrustes_align(const AlignBlock<double>& block, int64_t poses, int threads);

// The conditional Gaussian of eq. 5 and 6 for conditions of size C and errors of size D.
struct Gaussian {
    const float* mean_error;      // [D]
    const float* mean_condition;  // [C]
    const float* gain;            // [D, C]
    const float* cholesky;        // [D, D] lower triangular
    int64_t error_size;
    int64_t condition_size;
};

// The random numbers of the rows: row f takes the numbers of frame ids[f] if there are ids, otherwise those of
// frame first_frame + f.
struct Draw {
    uint64_t seed;
    uint64_t first_frame;
    const int64_t* ids;  // [frames] or nullptr

    REFINER_HD uint64_t frame(int64_t row) const {
        return ids != nullptr ? static_cast<uint64_t>(ids[row]) : first_frame + static_cast<uint64_t>(row);
    }
};

// The forward process of eq. 8. Without `clean` only the error is drawn.
struct Forward {
    const float* clean = nullptr;         // [frames, D]
    const float* clean_factor = nullptr;  // [frames]
    const float* noise_factor = nullptr;  // [frames]
    float* noisy = nullptr;               // [frames, D]
};

// Draws error [frames, D] for condition [frames, C]. With clean [frames, D], it also computes the forward process
// of eq. 8: noisy [frames, D] = clean_factor[f] clean + noise_factor[f] error.
void sample_conditional(const Gaussian& gaussian, const float* condition, float* error, int64_t frames,
                        const Draw& draw, int threads, const Forward& forward = {});

// Writes the normal numbers that sample_conditional uses into normal [frames, dims].
void philox_normal(float* normal, int64_t frames, int64_t dims, uint64_t seed, uint64_t first_frame, int threads);

}  // namespace refiner
