// The products of this processor, in float32 and bfloat16, with what follows a product.
#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "products.h"
#include "reference.h"

namespace refiner::test {
namespace {

// Numbers of an operand or a weight, in bytes; and back.
std::vector<char> operand_of(const Products& products, const std::vector<float>& x, int64_t rows, int64_t inputs) {
    const int64_t room = (rows + products.rows - 1) / products.rows * products.rows;
    std::vector<char> scratch(static_cast<size_t>(room * products.filled(inputs) * products.bytes));
    const void* made = products.operand(x.data(), rows, inputs, scratch.data());
    if (made != scratch.data()) std::memcpy(scratch.data(), made, x.size() * sizeof(float));
    return scratch;
}

double number(const Products& products, const std::vector<char>& from, int64_t at) {
    if (products.precision == Precision::kFloat32) {
        float value;
        std::memcpy(&value, from.data() + at * 4, 4);
        return static_cast<double>(value);
    }
    uint16_t half;
    std::memcpy(&half, from.data() + at * 2, 2);
    return bfloat16_value(half);
}

void check_product(const Products& products, Random& random, End end, int64_t rows, int64_t inputs,
                   int64_t outputs, bool with_bias, bool broken) {
    const bool narrow = products.precision == Precision::kBfloat16;
    std::vector<float> x = random.floats(rows * inputs), bias = random.floats(outputs);
    if (broken) x[static_cast<size_t>((rows - 1) * inputs)] = std::nanf("");
    const std::vector<float> weight =
        random.floats(outputs * inputs, 1.0 / std::sqrt(static_cast<double>(inputs)));
    std::vector<char> packed(static_cast<size_t>(products.packed_bytes(outputs, inputs)));
    products.pack(weight.data(), outputs, inputs, packed.data());
    const PackedLinear linear{inputs, outputs, packed.data()};
    const std::vector<char> operand = operand_of(products, x, rows, inputs);
    const int64_t stride = products.filled(outputs) + 2 * products.depth;
    const bool rounded = narrow && end == End::kGelu;  // the operand of the next product
    const std::vector<float> before = random.floats(rows * stride);
    std::vector<char> out(before.size() * sizeof(float));
    std::memcpy(out.data(), before.data(), out.size());
    products.multiply(end, {operand.data(), rows, products.filled(inputs), linear, 0, inputs, 0, outputs,
                            with_bias ? bias.data() : nullptr, out.data(), stride});
    std::vector<double> found;
    Doubles expected;
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < outputs; ++c) {
            double sum = with_bias ? static_cast<double>(bias[static_cast<size_t>(c)]) : 0.0;
            for (int64_t k = 0; k < inputs; ++k) {
                const float a = x[static_cast<size_t>(r * inputs + k)];
                const float b = weight[static_cast<size_t>(c * inputs + k)];
                sum += narrow ? bfloat16_value(bfloat16_of(a)) * bfloat16_value(bfloat16_of(b))
                              : static_cast<double>(a) * static_cast<double>(b);
            }
            if (end == End::kAdd) sum += static_cast<double>(before[static_cast<size_t>(r * stride + c)]);
            expected.push_back(end == End::kGelu ? expected_gelu(sum) : sum);
            if (rounded) {
                found.push_back(number(products, out, r * stride + c));
            } else {
                float value;
                std::memcpy(&value, out.data() + (r * stride + c) * 4, 4);
                found.push_back(static_cast<double>(value));
            }
        }
    }
    const std::string what =
        std::to_string(rows) + " x " + std::to_string(inputs) + " x " + std::to_string(outputs);
    // Rounding a result to bfloat16 changes it by up to 2^-8 of it.
    close(what + (end == End::kAdd    ? ", added"
                  : end == End::kGelu ? ", GELU"
                                      : ""),
          found, expected, 3e-6, rounded ? 0x1.02p-8 : 1e-6);
    // Nothing is written behind the outputs, but for the zeros that fill up an operand.
    const int64_t written = rounded ? products.filled(outputs) : outputs;
    const int64_t bytes = rounded ? 2 : 4;
    bool kept = true;
    for (int64_t r = 0; r < rows; ++r) {
        const auto from = static_cast<size_t>((r * stride + written) * bytes);
        const auto size = static_cast<size_t>((stride - written) * bytes);
        kept =
            kept && std::memcmp(out.data() + from, reinterpret_cast<const char*>(before.data()) + from, size) == 0;
        // In a row with NaN they are NaN, which changes nothing: the row is NaN.
        for (int64_t c = outputs; rounded && !broken && c < written; ++c)
            kept = kept && number(products, out, r * stride + c) == 0;
    }
    expect("what lies behind the outputs, " + what, kept);
}

