// The subset of CUDA C++ that the kernels use, so that a C++17 compiler can build their source for the host.
//
// The threads of a block are fibers on one host thread. They switch only at __syncthreads, __syncwarp and
// shuffles. To turn missing synchronization into wrong results, the order of the fibers changes at every
// switch, warps run as far apart as the barriers allow, an asynchronous copy completes either immediately or
// as late as possible, and dynamic shared memory starts as NaN. A barrier that some threads do not reach is
// an error. Not modelled: performance, and the visibility of writes to other threads without a barrier.
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

// Entry point of a kernel; `params` points to its parameter struct.
using Entry = void (*)(const void* params);

struct Kernel {
    const char* name;
    Entry entry;
    std::size_t params_size;
    // Maximum threads per block.
    unsigned max_threads;
    Kernel* next;

    // Adds the kernel to the list of kernels that can be launched.
    Kernel(const char* name, Entry entry, std::size_t params_size, unsigned max_threads);
};

// Barriers over all threads of the block, and over those of this thread's warp.
void wait_for_block();
void wait_for_warp();

unsigned lane();
unsigned char* dynamic_shared();

// cp.async: starts a copy of 16 bytes (zeros if `from` is null); commits the copies started so far as a
// group; completes all committed groups but the last `in_flight`.
void begin_copy(void* to, const void* from);
void end_copy_group();
void finish_copies(std::size_t in_flight);

// Bytes of a lane that the other lanes of its warp can read between two barriers.
constexpr std::size_t SLOT = 32;
void* slot(unsigned lane);

template <typename T>
T& slot(unsigned lane) {
    static_assert(sizeof(T) <= SLOT && std::is_trivially_copyable_v<T>);
    return *static_cast<T*>(slot(lane));
}

// The value that lane `from` passes to the same call.
template <typename T>
T exchange(T value, unsigned from) {
    slot<T>(lane()) = value;
    wait_for_warp();
    const T received = slot<T>(from % 32);
    wait_for_warp();
    return received;
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

// A lane whose source would be past the last lane keeps its own value.
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned distance) {
    const unsigned from = emulator::lane() + distance;
    return emulator::exchange(value, from < 32 ? from : emulator::lane());
}

// Needs no synchronization: only one fiber runs at a time.
template <typename T>
T atomicAdd(T* to, T value) {
    const T before = *to;
    *to += value;
    return before;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
