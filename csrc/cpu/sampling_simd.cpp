// Conditional-Gaussian sampling of blocks of frames (see sampling_simd.h). Compiled once for every instruction
// set, each time into another namespace.
//
// A frame's operations and their order do not depend on the frames around it: a block that is not full repeats its
// last frame, and writes it once. So the same seed gives the same bits for any number of threads and any split of
// a batch.

#include "sampling_simd.h"

#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Sixteen lanes: the counters 0 .. 15 of a frame, which give its dimensions 0 .. 63.
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint64_t Wide __attribute__((vector_size(64)));
typedef float Lane __attribute__((vector_size(64)));

constexpr int kLanes = 16;
#if defined(__AVX512F__)
constexpr int kBlock = 12;  // frames: with two registers of columns each, 24 of the 32 registers
#elif defined(__AVX2__)
constexpr int kBlock = 3;
#else
constexpr int kBlock = 1;
#endif
static_assert(kBlock <= kSampleFrames && kSampleColumns == kLanes, "packed rows are whole Lanes");

Lane load(const float* from) {
    Lane lane;
    std::memcpy(&lane, from, sizeof(lane));
    return lane;
}

void store(float* to, Lane lane) { std::memcpy(to, &lane, sizeof(lane)); }

Lane floats(Words x) { return __builtin_convertvector(x, Lane); }

// The two halves of the 64-bit product with a constant: of the even and of the odd words, put together again.
// Compilers do not see that the upper halves of the factors are 0, so the instruction for that is named.
void multiply(Words x, uint32_t factor, Words* high, Words* low) {
#if defined(__AVX512F__)
    const __m512i words = (__m512i)x, by = _mm512_set1_epi64(factor);
    const __m512i even = _mm512_mul_epu32(words, by), odd = _mm512_mul_epu32(_mm512_srli_epi64(words, 32), by);
    *high = (Words)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
    *low = (Words)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
#elif defined(__AVX2__)
    __m256i words[2], upper[2], lower[2];
    std::memcpy(words, &x, sizeof(x));
    const __m256i by = _mm256_set1_epi64x(factor);
    for (int i = 0; i < 2; ++i) {
        const __m256i even = _mm256_mul_epu32(words[i], by);
        const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(words[i], 32), by);
        upper[i] = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
        lower[i] = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    }
    std::memcpy(high, upper, sizeof(upper));
    std::memcpy(low, lower, sizeof(lower));
#else
    const Wide pairs = (Wide)x;
    const Wide even = (pairs & 0xffffffffu) * static_cast<uint64_t>(factor);
    const Wide odd = (pairs >> 32) * static_cast<uint64_t>(factor);
    *high = (Words)((even >> 32) | (odd & 0xffffffff00000000u));
    *low = (Words)((even & 0xffffffffu) | (odd << 32));
#endif
}

