// Softmax attention over one row of tokens, for any width of a head. Included by files that are compiled once for
// every instruction set; everything is in their namespace.
//
// One register holds one channel of every head, of as many queries as fit: with 8 heads and AVX-512, of two
// queries. A key's channel is then loaded into both halves. Wide heads are taken kChannels channels at a time.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "stc_rows.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kRegister = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kRegister = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kRegister = 4, kRegisters = 32;
#else
constexpr int kRegister = 4, kRegisters = 16;
#endif

// Floats of scratch memory for rows of `length` tokens, for every number of heads.
inline int64_t attend_scratch(int64_t length) { return (length + 16) * 64; }

template <typename Pairs, size_t... i>
inline Pairs repeated(double pair, std::index_sequence<i...>) {
    return Pairs{(static_cast<void>(i), pair)...};
}

template <typename Small, typename Large, size_t... i>
inline Large joined(Small first, Small second, std::index_sequence<i...>) {
    return __builtin_shufflevector(first, second, i...);
}

// Registers of kQueries queries by H heads.
template <int H>
struct Heads {
    static constexpr int kWidth = H > kRegister ? H : kRegister;
    static constexpr int kQueries = kWidth / H;
    using V = Vector<kWidth>;
    using Lane = typename V::Lane;
    using Bits = typename V::Bits;

    // One channel of a token for every query. GCC finds the loads that repeat 4 or 8 floats only as intrinsics.
    static Lane repeat(const float* source) {
        if constexpr (H == 1) {
            return V::splat(*source);
        } else if constexpr (kQueries == 1) {
            return V::load(source);
#if defined(__AVX512F__)
        } else if constexpr (H == 8) {
            return reinterpret_cast<Lane>(_mm512_broadcast_f32x8(_mm256_loadu_ps(source)));
        } else if constexpr (H == 4) {
            return reinterpret_cast<Lane>(_mm512_broadcast_f32x4(_mm_loadu_ps(source)));
#elif defined(__AVX2__)
        } else if constexpr (H == 4) {
            return reinterpret_cast<Lane>(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(source)));
#endif
        } else {
            static_assert(H == 2, "no other number of heads is smaller than a register");
            typedef double Pairs __attribute__((vector_size(kWidth * sizeof(float))));
            double pair;
            std::memcpy(&pair, source, sizeof(pair));
            return reinterpret_cast<Lane>(repeated<Pairs>(pair, std::make_index_sequence<kWidth / 2>()));
        }
    }

    // One channel of kQueries tokens; those from `count` on repeat the last.
    static Lane gather(const float* source, int64_t stride, int64_t count) {
        return gather_some<kQueries>(source, stride, count);
    }

    // The number of the query of each lane, and the same for the tokens of a ring.
    static Bits numbers() {
        Bits bits{};
        for (int i = 0; i < kWidth; ++i) bits[i] = i / H;
        return bits;
    }

    // 2^x for x <= 0, of relative error below 3e-7: a polynomial of degree 5 for the part from -1/2 to 1/2. NaN
    // stays NaN. Below -126 the result is about 1e-38 instead of 0, which makes no difference in a softmax.
    static Lane exp2(Lane x) {
        x = x < V::splat(-126.0f) ? V::splat(-126.0f) : x;
        // Adding 1.5 x 2^23 rounds to an integer, which lies in the low bits; 127 is the exponent's offset.
        const Lane shifter = V::splat(12582912.0f + 127.0f);
        const Lane rounded = x + shifter;
        const Lane r = x - (rounded - shifter);
        Lane p = V::splat(1.32764720e-3f);
        p = p * r + 9.67554133e-3f;
        p = p * r + 5.55071327e-2f;
        p = p * r + 2.40221197e-1f;
        p = p * r + 6.93146967e-1f;
        p = p * r + 1.0f;
        Bits exponent;
        std::memcpy(&exponent, &rounded, sizeof(exponent));
        exponent = exponent << 23;
        Lane power;
        std::memcpy(&power, &exponent, sizeof(power));
        return p * power;
    }

 private:
    template <int count>
    static typename Vector<count * H>::Lane gather_some(const float* source, int64_t stride, int64_t valid) {
        if constexpr (count == 1) {
            return Vector<H>::load(source);
        } else {
            using Half = typename Vector<count / 2 * H>::Lane;
            using Whole = typename Vector<count * H>::Lane;
            constexpr int kHalf = count / 2;
            const Half first = gather_some<kHalf>(source, stride, valid);
            const int64_t skipped = valid > kHalf ? kHalf : valid - 1;
            const Half second = gather_some<kHalf>(source + skipped * stride, stride, valid - skipped);
            return joined<Half, Whole>(first, second, std::make_index_sequence<count * H>());
        }
    }
};

