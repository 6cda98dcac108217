// Affine warps with bilinear sampling, pixel centres at whole coordinates.

#include "pixels.cuh"

template <typename T>
struct WarpAffine {
    // (height, width, channels).
    const T* source;
    // (window_height, window_width, channels), the part of the destination that begins at (left, top).
    float* out;
    // Destination to source, row by row.
    double matrix[6];
    int height, width, channels, left, top, window_height, window_width;
    float fill;
};

// Exact where a == b.
__device__ __forceinline__ float lerp(float a, float b, float t) { return a + t * (b - a); }

// What the source has at whole coordinates.
template <typename T>
__device__ __forceinline__ float tap(const WarpAffine<T>& p, double x, double y, int channel) {
    if (x < 0. || y < 0. || x >= p.width || y >= p.height) return p.fill;
    const size_t pixel = static_cast<size_t>(y) * p.width + static_cast<size_t>(x);
    return widen(p.source[pixel * p.channels + channel]);
}

// Grid: tiles of the window. Coordinates in double, as on the CPU: a float has too few bits for both a pixel of a
// large frame and the fraction that is interpolated by, and there are only a dozen operations per pixel.
template <typename T>
__device__ __forceinline__ void warp_affine(const WarpAffine<T>& p) {
    if (tile_x() >= p.window_width || tile_y() >= p.window_height) return;
    const double x = p.left + tile_x(), y = p.top + tile_y();
    const double at_x = p.matrix[0] * x + p.matrix[1] * y + p.matrix[2];
    const double at_y = p.matrix[3] * x + p.matrix[4] * y + p.matrix[5];
    const double left = floor(at_x), top = floor(at_y);
    const float right_share = static_cast<float>(at_x - left), lower_share = static_cast<float>(at_y - top);
    float* const to = p.out + (static_cast<size_t>(tile_y()) * p.window_width + tile_x()) * p.channels;
    for (int channel = 0; channel < p.channels; ++channel) {
        const float upper = lerp(tap(p, left, top, channel), tap(p, left + 1., top, channel), right_share);
        const float lower = lerp(tap(p, left, top + 1., channel), tap(p, left + 1., top + 1., channel), right_share);
        to[channel] = lerp(upper, lower, lower_share);
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

// Of the two samples either side of a coordinate, the share that lies inside 0..size.
__device__ __forceinline__ double inside(double at, int size) { return fmax(fmin(fmin(at + 1., size - at), 1.), 0.); }

// As above, for a source of ones and a fill of 0.
__device__ __forceinline__ void warp_coverage_pixel(const WarpCoverage& p) {
    if (tile_x() >= p.window_width || tile_y() >= p.window_height) return;
    const double x = p.left + tile_x(), y = p.top + tile_y();
    const double at_x = p.matrix[0] * x + p.matrix[1] * y + p.matrix[2];
    const double at_y = p.matrix[3] * x + p.matrix[4] * y + p.matrix[5];
    p.out[static_cast<size_t>(tile_y()) * p.window_width + tile_x()] =
        static_cast<float>(inside(at_x, p.width) * inside(at_y, p.height));
}

KERNEL(warp_coverage, WarpCoverage, TILE_THREADS, warp_coverage_pixel)
