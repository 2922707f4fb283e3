#include "kernels.h"
#include "parallel.h"
#include "procrustes_math.h"
#include "procrustes_simd.h"

namespace refiner {
namespace {

// The number of poses of a piece: about 100 kB, and enough work to justify waking a thread.
constexpr int64_t kGrain = 256;

const ProcrustesKernels& kernels() {
    static const ProcrustesKernels selected = select_procrustes_kernels();
    return selected;
}

template <typename Real>
void error_of(const AlignBlock<Real>& block, int64_t pose) {
    const int64_t at = 3 * block.joints * pose;
    block.out[pose] = static_cast<Real>(
        aligned_error(block.pred + at, block.target + at, block.weights, block.joints, block.with_scale));
}

template <typename Real>
void align_of(const AlignBlock<Real>& block, int64_t pose) {
    const int64_t at = 3 * block.joints * pose;
    const Alignment alignment =
        align_pose(block.pred + at, block.target + at, block.weights, block.joints, block.with_scale);
    for (int64_t joint = 0; joint < block.joints; ++joint) {
        double aligned[3];
        apply_alignment(alignment, block.pred + at + 3 * joint, aligned);
        for (int k = 0; k < 3; ++k) block.out[at + 3 * joint + k] = static_cast<Real>(aligned[k]);
    }
}

}  // namespace

void error_of_pose(const AlignBlock<float>& block, int64_t pose) { error_of(block, pose); }
void error_of_pose(const AlignBlock<double>& block, int64_t pose) { error_of(block, pose); }
void align_one_pose(const AlignBlock<float>& block, int64_t pose) { align_of(block, pose); }
void align_one_pose(const AlignBlock<double>& block, int64_t pose) { align_of(block, pose); }

void p_mpjpe(const AlignBlock<float>& block, int64_t poses, int threads) {
    parallel_for(0, poses, kGrain, threads,
                 [&](int64_t begin, int64_t end) { kernels().error_f32(block, begin, end); });
}

void p_mpjpe(const AlignBlock<double>& block, int64_t poses, int threads) {
    parallel_for(0, poses, kGrain, threads,
                 [&](int64_t begin, int64_t end) { kernels().error_f64(block, begin, end); });
}

void procrustes_align(const AlignBlock<float>& block, int64_t poses, int threads) {
    parallel_for(0, poses, kGrain, threads,
                 [&](int64_t begin, int64_t end) { kernels().align_f32(block, begin, end); });
}

void procrustes_align(const AlignBlock<double>& block, int64_t poses, int threads) {
    parallel_for(0, poses, kGrain, threads,
                 [&](int64_t begin, int64_t end) { kernels().align_f64(block, begin, end); });
}

}  // namespace refiner
