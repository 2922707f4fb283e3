// Vectorised conditional sampling: normal numbers and the two matrix products of a block of frames, in registers.
#pragma once

#include <cstdint>

#include "isa.h"

namespace refiner {

constexpr int64_t kSampleColumns = 16;  // packed rows are a multiple of it
constexpr int64_t kSampleFrames = 16;   // frames of a block at most: what its scratch must hold

// Everything of a call. Only the dimensions first_column .. first_column + active vary: the others (the root's)
// are their means. `packed` [condition_size + error_size, columns] holds gain^T over cholesky^T for those, padded
// by zeros; `offset` [columns] their mean_error, padded too.
struct SampleCall {
    const float* packed;
    const float* offset;
    const float* mean_error;      // [error_size]
    const float* mean_condition;  // [condition_size]
    int64_t first_column;
    int64_t active;
    int64_t columns;
    int64_t condition_size;
    int64_t error_size;
    uint64_t seed;
    uint64_t first_frame;
    const int64_t* ids;
    const float* condition;     // [frames, condition_size]
    float* error;               // [frames, error_size]
    const float* clean;         // [frames, error_size] or nullptr
    const float* clean_factor;  // [frames]
    const float* noise_factor;  // [frames]
    float* noisy;               // [frames, error_size]
};

constexpr int64_t kSampleSlack = 64;  // floats that a round of sixteen counters draws

struct SampleKernels {
    // Frames begin .. end; `scratch` has sample_scratch(...) floats.
    void (*sample)(const SampleCall& call, int64_t begin, int64_t end, float* scratch);
    // to [begin .. end, dims]: standard normal numbers of the frames first_frame + begin and after.
    void (*draw)(uint64_t seed, uint64_t first_frame, int64_t begin, int64_t end, int64_t dims, float* scratch,
                 float* to);
};

// Of a block of frames: which lane draws which of their counters, two numbers for each counter.
inline int64_t sample_plan(int64_t error_size) {
    return 2 * ((kSampleFrames * ((error_size + 3) / 4) + kSampleColumns - 1) / kSampleColumns * kSampleColumns);
}

// Of a block of frames: their conditions and results, the plan, and their normal numbers in fours.
inline int64_t sample_scratch(int64_t condition_size, int64_t error_size, int64_t columns) {
    const int64_t normals = kSampleFrames * ((error_size + 3) / 4 * 4) + kSampleSlack;
    return kSampleFrames * (condition_size + columns) + sample_plan(error_size) + normals;
}

REFINER_DECLARE_VARIANTS(SampleKernels, sample_kernels)

}  // namespace refiner
