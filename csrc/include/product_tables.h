// The tables of products.h that the build compiles.
#pragma once

#include "products.h"

// Declares the tables of an instruction set.
#define REFINER_DECLARE_PRODUCTS(space) \
    namespace space {                   \
    Products float32_products();        \
    Products bfloat16_products();       \
    }

namespace refiner {

REFINER_DECLARE_PRODUCTS(isa_baseline)
#if defined(__x86_64__)
REFINER_DECLARE_PRODUCTS(isa_x86_64_v3)
REFINER_DECLARE_PRODUCTS(isa_x86_64_v4)
REFINER_DECLARE_PRODUCTS(isa_avx512_bf16)
REFINER_DECLARE_PRODUCTS(isa_amx)
#elif defined(__aarch64__)
REFINER_DECLARE_PRODUCTS(isa_arm_bf16)
#endif

}  // namespace refiner
