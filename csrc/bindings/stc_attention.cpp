// Python bindings of the fused STC attention. Only refiner/models/fused.py calls them, with checked arrays.

#include "stc_attention.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "arrays.h"
#include "lock_released.h"

namespace py = pybind11;

namespace refiner {
namespace {

// Raises for a number of heads or a width for which no kernel was compiled.
void require_variant(int64_t heads, int64_t width) {
    const bool known_heads = heads == 2 || heads == 4 || heads == 8 || heads == 16;
    const bool known_width = width == 2 || width == 4 || width == 6 || width == 8 || width == 12 || width == 16;
    if (!known_heads || !known_width) {
        throw std::invalid_argument("the kernel has no variant for " + std::to_string(heads) + " heads of width " +
                                    std::to_string(width));
    }
}

StcShape read_shape(const Array& qkv, const Array& convolution, int64_t band, float scale, int threads) {
    if (qkv.ndim() != 4 || convolution.ndim() != 4 || convolution.shape(0) != 2 || convolution.shape(1) != 9) {
        throw std::invalid_argument("expected qkv [B, T, J, 6 D H] and convolution [2, 9, D, H]");
    }
    if (band < 0) throw std::invalid_argument("the band must be 0 (none) or a number of frames");
    const StcShape s{qkv.shape(0),         qkv.shape(1), qkv.shape(2), convolution.shape(2),
                     convolution.shape(3), band,         scale,        threads};
    require_variant(s.heads, s.width);
    if (qkv.shape(3) != 6 * s.width * s.heads) throw std::invalid_argument("qkv must be [B, T, J, 6 D H]");
    return s;
}

void forward(const Array& qkv, const Array& convolution, const Array& bias, Array out, float scale, int threads,
             int64_t band) {
    const StcShape s = read_shape(qkv, convolution, band, scale, threads);
    require(bias.size() == 2 * s.joints * s.width * s.heads, "bias must be [2, J, D, H]");
    require(out.size() * 3 == qkv.size(), "out must be [B, T, J, 2 D H]");
    const float* inputs[] = {qkv.data(), convolution.data(), bias.data()};
    float* target = out.mutable_data();
    const LockReleased released;
    select_stc_kernels().forward(s, inputs[0], inputs[1], inputs[2], target);
}

void backward(const Array& qkv, const Array& convolution, const Array& grad_out, Array grad_qkv,
              Array grad_convolution, Array grad_bias, float scale, int threads, int64_t band) {
    const StcShape s = read_shape(qkv, convolution, band, scale, threads);
    require(grad_out.size() * 3 == qkv.size() && grad_qkv.size() == qkv.size(), "gradients must match qkv");
    require(grad_convolution.size() == convolution.size(), "grad_convolution must match convolution");
    require(grad_bias.size() == 2 * s.joints * s.width * s.heads, "grad_bias must be [2, J, D, H]");
    const float* inputs[] = {qkv.data(), convolution.data(), grad_out.data()};
    float* targets[] = {grad_qkv.mutable_data(), grad_convolution.mutable_data(), grad_bias.mutable_data()};
    const LockReleased released;
    select_stc_kernels().backward(s, inputs[0], inputs[1], inputs[2], targets[0], targets[1], targets[2]);
}

RowsShape read_rows(const Array& qkv, int64_t heads, float scale, int threads) {
    if (qkv.ndim() != 3 || heads < 1 || qkv.shape(2) % (3 * heads) != 0) {
        throw std::invalid_argument("expected qkv [N, L, 3 D H]");
    }
    const RowsShape s{qkv.shape(0), qkv.shape(1), qkv.shape(2) / (3 * heads), heads, scale, threads};
    require_variant(s.heads, s.width);
    return s;
}

void rows_forward(const Array& qkv, Array out, int64_t heads, float scale, int threads) {
    const RowsShape s = read_rows(qkv, heads, scale, threads);
    require(out.size() * 3 == qkv.size(), "out must be [N, L, D H]");
    const float* source = qkv.data();
    float* target = out.mutable_data();
    const LockReleased released;
    select_stc_kernels().rows_forward(s, source, target);
}

void rows_backward(const Array& qkv, const Array& grad_out, Array grad_qkv, int64_t heads, float scale,
                   int threads) {
    const RowsShape s = read_rows(qkv, heads, scale, threads);
    require(grad_out.size() * 3 == qkv.size() && grad_qkv.size() == qkv.size(), "gradients must match qkv");
    const float* inputs[] = {qkv.data(), grad_out.data()};
    float* target = grad_qkv.mutable_data();
    const LockReleased released;
    select_stc_kernels().rows_backward(s, inputs[0], inputs[1], target);
}

}  // namespace

// noconvert, because the result would be lost in a silent copy of an output array.
void bind_stc_attention(py::module_& m) {
    m.def("stc_attention_forward", &forward, py::arg("qkv").noconvert(), py::arg("convolution").noconvert(),
          py::arg("bias").noconvert(), py::arg("out").noconvert(), py::arg("scale"), py::arg("threads"),
          py::arg("band"));
    m.def("stc_attention_backward", &backward, py::arg("qkv").noconvert(), py::arg("convolution").noconvert(),
          py::arg("grad_out").noconvert(), py::arg("grad_qkv").noconvert(),
          py::arg("grad_convolution").noconvert(), py::arg("grad_bias").noconvert(), py::arg("scale"),
          py::arg("threads"), py::arg("band"));
    m.def("rows_attention_forward", &rows_forward, py::arg("qkv").noconvert(), py::arg("out").noconvert(),
          py::arg("heads"), py::arg("scale"), py::arg("threads"));
    m.def("rows_attention_backward", &rows_backward, py::arg("qkv").noconvert(), py::arg("grad_out").noconvert(),
          py::arg("grad_qkv").noconvert(), py::arg("heads"), py::arg("scale"), py::arg("threads"));
}

}  // namespace refiner
