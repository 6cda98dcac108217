// What the image kernels share. Their arithmetic is that of ../../src, operation by operation: this folder is
// compiled without contraction of a multiplication and an addition into one, so that the results are the same bits.
#pragma once

#include "../common.cuh"

using u8 = unsigned char;

__device__ __forceinline__ float widen(u8 x) { return x; }

// A thread per pixel, in tiles of 32 × 8: lines of a warp lie side by side.
constexpr int TILE_WIDTH = 32, TILE_HEIGHT = 8, TILE_THREADS = TILE_WIDTH * TILE_HEIGHT;

__device__ __forceinline__ int tile_x() { return blockIdx.x * TILE_WIDTH + threadIdx.x; }
__device__ __forceinline__ int tile_y() { return blockIdx.y * TILE_HEIGHT + threadIdx.y; }

// Towards zero, within 0..=255; NaN is 0.
__device__ __forceinline__ u8 truncated(float x) {
    if (!(x > 0.f)) return 0;
    return x >= 255.f ? 255 : static_cast<u8>(x);
}
