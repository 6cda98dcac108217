// Layer norm over the channels, and what is added after it.

#include "common.cuh"

constexpr int LAYER_NORM_THREADS = 128;

template <typename T>
struct LayerNorm {
    // (rows, channels).
    const T* x;
    const T* weight;
    const T* bias;
    // Null, or (count, channels): row `i / repeats % count` is added to row i.
    const T* added;
    T* out;
    int rows, channels, repeats, count;
    float eps;
};

// Grid: x: enough for all rows. Block: four warps, one row each at a time: a row of up to 1280 channels is
// read three times, the last two from L1, and needs no barrier.
template <int N, typename T>
__device__ __forceinline__ void layer_norm_of(const LayerNorm<T>& p) {
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
        const float scale = 1.f / sqrtf(warp_sum(squares) / p.channels + p.eps);
        const T* const added =
            p.added == nullptr ? nullptr : p.added + static_cast<size_t>(row / p.repeats % p.count) * p.channels;
        for (int channel = lane * N; channel < p.channels; channel += WARP * N) {
            float weight[N], bias[N], more[N];
            load<N>(from + channel, x);
            load<N>(p.weight + channel, weight);
            load<N>(p.bias + channel, bias);
            for (int i = 0; i < N; ++i) x[i] = (x[i] - mean) * scale * weight[i] + bias[i];
            if (added != nullptr) {
                load<N>(added + channel, more);
                for (int i = 0; i < N; ++i) x[i] += more[i];
            }
            store<N>(x, p.out + static_cast<size_t>(row) * p.channels + channel);
        }
    }
}

template <typename T>
__device__ __forceinline__ void layer_norm(const LayerNorm<T>& p) {
    if (is_wide<T>(p.channels, p.x, p.weight, p.bias, p.added) && is_wide<T>(p.channels, p.out, p.out)) {
        layer_norm_of<PACK<T>>(p);
    } else {
        layer_norm_of<1>(p);
    }
}

KERNELS(layer_norm, LayerNorm, LAYER_NORM_THREADS, layer_norm)
