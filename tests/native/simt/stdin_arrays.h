// Arrays between a test and a program on the emulated grid.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

template <typename T>
std::vector<T> read_array(int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    if (std::fread(values.data(), sizeof(T), values.size(), stdin) != values.size()) {
        std::fprintf(stderr, "the input ends early\n");
        std::exit(2);
    }
    return values;
}

inline void write_array(const float* values, int64_t count) {
    std::fwrite(values, sizeof(float), static_cast<size_t>(count), stdout);
}

// Memory of exactly this size, whose contents show a forgotten write.
template <typename T>
std::unique_ptr<T[]> poisoned(int64_t count, T value) {
    std::unique_ptr<T[]> memory(new T[static_cast<size_t>(count)]);
    for (int64_t i = 0; i < count; ++i) memory[static_cast<size_t>(i)] = value;
    return memory;
}
