// Enough of CUDA C++ to run the kernels on a CPU: their own source, compiled by a C++17 compiler.
//
// A block's threads are fibers on one thread of the host. They take turns at __syncthreads, __syncwarp and
// shuffles only, in an order that changes at each, and warps drift apart as far as barriers let them; asynchronous
// copies arrive at once or when they are waited for, and dynamic shared memory starts as NaN: what is read or
// written too early shows as wrong numbers. A barrier that not all threads reach is an error. Not modelled: speed,
// and the order in which other threads see writes without a barrier.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "half.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __grid_constant__

struct Dim3 {
    unsigned x, y, z;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

extern thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

// Parameters are passed as one struct, as the kernels take them.
using Entry = void (*)(const void* params);

struct Kernel {
    const char* name;
    Entry entry;
    std::size_t params_size;
    unsigned most_threads;
    Kernel* next;

    // Joins the list of what can be launched.
    Kernel(const char* name, Entry entry, std::size_t params_size, unsigned most_threads);
};

// Waits until all threads of the block, or of this thread's warp, are here.
void wait_for_block();
void wait_for_warp();

unsigned lane();
unsigned char* dynamic_shared();

// Copies of 16 bytes, or of zeros from null, which have arrived when all groups of them but the last few were waited
// for.
void begin_copy(void* to, const void* from);
void end_copy_group();
void finish_copies(std::size_t but);

// What lanes show each other between two waits.
constexpr std::size_t SLOT = 32;
void* slot(unsigned lane);

template <typename T>
T& slot(unsigned lane) {
    static_assert(sizeof(T) <= SLOT && std::is_trivially_copyable_v<T>);
    return *static_cast<T*>(slot(lane));
}

template <typename T>
T exchange(T value, unsigned from) {
    slot<T>(lane()) = value;
    wait_for_warp();
    const T other = slot<T>(from % 32);
    wait_for_warp();
    return other;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp(unsigned = ~0u) { emulator::wait_for_warp(); }

template <typename T>
T __shfl_sync(unsigned, T value, int from) {
    return emulator::exchange(value, static_cast<unsigned>(from));
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::exchange(value, emulator::lane() ^ static_cast<unsigned>(mask));
}

// A lane past the last keeps its own value.
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned distance) {
    const unsigned from = emulator::lane() + distance;
    return emulator::exchange(value, from < 32 ? from : emulator::lane());
}

// Fibers of one block never run at once, nor do blocks.
template <typename T>
T atomicAdd(T* to, T value) {
    const T before = *to;
    *to += value;
    return before;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
