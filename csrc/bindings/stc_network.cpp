// Python bindings of the networks on the CPU. Only refiner/runtime/native calls them.

#include "stc_network.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "frame_network.h"
#include "lock_released.h"
#include "parallel.h"
#include "workspaces.h"

namespace py = pybind11;

namespace refiner {
namespace {

// A network whose weights are packed once. Runs may come from several threads at a time, since a run changes
// nothing but the memory that its caller gives.
class Network : public FrameNetwork {
 public:
    Network(int64_t features, int64_t dim, int64_t heads, int64_t joints, int64_t band, int64_t steps,
            bool gelu_after_embedding, const std::string& precision)
        : kernels_(select_network_kernels()) {
        require(precision == "fp32" || precision == "bf16", "the precisions are fp32 and bf16");
        net_.float32 = select_products(Precision::kFloat32);
        net_.products = precision == "bf16" ? select_products(Precision::kBfloat16) : net_.float32;
        require(net_.products != nullptr, "this processor has no instructions for bf16");
        require(features > 0 && joints > 0 && steps > 0 && band >= 0, "sizes must be positive");
        require(dim > 0 && heads > 0 && dim % heads == 0, "dim must be a multiple of heads");
        net_.features = features;
        net_.dim = net_.inner = dim;
        net_.heads = heads;
        net_.joints = joints;
        net_.band = band;
        net_.steps = steps;
        net_.gelu_after_embedding = gelu_after_embedding;
    }

    void embedding(const Array& weight, const Array& joint_embedding) {
        net_.embedding = packed(*net_.float32, weight, net_.dim, net_.features, "embedding");
        net_.joint_embedding = kept(joint_embedding, net_.steps * net_.joints * net_.dim, "joint embedding");
    }

    void attention(const Array& qkv, const Array& qkv_bias, const Array& convolution, const Array& mix_bias,
                   const Array& proj, const Array& bias) {
        const int64_t heads = net_.heads;
        require(heads <= 16 && net_.dim % (2 * heads) == 0,
                "the kernels have 1 to 16 heads, and C that is a multiple of twice their number");
        net_.width = net_.dim / (2 * heads);
        net_.kernel_heads = 1;
        while (net_.kernel_heads < heads) net_.kernel_heads *= 2;
        net_.inner = 2 * net_.kernel_heads * net_.width;
        StcLayer layer = attending(Mix::kStc, qkv, qkv_bias, proj, bias);
        layer.convolution = kept(convolution, 9 * net_.inner, "convolution");
        layer.mix_bias = kept(mix_bias, net_.joints * net_.inner, "bias of the convolution");
        add(layer);
    }

    void full_attention(bool over_frames, const Array& qkv, const Array& qkv_bias, const Array& proj,
                        const Array& bias) {
        require(net_.band == 0, "a causal network has no full attention");
        require(net_.inner == net_.dim, "a network with full attention has no heads of zeros");
        add(attending(over_frames ? Mix::kFrames : Mix::kJoints, qkv, qkv_bias, proj, bias));
    }

    void mlp(const Array& up, const Array& up_bias, const Array& down, const Array& bias) {
        require(up.ndim() == 2, "up must be [hidden, C]");
        const int64_t hidden = up.shape(0);
        StcLayer layer;
        layer.first = packed(*net_.products, up, hidden, net_.dim, "up");
        layer.first_bias = kept(up_bias, hidden, "bias of up");
        layer.second = packed(*net_.products, down, net_.dim, hidden, "down");
        layer.second_bias = kept(bias, net_.steps * net_.dim, "bias");
        add(layer);
    }

    // The norms of the layers have another epsilon than 1e-5.
    void norms(float epsilon) {
        require(epsilon > 0.0f, "epsilon must be positive");
        net_.epsilon = epsilon;
    }

    // A norm behind the last layer, an MLP.
    void norm_after(const Array& scale, const Array& shift) {
        require(!layers_.empty() && !layers_.back().attention, "the norm must follow an MLP");
        layers_.back().norm_scale = kept(scale, net_.dim, "scale of the norm");
        layers_.back().norm_shift = kept(shift, net_.dim, "shift of the norm");
    }

    // Adds the positions of the frames behind the norm of the last layer; the network takes windows of that
    // length.
    void positions(const Array& table) {
        require(!layers_.empty() && layers_.back().norm_scale != nullptr, "the positions must follow a norm");
        require(table.ndim() == 2 && table.shape(0) > 0, "positions must be [frames, C]");
        net_.frames = table.shape(0);
        layers_.back().positions = kept(table, net_.frames * net_.dim, "positions");
    }

    void head(const Array& weight) { net_.head = kept(weight, 3 * net_.dim, "head"); }

    void normed_head(const Array& weight, const Array& bias, float epsilon) {
        require(epsilon > 0.0f, "epsilon must be positive");
        head(weight);
        net_.head_bias = kept(bias, 3, "bias of the head");
        net_.head_epsilon = epsilon;
    }

    void windows(int64_t step, const Array& input, Array output, int threads) const {
        require_complete(step);
        require(input.ndim() == 4 && input.shape(2) == net_.joints && input.shape(3) == net_.features,
                "input must be [B, T, J, features]");
        const int64_t tokens = input.shape(0) * input.shape(1) * net_.joints;
        require(output.size() == tokens * 3, "output must be [B, T, J, 3]");
        const float* from = input.data();
        float* to = output.mutable_data();
        const int64_t batch = input.shape(0);
        const int64_t frames = input.shape(1);
        require(net_.frames == 0 || frames == net_.frames, "the network takes windows of another length");
        const int chosen = thread_count(threads);  // may read the environment, for which Python's lock is needed
        const LockReleased released;
        const Workspaces::Lease memory = workspaces_.take(tokens * (net_.dim + 4 * net_.inner));
        kernels_.windows(net_, step, batch, frames, buffers(memory.data(), tokens, from, to), chosen);
    }

