// Erosion by a square and Gaussian blur. Both are separable; a launch computes one direction.

#include "pixels.cuh"

struct Erode {
    // (height, width).
    const float* image;
    float* out;
    int height, width, size, is_vertical;
};

// Grid: the tiles of the image. Adjacent threads share all samples but one, so most reads hit L1.
__device__ __forceinline__ void erode_pixel(const Erode& p) {
    if (tile_x() >= p.width || tile_y() >= p.height) return;
    const int at = p.is_vertical ? tile_y() : tile_x(), length = p.is_vertical ? p.height : p.width;
    const size_t step = p.is_vertical ? p.width : 1;
    const size_t pixel = static_cast<size_t>(tile_y()) * p.width + tile_x();
    const float* const line = p.image + (pixel - at * step);
    // An even window extends one sample further back. Samples outside the image are ignored.
    const int first = max(at - p.size / 2, 0), end = min(at + p.size - p.size / 2, length);
    float minimum = INFINITY;
    for (int i = first; i < end; ++i) {
        const float value = line[i * step];
        if (value < minimum) minimum = value;
    }
    p.out[pixel] = minimum;
}

KERNEL(erode, Erode, TILE_THREADS, erode_pixel)

struct Blur {
    // (height, width).
    const float* image;
    // (taps); the number of taps is odd.
    const float* weights;
    float* out;
    int height, width, taps, is_vertical;
};

// Index of sample `at` of a line that is mirrored at its ends without repeating the end sample, any number of
// times.
__device__ __forceinline__ int mirrored(int at, int length) {
    const int period = max(2 * (length - 1), 1);
    at %= period;
    if (at < 0) at += period;
    return min(min(at, period - at), length - 1);
}

// Grid: the tiles of the image. The sum runs from the first tap to the last, as on the CPU.
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
