// Releases Python's lock while a kernel runs.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace refiner {

// Does the work of py::gil_scoped_release, and waits for ever where the interpreter ends in the meantime. Up
// to 3.13 Python then ends a thread that asks for the lock, by unwinding its stack. No destructor may be left that
// way: the process would abort. Python 3.14 lets such a thread wait, too.
class LockReleased {
 public:
    LockReleased() : state_(PyEval_SaveThread()) {}

    LockReleased(const LockReleased&) = delete;
    LockReleased& operator=(const LockReleased&) = delete;

    ~LockReleased() {
#if defined(__GLIBCXX__)
        try {
            PyEval_RestoreThread(state_);
        } catch (abi::__forced_unwind&) {
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
#else
        PyEval_RestoreThread(state_);
#endif
    }

 private:
    PyThreadState* state_;
};

}  // namespace refiner
