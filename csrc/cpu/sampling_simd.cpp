// Conditional-Gaussian sampling of blocks of frames (see sampling_simd.h). This file is compiled once for every
// instruction set, each time into another namespace.
//
// The operations of a frame and their order do not depend on the other frames of the call: a block that is not
// full repeats its last frame, and writes it once. Therefore a seed gives the same bits for any number of threads
// and any split of a batch.

#include "sampling_simd.h"

#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Vectors of sixteen lanes. Each lane computes one counter; a counter gives four dimensions of a frame.
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint64_t Wide __attribute__((vector_size(64)));
typedef float Lane __attribute__((vector_size(64)));

constexpr int kLanes = 16;
// A tile is the part of a product whose sums fit into the registers: kTileFrames frames by kTileLanes Lanes of
// columns. A block has kBlock frames: several tiles, and as many frames as fill the lanes of their counters.
#if defined(__AVX512F__)
constexpr int kTileFrames = 8, kTileLanes = 3, kBlock = 16;
#elif defined(__AVX2__)
constexpr int kTileFrames = 3, kTileLanes = 2, kBlock = 15;
#else
constexpr int kTileFrames = 1, kTileLanes = 2, kBlock = 16;
#endif
static_assert(kBlock % kTileFrames == 0 && kBlock <= kLanes && kBlock <= kSampleFrames, "a block is whole tiles");
static_assert(kSampleColumns == kLanes, "packed rows are whole Lanes");

Lane load(const float* from) {
    Lane lane;
    std::memcpy(&lane, from, sizeof(lane));
    return lane;
}

void store(float* to, Lane lane) { std::memcpy(to, &lane, sizeof(lane)); }

Lane floats(Words x) { return __builtin_convertvector(x, Lane); }

