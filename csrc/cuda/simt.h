// What device code uses of CUDA. The same code runs on the host in tests, on an emulator of blocks and warps
// (tests/native/simt); so device code takes threads, barriers and the products of a warp from here alone.
#pragma once

#include <cstdint>

namespace refiner {

// 8 and 16 bytes that one access reads or writes.
struct alignas(8) Pair {
    uint32_t word[2];
};
struct alignas(16) Quad {
    uint32_t word[4];
};

}  // namespace refiner

#if defined(__CUDACC__)

#include <cooperative_groups.h>
#include <cuda_fp16.h>

#define REFINER_DEVICE __device__ __forceinline__
#define REFINER_PRAGMA(text) _Pragma(#text)
#define REFINER_UNROLL(count) REFINER_PRAGMA(unroll count)

namespace refiner::simt {

REFINER_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
REFINER_DEVICE int threads() { return static_cast<int>(blockDim.x); }
REFINER_DEVICE int64_t block() { return blockIdx.x; }
REFINER_DEVICE int64_t blocks() { return gridDim.x; }

// All threads of the warp, of the block, of the grid (which must be launched cooperatively).
REFINER_DEVICE void warp_barrier() { __syncwarp(); }
REFINER_DEVICE void block_barrier() { __syncthreads(); }
REFINER_DEVICE void grid_barrier() { cooperative_groups::this_grid().sync(); }

// The sum over a warp, in a fixed order; every lane gets it.
REFINER_DEVICE float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// sum += A B for A of 16 x 16 and B of 16 x 8 half-precision numbers. In lane l, with g = l / 4 and q = l % 4,
//   a[0] holds A[g][2 q], A[g][2 q + 1]; a[1] the same of row g + 8; a[2], a[3] the same of columns 2 q + 8, + 9;
//   b0 holds B[2 q][g], B[2 q + 1][g]; b1 holds B[2 q + 8][g], B[2 q + 9][g];
//   sum holds rows g, g, g + 8, g + 8 at columns 2 q, 2 q + 1, 2 q, 2 q + 1.
REFINER_DEVICE void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// Two numbers in one word, the first in the low half.
REFINER_DEVICE uint32_t to_halves(float first, float second) {
    const __half2 both = __floats2half2_rn(first, second);
    uint32_t word;
    memcpy(&word, &both, sizeof(word));
    return word;
}
REFINER_DEVICE void from_halves(uint32_t word, float& first, float& second) {
    __half2 both;
    memcpy(&both, &word, sizeof(both));
    const float2 values = __half22float2(both);
    first = values.x;
    second = values.y;
}

// Memory that nobody writes while the kernel runs.
REFINER_DEVICE Quad read_constant(const Quad* source) {
    const uint4 read = __ldg(reinterpret_cast<const uint4*>(source));
    return {{read.x, read.y, read.z, read.w}};
}
REFINER_DEVICE float read_constant(const float* source) { return __ldg(source); }

// Fast approximations with errors far below those of half precision. 2^x is 0 for very negative x; NaN stays.
REFINER_DEVICE float fast_exp2(float x) { return exp2f(x); }
REFINER_DEVICE float fast_divide(float a, float b) { return __fdividef(a, b); }

}  // namespace refiner::simt

#else
#include "simt_host.h"
#endif
