// Layer norm over the channels, followed by an optional addition.

#include "common.cuh"

constexpr int LAYER_NORM_THREADS = 128;

template <typename T>
struct LayerNorm {
    // (rows, channels).
    const T* x;
    const T* weight;
    const T* bias;
    // Null, or (count, channels): its row (i / repeats) % count is added to row i.
    const T* added;
    T* out;
    int rows, channels, repeats, count;
    float eps;
};

// N elements per load. Grid: x over the rows. Block: four warps, each with one row at a time, so no barrier
// is needed. A row is read three times; the second and third read hit L1 for the networks' rows of up to 1280
// channels.
template <int N, typename T>
__device__ __forceinline__ void layer_norm_rows(const LayerNorm<T>& p) {
    const int warps = gridDim.x * (blockDim.x / WARP), lane = threadIdx.x % WARP;
    for (int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; row < p.rows; row += warps) {
        const T* const from = p.x + static_cast<size_t>(row) * p.channels;
        float sum = 0, squares = 0, x[N];
        for (int channel = lane * N; channel < p.channels; channel += WARP * N) {
            load<N>(from + channel, x);
            for (int i = 0; i < N; ++i) sum += x[i];
        }
        const float mean = warp_sum(sum) / p.channels;
        for (int channel = lane * N; channel < p.channels; channel += WARP * N) {
            load<N>(from + channel, x);
            for (int i = 0; i < N; ++i) squares += (x[i] - mean) * (x[i] - mean);
        }
        const float scale = 1.0f / sqrtf(warp_sum(squares) / p.channels + p.eps);
        const T* const added =
            p.added == nullptr ? nullptr : p.added + static_cast<size_t>(row / p.repeats % p.count) * p.channels;
        for (int channel = lane * N; channel < p.channels; channel += WARP * N) {
            float weight[N], bias[N], addend[N];
            load<N>(from + channel, x);
            load<N>(p.weight + channel, weight);
            load<N>(p.bias + channel, bias);
            for (int i = 0; i < N; ++i) x[i] = (x[i] - mean) * scale * weight[i] + bias[i];
            if (added != nullptr) {
                load<N>(added + channel, addend);
                for (int i = 0; i < N; ++i) x[i] += addend[i];
            }
            store<N>(x, p.out + static_cast<size_t>(row) * p.channels + channel);
        }
    }
}

template <typename T>
__device__ __forceinline__ void layer_norm(const LayerNorm<T>& p) {
    if (is_vectorizable<T>(p.channels, p.x, p.weight, p.bias, p.added) && is_vectorizable<T>(p.channels, p.out, p.out)) {
        layer_norm_rows<PACK<T>>(p);
    } else {
        layer_norm_rows<1>(p);
    }
}

KERNELS(layer_norm, LayerNorm, LAYER_NORM_THREADS, layer_norm)
