// Copies: 2× nearest-neighbour upsampling, and concatenation along the channels.

#include "common.cuh"

constexpr int LAYOUT_THREADS = 256;

template <typename T>
struct Upsample {
    // (images, height, width, channels).
    const T* x;
    // (images, 2 × height, 2 × width, channels).
    T* out;
    int images, height, width, channels;
};

// N elements per load. Grid: x over the pixels of x. Block: x over the vectors of a pixel, y over the pixels.
// A pixel is read once and written to its four output pixels.
template <int N, typename T>
__device__ __forceinline__ void upsample_vectors(const Upsample<T>& p) {
    const int pixels = p.images * p.height * p.width;
    const size_t line = static_cast<size_t>(2 * p.width) * p.channels;
    for (int pixel = blockIdx.x * blockDim.y + threadIdx.y; pixel < pixels; pixel += gridDim.x * blockDim.y) {
        const T* const from = p.x + static_cast<size_t>(pixel) * p.channels;
        // Rows are counted over all images: row r is written to rows 2r and 2r + 1.
        const int row = pixel / p.width, column = pixel % p.width;
        T* const to = p.out + 2 * row * line + static_cast<size_t>(2 * column) * p.channels;
        for (int channel = threadIdx.x * N; channel < p.channels; channel += blockDim.x * N) {
            const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from + channel);
            *reinterpret_cast<Pack<T, N>*>(to + channel) = pack;
            *reinterpret_cast<Pack<T, N>*>(to + p.channels + channel) = pack;
            *reinterpret_cast<Pack<T, N>*>(to + line + channel) = pack;
            *reinterpret_cast<Pack<T, N>*>(to + line + p.channels + channel) = pack;
        }
    }
}

template <typename T>
__device__ __forceinline__ void upsample(const Upsample<T>& p) {
    if (is_vectorizable<T>(p.channels, p.x, p.out)) {
        upsample_vectors<PACK<T>>(p);
    } else {
        upsample_vectors<1>(p);
    }
}

KERNELS(upsample, Upsample, LAYOUT_THREADS, upsample)

template <typename T>
struct Join {
    // (rows, left_columns), (rows, right_columns).
    const T* left;
    const T* right;
    // (rows, left_columns + right_columns).
    T* out;
    int rows, left_columns, right_columns;
};

// N elements per load. Grid: x over the rows. Block: x over the vectors of an output row, y over the rows.
template <int N, typename T>
__device__ __forceinline__ void join_vectors(const Join<T>& p) {
    const int columns = p.left_columns + p.right_columns;
    for (int row = blockIdx.x * blockDim.y + threadIdx.y; row < p.rows; row += gridDim.x * blockDim.y) {
        const T* const left = p.left + static_cast<size_t>(row) * p.left_columns;
        const T* const right = p.right + static_cast<size_t>(row) * p.right_columns;
        T* const to = p.out + static_cast<size_t>(row) * columns;
        for (int column = threadIdx.x * N; column < columns; column += blockDim.x * N) {
            const T* const from = column < p.left_columns ? left + column : right + (column - p.left_columns);
            *reinterpret_cast<Pack<T, N>*>(to + column) = *reinterpret_cast<const Pack<T, N>*>(from);
        }
    }
}

template <typename T>
__device__ __forceinline__ void join(const Join<T>& p) {
    if (is_vectorizable<T>(p.left_columns, p.left, p.right, p.out) && p.right_columns % PACK<T> == 0) {
        join_vectors<PACK<T>>(p);
    } else {
        join_vectors<1>(p);
    }
}

KERNELS(join, Join, LAYOUT_THREADS, join)