#if !defined(__AVX512F__)
// The upper and lower 32 bits of the product of every word with a constant. Even and odd words are multiplied
// separately, and their products are then merged. Compilers do not see that the upper halves of the 64-bit factors
// are 0, so the code names the instruction for such a product explicitly.
void multiply(Words x, uint32_t factor, Words* high, Words* low) {
#if defined(__AVX2__)
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
#endif

constexpr uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

constexpr int kRounds = 10;

// The keys of all rounds. An instruction can read a key from memory into every lane, so that copying the key into
// a register needs no extra instruction.
struct Keys {
    uint32_t first[kRounds], second[kRounds];

    explicit Keys(uint64_t seed) {
        for (int round = 0; round < kRounds; ++round) {
            first[round] = static_cast<uint32_t>(seed) + static_cast<uint32_t>(round) * kWeyl0;
            second[round] = static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(round) * kWeyl1;
        }
    }
};

// Philox 4x32-10 for sixteen counters at a time, equal to philox.h.
#if defined(__AVX512F__)
// Even and odd counters are in separate vectors, each counter in the lower half of 64 bits. A product then has its
// upper 32 bits next to its lower ones, so that even and odd counters need no merging until the end. The upper
// halves of the vectors have no meaning, and are not read.
void philox(Words counter[4], const Keys& keys) {
    // Copies the upper half of every 64 bits into both halves.
    constexpr auto kUpper = static_cast<_MM_PERM_ENUM>(0xF5);
    __m512i half[2][4];
    for (int i = 0; i < 4; ++i) {
        half[0][i] = (__m512i)counter[i];
        half[1][i] = _mm512_shuffle_epi32(half[0][i], kUpper);
    }
    const __m512i factor0 = _mm512_set1_epi64(kFactor0), factor1 = _mm512_set1_epi64(kFactor1);
    for (int round = 0; round < kRounds; ++round) {
        const __m512i first = _mm512_set1_epi32(static_cast<int>(keys.first[round]));
        const __m512i second = _mm512_set1_epi32(static_cast<int>(keys.second[round]));
        for (__m512i* x : half) {
            const __m512i product0 = _mm512_mul_epu32(x[0], factor0), product1 = _mm512_mul_epu32(x[2], factor1);
            constexpr int kXor = 0x96;  // the exclusive or of three values
            x[0] = _mm512_ternarylogic_epi32(_mm512_shuffle_epi32(product1, kUpper), x[1], first, kXor);
            x[2] = _mm512_ternarylogic_epi32(_mm512_shuffle_epi32(product0, kUpper), x[3], second, kXor);
            x[1] = product1;
            x[3] = product0;
        }
    }
    constexpr auto kLower = static_cast<_MM_PERM_ENUM>(0xA0);
    for (int i = 0; i < 4; ++i)
        counter[i] = (Words)_mm512_mask_shuffle_epi32(half[0][i], 0xAAAA, half[1][i], kLower);
}
#else
void philox(Words counter[4], const Keys& keys) {
    for (int round = 0; round < kRounds; ++round) {
        Words high0, low0, high1, low1;
        multiply(counter[0], kFactor0, &high0, &low0);
        multiply(counter[2], kFactor1, &high1, &low1);
        counter[0] = high1 ^ counter[1] ^ keys.first[round];
        counter[1] = low1;
        counter[2] = high0 ^ counter[3] ^ keys.second[round];
        counter[3] = low0;
    }
}
#endif

// The natural logarithm of u = (x + 1) / 2^32, with an error of about 1 unit in the last place.
//
// The code writes u as m 2^e with m in [sqrt(1/2), sqrt(2)), and evaluates the polynomial of the Cephes library in
// m - 1. For u just below 1, m - 1 is computed from the integer x, because the float u has lost digits of it.
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
    const Lane square = f * f, fourth = square * square;
    // The terms are added in pairs, because the additions of one long chain would wait for each other.
    const Lane p01 = f * -2.4999993993e-1f + 3.3333331174e-1f, p23 = f * -1.6668057665e-1f + 2.0000714765e-1f;
    const Lane p45 = f * -1.2420140846e-1f + 1.4249322787e-1f, p67 = f * -1.1514610310e-1f + 1.1676998740e-1f;
    const Lane p = (p23 * square + p01) + ((fourth * 7.0376836292e-2f + p67 * square) + p45) * fourth;
    const Lane e = __builtin_convertvector(exponent, Lane);
    const Lane small = p * f * square + e * -2.12194440e-4f - 0.5f * square;
    return e * 0.693359375f + (f + small);
}

// The cosine and the sine of 2 pi x / 2^32. The remainder of the angle is computed in integers, so that no digit
// is lost.
#if defined(__AVX512F__)
// The result is the nearest of 16 directions, which are in registers, rotated by the remaining angle of at most
// pi / 16. A cosine or sine of 0 is exactly 0 in the table, so that small results keep their digits.
void circle(Words x, Lane* cosine, Lane* sine) {
    constexpr float kC = 0.92387953251128674f, kD = 0.70710678118654752f, kS = 0.38268343236508977f;
    const Lane cosines = {1, kC, kD, kS, 0, -kS, -kD, -kC, -1, -kC, -kD, -kS, 0, kS, kD, kC};
    const Lane sines = {0, kS, kD, kC, 1, kC, kD, kS, 0, -kS, -kD, -kC, -1, -kC, -kD, -kS};
    const Words turned = x + 0x08000000u;
    const __m512i direction = (__m512i)(turned >> 28);
    const Integers rest = (Integers)(turned & 0x0fffffffu) - 0x08000000;
    const Lane angle = __builtin_convertvector(rest, Lane) * 1.4629180792671596e-9f;  // 2 pi / 2^32
    const Lane square = angle * angle;
    const Lane s = (square * 8.3333333e-3f - 1.6666667e-1f) * (square * angle) + angle;
    const Lane c_less_one = ((square * -1.3888889e-3f + 4.1666667e-2f) * square - 0.5f) * square;
    const Lane c0 = (Lane)_mm512_permutexvar_ps(direction, (__m512)cosines);
    const Lane s0 = (Lane)_mm512_permutexvar_ps(direction, (__m512)sines);
    *cosine = c0 + (c0 * c_less_one - s0 * s);
    *sine = s0 + (s0 * c_less_one + c0 * s);
}
#else
// The angle is split into a multiple of pi / 2 and a remainder of at most pi / 4.
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
    // Signs over the four quadrants: + - - + for the cosine, + + - - for the sine.
    *cosine = (Integers)((quadrant + 1u) & 2u) != 0 ? -first : first;
    *sine = (Integers)(quadrant & 2u) != 0 ? -second : second;
}
#endif

