// Memory for the calls of one network.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace refiner {

struct Free {
    void operator()(void* data) const { std::free(data); }
};

using Floats = std::unique_ptr<float, Free>;

// `size` floats, aligned to a cache line, with any content.
inline Floats allocate_floats(int64_t size) {
    const size_t bytes = (static_cast<size_t>(size) * sizeof(float) + 63) / 64 * 64;
    Floats data(static_cast<float*>(std::aligned_alloc(64, bytes > 0 ? bytes : 64)));
    if (data == nullptr) throw std::bad_alloc();
    return data;
}

// Pieces of memory that are kept between calls, so that a call of a usual size allocates nothing: as many pieces
// as calls run at the same time. They are freed with this object. Every kPeriod calls, what none of them needed is
// freed too: whole pieces, and the part of a piece that is more than twice too large.
class Workspaces {
    struct Piece {
        Floats data;
        int64_t size = 0;
        int64_t needed = 0;  // the largest call of this period
        int uses = 0;
    };

 public:
    static constexpr int kPeriod = 64;

    // A piece, for as long as a call lasts.
    class Lease {
     public:
        Lease(Workspaces& of, Piece piece) : of_(of), piece_(std::move(piece)) {}
        ~Lease() { of_.give_back(std::move(piece_)); }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        float* data() const { return piece_.data.get(); }

     private:
        Workspaces& of_;
        Piece piece_;
    };

    // A piece of at least `size` floats. Any number of threads may call this.
    Lease take(int64_t size) {
        Piece piece = next();
        piece.needed = std::max(piece.needed, size);
        const bool period_ends = ++piece.uses >= kPeriod;
        if (size > piece.size || (period_ends && piece.needed < piece.size / 2)) {
            piece.data.reset();  // first, so that both are never there at once
            piece.data = allocate_floats(piece.needed);
            piece.size = piece.needed;
        }
        if (period_ends) piece.uses = 0, piece.needed = 0;
        return Lease(*this, std::move(piece));
    }

    // The floats of all pieces that no call has now.
    int64_t kept() const {
        std::lock_guard<std::mutex> lock(mutex_);
        int64_t total = 0;
        for (const Piece& piece : free_) total += piece.size;
        return total;
    }

 private:
    // The piece that was given back last, or a new one. Nobody waits for the mutex: where another thread has it, a
    // new piece is as good. A thread may have had it while the process forked, and then it is never free again in
    // the child.
    Piece next() {
        Piece piece;
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock.owns_lock()) return piece;
        if (!free_.empty()) {
            piece = std::move(free_.back());
            free_.pop_back();
        }
        // Pieces are taken from the end. So those that are left even when the most calls run are at the beginning.
        idle_ = std::min(idle_, free_.size());
        if (++takes_ >= kPeriod) {
            free_.erase(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(idle_));
            idle_ = free_.size();
            takes_ = 0;
        }
        return piece;
    }

    void give_back(Piece piece) noexcept {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock.owns_lock()) return;  // as in next(); the piece is freed
        try {
            free_.push_back(std::move(piece));
        } catch (const std::bad_alloc&) {
            // The piece is freed; the next call allocates another one.
        }
    }

    mutable std::mutex mutex_;
    std::vector<Piece> free_;
    std::size_t idle_ = 0;
    int takes_ = 0;
};

}  // namespace refiner
