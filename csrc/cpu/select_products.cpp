// Which products this processor runs.

#include <cstdlib>
#include <cstring>

#include "isa.h"
#include "product_tables.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace refiner {
namespace {

// kNone: no instructions for bfloat16, and nobody asked for the portable form.
enum class Bfloat16 { kNone, kPortable, kAvx512, kAmx, kArm };

#if defined(__x86_64__)
// AMX needs a processor that has it, a system that saves its registers, and, on Linux, the permission to use them:
// a process asks for it once, for all its threads.
bool amx_allowed() {
#if defined(REFINER_AMX_EMULATED)
    return processor_isa() == Isa::kV4;
#elif defined(__linux__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kSystemSaves = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kTileState = 3u << 17;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kSystemSaves) == 0) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
    unsigned low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & kTileState) != kTileState) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
#endif

// Whether the processor has BFMMLA (ARMv8.6).
bool arm_has_bfloat16() {
#if defined(__aarch64__) && defined(__linux__)
    constexpr unsigned long kBfloat16 = 1ul << 14;  // HWCAP2_BF16
    return (getauxval(AT_HWCAP2) & kBfloat16) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
    int has = 0;
    size_t size = sizeof(has);
    return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has != 0;
#else
    return false;
#endif
}

// The instructions for bfloat16. REFINER_ISA=bf16 takes no AMX; REFINER_ISA=baseline, v3 or v4 takes the portable
// form.
Bfloat16 bfloat16_instructions() {
    const char* wanted = std::getenv("REFINER_ISA");
    const auto forced = [wanted](const char* name) { return wanted != nullptr && std::strcmp(wanted, name) == 0; };
    if (forced("baseline") || forced("v3") || forced("v4")) return Bfloat16::kPortable;
#if defined(__x86_64__)
    if (processor_isa() == Isa::kV4) {
        if (!forced("bf16") && amx_allowed()) return Bfloat16::kAmx;
        if (__builtin_cpu_supports("avx512bf16")) return Bfloat16::kAvx512;
    }
#endif
    return arm_has_bfloat16() ? Bfloat16::kArm : Bfloat16::kNone;
}

Products float32_products() {
#if defined(__x86_64__)
    if (processor_isa() == Isa::kV4) return isa_x86_64_v4::float32_products();
    if (processor_isa() == Isa::kV3) return isa_x86_64_v3::float32_products();
#endif
    return isa_baseline::float32_products();
}

// The portable form rounds as the instructions do, and it is slow: only tests run it.
Products bfloat16_products(Bfloat16 instructions) {
#if defined(__x86_64__)
    if (instructions == Bfloat16::kAmx) return isa_amx::bfloat16_products();
    if (instructions == Bfloat16::kAvx512) return isa_avx512_bf16::bfloat16_products();
    if (processor_isa() == Isa::kV4) return isa_x86_64_v4::bfloat16_products();
    if (processor_isa() == Isa::kV3) return isa_x86_64_v3::bfloat16_products();
#elif defined(__aarch64__)
    if (instructions == Bfloat16::kArm) return isa_arm_bf16::bfloat16_products();
#endif
    return isa_baseline::bfloat16_products();
}

}  // namespace

const Products* select_products(Precision precision) {
    if (precision == Precision::kFloat32) {
        static const Products products = float32_products();
        return &products;
    }
    static const Bfloat16 instructions = bfloat16_instructions();
    if (instructions == Bfloat16::kNone) return nullptr;
    static const Products products = bfloat16_products(instructions);
    return &products;
}

}  // namespace refiner
