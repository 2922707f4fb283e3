// Selects the instruction set of this processor among those that the vectorised kernels are compiled for.
#pragma once

#include <cstdlib>
#include <cstring>

namespace refiner {

// Before a function in a header that files share which are compiled for several instruction sets: without it the
// linker could keep one copy, compiled for a newer instruction set than the processor has.
#define REFINER_ALWAYS_INLINE inline __attribute__((always_inline))

enum class Isa { kBaseline, kV3, kV4 };

// REFINER_ISA=baseline or v3 takes an older instruction set than the processor has, for tests. It never takes a
// newer. Products in bfloat16 know more names (cpu/select_products.cpp).
inline Isa processor_isa() {
    const char* wanted = std::getenv("REFINER_ISA");
    if (wanted != nullptr && std::strcmp(wanted, "baseline") == 0) return Isa::kBaseline;
#if defined(__x86_64__)
    const bool older = wanted != nullptr && std::strcmp(wanted, "v3") == 0;
    if (!older && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
        return Isa::kV4;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kV3;
#endif
    return Isa::kBaseline;
}

inline const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::kV4:
            return "x86-64-v4";
        case Isa::kV3:
            return "x86-64-v3";
        default:
            return "baseline";
    }
}

// REFINER_DECLARE_VARIANTS(Kernels, kernels) declares the variants of `Kernels kernels()`, one for every namespace
// that the build compiles. It also declares `select_kernels()`, which returns the fastest variant that this
// processor can run.
#if defined(__x86_64__)
#define REFINER_DECLARE_VARIANTS(Type, name)               \
    namespace isa_baseline {                               \
    Type name();                                           \
    }                                                      \
    namespace isa_x86_64_v3 {                              \
    Type name();                                           \
    }                                                      \
    namespace isa_x86_64_v4 {                              \
    Type name();                                           \
    }                                                      \
    inline Type select_##name() {                          \
        const Isa isa = processor_isa();                   \
        if (isa == Isa::kV4) return isa_x86_64_v4::name(); \
        if (isa == Isa::kV3) return isa_x86_64_v3::name(); \
        return isa_baseline::name();                       \
    }
#else
#define REFINER_DECLARE_VARIANTS(Type, name) \
    namespace isa_baseline {                 \
    Type name();                             \
    }                                        \
    inline Type select_##name() { return isa_baseline::name(); }
#endif

}  // namespace refiner
