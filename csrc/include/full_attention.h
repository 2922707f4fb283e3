// Softmax attention of MixSTE's blocks: every head sees the tokens of a row, which are the joints of a frame or
// the frames of a joint. Included by files that are compiled once for every instruction set; everything is in
// their namespace.
//
// Any number of heads of any width. One head of one row is a unit of work: its keys are transposed and its values
// copied into panels once, and stay in the cache while kRows queries at a time go through two products, with a
// softmax between them. All sums have a fixed order, so that the result depends on the tokens of the row alone.
#pragma once

#include "gemm.h"
#include "parallel.h"
#include "stc_network.h"
#include "stc_rows.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// Below every score, and finite, so that the distance of two such numbers is a number.
constexpr float kLowest = -3.0e38f;

inline int64_t lanes(int64_t count) { return (count + kLane - 1) / kLane; }

// Offsets are in floats.
struct FullRows {
    int64_t length;      // tokens of a row
    int64_t width;       // channels of a head
    int64_t qkv_stride;  // between two tokens of a row
    int64_t out_stride;
    int64_t dim;  // between the queries, keys and values of a token

    int64_t padded_length() const { return lanes(length) * kLane; }
    int64_t padded_width() const { return lanes(width) * kLane; }
    int64_t scratch() const { return padded_length() * width + length * padded_width() + kRows * padded_length(); }
};

// Copies a few numbers in large pieces; the compiler would call a function for an unknown number of bytes.
inline void copy(const float* source, int64_t count, float* target) {
    int64_t i = 0;
    for (; i + kLane <= count; i += kLane) store(target + i, load(source + i));
    for (; i + 4 <= count; i += 4) std::memcpy(target + i, source + i, 4 * sizeof(float));
    for (; i < count; ++i) target[i] = source[i];
}

// The scores of R queries with the keys of one panel, of `vectors` registers.
template <int R, int V>
inline void score_panel(int64_t vectors, const FullRows& rows, const float* query, const float* panel,
                        float* scores) {
    if constexpr (V > 1) {
        if (vectors < V) return score_panel<R, V - 1>(vectors, rows, query, panel, scores);
    }
    Lane sum[R][V];
    multiply_tile<R, V>(query, rows.qkv_stride, rows.width, panel, sum);
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) store(scores + r * rows.padded_length() + v * kLane, sum[r][v]);
    }
}

// The weighted values of R queries, for the `count` channels of one panel.
template <int R, int V>
inline void value_panel(int64_t vectors, const FullRows& rows, const float* scores, const float* panel,
                        const float (&inverse)[R], int64_t count, float* out) {
    if constexpr (V > 1) {
        if (vectors < V) return value_panel<R, V - 1>(vectors, rows, scores, panel, inverse, count, out);
    }
    Lane sum[R][V];
    multiply_tile<R, V>(scores, rows.padded_length(), rows.length, panel, sum);
    for (int r = 0; r < R; ++r) {
        float* target = out + r * rows.out_stride;
        if (count == V * kLane) {
            for (int v = 0; v < V; ++v) store(target + v * kLane, sum[r][v] * inverse[r]);
        } else {
            float whole[V * kLane];
            for (int v = 0; v < V; ++v) store(whole + v * kLane, sum[r][v] * inverse[r]);
            copy(whole, count, target);
        }
    }
}

// A lane whose number i is number i ^ distance of the given one.
template <int distance>
inline Lane exchanged(Lane lane) {
#if defined(__clang__)
    static_assert(kLane == 4 || kLane == 8 || kLane == 16, "no other lanes");
    Lane result;
    for (int i = 0; i < kLane; ++i) result[i] = lane[i ^ distance];
    return result;
#else
    typedef int32_t Places __attribute__((vector_size(kLane * sizeof(int32_t))));
    Places places{};
    for (int i = 0; i < kLane; ++i) places[i] = i ^ distance;
    return __builtin_shuffle(lane, places);
#endif
}

// The numbers of a lane folded into one, by halves.
template <int distance = kLane / 2, typename Fold>
inline float folded(Lane lane, Fold&& fold) {
    if constexpr (distance == 0) {
        return lane[0];
    } else {
        return folded<distance / 2>(fold(lane, exchanged<distance>(lane)), fold);
    }
}

// Turns the scores of a query into weights that are not yet divided by their sum; returns 1 / sum.
inline float softmax(float* scores, int64_t length, int64_t padded) {
    using V = Vector<kLane>;
    // What lies beyond the last key gets no weight. A register at a time: numbers that were stored one by one are
    // slow to load as a register.
    Lane places;
    for (int i = 0; i < kLane; ++i) places[i] = static_cast<float>(i);
    const Lane last = load(scores + padded - kLane);
    store(scores + padded - kLane, places < static_cast<float>(length - padded + kLane) ? last : splat(kLowest));
    Lane largest = splat(kLowest);
    for (int64_t j = 0; j < padded; j += kLane) largest = V::larger(load(scores + j), largest);
    const float top = folded(largest, [](Lane a, Lane b) { return V::larger(a, b); });
    Lane totals{};
    for (int64_t j = 0; j < padded; j += kLane) {
        const Lane weight = V::exp(load(scores + j) - top);
        store(scores + j, weight);
        totals += weight;
    }
    return 1.0f / folded(totals, [](Lane a, Lane b) { return a + b; });
}

