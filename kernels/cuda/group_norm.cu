// Group norm over all dimensions but the batch, optionally followed by SiLU, in three launches: partial sums
// over chunks of positions; coefficients of every channel; the norm itself. A single launch would need a
// block per (image, group): only 32 to 512 blocks, each with uncoalesced reads of 20 to 160 bytes per
// position.
//
// x: (batch, positions, channels). The sums are over x − origin, where the origin is the first value of the
// image's group: a mean that is large compared with the deviation would otherwise cancel the variance. The
// order of every sum depends only on the shapes.

#include "common.cuh"

constexpr int GROUP_NORM_THREADS = 512;

template <typename T>
struct GroupNormSums {
    const T* x;
    // (batch, chunks, groups, 2): sums, sums of squares.
    float* sums;
    int positions, channels, groups, positions_per_chunk;
};

// N elements per load. Grid: (chunks, batch). Block: x over the vectors of a position, y over the positions.
// Shared memory: (blockDim.y, channels, 2) floats.
template <int N, typename T>
__device__ __forceinline__ void group_norm_sums_vectors(const GroupNormSums<T>& p) {
    DYNAMIC_SHARED(memory);
    float* const shared = reinterpret_cast<float*>(memory);
    const int width = p.channels / p.groups, begin = blockIdx.x * p.positions_per_chunk;
    const int end = min(p.positions, begin + p.positions_per_chunk);
    const T* const image = p.x + static_cast<size_t>(blockIdx.y) * p.positions * p.channels;
    for (int channel = threadIdx.x * N; channel < p.channels; channel += blockDim.x * N) {
        float origin[N], sum[N] = {}, squares[N] = {};
        for (int i = 0; i < N; ++i) origin[i] = widen(image[(channel + i) / width * width]);
        for (int position = begin + threadIdx.y; position < end; position += blockDim.y) {
            float x[N];
            load<N>(image + static_cast<size_t>(position) * p.channels + channel, x);
            for (int i = 0; i < N; ++i) {
                x[i] -= origin[i];
                sum[i] += x[i];
                squares[i] += x[i] * x[i];
            }
        }
        for (int i = 0; i < N; ++i) {
            float* const to = shared + 2 * (threadIdx.y * p.channels + channel + i);
            to[0] = sum[i];
            to[1] = squares[i];
        }
    }
    __syncthreads();

    // A warp per group. Threads of a last, incomplete warp return; the block has at least one complete warp.
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, warps = blockDim.x * blockDim.y / WARP;
    if (thread >= warps * WARP) return;
    for (int group = thread / WARP; group < p.groups; group += warps) {
        float sum = 0, squares = 0;
        for (int i = thread % WARP; i < width * static_cast<int>(blockDim.y); i += WARP) {
            const float* const from = shared + 2 * (i / width * p.channels + group * width + i % width);
            sum += from[0];
            squares += from[1];
        }
        sum = warp_sum(sum);
        squares = warp_sum(squares);
        if (thread % WARP == 0) {
            const size_t chunk = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
            float* const to = p.sums + 2 * (chunk * p.groups + group);
            to[0] = sum;
            to[1] = squares;
        }
    }
}

template <typename T>
__device__ __forceinline__ void group_norm_sums(const GroupNormSums<T>& p) {
    if (is_vectorizable(p.channels, p.x, p.x)) {
        group_norm_sums_vectors<PACK<T>>(p);
    } else {
        group_norm_sums_vectors<1>(p);
    }
}

KERNELS(group_norm_sums, GroupNormSums, GROUP_NORM_THREADS, group_norm_sums)

template <typename T>
struct GroupNormCoefficients {
    const T* x;
    const float* sums;
    const T* weight;
    const T* bias;
    // (batch, 3, channels): origin, scale, shift.
    float* coefficients;
    int positions, channels, groups, chunks;
    float eps;
};

// Coefficients of y = (x − origin) · scale + shift for every channel. The origin is subtracted first because
// folding it into the shift would round before a large mean cancels. Grid: (groups, batch). Block: one warp.
// In double, for precision; the work is negligible.
template <typename T>
__device__ __forceinline__ void group_norm_coefficients(const GroupNormCoefficients<T>& p) {
    const int group = blockIdx.x, width = p.channels / p.groups;
    const size_t image = blockIdx.y;
    double sum = 0, squares = 0;
    for (int chunk = threadIdx.x; chunk < p.chunks; chunk += WARP) {
        const float* const from = p.sums + 2 * ((image * p.chunks + chunk) * p.groups + group);
        sum += from[0];
        squares += from[1];
    }
    const double count = static_cast<double>(p.positions) * width;
    const double mean = warp_sum(sum) / count;
    const double variance = fmax(warp_sum(squares) / count - mean * mean, 0.0);
    const double inverse = 1.0 / sqrt(variance + static_cast<double>(p.eps));
    const float origin = widen(p.x[image * p.positions * p.channels + group * width]);
    float* const to = p.coefficients + image * 3 * p.channels;
    for (int channel = group * width + threadIdx.x; channel < (group + 1) * width; channel += WARP) {
        const double scale = widen(p.weight[channel]) * inverse;
        to[channel] = origin;
        to[p.channels + channel] = static_cast<float>(scale);
        to[2 * p.channels + channel] = static_cast<float>(widen(p.bias[channel]) - scale * mean);
    }
}

KERNELS(group_norm_coefficients, GroupNormCoefficients, WARP, group_norm_coefficients)

template <typename T>
struct GroupNormApply {
    const T* x;
    // (batch, 3, channels): origin, scale, shift.
    const float* coefficients;
    T* out;
    int positions, channels, then_silu;
};

// N elements per load. Grid: (blocks that fill the GPU, batch). Block: x over the vectors of a position, y
// over the positions, so that a thread reads the coefficients of its channels once.
template <int N, typename T>
__device__ __forceinline__ void group_norm_apply_vectors(const GroupNormApply<T>& p) {
    const size_t image = static_cast<size_t>(blockIdx.y) * p.positions * p.channels;
    const float* const coefficients = p.coefficients + static_cast<size_t>(blockIdx.y) * 3 * p.channels;
    for (int channel = threadIdx.x * N; channel < p.channels; channel += blockDim.x * N) {
        float origin[N], scale[N], shift[N];
        for (int i = 0; i < N; ++i) {
            origin[i] = coefficients[channel + i];
            scale[i] = coefficients[p.channels + channel + i];
            shift[i] = coefficients[2 * p.channels + channel + i];
        }
        for (int position = blockIdx.x * blockDim.y + threadIdx.y; position < p.positions;
             position += gridDim.x * blockDim.y) {
            const size_t at = image + static_cast<size_t>(position) * p.channels + channel;
            float x[N];
            load<N>(p.x + at, x);
            for (int i = 0; i < N; ++i) {
                x[i] = (x[i] - origin[i]) * scale[i] + shift[i];
                if (p.then_silu) x[i] = silu(x[i]);
            }
            store<N>(x, p.out + at);
        }
    }
}

template <typename T>
__device__ __forceinline__ void group_norm_apply(const GroupNormApply<T>& p) {
    if (is_vectorizable(p.channels, p.x, p.out)) {
        group_norm_apply_vectors<PACK<T>>(p);
    } else {
        group_norm_apply_vectors<1>(p);
    }
}

KERNELS(group_norm_apply, GroupNormApply, GROUP_NORM_THREADS, group_norm_apply)
