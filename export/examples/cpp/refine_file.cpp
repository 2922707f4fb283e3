// Refines a file of poses with an artefact of refiner-export (--engine openvino or onnx).
//
//   refine_file MODEL POSE_2D.npy POSE_3D.npy WIDTH HEIGHT REFINED.npy [FOCAL_LENGTH]
//
// POSE_2D is (frames, 17, 2) pixels, POSE_3D (frames, 17, 3) metres, both float32, Human3.6M's joints, at the frame rate
// of the artefact's manifest. The graph takes pixels and metres and gives metres: nothing else is needed here but the
// windows, which follow each other by half their length and are blended with a Hann window, as refiner does it in Python.
//
// A camera-aware model takes two things more: how sure the detector is of each joint, from 0 (missing) to 1, which is
// the third column of a POSE_2D (frames, 17, 3), and the focal length in pixels. Without a third column every joint is
// taken for sure; without FOCAL_LENGTH it is the longer side of the image, the default of refiner.
//
// The manifest MODEL.json beside the model says its stride: windows take every so many frames. What a detector swapped is
// not taken back here.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
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

// What a model calls the 2D poses and the image that they were found in, and how many numbers it takes of either.
struct Form {
  bool rays;
  const char* seen;
  const char* lens;
  size_t numbers;
};

Form form_of(const ov::CompiledModel& model) {
  for (const auto& input : model.inputs()) {
    if (input.get_any_name() == "keypoints") return {true, "keypoints", "camera", 3};
  }
  return {false, "pose_2d", "image_size", 2};
}

// 2D poses with as many columns as a model takes: a confidence that is not given is 1.
Array with_columns(const Array& poses, size_t columns) {
  const size_t given = poses.shape[2], points = poses.shape[0] * poses.shape[1];
  Array result{{poses.shape[0], poses.shape[1], columns}, std::vector<float>(points * columns, 1.0f)};
  for (size_t point = 0; point < points; ++point) {
    std::copy_n(poses.values.data() + point * given, std::min(given, columns), result.values.data() + point * columns);
  }
  return result;
}