// R or fewer queries of one head.
template <int R>
void attend_queries(int64_t count, const FullRows& rows, const float* query, const float* keys,
                    const float* values, float* scores, float* out) {
    if constexpr (R > 1) {
        if (count < R) return attend_queries<R - 1>(count, rows, query, keys, values, scores, out);
    }
    for (int64_t first = 0; first < rows.length; first += kPanel) {
        score_panel<R, kVectors>(lanes(rows.length - first), rows, query, keys + first * rows.width,
                                 scores + first);
    }
    float inverse[R];
    for (int r = 0; r < R; ++r) {
        inverse[r] = softmax(scores + r * rows.padded_length(), rows.length, rows.padded_length());
    }
    for (int64_t first = 0; first < rows.width; first += kPanel) {
        const int64_t channels = rows.width - first < kPanel ? rows.width - first : kPanel;
        value_panel<R, kVectors>(lanes(channels), rows, scores, values + first * rows.length, inverse, channels,
                                 out + first);
    }
}

// Four numbers; the lower or upper halves of two of them interleaved.
typedef float Four __attribute__((vector_size(16)));
#if defined(__clang__)
inline Four lower(Four a, Four b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline Four upper(Four a, Four b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#else
typedef int32_t FourPlaces __attribute__((vector_size(16)));
inline Four lower(Four a, Four b) { return __builtin_shuffle(a, b, FourPlaces{0, 4, 1, 5}); }
inline Four upper(Four a, Four b) { return __builtin_shuffle(a, b, FourPlaces{2, 6, 3, 7}); }
#endif

// Turns `count` rows of `width` numbers into columns: target [width, wide].
inline void transpose(const float* source, int64_t stride, int64_t count, int64_t width, float* target,
                      int64_t wide) {
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
        const float* row = source + j * stride;
        int64_t d = 0;
        for (; d + 4 <= width; d += 4) {
            Four rows[4];
            for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], row + i * stride + d, sizeof(Four));
            const Four low = lower(rows[0], rows[2]), high = lower(rows[1], rows[3]);
            const Four more = upper(rows[0], rows[2]), most = upper(rows[1], rows[3]);
            const Four columns[4] = {lower(low, high), upper(low, high), lower(more, most), upper(more, most)};
            for (int i = 0; i < 4; ++i) std::memcpy(target + (d + i) * wide + j, &columns[i], sizeof(Four));
        }
        for (; d < width; ++d) {
            for (int i = 0; i < 4; ++i) target[d * wide + j + i] = row[i * stride + d];
        }
    }
    for (; j < count; ++j) {
        for (int64_t d = 0; d < width; ++d) target[d * wide + j] = source[j * stride + d];
    }
}

// The keys of a head [length, width] as panels of kPanel keys, the last one as wide as it must be:
// [length / kPanel, width, kPanel]. What is beyond the last key is 0.
inline void pack_keys(const FullRows& rows, const float* key, float* target) {
    for (int64_t first = 0; first < rows.length; first += kPanel) {
        const int64_t count = rows.length - first < kPanel ? rows.length - first : kPanel;
        const int64_t wide = lanes(count) * kLane;
        if (count < wide) {
            for (int64_t d = 0; d < rows.width; ++d) store(target + (d + 1) * wide - kLane, Lane{});
        }
        transpose(key + first * rows.qkv_stride, rows.qkv_stride, count, rows.width, target, wide);
        target += wide * rows.width;
    }
}

// The values of a head [length, width] as panels of kPanel channels: [width / kPanel, length, kPanel]. What is
// beyond the last channel is 0.
inline void pack_values(const FullRows& rows, const float* value, float* target) {
    for (int64_t first = 0; first < rows.width; first += kPanel) {
        const int64_t count = rows.width - first < kPanel ? rows.width - first : kPanel;
        const int64_t wide = lanes(count) * kLane;
        for (int64_t j = 0; j < rows.length; ++j, target += wide) {
            if (count < wide) store(target + wide - kLane, Lane{});
            copy(value + j * rows.qkv_stride + first, count, target);
        }
    }
}

// One head of one row. The scale of the scores is in the weights of the queries.
inline void attend_head(const FullRows& rows, const float* query, float* out, float* scratch) {
    float* keys = scratch;
    float* values = keys + rows.padded_length() * rows.width;
    float* scores = values + rows.length * rows.padded_width();
    pack_keys(rows, query + rows.dim, keys);
    pack_values(rows, query + 2 * rows.dim, values);
    for (int64_t i = 0; i < rows.length; i += kRows) {
        attend_queries<kRows>(rows.length - i, rows, query + i * rows.qkv_stride, keys, values, scores,
                              out + i * rows.out_stride);
    }
}

// Attention over the joints of every frame, or over the frames of every joint: qkv [B, T, J, 3, C] -> mixed
// [B, T, J, C], channels ordered (head, width). scratch(size) gives memory of the calling thread.
template <typename Scratch>
void full_attention(const StcNetwork& net, bool over_frames, int64_t batch, int64_t frames, const StcBuffers& b,
                    int threads, Scratch&& scratch) {
    const int64_t dim = net.dim;
    const int64_t between = over_frames ? net.joints : 1;  // tokens from one token of a row to the next
    const FullRows rows{over_frames ? frames : net.joints, dim / net.heads, between * 3 * dim, between * dim, dim};
    const int64_t count = over_frames ? batch * net.joints : batch * frames;
    parallel_for(0, count * net.heads, 1, threads, [&](int64_t begin, int64_t end) {
        float* memory = scratch(rows.scratch());
        for (int64_t unit = begin; unit < end; ++unit) {
            const int64_t row = unit / net.heads;
            const int64_t channel = unit % net.heads * rows.width;
            const int64_t token =
                over_frames ? row / net.joints * frames * net.joints + row % net.joints : row * net.joints;
            attend_head(rows, b.qkv + token * 3 * dim + channel, b.mixed + token * dim + channel, memory);
        }
    });
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