// Picks sixteen lanes of a (numbers 0 .. 15) and b (numbers 16 .. 31) in the given order.
Lane interleave(Lane a, Lane b, Words order) {
#if defined(__clang__)
    Lane result;
    for (int i = 0; i < kLanes; ++i) result[i] = order[i] < kLanes ? a[order[i]] : b[order[i] - kLanes];
    return result;
#else
    return __builtin_shuffle(a, b, (Integers)order);
#endif
}

#if defined(__AVX512F__)
// The square root: x times an estimate of its reciprocal root, then one step of Newton's method. The processor's
// own root would take longer than all other operations of a normal number together. The root of 0 is 0.
Lane root(Lane x) {
    const __m512 from = (__m512)x;
    const __mmask16 positive = _mm512_cmp_ps_mask(from, _mm512_setzero_ps(), _CMP_GT_OQ);
    const Lane reciprocal = (Lane)_mm512_maskz_rsqrt14_ps(positive, from);
    const Lane near = x * reciprocal;
    return near + near * (0.5f - near * (0.5f * reciprocal));
}
#else
Lane root(Lane x) {
    float values[kLanes];
    std::memcpy(values, &x, sizeof(x));
    for (float& value : values) value = __builtin_sqrtf(value);
    std::memcpy(&x, values, sizeof(x));
    return x;
}
#endif

// The 64 normal numbers of sixteen counters by the method of Box and Muller: four numbers for each counter, one
// counter after the other.
void normals_of(Words counter[4], const Keys& keys, float* to) {
    philox(counter, keys);
    Lane drawn[4];
    for (int pair = 0; pair < 2; ++pair) {
        const Lane radius = root(-2.0f * log_uniform(counter[2 * pair]));
        Lane cosine, sine;
        circle(counter[2 * pair + 1], &cosine, &sine);
        drawn[2 * pair] = radius * cosine;
        drawn[2 * pair + 1] = radius * sine;
    }
    // Two rounds of interleaving transpose 4 numbers x 16 counters to 16 counters x 4 numbers.
    const Words low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, high = low + 8;
    const Words low_pairs = {0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23}, high_pairs = low_pairs + 8;
    for (int half = 0; half < 2; ++half) {
        const Words order = half == 0 ? low : high;
        const Lane front = interleave(drawn[0], drawn[1], order), back = interleave(drawn[2], drawn[3], order);
        store(to + 32 * half, interleave(front, back, low_pairs));
        store(to + 32 * half + 16, interleave(front, back, high_pairs));
    }
}

int64_t normal_stride(int64_t dims) { return (dims + 3) / 4 * 4; }

// The plan of a block: for every lane the frame and the counter that it computes. Each group of sixteen lanes has
// sixteen frames, followed by sixteen counters. The counters of all frames are one sequence, so that no lane is
// empty before the last frame; lanes after the last frame compute numbers that are not read.
void plan_lanes(int64_t dims, uint32_t* plan) {
    const int64_t counters = normal_stride(dims) / 4;
    for (int64_t first = 0; first < kBlock * counters; first += kLanes, plan += 2 * kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            plan[lane] = static_cast<uint32_t>((first + lane) / counters);
            plan[kLanes + lane] = static_cast<uint32_t>((first + lane) % counters);
        }
    }
}

// Picks lanes of x by their numbers.
Words lookup(Words x, Words lanes) {
#if defined(__AVX512F__)
    return (Words)_mm512_permutexvar_epi32((__m512i)lanes, (__m512i)x);
#else
    Words found;
    for (int i = 0; i < kLanes; ++i) found[i] = x[lanes[i] % kLanes];
    return found;
#endif
}

