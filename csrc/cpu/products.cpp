// The products of networks (see products.h). This file is compiled once for every instruction set, each time into
// another namespace, REFINER_ISA_NAMESPACE.

#include "products.h"

#include "gemm.h"
#include "product_tables.h"
#if defined(REFINER_AMX)
#include "amx_tiles.h"
#endif

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

// The number `value` in the form of a weight.
inline void put_weight(float value, float* target) { *target = value; }
inline void put_weight(float value, uint16_t* target) { *target = rounded(value); }

template <typename Number, int64_t kGroup>
void pack_panels(const float* weight, int64_t outputs, int64_t inputs, int64_t filled, Number* target) {
    for (int64_t first = 0; first < outputs; first += kPanel) {
        for (int64_t k = 0; k < filled; k += kGroup) {
            for (int64_t c = 0; c < kPanel; ++c) {
                for (int64_t i = 0; i < kGroup; ++i) {
                    const bool inside = first + c < outputs && k + i < inputs;
                    put_weight(inside ? weight[(first + c) * inputs + k + i] : 0.0f, target++);
                }
            }
        }
    }
}

// Stores `count` numbers, which are fewer than a register holds, as a part of an operand.
inline void store_some(float* target, Lane lane, int64_t count) {
    std::memcpy(target, &lane, static_cast<size_t>(count) * sizeof(float));
}
inline void store_some(uint16_t* target, Lane lane, int64_t count) {
    const Halves halves = rounded(lane);
    std::memcpy(target, &halves, static_cast<size_t>(count) * sizeof(uint16_t));
}
inline void store_all(float* target, Lane lane) { store(target, lane); }
inline void store_all(uint16_t* target, Lane lane) { store_operand(reinterpret_cast<Narrow*>(target), lane); }

inline Lane load_some(const float* source, int64_t count) {
    Lane lane{};
    std::memcpy(&lane, source, static_cast<size_t>(count) * sizeof(float));
    return lane;
}

template <typename Number>
void normalise_rows(const float* x, int64_t rows, int64_t dim, float epsilon, int64_t filled, Number* out) {
    const int64_t whole = dim / kLane * kLane;
    const int64_t rest = dim - whole;
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * dim;
        Number* target = out + r * filled;
        Lane sums = load_some(row + whole, rest);
        for (int64_t c = 0; c < whole; c += kLane) sums += load(row + c);
        const float mean = total(sums) / static_cast<float>(dim);
        Lane squares{};
        for (int64_t c = 0; c < whole; c += kLane) {
            const Lane distance = load(row + c) - mean;
            squares += distance * distance;
        }
        float square = total(squares);
        for (int64_t c = whole; c < dim; ++c) square += (row[c] - mean) * (row[c] - mean);
        const float scale = 1.0f / __builtin_sqrtf(square / static_cast<float>(dim) + epsilon);
        for (int64_t c = 0; c < whole; c += kLane) store_all(target + c, (load(row + c) - mean) * scale);
        if (rest > 0) store_some(target + whole, (load_some(row + whole, rest) - mean) * scale, rest);
        for (int64_t c = dim; c < filled; ++c) target[c] = 0;
    }
}

void nothing() {}

void pack_float32(const float* weight, int64_t outputs, int64_t inputs, void* target) {
    pack_panels<float, 1>(weight, outputs, inputs, inputs, static_cast<float*>(target));
}

const void* same_rows(const float* x, int64_t, int64_t, void*) { return x; }

void normalise_float32(const float* x, int64_t rows, int64_t dim, float epsilon, void* out) {
    normalise_rows(x, rows, dim, epsilon, dim, static_cast<float*>(out));
}

void multiply_float32(End end, const Product& p) {
    if (end == End::kStore) return multiply<End::kStore, float>(p);
    if (end == End::kGelu) return multiply<End::kGelu, float>(p);
    multiply<End::kAdd, float>(p);
}

#if defined(REFINER_AMX)
constexpr int64_t kDepth = kTileInputs, kOperandRows = 2 * kTileRows;
#else
constexpr int64_t kDepth = kInputs<Narrow>, kOperandRows = kRows;
#endif

int64_t filled(int64_t inputs) { return (inputs + kDepth - 1) / kDepth * kDepth; }

void pack_bfloat16(const float* weight, int64_t outputs, int64_t inputs, void* target) {
    pack_panels<uint16_t, kInputs<Narrow>>(weight, outputs, inputs, filled(inputs),
                                           static_cast<uint16_t*>(target));
}

const void* rounded_rows(const float* x, int64_t rows, int64_t inputs, void* scratch) {
    const int64_t whole = inputs / kLane * kLane;
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * inputs;
        auto* target = static_cast<uint16_t*>(scratch) + r * filled(inputs);
        for (int64_t c = 0; c < whole; c += kLane) store_all(target + c, load(row + c));
        if (whole < inputs) store_some(target + whole, load_some(row + whole, inputs - whole), inputs - whole);
        for (int64_t c = inputs; c < filled(inputs); ++c) target[c] = 0;
    }
    return scratch;
}

void normalise_bfloat16(const float* x, int64_t rows, int64_t dim, float epsilon, void* out) {
    normalise_rows(x, rows, dim, epsilon, filled(dim), static_cast<uint16_t*>(out));
}

void multiply_bfloat16(End end, const Product& p) {
#if defined(REFINER_AMX)
    if (end == End::kStore) return multiply_tiles<End::kStore>(p);
    if (end == End::kGelu) return multiply_tiles<End::kGelu>(p);
    multiply_tiles<End::kAdd>(p);
#else
    if (end == End::kStore) return multiply<End::kStore, Narrow>(p);
    if (end == End::kGelu) return multiply<End::kGelu, Narrow>(p);
    multiply<End::kAdd, Narrow>(p);
#endif
}

}  // namespace

Products float32_products() {
    return {Precision::kFloat32, "float32",         kPanel,           1,       kRows,  sizeof(float), pack_float32,
            same_rows,           normalise_float32, multiply_float32, nothing, nothing};
}

Products bfloat16_products() {
#if defined(REFINER_AMX)
    constexpr const char* kName = "AMX";
    void (*const begin)() = configure_tiles;
    void (*const end)() = release_tiles;
#else
    void (*const begin)() = nothing;
    void (*const end)() = nothing;
#if defined(__AVX512BF16__)
    constexpr const char* kName = "AVX-512-BF16";
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    constexpr const char* kName = "BFMMLA";
#else
    constexpr const char* kName = "portable";
#endif
#endif
    return {Precision::kBfloat16,
            kName,
            kPanel,
            kDepth,
            kOperandRows,
            sizeof(uint16_t),
            pack_bfloat16,
            rounded_rows,
            normalise_bfloat16,
            multiply_bfloat16,
            begin,
            end};
}

}  // namespace refiner::REFINER_ISA_NAMESPACE
