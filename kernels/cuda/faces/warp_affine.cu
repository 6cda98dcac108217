// Affine warps with bilinear sampling; pixel centres are at whole coordinates.

#include "pixels.cuh"

template <typename T>
struct WarpAffine {
    // (height, width, channels).
    const T* source;
    // (window_height, window_width, channels): the window of the destination whose top left corner is (left,
    // top).
    float* out;
    // 2×3 matrix from destination to source, row-major.
    double matrix[6];
    int height, width, channels, left, top, window_height, window_width;
    float fill;
};

// Linear interpolation; exact if a == b.
__device__ __forceinline__ float lerp(float a, float b, float t) { return a + t * (b - a); }

// Value of the source at whole coordinates; `fill` outside.
template <typename T>
__device__ __forceinline__ float tap(const WarpAffine<T>& p, double x, double y, int channel) {
    if (x < 0.0 || y < 0.0 || x >= p.width || y >= p.height) return p.fill;
    const size_t pixel = static_cast<size_t>(y) * p.width + static_cast<size_t>(x);
    return widen(p.source[pixel * p.channels + channel]);
}

// Grid: the tiles of the window. Coordinates are in double, as on the CPU: a float has too few bits for the
// pixel index of a large frame and a precise fraction. The cost is about twelve double operations per pixel.
template <typename T>
__device__ __forceinline__ void warp_affine(const WarpAffine<T>& p) {
    if (tile_x() >= p.window_width || tile_y() >= p.window_height) return;
    const double x = p.left + tile_x(), y = p.top + tile_y();
    const double at_x = p.matrix[0] * x + p.matrix[1] * y + p.matrix[2];
    const double at_y = p.matrix[3] * x + p.matrix[4] * y + p.matrix[5];
    const double left = floor(at_x), top = floor(at_y);
    const float fraction_x = static_cast<float>(at_x - left), fraction_y = static_cast<float>(at_y - top);
    float* const to = p.out + (static_cast<size_t>(tile_y()) * p.window_width + tile_x()) * p.channels;
    for (int channel = 0; channel < p.channels; ++channel) {
        const float upper = lerp(tap(p, left, top, channel), tap(p, left + 1.0, top, channel), fraction_x);
        const float lower = lerp(tap(p, left, top + 1.0, channel), tap(p, left + 1.0, top + 1.0, channel), fraction_x);
        to[channel] = lerp(upper, lower, fraction_y);
    }
}

KERNEL(warp_affine_u8, WarpAffine<u8>, TILE_THREADS, warp_affine)
KERNEL(warp_affine_f32, WarpAffine<float>, TILE_THREADS, warp_affine)

struct WarpCoverage {
    // (window_height, window_width).
    float* out;
    double matrix[6];
    int height, width, left, top, window_height, window_width;
};

// Bilinear weight of those of the two samples around a coordinate that lie inside 0..size.
__device__ __forceinline__ double inside(double at, int size) { return fmax(fmin(fmin(at + 1.0, size - at), 1.0), 0.0); }

// The warp of a source of ones with a fill of 0. Grid: the tiles of the window.
__device__ __forceinline__ void warp_coverage_pixel(const WarpCoverage& p) {
    if (tile_x() >= p.window_width || tile_y() >= p.window_height) return;
    const double x = p.left + tile_x(), y = p.top + tile_y();
    const double at_x = p.matrix[0] * x + p.matrix[1] * y + p.matrix[2];
    const double at_y = p.matrix[3] * x + p.matrix[4] * y + p.matrix[5];
    p.out[static_cast<size_t>(tile_y()) * p.window_width + tile_x()] =
        static_cast<float>(inside(at_x, p.width) * inside(at_y, p.height));
}

KERNEL(warp_coverage, WarpCoverage, TILE_THREADS, warp_coverage_pixel)
