// Vectorised alignment: eight poses at a time, one in each lane of double precision.
#pragma once

#include <cstdint>

#include "isa.h"

namespace refiner {

// Poses begin .. end of [poses, joints, 3]; weights [joints], positive, of mean 1, or nullptr. `out` is error
// [poses] or aligned [poses, joints, 3].
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

// One pose by cyclic Jacobi rotations, for the lanes that the vector code cannot vouch for: joints on a line or on
// a point, equal eigenvalues, NaN. Compiled once, for every processor.
void error_of_pose(const AlignBlock<float>& block, int64_t pose);
void error_of_pose(const AlignBlock<double>& block, int64_t pose);
void align_one_pose(const AlignBlock<float>& block, int64_t pose);
void align_one_pose(const AlignBlock<double>& block, int64_t pose);

}  // namespace refiner
