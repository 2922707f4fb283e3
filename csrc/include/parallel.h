// A small persistent thread pool. It does not use OpenMP: PyTorch has its own OpenMP runtime, and two runtimes
// would compete for the cores.
#pragma once

#include <cstdint>
#include <functional>

namespace refiner {

// The number of threads of a call: `requested` if it is positive, else REFINER_NUM_THREADS, else OMP_NUM_THREADS,
// else the number of threads of the processor.
int thread_count(int requested);

// Runs body(first, last) for pieces of [begin, end) with at least `grain` items, on up to `threads` threads (0 for
// the default). Returns when all pieces are done, and rethrows the first exception. A call from inside a body runs
// serially.
void parallel_for_impl(int64_t begin, int64_t end, int64_t grain, int threads,
                       const std::function<void(int64_t, int64_t)>& body);

template <typename Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, int threads, Body&& body) {
    if (end <= begin) return;
    if (end - begin <= grain || thread_count(threads) == 1) {
        body(begin, end);
        return;
    }
    parallel_for_impl(begin, end, grain, threads, body);
}

}  // namespace refiner
