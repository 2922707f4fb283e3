// Refines a file of poses with an artefact of refiner-export (--engine openvino or onnx).
//
//   refine_file MODEL POSE_2D.npy POSE_3D.npy WIDTH HEIGHT REFINED.npy
//
// POSE_2D is (frames, 17, 2) pixels, POSE_3D (frames, 17, 3) metres, both float32, Human3.6M's joints, at the frame rate
// of the artefact's manifest. The graph takes pixels and metres and gives metres: nothing else is needed here but the
// windows, which follow each other by half their length and are blended with a Hann window, as refiner does it in Python.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "npy.h"
#include "openvino/openvino.hpp"

namespace {

constexpr double kPi = 3.14159265358979323846;

std::vector<size_t> window_starts(size_t frames, size_t window) {
  const size_t hop = window > 1 ? window / 2 : 1, last = frames > window ? frames - window : 0;
  std::vector<size_t> starts;
  for (size_t start = 0; start < last; start += hop) starts.push_back(start);
  starts.push_back(last);
  return starts;
}

// Frames start .. start + window of a sequence, the last one again after its end.
ov::Tensor cut(const Array& sequence, size_t start, size_t window) {
  const size_t frame = sequence.shape[1] * sequence.shape[2];
  ov::Tensor tensor(ov::element::f32, {1, window, sequence.shape[1], sequence.shape[2]});
  for (size_t index = 0; index < window; ++index) {
    const size_t source = std::min(start + index, sequence.shape[0] - 1);
    std::copy_n(sequence.values.data() + source * frame, frame, tensor.data<float>() + index * frame);
  }
  return tensor;
}

Array refine(ov::InferRequest& request, size_t window, const Array& pose_2d, const Array& pose_3d, float width,
             float height) {
  const size_t frames = pose_3d.shape[0], pose = pose_3d.shape[1] * pose_3d.shape[2];
  std::vector<double> sum(frames * pose), weights(frames);
  ov::Tensor size(ov::element::f32, {1, 2});
  size.data<float>()[0] = width;
  size.data<float>()[1] = height;
  for (size_t start : window_starts(frames, window)) {
    request.set_tensor("pose_2d", cut(pose_2d, start, window));
    request.set_tensor("pose_3d", cut(pose_3d, start, window));
    request.set_tensor("image_size", size);
    request.infer();
    const float* refined = request.get_output_tensor().data<float>();
    for (size_t index = 0; index < window && start + index < frames; ++index) {
      const double weight = std::pow(std::sin(kPi * (index + 0.5) / window), 2);
      weights[start + index] += weight;
      for (size_t value = 0; value < pose; ++value) {
        sum[(start + index) * pose + value] += weight * refined[index * pose + value];
      }
    }
  }
  Array result{pose_3d.shape, std::vector<float>(sum.size())};
  for (size_t index = 0; index < sum.size(); ++index) {
    result.values[index] = static_cast<float>(sum[index] / weights[index / pose]);
  }
  return result;
}

void check(bool fits, const std::string& message) {
  if (!fits) throw std::runtime_error(message);
}

int run(char** words) {
  const Array pose_2d = read_npy(words[2]), pose_3d = read_npy(words[3]);
  check(pose_2d.shape[2] == 2 && pose_3d.shape[2] == 3, "expected 2D poses first, then 3D");
  check(pose_2d.shape[0] == pose_3d.shape[0] && pose_2d.shape[0] > 0, "2D and 3D differ in frames, or have none");
  check(pose_2d.shape[1] == 17 && pose_3d.shape[1] == 17, "expected Human3.6M's 17 joints");
  const float width = std::strtof(words[4], nullptr), height = std::strtof(words[5], nullptr);
  check(width > 0 && height > 0, "WIDTH and HEIGHT of the image are pixels, above 0");
  ov::Core core;
  ov::CompiledModel model = core.compile_model(words[1], "CPU", ov::hint::inference_precision(ov::element::f32));
  const size_t window = model.input("pose_2d").get_partial_shape()[1].get_length();
  ov::InferRequest request = model.create_infer_request();
  write_npy(words[6], refine(request, window, pose_2d, pose_3d, width, height));
  std::cout << pose_3d.shape[0] << " frames refined in windows of " << window << "\n";
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count != 7) {
    std::cerr << "usage: refine_file MODEL POSE_2D.npy POSE_3D.npy WIDTH HEIGHT REFINED.npy\n";
    return 2;
  }
  try {
    return run(words);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 5;
  }
}
