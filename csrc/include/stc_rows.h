// Attention over one row of tokens, for every number of heads and width that a kernel exists for. Included by
// files that are compiled once for every instruction set; everything is in their namespace.
//
// It uses the portable vector extensions of GCC and Clang: a Lane is H floats, one for every head. It becomes one
// AVX or AVX-512 register, two NEON registers, and so on.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "parallel.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

constexpr int kTaps = 9;

// Local replacements for std::vector, std::fill and std::max. The linker keeps only one copy of a shared inline
// function. It could keep the copy that was compiled for AVX-512, which an older processor cannot run.
struct Buffer {
    explicit Buffer(int64_t size) : data(static_cast<float*>(std::calloc(size > 0 ? size : 1, sizeof(float)))) {
        if (data == nullptr) out_of_memory();
    }
    ~Buffer() { std::free(data); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    float* const data;
};

inline int64_t longer(int64_t a, int64_t b) { return a > b ? a : b; }

template <int H>
struct Vector {
    typedef float Lane __attribute__((vector_size(H * sizeof(float))));
    typedef int32_t Bits __attribute__((vector_size(H * sizeof(float))));

    static Lane load(const float* source) {
        Lane lane;
        std::memcpy(&lane, source, sizeof(lane));
        return lane;
    }
    static void store(float* target, Lane lane) { std::memcpy(target, &lane, sizeof(lane)); }
    // A sum with 0 would have to turn -0 into 0; a difference is nothing but the value.
    static Lane splat(float value) { return value - Lane{}; }
    static Lane larger(Lane a, Lane b) { return a > b ? a : b; }

    // exp for arguments <= 0, by Cody-Waite reduction and a polynomial of degree 5. The relative error is below
    // 2e-7. NaN stays NaN. Arguments below -87 give about 1e-38 instead of 0, which makes no difference in a
    // softmax.
    static Lane exp(Lane x) {
        x = x < splat(-87.0f) ? splat(-87.0f) : x;
        const Lane shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
        const Lane rounded = x * 1.44269504088896341f + shifter;
        const Lane n = rounded - shifter;
        const Lane r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
        Lane p = splat(1.9875691500e-4f);
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = p * (r * r) + r + 1.0f;
        Bits exponent;
        std::memcpy(&exponent, &rounded, sizeof(exponent));
        exponent = exponent << 23;  // the integer is in the low bits; the bits of the shifter are shifted out
        Bits bits;
        std::memcpy(&bits, &p, sizeof(bits));
        bits += exponent;
        Lane result;
        std::memcpy(&result, &bits, sizeof(result));
        return result;
    }
};

// A row of tokens that attend to each other: the joints of a frame, or the frames of a joint.
struct Row {
    int64_t length;
    int64_t qkv_stride;  // floats between two tokens of the row
    int64_t out_stride;
    int64_t band;  // the number of tokens up to itself that a token attends to; 0 for the whole row

    int64_t first(int64_t i) const { return band > 0 && i >= band ? i - band + 1 : 0; }
    int64_t last(int64_t i) const { return band > 0 ? i + 1 : length; }
};

// Calls `visit.template operator()<H, D>()` for the shape. The bindings have checked that the shape is supported.
template <int H, typename Shape, typename Visit>
void with_width(const Shape& s, Visit&& visit) {
    switch (s.width) {
        case 2:
            return visit.template operator()<H, 2>();
        case 4:
            return visit.template operator()<H, 4>();
        case 6:
            return visit.template operator()<H, 6>();
        case 8:
            return visit.template operator()<H, 8>();
        case 12:
            return visit.template operator()<H, 12>();
        case 16:
            return visit.template operator()<H, 16>();
        default:
            return;
    }
}

template <typename Shape, typename Visit>
void with_shape(const Shape& s, Visit&& visit) {
    switch (s.heads) {
        case 2:
            return with_width<2>(s, visit);
        case 4:
            return with_width<4>(s, visit);
        case 8:
            return with_width<8>(s, visit);
        case 16:
            return with_width<16>(s, visit);
        default:
            return;
    }
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
