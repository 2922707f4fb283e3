// What the tests of the kernels share: random numbers by seed, and comparisons that are counted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace refiner::test {

// Random numbers of SplitMix64, so that every machine draws the same.
class Random {
 public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits();
    double uniform();  // in (0, 1)
    double normal();
    std::vector<double> normals(int64_t count, double deviation = 1.0);
    // Standard normal numbers, rounded to float32.
    std::vector<float> floats(int64_t count, double deviation = 1.0);

 private:
    uint64_t state_;
};

std::vector<double> wide(const std::vector<float>& values);

// Counts one comparison of the group. It fails where a number differs from its reference by more than
// `absolute + relative |reference|`, where NaN stands in one of the two only, or where no reference is different
// from zero: such a comparison would show nothing.
void close(const std::string& what, const std::vector<float>& found, const std::vector<double>& expected,
           double absolute, double relative = 0.0);
void close(const std::string& what, const std::vector<double>& found, const std::vector<double>& expected,
           double absolute, double relative = 0.0);
// The same bits, NaN included.
void same(const std::string& what, const std::vector<float>& found, const std::vector<float>& expected);
void same(const std::string& what, const std::vector<double>& found, const std::vector<double>& expected);
void expect(const std::string& what, bool holds);

struct Group {
    const char* name;
    void (*run)();
};

// Runs the groups whose names are given (all for none) and prints what each compared. Returns the exit status: 0
// if every group that ran compared something and nothing failed.
int run_groups(const std::vector<Group>& groups, const std::vector<std::string>& names);

void test_numbers();
void test_products();
void test_bfloat16_products();
void test_procrustes();
void test_sampling();
void test_attention();
void test_attention_gradients();
void test_windows();
void test_frames();
void test_mixste();
void test_bfloat16_networks();
void test_pool();
void test_fork();

}  // namespace refiner::test
