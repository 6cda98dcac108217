// Wrappers of the tensor-core instructions (compute capability 8.0 and later): mma.m16n8k16 of f16 or bf16,
// ldmatrix and cp.async. A warp executes them together.
//
// Fragment layout, with g = lane / 4 and t = lane % 4. A 32-bit register of a and b holds two elements
// adjacent in k:
//   a[0..4]: rows g, g + 8, g, g + 8; k = 2t, 2t, 2t + 8, 2t + 8
//   b[0..2]: column g; k = 2t, 2t + 8
//   acc[0..4]: row g, columns 2t and 2t + 1; row g + 8, columns 2t and 2t + 1
#pragma once

#include "common.cuh"

// Two values, rounded to T, in one register; `first` is in the low half.
template <typename T>
__device__ __forceinline__ unsigned pack_pair(float first, float second) {
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

// acc += a · b, a: 16 × 16, b: 16 × 8. The last argument selects the element type.
__device__ __forceinline__ void mma(float (&acc)[4], const unsigned (&a)[4], const unsigned (&b)[2], f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma(float (&acc)[4], const unsigned (&a)[4], const unsigned (&b)[2], bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads four 8 × 8 matrices from shared memory. Lane l passes the address of row l % 8 of matrix l / 8,
// aligned to 16 bytes. It gets row g, columns 2t and 2t + 1, of every matrix.
template <typename T>
__device__ __forceinline__ void ldmatrix_x4(unsigned (&to)[4], const T* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}

// Loads four transposed 8 × 8 matrices: as ldmatrix_x4, but a lane gets rows 2t and 2t + 1 of column g.
template <typename T>
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&to)[4], const T* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}

// Starts an asynchronous copy of 16 bytes from global to shared memory; writes zeros if `in_bounds` is false.
__device__ __forceinline__ void cp_async_16(void* to, const void* from, bool in_bounds) {
    const int bytes = in_bounds ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

// Commits the copies started since the last commit as one group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the last N groups of this thread are still in flight.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else
#include "emulator/tensor_core.h"
#endif
