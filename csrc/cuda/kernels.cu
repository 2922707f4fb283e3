// The CUDA versions of the CPU kernels. They share the arithmetic of procrustes_math.h and philox.h.
#include <cuda_runtime.h>

#include "cuda_kernels.h"
#include "procrustes_math.h"
#include "sample_device.h"

namespace refiner {
namespace {

constexpr int kThreads = 128;
// Shared memory that a block gets without asking for more.
constexpr int64_t kSharedByDefault = 48 * 1024;

const char* launched() {
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

int64_t blocks_for(int64_t items) { return (items + kThreads - 1) / kThreads; }

// Each thread computes one pose.
template <typename Real>
__global__ void p_mpjpe_kernel(const Real* pred, const Real* target, const double* weights, Real* error,
                               int64_t poses, int64_t joints, bool with_scale) {
    const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (n >= poses) return;
    const int64_t at = 3 * joints * n;
    error[n] = static_cast<Real>(aligned_error(pred + at, target + at, weights, joints, with_scale));
}

template <typename Real>
__global__ void align_kernel(const Real* pred, const Real* target, const double* weights, Real* aligned,
                             int64_t poses, int64_t joints, bool with_scale) {
    const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (n >= poses) return;
    const int64_t at = 3 * joints * n;
    const Alignment alignment = align_pose(pred + at, target + at, weights, joints, with_scale);
    for (int64_t j = 0; j < joints; ++j) {
        double joint[3];
        apply_alignment(alignment, pred + at + 3 * j, joint);
        for (int k = 0; k < 3; ++k) aligned[at + 3 * j + k] = static_cast<Real>(joint[k]);
    }
}

__global__ void sample_kernel(Gaussian g, const float* condition, float* error, int64_t frames, Draw draw,
                              Forward forward) {
    extern __shared__ float shared[];
    sample_frames(g, condition, error, frames, draw, forward, shared);
}

}  // namespace

int cuda_device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

template <typename Real>
const char* cuda_p_mpjpe(const Real* pred, const Real* target, const double* weights, Real* error, int64_t poses,
                         int64_t joints, bool with_scale, void* stream) {
    if (poses == 0) return nullptr;
    p_mpjpe_kernel<<<blocks_for(poses), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        pred, target, weights, error, poses, joints, with_scale);
    return launched();
}

template <typename Real>
const char* cuda_procrustes_align(const Real* pred, const Real* target, const double* weights, Real* aligned,
                                  int64_t poses, int64_t joints, bool with_scale, void* stream) {
    if (poses == 0) return nullptr;
    align_kernel<<<blocks_for(poses), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        pred, target, weights, aligned, poses, joints, with_scale);
    return launched();
}

const char* cuda_sample_conditional(const Gaussian& gaussian, const float* condition, float* error, int64_t frames,
                                    const Draw& draw, const Forward& forward, void* stream) {
    if (frames == 0) return nullptr;
    const int64_t shared = sample_bytes(gaussian.error_size, gaussian.condition_size);
    if (shared > kSharedByDefault) {
        const cudaError_t status = cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                        static_cast<int>(shared));
        if (status != cudaSuccess) {
            cudaGetLastError();
            return "the Gaussian is too large for the shared memory of the device";
        }
    }
    const int64_t blocks = (frames + kSampleFrames - 1) / kSampleFrames;
    sample_kernel<<<blocks, sample_threads(gaussian.error_size), shared, static_cast<cudaStream_t>(stream)>>>(
        gaussian, condition, error, frames, draw, forward);
    return launched();
}

template const char* cuda_p_mpjpe<float>(const float*, const float*, const double*, float*, int64_t, int64_t, bool,
                                         void*);
template const char* cuda_p_mpjpe<double>(const double*, const double*, const double*, double*, int64_t, int64_t,
                                          bool, void*);
template const char* cuda_procrustes_align<float>(const float*, const float*, const double*, float*, int64_t,
                                                  int64_t, bool, void*);
template const char* cuda_procrustes_align<double>(const double*, const double*, const double*, double*, int64_t,
                                                   int64_t, bool, void*);

}  // namespace refiner
