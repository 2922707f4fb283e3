// The products of a network, in float32 or bfloat16: a table of functions for each instruction set. The networks
// call them through the table, so that a new kind of product (another precision, instructions for tiles) needs no
// other copy of the networks.
#pragma once

#include <cstdint>

#include "isa.h"

namespace refiner {

enum class Precision { kFloat32, kBfloat16 };

// What happens to a sum after its bias is added. GELU gives the operand of the next product; the others give
// float32.
enum class End { kStore, kGelu, kAdd };

// A weight matrix [outputs, inputs] in panels of `panel` outputs, in one of two layouts (see csrc/README.md):
// float32 [outputs / panel, inputs, panel]; bfloat16 [outputs / panel, inputs / 2, panel, 2], and 4 for 2 on ARM.
// The last panel and, in bfloat16, the inputs are filled up with zeros.
struct PackedLinear {
    int64_t inputs = 0;
    int64_t outputs = 0;
    void* weight = nullptr;
};

// out [rows, outputs] = end(operand [rows, inputs] x weights + bias), with a part of the inputs and outputs of a
// weight matrix. Strides count numbers.
struct Product {
    const void* operand;
    int64_t rows;
    int64_t stride;
    const PackedLinear& linear;
    int64_t first_input;  // a multiple of `depth`
    int64_t inputs;
    int64_t first_output;  // a multiple of `panel`
    int64_t outputs;
    const float* bias;  // of the first output; null for none
    void* out;
    int64_t out_stride;
};

struct Products {
    Precision precision;
    const char* name;  // of the instructions
    int64_t panel;
    int64_t depth;  // operands and weights are filled up with zeros to a multiple of so many inputs
    int64_t rows;   // of a tile; the memory of an operand has room for a multiple of so many rows
    int64_t bytes;  // of a number of an operand or a weight

    // Packs a weight matrix [outputs, inputs] into `target`, which has packed_bytes() bytes.
    void (*pack)(const float* weight, int64_t outputs, int64_t inputs, void* target);
    // Rows [rows, inputs] as an operand: the rows themselves, or a rounded copy in `scratch`. Its stride is
    // filled(inputs).
    const void* (*operand)(const float* x, int64_t rows, int64_t inputs, void* scratch);
    // Layer norm without scale and shift, which are folded into the next product: rows [rows, dim] as an operand.
    void (*normalise)(const float* x, int64_t rows, int64_t dim, float epsilon, void* out);
    void (*multiply)(End end, const Product&);
    // A thread calls these around its products. They hold the state of the tile registers.
    void (*enter)();
    void (*leave)();

    REFINER_ALWAYS_INLINE int64_t filled(int64_t inputs) const { return (inputs + depth - 1) / depth * depth; }
    REFINER_ALWAYS_INLINE int64_t packed_bytes(int64_t outputs, int64_t inputs) const {
        return (outputs + panel - 1) / panel * panel * filled(inputs) * bytes;
    }
};

// The products in the precision for this processor; null if it has no instructions for them.
const Products* select_products(Precision precision);

}  // namespace refiner
