#include "parallel.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace refiner {
namespace {

using Body = std::function<void(int64_t, int64_t)>;

int positive_from_environment(const char* name) {
    const char* text = std::getenv(name);
    if (text == nullptr) return 0;
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    return end != text && value > 0 && value <= 4096 ? static_cast<int>(value) : 0;
}

// One call of parallel_for: the pieces are handed out by an atomic counter, so a slow thread holds nobody up.
struct Work {
    const Body* body;
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
                (*body)(first, std::min(end, first + piece));
            } catch (...) {
                std::lock_guard<std::mutex> lock(error_mutex);
                if (!error) error = std::current_exception();
                next.store((end - begin) / piece + 1);
            }
        }
    }
};

thread_local bool inside_body = false;

class Pool {
 public:
    const pid_t owner = getpid();

    void run(Work& work, int threads) {
        // One call at a time has the workers; another Python thread waits for its turn.
        std::lock_guard<std::mutex> turn(turn_);
        const int workers = grow(threads - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work;
            wanted_ = workers;
            work.running = workers;
            ++generation_;
        }
        wake_.notify_all();
        inside_body = true;
        work.run();
        inside_body = false;
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [&] { return work.running == 0; });
        work_ = nullptr;
    }

 private:
    // The number of workers that there are, up to `workers`: fewer where the system refuses another thread, which
    // costs time and changes no result.
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
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_ != seen && work_ != nullptr && index < wanted_; });
                seen = generation_;
                work = work_;
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
    uint64_t generation_ = 0;
};

// The pool is never destroyed: its threads are detached and may outlive static destruction. A forked child has
// none of its parent's threads, so it starts a pool of its own. No mutex: one that another thread holds while the
// process forks would stay locked in the child for ever.
Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    Pool* found = current.load();
    if (found != nullptr && found->owner == getpid()) return *found;
    Pool* fresh = new Pool();
    if (current.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;  // another thread was first; no thread of this one has started
    return *found;
}

}  // namespace

int thread_count(int requested) {
    if (inside_body) return 1;
    if (requested > 0) return requested;
    for (const char* name : {"REFINER_NUM_THREADS", "OMP_NUM_THREADS"}) {
        const int value = positive_from_environment(name);
        if (value > 0) return value;
    }
    return std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for_impl(int64_t begin, int64_t end, int64_t grain, int threads, const Body& body) {
    const int64_t items = end - begin;
    const int64_t pieces = (items + grain - 1) / grain;
    const int count = static_cast<int>(std::min<int64_t>(thread_count(threads), pieces));
    // Small pieces: where a processor is taken away for a while, the other threads do not wait for its last one.
    Work work{&body, begin, end, std::max(grain, items / (int64_t{count} * 32))};
    pool().run(work, count);
    if (work.error) std::rethrow_exception(work.error);
}

}  // namespace refiner
