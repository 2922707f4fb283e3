// The threads of a CUDA grid on the host: every thread is a fiber, and a barrier lets other fibers run. The order
// of the fibers between two barriers is random, so that a missing barrier gives wrong results. A barrier that not
// all of its threads reach ends the program, and so does a product of a warp whose lanes do not take part
// together.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "half.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define REFINER_DEVICE inline
#define REFINER_UNROLL(count) static_assert((count) > 0, "a loop has turns");

namespace refiner::simt {

constexpr int kLanes = 32;
constexpr size_t kStack = 256 * 1024;

// What the lanes of a warp do together.
enum class Together { kNothing, kBarrier, kSum, kProduct };

struct Operands {
    float* sum;
    const uint32_t* a;
    uint32_t b0, b1;
};

struct Group {
    int size = 0;
    int arrived = 0;
    Together kind = Together::kNothing;
    std::vector<int> waiting;
    Operands operands[kLanes];
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool ready = true;
    bool done = false;
};

struct Grid {
    int64_t blocks = 0;
    int threads = 0;
    std::vector<Fiber> fibers;
    std::vector<Group> warps, teams;
    Group all;
    ucontext_t scheduler;
    int current = -1;
    std::function<void()> body;
};

inline Grid* grid = nullptr;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulated grid: %s\n", what);
    std::abort();
}

#if defined(__SANITIZE_ADDRESS__)
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_size = 0;
#endif

// From a fiber to the scheduler.
inline void leave(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fake, scheduler_stack, scheduler_size);
#endif
    swapcontext(&fiber.context, &grid->scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_size);
#endif
}

inline void start() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
    grid->body();
    Fiber& fiber = grid->fibers[static_cast<size_t>(grid->current)];
    fiber.done = true;
    leave(fiber);
}

inline void prepare(Fiber& fiber) {
    fiber.stack = std::make_unique<char[]>(kStack);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
}

inline int thread() { return grid->current % grid->threads; }
inline int threads() { return grid->threads; }
inline int64_t block() { return grid->current / grid->threads; }
inline int64_t blocks() { return grid->blocks; }

// Waits for all of a group; the last one acts for all.
inline void meet(Group& group, Together kind, void (*act)(Group&)) {
    if (group.arrived > 0 && group.kind != kind) fail("the threads of a group do different things");
    group.kind = kind;
    group.waiting.push_back(grid->current);
    if (++group.arrived == group.size) {
        if (act != nullptr) act(group);
        for (int number : group.waiting) grid->fibers[static_cast<size_t>(number)].ready = true;
        group.waiting.clear();
        group.arrived = 0;
    } else {
        Fiber& fiber = grid->fibers[static_cast<size_t>(grid->current)];
        fiber.ready = false;
        leave(fiber);
    }
}

inline Group& warp() { return grid->warps[static_cast<size_t>(grid->current / kLanes)]; }
inline void warp_barrier() { meet(warp(), Together::kBarrier, nullptr); }
inline void block_barrier() { meet(grid->teams[static_cast<size_t>(block())], Together::kBarrier, nullptr); }
inline void grid_barrier() { meet(grid->all, Together::kBarrier, nullptr); }

inline float warp_sum(float value) {
    Group& group = warp();
    group.operands[grid->current % kLanes].sum = &value;
    meet(group, Together::kSum, [](Group& g) {
        for (int distance = kLanes / 2; distance > 0; distance /= 2) {
            float next[kLanes];
            for (int lane = 0; lane < kLanes; ++lane) {
                next[lane] = *g.operands[lane].sum + *g.operands[lane ^ distance].sum;
            }
            for (int lane = 0; lane < kLanes; ++lane) *g.operands[lane].sum = next[lane];
        }
    });
    return value;
}

inline float half_of(uint32_t word, int which) { return from_half(static_cast<uint16_t>(word >> (16 * which))); }

inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Group& group = warp();
    group.operands[grid->current % kLanes] = {sum, a, b0, b1};
    meet(group, Together::kProduct, [](Group& g) {
        float left[16][16], right[16][8];
        for (int lane = 0; lane < kLanes; ++lane) {
            const int row = lane / 4, column = lane % 4 * 2;
            const Operands& own = g.operands[lane];
            for (int i = 0; i < 2; ++i) {
                left[row][column + i] = half_of(own.a[0], i);
                left[row + 8][column + i] = half_of(own.a[1], i);
                left[row][column + 8 + i] = half_of(own.a[2], i);
                left[row + 8][column + 8 + i] = half_of(own.a[3], i);
                right[column + i][row] = half_of(own.b0, i);
                right[column + 8 + i][row] = half_of(own.b1, i);
            }
        }
        for (int lane = 0; lane < kLanes; ++lane) {
            for (int i = 0; i < 4; ++i) {
                const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
                for (int k = 0; k < 16; ++k) g.operands[lane].sum[i] += left[row][k] * right[k][column];
            }
        }
    });
}

inline uint32_t to_halves(float first, float second) {
    return half_bits(first) | static_cast<uint32_t>(half_bits(second)) << 16;
}
inline void from_halves(uint32_t word, float& first, float& second) {
    first = half_of(word, 0);
    second = half_of(word, 1);
}

template <typename T>
T read_constant(const T* source) {
    return *source;
}
inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_divide(float a, float b) { return a / b; }

// Runs body() in every thread of a grid, in an order that `seed` chooses.
inline void run(int64_t blocks, int threads, unsigned seed, std::function<void()> body) {
    if (threads % kLanes != 0) fail("a block has whole warps");
    Grid here;
    grid = &here;
    here.blocks = blocks;
    here.threads = threads;
    here.body = std::move(body);
    const auto count = static_cast<size_t>(blocks * threads);
    here.fibers = std::vector<Fiber>(count);
    here.warps = std::vector<Group>(count / kLanes);
    here.teams = std::vector<Group>(static_cast<size_t>(blocks));
    for (Group& group : here.warps) group.size = kLanes;
    for (Group& group : here.teams) group.size = threads;
    here.all.size = static_cast<int>(count);
    std::vector<int> order;
    for (size_t number = 0; number < count; ++number) {
        prepare(here.fibers[number]);
        order.push_back(static_cast<int>(number));
    }
    std::mt19937 random(seed);
    size_t left = count;
    while (left > 0) {
        std::shuffle(order.begin(), order.end(), random);
        bool moved = false;
        // A random half of the blocks and of the warps stand still, so that others get ahead as far as barriers
        // let them: in step, they would hide a missing barrier.
        const uint64_t still = random(), warps_still = random();
        for (int number : order) {
            Fiber& fiber = here.fibers[static_cast<size_t>(number)];
            if (fiber.done || !fiber.ready) continue;
            moved = true;
            if ((still >> (number / threads % 32) & 1) != 0) continue;
            if ((warps_still >> (number / kLanes % 32) & 1) != 0) continue;
            here.current = number;
#if defined(__SANITIZE_ADDRESS__)
            void* fake = nullptr;
            __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStack);
#endif
            swapcontext(&here.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
            __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
            if (fiber.done) --left;
        }
        if (!moved) fail("threads wait at a barrier that others do not reach");
    }
    grid = nullptr;
}

}  // namespace refiner::simt
