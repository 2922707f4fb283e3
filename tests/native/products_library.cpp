// The products of one instruction set behind a C interface, which tests/native/test_products.py compiles and
// calls.

#include <cstdlib>
#include <cstring>

#include "../../csrc/cpu/products.cpp"
#if defined(REFINER_AMX) && !defined(REFINER_AMX_EMULATED)
#include <sys/syscall.h>
#include <unistd.h>

// The permission to use the tile registers, see csrc/cpu/select_products.cpp.
static const long permitted = syscall(SYS_arch_prctl, 0x1023, 18);
#endif

namespace {

using namespace refiner;

Products products_of(bool bfloat16) {
    return bfloat16 ? REFINER_ISA_NAMESPACE::bfloat16_products() : REFINER_ISA_NAMESPACE::float32_products();
}

// Memory of exactly that size, filled with ones, which are NaN as float and as bfloat16.
void* dirty(int64_t bytes) {
    void* memory = std::malloc(static_cast<size_t>(bytes));
    std::memset(memory, 0xff, static_cast<size_t>(bytes));
    return memory;
}

float number_of(const Products& products, const void* operand, int64_t index) {
    if (products.bytes == 4) return static_cast<const float*>(operand)[index];
    const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(operand)[index]) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

int64_t room(const Products& products, int64_t rows) {
    return (rows + products.rows - 1) / products.rows * products.rows;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED const char* name(bool bfloat16) { return products_of(bfloat16).name; }
EXPORTED int64_t panel(bool bfloat16) { return products_of(bfloat16).panel; }
EXPORTED int64_t depth(bool bfloat16) { return products_of(bfloat16).depth; }

// out [rows, outputs] = end(operand(a) [rows, inputs of the part] x part of weight [outputs, all] + bias).
// `epsilon` above 0 normalises the rows.
EXPORTED void product(bool bfloat16, int end, const float* a, int64_t rows, const float* weight,
                      int64_t all_outputs, int64_t all_inputs, int64_t first_input, int64_t inputs,
                      int64_t first_output, int64_t outputs, const float* bias, float epsilon, float* out) {
    const Products products = products_of(bfloat16);
    PackedLinear linear{all_inputs, all_outputs, dirty(products.packed_bytes(all_outputs, all_inputs))};
    products.pack(weight, all_outputs, all_inputs, linear.weight);
    const int64_t stride = products.filled(inputs);
    void* scratch = dirty(room(products, rows) * stride * products.bytes);
    const void* operand = scratch;
    if (epsilon > 0.0f) {
        products.normalise(a, rows, inputs, epsilon, scratch);
    } else {
        operand = products.operand(a, rows, inputs, scratch);
    }
    products.enter();
    if (end == 1) {
        const int64_t wide = products.filled(outputs);
        void* result = dirty(room(products, rows) * wide * products.bytes);
        products.multiply(End::kGelu, {operand, rows, stride, linear, first_input, inputs, first_output, outputs,
                                       bias, result, wide});
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < wide; ++c) {
                const float value = number_of(products, result, r * wide + c);
                if (c < outputs) {
                    out[r * outputs + c] = value;
                } else if (value != 0.0f && out[r * outputs] - out[r * outputs] == 0.0f) {
                    // What fills up the operand of the next product must be zeros, where the row itself is finite.
                    std::abort();
                }
            }
        }
        std::free(result);
    } else {
        products.multiply(end == 0 ? End::kStore : End::kAdd, {operand, rows, stride, linear, first_input, inputs,
                                                               first_output, outputs, bias, out, outputs});
    }
    products.leave();
    std::free(scratch);
    std::free(linear.weight);
}
