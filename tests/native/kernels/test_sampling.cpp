// Conditional sampling against Philox, Box and Muller, and eq. 5 and 6, in 64-bit integers and double precision.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "check.h"
#include "kernels.h"

namespace refiner::test {
namespace {

using Four = std::array<uint64_t, 4>;

// Philox 4x32-10 as its paper writes it, in 64-bit integers.
Four philox(Four c, uint64_t k0, uint64_t k1) {
    constexpr uint64_t kWord = uint64_t{1} << 32;
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = 0xD2511F53u * c[0], p1 = 0xCD9E8D57u * c[2];
        c = {(p1 / kWord) ^ c[1] ^ k0, p1 % kWord, (p0 / kWord) ^ c[3] ^ k1, p0 % kWord};
        k0 = (k0 + 0x9E3779B9u) % kWord;
        k1 = (k1 + 0xBB67AE85u) % kWord;
    }
    return c;
}

std::vector<double> expected_normals(uint64_t seed, const std::vector<uint64_t>& frames, int64_t dims) {
    std::vector<double> normals;
    for (const uint64_t frame : frames) {
        for (int64_t d = 0; d < dims; ++d) {
            const Four x = philox({frame & 0xffffffffu, frame >> 32, static_cast<uint64_t>(d / 4), 0},
                                  seed & 0xffffffffu, seed >> 32);
            const uint64_t a = x[static_cast<size_t>(d % 4 / 2 * 2)],
                           b = x[static_cast<size_t>(d % 4 / 2 * 2 + 1)];
            const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(a) + 1.0) * 0x1p-32));
            const double angle = 6.283185307179586476925 * static_cast<double>(b) * 0x1p-32;
            normals.push_back(radius * (d % 2 == 0 ? std::cos(angle) : std::sin(angle)));
        }
    }
    return normals;
}

std::vector<uint64_t> frames_from(uint64_t first, int64_t count) {
    std::vector<uint64_t> frames(static_cast<size_t>(count));
    std::iota(frames.begin(), frames.end(), first);
    return frames;
}

struct Sizes {
    int64_t error, condition, frames, root;  // root: dimensions that do not vary
};

void check_sample(Random& random, const Sizes& size, uint64_t seed, uint64_t first, bool with_ids) {
    const int64_t d = size.error, c = size.condition, n = size.frames;
    const std::vector<float> mean_error = random.floats(d), mean_condition = random.floats(c);
    std::vector<float> gain = random.floats(d * c), cholesky = random.floats(d * d, 0.3);
    for (int64_t row = 0; row < d; ++row) {
        for (int64_t k = 0; k < c; ++k) {
            if (row < size.root) gain[static_cast<size_t>(row * c + k)] = 0.0f;
        }
        for (int64_t k = 0; k < d; ++k) {
            if (k > row || row < size.root) cholesky[static_cast<size_t>(row * d + k)] = 0.0f;
        }
    }
    std::vector<float> condition = random.floats(n * c);
    const int64_t broken = n > 2 ? n / 2 : -1;
    if (broken >= 0) condition[static_cast<size_t>(broken * c)] = std::numeric_limits<float>::quiet_NaN();
    std::vector<uint64_t> frames = frames_from(first, n);
    std::vector<int64_t> ids(frames.begin(), frames.end());
    if (with_ids) {
        std::reverse(ids.begin(), ids.end());
        std::reverse(frames.begin(), frames.end());
    }
    const std::vector<float> clean = random.floats(n * d), a = random.floats(n), b = random.floats(n);

    const std::vector<double> z = expected_normals(seed, frames, d);
    std::vector<double> errors, noisy;
    for (int64_t f = 0; f < n; ++f) {
        for (int64_t row = 0; row < d; ++row) {
            double sum = mean_error[static_cast<size_t>(row)];
            for (int64_t k = 0; k < c && row >= size.root; ++k) {
                sum += static_cast<double>(gain[static_cast<size_t>(row * c + k)]) *
                       (static_cast<double>(condition[static_cast<size_t>(f * c + k)]) -
                        static_cast<double>(mean_condition[static_cast<size_t>(k)]));
            }
            for (int64_t k = 0; k <= row; ++k) {
                sum += static_cast<double>(cholesky[static_cast<size_t>(row * d + k)]) *
                       z[static_cast<size_t>(f * d + k)];
            }
            errors.push_back(sum);
            noisy.push_back(static_cast<double>(a[static_cast<size_t>(f)]) *
                                static_cast<double>(clean[static_cast<size_t>(f * d + row)]) +
                            static_cast<double>(b[static_cast<size_t>(f)]) * sum);
        }
    }

    const Gaussian gaussian{mean_error.data(), mean_condition.data(), gain.data(), cholesky.data(), d, c};
    const Draw draw{seed, with_ids ? 0 : first, with_ids ? ids.data() : nullptr};
    std::vector<float> found(static_cast<size_t>(n * d)), moved(found.size());
    const Forward forward{clean.data(), a.data(), b.data(), moved.data()};
    sample_conditional(gaussian, condition.data(), found.data(), n, draw, 1, forward);
    const std::string what = std::to_string(n) + " frames of " + std::to_string(d) + " from " + std::to_string(c);
    close("errors, " + what, found, errors, 3e-5, 1e-5);
    close("noisy poses, " + what, moved, noisy, 1e-4, 1e-5);
    std::vector<float> again(found.size());
    sample_conditional(gaussian, condition.data(), again.data(), n, draw, 4);
    same("4 threads, " + what, again, found);
}

}  // namespace

void test_sampling() {
    Random random(20262);
    // Known answers of Random123.
    expect("known answer 1",
           philox({0, 0, 0, 0}, 0, 0) == Four{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u});
    expect("known answer 2", philox({0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u}, 0xA4093822u,
                                    0x299F31D0u) == Four{0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u});
    for (const uint64_t seed : {uint64_t{0}, uint64_t{12345678901234567890u}, ~uint64_t{0}}) {
        for (const int64_t dims : {1, 4, 11, 51}) {
            const uint64_t first = dims == 4 ? (uint64_t{1} << 63) - 2 : (uint64_t{1} << 32) - 3;
            std::vector<float> found(static_cast<size_t>(77 * dims));
            philox_normal(found.data(), 77, dims, seed, first, 2);
            close("normal numbers of " + std::to_string(dims) + " dimensions", found,
                  expected_normals(seed, frames_from(first, 77), dims), 1e-7, 1e-6);
        }
    }
    // Far more numbers, for the ends of the logarithm and of the circle.
    std::vector<float> many(40000 * 4);
    philox_normal(many.data(), 40000, 4, 99, 7, 1);
    close("160,000 normal numbers", many, expected_normals(99, frames_from(7, 40000), 4), 1e-7, 1e-6);
    bool ids = false;
    for (const Sizes& size : {Sizes{51, 85, 1, 3}, Sizes{51, 85, 63, 3}, Sizes{6, 9, 17, 0}, Sizes{1, 1, 33, 0},
                              Sizes{35, 2, 200, 0}, Sizes{16, 3, 16, 0}}) {
        check_sample(random, size, random.bits(), random.bits() >> 2, ids);
        ids = !ids;
    }
}

}  // namespace refiner::test
