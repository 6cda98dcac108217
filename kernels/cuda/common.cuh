// Shared by all kernels: element types, vector loads, warp reductions, activations, and the macros that
// declare kernels.
//
// A kernel has one parameter, a struct; the launchers in ../src/cuda fill its fields in order. Elements are
// float, f16 or bf16; arithmetic is in float. Tensors are (..., channels), with the channels innermost.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Declares the kernel `name`, which calls body(params), with at most `threads` threads per block.
#define KERNEL(name, params, threads, body) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ params p) { body(p); }
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "emulator/emulator.h"

#define KERNEL(name, params, threads, body)                                                             \
    static void name##_entry(const void* p) { body(*static_cast<const params*>(p)); }                   \
    static emulator::Kernel name##_kernel(#name, name##_entry, sizeof(params), threads);
#define DYNAMIC_SHARED(name) unsigned char* const name = emulator::dynamic_shared()
#endif

using f16 = __half;
using bf16 = __nv_bfloat16;

// Declares one kernel per element type: name_f32, name_f16, name_bf16. `Params` and `body` are templates over
// the type.
#define KERNELS(name, Params, threads, body)             \
    KERNEL(name##_f32, Params<float>, threads, body)     \
    KERNEL(name##_f16, Params<f16>, threads, body)       \
    KERNEL(name##_bf16, Params<bf16>, threads, body)

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Activations applied by an epilogue, as the launchers number them; 0 is none.
constexpr int ACTIVATION_SILU = 1, ACTIVATION_GELU = 2, ACTIVATION_GEGLU = 3;

// Elements in 16 bytes, the widest load of a thread.
template <typename T>
constexpr int PACK = 16 / sizeof(T);

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(f16 x) { return __half2float(x); }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void narrow(float x, float& to) { to = x; }
__device__ __forceinline__ void narrow(float x, f16& to) { to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, bf16& to) { to = __float2bfloat16_rn(x); }

template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
    T of[N];
};

// Loads N consecutive elements with one instruction; `from` must be aligned to N * sizeof(T).
template <int N, typename T>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
    const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = widen(pack.of[i]);
}

// Stores N consecutive elements with one instruction, rounded to T; `to` must be aligned to N * sizeof(T).
template <int N, typename T>
__device__ __forceinline__ void store(const float (&from)[N], T* to) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) narrow(from[i], pack.of[i]);
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Whether rows of `columns` elements at these addresses can be accessed 16 bytes at a time. Null pointers are
// ignored.
template <typename T>
__device__ __forceinline__ bool is_vectorizable(int columns, const T* a, const T* b, const T* c = nullptr,
                                                const T* d = nullptr) {
    const size_t addresses = reinterpret_cast<size_t>(a) | reinterpret_cast<size_t>(b) |
                             reinterpret_cast<size_t>(c) | reinterpret_cast<size_t>(d);
    return columns % PACK<T> == 0 && addresses % 16 == 0;
}

// Sum over the lanes of a warp. The order is fixed, and every lane gets the same bits.
template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

// Maximum over the lanes of a warp.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    return x;
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// GELU in the erf form; erfc keeps the relative precision of the negative tail.
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * erfcf(-0.70710678f * x); }
