#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "philox.h"

namespace refiner {
namespace {

void normal_row(uint64_t seed, uint64_t frame, int64_t dims, float* row) {
    for (int64_t block = 0; 4 * block < dims; ++block) {
        double normal[4];
        philox_normal4(seed, frame, static_cast<uint32_t>(block), normal);
        for (int64_t k = 0; k < 4 && 4 * block + k < dims; ++k) row[4 * block + k] = static_cast<float>(normal[k]);
    }
}

std::vector<float> transposed(const float* matrix, int64_t rows, int64_t columns) {
    std::vector<float> result(rows * columns);
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) result[c * rows + r] = matrix[r * columns + c];
    }
    return result;
}

}  // namespace

void sample_conditional(const Gaussian& g, const float* condition, float* error, int64_t frames, const Draw& draw,
                        int threads, const Forward& forward) {
    const int64_t size = g.error_size;
    const int64_t inputs = g.condition_size;
    // Column by column the products run over the error's coordinates, which the compiler vectorises. Each frame is
    // summed in the same order whatever the number of threads.
    const std::vector<float> gain = transposed(g.gain, size, inputs);
    const std::vector<float> factor = transposed(g.cholesky, size, size);
    parallel_for(0, frames, 64, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> normal(size);
        for (int64_t f = begin; f < end; ++f) {
            normal_row(draw.seed, draw.frame(f), size, normal.data());
            float* __restrict to = error + f * size;
            for (int64_t d = 0; d < size; ++d) to[d] = g.mean_error[d];
            for (int64_t c = 0; c < inputs; ++c) {
                const float value = condition[f * inputs + c] - g.mean_condition[c];
                const float* __restrict column = gain.data() + c * size;
                for (int64_t d = 0; d < size; ++d) to[d] += column[d] * value;
            }
            for (int64_t c = 0; c < size; ++c) {
                const float value = normal[c];
                const float* __restrict column = factor.data() + c * size;
                for (int64_t d = c; d < size; ++d) to[d] += column[d] * value;
            }
            if (forward.clean == nullptr) continue;
            const float* clean = forward.clean + f * size;
            float* noisy = forward.noisy + f * size;
            for (int64_t d = 0; d < size; ++d) {
                noisy[d] = forward.clean_factor[f] * clean[d] + forward.noise_factor[f] * to[d];
            }
        }
    });
}

void philox_normal(float* normal, int64_t frames, int64_t dims, uint64_t seed, uint64_t first_frame, int threads) {
    parallel_for(0, frames, 64, threads, [=](int64_t begin, int64_t end) {
        for (int64_t f = begin; f < end; ++f) {
            normal_row(seed, first_frame + static_cast<uint64_t>(f), dims, normal + f * dims);
        }
    });
}

}  // namespace refiner
