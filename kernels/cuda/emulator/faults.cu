// A kernel with a barrier in divergent code, which would hang a GPU. For the emulator's own test.

#include "../common.cuh"

struct HalfABarrier {
    float* out;
};

__device__ inline void half_a_barrier_body(const HalfABarrier& p) {
    if (threadIdx.x % 2 == 0) __syncthreads();
    p.out[threadIdx.x] = 0;
}

KERNEL(half_a_barrier, HalfABarrier, WARP, half_a_barrier_body)
