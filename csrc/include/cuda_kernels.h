// The CUDA kernels. Arguments are pointers to device memory; the work is queued on the caller's stream. Each
// function returns nullptr, or an error message that is never freed (one of CUDA's own error strings).
#pragma once

#include <cstdint>

#include "kernels.h"

namespace refiner {

// The number of devices; 0 without a driver.
int cuda_device_count();

template <typename Real>
const char* cuda_p_mpjpe(const Real* pred, const Real* target, const double* weights, Real* error, int64_t poses,
                         int64_t joints, bool with_scale, void* stream);

template <typename Real>
const char* cuda_procrustes_align(const Real* pred, const Real* target, const double* weights, Real* aligned,
                                  int64_t poses, int64_t joints, bool with_scale, void* stream);

const char* cuda_sample_conditional(const Gaussian& gaussian, const float* condition, float* error, int64_t frames,
                                    const Draw& draw, const Forward& forward, void* stream);

}  // namespace refiner
