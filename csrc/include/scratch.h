// Memory that a thread keeps between calls: after the first call of a size nothing is allocated. Included by files
// that are compiled once for every instruction set; everything is in their namespace.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "parallel.h"

namespace refiner::REFINER_ISA_NAMESPACE {
namespace {

struct Kept {
    float* data = nullptr;
    int64_t size = 0;
    ~Kept() { std::free(data); }
    float* at_least(int64_t wanted) {
        if (wanted > size) {
            std::free(data);
            data = nullptr;
            size = 0;
            data = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((wanted * 4 + 63) / 64 * 64)));
            if (data == nullptr) out_of_memory();
            size = wanted;
        }
        return data;
    }
};

// The calling thread's scratch of this file. A later call of the same thread gives the same memory again.
inline float* scratch_of(int64_t size) {
    thread_local Kept kept;
    return kept.at_least(size);
}

}  // namespace
}  // namespace refiner::REFINER_ISA_NAMESPACE
