// Optimal alignment of eight poses at a time (see procrustes_simd.h). This file is compiled once for every
// instruction set, each time into another namespace. It uses the portable vector extensions of GCC and Clang: a
// Lane is eight doubles, which are one AVX-512 register, two AVX registers, or four SSE or NEON registers.
//
// Horn's quaternion is the eigenvector of the largest eigenvalue of a symmetric, traceless 4x4 matrix K. The
// eigenvalue is the largest root of a quartic without cubic term. Newton's method finds it from above, where it
// converges monotonically (Theobald, Acta Cryst. A61, 2005). The eigenvector is a column of the adjugate of
// K - lambda. Both lose digits if two eigenvalues are nearly equal. A residual and the size of the adjugate detect
// this, and the scalar code then computes such lanes.

#include "procrustes_simd.h"

#include <cstring>

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

constexpr int kLanes = 8;
// The largest number of joints, so that the poses stay in the cache between the passes. The scalar code computes
// poses with more joints.
constexpr int64_t kMostJoints = 64;
constexpr int kIterations = 24;
constexpr double kConverged = 1e-15;
constexpr double kLargestResidual = 1e-12;
constexpr double kSmallestAdjugate = 1e-8;
constexpr double kSmallestSpread = 1e-20;

typedef double Lane __attribute__((vector_size(kLanes * sizeof(double))));
typedef float Singles __attribute__((vector_size(kLanes * sizeof(float))));
typedef int64_t Mask __attribute__((vector_size(kLanes * sizeof(int64_t))));

Lane splat(double value) { return Lane{} + value; }
Lane magnitude(Lane x) { return x < 0.0 ? -x : x; }
Lane larger(Lane a, Lane b) { return a > b ? a : b; }

// The square root of every lane; NaN stays NaN.
Lane root(Lane x) {
    double values[kLanes];
    std::memcpy(values, &x, sizeof(x));
    for (double& value : values) value = __builtin_sqrt(value);
    std::memcpy(&x, values, sizeof(x));
    return x;
}

// The distance of two joints from its square. For single-precision poses a single-precision root is exact enough,
// and four times as fast.
Lane distance(Lane square, float) {
    Singles single = __builtin_convertvector(square, Singles);
    float values[kLanes];
    std::memcpy(values, &single, sizeof(single));
    for (float& value : values) value = __builtin_sqrtf(value);
    std::memcpy(&single, values, sizeof(single));
    return __builtin_convertvector(single, Lane);
}

Lane distance(Lane square, double) { return root(square); }

// Loads the same coordinate of eight poses.
Lane gather(const float* const* rows, int64_t at) {
    const Singles single = {rows[0][at], rows[1][at], rows[2][at], rows[3][at],
                            rows[4][at], rows[5][at], rows[6][at], rows[7][at]};
    return __builtin_convertvector(single, Lane);
}

Lane gather(const double* const* rows, int64_t at) {
    return Lane{rows[0][at], rows[1][at], rows[2][at], rows[3][at],
                rows[4][at], rows[5][at], rows[6][at], rows[7][at]};
}

struct Motion {
    Lane rotation[3][3];
    Lane scale;
    Mask poor;  // lanes that need the scalar code
};

