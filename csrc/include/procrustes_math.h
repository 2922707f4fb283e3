// Optimal similarity alignment of one pose, without a general SVD: Horn's quaternion method (JOSA A 4, 1987).
//
// The quaternion of the best rotation of the centred prediction onto the centred target is the eigenvector of the
// largest eigenvalue of a symmetric 4x4 matrix. A quaternion is always a proper rotation, so that reflections need
// no special case. The result equals that of the SVD formula with its sign correction.
#pragma once

#include <cmath>
#include <cstdint>

#include "device.h"

namespace refiner {

struct Alignment {
    double rotation[3][3];
    double scale;
    double pred_centre[3];
    double target_centre[3];
};

// The eigenvector of the largest eigenvalue of a symmetric 4x4 matrix, by cyclic Jacobi rotations. NaN gives NaN.
REFINER_HD void largest_eigenvector(double a[4][4], double vector[4]) {
    double v[4][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}};
    for (int sweep = 0; sweep < 12; ++sweep) {
        double off = 0.0;
        double diagonal = 0.0;
        for (int p = 0; p < 4; ++p) {
            diagonal += a[p][p] * a[p][p];
            for (int q = p + 1; q < 4; ++q) off += a[p][q] * a[p][q];
        }
        if (!(off > 1e-32 * diagonal)) break;
        for (int p = 0; p < 3; ++p) {
            for (int q = p + 1; q < 4; ++q) {
                if (a[p][q] == 0.0) continue;
                const double theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                const double t = (theta >= 0.0 ? 1.0 : -1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
                const double c = 1.0 / sqrt(t * t + 1.0);
                const double s = t * c;
                for (int k = 0; k < 4; ++k) {
                    const double kp = a[k][p];
                    const double kq = a[k][q];
                    a[k][p] = c * kp - s * kq;
                    a[k][q] = s * kp + c * kq;
                }
                for (int k = 0; k < 4; ++k) {
                    const double pk = a[p][k];
                    const double qk = a[q][k];
                    a[p][k] = c * pk - s * qk;
                    a[q][k] = s * pk + c * qk;
                }
                for (int k = 0; k < 4; ++k) {
                    const double kp = v[k][p];
                    const double kq = v[k][q];
                    v[k][p] = c * kp - s * kq;
                    v[k][q] = s * kp + c * kq;
                }
            }
        }
    }
    int best = 0;
    for (int p = 1; p < 4; ++p) {
        if (a[p][p] > a[best][best]) best = p;
    }
    for (int k = 0; k < 4; ++k) vector[k] = v[k][best];
}

// The alignment of `pred` onto `target`, both [joints, 3]. `weights` [joints] have a mean of 1; nullptr stands for
// equal weights. If all joints of the prediction coincide, the scale is 0: the prediction is moved to the centroid
// of the target.
template <typename Real>
REFINER_HD Alignment align_pose(const Real* pred, const Real* target, const double* weights, int64_t joints,
                                bool with_scale) {
    Alignment result;
    double largest = 0.0;
    for (int k = 0; k < 3; ++k) {
        double pred_sum = 0.0;
        double target_sum = 0.0;
        for (int64_t j = 0; j < joints; ++j) {
            const double weight = weights != nullptr ? weights[j] : 1.0;
            pred_sum += weight * pred[3 * j + k];
            target_sum += weight * target[3 * j + k];
            const double size = fabs(static_cast<double>(pred[3 * j + k]));
            if (size > largest) largest = size;
        }
        result.pred_centre[k] = pred_sum / joints;
        result.target_centre[k] = target_sum / joints;
    }
    double m[3][3] = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
    double spread = 0.0;
    for (int64_t j = 0; j < joints; ++j) {
        const double weight = weights != nullptr ? weights[j] : 1.0;
        double p[3];
        double t[3];
        for (int k = 0; k < 3; ++k) {
            p[k] = pred[3 * j + k] - result.pred_centre[k];
            t[k] = target[3 * j + k] - result.target_centre[k];
            spread += weight * p[k] * p[k];
        }
        for (int r = 0; r < 3; ++r) {
            for (int c = 0; c < 3; ++c) m[r][c] += weight * p[r] * t[c];
        }
    }
    double n[4][4] = {{m[0][0] + m[1][1] + m[2][2], m[1][2] - m[2][1], m[2][0] - m[0][2], m[0][1] - m[1][0]},
                      {0, m[0][0] - m[1][1] - m[2][2], m[0][1] + m[1][0], m[2][0] + m[0][2]},
                      {0, 0, -m[0][0] + m[1][1] - m[2][2], m[1][2] + m[2][1]},
                      {0, 0, 0, -m[0][0] - m[1][1] + m[2][2]}};
    for (int r = 1; r < 4; ++r) {
        for (int c = 0; c < r; ++c) n[r][c] = n[c][r];
    }
    double q[4];
    largest_eigenvector(n, q);
    const double w = q[0], x = q[1], y = q[2], z = q[3];
    double (&rot)[3][3] = result.rotation;
    rot[0][0] = w * w + x * x - y * y - z * z;
    rot[0][1] = 2.0 * (x * y - w * z);
    rot[0][2] = 2.0 * (x * z + w * y);
    rot[1][0] = 2.0 * (x * y + w * z);
    rot[1][1] = w * w - x * x + y * y - z * z;
    rot[1][2] = 2.0 * (y * z - w * x);
    rot[2][0] = 2.0 * (x * z - w * y);
    rot[2][1] = 2.0 * (y * z + w * x);
    rot[2][2] = w * w - x * x - y * y + z * z;
    double trace = 0.0;  // tr(R M), the largest eigenvalue
    for (int r = 0; r < 3; ++r) {
        for (int c = 0; c < 3; ++c) trace += rot[r][c] * m[c][r];
    }
    result.scale = 1.0;
    if (with_scale) {
        // Because of rounding, coincident joints differ by about 1e-16 of their distance to the origin.
        const double rounding = 1e-13 * largest;
        result.scale = spread <= joints * rounding * rounding ? 0.0 : trace / spread;
    }
    // This adds 0, or NaN if a coordinate is not finite. Then the whole pose is NaN, and not only this coordinate.
    result.scale += 0.0 * trace;
    return result;
}

// Moves one joint of the prediction by the alignment.
template <typename Real>
REFINER_HD void apply_alignment(const Alignment& a, const Real* joint, double aligned[3]) {
    for (int r = 0; r < 3; ++r) {
        double turned = 0.0;
        for (int c = 0; c < 3; ++c) turned += a.rotation[r][c] * (joint[c] - a.pred_centre[c]);
        aligned[r] = a.scale * turned + a.target_centre[r];
    }
}

// The (weighted) mean distance of the joints after the alignment.
template <typename Real>
REFINER_HD double aligned_error(const Real* pred, const Real* target, const double* weights, int64_t joints,
                                bool with_scale) {
    const Alignment alignment = align_pose(pred, target, weights, joints, with_scale);
    double sum = 0.0;
    for (int64_t j = 0; j < joints; ++j) {
        double aligned[3];
        apply_alignment(alignment, pred + 3 * j, aligned);
        double square = 0.0;
        for (int k = 0; k < 3; ++k) {
            const double difference = aligned[k] - target[3 * j + k];
            square += difference * difference;
        }
        sum += (weights != nullptr ? weights[j] : 1.0) * sqrt(square);
    }
    return sum / joints;
}

}  // namespace refiner
