// The thread pool: every item once, exceptions, calls from inside a body, callers at the same time, a fork.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>

#include "check.h"
#include "parallel.h"

namespace refiner::test {
namespace {

bool visits_all_once(int64_t begin, int64_t end, int64_t grain, int threads) {
    const auto visits = std::make_unique<std::atomic<int>[]>(static_cast<size_t>(end - begin + 1));
    parallel_for(begin, end, grain, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) ++visits[static_cast<size_t>(i - begin)];
    });
    for (int64_t i = 0; i < end - begin; ++i) {
        if (visits[static_cast<size_t>(i)] != 1) return false;
    }
    return visits[static_cast<size_t>(end - begin)] == 0;
}

}  // namespace

void test_pool() {
    for (const int threads : {1, 2, 3, 8}) {
        for (const int64_t items : {0, 1, 7, 64, 1001}) {
            for (const int64_t grain : {1, 8, 300}) {
                expect(std::to_string(items) + " items by " + std::to_string(grain) + " on " +
                           std::to_string(threads) + " threads",
                       visits_all_once(-3, items - 3, grain, threads));
            }
        }
        std::string caught;
        try {
            parallel_for(0, 100, 1, threads, [](int64_t first, int64_t last) {
                if (first <= 41 && 41 < last) throw std::runtime_error("item 41");
            });
        } catch (const std::runtime_error& error) {
            caught = error.what();
        }
        expect("the exception of a body on " + std::to_string(threads) + " threads", caught == "item 41");
        std::atomic<int64_t> inner{0};
        parallel_for(0, 8, 1, threads, [&](int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) {
                parallel_for(0, 10, 1, threads, [&](int64_t a, int64_t b) { inner += b - a; });
            }
        });
        expect("calls from inside on " + std::to_string(threads) + " threads", inner == 80);
    }
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&] {
            for (int turn = 0; turn < 20; ++turn) wrong += visits_all_once(0, 100, 3, 3) ? 0 : 1;
        });
    }
    for (std::thread& caller : callers) caller.join();
    expect("four callers at a time", wrong == 0);
}

void test_fork() {
    expect("before the fork", visits_all_once(0, 100, 1, 3));
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(visits_all_once(0, 100, 1, 3) ? 0 : 3);
    }
    int status = -1;
    expect("a forked child", child > 0 && waitpid(child, &status, 0) == child && status == 0);
    expect("its parent", visits_all_once(0, 100, 1, 3));
}

}  // namespace refiner::test
