// The host side of networks on a CUDA device (see cuda_network.h): memory, the choice of tiles, launches.
#include <cuda_runtime.h>

#include <mutex>

#include "cuda_network.h"
#include "stc_device.h"
#include "stc_pack.h"

namespace refiner {
namespace {

constexpr int kThreads = 256;
// Windows of more tokens than this run one group after the other, which bounds the memory on the device.
constexpr int64_t kMostTokens = 1 << 19;
constexpr int kTiles[] = {16, 32, 64};

template <int kRows>
__global__ void __launch_bounds__(kThreads, 2)
    network_kernel(const __grid_constant__ DeviceNetwork net, const __grid_constant__ DeviceCall call) {
    extern __shared__ __align__(16) unsigned char memory[];
    run_network<kRows>(net, call, memory);
}

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // so that the next call does not report it again
    throw std::runtime_error(std::string("CUDA, ") + what + ": " + cudaGetErrorString(status));
}

const void* kernel_of(int rows) {
    switch (rows) {
        case 16:
            return reinterpret_cast<const void*>(network_kernel<16>);
        case 32:
            return reinterpret_cast<const void*>(network_kernel<32>);
        default:
            return reinterpret_cast<const void*>(network_kernel<64>);
    }
}

// Memory of the device. It grows, and keeps its size.
class DeviceMemory {
 public:
    DeviceMemory() = default;
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    ~DeviceMemory() { cudaFree(data_); }

    unsigned char* at_least(int64_t bytes) {
        if (bytes > size_) {
            check(cudaDeviceSynchronize(), "memory");  // a kernel may still use it
            cudaFree(data_);
            data_ = nullptr;
            size_ = 0;
            check(cudaMalloc(&data_, static_cast<size_t>(bytes)), "memory");
            size_ = bytes;
        }
        return static_cast<unsigned char*>(data_);
    }

 private:
    void* data_ = nullptr;
    int64_t size_ = 0;
};

// What a call needs beside the network. A call takes one from the pool, so that calls may come from several
// threads.
struct Workspace {
    DeviceMemory between;     // x, qkv, mixed
    DeviceMemory in_and_out;  // of a call with host memory
    cudaStream_t stream = nullptr;
    cudaEvent_t done = nullptr;

    Workspace() {
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
        check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "event");
    }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    ~Workspace() {
        if (done != nullptr) cudaEventDestroy(done);
        if (stream != nullptr) cudaStreamDestroy(stream);
    }
};

// The device of a network is the current one while a method runs.
class OnDevice {
 public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "device");
        if (before_ != device) check(cudaSetDevice(device), "device");
        changed_ = before_ != device;
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    ~OnDevice() {
        if (changed_) cudaSetDevice(before_);
    }

 private:
    int before_ = 0;
    bool changed_ = false;
};

// One kernel: the tokens of a tile, and the blocks that the device holds at once.
struct Choice {
    int rows;
    int64_t resident;
    int64_t shared;
};

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

struct CudaNetwork::Parts {
    explicit Parts(const NetworkSizes& sizes) : packer(sizes) { check(cudaGetDevice(&device), "device"); }
    ~Parts() {
        int before = 0;
        if (cudaGetDevice(&before) != cudaSuccess) return;
        cudaSetDevice(device);
        workspaces.clear();
        weights.reset();
        cudaSetDevice(before);
    }

    NetworkPacker packer;
    int device = 0;
    std::mutex lock;
    std::vector<std::unique_ptr<Workspace>> workspaces;  // those that no call has
    std::unique_ptr<DeviceMemory> weights;
    DeviceNetwork net;
    std::vector<Choice> choices;

    // Copies the weights to the device, once.
    void prepare() {
        const std::lock_guard<std::mutex> guard(lock);
        if (weights != nullptr) return;
        if (!packer.complete()) throw std::invalid_argument("the network is incomplete");
        auto memory = std::make_unique<DeviceMemory>();
        const int64_t size = aligned(static_cast<int64_t>(packer.bytes().size()));
        std::vector<DeviceLayer> layers;
        packer.at(nullptr, layers, nullptr);
        const size_t table = layers.size() * sizeof(DeviceLayer);
        unsigned char* base = memory->at_least(size + static_cast<int64_t>(table));
        net = packer.at(base, layers, reinterpret_cast<const DeviceLayer*>(base + size));
        check(cudaMemcpy(base, packer.bytes().data(), packer.bytes().size(), cudaMemcpyHostToDevice), "weights");
        check(cudaMemcpy(base + size, layers.data(), table, cudaMemcpyHostToDevice), "weights");
        choose();
        weights = std::move(memory);
    }

