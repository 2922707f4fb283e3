#include "parallel.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace refiner {
namespace {

int positive_from_environment(const char* name) {
    const char* text = std::getenv(name);
    if (text == nullptr) return 0;
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    return end != text && value > 0 && value <= 4096 ? static_cast<int>(value) : 0;
}

// One call of parallel_for. An atomic counter hands out the pieces, so that a slow thread does not delay the
// others.
struct Work {
    const void* body;
    Piece call;
    int64_t begin, end, piece;
    std::atomic<int64_t> next{0};
    std::atomic<int> running{0};
    std::mutex error_mutex;
    std::exception_ptr error;

    void run() {
        for (;;) {
            const int64_t first = begin + next.fetch_add(1) * piece;
            if (first >= end) return;
            try {
                call(body, first, std::min(end, first + piece));
            } catch (...) {
                std::lock_guard<std::mutex> lock(error_mutex);
                if (!error) error = std::current_exception();
                next.store((end - begin) / piece + 1);
            }
        }
    }
};

thread_local bool inside_body = false;

// A thread that has nothing to do looks for so long before it sleeps: the calls of a network follow each other
// within microseconds, and to wake a thread takes tens of them.
constexpr std::chrono::microseconds kLook{50};

template <typename Condition>
void look_for(Condition&& condition) {
    const auto end = std::chrono::steady_clock::now() + kLook;
    do {
        for (int i = 0; i < 16; ++i) {
            if (condition()) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        }
    } while (std::chrono::steady_clock::now() < end);
}

class Pool {
 public:
    const pid_t owner = getpid();

    void run(Work& work, int threads) {
        // Only one call at a time uses the workers. A call from another Python thread waits.
        std::lock_guard<std::mutex> turn(turn_);
        const int workers = grow(threads - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work;
            wanted_ = workers;
            ++generation_;
        }
        wake_.notify_all();
        inside_body = true;
        work.run();
        inside_body = false;
        std::unique_lock<std::mutex> lock(mutex_);
        // All pieces are handed out. A worker that has not begun is not waited for: it may have no processor.
        work_ = nullptr;
        if (work.running > 0) {
            lock.unlock();
            look_for([&] { return work.running == 0; });
            lock.lock();
        }
        done_.wait(lock, [&] { return work.running == 0; });
    }

 private:
    // Starts threads until there are `workers` of them; returns the number of usable workers. There are fewer if
    // the system refuses another thread. This costs time, but does not change results.
    int grow(int workers) {
        while (count_ < workers) {
            try {
                std::thread([this, index = count_] { loop(index); }).detach();
            } catch (const std::system_error&) {
                return count_;
            }
            ++count_;
        }
        return workers;
    }

    void loop(int index) {
        inside_body = true;
        uint64_t seen = 0;
        for (;;) {
            Work* work = nullptr;
            look_for([&] { return generation_ != seen; });
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_ != seen && work_ != nullptr && index < wanted_; });
                seen = generation_;
                work = work_;
                ++work->running;
            }
            work->run();
            std::lock_guard<std::mutex> lock(mutex_);
            if (--work->running == 0) done_.notify_all();
        }
    }

    std::mutex turn_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    Work* work_ = nullptr;
    int wanted_ = 0;
    int count_ = 0;
    std::atomic<uint64_t> generation_{0};
};

// The pool is never destroyed, because its threads are detached and may run longer than static destruction. A
// forked child has none of its parent's threads, so that it starts its own pool. This function uses no mutex: if
// another thread held it while the process forks, it would stay locked in the child for ever.
Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    Pool* found = current.load();
    if (found != nullptr && found->owner == getpid()) return *found;
    Pool* fresh = new Pool();
    if (current.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;  // another thread was faster; this pool has started no thread
    return *found;
}

}  // namespace

void out_of_memory() { throw std::bad_alloc(); }

int thread_count(int requested) {
    if (inside_body) return 1;
    if (requested > 0) return requested;
    for (const char* name : {"REFINER_NUM_THREADS", "OMP_NUM_THREADS"}) {
        const int value = positive_from_environment(name);
        if (value > 0) return value;
    }
    return std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for_impl(int64_t begin, int64_t end, int64_t grain, int threads, const void* body, Piece call) {
    const int64_t items = end - begin;
    const int64_t pieces = (items + grain - 1) / grain;
    const int count = static_cast<int>(std::min<int64_t>(thread_count(threads), pieces));
    // Pieces are small, so that the other threads wait only briefly if the system takes a processor away from one.
    Work work{body, call, begin, end, std::max(grain, items / (int64_t{count} * 32))};
    pool().run(work, count);
    if (work.error) std::rethrow_exception(work.error);
}

}  // namespace refiner