// A row of tokens that attend to each other: the joints of a frame, or the frames of a joint. A token is
// [3 (q, k, v), D, H].
struct Tokens {
    int64_t length;
    int64_t stride;      // floats between two tokens
    int64_t out_stride;  // floats between two results
    int64_t band;        // the number of tokens up to itself that a token attends to; 0 for the whole row
    int64_t width;       // D
    bool add;            // adds the result to what is there

    int64_t first(int64_t i) const { return band > 0 && i >= band ? i - band + 1 : 0; }
    int64_t last(int64_t i) const { return band > 0 ? i + 1 : length; }
};

// exp(x scale) is 2^(x scale log2 e): the factor of the queries.
inline float query_factor(float scale) { return scale * 1.44269504088896341f; }

// `count` queries from number `i` on, in kBlocks registers. kChannels divides the width; kWhole: it is the width.
// H of kHeads heads, which lie side by side.
template <int H, int kHeads, int kChannels, int kBlocks, bool kWhole>
inline void attend_group(const Tokens& row, int64_t i, int64_t count, float factor, const float* qkv, float* out,
                         float* scratch) {
    using T = Heads<H>;
    using V = typename T::V;
    using Lane = typename T::Lane;
    using Bits = typename T::Bits;
    const int64_t part = row.width * kHeads;
    const int64_t channels = kWhole ? kChannels : row.width;
    // Every query sees the tokens from `middle` to `middle_end`; some see those from `begin` and to `end`.
    const int64_t begin = row.first(i);
    const int64_t end = row.last(i + count - 1);
    int64_t middle = row.first(i + count - 1);
    if (middle > end) middle = end;
    int64_t middle_end = row.last(i);
    if (middle_end < middle) middle_end = middle;
    Bits number[kBlocks];
    int64_t left[kBlocks];  // queries of a register
    for (int b = 0; b < kBlocks; ++b) {
        left[b] = count - b * T::kQueries < T::kQueries ? count - b * T::kQueries : T::kQueries;
        number[b] = T::numbers() + static_cast<int32_t>(b * T::kQueries);
    }
    // The queries that see token j, i <= n the number of a query: j is not after it and within the band.
    const auto sees = [&](int b, int64_t j) -> Bits {
        const auto distance = static_cast<int32_t>(j - i);
        return (number[b] >= distance) & (number[b] < distance + static_cast<int32_t>(row.band));
    };

    Lane largest[kBlocks];
    for (int b = 0; b < kBlocks; ++b) largest[b] = V::splat(-3.0e38f);
    for (int64_t first = 0; first < channels; first += kChannels) {
        const bool done = kWhole || first + kChannels == channels;
        Lane query[kBlocks][kChannels];
        for (int b = 0; b < kBlocks; ++b) {
            const float* source = qkv + (i + b * T::kQueries) * row.stride + first * kHeads;
            for (int d = 0; d < kChannels; ++d) {
                query[b][d] = T::gather(source + d * kHeads, row.stride, left[b]) * factor;
            }
        }
        const auto score = [&](int64_t j, bool masked) {
            const float* key = qkv + j * row.stride + part + first * kHeads;
            Lane channel[kChannels];
            for (int d = 0; d < kChannels; ++d) channel[d] = T::repeat(key + d * kHeads);
            for (int b = 0; b < kBlocks; ++b) {
                float* place = scratch + (j * kBlocks + b) * T::kWidth;
                Lane sum = query[b][0] * channel[0];
                if (!kWhole && first > 0) sum += V::load(place);
                for (int d = 1; d < kChannels; ++d) sum += query[b][d] * channel[d];
                V::store(place, sum);
                if (done) {
                    const Lane larger = sum > largest[b] ? sum : largest[b];
                    largest[b] = masked ? (sees(b, j) ? larger : largest[b]) : larger;
                }
            }
        };
        int64_t j = begin;
        for (; j < middle; ++j) score(j, true);
        for (; j < middle_end; ++j) score(j, false);
        for (; j < end; ++j) score(j, true);
    }

    Lane inverse[kBlocks];
    for (int64_t first = 0; first < channels; first += kChannels) {
        Lane total[kBlocks] = {};
        Lane sum[kBlocks][kChannels] = {};
        const auto add = [&](int64_t j, bool masked) {
            const float* value = qkv + j * row.stride + 2 * part + first * kHeads;
            Lane channel[kChannels];
            for (int d = 0; d < kChannels; ++d) channel[d] = T::repeat(value + d * kHeads);
            for (int b = 0; b < kBlocks; ++b) {
                float* place = scratch + (j * kBlocks + b) * T::kWidth;
                Lane weight = V::load(place);
                if (kWhole || first == 0) {
                    weight = T::exp2(weight - largest[b]);
                    if (masked) weight = sees(b, j) ? weight : Lane{};
                    if (!kWhole) V::store(place, weight);
                    total[b] += weight;
                }
                for (int d = 0; d < kChannels; ++d) {
                    // What a query does not see may be NaN.
                    const Lane more = sum[b][d] + weight * channel[d];
                    sum[b][d] = masked ? (sees(b, j) ? more : sum[b][d]) : more;
                }
            }
        };
        int64_t j = begin;
        for (; j < middle; ++j) add(j, true);
        for (; j < middle_end; ++j) add(j, false);
        for (; j < end; ++j) add(j, true);
        if (first == 0) {
            for (int b = 0; b < kBlocks; ++b) inverse[b] = V::splat(1.0f) / total[b];
        }
        for (int b = 0; b < kBlocks; ++b) {
            for (int d = 0; d < kChannels; ++d) {
                float results[T::kWidth];
                V::store(results, sum[b][d] * inverse[b]);
                float* target = out + (i + b * T::kQueries) * row.out_stride + (first + d) * kHeads;
                for (int64_t q = 0; q < left[b]; ++q) {
                    float* __restrict to = target + q * row.out_stride;
                    for (int h = 0; h < H; ++h) to[h] = (row.add ? to[h] : 0.0f) + results[q * H + h];
                }
            }
        }
    }
}