    void choose() {
        int processors = 0, most = 0, cooperative = 0;
        check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device");
        check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "device");
        check(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device), "device");
        if (cooperative == 0) throw std::runtime_error("the CUDA device has no cooperative launches");
        choices.clear();
        for (int rows : kTiles) {
            const int64_t shared = tile_layout(rows, net.dim, net.hidden).bytes;
            if (shared > most) continue;
            // Always the most that the device gives: the limit belongs to the kernel, which all networks share.
            check(cudaFuncSetAttribute(kernel_of(rows), cudaFuncAttributeMaxDynamicSharedMemorySize, most),
                  "shared memory");
            int per_processor = 0;
            check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel_of(rows), kThreads,
                                                                static_cast<size_t>(shared)),
                  "occupancy");
            if (per_processor > 0) choices.push_back({rows, int64_t{per_processor} * processors, shared});
        }
        if (choices.empty()) throw std::runtime_error("the CUDA device has too little shared memory");
    }

    // The smallest tiles of which the device holds all at once; else those with the most tokens in work at once,
    // and of two with as many the smaller: while one block of a processor waits, another works.
    Choice choice(int64_t tokens, int rows) const {
        for (const Choice& each : choices) {
            if (rows == each.rows) return each;
            if (rows == 0 && (tokens + each.rows - 1) / each.rows <= each.resident) return each;
        }
        if (rows != 0) throw std::invalid_argument("the device has no tiles of that size");
        Choice best = choices.front();
        for (const Choice& each : choices) {
            if (each.rows * each.resident > best.rows * best.resident) best = each;
        }
        return best;
    }

    std::unique_ptr<Workspace> take() {
        {
            const std::lock_guard<std::mutex> guard(lock);
            if (!workspaces.empty()) {
                std::unique_ptr<Workspace> workspace = std::move(workspaces.back());
                workspaces.pop_back();
                return workspace;
            }
        }
        return std::make_unique<Workspace>();
    }

    void give(std::unique_ptr<Workspace> workspace) {
        const std::lock_guard<std::mutex> guard(lock);
        workspaces.push_back(std::move(workspace));
    }

    // What a call on the device of the network begins with; nullptr where there is nothing to do.
    std::unique_ptr<Workspace> begin(int64_t step, int64_t batch, int64_t frames) {
        prepare();
        check_call(step, batch, frames);
        return batch == 0 || frames == 0 ? nullptr : take();
    }

    // Windows that run at once.
    int64_t group(int64_t frames) const {
        const int64_t most = kMostTokens / (frames * net.joints);
        return most > 0 ? most : 1;
    }

    void check_call(int64_t step, int64_t batch, int64_t frames) const {
        if (step < 0 || step >= packer.sizes().steps) throw std::invalid_argument("there is no such step");
        if (batch < 0 || frames < 0) throw std::invalid_argument("sizes cannot be negative");
        // Items of attention are counted in 32 bits.
        if (frames * net.joints > int64_t{1} << 26) throw std::invalid_argument("a window has too many frames");
    }

    void launch(int64_t step, int64_t batch, int64_t frames, const float* input, float* output,
                Workspace& workspace, cudaStream_t stream, int rows) const {
        const int64_t dim = net.dim, tokens = batch * frames * net.joints;
        const int64_t x = aligned(tokens * dim * 4), qkv = aligned(tokens * 3 * dim * 2);
        unsigned char* memory = workspace.between.at_least(x + qkv + tokens * dim * 2);
        DeviceCall call{batch,
                        static_cast<int>(frames),
                        static_cast<int>(step),
                        input,
                        reinterpret_cast<float*>(memory),
                        reinterpret_cast<uint16_t*>(memory + x),
                        reinterpret_cast<uint16_t*>(memory + x + qkv),
                        output};
        const Choice chosen = choice(tokens, rows);
        const int64_t tiles = (tokens + chosen.rows - 1) / chosen.rows;
        const int64_t mixing = (tokens * 2 * net.heads + kThreads - 1) / kThreads;
        // A barrier takes longer the more blocks there are: no more than have something to do.
        const int64_t useful = tiles > mixing ? tiles : mixing;
        const int64_t blocks = useful < chosen.resident ? useful : chosen.resident;
        DeviceNetwork network = net;
        void* arguments[] = {&network, &call};
        check(cudaLaunchCooperativeKernel(kernel_of(chosen.rows), dim3(static_cast<unsigned>(blocks)),
                                          dim3(kThreads), arguments, static_cast<size_t>(chosen.shared), stream),
              "launch");
    }
};

