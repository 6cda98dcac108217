// Group norm over everything but the batch, then SiLU if wanted, in three launches: sums over chunks of
// positions, the norm's line for every channel, and the line applied. A single launch would need a block per
// (image, group): 32 to 512 blocks, whose channels lie 20 to 160 bytes apart from the next position's.
//
// x: (batch, positions, channels). What is summed are distances to the first value of the image's group, so
// that squares of a large mean do not drown the variance. Every sum has an order that the shapes decide.

#include "common.cuh"

constexpr int GROUP_NORM_THREADS = 512;

template <typename T>
struct GroupNormSums {
    const T* x;
    // (batch, chunks, groups, 2): sums, sums of squares.
    float* sums;
    int positions, channels, groups, positions_per_chunk;
};

// Grid: (chunks, batch). Block: x: packs of a position, y: positions at a time. Shared: 2 floats for every
// channel of every y.
template <int N, typename T>
__device__ __forceinline__ void group_norm_sums_of(const GroupNormSums<T>& p) {
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

    // A warp per group; a last one that is not whole has no part in it. The block has at least one.
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
    if (is_wide(p.channels, p.x, p.x)) {
        group_norm_sums_of<PACK<T>>(p);
    } else {
        group_norm_sums_of<1>(p);
    }
}

KERNELS(group_norm_sums, GroupNormSums, GROUP_NORM_THREADS, group_norm_sums)

template <typename T>
struct GroupNormLines {
    const T* x;
    const float* sums;
    const T* weight;
    const T* bias;
    // (batch, 3, channels): origin, slope, offset.
    float* lines;
    int positions, channels, groups, chunks;
    float eps;
};

// y = (x − origin) · slope + offset: without the origin, a large mean would cancel only after its rounding.
// Grid: (groups, batch). Block: one warp. In double: there is little to do, and much to lose.
template <typename T>
__device__ __forceinline__ void group_norm_lines(const GroupNormLines<T>& p) {
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
    const double variance = fmax(warp_sum(squares) / count - mean * mean, 0.);
    const double inverse = 1. / sqrt(variance + static_cast<double>(p.eps));
    const float origin = widen(p.x[image * p.positions * p.channels + group * width]);
    float* const lines = p.lines + image * 3 * p.channels;
    for (int channel = group * width + threadIdx.x; channel < (group + 1) * width; channel += WARP) {
        const double slope = widen(p.weight[channel]) * inverse;
        lines[channel] = origin;
        lines[p.channels + channel] = static_cast<float>(slope);
        lines[2 * p.channels + channel] = static_cast<float>(widen(p.bias[channel]) - slope * mean);
    }
}

KERNELS(group_norm_lines, GroupNormLines, WARP, group_norm_lines)

template <typename T>
struct GroupNormApply {
    const T* x;
    const float* lines;
    T* out;
    int positions, channels, then_silu;
};

// Grid: (as many as fill the GPU, batch). Block: x: packs of a position, y: positions at a time, so that a
// thread reads the lines of its channels once.
template <int N, typename T>
__device__ __forceinline__ void group_norm_apply_to(const GroupNormApply<T>& p) {
    const size_t image = static_cast<size_t>(blockIdx.y) * p.positions * p.channels;
    const float* const lines = p.lines + static_cast<size_t>(blockIdx.y) * 3 * p.channels;
    for (int channel = threadIdx.x * N; channel < p.channels; channel += blockDim.x * N) {
        float origin[N], slope[N], offset[N];
        for (int i = 0; i < N; ++i) {
            origin[i] = lines[channel + i];
            slope[i] = lines[p.channels + channel + i];
            offset[i] = lines[2 * p.channels + channel + i];
        }
        for (int position = blockIdx.x * blockDim.y + threadIdx.y; position < p.positions;
             position += gridDim.x * blockDim.y) {
            const size_t at = image + static_cast<size_t>(position) * p.channels + channel;
            float x[N];
            load<N>(p.x + at, x);
            for (int i = 0; i < N; ++i) {
                x[i] = (x[i] - origin[i]) * slope[i] + offset[i];
                if (p.then_silu) x[i] = silu(x[i]);
            }
            store<N>(x, p.out + at);
        }
    }
}

template <typename T>
__device__ __forceinline__ void group_norm_apply(const GroupNormApply<T>& p) {
    if (is_wide(p.channels, p.x, p.out)) {
        group_norm_apply_to<PACK<T>>(p);
    } else {
        group_norm_apply_to<1>(p);
    }
}

KERNELS(group_norm_apply, GroupNormApply, GROUP_NORM_THREADS, group_norm_apply)
