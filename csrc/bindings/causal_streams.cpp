// The streams of a causal refiner: one call takes a frame of each stream through all denoising steps. Only
// refiner/runtime/native/causal.py calls it.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "frame_input.h"
#include "frame_network.h"
#include "lock_released.h"
#include "parallel.h"
#include "workspaces.h"

namespace py = pybind11;

namespace refiner {
namespace {

// The coefficients of a step, as refiner.diffusion.ddim.DdimStep.
struct Coefficients {
    float noise, scale, next_clean, next_noise;
};

Floats zeros(int64_t size) {
    Floats memory = allocate_floats(size);
    std::fill_n(memory.get(), size, 0.0f);
    return memory;
}

// Row k S + s is step k of stream s. A row writes only places that belong to its frame, so that a call that breaks
// off and comes again writes the same places again: the caller's counts alone say that a frame is done. One call
// at a time.
class CausalStreams {
 public:
    CausalStreams(std::shared_ptr<FrameNetwork> network, int64_t streams, bool rays, bool pipelined,
                  const Array& schedule, const Array& error_scale, const Array& gain, const Array& offset)
        : network_(std::move(network)),
          net_(network_->causal()),
          streams_(streams),
          rays_(rays),
          pipelined_(pipelined),
          seen_(rays ? 6 : 2) {
        const int64_t joints = net_.joints;
        require(streams > 0, "there must be a stream");
        require(joints <= kMostJoints, "there are too many joints");
        require(net_.features == seen_ + 3, "the network does not see what the streams give");
        require(schedule.ndim() == 2 && schedule.shape(0) == net_.steps && schedule.shape(1) == 4,
                "schedule must be [K, 4]");
        require(error_scale.size() == joints * 3, "error scale must be [J, 3]");
        for (int64_t k = 0; k < net_.steps; ++k) {
            const float* row = schedule.data() + k * 4;
            schedule_.push_back({row[0], row[1], row[2], row[3]});
        }
        error_scale_.assign(error_scale.data(), error_scale.data() + joints * 3);
        if (gain.size() > 0) {
            require(gain.ndim() == 2 && gain.shape(0) == joints * 3 && gain.shape(1) == joints * 5 &&
                        offset.size() == joints * 3,
                    "gain must be [3 J, 5 J] and offset [3 J]");
            offset_.assign(offset.data(), offset.data() + joints * 3);
            gain_.resize(static_cast<size_t>(gain.size()));
            for (int64_t out = 0; out < joints * 3; ++out) {
                for (int64_t in = 0; in < joints * 5; ++in) {
                    gain_[static_cast<size_t>(in * joints * 3 + out)] = gain.data()[out * joints * 5 + in];
                }
            }
        }
        const int64_t rows = streams * net_.steps;
        const int64_t ring = network_->attentions() * rows * joints * ring_room(net_.band) * net_.inner / 2;
        keys_ = zeros(ring);
        values_ = zeros(ring);
        recent_ = zeros(network_->attentions() * rows * 3 * joints * net_.inner);
        const size_t passed = static_cast<size_t>(pipelined ? rows : streams);
        input_ = zeros(static_cast<int64_t>(passed) * joints * net_.features);
        output_ = zeros(static_cast<int64_t>(passed) * joints * 3);
        axes_.resize(passed);
        row_.resize(passed);
        step_of_.resize(passed);
        count_.resize(passed);
        if (pipelined) {
            waiting_ = zeros(2 * rows * joints * net_.features);
            waiting_axes_.resize(static_cast<size_t>(2 * rows));
        }
    }

    // See refiner.runtime.native.causal. counts and active are [S], or [K S] where the steps are pipelined.
    void step(const Array& pose_2d, const Array& pose_3d, const Array& lens,
              const py::array_t<int64_t, py::array::c_style>& counts,
              const py::array_t<bool, py::array::c_style>& active, Array refined, int threads) {
        const int64_t joints = net_.joints;
        const int64_t numbers = rays_ ? 3 : 2;
        const int64_t rows = pipelined_ ? streams_ * net_.steps : streams_;
        require(pose_2d.size() == streams_ * joints * numbers && pose_3d.size() == streams_ * joints * 3 &&
                    lens.size() == streams_ * numbers,
                "the poses and lenses must be those of the streams");
        require(refined.size() == streams_ * joints * 3, "refined must be [S, J, 3]");
        require(counts.size() == rows && active.size() == rows, "counts and active must be one for each row");
        const float* points = pose_2d.data();
        const float* bodies = pose_3d.data();
        const float* lenses = lens.data();
        float* target = refined.mutable_data();
        const int64_t* done = counts.data();
        size_t chosen = 0;
        for (int64_t row = 0; row < rows; ++row) {
            if (!active.data()[row]) continue;
            require(done[row] >= 0, "counts must be 0 or more");
            row_[chosen] = row;
            step_of_[chosen] = row / streams_;
            count_[chosen++] = done[row];
        }
        const int count = thread_count(threads);  // may read the environment, for which Python's lock is needed
        const LockReleased released;
        for (size_t i = 0; i < chosen; ++i) {
            const int64_t row = row_[i];
            if (row < streams_) {
                begin(points + row * joints * numbers, bodies + row * joints * 3, lenses + row * numbers, i);
            } else {
                const auto place = static_cast<size_t>(waiting(row - streams_, count_[i]));
                const float* from = waiting_.get() + static_cast<int64_t>(place) * joints * net_.features;
                std::copy(from, from + joints * net_.features, input(i));
                axes_[i] = waiting_axes_[place];
            }
        }
        const int64_t all = streams_ * net_.steps;
        const auto here = static_cast<int64_t>(chosen);
        StcMemory memory{net_.band, all, keys_.get(), values_.get(), recent_.get(), count_.data(), row_.data()};
        if (pipelined_) {
            network_->frames({0, step_of_.data()}, here, input_.get(), output_.get(), memory, count);
        }
        for (int64_t k = 0; k < net_.steps; ++k) {
            if (!pipelined_) {
                network_->frames({k, nullptr}, here, input_.get(), output_.get(), memory, count);
                for (size_t i = 0; i < chosen; ++i) row_[i] += streams_;
            }
            for (size_t i = 0; i < chosen; ++i) {
                if (!pipelined_ || step_of_[i] == k) denoise(k, i);
            }
        }
        for (size_t i = 0; i < chosen; ++i) {
            const int64_t row = pipelined_ ? row_[i] : row_[i] - streams_;
            const int64_t stream = row - (net_.steps - 1) * streams_;
            if (stream >= 0) {
                float pose[3 * kMostJoints];
                for (int64_t j = 0; j < joints; ++j) {
                    std::copy_n(input(i) + j * net_.features + seen_, 3, pose + j * 3);
                }
                place(pose, joints, axes_[i], rays_, target + stream * joints * 3);
            } else {
                const auto place = static_cast<size_t>(waiting(row, count_[i]));
                std::copy_n(input(i), joints * net_.features,
                            waiting_.get() + static_cast<int64_t>(place) * joints * net_.features);
                waiting_axes_[place] = axes_[i];
            }
        }
    }

