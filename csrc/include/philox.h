// Philox 4x32-10 (Salmon et al., SC 2011): random numbers as a function of a counter and a key, without a state.
#pragma once

#include <cmath>
#include <cstdint>

#include "device.h"

namespace refiner {

struct Philox {
    uint32_t value[4];
};

REFINER_HD uint32_t philox_high(uint32_t a, uint32_t b) {
    return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

REFINER_HD Philox philox4x32(Philox counter, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = philox_high(0xD2511F53u, counter.value[0]);
        const uint32_t low0 = 0xD2511F53u * counter.value[0];
        const uint32_t high1 = philox_high(0xCD9E8D57u, counter.value[2]);
        const uint32_t low1 = 0xCD9E8D57u * counter.value[2];
        counter = {{high1 ^ counter.value[1] ^ key0, low1, high0 ^ counter.value[3] ^ key1, low0}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// Four standard normal numbers for the dimensions 4 block .. 4 block + 3 of a frame, by the method of Box and
// Muller in double precision. The first uniform number is in (0, 1], so that its logarithm is finite.
REFINER_HD void philox_normal4(uint64_t seed, uint64_t frame, uint32_t block, double normal[4]) {
    const Philox bits = philox4x32({{static_cast<uint32_t>(frame), static_cast<uint32_t>(frame >> 32), block, 0u}},
                                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    constexpr double kUnit = 1.0 / 4294967296.0;
    constexpr double kTwoPi = 6.283185307179586476925;
    for (int pair = 0; pair < 2; ++pair) {
        const double radius = sqrt(-2.0 * log((bits.value[2 * pair] + 1.0) * kUnit));
        const double angle = kTwoPi * kUnit * bits.value[2 * pair + 1];
        normal[2 * pair] = radius * cos(angle);
        normal[2 * pair + 1] = radius * sin(angle);
    }
}

}  // namespace refiner
