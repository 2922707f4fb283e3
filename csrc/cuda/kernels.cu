// The CUDA versions of the CPU kernels. They share the arithmetic of procrustes_math.h and philox.h.
#include <cuda_runtime.h>

#include "cuda_kernels.h"
#include "philox.h"
#include "procrustes_math.h"

namespace refiner {
namespace {

constexpr int kThreads = 128;

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

// Each block computes one frame, and each thread one coordinate of the error. The threads of a block share the
// normal numbers and the centred condition.
__global__ void sample_kernel(Gaussian g, const float* condition, float* error, Draw draw, Forward forward) {
    extern __shared__ float shared[];
    float* normal = shared;
    float* centred = shared + g.error_size;
    const int64_t f = blockIdx.x;
    for (int64_t block = threadIdx.x; 4 * block < g.error_size; block += blockDim.x) {
        double drawn[4];
        philox_normal4(draw.seed, draw.frame(f), static_cast<uint32_t>(block), drawn);
        for (int64_t k = 0; k < 4 && 4 * block + k < g.error_size; ++k) {
            normal[4 * block + k] = static_cast<float>(drawn[k]);
        }
    }
    for (int64_t c = threadIdx.x; c < g.condition_size; c += blockDim.x) {
        centred[c] = condition[f * g.condition_size + c] - g.mean_condition[c];
    }
    __syncthreads();
    for (int64_t d = threadIdx.x; d < g.error_size; d += blockDim.x) {
        float sum = g.mean_error[d];
        for (int64_t c = 0; c < g.condition_size; ++c) sum += g.gain[d * g.condition_size + c] * centred[c];
        for (int64_t c = 0; c <= d; ++c) sum += g.cholesky[d * g.error_size + c] * normal[c];
        const int64_t at = f * g.error_size + d;
        error[at] = sum;
        if (forward.clean != nullptr) {
            forward.noisy[at] = forward.clean_factor[f] * forward.clean[at] + forward.noise_factor[f] * sum;
        }
    }
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
    const size_t shared = (gaussian.error_size + gaussian.condition_size) * sizeof(float);
    sample_kernel<<<frames, 64, shared, static_cast<cudaStream_t>(stream)>>>(gaussian, condition, error, draw,
                                                                             forward);
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