// Computes the normal numbers of kBlock frames, which are `normal_stride` floats apart. Counter i gives the
// dimensions 4 i .. 4 i + 3. Up to kSampleSlack floats after the last number are overwritten.
void normal_rows(const Keys& keys, const uint64_t frames[kBlock], int64_t dims, const uint32_t* plan,
                 float* normal) {
    Words low{}, high{};
    for (int f = 0; f < kBlock; ++f) {
        low[f] = static_cast<uint32_t>(frames[f]);
        high[f] = static_cast<uint32_t>(frames[f] >> 32);
    }
    const int64_t lanes = kBlock * normal_stride(dims) / 4;
    for (int64_t first = 0; first < lanes; first += kLanes, plan += 2 * kLanes) {
        Words frame, index;
        std::memcpy(&frame, plan, sizeof(frame));
        std::memcpy(&index, plan + kLanes, sizeof(index));
        Words counter[4] = {lookup(low, frame), lookup(high, frame), index, Words{}};
        normals_of(counter, keys, normal + 4 * first);
    }
}

// The input of a block: centred conditions [kBlock, condition_size], and normal numbers of frames that are
// `normal_stride` floats apart.
struct Rows {
    const float* condition;
    const float* normal;
    int64_t normal_stride;
};

#define REFINER_LAMBDA __attribute__((always_inline))

// std::integral_constant without its functions, which files compiled for other instruction sets would share.
template <int value>
struct Number {
    constexpr operator int() const { return value; }
};

// Calls body(0), body(1), ... with compile-time constants. An array that is indexed only by such constants is kept
// in registers.
template <typename Body, int... Numbers>
REFINER_ALWAYS_INLINE void repeat(const Body& body, std::integer_sequence<int, Numbers...>) {
    (body(Number<Numbers>()), ...);
}

template <int WideLanes>
using Sums = Lane[kTileFrames * WideLanes];
template <int WideLanes>
using SumNumbers = std::make_integer_sequence<int, kTileFrames * WideLanes>;

// sums [f, w] += rows [f, k] packed [k, w] for k from `begin` to `end`, for the Lanes w >= `First`.
template <int First, int WideLanes>
REFINER_ALWAYS_INLINE void accumulate(Sums<WideLanes>& sums, const float* rows, int64_t stride,
                                      const float* packed, int64_t columns, int64_t begin, int64_t end) {
    const float* row = rows + begin;
    const float* factors = packed + begin * columns;
    for (int64_t k = begin; k < end; ++k, ++row, factors += columns) {
        repeat(
            [&](auto number) REFINER_LAMBDA {
                constexpr int f = number / WideLanes, w = number % WideLanes;
                // Each pointer serves four rows: a load instruction can compute these addresses by itself.
                const float* four = row + f / 4 * 4 * stride;
                if constexpr (w >= First) sums[number] += load(factors + w * kLanes) * four[f % 4 * stride];
            },
            SumNumbers<WideLanes>());
    }
}

// Like accumulate, for the lower triangular factor: dimension d contributes only to columns d and above. For each
// Lane of columns, the dimensions after its last column are skipped.
template <int First, int WideLanes>
REFINER_ALWAYS_INLINE void accumulate_triangle(Sums<WideLanes>& sums, const float* rows, int64_t stride,
                                               const float* packed, int64_t columns, int64_t begin, int64_t reach,
                                               int64_t size) {
    const int64_t end = reach < size ? reach : size;
    accumulate<First, WideLanes>(sums, rows, stride, packed, columns, begin, end);
    if constexpr (First + 1 < WideLanes) {
        accumulate_triangle<First + 1, WideLanes>(sums, rows, stride, packed, columns, end, reach + kLanes, size);
    }
}