    static constexpr int64_t kMostJoints = 64;

 private:
    float* input(size_t i) { return input_.get() + static_cast<int64_t>(i) * net_.joints * net_.features; }

    // Where row `row` leaves frame `frame` for the next step. Two places take turns: the row writes a frame while
    // the one before it is read.
    int64_t waiting(int64_t row, int64_t frame) const { return frame % 2 * streams_ * net_.steps + row; }

    // Writes what the first step gets of a frame to input i.
    void begin(const float* points, const float* body, const float* lens, size_t i) {
        const int64_t joints = net_.joints;
        float* features = input(i);
        if (rays_) {
            see_rays(points, lens, joints, features, net_.features, axes_[i].rotation);
        } else {
            see_screen(points, lens, joints, features, net_.features);
        }
        float pose[3 * kMostJoints];
        turn(body, joints, axes_[i], rays_, pose);
        float error[3 * kMostJoints] = {};
        if (!gain_.empty()) {
            std::copy(offset_.begin(), offset_.end(), error);
            const float* gain = gain_.data();
            const auto add = [&](float value) {
                for (int64_t out = 0; out < joints * 3; ++out) error[out] += gain[out] * value;
                gain += joints * 3;
            };
            for (int64_t j = 0; j < joints; ++j) {
                for (int axis = 0; axis < 2; ++axis) add(features[j * net_.features + axis]);
            }
            for (int64_t in = 0; in < joints * 3; ++in) add(pose[in]);
        }
        for (int64_t j = 0; j < joints; ++j) {
            for (int axis = 0; axis < 3; ++axis) {
                features[j * net_.features + seen_ + axis] = pose[j * 3 + axis] - error[j * 3 + axis];
            }
        }
    }

    // One step of refiner.diffusion.ddim.run_ddim for the pose in input i.
    void denoise(int64_t k, size_t i) {
        const Coefficients& c = schedule_[static_cast<size_t>(k)];
        const float* output = output_.get() + static_cast<int64_t>(i) * net_.joints * 3;
        for (int64_t j = 0; j < net_.joints; ++j) {
            float* pose = input(i) + j * net_.features + seen_;
            for (int axis = 0; axis < 3; ++axis) {
                const float error = output[j * 3 + axis] * error_scale_[static_cast<size_t>(j * 3 + axis)];
                const float clean = (pose[axis] - c.noise * error) * c.scale;
                pose[axis] = k + 1 == net_.steps ? clean : c.next_clean * clean + c.next_noise * error;
            }
        }
    }

    const std::shared_ptr<FrameNetwork> network_;
    const StcNetwork& net_;
    const int64_t streams_;
    const bool rays_, pipelined_;
    const int64_t seen_;
    std::vector<Coefficients> schedule_;
    std::vector<float> error_scale_, gain_, offset_;  // gain [5 J, 3 J]
    Floats keys_, values_, recent_;                   // see StcMemory
    Floats input_, output_;                           // [rows of a pass, J, features] and [.., J, 3]
    Floats waiting_;                                  // [2, rows, J, features], frames between two steps
    std::vector<FrameAxes> axes_, waiting_axes_;
    std::vector<int64_t> row_, step_of_, count_;  // of each row of a pass
};

}  // namespace

void bind_causal_streams(py::module_& m) {
    py::class_<CausalStreams>(m, "CausalStreams")
        .def(py::init<std::shared_ptr<FrameNetwork>, int64_t, bool, bool, const Array&, const Array&, const Array&,
                      const Array&>(),
             py::arg("network"), py::arg("streams"), py::arg("rays"), py::arg("pipelined"), py::arg("schedule"),
             py::arg("error_scale"), py::arg("gain"), py::arg("offset"))
        .def("step", &CausalStreams::step, py::arg("pose_2d").noconvert(), py::arg("pose_3d").noconvert(),
             py::arg("lens").noconvert(), py::arg("counts").noconvert(), py::arg("active").noconvert(),
             py::arg("refined").noconvert(), py::arg("threads"));
}

}  // namespace refiner
