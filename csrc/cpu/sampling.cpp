#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "sampling_simd.h"

namespace refiner {
namespace {

constexpr int64_t kGrain = 240;  // frames of a piece, a multiple of every block size

const SampleKernels& kernels() {
    static const SampleKernels selected = select_sample_kernels();
    return selected;
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Memory that a thread keeps between calls. It grows to the largest requested size; after that there are no more
// allocations.
float* kept(std::vector<float>& memory, int64_t size) {
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    return memory.data();
}

// Whether a dimension is constant: its rows of the gain and of the Cholesky factor are 0.
bool constant(const Gaussian& g, int64_t d) {
    for (int64_t c = 0; c < g.condition_size; ++c) {
        if (g.gain[d * g.condition_size + c] != 0.0f) return false;
    }
    for (int64_t c = 0; c <= d; ++c) {
        if (g.cholesky[d * g.error_size + c] != 0.0f) return false;
    }
    return true;
}

}  // namespace

void sample_conditional(const Gaussian& g, const float* condition, float* error, int64_t frames, const Draw& draw,
                        int threads, const Forward& forward) {
    if (frames == 0 || g.error_size == 0) return;
    const int64_t size = g.error_size, inputs = g.condition_size;
    int64_t begin = 0, end = size;
    while (begin < end && constant(g, begin)) ++begin;
    while (end > begin && constant(g, end - 1)) --end;
    const int64_t active = end - begin;
    const int64_t columns = round_up(active, kSampleColumns);
    thread_local std::vector<float> packing;
    float* packed = kept(packing, (inputs + size + 1) * columns + 1);
    float* offset = packed + (inputs + size) * columns;
    for (int64_t c = 0; c < inputs + size; ++c) {
        float* row = packed + c * columns;
        for (int64_t k = 0; k < columns; ++k) {
            const int64_t d = begin + k;
            row[k] = k >= active ? 0.0f : c < inputs ? g.gain[d * inputs + c] : g.cholesky[d * size + c - inputs];
        }
    }
    for (int64_t k = 0; k < columns; ++k) offset[k] = k < active ? g.mean_error[begin + k] : 0.0f;
    SampleCall call{};
    call.packed = packed;
    call.offset = offset;
    call.mean_error = g.mean_error;
    call.mean_condition = g.mean_condition;
    call.first_column = begin;
    call.active = active;
    call.columns = columns;
    call.condition_size = inputs;
    call.error_size = size;
    call.seed = draw.seed;
    call.first_frame = draw.first_frame;
    call.ids = draw.ids;
    call.condition = condition;
    call.error = error;
    call.clean = forward.clean;
    call.clean_factor = forward.clean_factor;
    call.noise_factor = forward.noise_factor;
    call.noisy = forward.noisy;
    const int64_t scratch = sample_scratch(inputs, size, columns);
    parallel_for(0, frames, kGrain, threads, [&](int64_t first, int64_t last) {
        thread_local std::vector<float> memory;
        kernels().sample(call, first, last, kept(memory, scratch));
    });
}

void philox_normal(float* normal, int64_t frames, int64_t dims, uint64_t seed, uint64_t first_frame, int threads) {
    if (dims == 0) return;
    parallel_for(0, frames, kGrain, threads, [=](int64_t begin, int64_t end) {
        thread_local std::vector<float> memory;
        kernels().draw(seed, first_frame, begin, end, dims, kept(memory, sample_scratch(0, dims, 0)), normal);
    });
}

}  // namespace refiner
