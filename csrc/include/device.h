// Allows one source for the CPU and CUDA.
#pragma once

#if defined(__CUDACC__)
#define REFINER_HD __host__ __device__ __forceinline__
#else
#define REFINER_HD inline
#endif
