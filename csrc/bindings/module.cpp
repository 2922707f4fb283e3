// The module refiner._native. It is a thin layer: refiner/native.py checks shapes and types, and raises the errors
// that users see. The checks here only prevent access to memory outside of the arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "kernels.h"
#include "lock_released.h"
#include "parallel.h"
#include "stc_attention.h"
#if defined(REFINER_WITH_CUDA)
#include "cuda_kernels.h"
#endif

namespace py = pybind11;

namespace refiner {

void bind_stc_attention(py::module_& m);
void bind_stc_network(py::module_& m);
void bind_train_layers(py::module_& m);
void bind_causal_streams(py::module_& m);
#if defined(REFINER_WITH_CUDA)
void bind_cuda_network(py::module_& m);
#endif

namespace {

template <typename Real>
using Array = py::array_t<Real, py::array::c_style>;

void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

using Weights = std::optional<Array<double>>;

template <typename Real>
AlignBlock<Real> read_block(const Array<Real>& pred, const Array<Real>& target, const Weights& weights,
                            Array<Real>& out, bool scale, int64_t out_size) {
    require(pred.ndim() == 3 && target.ndim() == 3 && pred.shape(2) == 3 && pred.size() == target.size() &&
                pred.shape(1) == target.shape(1),
            "expected two arrays [poses, joints, 3]");
    require(!weights || weights->size() == pred.shape(1), "expected weights [joints]");
    require(out.size() == out_size, "out has another size than the result");
    return {pred.data(),        target.data(), weights ? weights->data() : nullptr,
            out.mutable_data(), pred.shape(1), scale};
}

template <typename Real>
void bound_p_mpjpe(const Array<Real>& pred, const Array<Real>& target, const Weights& weights, Array<Real> out,
                   bool scale, int threads) {
    const AlignBlock<Real> block = read_block(pred, target, weights, out, scale, pred.shape(0));
    const int64_t poses = pred.shape(0);
    const LockReleased released;
    p_mpjpe(block, poses, threads);
}

template <typename Real>
void bound_align(const Array<Real>& pred, const Array<Real>& target, const Weights& weights, Array<Real> out,
                 bool scale, int threads) {
    const AlignBlock<Real> block = read_block(pred, target, weights, out, scale, pred.size());
    const int64_t poses = pred.shape(0);
    const LockReleased released;
    procrustes_align(block, poses, threads);
}

template <typename Real>
py::object simple_p_mpjpe(const py::array& pred, const py::array& target, bool scale, int threads) {
    Array<Real> error(pred.shape(0));
    const AlignBlock<Real> block{static_cast<const Real*>(pred.data()),
                                 static_cast<const Real*>(target.data()),
                                 nullptr,
                                 error.mutable_data(),
                                 pred.shape(1),
                                 scale};
    const int64_t poses = pred.shape(0);
    // A few poses take less time than releasing the lock for another thread.
    if (poses <= 64) {
        p_mpjpe(block, poses, 1);
    } else {
        const LockReleased released;
        p_mpjpe(block, poses, threads);
    }
    return std::move(error);
}

// The usual case without Python code: two contiguous NumPy arrays of the same shape and type. Returns None for any
// other case, which native.py then handles.
py::object quick_p_mpjpe(const py::object& first, const py::object& second, bool scale, int threads) {
    if (!py::isinstance<py::array>(first) || !py::isinstance<py::array>(second)) return py::none();
    const auto pred = py::reinterpret_borrow<py::array>(first), target = py::reinterpret_borrow<py::array>(second);
    const int usable = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if (pred.ndim() != 3 || target.ndim() != 3 || (pred.flags() & usable) != usable ||
        (target.flags() & usable) != usable) {
        return py::none();
    }
    for (int axis = 0; axis < 3; ++axis) {
        if (pred.shape(axis) != target.shape(axis)) return py::none();
    }
    if (pred.shape(2) != 3 || pred.shape(1) == 0) return py::none();
    const int type = pred.dtype().num();
    if (type != target.dtype().num() || pred.dtype().byteorder() != '=' || target.dtype().byteorder() != '=') {
        return py::none();
    }
    if (type == py::detail::npy_api::NPY_FLOAT_) return simple_p_mpjpe<float>(pred, target, scale, threads);
    if (type == py::detail::npy_api::NPY_DOUBLE_) return simple_p_mpjpe<double>(pred, target, scale, threads);
    return py::none();
}

Gaussian read_gaussian(const Array<float>& mean_error, const Array<float>& mean_condition,
                       const Array<float>& gain, const Array<float>& cholesky) {
    const int64_t size = mean_error.size(), inputs = mean_condition.size();
    require(gain.size() == size * inputs && cholesky.size() == size * size,
            "expected gain [D, C] and cholesky [D, D]");
    return {mean_error.data(), mean_condition.data(), gain.data(), cholesky.data(), size, inputs};
}

using FrameIds = std::optional<Array<int64_t>>;

Draw read_draw(uint64_t seed, uint64_t first_frame, const FrameIds& ids, int64_t frames) {
    require(!ids || ids->size() == frames, "expected frame_ids [frames]");
    return {seed, first_frame, ids ? ids->data() : nullptr};
}

void bound_sample(const Array<float>& condition, const Array<float>& mean_error,
                  const Array<float>& mean_condition, const Array<float>& gain, const Array<float>& cholesky,
                  Array<float> error, uint64_t seed, uint64_t first_frame, int threads,
                  const FrameIds& frame_ids) {
    const Gaussian g = read_gaussian(mean_error, mean_condition, gain, cholesky);
    require(condition.ndim() == 2 && condition.shape(1) == g.condition_size, "expected condition [frames, C]");
    const int64_t frames = condition.shape(0);
    require(error.size() == frames * g.error_size, "expected an output [frames, D]");
    const Draw draw = read_draw(seed, first_frame, frame_ids, frames);
    const float* input = condition.data();
    float* output = error.mutable_data();
    const LockReleased released;
    sample_conditional(g, input, output, frames, draw, threads);
}

py::tuple bound_diffuse(const Array<float>& condition, const Array<float>& clean, const Array<float>& clean_factor,
                        const Array<float>& noise_factor, const Array<float>& mean_error,
                        const Array<float>& mean_condition, const Array<float>& gain, const Array<float>& cholesky,
                        uint64_t seed, uint64_t first_frame, int threads, const FrameIds& frame_ids) {
    const Gaussian g = read_gaussian(mean_error, mean_condition, gain, cholesky);
    const int64_t frames = condition.ndim() == 2 ? condition.shape(0) : -1;
    require(frames >= 0 && condition.shape(1) == g.condition_size, "expected condition [frames, C]");
    require(
        clean.size() == frames * g.error_size && clean_factor.size() == frames && noise_factor.size() == frames,
        "expected clean [frames, D] and two factors [frames]");
    const Draw draw = read_draw(seed, first_frame, frame_ids, frames);
    Array<float> error({frames, g.error_size});
    Array<float> noisy({frames, g.error_size});
    const Forward forward{clean.data(), clean_factor.data(), noise_factor.data(), noisy.mutable_data()};
    const float* input = condition.data();
    float* output = error.mutable_data();
    {
        const LockReleased released;
        sample_conditional(g, input, output, frames, draw, threads, forward);
    }
    return py::make_tuple(noisy, error);
}

Array<float> bound_normal(uint64_t seed, uint64_t first_frame, int64_t frames, int64_t dims, int threads) {
    require(frames >= 0 && dims >= 0, "frames and dims cannot be negative");
    Array<float> normal({frames, dims});
    float* output = normal.mutable_data();
    const LockReleased released;
    philox_normal(output, frames, dims, seed, first_frame, threads);
    return normal;
}

#if defined(REFINER_WITH_CUDA)
void check_cuda(const char* failure) {
    if (failure != nullptr) throw std::runtime_error(failure);
}

template <typename T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Addresses of device memory are passed as integers. The caller keeps the tensors alive.
template <typename Real>
void bind_cuda(py::module_& m, const char* p_mpjpe_name, const char* align_name) {
    using Address = std::uintptr_t;
    m.def(p_mpjpe_name, [](Address pred, Address target, Address weights, Address error, int64_t poses,
                           int64_t joints, bool scale, Address stream) {
        check_cuda(cuda_p_mpjpe(at<const Real>(pred), at<const Real>(target), at<const double>(weights),
                                at<Real>(error), poses, joints, scale, at<void>(stream)));
    });
    m.def(align_name, [](Address pred, Address target, Address weights, Address aligned, int64_t poses,
                         int64_t joints, bool scale, Address stream) {
        check_cuda(cuda_procrustes_align(at<const Real>(pred), at<const Real>(target), at<const double>(weights),
                                         at<Real>(aligned), poses, joints, scale, at<void>(stream)));
    });
}

// An address of 0 stands for a missing array: no frame_ids, or no forward process.
void bind_cuda_sampling(py::module_& m) {
    using Address = std::uintptr_t;
    m.def(
        "cuda_sample_conditional",
        [](Address condition, Address error, int64_t frames, Address mean_error, Address mean_condition,
           Address gain, Address cholesky, int64_t error_size, int64_t condition_size, uint64_t seed,
           uint64_t first_frame, Address stream, Address frame_ids, Address clean, Address clean_factor,
           Address noise_factor, Address noisy) {
            const Gaussian g{at<const float>(mean_error),
                             at<const float>(mean_condition),
                             at<const float>(gain),
                             at<const float>(cholesky),
                             error_size,
                             condition_size};
            const Draw draw{seed, first_frame, at<const int64_t>(frame_ids)};
            const Forward forward{at<const float>(clean), at<const float>(clean_factor),
                                  at<const float>(noise_factor), at<float>(noisy)};
            check_cuda(cuda_sample_conditional(g, at<const float>(condition), at<float>(error), frames, draw,
                                               forward, at<void>(stream)));
        },
        py::arg("condition"), py::arg("error"), py::arg("frames"), py::arg("mean_error"),
        py::arg("mean_condition"), py::arg("gain"), py::arg("cholesky"), py::arg("error_size"),
        py::arg("condition_size"), py::arg("seed"), py::arg("first_frame"), py::arg("stream"),
        py::arg("frame_ids") = 0, py::arg("clean") = 0, py::arg("clean_factor") = 0, py::arg("noise_factor") = 0,
        py::arg("noisy") = 0);
}
#endif

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "Compiled kernels of refiner; use them through refiner.native and refiner.models.";
    m.def("quick_p_mpjpe", &quick_p_mpjpe);
    m.def("p_mpjpe_f32", &bound_p_mpjpe<float>);
    m.def("p_mpjpe_f64", &bound_p_mpjpe<double>);
    m.def("procrustes_align_f32", &bound_align<float>);
    m.def("procrustes_align_f64", &bound_align<double>);
    m.def("sample_conditional", &bound_sample, py::arg("condition"), py::arg("mean_error"),
          py::arg("mean_condition"), py::arg("gain"), py::arg("cholesky"), py::arg("error"), py::arg("seed"),
          py::arg("first_frame"), py::arg("threads"), py::arg("frame_ids") = py::none());
    m.def("diffuse", &bound_diffuse, py::arg("condition"), py::arg("clean"), py::arg("clean_factor"),
          py::arg("noise_factor"), py::arg("mean_error"), py::arg("mean_condition"), py::arg("gain"),
          py::arg("cholesky"), py::arg("seed"), py::arg("first_frame"), py::arg("threads"),
          py::arg("frame_ids") = py::none());
    m.def("philox_normal", &bound_normal);
    m.def("thread_count", &thread_count);
    m.def("isa", [] { return isa_name(processor_isa()); });
    bind_stc_attention(m);
    bind_stc_network(m);
    bind_train_layers(m);
    bind_causal_streams(m);
#if defined(REFINER_WITH_CUDA)
    m.attr("with_cuda") = true;
    m.def("cuda_device_count", &cuda_device_count);
    bind_cuda<float>(m, "cuda_p_mpjpe_f32", "cuda_procrustes_align_f32");
    bind_cuda<double>(m, "cuda_p_mpjpe_f64", "cuda_procrustes_align_f64");
    bind_cuda_sampling(m);
    bind_cuda_network(m);
#else
    m.attr("with_cuda") = false;
#endif
}

}  // namespace refiner
