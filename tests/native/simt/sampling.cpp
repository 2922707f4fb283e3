// Runs the CUDA sampler's own code on the emulated grid. Standard input has int64 numbers
//   frames D C seed first_frame named emulator_seed
// then float32 mean_error, mean_condition, gain, cholesky, condition, clean, clean_factor, noise_factor and, if
// named, int64 ids. Standard output gets the noisy poses and the errors in float32.
#include <cmath>
#include <memory>

#include "sample_device.h"
#include "stdin_arrays.h"

int main() {
    using namespace refiner;
    const auto how = read_array<int64_t>(7);
    const int64_t frames = how[0], size = how[1], inputs = how[2];
    const auto mean_error = read_array<float>(size), mean_condition = read_array<float>(inputs);
    const auto gain = read_array<float>(size * inputs), cholesky = read_array<float>(size * size);
    const auto condition = read_array<float>(frames * inputs), clean = read_array<float>(frames * size);
    const auto clean_factor = read_array<float>(frames), noise_factor = read_array<float>(frames);
    const auto ids = read_array<int64_t>(how[5] != 0 ? frames : 0);
    const auto nan = std::nanf("");
    const auto error = poisoned<float>(frames * size, nan), noisy = poisoned<float>(frames * size, nan);
    const Gaussian g{mean_error.data(), mean_condition.data(), gain.data(), cholesky.data(), size, inputs};
    const Draw draw{static_cast<uint64_t>(how[3]), static_cast<uint64_t>(how[4]),
                    ids.empty() ? nullptr : ids.data()};
    const Forward forward{clean.data(), clean_factor.data(), noise_factor.data(), noisy.get()};
    const int64_t blocks = (frames + kSampleFrames - 1) / kSampleFrames;
    std::vector<std::unique_ptr<float[]>> shared;
    for (int64_t block = 0; block < blocks; ++block) {
        shared.push_back(poisoned<float>(sample_bytes(size, inputs) / 4, nan));
    }
    simt::run(blocks, sample_threads(size), static_cast<unsigned>(how[6]), [&] {
        sample_frames(g, condition.data(), error.get(), frames, draw, forward,
                      shared[static_cast<size_t>(simt::block())].get());
    });
    write_array(noisy.get(), frames * size);
    write_array(error.get(), frames * size);
    return 0;
}
