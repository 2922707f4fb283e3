// A small persistent thread pool. No OpenMP: PyTorch brings its own runtime, and two of them fight over the cores.
#pragma once

#include <cstdint>
#include <functional>

namespace refiner {

// Threads that a call with `requested` threads uses: `requested` if positive, else REFINER_NUM_THREADS, else
// OMP_NUM_THREADS, else the processor's.
int thread_count(int requested);

// Runs body(first, last) over [begin, end) in pieces of at least `grain`, on up to `threads` threads (0: default),
// and returns when all are done. The first exception is rethrown here. Calls from inside a body run serially.
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
