// Python bindings of the layers for training. Only refiner/models/fused_layers.py calls them, with checked arrays.

#include "train_layers.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "arrays.h"
#include "lock_released.h"

namespace py = pybind11;

namespace refiner {
namespace {

using Maybe = std::optional<Array>;

const float* data(const Maybe& array) { return array ? array->data() : nullptr; }
float* mutable_data(Maybe& array) { return array ? array->mutable_data() : nullptr; }

void require_size(const Maybe& array, int64_t size, const char* what) {
    require(!array || array->size() == size, what);
}

LinearShape linear_shape(const Array& x, const Array& weight, const Maybe& gain, const Maybe& shift, float epsilon,
                         int threads) {
    require(x.ndim() == 2 && weight.ndim() == 2 && weight.shape(1) == x.shape(1),
            "expected x [rows, inputs] and weight [outputs, inputs]");
    require(x.shape(1) % 16 == 0 && weight.shape(0) % 16 == 0, "inputs and outputs must be multiples of 16");
    require(gain.has_value() == shift.has_value(), "expected gain and shift, or neither");
    require_size(gain, x.shape(1), "gain must be [inputs]");
    require_size(shift, x.shape(1), "shift must be [inputs]");
    return {x.shape(0), x.shape(1), weight.shape(0), epsilon, threads};
}

void linear_forward(const Array& x, const Maybe& gain, const Maybe& shift, const Array& weight, const Maybe& bias,
                    const Maybe& residual, Array out, float epsilon, int threads) {
    const LinearShape s = linear_shape(x, weight, gain, shift, epsilon, threads);
    require_size(bias, s.outputs, "bias must be [outputs]");
    require_size(residual, s.rows * s.outputs, "residual must be [rows, outputs]");
    require(out.size() == s.rows * s.outputs, "out must be [rows, outputs]");
    const LinearInput in{x.data(), data(gain), data(shift), weight.data(), data(bias), data(residual)};
    float* target = out.mutable_data();
    const LockReleased released;
    select_train_layers().linear_forward(s, in, target);
}

void linear_backward(const Array& x, const Maybe& gain, const Maybe& shift, const Array& weight,
                     const Array& grad_out, Array grad_x, Maybe grad_gain, Maybe grad_shift, Array grad_weight,
                     Maybe grad_bias, float epsilon, int threads) {
    const LinearShape s = linear_shape(x, weight, gain, shift, epsilon, threads);
    require(grad_out.size() == s.rows * s.outputs, "grad_out must be [rows, outputs]");
    require(grad_x.size() == x.size() && grad_weight.size() == weight.size(), "gradients must match their inputs");
    require(grad_gain.has_value() == gain.has_value() && grad_shift.has_value() == shift.has_value(),
            "gradients must match their inputs");
    require_size(grad_gain, s.inputs, "grad_gain must be [inputs]");
    require_size(grad_shift, s.inputs, "grad_shift must be [inputs]");
    require_size(grad_bias, s.outputs, "grad_bias must be [outputs]");
    const LinearInput in{x.data(), data(gain), data(shift), weight.data(), nullptr, nullptr};
    const float* gradient = grad_out.data();
    const LinearGradient to{grad_x.mutable_data(), mutable_data(grad_gain), mutable_data(grad_shift),
                            grad_weight.mutable_data(), mutable_data(grad_bias)};
    const LockReleased released;
    select_train_layers().linear_backward(s, in, gradient, to);
}

MlpShape mlp_shape(const Array& x, const Array& gain, const Array& shift, const Array& first, const Array& second,
                   float epsilon, int threads) {
    require(x.ndim() == 2 && first.ndim() == 2 && second.ndim() == 2 && first.shape(1) == x.shape(1) &&
                second.shape(0) == x.shape(1) && second.shape(1) == first.shape(0),
            "expected x [rows, dim], first [hidden, dim] and second [dim, hidden]");
    require(x.shape(1) % 16 == 0 && first.shape(0) % 16 == 0, "dim and hidden must be multiples of 16");
    require(gain.size() == x.shape(1) && shift.size() == x.shape(1), "gain and shift must be [dim]");
    return {x.shape(0), x.shape(1), first.shape(0), epsilon, threads};
}

void mlp_forward(const Array& x, const Array& gain, const Array& shift, const Array& first, const Array& second,
                 Maybe kept, Array out, float epsilon, int threads) {
    const MlpShape s = mlp_shape(x, gain, shift, first, second, epsilon, threads);
    require_size(kept, mlp_kept(s.rows, s.hidden), "kept has another size than mlp_kept");
    require(out.size() == x.size(), "out must be [rows, dim]");
    const MlpInput in{x.data(), gain.data(), shift.data(), first.data(), second.data()};
    float* keep = mutable_data(kept);
    float* target = out.mutable_data();
    const LockReleased released;
    select_train_layers().mlp_forward(s, in, keep, target);
}

void mlp_backward(const Array& x, const Array& gain, const Array& shift, const Array& first, const Array& second,
                  const Array& kept, const Array& grad_out, Array grad_x, Array grad_gain, Array grad_shift,
                  Array grad_first, Array grad_second, float epsilon, int threads) {
    const MlpShape s = mlp_shape(x, gain, shift, first, second, epsilon, threads);
    require(kept.size() == mlp_kept(s.rows, s.hidden), "kept has another size than mlp_kept");
    require(grad_out.size() == x.size() && grad_x.size() == x.size(), "gradients must match their inputs");
    require(grad_gain.size() == s.dim && grad_shift.size() == s.dim, "gradients must match their inputs");
    require(grad_first.size() == first.size() && grad_second.size() == second.size(),
            "gradients must match their inputs");
    const MlpInput in{x.data(), gain.data(), shift.data(), first.data(), second.data()};
    const float* sources[] = {kept.data(), grad_out.data()};
    const MlpGradient to{grad_x.mutable_data(), grad_gain.mutable_data(), grad_shift.mutable_data(),
                         grad_first.mutable_data(), grad_second.mutable_data()};
    const LockReleased released;
    select_train_layers().mlp_backward(s, in, sources[0], sources[1], to);
}

}  // namespace

// noconvert, because the result would be lost in a silent copy of an output array.
void bind_train_layers(py::module_& m) {
    const auto exact = [](const char* name) { return py::arg(name).noconvert(); };
    m.def("mlp_kept", &mlp_kept, py::arg("rows"), py::arg("hidden"));
    m.def("linear_forward", &linear_forward, exact("x"), exact("gain"), exact("shift"), exact("weight"),
          exact("bias"), exact("residual"), exact("out"), py::arg("epsilon"), py::arg("threads"));
    m.def("linear_backward", &linear_backward, exact("x"), exact("gain"), exact("shift"), exact("weight"),
          exact("grad_out"), exact("grad_x"), exact("grad_gain"), exact("grad_shift"), exact("grad_weight"),
          exact("grad_bias"), py::arg("epsilon"), py::arg("threads"));
    m.def("mlp_forward", &mlp_forward, exact("x"), exact("gain"), exact("shift"), exact("first"), exact("second"),
          exact("kept"), exact("out"), py::arg("epsilon"), py::arg("threads"));
    m.def("mlp_backward", &mlp_backward, exact("x"), exact("gain"), exact("shift"), exact("first"),
          exact("second"), exact("kept"), exact("grad_out"), exact("grad_x"), exact("grad_gain"),
          exact("grad_shift"), exact("grad_first"), exact("grad_second"), py::arg("epsilon"), py::arg("threads"));
}

}  // namespace refiner
