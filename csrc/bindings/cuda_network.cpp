// Python bindings of the networks on a CUDA device. Only refiner/runtime/native and its tests call them.

#include "cuda_network.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "arrays.h"
#include "lock_released.h"

namespace py = pybind11;

namespace refiner {
namespace {

// The same interface as the network on the CPU (stc_network.cpp): sizes are checked here, and the kernels trust
// them.
class BoundCudaNetwork {
 public:
    BoundCudaNetwork(int64_t features, int64_t dim, int64_t heads, int64_t joints, int64_t band, int64_t steps,
                     bool gelu_after_embedding)
        : features_(features),
          dim_(dim),
          joints_(joints),
          steps_(steps),
          network_(features, dim, heads, joints, band, steps, gelu_after_embedding) {}

    void embedding(const Array& weight, const Array& joint_embedding) {
        network_.embedding(matrix(weight, dim_, features_, "embedding"),
                           numbers(joint_embedding, steps_ * joints_ * dim_, "joint embedding"));
    }

    void attention(const Array& qkv, const Array& qkv_bias, const Array& convolution, const Array& mix_bias,
                   const Array& proj, const Array& bias) {
        network_.attention(matrix(qkv, 3 * dim_, dim_, "qkv"), numbers(qkv_bias, 3 * dim_, "bias of qkv"),
                           numbers(convolution, 9 * dim_, "convolution"),
                           numbers(mix_bias, joints_ * dim_, "bias of the convolution"),
                           matrix(proj, dim_, dim_, "proj"), numbers(bias, steps_ * dim_, "bias"));
    }

    void mlp(const Array& up, const Array& up_bias, const Array& down, const Array& bias) {
        if (up.ndim() != 2) throw std::invalid_argument("up must be [hidden, C]");
        const int64_t hidden = up.shape(0);
        network_.mlp(matrix(up, hidden, dim_, "up"), numbers(up_bias, hidden, "bias of up"),
                     matrix(down, dim_, hidden, "down"), numbers(bias, steps_ * dim_, "bias"), hidden);
    }

    void head(const Array& weight) { network_.head(numbers(weight, 3 * dim_, "head")); }

    void windows(int64_t step, const Array& input, Array output, int /*threads*/, int rows) {
        if (input.ndim() != 4 || input.shape(2) != joints_ || input.shape(3) != features_) {
            throw std::invalid_argument("input must be [B, T, J, features]");
        }
        const int64_t batch = input.shape(0), frames = input.shape(1);
        if (output.size() != batch * frames * joints_ * 3) {
            throw std::invalid_argument("output must be [B, T, J, 3]");
        }
        const float* from = input.data();
        float* to = output.mutable_data();
        const LockReleased released;
        network_.windows(step, batch, frames, from, to, rows);
    }

    // Addresses of device memory and of a stream are integers; the caller keeps the memory alive.
    void windows_on_device(int64_t step, int64_t batch, int64_t frames, std::uintptr_t input,
                           std::uintptr_t output, std::uintptr_t stream, int rows) {
        const LockReleased released;
        network_.windows_on_device(step, batch, frames, reinterpret_cast<const float*>(input),
                                   reinterpret_cast<float*>(output), reinterpret_cast<void*>(stream), rows);
    }

    int64_t attentions() const { return network_.attentions(); }

 private:
    static const float* numbers(const Array& array, int64_t size, const std::string& name) {
        if (array.size() != size) {
            throw std::invalid_argument(name + " has " + std::to_string(array.size()) + " numbers, expected " +
                                        std::to_string(size));
        }
        return array.data();
    }

    static const float* matrix(const Array& array, int64_t rows, int64_t columns, const std::string& name) {
        if (array.ndim() != 2 || array.shape(0) != rows || array.shape(1) != columns) {
            throw std::invalid_argument(name + " must be [" + std::to_string(rows) + ", " +
                                        std::to_string(columns) + "]");
        }
        return array.data();
    }

    int64_t features_, dim_, joints_, steps_;
    CudaNetwork network_;
};

}  // namespace

void bind_cuda_network(py::module_& m) {
    using Network = BoundCudaNetwork;
    py::class_<Network>(m, "CudaStcNetwork")
        .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool>(), py::arg("features"),
             py::arg("dim"), py::arg("heads"), py::arg("joints"), py::arg("band"), py::arg("steps"),
             py::arg("gelu_after_embedding"))
        .def("embedding", &Network::embedding, py::arg("weight"), py::arg("joint_embedding"))
        .def("attention", &Network::attention, py::arg("qkv"), py::arg("qkv_bias"), py::arg("convolution"),
             py::arg("mix_bias"), py::arg("proj"), py::arg("bias"))
        .def("mlp", &Network::mlp, py::arg("up"), py::arg("up_bias"), py::arg("down"), py::arg("bias"))
        .def("head", &Network::head, py::arg("weight"))
        .def("windows", &Network::windows, py::arg("step"), py::arg("input").noconvert(),
             py::arg("output").noconvert(), py::arg("threads"), py::arg("rows") = 0)
        .def("windows_on_device", &Network::windows_on_device, py::arg("step"), py::arg("batch"),
             py::arg("frames"), py::arg("input"), py::arg("output"), py::arg("stream"), py::arg("rows") = 0)
        .def_property_readonly("attentions", &Network::attentions);
}

}  // namespace refiner
