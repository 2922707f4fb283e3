// Vectorised alignment of eight poses at a time, one in each lane of a vector of doubles.
#pragma once

#include <cstdint>

#include "isa.h"

namespace refiner {

// The arguments for poses [poses, joints, 3]. The weights [joints] are positive with a mean of 1, or nullptr.
// `out` is the error [poses] or the aligned poses [poses, joints, 3].
template <typename Real>
struct AlignBlock {
    const Real* pred;
    const Real* target;
    const double* weights;
    Real* out;
    int64_t joints;
    bool with_scale;
};

struct ProcrustesKernels {
    void (*error_f32)(const AlignBlock<float>&, int64_t begin, int64_t end);
    void (*error_f64)(const AlignBlock<double>&, int64_t begin, int64_t end);
    void (*align_f32)(const AlignBlock<float>&, int64_t begin, int64_t end);
    void (*align_f64)(const AlignBlock<double>&, int64_t begin, int64_t end);
};

REFINER_DECLARE_VARIANTS(ProcrustesKernels, procrustes_kernels)

// The scalar code for one pose, by cyclic Jacobi rotations. It computes the poses for which the vector code is not
// exact enough: all joints on a line or at a point, equal eigenvalues, NaN. It is compiled once for all
// processors.
void error_of_pose(const AlignBlock<float>& block, int64_t pose);
void error_of_pose(const AlignBlock<double>& block, int64_t pose);
void align_one_pose(const AlignBlock<float>& block, int64_t pose);
void align_one_pose(const AlignBlock<double>& block, int64_t pose);

}  // namespace refiner
