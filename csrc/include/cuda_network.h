// A network of STC modules on a CUDA device: each step over windows is one cooperative kernel, in half precision
// with float32 sums and a float32 residual stream (see csrc/cuda/stc_device.h).
#pragma once

#include <cstdint>
#include <memory>

namespace refiner {

// Weights come from host memory in the order of the CPU kernels, see NetworkPacker in csrc/cuda/stc_pack.h.
// Methods throw std::invalid_argument for wrong sizes, and std::runtime_error where half precision or the device
// fails.
class CudaNetwork {
 public:
    CudaNetwork(int64_t features, int64_t dim, int64_t heads, int64_t joints, int64_t band, int64_t steps,
                bool gelu_after_embedding);
    ~CudaNetwork();

    void embedding(const float* weight, const float* joint_embedding);
    void attention(const float* qkv, const float* qkv_bias, const float* convolution, const float* mix_bias,
                   const float* proj, const float* bias);
    void mlp(const float* up, const float* up_bias, const float* down, const float* bias, int64_t hidden);
    void head(const float* weight);

    int64_t attentions() const;

    // Windows in host memory: input [batch, frames, J, features], output [batch, frames, J, 3]. `rows`, 16, 32 or
    // 64, are the tokens of a tile; 0 chooses. Any number of threads may call at once.
    void windows(int64_t step, int64_t batch, int64_t frames, const float* input, float* output, int rows);

    // The same for device memory, queued on a stream.
    void windows_on_device(int64_t step, int64_t batch, int64_t frames, const float* input, float* output,
                           void* stream, int rows);

 private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace refiner
