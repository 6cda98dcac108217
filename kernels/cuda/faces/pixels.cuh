// Shared by the image kernels. They perform the same operations in the same order as the Rust versions in
// ../../src, and this directory is compiled without fused multiply-add, so that the results are equal bit for
// bit.
#pragma once

#include "../common.cuh"

using u8 = unsigned char;

__device__ __forceinline__ float widen(u8 x) { return x; }

// Blocks of 32 × 8 threads, one per pixel: a warp covers 32 adjacent pixels of a row.
constexpr int TILE_WIDTH = 32, TILE_HEIGHT = 8, TILE_THREADS = TILE_WIDTH * TILE_HEIGHT;

__device__ __forceinline__ int tile_x() { return blockIdx.x * TILE_WIDTH + threadIdx.x; }
__device__ __forceinline__ int tile_y() { return blockIdx.y * TILE_HEIGHT + threadIdx.y; }

// Truncates towards zero and clamps to 0..=255; NaN becomes 0. Equals Rust's `as u8`.
__device__ __forceinline__ u8 truncated(float x) {
    if (!(x > 0.0f)) return 0;
    return x >= 255.0f ? 255 : static_cast<u8>(x);
}
