// exp and GELU of the kernels, each alone. This file is compiled for the baseline only.
#define REFINER_ISA_NAMESPACE isa_numbers

#include <cmath>
#include <limits>

#include "check.h"
#include "gemm.h"
#include "reference.h"
#include "stc_rows.h"

namespace refiner::isa_numbers {
namespace {

std::vector<float> applied(Lane (*function)(Lane), const std::vector<float>& from) {
    std::vector<float> to(from.size());
    for (size_t i = 0; i + kLane <= from.size(); i += kLane) store(to.data() + i, function(load(from.data() + i)));
    return to;
}

template <int H>
std::vector<float> exponentials(const std::vector<float>& from) {
    std::vector<float> to(from.size());
    using V = Vector<H>;
    for (size_t i = 0; i + H <= from.size(); i += H) V::store(to.data() + i, V::exp(V::load(from.data() + i)));
    return to;
}

}  // namespace
}  // namespace refiner::isa_numbers

namespace refiner::test {

using namespace isa_numbers;

void test_numbers() {
    std::vector<float> x;
    for (int i = 0; i <= 80000; ++i) x.push_back(static_cast<float>(i) * 2e-4f - 8.0f);
    for (const float value : {1e-30f, -1e-30f, 1e30f, -1e30f, 3.0e38f}) x.push_back(value);
    while (x.size() % 16 != 0) x.push_back(1.0f);
    Doubles expected;
    for (const float value : x) expected.push_back(expected_gelu(static_cast<double>(value)));
    close("GELU", applied(gelu, x), expected, 6e-7, 1e-7);
    // Denormal numbers are not taken for zero. Their last digit is 1.4e-45.
    const std::vector<float> denormal(16, 1.0e-40f);
    close("GELU of a denormal number", applied(gelu, denormal), Doubles(16, 0.5e-40), 3e-45);
    const float nan = std::nanf("");
    const std::vector<float> odd(16, nan);
    close("GELU of NaN", applied(gelu, odd), Doubles(16, static_cast<double>(nan)), 0.0);

    std::vector<float> y;
    for (int i = 0; i < 87 * 1000; ++i) y.push_back(static_cast<float>(i) * -1e-3f);
    for (const float value : {-1e-40f, 0.0f, -1e-30f, -1e-7f}) y.push_back(value);
    while (y.size() % 16 != 0) y.push_back(-1.0f);
    Doubles powers;
    for (const float value : y) powers.push_back(std::exp(static_cast<double>(value)));
    close("exp of 2 heads", exponentials<2>(y), powers, 0.0, 2e-7);
    close("exp of 4 heads", exponentials<4>(y), powers, 0.0, 2e-7);
    close("exp of 8 heads", exponentials<8>(y), powers, 0.0, 2e-7);
    close("exp of 16 heads", exponentials<16>(y), powers, 0.0, 2e-7);
    const std::vector<float> far(16, -std::numeric_limits<float>::infinity());
    close("exp far below", exponentials<4>(far), Doubles(16, 1.6e-38), 1e-38);
    close("exp of NaN", exponentials<4>(odd), Doubles(16, static_cast<double>(nan)), 0.0);
}

}  // namespace refiner::test
