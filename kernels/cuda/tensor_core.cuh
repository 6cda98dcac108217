// Products of 16 × 16 and 16 × 8 matrices of f16 or bf16, a warp at a time (compute capability 8.0 and later), and
// the loads that bring their operands into the lanes that need them.
//
// With g = lane / 4 and t = lane % 4, every 32-bit register a pair of neighbours along the summed dimension:
//   a[0..4]: rows g, g + 8, g, g + 8; summed 2t, 2t, 2t + 8, 2t + 8
//   b[0..2]: column g; summed 2t, 2t + 8
//   sums[0..4]: row g, columns 2t, 2t + 1; row g + 8, the same columns
#pragma once

#include "common.cuh"

template <typename T>
__device__ __forceinline__ unsigned pair(float first, float second) {
    Pack<T, 2> both;
    narrow(first, both.of[0]);
    narrow(second, both.of[1]);
    unsigned bits;
    memcpy(&bits, &both, sizeof(bits));
    return bits;
}

#ifdef __CUDACC__

__device__ __forceinline__ unsigned shared_address(const void* at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// sums += a × b.
__device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 × 8 matrices from shared memory. Lane l gives the place of row l % 8 of matrix l / 8, on 16 bytes; of
// every matrix it gets row g, columns 2t and 2t + 1.
template <typename T>
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const T* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}

// The same, but it gets rows 2t and 2t + 1 of column g.
template <typename T>
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], const T* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}

// Begins to copy 16 bytes into shared memory, or zeros where `is_there` is false.
__device__ __forceinline__ void copy_16_bytes(void* to, const void* from, bool is_there) {
    const int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

// What was begun so far is a group.
__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until this thread's copies have arrived, but for the last `N` groups.
template <int N>
__device__ __forceinline__ void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else
#include "emulator/tensor_core.h"
#endif
