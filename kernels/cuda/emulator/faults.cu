// A kernel that a GPU would hang on, for the emulator's own test.

#include "../common.cuh"

struct HalfABarrier {
    float* out;
};

__device__ inline void half_a_barrier_of(const HalfABarrier& p) {
    if (threadIdx.x % 2 == 0) __syncthreads();
    p.out[threadIdx.x] = 0;
}

KERNEL(half_a_barrier, HalfABarrier, WARP, half_a_barrier_of)
