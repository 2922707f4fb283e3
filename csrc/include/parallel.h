// A small persistent thread pool. It does not use OpenMP: PyTorch has its own OpenMP runtime, and two runtimes
// would compete for the cores.
#pragma once

#include <cstdint>
#include <type_traits>

namespace refiner {

// The number of threads of a call: `requested` if it is positive, else REFINER_NUM_THREADS, else OMP_NUM_THREADS,
// else the number of threads of the processor.
int thread_count(int requested);

// Runs body(first, last) for pieces of [begin, end) with at least `grain` items, on up to `threads` threads (0 for
// the default). Returns when all pieces are done, and rethrows the first exception. A call from inside a body runs
// serially.
using Piece = void (*)(const void* body, int64_t first, int64_t last);
void parallel_for_impl(int64_t begin, int64_t end, int64_t grain, int threads, const void* body, Piece call);

template <typename Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, int threads, Body&& body) {
    if (end <= begin) return;
    if (end - begin <= grain || thread_count(threads) == 1) {
        body(begin, end);
        return;
    }
    // A plain pointer, since files that are compiled for several instruction sets may not use std::function.
    parallel_for_impl(begin, end, grain, threads, &body, [](const void* of, int64_t first, int64_t last) {
        (*static_cast<const std::remove_reference_t<Body>*>(of))(first, last);
    });
}

// Throws std::bad_alloc; for files that may use no inline function of the standard library.
[[noreturn]] void out_of_memory();

}  // namespace refiner