template <int H, int kHeads, int kChannels, bool kWhole>
void attend_heads(const Tokens& row, float scale, const float* qkv, float* out, float* scratch) {
    // Registers of queries share what is loaded, where their sums fit into the registers.
    constexpr int kSplit = Heads<H>::kWidth / kRegister;  // registers that one Lane takes
    constexpr int kPer = kSplit * kChannels;
    constexpr int kBlocks = kWhole && 4 * kPer + 8 <= kRegisters ? 4 : 2 * kPer + 8 <= kRegisters ? 2 : 1;
    constexpr int64_t kQueries = Heads<H>::kQueries;
    const float factor = query_factor(scale);
    int64_t i = 0;
    if (kBlocks > 2) {
        for (; i + (kBlocks - 1) * kQueries < row.length; i += kBlocks * kQueries) {
            const int64_t left = row.length - i;
            const int64_t count = left < kBlocks * kQueries ? left : kBlocks * kQueries;
            attend_group<H, kHeads, kChannels, kBlocks, kWhole>(row, i, count, factor, qkv, out, scratch);
        }
    }
    if (kBlocks > 1) {
        for (; i + kQueries < row.length; i += 2 * kQueries) {
            const int64_t left = row.length - i;
            const int64_t count = left < 2 * kQueries ? left : 2 * kQueries;
            attend_group<H, kHeads, kChannels, 2, kWhole>(row, i, count, factor, qkv, out, scratch);
        }
    }
    for (; i < row.length; i += kQueries) {
        const int64_t count = row.length - i < kQueries ? row.length - i : kQueries;
        attend_group<H, kHeads, kChannels, 1, kWhole>(row, i, count, factor, qkv, out, scratch);
    }
}

// GCC compares and selects vectors that are wider than a register one number at a time. So many heads are taken in
// several turns.
template <int H, int kChannels, bool kWhole>
void attend_tokens(const Tokens& row, float scale, const float* qkv, float* out, float* scratch) {
    constexpr int kTurn = H < kRegister ? H : kRegister;
    for (int head = 0; head < H; head += kTurn) {
        attend_heads<kTurn, H, kChannels, kWhole>(row, scale, qkv + head, out + head, scratch);
    }
}

// Calls `visit.template operator()<H, kChannels, kWhole>()` for this number of heads and width.
template <int H, typename Visit>
void with_channels(int64_t width, Visit&& visit) {
    if (width == 4) return visit.template operator()<H, 4, true>();
    if (width == 8) return visit.template operator()<H, 8, true>();
    if (width % 8 == 0) return visit.template operator()<H, 8, false>();
    if (width % 4 == 0) return visit.template operator()<H, 4, false>();
    if (width % 2 == 0) return visit.template operator()<H, 2, false>();
    return visit.template operator()<H, 1, false>();
}

// Does nothing for a number of heads without a kernel; the callers have checked it.
template <typename Visit>
void with_heads(int64_t heads, int64_t width, Visit&& visit) {
    switch (heads) {
        case 1:
            return with_channels<1>(width, visit);
        case 2:
            return with_channels<2>(width, visit);
        case 4:
            return with_channels<4>(width, visit);
        case 8:
            return with_channels<8>(width, visit);
        case 16:
            return with_channels<16>(width, visit);
        default:
            return;
    }
}

struct AttendCall {
    const Tokens& row;
    float scale;
    const float* qkv;
    float* out;
    float* scratch;
    template <int H, int kChannels, bool kWhole>
    void operator()() {
        attend_tokens<H, kChannels, kWhole>(row, scale, qkv, out, scratch);
    }
};

// Attention over one row. `scratch` holds attend_scratch(length) floats.
inline void attend(const Tokens& row, int64_t heads, float scale, const float* qkv, float* out, float* scratch) {
    with_heads(heads, row.width, AttendCall{row, scale, qkv, out, scratch});
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
