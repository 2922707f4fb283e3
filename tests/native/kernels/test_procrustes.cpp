// Alignment against the formula by a singular value decomposition (one-sided Jacobi), in double precision.
#include <cmath>
#include <limits>
#include <utility>

#include "check.h"
#include "kernels.h"

namespace refiner::test {
namespace {

using Vector3 = double[3];

double dot(const Vector3& a, const Vector3& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

void cross(const Vector3& a, const Vector3& b, Vector3& out) {
    for (int k = 0; k < 3; ++k) out[k] = a[(k + 1) % 3] * b[(k + 2) % 3] - a[(k + 2) % 3] * b[(k + 1) % 3];
}

double determinant(const double (&m)[3][3]) {
    Vector3 normal;
    cross(m[1], m[2], normal);
    return dot(m[0], normal);
}

// The rotation R of the largest sum_rc R[c][r] m[r][c] (Umeyama, 1991), and that sum.
double best_rotation(const double (&m)[3][3], double (&rotation)[3][3]) {
    // Rows of `left` are the columns of m; turning pairs of them until all are orthogonal gives U S, and the same
    // turns of the identity give V.
    double left[3][3], right[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    for (int r = 0; r < 3; ++r) {
        for (int c = 0; c < 3; ++c) left[c][r] = m[r][c];
    }
    for (int sweep = 0; sweep < 60; ++sweep) {
        for (int i = 0; i < 2; ++i) {
            for (int j = i + 1; j < 3; ++j) {
                const double both = dot(left[i], left[j]);
                if (both == 0.0) continue;
                const double zeta = (dot(left[j], left[j]) - dot(left[i], left[i])) / (2.0 * both);
                const double t = (zeta >= 0 ? 1.0 : -1.0) / (std::fabs(zeta) + std::sqrt(1.0 + zeta * zeta));
                const double c = 1.0 / std::sqrt(1.0 + t * t), s = c * t;
                for (auto* rows : {left, right}) {
                    for (int k = 0; k < 3; ++k) {
                        const double a = rows[i][k], b = rows[j][k];
                        rows[i][k] = c * a - s * b;
                        rows[j][k] = s * a + c * b;
                    }
                }
            }
        }
    }
    for (int i = 0; i < 2; ++i) {
        for (int j = i + 1; j < 3; ++j) {
            if (dot(left[j], left[j]) > dot(left[i], left[i])) {
                std::swap(left[i], left[j]);
                std::swap(right[i], right[j]);
            }
        }
    }
    double size[3];
    for (int i = 0; i < 3; ++i) size[i] = std::sqrt(dot(left[i], left[i]));
    if (size[0] == 0.0) left[0][0] = 1.0;
    const double first = std::sqrt(dot(left[0], left[0]));
    for (double& value : left[0]) value /= first;
    if (size[1] <= 1e-12 * first) {
        const int axis = std::fabs(left[0][0]) < 0.6 ? 0 : 1;
        for (int k = 0; k < 3; ++k) left[1][k] = (k == axis ? 1.0 : 0.0) - left[0][axis] * left[0][k];
    }
    const double second = std::sqrt(dot(left[1], left[1]));
    for (double& value : left[1]) value /= second;
    if (size[2] <= 1e-12 * first) {
        cross(left[0], left[1], left[2]);
    } else {
        for (double& value : left[2]) value /= size[2];
    }
    const double sign = determinant(left) * determinant(right) < 0 ? -1.0 : 1.0;
    const double factor[3] = {1.0, 1.0, sign};
    for (int r = 0; r < 3; ++r) {
        for (int c = 0; c < 3; ++c) {
            rotation[r][c] = 0.0;
            for (int i = 0; i < 3; ++i) rotation[r][c] += right[i][r] * factor[i] * left[i][c];
        }
    }
    return size[0] + size[1] + sign * size[2];
}

// Aligns one pose and returns the mean error.
double align(const double* pred, const double* target, const double* weights, int64_t joints, bool with_scale,
             double* out) {
    Vector3 from = {}, to = {};
    for (int64_t j = 0; j < joints; ++j) {
        const double weight = weights != nullptr ? weights[j] : 1.0;
        for (int k = 0; k < 3; ++k) {
            from[k] += weight * pred[3 * j + k] / static_cast<double>(joints);
            to[k] += weight * target[3 * j + k] / static_cast<double>(joints);
        }
    }
    double m[3][3] = {}, spread = 0.0;
    for (int64_t j = 0; j < joints; ++j) {
        const double weight = weights != nullptr ? weights[j] : 1.0;
        for (int r = 0; r < 3; ++r) {
            const double p = pred[3 * j + r] - from[r];
            spread += weight * p * p;
            for (int c = 0; c < 3; ++c) m[r][c] += weight * p * (target[3 * j + c] - to[c]);
        }
    }
    double rotation[3][3];
    const double trace = best_rotation(m, rotation);
    const double scale = !with_scale ? 1.0 : spread > 1e-18 ? trace / spread : 0.0;
    double error = 0.0;
    for (int64_t j = 0; j < joints; ++j) {
        double square = 0.0;
        for (int r = 0; r < 3; ++r) {
            double turned = 0.0;
            for (int c = 0; c < 3; ++c) turned += rotation[r][c] * (pred[3 * j + c] - from[c]);
            out[3 * j + r] = scale * turned + to[r];
            square += (out[3 * j + r] - target[3 * j + r]) * (out[3 * j + r] - target[3 * j + r]);
        }
        error += (weights != nullptr ? weights[j] : 1.0) * std::sqrt(square);
    }
    return error / static_cast<double>(joints);
}

enum class Kind { kRandom, kSimilar, kFar, kReflected, kFlatReflected, kLine, kPoint };

struct Poses {
    std::vector<double> pred, target;
};

Poses make(Random& random, Kind kind, int64_t poses, int64_t joints) {
    const int64_t size = poses * joints * 3;
    Poses made{random.normals(size, 0.4), random.normals(size, 0.4)};
    for (int64_t i = 0; i < size; ++i) {
        double& p = made.pred[static_cast<size_t>(i)];
        double& t = made.target[static_cast<size_t>(i)];
        const int64_t axis = i % 3, pose = i / (3 * joints);
        switch (kind) {
            case Kind::kRandom:
                break;
            case Kind::kSimilar:
                p = t + 0.05 * p;
                break;
            case Kind::kFar:
                p += axis == 0 ? 10.0 : -4.0;
                t -= 7.0;
                break;
            case Kind::kFlatReflected:
                if (axis == 2) t *= 1e-3;
                [[fallthrough]];
            case Kind::kReflected:
                p = axis == 2 ? -t : t;
                break;
            case Kind::kLine:
                p = made.pred[static_cast<size_t>(i - axis)] * (1.0 + 0.7 * static_cast<double>(axis));
                break;
            case Kind::kPoint:
                p = made.pred[static_cast<size_t>(pose * joints * 3 + axis)];
                break;
        }
    }
    return made;
}

template <typename Real>
void check(const std::string& what, const Poses& poses, int64_t count, int64_t joints, const double* weights,
           bool with_scale, bool unique, int threads) {
    const std::vector<Real> pred(poses.pred.begin(), poses.pred.end());
    const std::vector<Real> target(poses.target.begin(), poses.target.end());
    const std::vector<double> wide_pred(pred.begin(), pred.end()), wide_target(target.begin(), target.end());
    std::vector<double> errors(static_cast<size_t>(count)), aligned(wide_pred.size());
    for (int64_t n = 0; n < count; ++n) {
        const int64_t at = n * joints * 3;
        errors[static_cast<size_t>(n)] = align(wide_pred.data() + at, wide_target.data() + at, weights, joints,
                                               with_scale, aligned.data() + at);
    }
    std::vector<Real> found(errors.size()), moved(pred.size());
    p_mpjpe(AlignBlock<Real>{pred.data(), target.data(), weights, found.data(), joints, with_scale}, count,
            threads);
    procrustes_align(AlignBlock<Real>{pred.data(), target.data(), weights, moved.data(), joints, with_scale},
                     count, threads);
    const double bound = sizeof(Real) == sizeof(float) ? 1e-6 : 1e-12;
    close("error, " + what, found, errors, bound);
    if (unique) close("aligned poses, " + what, moved, aligned, 1e3 * bound);
}

}  // namespace

void test_procrustes() {
    Random random(20261);
    const std::pair<Kind, const char*> kinds[] = {
        {Kind::kRandom, "random"},   {Kind::kSimilar, "similar"},
        {Kind::kFar, "far"},         {Kind::kReflected, "reflected"},
        {Kind::kLine, "line"},       {Kind::kFlatReflected, "nearly flat, reflected"},
        {Kind::kPoint, "one point"},
    };
    for (const auto& [kind, name] : kinds) {
        int64_t turn = 0;
        for (const int64_t count : {1, 3, 8, 13, 300}) {
            const int64_t joints = count == 3 ? 65 : count == 8 ? 4 : 17;  // more than 64 joints take other code
            const Poses poses = make(random, kind, count, joints);
            std::vector<double> weights(static_cast<size_t>(joints));
            double sum = 0.0;
            for (double& weight : weights) sum += weight = 0.1 + random.uniform();
            for (double& weight : weights) weight *= static_cast<double>(joints) / sum;
            const bool with_scale = turn % 2 == 0;
            const double* chosen = turn % 3 == 0 ? nullptr : weights.data();
            // A prediction on a line or at a point has many best rotations, of the same error.
            const bool unique = kind != Kind::kLine && (kind != Kind::kPoint || with_scale);
            const std::string what = std::string(name) + ", " + std::to_string(count) + " poses";
            check<float>(what + ", float", poses, count, joints, chosen, with_scale, unique, 3);
            check<double>(what + ", double", poses, count, joints, chosen, with_scale, unique, 3);
            ++turn;
        }
    }
    // NaN in one pose of a group of eight.
    Poses poses = make(random, Kind::kSimilar, 9, 17);
    poses.pred[5 * 51 + 7] = std::numeric_limits<double>::quiet_NaN();
    check<float>("NaN in one pose, float", poses, 9, 17, nullptr, true, true, 1);
    check<double>("NaN in one pose, double", poses, 9, 17, nullptr, true, true, 1);
}

}  // namespace refiner::test