    const StcNetwork& causal() const override {
        require_complete(0);
        require(net_.band >= 3, "only a causal network, which sees 3 or more frames, runs frame by frame");
        return net_;
    }

    void frames(const StcSteps& steps, int64_t frames, const float* input, float* output, const StcMemory& memory,
                int threads) const override {
        const int64_t tokens = frames * net_.joints;
        const Workspaces::Lease lease = workspaces_.take(tokens * (net_.dim + 4 * net_.inner));
        kernels_.frame(net_, steps, frames, buffers(lease.data(), tokens, input, output), memory, threads);
    }

    const char* instructions() const { return net_.products->name; }
    int64_t attentions() const override { return attentions_; }
    int64_t workspace_floats() const { return workspaces_.kept(); }

 private:
    // `size` floats that live as long as the network.
    float* allocate(int64_t size) {
        memory_.push_back(allocate_floats(size));
        return memory_.back().get();
    }

    const float* kept(const Array& array, int64_t size, const char* name) {
        require(array.size() == size, std::string(name) + " has " + std::to_string(array.size()) +
                                          " numbers, expected " + std::to_string(size));
        float* copy = allocate(size);
        std::copy(array.data(), array.data() + size, copy);
        return copy;
    }

    PackedLinear packed(const Products& products, const Array& weight, int64_t outputs, int64_t inputs,
                        const char* name) {
        require(weight.ndim() == 2 && weight.shape(0) == outputs && weight.shape(1) == inputs,
                std::string(name) + " must be [" + std::to_string(outputs) + ", " + std::to_string(inputs) + "]");
        const int64_t bytes = products.packed_bytes(outputs, inputs);
        PackedLinear linear{inputs, outputs, allocate((bytes + 3) / 4)};
        products.pack(weight.data(), outputs, inputs, linear.weight);
        return linear;
    }

    StcLayer attending(Mix mix, const Array& qkv, const Array& qkv_bias, const Array& proj, const Array& bias) {
        const int64_t dim = net_.dim, inner = net_.inner;
        StcLayer layer;
        layer.attention = true;
        layer.mix = mix;
        layer.first = packed(*net_.products, qkv, 3 * inner, dim, "qkv");
        layer.first_bias = kept(qkv_bias, 3 * inner, "bias of qkv");
        layer.second = packed(*net_.products, proj, dim, inner, "proj");
        layer.second_bias = kept(bias, net_.steps * dim, "bias");
        return layer;
    }

    void add(const StcLayer& layer) {
        layers_.push_back(layer);
        attentions_ += layer.attention ? 1 : 0;
        net_.layers = layers_.data();
        net_.layer_count = static_cast<int64_t>(layers_.size());
    }

    void require_complete(int64_t step) const {
        require(net_.joint_embedding != nullptr && net_.head != nullptr && attentions_ > 0,
                "the network is incomplete");
        require(step >= 0 && step < net_.steps, "there is no such step");
    }

    StcBuffers buffers(float* memory, int64_t tokens, const float* input, float* output) const {
        return {input, memory, memory + tokens * net_.dim, memory + tokens * (net_.dim + 3 * net_.inner), output};
    }

    const NetworkKernels kernels_;
    StcNetwork net_;
    std::vector<StcLayer> layers_;
    std::vector<Floats> memory_;
    mutable Workspaces workspaces_;
    int64_t attentions_ = 0;
};

}  // namespace

// noconvert, because the result would be lost in a silent copy of an output array.
void bind_stc_network(py::module_& m) {
    m.def("precisions", [] {
        std::vector<std::string> names{"fp32"};
        if (select_products(Precision::kBfloat16) != nullptr) names.emplace_back("bf16");
        return names;
    });
    py::class_<FrameNetwork, std::shared_ptr<FrameNetwork>>(m, "FrameNetwork");
    py::class_<Network, FrameNetwork, std::shared_ptr<Network>>(m, "StcNetwork")
        .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, std::string>(),
             py::arg("features"), py::arg("dim"), py::arg("heads"), py::arg("joints"), py::arg("band"),
             py::arg("steps"), py::arg("gelu_after_embedding"), py::arg("precision") = "fp32")
        .def("embedding", &Network::embedding, py::arg("weight"), py::arg("joint_embedding"))
        .def("attention", &Network::attention, py::arg("qkv"), py::arg("qkv_bias"), py::arg("convolution"),
             py::arg("mix_bias"), py::arg("proj"), py::arg("bias"))
        .def("mlp", &Network::mlp, py::arg("up"), py::arg("up_bias"), py::arg("down"), py::arg("bias"))
        .def("full_attention", &Network::full_attention, py::arg("over_frames"), py::arg("qkv"),
             py::arg("qkv_bias"), py::arg("proj"), py::arg("bias"))
        .def("norms", &Network::norms, py::arg("epsilon"))
        .def("norm_after", &Network::norm_after, py::arg("scale"), py::arg("shift"))
        .def("positions", &Network::positions, py::arg("table"))
        .def("head", &Network::head, py::arg("weight"))
        .def("normed_head", &Network::normed_head, py::arg("weight"), py::arg("bias"), py::arg("epsilon"))
        .def("windows", &Network::windows, py::arg("step"), py::arg("input").noconvert(),
             py::arg("output").noconvert(), py::arg("threads"))
        .def_property_readonly("instructions", &Network::instructions)
        .def_property_readonly("attentions", &Network::attentions)
        .def_property_readonly("workspace_floats", &Network::workspace_floats);
}

}  // namespace refiner
