// Conditional-Gaussian sampling of blocks of frames (see sampling_simd.h). Compiled once for every instruction
// set, each time into another namespace.
//
// A frame's operations and their order do not depend on the frames around it: a block that is not full repeats its
// last frame, and writes it once. So the same seed gives the same bits for any number of threads and any split of
// a batch.

#include "sampling_simd.h"

#include <cstring>
#include <utility>

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
// Frames and Lanes of columns whose sums are in registers at a time, and frames of a block: several tiles, and as
// many as fill the lanes of their counters.
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
// The two halves of the 64-bit product with a constant: of the even and of the odd words, put together again.
// Compilers do not see that the upper halves of the factors are 0, so the instruction for that is named.
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

// The keys of all rounds, in memory: from there they reach every lane without an instruction of their own.
struct Keys {
    uint32_t first[kRounds], second[kRounds];

    explicit Keys(uint64_t seed) {
        for (int round = 0; round < kRounds; ++round) {
            first[round] = static_cast<uint32_t>(seed) + static_cast<uint32_t>(round) * kWeyl0;
            second[round] = static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(round) * kWeyl1;
        }
    }
};

// Philox 4x32-10, as philox.h has it, for sixteen counters.
#if defined(__AVX512F__)
// The even and the odd counters apart, each in the lower half of 64 bits, where a product leaves its upper half
// beside the lower one: nothing is put together again before the end. Upper halves hold what nobody reads.
void philox(Words counter[4], const Keys& keys) {
    constexpr auto kUpper = static_cast<_MM_PERM_ENUM>(0xF5);  // of every 64 bits, into both halves
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
            constexpr int kXor = 0x96;  // of three
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
    const Lane square = f * f, fourth = square * square;
    // In pairs, whose sums wait for fewer others than one long chain of them.
    const Lane p01 = f * -2.4999993993e-1f + 3.3333331174e-1f, p23 = f * -1.6668057665e-1f + 2.0000714765e-1f;
    const Lane p45 = f * -1.2420140846e-1f + 1.4249322787e-1f, p67 = f * -1.1514610310e-1f + 1.1676998740e-1f;
    const Lane p = (p23 * square + p01) + ((fourth * 7.0376836292e-2f + p67 * square) + p45) * fourth;
    const Lane e = __builtin_convertvector(exponent, Lane);
    const Lane small = p * f * square + e * -2.12194440e-4f - 0.5f * square;
    return e * 0.693359375f + (f + small);
}

// cos and sin of 2 pi x / 2^32: the angle's part comes from the integer, so that no digit is lost.
#if defined(__AVX512F__)
// The nearest of 16 directions from registers, turned by what is left, at most pi / 16. Where the cosine or the
// sine is 0, it is exactly 0 in the table, so that small values keep their digits.
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
// The quarter and what is left, at most pi / 4.
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
#endif

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

#if defined(__AVX512F__)
// x times an estimate of its reciprocal root, and one step of Newton's: the processor's own root takes longer than
// all the rest of a number. 0 gives 0.
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

// The 64 normal numbers of sixteen counters, by Box and Muller: four of each, one counter's after another's.
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
    // From four vectors of sixteen counters to sixteen counters of four dimensions, by two rounds of interleaving.
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

// Which frame of a block, and which of its counters, a lane draws: for groups of sixteen lanes, first the frames,
// then the counters. The counters of all frames lie in a row, so that no lane stays empty; the lanes after the
// last frame draw what nobody reads.
void plan_lanes(int64_t dims, uint32_t* plan) {
    const int64_t counters = normal_stride(dims) / 4;
    for (int64_t first = 0; first < kBlock * counters; first += kLanes, plan += 2 * kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            plan[lane] = static_cast<uint32_t>((first + lane) / counters);
            plan[kLanes + lane] = static_cast<uint32_t>((first + lane) % counters);
        }
    }
}

// Lanes of x by their numbers.
Words lookup(Words x, Words lanes) {
#if defined(__AVX512F__)
    return (Words)_mm512_permutexvar_epi32((__m512i)lanes, (__m512i)x);
#else
    Words found;
    for (int i = 0; i < kLanes; ++i) found[i] = x[lanes[i] % kLanes];
    return found;
#endif
}

// Normal numbers of kBlock frames, `normal_stride` apart: dimensions 4 i .. 4 i + 3 come from counter i. Writes up
// to kSampleSlack floats after the last.
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

// Of a block: centred conditions [kBlock, condition_size] and normal numbers, `normal_stride` apart.
struct Rows {
    const float* condition;
    const float* normal;
    int64_t normal_stride;
};

#define REFINER_INLINE inline __attribute__((always_inline))
#define REFINER_LAMBDA __attribute__((always_inline))

// body(0), body(1), ... with numbers that are constants: arrays that are indexed by them alone live in registers.
template <typename Body, int... Numbers>
REFINER_INLINE void repeat(const Body& body, std::integer_sequence<int, Numbers...>) {
    (body(std::integral_constant<int, Numbers>()), ...);
}

template <int WideLanes>
using Sums = Lane[kTileFrames * WideLanes];
template <int WideLanes>
using SumNumbers = std::make_integer_sequence<int, kTileFrames * WideLanes>;

// sums [f, w] += rows [f, k] packed [k, w] for k from `begin` to `end` and the Lanes from `First` on.
template <int First, int WideLanes>
REFINER_INLINE void accumulate(Sums<WideLanes>& sums, const float* rows, int64_t stride, const float* packed,
                               int64_t columns, int64_t begin, int64_t end) {
    const float* row = rows + begin;
    const float* factors = packed + begin * columns;
    for (int64_t k = begin; k < end; ++k, ++row, factors += columns) {
        repeat(
            [&](auto number) REFINER_LAMBDA {
                constexpr int f = number / WideLanes, w = number % WideLanes;
                // Four rows from each of two pointers: addresses that the processor computes by itself.
                const float* four = row + f / 4 * 4 * stride;
                if constexpr (w >= First) sums[number] += load(factors + w * kLanes) * four[f % 4 * stride];
            },
            SumNumbers<WideLanes>());
    }
}

// The factor is lower triangular: dimension d adds to columns d and after, so later dimensions are left out, for
// each Lane of columns by itself.
template <int First, int WideLanes>
REFINER_INLINE void accumulate_triangle(Sums<WideLanes>& sums, const float* rows, int64_t stride,
                                        const float* packed, int64_t columns, int64_t begin, int64_t reach,
                                        int64_t size) {
    const int64_t end = reach < size ? reach : size;
    accumulate<First, WideLanes>(sums, rows, stride, packed, columns, begin, end);
    if constexpr (First + 1 < WideLanes) {
        accumulate_triangle<First + 1, WideLanes>(sums, rows, stride, packed, columns, end, reach + kLanes, size);
    }
}

// `WideLanes` Lanes of columns of the frames tile .. tile + kTileFrames: offset + (centred) condition gain^T +
// normal cholesky^T, into `out` [kBlock, columns].
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
            // Centred first: a condition that is large beside its deviations would cancel in the product.
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
