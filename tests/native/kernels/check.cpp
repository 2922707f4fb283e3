#include "check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace refiner::test {
namespace {

int64_t compared = 0;
int64_t failed = 0;

void count(const std::string& what, bool holds, const std::string& detail) {
    ++compared;
    if (holds) return;
    ++failed;
    std::printf("  FAILED %s: %s\n", what.c_str(), detail.c_str());
}

template <typename Real>
void compare(const std::string& what, const std::vector<Real>& found, const std::vector<double>& expected,
             double absolute, double relative) {
    if (found.size() != expected.size()) {
        count(what, false, "there are " + std::to_string(found.size()) + " numbers");
        return;
    }
    double largest = 0.0, worst = 0.0;
    size_t at = 0;
    int64_t lone = 0, nans = 0;
    for (size_t i = 0; i < found.size(); ++i) {
        const double x = static_cast<double>(found[i]), y = expected[i];
        nans += std::isnan(y) ? 1 : 0;
        if (std::isnan(x) || std::isnan(y)) {
            lone += std::isnan(x) != std::isnan(y) ? 1 : 0;
            continue;
        }
        largest = std::max(largest, std::fabs(y));
        const double excess = std::fabs(x - y) - relative * std::fabs(y);
        if (!(excess <= worst)) worst = excess, at = i;
    }
    const bool something = largest > 0.0 || nans > 0;
    char detail[256];
    std::snprintf(detail, sizeof(detail),
                  "number %zu of %zu is %.9g, expected %.9g (bound %.3g + %.3g of it); NaN in one only: %lld%s",
                  at, found.size(), found.empty() ? 0.0 : static_cast<double>(found[at]),
                  expected.empty() ? 0.0 : expected[at], absolute, relative, static_cast<long long>(lone),
                  something ? "" : "; the reference is zero");
    count(what, something && lone == 0 && worst <= absolute, detail);
}

template <typename Real>
void compare_bits(const std::string& what, const std::vector<Real>& found, const std::vector<Real>& expected) {
    const bool equal = found.size() == expected.size() && !found.empty() &&
                       std::memcmp(found.data(), expected.data(), found.size() * sizeof(Real)) == 0;
    count(what, equal, "other bits");
}

}  // namespace

uint64_t Random::bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double Random::uniform() { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; }

double Random::normal() {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
}

std::vector<double> Random::normals(int64_t count, double deviation) {
    std::vector<double> values(static_cast<size_t>(count));
    for (double& value : values) value = deviation * normal();
    return values;
}

std::vector<float> Random::floats(int64_t count, double deviation) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = static_cast<float>(deviation * normal());
    return values;
}

std::vector<double> wide(const std::vector<float>& values) { return {values.begin(), values.end()}; }

void close(const std::string& what, const std::vector<float>& found, const std::vector<double>& expected,
           double absolute, double relative) {
    compare(what, found, expected, absolute, relative);
}

void close(const std::string& what, const std::vector<double>& found, const std::vector<double>& expected,
           double absolute, double relative) {
    compare(what, found, expected, absolute, relative);
}

void same(const std::string& what, const std::vector<float>& found, const std::vector<float>& expected) {
    compare_bits(what, found, expected);
}

void same(const std::string& what, const std::vector<double>& found, const std::vector<double>& expected) {
    compare_bits(what, found, expected);
}

void expect(const std::string& what, bool holds) { count(what, holds, "does not hold"); }

int run_groups(const std::vector<Group>& groups, const std::vector<std::string>& names) {
    int64_t total = 0;
    bool good = true;
    for (const std::string& name : names) {
        const auto known = [&](const Group& group) { return name == group.name; };
        if (std::none_of(groups.begin(), groups.end(), known)) {
            std::printf("there is no group %s\n", name.c_str());
            return 2;
        }
    }
    for (const Group& group : groups) {
        if (!names.empty() && std::find(names.begin(), names.end(), group.name) == names.end()) continue;
        compared = failed = 0;
        group.run();
        std::printf("%s: %lld comparisons, %lld failed\n", group.name, static_cast<long long>(compared),
                    static_cast<long long>(failed));
        std::fflush(stdout);
        good = good && compared > 0 && failed == 0;
        total += compared;
    }
    std::printf("%lld comparisons, %s\n", static_cast<long long>(total), good && total > 0 ? "passed" : "FAILED");
    return good && total > 0 ? 0 : 1;
}

}  // namespace refiner::test
