// Erosion by a square and Gaussian blur: one direction per launch.

#include "pixels.cuh"

struct Erode {
    // (height, width).
    const float* image;
    float* out;
    int height, width, size, is_vertical;
};

// Grid: tiles of the image. Neighbours share all but one of their samples, so those come from L1.
__device__ __forceinline__ void erode_pixel(const Erode& p) {
    if (tile_x() >= p.width || tile_y() >= p.height) return;
    const int at = p.is_vertical ? tile_y() : tile_x(), length = p.is_vertical ? p.height : p.width;
    const size_t step = p.is_vertical ? p.width : 1;
    const size_t pixel = static_cast<size_t>(tile_y()) * p.width + tile_x();
    const float* const line = p.image + (pixel - at * step);
    // An even square reaches one further back; what lies outside does not count.
    const int first = max(at - p.size / 2, 0), end = min(at + p.size - p.size / 2, length);
    float lowest = INFINITY;
    for (int i = first; i < end; ++i) {
        const float value = line[i * step];
        if (value < lowest) lowest = value;
    }
    p.out[pixel] = lowest;
}

KERNEL(erode, Erode, TILE_THREADS, erode_pixel)

struct Blur {
    // (height, width).
    const float* image;
    // (taps), an odd number.
    const float* weights;
    float* out;
    int height, width, taps, is_vertical;
};

// The image is mirrored at its border without repeating the border pixel, as often as it takes.
__device__ __forceinline__ int mirrored(int at, int length) {
    const int period = max(2 * (length - 1), 1);
    at %= period;
    if (at < 0) at += period;
    return min(min(at, period - at), length - 1);
}

// As above; the sum goes from the first tap to the last.
__device__ __forceinline__ void blur_pixel(const Blur& p) {
    if (tile_x() >= p.width || tile_y() >= p.height) return;
    const int at = p.is_vertical ? tile_y() : tile_x(), length = p.is_vertical ? p.height : p.width;
    const size_t step = p.is_vertical ? p.width : 1;
    const size_t pixel = static_cast<size_t>(tile_y()) * p.width + tile_x();
    const float* const line = p.image + (pixel - at * step);
    float sum = 0;
    for (int tap = 0; tap < p.taps; ++tap) {
        sum += p.weights[tap] * line[mirrored(at + tap - p.taps / 2, length) * step];
    }
    p.out[pixel] = sum;
}

KERNEL(gaussian_blur, Blur, TILE_THREADS, blur_pixel)
