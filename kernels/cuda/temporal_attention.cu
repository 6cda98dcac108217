// Attention over the frames of each position, on (batch, frames, positions, channels) without a transpose.

#include "common.cuh"

constexpr int TEMPORAL_THREADS = 256;

template <typename T>
struct TemporalAttention {
    // All tensors: (batch, frames, positions, heads × head_dim).
    const T* q;
    const T* k;
    const T* v;
    T* out;
    int frames, positions, heads, head_dim, heads_per_block;
    // log2(e) / √head_dim: the softmax uses exp2.
    float scale_log2;
};

// N elements per load, up to FRAMES frames. Grid: (positions, heads / heads_per_block, batch). Block: x over
// the queries (FRAMES threads), y over the heads. Shared memory: the keys and values of these heads, 2 ×
// frames × heads_per_block × head_dim elements.
//
// A thread computes one query of one head and keeps all its scores in registers, so the softmax needs no
// exchange between threads. All queries of a head read the same address of a key or value in shared memory, a
// broadcast of 16 bytes. The heads of a block are adjacent in global memory, so its loads are coalesced.
template <int N, int FRAMES, typename T>
__device__ __forceinline__ void temporal_attention_vectors(const TemporalAttention<T>& p) {
    DYNAMIC_SHARED(memory);
    const int channels = p.heads * p.head_dim, width = p.heads_per_block * p.head_dim;
    const size_t stride = static_cast<size_t>(p.positions) * channels;
    const size_t first = blockIdx.z * p.frames * stride + static_cast<size_t>(blockIdx.x) * channels +
                         static_cast<size_t>(blockIdx.y) * width;
    T* const keys = reinterpret_cast<T*>(memory);
    T* const values = keys + p.frames * width;

    const int thread = threadIdx.y * FRAMES + threadIdx.x, threads = FRAMES * p.heads_per_block;
    for (int at = thread * N; at < p.frames * width; at += threads * N) {
        const size_t from = first + at / width * stride + at % width;
        *reinterpret_cast<Pack<T, N>*>(keys + at) = *reinterpret_cast<const Pack<T, N>*>(p.k + from);
        *reinterpret_cast<Pack<T, N>*>(values + at) = *reinterpret_cast<const Pack<T, N>*>(p.v + from);
    }
    __syncthreads();

    const int frame = threadIdx.x;
    // Threads may return early because no barrier follows.
    if (frame >= p.frames) return;
    const int head = threadIdx.y * p.head_dim;
    const size_t row = first + frame * stride + head;

    float scores[FRAMES] = {};
    for (int d = 0; d < p.head_dim; d += N) {
        float query[N];
        load<N>(p.q + row + d, query);
#pragma unroll
        for (int i = 0; i < N; ++i) query[i] *= p.scale_log2;
#pragma unroll
        for (int j = 0; j < FRAMES; ++j) {
            if (j < p.frames) {
                float key[N];
                load<N>(keys + j * width + head + d, key);
#pragma unroll
                for (int i = 0; i < N; ++i) scores[j] += query[i] * key[i];
            }
        }
    }

    float row_max = scores[0], row_sum = 0;
#pragma unroll
    for (int j = 1; j < FRAMES; ++j) {
        if (j < p.frames) row_max = fmaxf(row_max, scores[j]);
    }
#pragma unroll
    for (int j = 0; j < FRAMES; ++j) {
        scores[j] = j < p.frames ? exp2f(scores[j] - row_max) : 0.0f;
        row_sum += scores[j];
    }
    const float inverse_sum = 1.0f / row_sum;

    for (int d = 0; d < p.head_dim; d += N) {
        float out[N] = {};
#pragma unroll
        for (int j = 0; j < FRAMES; ++j) {
            if (j < p.frames) {
                float value[N];
                load<N>(values + j * width + head + d, value);
#pragma unroll
                for (int i = 0; i < N; ++i) out[i] += scores[j] * value[i];
            }
        }
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] *= inverse_sum;
        store<N>(out, p.out + row + d);
    }
}

template <int FRAMES, typename T>
__device__ __forceinline__ void temporal_attention(const TemporalAttention<T>& p) {
    if (is_vectorizable<T>(p.head_dim, p.q, p.k, p.v, p.out)) {
        temporal_attention_vectors<PACK<T>, FRAMES>(p);
    } else {
        temporal_attention_vectors<1, FRAMES>(p);
    }
}

// A chunk has 16 frames, or 24 with the overlap between chunks.
KERNELS(temporal_attention_16, TemporalAttention, TEMPORAL_THREADS, temporal_attention<16>)
KERNELS(temporal_attention_24, TemporalAttention, TEMPORAL_THREADS, temporal_attention<24>)
KERNELS(temporal_attention_32, TemporalAttention, TEMPORAL_THREADS, temporal_attention<32>)
