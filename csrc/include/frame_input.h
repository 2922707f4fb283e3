// What a network sees of one frame, and the axes of its poses: refiner/rays.py for single frames. Tests hold both
// to the same results.
#pragma once

#include <cstdint>

namespace refiner {

// A frame on its way through the network.
struct FrameAxes {
    float rotation[9];  // to the virtual camera, row by row; the identity without rays
    float root[3];      // metres, in the axes of the real camera
};

// The 2D input of a network that sees rays: keypoints [J, 3] (pixels, confidence) and a camera (width, height,
// focal length) become features [J, 6] of rows `stride` apart, and the rotation.
void see_rays(const float* keypoints, const float* camera, int64_t joints, float* features, int64_t stride,
              float* rotation);

// That of a network that sees the screen: pixels [J, 2] and (width, height) become features [J, 2].
void see_screen(const float* pixels, const float* size, int64_t joints, float* features, int64_t stride);

// A pose [J, 3] relative to its root, in the axes of the virtual camera.
void turn(const float* pose, int64_t joints, FrameAxes& axes, bool rotated, float* turned);

// The pose [J, 3] in the axes of the real camera, from one that `turn` or the network gave. Joint 0 is the root.
void place(const float* relative, int64_t joints, const FrameAxes& axes, bool rotated, float* pose);

}  // namespace refiner