// A part of the inputs and outputs of a weight matrix gives what the same part of a matrix of its own does.
void check_parts(const Products& products, Random& random) {
    const int64_t inputs = 192, outputs = 3 * products.panel + 5, rows = 7, dim = 64;
    const int64_t first = 128, column = products.panel, count = outputs - column;
    const std::vector<float> weight = random.floats(outputs * inputs), x = random.floats(rows * dim);
    std::vector<float> part;
    for (int64_t o = column; o < outputs; ++o) {
        const auto from = weight.begin() + o * inputs + first;
        part.insert(part.end(), from, from + dim);
    }
    std::vector<char> whole_packed(static_cast<size_t>(products.packed_bytes(outputs, inputs)));
    std::vector<char> part_packed(static_cast<size_t>(products.packed_bytes(count, dim)));
    products.pack(weight.data(), outputs, inputs, whole_packed.data());
    products.pack(part.data(), count, dim, part_packed.data());
    const PackedLinear whole{inputs, outputs, whole_packed.data()}, own{dim, count, part_packed.data()};
    const std::vector<char> operand = operand_of(products, x, rows, dim);
    std::vector<float> found(static_cast<size_t>(rows * count)), expected(found.size());
    products.multiply(End::kStore,
                      {operand.data(), rows, dim, whole, first, dim, column, count, nullptr, found.data(), count});
    products.multiply(End::kStore,
                      {operand.data(), rows, dim, own, 0, dim, 0, count, nullptr, expected.data(), count});
    same("a part of a weight matrix", found, expected);
}

void check_normalise(const Products& products, Random& random, int64_t rows, int64_t dim) {
    const std::vector<float> x = random.floats(rows * dim, 3.0);
    const int64_t room = (rows + products.rows - 1) / products.rows * products.rows, stride = products.filled(dim);
    std::vector<char> out(static_cast<size_t>(room * stride * products.bytes));
    products.normalise(x.data(), rows, dim, 1e-5f, out.data());
    std::vector<double> found;
    for (int64_t i = 0; i < rows * dim; ++i) found.push_back(number(products, out, i / dim * stride + i % dim));
    close("layer norm of " + std::to_string(dim), found, expected_norm(wide(x), dim, 1e-5), 2e-6,
          products.precision == Precision::kBfloat16 ? 0x1.02p-8 : 1e-6);
}

void check_products(const Products& products, uint64_t seed) {
    Random random(seed);
    products.enter();
    for (int64_t rows = 1; rows <= 13; ++rows) {
        check_product(products, random, End::kStore, rows, 5 + rows, products.panel, rows % 2 == 0, rows == 7);
        check_product(products, random, End::kGelu, rows, 64, products.panel + 3, true, rows == 8);
        check_product(products, random, End::kAdd, rows, 3, 2 * products.panel - 1, rows % 2 == 1, rows == 2);
    }
    for (int64_t inputs = 1; inputs <= 19; ++inputs) {
        check_product(products, random, End::kStore, 6, inputs, products.panel, true, false);
        check_product(products, random, End::kAdd, 7, inputs, inputs, true, false);
        check_normalise(products, random, 3, 4 * inputs + inputs % 3);
    }
    check_product(products, random, End::kGelu, 48, 128, 128, true, false);
    check_product(products, random, End::kAdd, 17, 96, 288, true, false);
    check_parts(products, random);
    products.leave();
}

}  // namespace

void test_products() { check_products(*select_products(Precision::kFloat32), 20267); }

void test_bfloat16_products() {
    const Products* products = select_products(Precision::kBfloat16);
    if (products != nullptr) check_products(*products, 20269);  // a group without a comparison does not pass
}

}  // namespace refiner::test