// `lens`: width and height of the image, and the focal length where the model takes it, in pixels.
Array refine(ov::InferRequest& request, const Form& form, size_t window, const Array& seen, const Array& pose_3d,
             const std::vector<float>& lens) {
  const size_t frames = pose_3d.shape[0], pose = pose_3d.shape[1] * pose_3d.shape[2];
  std::vector<double> sum(frames * pose), weights(frames);
  ov::Tensor size(ov::element::f32, {1, lens.size()});
  std::copy(lens.begin(), lens.end(), size.data<float>());
  for (size_t start : window_starts(frames, window)) {
    request.set_tensor(form.seen, cut(seen, start, window));
    request.set_tensor("pose_3d", cut(pose_3d, start, window));
    request.set_tensor(form.lens, size);
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

// Every `stride`-th frame from `phase` on.
Array phase_of(const Array& sequence, size_t phase, size_t stride) {
  const size_t frame = sequence.shape[1] * sequence.shape[2];
  Array part{{0, sequence.shape[1], sequence.shape[2]}, {}};
  for (size_t index = phase; index < sequence.shape[0]; index += stride, ++part.shape[0]) {
    const float* values = sequence.values.data() + index * frame;
    part.values.insert(part.values.end(), values, values + frame);
  }
  return part;
}

// Poses are averaged over this stride at most, or fast motion would be smoothed away.
constexpr size_t kPoseStride = 3;

// Adds to `result` the values of `poses` relative to their root, evened out over interleaved phases: every frame becomes
// the mean of those around it, weighted by a triangle in which each phase counts alike; at the ends of those that there
// are.
void add_blended(const Array& poses, size_t stride, Array& result) {
  const size_t frames = poses.shape[0], pose = poses.shape[1] * poses.shape[2];
  for (size_t frame = 0; frame < frames; ++frame) {
    std::vector<double> sum(pose);
    double weights = 0.0;
    for (size_t other = frame - std::min(frame, stride - 1); other < std::min(frames, frame + stride); ++other) {
      const double weight = static_cast<double>(stride - (other > frame ? other - frame : frame - other));
      const float* values = poses.values.data() + other * pose;
      weights += weight;
      for (size_t value = 0; value < pose; ++value) sum[value] += weight * (values[value] - values[value % 3]);
    }
    float* blended = result.values.data() + frame * pose;
    for (size_t value = 0; value < pose; ++value) blended[value] += static_cast<float>(sum[value] / weights);
  }
}

// The refined poses with what their phases disagree in evened out: the change over the whole stride, the given poses
// over kPoseStride at most. The root stays.
Array blend_refined(const Array& refined, const Array& given, size_t stride) {
  const size_t pose = given.shape[1] * given.shape[2];
  Array change = refined, result = refined;
  for (size_t at = 0; at < refined.values.size(); ++at) {
    change.values[at] -= given.values[at];
    result.values[at] = refined.values[at - at % pose + at % 3];
  }
  add_blended(given, std::min(stride, kPoseStride), result);
  add_blended(change, stride, result);
  return result;
}

// As `refine`, with windows of every `stride`-th frame: each of the interleaved phases of the sequence by itself. A
// sequence that is shorter than such a window has a smaller stride.
Array refine_strided(ov::InferRequest& request, const Form& form, size_t window, size_t stride, const Array& seen,
                     const Array& pose_3d, const std::vector<float>& lens) {
  const size_t frames = pose_3d.shape[0], pose = pose_3d.shape[1] * pose_3d.shape[2];
  stride = std::max<size_t>(1, std::min(stride, (frames - 1) / std::max<size_t>(window - 1, 1)));
  Array result{pose_3d.shape, std::vector<float>(pose_3d.values.size())};
  for (size_t phase = 0; phase < stride; ++phase) {
    const Array part =
        refine(request, form, window, phase_of(seen, phase, stride), phase_of(pose_3d, phase, stride), lens);
    for (size_t index = 0; index < part.shape[0]; ++index) {
      std::copy_n(part.values.data() + index * pose, pose, result.values.data() + (phase + index * stride) * pose);
    }
  }
  return blend_refined(result, pose_3d, stride);
}

void check(bool fits, const std::string& message) {
  if (!fits) throw std::runtime_error(message);
}

// The stride that the manifest of a model names at its outermost level; 1 where it names none.
size_t stride_of(const std::string& model) {
  std::ifstream manifest(model + ".json");
  check(manifest.good(), model + ".json cannot be opened; the manifest belongs beside the model: copy both");
  // As refiner-export writes it: an entry a line, two spaces before those of the outermost level.
  const std::string key = "  \"stride\": ";
  size_t stride = 1;
  for (std::string line; std::getline(manifest, line);) {
    if (line.compare(0, key.size(), key) == 0) stride = std::strtoul(line.c_str() + key.size(), nullptr, 10);
  }
  check(stride > 0, model + ".json names no usable stride; export the model again");
  return stride;
}

void check_finite(const Array& array, const std::string& name) {
  for (float value : array.values) check(std::isfinite(value), name + " holds NaN or infinite values; fill them in");
}

float pixels_of(const char* word, const std::string& name) {
  const float value = std::strtof(word, nullptr);
  check(std::isfinite(value) && value > 0, name + " is in pixels, above 0");
  return value;
}

int run(int count, char** words) {
  const Array pose_2d = read_npy(words[2]), pose_3d = read_npy(words[3]);
  check(pose_2d.shape[2] >= 2 && pose_3d.shape[2] == 3, "expected 2D poses first, then 3D");
  check(pose_2d.shape[0] == pose_3d.shape[0] && pose_2d.shape[0] > 0, "2D and 3D differ in frames, or have none");
  check(pose_2d.shape[1] == 17 && pose_3d.shape[1] == 17, "expected Human3.6M's 17 joints");
  check_finite(pose_2d, words[2]);
  check_finite(pose_3d, words[3]);
  const float width = pixels_of(words[4], "WIDTH"), height = pixels_of(words[5], "HEIGHT");
  ov::Core core;
  ov::CompiledModel model = core.compile_model(words[1], "CPU", ov::hint::inference_precision(ov::element::f32));
  const Form form = form_of(model);
  check(form.rays || count == 7, "this model sees no lens; leave FOCAL_LENGTH out");
  check(form.rays || pose_2d.shape[2] == 2, "this model sees no confidence; give 2D poses of two columns");
  std::vector<float> lens{width, height};
  if (form.rays) {
    lens.push_back(count > 7 ? pixels_of(words[7], "FOCAL_LENGTH") : std::max(width, height));
    if (pose_2d.shape[2] == 3) {
      for (size_t at = 2; at < pose_2d.values.size(); at += 3) {
        check(pose_2d.values[at] >= 0 && pose_2d.values[at] <= 1,
              std::string(words[2]) + ": the third column is a confidence, from 0 to 1");
      }
    }
  }
  const Array seen = with_columns(pose_2d, form.numbers);
  const size_t window = model.input(form.seen).get_partial_shape()[1].get_length();
  ov::InferRequest request = model.create_infer_request();
  write_npy(words[6], refine_strided(request, form, window, stride_of(words[1]), seen, pose_3d, lens));
  std::cout << pose_3d.shape[0] << " frames refined in windows of " << window << "\n";
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count != 7 && count != 8) {
    std::cerr << "usage: refine_file MODEL POSE_2D.npy POSE_3D.npy WIDTH HEIGHT REFINED.npy [FOCAL_LENGTH]\n";
    return 2;
  }
  try {
    return run(count, words);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 5;
  }
}
