// Vectorised conditional sampling: the normal numbers and the two matrix products of a block of frames.
#pragma once

#include <cstdint>

#include "isa.h"

namespace refiner {

constexpr int64_t kSampleColumns = 16;  // the length of packed rows is a multiple of this
constexpr int64_t kSampleFrames =
    16;  // the largest number of frames of a block, for the size of its scratch memory

// The arguments of a call. Only the dimensions first_column .. first_column + active vary. The others (those of
// the root) equal their means. For the varying dimensions, `packed` [condition_size + error_size, columns] holds
// gain^T above cholesky^T, and `offset` [columns] holds mean_error. Both are padded with zeros.
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

constexpr int64_t kSampleSlack = 64;  // the floats that one round of sixteen counters writes

struct SampleKernels {
    // Samples the frames begin .. end. `scratch` has sample_scratch(...) floats.
    void (*sample)(const SampleCall& call, int64_t begin, int64_t end, float* scratch);
    // Writes standard normal numbers of the frames first_frame + begin and after into `to` [begin .. end, dims].
    void (*draw)(uint64_t seed, uint64_t first_frame, int64_t begin, int64_t end, int64_t dims, float* scratch,
                 float* to);
};

// The size of the plan of a block (the frame and the counter of each lane), with two numbers for each counter.
REFINER_ALWAYS_INLINE int64_t sample_plan(int64_t error_size) {
    return 2 * ((kSampleFrames * ((error_size + 3) / 4) + kSampleColumns - 1) / kSampleColumns * kSampleColumns);
}

// The size of the scratch memory of a block: its conditions and results, the plan, and its normal numbers, whose
// number per frame is rounded up to a multiple of four.
REFINER_ALWAYS_INLINE int64_t sample_scratch(int64_t condition_size, int64_t error_size, int64_t columns) {
    const int64_t normals = kSampleFrames * ((error_size + 3) / 4 * 4) + kSampleSlack;
    return kSampleFrames * (condition_size + columns) + sample_plan(error_size) + normals;
}

REFINER_DECLARE_VARIANTS(SampleKernels, sample_kernels)

}  // namespace refiner
