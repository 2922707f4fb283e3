// A network as the causal streams see it.
#pragma once

#include "stc_network.h"

namespace refiner {

class FrameNetwork {
 public:
    virtual ~FrameNetwork() = default;
    // Its sizes. Raises std::invalid_argument unless it is complete and runs frame by frame.
    virtual const StcNetwork& causal() const = 0;
    virtual int64_t attentions() const = 0;
    // Runs `rows` frames, see NetworkKernels::frame. Python's lock is not needed.
    virtual void frames(const StcSteps& steps, int64_t rows, const float* input, float* output,
                        const StcMemory& memory, int threads) const = 0;
};

}  // namespace refiner