// Philox 4x32-10, as philox.h has it, for sixteen counters.
void philox(Words counter[4], uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        Words high0, low0, high1, low1;
        multiply(counter[0], 0xD2511F53u, &high0, &low0);
        multiply(counter[2], 0xCD9E8D57u, &high1, &low1);
        counter[0] = high1 ^ counter[1] ^ key0;
        counter[1] = low1;
        counter[2] = high0 ^ counter[3] ^ key1;
        counter[3] = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

// ln of (x + 1) / 2^32, within 1 unit in the last place or so: m 2^e with m in [sqrt(1/2), sqrt(2)), polynomial of
// Cephes in m - 1. Just below 1 that difference is taken from the integer, which has the digits that a float has
// lost.
Lane log_uniform(Words x) {
    const Lane value = (floats(x) + 1.0f) * 0x1p-32f;
    Integers bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const Integers shifted = bits - 0x3f3504f3;  // sqrt(1/2)
    const Integers exponent = shifted >> 23;
    const Integers mantissa = (shifted & 0x007fffff) + 0x3f3504f3;
    Lane m;
    std::memcpy(&m, &mantissa, sizeof(m));
    const Lane below_one = floats(~x) * -0x1p-32f;
    const Lane f = (exponent == 0) ? below_one : m - 1.0f;
    Lane p = Lane{} + 7.0376836292e-2f;
    constexpr float kCoefficients[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                                       -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    for (const float coefficient : kCoefficients) {
        p = p * f + coefficient;
    }
    const Lane square = f * f;
    const Lane e = __builtin_convertvector(exponent, Lane);
    const Lane small = p * f * square + e * -2.12194440e-4f - 0.5f * square;
    return e * 0.693359375f + (f + small);
}

// cos and sin of 2 pi x / 2^32: the octant from the integer, so that no digit is lost, and polynomials on [-pi/4,
// pi/4].
void circle(Words x, Lane* cosine, Lane* sine) {
    const Words quadrant = (x + 0x20000000u) >> 30;
    const Integers rest = (Integers)(x - (quadrant << 30));
    const Lane angle = __builtin_convertvector(rest, Lane) * 1.4629180792671596e-9f;  // 2 pi / 2^32
    const Lane square = angle * angle;
    Lane s = Lane{} + -1.9515295891e-4f;
    s = s * square + 8.3321608736e-3f;
    s = s * square + -1.6666654611e-1f;
    s = s * square * angle + angle;
    Lane c = Lane{} + 2.443315711809948e-5f;
    c = c * square + -1.388731625493765e-3f;
    c = c * square + 4.166664568298827e-2f;
    c = c * square * square - 0.5f * square + 1.0f;
    const Integers odd = (Integers)(quadrant & 1u) != 0;
    const Lane first = odd ? s : c, second = odd ? c : s;
    // cos: + - - +, sin: + + - - over the quadrants.
    *cosine = (Integers)((quadrant + 1u) & 2u) != 0 ? -first : first;
    *sine = (Integers)(quadrant & 2u) != 0 ? -second : second;
}

// Lanes of a (0 .. 15) and of b (16 .. 31) in the order given.
Lane interleave(Lane a, Lane b, Words order) {
#if defined(__clang__)
    Lane result;
    for (int i = 0; i < kLanes; ++i) result[i] = order[i] < kLanes ? a[order[i]] : b[order[i] - kLanes];
    return result;
#else
    return __builtin_shuffle(a, b, (Integers)order);
#endif
}

Lane root(Lane x) {
    float values[kLanes];
    std::memcpy(values, &x, sizeof(x));
    for (float& value : values) value = __builtin_sqrtf(value);
    std::memcpy(&x, values, sizeof(x));
    return x;
}

// Dimensions 4 i .. 4 i + 3 come from counter i, by Box and Muller.
void normal_row(uint64_t seed, uint64_t frame, int64_t dims, float* normal) {
    for (int64_t first = 0; 4 * first < dims; first += kLanes) {
        const Words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        Words counter[4] = {Words{} + static_cast<uint32_t>(frame), Words{} + static_cast<uint32_t>(frame >> 32),
                            lane + static_cast<uint32_t>(first), Words{}};
        philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
        Lane drawn[4];
        for (int pair = 0; pair < 2; ++pair) {
            const Lane radius = root(-2.0f * log_uniform(counter[2 * pair]));
            Lane cosine, sine;
            circle(counter[2 * pair + 1], &cosine, &sine);
            drawn[2 * pair] = radius * cosine;
            drawn[2 * pair + 1] = radius * sine;
        }
        // From four vectors of sixteen counters to sixteen counters of four dimensions, by two rounds of
        // interleaving.
        const Words low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, high = low + 8;
        const Words low_pairs = {0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23},
                    high_pairs = low_pairs + 8;
        float* to = normal + 4 * first;
        for (int half = 0; half < 2; ++half) {
            const Words order = half == 0 ? low : high;
            const Lane front = interleave(drawn[0], drawn[1], order), back = interleave(drawn[2], drawn[3], order);
            store(to + 32 * half, interleave(front, back, low_pairs));
            store(to + 32 * half + 16, interleave(front, back, high_pairs));
        }
    }
}

// `Wide` Lanes of columns of kBlock frames: offset + (centred) condition gain^T + normal cholesky^T. The rows of
// the frames hold condition and normal numbers one after the other, `stride` floats apart.
template <int WideLanes>
void tile(const SampleCall& call, int64_t column, const float* rows, int64_t stride, float* out) {
    Lane sum[kBlock][WideLanes];
    for (int f = 0; f < kBlock; ++f) {
        for (int w = 0; w < WideLanes; ++w) sum[f][w] = load(call.offset + column + w * kLanes);
    }
    // The factor is lower triangular: dimension d adds to columns d and after, so later dimensions are left out.
    const int64_t reach = call.first_column + column + WideLanes * kLanes;
    const int64_t last = reach < call.error_size ? reach : call.error_size;
    const float* packed = call.packed + column;
    for (int64_t k = 0; k < call.condition_size + last; ++k, packed += call.columns) {
        Lane factor[WideLanes];
        for (int w = 0; w < WideLanes; ++w) factor[w] = load(packed + w * kLanes);
        // Four rows from each of three pointers: addresses that the processor computes by itself.
#pragma GCC unroll 12
        for (int f = 0; f < kBlock; ++f) {
            const float* row = rows + k + (f / 4) * 4 * stride;
            const float value = row[(f % 4) * stride];
            for (int w = 0; w < WideLanes; ++w) sum[f][w] += factor[w] * value;
        }
    }
    for (int f = 0; f < kBlock; ++f) {
        for (int w = 0; w < WideLanes; ++w) store(out + f * call.columns + column + w * kLanes, sum[f][w]);
    }
}

void sample(const SampleCall& call, int64_t begin, int64_t end, float* scratch) {
    const int64_t size = call.error_size, inputs = call.condition_size;
    const int64_t stride = inputs + (size + 63) / 64 * 64;
    float* out = scratch + kBlock * stride;
    for (int64_t first = begin; first < end; first += kBlock) {
        const int count = end - first < kBlock ? static_cast<int>(end - first) : kBlock;
        for (int f = 0; f < kBlock; ++f) {
            float* row = scratch + f * stride;
            if (f >= count) {
                std::memcpy(row, row - stride, stride * sizeof(float));
                continue;
            }
            // Centred first: a condition that is large beside its deviations would cancel in the product.
            const float* condition = call.condition + (first + f) * inputs;
            for (int64_t c = 0; c < inputs; ++c) row[c] = condition[c] - call.mean_condition[c];
            const uint64_t id =
                call.ids != nullptr ? static_cast<uint64_t>(call.ids[first + f]) : call.first_frame + first + f;
            normal_row(call.seed, id, size, row + inputs);
        }
        int64_t column = 0;
        for (; column + 2 * kLanes <= call.columns; column += 2 * kLanes)
            tile<2>(call, column, scratch, stride, out);
        if (column < call.columns) tile<1>(call, column, scratch, stride, out);
        for (int f = 0; f < count; ++f) {
            const int64_t at = (first + f) * size;
            float* error = call.error + at;
            std::memcpy(error, call.mean_error, call.first_column * sizeof(float));
            std::memcpy(error + call.first_column, out + f * call.columns, call.active * sizeof(float));
            const int64_t after = call.first_column + call.active;
            std::memcpy(error + after, call.mean_error + after, (size - after) * sizeof(float));
            if (call.clean == nullptr) continue;
            const float clean = call.clean_factor[first + f], noise = call.noise_factor[first + f];
            for (int64_t d = 0; d < size; ++d) call.noisy[at + d] = clean * call.clean[at + d] + noise * error[d];
        }
    }
}

}  // namespace

SampleKernels sample_kernels() { return {&sample, &normal_row}; }

}  // namespace refiner::REFINER_ISA_NAMESPACE