// Computes the largest eigenvalue of K and its eigenvector from M = sum w p t^T, which has the Frobenius norm 1.
// Returns the lanes that need the scalar code.
Mask solve(const Lane m[3][3], Lane q[4], Lane* lambda) {
    const Lane k00 = m[0][0] + m[1][1] + m[2][2], k11 = m[0][0] - m[1][1] - m[2][2];
    const Lane k22 = m[1][1] - m[0][0] - m[2][2], k33 = m[2][2] - m[0][0] - m[1][1];
    const Lane k01 = m[1][2] - m[2][1], k02 = m[2][0] - m[0][2], k03 = m[0][1] - m[1][0];
    const Lane k12 = m[0][1] + m[1][0], k13 = m[2][0] + m[0][2], k23 = m[1][2] + m[2][1];
    // det(K - x) = x^4 - 2 |M|^2 x^2 - 8 det(M) x + det(K), |M| = 1.
    const Lane det_m = m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
                       m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
                       m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
    const auto determinant = [](Lane a, Lane b, Lane c, Lane d, Lane e, Lane f, Lane g, Lane h, Lane i, Lane j) {
        // The determinant of the symmetric matrix [a b c d; b e f g; c f h i; d g i j],
        // by 2x2 minors of its upper and lower halves.
        const Lane s0 = a * e - b * b, s1 = a * f - c * b, s2 = a * g - d * b;
        const Lane s3 = b * f - c * e, s4 = b * g - d * e, s5 = c * g - d * f;
        const Lane c0 = c * g - f * d, c1 = c * i - h * d, c2 = c * j - i * d;
        const Lane c3 = f * i - h * g, c4 = f * j - i * g, c5 = h * j - i * i;
        return s0 * c5 - s1 * c4 + s2 * c3 + s3 * c2 - s4 * c1 + s5 * c0;
    };
    const Lane c0 = determinant(k00, k01, k02, k03, k11, k12, k13, k22, k23, k33);
    const Lane c1 = -8.0 * det_m;
    // The start is an upper bound: three singular values with squares that sum to 1 have a sum of at most sqrt(3).
    // A lane that has converged is not changed any more, so that the result of a pose does not depend on the other
    // poses of the group.
    Lane x = splat(1.7320508075688774);
    Mask moving = x > 0.0;
    for (int step = 0; step < kIterations; ++step) {
        const Lane square = x * x;
        const Lane slope = 4.0 * square * x - 4.0 * x + c1;
        const Lane value = (square - 2.0) * square + c1 * x + c0;
        const Lane change = slope > 0.0 ? value / slope : splat(0.0);
        x = moving ? x - change : x;
        moving &= magnitude(change) > kConverged * x;
        int64_t any = 0;
        for (int i = 0; i < kLanes; ++i) any |= moving[i];
        if (any == 0) break;
    }
    *lambda = x;
    const Lane a = k00 - x, e = k11 - x, h = k22 - x, j = k33 - x;
    const Lane b = k01, c = k02, d = k03, f = k12, g = k13, i = k23;
    // The adjugate of [a b c d; b e f g; c f h i; d g i j]. It is symmetric, and has rank 1 for a simple
    // eigenvalue.
    const Lane s0 = a * e - b * b, s1 = a * f - c * b, s2 = a * g - d * b;
    const Lane s3 = b * f - c * e, s4 = b * g - d * e, s5 = c * g - d * f;
    const Lane t0 = c * g - f * d, t1 = c * i - h * d, t2 = c * j - i * d;
    const Lane t3 = f * i - h * g, t4 = f * j - i * g, t5 = h * j - i * i;
    const Lane adjugate[4][4] = {
        {e * t5 - f * t4 + g * t3, -b * t5 + c * t4 - d * t3, g * s5 - i * s4 + j * s3, -f * s5 + h * s4 - i * s3},
        {-b * t5 + f * t2 - g * t1, a * t5 - c * t2 + d * t1, -d * s5 + i * s2 - j * s1, c * s5 - h * s2 + i * s1},
        {b * t4 - e * t2 + g * t0, -a * t4 + b * t2 - d * t0, d * s4 - g * s2 + j * s0, -c * s4 + f * s2 - i * s0},
        {-b * t3 + e * t1 - f * t0, a * t3 - b * t1 + c * t0, -d * s3 + g * s1 - i * s0,
         c * s3 - f * s1 + h * s0}};
    Lane best = magnitude(adjugate[0][0]);
    for (int r = 0; r < 4; ++r) q[r] = adjugate[r][0];
    for (int column = 1; column < 4; ++column) {
        const Lane size = magnitude(adjugate[column][column]);
        const Mask better = size > best;
        best = larger(size, best);
        for (int r = 0; r < 4; ++r) q[r] = better ? adjugate[r][column] : q[r];
    }
    const Lane length = root(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    for (int r = 0; r < 4; ++r) q[r] /= length;
    const Lane residual[4] = {a * q[0] + b * q[1] + c * q[2] + d * q[3], b * q[0] + e * q[1] + f * q[2] + g * q[3],
                              c * q[0] + f * q[1] + h * q[2] + i * q[3],
                              d * q[0] + g * q[1] + i * q[2] + j * q[3]};
    Lane worst = magnitude(residual[0]);
    for (int r = 1; r < 4; ++r) worst = larger(worst, magnitude(residual[r]));
    // The comparisons are false for NaN, so that NaN needs the scalar code.
    return ~((worst <= kLargestResidual) & (best >= kSmallestAdjugate));
}

// Eight poses from `first` on; lanes after `end` repeat the last pose. The centred poses are kept for the second
// pass.
template <typename Real>
struct Group {
    Lane pred[3 * kMostJoints];
    Lane target[3 * kMostJoints];
    Lane target_centre[3];

    Motion align(const AlignBlock<Real>& block, int64_t first, int64_t end) {
        const int64_t joints = block.joints, size = 3 * joints;
        const Real* preds[kLanes];
        const Real* targets[kLanes];
        for (int i = 0; i < kLanes; ++i) {
            const int64_t pose = first + i < end ? first + i : end - 1;
            preds[i] = block.pred + pose * size;
            targets[i] = block.target + pose * size;
        }
        Lane pred_centre[3] = {}, largest = {};
        for (int k = 0; k < 3; ++k) target_centre[k] = Lane{};
        for (int64_t joint = 0; joint < joints; ++joint) {
            const double weight = block.weights == nullptr ? 1.0 : block.weights[joint];
            for (int64_t k = 0; k < 3; ++k) {
                const int64_t at = 3 * joint + k;
                pred[at] = gather(preds, at);
                target[at] = gather(targets, at);
                pred_centre[k] += weight * pred[at];
                target_centre[k] += weight * target[at];
                largest = larger(largest, magnitude(pred[at]));
            }
        }
        for (int k = 0; k < 3; ++k) {
            pred_centre[k] /= static_cast<double>(joints);
            target_centre[k] /= static_cast<double>(joints);
        }
        Lane m[3][3] = {}, spread = {};
        for (int64_t joint = 0; joint < joints; ++joint) {
            const double weight = block.weights == nullptr ? 1.0 : block.weights[joint];
            Lane p[3], t[3];
            for (int64_t k = 0; k < 3; ++k) {
                const int64_t at = 3 * joint + k;
                p[k] = pred[at] -= pred_centre[k];
                t[k] = target[at] -= target_centre[k];
            }
            spread += weight * (p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
            for (int r = 0; r < 3; ++r) {
                const Lane weighted = weight * p[r];
                for (int c = 0; c < 3; ++c) m[r][c] += weighted * t[c];
            }
        }
        Lane norm = {};
        for (int r = 0; r < 3; ++r) {
            for (int c = 0; c < 3; ++c) norm += m[r][c] * m[r][c];
        }
        norm = root(norm);
        for (int r = 0; r < 3; ++r) {
            for (int c = 0; c < 3; ++c) m[r][c] /= norm;
        }
        Motion motion;
        Lane q[4], lambda;
        motion.poor = solve(m, q, &lambda);
        motion.poor |= ~(spread > kSmallestSpread * static_cast<double>(joints) * largest * largest);
        const Lane w = q[0], x = q[1], y = q[2], z = q[3];
        const Lane ww = w * w, xx = x * x, yy = y * y, zz = z * z;
        const Lane xy = 2.0 * x * y, xz = 2.0 * x * z, yz = 2.0 * y * z;
        const Lane wx = 2.0 * w * x, wy = 2.0 * w * y, wz = 2.0 * w * z;
        const Lane rotation[3][3] = {{ww + xx - yy - zz, xy - wz, xz + wy},
                                     {xy + wz, ww - xx + yy - zz, yz - wx},
                                     {xz - wy, yz + wx, ww - xx - yy + zz}};
        motion.scale = block.with_scale ? lambda * norm / spread : splat(1.0);
        for (int r = 0; r < 3; ++r) {
            for (int c = 0; c < 3; ++c) motion.rotation[r][c] = rotation[r][c] * motion.scale;
        }
        return motion;
    }
};

Lane turned(const Motion& motion, int r, const Lane* joint) {
    return motion.rotation[r][0] * joint[0] + motion.rotation[r][1] * joint[1] + motion.rotation[r][2] * joint[2];
}

template <typename Real>
void error_block(const AlignBlock<Real>& block, int64_t begin, int64_t end) {
    if (block.joints > kMostJoints) {
        for (int64_t pose = begin; pose < end; ++pose) error_of_pose(block, pose);
        return;
    }
    Group<Real> group;
    for (int64_t first = begin; first < end; first += kLanes) {
        const Motion motion = group.align(block, first, end);
        Lane sum = {};
        for (int64_t joint = 0; joint < block.joints; ++joint) {
            const double weight = block.weights == nullptr ? 1.0 : block.weights[joint];
            const Lane* pred = group.pred + 3 * joint;
            const Lane* target = group.target + 3 * joint;
            Lane square = {};
            for (int r = 0; r < 3; ++r) {
                const Lane difference = turned(motion, r, pred) - target[r];
                square += difference * difference;
            }
            sum += weight * distance(square, Real{});
        }
        sum /= static_cast<double>(block.joints);
        for (int i = 0; i < kLanes && first + i < end; ++i) {
            if (motion.poor[i] != 0) {
                error_of_pose(block, first + i);
            } else {
                block.out[first + i] = static_cast<Real>(sum[i]);
            }
        }
    }
}

template <typename Real>
void align_block(const AlignBlock<Real>& block, int64_t begin, int64_t end) {
    if (block.joints > kMostJoints) {
        for (int64_t pose = begin; pose < end; ++pose) align_one_pose(block, pose);
        return;
    }
    Group<Real> group;
    const int64_t size = 3 * block.joints;
    for (int64_t first = begin; first < end; first += kLanes) {
        const Motion motion = group.align(block, first, end);
        const int count = end - first < kLanes ? static_cast<int>(end - first) : kLanes;
        for (int64_t joint = 0; joint < block.joints; ++joint) {
            for (int r = 0; r < 3; ++r) {
                const Lane moved = turned(motion, r, group.pred + 3 * joint) + group.target_centre[r];
                for (int i = 0; i < count; ++i) {
                    block.out[(first + i) * size + 3 * joint + r] = static_cast<Real>(moved[i]);
                }
            }
        }
        for (int i = 0; i < count; ++i) {
            if (motion.poor[i] != 0) align_one_pose(block, first + i);
        }
    }
}

}  // namespace

ProcrustesKernels procrustes_kernels() {
    return {&error_block<float>, &error_block<double>, &align_block<float>, &align_block<double>};
}

}  // namespace refiner::REFINER_ISA_NAMESPACE