CudaNetwork::CudaNetwork(int64_t features, int64_t dim, int64_t heads, int64_t joints, int64_t band, int64_t steps,
                         bool gelu_after_embedding)
    : parts_(
          std::make_unique<Parts>(NetworkSizes{features, dim, heads, joints, band, steps, gelu_after_embedding})) {
}

CudaNetwork::~CudaNetwork() = default;

void CudaNetwork::embedding(const float* weight, const float* joint_embedding) {
    parts_->packer.embedding(weight, joint_embedding);
}

void CudaNetwork::attention(const float* qkv, const float* qkv_bias, const float* convolution,
                            const float* mix_bias, const float* proj, const float* bias) {
    parts_->packer.attention(qkv, qkv_bias, convolution, mix_bias, proj, bias);
}

void CudaNetwork::mlp(const float* up, const float* up_bias, const float* down, const float* bias,
                      int64_t hidden) {
    parts_->packer.mlp(up, up_bias, down, bias, hidden);
}

void CudaNetwork::head(const float* weight) { parts_->packer.head(weight); }

int64_t CudaNetwork::attentions() const { return parts_->packer.attentions(); }

void CudaNetwork::windows(int64_t step, int64_t batch, int64_t frames, const float* input, float* output,
                          int rows) {
    Parts& parts = *parts_;
    const OnDevice device(parts.device);
    std::unique_ptr<Workspace> workspace = parts.begin(step, batch, frames);
    if (workspace == nullptr) return;
    const int64_t window = frames * parts.net.joints, group = parts.group(frames);
    const int64_t in = window * parts.net.features, out = window * 3;
    const cudaStream_t stream = workspace->stream;
    check(cudaStreamWaitEvent(stream, workspace->done, 0), "stream");
    for (int64_t first = 0; first < batch; first += group) {
        const int64_t count = batch - first < group ? batch - first : group;
        const int64_t in_bytes = count * in * 4, out_bytes = count * out * 4;
        unsigned char* memory = workspace->in_and_out.at_least(aligned(in_bytes) + out_bytes);
        auto* there = reinterpret_cast<float*>(memory);
        auto* result = reinterpret_cast<float*>(memory + aligned(in_bytes));
        check(cudaMemcpyAsync(there, input + first * in, in_bytes, cudaMemcpyHostToDevice, stream), "input");
        parts.launch(step, count, frames, there, result, *workspace, stream, rows);
        check(cudaMemcpyAsync(output + first * out, result, out_bytes, cudaMemcpyDeviceToHost, stream), "output");
        check(cudaStreamSynchronize(stream), "network");
    }
    // After an error above the workspace is freed instead, which waits for its kernels.
    parts.give(std::move(workspace));
}

void CudaNetwork::windows_on_device(int64_t step, int64_t batch, int64_t frames, const float* input, float* output,
                                    void* stream, int rows) {
    Parts& parts = *parts_;
    const OnDevice device(parts.device);
    std::unique_ptr<Workspace> workspace = parts.begin(step, batch, frames);
    if (workspace == nullptr) return;
    const auto queue = static_cast<cudaStream_t>(stream);
    // The workspace may still be used by a kernel on another stream.
    check(cudaStreamWaitEvent(queue, workspace->done, 0), "stream");
    const int64_t window = frames * parts.net.joints, group = parts.group(frames);
    for (int64_t first = 0; first < batch; first += group) {
        const int64_t count = batch - first < group ? batch - first : group;
        parts.launch(step, count, frames, input + first * window * parts.net.features, output + first * window * 3,
                     *workspace, queue, rows);
    }
    check(cudaEventRecord(workspace->done, queue), "event");
    parts.give(std::move(workspace));
}

}  // namespace refiner