// Computes offset + (centred condition) gain^T + normal cholesky^T for the frames tile .. tile + kTileFrames and
// `WideLanes` Lanes of columns, and writes the result into `out` [kBlock, columns].
template <int WideLanes>
void multiply_tile(const SampleCall& call, int64_t column, const Rows& rows, int tile, float* out) {
    const int64_t inputs = call.condition_size;
    const float* packed = call.packed + column;
    Sums<WideLanes> sums;
    repeat([&](auto number)
               REFINER_LAMBDA { sums[number] = load(call.offset + column + number % WideLanes * kLanes); },
           SumNumbers<WideLanes>());
    accumulate<0, WideLanes>(sums, rows.condition + tile * inputs, inputs, packed, call.columns, 0, inputs);
    accumulate_triangle<0, WideLanes>(sums, rows.normal + tile * rows.normal_stride, rows.normal_stride,
                                      packed + inputs * call.columns, call.columns, 0,
                                      call.first_column + column + kLanes, call.error_size);
    repeat(
        [&](auto number) REFINER_LAMBDA {
            store(out + (tile + number / WideLanes) * call.columns + column + number % WideLanes * kLanes,
                  sums[number]);
        },
        SumNumbers<WideLanes>());
}

template <int WideLanes>
int64_t multiply_columns(const SampleCall& call, int64_t column, const Rows& rows, int count, float* out) {
    for (; column + WideLanes * kLanes <= call.columns; column += WideLanes * kLanes) {
        for (int tile = 0; tile < count; tile += kTileFrames)
            multiply_tile<WideLanes>(call, column, rows, tile, out);
    }
    if constexpr (WideLanes > 1) return multiply_columns<WideLanes - 1>(call, column, rows, count, out);
    return column;
}

void sample(const SampleCall& call, int64_t begin, int64_t end, float* scratch) {
    const int64_t size = call.error_size, inputs = call.condition_size;
    float* conditions = scratch;
    float* out = conditions + kBlock * inputs;
    auto* plan = reinterpret_cast<uint32_t*>(out + kBlock * call.columns);
    plan_lanes(size, plan);
    const Keys keys(call.seed);
    float* normals = out + kBlock * call.columns + sample_plan(size);
    const Rows rows = {conditions, normals, normal_stride(size)};
    for (int64_t first = begin; first < end; first += kBlock) {
        const int count = end - first < kBlock ? static_cast<int>(end - first) : kBlock;
        uint64_t frames[kBlock];
        for (int f = 0; f < kBlock; ++f) {
            const int64_t at = first + (f < count ? f : count - 1);
            frames[f] = call.ids != nullptr ? static_cast<uint64_t>(call.ids[at]) : call.first_frame + at;
            // The mean is subtracted before the product: if a condition is much larger than its deviations, digits
            // would be lost otherwise.
            const float* condition = call.condition + at * inputs;
            float* row = conditions + f * inputs;
            for (int64_t c = 0; c < inputs; ++c) row[c] = condition[c] - call.mean_condition[c];
        }
        normal_rows(keys, frames, size, plan, normals);
        multiply_columns<kTileLanes>(call, 0, rows, count, out);
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

void draw(uint64_t seed, uint64_t first_frame, int64_t begin, int64_t end, int64_t dims, float* scratch,
          float* to) {
    const int64_t stride = normal_stride(dims);
    auto* plan = reinterpret_cast<uint32_t*>(scratch);
    plan_lanes(dims, plan);
    const Keys keys(seed);
    float* normals = scratch + sample_plan(dims);
    for (int64_t first = begin; first < end; first += kBlock) {
        uint64_t frames[kBlock];
        for (int f = 0; f < kBlock; ++f) frames[f] = first_frame + static_cast<uint64_t>(first + f);
        normal_rows(keys, frames, dims, plan, normals);
        for (int f = 0; f < kBlock && first + f < end; ++f) {
            std::memcpy(to + (first + f) * dims, normals + f * stride, dims * sizeof(float));
        }
    }
}

}  // namespace

SampleKernels sample_kernels() { return {&sample, &draw}; }

}  // namespace refiner::REFINER_ISA_NAMESPACE
