// Half precision (IEEE binary16) on the host: for packing weights, and for running device code without a device.
#pragma once

#include <cstdint>
#include <cstring>

namespace refiner {

// The nearest half-precision number, ties to even; too large numbers become infinite.
inline uint16_t half_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
    if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65,520 and more
    // The bits below the last place of the result, where numbers below 2^-14 have fewer places.
    uint32_t mantissa, dropped, result;
    if (bits >= 0x38800000u) {
        mantissa = bits - 0x38000000u;
        dropped = 13;
    } else {
        const uint32_t exponent = bits >> 23;
        if (exponent < 102) return static_cast<uint16_t>(sign);  // below half of the smallest number
        mantissa = (bits & 0x7fffffu) | 0x800000u;
        dropped = 126 - exponent;
    }
    result = mantissa >> dropped;
    const uint32_t rest = mantissa & ((1u << dropped) - 1u), half = 1u << (dropped - 1);
    if (rest > half || (rest == half && (result & 1u) != 0)) ++result;
    return static_cast<uint16_t>(sign | result);
}

inline float from_half(uint16_t half) {
    const uint32_t sign = (half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 0x1fu, mantissa = half & 0x3ffu;
    uint32_t bits;
    if (exponent == 0) {
        const float size = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
        std::memcpy(&bits, &size, sizeof(bits));
    } else {
        bits = (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    }
    bits |= sign;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

}  // namespace refiner
