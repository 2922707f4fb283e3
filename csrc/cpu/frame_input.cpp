#include "frame_input.h"

#include <algorithm>
#include <cmath>

namespace refiner {
namespace {

// As in refiner/rays.py, which explains them.
constexpr float kLeastWeight = 1e-4f;
constexpr float kLeastDepth = 0.1f;
constexpr float kLeastSpread = 1e-3f;
constexpr float kMeanLogSpread = -2.3f;

// The larger of both; NaN if `value` is NaN, as numpy.maximum.
float at_least(float value, float least) { return value < least ? least : value; }

void rotation_to(float across, float down, float* rotation) {
    const float length = 1.0f / std::sqrt(1.0f + across * across + down * down);
    const float x = across * length;
    const float y = down * length;
    const float z = length;
    const float fold = 1.0f / (1.0f + z);
    const float rows[9] = {
        1.0f - x * x * fold, -x * y * fold, -x, -x * y * fold, 1.0f - y * y * fold, -y, x, y, z};
    std::copy(rows, rows + 9, rotation);
}

}  // namespace

void see_rays(const float* keypoints, const float* camera, int64_t joints, float* features, int64_t stride,
              float* rotation) {
    float weights = 0.0f;
    for (int64_t j = 0; j < joints; ++j) weights += keypoints[j * 3 + 2] + kLeastWeight;
    float shares = 0.0f;
    float centre[2] = {0.0f, 0.0f};
    for (int64_t j = 0; j < joints; ++j) {
        const float* point = keypoints + j * 3;
        float* row = features + j * stride;
        float length = 1.0f;
        for (int axis = 0; axis < 2; ++axis) {
            row[axis] = (point[axis] - 0.5f * camera[axis]) / camera[2];  // the ray, for now
            length += row[axis] * row[axis];
        }
        const float share = (point[2] + kLeastWeight) / weights / std::sqrt(length);
        shares += share;
        for (int axis = 0; axis < 2; ++axis) centre[axis] += share * row[axis];
    }
    for (int axis = 0; axis < 2; ++axis) centre[axis] /= shares;
    rotation_to(centre[0], centre[1], rotation);
    float square = 0.0f;
    for (int64_t j = 0; j < joints; ++j) {
        float* row = features + j * stride;
        float turned[3];
        for (int axis = 0; axis < 3; ++axis) {
            const float* r = rotation + axis * 3;
            turned[axis] = row[0] * r[0] + row[1] * r[1] + r[2];
        }
        const float depth = at_least(turned[2], kLeastDepth);
        const float weight = (keypoints[j * 3 + 2] + kLeastWeight) / weights;
        for (int axis = 0; axis < 2; ++axis) {
            row[axis] = turned[axis] / depth;
            square += weight * (row[axis] * row[axis]);
        }
    }
    const float spread = at_least(std::sqrt(square), kLeastSpread);
    const float log_spread = std::log(spread) - kMeanLogSpread;
    for (int64_t j = 0; j < joints; ++j) {
        float* row = features + j * stride;
        const float confidence = keypoints[j * 3 + 2];
        const float visible = confidence > 0.0f ? 1.0f : 0.0f;
        for (int axis = 0; axis < 2; ++axis) {
            row[axis] = visible * row[axis] / spread;
            row[2 + axis] = centre[axis];
        }
        row[4] = log_spread;
        row[5] = confidence;
    }
}

void see_screen(const float* pixels, const float* size, int64_t joints, float* features, int64_t stride) {
    for (int64_t j = 0; j < joints; ++j) {
        for (int axis = 0; axis < 2; ++axis) {
            features[j * stride + axis] = pixels[j * 2 + axis] / size[0] * 2.0f - size[axis] / size[0];
        }
    }
}

void turn(const float* pose, int64_t joints, FrameAxes& axes, bool rotated, float* turned) {
    std::copy(pose, pose + 3, axes.root);
    for (int64_t j = 0; j < joints; ++j) {
        float relative[3];
        for (int axis = 0; axis < 3; ++axis) relative[axis] = pose[j * 3 + axis] - axes.root[axis];
        for (int axis = 0; axis < 3; ++axis) {
            const float* r = axes.rotation + axis * 3;
            turned[j * 3 + axis] =
                rotated ? relative[0] * r[0] + relative[1] * r[1] + relative[2] * r[2] : relative[axis];
        }
    }
}

void place(const float* relative, int64_t joints, const FrameAxes& axes, bool rotated, float* pose) {
    for (int64_t j = 0; j < joints; ++j) {
        const float* from = relative + j * 3;
        const float* r = axes.rotation;
        for (int axis = 0; axis < 3; ++axis) {
            const float turned =
                rotated ? from[0] * r[axis] + from[1] * r[3 + axis] + from[2] * r[6 + axis] : from[axis];
            pose[j * 3 + axis] = turned + axes.root[axis];
        }
    }
    std::copy(axes.root, axes.root + 3, pose);
}

}  // namespace refiner
