#include "kernels.h"
#include "parallel.h"
#include "procrustes_math.h"

namespace refiner {

template <typename Real>
void p_mpjpe(const Real* pred, const Real* target, Real* error, int64_t poses, int64_t joints, bool with_scale,
             int threads) {
    parallel_for(0, poses, 256, threads, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            const int64_t at = 3 * joints * n;
            error[n] = static_cast<Real>(aligned_error(pred + at, target + at, joints, with_scale));
        }
    });
}

template <typename Real>
void procrustes_align(const Real* pred, const Real* target, Real* aligned, int64_t poses, int64_t joints,
                      bool with_scale, int threads) {
    parallel_for(0, poses, 256, threads, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            const int64_t at = 3 * joints * n;
            const Alignment alignment = align_pose(pred + at, target + at, joints, with_scale);
            for (int64_t j = 0; j < joints; ++j) {
                double joint[3];
                apply_alignment(alignment, pred + at + 3 * j, joint);
                for (int k = 0; k < 3; ++k) aligned[at + 3 * j + k] = static_cast<Real>(joint[k]);
            }
        }
    });
}

template void p_mpjpe<float>(const float*, const float*, float*, int64_t, int64_t, bool, int);
template void p_mpjpe<double>(const double*, const double*, double*, int64_t, int64_t, bool, int);
template void procrustes_align<float>(const float*, const float*, float*, int64_t, int64_t, bool, int);
template void procrustes_align<double>(const double*, const double*, double*, int64_t, int64_t, bool, int);

}  // namespace refiner
